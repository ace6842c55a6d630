//! What a text is known by.

use aws_lc_rs::digest::{SHA256, digest};

/// The SHA-256 of a text, as hex digits.
pub fn digest_of(text: &[u8]) -> String {
    let octets = digest(&SHA256, text);
    octets
        .as_ref()
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect()
}
