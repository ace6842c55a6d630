//! HTTP: contexts in, verdicts out.

use std::fs;
use std::process::Command;

use portcullis_tests::machine::free_address;
use portcullis_tests::programs::missing;
use portcullis_tests::{Config, Listener, Pki, TestBed};
use serde_json::{Value, json};

use super::{RULES, daemon, started};

/// The status and the body of what curl is answered.
pub fn curl(daemon: &TestBed, path: &str, options: &[&str]) -> (u16, String) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--write-out", "\n%{http_code}"])
        .arg("--unix-socket")
        .arg(daemon.folder().join("ask"))
        .args(options)
        .arg(format!("http://localhost{path}"))
        .output()
        .unwrap_or_else(missing("curl"));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    let status = status.parse().expect("a status");
    (status, body.to_owned())
}

fn context(from: &str) -> Value {
    json!({
        "direction": "inbound", "client-ip": "203.0.113.7", "mail-from": from, "rcpt-to": "b@contoso.com"
    })
}

fn post(daemon: &TestBed, path: &str, body: &Value) -> (u16, Value) {
    let (status, body) = curl(daemon, path, &["--data", &body.to_string()]);
    (status, serde_json::from_str(&body).expect("JSON"))
}

#[test]
fn verdicts_are_those_of_a_session() {
    let daemon = daemon(&Pki::new(), "");
    let (status, verdict) = post(&daemon, "/v1/evaluate", &context("a@bank.test"));
    assert_eq!(status, 200);
    assert_eq!(verdict["verdict"], "reject");
    assert_eq!(verdict["failed"], "tls");
    let line = daemon.wait_for_log("connector=\"Encrypted\"");
    assert!(line.contains("client=203.0.113.7"), "{line}");
    let (_, verdict) = post(&daemon, "/v1/evaluate", &context("a@example.org"));
    assert_eq!(verdict["verdict"], "accept");
    daemon.wait_for_log_times("INFO decision", 2);
    let (status, explained) = post(&daemon, "/v1/explain", &context("a@bank.test"));
    assert_eq!(status, 200);
    assert_eq!(explained["verdict"]["verdict"], "reject", "{explained}");
    assert_eq!(daemon.count_log("INFO decision"), 2);
}

#[test]
fn many_contexts_are_answered_in_order_and_bad_ones_in_their_place() {
    let daemon = daemon(&Pki::new(), "");
    let lines = format!(
        "{}\n\n{{\"direction\":1}}\n{}\n",
        context("a@bank.test"),
        context("a@b.test")
    );
    let kind = "Content-Type: application/x-ndjson";
    let options = ["--data-binary", &lines, "--header", kind];
    let (status, body) = curl(&daemon, "/v1/evaluate", &options);
    assert_eq!(status, 200);
    let answers: Vec<Value> = body
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0]["verdict"], "reject");
    assert_eq!(answers[1]["line"], 3);
    assert_eq!(answers[2]["verdict"], "accept");
}

#[test]
fn what_is_wrong_is_told() {
    let daemon = daemon(&Pki::new(), "");
    let mut elsewhere = context("a@bank.test");
    elsewhere["rcpt-to"] = json!("b@elsewhere.test");
    for (path, body, status, error) in [
        ("/v1/evaluate", json!({}), 422, "missing field"),
        (
            "/v1/evaluate",
            elsewhere.clone(),
            404,
            "no tenant has the domain",
        ),
        (
            "/v1/evaluate?tenant=nobody",
            elsewhere.clone(),
            404,
            "there is no tenant \"nobody\"",
        ),
        ("/v1/decide", json!({}), 404, "/v1/openapi.json"),
        ("/v1/openapi.json", json!({}), 405, "another method"),
        ("/v1/stalwart", json!({"context": 1}), 422, "context"),
        (
            "/v1/stalwart",
            json!({"context": {"stage": "rcpt", "client": {"ip": "192.0.2.1"}}}),
            422,
            "envelope is missing",
        ),
    ] {
        let (found, answer) = post(&daemon, path, &body);
        assert_eq!(found, status, "{path}: {answer}");
        let text = answer["error"].as_str().expect("an error");
        assert!(text.contains(error), "{text}");
    }
    let (status, verdict) = post(&daemon, "/v1/evaluate?tenant=contoso", &elsewhere);
    assert_eq!((status, &verdict["failed"]), (200, &json!("tls")));
}

