//! The Rust side of `wit/policy.wit`.

/// A finished policy, or the built-in evaluator that takes packed rules.
#[allow(missing_docs)]
pub mod policy {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "policy",
        exports: { default: async },
    });
}

/// The evaluator that reads documents.
#[allow(missing_docs)]
pub mod evaluator {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "evaluator",
    });
}

pub use policy::exports::portcullis::policy::evaluation;

portcullis_types::conversions!(crate::bindings::evaluation);
portcullis_types::rules_conversions!(
    crate::bindings::evaluator::exports::portcullis::policy::rules
);
