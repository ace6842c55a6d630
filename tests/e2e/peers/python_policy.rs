//! The example in Python of docs/policies.md: made by the commands that stand there, it does what it says.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use portcullis_tests::machine::free_address;
use portcullis_tests::programs::unpacked;
use portcullis_tests::{Behaviour, Client, Config, Dns, Listener, MockServer, Pki, TestBed, run};
use serde_json::{Value, json};
use tempfile::TempDir;

const DOCUMENT: &str = include_str!("../../../docs/policies.md");

/// The program of the document.
fn program() -> &'static str {
    let mut blocks = DOCUMENT.split("```python\n").skip(1);
    let block = blocks.next().expect("a block of Python");
    assert!(blocks.next().is_none(), "more than one block of Python");
    let (program, _) = block.split_once("```").expect("its end");
    // The commands want it by this name.
    assert!(program.starts_with("# app.py\n"), "{program}");
    program
}

/// The two commands of the document that make a component of it.
fn commands() -> [&'static str; 2] {
    let mut paragraphs = DOCUMENT.split("\n\n");
    let block =
        paragraphs.find(|paragraph| paragraph.starts_with("    pip install componentize-py"));
    let lines = block.expect("the commands").lines().map(str::trim_start);
    let lines: Vec<&str> = lines.collect();
    lines.try_into().expect("two commands")
}

/// Runs a command of the document in a folder, with the tools that setup.sh has installed. These are not
/// installed here: other tests run, and there may be no network.
fn shell(folder: &Path, command: &str) {
    let tool = unpacked("componentize-py", "componentize-py/bin/componentize-py");
    let tools = tool.parent().expect("a folder of tools");
    let path = std::env::var("PATH").expect("a PATH");
    let output = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", tools.display()))
        .env("PIP_NO_INDEX", "1")
        .output()
        .expect("sh can be run");
    assert!(
        output.status.success(),
        "{command} (`make setup-tests` installs what it needs):\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The component, made once. The program has compiled it into the tests' cache, which takes longer than a
/// daemon is waited for.
fn component() -> &'static [u8] {
    static COMPONENT: OnceLock<Vec<u8>> = OnceLock::new();
    COMPONENT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let interface = concat!(env!("CARGO_MANIFEST_DIR"), "/../wit");
        std::os::unix::fs::symlink(interface, folder.path().join("wit")).expect("a link");
        fs::write(folder.path().join("app.py"), program()).expect("a file");
        for command in commands() {
            shell(folder.path(), command);
        }
        let policy = folder.path().join("policy.wasm");
        succeed(&["list", policy.to_str().expect("a path")], b"");
        fs::read(policy).expect("the component")
    })
}

/// A folder with the component.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("policy.wasm"), component()).expect("a file");
    folder
}

