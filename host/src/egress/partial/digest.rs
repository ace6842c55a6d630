//! Digests, by which messages and recipients are known.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// A digest: of a message, of one of its recipients, or of the egress that a recipient's mail takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 16]);

impl Digest {
    pub(super) fn of(runs: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        for run in runs {
            context.update(&(run.len() as u64).to_be_bytes());
            context.update(run);
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&context.finish().as_ref()[..16]);
        Digest(digest)
    }

    /// A message, as it came.
    pub fn of_message(sender: &str, header: &[u8]) -> Self {
        Digest::of(&[b"message", sender.as_bytes(), header])
    }

    /// A recipient of a sender.
    pub fn of_recipient(sender: &str, recipient: &str) -> Self {
        Digest::of(&[b"recipient", sender.as_bytes(), recipient.as_bytes()])
    }

    /// What shares one outcome.
    pub fn of_egress(key: &str) -> Self {
        Digest::of(&[b"egress", key.as_bytes()])
    }
}

/// The body of a message, while it comes.
pub struct Body(Context);

impl Body {
    /// Nothing of it yet.
    pub fn new() -> Self {
        Body(Context::new(&SHA256))
    }

    /// A part of it.
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The digest of what has come.
    pub fn digest(&self) -> Digest {
        let whole = self.0.clone().finish();
        Digest::of(&[b"body", whole.as_ref()])
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest
            .0
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect()
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not a digest";
        let octet = |at: usize| {
            text.get(at..at + 2)
                .map(|pair| u8::from_str_radix(pair, 16))
        };
        let mut digest = [0; 16];
        for (place, octet_of) in digest.iter_mut().enumerate() {
            *octet_of = octet(2 * place).and_then(Result::ok).ok_or(wrong)?;
        }
        (text.len() == 32).then_some(Digest(digest)).ok_or(wrong)
    }
}
