//! What is told of what happens: the log and the numbers.

pub mod metrics;
pub mod redact;
pub mod writer;
