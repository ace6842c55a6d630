//! What is remembered of a tenant's mail, read once.

use std::collections::BTreeMap;

use crate::decisions::{Connection, Counters, DAY, DatabaseError, Decisions, Flow, Validated};

/// Mail of so long is looked at, and so much of it.
const LOOK_BACK: i64 = 180 * DAY * 1000;
const MAX_FLOWS: u32 = 20_000;
/// Days that connectors are counted for.
pub const COUNTED_DAYS: i64 = 90;

/// What is remembered of a tenant's mail.
pub struct Mail {
    /// What was decided, the last first.
    pub flows: Vec<Flow>,
    /// What partners' servers have shown.
    pub connections: Vec<Connection>,
    /// What connectors did lately.
    pub counters: BTreeMap<String, Counters>,
    /// What came of trying connectors out.
    pub validations: BTreeMap<String, Validated>,
    /// When each connector first had a decision, in milliseconds since 1970.
    pub first_seen: BTreeMap<String, i64>,
}

impl Mail {
    /// Reads it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(tenant: &str, decisions: &Decisions, now: i64) -> Result<Self, DatabaseError> {
        Ok(Mail {
            flows: decisions.flows(tenant, now - LOOK_BACK, MAX_FLOWS)?,
            connections: decisions.connections(tenant, now - LOOK_BACK)?,
            counters: decisions.counters(tenant, now, COUNTED_DAYS)?,
            validations: decisions.validations(tenant)?,
            first_seen: decisions.first_seen(tenant)?,
        })
    }
}
