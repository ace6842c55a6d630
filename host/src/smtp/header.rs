//! The header section of a message: where it ends, its From addresses (RFC 5322 §3.6.2) and its
//! Received fields (RFC 5321 §6.3).
//!
//! Everything here fails closed. A message whose From field readers may understand in different
//! ways is refused, because what is decided about one address has to hold for the address that the
//! recipient sees.
//!
//! Limits: header section 256 KiB unless the caller sets another limit, From field 8 KiB.

use mail_parser::HeaderValue;
use mail_parser::parsers::MessageStream;
use memchr::memmem;
use thiserror::Error;

use crate::smtp::address::{Address, AddressError, find_unquoted, quoted_string_length};

/// The largest header section in octets, with the empty line that ends it, unless set otherwise.
pub const MAX_HEADER: usize = 256 * 1024;

/// How many addresses of an unclear From field are held against the rules, and how long the domain of one may be.
const MOST_PLAUSIBLE: usize = 200;
const MAX_PLAUSIBLE: usize = 1024;

/// The longest From field. It bounds the work, which can be quadratic in encoded words.
const MAX_FROM: usize = 8 * 1024;

/// Whether the header section was seen to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderState {
    /// More content is needed. If the content ends here it is all header section.
    Incomplete,
    /// The header section takes this many octets of the content, its empty line included.
    Complete {
        /// Length with the empty line.
        header_len: usize,
    },
}

/// The header section is over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the header of the message is too large")]
pub struct HeaderTooLarge;

/// Collects content that comes in chunks until the header section is in it.
#[derive(Debug, Clone)]
pub struct HeaderScanner {
    buffer: Vec<u8>,
    limit: usize,
    state: Result<HeaderState, HeaderTooLarge>,
}

impl HeaderScanner {
    /// A scanner at the start of the content, with the limit [`MAX_HEADER`].
    pub fn new() -> Self {
        Self::with_limit(MAX_HEADER)
    }

    /// A scanner with another limit for the header section, in octets with its empty line.
    pub fn with_limit(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            limit,
            state: Ok(HeaderState::Incomplete),
        }
    }

    /// Takes the next chunk of content. Once the header section is complete or too large, further
    /// chunks are not kept and change nothing.
    pub fn push(&mut self, chunk: &[u8]) -> Result<HeaderState, HeaderTooLarge> {
        if self.state == Ok(HeaderState::Incomplete) {
            self.state = self.extend(chunk);
        }
        self.state
    }

    /// The header section, or what has come of it, which is not kept any longer.
    pub fn take_header(&mut self) -> Vec<u8> {
        let mut header = std::mem::take(&mut self.buffer);
        header.truncate(self.header_len_of(header.len()));
        header
    }

    /// The header section, or what has come of it.
    pub fn header(&self) -> &[u8] {
        let length = self.header_len_of(self.buffer.len());
        self.buffer.get(..length).unwrap_or_default()
    }

    /// How much of a buffer of this length is header section.
    fn header_len_of(&self, length: usize) -> usize {
        match self.state {
            Ok(HeaderState::Complete { header_len }) => header_len,
            _ => length,
        }
    }

    fn extend(&mut self, chunk: &[u8]) -> Result<HeaderState, HeaderTooLarge> {
        let searched = self.buffer.len();
        let room = self.limit.saturating_sub(searched);
        let (within, beyond) = chunk.split_at_checked(room).unwrap_or((chunk, &[]));
        self.buffer.extend_from_slice(within);
        if let Some(header_len) = self.find_end(searched) {
            self.buffer.extend_from_slice(beyond);
            return Ok(HeaderState::Complete { header_len });
        }
        if !beyond.is_empty() {
            self.buffer = Vec::new();
            return Err(HeaderTooLarge);
        }
        Ok(HeaderState::Incomplete)
    }

    /// `searched` octets were looked at before; the end may begin with the last three of them.
    fn find_end(&self, searched: usize) -> Option<usize> {
        if self.buffer.starts_with(b"\r\n") {
            return Some(2);
        }
        let start = searched.saturating_sub(3);
        let found = memmem::find(self.buffer.get(start..)?, b"\r\n\r\n")?;
        Some(start + found + 4)
    }
}

