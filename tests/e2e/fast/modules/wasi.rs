//! What a module finds of the world: nothing.

use std::fs;

use portcullis_tests::modules::{DATA, Module, data};
use portcullis_tests::run;

use super::{
    accepting, assert_not_taken, assert_unavailable, reply_beside_a_good_neighbour, start,
};

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
    writing(b"Traceback:\n  in evaluate\nKeyError", "unreachable")
}

/// A module that writes to standard error, and then does something else.
pub fn writing(words: &[u8], then: &str) -> Vec<u8> {
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
            {then}",
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
    for line in ["Traceback:", "  in evaluate", "KeyError"] {
        let line = format!("bad.wasm | {line}\n");
        assert_eq!(told.matches(&line).count(), 1, "{line}: {told}");
    }
}

#[test]
fn a_module_cannot_wait_for_less_than_a_second() {
    let waiting = "(call $pollable.block (call $subscribe-duration (i64.const 1000000)))";
    let daemon = start(&with_wasi(waiting));
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    let line = daemon.wait_for_log("policy failed");
    assert!(line.contains("failure=\"timeout\""), "{line}");
}

#[test]
fn a_module_cannot_have_the_host_work_for_it() {
    let much = "(call $get-random-bytes (i64.const 1000000) (i32.const 8192))";
    let daemon = start(&with_wasi(much));
    assert_unavailable(&reply_beside_a_good_neighbour(&daemon));
    let line = daemon.wait_for_log("policy failed");
    assert!(!line.contains("timeout"), "{line}");
}
