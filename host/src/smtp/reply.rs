//! Replies and the extensions a next hop offers: RFC 5321 §4.2, enhanced status codes of RFC 2034
//! and RFC 3463.
//!
//! Limits on writing: 20 lines of 512 octets with CRLF (§4.5.3.1.5), ASCII only. Limits on
//! reading: 4 KiB a line, 200 lines and 64 KiB a reply.

use std::borrow::Cow;
use std::io::Write;

use memchr::memchr;
pub use portcullis::{EnhancedCode, EnhancedCodeError};
use thiserror::Error;

const MAX_WRITTEN_LINES: usize = 20;
const MAX_WRITTEN_LINE: usize = 512;
/// What is left for the transaction's id in a reply line (RFC 5321 §4.5.3.1.5).
const MAX_OWN_TEXT: usize = 440;
const MAX_READ_LINES: usize = 200;
const MAX_READ_LINE: usize = 4 * 1024;
const MAX_READ_REPLY: usize = 64 * 1024;

/// A reply to a command. Its code is always a valid one from 200 to 559.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    text: Cow<'static, str>,
    /// What the log is told beyond the text.
    cause: Option<Box<str>>,
    /// Whether the client reads UTF-8.
    is_utf8: bool,
}

impl Reply {
    /// A reply with an enhanced code; lines of the text are separated by `\n`.
    ///
    /// An enhanced code of another class than the reply's is left out (RFC 2034 §4), and a code
    /// that RFC 5321 §4.2 does not allow becomes 451, the code of a local error.
    pub fn new(
        code: u16,
        enhanced: impl Into<EnhancedCode>,
        text: impl Into<Cow<'static, str>>,
    ) -> Self {
        let enhanced = enhanced.into();
        Self {
            enhanced: enhanced.fits(code).then_some(enhanced),
            ..Self::plain(code, text)
        }
    }

