//! What a server remembers of its mail: decisions one by one, what a change would have done, what is suggested.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use portcullis_tests::admin::remembered;
use portcullis_tests::metrics::{self, METRICS};
use portcullis_tests::{Client, Config, Listener, Pki, TestBed};
use serde_json::Value;

const RULES: &str = r#"{"accepted-domains": ["contoso.com"], "connectors": [
    {"name": "Bank", "direction": "inbound", "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}},
    {"name": "Trial", "direction": "inbound", "mode": "audit", "from": {"sender-domains": ["trial.test"]},
     "require": {"tls": true}}]}"#;

fn config() -> Config {
    Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", RULES)
}

/// Sends a message; gives the code and text of the last reply.
fn send(bed: &TestBed, from: &str) -> String {
    let mut client = Client::greeted(bed.address());
    client.hello(false, None);
    let reply = match client.envelope(from, "bob@contoso.com") {
        rcpt if rcpt.code == 250 => client.data("Subject: x\r\n\r\nx"),
        rcpt => rcpt,
    };
    client.quit();
    format!("{} {}", reply.code, reply.text())
}

fn told(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// The decisions that are remembered once there are so many of them.
fn decisions(bed: &TestBed, options: &[&str], number: usize) -> Vec<Value> {
    let until = std::time::Instant::now() + portcullis_tests::daemon::TIMEOUT;
    loop {
        let output = remembered(bed, &[&["decisions", "--format", "json"], options].concat());
        let text = told(&output);
        let found: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        if found.len() >= number || std::time::Instant::now() > until {
            assert_eq!(found.len(), number, "{text}");
            return found;
        }
        // They are kept a second later, and nobody tells of that.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn database(bed: &TestBed) -> PathBuf {
    let folder = bed.folder().join("state/portcullis");
    let files = fs::read_dir(&folder).expect("the state folder");
    let mut found = files.filter_map(|file| {
        let path = file.ok()?.path();
        path.extension()
            .is_some_and(|it| it == "sqlite")
            .then_some(path)
    });
    found.next().expect("a file of decisions")
}

#[test]
fn decisions_are_found_again_by_what_the_sender_was_told() {
    let mut bed = TestBed::start(config());
    let refused = send(&bed, "alice@bank.test");
    assert!(refused.starts_with("550"), "{refused}");
    send(&bed, "alice@trial.test");
    send(&bed, "carol@other.test");
    let all = decisions(&bed, &[], 3);
    let verdicts: Vec<&str> = all
        .iter()
        .filter_map(|it| it["verdict"]["verdict"].as_str())
        .collect();
    assert_eq!(verdicts, ["reject", "accept", "accept"]);
    // The id in the reply finds it, also after a power cut.
    let id = all[0]["transaction"].as_str().expect("an id").to_owned();
    assert!(refused.contains(&id), "{refused}: {id}");
    bed.restart();
    let found = decisions(&bed, &["--search", &id], 1);
    assert_eq!(found[0]["context"]["mail-from"], "alice@bank.test");
    assert_eq!(found[0]["context"]["client-ip"], "127.0.0.1");
    assert_eq!(found[0]["verdict"]["connector"], "Bank");
    for (options, number) in [
        (&["--connector", "Bank"][..], 1),
        (&["--connector", "Trial"], 1),
        (&["--verdict", "audit"], 1),
        (&["--verdict", "accept"], 2),
        (&["--verdict", "accept", "--limit", "1"], 1),
        (&["--search", "OTHER.test"], 1),
        (&["--connector", "nobody's"], 0),
    ] {
        decisions(&bed, options, number);
    }
    let text = told(&remembered(&bed, &["decisions", "--connector", "Bank"]));
    assert!(
        text.contains("reject   <alice@bank.test> to <bob@contoso.com>  127.0.0.1  Bank (tls)"),
        "{text}"
    );
}

#[test]
fn no_more_is_remembered_of_people_than_the_log_tells() {
    let config = config().with("[log]\nmailboxes = \"domain\"\nclients = \"network\"");
    let bed = TestBed::start(config);
    send(&bed, "alice@trial.test");
    let found = decisions(&bed, &[], 1);
    assert_eq!(found[0]["context"]["mail-from"], "*@trial.test");
    assert_eq!(found[0]["client"], "127.0.0.0/24");
    let text = bed.log().join("\n");
    assert!(!text.contains("alice"), "{text}");
    drop(found);
    let kept = ["", "-wal"].map(|end| {
        let mut path = database(&bed).into_os_string();
        path.push(end);
        fs::read(path).unwrap_or_default()
    });
    for bytes in kept {
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!has(b"alice") && !has(b"127.0.0.1"));
    }
}

#[test]
fn a_change_is_tried_on_the_mail_that_came() {
    let bed = TestBed::start(config());
    for _ in 0..3 {
        assert!(send(&bed, "alice@trial.test").starts_with("250"));
    }
    send(&bed, "carol@other.test");
    decisions(&bed, &[], 4);
    let rules = bed.folder().join("contoso.json");
    let rules = rules.to_string_lossy();
    let output = remembered(&bed, &["enforce", &rules, "Trial", "--yes"]);
    told(&output);
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(shown.contains("3 of 4 messages since 20"), "{shown}");
    assert!(shown.contains("would be refused, and were accepted:\n  <alice@trial.test> to <bob@contoso.com>: Trial (tls)"), "{shown}");
}

#[test]
fn partners_that_encrypt_are_suggested_and_connectors_that_refuse_nothing() {
    let pki = Pki::new();
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .certificate(&pki)
        .trust(&pki)
        .tenant("contoso.com", RULES);
    let bed = TestBed::start(config);
    let identity = pki.trusted(&["mail.partner.test"]);
    for from in ["a@partner.test", "a@trial.test"] {
        for _ in 0..2 {
            let mut client = Client::greeted(bed.address());
            client.hello(true, Some(&identity));
            assert_eq!(client.envelope(from, "bob@contoso.com").code, 250);
            client.data("Subject: x\r\n\r\nx");
            client.quit();
        }
    }
    decisions(&bed, &[], 4);
    let few = &["suggest", "--messages", "2", "--days", "0"];
    let text = told(&remembered(&bed, few));
    assert!(
        text.contains(
            "Trial could be enforced: it would have refused nothing, and 2 messages since 20"
        ),
        "{text}"
    );
    let command = "portcullis add ";
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with(command));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(
        line.contains("--certificate-name 'mail.partner.test'")
            || line.contains("--certificate-name mail.partner.test"),
        "{line}"
    );
    assert!(line.contains("--mode audit"), "{line}");
    // By itself, it needs more mail than that.
    let text = told(&remembered(&bed, &["suggest"]));
    assert_eq!(text, "nothing needs attention, and nothing is suggested\n");
}

