//! `integrations/haraka/`: its own tests, with a real Haraka, and the evaluator as it is built now.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::daemon::binary;
use portcullis_tests::programs::unpacked;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../integrations/haraka");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Copies the package, without what was made there by hand.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_name().to_str() {
            Some("node_modules" | "evaluator" | "package-lock.json") => {}
            _ if from.is_dir() => copy(&from, &to),
            _ => drop(fs::copy(&from, &to).expect("a file is copied")),
        }
    }
}

/// The evaluator as a component, made as the package's README says.
pub fn evaluator(target: &Path) -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--target",
            "wasm32-wasip2",
        ])
        .args(["--package", "portcullis-evaluator", "--target-dir"])
        .arg(target)
        .current_dir(ROOT)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the evaluator is built: {status}");
    target.join("wasm32-wasip2/release/portcullis_evaluator.wasm")
}

#[test]
fn the_package_passes_its_tests_in_a_real_haraka() {
    let package = unpacked("Haraka", "haraka/package/installed.json");
    let package = package.parent().expect("a folder");
    let tools = package.parent().expect("a folder");
    for name in ["lib", "test"] {
        // What is no longer there must not be left over.
        let _ = fs::remove_dir_all(package.join(name));
    }
    copy(Path::new(SOURCE), package);
    let component = evaluator(&tools.join("target"));
    let node = tools.join("node/bin");
    let path = format!("{}:{}", node.display(), env::var("PATH").expect("a PATH"));
    let npm = |arguments: &[&str]| {
        let output = Command::new("npm")
            .args(arguments)
            .current_dir(package)
            .env("PATH", &path)
            .env("PORTCULLIS_BIN", binary())
            .env("PORTCULLIS_WIT", Path::new(ROOT).join("wit/policy.wit"))
            .env(
                "PORTCULLIS_CASES",
                Path::new(ROOT).join("conformance/cases"),
            )
            .output()
            .expect("npm runs: `make setup-tests`");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "npm {arguments:?}: {text}{error}");
        text
    };
    npm(&["run", "build", "--", component.to_str().expect("UTF-8")]);
    let told = npm(&["test"]);
    let has = |line: &str| {
        told.lines()
            .any(|it| it.trim_start_matches(['#', '\u{2139}', ' ']) == line)
    };
    assert!(
        has("fail 0") && has("skipped 0") && has("todo 0") && !has("pass 0"),
        "{told}"
    );
}