impl Default for HeaderScanner {
    fn default() -> Self {
        Self::new()
    }
}

/// Why the From addresses of a message cannot be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FromError {
    /// There is no From field.
    #[error("the message has no From field")]
    Missing,
    /// There are several From fields, of which readers show different ones.
    #[error("the message has several From fields")]
    Several,
    /// Something before or in the From field is no header field, so readers may end the header
    /// there.
    #[error("the message header is malformed")]
    MalformedHeader,
    /// The From field is over 8 KiB.
    #[error("the From field is too long")]
    TooLong,
    /// The From field has control characters.
    #[error("the From field has control characters")]
    Undecodable,
    /// The From field is no list of mailboxes and groups.
    #[error("the From field is malformed")]
    Malformed,
    /// Something in the place of an address is none.
    #[error("the From field has a bad address: {0}")]
    BadAddress(AddressError),
    /// The From field has no address.
    #[error("the From field has no address")]
    NoAddress,
    /// Readers may take different addresses from the From field.
    #[error("the From field is ambiguous")]
    Ambiguous,
}

/// The addresses of the one From field in a header section.
///
/// The field is read twice: by a strict grammar and by the lenient mail-parser, which stands for
/// the programs that show the message. Both have to find the same addresses.
pub fn from_addresses(header: &[u8]) -> Result<Vec<String>, FromError> {
    let value = unfold(from_value(header)?)?;
    let addresses = mailboxes(&value)?;
    if addresses.is_empty() {
        return Err(FromError::NoAddress);
    }
    if lenient_mailboxes(&value).as_ref() != Some(&addresses) {
        return Err(FromError::Ambiguous);
    }
    Ok(addresses.iter().map(Address::to_string).collect())
}

/// All addresses that any reader could take from what could be the From field of a header section, where it cannot be
/// read clearly. There may be some among them that nobody would take; `None` if there are too many to tell.
///
/// Rules only restrict, so a message that satisfies them with all of these satisfies them with any. Of each address
/// the domain is right; a local part that is not clear is left out.
pub fn plausible_addresses(header: &[u8]) -> Option<Vec<String>> {
    let mut addresses = Vec::new();
    for field in plausible_fields(header) {
        for reading in readings(&field) {
            for address in addresses_in(&reading) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.len() > MOST_PLAUSIBLE {
                return None;
            }
        }
    }
    Some(addresses)
}

/// Whether a reader could take these octets before a colon for the name "From": octets that nobody sees do not count.
fn is_from(name: &[u8]) -> bool {
    let seen = name.iter().filter(|octet| octet.is_ascii_graphic());
    seen.map(u8::to_ascii_lowercase).eq(*b"from")
}

/// The values of all lines that a reader could take for a From field, wherever they stand, with what follows them
/// folded.
fn plausible_fields(header: &[u8]) -> Vec<Vec<u8>> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut is_inside = false;
    for line in header.split(|octet| matches!(octet, b'\n' | b'\r')) {
        let colon = memchr::memchr(b':', line);
        match colon {
            Some(colon) if is_from(&line[..colon]) => {
                fields.push(line[colon + 1..].to_vec());
                is_inside = true;
            }
            // Some readers take "From someone" of old mailboxes for one.
            _ if line.len() > 5 && line[..5].eq_ignore_ascii_case(b"from ") => {
                fields.push(line[5..].to_vec());
                is_inside = true;
            }
            _ if line.is_empty()
                || is_inside && line.first().is_some_and(|it| !it.is_ascii_alphanumeric()) =>
            {
                if let Some(field) = fields.last_mut().filter(|_| is_inside) {
                    field.extend_from_slice(line);
                }
            }
            _ => is_inside = false,
        }
    }
    fields
}