#[test]
fn mail_flows_whatever_becomes_of_the_file() {
    let mut bed = TestBed::start(config().with(METRICS));
    send(&bed, "carol@other.test");
    decisions(&bed, &[], 1);
    // A file that is damaged is put aside.
    let path = database(&bed);
    let folder = path.parent().expect("a folder").to_owned();
    bed.signal("KILL");
    bed.wait();
    fs::write(
        &path,
        "this is no database, and has not been one for a long time".repeat(100),
    )
    .expect("a file");
    for end in ["-wal", "-shm"] {
        let mut other = path.clone().into_os_string();
        other.push(end);
        let _ = fs::remove_file(other);
    }
    bed.restart();
    bed.wait_for_log("remembered decisions cannot be read; they are put aside");
    assert!(send(&bed, "carol@other.test").starts_with("250"));
    decisions(&bed, &[], 1);
    assert!(
        fs::read_dir(&folder)
            .expect("a folder")
            .filter_map(Result::ok)
            .any(|file| { file.file_name().to_string_lossy().ends_with(".damaged") })
    );
    assert_eq!(
        metrics::value(&bed, "portcullis_decisions_lost_total "),
        Some(0)
    );
}

#[test]
fn nothing_is_remembered_where_that_is_said() {
    let bed = TestBed::start(config().with("[decisions]\nkeep = 0"));
    assert!(send(&bed, "carol@other.test").starts_with("250"));
    let output = remembered(&bed, &["decisions"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("nothing is remembered"), "{errors}");
}
