//! The API, asked by a program that invents requests of its description.

use std::process::Command;

use portcullis_tests::admin::{ADMIN, token, url};
use portcullis_tests::{Config, Listener, NO_RULES, TestBed, programs};

/// Whatever the description allows, and what it does not, has an answer of it, and never an error of the server.
#[test]
fn whatever_is_asked_has_an_answer_of_the_description() {
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", NO_RULES)
        .with(&ADMIN.replace("admin.sock", "127.0.0.1:0"));
    let bed = TestBed::start(config);
    let url = url(&bed);
    let token = token(&bed, &["--name", "schemathesis"]);
    let program = programs::unpacked("schemathesis", "schemathesis/bin/schemathesis");
    let output = Command::new(program)
        .args(["run", "--no-color", "--max-examples", "25", "--seed", "1", "--phases", "examples,coverage,fuzzing"])
        // What lasts as long as somebody listens has no end to be judged.
        .args(["--exclude-path-regex", "/live$"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--url", &url])
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