/// How readers may understand the octets of a field.
fn readings(field: &[u8]) -> Vec<String> {
    let decoded = String::from_utf8_lossy(field).into_owned();
    let latin: String = field.iter().map(|octet| char::from(*octet)).collect();
    let plain: String = field
        .iter()
        .filter(|octet| (b' '..=b'~').contains(*octet))
        .map(|octet| char::from(*octet))
        .collect();
    let mut all = vec![decoded, latin, plain];
    // Some readers decode encoded words wherever they stand.
    for text in all.clone() {
        let line = format!("{text}\r\n");
        let mut stream = MessageStream::new(line.as_bytes());
        if let HeaderValue::Text(words) = stream.parse_unstructured() {
            all.push(words.into_owned());
        }
    }
    let without = |text: &str, unwanted: fn(char) -> bool| text.replace(unwanted, "");
    for text in all.clone() {
        let bare = without_nested(&text);
        let is_sign = |character: char| {
            character.is_whitespace()
                || character.is_control()
                || "\"\\<>()[]{}".contains(character)
        };
        all.push(without(&bare, is_sign));
        all.push(without(&text, is_sign));
        all.push(bare);
    }
    all
}

/// A text without what stands in parentheses, closed or not.
fn without_nested(text: &str) -> String {
    let mut depth = 0_u32;
    let outside = |character: &char| {
        match character {
            '(' => depth += 1,
            ')' => {
                depth = depth.saturating_sub(1);
                return false;
            }
            _ => {}
        }
        depth == 0
    };
    text.chars().filter(outside).collect()
}

/// Whatever could be the domain of an address: what follows an `@`.
fn addresses_in(text: &str) -> Vec<String> {
    let is_part = |character: char| {
        character.is_alphanumeric() || "-_.".contains(character) || !character.is_ascii()
    };
    let mut addresses = Vec::new();
    for (at, sign) in text.match_indices(['@', '\u{ff20}', '\u{fe6b}']) {
        let behind = text[at + sign.len()..].trim_start();
        let end = behind
            .find(|character| !is_part(character))
            .unwrap_or(behind.len());
        let domain = behind[..end].trim_matches('.');
        if !domain.is_empty() && domain.len() <= MAX_PLAUSIBLE {
            addresses.push(format!("unclear@{domain}"));
        }
    }
    addresses
}

/// How many Received fields a header section has; many of them mean a loop (RFC 5321 §6.3).
pub fn received_count(header: &[u8]) -> usize {
    Fields(header)
        .flatten()
        .filter(|field| field.name.eq_ignore_ascii_case(b"Received"))
        .count()
}

/// A header field as it stands in the message.
struct Field<'a> {
    name: &'a [u8],
    /// What follows the colon, folded.
    value: &'a [u8],
}

impl<'a> Field<'a> {
    /// `None` if the line is no field. White space before the colon is obsolete but still makes a
    /// field (RFC 5322 §4.5.8), and readers take it as one.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let (name, value) = line.split_at_checked(memchr::memchr(b':', line)?)?;
        let name = trim_end_blanks(name);
        let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        let value = value.strip_prefix(b":")?;
        is_name.then_some(Self { name, value })
    }

    /// Whether a folded line has only white space, which some readers take for the empty line at
    /// the end of the header section (RFC 5322 §3.2.2 forbids writing it).
    fn has_blank_line(&self) -> bool {
        let mut rest = self.value;
        while let Some(fold) = memmem::find(rest, b"\r\n") {
            rest = rest.get(fold + 2..).unwrap_or_default();
            let line = rest.split(|octet| *octet == b'\r').next();
            if trim_end_blanks(line.unwrap_or_default()).is_empty() {
                return true;
            }
        }
        false
    }
}

fn trim_end_blanks(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|octet| !is_blank(octet));
    text.get(..end.map_or(0, |last| last + 1))
        .unwrap_or_default()
}

fn is_blank(octet: &u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

/// Goes over the fields of a header section; what is no field is an error.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, &'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() || self.0.starts_with(b"\r\n") {
            return None;
        }
        let (line, rest) = split_field(self.0);
        self.0 = rest;
        Some(Field::parse(line).ok_or(line))
    }
}

