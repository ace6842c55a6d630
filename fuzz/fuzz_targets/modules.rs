//! Modules that wasm-smith makes; `fuzz/seeds/modules` has some of them as they are.
#![no_main]

use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use portcullis_tests::modules::component;
use wasm_smith::{Component, Config, Module};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Ok(module) = module(&mut Unstructured::new(input)) {
        portcullis_fuzz_targets::modules(&module);
    }
});

/// The exports of a policy in the canonical ABI.
static SHAPE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let shape = r#"(module
        (memory (export "memory") 1 64)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "portcullis:policy/evaluation@0.1.0#evaluate") (param i32) (result i32) unreachable)
        (func (export "portcullis:policy/evaluation@0.1.0#explain") (param i32) (result i32) unreachable)
        (func (export "portcullis:policy/evaluation@0.1.0#describe") (param i32 i32) (result i32) unreachable))"#;
    wat::parse_str(shape).expect("the shape is right")
});

/// Anything; any component; or a policy whose functions do anything.
fn module(input: &mut Unstructured) -> Result<Vec<u8>> {
    Ok(match input.int_in_range(0..=2)? {
        0 => input.bytes(input.len())?.to_vec(),
        1 => Component::new(Config::default(), input)?.to_bytes(),
        _ => {
            let config = Config {
                exports: Some(SHAPE.clone()),
                max_imports: 0,
                ..Config::default()
            };
            component(Module::new(config, input)?.to_bytes())
        }
    })
}
