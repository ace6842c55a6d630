//! Components that are built from source by build scripts, for crates to embed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const TARGET: &str = "wasm32-wasip2";
/// The toolchain that builds components, as rustup calls it, where the library is built by one that lacks
/// the target: fuzzing takes a nightly one.
pub const TOOLCHAIN: &str = "PORTCULLIS_EVALUATOR_TOOLCHAIN";

/// A folder with components that have been built already, for whoever cannot build for WebAssembly.
const COMPONENTS: &str = "PORTCULLIS_COMPONENTS";

/// Builds the component of a package of the workspace at `root`, unless it is there already; `name` is that of the file.
pub fn build(root: &Path, package: &str, name: &str, arguments: &[&str]) -> Result<PathBuf> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    let component = out.join(name).with_extension("wasm");
    println!("cargo::rerun-if-env-changed={COMPONENTS}");
    if let Some(folder) = env::var_os(COMPONENTS) {
        let built = Path::new(&folder).join(name).with_extension("wasm");
        println!("cargo::rerun-if-changed={}", built.display());
        fs::copy(&built, &component)
            .with_context(|| format!("cannot copy {} ({COMPONENTS})", built.display()))?;
        return Ok(component);
    }
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
        .args(["build", "--release", "--package", package])
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
            "{package} did not build for {TARGET} ({status}); if the target is missing: rustup target add {TARGET}"
        );
    }
    let built = target
        .join(TARGET)
        .join("release")
        .join(package.replace('-', "_"))
        .with_extension("wasm");
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

/// A variable of the environment that cargo sets.
pub fn variable(name: &str) -> Result<std::ffi::OsString> {
    env::var_os(name).with_context(|| format!("cargo has not set {name}"))
}
