//! The evaluator by its native interface: against the corpus of verdicts, against the slow model of the rules, and
//! against itself.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "tests end where something is not as expected"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use portcullis_evaluator::{
    Consideration, Context, Fact, Mode, Outcome, Policy, Problem, Severity, Verdict,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use generate::Filling;
use model::Truth;

#[path = "support/generate.rs"]
mod generate;
#[path = "support/model.rs"]
mod model;

fn configure(rules: &Value) -> Policy {
    let configured = Policy::configure(&rules.to_string());
    let (policy, _) = configured.unwrap_or_else(|problems| {
        let messages: Vec<_> = problems
            .into_iter()
            .map(|it| (it.path, it.message))
            .collect();
        panic!("{messages:#?}\n{rules}")
    });
    policy
}

fn read_context(context: &Value) -> Context {
    let read = portcullis_types::parse_context(&context.to_string());
    read.unwrap_or_else(|error| panic!("{error}: {context}"))
        .into()
}

/// A verdict as JSON, as hosts print it.
fn to_json(verdict: Verdict) -> Value {
    serde_json::to_value(portcullis_types::Verdict::from(verdict)).expect("JSON")
}

/// The verdict, and the text of a refusal by itself: what it says is nobody's business but its reader's.
fn evaluate(policy: &Policy, context: &Value) -> (Value, String) {
    let mut verdict = to_json(policy.evaluate(&read_context(context)));
    let text = verdict.as_object_mut().expect("an object").remove("text");
    let text = text.map_or_else(String::new, |text| {
        text.as_str().expect("a text").to_owned()
    });
    (verdict, text)
}

// The corpus

struct File {
    name: String,
    rules: Value,
    cases: Vec<Value>,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name)
}

/// The paths of a folder's JSON files, with their names.
fn json_files(name: &str) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(folder(name)).expect("the folder");
    let mut files: Vec<(String, PathBuf)> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "json"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy();
            (name.into_owned(), path.clone())
        })
        .collect();
    files.sort();
    files
}

fn corpus() -> Vec<File> {
    let read = |(name, path): (String, PathBuf)| {
        let text = fs::read_to_string(path).expect("a file");
        let mut file: Value = serde_json::from_str(&text).expect("JSON");
        File {
            name,
            rules: file["rules"].take(),
            cases: file["cases"].as_array().expect("cases").clone(),
        }
    };
    json_files("conformance/cases")
        .into_iter()
        .map(read)
        .collect()
}

/// A verdict with all that its JSON may leave out.
fn in_full(verdict: &Value) -> Value {
    let mut verdict = verdict.clone();
    portcullis_types::write_defaults(&mut verdict);
    verdict
}

#[test]
fn the_evaluator_gives_the_verdicts_of_the_corpus() {
    for file in corpus() {
        let policy = configure(&file.rules);
        for case in &file.cases {
            let (verdict, _) = evaluate(&policy, &case["context"]);
            let expected = in_full(&case["verdict"]);
            assert_eq!(
                in_full(&verdict),
                expected,
                "{}: {}",
                file.name,
                case["name"]
            );
        }
    }
}

#[test]
fn the_cases_of_the_corpus_pass_as_tests_of_their_documents() {
    for file in corpus() {
        let mut document = file.rules.clone();
        let test = |case: &Value| json!({"name": case["name"], "context": case["context"], "expect": case["verdict"]});
        document["tests"] = file.cases.iter().map(test).collect();
        configure(&document);
    }
}

#[test]
fn the_model_gives_the_verdicts_of_the_corpus() {
    for file in corpus() {
        for case in &file.cases {
            let verdict = model::verdict(&file.rules, &case["context"]);
            let expected = in_full(&case["verdict"]);
            assert_eq!(
                in_full(&verdict),
                expected,
                "{}: {}",
                file.name,
                case["name"]
            );
        }
    }
}

// The model

/// Rules with some contexts for them.
fn rules_and_contexts() -> impl Strategy<Value = (Value, Vec<Value>)> {
    let contexts = proptest::collection::vec(generate::context(), 8);
    (generate::rules(), contexts)
}

fn cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn the_evaluator_decides_as_the_model((rules, contexts) in rules_and_contexts()) {
        let policy = configure(&rules);
        for context in contexts {
            let (verdict, _) = evaluate(&policy, &context);
            prop_assert_eq!(verdict, model::verdict(&rules, &context), "{}\n{}", rules, context);
        }
    }
}

