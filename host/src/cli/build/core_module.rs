//! Components of core modules: compilers for WebAssembly make these, and know nothing of components.

use std::panic::catch_unwind;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use wasmparser::{Parser, Payload};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::Build;
use crate::cli::paint::printable_lines;
use crate::cli::test::read_cases;
use crate::cli::{output, policy};
use portcullis::{Engine, cases_beside};

/// The interface, for modules that do not bring it.
const WIT: &str = include_str!("../../../../wit/policy.wit");
/// The section in which glue code brings it.
const METADATA: &str = "component-type";

impl Build {
    /// Makes a component of a core module.
    pub(super) async fn of_core_module(&self, engine: &Engine) -> anyhow::Result<ExitCode> {
        let path = self.rules.display().to_string();
        let module = policy::read(&self.rules)?;
        // The tools have panicked over damaged modules before.
        let component = catch_unwind(|| component_of(module));
        let component = component.unwrap_or_else(|_| Err(anyhow!("this is damaged")));
        let component = component.map_err(|error| anyhow!("{path}: {error:#}"))?;
        let loaded = engine.load_component(&path, component.clone()).await?;
        let cases = cases_beside(&self.output).filter(|beside| beside.exists());
        let mut passed = 0;
        if let Some(beside) = cases {
            let cases = read_cases(&beside)?;
            let failed = loaded.run_cases(&cases).await;
            for failed in &failed {
                let line = format!("{}:{}: {failed}\n", beside.display(), failed.line);
                output::tell(&printable_lines(&line));
            }
            if !failed.is_empty() {
                return Ok(ExitCode::from(1));
            }
            passed = cases.len();
        }
        self.write(&component)?;
        output::tell(&format!(
            "{}: {passed} tests passed, {} bytes\n",
            self.output.display(),
            component.len()
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// The component of a core module that exports the functions of the interface.
fn component_of(mut module: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    if !module.starts_with(b"\0asm") {
        bail!("this is not WebAssembly");
    }
    if !Parser::is_core_wasm(&module) {
        bail!("this is a component already");
    }
    if !has_interface(&module)? {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("policy.wit", WIT)?;
        let world = resolve.select_world(&[package], Some("policy"))?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    }
    let mut encoder = ComponentEncoder::default();
    encoder
        .validate(true)
        .module(&module)
        .context("the interface in it cannot be read")?;
    encoder.encode().context("no component can be made of it")
}

/// Whether glue code has brought the interface along, as wit-bindgen's does.
fn has_interface(module: &[u8]) -> anyhow::Result<bool> {
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CustomSection(section) = payload.context("this is damaged")?
            && section.name().starts_with(METADATA)
        {
            return Ok(true);
        }
    }
    Ok(false)
}
