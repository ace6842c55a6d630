//! The parts of a message (RFC 2046 §5), line by line.

use super::content_type::{ContentType, encoding_word};
use super::obstacle::Obstacle;

/// Parts within parts; what has more is no mail.
const MAX_DEPTH: usize = 100;
/// Octets of the header of a part.
const MAX_HEADER: usize = 256 << 10;
/// The fields that a conversion changes.
pub(super) const ENCODING: &str = "Content-Transfer-Encoding";
pub(super) const TYPE: &str = "Content-Type";
pub(super) const VERSION: &str = "MIME-Version";

/// What hears of the parts of a message. All lines come with their ends.
pub(super) trait Sink {
    /// The header of a message or part, with the empty line behind it if there is one.
    fn header(&mut self, header: Header);
    /// A line of the body of the part whose header came last.
    fn body(&mut self, line: &[u8]);
    /// A line of what stands before and after parts, and which nobody reads.
    fn filler(&mut self, line: &[u8], filler: Filler);
    /// A line between two parts, or behind the last one.
    fn delimiter(&mut self, line: &[u8], kind: Delimiter);
}

/// A line between two parts, or behind the last one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delimiter {
    /// Whether it belongs to the multipart that has begun last, and not to one around it.
    pub is_own: bool,
    /// Whether no part follows.
    pub is_last: bool,
}

/// Where a line stands that nobody reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filler {
    /// Whether it is before the first part. If no part comes, it is all that there is.
    pub is_preamble: bool,
    /// Who has signed it.
    pub signed: Option<Obstacle>,
}

/// What a part consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Further parts.
    Multipart,
    /// A message.
    Message,
    /// A text.
    Text,
    /// Octets.
    Binary,
    /// Parts that nothing tells apart.
    Broken,
}

/// How a part is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// It says nothing, or `7bit`.
    Seven,
    /// `8bit` or `binary`.
    Eight,
    /// Another way.
    Encoded,
}

/// The header of a message or of a part.
pub(super) struct Header {
    pub raw: Vec<u8>,
    pub kind: Kind,
    pub encoding: Encoding,
    /// Whether it is that of the whole message.
    pub is_top: bool,
    /// Whether it says the same thing twice.
    pub contradicts_itself: bool,
    /// Who has signed what it belongs to, if it was.
    pub signed: Option<Obstacle>,
}

impl Header {
    /// Whether a field is there.
    pub fn has(&self, name: &str) -> bool {
        fields(&self.raw).any(|field| is_field(field, name))
    }
}

/// Whether a field has a name.
pub(super) fn is_field(field: &[u8], name: &str) -> bool {
    let colon = memchr::memchr(b':', field);
    let own = colon.and_then(|at| field.get(..at)).unwrap_or_default();
    own.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes())
}

/// The fields of a header, each with its lines, and the empty line behind them if there is one.
pub(super) fn fields(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = 0;
        for at in memchr::memchr_iter(b'\n', rest) {
            end = at + 1;
            // RFC 5322 §2.2.3: a line that begins with white space goes on with the field before it.
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
            end = rest.len();
        }
        let (field, after) = rest.split_at(if end == 0 { rest.len() } else { end });
        rest = after;
        Some(field)
    })
}

/// A multipart that has begun and not ended.
struct Level {
    boundary: Vec<u8>,
    /// Whether its parts are messages where they say nothing.
    is_digest: bool,
    /// Who has signed the whole of it.
    outside: Option<Obstacle>,
    /// Who has signed its parts.
    signed: Option<Obstacle>,
}

enum At {
    /// In a header.
    Header { is_message: bool },
    /// In the body of a part that has no parts.
    Body,
    /// Before the first part.
    Preamble,
    /// Behind the last part.
    Epilogue,
}

/// Where in a message the next line stands.
pub(super) struct Structure {
    levels: Vec<Level>,
    at: At,
    header: Vec<u8>,
    is_top: bool,
    obstacle: Option<Obstacle>,
}

impl Structure {
    pub fn new() -> Self {
        Structure {
            levels: Vec::new(),
            at: At::Header { is_message: true },
            header: Vec::new(),
            is_top: true,
            obstacle: None,
        }
    }

    /// What makes the message one that is not gone into.
    pub fn obstacle(&self) -> Option<Obstacle> {
        self.obstacle
    }

    /// Takes a line with its end.
    pub fn line(&mut self, line: &[u8], sink: &mut impl Sink) {
        if let Some((level, is_last)) = self.boundary(line) {
            self.finish(sink);
            let is_own = level + 1 == self.levels.len();
            self.levels
                .truncate(if is_last { level } else { level + 1 });
            sink.delimiter(line, Delimiter { is_own, is_last });
            self.at = match is_last {
                true => At::Epilogue,
                false => At::Header { is_message: false },
            };
            return;
        }
        match self.at {
            At::Header { .. } if !matches!(line, b"\r\n" | b"\n") && !is_of_header(line) => {
                self.end_header(sink);
                self.line(line, sink);
            }
            At::Header { .. } => {
                self.header.extend_from_slice(line);
                if matches!(line, b"\r\n" | b"\n") {
                    self.end_header(sink);
                } else if self.header.len() > MAX_HEADER {
                    self.give_up("the header of a part is too long");
                    self.end_header(sink);
                }
            }
            At::Body => sink.body(line),
            At::Preamble => {
                let signed = self.levels.last().and_then(|level| level.outside);
                let is_preamble = true;
                sink.filler(
                    line,
                    Filler {
                        is_preamble,
                        signed,
                    },
                );
            }
            At::Epilogue => {
                let signed = self.levels.last().and_then(|level| level.signed);
                let is_preamble = false;
                sink.filler(
                    line,
                    Filler {
                        is_preamble,
                        signed,
                    },
                );
            }
        }
    }

