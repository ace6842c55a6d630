//! Modules that misbehave: their own mail is deferred, and nobody else notices.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use portcullis_tests::hand_written::{Policy, refusal};
use portcullis_tests::{Client, Daemon, Reply, run};

const CONFIG: &str = r#"
hostname = "mx.example.net"
[[listener]]
address = "127.0.0.1:0"
next-hop = { maildir = "mail" }
[[tenant]]
name = "bad"
domains = ["bad.test"]
policy = "bad.wasm"
[[tenant]]
name = "good"
domains = ["good.test"]
policy = "good.json"
[metrics]
address = "127.0.0.1:0"
"#;

const GOOD: &str = r#"{"connectors": [{"name": "Bank", "direction": "inbound",
    "from": {"sender-domains": ["contosobank.com"]}, "require": {"tls": true}}]}"#;

fn start_with(config: &str, component: &[u8]) -> Daemon {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("bad.wasm"), component).expect("a file");
    fs::write(folder.path().join("good.json"), GOOD).expect("a file");
    Daemon::start_in(folder, config)
}

fn start(policy: &Policy) -> Daemon {
    start_with(CONFIG, &policy.component())
}

fn greeted(daemon: &Daemon) -> Client {
    let mut client = Client::greeted(daemon.address());
    client.expect("EHLO client.example", 250);
    client
}

fn assert_deferred(reply: &Reply) {
    assert_eq!(reply.code, 451, "{reply:?}");
    assert!(reply.text().starts_with("4.3.0 "), "{reply:?}");
}

/// The neighbour's mail is decided on as ever, in this session too.
fn assert_neighbour_is_served(client: &mut Client) {
    client.expect("RSET", 250);
    assert_eq!(
        client
            .envelope("alice@contosobank.com", "bob@good.test")
            .code,
        550
    );
    client.expect("RSET", 250);
    assert_eq!(
        client.envelope("carol@example.org", "bob@good.test").code,
        250
    );
    assert_eq!(client.data("Subject: hello\r\n\r\nHello.").code, 250);
}

/// Each recipient of the module's tenant is deferred, for this reason, and all else goes on.
fn assert_only_its_own_mail_is_deferred(policy: &Policy, failure: &str) {
    let daemon = start(policy);
    let mut client = greeted(&daemon);
    client.expect("MAIL FROM:<carol@example.org>", 250);
    for _ in 0..3 {
        assert_deferred(&client.command("RCPT TO:<bob@bad.test>"));
    }
    client.expect("RCPT TO:<bob@good.test>", 250);
    client.expect("DATA", 354);
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert_eq!(client.reply().code, 250);
    assert_neighbour_is_served(&mut client);
    client.quit();
    let line = daemon.wait_for_log_times("policy failed", 3);
    assert!(
        line.contains("tenant=bad") && line.contains(&format!("failure=\"{failure}\"")),
        "{line}"
    );
    assert_eq!(daemon.count_log("policy failed"), 3);
    assert_eq!(daemon.maildir("mail").len(), 2);
    let metrics = metrics(&daemon);
    let counted =
        format!("portcullis_policy_failures_total{{tenant=\"bad\",failure=\"{failure}\"}} 3");
    assert!(metrics.contains(&counted), "{metrics}");
}

fn metrics(daemon: &Daemon) -> String {
    use std::io::{Read, Write};
    let line = daemon.wait_for_log("showing metrics");
    let address = line
        .rsplit_once('=')
        .expect("an address")
        .1
        .trim()
        .to_owned();
    let mut stream = std::net::TcpStream::connect(address).expect("metrics are served");
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn a_trap() {
    let policy = Policy {
        evaluate: "unreachable",
        ..Policy::default()
    };
    assert_only_its_own_mail_is_deferred(&policy, "trap");
}

#[test]
fn an_endless_loop() {
    let policy = Policy {
        evaluate: "(loop (br 0)) unreachable",
        ..Policy::default()
    };
    assert_only_its_own_mail_is_deferred(&policy, "time-out");
}

#[test]
fn a_hunger_for_memory() {
    let policy = Policy {
        evaluate: "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable",
        ..Policy::default()
    };
    assert_only_its_own_mail_is_deferred(&policy, "out-of-memory");
}

#[test]
fn a_recursion_without_end() {
    let policy = Policy {
        fields: "(func $again (param i32) (result i32)
            (i32.add (i32.const 1) (call $again (i32.add (local.get 0) (i32.const 1)))))",
        evaluate: "(call $again (i32.const 0))",
        ..Policy::default()
    };
    assert_only_its_own_mail_is_deferred(&policy, "stack-overflow");
}

