//! What was decided lately, and on which facts: in a file, bounded, with as much of people as `[log]` tells.
//!
//! Decisions on the same facts are one *flow* with a count, for each day: so years of mail of a partner are a few
//! thousand rows, which a change of the rules can be tried on. Beside them stand the last decisions one by one, counters
//! of each connector, and what partners' servers have shown.
//!
//! Mail never waits for any of it. A thread of its own writes; what it cannot take is lost, and counted.

mod database;
mod query;
mod record;
mod recorder;
#[cfg(test)]
mod tests;

pub use self::database::{DatabaseError, Limits, place};
pub use self::query::{Connection, Counters, Decision, Decisions, Filter, Flow, Validated, moment};
pub use self::record::{Connected, Told, digest_of_protection, domain, milliseconds};
pub use self::recorder::Recorder;

/// Seconds of a day.
pub const DAY: i64 = 24 * 60 * 60;
