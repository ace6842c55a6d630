//! Builds the evaluator for WebAssembly from source, for the host to embed.

// A build that cannot go on says so by panicking.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "wasm32-wasip2";

fn main() {
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
    let component = build_evaluator(&root);
    println!(
        "cargo::rustc-env=PORTCULLIS_EVALUATOR={}",
        component.display()
    );
}

fn build_evaluator(root: &Path) -> PathBuf {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    // A folder of its own: the outer cargo holds the lock of the shared one.
    let target = out.join("evaluator");
    let status = Command::new(env::var_os("CARGO").unwrap())
        .current_dir(root)
        .args(["build", "--release", "--package", "portcullis-evaluator"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        // What was meant for the host's own code must not reach another target.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTFLAGS")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .status();
    if !status.as_ref().is_ok_and(|status| status.success()) {
        println!(
            "cargo::error=the evaluator did not build for {TARGET} ({status:?}); if the target is missing: rustup target add {TARGET}"
        );
        std::process::exit(1);
    }
    let built = target
        .join(TARGET)
        .join("release/portcullis_evaluator.wasm");
    let component = out.join("evaluator.wasm");
    fs::copy(&built, &component).unwrap();
    component
}
