//! Components of core modules: compilers for WebAssembly make these, and know nothing of components.

use std::panic::catch_unwind;

use anyhow::{Context as _, anyhow};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The interfaces, for modules that do not bring them.
const POLICY: &str = include_str!("../../../../wit/policy.wit");
const MIDDLEWARE: &str = include_str!("../../../../wit/middleware/middleware.wit");
/// What the modules of a middleware import, without the version.
const INSIDE: &str = "portcullis:policy/evaluation@";
/// The section in which glue code brings it.
const METADATA: &str = "component-type";

/// The component of a core module that exports the functions of the interface.
///
/// # Errors
/// If it is damaged, or does not export them.
pub fn component_of(module: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    // The tools have panicked over damaged modules before.
    let made = catch_unwind(|| encoded(module));
    made.unwrap_or_else(|_| Err(anyhow!("this is damaged")))
}

fn encoded(mut module: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let Found {
        has_interface,
        is_middleware,
    } = look(&module)?;
    if !has_interface {
        let mut resolve = Resolve::default();
        let policy = resolve.push_str("policy.wit", POLICY)?;
        let middleware = resolve.push_str("middleware.wit", MIDDLEWARE)?;
        let (package, name) = match is_middleware {
            false => (policy, "policy"),
            true => (middleware, "middleware"),
        };
        let world = resolve.select_world(&[package], Some(name))?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    }
    let mut encoder = ComponentEncoder::default();
    encoder
        .validate(true)
        .module(&module)
        .context("the interface in it cannot be read")?;
    encoder.encode().context("no component can be made of it")
}

/// What a module says of itself.
#[derive(Default)]
struct Found {
    /// Glue code has brought the interface along, as wit-bindgen's does.
    has_interface: bool,
    /// It asks a policy inside.
    is_middleware: bool,
}

fn look(module: &[u8]) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for payload in Parser::new(0).parse_all(module) {
        match payload.context("this is damaged")? {
            Payload::CustomSection(section) => {
                found.has_interface |= section.name().starts_with(METADATA);
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.context("this is damaged")?;
                    found.is_middleware |= import.module.starts_with(INSIDE);
                }
            }
            _ => {}
        }
    }
    Ok(found)
}
