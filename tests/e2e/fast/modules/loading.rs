//! What is no policy, and what is not compiled.

use portcullis_tests::modules::data;
use portcullis_tests::{Config, Listener, TestBed, run};

use super::{
    accepting, assert_not_taken, assert_unavailable, config, reply_beside_a_good_neighbour, start,
};

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
        .with(&format!("[sandbox]\npolicy-size = \"{limit}B\""));
    let daemon = TestBed::start(config);
    assert!(
        daemon
            .wait_for_log("new policy rejected")
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
    let daemon = TestBed::start_in(folder, config);
    let reason = daemon.wait_for_log("new policy rejected");
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

#[test]
fn names_in_a_refused_module_cannot_forge_log_lines() {
    let name = "wasi:x/y\\0a2026-01-01T00:00:00Z  INFO forged";
    let text = format!(
        r#"(component (import "url=<{name}>" (instance))
            (instance $i) (export "portcullis:policy/evaluation@0.1.0" (instance $i)))"#
    );
    let module = wat::parse_str(text).expect("a component");
    let daemon = start(&module);
    let line = daemon.wait_for_log("new policy rejected");
    assert!(line.contains("forged"), "{line}");
}
