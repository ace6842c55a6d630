//! Why a statement is not taken.

use super::fields::{
    Format, MAX_ENVELOPE, MAX_KEYS, MAX_NAME, MAX_PAYLOAD, MAX_SEQUENCE, MAX_SIGNATURES, Time,
};

/// An envelope or what is in it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The envelope is too large.
    #[error("the envelope is larger than {MAX_ENVELOPE} octets")]
    EnvelopeSize,
    /// The payload is too large.
    #[error("the payload is larger than {MAX_PAYLOAD} octets")]
    PayloadSize,
    /// The envelope is no DSSE envelope.
    #[error("it is no DSSE envelope: {0}")]
    Envelope(String),
    /// A value in the envelope is no Base64.
    #[error("{0} is not Base64")]
    Base64(&'static str),
    /// It has too many signatures.
    #[error("it has {0} signatures; {MAX_SIGNATURES} are allowed")]
    Signatures(usize),
    /// It is another kind of statement.
    #[error("its payloadType is {found:?}, not {wanted:?}")]
    Type {
        /// What it is.
        found: String,
        /// What is wanted.
        wanted: &'static str,
    },
    /// It is a statement of a version that this program does not know.
    #[error("its payloadType {0:?} is of a version that this program does not know")]
    Version(String),
    /// The payload is not as it must be.
    #[error("the payload is no {kind}: {reason}")]
    Payload {
        /// What it should be.
        kind: &'static str,
        /// What is wrong, and where.
        reason: String,
    },
    /// A sequence is no number that can be used.
    #[error("the sequence {0} is not between 1 and {MAX_SEQUENCE}")]
    Sequence(u64),
    /// There are too many keys, or none, or fewer than must sign.
    #[error(
        "{keys} keys with threshold {threshold}: a threshold is at least 1 and at most the number of keys, which is at most {MAX_KEYS}"
    )]
    Keys {
        /// How many keys there are.
        keys: usize,
        /// How many must sign.
        threshold: usize,
    },
    /// A key or the name of one is there twice.
    #[error("the key {0:?} is named twice")]
    KeyTwice(String),
    /// A tenant's name cannot be used.
    #[error("the name of a tenant has at most {MAX_NAME} octets, and no control characters")]
    Name,
    /// Something is empty that must not be.
    #[error("{0} is empty")]
    Empty(&'static str),
}

/// A statement is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It cannot be read.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// Too few of those who may sign it have done so.
    #[error("{valid} of {threshold} required signatures are good; those who may sign: {signers}")]
    Signatures {
        /// How many keys have signed.
        valid: usize,
        /// How many must.
        threshold: usize,
        /// Their names and ids.
        signers: String,
    },
    /// A root does not follow the one before it.
    #[error("root {found} does not follow root {known}")]
    RootVersion {
        /// Its version.
        found: u64,
        /// The version of the root before.
        known: u64,
    },
    /// There is no root in the file.
    #[error("there is no root statement in it")]
    NoRoot,
    /// The operators' keys are no longer good for anything new.
    #[error(
        "root {version} has expired at {expired}; nothing new is taken until the operators rotate it"
    )]
    RootExpired {
        /// Its version.
        version: u64,
        /// When.
        expired: Time,
    },
    /// It is about another tenant.
    #[error("it is about tenant {found:?}, not {wanted:?}")]
    Tenant {
        /// Whom it is about.
        found: String,
        /// Whom it should be about.
        wanted: String,
    },
    /// It is older than what was accepted.
    #[error("its sequence {found} is lower than {known}, which was accepted before")]
    Rollback {
        /// Its sequence.
        found: u64,
        /// The highest.
        known: u64,
    },
    /// It is older than the tenant's statement allows.
    #[error("its sequence {found} is lower than {least}, where the tenant's statement begins")]
    TooLow {
        /// Its sequence.
        found: u64,
        /// The lowest.
        least: u64,
    },
    /// Two statements have one sequence.
    #[error(
        "another statement with sequence {0} was accepted before; somebody signs different things with one number"
    )]
    Conflict(u64),
    /// It is not yet good.
    #[error("it is good from {not_before}, and it is {now} here")]
    NotYet {
        /// From when on it is good.
        not_before: Time,
        /// The time of this machine.
        now: Time,
    },
    /// It is no longer good.
    #[error("it has expired at {expired}, and it is {now} here")]
    Expired {
        /// Until when it was good.
        expired: Time,
        /// The time of this machine.
        now: Time,
    },
    /// The policy is not the one that is meant.
    #[error("the policy is not the one that was signed: its {what} is {found}, not {signed}")]
    Policy {
        /// What differs.
        what: &'static str,
        /// What the policy has.
        found: String,
        /// What was signed.
        signed: String,
    },
    /// It needs an interface that this program does not have.
    #[error("the policy needs version {needs} of the interface; this program has {has}")]
    Interface {
        /// The version that it needs.
        needs: String,
        /// The newest that is there.
        has: &'static str,
    },
    /// The tenant was taken away.
    #[error("tenant {0:?} is retired")]
    Retired(String),
    /// What was accepted before cannot be told, or not kept.
    #[error("{0}")]
    Ledger(String),
}

impl VerifyError {
    pub(super) fn format(found: Format, signed: Format) -> Self {
        VerifyError::Policy {
            what: "format",
            found: found.name().into(),
            signed: signed.name().into(),
        }
    }
}
