//! Modules that misbehave: their own mail is deferred, and nobody else notices.

mod authoring;
mod deciding;
mod loading;
mod metrics;
mod neighbours;
mod starting;
mod verdicts;
mod wasi;

use std::path::Path;

use portcullis_tests::modules::{DATA, Module, data};
use portcullis_tests::{Client, Config, Daemon, Listener, Reply, TestBed, run};

const GOOD: &str = r#"{"connectors": [{"name": "Closed", "direction": "inbound",
    "from": {"sender-domains": ["*"], "recipient-domains": ["closed.good.test"]}, "require": {"tls": true}}]}"#;

const CONTEXT: &str = r#"{"direction":"inbound","client-ip":"192.0.2.1","mail-from":"alice@example.org","rcpt-to":"bob@bad.test"}"#;

const UNAVAILABLE: &str =
    "4.3.0 the policy for this recipient is not available now, try again later";

/// A tenant with this module, and one that behaves.
fn config(bad: &[u8]) -> Config {
    Config::new()
        .hostname("mx.example.net")
        .listener(Listener::maildir())
        .tenant_with("bad", &["bad.test"], "bad.wasm")
        .file("bad.wasm", bad)
        .tenant_with("good", &["*.good.test"], "good.json")
        .file("good.json", GOOD)
}

fn start(bad: &[u8]) -> TestBed {
    TestBed::start(config(bad))
}

/// The text of a reply of one line without the transaction's id.
fn without_id(reply: &Reply) -> &str {
    let [line] = &reply.lines[..] else {
        panic!("more than one line: {reply:?}");
    };
    // Code, space and CRLF are not in it.
    assert!(line.len() <= 512 - 6, "{} octets", line.len());
    assert!(
        line.bytes().all(|byte| matches!(byte, b' '..=b'~')),
        "{line:?}"
    );
    let (text, id) = line.rsplit_once(" [").expect("an id");
    let is_id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
    assert!(
        id.strip_suffix(']').is_some_and(|id| id.chars().all(is_id)),
        "{line:?}"
    );
    text
}

fn assert_unavailable(reply: &Reply) {
    assert_eq!((reply.code, without_id(reply)), (451, UNAVAILABLE));
}

/// Within a transaction: the neighbour's policy lets one recipient pass and refuses the other.
fn assert_good_is_served(client: &mut Client) {
    client.expect("RCPT TO:<bob@open.good.test>", 250);
    let refused = client.expect("RCPT TO:<bob@closed.good.test>", 550);
    let expected = r#"5.7.1 refused by connector "Closed" (tls): the session is not encrypted"#;
    assert_eq!(without_id(&refused), expected);
}

/// The reply to the bad tenant's recipient, in a session in which the neighbour is served before,
/// meanwhile and after, and so it is in another session.
fn reply_beside_a_good_neighbour(daemon: &Daemon) -> Reply {
    let mut other = daemon.client();
    other.expect("MAIL FROM:<carol@example.org>", 250);
    let mut client = daemon.client();
    client.expect("MAIL FROM:<alice@example.org>", 250);
    let first = client.command("RCPT TO:<bob@bad.test>");
    assert_good_is_served(&mut client);
    let again = client.command("RCPT TO:<bob@bad.test>");
    assert_eq!(
        (again.code, without_id(&again)),
        (first.code, without_id(&first))
    );
    assert_good_is_served(&mut other);
    assert_eq!(client.data("Subject: one\r\n\r\nHello.").code, 250);
    assert_eq!(other.data("Subject: two\r\n\r\nHello.").code, 250);
    // The session is in step: each command has its one reply.
    assert_eq!(
        client.envelope("alice@example.org", "bob@bad.test").code,
        first.code
    );
    client.expect("NOOP", 250);
    client.quit();
    other.quit();
    let recipients = daemon.maildir("mail").concat();
    assert_eq!(
        recipients.matches("Delivered-To: ").count(),
        2,
        "{recipients}"
    );
    assert_eq!(
        recipients
            .matches("Delivered-To: bob@open.good.test\n")
            .count(),
        2,
        "{recipients}"
    );
    first
}

/// What the command line says of a module: exit code, standard output, standard error.
fn evaluate(folder: &Path, contexts: &[&str]) -> (Option<i32>, String, String) {
    let policy = folder.join("bad.wasm");
    let output = run(
        &["evaluate", policy.to_str().expect("a path")],
        contexts.join("\n").as_bytes(),
    );
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The module loads, and each evaluation fails so.
fn assert_fails(module: &Module, failure: &str, message: &str) {
    let daemon = start(&module.component());
    daemon.wait_for_log("policy loaded tenant=bad");
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    for number in 1..=3 {
        let line = daemon.wait_for_log_times("policy failed", number);
        assert!(line.contains("tenant=bad transaction="), "{line}");
        assert!(line.contains(&format!(" failure=\"{failure}\" ")), "{line}");
        assert!(line.contains(message), "{line}");
    }

    let (code, stdout, stderr) = evaluate(daemon.folder(), &[CONTEXT, "no context", CONTEXT]);
    let lines: Vec<serde_json::Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [first, error, second] = &lines[..] else {
        panic!("not a line for each context: {stdout}");
    };
    for verdict in [first, second] {
        let expected = serde_json::json!({"verdict": "defer", "failed": "policy-unavailable", "code": 451,
            "enhanced": "4.3.0", "text": UNAVAILABLE.strip_prefix("4.3.0 ")});
        assert_eq!(*verdict, expected);
    }
    assert_eq!(error["line"], 2);
    assert_eq!(code, Some(1));
    assert_eq!(stderr.matches(message).count(), 2, "{stderr}");
}

/// The file does not become a policy, for this reason; a good one in its place does.
fn assert_not_taken(file: &[u8], reason: &str) {
    let daemon = start(file);
    let line = daemon.wait_for_log("new policy rejected");
    assert!(line.contains(reason), "{line}");
    assert!(
        line.contains("bad.wasm: ") && line.contains(r#"tenant="bad""#),
        "{line}"
    );
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    assert!(
        daemon
            .wait_for_log("policy failed")
            .contains(r#" failure="not-loaded" "#)
    );

    let (code, stdout, stderr) = evaluate(daemon.folder(), &[CONTEXT]);
    assert_eq!((code, &*stdout), (Some(2), ""), "{stderr}");
    assert!(stderr.contains(reason), "{stderr}");

    daemon.replace("bad.wasm", &accepting().component());
    daemon.wait_for_log("policy loaded tenant=bad");
    let mut client = daemon.client();
    assert_eq!(
        client.envelope("alice@example.org", "bob@bad.test").code,
        250
    );
}

fn accepting() -> Module {
    Module::new("(i32.const 0)")
}

/// A module that answers with these octets as its verdict.
fn answering(verdict: &[u8]) -> Module {
    Module::new(&format!("(i32.const {DATA})")).with(&data(DATA, verdict))
}
