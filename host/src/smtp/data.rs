//! Message content on the wire: dot transparency of RFC 5321 §4.5.2, and the cleanliness of lines
//! that §2.3.8 demands for DATA and that this proxy demands for BDAT (RFC 3030) too.
//!
//! Lines end in CRLF only. A bare CR, a bare LF and a NUL are errors and never end anything, so
//! that no two servers can disagree about where content ends (SMTP smuggling). Where old senders are
//! let have their way, a bare LF becomes CRLF; it still ends no content. A line may have
//! [`MAX_TEXT_LINE`] octets with its CRLF and without a stuffed dot (§4.5.3.1.6), unless the caller
//! sets another limit.

use std::borrow::Cow;

use memchr::{memchr_iter, memchr3};
use thiserror::Error;

use crate::smtp::reply::Reply;

/// The longest text line in octets with its CRLF (RFC 5321 §4.5.3.1.6).
pub const MAX_TEXT_LINE: usize = 1000;

/// Why content is not clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DataError {
    /// A LF without a CR before it.
    #[error("message has a bare LF, see RFC 5321 section 2.3.8")]
    BareLineFeed,
    /// A CR without a LF after it.
    #[error("message has a bare CR, see RFC 5321 section 2.3.8")]
    BareCarriageReturn,
    /// A NUL, which is not in the text of RFC 5322 §3.5.
    #[error("message has a NUL octet, see RFC 5322 section 3.5")]
    Nul,
    /// A line is longer than the limit.
    #[error("message has a line that is too long, see RFC 5321 section 4.5.3.1.6")]
    LineTooLong,
}

impl DataError {
    /// The reply that refuses the message.
    pub fn reply(self) -> Reply {
        Reply::new(554, (5, 6, 0), self.to_string())
    }
}

/// Where in a line the scanner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    Start,
    Middle,
    /// After a CR, which has to be followed by LF.
    AfterCr,
}

/// Finds line ends in chunks of content and remembers the first thing wrong with it.
#[derive(Debug, Clone)]
struct LineScanner {
    position: Position,
    /// Octets of the line so far, without its CRLF.
    length: usize,
    longest: usize,
    error: Option<DataError>,
    /// Whether a bare LF becomes CRLF.
    normalizes: bool,
    /// Whether the line before, or this one once it has ended, ends in a bare LF.
    after_bare: bool,
    ends_bare: bool,
}

/// What one step of the scanner found at the start of its input.
struct Step<'a> {
    consumed: usize,
    /// Content without errors, which may be shorter than what was consumed.
    content: &'a [u8],
}

impl LineScanner {
    fn new(line_limit: usize) -> Self {
        Self {
            position: Position::Start,
            length: 0,
            longest: line_limit.saturating_sub(2),
            error: None,
            normalizes: false,
            after_bare: false,
            ends_bare: false,
        }
    }

    fn fail(&mut self, error: DataError) {
        self.error.get_or_insert(error);
    }

    /// Scans at most to the end of a line. Consumes nothing only if `input` is empty or the CR
    /// before it was bare.
    fn step<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        match (self.position, input.first()) {
            (Position::AfterCr, Some(b'\n')) => self.end_line(),
            (Position::AfterCr, Some(_)) => {
                self.fail(DataError::BareCarriageReturn);
                self.position = Position::Middle;
                Step {
                    consumed: 0,
                    content: &[],
                }
            }
            (_, Some(_)) => self.scan_text(input),
            (_, None) => Step {
                consumed: 0,
                content: &[],
            },
        }
    }

    fn end_line(&mut self) -> Step<'static> {
        self.position = Position::Start;
        self.length = 0;
        self.after_bare = std::mem::take(&mut self.ends_bare);
        Step {
            consumed: 1,
            content: b"\r\n",
        }
    }

    /// A line that is a dot and not the end of the content, before its LF.
    fn end_lone_dot(&mut self, is_bare: bool) -> Step<'static> {
        self.ends_bare = is_bare;
        Step {
            content: b".\r\n",
            ..self.end_line()
        }
    }

    fn scan_text<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        self.position = Position::Middle;
        let special = memchr3(b'\r', b'\n', 0, input);
        let (text, rest) = input
            .split_at_checked(special.unwrap_or(input.len()))
            .unwrap_or((input, &[]));
        let content = self.text_within_limit(text);
        if self.normalizes && rest.first() == Some(&b'\n') {
            // As if a CR had come before it.
            self.position = Position::AfterCr;
            self.ends_bare = true;
            return Step {
                consumed: text.len(),
                content,
            };
        }
        match rest.first() {
            Some(b'\r') => self.position = Position::AfterCr,
            Some(b'\n') => self.fail(DataError::BareLineFeed),
            Some(_) => self.fail(DataError::Nul),
            None => {}
        }
        Step {
            consumed: text.len() + usize::from(special.is_some()),
            content,
        }
    }

    fn text_within_limit<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        let room = self.longest.saturating_sub(self.length);
        self.length = self.length.saturating_add(text.len());
        match text.get(..room) {
            Some(fitting) if fitting.len() < text.len() => {
                self.fail(DataError::LineTooLong);
                fitting
            }
            _ => text,
        }
    }
}

