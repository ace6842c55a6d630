//! The conversion itself.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::lines::Lines;
use super::structure::{
    Delimiter, ENCODING, Encoding, Filler, Header, Kind, Sink, Structure, TYPE, VERSION, fields,
    is_field,
};
use super::survey::Findings;

/// Octets of a line of base64 before they are encoded (RFC 2045 §6.8).
const OF_LINE: usize = 57;

/// Converts a message in which eight bits were found, and nothing that stands in the way.
pub struct Converter {
    lines: Lines,
    structure: Structure,
    output: Output,
}

struct Output {
    findings: Arc<Findings>,
    content: Vec<u8>,
    /// How many parts without parts have begun.
    parts: usize,
    body: Body,
}

/// What becomes of the body of a part.
enum Body {
    Same,
    QuotedPrintable,
    Base64 {
        octets: Vec<u8>,
        /// Whether the last line has ended: its end may belong to the boundary behind it (RFC 2046 §5.1.1).
        has_ended: bool,
    },
}

impl Converter {
    /// For a message of which this was found.
    pub fn new(findings: Arc<Findings>) -> Self {
        Converter {
            lines: Lines::default(),
            structure: Structure::new(),
            output: Output {
                findings,
                content: Vec::new(),
                parts: 0,
                body: Body::Same,
            },
        }
    }

    /// Converts more of the message, and appends what comes of it.
    pub fn push(&mut self, content: &[u8], out: &mut Vec<u8>) {
        let (structure, output) = (&mut self.structure, &mut self.output);
        self.lines
            .push(content, |line| structure.line(line, output));
        out.append(&mut output.content);
    }

    /// The message is whole: appends what is left.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let last = self.lines.finish();
        if !last.is_empty() {
            self.structure.line(&last, &mut self.output);
        }
        self.structure.finish(&mut self.output);
        self.output.end_body(true);
        out.append(&mut self.output.content);
    }
}

impl Output {
    /// The body of a part ends: with the message, or before a boundary.
    fn end_body(&mut self, is_end: bool) {
        let body = std::mem::replace(&mut self.body, Body::Same);
        if let Body::Base64 {
            mut octets,
            has_ended,
        } = body
        {
            if has_ended && is_end {
                octets.extend_from_slice(b"\r\n");
            }
            self.encode(&octets);
        }
    }

    fn encode(&mut self, octets: &[u8]) {
        for line in octets.chunks(OF_LINE) {
            let line = BASE64_STANDARD.encode(line);
            self.content.extend_from_slice(line.as_bytes());
            self.content.extend_from_slice(b"\r\n");
        }
    }

    /// Writes a header with another encoding, or as it is.
    fn write_header(&mut self, header: &Header, encoding: Option<&str>) {
        let Some(encoding) = encoding else {
            self.content.extend_from_slice(&header.raw);
            return;
        };
        let is_empty = |field: &[u8]| matches!(field, b"\r\n" | b"\n");
        for field in fields(&header.raw) {
            if !is_field(field, ENCODING) && !is_empty(field) {
                self.content.extend_from_slice(field);
            }
        }
        if header.is_top && !header.has(VERSION) {
            self.field(VERSION, "1.0");
        }
        if encoding != SEVEN && !header.has(TYPE) {
            // RFC 1428 §3: nobody knows.
            self.field(TYPE, "text/plain; charset=unknown-8bit");
        }
        self.field(ENCODING, encoding);
        self.content.extend_from_slice(b"\r\n");
    }

    fn field(&mut self, name: &str, value: &str) {
        let field = format!("{name}: {value}\r\n");
        self.content.extend_from_slice(field.as_bytes());
    }
}

const SEVEN: &str = "7bit";

impl Sink for Output {
    fn header(&mut self, header: Header) {
        self.end_body(false);
        if matches!(header.kind, Kind::Multipart | Kind::Message) {
            let changes = header.encoding == Encoding::Eight && header.signed.is_none();
            self.write_header(&header, changes.then_some(SEVEN));
            return;
        }
        let converts = self.findings.is_eight_bit(self.parts);
        self.parts += 1;
        let (body, encoding) = match (converts, header.kind) {
            (false, _) => (Body::Same, None),
            (true, Kind::Text) => (Body::QuotedPrintable, Some("quoted-printable")),
            (true, _) => {
                let body = Body::Base64 {
                    octets: Vec::new(),
                    has_ended: false,
                };
                (body, Some("base64"))
            }
        };
        self.body = body;
        self.write_header(&header, encoding);
    }

    fn body(&mut self, line: &[u8]) {
        let (text, end) = match line.strip_suffix(b"\r\n") {
            Some(text) => (text, true),
            None => (line, false),
        };
        match &mut self.body {
            Body::Same => self.content.extend_from_slice(line),
            Body::QuotedPrintable => {
                let encoded = quoted_printable::encode(text);
                self.content.extend_from_slice(&encoded);
                if end {
                    self.content.extend_from_slice(b"\r\n");
                }
            }
            Body::Base64 { octets, has_ended } => {
                if std::mem::replace(has_ended, end) {
                    octets.extend_from_slice(b"\r\n");
                }
                octets.extend_from_slice(text);
                let whole = octets.len() / OF_LINE * OF_LINE;
                let rest = octets.split_off(whole);
                let whole = std::mem::replace(octets, rest);
                self.encode(&whole);
            }
        }
    }

    fn filler(&mut self, line: &[u8], _: Filler) {
        let shown = line.iter().map(|octet| match octet.is_ascii() {
            true => *octet,
            false => b'?',
        });
        self.content.extend(shown);
    }

    fn delimiter(&mut self, line: &[u8], _: Delimiter) {
        self.end_body(false);
        self.content.extend_from_slice(line);
    }
}
