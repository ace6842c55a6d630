//! Why a policy gives no answer.

use std::sync::Arc;
use std::time::Duration;

/// A policy did not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("policy {policy}: {failure}{}", what_it_wrote(wrote))]
#[non_exhaustive]
pub struct EvaluationError {
    /// The policy's name.
    pub policy: Arc<str>,
    /// What went wrong.
    pub failure: Failure,
    /// What it wrote last before that, if anything: usually the reason.
    pub wrote: String,
}

fn what_it_wrote(wrote: &str) -> String {
    let lines: Vec<String> = wrote.lines().map(|line| format!("\n  | {line}")).collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!("\nbefore that it wrote:{}", lines.concat()),
    }
}

/// Why a policy did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It did what WebAssembly forbids, or gave up.
    #[error("the policy trapped: {0}")]
    Trapped(String),
    /// It took too long.
    #[error("the policy did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// It asked for more memory or tables than allowed.
    #[error("the policy asked for more than the {} KiB of memory that it may have", .0 / 1024)]
    OutOfMemory(usize),
    /// It recursed too deeply.
    #[error("the policy used up its stack of {} KiB", .0 / 1024)]
    StackOverflow(usize),
    /// Its code cannot be had.
    #[error(
        "its compiled code is gone from the cache ({0}): reload the policies to compile it again"
    )]
    NotLoaded(String),
    /// It is slow, and too many evaluations are ahead of this one.
    #[error("the policy is slow: too many of its evaluations were ahead for {} ms", .0.as_millis())]
    Throttled(Duration),
    /// All instances are in use.
    #[error("all {0} policy instances are in use")]
    PoolExhausted(usize),
    /// There is none.
    #[error("no policy is loaded")]
    NoPolicy,
    /// It could not be instantiated, or answered with what the interface does not allow.
    #[error("{0}")]
    Invalid(String),
}

impl Failure {
    /// Whether it may say more of the machine than of the policy.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Failure::TimedOut(_)
                | Failure::Throttled(_)
                | Failure::PoolExhausted(_)
                | Failure::NotLoaded(_)
        )
    }

    /// The stable name, for metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Failure::Trapped(_) => "trap",
            Failure::TimedOut(_) => "timeout",
            Failure::OutOfMemory(_) => "out-of-memory",
            Failure::StackOverflow(_) => "stack-overflow",
            Failure::NotLoaded(_) | Failure::NoPolicy => "not-loaded",
            Failure::Throttled(_) => "throttled",
            Failure::PoolExhausted(_) => "pool-exhausted",
            Failure::Invalid(_) => "invalid",
        }
    }
}