#[test]
fn an_answer_outside_of_its_memory() {
    let policy = Policy {
        evaluate: "i32.const -16",
        ..Policy::default()
    };
    assert_only_its_own_mail_is_deferred(&policy, "invalid");
}

#[test]
fn an_answer_that_is_no_verdict() {
    let policy = Policy {
        evaluate: "(i32.store8 (i32.const 2048) (i32.const 9)) i32.const 2048",
        ..Policy::default()
    };
    assert_only_its_own_mail_is_deferred(&policy, "invalid");
}

#[test]
fn an_answer_of_many_megabytes() {
    let text = refusal(550, (3000, 5), (0, 60 << 20));
    let policy = Policy {
        memory: "1000",
        fields: r#"(data (i32.const 3000) "5.7.1")"#,
        evaluate: &text,
        ..Policy::default()
    };
    assert_only_its_own_mail_is_deferred(&policy, "invalid");
}

#[test]
fn an_outbound_verdict_on_inbound_mail() {
    let policy = Policy {
        evaluate: "(i32.store8 (i32.const 2048) (i32.const 3)) i32.const 2048",
        ..Policy::default()
    };
    assert_only_its_own_mail_is_deferred(&policy, "invalid");
}

#[test]
fn words_that_would_break_a_reply() {
    let told = r"no\0d\0a250 2.0.0 fine\0d\0a.\00\1b[31m\e2\80\ae red\7f";
    let fields = format!(r#"(data (i32.const 3000) "9.9.9x") (data (i32.const 4000) "{told}")"#);
    for (code, enhanced, expected) in [
        (550, (3000, 5), "550 5.7.1 "),
        (250, (3000, 6), "550 5.7.1 "),
        (999, (3000, 0), "550 5.7.1 "),
        (0, (3000, 5), "550 5.7.1 "),
        (554, (3000, 5), "554 5.7.1 "),
    ] {
        let evaluate = refusal(code, enhanced, (4000, 37));
        let policy = Policy {
            fields: &fields,
            evaluate: &evaluate,
            ..Policy::default()
        };
        let daemon = start(&policy);
        let mut client = greeted(&daemon);
        let reply = client.envelope("carol@example.org", "bob@bad.test");
        assert_eq!(reply.lines.len(), 1, "{reply:?}");
        let line = format!("{} {}", reply.code, reply.lines[0]);
        assert!(
            line.starts_with(&format!("{expected}no  250 2.0.0 fine  .  ")),
            "{line}"
        );
        assert!(
            line.len() <= 510 && line.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{line}"
        );
        assert!(
            line.ends_with(".1]"),
            "the transaction's id is told: {line}"
        );
        // Nothing else came that could be taken for a reply.
        client.expect("NOOP", 250);
    }
}

#[test]
fn a_long_story_is_cut() {
    let evaluate = refusal(550, (3000, 5), (131_072, 1 << 20));
    let policy = Policy {
        memory: "40",
        fields: r#"(data (i32.const 3000) "5.7.1")
            (func $fill (memory.fill (i32.const 131072) (i32.const 65) (i32.const 1048576)))
            (start $fill)"#,
        evaluate: &evaluate,
        ..Policy::default()
    };
    let daemon = start(&policy);
    let mut client = greeted(&daemon);
    let reply = client.envelope("carol@example.org", "bob@bad.test");
    assert_eq!((reply.code, reply.lines.len()), (550, 1));
    assert!(reply.lines[0].len() <= 506, "{}", reply.lines[0].len());
    assert!(
        reply.lines[0].contains("AAAA") && reply.lines[0].ends_with(".1]"),
        "{reply:?}"
    );
}

/// A module that is not taken at all.
fn assert_not_loaded(component: &[u8], reason: &str) {
    let daemon = start_with(CONFIG, component);
    let line = daemon.wait_for_log("policy not taken");
    assert!(
        line.contains("tenant=\"bad\"") || line.contains("tenant=bad"),
        "{line}"
    );
    assert!(line.contains(reason), "{line}");
    let mut client = greeted(&daemon);
    assert_deferred(&client.envelope("carol@example.org", "bob@bad.test"));
    assert_neighbour_is_served(&mut client);
    let path = daemon.folder().join("bad.wasm");
    let output = run(&["evaluate", &path.to_string_lossy()], b"{}\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.starts_with("portcullis: policy ") && told.contains(reason),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_start_function_that_traps_or_loops() {
    for (body, reason) in [
        ("unreachable", "the module trapped"),
        ("(loop (br 0))", "did not answer within 50 ms"),
    ] {
        let policy = Policy {
            fields: &format!("(func $start {body}) (start $start)"),
            ..Policy::default()
        };
        assert_not_loaded(&policy.component(), reason);
    }
}

#[test]
fn a_description_that_traps() {
    let policy = Policy {
        describe: "unreachable",
        ..Policy::default()
    };
    assert_not_loaded(&policy.component(), "the module trapped");
}

#[test]
fn a_memory_that_is_too_large_from_the_start() {
    let policy = Policy {
        memory: "2000",
        ..Policy::default()
    };
    assert_not_loaded(&policy.component(), "memory");
}

#[test]
fn modules_that_are_no_policies() {
    let export = r#"(instance $i) (export "portcullis:policy/evaluation@0.1.0" (instance $i))"#;
    for (text, reason) in [
        (format!(r#"(component (import "wasi:sockets/tcp-create-socket@0.2.0" (instance)) {export})"#), "this module imports wasi:sockets/tcp-create-socket@0.2.0, which this host does not give"),
        (format!(r#"(component (import "wasi:http/outgoing-handler@0.2.0" (instance)) {export})"#), "this module imports wasi:http/outgoing-handler@0.2.0, which this host does not give"),
        (format!(r#"(component (import "acme:secrets/vault" (instance)) {export})"#), "this module imports acme:secrets/vault, which this host does not give"),
        ("(module)".into(), "this is a core WebAssembly module, not a component"),
        ("(component)".into(), "this module does not export portcullis:policy/evaluation@0.1.0"),
        (r#"(component (instance $i) (export "portcullis:policy/evaluation@0.2.0" (instance $i)))"#.into(), "this module exports portcullis:policy/evaluation@0.2.0, and this host speaks"),
        (format!("(component {export})"), "cannot be compiled"),
    ] {
        assert_not_loaded(&wat::parse_str(&text).expect("WebAssembly text"), reason);
    }
    assert_not_loaded(
        b"this is not WebAssembly",
        "this is not a WebAssembly component",
    );
    assert_not_loaded(b"", "this is not a WebAssembly component");
}

#[test]
fn a_module_that_is_too_large() {
    let component = Policy::default().component();
    let config = format!("{CONFIG}\n[sandbox]\nmodule = \"1KiB\"\n");
    let daemon = start_with(&config, &component);
    let line = daemon.wait_for_log("policy not taken");
    assert!(
        line.contains("are more than the 1024 that a module may have"),
        "{line}"
    );
}

#[test]
fn neighbours_go_on_while_a_module_burns_time() {
    let policy = Policy {
        evaluate: "(loop (br 0)) unreachable",
        ..Policy::default()
    };
    let daemon = start(&policy);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = greeted(&daemon);
                client.expect("MAIL FROM:<carol@example.org>", 250);
                while !stop.load(Ordering::Relaxed) {
                    assert_deferred(&client.command("RCPT TO:<bob@bad.test>"));
                }
            });
        }
        daemon.wait_for_log_times("policy failed", 4);
        for _ in 0..20 {
            assert_neighbour_is_served(&mut greeted(&daemon));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(daemon.maildir("mail").len(), 20);
}

#[test]
fn nothing_passes_from_one_session_to_the_next() {
    // Refuses from the second question on.
    let evaluate = format!(
        "(if (result i32) (i32.load (i32.const 5000))
            (then {})
            (else (i32.store (i32.const 5000) (i32.const 1)) i32.const 1024))",
        refusal(550, (3000, 5), (3000, 5))
    );
    let policy = Policy {
        fields: r#"(data (i32.const 3000) "5.7.1")"#,
        evaluate: &evaluate,
        ..Policy::default()
    };
    let daemon = start(&policy);
    for _ in 0..5 {
        let mut client = greeted(&daemon);
        assert_eq!(
            client.envelope("carol@example.org", "bob@bad.test").code,
            250
        );
        assert_eq!(client.command("RCPT TO:<bob@bad.test>").code, 550);
    }
}

#[test]
fn on_the_command_line_a_failure_defers_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trap.wasm");
    let policy = Policy {
        evaluate: "unreachable",
        ..Policy::default()
    };
    fs::write(&path, policy.component()).expect("a file");
    let line = r#"{"direction":"inbound","mail-from":"a@x.test","rcpt-to":"b@y.test"}"#;
    let output = run(
        &["evaluate", &path.to_string_lossy()],
        format!("{line}\n{line}\n").as_bytes(),
    );
    let verdicts = String::from_utf8(output.stdout).expect("UTF-8");
    let begin = r#"{"verdict":"defer","failed":"policy-unavailable","code":451,"enhanced":"4.3.0","text":""#;
    assert_eq!(
        verdicts
            .lines()
            .filter(|line| line.starts_with(begin))
            .count(),
        2,
        "{verdicts}"
    );
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("trap.wasm: the module trapped: "), "{told}");
}
