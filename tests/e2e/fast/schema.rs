//! The published schema of rules documents, against the reader: it refuses nothing that the reader accepts, and nothing
//! passes it whose shape the reader rejects.

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use portcullis_evaluator::{Policy, Severity};
use portcullis_tests::generate;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("a file");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json_files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("the folder");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn validator() -> Validator {
    let schema = read(&root().join("docs/schemas/rules.schema.json"));
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::validator_for(&schema).expect("a schema")
}

fn assert_valid(validator: &Validator, document: &Value) {
    let errors: Vec<String> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{document}");
}

/// The rules of the corpus, with its cases as their tests.
fn corpus() -> Vec<Value> {
    let read_one = |path: PathBuf| {
        let mut file = read(&path);
        let cases = file["cases"].as_array().expect("cases").clone();
        let test = |case: &Value| json!({"name": case["name"], "context": case["context"], "expect": case["verdict"]});
        let mut document = file["rules"].take();
        document["tests"] = cases.iter().map(test).collect();
        document
    };
    json_files("conformance/cases")
        .into_iter()
        .map(read_one)
        .collect()
}

/// The rules documents that people read: examples, and those in the documentation.
fn published() -> Vec<Value> {
    let mut documents = vec![read(&root().join("examples/rules.json"))];
    for name in [
        "README.md",
        "docs/spec.md",
        "docs/policies.md",
        "docs/embedding.md",
    ] {
        let text = fs::read_to_string(root().join(name)).expect("a page");
        let blocks = text.split("```json\n").skip(1);
        documents.extend(
            blocks
                .filter_map(|rest| serde_json::from_str(rest.split("```").next()?).ok())
                .filter(|document: &Value| document.get("connectors").is_some()),
        );
    }
    documents
}

#[test]
fn what_is_published_is_valid() {
    let validator = validator();
    for document in corpus().iter().chain(&published()) {
        assert_valid(&validator, document);
    }
    let documents = [
        json!({"connectors": []}),
        json!({"$schema": "https://example.com/rules.schema.json", "connectors": []}),
    ];
    for document in &documents {
        assert!(Policy::configure(&document.to_string()).is_ok());
        assert_valid(&validator, document);
    }
}

proptest! {
    #![proptest_config(Config { cases: 500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn what_is_made_up_is_valid(rules in generate::rules()) {
        thread_local!(static VALIDATOR: Validator = validator());
        VALIDATOR.with(|validator| assert_valid(validator, &rules));
    }
}

#[test]
fn many_connectors_are_valid() {
    assert_valid(&validator(), &generate::many_rules(500, 7));
}

/// What the reader says of the shape of a document.
fn is_of_shape(code: &str) -> bool {
    matches!(
        code,
        "unknown-field"
            | "missing-field"
            | "wrong-type"
            | "unknown-value"
            | "empty-selector"
            | "malformed-reply"
            | "malformed-fingerprint"
            | "malformed-key"
            | "level-without-names"
            | "names-without-level"
            | "requirement-without-level"
    )
}

#[test]
fn bad_rules_of_bad_shape_are_not_valid() {
    let validator = validator();
    let mut bad = 0;
    for path in json_files("tests/bad-rules") {
        let text = fs::read_to_string(&path).expect("a file");
        let Ok(document) = serde_json::from_str::<Value>(&text) else {
            continue;
        };
        let problems = match Policy::configure(&text) {
            Ok((_, summary)) => summary.warnings,
            Err(problems) => problems,
        };
        // A second field of the same name is lost where JSON becomes a value.
        if problems.iter().any(|problem| is_of_shape(&problem.code)) {
            bad += 1;
            assert!(!validator.is_valid(&document), "{}", path.display());
        }
    }
    assert!(bad >= 6, "{bad}");
}

/// All documents that differ from one in a single place.
fn neighbours(document: &Value) -> Vec<Value> {
    let mut pointers = Vec::new();
    walk(document, String::new(), &mut pointers);
    let others = [
        Value::Null,
        json!(true),
        json!(7),
        json!("x"),
        json!([]),
        json!(["x"]),
        json!({}),
    ];
    let mut found = Vec::new();
    let mut change = |pointer: &str, change: &dyn Fn(&mut Value)| {
        let mut neighbour = document.clone();
        change(neighbour.pointer_mut(pointer).expect("a place"));
        found.push(neighbour);
    };
    for pointer in &pointers {
        for other in &others {
            change(pointer, &|place| *place = other.clone());
        }
        let place = document.pointer(pointer).expect("a place");
        for key in place.as_object().into_iter().flatten().map(|(key, _)| key) {
            change(pointer, &|place| {
                place.as_object_mut().expect("an object").remove(key);
            });
        }
        if place.is_object() {
            change(pointer, &|place| place["colour"] = json!("blue"));
        }
    }
    found
}

fn walk(value: &Value, pointer: String, pointers: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| walk(value, format!("{pointer}/{key}"), pointers)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(number, value)| walk(value, format!("{pointer}/{number}"), pointers)),
        _ => {}
    }
    pointers.push(pointer);
}

/// A document and those around it: the reader and the schema agree about the shape of each.
fn assert_agreed(validator: &Validator, document: &Value) {
    for neighbour in neighbours(document) {
        match Policy::configure(&neighbour.to_string()) {
            Ok(_) => assert_valid(validator, &neighbour),
            Err(problems) => {
                let error = problems
                    .iter()
                    .find(|it| it.severity == Severity::Error && is_of_shape(&it.code));
                if let Some(error) = error {
                    let told = (&error.path, &error.message);
                    assert!(!validator.is_valid(&neighbour), "{told:?}\n{neighbour}");
                }
            }
        }
    }
}

#[test]
fn the_reader_agrees_about_neighbours_of_the_corpus() {
    let validator = validator();
    for document in corpus() {
        // A few cases show all that there is.
        let mut document = document;
        document["tests"].as_array_mut().expect("tests").truncate(3);
        assert_agreed(&validator, &document);
    }
}

#[test]
fn the_reader_agrees_about_neighbours_of_made_up_rules() {
    let validator = validator();
    let mut runner = TestRunner::deterministic();
    for _ in 0..40 {
        let made_up = generate::rules().new_tree(&mut runner);
        assert_agreed(&validator, &made_up.expect("a value").current());
    }
}
