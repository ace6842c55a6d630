//! Facts that a host cannot tell, as contexts say so on the command line.

use std::fs;
use std::process::Output;

use portcullis_tests::run;
use serde_json::{Value, json};
use tempfile::TempDir;

const ENCRYPTION: &str = "whether the session is encrypted";
const CERTIFICATE: &str = "whether the client has shown a certificate";
const KEY: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

fn rules() -> Value {
    let connector = |name: &str, require: Value| {
        json!({"name": name, "direction": "inbound", "from": {"sender-domains": [format!("{name}.test")]},
               "require": require})
    };
    json!({"connectors": [
        connector("tls", json!({"tls": true})),
        connector("version", json!({"tls": {"min-version": "TLSv1.3"}})),
        connector("address", json!({"source-ips": ["192.0.2.0/24"]})),
        connector(
            "name",
            json!({"certificate-names": ["mail.name.test"], "certificate-authorities": ["partner"]}),
        ),
        connector("key", json!({"certificate-keys": [KEY]})),
        connector("authority", json!({"certificate-authorities": ["partner"]})),
        connector("both", json!({"tls": true, "source-ips": ["192.0.2.0/24"]})),
        {"name": "header", "direction": "inbound", "from": {"sender-domains": ["header.test"]},
         "match-header-from": true, "require": {"source-ips": ["192.0.2.0/24"]}},
    ]})
}

/// Mail from a connector's domain: in TLS 1.3, from an address that any connector accepts, but for what differs.
fn context(domain: &str, different: &Value) -> Value {
    let mut context = json!({
        "direction": "inbound", "client-ip": "192.0.2.1", "tls": {"version": "TLSv1.3"},
        "mail-from": format!("a@{domain}.test"), "rcpt-to": "bob@contoso.com",
    });
    for (fact, value) in different.as_object().expect("an object") {
        context[fact] = value.clone();
    }
    context
}

