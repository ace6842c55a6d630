//! The conformance kit, as anybody runs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::daemon::binary;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What came of the cases by one way.
pub struct Report {
    /// How many were as they should be.
    pub passed: usize,
    /// How many were not asked, for each reason.
    pub skipped: BTreeMap<String, usize>,
}

/// What is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Rules documents.
    Documents,
    /// The components that are built of them.
    Components,
}

/// A file of the kit.
pub fn file(path: &str) -> PathBuf {
    Path::new(ROOT).join("conformance").join(path)
}

/// Holds a way against all cases; it differs in none.
pub fn conforms(kind: Kind, command: &[&str], variables: &[(&str, &Path)]) -> Report {
    let mut runner = Command::new("python3");
    runner.arg(file("run.py")).args(["--format", "json"]);
    if kind == Kind::Components {
        runner.arg("--portcullis").arg(binary());
    }
    runner.arg("--").args(command);
    runner
        .envs(variables.iter().copied())
        .env("PORTCULLIS_BIN", binary());
    let output = runner.output().expect("python3 can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "{command:?}, {kind:?}:\n{text}{error}"
    );
    let report: Value = serde_json::from_str(&text).expect("a report");
    let mut skipped = BTreeMap::new();
    for case in report["skipped"].as_array().expect("a list") {
        let reason = case["reason"].as_str().expect("a reason").to_owned();
        *skipped.entry(reason).or_default() += 1;
    }
    let passed = report["passed"].as_u64().expect("a number");
    Report {
        passed: usize::try_from(passed).expect("a number"),
        skipped,
    }
}

/// Holds a way against all cases; it gives verdicts on all of them.
pub fn conforms_wholly(kind: Kind, command: &[&str], variables: &[(&str, &Path)]) {
    let report = conforms(kind, command, variables);
    assert_eq!(report.skipped, BTreeMap::new());
    assert!(report.passed > 700, "{} cases", report.passed);
}
