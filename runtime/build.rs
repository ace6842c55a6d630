//! Builds the evaluator for WebAssembly from source, for the host to embed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

const TARGET: &str = "wasm32-wasip2";
/// The toolchain that builds the evaluator, as rustup calls it, where the host is built by one that lacks
/// the target: fuzzing takes a nightly one.
const TOOLCHAIN: &str = "PORTCULLIS_EVALUATOR_TOOLCHAIN";

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for input in [
        "guest/src",
        "guest/data",
        "guest/build.rs",
        "guest/Cargo.toml",
        "wit",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let component = build_evaluator(&root)?;
    println!(
        "cargo::rustc-env=PORTCULLIS_EVALUATOR={}",
        component.display()
    );
    Ok(())
}

fn build_evaluator(root: &Path) -> Result<PathBuf> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    // A folder of its own: the outer cargo holds the lock of the shared one.
    let target = out.join("evaluator");
    println!("cargo::rerun-if-env-changed={TOOLCHAIN}");
    let mut cargo = match env::var_os(TOOLCHAIN) {
        None => Command::new(variable("CARGO")?),
        Some(toolchain) => {
            let mut cargo = Command::new("cargo");
            cargo
                .env("RUSTUP_TOOLCHAIN", toolchain)
                .env_remove("RUSTC")
                .env_remove("RUSTDOC");
            cargo
        }
    };
    let status = cargo
        .current_dir(root)
        .args(["build", "--release", "--package", "portcullis-evaluator"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        // What was meant for the host's own code must not reach another target. Without bulk memory
        // instructions: each is a call into the runtime, dearer than the few words that it moves.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env(
            "RUSTFLAGS",
            "-Ctarget-feature=-bulk-memory,-bulk-memory-opt",
        )
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .status()
        .context("cargo does not start")?;
    if !status.success() {
        bail!(
            "the evaluator did not build for {TARGET} ({status}); if the target is missing: rustup target add {TARGET}"
        );
    }
    let built = target
        .join(TARGET)
        .join("release/portcullis_evaluator.wasm");
    let component = out.join("evaluator.wasm");
    fs::copy(&built, &component).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(component)
}

fn variable(name: &str) -> Result<std::ffi::OsString> {
    env::var_os(name).with_context(|| format!("cargo has not set {name}"))
}
