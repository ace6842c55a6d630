//! What is told of what happens: the log and the numbers.

pub mod decisions;
pub mod metrics;
pub mod policies;
pub mod redact;
pub mod writer;
