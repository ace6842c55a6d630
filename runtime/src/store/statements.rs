//! Policies that must be signed: where the statements about them are, and whether they are taken.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Sha256;
use crate::statement::{Envelope, TenantStatement, Trust, digest_of};

/// By whom a policy must be signed.
#[derive(Clone)]
pub struct Signed {
    /// The operators' keys, and what was accepted.
    pub trust: Arc<Trust>,
    /// Where the statements are.
    pub statements: Statements,
}

/// Where the statements about a policy are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statements {
    /// Beside the policy: `NAME.dsse.json`, and the tenant's own in `NAME.tenant.dsse.json`. Without the latter the
    /// operators sign the policy.
    Beside,
    /// Here.
    Given {
        /// What the operators say about the tenant, which is accepted.
        about: Arc<TenantStatement>,
        /// The statement about the policy.
        policy: Arc<Envelope>,
    },
}

impl PartialEq for Signed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.trust, &other.trust) && self.statements == other.statements
    }
}

impl Eq for Signed {}

impl fmt::Debug for Signed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.statements.fmt(to)
    }
}

/// The statement about a policy in a file: `NAME.dsse.json` beside it.
pub fn statement_beside(policy: &Path) -> PathBuf {
    policy.with_extension("dsse.json")
}

/// The statement about the tenant of a policy in a file: `NAME.tenant.dsse.json` beside it.
pub fn tenant_statement_beside(policy: &Path) -> PathBuf {
    policy.with_extension("tenant.dsse.json")
}

/// Which statement a policy was taken by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum By {
    None,
    Beside,
    /// That with this payload.
    Given(Sha256),
}

impl By {
    pub(super) fn of(signed: Option<&Signed>) -> Self {
        match signed.map(|signed| &signed.statements) {
            None => By::None,
            Some(Statements::Beside) => By::Beside,
            Some(Statements::Given { policy, .. }) => By::Given(digest_of(&policy.payload)),
        }
    }
}