/// What is remarkable in a verdict: its kind and the requirement that failed, and what is in audit mode.
fn features(verdict: &Value) -> Vec<String> {
    let kind = verdict["verdict"].as_str().expect("a kind");
    let failed = verdict["failed"].as_str().unwrap_or("nothing");
    let mut found = vec![format!("{kind}: {failed}")];
    let findings = verdict["audit"].as_array().into_iter().flatten();
    found.extend(findings.map(|finding| {
        let failed = finding["failed"].as_str().expect("a requirement");
        format!("audit: {failed}")
    }));
    for field in ["audit-tls", "audit-connector"] {
        found.extend(verdict.get(field).map(|_| format!("deliver: {field}")));
    }
    let options = verdict["tls"].as_object().into_iter().flatten();
    found.extend(options.map(|(option, _)| format!("tls: {option}")));
    found
}

/// Tests of made-up rules show nothing about what is not made up often enough.
#[test]
fn all_that_a_verdict_can_be_is_made_up_often() {
    let mut runner = TestRunner::deterministic();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..200 {
        let made_up = rules_and_contexts().new_tree(&mut runner);
        let (rules, contexts) = made_up.expect("a value").current();
        for context in contexts {
            for feature in features(&model::verdict(&rules, &context)) {
                *counts.entry(feature).or_default() += 1;
            }
        }
    }
    let failures = [
        "tls",
        "tls-version",
        "certificate-missing",
        "certificate-fingerprint",
        "certificate-key",
        "certificate-untrusted",
        "certificate-authority",
        "certificate-name",
        "source-ip",
    ];
    let rejections = failures.map(|failed| format!("reject: {failed}"));
    let findings = failures.map(|failed| format!("audit: {failed}"));
    let others = [
        "accept: nothing",
        "defer: fact-unavailable",
        "audit: fact-unavailable",
        "deliver: nothing",
        "deliver: audit-tls",
        "deliver: audit-connector",
        "tls: names",
        "tls: min-version",
        "tls: certificate-fingerprints",
        "tls: certificate-keys",
        "tls: certificate-authorities",
    ];
    let all = rejections
        .into_iter()
        .chain(findings)
        .chain(others.map(str::to_owned));
    let rare: Vec<String> = all
        .filter(|it| counts.get(it).is_none_or(|count| *count < 5))
        .collect();
    assert_eq!(rare, Vec::<String>::new(), "{counts:#?}");
}

/// A document whose own tests are these contexts with the model's verdicts.
fn with_model_as_tests(rules: &Value, contexts: &[Value]) -> Value {
    let test = |(number, context): (usize, &Value)| {
        let expected = model::verdict(rules, context);
        json!({"name": number.to_string(), "context": context, "expect": expected})
    };
    let mut document = rules.clone();
    document["tests"] = contexts.iter().enumerate().map(test).collect();
    document
}

proptest! {
    #![proptest_config(cases(500))]

    /// A document's tests are read by another reader than the contexts that hosts ask about.
    #[test]
    fn verdicts_of_the_model_pass_as_tests_of_the_document((rules, contexts) in rules_and_contexts()) {
        configure(&with_model_as_tests(&rules, &contexts));
    }
}

fn assert_agreement_on_many(connectors: usize, contexts: u64) {
    let rules = generate::many_rules(connectors, 7);
    let policy = configure(&rules);
    for number in 0..contexts {
        let context = match number % 2 {
            0 => generate::context_for(connectors, number),
            _ => generate::hidden_context_for(connectors, number),
        };
        let (verdict, _) = evaluate(&policy, &context);
        assert_eq!(verdict, model::verdict(&rules, &context), "{context}");
    }
}

/// Labels with an unassigned character in them (RFC 5891 section 4.2), as they are and in ASCII. Other rules of IDNA say
/// what may be registered, and not what is compared (RFC 9525 section 6.3).
#[test]
fn a_certificate_name_that_cannot_be_mapped_matches_nothing() {
    let require = json!({"certificate-names": ["*.bank.example"]});
    let rules = json!({"connectors": [inbound("Bank", json!({"sender-domains": ["*"]}), require)]});
    let policy = configure(&rules);
    let is_accepted = |label: &str| {
        let names = json!([format!("{label}.bank.example")]);
        let context = context_with(&with_certificate(
            json!({"trust": "trusted", "dns-names": names}),
        ));
        let (verdict, _) = evaluate(&policy, &context);
        verdict["verdict"] == "accept"
    };
    let forbidden = ["\u{378}", "xn--", "xn--a"];
    let accepted: Vec<&str> = forbidden
        .into_iter()
        .filter(|label| is_accepted(label))
        .collect();
    assert_eq!(accepted, Vec::<&str>::new());
    assert!(is_accepted("xn--bcher-kva"), "what it allows does match");
}

#[test]
fn an_empty_label_in_front_makes_another_name_in_every_script() {
    for domain in ["bank.example", "bänk.example"] {
        let from = json!({"sender-domains": [domain]});
        let policy =
            configure(&json!({"connectors": [inbound("Bank", from, json!({"tls": true}))]}));
        let is_refused = |sender: &str| {
            let (verdict, _) = evaluate(&policy, &context_with(&json!({"mail-from": sender})));
            verdict["verdict"] == "reject"
        };
        assert!(is_refused(&format!("a@{domain}")));
        assert!(!is_refused(&format!("a@.{domain}")), "{domain}");
    }
}

