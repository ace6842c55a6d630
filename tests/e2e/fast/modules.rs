//! Modules that misbehave: their own mail is deferred, and nobody else notices.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;

use portcullis_tests::modules::{DATA, Module, Refusal, crowded, data, words};
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
    daemon.wait_for_log("policy in force tenant=bad");
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
    let line = daemon.wait_for_log("policy not taken");
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
    daemon.wait_for_log("policy in force tenant=bad");
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

// While it decides

#[test]
fn a_module_that_behaves_is_a_policy() {
    let daemon = start(&accepting().component());
    let mut client = daemon.client();
    assert_eq!(
        client.envelope("alice@example.org", "bob@bad.test").code,
        250
    );
    let (code, stdout, stderr) = evaluate(daemon.folder(), &[CONTEXT]);
    assert_eq!(
        stdout,
        "{\"verdict\":\"accept\",\"connectors\":[],\"audit\":[]}\n"
    );
    assert_eq!((code, &*stderr), (Some(0), ""));
}

#[test]
fn a_trap() {
    assert_fails(
        &Module::new("unreachable"),
        "trap",
        "the module trapped: wasm trap: wasm `unreachable` instruction executed",
    );
    let divides = Module::new("(i32.div_u (i32.const 1) (i32.const 0))");
    assert_fails(
        &divides,
        "trap",
        "the module trapped: wasm trap: integer divide by zero",
    );
    let reads = Module::new("(i32.load (i32.const -4))");
    assert_fails(
        &reads,
        "trap",
        "the module trapped: wasm trap: out of bounds memory access",
    );
}

#[test]
fn an_endless_loop() {
    let module = Module::new("(loop $for-ever (br $for-ever)) unreachable");
    assert_fails(
        &module,
        "time-out",
        "the module did not answer within 50 ms",
    );
}

#[test]
fn an_endless_loop_in_place_of_room_for_the_question() {
    let module = Module {
        realloc: "(loop $for-ever (br $for-ever)) unreachable".into(),
        ..accepting()
    };
    assert_fails(
        &module,
        "time-out",
        "the module did not answer within 50 ms",
    );
}

#[test]
fn an_endless_loop_after_the_answer() {
    let module = accepting().with(
        r#"(func (export "cabi_post_portcullis:policy/evaluation@0.1.0#evaluate") (param i32)
            (loop $for-ever (br $for-ever)))"#,
    );
    assert_fails(
        &module,
        "time-out",
        "the module did not answer within 50 ms",
    );
}

const OUT_OF_MEMORY: &str =
    "the module asked for more than the 65536 KiB of memory that it may have";

#[test]
fn eating_memory() {
    let module = Module::new(
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) unreachable",
    );
    assert_fails(&module, "out-of-memory", OUT_OF_MEMORY);
}

