//! The reference host of Portcullis: an SMTP proxy that asks sandboxed policies.
//!
//! `docs/architecture.md` has the life of one message on one page.

#![warn(missing_docs)]

mod admin;
mod advice;
mod alerts;
pub mod cli;
pub mod config;
pub mod daemon;
mod decisions;
mod demo;
pub mod edit;
pub mod egress;
mod exim;
pub mod fleet;
pub mod frontend;
mod http_client;
pub mod import;
mod observe;
pub mod opensmtpd;
mod periodic;
pub mod postfix;
pub mod smtp;
pub mod socket;
pub mod tls;
mod trust;
mod validate;
mod watch;