struct World {
    folder: TempDir,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("rules.json"), rules().to_string()).expect("a file");
        World { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// The verdicts on these contexts.
    fn evaluate(&self, contexts: &[Value]) -> Vec<Value> {
        let lines: Vec<String> = contexts.iter().map(Value::to_string).collect();
        let output = run(
            &["evaluate", &self.path("rules.json")],
            lines.join("\n").as_bytes(),
        );
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        let verdicts = text(&output);
        let verdicts = verdicts
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        verdicts.collect()
    }

    fn explain(&self, context: &Value, more: &[&str]) -> String {
        let path = self.path("context.json");
        fs::write(&path, context.to_string()).expect("a file");
        let rules = self.path("rules.json");
        let command = ["explain", &rules, "--context", &path];
        let output = run(&[&command[..], more].concat(), b"");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A certificate that is trusted, of which these facts are unknown.
fn certificate(unknown: &[&str]) -> Value {
    json!({"tls": {"version": "TLSv1.3", "certificate": {
        "dns-names": ["mail.name.test"], "key-sha256": KEY, "trust": "trusted", "anchor": "partner",
        "unknown": unknown,
    }}})
}

#[test]
fn mail_is_deferred_if_the_verdict_depends_on_what_is_unknown() {
    let no_certificate = json!({"tls": {"version": "TLSv1.3", "certificate": "unknown"}});
    // The connector, what is different, and the fact that a deferral names.
    let cases = [
        ("tls", json!({"tls": "unknown"}), ENCRYPTION),
        ("version", json!({"tls": "unknown"}), ENCRYPTION),
        (
            "version",
            json!({"tls": {"version": "unknown"}}),
            "the TLS version",
        ),
        (
            "address",
            json!({"client-ip": "unknown"}),
            "the client's address",
        ),
        ("name", json!({"tls": "unknown"}), ENCRYPTION),
        ("name", no_certificate.clone(), CERTIFICATE),
        ("key", no_certificate.clone(), CERTIFICATE),
        ("authority", no_certificate, CERTIFICATE),
        (
            "name",
            certificate(&["dns-names"]),
            "what names the client certificate has",
        ),
        (
            "key",
            certificate(&["key-sha256"]),
            "the public key of the client certificate",
        ),
        (
            "authority",
            certificate(&["trust"]),
            "whether the client certificate is trusted",
        ),
        (
            "authority",
            certificate(&["anchor"]),
            "which authority has issued the client certificate",
        ),
        (
            "header",
            json!({"mail-from": "a@other.test", "client-ip": "203.0.113.7", "header-from": "unknown"}),
            "the From header",
        ),
    ];
    let world = World::new();
    let contexts: Vec<Value> = cases
        .iter()
        .map(|(connector, different, _)| context(connector, different))
        .collect();
    let verdicts = world.evaluate(&contexts);
    assert_eq!(verdicts.len(), cases.len());
    for (((connector, different, fact), verdict), context) in
        cases.iter().zip(&verdicts).zip(&contexts)
    {
        let case = format!("{connector} {different}: {verdict}");
        assert_eq!(verdict["verdict"], "defer", "{case}");
        assert_eq!(verdict["failed"], "fact-unavailable", "{case}");
        assert_eq!(verdict["connector"], **connector, "{case}");
        assert_eq!(verdict["code"], 451, "{case}");
        assert_eq!(verdict["enhanced"], "4.7.0", "{case}");
        let told = verdict["text"].as_str().expect("a text");
        assert!(
            told.contains(&format!("\"{connector}\" cannot be checked")),
            "{case}"
        );
        assert!(told.contains(fact), "{case}");
        let explained = world.explain(context, &["--format", "json"]);
        let explained: Value = serde_json::from_str(&explained).expect("JSON");
        assert_eq!(&explained["verdict"], verdict, "{explained}");
    }
}

#[test]
fn what_is_unknown_and_makes_no_difference_defers_nothing() {
    let world = World::new();
    let nothing = [
        "dns-names",
        "sha256",
        "key-sha256",
        "not-after",
        "trust",
        "anchor",
    ];
    let cases = [
        // No connector is for it.
        (
            context("other", &json!({"client-ip": "unknown", "tls": "unknown"})),
            "accept",
        ),
        // What is asked is known.
        (context("tls", &json!({"client-ip": "unknown"})), "accept"),
        (
            context(
                "tls",
                &json!({"tls": {"version": "unknown", "certificate": "unknown"}}),
            ),
            "accept",
        ),
        (context("tls", &certificate(&nothing)), "accept"),
        (context("address", &json!({"tls": "unknown"})), "accept"),
        (
            context("key", &certificate(&["dns-names", "trust", "anchor"])),
            "accept",
        ),
        // One that is certainly violated refuses, whatever the other fact is.
        (
            context(
                "both",
                &json!({"client-ip": "203.0.113.7", "tls": "unknown"}),
            ),
            "reject",
        ),
        (
            context(
                "header",
                &json!({"header-from": "unknown", "client-ip": "203.0.113.7"}),
            ),
            "reject",
        ),
        // It is for some sender, and satisfied for each.
        (
            context("other", &json!({"header-from": "unknown"})),
            "accept",
        ),
    ];
    let contexts: Vec<Value> = cases.iter().map(|(context, _)| context.clone()).collect();
    for ((context, expected), verdict) in cases.iter().zip(world.evaluate(&contexts)) {
        assert_eq!(verdict["verdict"], *expected, "{context}: {verdict}");
    }
}

#[test]
fn a_person_is_told_which_fact_is_missing() {
    let world = World::new();
    let told = world.explain(&context("address", &json!({"client-ip": "unknown"})), &[]);
    for part in ["fact-unavailable", "\"address\"", "unknown", "192.0.2.0/24"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// `null` could be meant for what is absent as well as for what is unknown, so it is an error, in contexts and in the
/// tests of a document.
#[test]
fn null_is_no_fact() {
    let world = World::new();
    let contexts = [
        json!({"client-ip": null}),
        json!({"tls": null}),
        json!({"header-from": null}),
        json!({"tls": {"version": "TLSv1.3", "certificate": null}}),
    ]
    .map(|different| context("address", &different));
    for context in contexts {
        let output = run(
            &["evaluate", &world.path("rules.json")],
            context.to_string().as_bytes(),
        );
        let answer = text(&output);
        assert_eq!(output.status.code(), Some(1), "{answer}");
        assert!(
            answer.contains("null") && answer.contains("\"line\":1"),
            "{answer}"
        );
        let mut document = rules();
        document["tests"] =
            json!([{"name": "null", "context": context, "expect": {"verdict": "accept"}}]);
        let path = world.path("tested.json");
        fs::write(&path, document.to_string()).expect("a file");
        let output = run(&["check", &path], b"");
        let answer = text(&output);
        assert_eq!(output.status.code(), Some(1), "{answer}");
        assert!(answer.contains("found null"), "{answer}");
    }
}
