//! Policies as WebAssembly components in a sandbox.
//!
//! Whatever a policy does (trap, loop, allocate, recurse), the outcome is a typed error that names it, and all others go
//! on.

pub mod admission;
pub mod background;
pub mod base_config;
pub mod code;
pub mod code_cache;
pub mod compiler;
pub mod disk_cache;
pub mod documents;
pub mod embed;
pub mod engine;
pub mod evaluator;
pub mod idle;
pub mod inspect;
pub mod instance;
pub mod limits;
pub mod linker;
pub mod loader;
pub mod policy;
pub mod state;
pub mod timeout;
pub mod wasi;