/// Splits at the first CRLF without white space behind it, which would continue the field (RFC
/// 5322 §2.2.3).
fn split_field(header: &[u8]) -> (&[u8], &[u8]) {
    for end in memmem::find_iter(header, b"\r\n") {
        let rest = header.get(end + 2..).unwrap_or_default();
        if !rest.first().is_some_and(is_blank) {
            return (header.get(..end).unwrap_or_default(), rest);
        }
    }
    (header, &[])
}

fn from_value(header: &[u8]) -> Result<&[u8], FromError> {
    let mut from = None;
    for field in Fields(header) {
        let sound = field.as_ref().is_ok_and(|field| !field.has_blank_line());
        if from.is_none() && !sound {
            return Err(FromError::MalformedHeader);
        }
        let field = match field {
            Ok(field) => field,
            Err(line) if may_pass_for_from(line) => return Err(FromError::Several),
            Err(_) => continue,
        };
        if field.name.eq_ignore_ascii_case(b"From") && from.replace(field.value).is_some() {
            return Err(FromError::Several);
        }
    }
    from.ok_or(FromError::Missing)
}

/// Whether a reader who passes over what cannot be seen finds a From field in what is none.
fn may_pass_for_from(line: &[u8]) -> bool {
    let name = line.split(|octet| *octet == b':').next();
    let seen = name
        .into_iter()
        .flatten()
        .filter(|octet| octet.is_ascii_graphic());
    seen.map(u8::to_ascii_lowercase).eq(*b"from")
}

/// The value on one line, its tabs replaced by spaces.
fn unfold(value: &[u8]) -> Result<String, FromError> {
    if value.len() > MAX_FROM {
        return Err(FromError::TooLong);
    }
    // Display names of old programs are in some character set of theirs. No address is: one that is not UTF-8 has
    // U+FFFD in it, which is no character of an address.
    let value = String::from_utf8_lossy(value);
    let value = value.replace("\r\n", "").replace('\t', " ");
    if value.contains(char::is_control) {
        return Err(FromError::Undecodable);
    }
    Ok(value)
}

/// What mail-parser finds; `None` if something it finds is no address.
fn lenient_mailboxes(value: &str) -> Option<Vec<Address>> {
    let line = format!("{value}\r\n");
    let HeaderValue::Address(found) = MessageStream::new(line.as_bytes()).parse_address() else {
        return None;
    };
    found
        .iter()
        .map(|found| Address::parse(found.address()?).ok())
        .collect()
}

/// Where in an address-list of RFC 5322 §3.4 the reader is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    List,
    Group,
    /// After the `;` of a group, where only a comma may follow.
    AfterGroup,
}

/// Reads an address-list strictly. Groups count as their members, and empty elements are skipped
/// (RFC 5322 §4.4).
fn mailboxes(value: &str) -> Result<Vec<Address>, FromError> {
    let text = without_comments(value).ok_or(FromError::Malformed)?;
    let mut addresses = Vec::new();
    let mut place = Place::List;
    let mut rest = text.as_str();
    loop {
        let (element, after) = split_element(rest);
        let element = element.trim_matches(' ');
        let separator = after.chars().next();
        match (place, separator) {
            (Place::List, Some(':')) if is_phrase(element) => place = Place::Group,
            (_, Some(':')) => return Err(FromError::Malformed),
            (Place::AfterGroup, _) if !element.is_empty() => return Err(FromError::Malformed),
            _ => addresses.extend(mailbox(element)?),
        }
        place = match (place, separator) {
            (Place::Group, Some(';')) => Place::AfterGroup,
            (_, Some(';')) | (Place::Group, None) => return Err(FromError::Malformed),
            (_, None) => return Ok(addresses),
            (Place::AfterGroup, Some(_)) => Place::List,
            (place, Some(_)) => place,
        };
        rest = after.get(1..).unwrap_or_default();
    }
}