#[test]
fn over_tcp_a_token_is_shown() {
    let address = free_address();
    let table = format!("[[frontend]]\naddress = \"{address}\"\nprotocols = [\"http\"]\n");
    let config = |token: &str| {
        Config::new()
            .listener(Listener::maildir())
            .tenant("contoso.com", RULES)
            .file("token", "secret\n")
            .with(&format!("{table}{token}"))
    };
    let ask = |header: &str| {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
            ])
            .args(["--header", header])
            .args(["--data", &context("a@bank.test").to_string()])
            .arg(format!("http://{address}/v1/evaluate"))
            .output()
            .unwrap_or_else(missing("curl"));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let daemon = started(config("token = \"token\""));
    assert_eq!(ask("Authorization: Bearer secret"), "200");
    assert_eq!(ask("Authorization: Bearer Secret"), "401");
    assert_eq!(ask("Accept: */*"), "401");
    fs::write(daemon.folder().join("token"), "").expect("a file");
    assert_eq!(ask("Authorization: Bearer "), "401");
    drop(daemon);
    let _without = started(config(""));
    assert_eq!(ask("Authorization: Bearer "), "401");
}

/// In the shape that Stalwart's source has.
#[test]
fn stalwart_is_answered_at_rcpt_and_data() {
    let daemon = daemon(&Pki::new(), "");
    let hook = |stage: &str, tls: bool, from: &str, to: &[&str], headers: Value| {
        let to: Vec<Value> = to.iter().map(|it| json!({"address": it})).collect();
        let mut hook = json!({
            "context": {
                "stage": stage,
                "client": {"ip": "203.0.113.7", "port": 40000, "ptr": null, "helo": "mx.example", "activeConnections": 1},
                "server": {"name": "stalwart", "port": 25, "ip": "192.0.2.1"},
                "protocol": {"version": 1}
            },
            "envelope": {"from": {"address": from}, "to": to},
            "message": {"headers": headers, "contents": "x", "size": 1}
        });
        if tls {
            hook["context"]["tls"] =
                json!({"version": "TLSv1.3", "cipher": "x", "cipherBits": 256});
        }
        post(&daemon, "/v1/stalwart", &hook).1
    };
    let none = json!([]);
    let refused = hook(
        "rcpt",
        false,
        "a@bank.test",
        &["x@elsewhere.test", "b@contoso.com"],
        none.clone(),
    );
    assert_eq!(refused["action"], "reject");
    assert_eq!(refused["response"]["status"], 550);
    assert_eq!(refused["response"]["enhanced_status"], "5.7.1");
    let text = refused["response"]["message"].as_str().expect("a text");
    assert!(
        text.starts_with("refused by connector \"Encrypted\" (tls)"),
        "{text}"
    );
    let taken = hook(
        "rcpt",
        true,
        "a@bank.test",
        &["b@contoso.com"],
        none.clone(),
    );
    assert_eq!(taken["action"], "accept");
    assert_eq!(
        hook("mail", false, "a@bank.test", &[], none.clone())["action"],
        "accept"
    );
    // Who asks at DATA only is answered there.
    let refused = hook("data", false, "a@bank.test", &["b@contoso.com"], none);
    assert_eq!(refused["response"]["status"], 550, "{refused}");
    let headers = json!([["From", " A\r\n <a@bank.test>"], ["Subject", " x"]]);
    let deferred = hook("data", true, "a@example.org", &["b@header.test"], headers);
    assert_eq!(deferred["response"]["status"], 451, "{deferred}");
    let headers = json!([["From", " a@example.org\r\n"]]);
    let taken = hook("data", true, "a@example.org", &["b@header.test"], headers);
    assert_eq!(taken["action"], "accept", "{taken}");
}