#[test]
fn eating_tables() {
    let module = Module::new(
        "(loop $more (br_if $more
            (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable",
    );
    assert_fails(
        &module.with("(table $t 1 funcref)"),
        "out-of-memory",
        OUT_OF_MEMORY,
    );
}

#[test]
fn endless_recursion() {
    let module = Module::new("(call $evaluate (local.get $context))");
    assert_fails(
        &module,
        "stack-overflow",
        "the module used up its stack of 512 KiB",
    );
}

#[test]
fn an_answer_outside_of_memory() {
    assert_fails(
        &Module::new("(i32.const -8)"),
        "invalid",
        "pointer out of bounds of memory",
    );
    assert_fails(
        &Module::new("(i32.const 4194300)"),
        "invalid",
        "pointer out of bounds of memory",
    );
}

#[test]
fn an_answer_that_is_not_aligned() {
    assert_fails(&Module::new("(i32.const 2)"), "invalid", "align");
}

#[test]
fn a_verdict_that_there_is_not() {
    assert_fails(&answering(&[4]), "invalid", "discriminant");
    assert_fails(&answering(&[255; 64]), "invalid", "discriminant");
}

#[test]
fn room_for_the_question_outside_of_memory() {
    for at in ["-8", "4194304", "3"] {
        let module = Module {
            realloc: format!("(i32.const {at})"),
            ..accepting()
        };
        assert_fails(&module, "invalid", "realloc return");
    }
}

#[test]
fn a_list_longer_than_memory() {
    for length in [0x1fff_ffff, u32::MAX] {
        let module = answering(&words(&[0, 8, length, 0, 0]));
        assert_fails(
            &module,
            "invalid",
            "list pointer/length out of bounds of memory",
        );
    }
}

#[test]
fn a_list_of_one_long_text_many_times() {
    let list = [1 << 20, 1 << 20].repeat(1000);
    let module =
        answering(&words(&[0, DATA + 64, 1000, 0, 0])).with(&data(DATA + 64, &words(&list)));
    assert_fails(
        &module,
        "invalid",
        "too much data is being copied between the host and the guest",
    );
}

#[test]
fn a_text_that_is_not_utf_8() {
    let refusal = Refusal {
        text: b"\xff\xfe no",
        ..Refusal::default()
    };
    assert_fails(&refusal.module(), "invalid", "utf-8");
}

#[test]
fn an_outbound_verdict_on_inbound_mail() {
    let daemon = start(&answering(&[3]).component());
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    let line = daemon.wait_for_log("policy failed");
    assert!(line.contains(r#"failure="invalid""#), "{line}");
    assert!(
        line.contains("the policy answers inbound mail with an outbound verdict"),
        "{line}"
    );
}

#[test]
fn a_neighbour_is_served_while_many_sessions_loop() {
    const SESSIONS: usize = 40;
    const QUESTIONS: usize = 4;
    let module = Module::new("(loop $for-ever (br $for-ever)) unreachable");
    let daemon = start(&module.component());
    let mut looping: Vec<Client> = (0..SESSIONS).map(|_| daemon.client()).collect();
    for client in &mut looping {
        let questions = "RCPT TO:<bob@bad.test>\r\n".repeat(QUESTIONS);
        client.send(format!("MAIL FROM:<alice@example.org>\r\n{questions}").as_bytes());
    }
    daemon.wait_for_log_times("policy failed", SESSIONS);
    let begun = Instant::now();
    let mut neighbour = daemon.client();
    for _ in 0..3 {
        neighbour.expect("MAIL FROM:<carol@example.org>", 250);
        assert_good_is_served(&mut neighbour);
        assert_eq!(neighbour.data("Subject: hello\r\n\r\nHello.").code, 250);
    }
    neighbour.quit();
    eprintln!(
        "beside {SESSIONS} loops, three messages took {:?}",
        begun.elapsed()
    );
    let failed = daemon.count_log("policy failed");
    assert!(
        failed < SESSIONS * QUESTIONS,
        "the loops were not under way any more"
    );
    assert_eq!(daemon.maildir("mail").len(), 3);
    for client in &mut looping {
        assert_eq!(client.reply().code, 250);
        assert_unavailable(&client.reply());
    }
}

// What it says

/// A refusal that comes to the client so.
fn assert_refused(refusal: &Refusal, code: u16, text: &str) {
    let daemon = start(&refusal.module().component());
    let reply = reply_beside_a_good_neighbour(&daemon);
    assert_eq!((reply.code, without_id(&reply)), (code, text));
}

#[test]
fn a_refusal_is_passed_on() {
    assert_refused(&Refusal::default(), 550, "5.7.1 text");
    let deferred = Refusal {
        permanent: false,
        code: 450,
        enhanced: "4.2.1",
        ..Refusal::default()
    };
    assert_refused(&deferred, 450, "4.2.1 text");
}

#[test]
fn codes_of_the_wrong_class_are_corrected() {
    for code in [0, 25, 250, 354, 421, 450, 560, 599, 999, 5500, u16::MAX] {
        assert_refused(
            &Refusal {
                code,
                ..Refusal::default()
            },
            550,
            "5.7.1 text",
        );
    }
    for code in [0, 250, 354, 550, 470, 4510] {
        let refusal = Refusal {
            permanent: false,
            code,
            enhanced: "4.7.1",
            ..Refusal::default()
        };
        assert_refused(&refusal, 451, "4.7.1 text");
    }
}

#[test]
fn enhanced_codes_that_are_none_or_of_another_class_are_corrected() {
    for enhanced in [
        "",
        "5",
        "5.7",
        "2.0.0",
        "4.7.1",
        "9.9.9",
        "5.7.1.1",
        "5.7.1\r\n250 ok",
        "5.07.1",
        "5.1000.1",
    ] {
        assert_refused(
            &Refusal {
                enhanced,
                ..Refusal::default()
            },
            550,
            "5.7.1 text",
        );
    }
}

#[test]
fn a_text_cannot_forge_a_reply() {
    let cases: [(&[u8], &str); 6] = [
        (
            b"no\r\n250 2.1.5 ok\r\n221 bye",
            "5.7.1 no  250 2.1.5 ok  221 bye",
        ),
        (b"no\n\n\nmore", "5.7.1 no   more"),
        (b"a\0b\x1b[31mc\x07\x7fd", "5.7.1 a b [31mc  d"),
        (
            "h\u{85}\u{9b}i \u{2028}\u{202e}ö".as_bytes(),
            "5.7.1 h  i ??o",
        ),
        (b"", "5.7.1 refused by policy"),
        (b" \r\n\t\0 ", "5.7.1 refused by policy"),
    ];
    for (text, expected) in cases {
        assert_refused(
            &Refusal {
                text,
                ..Refusal::default()
            },
            550,
            expected,
        );
    }
}

#[test]
fn a_text_of_a_megabyte_is_cut() {
    for text in [
        "x".repeat(1 << 20),
        "ö".repeat(1 << 19),
        "\r\n".repeat(1 << 19),
    ] {
        let refusal = Refusal {
            text: text.as_bytes(),
            ..Refusal::default()
        };
        let daemon = start(&refusal.module().component());
        let reply = reply_beside_a_good_neighbour(&daemon);
        assert_eq!(reply.code, 550);
        let text = without_id(&reply);
        assert!(text.starts_with("5.7.1 ") && text.len() > 20, "{text}");
    }
}

#[test]
fn names_cannot_forge_log_lines() {
    let connector = "x\r\n2026-01-01T00:00:00Z  INFO forged\x1b[2J";
    let daemon = start(
        &Refusal {
            connector,
            ..Refusal::default()
        }
        .module()
        .component(),
    );
    reply_beside_a_good_neighbour(&daemon);
    daemon.wait_for_log_times("session ends", 2);
    let line = daemon.wait_for_log("tenant=bad connector=");
    assert!(
        line.contains("forged") && !line.contains('\x1b'),
        "{line:?}"
    );
    assert!(
        daemon
            .log()
            .iter()
            .all(|line| !line.starts_with("2026-01-01T00:00:00Z")),
        "a forged line"
    );
}

#[test]
fn a_verdict_of_the_command_line_is_one_line_whatever_it_says() {
    let refusal = Refusal {
        text: b"no\r\n{\"verdict\":\"accept\"}\n\x1b[2J",
        ..Refusal::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let module = refusal.module().component();
    fs::write(folder.path().join("bad.wasm"), module).expect("a file");
    let (code, stdout, stderr) = evaluate(folder.path(), &[CONTEXT]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(stdout.matches('\n').count(), 1);
    assert!(!stdout.contains(['\r', '\x1b']), "{stdout:?}");
    let verdict: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(verdict["verdict"], "reject");
}

// Before it decides

#[test]
fn describing_itself_fails() {
    let describing = |describe: &str| {
        let module = Module {
            describe: describe.into(),
            ..accepting()
        };
        module.component()
    };
    assert_not_taken(&describing("unreachable"), "the module trapped");
    let for_ever = describing("(loop $for-ever (br $for-ever)) unreachable");
    assert_not_taken(&for_ever, "the module did not answer within 50 ms");
    assert_not_taken(
        &describing("(i32.const -8)"),
        "pointer out of bounds of memory",
    );
}

#[test]
fn starting_fails() {
    let starting = |body: &str| {
        accepting()
            .with(&format!("(func $start {body}) (start $start)"))
            .component()
    };
    assert_not_taken(&starting("unreachable"), "the module trapped");
    let for_ever = starting("(loop $for-ever (br $for-ever))");
    assert_not_taken(&for_ever, "the module did not answer within 50 ms");
    assert_not_taken(
        &starting("(call $start)"),
        "the module used up its stack of 512 KiB",
    );
}

#[test]
fn more_memory_from_the_beginning_than_there_may_be() {
    let module = Module {
        memory: r#"(memory (export "memory") 1025)"#.into(),
        ..accepting()
    };
    assert_not_taken(&module.component(), "memory");
    assert_not_taken(
        &accepting().with("(table 100001 funcref)").component(),
        "table",
    );
}

#[test]
fn more_than_its_share_of_what_instances_need() {
    let module = accepting().component();
    for (fields, instances, what) in [
        ("(memory 0)", 10, "memories"),
        ("(table 0 funcref)", 10, "tables"),
        ("", 90, "core module instances"),
    ] {
        assert_not_taken(&crowded(&module, fields, instances), what);
    }
}

#[test]
fn a_module_that_takes_too_much_memory_to_look_at() {
    // To validate it takes gigabytes: each of very many instances has very many exports.
    let exports: String = (0..2000)
        .map(|number| format!(r#"(export "x{number}" (func $f))"#))
        .collect();
    let nested = format!(
        "(component (alias outer 1 $c (component $d)) {})",
        "(instance (instantiate $d))".repeat(900)
    );
    let text = format!(
        r#"(component
            (component $c
                (core module $m (func (export "f"))) (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f"))) {exports})
            {}
            (instance $i) (export "portcullis:policy/evaluation@0.1.0" (instance $i)))"#,
        nested.repeat(30)
    );
    let bomb = wat::parse_str(text).expect("a component");
    assert!(bomb.len() < 200_000, "{} bytes", bomb.len());
    let daemon = TestBed::start(config(&bomb).with("[sandbox]\ncompile-memory = \"300MiB\""));
    let line = daemon.wait_for_log("policy not taken");
    assert!(line.contains("compile-memory"), "{line}");
    let resident = daemon.resident();
    assert!(resident < 200 * 1024, "{resident} KiB");
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
}

#[test]
fn neighbours_are_served_beside_several_that_loop() {
    const SESSIONS: usize = 8;
    let module = Module::new("(loop $for-ever (br $for-ever)) unreachable");
    let mut config = config(&module.component());
    for name in ["one", "two", "three"] {
        config = config.tenant_with(name, &[&format!("{name}.test")], "bad.wasm");
    }
    let daemon = TestBed::start(config);
    let mut looping: Vec<Client> = Vec::new();
    for tenant in ["bad", "one", "two", "three"] {
        for _ in 0..SESSIONS {
            let mut client = daemon.client();
            let questions = format!("RCPT TO:<bob@{tenant}.test>\r\n").repeat(4);
            client.send(format!("MAIL FROM:<alice@example.org>\r\n{questions}").as_bytes());
            looping.push(client);
        }
    }
    for tenant in ["bad", "one", "two", "three"] {
        daemon.wait_for_log(&format!("policy failed tenant={tenant}"));
    }
    let begun = Instant::now();
    let mut neighbour = daemon.client();
    neighbour.expect("MAIL FROM:<carol@example.org>", 250);
    assert_good_is_served(&mut neighbour);
    assert_eq!(neighbour.data("Subject: hello\r\n\r\nHello.").code, 250);
    eprintln!(
        "beside four policies that loop a message took {:?}",
        begun.elapsed()
    );
    let failed = daemon.count_log("policy failed");
    assert!(
        failed < 4 * SESSIONS * 4,
        "the loops were not under way any more"
    );
}

#[test]
fn names_in_a_refused_module_cannot_forge_log_lines() {
    let name = "wasi:x/y\\0a2026-01-01T00:00:00Z  INFO forged";
    let text = format!(
        r#"(component (import "url=<{name}>" (instance))
            (instance $i) (export "portcullis:policy/evaluation@0.1.0" (instance $i)))"#
    );
    let module = wat::parse_str(text).expect("a component");
    let daemon = start(&module);
    let line = daemon.wait_for_log("policy not taken");
    assert!(line.contains("forged"), "{line}");
}

// What is no policy

#[test]
fn what_is_not_webassembly() {
    let component = accepting().component();
    let mut damaged = component.clone();
    let middle = component.len() / 2;
    damaged[middle..middle + 16].fill(0xff);
    for bytes in [
        b"",
        &b"hello, I am a policy"[..],
        &component[..4],
        &component[..middle],
        &damaged,
    ] {
        assert_not_taken(bytes, "this is not a WebAssembly component: ");
    }
}

#[test]
fn a_core_module() {
    let module = wat::parse_str(r#"(module (memory (export "memory") 1))"#).expect("a module");
    assert_not_taken(
        &module,
        "this is a core WebAssembly module, not a component",
    );
}

/// A component with this import, beside the right export.
fn importing(name: &str) -> Vec<u8> {
    let text = format!(
        r#"(component (import "{name}" (instance))
            (instance $i) (export "portcullis:policy/evaluation@0.1.0" (instance $i)))"#
    );
    wat::parse_str(text).expect("a component")
}

#[test]
fn imports_that_are_not_given() {
    for name in [
        "wasi:sockets/tcp-create-socket@0.2.0",
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:clocks/wall-clock@0.3.0",
        "wasi:keyvalue/store@0.2.0",
        "acme:secrets/vault@1.0.0",
        "env",
    ] {
        let message = format!("this module imports {name}, which this host does not give");
        assert_not_taken(&importing(name), &message);
    }
}

#[test]
fn an_import_that_is_given_in_another_shape() {
    assert_not_taken(
        &wat::parse_str(
            r#"(component
                (import "wasi:cli/environment@0.2.0" (instance (export "get-secrets" (func (result string)))))
                (instance $i) (export "portcullis:policy/evaluation@0.1.0" (instance $i)))"#,
        )
        .expect("a component"),
        "get-secrets",
    );
}

const WASI: [&str; 5] = [
    "package wasi:io@0.2.0; interface poll { resource pollable { block: func(); } }",
    "package wasi:cli@0.2.0; interface environment {
        get-environment: func() -> list<tuple<string, string>>;
        get-arguments: func() -> list<string>;
        initial-cwd: func() -> option<string>;
    }",
    "package wasi:filesystem@0.2.0;
    interface types { resource descriptor; }
    interface preopens {
        use types.{descriptor};
        get-directories: func() -> list<tuple<descriptor, string>>;
    }",
    "package wasi:random@0.2.0; interface random { get-random-bytes: func(len: u64) -> list<u8>; }",
    "package wasi:clocks@0.2.0;
    interface wall-clock {
        record datetime { seconds: u64, nanoseconds: u32 }
        now: func() -> datetime;
    }
    interface monotonic-clock {
        use wasi:io/poll@0.2.0.{pollable};
        now: func() -> u64;
        subscribe-duration: func(when: u64) -> pollable;
    }",
];

/// A module that does this with what WASI has, and accepts unless it traps.
fn with_wasi(body: &str) -> Vec<u8> {
    let functions = [
        ("cli/environment", "get-environment", "(param i32)"),
        ("cli/environment", "get-arguments", "(param i32)"),
        ("cli/environment", "initial-cwd", "(param i32)"),
        ("filesystem/preopens", "get-directories", "(param i32)"),
        ("random/random", "get-random-bytes", "(param i64 i32)"),
        ("clocks/wall-clock", "now", "(param i32)"),
        (
            "clocks/monotonic-clock",
            "subscribe-duration",
            "(param i64) (result i32)",
        ),
        ("io/poll", "[method]pollable.block", "(param i32)"),
    ];
    let imported: String = functions
        .iter()
        .map(|(interface, name, types)| {
            let known = name.trim_start_matches("[method]");
            format!("(import \"wasi:{interface}@0.2.0\" \"{name}\" (func ${known} {types}))")
        })
        .collect();
    let mut interfaces: Vec<_> = functions
        .map(|(interface, ..)| format!("wasi:{interface}@0.2.0"))
        .into();
    interfaces.dedup();
    let module = Module {
        memory: format!("{imported} {}", accepting().memory),
        evaluate: format!("{body} (i32.const 0)"),
        ..accepting()
    };
    let interfaces: Vec<&str> = interfaces.iter().map(String::as_str).collect();
    module.component_with(&WASI, &interfaces)
}

#[test]
fn the_world_of_a_module_is_empty() {
    // A list or an option at 8192 is empty if the word that says so is zero.
    let traps_unless_zero =
        |at: u32| format!("(if (i32.load (i32.const {at})) (then unreachable))");
    for (function, at) in [
        ("get-environment", 8196),
        ("get-arguments", 8196),
        ("initial-cwd", 8192),
        ("get-directories", 8196),
        // Of the time, what is less than a second.
        ("now", 8200),
    ] {
        let call = format!("(call ${function} (i32.const 8192))");
        let daemon = start(&with_wasi(&format!("{call} {}", traps_unless_zero(at))));
        let mut client = daemon.client();
        let reply = client.envelope("alice@example.org", "bob@bad.test");
        assert_eq!(reply.code, 250, "{function}: {reply:?}");
    }
}

/// A module that writes a traceback to standard error, as Python does, and traps.
fn failing_with_a_word() -> Vec<u8> {
    const WIT: [&str; 2] = [
        "package wasi:io@0.2.0;
        interface error { resource error; }
        interface streams {
            use error.{error};
            variant stream-error { last-operation-failed(error), closed }
            resource output-stream {
                blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
            }
        }",
        "package wasi:cli@0.2.0; interface stderr {
            use wasi:io/streams@0.2.0.{output-stream};
            get-stderr: func() -> output-stream;
        }",
    ];
    let words = b"Traceback:\n  in evaluate\nKeyError";
    let module = Module {
        memory: format!(
            r#"(import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
            (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush"
                (func $write (param i32 i32 i32 i32)))
            {}"#,
            accepting().memory
        ),
        evaluate: format!(
            "(call $write (call $stderr) (i32.const {DATA}) (i32.const {}) (i32.const 8192))
            unreachable",
            words.len()
        ),
        ..accepting()
    };
    let module = module.with(&data(DATA, words));
    module.component_with(&WIT, &["wasi:io/streams@0.2.0", "wasi:cli/stderr@0.2.0"])
}

#[test]
fn what_a_module_wrote_before_it_failed_is_told() {
    let component = failing_with_a_word();
    let daemon = start(&component);
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    let line = daemon.wait_for_log("policy failed tenant=bad");
    assert!(line.contains("KeyError"), "{line}");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.wasm");
    fs::write(&path, component).expect("a file");
    let path = path.to_string_lossy();
    let context = r#"{"direction": "inbound", "mail-from": "a@b.test", "rcpt-to": "c@d.test"}"#;
    let output = run(&["evaluate", &path], context.as_bytes());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("trap"), "{told}");
    assert!(
        told.contains("before that it wrote:\n  | Traceback:\n  |   in evaluate\n  | KeyError\n"),
        "{told}"
    );
}

#[test]
fn a_module_cannot_wait_for_less_than_a_second() {
    let waiting = "(call $pollable.block (call $subscribe-duration (i64.const 1000000)))";
    let daemon = start(&with_wasi(waiting));
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    let line = daemon.wait_for_log("policy failed");
    assert!(line.contains("failure=\"time-out\""), "{line}");
}

#[test]
fn a_module_cannot_have_the_host_work_for_it() {
    let much = "(call $get-random-bytes (i64.const 1000000) (i32.const 8192))";
    let daemon = start(&with_wasi(much));
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    let line = daemon.wait_for_log("policy failed");
    assert!(!line.contains("time-out"), "{line}");
}

#[test]
fn exports_that_are_missing() {
    let component = |text: &str| wat::parse_str(text).expect("a component");
    let message = "this module does not export portcullis:policy/evaluation@0.1.0";
    assert_not_taken(&component("(component)"), message);
    let empty =
        r#"(component (instance $i) (export "portcullis:policy/evaluation@0.1.0" (instance $i)))"#;
    assert_not_taken(&component(empty), "evaluate");
}

#[test]
fn another_version_of_the_interface() {
    let message = "this module exports portcullis:policy/evaluation@0.2.0, and this host speaks \
                   portcullis:policy/evaluation@0.1.0";
    assert_not_taken(&accepting().component_of_version("0.2.0"), message);
}

#[test]
fn a_module_larger_than_it_may_be() {
    // The neighbour has no rules document: what is built of one is larger, too.
    let small = accepting().component();
    let limit = small.len();
    let large = accepting().with(&data(0, &[0])).component();
    assert!(large.len() > limit);
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant_with("bad", &["bad.test"], "bad.wasm")
        .file("bad.wasm", &large)
        .tenant_with("good", &["*.good.test"], "good.wasm")
        .file("good.wasm", &small)
        .with(&format!("[sandbox]\nmodule = \"{limit}B\""));
    let daemon = TestBed::start(config);
    assert!(
        daemon
            .wait_for_log("policy not taken")
            .contains("bad.wasm: it is larger than ")
    );
    let mut client = daemon.client();
    assert_unavailable(&client.envelope("alice@example.org", "bob@bad.test"));
    client.expect("RCPT TO:<bob@open.good.test>", 250);
    assert_eq!(client.data("Subject: hello\r\n\r\nHello.").code, 250);
    client.quit();
}

/// Functions whose jump tables have more targets than a compiler can deal with in a second, or in little
/// memory.
fn bomb() -> Vec<u8> {
    let targets = "0 1 ".repeat(30_000);
    let table = format!("(block (block (br_table {targets} (local.get 0))))");
    let function = format!("(func (param i32) {})", table.repeat(20));
    accepting().with(&function.repeat(4)).component()
}

/// The reason why the bomb is not taken with this limit; mail flows beside it.
fn defused(limit: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&bomb()).with(&format!("[sandbox]\n{limit}"));
    config.write(folder.path());
    // The neighbour's evaluator must not need the compiler too.
    let good = folder.path().join("good.json");
    let checked = run(&["check", good.to_str().expect("a path")], b"");
    assert!(checked.status.success());
    let daemon = TestBed::start_in(folder, config, &[]);
    let reason = daemon.wait_for_log("policy not taken");
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    reason
}

#[test]
fn a_module_that_takes_too_long_to_compile() {
    let reason = defused("compile-time = \"1s\"");
    let expected = "compiling it takes more than 1s of processor time (compile-time)";
    assert!(reason.contains(expected), "{reason}");
}

#[test]
fn a_module_that_takes_too_much_memory_to_compile() {
    let reason = defused("compile-memory = \"100MiB\"");
    let expected = "compiling it takes more than 100.0 MiB of memory (compile-memory)";
    assert!(reason.contains(expected), "{reason}");
}

// Between sessions, and for whoever runs the host

const METRICS: &str = "[metrics]\naddress = \"127.0.0.1:0\"";

#[test]
fn nothing_passes_from_one_session_to_the_next() {
    // It accepts the first question that it is asked, and refuses from the second on.
    let module = Module {
        evaluate: format!(
            "(if (result i32) (i32.load (i32.const 200000))
                (then (i32.const {DATA}))
                (else (i32.store (i32.const 200000) (i32.const 1)) (i32.const 0)))"
        ),
        ..Refusal::default().module()
    };
    let daemon = start(&module.component());
    for _ in 0..5 {
        let mut client = daemon.client();
        client.expect("MAIL FROM:<alice@example.org>", 250);
        client.expect("RCPT TO:<bob@bad.test>", 250);
        client.expect("RCPT TO:<bob@bad.test>", 550);
    }
}

#[test]
fn failures_are_counted() {
    let failing = Module::new("unreachable").component();
    let daemon = TestBed::start(config(&failing).with(METRICS));
    let mut client = daemon.client();
    client.expect("MAIL FROM:<alice@example.org>", 250);
    for _ in 0..3 {
        client.expect("RCPT TO:<bob@bad.test>", 451);
    }
    assert_good_is_served(&mut client);
    let metrics = metrics(&daemon);
    for line in [
        "portcullis_policy_failures_total{tenant=\"bad\",failure=\"trap\"} 3",
        "portcullis_decisions_total{tenant=\"bad\",verdict=\"defer\",failed=\"policy-unavailable\"} 3",
        "portcullis_decisions_total{tenant=\"good\",verdict=\"reject\",failed=\"tls\"} 1",
        "portcullis_policy_updates_total{tenant=\"good\",outcome=\"taken\"} 1",
        "portcullis_sessions_open 1",
    ] {
        assert!(
            metrics.contains(&format!("\n{line}\n")),
            "{line} is not in:\n{metrics}"
        );
    }
}

#[test]
fn whoever_holds_on_to_the_metrics_takes_nothing_from_mail() {
    let daemon = TestBed::start(config(&accepting().component()).with(METRICS));
    let before = daemon.descriptors();
    let address = metrics_address(&daemon);
    let held: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).expect("a connection");
            stream.write_all(b"GET /metr").expect("half a request");
            stream
        })
        .collect();
    let mut client = daemon.client();
    client.expect("MAIL FROM:<carol@example.org>", 250);
    assert_good_is_served(&mut client);
    let during = daemon.descriptors();
    assert!(during < before + 40, "{before}, then {during} descriptors");
    drop(held);
    assert!(metrics(&daemon).contains("portcullis_sessions_open 1"));
}

