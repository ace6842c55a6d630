//! Builds what `portcullis build --http` puts around a policy, for the program to embed.

use std::path::PathBuf;

use anyhow::Result;

#[path = "../runtime/build/wasm.rs"]
mod wasm;

use wasm::{TOOLCHAIN, variable};

fn main() -> Result<()> {
    // Not where it was compiled: worktrees may share a target folder.
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    for input in [
        "bindings/http/src",
        "bindings/http/Cargo.toml",
        "types/src",
        "types/Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-env-changed={TOOLCHAIN}");
    let component = wasm::build(&root, "portcullis-http", "http", &[])?;
    println!("cargo::rustc-env=PORTCULLIS_HTTP={}", component.display());
    Ok(())
}