#[test]
fn many_connectors_are_decided_on_as_the_model_does() {
    assert_agreement_on_many(2000, 400);
}

#[test]
fn a_hundred_thousand_connectors_are_decided_on_as_the_model_does() {
    assert_agreement_on_many(100_000, 60);
}

// Unknown facts

proptest! {
    #![proptest_config(cases(2000))]

    /// What is decided although facts are unknown is decided the same way whatever they are.
    #[test]
    fn no_unknown_fact_would_have_changed_a_verdict_that_is_given_without_it(
        (rules, contexts) in rules_and_contexts(),
        fillings in proptest::collection::vec(generate::filling(), 4),
    ) {
        let policy = configure(&rules);
        for context in contexts {
            let (verdict, _) = evaluate(&policy, &context);
            for filling in &fillings {
                assert_filling_agrees(&policy, &context, &verdict, filling)?;
            }
        }
    }
}

fn assert_filling_agrees(
    policy: &Policy,
    context: &Value,
    verdict: &Value,
    filling: &Filling,
) -> Result<(), TestCaseError> {
    let filled = filling.fill(context);
    let (with_all_known, _) = evaluate(policy, &filled);
    let unavailable = with_all_known["failed"] == "fact-unavailable";
    prop_assert!(!unavailable, "nothing is unknown in {filled}");
    let is_decided = verdict["verdict"] != "defer";
    if is_decided {
        prop_assert_eq!(
            &verdict["verdict"],
            &with_all_known["verdict"],
            "{}\n{}",
            context,
            filled
        );
    }
    Ok(())
}

/// What the text of a deferral calls an unknown fact, and whether that is unknown in the context.
fn is_unknown(words: &str, context: &Value) -> bool {
    let tls = &context["tls"];
    let certificate = &tls["certificate"];
    let is_hidden = |part: &str| {
        let hidden = certificate["unknown"].as_array();
        hidden.is_some_and(|hidden| hidden.iter().any(|it| it == part))
    };
    let is_digest_hidden =
        |part: &str| is_hidden(part) || certificate.is_object() && certificate[part].is_null();
    match words {
        "the client's address" => context["client-ip"] == "unknown",
        "the From header" => context["header-from"] == "unknown",
        "whether the session is encrypted" => *tls == "unknown",
        "the TLS version" => tls["version"] == "unknown",
        "whether the client has shown a certificate" => *certificate == "unknown",
        "what names the client certificate has" => is_hidden("dns-names"),
        "the fingerprint of the client certificate" => is_digest_hidden("sha256"),
        "the public key of the client certificate" => is_digest_hidden("key-sha256"),
        "whether the client certificate is trusted" => is_hidden("trust"),
        "which authority has issued the client certificate" => {
            is_hidden("anchor") || is_hidden("trust") && certificate["anchor"].is_null()
        }
        other => panic!("no such fact: {other}"),
    }
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn a_deferral_names_a_fact_that_is_unknown((rules, contexts) in rules_and_contexts()) {
        let policy = configure(&rules);
        for context in contexts {
            let (verdict, text) = evaluate(&policy, &context);
            if verdict["verdict"] == "defer" {
                let told = text.strip_suffix(" is not known here").and_then(|it| it.rsplit_once(": "));
                let (_, fact) = told.expect("the text names a fact");
                prop_assert!(is_unknown(fact, &context), "{}\n{}\n{}", text, rules, context);
            }
        }
    }
}

// Other ways to the same verdict

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn packed_rules_give_the_same_verdicts((rules, contexts) in rules_and_contexts()) {
        let policy = configure(&rules);
        let loaded = Policy::load_packed(policy.packed().to_vec()).expect("our own rules");
        prop_assert_eq!(loaded.packed(), policy.packed());
        for context in contexts.iter().map(read_context) {
            prop_assert_eq!(loaded.evaluate(&context), policy.evaluate(&context));
        }
    }

    #[test]
    fn a_description_has_the_facts_and_the_authorities_of_all_enabled_connectors((rules, _) in rules_and_contexts()) {
        let description = configure(&rules).describe(0, u32::MAX);
        let enabled = description.connectors.iter().filter(|it| it.mode != Mode::Disabled);
        let mut facts: Vec<Fact> = enabled.flat_map(|it| it.reads.clone()).collect();
        facts.sort_by_key(|fact| *fact as u8);
        facts.dedup();
        prop_assert_eq!(&description.reads, &facts, "{}", rules);
        let mut named: Vec<(String, String)> = Vec::new();
        for connector in rules["connectors"].as_array().expect("a list") {
            let part = ["require", "tls"].map(|part| &connector[part]["certificate-authorities"]);
            let names = part.into_iter().filter_map(Value::as_array).flatten();
            for name in names.filter(|_| connector["mode"] != "disabled" && connector["enabled"] != false) {
                let name = name.as_str().expect("a name").to_owned();
                if !named.iter().any(|(known, _)| *known == name) {
                    named.push((name, connector["name"].as_str().expect("a name").to_owned()));
                }
            }
        }
        let found = description.authorities.into_iter().map(|it| (it.name, it.connector));
        prop_assert_eq!(found.collect::<Vec<_>>(), named, "{}", rules);
    }

    #[test]
    fn an_explanation_gives_the_same_verdict_and_the_reasons_of_the_model((rules, contexts) in rules_and_contexts()) {
        let policy = configure(&rules);
        for context in contexts {
            let read = read_context(&context);
            let explanation = policy.explain(&read);
            prop_assert_eq!(&explanation.verdict, &policy.evaluate(&read));
            let verdict = to_json(explanation.verdict);
            for consideration in &explanation.considered {
                assert_reasons(&rules, &context, &verdict, consideration)?;
            }
        }
    }
}

