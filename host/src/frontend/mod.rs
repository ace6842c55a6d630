//! Who asks policies about mail.

pub mod ask;
pub mod expiry;
pub mod smtp;
