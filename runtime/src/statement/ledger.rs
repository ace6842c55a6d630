//! What was accepted, against those who bring older statements back.

use std::fmt;

use crate::Sha256;

/// What sequences are counted of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// Statements about a tenant, and its retirement.
    Tenant,
    /// Policies of a tenant.
    Policy,
}

/// The newest statement that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its sequence.
    pub sequence: u64,
    /// The digest of its payload.
    pub payload: Sha256,
    /// Where sequences began when it was accepted ([`TenantStatement::policies_from`](super::TenantStatement)).
    pub from: u64,
}

/// It cannot be told what was accepted, or not be kept.
#[derive(Debug, thiserror::Error)]
#[error("what was accepted before cannot be {what}: {reason}")]
pub struct LedgerError {
    /// `read` or `kept`.
    pub what: &'static str,
    /// Why.
    pub reason: String,
}

impl<L: Ledger + ?Sized> Ledger for std::sync::Arc<L> {
    fn accepted(&self, subject: Subject, tenant: &str) -> Result<Option<Accepted>, LedgerError> {
        (**self).accepted(subject, tenant)
    }

    fn accept(
        &self,
        subject: Subject,
        tenant: &str,
        accepted: &Accepted,
    ) -> Result<(), LedgerError> {
        (**self).accept(subject, tenant, accepted)
    }
}

/// Remembers what was accepted, also after a restart.
pub trait Ledger: fmt::Debug + Send + Sync {
    /// The newest statement that was accepted about a tenant.
    ///
    /// # Errors
    /// If that cannot be told: then nothing is taken.
    fn accepted(&self, subject: Subject, tenant: &str) -> Result<Option<Accepted>, LedgerError>;

    /// Keeps that a statement is accepted; it is on the disk when this returns. It never replaces one that is newer:
    /// that has a higher `from`, or the same and a higher sequence. This may wait for the disk.
    ///
    /// # Errors
    /// If it cannot be kept: then the statement is not taken.
    fn accept(
        &self,
        subject: Subject,
        tenant: &str,
        accepted: &Accepted,
    ) -> Result<(), LedgerError>;
}
