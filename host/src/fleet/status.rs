//! What a host says of itself.

use serde::{Deserialize, Serialize};

use crate::config::Ring;

/// How many tenants are told of that have not what they should; of further ones only how many.
pub const MAX_EXCEPTIONS: usize = 100;
/// The longest reason, in characters.
pub const MAX_REASON: usize = 500;

/// What a host says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The host.
    pub host: String,
    /// Its ring.
    pub ring: Ring,
    /// The version of Portcullis.
    pub version: String,
    /// When it said so (RFC 3339), by its own clock.
    pub time: String,
    /// When the store was made that it follows (RFC 3339).
    pub store: String,
    /// All entries up to this revision of the store are in force, but for the exceptions.
    pub revision: u64,
    /// The operators' root statement that it goes by.
    pub root: u64,
    /// How many tenants it has of the fleet.
    pub tenants: usize,
    /// Those that have not what they should.
    pub exceptions: Vec<Exception>,
    /// How many further ones there are.
    #[serde(default)]
    pub further_exceptions: usize,
    /// What else somebody should look at.
    #[serde(default)]
    pub alarms: Vec<String>,
}

/// A tenant that has not what it should.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Exception {
    /// The tenant.
    pub tenant: String,
    /// The sequence of the policy that is not in force; 0 if that cannot be told.
    pub sequence: u64,
    /// The sequence of the one that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<u64>,
    /// Why.
    pub reason: String,
    /// Whether it is only a matter of time.
    #[serde(default)]
    pub is_pending: bool,
}
