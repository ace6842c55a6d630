//! What a part says of itself: Content-Type (RFC 2045 §5, RFC 2231 §3) and Content-Transfer-Encoding (RFC 2045 §6).

/// Parameters that are read of a field; each is looked for among all of them.
const MAX_PARAMETERS: usize = 30;

/// A Content-Type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContentType {
    /// The type, in lower case.
    pub main: String,
    /// The subtype, in lower case.
    pub sub: String,
    parameters: Vec<(String, Vec<u8>)>,
}

impl ContentType {
    /// Of a type that says no more.
    pub fn new(main: &str, sub: &str) -> Self {
        ContentType {
            main: main.into(),
            sub: sub.into(),
            parameters: Vec::new(),
        }
    }

    /// Reads the value of a field. What makes no sense is as if it were not there.
    pub fn parse(value: &[u8]) -> Self {
        let mut words = Words(value);
        let main = lower(&words.token());
        let sub = match words.eat(b'/') {
            true => lower(&words.token()),
            false => String::new(),
        };
        let mut parameters = Vec::new();
        while parameters.len() < MAX_PARAMETERS && words.find(b';') {
            let name = lower(&words.token());
            if words.eat(b'=') {
                parameters.push((name, words.value()));
            }
        }
        ContentType {
            main,
            sub,
            parameters,
        }
    }

    /// A parameter, put together where it is in pieces. Nothing in it is decoded but what RFC 2231 marks.
    pub fn parameter(&self, wanted: &str) -> Option<Vec<u8>> {
        let named = |name: &str| {
            let mut parameters = self.parameters.iter();
            parameters.find(|(known, _)| known == name)
        };
        if let Some((_, value)) = named(wanted) {
            return Some(value.clone());
        }
        if let Some((_, value)) = named(&format!("{wanted}*")) {
            return Some(unescape(after_language(value)));
        }
        let mut whole = None;
        for number in 0..self.parameters.len() {
            let plain = named(&format!("{wanted}*{number}"));
            let escaped = named(&format!("{wanted}*{number}*"));
            let piece = match (plain, escaped) {
                (Some((_, piece)), _) => piece.clone(),
                (None, Some((_, piece))) if number == 0 => unescape(after_language(piece)),
                (None, Some((_, piece))) => unescape(piece),
                (None, None) => break,
            };
            whole.get_or_insert_with(Vec::new).extend(piece);
        }
        whole
    }
}

/// The word of a Content-Transfer-Encoding, in lower case.
pub(super) fn encoding_word(value: &[u8]) -> String {
    lower(&Words(value).token())
}

fn lower(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).to_ascii_lowercase()
}

/// What stands behind `charset'language'`.
fn after_language(value: &[u8]) -> &[u8] {
    let mut quotes = memchr::memchr_iter(b'\'', value).skip(1);
    quotes
        .next()
        .and_then(|at| value.get(at + 1..))
        .unwrap_or(value)
}

fn unescape(value: &[u8]) -> Vec<u8> {
    percent_encoding::percent_decode(value).collect()
}

/// The words of a structured field, with comments and white space between them.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    /// Whether this octet comes next.
    fn eat(&mut self, wanted: u8) -> bool {
        self.skip();
        match self.0.split_first() {
            Some((first, rest)) if *first == wanted => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    /// Goes behind the next such octet, if there is one.
    fn find(&mut self, wanted: u8) -> bool {
        while !self.eat(wanted) {
            match self.0.first() {
                None => return false,
                Some(b'"') => drop(self.value()),
                Some(_) => self.0 = &self.0[1..],
            }
        }
        true
    }

    fn token(&mut self) -> Vec<u8> {
        self.skip();
        let ends = |octet: &u8| {
            octet.is_ascii_whitespace()
                || matches!(octet, b'(' | b')' | b'/' | b';' | b'=' | b'"' | b',')
        };
        let end = self.0.iter().position(ends).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        token.to_vec()
    }

    /// A value: a token, or what stands in quotes. Many write values that are no tokens without quotes.
    fn value(&mut self) -> Vec<u8> {
        if !self.eat(b'"') {
            let ends = |octet: &u8| octet.is_ascii_whitespace() || matches!(octet, b';' | b'(');
            let end = self.0.iter().position(ends).unwrap_or(self.0.len());
            let (value, rest) = self.0.split_at(end);
            self.0 = rest;
            return value.to_vec();
        }
        let mut value = Vec::new();
        while let Some((first, rest)) = self.0.split_first() {
            self.0 = rest;
            match first {
                b'"' => break,
                b'\\' => {
                    value.extend(self.0.first());
                    self.0 = self.0.get(1..).unwrap_or_default();
                }
                // Where the field is folded.
                b'\r' | b'\n' => {}
                other => value.push(*other),
            }
        }
        value
    }

    /// Skips white space and comments, which may be in one another (RFC 5322 §3.2.2).
    fn skip(&mut self) {
        let mut depth = 0_usize;
        while let Some((first, rest)) = self.0.split_first() {
            match first {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => {
                    self.0 = rest.get(1..).unwrap_or_default();
                    continue;
                }
                octet if depth > 0 || octet.is_ascii_whitespace() => {}
                _ => return,
            }
            self.0 = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_boundary_is_found_however_it_is_written() {
        for (value, boundary) in [
            ("multipart/mixed; boundary=abc", Some("abc")),
            ("multipart/mixed;boundary=\"a b\"", Some("a b")),
            (
                "Multipart/Mixed ; (x;boundary=y) BOUNDARY = abc (c)",
                Some("abc"),
            ),
            (
                "multipart/mixed;\r\n\t boundary\r\n =\r\n \"abc\"",
                Some("abc"),
            ),
            ("multipart/mixed; boundary=\"a\\\"b\"", Some("a\"b")),
            (
                "multipart/mixed; boundary=\"=?utf-8?Q?a=20b?=\"",
                Some("=?utf-8?Q?a=20b?="),
            ),
            (
                "multipart/mixed; x=\"; boundary=y\"; boundary=abc",
                Some("abc"),
            ),
            ("multipart/mixed; boundary=a=b/c,d", Some("a=b/c,d")),
            (
                "multipart/mixed; boundary*0=ab; boundary*1=\"c d\"",
                Some("abc d"),
            ),
            ("multipart/mixed; boundary*=us-ascii'en'a%20b", Some("a b")),
            (
                "multipart/mixed; boundary*0*=''a%20; boundary*1=b",
                Some("a b"),
            ),
            ("multipart/mixed; boundary", None),
            ("multipart/mixed; boundary=\"abc", Some("abc")),
            ("multipart/mixed", None),
            ("", None),
        ] {
            let found = ContentType::parse(value.as_bytes());
            let found = found.parameter("boundary");
            assert_eq!(found.as_deref(), boundary.map(str::as_bytes), "{value}");
        }
        let text = ContentType::parse(b" (a) Text (b) / (c) PLAIN (d); x=y");
        assert_eq!((&*text.main, &*text.sub), ("text", "plain"));
        assert_eq!(encoding_word(b" (a) 8BIT (b)"), "8bit");
    }

    proptest! {
        #[test]
        fn any_octets_are_read(value in prop::collection::vec(any::<u8>(), 0..80)) {
            let found = ContentType::parse(&value);
            let _ = (found.parameter("boundary"), encoding_word(&value));
        }
    }
}
