//! What the end-to-end tests are written with: the daemon as a process, an SMTP client that does
//! just what it is told, certificates of every kind, and a next hop that is not ours.

pub mod client;
pub mod daemon;
pub mod generate;
pub mod model;
pub mod modules;
pub mod pki;
pub mod sink;

pub use client::{Client, Reply};
pub use daemon::{Daemon, portcullis, run};
pub use pki::Pki;
pub use sink::SmtpSink;