/// Where a line stands that began with a dot (RFC 5321 §4.5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dot {
    /// The line did not, or the dot is dealt with.
    None,
    /// Only the dot was read.
    Alone,
    /// The dot and a CR were read.
    BeforeCr,
}

/// How far [`DataDecoder::decode`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Octets of the input that belong to the content and its end. It is less than the whole input
    /// only if the content has ended; the rest are commands.
    pub consumed: usize,
    /// Whether the end of the content was reached.
    pub finished: bool,
}

/// Takes the content out of what follows DATA: removes stuffed dots and finds the end, which is
/// `CRLF.CRLF`, or `.CRLF` at the very start (RFC 5321 §4.1.1.4).
///
/// After an error it still finds the same end, but gives out no more content.
#[derive(Debug, Clone)]
pub struct DataDecoder {
    lines: LineScanner,
    dot: Dot,
    finished: bool,
}

impl DataDecoder {
    /// A decoder with the line limit [`MAX_TEXT_LINE`].
    pub fn new() -> Self {
        Self::with_line_limit(MAX_TEXT_LINE)
    }

    /// A decoder with another limit for lines, in octets with the CRLF.
    pub fn with_line_limit(limit: usize) -> Self {
        Self {
            lines: LineScanner::new(limit),
            dot: Dot::None,
            finished: false,
        }
    }

    /// The same for a client whose bare LF become CRLF. What ends the content stays the same.
    pub fn normalizing(mut self) -> Self {
        self.lines.normalizes = true;
        self
    }

    /// The first thing wrong with the content so far.
    pub fn error(&self) -> Option<DataError> {
        self.lines.error
    }

    /// Decodes a chunk and appends its content, line ends included, to `output`.
    ///
    /// How the input is cut into chunks makes no difference. After the end nothing is consumed.
    pub fn decode(&mut self, input: &[u8], output: &mut Vec<u8>) -> Progress {
        let mut rest = input;
        while !self.finished && !rest.is_empty() {
            let had_error = self.lines.error.is_some();
            let step = self.step(rest);
            if !had_error {
                output.extend_from_slice(step.content);
            }
            rest = rest.get(step.consumed..).unwrap_or_default();
        }
        Progress {
            consumed: input.len() - rest.len(),
            finished: self.finished,
        }
    }

    fn step<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        let next = match (self.dot, input.first()) {
            (Dot::None, Some(b'.')) if self.lines.position == Position::Start => Dot::Alone,
            (Dot::None, _) => return self.lines.step(input),
            (Dot::Alone, Some(b'\r')) => Dot::BeforeCr,
            (Dot::BeforeCr, Some(b'\n')) if self.lines.after_bare => {
                self.dot = Dot::None;
                return self.lines.end_lone_dot(false);
            }
            (Dot::BeforeCr, Some(b'\n')) => {
                self.finished = true;
                Dot::None
            }
            (Dot::Alone, Some(b'\n')) if self.lines.normalizes => {
                self.dot = Dot::None;
                return self.lines.end_lone_dot(true);
            }
            (Dot::Alone, _) => return self.after_dot(input),
            (Dot::BeforeCr, _) => {
                self.lines.position = Position::AfterCr;
                return self.after_dot(input);
            }
        };
        self.dot = next;
        Step {
            consumed: 1,
            content: &[],
        }
    }

    /// The line goes on, so its first dot was a stuffed one. A second dot is content.
    fn after_dot<'a>(&mut self, input: &'a [u8]) -> Step<'a> {
        self.dot = Dot::None;
        self.lines.step(input)
    }
}