    /// A reply without an enhanced code, as the greeting and the replies to EHLO and HELO are
    /// (RFC 2034 §4). An invalid code becomes 451 as in [`Reply::new`].
    pub fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code: if is_reply_code(code) { code } else { 451 },
            enhanced: None,
            text: text.into(),
            cause: None,
            is_utf8: false,
        }
    }

    /// The same reply with what the log is told of its cause. The client is not.
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into().into());
        self
    }

    /// The same for a client that has said SMTPUTF8 (RFC 6531 §3.5).
    pub fn in_utf8(mut self) -> Self {
        self.is_utf8 = true;
        self
    }

    /// The same with another text.
    pub fn with_text(self, text: impl Into<Cow<'static, str>>) -> Self {
        Reply {
            text: text.into(),
            ..self
        }
    }

    /// The same with another code of its class.
    pub fn with_code(mut self, code: u16) -> Self {
        self.code = code;
        self
    }

    /// What the log is told of its cause.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The reply of a policy. A text with nothing to read becomes "refused by policy".
    pub fn from_policy(code: u16, enhanced: EnhancedCode, text: &str) -> Self {
        let text: String = text.chars().take(MAX_OWN_TEXT).collect();
        let readable = text.chars().any(|character| character.is_alphanumeric());
        let text = if readable {
            Cow::Owned(text.trim().to_owned())
        } else {
            Cow::Borrowed("refused by policy")
        };
        Self::new(code, enhanced, text)
    }

    /// The same reply with the transaction's id, by which it is found in the log.
    pub fn with_id(&self, id: &str) -> Self {
        let text = self.text();
        let mark = format!(" [{id}]");
        if text.ends_with(&mark) {
            return self.clone();
        }
        // Of several lines, which another server has written, the last one has it.
        let (before, last) = match text.rsplit_once('\n') {
            Some((before, last)) => (format!("{before}\n"), last),
            None => (String::new(), text),
        };
        let last = &last[..last.floor_char_boundary(MAX_OWN_TEXT.min(last.len()))];
        let class = (self.code() / 100) as u8;
        let enhanced = self.enhanced().unwrap_or_else(|| (class, 0, 0).into());
        Reply::new(self.code(), enhanced, format!("{before}{last}{mark}"))
    }

    /// The three-digit code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced status code, which has the class of the code.
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// The text without codes, its lines separated by `\n`. A next hop's text is as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text on one line, without control characters.
    pub fn one_line(&self) -> String {
        self.text.replace(char::is_control, " ")
    }

    /// 2yz: the command was done.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3yz: the server waits for more, as after DATA.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4yz: refused for now.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5yz: refused for good.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// Appends the reply in wire form. The enhanced code stands on every line (RFC 2034 §4). For clients that have not
    /// said SMTPUTF8 other scripts are transliterated, and what is not printable then becomes `?` (textstring, RFC 5321
    /// §4.2).
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut lines = self.text.lines().take(MAX_WRITTEN_LINES);
        // An empty text still makes one line.
        let mut line = lines.next().unwrap_or_default();
        for next in lines {
            self.write_line('-', line, out);
            line = next;
        }
        self.write_line(' ', line, out);
    }

    /// The reply as one line without its end, for servers that write replies themselves.
    pub fn to_line(&self) -> String {
        let mut line = Vec::new();
        self.write_line(' ', &self.one_line(), &mut line);
        String::from_utf8_lossy(&line)
            .trim_end_matches("\r\n")
            .to_owned()
    }

    fn write_line(&self, separator: char, text: &str, out: &mut Vec<u8>) {
        let start = out.len();
        // Writing to memory cannot fail.
        let _ = write!(out, "{}{separator}", self.code);
        if let Some(enhanced) = self.enhanced {
            let _ = write!(out, "{enhanced} ");
        }
        let room = MAX_WRITTEN_LINE - 2 - (out.len() - start);
        let text = self.readable(text);
        let end = text.floor_char_boundary(room.min(text.len()));
        out.extend_from_slice(&text.as_bytes()[..end]);
        out.extend_from_slice(b"\r\n");
    }

    /// What the client can read of a text.
    fn readable<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match text.bytes().all(|it| (b' '..=b'~').contains(&it)) {
            true => Cow::Borrowed(text),
            false if self.is_utf8 => Cow::Owned(printable(text)),
            false => Cow::Owned(transliterated(text)),
        }
    }

    /// Reads one reply from the start of `input`.
    ///
    /// Returns the reply and how many octets it took, or `None` if more have to be read; the caller
    /// keeps the octets and asks again. Line ends may lack the CR. Octets that are not UTF-8 become
    /// U+FFFD, and an enhanced code of the right class moves from the text to
    /// [`Reply::enhanced`].
    pub fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, ReplyError> {
        let mut consumed = 0;
        let mut first: Option<(u16, Option<EnhancedCode>)> = None;
        let (mut text, mut lines) = (String::new(), 0);
        while let Some((line, length)) = next_line(input.get(consumed..).unwrap_or_default())? {
            consumed += length;
            if lines == MAX_READ_LINES || consumed > MAX_READ_REPLY {
                return Err(ReplyError::TooLong);
            }
            let line = ReadLine::parse(line)?;
            let (code, enhanced) = *first.get_or_insert((line.code, line.enhanced()));
            if line.code != code {
                return Err(ReplyError::CodeMismatch);
            }
            if lines > 0 {
                text.push('\n');
            }
            text.push_str(line.text_without(enhanced));
            lines += 1;
            if line.last {
                let reply = Self {
                    code,
                    enhanced,
                    text: text.into(),
                    cause: None,
                    is_utf8: false,
                };
                return Ok(Some((reply, consumed)));
            }
        }
        Ok(None)
    }
}

/// Reply-code of RFC 5321 §4.2: 2-5, then 0-5, then 0-9.
fn is_reply_code(code: u16) -> bool {
    (200..=559).contains(&code) && code % 100 < 60
}

