//! Whether a message has to be converted, which parts of it, and whether it can be.

use super::lines::Lines;
use super::obstacle::Obstacle;
use super::structure::{
    Delimiter, Encoding, Filler, Header, Kind, Sink, Structure, fields, is_field,
};

/// Parts of a message.
const MAX_PARTS: usize = 10_000;
/// Fields that sign the body of a message, whoever reads them.
const SIGNATURES: [&str; 3] = [
    "DKIM-Signature",
    "DomainKey-Signature",
    "ARC-Message-Signature",
];
/// The first line of a text that OpenPGP has signed (RFC 9580 §7).
const PGP_SIGNED: &[u8] = b"-----BEGIN PGP SIGNED MESSAGE-----";

/// A look at a message, as it comes.
pub struct Survey {
    lines: Lines,
    structure: Structure,
    findings: Findings,
}

/// What was found.
#[derive(Default)]
pub struct Findings {
    /// Whether it has eight bits, for each part without parts.
    parts: Vec<bool>,
    /// Whether what nobody reads has eight bits.
    filler: bool,
    /// Whether it stands before the first part of a multipart, of which none has come yet.
    preamble: bool,
    /// What stands in the way if something has to be converted.
    obstacle: Option<Obstacle>,
    has_dkim: bool,
    /// The part that is looked at.
    part: Part,
}

#[derive(Default)]
struct Part {
    signed: Option<Obstacle>,
    malformed: Option<&'static str>,
    has_eight_bits: bool,
}

impl Survey {
    /// Of a message that has not begun.
    pub fn new() -> Self {
        Survey {
            lines: Lines::default(),
            structure: Structure::new(),
            findings: Findings::default(),
        }
    }

    /// Looks at more of the message.
    pub fn push(&mut self, content: &[u8]) {
        let (structure, findings) = (&mut self.structure, &mut self.findings);
        self.lines
            .push(content, |line| structure.line(line, findings));
    }

    /// The message is whole.
    pub fn finish(mut self) -> Findings {
        let last = self.lines.finish();
        if !last.is_empty() {
            self.structure.line(&last, &mut self.findings);
        }
        self.structure.finish(&mut self.findings);
        self.findings.end_part();
        self.findings.end_preamble();
        // It says more than what comes of it.
        if let Some(obstacle) = self.structure.obstacle() {
            self.findings.obstacle = Some(obstacle);
        }
        self.findings
    }
}

impl Default for Survey {
    fn default() -> Self {
        Self::new()
    }
}

impl Findings {
    /// Whether something has eight bits. Headers do not count: no encoding of a part changes them.
    pub fn needs_conversion(&self) -> bool {
        self.filler || self.parts.contains(&true)
    }

    /// What stands in the way, if the message has to be converted.
    pub fn obstacle(&self) -> Option<Obstacle> {
        if !self.needs_conversion() {
            return None;
        }
        let dkim = self.has_dkim.then_some(Obstacle::Dkim);
        dkim.or(self.obstacle)
    }

    /// Whether a part has eight bits, by its number among those that have no parts.
    pub(super) fn is_eight_bit(&self, number: usize) -> bool {
        self.parts.get(number).copied().unwrap_or(false)
    }

    /// A multipart ends. Without a part, what seemed to come before the first one is the text of it.
    fn end_preamble(&mut self) {
        if std::mem::take(&mut self.preamble) {
            let broken = Obstacle::Malformed("a multipart with eight bits has no parts");
            self.obstacle.get_or_insert(broken);
        }
    }

    fn end_part(&mut self) {
        let part = std::mem::take(&mut self.part);
        if part.has_eight_bits {
            let malformed = part.malformed.map(Obstacle::Malformed);
            self.obstacle = self.obstacle.or(part.signed).or(malformed);
        }
    }
}

impl Sink for Findings {
    fn header(&mut self, header: Header) {
        if header.is_top {
            let is_signature = |field: &[u8]| SIGNATURES.iter().any(|name| is_field(field, name));
            self.has_dkim = fields(&header.raw).any(is_signature);
        }
        self.end_part();
        if matches!(header.kind, Kind::Multipart | Kind::Message) {
            self.part.signed = header.signed;
            return;
        }
        self.part = Part {
            signed: header.signed,
            malformed: match (header.kind, header.encoding) {
                (Kind::Broken, _) => {
                    Some("a multipart without a boundary of its own has eight bits")
                }
                (_, Encoding::Encoded) => Some("a part that is said to be encoded has eight bits"),
                _ if header.contradicts_itself => Some("a part says twice what it is"),
                _ => None,
            },
            has_eight_bits: false,
        };
        match self.parts.len() < MAX_PARTS {
            true => self.parts.push(false),
            false => self.obstacle = Some(Obstacle::Malformed("it has too many parts")),
        }
    }

    fn body(&mut self, line: &[u8]) {
        if line.trim_ascii_end() == PGP_SIGNED {
            self.part.signed.get_or_insert(Obstacle::Pgp);
        }
        if !line.is_ascii() {
            self.part.has_eight_bits = true;
            if let Some(part) = self.parts.last_mut() {
                *part = true;
            }
        }
    }

    fn filler(&mut self, line: &[u8], filler: Filler) {
        if line.is_ascii() {
            return;
        }
        self.filler = true;
        self.preamble |= filler.is_preamble;
        self.obstacle = self.obstacle.or(filler.signed);
    }

    fn delimiter(&mut self, _: &[u8], kind: Delimiter) {
        self.end_part();
        match kind.is_own && !kind.is_last {
            true => self.preamble = false,
            false => self.end_preamble(),
        }
    }
}
