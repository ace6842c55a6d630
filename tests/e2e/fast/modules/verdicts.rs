//! What modules say, and what comes of it.

use std::fs;

use portcullis_tests::modules::Refusal;

use super::{CONTEXT, evaluate, reply_beside_a_good_neighbour, start, without_id};

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
            "5.7.1 h  i   o",
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
