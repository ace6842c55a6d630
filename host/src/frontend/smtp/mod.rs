//! The SMTP server.

pub mod accept;
pub mod guesses;
pub mod limits;
pub mod listener;
mod receiver;
mod session;
mod spool;
