//! The settings of wasmtime that compiled code depends on. The build script compiles the evaluator by them too.

use wasmtime::{Config, OptLevel};

/// What is the same for policies that run and for the evaluator while it reads documents.
pub fn base_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        // It would have the policy's own names in it.
        .wasm_backtrace_max_frames(None)
        // The concurrent call path costs every call, and no policy needs it.
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true);
    config
}
