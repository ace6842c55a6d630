//! Rules, as the evaluator and the command line read them.

use std::fs;

use portcullis_evaluator::{Policy, Problem, Severity};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use super::{RULES, assert_one_error, edit, edited, list_of, run_on, samples};

/// A refused document has an error, and each problem stands in the document.
fn assert_usable(problems: &[Problem], document: &str) {
    let is_error = |problem: &Problem| problem.severity == Severity::Error;
    assert!(problems.iter().any(is_error));
    let lines: Vec<&str> = document.split('\n').collect();
    for problem in problems {
        assert!(!problem.code.is_empty() && !problem.message.is_empty());
        let line = lines
            .get(problem.line as usize - 1)
            .expect("the line is there");
        let characters = line.chars().count() as u32;
        // Where something is missing, the place is just behind the end.
        assert!(
            (1..=characters + 1).contains(&problem.column),
            "{}:{} {}",
            problem.line,
            problem.column,
            problem.message
        );
        assert!(problem.length >= 1);
    }
}

/// Reads a document that may be anything; what is taken can be asked.
fn configure(document: &str) {
    let document = document.trim_start_matches('\u{feff}');
    match Policy::configure(document) {
        Ok((policy, _)) => assert!(policy.describe(0, 1).connectors.len() <= 1),
        Err(problems) => assert_usable(&problems, document),
    }
}

/// The problems of a document that must have some.
fn refusal(document: &str) -> Vec<Problem> {
    let Err(problems) = Policy::configure(document) else {
        panic!("this was taken: {:.200}", document)
    };
    assert_usable(&problems, document);
    problems
}

fn first_code(document: &str) -> String {
    refusal(document).remove(0).code
}

proptest! {
    #![proptest_config(Config { cases: 3000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn random_bytes_are_no_rules(bytes in vec(any::<u8>(), 0..300)) {
        let document = String::from_utf8_lossy(&bytes);
        // A lone number, true or null is JSON, and still no document.
        prop_assert!(["not-json", "wrong-type"].contains(&&*first_code(&document)));
    }

    #[test]
    fn mutated_rules_are_taken_or_told_about(edits in vec(edit(), 1..5)) {
        configure(&String::from_utf8_lossy(&edited(RULES.as_bytes(), &edits)));
    }
}

#[test]
fn rules_that_were_cut_off_are_told_to_end_too_early() {
    for end in 0..RULES.trim_end().len() {
        let Some(document) = RULES.get(..end) else {
            continue;
        };
        let problems = refusal(document);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].code, "not-json", "{end}");
        assert!(
            problems[0].message.contains("EOF"),
            "{}",
            problems[0].message
        );
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
    let objects = r#"{"a":"#.repeat(200_000) + "1" + &"}".repeat(200_000);
    for (document, code) in [
        (deep.clone(), "wrong-type"),
        (objects.clone(), "missing-field"),
        ("[".repeat(1_000_000), "not-json"),
        (r#"{"a":"#.repeat(1_000_000), "not-json"),
        (format!(r#"{{"connectors": {deep}}}"#), "wrong-type"),
        (format!(r#"{{"connectors": [{objects}]}}"#), "missing-field"),
        (
            format!(r#"{{"connectors": [], "organization": {objects}}}"#),
            "wrong-type",
        ),
        (
            format!(
                r#"{{"connectors": [], "tests": [{{"name": "a", "context": {deep}, "expect": {{}}}}]}}"#
            ),
            "wrong-type",
        ),
    ] {
        let problems = refusal(&document);
        assert!(
            problems.iter().any(|problem| problem.code == code),
            "{document:.60}"
        );
    }
}

/// A document whose only case expects the mail to be accepted, with this beside it.
fn with_expectation(expected: &str) -> String {
    format!(
        r#"{{"connectors": [], "tests": [{{"name": "a",
            "context": {{"direction": "inbound", "mail-from": "a@b.example", "rcpt-to": "c@d.example"}},
            "expect": {{"verdict": "accept", {expected}}}}}]}}"#
    )
}

#[test]
fn an_expectation_that_cannot_be_read_is_not_met() {
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    for expected in [
        r#""code": 1e999"#.to_owned(),
        r#""failed": "\ud800""#.to_owned(),
        format!(r#""connector": {deep}"#),
    ] {
        refusal(&with_expectation(&expected));
    }
}

#[test]
fn a_lone_surrogate_is_not_called_a_string_that_is_no_string() {
    let document = r#"{"connectors": [], "organization": "\ud800"}"#;
    let problems = refusal(document);
    assert_ne!(problems[0].message, "expected a string, found a string");
}

/// A connector with this value in a place where the rules want another.
fn with_requirement(field: &str, value: &str) -> String {
    format!(
        r#"{{"connectors": [{{"name": "A", "direction": "inbound",
            "from": {{"sender-domains": ["a.example"]}}, "{field}": {value}}}]}}"#
    )
}

