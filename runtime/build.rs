//! Builds the evaluator for WebAssembly from source, for the library to embed: once with the part that reads rules
//! documents, and once without. With the feature `precompiled` both are compiled to machine code too, so that nobody
//! waits for that at the first start.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use wasm::{TOOLCHAIN, variable};

#[cfg(feature = "precompiled")]
#[path = "src/sandbox/base_config.rs"]
mod base_config;
#[path = "build/wasm.rs"]
mod wasm;

const PACKAGE: &str = "portcullis-evaluator";

fn main() -> Result<()> {
    // Not where it was compiled: worktrees may share a target folder.
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    for input in [
        "guest/src",
        "guest/data",
        "guest/build.rs",
        "guest/Cargo.toml",
        "types/src",
        "types/Cargo.toml",
        "wit/policy.wit",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={TOOLCHAIN}");
    println!(
        "cargo::rustc-env=PORTCULLIS_INTERFACE_VERSION={}",
        interface_version(&root)?
    );
    let documents = wasm::build(&root, PACKAGE, "evaluator", &[])?;
    embed("PORTCULLIS_EVALUATOR", &documents)?;
    // Each finished policy contains it.
    let packed = wasm::build(&root, PACKAGE, "packed-policy", &["--no-default-features"])?;
    embed("PORTCULLIS_PACKED_POLICY", &packed)?;
    Ok(())
}

/// The version in the WIT: `package portcullis:policy@0.1.0;`.
fn interface_version(root: &Path) -> Result<String> {
    let path = root.join("wit/policy.wit");
    let wit = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let package = wit
        .lines()
        .find_map(|line| line.strip_prefix("package portcullis:policy@"));
    let version = package.and_then(|rest| rest.strip_suffix(';'));
    Ok(version.context("wit/policy.wit names no version")?.into())
}

/// Hands a component and its machine code over to the library.
fn embed(name: &str, component: &Path) -> Result<()> {
    let code = component.with_extension("cwasm");
    fs::write(&code, machine_code(component)?)?;
    println!("cargo::rustc-env={name}={}", component.display());
    println!("cargo::rustc-env={name}_CODE={}", code.display());
    Ok(())
}

#[cfg(not(feature = "precompiled"))]
fn machine_code(_component: &Path) -> Result<Vec<u8>> {
    Ok(Vec::new())
}

/// Code for any processor of the target's architecture; nothing if the compiler knows only another architecture.
#[cfg(feature = "precompiled")]
fn machine_code(component: &Path) -> Result<Vec<u8>> {
    let target = std::env::var("TARGET")?;
    let architecture = |triple: &str| triple.split('-').next().map(str::to_owned);
    if architecture(&target) != architecture(&std::env::var("HOST")?) {
        return Ok(Vec::new());
    }
    let mut config = base_config::base_config();
    let engine = config
        .target(&target)
        .and_then(|config| wasmtime::Engine::new(config));
    let compiled = engine.and_then(|engine| engine.precompile_component(&fs::read(component)?));
    compiled.map_err(|error| anyhow::anyhow!("{}: {error:#}", component.display()))
}
