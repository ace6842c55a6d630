//! A way to a verdict, behind the protocol of the conformance kit: `conformance-way WAY`.

use std::io::{Write, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

use portcullis_tests::ways::{self, Answer, Loaded, Way};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some(mut way) = ways::named(&name) else {
        eprintln!("conformance-way: there is no way {name:?}");
        return ExitCode::from(2);
    };
    for line in stdin().lines().map_while(Result::ok) {
        let question: Value = serde_json::from_str(&line).expect("a question is JSON");
        let said = answer(&mut *way, &question);
        writeln!(stdout(), "{said}").expect("the runner reads");
    }
    ExitCode::SUCCESS
}

fn answer(way: &mut dyn Way, question: &Value) -> Value {
    if question["conformance"].is_string() {
        return json!({ "name": way.name(), "smtp": way.is_smtp() });
    }
    if question["load"].is_string() {
        let domains = question["recipient-domains"].as_array().expect("domains");
        let loaded = way.load(&Loaded {
            rules: &question["rules"],
            component: question["component"].as_str().map(Path::new),
            domains: domains.iter().filter_map(Value::as_str).collect(),
        });
        return match loaded {
            Ok(()) => json!({ "loaded": true }),
            Err(error) => json!({ "error": error }),
        };
    }
    match way.ask(&question["context"]) {
        Answer::Verdict(verdict) => json!({ "verdict": verdict }),
        Answer::Reply(reply) => json!({ "reply": reply }),
        Answer::Skip(reason) => json!({ "skip": reason }),
        Answer::Error(error) => json!({ "error": error }),
    }
}
