//! What the end-to-end tests are written with: the daemon as a process, an SMTP client that does
//! just what it is told, certificates of every kind, and a next hop that is not ours.

pub mod admin;
pub mod attack;
#[cfg(test)]
mod bindings;
pub mod browser;
pub mod client;
pub mod config;
pub mod conformance;
pub mod daemon;
pub mod dns;
#[cfg(test)]
mod documentation;
pub mod dovecot;
pub mod exim;
pub mod fan_out;
pub mod fault_injector;
pub mod fleet;
pub mod forwarder;
pub mod front_door;
#[path = "../../guest/tests/support/generate.rs"]
pub mod generate;
pub mod haproxy;
pub mod https;
pub mod imports;
pub mod load;
pub mod machine;
pub mod metrics;
pub mod mock_server;
#[path = "../../guest/tests/support/model.rs"]
pub mod model;
pub mod modules;
pub mod mta;
pub mod nats;
pub mod nginx;
pub mod office;
pub mod opensmtpd;
pub mod openssl;
pub mod outbound;
pub mod partition;
pub mod pki;
pub mod postfix;
pub mod programs;
pub mod prometheus;
#[cfg(test)]
mod released;
pub mod resolver;
pub mod sendmail;
pub mod sink;
pub mod test_bed;
pub mod tlsrpt;
pub mod validate;
pub mod ways;

pub use browser::Browser;
pub use client::{Client, Reply};
pub use config::{Config, Listener, NO_RULES};
pub use daemon::{Daemon, portcullis, run};
pub use dns::Dns;
pub use fault_injector::{Fault, FaultInjector};
pub use https::Https;
pub use load::Load;
pub use mock_server::{Action, Behaviour, MockServer, Step};
pub use pki::Pki;
pub use sink::SmtpSink;
pub use test_bed::TestBed;