#[test]
fn huge_strings_and_numbers_are_told_in_short() {
    let long = "x".repeat(1_000_000);
    let digits = "9".repeat(1_000_000);
    let text = format!("\"{long}\"");
    for (document, code) in [
        (
            with_requirement("reply", &format!(r#"{{"code": {digits}}}"#)),
            "malformed-reply",
        ),
        (
            with_requirement("reply", &format!(r#"{{"code": 5{digits}e{digits}}}"#)),
            "malformed-reply",
        ),
        (
            with_requirement("reply", r#"{"code": -550}"#),
            "malformed-reply",
        ),
        (
            with_requirement("reply", r#"{"code": 550.5}"#),
            "malformed-reply",
        ),
        (
            with_requirement("reply", &format!(r#"{{"text": {text}}}"#)),
            "malformed-reply",
        ),
        (
            with_requirement("reply", &format!(r#"{{"enhanced": {text}}}"#)),
            "malformed-reply",
        ),
        (
            with_requirement("require", &format!(r#"{{"source-ips": [{text}]}}"#)),
            "malformed-address",
        ),
        (
            with_requirement(
                "require",
                &format!(r#"{{"source-ips": ["10.0.0.0/{digits}"]}}"#),
            ),
            "malformed-address",
        ),
        (
            with_requirement("require", &format!(r#"{{"certificate-names": [{text}]}}"#)),
            "malformed-domain",
        ),
        (
            with_requirement(
                "require",
                &format!(r#"{{"certificate-fingerprints": [{text}]}}"#),
            ),
            "malformed-fingerprint",
        ),
        (with_requirement("mode", &text), "unknown-value"),
        (with_requirement(&long, "1"), "unknown-field"),
    ] {
        let problem = refusal(&document).remove(0);
        assert_eq!(problem.code, code);
        assert!(problem.message.len() < 300, "{:.400}", problem.message);
        assert!(problem.hint.is_none_or(|hint| hint.len() < 300));
    }
}

#[test]
fn lists_without_number_give_a_bounded_list_of_problems() {
    for (before, item, after, code) in [
        (r#"{"connectors":["#, "7", "]}", "wrong-type"),
        (r#"{"connectors":["#, "{}", "]}", "missing-field"),
        (
            r#"{"connectors":[],"x":0,"#,
            r#""colour":1"#,
            "}",
            "unknown-field",
        ),
        (
            r#"{"connectors":[],"accepted-domains":["#,
            r#""*""#,
            "]}",
            "malformed-domain",
        ),
        (r#"{"connectors":[],"tests":["#, "[]", "]}", "wrong-type"),
    ] {
        let problems = refusal(&list_of(1_000_000, before, item, after));
        assert_eq!(problems.len(), 1001, "{before}");
        assert_eq!(problems[0].code, code);
        assert_eq!(problems[1000].code, "too-many-problems");
    }
}

#[test]
fn enormous_rules_are_read_to_the_end() {
    let numbers = list_of(20_000_000, r#"{"connectors":["#, "12345678", "]}");
    assert_eq!(refusal(&numbers).len(), 1001);
    assert_eq!(first_code(&"\n".repeat(20_000_000)), "not-json");
    let organization = format!(
        r#"{{"connectors":[],"organization":"{}"}}"#,
        "x".repeat(20_000_000)
    );
    let (policy, _) = Policy::configure(&organization).expect("a long name is a name");
    assert_eq!(policy.describe(0, 0).organization.len(), 20_000_000);
}

#[test]
fn fields_without_number_are_counted() {
    let unknown = vec![r#""colour":1"#; 100_000].join(",");
    let known = vec![r#""connectors":[]"#; 100_000].join(",");
    let problems = refusal(&format!("{{{unknown},{known}}}"));
    assert_eq!(problems.len(), 1001);
    assert_eq!(problems[0].code, "unknown-field");
    assert!(
        problems[1000].message.starts_with("198999 more problems"),
        "{}",
        problems[1000].message
    );
}

// On the command line

#[test]
fn check_refuses_garbage_with_a_code_and_a_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.json");
    for (document, code) in [
        (String::new(), "not-json"),
        ("\0".repeat(1000), "not-json"),
        ("[".repeat(1_000_000), "not-json"),
        ("[".repeat(1_000_000) + &"]".repeat(1_000_000), "wrong-type"),
        (
            list_of(20_000_000, r#"{"connectors":["#, "12345678", "]}"),
            "wrong-type",
        ),
        (RULES[..RULES.len() / 2].to_owned(), "not-json"),
    ] {
        fs::write(&path, &document).expect("a file");
        let output = run_on(&["check"], &path);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{document:.60}");
        assert!(text.starts_with(&format!("error[{code}]: ")), "{text:.300}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn check_reads_only_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.json");
    fs::write(&path, b"{\"connectors\": [\xff]}").expect("a file");
    let error = assert_one_error(&run_on(&["check"], &path), "not UTF-8");
    assert_eq!(
        error,
        format!(
            "portcullis: {}:1:17: this is not UTF-8: save the file as UTF-8\n",
            path.display()
        )
    );
    for bytes in samples(vec(128..=255_u8, 1..100), 20) {
        fs::write(&path, &bytes).expect("a file");
        assert_one_error(&run_on(&["check"], &path), &format!("{bytes:?}"));
    }
    assert_one_error(&run_on(&["check"], folder.path()), "a folder");
}