#[test]
fn a_module_that_keeps_failing_is_marked_until_it_answers() {
    let failing = Module::new("unreachable").component();
    let config = config(&failing).with(METRICS);
    let daemon = TestBed::start(config.with("[limits]\nerrors = 100"));
    let gauge = |value: u32| format!("\nportcullis_policy_failing{{tenant=\"bad\"}} {value}\n");
    let mut client = daemon.client();
    client.expect("MAIL FROM:<alice@example.org>", 250);
    for _ in 0..9 {
        client.expect("RCPT TO:<bob@bad.test>", 451);
    }
    assert!(metrics(&daemon).contains(&gauge(0)));
    client.expect("RCPT TO:<bob@bad.test>", 451);
    daemon.wait_for_log("the policy keeps failing; all of its mail is deferred tenant=bad");
    assert!(metrics(&daemon).contains(&gauge(1)));
    assert_good_is_served(&mut client);
    daemon.replace("bad.wasm", &accepting().component());
    daemon.wait_for_log_times("policy in force tenant=bad", 2);
    assert!(metrics(&daemon).contains(&gauge(0)));
}

fn metrics_address(daemon: &Daemon) -> String {
    let line = daemon.wait_for_log("showing metrics");
    let (_, address) = line.rsplit_once('=').expect("an address");
    address.trim().to_owned()
}

/// What Prometheus would read.
fn metrics(daemon: &Daemon) -> String {
    let address = metrics_address(daemon);
    let mut stream = TcpStream::connect(address).expect("metrics are served");
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
        .expect("a request is written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