/// Replaces by `?` what controls a terminal, or the order in which it shows the rest.
fn printable(line: &str) -> String {
    let is_hidden = |character: char| {
        character.is_control()
            || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffd}')
    };
    let shown = |character| if is_hidden(character) { '?' } else { character };
    line.chars().take(MAX_WRITTEN_LINE).map(shown).collect()
}

/// In printable ASCII, so that a person may recognize what was meant.
fn transliterated(line: &str) -> String {
    let mut text = String::new();
    for character in printable(line).chars() {
        match character {
            ' '..='~' => text.push(character),
            other => match any_ascii::any_ascii_char(other) {
                "" => text.push('?'),
                ascii => text.extend(ascii.chars().filter(|it| (' '..='~').contains(it))),
            },
        }
    }
    text
}

/// Why the octets of a next hop are not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// A line does not start with a valid code, or something else than `-` or a space follows it.
    #[error("malformed reply line")]
    Malformed,
    /// The lines of one reply have different codes.
    #[error("reply lines have different codes")]
    CodeMismatch,
    /// A line is over 4 KiB.
    #[error("reply line too long")]
    LineTooLong,
    /// The reply is over 200 lines or 64 KiB.
    #[error("reply too long")]
    TooLong,
}

/// The first line of `input` without its line end, and its length with it; `None` if the line is
/// not complete.
fn next_line(input: &[u8]) -> Result<Option<(&[u8], usize)>, ReplyError> {
    match memchr(b'\n', input) {
        Some(end) if end < MAX_READ_LINE => {
            let line = input.get(..end).unwrap_or_default();
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1)))
        }
        None if input.len() < MAX_READ_LINE => Ok(None),
        _ => Err(ReplyError::LineTooLong),
    }
}

/// One line of a reply that was read.
struct ReadLine<'a> {
    code: u16,
    last: bool,
    text: Cow<'a, str>,
}

impl<'a> ReadLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, ReplyError> {
        let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Malformed)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(ReplyError::Malformed);
        }
        let code = digits
            .iter()
            .fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyError::Malformed),
        };
        if !is_reply_code(code) {
            return Err(ReplyError::Malformed);
        }
        let text = String::from_utf8_lossy(text);
        Ok(Self { code, last, text })
    }

    fn enhanced(&self) -> Option<EnhancedCode> {
        let first = self.text.split(' ').next()?;
        first
            .parse()
            .ok()
            .filter(|enhanced: &EnhancedCode| enhanced.fits(self.code))
    }

    /// The text after `enhanced`, or all of it if this line does not repeat that code.
    fn text_without(&self, enhanced: Option<EnhancedCode>) -> &str {
        if enhanced.is_none() || self.enhanced() != enhanced {
            return &self.text;
        }
        let after = self.text.split_once(' ').map(|(_, after)| after);
        after.unwrap_or_default()
    }
}

/// What a next hop says about the largest message it takes (RFC 1870 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SizeLimit {
    /// SIZE is not offered, so MAIL must not have the parameter.
    #[default]
    NotOffered,
    /// SIZE is offered without a number or with 0: no limit is known.
    Unstated,
    /// The largest message in octets.
    Octets(u64),
}

/// The extensions a next hop offers in its reply to EHLO (RFC 5321 §4.1.1.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// 8BITMIME, RFC 6152.
    pub eight_bit_mime: bool,
    /// SMTPUTF8, RFC 6531.
    pub smtputf8: bool,
    /// SIZE, RFC 1870.
    pub size: SizeLimit,
    /// PIPELINING, RFC 2920.
    pub pipelining: bool,
    /// CHUNKING, RFC 3030.
    pub chunking: bool,
    /// STARTTLS, RFC 3207.
    pub starttls: bool,
    /// ENHANCEDSTATUSCODES, RFC 2034.
    pub enhanced_status_codes: bool,
    /// DSN, RFC 3461.
    pub dsn: bool,
    /// REQUIRETLS, RFC 8689.
    pub require_tls: bool,
    /// The mechanisms of AUTH (RFC 4954) in upper case; empty if it is not offered.
    pub auth: Vec<String>,
    /// The attribute names of XCLIENT in upper case; empty if it is not offered.
    pub xclient: Vec<String>,
}

