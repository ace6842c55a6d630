//! Connectors are added, changed and removed by the command line: where they stand, checked, with a history.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread;
use std::time::Instant;

use portcullis_tests::daemon::{portcullis, run};
use portcullis_tests::{Config, Listener, Pki, TestBed};
use serde_json::{Value, json};

const EMPTY: &str = "{\n  \"accepted-domains\": [\"contoso.com\"],\n  \"connectors\": []\n}\n";

/// A rules document in a folder of its own.
struct Rules {
    folder: tempfile::TempDir,
}

impl Rules {
    fn new(text: &str) -> Rules {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("rules.json"), text).expect("a file");
        Rules { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("rules.json")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("the document")
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text()).expect("JSON")
    }

    fn run(&self, command: &str, arguments: &[&str], answers: &str) -> Output {
        let path = self.path();
        let path = path.to_string_lossy();
        run(&[&[command, &path], arguments].concat(), answers.as_bytes())
    }

    /// Runs a command that saves.
    fn saved(&self, command: &str, arguments: &[&str]) {
        let output = self.run(command, &[arguments, &["--yes"]].concat(), "");
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    }

    /// Runs a command that saves nothing, and gives what it says.
    fn refused(&self, command: &str, arguments: &[&str], code: i32) -> String {
        let before = self.text();
        let output = self.run(command, arguments, "");
        assert_eq!(output.status.code(), Some(code), "{}", errors(&output));
        assert_eq!(self.text(), before);
        errors(&output)
    }

    fn versions(&self) -> Vec<Value> {
        let output = self.run("history", &["--format", "json"], "");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn names(&self) -> Vec<String> {
        let document = self.json();
        let connectors = document["connectors"].as_array().expect("a list");
        let name = |connector: &Value| connector["name"].as_str().expect("a name").to_owned();
        connectors.iter().map(name).collect()
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn content(rules: &Path, version: &Value) -> String {
    let digest = version["digest"].as_str().expect("a digest");
    let folder = rules.with_file_name("rules.json.history");
    fs::read_to_string(folder.join(format!("{digest}.json"))).expect("the content")
}

/// What a person answers, what comes of it, and the same by the command that is printed.
#[test]
fn the_wizard_makes_what_its_command_makes() {
    let cases: [(&str, Value); 8] = [
        (
            "inbound\nBank\n\nenforce\n*.contosobank.com\n\nyes\n\n\n\n\nyes\n",
            json!({"name": "Bank", "direction": "inbound", "from": {"sender-domains": ["*.contosobank.com"]},
                "require": {"tls": true}}),
        ),
        (
            "\nFabrikam\nshows its certificate\nenforce\n*.fabrikam.com\n\n\nTLSv1.3\n*.fabrikam.com\n\nsee https://contoso.com\ny\n",
            json!({"name": "Fabrikam", "comment": "shows its certificate", "direction": "inbound",
                "from": {"sender-domains": ["*.fabrikam.com"]},
                "require": {"tls": {"min-version": "TLSv1.3"}, "certificate-names": ["*.fabrikam.com"]},
                "reply": {"text": "see https://contoso.com"}}),
        ),
        (
            "inbound\nAdatum\n\nenforce\nadatum.com\n\nno\n\n203.0.113.0/24, 2001:db8:7::/48\n\ny\n",
            json!({"name": "Adatum", "direction": "inbound", "from": {"sender-domains": ["adatum.com"]},
                "require": {"source-ips": ["203.0.113.0/24", "2001:db8:7::/48"]}}),
        ),
        (
            "inbound\nFilter\n\n\n*\ncontoso.com\nno\n\n198.51.100.0/24\n\ny\n",
            json!({"name": "Filter", "direction": "inbound", "mode": "audit",
                "from": {"sender-domains": ["*"], "recipient-domains": ["contoso.com"]},
                "require": {"source-ips": ["198.51.100.0/24"]}}),
        ),
        (
            "inbound\nServers\n\ndisabled\n\n192.0.2.0/24\n\nyes\n\n\n\ny\n",
            json!({"name": "Servers", "direction": "inbound", "enabled": false,
                "from": {"sender-ips": ["192.0.2.0/24"]}, "require": {"tls": true}}),
        ),
        (
            "outbound\nTo Bank\n\nenforce\n*.contosobank.com\n\nname\n*.contosobank.com\n\n\n\ny\n",
            json!({"name": "To Bank", "direction": "outbound", "to": {"recipient-domains": ["*.contosobank.com"]},
                "tls": {"level": "name", "names": ["*.contosobank.com"]},
                "dane": "opportunistic", "mta-sts": "opportunistic"}),
        ),
        (
            "outbound\nTo all\n\nenforce\n*\nmx.fabrikam.com, [203.0.113.9]:26\nopportunistic\nnone\nnone\ny\n",
            json!({"name": "To all", "direction": "outbound", "to": {"recipient-domains": ["*"]},
                "route": {"smart-hosts": ["mx.fabrikam.com", "[203.0.113.9]:26"]},
                "tls": {"level": "opportunistic"}, "dane": "none", "mta-sts": "none"}),
        ),
        (
            "outbound\nVerified\n\naudit\na.test\n\nverify\nTLSv1.3\n\n\ny\n",
            json!({"name": "Verified", "direction": "outbound", "mode": "audit", "to": {"recipient-domains": ["a.test"]},
                "tls": {"level": "verify", "min-version": "TLSv1.3"},
                "dane": "opportunistic", "mta-sts": "opportunistic"}),
        ),
    ];
    for (answers, expected) in cases {
        let rules = Rules::new(EMPTY);
        let output = rules.run("add", &[], answers);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{answers}: {}",
            errors(&output)
        );
        assert_eq!(rules.json()["connectors"], json!([expected]), "{answers}");
        let said = errors(&output);
        let command = said
            .lines()
            .find_map(|line| line.split_once("portcullis add "))
            .expect("the command");
        let again = Rules::new(EMPTY);
        let path = |rules: &Rules| rules.path().to_string_lossy().into_owned();
        let line = command.1.replace(&path(&rules), &path(&again));
        let shell = std::process::Command::new("sh")
            .args(["-c", &format!("exec \"$0\" add {line}")])
            .arg(portcullis_tests::daemon::binary())
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        assert_eq!(shell.status.code(), Some(0), "{line}: {}", errors(&shell));
        assert_eq!(again.text(), rules.text(), "{line}");
    }
}

/// An answer that the evaluator does not take is asked for again at once.
#[test]
fn answers_are_checked_one_by_one() {
    let bank = json!({"connectors": [{"name": "Bank", "direction": "inbound",
        "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}}]});
    let rules = Rules::new(&bank.to_string());
    let answers = "inbound\nBank\nOther\n\nsometimes\nenforce\nbank..test\nbank.test\nother.test\n\n\nTLSv9\n\n\n1.2.3\n\n\ny\n";
    let output = rules.run("add", &[], answers);
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for problem in [
        "the name \"Bank\" is taken",
        "\"sometimes\"",
        "\"bank..test\"",
        "\"Other\" and \"Bank\" are for the same mail",
        "\"TLSv9\"",
        "\"1.2.3\" is not an IP address",
    ] {
        assert!(said.contains(problem), "{problem}: {said}");
    }
    assert_eq!(rules.names(), ["Bank", "Other"]);
    // Whoever gives up changes nothing.
    let given_up = rules.refused("add", &[], 2);
    assert!(given_up.contains("nothing is changed"), "{given_up}");
    let output = rules.run("remove", &["Other"], "no\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(rules.names(), ["Bank", "Other"]);
}

#[test]
fn what_is_not_concerned_stays_as_it_was_written() {
    let text = include_str!("../../../examples/rules.json");
    let rules = Rules::new(text);
    rules.saved(
        "audit",
        &["Adatum from its own addresses", "To Contoso Bank"],
    );
    let mode = |name: &str| {
        let direction = text.find(name).expect("the connector");
        let line = text[direction..]
            .find("\"direction\"")
            .expect("its direction")
            + direction;
        line + text[line..].find('\n').expect("a line") + 1
    };
    let mut expected = text.to_owned();
    for name in ["To Contoso Bank", "Adatum from"] {
        expected.insert_str(mode(name), "      \"mode\": \"audit\",\n");
    }
    assert_eq!(rules.text(), expected);
    rules.saved(
        "enforce",
        &["Adatum from its own addresses", "To Contoso Bank"],
    );
    assert_eq!(rules.text(), text);
    rules.saved("remove", &["Fabrikam shows its certificate"]);
    assert_eq!(rules.names().len(), 5);
    rules.saved(
        "edit",
        &[
            "Adatum from its own addresses",
            "--source-ip",
            "127.0.0.3",
            "--comment",
            "",
        ],
    );
    assert_eq!(
        rules.json()["connectors"][1],
        json!({"name": "Adatum from its own addresses",
        "direction": "inbound", "from": {"sender-domains": ["adatum.com"]}, "require": {"source-ips": ["127.0.0.3"]}})
    );
    rules.saved("restore", &["1"]);
    assert_eq!(rules.text(), text);
    let refused = rules.refused("edit", &["adatum", "--mode", "audit", "--yes"], 2);
    assert!(
        refused.contains(
            "there is no connector \"adatum\"; there is \"Adatum from its own addresses\""
        ),
        "{refused}"
    );
    let refused = rules.refused(
        "edit",
        &["To Contoso Bank", "--level", "verify", "--yes"],
        1,
    );
    assert!(refused.contains("error[names-without-level]"), "{refused}");
    let refused = rules.refused(
        "edit",
        &["To Contoso Bank", "--source-ip", "192.0.2.1", "--yes"],
        2,
    );
    assert!(
        refused.contains("--source-ip is not for outbound connectors"),
        "{refused}"
    );
    let refused = rules.refused(
        "add",
        &[
            "--name", "x", "--from", "a.test", "--level", "verify", "--yes",
        ],
        2,
    );
    assert!(
        refused.contains("--from is for inbound connectors, and --level for outbound ones"),
        "{refused}"
    );
    let refused = rules.refused(
        "add",
        &[
            "--name", "x", "--from", "a.test", "--tls", "--yes", "--mode", "off",
        ],
        1,
    );
    assert!(refused.contains("error[unknown-value]"), "{refused}");
    // A document whose tests fail afterwards is not saved.
    let refused = rules.refused("remove", &["Contoso Bank is encrypted", "--yes"], 1);
    assert!(refused.contains("error[failed-test]"), "{refused}");
}

#[test]
fn every_version_can_be_seen_and_come_back() {
    let rules = Rules::new(EMPTY);
    let add = |name: &str| {
        let from = format!("{name}.test");
        rules.saved(
            "add",
            &[
                "--name",
                name,
                "--from",
                &from,
                "--tls",
                "--author",
                "alice",
                "-m",
                "agreed \u{1b}[31m\u{202e}",
            ],
        );
    };
    add("a");
    add("b");
    // Somebody uses an editor meanwhile.
    fs::write(rules.path(), rules.text().replace("a.test", "c.test")).expect("a file");
    rules.saved("remove", &["b"]);
    let versions = rules.versions();
    let told: Vec<(u64, &str, &str)> = versions
        .iter()
        .map(|version| {
            let text = |name: &str| version[name].as_str().expect("a text");
            (
                version["version"].as_u64().expect("a number"),
                text("author"),
                text("action"),
            )
        })
        .collect();
    assert_eq!(
        told[..4],
        [
            (1, "", "as it was found"),
            (2, "alice", "add \"a\""),
            (3, "alice", "add \"b\""),
            (4, "", "changed without portcullis"),
        ]
    );
    assert_eq!((told[4].0, told[4].2), (5, "remove \"b\""));
    assert_eq!(content(&rules.path(), &versions[0]), EMPTY);
    assert_eq!(content(&rules.path(), &versions[4]), rules.text());
    let table = String::from_utf8(rules.run("history", &[], "").stdout).expect("UTF-8");
    assert!(
        table.lines().count() == 5 && !table.contains(['\u{1b}', '\u{202e}']),
        "{table}"
    );
    let same = rules.run("diff", &["5"], "");
    assert_eq!((same.status.code(), same.stdout.len()), (Some(0), 0));
    let differs = rules.run("diff", &["1", "2"], "");
    assert_eq!(differs.status.code(), Some(1));
    let text = String::from_utf8(differs.stdout).expect("UTF-8");
    assert!(text.contains("\n+      \"name\": \"a\",\n"), "{text}");
    rules.saved("restore", &["3"]);
    assert_eq!(rules.names(), ["a", "b"]);
    let refused = rules.refused("restore", &["99", "--yes"], 2);
    assert!(refused.contains("has no version 99"), "{refused}");
    // What was damaged does not come back.
    let digest = versions[1]["digest"].as_str().expect("a digest");
    let kept = rules
        .path()
        .with_file_name("rules.json.history")
        .join(format!("{digest}.json"));
    fs::write(kept, EMPTY).expect("a file");
    let refused = rules.refused("restore", &["2", "--yes"], 2);
    assert!(
        refused.contains("it has been changed on the disk"),
        "{refused}"
    );
}

#[test]
fn the_effect_on_messages_of_before_is_shown() {
    let rules = Rules::new(EMPTY);
    let log = rules.path().with_file_name("log.jsonl");
    let context = |from: &str, tls: bool| {
        let mut context = json!({"direction": "inbound", "client-ip": "192.0.2.1", "mail-from": from,
            "rcpt-to": "b@contoso.com"});
        if tls {
            context["tls"] = json!({"version": "TLSv1.3"});
        }
        context
    };
    let lines = [
        context("a@bank.test", false).to_string(),
        json!({"time": "now", "context": context("c@bank.test", false)}).to_string(),
        context("a@bank.test", true).to_string(),
        context("a@other.test", false).to_string(),
        "{\"time\": \"now\"}".to_owned(),
        String::new(),
    ];
    fs::write(&log, lines.join("\n")).expect("a file");
    let log = log.to_string_lossy();
    let arguments = [
        "--name",
        "Bank",
        "--from",
        "bank.test",
        "--tls",
        "--log",
        &log,
        "--yes",
    ];
    let output = rules.run("add", &arguments, "");
    let said = errors(&output);
    let expected = "2 of 4 messages would be refused, and were accepted:
  <a@bank.test> to <b@contoso.com>: Bank (tls)
  <c@bank.test> to <b@contoso.com>: Bank (tls)
1 lines of the log have no context\n";
    assert!(said.contains(expected), "{said}");
    let said = errors(&rules.run("audit", &["Bank", "--log", &log, "--yes"], ""));
    assert!(
        said.contains("2 of 4 messages would be accepted, and were refused:"),
        "{said}"
    );
}

/// Each change is there as a whole or was refused, and the history has all of them.
#[test]
fn many_editors_lose_nothing() {
    const EDITORS: usize = 24;
    let rules = Rules::new(EMPTY);
    let outcomes: Vec<(String, Option<i32>, String)> = thread::scope(|scope| {
        let editing: Vec<_> = (0..EDITORS)
            .map(|number| {
                let rules = &rules;
                scope.spawn(move || {
                    let name = format!("c{number}");
                    let from = format!("{name}.test");
                    let output = rules.run(
                        "add",
                        &["--name", &name, "--from", &from, "--tls", "--yes"],
                        "",
                    );
                    (name, output.status.code(), errors(&output))
                })
            })
            .collect();
        editing
            .into_iter()
            .map(|editing| editing.join().expect("an editor"))
            .collect()
    });
    for (name, code, said) in &outcomes {
        assert!(
            *code == Some(0) || *code == Some(2) && said.contains("has been changed meanwhile"),
            "{name}: {said}"
        );
    }
    let saved: BTreeSet<String> = outcomes
        .iter()
        .filter(|(_, code, _)| *code == Some(0))
        .map(|(name, _, _)| name.clone())
        .collect();
    assert!(!saved.is_empty());
    assert_eq!(rules.names().into_iter().collect::<BTreeSet<_>>(), saved);
    let versions = rules.versions();
    assert_eq!(versions.len(), saved.len() + 1);
    for (number, version) in versions.iter().enumerate() {
        let text = content(&rules.path(), version);
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            document["connectors"].as_array().expect("a list").len(),
            number
        );
    }
}

/// Killed at any moment, a command leaves the old document or the new one, and whoever comes next can go on.
#[test]
fn a_save_that_is_killed_leaves_the_old_or_the_new() {
    let rules = Rules::new(EMPTY);
    let add = |name: &str| {
        let path = rules.path();
        let from = format!("{name}.test");
        let arguments = [
            "add",
            &path.to_string_lossy(),
            "--name",
            name,
            "--from",
            &from,
            "--tls",
            "--yes",
        ];
        let mut command = portcullis(&arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().expect("the program starts")
    };
    let begun = Instant::now();
    assert!(add("whole").wait().expect("it ends").success());
    let whole = begun.elapsed();
    let mut known = vec!["whole".to_owned()];
    let (mut killed, mut done) = (0, 0);
    for step in 0..60_u32 {
        let name = format!("c{step}");
        let mut child = add(&name);
        // The second half is the one in which it writes.
        thread::sleep(whole / 2 + whole * step / 100);
        let _ = child.kill();
        let ended = child.wait().expect("it ends").success();
        let names = rules.names();
        let mut with = known.clone();
        with.push(name);
        match names == with {
            true => {
                done += 1;
                known = with;
            }
            false => {
                assert!(!ended, "a save that was told is there");
                assert_eq!(names, known);
                killed += 1;
            }
        }
    }
    eprintln!("{killed} killed, {done} saved");
    rules.saved("remove", &["whole"]);
    for version in rules.versions() {
        let text = content(&rules.path(), &version);
        serde_json::from_str::<Value>(&text).expect("JSON");
    }
}

/// What was in force holds for the transactions that have begun, and what is saved for those after them.
#[test]
fn what_is_saved_holds_for_the_next_mail() {
    let pki = Pki::new();
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .certificate(&pki)
        .tenant("contoso.com", EMPTY);
    let bed = TestBed::start(config);
    let rules = bed.folder().join("contoso.json");
    let rules = rules.to_string_lossy();
    let mut client = bed.client();
    client.expect("MAIL FROM:<a@bank.test>", 250);
    let change = |arguments: &[&str]| {
        let before = bed.count_log("policy loaded");
        let output = run(arguments, b"");
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        bed.wait_for_log_times("policy loaded", before + 1);
    };
    change(&[
        "add",
        &rules,
        "--name",
        "Bank",
        "--from",
        "bank.test",
        "--tls",
        "--yes",
    ]);
    client.expect("RCPT TO:<b@contoso.com>", 250);
    client.expect("RSET", 250);
    client.expect("MAIL FROM:<a@bank.test>", 250);
    client.expect("RCPT TO:<b@contoso.com>", 550);
    change(&["audit", &rules, "Bank", "--yes"]);
    client.expect("RSET", 250);
    client.expect("MAIL FROM:<a@bank.test>", 250);
    client.expect("RCPT TO:<b@contoso.com>", 250);
}

/// What is no rules document, or cannot be one, is told of.
#[test]
fn what_cannot_be_changed_is_left_alone() {
    let rules = Rules::new("{\"connectors\": [}");
    let refused = rules.refused("add", &["--name", "x", "--yes"], 1);
    assert!(refused.contains("error[not-json]"), "{refused}");
    let refused = rules.refused("remove", &["x", "--yes"], 2);
    assert!(refused.contains("it is not a rules document"), "{refused}");
    let rules = Rules::new(EMPTY);
    let refused = rules.refused("add", &["--from", "x.test", "--tls", "--yes"], 1);
    assert!(refused.contains("error[missing-field]"), "{refused}");
    let refused = rules.refused("add", &["--name", "x", "--yes"], 2);
    assert!(refused.contains("--direction"), "{refused}");
    let missing = run(&["add", "/nonexistent/rules.json", "--yes"], b"");
    assert_eq!(missing.status.code(), Some(2));
    assert!(errors(&missing).contains("cannot read /nonexistent/rules.json"));
    let component = run(&["add", "policy.wasm", "--yes"], b"");
    assert!(errors(&component).contains("only a rules document (.json) can be changed"));
    // A log that is damaged is read as far as it can be.
    rules.saved("add", &["--name", "x", "--from", "x.test", "--tls"]);
    let log = rules
        .path()
        .with_file_name("rules.json.history")
        .join("log.jsonl");
    let mut text = fs::read(&log).expect("a log");
    text.extend_from_slice(b"{\"version\": 3, \"ti");
    fs::write(&log, text).expect("a log");
    assert_eq!(rules.versions().len(), 2);
    rules.saved("remove", &["x"]);
    let versions = rules.versions();
    assert_eq!(versions.last().expect("a version")["version"], 3);
    // Modes stay, and versions are no more readable than the document.
    use std::os::unix::fs::PermissionsExt;
    let private = Rules::new(EMPTY);
    fs::set_permissions(private.path(), fs::Permissions::from_mode(0o640)).expect("a mode");
    private.saved("add", &["--name", "x", "--from", "x.test", "--tls"]);
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&private.path()), 0o640);
    assert_eq!(
        mode(&private.path().with_file_name("rules.json.history")),
        0o750
    );
    // A link stays one.
    let link = private.path().with_file_name("link.json");
    std::os::unix::fs::symlink("rules.json", &link).expect("a link");
    let output = run(&["remove", &link.to_string_lossy(), "x", "--yes"], b"");
    assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
    assert!(link.is_symlink());
    assert_eq!(private.text(), EMPTY);
    // Whoever waits for an answer waits for no ever longer one.
    let endless = "x".repeat(1 << 20);
    let output = private.run("add", &[], &endless);
    assert_ne!(output.status.code(), Some(0));
}

/// What the manual shows is what is seen.
#[test]
fn the_manual_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    let bank = r#"{
  "accepted-domains": ["contoso.com"],
  "connectors": [
    {
      "name": "Contoso Bank",
      "direction": "inbound",
      "from": { "sender-domains": ["*.contosobank.com"] },
      "require": { "tls": true }
    }
  ]
}
"#;
    write("rules.json", bank);
    let message = |from: &str, tls: &str| {
        format!(
            "{{\"direction\": \"inbound\", \"mail-from\": \"{from}\", \"rcpt-to\": \"bob@contoso.com\"{tls}}}\n"
        )
    };
    let messages = [
        message("new@tailspin.com", ", \"tls\": {\"version\": \"TLSv1.3\"}"),
        message("old@mx2.tailspin.com", ""),
    ];
    write("messages.jsonl", &messages.concat());
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/administration.md");
    let text = fs::read_to_string(&manual).expect("the manual");
    let blocks = text.split("```\n").skip(1).step_by(2);
    for block in blocks.filter(|block| block.starts_with("$ portcullis ")) {
        let mut shown = String::new();
        for command in block.lines().filter_map(|line| line.strip_prefix("$ ")) {
            shown.push_str(&format!(
                "$ {command}\n{}",
                transcript(folder.path(), command)
            ));
        }
        assert_eq!(shown, block);
    }
}

/// What a command writes to a terminal, at a time and a place of the manual.
fn transcript(folder: &Path, command: &str) -> String {
    let program = portcullis(&[]);
    let mut shell = std::process::Command::new("sh");
    shell
        .args([
            "-c",
            &format!("portcullis() {{ \"$0\" \"$@\"; }}; {command} 2>&1"),
        ])
        .arg(program.get_program())
        .current_dir(folder);
    for (name, value) in program.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let output = shell.output().expect("a shell");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let folder = folder.canonicalize().expect("a folder");
    let text = text.replace(&format!("{}/", folder.display()), "");
    let line = |line: &str| match line.as_bytes().get(6..26) {
        Some([b'2', _, _, _, b'-', .., b'Z']) => {
            format!("{}2026-11-26T12:00:00Z{}", &line[..6], &line[26..])
        }
        _ => line.to_owned(),
    };
    text.lines().map(|text| line(text) + "\n").collect()
}
