//! Policies as WebAssembly components in a sandbox.
//!
//! A [`Sandbox`] loads a component once into a [`Module`]; each SMTP session then gets
//! [`Instance`]s of its own. Whatever a module does (trap, loop, eat memory, recurse), the outcome is
//! a typed error that names it, and everybody else goes on. [`Builder`] turns a rules document into
//! a component with the rules inside.

mod bindings;
mod build;
mod cache;
mod compiler;
mod engine;
mod inspect;
mod instance;
mod module;
mod shelf;
mod wasi;
mod workshop;

pub use bindings::evaluator::exports::portcullis::policy::rules::{Problem, Severity, Summary};
pub use bindings::policy::exports::portcullis::policy::evaluation as interface;
pub use build::{BuildError, Builder, Rules};
pub use cache::{Cache, CacheError};
pub use compiler::{CompileLimits, Compiler, compile};
pub use engine::{Limits, MOST_STACK, OWN_STACK, Sandbox, SandboxError};
pub use inspect::Refused;
pub use instance::{EvaluationError, Failure, Instance};
pub use module::{LoadError, Module};