fn outcome(truth: Truth) -> Outcome {
    match truth {
        Truth::Yes => Outcome::Yes,
        Truth::No => Outcome::No,
        Truth::Unknown => Outcome::Unknown,
    }
}

fn assert_reasons(
    rules: &Value,
    context: &Value,
    verdict: &Value,
    found: &Consideration,
) -> Result<(), TestCaseError> {
    let name = &found.connector;
    let applying: BTreeMap<String, Truth> = model::applying(rules, context).into_iter().collect();
    let applies = applying.get(name).copied().unwrap_or(Truth::No);
    prop_assert_eq!(
        found.matched,
        outcome(applies),
        "{} in {}\n{}",
        name,
        rules,
        context
    );
    if applies == Truth::No || context["direction"] == "outbound" {
        return Ok(());
    }
    let told: Vec<(&str, Outcome)> = found
        .requirements
        .iter()
        .map(|it| (it.requirement.as_str(), it.satisfied))
        .collect();
    // That a chain must end at the ordinary roots may go without saying.
    let is_told = |requirement: &str| told.iter().any(|(it, _)| *it == requirement);
    let required: Vec<(&str, Outcome)> = model::requirements_of(rules, name, context)
        .into_iter()
        .filter(|(requirement, _)| *requirement != "certificate-authority" || is_told(requirement))
        .map(|(requirement, holds)| (requirement, outcome(holds)))
        .collect();
    prop_assert_eq!(&told, &required, "{} in {}\n{}", name, rules, context);
    if verdict["verdict"] == "reject" && verdict["connector"] == json!(name) {
        let violated = told.iter().find(|(_, satisfied)| *satisfied == Outcome::No);
        let violated = violated.map(|(requirement, _)| json!(requirement));
        prop_assert_eq!(
            violated.as_ref(),
            Some(&verdict["failed"]),
            "{} in {}\n{}",
            name,
            rules,
            context
        );
    }
    Ok(())
}

#[test]
fn the_authority_that_mail_is_refused_for_is_in_the_explanation_though_trust_is_unknown() {
    let policy = configure(&json!({"connectors": [inbound(
        "Bank",
        json!({"sender-domains": ["bank.example"]}),
        json!({"certificate-names": ["*.bank.example"]}),
    )]}));
    let context = json!({
        "direction": "inbound", "mail-from": "a@bank.example", "rcpt-to": "b@contoso.com",
        "tls": {"version": "TLSv1.3", "certificate": {
            "dns-names": ["mx.bank.example"], "anchor": "Bank CA", "unknown": ["trust"]}},
    });
    let (verdict, _) = evaluate(&policy, &context);
    assert_eq!(verdict["failed"], "certificate-authority");
    let explanation = policy.explain(&read_context(&context));
    let told: Vec<&str> = explanation.considered[0]
        .requirements
        .iter()
        .filter(|it| it.satisfied == Outcome::No)
        .map(|it| it.requirement.as_str())
        .collect();
    assert_eq!(told, ["certificate-authority"]);
}

// Documents

/// A context with these facts beside those that every context has.
fn context_with(facts: &Value) -> Value {
    let mut context = json!({
        "direction": "inbound", "client-ip": "192.0.2.1", "mail-from": "a@bank.example", "rcpt-to": "b@contoso.com",
    });
    for (fact, value) in facts.as_object().expect("an object") {
        context[fact] = value.clone();
    }
    context
}

fn with_certificate(certificate: Value) -> Value {
    json!({"tls": {"version": "TLSv1.3", "certificate": certificate}})
}

/// Whether it is read where hosts ask about it, and whether as a test of a document.
fn is_read(context: &Value) -> (bool, bool) {
    let test = json!({"name": "test", "context": context, "expect": {"verdict": "accept"}});
    let document = json!({"connectors": [], "tests": [test]}).to_string();
    let asked = portcullis_types::parse_context(&context.to_string());
    (asked.is_ok(), Policy::configure(&document).is_ok())
}

