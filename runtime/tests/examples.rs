//! The programs in `examples/` do what they say.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests end where something is not as expected"
)]

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// An example, which cargo has built beside this test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    let folder = test.ancestors().nth(2).expect("a target folder");
    let program = folder.join("examples").join(name);
    assert!(
        program.is_file(),
        "{} is missing: cargo builds it with all tests of the package",
        program.display()
    );
    Command::new(program)
}

/// A folder with files in it.
fn folder(files: &[(&str, Value)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, rules) in files {
        write(&folder.path().join(name), rules);
    }
    folder
}

fn write(path: &Path, rules: &Value) {
    fs::write(path, rules.to_string()).expect("a file");
}

/// Rules that refuse mail of the bank in plaintext.
fn strict() -> Value {
    json!({"connectors": [{"name": "Contoso Bank", "direction": "inbound",
        "from": {"sender-domains": ["contosobank.com"]}, "require": {"tls": true}}]})
}

fn lenient() -> Value {
    json!({"connectors": []})
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the example runs")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

fn check_mail(policy: &Path, from: &str) -> Output {
    let mut command = example("check_mail");
    command
        .arg(policy)
        .args([from, "bob@contoso.com", "203.0.113.7"]);
    output(&mut command)
}

#[test]
fn check_mail_gives_the_reply() {
    let folder = folder(&[("rules.json", strict())]);
    let policy = folder.path().join("rules.json");
    let accepted = check_mail(&policy, "alice@example.org");
    assert_eq!(text(&accepted.stdout), "250 2.1.5 ok\n", "{accepted:?}");
    let refused = check_mail(&policy, "alice@contosobank.com");
    assert!(
        text(&refused.stdout)
            .starts_with("550 5.7.1 refused by connector \"Contoso Bank\" (tls): "),
        "{refused:?}"
    );
    assert!(accepted.status.success() && refused.status.success());
}

#[test]
fn check_mail_says_where_a_document_is_wrong_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let policy = folder.path().join("rules.json");
    let rules = r#"{"connectors": [{
  "name": "Contoso Bank",
  "direction": "inbound",
  "from": {"sender-domain": ["contosobank.com"]},
  "require": {"tls": true}
}]}
"#;
    fs::write(&policy, rules).expect("a file");
    let output = check_mail(&policy, "alice@contosobank.com");
    assert!(!output.status.success());
    assert_eq!(text(&output.stdout), "");
    let place = format!("{}:4:12", policy.display());
    assert_eq!(
        text(&output.stderr),
        format!("{place}: unknown field \"sender-domain\"\n  did you mean \"sender-domains\"?\n")
    );
}

#[test]
fn check_mail_names_a_file_that_is_no_policy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let expected = [
        ("absent.json", None, "it cannot be read: "),
        ("broken.wasm", Some(&b"\0asm"[..]), "policy "),
        (
            "rules.txt",
            Some(b"{}"),
            "a policy is a .json or a .wasm file",
        ),
    ];
    for (name, contents, reason) in expected {
        let policy = folder.path().join(name);
        if let Some(contents) = contents {
            fs::write(&policy, contents).expect("a file");
        }
        let output = check_mail(&policy, "alice@contosobank.com");
        assert!(!output.status.success(), "{output:?}");
        let begin = format!("{}: {reason}", policy.display());
        assert!(text(&output.stderr).starts_with(&begin), "{output:?}");
    }
}

/// The program with many tenants, while it runs.
struct Tenants {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Tenants {
    fn line(&mut self) -> String {
        self.lines.next().expect("a line").expect("UTF-8")
    }

    fn ask_again(&mut self) {
        writeln!(self.stdin).expect("it reads on");
        let changed = self.line();
        assert!(changed.ends_with(" policies have changed"), "{changed}");
    }

    /// A policy that takes long to load becomes active later.
    fn wait_for(&mut self, expected: [&str; 2]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let verdicts = [self.line(), self.line()];
            if verdicts == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{verdicts:?}");
            self.ask_again();
        }
    }
}

#[test]
fn many_tenants_reloads_what_has_changed() {
    let folder = folder(&[
        ("contoso.com.json", strict()),
        ("fabrikam.com.json", lenient()),
    ]);
    let mut child = example("many_tenants")
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example runs");
    let stdin = child.stdin.take().expect("its input");
    let stdout = child.stdout.take().expect("its output");
    let mut program = Tenants {
        stdin,
        lines: BufReader::new(stdout).lines(),
    };
    let fabrikam = folder.path().join("fabrikam.com.json");
    program.wait_for(["contoso.com: reject", "fabrikam.com: accept"]);
    write(&fabrikam, &strict());
    program.ask_again();
    program.wait_for(["contoso.com: reject", "fabrikam.com: reject"]);
    // A file that is not accepted leaves its tenant with the policy that it had.
    fs::write(folder.path().join("contoso.com.json"), "{").expect("a file");
    write(&fabrikam, &lenient());
    program.ask_again();
    program.wait_for(["contoso.com: reject", "fabrikam.com: accept"]);
    drop(program);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn observer_hears_warnings() {
    let mut rules = strict();
    let needless = json!({"name": "Nothing", "direction": "inbound",
        "from": {"sender-domains": ["nothing.example"]}});
    rules["connectors"]
        .as_array_mut()
        .expect("a list")
        .push(needless);
    let folder = folder(&[("rules.json", rules)]);
    let policy = folder.path().join("rules.json");
    let output = output(example("observer").arg(&policy));
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    let [warning, verdict, failures] = &lines[..] else {
        panic!("{output:?}")
    };
    let expected = r#":1: "Nothing" requires nothing, so it refuses nothing"#;
    assert_eq!(*warning, format!("{}{expected}", policy.display()));
    // Whether the session is encrypted is unknown.
    let verdict: Value = serde_json::from_str(verdict).expect("JSON");
    assert_eq!(verdict["verdict"], "defer");
    assert_eq!(verdict["failed"], "fact-unavailable");
    assert_eq!(*failures, "0 failures");
}