/// Runs the program to its end, which is a good one; gives what it wrote.
fn succeed(arguments: &[&str], input: &[u8]) -> String {
    let output = run(arguments, input);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What it says of mail: the direction, the sender, and the verdict.
fn verdicts() -> [(&'static str, &'static str, Value); 4] {
    let rejected = json!({"verdict": "reject", "failed": "blocked", "code": 550,
        "enhanced": "5.7.1", "text": "not from there"});
    let accepted = json!({"verdict": "accept", "connectors": [], "audit": []});
    let delivered = json!({"verdict": "deliver", "route": "mx",
        "tls": {"level": "opportunistic"}, "audit": []});
    [
        ("inbound", "a@blocked.example", rejected.clone()),
        ("inbound", "a@partner.test", accepted),
        ("outbound", "a@blocked.example", rejected),
        ("outbound", "alice@contoso.com", delivered),
    ]
}

#[test]
fn evaluate_tells_its_verdicts() {
    let folder = folder();
    let policy = folder.path().join("policy.wasm");
    let policy = policy.to_str().expect("a path");
    let contexts = verdicts().map(|(direction, from, _)| {
        json!({"direction": direction, "client-ip": "192.0.2.1", "mail-from": from,
            "rcpt-to": "bob@contoso.com"})
        .to_string()
    });
    // How busy the machine is does not matter.
    let arguments = ["evaluate", "--time-limit", "10000", policy];
    let told = succeed(&arguments, contexts.join("\n").as_bytes());
    let told = told
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let told: Vec<Value> = told.collect();
    let expected = verdicts().map(|(.., verdict)| verdict);
    assert_eq!(told, expected);
}

#[test]
fn explain_tells_its_verdicts() {
    let folder = folder();
    let policy = folder.path().join("policy.wasm");
    let policy = policy.to_str().expect("a path");
    for (direction, from, verdict) in verdicts() {
        let direction = format!("--{direction}");
        let message = [&direction, "--from", from, "--to", "bob@contoso.com"];
        let told = succeed(&[&["explain", policy], &message[..]].concat(), b"");
        let expected = match verdict["verdict"].as_str() {
            Some("reject") => "rejected: 550 5.7.1 not from there (failed: blocked)",
            Some("accept") => "accepted",
            _ => "delivered by MX, with TLS if it is offered",
        };
        assert!(told.lines().any(|line| line == expected), "{told}");
        let json = [&["explain", policy, "--format", "json"], &message[..]].concat();
        let told: Value = serde_json::from_str(&succeed(&json, b"")).expect("JSON");
        assert_eq!(told["verdict"], verdict);
    }
}

/// A daemon with the policy, which takes mail and sends it, and a partner.
struct Setting {
    daemon: TestBed,
    bank: MockServer,
    _dns: Dns,
}

fn start() -> Setting {
    let pki = Pki::new();
    let dns = Dns::start(&["bank.test. MX 10 mx.bank.test.\nmx.bank.test. A 127.0.0.2"]);
    let port = free_address().port();
    let bank = SocketAddr::from(([127, 0, 0, 2], port));
    let bank = MockServer::start_at(bank, Behaviour::with(&Pki::self_signed(&["mx.bank.test"])));
    let config = Config::new()
        .listener(Listener::maildir())
        .listener(Listener::outbound("clients = [\"127.0.0.1\"]"))
        .tenant_with("contoso", &["contoso.com"], "policy.wasm")
        .file("policy.wasm", component())
        .trust(&pki)
        .dns(&dns)
        .partners_here(port)
        // How busy the machine is does not matter.
        .with("[sandbox]\nevaluation = \"10s\"");
    let daemon = TestBed::start(config);
    daemon.wait_for_log("policy loaded tenant=contoso");
    Setting {
        daemon,
        bank,
        _dns: dns,
    }
}

/// The policy refuses this sender in its own words.
fn assert_blocked(client: &mut Client, to: &str) {
    let refused = client.envelope("a@blocked.example", to);
    assert_eq!(refused.code, 550, "{refused:?}");
    assert!(
        refused.text().starts_with("5.7.1 not from there ["),
        "{refused:?}"
    );
    client.expect("RSET", 250);
}

#[test]
fn mail_is_taken_and_refused_by_it() {
    let setting = start();
    let mut client = setting.daemon.client();
    assert_blocked(&mut client, "bob@contoso.com");
    let taken = client.envelope("a@partner.test", "bob@contoso.com");
    assert_eq!(taken.code, 250, "{taken:?}");
    assert_eq!(client.data("Subject: x\r\n\r\nHello.").code, 250);
    client.quit();
    let mail = setting.daemon.maildir("mail");
    assert_eq!(mail.len(), 1, "{mail:#?}");
    assert!(
        mail[0].starts_with("Return-Path: <a@partner.test>\n"),
        "{mail:#?}"
    );
}

#[test]
fn mail_is_sent_and_kept_back_by_it() {
    let setting = start();
    let mut client = setting.daemon.client_of(1);
    assert_blocked(&mut client, "c@bank.test");
    let taken = client.envelope("alice@contoso.com", "c@bank.test");
    assert_eq!(taken.code, 250, "{taken:?}");
    let reply = client.data("Subject: x\r\n\r\nHello.");
    assert_eq!(reply.code, 250, "{reply:?}");
    client.quit();
    setting.daemon.wait_for_log("decision verdict=\"deliver\"");
    let taken = setting.bank.taken();
    assert_eq!(taken.len(), 1, "{taken:#?}");
    assert_eq!(taken[0].recipients, ["<c@bank.test>"]);
    // With TLS, as it is offered, though nobody vouches for the certificate.
    assert!(taken[0].tls);
}