#[test]
fn facts_that_are_none_are_refused_by_both_readers_of_contexts() {
    for facts in [
        json!({"client-ip": "Unknown"}),
        json!({"client-ip": ""}),
        json!({"tls": "no"}),
        json!({"tls": {"version": "TLSv9"}}),
        json!({"tls": {"certificate": "unknown"}}),
        json!({"tls": {"version": "TLSv1.3", "certificate": "none"}}),
        json!({"header-from": "a@bank.example"}),
        json!({"header-from": ["unknown", "a@b@c"]}),
        json!({"mail-from": "a b@bank.example"}),
        json!({"colour": "unknown"}),
        with_certificate(json!({})),
        with_certificate(json!({"trust": "good"})),
        with_certificate(json!({"trust": "trusted", "unknown": "anchor"})),
        with_certificate(json!({"trust": "trusted", "unknown": ["subject"]})),
        with_certificate(json!({"trust": "trusted", "unknown": ["Trust"]})),
        with_certificate(json!({"trust": "trusted", "key-sha256": "12:34"})),
        with_certificate(json!({"trust": "trusted", "anchor": 1})),
        with_certificate(json!({"trust": "trusted", "anchor": [1]})),
        // `null` could be meant for what is absent as well as for what is unknown.
        json!({"client-ip": null}),
        json!({"helo": null}),
        json!({"tls": null}),
        json!({"header-from": null}),
        json!({"header-from": [null]}),
        json!({"mail-from": null}),
        json!({"direction": "outbound", "mail-from": null}),
        json!({"tls": {"version": null}}),
        json!({"tls": {"version": "TLSv1.3", "cipher": null}}),
        json!({"tls": {"version": "TLSv1.3", "certificate": null}}),
        with_certificate(json!({"trust": null})),
        with_certificate(json!({"trust": null, "unknown": ["trust"]})),
        with_certificate(json!({"trust": "trusted", "dns-names": null})),
        with_certificate(json!({"trust": "trusted", "subject": null})),
        with_certificate(json!({"trust": "trusted", "issuer": null})),
        with_certificate(json!({"trust": "trusted", "sha256": null})),
        with_certificate(json!({"trust": "trusted", "key-sha256": null})),
        with_certificate(json!({"trust": "trusted", "not-after": null})),
        with_certificate(json!({"trust": "trusted", "anchor": null})),
        with_certificate(json!({"trust": "trusted", "unknown": null})),
        // What is listed as unknown is a fact still where it stands.
        with_certificate(json!({"trust": "good", "unknown": ["trust"]})),
        with_certificate(json!({"trust": "trusted", "sha256": "12:34", "unknown": ["sha256"]})),
        with_certificate(json!({"trust": "trusted", "dns-names": "x", "unknown": ["dns-names"]})),
        with_certificate(json!({"trust": "trusted", "anchor": 1, "unknown": ["anchor"]})),
    ] {
        assert_eq!(is_read(&context_with(&facts)), (false, false), "{facts}");
    }
}

#[test]
fn facts_that_are_unknown_are_read_by_both_readers_of_contexts() {
    for facts in [
        json!({"client-ip": "unknown", "tls": "unknown", "header-from": "unknown"}),
        json!({"tls": {"version": "unknown", "certificate": "unknown"}}),
        with_certificate(json!({"unknown": ["trust"]})),
        with_certificate(json!({"trust": "trusted", "unknown": []})),
        with_certificate(
            json!({"trust": "trusted", "anchor": [], "unknown": ["anchor", "anchor"]}),
        ),
        with_certificate(
            json!({"trust": "expired", "key-sha256": DIGEST.to_uppercase(), "unknown": ["key-sha256"]}),
        ),
        with_certificate(
            json!({"unknown": ["dns-names", "sha256", "key-sha256", "not-after", "trust", "anchor"]}),
        ),
    ] {
        assert_eq!(is_read(&context_with(&facts)), (true, true), "{facts}");
    }
}

/// What the command line prints of a problem: its code and message, its line and path, and its hint. The column is not
/// compared: of a long line only a part is printed.
fn printed(problem: &Problem, file: &str) -> Vec<String> {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut lines = vec![
        format!("{severity}[{}]: {}", problem.code, problem.message),
        format!("--> {file}.json:{}", problem.line),
    ];
    if !problem.path.is_empty() {
        lines.push(format!("^ {}", problem.path));
    }
    lines.extend(problem.hint.iter().map(|hint| format!("= help: {hint}")));
    lines
}