/// Puts a space in the place of every comment (RFC 5322 §3.2.2). `None` if a comment or a quoted
/// string is not closed, or if there is a backslash elsewhere, which readers treat differently.
fn without_comments(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut depth = 0_usize;
    let mut rest = value;
    while let Some(character) = rest.chars().next() {
        let length = match character {
            '"' if depth == 0 => quoted_string_length(rest)?,
            '\\' if depth == 0 => return None,
            '\\' => 1 + rest.chars().nth(1)?.len_utf8(),
            other => other.len_utf8(),
        };
        let (token, after) = rest.split_at_checked(length)?;
        match character {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            text.push_str(if character == ')' { " " } else { token });
        }
        rest = after;
    }
    (depth == 0).then_some(text)
}

/// Splits before the first separator that is not in a quoted string or in angle brackets.
fn split_element(text: &str) -> (&str, &str) {
    let end = separator_position(text).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn separator_position(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        at += find_unquoted(text.get(at..)?, &[',', ';', ':', '<'])?;
        let found = text.get(at..)?;
        if !found.starts_with('<') {
            return Some(at);
        }
        at += find_unquoted(found, &['>'])?;
    }
}

/// The address of one element, which is `display name <address>`, a bare address, or empty.
fn mailbox(element: &str) -> Result<Option<Address>, FromError> {
    if element.is_empty() {
        return Ok(None);
    }
    let address = match element.strip_suffix('>') {
        None => element,
        Some(inner) => {
            let open = find_unquoted(inner, &['<']).ok_or(FromError::Malformed)?;
            let (name, address) = inner.split_at_checked(open).unwrap_or_default();
            let address = address.trim_matches(['<', ' ']);
            let name = name.trim_matches(' ');
            // Many programs repeat the address as its own name, which misleads nobody.
            if !name.is_empty() && name != address && !is_phrase(name) {
                return Err(FromError::Ambiguous);
            }
            address
        }
    };
    let address = Address::parse(address).map_err(FromError::BadAddress)?;
    Ok(Some(address))
}

