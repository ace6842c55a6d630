//! SHA-256 digests.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;

use serde::{Serialize, Serializer};

/// A SHA-256 digest: four 64-bit words, big-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u64; 4]);

impl Sha256 {
    /// Reads 64 hex digits; colons between them are allowed.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Vec<u64> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).map(u64::from))
            .collect::<Option<_>>()?;
        if digits.len() != 64 {
            return None;
        }
        let mut words = [0; 4];
        for (word, digits) in words.iter_mut().zip(digits.chunks(16)) {
            *word = digits.iter().fold(0, |word, digit| word << 4 | digit);
        }
        Some(Sha256(words))
    }

    /// From the 32 octets.
    pub fn from_octets(octets: &[u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, octets) in words.iter_mut().zip(octets.as_chunks().0) {
            *word = u64::from_be_bytes(*octets);
        }
        Sha256(words)
    }
}

impl From<(u64, u64, u64, u64)> for Sha256 {
    fn from((a, b, c, d): (u64, u64, u64, u64)) -> Self {
        Sha256([a, b, c, d])
    }
}

impl From<Sha256> for (u64, u64, u64, u64) {
    fn from(Sha256([a, b, c, d]): Sha256) -> Self {
        (a, b, c, d)
    }
}

/// As `openssl x509 -fingerprint -sha256` has it, without colons and in lower case.
impl fmt::Display for Sha256 {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(to, "{word:016x}"))
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let octets: [u8; 32] = core::array::from_fn(|n| n as u8 * 7);
        let digest = Sha256::from_octets(&octets);
        assert_eq!(Sha256::parse(&digest.to_string()), Some(digest));
        assert!(digest.to_string().starts_with("00070e15"));
        for wrong in [
            "",
            "zz",
            &digest.to_string()[1..],
            &(digest.to_string() + "0"),
        ] {
            assert_eq!(Sha256::parse(wrong), None, "{wrong}");
        }
    }
}
