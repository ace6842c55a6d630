//! Sessions share instances of the built-in evaluator: nothing of a question may be left for the next.

use std::fs;
use std::path::Path;

use portcullis_fuzz_targets::Evaluator;
use portcullis_types::Context;
use serde_json::Value;

/// One after the other, as two sessions would ask it.
#[test]
fn no_case_of_the_corpus_leaves_anything_for_another() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/cases");
    let mut files = 0;
    for file in fs::read_dir(folder).expect("the cases") {
        let text = fs::read_to_string(file.expect("a file").path()).expect("a file");
        let corpus: Value = serde_json::from_str(&text).expect("cases");
        let evaluator = Evaluator::new(&corpus["rules"].to_string());
        let cases = corpus["cases"].as_array().expect("cases");
        let contexts: Vec<Context> = cases.iter().map(context).collect();
        let following = contexts.iter().cycle().skip(1);
        for (one, next) in contexts.iter().zip(following) {
            evaluator.forgets(one, next);
            evaluator.forgets(next, one);
        }
        files += 1;
    }
    assert!(files > 20, "{files} files of cases");
}

/// What does not fit into the memory for a call makes the instance's memory grow.
#[test]
fn large_facts_leave_nothing() {
    let evaluator = Evaluator::new(r#"{"connectors": []}"#);
    let small = facts("a.test");
    let large = facts(&vec!["name.test"; 20_000].join("."));
    evaluator.forgets(&large, &small);
    evaluator.forgets(&large, &large);
}

fn facts(sender: &str) -> Context {
    let facts = serde_json::json!({
        "direction": "inbound", "mail-from": sender, "rcpt-to": "contoso.com",
    });
    portcullis_types::parse_context(&facts.to_string()).expect("facts")
}

fn context(case: &Value) -> Context {
    let context = portcullis_types::parse_context(&case["context"].to_string());
    context.unwrap_or_else(|error| panic!("{}: {error}", case["name"]))
}
