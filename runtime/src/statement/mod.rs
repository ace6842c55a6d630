//! Signed statements: who may say which policy a tenant has, and in which order policies follow each other.
//!
//! A statement is the payload of a DSSE envelope (<https://github.com/secure-systems-lab/dsse>, version 1), signed with
//! Ed25519 (RFC 8032). A [`Root`] names the operators' keys, a [`TenantStatement`] the domains of a tenant and the keys
//! that sign its policies, a [`PolicyStatement`] the digest of a policy, and a [`Retirement`] takes a tenant away. Each
//! has a sequence: a [`Ledger`] remembers the highest, so that nobody brings an older statement back.

mod envelope;
mod error;
mod fields;
mod key;
mod ledger;
mod payload;
#[cfg(test)]
mod tests;
mod trust;

pub use self::envelope::{Envelope, Signature};
pub use self::error::{StatementError, VerifyError};
pub use self::fields::{
    Format, MAX_ENVELOPE, MAX_KEYS, MAX_NAME, MAX_PAYLOAD, MAX_SEQUENCE, MAX_SIGNATURES, Time,
    digest_of,
};
pub use self::key::{KeyError, PublicKey, SigningKey};
pub use self::ledger::{Accepted, Ledger, LedgerError, Subject};
pub use self::payload::{
    KeySet, NamedKey, Payload, PolicyStatement, Retirement, Root, TenantStatement,
};
pub use self::trust::{Roots, Trust, Verified};