impl Default for DataDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes content as it has to follow DATA: stuffs dots and adds the end (RFC 5321 §4.5.2).
///
/// The content has to be clean, as what [`DataDecoder`] and [`LineChecker`] let through is.
#[derive(Debug, Clone)]
pub struct DataEncoder {
    at_line_start: bool,
}

impl DataEncoder {
    /// An encoder at the start of the content.
    pub fn new() -> Self {
        Self {
            at_line_start: true,
        }
    }

    /// Appends a chunk of content in wire form to `output`; chunks may be cut anywhere.
    pub fn encode(&mut self, input: &[u8], output: &mut Vec<u8>) {
        let mut written = 0;
        if self.at_line_start && input.first() == Some(&b'.') {
            output.push(b'.');
        }
        for line_feed in memchr_iter(b'\n', input) {
            let next = line_feed + 1;
            if input.get(next) == Some(&b'.') {
                output.extend_from_slice(input.get(written..next).unwrap_or_default());
                output.push(b'.');
                written = next;
            }
        }
        output.extend_from_slice(input.get(written..).unwrap_or_default());
        if let Some(last) = input.last() {
            self.at_line_start = *last == b'\n';
        }
    }

    /// Appends the end of the content, and before it the CRLF that the last line may lack.
    pub fn finish(self, output: &mut Vec<u8>) {
        if !self.at_line_start {
            output.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(b".\r\n");
    }
}

impl Default for DataEncoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Checks content that is not dot-stuffed, such as that of BDAT, for what [`DataDecoder`] refuses.
///
/// One checker serves all chunks of a message: a CRLF may be cut in two by them.
#[derive(Debug, Clone)]
pub struct LineChecker {
    lines: LineScanner,
}

impl LineChecker {
    /// A checker with the line limit [`MAX_TEXT_LINE`].
    pub fn new() -> Self {
        Self::with_line_limit(MAX_TEXT_LINE)
    }

    /// A checker with another limit for lines, in octets with the CRLF.
    pub fn with_line_limit(limit: usize) -> Self {
        Self {
            lines: LineScanner::new(limit),
        }
    }

    /// The same for a client whose bare LF become CRLF.
    pub fn normalizing(mut self) -> Self {
        self.lines.normalizes = true;
        self
    }

    /// Checks a chunk, and gives what belongs to the content; chunks may be cut anywhere. Once there was an error it
    /// stays.
    pub fn check<'a>(&mut self, input: &'a [u8]) -> Result<Cow<'a, [u8]>, DataError> {
        let mut rest = input;
        let mut content = Vec::new();
        while self.lines.error.is_none() && !rest.is_empty() {
            let step = self.lines.step(rest);
            rest = rest.get(step.consumed..).unwrap_or_default();
            if self.lines.normalizes {
                content.extend_from_slice(step.content);
            }
        }
        match (self.lines.error, self.lines.normalizes) {
            (Some(error), _) => Err(error),
            (None, true) => Ok(content.into()),
            (None, false) => Ok(input.into()),
        }
    }

    /// Checks that the content may end here, which is not so after a CR.
    pub fn finish(&self) -> Result<(), DataError> {
        match self.lines.error {
            Some(error) => Err(error),
            None if self.lines.position == Position::AfterCr => Err(DataError::BareCarriageReturn),
            None => Ok(()),
        }
    }
}

impl Default for LineChecker {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEST_LIMIT: usize = 8;

    #[derive(Debug, PartialEq)]
    struct Outcome {
        content: Vec<u8>,
        error: Option<DataError>,
        consumed: usize,
        finished: bool,
    }

