//! Partner connectors for secure mail flow, as sandboxed WebAssembly policies.

pub mod domain;
pub mod json;
pub mod sandbox;
pub mod store;
pub mod text;
#[cfg(feature = "rustls")]
pub mod tls;
