//! What keeps a message from having seven bits.

use thiserror::Error;

/// Why a message with eight bits cannot become one with seven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Obstacle {
    /// It has a signature of DKIM (RFC 6376 §5.3) or ARC.
    #[error("conversion would break its DKIM signature")]
    Dkim,
    /// A part with eight bits is signed by S/MIME (RFC 8551).
    #[error("conversion would break its S/MIME signature")]
    Smime,
    /// The same by OpenPGP (RFC 3156).
    #[error("conversion would break its OpenPGP signature")]
    Pgp,
    /// The same in another way (RFC 1847).
    #[error("conversion would break its signature (multipart/signed)")]
    Signed,
    /// Its parts cannot be told apart.
    #[error("its MIME structure is broken: {0}")]
    Malformed(&'static str),
}
