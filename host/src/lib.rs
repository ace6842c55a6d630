//! The reference host of Portcullis: an SMTP proxy that asks sandboxed policies.
//!
//! `docs/architecture.md` has the life of one message on one page.

#![warn(missing_docs)]

pub mod cli;
pub mod config;
pub mod daemon;
mod demo;
mod log;
mod metrics;
pub mod smtp;
pub mod tls;
mod watch;
