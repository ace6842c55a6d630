//! The programs of docs/embedding.md: built outside this workspace, they answer SMTP by what a policy decides.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use portcullis_tests::Client;
use portcullis_tests::daemon::binary;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/embedding");

/// Builds the programs in a folder of their own, where the next build finds what this one has compiled; gives their
/// folder.
fn build() -> PathBuf {
    let target = binary().ancestors().nth(2).expect("a target folder");
    let target = target.join("embedding");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--target-dir"])
        .arg(&target)
        .current_dir(FOLDER)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "examples/embedding is built: {status}");
    target.join("debug")
}

/// The program, which ends with this.
struct Responder(Child);

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program and the line that it writes when it listens.
fn start(program: &Path, rules: &Path) -> (Responder, String) {
    let mut child = Command::new(program)
        .arg(rules)
        .arg("127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let stdout = child.stdout.take().expect("its output");
    let responder = Responder(child);
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    stdout.read_line(&mut line).expect("UTF-8");
    (responder, line)
}

#[test]
fn programs_outside_the_workspace_answer_by_a_policy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rules = folder.path().join("rules.json");
    let document = r#"{"connectors": [{"name": "Contoso Bank", "direction": "inbound",
        "from": {"sender-domains": ["contosobank.com"], "recipient-domains": ["contoso.com"]},
        "require": {"tls": true}}]}"#;
    fs::write(&rules, document).expect("a file");
    let programs = build();
    for name in ["embedding", "mailin-server"] {
        answers(&programs.join(name), &rules);
    }
}

fn answers(program: &Path, rules: &Path) {
    let (_responder, line) = start(program, rules);
    let address = line.trim_end().strip_prefix("listening on ");
    let address = address.unwrap_or_else(|| panic!("{line:?}"));

    let mut client = Client::greeted(address.parse().expect("an address"));
    client.expect("EHLO client.example", 250);
    client.expect("RCPT TO:<bob@contoso.com>", 503);
    client.expect("MAIL FROM:<alice@contosobank.com>", 250);
    let refused = client.command("RCPT TO:<bob@contoso.com>");
    assert_eq!(refused.code, 550, "{refused:?}");
    assert!(
        refused
            .text()
            .starts_with("5.7.1 refused by connector \"Contoso Bank\" (tls): "),
        "{refused:?}"
    );
    let accepted = client.command("RCPT TO:<bob@fabrikam.com>");
    assert_eq!(accepted.code, 250, "{accepted:?}");
    client.expect("QUIT", 221);
}