    /// The message, or a part, ends.
    pub fn finish(&mut self, sink: &mut impl Sink) {
        if let At::Header { .. } = self.at
            && !self.header.is_empty()
        {
            self.end_header(sink);
        }
    }

    fn give_up(&mut self, why: &'static str) {
        self.obstacle.get_or_insert(Obstacle::Malformed(why));
    }

    /// The level that a line is a boundary of, and whether it is the last one there.
    fn boundary(&self, line: &[u8]) -> Option<(usize, bool)> {
        let rest = line.strip_prefix(b"--")?.trim_ascii_end();
        let levels = self.levels.iter().enumerate().rev();
        for (number, Level { boundary, .. }) in levels {
            match rest.strip_prefix(&boundary[..]) {
                Some(b"") => return Some((number, false)),
                Some(b"--") => return Some((number, true)),
                _ => {}
            }
        }
        None
    }

    fn end_header(&mut self, sink: &mut impl Sink) {
        let raw = std::mem::take(&mut self.header);
        let is_message = matches!(self.at, At::Header { is_message: true });
        let of_digest = self.levels.last().is_some_and(|level| level.is_digest) && !is_message;
        let value = |name| {
            let field = fields(&raw).find(|field| is_field(field, name))?;
            let colon = memchr::memchr(b':', field)?;
            field.get(colon + 1..)
        };
        let content_type = match value(TYPE) {
            Some(value) => ContentType::parse(value),
            None if of_digest => ContentType::new("message", "rfc822"),
            None => ContentType::new("text", "plain"),
        };
        let boundary = match content_type.main == "multipart" {
            true => content_type.parameter("boundary").unwrap_or_default(),
            false => Vec::new(),
        };
        let boundary = boundary.trim_ascii_end();
        let encoding = match value(ENCODING).map(encoding_word).as_deref() {
            None | Some("" | "7bit") => Encoding::Seven,
            Some("8bit" | "binary") => Encoding::Eight,
            Some(_) => Encoding::Encoded,
        };
        let is_too_deep = self.levels.len() >= MAX_DEPTH;
        let twice = |name| fields(&raw).filter(|field| is_field(field, name)).count() > 1;
        let contradicts_itself = twice(TYPE) || twice(ENCODING);
        // Readers differ about whose part begins where two have the same boundary, or one has two.
        let is_ambiguous =
            twice(TYPE) || self.levels.iter().any(|level| level.boundary == boundary);
        let kind = match (&*content_type.main, &*content_type.sub) {
            ("multipart", _) if boundary.is_empty() || is_too_deep || is_ambiguous => Kind::Broken,
            ("multipart", _) => Kind::Multipart,
            ("message", "rfc822" | "news") if encoding != Encoding::Encoded => Kind::Message,
            ("text" | "message", _) => Kind::Text,
            _ => Kind::Binary,
        };
        if kind == Kind::Broken && is_too_deep {
            self.give_up("its parts are nested too deep");
        }
        let outside = self.levels.last().and_then(|level| level.signed);
        let signed = outside.or_else(|| signed_by(&content_type));
        self.at = match kind {
            Kind::Multipart => {
                self.levels.push(Level {
                    boundary: boundary.to_vec(),
                    is_digest: content_type.sub == "digest",
                    outside,
                    signed,
                });
                At::Preamble
            }
            Kind::Message => At::Header { is_message: true },
            Kind::Text | Kind::Binary | Kind::Broken => At::Body,
        };
        let header = Header {
            contradicts_itself,
            kind,
            encoding,
            is_top: std::mem::take(&mut self.is_top),
            signed,
            raw,
        };
        sink.header(header);
    }
}

/// Who has signed the parts of a multipart (RFC 1847 §2.1).
fn signed_by(content_type: &ContentType) -> Option<Obstacle> {
    if (&*content_type.main, &*content_type.sub) != ("multipart", "signed") {
        return None;
    }
    let protocol = content_type.parameter("protocol").unwrap_or_default();
    let protocol = String::from_utf8_lossy(&protocol).to_ascii_lowercase();
    Some(match protocol.as_str() {
        "application/pgp-signature" => Obstacle::Pgp,
        "application/pkcs7-signature" | "application/x-pkcs7-signature" => Obstacle::Smime,
        _ => Obstacle::Signed,
    })
}

/// Whether a line begins a field, or goes on with one (RFC 5322 §2.2). One that does neither is the first of a body
/// whose empty line is missing.
fn is_of_header(line: &[u8]) -> bool {
    match line.first() {
        Some(b' ' | b'\t') => true,
        _ => {
            let name = line
                .split(|octet| *octet == b':')
                .next()
                .unwrap_or_default();
            name.len() < line.len() && name.trim_ascii_end().iter().all(u8::is_ascii_graphic)
        }
    }
}