/// The same of what the command line printed.
fn printed_lines(output: &str) -> Vec<String> {
    let lines = output
        .lines()
        .map(|line| line.trim_start_matches([' ', '|']));
    lines
        .filter_map(|line| {
            if line.starts_with("--> ") {
                return line.rsplit_once(':').map(|(line, _column)| line.to_owned());
            }
            if line.starts_with('^') {
                let path = line.trim_start_matches('^').trim_start();
                return (!path.is_empty()).then(|| format!("^ {path}"));
            }
            let begins = ["error[", "warning[", "= help: "];
            let is_told = begins.iter().any(|begin| line.starts_with(begin));
            is_told.then(|| line.to_owned())
        })
        .collect()
}

fn problems(document: &str) -> Vec<Problem> {
    match Policy::configure(document) {
        Ok((_, summary)) => summary.warnings,
        Err(problems) => problems,
    }
}

#[test]
fn what_is_wrong_with_a_document_is_told_as_on_the_command_line() {
    let mut found = Vec::new();
    let mut expected = Vec::new();
    for (name, path) in json_files("tests/bad-rules") {
        let document = fs::read_to_string(&path).expect("a document");
        let output = fs::read_to_string(path.with_extension("expected")).expect("what is printed");
        found.extend(
            problems(&document)
                .iter()
                .flat_map(|problem| printed(problem, &name)),
        );
        expected.extend(printed_lines(&output));
    }
    let missing: Vec<&String> = expected
        .iter()
        .filter(|line| !found.contains(line))
        .collect();
    let surplus: Vec<&String> = found
        .iter()
        .filter(|line| !expected.contains(line))
        .collect();
    assert!(
        found == expected,
        "missing: {missing:#?}\nsurplus: {surplus:#?}"
    );
}

/// The codes of the problems of a document with these connectors, with their paths.
fn codes(connectors: Value) -> Vec<(String, String)> {
    codes_of(&json!({"accepted-domains": ["contoso.com"], "connectors": connectors}))
}

fn codes_of(document: &Value) -> Vec<(String, String)> {
    problems(&document.to_string())
        .into_iter()
        .map(|problem| (problem.code, problem.path))
        .collect()
}

fn one_problem(code: &str, path: &str) -> Vec<(String, String)> {
    vec![(code.to_owned(), path.to_owned())]
}

fn inbound(name: &str, from: Value, require: Value) -> Value {
    json!({"name": name, "direction": "inbound", "from": from, "require": require})
}

fn outbound(name: &str, domain: &str, tls: Value) -> Value {
    json!({"name": name, "direction": "outbound", "to": {"recipient-domains": [domain]}, "tls": tls})
}

fn in_audit_mode(mut connector: Value) -> Value {
    connector["mode"] = json!("audit");
    connector
}

const DIGEST: &str = "5d2e0f6b8f0a7c1e94b3d6a2c8e7f1054b9d3c6e8a1f7052d4c3b2a190e8f7d6";

#[test]
fn a_digest_or_an_authority_that_is_none_is_an_error() {
    for (field, item, code) in [
        ("certificate-fingerprints", "12:34", "malformed-fingerprint"),
        ("certificate-keys", "12:34", "malformed-key"),
        ("certificate-keys", &DIGEST[1..], "malformed-key"),
        ("certificate-authorities", "", "malformed-authority"),
        ("certificate-authorities", "a\nb", "malformed-authority"),
    ] {
        let domains = json!({"sender-domains": ["bank.example"]});
        let require = inbound("Bank", domains, json!({field: [item]}));
        let path = format!("connectors[0].require.{field}[0]");
        assert_eq!(codes(json!([require])), one_problem(code, &path), "{item}");

        let tls = outbound(
            "To bank",
            "bank.example",
            json!({"level": "encrypt", field: [item]}),
        );
        let path = format!("connectors[0].tls.{field}[0]");
        assert_eq!(codes(json!([tls])), one_problem(code, &path), "{item}");
    }
}

#[test]
fn a_list_of_pins_or_authorities_must_not_be_empty() {
    for field in [
        "certificate-fingerprints",
        "certificate-keys",
        "certificate-authorities",
    ] {
        let tls = outbound(
            "To bank",
            "bank.example",
            json!({"level": "encrypt", field: []}),
        );
        let path = format!("connectors[0].tls.{field}");
        assert_eq!(codes(json!([tls])), one_problem("empty-selector", &path));
    }
}

#[test]
fn what_is_required_of_tls_needs_a_level_that_requires_tls() {
    for (field, value) in [
        ("min-version", json!("TLSv1.3")),
        ("certificate-fingerprints", json!([DIGEST])),
        ("certificate-keys", json!([DIGEST])),
        ("certificate-authorities", json!(["Bank CA"])),
    ] {
        let with = |level: &str| {
            let tls = json!({"level": level, field: value});
            codes(json!([outbound("To bank", "bank.example", tls)]))
        };
        let path = format!("connectors[0].tls.{field}");
        assert_eq!(
            with("opportunistic"),
            one_problem("requirement-without-level", &path)
        );
        assert_eq!(with("encrypt"), []);
        assert_eq!(with("verify"), []);
    }
}