/// A display name or a group name, which has no address in it unless quoted.
fn is_phrase(text: &str) -> bool {
    !text.is_empty() && find_unquoted(text, &['@', '<', '>']).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from(value: &str) -> Result<Vec<String>, FromError> {
        from_addresses(format!("Subject: x\r\nFrom: {value}\r\nTo: y@z\r\n\r\n").as_bytes())
    }

    #[test]
    fn finds_the_end_under_every_chunking() {
        for (content, header_len) in [
            ("", None),
            ("\r", None),
            ("\r\nbody", Some(2)),
            ("a: b\r\n", None),
            ("a: b\r\n\r", None),
            ("a: b\r\n\r\n", Some(8)),
            ("a: b\r\n\r\nc\r\n\r\nd", Some(8)),
            ("a: b\r\n \r\nc: d\r\n\r\n.", Some(17)),
        ] {
            for size in 1..=content.len().max(1) {
                let mut scanner = HeaderScanner::new();
                for chunk in content.as_bytes().chunks(size) {
                    scanner.push(chunk).expect("small");
                }
                let state = header_len.map_or(HeaderState::Incomplete, |header_len| {
                    HeaderState::Complete { header_len }
                });
                let length = header_len.unwrap_or(content.len());
                assert_eq!(scanner.push(b""), Ok(state), "{content:?} by {size}");
                assert_eq!(scanner.header(), &content.as_bytes()[..length]);
            }
        }
    }

    #[test]
    fn the_header_may_fill_its_limit() {
        let complete = Ok(HeaderState::Complete { header_len: 12 });
        for (content, state, kept) in [
            ("a: b\r\nc:\r\n\r\n.", complete, 12),
            ("a: b\r\nc: \r\n\r\n", Err(HeaderTooLarge), 0),
            ("a: b\r\nc: de\r", Ok(HeaderState::Incomplete), 12),
            ("a: b\r\nc: de\r\n", Err(HeaderTooLarge), 0),
        ] {
            for size in 1..=content.len() {
                let mut scanner = HeaderScanner::with_limit(12);
                for chunk in content.as_bytes().chunks(size) {
                    // A refusal stays, so the last push shows it.
                    let _ = scanner.push(chunk);
                }
                assert_eq!(scanner.push(b""), state, "{content:?} by {size}");
                assert_eq!(scanner.header(), &content.as_bytes()[..kept]);
            }
        }
        let mut scanner = HeaderScanner::with_limit(4);
        let state = scanner.push(b"\r\nlong body");
        assert_eq!(state, Ok(HeaderState::Complete { header_len: 2 }));
        assert_eq!(scanner.header(), b"\r\n");
        let default = HeaderScanner::new().push(&vec![b'x'; 256 * 1024 + 1]);
        assert_eq!(default, Err(HeaderTooLarge));
    }

    #[test]
    fn reads_from_addresses() {
        for (value, expected) in [
            ("a@b.example", &["a@b.example"][..]),
            ("<a@b>", &["a@b"]),
            ("Jane Doe <a@b>", &["a@b"]),
            ("\"Doe, Jane\" <a@b>", &["a@b"]),
            ("\"x@evil <y@evil>\" <a@b>", &["a@b"]),
            ("\"q\\\"<x@evil>\" <a@b>", &["a@b"]),
            ("a@b <a@b>", &["a@b"]),
            ("J. Doe [Team] <a@b>", &["a@b"]),
            ("Jörg <jörg@bücher.example>", &["jörg@bücher.example"]),
            ("=?utf-8?q?x=40evil?= <a@b>", &["a@b"]),
            ("a@b (Jane (x@evil) \\) Doe)", &["a@b"]),
            ("(x@evil) Jane <a@b> (c)", &["a@b"]),
            ("Jane\r\n Doe\r\n\t<a@b>", &["a@b"]),
            ("<\"a b,c\"@d>", &["\"a b,c\"@d"]),
            ("a@[192.0.2.1]", &["a@[192.0.2.1]"]),
            ("a@b, Jane <c@d>,", &["a@b", "c@d"]),
            ("Team: a@b, Jane <c@d>;", &["a@b", "c@d"]),
            ("\"T:\": a@b;, e@f", &["a@b", "e@f"]),
        ] {
            let expected = expected.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(from(value), Ok(expected), "{value:?}");
        }
    }

    #[test]
    fn refuses_from_fields_that_readers_may_disagree_about() {
        use FromError::{Ambiguous, BadAddress, Malformed, NoAddress, Undecodable};
        for (value, error) in [
            ("", NoAddress),
            ("(only a comment)", NoAddress),
            ("Team:;", NoAddress),
            ("Jane", BadAddress(AddressError::NoDomain)),
            ("Jane <>", BadAddress(AddressError::Empty)),
            ("Jane <jane>", BadAddress(AddressError::NoDomain)),
            ("postmaster", BadAddress(AddressError::NoDomain)),
            ("a@b@c", BadAddress(AddressError::Domain)),
            ("<a@b@c>", BadAddress(AddressError::Domain)),
            ("<a@b> <c@d>", BadAddress(AddressError::Domain)),
            ("a@b <c@d>", Ambiguous),
            ("a@b Jane <c@d>", Ambiguous),
            ("a@b (x) <.evil>", Ambiguous),
            ("<a@b> c@d", BadAddress(AddressError::LocalPart)),
            ("<a@b", BadAddress(AddressError::LocalPart)),
            ("a@b>", Malformed),
            ("<<a@b>>", BadAddress(AddressError::Domain)),
            ("a@b c@d", BadAddress(AddressError::Domain)),
            ("a @b", BadAddress(AddressError::LocalPart)),
            ("<a(x)@b>", BadAddress(AddressError::LocalPart)),
            ("<a@b(x).c>", BadAddress(AddressError::Domain)),
            ("<@x:a@b>", BadAddress(AddressError::LocalPart)),
            ("Doe, Jane <a@b>", BadAddress(AddressError::NoDomain)),
            ("=?utf-8?q?a=40b?=", BadAddress(AddressError::NoDomain)),
            ("=?utf-8?q?a=40b?= (x)", BadAddress(AddressError::NoDomain)),
            ("=?utf-8?q?a?=@b", Ambiguous),
            ("<=?utf-8?q?a?=@b>", Ambiguous),
            ("a@=?utf-8?q?b?=", BadAddress(AddressError::Domain)),
            ("\"a b\"@c", Ambiguous),
            ("<\"a>b\"@c>", Ambiguous),
            ("\"a@b\" (x)", BadAddress(AddressError::NoDomain)),
            ("\"open <a@b>", Malformed),
            ("(open <a@b>", Malformed),
            ("close) <a@b>", Malformed),
            ("DOMAIN\\jane <a@b>", Malformed),
            ("Team: a@b", Malformed),
            ("Team: Sub: a@b;;", Malformed),
            ("Team: a@b; c@d", Malformed),
            ("x@evil: a@b;", Malformed),
            (": a@b;", Malformed),
            ("a@b;", Malformed),
            ("a\u{1}@b", Undecodable),
            ("Jane\u{9b} <a@b>", Undecodable),
        ] {
            assert_eq!(from(value), Err(error), "{value:?}");
        }
        let latin1 = from_addresses(b"From: J\xf6rg <a@b>\r\n\r\n");
        assert_eq!(latin1, Ok(vec!["a@b".to_owned()]));
        let latin1 = from_addresses(b"From: a@b\xf6c\r\n\r\n");
        assert_eq!(latin1, Err(BadAddress(AddressError::Domain)));
    }

    #[test]
    fn unclear_fields_are_read_in_every_way() {
        for (header, domains) in [
            (&b"From: Doe, J <a@b.test>\r\n"[..], &["b.test"][..]),
            (b"From: X: Y <a@b.test>\r\n", &["b.test"]),
            (b"From: J\xf6rg, x <a@b.test>\r\n", &["b.test"]),
            (
                b"From: a@b.test\r\nFrom: c@d.test\r\n",
                &["b.test", "d.test"],
            ),
            (b"From: a@b.test <c@d.test>\r\n", &["b.test", "d.test"]),
            (b"From: =?utf-8?q?a=40b.test?=\r\n", &["b.test"]),
            (
                b"From: =?utf-8?q?a?= =?utf-8?q?=40b.test?=\r\n",
                &["b.test"],
            ),
            (b"From: a@b(x)ank.test\r\n", &["bank.test"]),
            (b"From: a@b ank.test\r\n", &["bank.test"]),
            (b"From: a@\"bank.test\"\r\n", &["bank.test"]),
            (b"From: a@bank\\.test\r\n", &["bank.test"]),
            (b"From: a@b\xffank.test\r\n", &["bank.test"]),
            (b"From: a@\r\n bank.test\r\n", &["bank.test"]),
            (b" From: a@b.test\r\n", &["b.test"]),
            (b"Subject: x\r\n From: a@b.test\r\n", &["b.test"]),
            (b"\x0cFrom\xc2\xa0: a@b.test\r\n", &["b.test"]),
            (b"From a@b.test\r\n", &["b.test"]),
            (b"To: a@b.test\r\nSubject: @x\r\n", &[]),
            (b"From: undisclosed:;\r\n", &[]),
        ] {
            let found = plausible_addresses(header).expect("few");
            for domain in domains {
                let wanted = format!("unclear@{domain}");
                assert!(found.contains(&wanted), "{header:?}: {found:?}");
            }
            assert_eq!(
                found.is_empty(),
                domains.is_empty(),
                "{header:?}: {found:?}"
            );
        }
        let many: String = (0..1000)
            .map(|number| format!("a@b{number}.test "))
            .collect();
        assert_eq!(
            plausible_addresses(format!("From: {many}").as_bytes()),
            None
        );
    }

    #[test]
    fn there_has_to_be_one_from_field_in_a_sound_header() {
        use FromError::{MalformedHeader, Missing, Several, TooLong};
        let address = || Ok(vec!["a@b".to_owned()]);
        let long = |length| format!("From: ({}) a@b\r\n", "x".repeat(length));
        for (header, expected) in [
            ("From:a@b\r\n\r\n".to_owned(), address()),
            ("From:a@b".to_owned(), address()),
            ("fROM: a@b\r\nx\r\n\r\n".to_owned(), address()),
            ("From \t: a@b\r\n\r\n".to_owned(), address()),
            ("X-From: c@d\r\nFrom: a@b\r\n\r\n".to_owned(), address()),
            (
                "X: y\r\n From: c@d\r\nFrom: a@b\r\n\r\n".to_owned(),
                address(),
            ),
            ("From: a@b\r\n\r\nFrom: c@d\r\n".to_owned(), address()),
            (long(8192 - 7), address()),
            (long(8192 - 6), Err(TooLong)),
            ("".to_owned(), Err(Missing)),
            ("\r\nFrom: a@b\r\n".to_owned(), Err(Missing)),
            ("To: a@b\r\n\r\nFrom: a@b\r\n".to_owned(), Err(Missing)),
            ("From: a@b\r\nfrom : c@d\r\n\r\n".to_owned(), Err(Several)),
            ("From: a@b\r\nFrom: a@b\r\n\r\n".to_owned(), Err(Several)),
            (
                "From: a@b\r\nx\r\nFrom: c@d\r\n \r\n\r\n".to_owned(),
                Err(Several),
            ),
            ("x\r\nFrom: a@b\r\n\r\n".to_owned(), Err(MalformedHeader)),
            (
                "From a@b\r\nFrom: a@b\r\n\r\n".to_owned(),
                Err(MalformedHeader),
            ),
            (
                " From: a@b\r\nFrom: a@b\r\n\r\n".to_owned(),
                Err(MalformedHeader),
            ),
            (": x\r\nFrom: a@b\r\n\r\n".to_owned(), Err(MalformedHeader)),
            (
                "\u{feff}X: y\r\nFrom: a@b\r\n\r\n".to_owned(),
                Err(MalformedHeader),
            ),
            (
                "X: y\r\n \t\r\nFrom: a@b\r\n\r\n".to_owned(),
                Err(MalformedHeader),
            ),
            (
                "From: a@b\r\n \r\n ,c@d\r\n\r\n".to_owned(),
                Err(MalformedHeader),
            ),
        ] {
            assert_eq!(from_addresses(header.as_bytes()), expected, "{header:.60?}");
        }
    }

    #[test]
    fn counts_received_fields() {
        for (header, expected) in [
            ("", 0),
            ("Received: a\r\n b\r\nRECEIVED : c\r\n\r\n", 2),
            (
                "X-Received: a\r\nReceived-SPF: b\r\n Received: c\r\n\r\n",
                0,
            ),
            ("x\r\nReceived: a\r\n\r\nReceived: body\r\n", 1),
        ] {
            assert_eq!(received_count(header.as_bytes()), expected, "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn any_from_field_is_read_or_refused(value in "[ab@.<>(),:;\"\\\\ =?\r\n\t]{0,24}") {
            let found = from(&value);
            if let Ok(addresses) = found {
                prop_assert!(!addresses.is_empty());
                prop_assert!(addresses.iter().all(|address| value.contains(address.as_str())));
            }
        }

        /// Whatever is read clearly is plausible, too.
        #[test]
        fn clear_addresses_are_plausible(value in "[ab@.<>(),:;\"\\\\ =?\r\n\t]{0,24}") {
            let header = format!("From: {value}\r\n\r\n");
            if let (Ok(clear), Some(plausible)) =
                (from_addresses(header.as_bytes()), plausible_addresses(header.as_bytes()))
            {
                for address in clear {
                    let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
                    prop_assert!(plausible.contains(&format!("unclear@{domain}")), "{address}");
                }
            }
        }

        #[test]
        fn names_and_comments_do_not_change_the_address(
            name in "[a-z]{0,5}", quoted in "[ -!#-\\[\\]-~&&[^\\\\]]{0,12}", comment in "[ -'*-\\[\\]-~]{0,12}"
        ) {
            let value = format!("{name} \"{quoted}\" <a@b> ({comment})");
            prop_assert_eq!(from(&value), Ok(vec!["a@b".to_owned()]));
        }
    }
}