    /// Cuts `input` into chunks of the given sizes, over and over.
    fn chunks<'a>(input: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut rest = input;
        let mut chunks = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        chunks
    }

    fn decode(input: &[u8], sizes: &[usize]) -> Outcome {
        let mut decoder = DataDecoder::with_line_limit(TEST_LIMIT);
        let mut content = Vec::new();
        let mut consumed = 0;
        for chunk in chunks(input, sizes) {
            let progress = decoder.decode(chunk, &mut content);
            consumed += progress.consumed;
            assert!(progress.finished || progress.consumed == chunk.len());
        }
        Outcome {
            content,
            error: decoder.error(),
            consumed,
            finished: decoder.finished,
        }
    }

    fn check(input: &[u8], sizes: &[usize]) -> Result<(), DataError> {
        let mut checker = LineChecker::with_line_limit(TEST_LIMIT);
        let checked = chunks(input, sizes)
            .into_iter()
            .try_for_each(|chunk| checker.check(chunk).map(drop));
        assert!(
            checked.is_ok()
                || checked == checker.check(b"").map(drop) && checked == checker.finish()
        );
        checker.finish()
    }

    fn encode(input: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut encoder = DataEncoder::new();
        let mut wire = Vec::new();
        for chunk in chunks(input, sizes) {
            encoder.encode(chunk, &mut wire);
        }
        encoder.finish(&mut wire);
        wire
    }

    /// Length of the content with its end: a naive search that starts with the CRLF of DATA.
    fn reference_end(wire: &[u8]) -> Option<usize> {
        let whole = [b"\r\n", wire].concat();
        let found = whole.windows(5).position(|window| window == b"\r\n.\r\n");
        found.map(|at| at + 3)
    }

    /// Doubles the dots at the start and after CRLF. What it makes has no end in it.
    fn reference_stuff(content: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        for (at, octet) in content.iter().enumerate() {
            if *octet == b'.' && (at == 0 || content[..at].ends_with(b"\r\n")) {
                wire.push(b'.');
            }
            wire.push(*octet);
        }
        wire
    }

    /// What is wrong with one line without its CRLF, and what of it comes before that.
    fn reference_line(line: &[u8]) -> (&[u8], Option<DataError>) {
        for (at, octet) in line.iter().enumerate() {
            let error = match octet {
                b'\n' => DataError::BareLineFeed,
                b'\r' => DataError::BareCarriageReturn,
                0 => DataError::Nul,
                _ if at >= TEST_LIMIT - 2 => DataError::LineTooLong,
                _ => continue,
            };
            return (&line[..at], Some(error));
        }
        (line, None)
    }

    /// Splits the whole input at CRLF and looks at line after line.
    fn reference_decode(wire: &[u8]) -> Outcome {
        let end = reference_end(wire);
        let consumed = end.unwrap_or(wire.len());
        let mut outcome = Outcome {
            content: Vec::new(),
            error: None,
            consumed,
            finished: end.is_some(),
        };
        let mut rest = &wire[..consumed];
        while !rest.is_empty() && outcome.error.is_none() {
            let crlf = rest.windows(2).position(|window| window == b"\r\n");
            let line = &rest[..crlf.unwrap_or(rest.len())];
            rest = crlf.map_or(&[][..], |at| &rest[at + 2..]);
            if line == b"." && crlf.is_some() {
                break;
            }
            // A CR at the end of the input may still become a CRLF.
            let line = match line.strip_suffix(b"\r") {
                Some(line) if crlf.is_none() => line,
                _ => line,
            };
            let (text, error) = reference_line(line.strip_prefix(b".").unwrap_or(line));
            outcome.content.extend_from_slice(text);
            outcome.error = error;
            if crlf.is_some() && error.is_none() {
                outcome.content.extend_from_slice(b"\r\n");
            }
        }
        outcome
    }

    #[test]
    fn decodes_clean_content() {
        for (wire, content, consumed) in [
            (".\r\n", "", 3),
            ("a\r\n.\r\nQUIT\r\n", "a\r\n", 6),
            ("\r\n.\r\n.\r\n", "\r\n", 5),
            ("..\r\n.\r\n", ".\r\n", 7),
            (".a\r\n...b\r\n.\r\n", "a\r\n..b\r\n", 13),
            ("a.\r\n.\r\n", "a.\r\n", 7),
            ("123456\r\n.123456\r\n.\r\n", "123456\r\n123456\r\n", 20),
        ] {
            for size in 1..=wire.len() {
                let expected = Outcome {
                    content: content.into(),
                    error: None,
                    consumed,
                    finished: true,
                };
                assert_eq!(decode(wire.as_bytes(), &[size]), expected, "{wire:?}");
            }
        }
    }

    #[test]
    fn errors_end_the_output_and_not_the_content() {
        use DataError::{BareCarriageReturn, BareLineFeed, LineTooLong, Nul};
        for (wire, content, error) in [
            ("a\n.\nb\r\n.\r\n", "a", BareLineFeed),
            ("a\n.\r\nb\r\n.\r\n", "a", BareLineFeed),
            ("a\r\n.\nb\r\n.\r\n", "a\r\n", BareLineFeed),
            ("a\r.\rb\r\n.\r\n", "a", BareCarriageReturn),
            ("a\r.\r\nb\r\n.\r\n", "a", BareCarriageReturn),
            ("a\r\n.\rb\r\n.\r\n", "a\r\n", BareCarriageReturn),
            ("a\r\n.\r\r\n.\r\n", "a\r\n", BareCarriageReturn),
            ("a\r\r\n.\r\n", "a", BareCarriageReturn),
            ("\n\r\n.\r\n", "", BareLineFeed),
            ("a\0b\r\n.\r\n", "a", Nul),
            ("\r\n\0.\r\n.\r\n", "\r\n", Nul),
            ("1234567\r\n.\r\n", "123456", LineTooLong),
            (".1234567\nx\r\n.\r\n", "123456", LineTooLong),
        ] {
            for size in 1..=wire.len() {
                let expected = Outcome {
                    content: content.into(),
                    error: Some(error),
                    consumed: wire.len(),
                    finished: true,
                };
                assert_eq!(decode(wire.as_bytes(), &[size]), expected, "{wire:?}");
            }
        }
    }

    #[test]
    fn the_default_limit_is_that_of_the_rfc() {
        for (length, error) in [(998, None), (999, Some(DataError::LineTooLong))] {
            let line = vec![b'x'; length];
            let mut decoder = DataDecoder::new();
            decoder.decode(&line, &mut Vec::new());
            assert_eq!(decoder.error(), error);
            assert_eq!(LineChecker::new().check(&line).err(), error);
        }
    }

    #[test]
    fn consumes_nothing_after_the_end() {
        let mut decoder = DataDecoder::new();
        let mut content = Vec::new();
        for (input, consumed) in [(".\r\nQUIT", 3), (".\r\n", 0)] {
            let progress = decoder.decode(input.as_bytes(), &mut content);
            assert_eq!(
                progress,
                Progress {
                    consumed,
                    finished: true
                }
            );
        }
        assert_eq!(content, b"");
    }

    #[test]
    fn encodes() {
        for (content, wire) in [
            ("", ".\r\n"),
            ("a", "a\r\n.\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            (".\r\n..\r\na.b\r\n", "..\r\n...\r\na.b\r\n.\r\n"),
        ] {
            for size in 1..=content.len().max(1) {
                assert_eq!(
                    encode(content.as_bytes(), &[size]),
                    wire.as_bytes(),
                    "{content:?}"
                );
            }
        }
    }

    #[test]
    fn a_checker_sees_across_chunks() {
        for (chunks, expected) in [
            (["a\r", "\n"], Ok(())),
            (["a", "b"], Ok(())),
            (["a\r", "b"], Err(DataError::BareCarriageReturn)),
            (["a", "\r"], Err(DataError::BareCarriageReturn)),
            (["a", "\n"], Err(DataError::BareLineFeed)),
            (["1234", "567"], Err(DataError::LineTooLong)),
        ] {
            let mut checker = LineChecker::with_line_limit(TEST_LIMIT);
            let checked = chunks
                .iter()
                .try_for_each(|chunk| checker.check(chunk.as_bytes()).map(drop));
            assert_eq!(checked.and(checker.finish()), expected, "{chunks:?}");
        }
    }

    #[test]
    fn replies_name_the_problem() {
        let mut out = Vec::new();
        DataError::BareLineFeed.reply().write(&mut out);
        assert_eq!(
            out,
            b"554 5.6.0 message has a bare LF, see RFC 5321 section 2.3.8\r\n"
        );
    }

    /// Octets that matter, often enough to make every sequence of them.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let octets = prop::sample::select(b"\r\r\r\n\n\n...ab\0\xff".as_slice());
        let pieces = prop_oneof![
            octets.prop_map(|octet| vec![octet]),
            Just(b"\r\n".to_vec()),
            Just(b"\r\n.\r\n".to_vec()),
            Just(b"12345".to_vec()),
        ];
        prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
    }

    /// Lines within the limit without anything wrong; the last CRLF may be missing.
    fn clean() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::collection::vec(prop::sample::select(b"...ab\xff".as_slice()), 0..=6);
        (prop::collection::vec(line, 0..12), any::<bool>()).prop_map(|(lines, ended)| {
            let mut content = lines.join(b"\r\n".as_slice());
            if ended {
                content.extend_from_slice(b"\r\n");
            }
            content
        })
    }

    fn sizes() -> impl Strategy<Value = Vec<usize>> {
        prop::collection::vec(1usize..6, 1..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_is_encoded_is_decoded(content in clean(), there in sizes(), back in sizes(), after in hostile()) {
            let mut wire = encode(&content, &there);
            let end = wire.len();
            wire.extend_from_slice(&after);
            let mut expected = content;
            if !expected.is_empty() && !expected.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            let outcome = Outcome { content: expected, error: None, consumed: end, finished: true };
            prop_assert_eq!(decode(&wire, &back), outcome);
        }

        #[test]
        fn what_is_encoded_has_no_early_end(content in clean(), sizes in sizes()) {
            let wire = encode(&content, &sizes);
            prop_assert_eq!(reference_end(&wire), Some(wire.len()));
        }

        #[test]
        fn chunks_make_no_difference(wire in hostile(), sizes in sizes()) {
            prop_assert_eq!(decode(&wire, &sizes), decode(&wire, &[usize::MAX]));
        }

        #[test]
        fn the_reference_decodes_the_same(wire in hostile(), sizes in sizes()) {
            prop_assert_eq!(decode(&wire, &sizes), reference_decode(&wire));
        }

        #[test]
        fn checker_and_decoder_agree(content in hostile(), sizes in sizes()) {
            let decoded = decode(&reference_stuff(&content), &sizes);
            let mut checked = check(&content, &sizes);
            if decoded.error.is_none() && content.ends_with(b"\r") {
                prop_assert_eq!(checked, Err(DataError::BareCarriageReturn));
                checked = Ok(());
            }
            prop_assert_eq!(checked.err(), decoded.error);
        }
    }

    fn normalized(input: &[u8], sizes: &[usize]) -> (Vec<u8>, Option<DataError>, usize, bool) {
        let mut decoder = DataDecoder::new().normalizing();
        let (mut content, mut consumed) = (Vec::new(), 0);
        for chunk in chunks(input, sizes) {
            consumed += decoder.decode(chunk, &mut content).consumed;
        }
        (content, decoder.error(), consumed, decoder.finished)
    }

    #[test]
    fn bare_line_feeds_become_line_ends_and_end_nothing() {
        for (input, content, finished) in [
            ("a\nb\r\n.\r\n", "a\r\nb\r\n", true),
            ("a\n.\n", "a\r\n.\r\n", false),
            ("a\n.\r\n", "a\r\n.\r\n", false),
            ("a\r\n.\n", "a\r\n.\r\n", false),
            ("a\n.\r\n.\r\n", "a\r\n.\r\n", true),
            ("a\r\n.\n.\r\n", "a\r\n.\r\n.\r\n", false),
            ("a\n..b\n.c\r\n.\r\n", "a\r\n.b\r\nc\r\n", true),
            ("\n\n.\r\n", "\r\n\r\n.\r\n", false),
            (".\r\n", "", true),
        ] {
            for sizes in [&[100][..], &[1], &[2, 1, 3]] {
                let (found, error, consumed, is_finished) = normalized(input.as_bytes(), sizes);
                let found = String::from_utf8(found).expect("ASCII");
                assert_eq!((&*found, is_finished), (content, finished), "{input:?}");
                assert_eq!(error, None, "{input:?}");
                assert_eq!(consumed, input.len(), "{input:?}");
            }
        }
        let mut bare = DataDecoder::new().normalizing();
        bare.decode(b"a\rb\n\r\n.\r\n", &mut Vec::new());
        assert_eq!(bare.error(), Some(DataError::BareCarriageReturn));
    }

    proptest! {
        #[test]
        fn content_is_the_same_normalized_by_data_and_by_bdat(
            input in prop::collection::vec(prop::sample::select(b"a\r\n\0".to_vec()), 0..40),
            sizes in prop::collection::vec(1_usize..5, 1..4),
        ) {
            let mut checker = LineChecker::new().normalizing();
            let mut content = Vec::new();
            let mut outcome = Ok(());
            for chunk in chunks(&input, &sizes) {
                match checker.check(chunk) {
                    Ok(clean) => content.extend_from_slice(&clean),
                    Err(error) => outcome = Err(error),
                }
            }
            let outcome = outcome.and(checker.finish());
            let (decoded, error, ..) = normalized(&input, &sizes);
            if outcome.is_ok() {
                prop_assert_eq!(&content, &decoded);
                prop_assert_eq!(error, None);
                // Nothing is left in it that is a line end to one server and none to another.
                let mut strict = LineChecker::new();
                prop_assert!(strict.check(&content).is_ok());
            }
        }
    }
}