#[test]
fn a_connector_in_audit_mode_may_stand_beside_an_enforced_one() {
    let domains = json!({"sender-domains": ["bank.example"]});
    let require = json!({"source-ips": ["192.0.2.0/24"]});
    let enforced = inbound("Now", domains.clone(), require.clone());
    let audited = in_audit_mode(inbound("Next", domains.clone(), require.clone()));
    assert_eq!(codes(json!([enforced, audited])), []);
    let third = in_audit_mode(inbound("And another", domains, require));
    assert_eq!(
        codes(json!([enforced, audited, third])),
        one_problem("duplicate-connector", "connectors[2]")
    );

    let enforced = outbound("Out now", "*.bank.example", json!({"level": "encrypt"}));
    let audited = in_audit_mode(outbound(
        "Out next",
        "*.bank.example",
        json!({"level": "verify"}),
    ));
    assert_eq!(codes(json!([enforced, audited])), []);
    let mut third = audited.clone();
    third["name"] = json!("Out after that");
    third["to"]["recipient-domains"] = json!(["*.bank.example", "other.example"]);
    assert_eq!(
        codes(json!([enforced, audited, third])),
        one_problem(
            "duplicate-outbound-domain",
            "connectors[2].to.recipient-domains"
        )
    );
}

/// A lock-down to a filter's range, beside a partner.
fn beside_lock_down(partner: Value) -> Vec<(String, String)> {
    let filter = inbound(
        "Filter",
        json!({"sender-domains": ["*"]}),
        json!({"source-ips": ["198.51.100.0/24"]}),
    );
    codes(json!([filter, partner]))
}

#[test]
fn a_partner_who_is_let_pass_but_refused_by_a_lock_down_is_warned_of() {
    let warned = one_problem("refused-by-wider", "connectors[1]");
    let domains = json!({"sender-domains": ["bank.example"]});
    for require in [
        json!({"certificate-names": ["*.bank.example"]}),
        json!({"certificate-keys": [DIGEST]}),
        json!({"certificate-fingerprints": [DIGEST]}),
        json!({"certificate-names": ["*.bank.example"], "certificate-authorities": ["Bank CA"]}),
    ] {
        let partner = inbound("Bank", domains.clone(), require.clone());
        assert_eq!(beside_lock_down(partner), warned, "{require}");
    }
    let by_certificate = json!({"certificate-names": ["*.bank.example"]});
    let partner = inbound("Bank", by_certificate, json!({"tls": true}));
    assert_eq!(beside_lock_down(partner), warned);
    let by_address = json!({"sender-ips": ["203.0.113.0/24"]});
    let partner = inbound("Bank", by_address, json!({"tls": true}));
    assert_eq!(beside_lock_down(partner), warned);
}

#[test]
fn a_partner_beside_a_lock_down_that_does_not_refuse_is_not_warned_of() {
    let domains = json!({"sender-domains": ["bank.example"]});
    // What is not told apart by certificate or address is meant to come through the filter.
    let partner = inbound("Bank", domains.clone(), json!({"tls": true}));
    assert_eq!(beside_lock_down(partner), []);
    // The partner's addresses are in the filter's range.
    let by_address = json!({"sender-ips": ["198.51.100.7"]});
    let partner = inbound("Bank", by_address, json!({"tls": true}));
    assert_eq!(beside_lock_down(partner), []);
    // Nothing is refused in audit mode.
    let by_certificate = json!({"certificate-names": ["*.bank.example"]});
    let partner = inbound("Bank", domains.clone(), by_certificate.clone());
    assert_eq!(beside_lock_down(in_audit_mode(partner.clone())), []);
    // The lock-down excepts the partner.
    let mut filter = inbound(
        "Filter",
        json!({"sender-domains": ["*"]}),
        json!({"source-ips": ["198.51.100.0/24"]}),
    );
    filter["except"] = domains;
    assert_eq!(codes(json!([filter, partner])), []);
}

#[test]
fn a_lock_down_of_all_recipients_is_as_wide_as_one_for_all_senders() {
    let lock_down = |recipients: Value| {
        let require = json!({"source-ips": ["198.51.100.0/24"]});
        let filter = inbound("Filter", json!({"recipient-domains": recipients}), require);
        let partner = inbound(
            "Bank",
            json!({"sender-domains": ["bank.example"]}),
            json!({"certificate-names": ["*.bank.example"]}),
        );
        let accepted = ["own.example", "*.other.example"];
        codes_of(&json!({"accepted-domains": accepted, "connectors": [filter, partner]}))
    };
    let warned = one_problem("refused-by-wider", "connectors[1]");
    assert_eq!(lock_down(json!(["own.example", "*.other.example"])), warned);
    assert_eq!(lock_down(json!(["*"])), warned);
    // What is for a part of the recipients is meant to be stricter.
    assert_eq!(lock_down(json!(["own.example"])), []);
}

