//! `portcullis validate`, with the rules and the configuration of a daemon.

use serde_json::Value;

use crate::{Daemon, run};

/// Runs it with these arguments; gives the exit code and the outcomes.
pub fn validate(daemon: &Daemon, arguments: &[&str]) -> (i32, Vec<Value>) {
    let (code, text) = output(daemon, &[arguments, &["--format", "json"]].concat());
    let outcomes = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (code, outcomes)
}

/// The same; gives the exit code and what it prints.
pub fn output(daemon: &Daemon, arguments: &[&str]) -> (i32, String) {
    let path = |name: &str| daemon.folder().join(name).display().to_string();
    let (rules, config) = (path("rules.json"), path("portcullis.toml"));
    let all = [&["validate", &rules][..], arguments, &["--config", &config]].concat();
    let output = run(&all, b"");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("panicked"), "{errors}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().expect("a code"), text + &errors)
}

/// The check of that name.
pub fn check<'a>(checks: &'a Value, name: &str) -> &'a Value {
    let all = checks.as_array().expect("a list");
    all.iter()
        .find(|check| check["check"] == name)
        .unwrap_or_else(|| panic!("no {name} in {checks:#}"))
}
