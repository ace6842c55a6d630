//! A policy that is loaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use portcullis_types::Description;

use super::admission::SlowCalls;
use super::code::Code;
use super::inspect::Rejection;
use crate::failure::{EvaluationError, Failure};

/// How many times a policy that was slow is run in mode `Yielding` before it is run on the caller's thread again.
const SLOW_CALLS: u32 = 1000;

/// A policy that fails so many times in a row is failing.
const FAILING: u32 = 10;

/// A policy that can be evaluated.
pub struct LoadedPolicy {
    /// What to call it: a file name.
    pub name: Arc<str>,
    /// What it says of itself, without its connectors.
    pub description: Description,
    /// Its code.
    pub code: Code,
    /// Whether it imports WASI. WASI waits, and needs a stack of its own to.
    pub uses_wasi: bool,
    /// Whether its evaluator is the built-in one.
    pub is_built_in: bool,
    /// What each instance is given, if the code is that of the evaluator which policies share.
    pub rules: Option<Arc<[u8]>>,
    /// Permits for its slow calls.
    pub slow_calls: SlowCalls,
    /// How many more times it is run as slow.
    slow: AtomicU32,
    /// Evaluations in a row without an answer.
    failures: AtomicU32,
    /// Whether it answered nothing when it was taken.
    mute: AtomicBool,
}

impl LoadedPolicy {
    /// A policy of code, before it has been described.
    pub fn new(name: &str, code: Code, uses_wasi: bool) -> Self {
        LoadedPolicy {
            name: name.into(),
            description: Description::default(),
            code,
            uses_wasi,
            is_built_in: false,
            rules: None,
            slow_calls: SlowCalls::default(),
            slow: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            mute: AtomicBool::new(false),
        }
    }

    /// The same with the built-in evaluator; `rules` are what each instance is given.
    pub fn of_rules(mut self, rules: Option<Arc<[u8]>>) -> Self {
        self.is_built_in = true;
        self.rules = rules;
        self
    }

    /// The same before anything was asked of it.
    pub fn undescribed(&self) -> Self {
        let policy = LoadedPolicy::new(&self.name, self.code.clone(), self.uses_wasi);
        LoadedPolicy {
            is_built_in: self.is_built_in,
            rules: self.rules.clone(),
            ..policy
        }
    }

    /// It has answered; tells whether it was failing until now.
    pub fn has_answered(&self) -> bool {
        // Most have not failed, and need not write what all sessions read.
        self.failures.load(Ordering::Relaxed) > 0
            && self.failures.swap(0, Ordering::Relaxed) >= FAILING
    }

    /// It has not answered; tells whether it is failing from now on.
    pub fn has_failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILING
    }

    /// Whether it answered nothing when it was taken. Any other may replace it.
    pub fn is_mute(&self) -> bool {
        self.mute.load(Ordering::Relaxed)
    }

    /// Whether it has answered when it was tried out.
    pub fn set_mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::Relaxed);
    }

    /// The error of a failure.
    pub fn failed(&self, failure: Failure) -> EvaluationError {
        EvaluationError {
            policy: self.name.clone(),
            failure,
            wrote: String::new(),
        }
    }

    /// Whether it can be run on the caller's thread.
    pub fn is_quick(&self) -> bool {
        !self.uses_wasi && self.slow.load(Ordering::Relaxed) == 0
    }

    /// For some time it is run as slow. Not for ever: it may have been the machine that was slow.
    pub fn mark_slow(&self) {
        self.slow.store(SLOW_CALLS, Ordering::Relaxed);
    }

    /// It has been run as slow once more.
    pub fn decay(&self) {
        let less = |left: u32| left.checked_sub(1);
        // Fails at 0, which is where it is to stay.
        let _ = self
            .slow
            .try_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// A policy could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It is too large.
    #[error("policy {name}: {size} bytes are more than the {limit} that a policy may have")]
    TooLarge {
        /// The policy.
        name: String,
        /// Its size.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It is not a policy for this host.
    #[error("policy {name}: {rejection}")]
    Rejected {
        /// The policy.
        name: String,
        /// Why.
        rejection: Rejection,
    },
    /// It could not be compiled or linked.
    #[error("policy {name}: it cannot be compiled: {reason}")]
    Compile {
        /// The policy.
        name: String,
        /// Why.
        reason: String,
    },
    /// Components of others are not compiled in this process unless the embedder says so.
    #[error(
        "policy {0}: it is a component of its own, and this program has no compiler for those (EngineBuilder::compiler)"
    )]
    NoCompiler(String),
    /// It did not answer when it was asked what it is.
    #[error(transparent)]
    Failed(#[from] EvaluationError),
}