#[test]
fn a_lock_down_that_excepts_a_part_of_a_partner_is_warned_of() {
    let warned = one_problem("refused-by-wider", "connectors[1]");
    let domains = ["bank.example", "bank.test"];
    let names = ["mx1.bank.example", "mx2.bank.example"];
    let partner = inbound(
        "Bank",
        json!({"sender-domains": domains}),
        json!({"certificate-names": names}),
    );
    let excepting = |except: Value| {
        let mut filter = inbound(
            "Filter",
            json!({"sender-domains": ["*"]}),
            json!({"source-ips": ["198.51.100.0/24"]}),
        );
        filter["except"] = except;
        codes(json!([filter, partner]))
    };
    assert_eq!(
        excepting(json!({"sender-domains": ["bank.example"]})),
        warned
    );
    assert_eq!(excepting(json!({"sender-domains": ["bank.test"]})), warned);
    assert_eq!(excepting(json!({"certificate-names": names[..1]})), warned);
    assert_eq!(excepting(json!({"sender-domains": domains})), []);
    assert_eq!(excepting(json!({"certificate-names": names})), []);
}

#[test]
fn a_lock_down_for_all_addresses_is_as_wide_as_one_for_all_senders() {
    let lock_down = |from: Value, partner: &Value| {
        let require = json!({"source-ips": ["198.51.100.0/24", "2001:db8:5::/48"]});
        codes(json!([inbound("Filter", from, require), partner]))
    };
    let domains = json!({"sender-domains": ["bank.example"]});
    let by_certificate = json!({"certificate-names": ["*.bank.example"]});
    let require_address = json!({"tls": true, "source-ips": ["198.51.100.0/23"]});
    let partners = [
        inbound("Bank", domains.clone(), by_certificate.clone()),
        inbound("Bank", by_certificate.clone(), json!({"tls": true})),
        inbound(
            "Bank",
            json!({"sender-ips": ["198.51.100.0/23"]}),
            json!({"tls": true}),
        ),
        inbound("Bank", domains.clone(), require_address),
        inbound(
            "Bank",
            json!({"sender-ips": ["0.0.0.0/0"], "sender-domains": ["bank.example"]}),
            by_certificate,
        ),
    ];
    for all in [
        json!({"sender-ips": ["0.0.0.0/0"]}),
        json!({"sender-ips": ["0.0.0.0/0", "::/0"]}),
        json!({"sender-ips": ["0.0.0.0/0"], "sender-domains": ["*"]}),
    ] {
        for partner in &partners {
            let warned = one_problem("refused-by-wider", "connectors[1]");
            assert_eq!(lock_down(all.clone(), partner), warned, "{all} {partner}");
        }
    }
    let of_ipv6 = json!({"sender-ips": ["::/0"]});
    assert_eq!(
        lock_down(of_ipv6.clone(), &partners[0]),
        one_problem("refused-by-wider", "connectors[1]")
    );
    assert_eq!(lock_down(of_ipv6, &partners[2]), []);
    // Some addresses are not all of them, and an exception is one in this form too.
    let half = json!({"sender-ips": ["0.0.0.0/1"]});
    assert_eq!(lock_down(half, &partners[0]), []);
    let mut filter = inbound(
        "Filter",
        json!({"sender-ips": ["0.0.0.0/0"]}),
        json!({"source-ips": ["198.51.100.0/24"]}),
    );
    filter["except"] = domains.clone();
    assert_eq!(codes(json!([filter, partners[0]])), []);
    // Whoever is told apart by nothing but having an address is meant to come through the filter.
    let anybody = inbound(
        "All",
        json!({"sender-ips": ["0.0.0.0/0"]}),
        json!({"tls": true}),
    );
    assert_eq!(beside_lock_down(anybody), []);
}

#[test]
fn addresses_that_have_nothing_in_common_are_the_graver_warning() {
    let domains = json!({"sender-domains": ["bank.example"]});
    let partner = inbound("Bank", domains, json!({"source-ips": ["203.0.113.0/24"]}));
    assert_eq!(
        beside_lock_down(partner),
        one_problem("unsatisfiable-overlap", "connectors[1]")
    );
    // Two that each see the other are told of once.
    let domains = json!({"sender-domains": ["bank.example"], "recipient-domains": ["contoso.com"]});
    let partner = inbound("Bank", domains, json!({"source-ips": ["203.0.113.0/24"]}));
    let domains = json!({"sender-domains": ["bank.example"]});
    let filter = inbound(
        "Filter",
        domains,
        json!({"source-ips": ["198.51.100.0/24"]}),
    );
    assert_eq!(
        codes(json!([filter, partner])),
        one_problem("unsatisfiable-overlap", "connectors[1]")
    );
}