impl Capabilities {
    /// Reads the lines after the first, which is the server's name. Unknown keywords are skipped.
    pub fn from_ehlo(reply: &Reply) -> Self {
        let mut capabilities = Self::default();
        for line in reply.text.lines().skip(1) {
            capabilities.add(line);
        }
        capabilities
    }

    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match keyword.as_str() {
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "SIZE" => self.size = size_limit(words.next()),
            "PIPELINING" => self.pipelining = true,
            "CHUNKING" => self.chunking = true,
            "STARTTLS" => self.starttls = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "DSN" => self.dsn = true,
            "REQUIRETLS" => self.require_tls = true,
            "AUTH" => self.auth = words.map(str::to_ascii_uppercase).collect(),
            "XCLIENT" => self.xclient = words.map(str::to_ascii_uppercase).collect(),
            _ => {}
        }
    }
}

/// A SIZE line whose value is no number offers nothing that can be relied on.
fn size_limit(value: Option<&str>) -> SizeLimit {
    let Some(value) = value else {
        return SizeLimit::Unstated;
    };
    match parse_size(value) {
        None => SizeLimit::NotOffered,
        Some(0) => SizeLimit::Unstated,
        Some(octets) => SizeLimit::Octets(octets),
    }
}

/// size-value of RFC 1870 §6, one to 20 digits. A number over `u64::MAX` becomes `u64::MAX`,
/// because it is too large for every limit anyway.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    (digits && text.len() <= 20).then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn parsed(input: &[u8]) -> (Reply, usize) {
        Reply::parse(input).expect("valid").expect("complete")
    }

    #[test]
    fn enhanced_codes_parse_strictly() {
        for text in ["2.0.0", "4.7.1", "5.999.10"] {
            assert_eq!(text.parse::<EnhancedCode>().expect(text).to_string(), text);
        }
        for text in [
            "", "5", "5.7", "5.7.1.1", "3.0.0", "5..1", "5.07.1", "5.1000.1", "5.+7.1", " 5.7.1",
        ] {
            assert_eq!(
                text.parse::<EnhancedCode>(),
                Err(EnhancedCodeError),
                "{text:?}"
            );
        }
    }

    #[test]
    fn writes_every_line_with_both_codes() {
        for (reply, expected) in [
            (Reply::new(250, (2, 1, 0), "Ok"), "250 2.1.0 Ok\r\n"),
            (
                Reply::new(550, (5, 7, 1), "a\nb"),
                "550-5.7.1 a\r\n550 5.7.1 b\r\n",
            ),
            (Reply::plain(220, "mx ESMTP"), "220 mx ESMTP\r\n"),
            (Reply::plain(250, "mx\nSIZE 9"), "250-mx\r\n250 SIZE 9\r\n"),
            (Reply::plain(250, ""), "250 \r\n"),
            (Reply::plain(250, "a\n\nb"), "250-a\r\n250-\r\n250 b\r\n"),
            (Reply::new(354, (2, 0, 0), "Go on"), "354 Go on\r\n"),
            (Reply::new(550, (4, 7, 1), "x"), "550 x\r\n"),
            (Reply::new(550, (5, 1000, 1), "x"), "550 x\r\n"),
            (Reply::plain(600, "x"), "451 x\r\n"),
            (Reply::plain(199, "x"), "451 x\r\n"),
            (Reply::plain(560, "x"), "451 x\r\n"),
            (
                Reply::plain(554, "a\rb\tc\0\u{7f}\u{9b}\u{202e}é"),
                "554 a?b?c????e\r\n",
            ),
            (Reply::plain(554, "a\r\nb"), "554-a\r\n554 b\r\n"),
        ] {
            assert_eq!(wire(&reply), expected);
        }
    }

    #[test]
    fn cuts_long_lines_and_many_lines() {
        let long = wire(&Reply::new(550, (5, 7, 1), "x".repeat(600)));
        assert_eq!(long, format!("550 5.7.1 {}\r\n", "x".repeat(500)));
        let many = wire(&Reply::plain(250, "x\n".repeat(30)));
        assert_eq!(many, format!("{}250 x\r\n", "250-x\r\n".repeat(19)));
    }

    #[test]
    fn a_reply_tells_its_transaction_once() {
        let reply = Reply::new(550, (5, 7, 1), "no").with_id("abc.1");
        assert_eq!(reply.text(), "no [abc.1]");
        assert_eq!(reply.with_id("abc.1"), reply);
        let long = Reply::new(550, (5, 7, 1), "x".repeat(2000)).with_id("abc.1");
        let mut wire = Vec::new();
        long.write(&mut wire);
        assert!(wire.len() <= 512 && wire.ends_with(b" [abc.1]\r\n"));
    }

    #[test]
    fn a_policy_without_a_text_has_one() {
        for text in ["", "  ", "--"] {
            let reply = Reply::from_policy(550, (5, 7, 1).into(), text);
            assert_eq!(reply.text(), "refused by policy");
        }
    }

    #[test]
    fn classes_follow_the_first_digit() {
        for (code, expected) in [
            (250, [true, false, false, false]),
            (354, [false, true, false, false]),
            (421, [false, false, true, false]),
            (554, [false, false, false, true]),
        ] {
            let reply = Reply::plain(code, "x");
            let classes = [
                reply.is_positive(),
                reply.is_intermediate(),
                reply.is_transient(),
                reply.is_permanent(),
            ];
            assert_eq!(classes, expected);
        }
    }

    #[test]
    fn reads_replies() {
        let enhanced = |text: &str| text.parse::<EnhancedCode>().ok();
        for (input, code, expected, text, consumed) in [
            ("250 2.1.5 Ok\r\n354 x", 250, enhanced("2.1.5"), "Ok", 14),
            ("250\r\n", 250, None, "", 5),
            ("250 \n", 250, None, "", 5),
            ("250 2.0.0\r\n", 250, enhanced("2.0.0"), "", 11),
            (
                "550-5.1.1 a\r\n550 5.1.1 b\r\n",
                550,
                enhanced("5.1.1"),
                "a\nb",
                26,
            ),
            (
                "550-5.1.1 a\n550-5.1.2 b\n550 c\n",
                550,
                enhanced("5.1.1"),
                "a\n5.1.2 b\nc",
                30,
            ),
            ("550 4.1.1 a\r\n", 550, None, "4.1.1 a", 13),
            ("220-mx\r\n220-\r\n220\r\n", 220, None, "mx\n\n", 19),
            ("220 a\rb\r\n", 220, None, "a\rb", 9),
        ] {
            let (reply, length) = parsed(input.as_bytes());
            let parts = (reply.code(), reply.enhanced(), reply.text(), length);
            assert_eq!(parts, (code, expected, text, consumed), "{input:?}");
        }
        assert_eq!(parsed(b"220 \xff\r\n").0.text(), "\u{fffd}");
    }

    #[test]
    fn waits_for_the_rest_and_refuses_what_is_no_reply() {
        for input in [
            "",
            "2",
            "250",
            "250 x",
            "250 x\r",
            "250-x\r\n",
            "250-x\r\n250 y",
        ] {
            assert_eq!(Reply::parse(input.as_bytes()), Ok(None), "{input:?}");
        }
        for (input, error) in [
            ("\r\n".to_owned(), ReplyError::Malformed),
            ("25\r\n".to_owned(), ReplyError::Malformed),
            ("150 x\r\n".to_owned(), ReplyError::Malformed),
            ("260 x\r\n".to_owned(), ReplyError::Malformed),
            ("2x0 x\r\n".to_owned(), ReplyError::Malformed),
            ("2500 x\r\n".to_owned(), ReplyError::Malformed),
            ("250\tx\r\n".to_owned(), ReplyError::Malformed),
            ("250-x\r\n251 y\r\n".to_owned(), ReplyError::CodeMismatch),
            ("250-x\r\nHTTP\r\n".to_owned(), ReplyError::Malformed),
            (format!("250 {}", "x".repeat(4092)), ReplyError::LineTooLong),
            (
                format!("250 {}\n", "x".repeat(4092)),
                ReplyError::LineTooLong,
            ),
            ("250-x\n".repeat(201), ReplyError::TooLong),
            (
                format!("250-{}\n", "x".repeat(4000)).repeat(17),
                ReplyError::TooLong,
            ),
        ] {
            assert_eq!(Reply::parse(input.as_bytes()), Err(error), "{input:.20?}");
        }
        let longest = format!("250 {}\n", "x".repeat(4091));
        assert_eq!(parsed(longest.as_bytes()).1, 4096);
        let most_lines = format!("{}250 x\n", "250-x\n".repeat(199));
        assert_eq!(parsed(most_lines.as_bytes()).1, most_lines.len());
    }

    #[test]
    fn reads_capabilities() {
        let reply = Reply::plain(
            250,
            "SMTPUTF8 mx\n8bitmime\nsmtpUTF8\nSIZE 1000\nPipelining\nCHUNKING\nSTARTTLS\n\
             ENHANCEDSTATUSCODES\nXCLIENT name Addr\nAUTH=LOGIN\nAUTH plain SCRAM-SHA-256\n\
             DSN\nREQUIRETLS\nX-OTHER",
        );
        let expected = Capabilities {
            eight_bit_mime: true,
            smtputf8: true,
            size: SizeLimit::Octets(1000),
            pipelining: true,
            chunking: true,
            starttls: true,
            enhanced_status_codes: true,
            dsn: true,
            require_tls: true,
            auth: vec!["PLAIN".to_owned(), "SCRAM-SHA-256".to_owned()],
            xclient: vec!["NAME".to_owned(), "ADDR".to_owned()],
        };
        assert_eq!(Capabilities::from_ehlo(&reply), expected);
        let name_only = Reply::plain(250, "CHUNKING");
        assert_eq!(Capabilities::from_ehlo(&name_only), Capabilities::default());
    }

    #[test]
    fn reads_the_size_limit() {
        for (line, expected) in [
            ("SIZE", SizeLimit::Unstated),
            ("SIZE 0", SizeLimit::Unstated),
            ("size 52428800", SizeLimit::Octets(52_428_800)),
            ("SIZE 99999999999999999999", SizeLimit::Octets(u64::MAX)),
            ("SIZE 100000000000000000000", SizeLimit::NotOffered),
            ("SIZE -1", SizeLimit::NotOffered),
            ("SIZE=1000", SizeLimit::NotOffered),
        ] {
            let reply = Reply::plain(250, format!("mx\n{line}"));
            assert_eq!(Capabilities::from_ehlo(&reply).size, expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(code in 0u16..1000, class in 0u8..9, text in "(?s).{0,600}") {
            let reply = Reply::new(code, (class, 1, 2), text);
            let wire = wire(&reply);
            prop_assert!(wire.split_inclusive("\r\n").all(|line| line.len() <= 512));
            prop_assert!(wire.replace("\r\n", "").bytes().all(|octet| matches!(octet, b' '..=b'~')));
            let (read, consumed) = parsed(wire.as_bytes());
            prop_assert_eq!(consumed, wire.len());
            prop_assert_eq!(read.code(), reply.code());
            for cut in 0..wire.len() {
                prop_assert_eq!(Reply::parse(&wire.as_bytes()[..cut]), Ok(None));
            }
        }

        #[test]
        fn any_input_is_read_or_refused(input in proptest::collection::vec(prop::sample::select(b"2505- .\r\n\xffx".as_slice()), 0..60)) {
            if let Ok(Some((reply, consumed))) = Reply::parse(&input) {
                prop_assert!(consumed <= input.len());
                prop_assert_eq!(input[consumed - 1], b'\n');
                prop_assert_eq!(parsed(&input[..consumed]), (reply, consumed));
            }
        }
    }
}
