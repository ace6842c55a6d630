//! Configurations of the daemon.

use std::fs;
use std::path::Path;
use std::process::Output;

use portcullis_tests::portcullis;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{RULES, assert_one_error, edit, edited, samples};

/// Everything in it only names what is not touched before the daemon runs.
const CONFIG: &str = r#"
hostname = "mx.contoso.com"
[[listener]]
address = "127.0.0.1:0"
proxy-protocol = ["127.0.0.0/8", "::1/128"]
next-hop = { smtp = "127.0.0.1:1", xclient = true, recipients = 5 }
[[tenant]]
name = "contoso"
domains = ["contoso.com", "*.contoso.com"]
policy = "rules.json"
[limits]
message-size = "25MiB"
recipients = 100
[timeouts]
command = "5m"
[sandbox]
memory = "64MiB"
evaluation = "50ms"
"#;

fn check_config(folder: &Path, config: &[u8]) -> Output {
    fs::write(folder.join("portcullis.toml"), config).expect("a file");
    portcullis(&["run", "--check-config", "--config", "portcullis.toml"])
        .current_dir(folder)
        .output()
        .expect("the program runs")
}

#[test]
fn mutated_configurations_are_taken_or_told_about() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.json"), RULES).expect("a file");
    let intact = check_config(folder.path(), CONFIG.as_bytes());
    assert_eq!(
        String::from_utf8_lossy(&intact.stdout),
        "portcullis.toml: ok\n"
    );
    let mut refused = 0;
    for edits in samples(vec(edit(), 1..4), 250) {
        let config = edited(CONFIG.as_bytes(), &edits);
        let shown = String::from_utf8_lossy(&config).into_owned();
        let output = check_config(folder.path(), &config);
        match output.status.code() {
            Some(0) => assert_eq!(output.stdout, b"portcullis.toml: ok\n"),
            // A policy by another name is not there.
            Some(1) => assert!(output.stdout.is_empty(), "{shown}"),
            _ => {
                refused += 1;
                let error = assert_one_error(&output, &shown);
                assert!(error.contains("portcullis.toml"), "{error}\n{shown}");
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn garbage_is_no_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let enormous = format!("hostname = \"{}\"\n", "x".repeat(20_000_000));
    let fixed = [
        Vec::new(),
        vec![0; 1000],
        b"\xff\xfe".to_vec(),
        format!("a = {}", "[".repeat(100_000)).into_bytes(),
        format!("a = {}", "{a=".repeat(100_000)).into_bytes(),
        format!("{} = 1", vec!["a"; 100_000].join(".")).into_bytes(),
        format!("[{}]", vec!["a"; 100_000].join(".")).into_bytes(),
        format!("hostname = {}", "9".repeat(100_000)).into_bytes(),
        enormous.into_bytes(),
    ];
    for config in fixed
        .into_iter()
        .chain(samples(vec(any::<u8>(), 1..300), 50))
    {
        let shown: String = String::from_utf8_lossy(&config).chars().take(100).collect();
        let error = assert_one_error(&check_config(folder.path(), &config), &shown);
        assert!(error.contains("portcullis.toml"), "{error}");
    }
}
