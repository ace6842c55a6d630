//! Two components become one: what the outer one imports of the interface, the inner one gives.

use std::panic::catch_unwind;

use anyhow::{Context as _, anyhow};
use portcullis::one_line;
use wasm_compose::graph::{Component, CompositionGraph, EncodeOptions};
use wasmparser::Validator;

/// The interface of policies, without its version.
const INTERFACE: &str = "portcullis:policy/evaluation@";

/// Puts a component around a policy. It exports what the outer one does, and imports what else they do.
///
/// # Errors
/// If one is no component, or they do not fit.
pub fn around(outer: &[u8], inner: &[u8]) -> anyhow::Result<Vec<u8>> {
    // The tools have panicked over damaged modules before.
    let composed = catch_unwind(|| composed(outer, inner));
    let composed = composed.unwrap_or_else(|_| Err(anyhow!("this is damaged")));
    // What they say has lines, and words of the module.
    composed.map_err(|error| anyhow!("{}", one_line(&format!("{error:#}"))))
}

fn composed(outer: &[u8], inner: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut validator = Validator::new();
    let inner = Component::from_bytes(&mut validator, "inner", inner);
    let inner = inner.context("the policy inside cannot be read")?;
    let outer = Component::from_bytes(&mut validator, "outer", outer)?;
    let (asked, interface) = outer
        .imports()
        .find_map(|(index, name, _)| {
            name.starts_with(INTERFACE)
                .then(|| (index, name.to_owned()))
        })
        .ok_or_else(|| anyhow!("this imports no {INTERFACE}…, so it asks no policy inside"))?;
    let (given, ..) = inner
        .export_by_name(&interface)
        .ok_or_else(|| anyhow!("the policy inside does not export {interface}"))?;
    let mut graph = CompositionGraph::new();
    let (inner, outer) = (graph.add_component(inner)?, graph.add_component(outer)?);
    let (inner, outer) = (graph.instantiate(inner)?, graph.instantiate(outer)?);
    graph.connect(inner, Some(given), outer, asked)?;
    graph.encode(EncodeOptions {
        define_components: true,
        export: Some(outer),
        validate: true,
    })
}
