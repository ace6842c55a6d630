//! Outbound connectors in Postfix's words: what stands in `smtp_tls_policy_maps` and `transport_maps`.

pub mod next_hops;
pub mod tables;
mod tls_policy;

pub use next_hops::{NextHop, NextHops};
pub use tls_policy::{NotInPostfix, TlsPolicy};
