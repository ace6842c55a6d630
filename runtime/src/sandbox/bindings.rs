//! The Rust side of `wit/policy.wit`.

/// A finished policy.
#[allow(missing_docs)]
pub mod policy {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "policy",
        exports: { default: async },
        additional_derives: [PartialEq],
    });
}

/// The evaluator that takes a document.
#[allow(missing_docs)]
pub mod evaluator {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "evaluator",
        exports: { default: async },
    });
}
