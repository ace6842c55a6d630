//! The settings of wasmtime that compiled code depends on. The build script compiles the evaluator by them too.

use std::num::NonZeroUsize;

use wasmtime::{Config, OptLevel};

/// Functions that are told of a policy that has trapped: those of its language's own panics come first.
const BACKTRACE: usize = 16;

/// What is the same for policies that run and for the evaluator while it reads documents.
pub fn base_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE))
        // The concurrent call path costs every call, and no policy needs it.
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true);
    config
}
