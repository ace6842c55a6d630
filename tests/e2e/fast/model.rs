//! The evaluator against the slow model of the rules, on rules and facts that were made up.

use std::fs;

use portcullis_evaluator::Policy;
use portcullis_tests::{generate, model, run};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

/// A document whose own tests are these contexts with the model's verdicts: it is accepted if the
/// evaluator gives the same.
fn with_model_as_tests(rules: &Value, contexts: &[Value]) -> String {
    let tests = contexts.iter().enumerate().map(|(number, context)| {
        json!({"name": number.to_string(), "context": context, "expect": model::verdict(rules, context)})
    });
    let mut document = rules.clone();
    document["tests"] = tests.collect();
    document.to_string()
}

/// The messages of the evaluator's problems, with the verdicts that it gave instead.
fn disagreements(document: &str) -> Vec<String> {
    match Policy::configure(document) {
        Ok(_) => Vec::new(),
        Err(problems) => problems
            .into_iter()
            .map(|problem| format!("{} ({:?}, {})", problem.message, problem.hint, problem.path))
            .collect(),
    }
}

proptest! {
    #![proptest_config(Config { cases: 2000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_evaluator_decides_as_the_model(
        rules in generate::rules(),
        contexts in proptest::collection::vec(generate::context(), 4),
    ) {
        let document = with_model_as_tests(&rules, &contexts);
        prop_assert_eq!(disagreements(&document), Vec::<String>::new());
    }
}

fn assert_agreement_on_many(connectors: usize, contexts: u64) {
    let rules = generate::many_rules(connectors, 7);
    let contexts: Vec<Value> = (0..contexts)
        .map(|number| generate::context_for(connectors, number))
        .collect();
    let document = with_model_as_tests(&rules, &contexts);
    assert_eq!(disagreements(&document), Vec::<String>::new());
}

#[test]
fn many_connectors_are_decided_on_as_the_model_does() {
    assert_agreement_on_many(2000, 300);
}

#[test]
fn a_hundred_thousand_connectors_are_decided_on_as_the_model_does() {
    assert_agreement_on_many(100_000, 60);
}

/// One random value of a strategy; the same in every run.
fn sample<S: Strategy>(runner: &mut TestRunner, strategy: S) -> S::Value {
    strategy.new_tree(runner).expect("a value").current()
}

#[test]
fn document_component_and_model_agree() {
    let mut runner = TestRunner::deterministic();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for _ in 0..15 {
        let rules = sample(&mut runner, generate::rules());
        let contexts = sample(
            &mut runner,
            proptest::collection::vec(generate::context(), 200),
        );
        fs::write(path("rules.json"), rules.to_string()).expect("a file");
        let built = run(
            &["build", &path("rules.json"), "-o", &path("policy.wasm")],
            b"",
        );
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let lines: Vec<String> = contexts.iter().map(Value::to_string).collect();
        let evaluate = |policy: &str| {
            let output = run(&["evaluate", &path(policy)], lines.join("\n").as_bytes());
            String::from_utf8(output.stdout).expect("UTF-8")
        };
        let verdicts = evaluate("rules.json");
        assert_eq!(verdicts, evaluate("policy.wasm"));
        assert_eq!(verdicts.lines().count(), contexts.len());
        for (context, line) in contexts.iter().zip(verdicts.lines()) {
            let mut verdict: Value = serde_json::from_str(line).expect("JSON");
            verdict.as_object_mut().expect("an object").remove("text");
            assert_eq!(
                verdict,
                model::verdict(&rules, context),
                "{rules}\n{context}"
            );
        }
    }
}
