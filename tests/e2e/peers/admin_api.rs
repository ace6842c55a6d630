//! The API, asked by a program that invents requests of its description, and by very many at a time.

use std::process::Command;
use std::thread;

use portcullis_tests::admin::{ADMIN, Api, token};
use portcullis_tests::{Config, Listener, NO_RULES, TestBed, programs};
use serde_json::{Value, json};

fn bed(address: &str) -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", NO_RULES)
        .with(&ADMIN.replace("admin.sock", address));
    TestBed::start(config)
}

/// Whatever the description allows, and what it does not, has an answer of it, and never an error of the server.
#[test]
fn whatever_is_asked_has_an_answer_of_the_description() {
    let bed = bed("127.0.0.1:0");
    let line = bed.wait_for_log("API listening");
    let (_, url) = line.rsplit_once("admin=").expect("an address");
    let url = url.trim();
    let token = token(&bed, &["--name", "schemathesis"]);
    let program = programs::unpacked("schemathesis", "schemathesis/bin/schemathesis");
    let output = Command::new(program)
        .args(["run", "--no-color", "--max-examples", "25", "--seed", "1", "--phases", "examples,coverage,fuzzing"])
        // What lasts as long as somebody listens has no end to be judged.
        .args(["--exclude-path-regex", "/live$"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--url", url])
        .arg(format!("{url}api/openapi.json"))
        .current_dir(bed.folder())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let start = text
        .find("FAILURES")
        .or(text.find("ERRORS"))
        .unwrap_or(text.len().saturating_sub(4000));
    assert!(output.status.success(), "{}", &text[start..]);
}

/// Each change of very many at a time is wholly there, and so is the history.
#[test]
fn a_hundred_clients_change_one_document() {
    const CLIENTS: usize = 100;
    let bed = bed("admin.sock");
    let secret = token(&bed, &["--name", "many"]);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (bed, secret) = (&bed, &secret);
            scope.spawn(move || {
                let api = Api::new(bed, secret);
                let connector = json!({"name": format!("c{number}"), "direction": "inbound",
                    "from": {"sender-domains": [format!("c{number}.test")]}, "require": {"tls": true}});
                loop {
                    let read = api.get("/api/tenants/contoso/policy");
                    let etag = format!("If-Match: {}", read.header("ETag").expect("an ETag"));
                    let path = "/api/tenants/contoso/connectors";
                    match api.send("POST", path, &[&etag], &connector.to_string()).status {
                        200 => return,
                        412 => {}
                        other => panic!("{other}"),
                    }
                }
            });
        }
    });
    let api = Api::operator(&bed);
    let document: Value = api.get("/api/tenants/contoso/policy").json();
    let connectors = document["connectors"].as_array().expect("connectors");
    assert_eq!(connectors.len(), CLIENTS);
    let versions = api.get("/api/tenants/contoso/versions").json();
    let versions = versions["versions"].as_array().expect("versions").clone();
    let numbers: Vec<u64> = versions
        .iter()
        .filter_map(|it| it["version"].as_u64())
        .collect();
    assert_eq!(numbers, (1..=CLIENTS as u64 + 1).collect::<Vec<_>>());
}
