//! Policies that fail or do not come back: each server gets what defers its mail, and nobody else notices.

use portcullis_tests::front_door::{self, Asking};
use portcullis_tests::modules::Module;
use portcullis_tests::{Config, TestBed};
use serde_json::Value;

use super::http::curl;
use super::started;

const GOOD: &str = r#"{"connectors": [{"name": "Closed", "direction": "inbound",
    "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}}]}"#;

fn daemon_of(module: &Module) -> TestBed {
    started(
        Config::new()
            .tenant_with("bad", &["bad.test"], "bad.wasm")
            .file("bad.wasm", module.component())
            .tenant_with("good", &["good.test"], "good.json")
            .file("good.json", GOOD)
            .with(&front_door::table("tenant = \"bad\"")),
    )
}

fn by_policy(asking: &mut Asking, to: &str, instance: &str) -> String {
    asking.policy(&[
        ("protocol_state", "RCPT"),
        ("instance", instance),
        ("client_address", "192.0.2.1"),
        ("encryption_protocol", ""),
        ("sender", "a@bank.test"),
        ("recipient", to),
    ])
}

fn context(to: &str) -> String {
    format!(
        r#"{{"direction":"inbound","client-ip":"192.0.2.1","mail-from":"a@bank.test","rcpt-to":"{to}"}}"#
    )
}

/// Asks by each protocol about the failing policy, and about the other one meanwhile.
fn hold(module: &str, trouble: &str) {
    let daemon = daemon_of(&Module::new(module));
    let refused = |reply: &str| reply.starts_with("550 5.7.1 ");
    let mut asking = Asking::connect(daemon.folder());
    let deferred = by_policy(&mut asking, "b@bad.test", "1");
    assert!(deferred.starts_with("451 4.3.0 "), "{deferred}");
    assert!(refused(&by_policy(&mut asking, "b@good.test", "1")));
    let mut milter = Asking::connect(daemon.folder());
    milter.negotiate();
    milter.packet(b'K', b"");
    milter.client("192.0.2.1", 40000, &[]);
    milter.mail("a@bank.test");
    let deferred = milter.rcpt("b@bad.test").expect("a reply");
    assert!(deferred.starts_with("451 4.3.0 "), "{deferred}");
    assert!(refused(&milter.rcpt("b@good.test").expect("a reply")));
    let verdict = |to: &str| -> Value {
        let (status, body) = curl(&daemon, "/v1/evaluate", &["--data", &context(to)]);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    };
    assert_eq!(verdict("b@bad.test")["verdict"], "defer");
    assert_eq!(verdict("b@good.test")["verdict"], "reject");
    let mut map = Asking::connect(daemon.folder());
    let answer = map.map("tls", "partner.test");
    assert!(answer.starts_with("TEMP "), "{answer}");
    daemon.wait_for_log_times(trouble, 4);
}

#[test]
fn a_policy_that_traps() {
    hold("unreachable", "the policy trapped");
}

#[test]
fn a_policy_that_does_not_come_back() {
    hold(
        "(loop $for-ever (br $for-ever)) unreachable",
        "the policy did not answer within",
    );
}

/// A policy that accepts once and traps when the same instance is asked again.
const ONCE: &str =
    "(if (global.get $asked) (then unreachable)) (global.set $asked (i32.const 1)) (i32.const 0)";

/// A server asks about many clients on one connection, and a policy keeps nothing of one for the next.
#[test]
fn nothing_passes_from_one_client_to_the_next() {
    let module = Module::new(ONCE).with("(global $asked (mut i32) (i32.const 0))");
    let daemon = daemon_of(&module);
    let mut asking = Asking::connect(daemon.folder());
    for instance in ["one", "another"] {
        assert_eq!(by_policy(&mut asking, "b@bad.test", instance), "DUNNO");
    }
    // Recipients of one message are decided about by one instance.
    let second = by_policy(&mut asking, "c@bad.test", "another");
    assert!(second.starts_with("451 "), "{second}");
    let mut milter = Asking::connect(daemon.folder());
    milter.negotiate();
    for _ in 0..2 {
        milter.packet(b'K', b"");
        milter.client("192.0.2.1", 40000, &[]);
        milter.mail("a@bank.test");
        assert_eq!(milter.rcpt("b@bad.test"), None);
    }
    let contexts = format!("{0}\n{0}\n", context("b@bad.test"));
    let kind = "Content-Type: application/x-ndjson";
    let options = ["--data-binary", &contexts, "--header", kind];
    let (_, verdicts) = curl(&daemon, "/v1/evaluate", &options);
    assert_eq!(
        verdicts.matches(r#""verdict":"accept""#).count(),
        2,
        "{verdicts}"
    );
}
