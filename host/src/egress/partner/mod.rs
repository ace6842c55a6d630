//! Mail of the organization to partners, sent while its own server waits.
//!
//! The verdict says by which route and with which protection. Servers are tried in order. One that does not meet the
//! requirements is skipped, and no server is given mail with less protection than was asked for.

pub mod dane;
pub mod dns;
mod endpoint;
mod failure;
mod late;
pub mod mta_sts;
mod outbound;
pub mod probe;
mod published;
mod reachable;
mod resources;
mod route;
mod servers;
mod this_host;
mod tls_report;
pub(crate) mod verify;

pub use dns::Dns;
pub use failure::{Failure, ProtectionError, ResultType};
pub use late::LateOutbound;
pub use outbound::{Outbound, TlsOutcome};
pub use published::{EnforcedPolicy, Published, Records};
pub use resources::{OutboundResources, ResourcesError};
pub use route::{Candidate, PartnerPath, Target};
