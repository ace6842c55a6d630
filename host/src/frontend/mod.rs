//! Who asks policies about mail.

pub mod ask;
pub mod expiry;
mod header;
mod ids;
pub mod known_certificates;
pub mod mta;
pub mod smtp;
pub mod ways;
