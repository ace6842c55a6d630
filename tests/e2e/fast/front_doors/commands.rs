//! `check --for`: what a way of asking cannot tell, beforehand and at load.

use std::fs;

use portcullis_tests::{Pki, run};
use serde_json::Value;

use super::{HEADER_RULES, RULES, daemon};

fn check(rules: &str, options: &[&str]) -> (String, bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.json");
    fs::write(&path, rules).expect("a file");
    let path = path.to_string_lossy().into_owned();
    let output = run(&[&["check", &path][..], options].concat(), b"");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    (text, output.status.success())
}

#[test]
fn connectors_that_read_what_is_not_told_are_named() {
    let (text, is_fine) = check(RULES, &["--for", "postfix"]);
    assert!(is_fine);
    assert!(
        text.contains("connector \"Named\" reads the names of the certificate, of which postfix tells only the CN"),
        "{text}"
    );
    assert!(text.contains("known-certificates"), "{text}");
    assert!(!text.contains("\"Encrypted\""), "{text}");
    let (text, _) = check(HEADER_RULES, &["--for", "milter"]);
    assert!(
        !text.contains("the From header") && text.contains("check_policy_service"),
        "{text}"
    );
    let (text, _) = check(HEADER_RULES, &["--for", "exim", "--format", "json"]);
    let found: Value = serde_json::from_str(&text).expect("JSON");
    let facts: Vec<&str> = found["lacking"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|lack| lack["fact"].as_str())
        .collect();
    assert!(facts.contains(&"header-from"), "{found}");
    let plain = RULES.replace(
        "\"certificate-names\": [\"mx.named.test\"]",
        "\"tls\": true",
    );
    let (text, _) = check(&plain, &["--for", "postfix"]);
    assert!(
        text.contains("postfix tells all facts that the rules read"),
        "{text}"
    );
}

#[test]
fn the_server_says_so_when_rules_are_loaded() {
    let daemon = daemon(&Pki::new(), "protocols = [\"policy\"]");
    let line = daemon.wait_for_log("tenant=header way=postfix");
    assert!(
        line.contains("header-from") && line.contains("check --for"),
        "{line}"
    );
}
