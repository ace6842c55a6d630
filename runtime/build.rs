//! Builds the evaluator for WebAssembly from source, for the library to embed: once with the part that reads rules
//! documents, and once without. With the feature `precompiled` both are compiled to machine code too, so that nobody
//! waits for that at the first start.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

#[cfg(feature = "precompiled")]
#[path = "src/sandbox/base_config.rs"]
mod base_config;

const TARGET: &str = "wasm32-wasip2";
/// The toolchain that builds the evaluator, as rustup calls it, where the library is built by one that lacks
/// the target: fuzzing takes a nightly one.
const TOOLCHAIN: &str = "PORTCULLIS_EVALUATOR_TOOLCHAIN";

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
    let documents = build_evaluator(&root, "evaluator", &[])?;
    embed("PORTCULLIS_EVALUATOR", &documents)?;
    // Each finished policy contains it.
    let packed = build_evaluator(&root, "packed-policy", &["--no-default-features"])?;
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
    let target = env::var("TARGET")?;
    let architecture = |triple: &str| triple.split('-').next().map(str::to_owned);
    if architecture(&target) != architecture(&env::var("HOST")?) {
        return Ok(Vec::new());
    }
    let mut config = base_config::base_config();
    let engine = config
        .target(&target)
        .and_then(|config| wasmtime::Engine::new(config));
    let compiled = engine.and_then(|engine| engine.precompile_component(&fs::read(component)?));
    compiled.map_err(|error| anyhow::anyhow!("{}: {error:#}", component.display()))
}

fn build_evaluator(root: &Path, name: &str, arguments: &[&str]) -> Result<PathBuf> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    // A folder of its own: the outer cargo holds the lock of the shared one.
    let target = out.join("evaluator");
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
        .args(arguments)
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target)
        // What was meant for the host's own code must not reach another target.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", flags(root)?)
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2")
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
    let component = out.join(name).with_extension("wasm");
    fs::copy(&built, &component).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(component)
}

/// Without bulk memory instructions: each is a call into the runtime, dearer than the few words that it moves. With
/// less inlining than usual (a threshold of 225): a quarter of the code is saved, and no speed lost. And without the
/// paths of this machine.
fn flags(root: &Path) -> Result<String> {
    let mut flags =
        "-Ctarget-feature=-bulk-memory,-bulk-memory-opt -Cllvm-args=-inline-threshold=150"
            .to_owned();
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    if let Some(home) = home {
        flags.push_str(&format!(
            " --remap-path-prefix={}=",
            home.join("registry/src").display()
        ));
    }
    let root = root
        .canonicalize()
        .with_context(|| root.display().to_string())?;
    flags.push_str(&format!(" --remap-path-prefix={}=", root.display()));
    Ok(flags)
}

fn variable(name: &str) -> Result<std::ffi::OsString> {
    env::var_os(name).with_context(|| format!("cargo has not set {name}"))
}
