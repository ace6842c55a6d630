//! Garbage for every parser: random, mutated, cut off, enormous and deeply nested. Each must end in
//! an answer that a person can use, and none may harm what comes after it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Output;

use portcullis_evaluator::{Policy, Problem, Severity};
use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::modules::Module;
use portcullis_tests::{Client, Config, Daemon, Listener, Pki, TestBed, machine, portcullis, run};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::Value;

const RULES: &str = include_str!("../../../examples/rules.json");

// Making garbage

/// A change to a text.
#[derive(Clone, Debug)]
enum Edit {
    /// Another byte in place of one.
    Replace(prop::sample::Index, u8),
    /// A byte more.
    Insert(prop::sample::Index, u8),
    /// A run that is gone.
    Remove(prop::sample::Index, usize),
    /// A run that stands twice.
    Repeat(prop::sample::Index, usize),
    /// Nothing from here on.
    Cut(prop::sample::Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        4 => (at(), prop::sample::select(b"{}[]\",:\\*/.-0e\n ".to_vec()))
            .prop_map(|(at, byte)| Edit::Replace(at, byte)),
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Edit::Insert(at, byte)),
        2 => (at(), 1..40_usize).prop_map(|(at, length)| Edit::Remove(at, length)),
        2 => (at(), 1..400_usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
        1 => at().prop_map(Edit::Cut),
    ]
}

fn edited(original: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for edit in edits {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match edit {
            Edit::Replace(at, byte) => bytes[at.index(length)] = *byte,
            Edit::Insert(at, byte) => bytes.insert(at.index(length), *byte),
            Edit::Remove(at, run) => {
                let start = at.index(length);
                bytes.drain(start..(start + run).min(length));
            }
            Edit::Repeat(at, run) => {
                let start = at.index(length);
                let again = bytes[start..(start + run).min(length)].to_vec();
                bytes.splice(start..start, again);
            }
            Edit::Cut(at) => bytes.truncate(at.index(length)),
        }
    }
    bytes
}

/// Random values of a strategy; the same in every run.
fn samples<S: Strategy>(strategy: S, count: usize) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    let mut sample = || strategy.new_tree(&mut runner).expect("a value").current();
    (0..count).map(|_| sample()).collect()
}

// Rules

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
    #![proptest_config(Cases { cases: 3000, failure_persistence: None, ..Cases::default() })]

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

/// A list of so many bytes, and what stands around it.
fn list_of(bytes: usize, before: &str, item: &str, after: &str) -> String {
    let count = bytes / (item.len() + 1);
    format!("{before}{}{after}", vec![item; count].join(","))
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

// Rules on the command line

/// Holds that a command gave one clear error and no result.
fn assert_one_error(output: &Output, what: &str) -> String {
    let error = String::from_utf8(output.stderr.clone()).expect("errors are UTF-8");
    assert_eq!(output.status.code(), Some(2), "{what}: {error}");
    assert!(output.stdout.is_empty(), "{what}");
    assert!(error.starts_with("portcullis: "), "{what}: {error}");
    assert!(!error.contains("panicked"), "{what}: {error}");
    assert!(error.len() < 2000, "{what}: {error:.3000}");
    error
}

fn run_on(command: &[&str], path: &Path) -> Output {
    run(&[command, &[&path.to_string_lossy()]].concat(), b"")
}

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
        format!("portcullis: {} is not UTF-8: see byte 16\n", path.display())
    );
    for bytes in samples(vec(128..=255_u8, 1..100), 20) {
        fs::write(&path, &bytes).expect("a file");
        assert_one_error(&run_on(&["check"], &path), &format!("{bytes:?}"));
    }
    assert_one_error(&run_on(&["check"], folder.path()), "a folder");
}

// Contexts

const CONTEXT: &str = r#"{"direction":"inbound","client-ip":"203.0.113.7","helo":"mail.contosobank.com","tls":{"version":"TLSv1.3","cipher":"TLS13_AES_256_GCM_SHA384","certificate":{"dns-names":["mail.contosobank.com"],"subject":"CN=mail.contosobank.com","issuer":"CN=Example CA","sha256":"9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f","not-after":"2027-01-01T00:00:00Z","trust":"trusted"}},"mail-from":"alice@contosobank.com","rcpt-to":"bob@contoso.com","header-from":["alice@contosobank.com"]}"#;

/// The answers to lines none of which is blank: one each, and in order.
fn evaluate(lines: &[Vec<u8>]) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.json");
    fs::write(&path, RULES).expect("a file");
    let path = path.to_string_lossy();
    // The limit is wall time, and other tests run beside this one.
    let command = ["evaluate", "--time-limit", "10000", &path];
    let output = run(&command, &lines.join(&b'\n'));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let answers: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(answers.len(), lines.len());
    answers
}

/// Holds that an answer is either a verdict or an error with the number of its line.
fn assert_answer(answer: &Value, number: usize) -> bool {
    if answer["verdict"].is_string() {
        return true;
    }
    assert_eq!(answer["line"], number, "{answer}");
    assert!(
        answer["error"]
            .as_str()
            .is_some_and(|error| !error.is_empty())
    );
    false
}

#[test]
fn garbage_among_contexts_is_answered_line_by_line() {
    let changed = samples(vec(edit(), 1..4), 3000)
        .into_iter()
        .map(|edits| edited(CONTEXT.as_bytes(), &edits));
    let random = samples(vec(any::<u8>(), 1..200), 1000);
    let deep = [
        "[".repeat(500_000),
        r#"{"tls":"#.repeat(100_000),
        CONTEXT.replace("\"9f", &format!("{}\"9f", "[".repeat(500_000))),
    ];
    let lines: Vec<Vec<u8>> = changed
        .chain(random)
        .chain(deep.map(String::into_bytes))
        .filter(|line| !line.contains(&b'\n') && !line.iter().all(u8::is_ascii_whitespace))
        .collect();
    let answers = evaluate(&lines);
    let verdicts = answers
        .iter()
        .enumerate()
        .filter(|(index, answer)| assert_answer(answer, index + 1))
        .count();
    // Some changes do no harm, most do.
    assert!((100..2000).contains(&verdicts), "{verdicts}");
}

#[test]
fn enormous_facts_are_facts() {
    let many = vec!["\"mail.contosobank.com\""; 20_000].join(",");
    let names = CONTEXT.replace("\"mail.contosobank.com\"]", &format!("{many}]"));
    let helo = CONTEXT.replace(
        "mail.contosobank.com\",\"tls",
        &format!("{}\",\"tls", "x".repeat(900_000)),
    );
    let lines = [b"garbage".to_vec(), helo.into_bytes(), names.into_bytes()];
    let answers = evaluate(&lines);
    assert_eq!(answers[0]["line"], 1);
    for answer in &answers[1..] {
        assert_eq!(answer["verdict"], "accept", "{answer}");
        assert_eq!(answer["connectors"][0], "Contoso Bank is encrypted");
    }
}

#[test]
fn a_domain_of_any_length_is_below_the_one_it_ends_in() {
    let plain = |labels: usize| {
        let context = serde_json::json!({
            "direction": "inbound", "mail-from": format!("a@{}contosobank.com", "a.".repeat(labels)),
            "rcpt-to": "bob@contoso.com",
        });
        context.to_string().into_bytes()
    };
    let labels = [1, 119, 120, 500, 200_000];
    let mut lines = vec![b"garbage".to_vec()];
    lines.extend(labels.map(plain));
    for (labels, answer) in labels.iter().zip(&evaluate(&lines)[1..]) {
        assert_eq!(
            answer["connector"], "Contoso Bank is encrypted",
            "{labels} labels more"
        );
    }
}

// Configurations

/// Everything in it only names what is not touched before the daemon runs.
const CONFIG: &str = r#"
hostname = "mx.contoso.com"
[[listener]]
address = "127.0.0.1:0"
proxy-protocol = ["127.0.0.0/8", "::1/128"]
next-hop = { smtp = "127.0.0.1:1", xclient = true, recipients = 5 }
[[tenant]]
name = "contoso"
domains = ["contoso.com", "*.contoso.com"]
policy = "rules.json"
[limits]
message-size = "25MiB"
recipients = 100
[timeouts]
command = "5m"
[sandbox]
memory = "64MiB"
evaluation = "50ms"
"#;

fn check_config(folder: &Path, config: &[u8]) -> Output {
    fs::write(folder.join("portcullis.toml"), config).expect("a file");
    portcullis(&["run", "--check-config", "--config", "portcullis.toml"])
        .current_dir(folder)
        .output()
        .expect("the program runs")
}

#[test]
fn mutated_configurations_are_taken_or_told_about() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.json"), RULES).expect("a file");
    let intact = check_config(folder.path(), CONFIG.as_bytes());
    assert_eq!(
        String::from_utf8_lossy(&intact.stdout),
        "portcullis.toml: ok\n"
    );
    let mut refused = 0;
    for edits in samples(vec(edit(), 1..4), 250) {
        let config = edited(CONFIG.as_bytes(), &edits);
        let shown = String::from_utf8_lossy(&config).into_owned();
        let output = check_config(folder.path(), &config);
        match output.status.code() {
            Some(0) => assert_eq!(output.stdout, b"portcullis.toml: ok\n"),
            // A policy by another name is not there.
            Some(1) => assert!(output.stdout.is_empty(), "{shown}"),
            _ => {
                refused += 1;
                let error = assert_one_error(&output, &shown);
                assert!(error.contains("portcullis.toml"), "{error}\n{shown}");
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn garbage_is_no_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let enormous = format!("hostname = \"{}\"\n", "x".repeat(20_000_000));
    let fixed = [
        Vec::new(),
        vec![0; 1000],
        b"\xff\xfe".to_vec(),
        format!("a = {}", "[".repeat(100_000)).into_bytes(),
        format!("a = {}", "{a=".repeat(100_000)).into_bytes(),
        format!("{} = 1", vec!["a"; 100_000].join(".")).into_bytes(),
        format!("[{}]", vec!["a"; 100_000].join(".")).into_bytes(),
        format!("hostname = {}", "9".repeat(100_000)).into_bytes(),
        enormous.into_bytes(),
    ];
    for config in fixed
        .into_iter()
        .chain(samples(vec(any::<u8>(), 1..300), 50))
    {
        let shown: String = String::from_utf8_lossy(&config).chars().take(100).collect();
        let error = assert_one_error(&check_config(folder.path(), &config), &shown);
        assert!(error.contains("portcullis.toml"), "{error}");
    }
}

// Modules

/// Asks for the connectors of each component; gives how many were refused.
fn list_all(folder: &Path, components: &[Vec<u8>]) -> usize {
    let halves = components.chunks(components.len().div_ceil(2));
    std::thread::scope(|scope| {
        let list_half = |(half, components): (usize, &[Vec<u8>])| {
            let path = folder.join(format!("policy-{half}.wasm"));
            let refused = components.iter().filter(|bytes| !is_listed(&path, bytes));
            refused.count()
        };
        let halves: Vec<_> = halves
            .enumerate()
            .map(|half| scope.spawn(move || list_half(half)))
            .collect();
        halves
            .into_iter()
            .map(|half| half.join().expect("all are refused properly"))
            .sum()
    })
}

/// Whether a component is taken; otherwise it is refused with one clear error.
fn is_listed(path: &Path, component: &[u8]) -> bool {
    fs::write(path, component).expect("a file");
    let output = run_on(&["list"], path);
    if output.status.code() == Some(0) {
        assert!(output.stderr.is_empty());
        return true;
    }
    let error = assert_one_error(&output, "a component");
    let begin = format!("portcullis: policy {}: ", path.display());
    assert!(error.starts_with(&begin), "{error}");
    false
}

/// The component of the example rules.
fn built(folder: &Path) -> Vec<u8> {
    let (rules, policy) = (folder.join("rules.json"), folder.join("built.wasm"));
    fs::write(&rules, RULES).expect("a file");
    let output = run(
        &[
            "build",
            &rules.to_string_lossy(),
            "-o",
            &policy.to_string_lossy(),
        ],
        b"",
    );
    assert!(output.status.success());
    fs::read(policy).expect("a component")
}

#[test]
fn what_is_no_component_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut modules = samples(vec(any::<u8>(), 0..2000), 100);
    for head in [&b"\0asm\x0d\0\x01\0"[..], b"\0asm\x01\0\0\0"] {
        let tails = samples(vec(any::<u8>(), 0..500), 50);
        modules.extend(tails.into_iter().map(|tail| [head, &tail].concat()));
    }
    assert_eq!(list_all(folder.path(), &modules), modules.len());
}

/// How long a component is without the custom sections at its end, which say who has made it and may be missing.
fn without_custom_end(component: &[u8]) -> usize {
    let (mut place, mut needed) = (8, 8);
    while let Some(kind) = component.get(place) {
        // The section's size (LEB128) follows its kind.
        let (mut size, mut shift) = (0, 0);
        loop {
            place += 1;
            let octet = component[place];
            size |= usize::from(octet & 0x7f) << shift;
            shift += 7;
            if octet < 0x80 {
                break;
            }
        }
        place += 1 + size;
        if *kind != 0 {
            needed = place;
        }
    }
    needed
}

#[test]
fn a_component_that_was_cut_off_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = built(folder.path());
    let ends = samples(any::<prop::sample::Index>(), 150);
    let needed = without_custom_end(&whole);
    let modules: Vec<_> = ends
        .iter()
        .map(|end| whole[..end.index(needed)].to_vec())
        .collect();
    assert_eq!(list_all(folder.path(), &modules), modules.len());
}

#[test]
fn a_component_with_many_changes_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = built(folder.path());
    let edits = samples(vec(edit(), 100), 100);
    let modules: Vec<_> = edits.iter().map(|edits| edited(&whole, edits)).collect();
    assert_eq!(list_all(folder.path(), &modules), modules.len());
}

#[test]
fn a_component_with_one_change_is_taken_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = built(folder.path());
    let edits = samples(edit(), 40);
    let modules: Vec<_> = edits
        .into_iter()
        .map(|edit| edited(&whole, &[edit]))
        .collect();
    // A byte of data can be any; one of code or of a type hardly.
    let refused = list_all(folder.path(), &modules);
    assert!((5..40).contains(&refused), "{refused}");
}

#[test]
fn a_small_component_is_changed_everywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = Module::new("(i32.const 0)").component();
    let edits = samples(vec(edit(), 1..3), 400);
    let modules: Vec<_> = edits.iter().map(|edits| edited(&whole, edits)).collect();
    let refused = list_all(folder.path(), &modules);
    assert!((100..400).contains(&refused), "{refused}");
}

#[test]
fn a_refused_component_is_told_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.wasm");
    let whole = Module::new("(i32.const 0)").component();
    let name = b"smart-hosts";
    let at = whole
        .windows(name.len())
        .position(|window| window == name)
        .expect("the name of a type");
    // Where another section follows its length, and in a name.
    let bad_magic = [&b"\0asm\x0d\0\x01\0\x01\x08"[..], b"\0xsm\x01\0\0\0"].concat();
    let mut bad_name = whole.clone();
    bad_name[at..at + 3].copy_from_slice(b"\x1b[J");
    for module in [bad_magic, bad_name] {
        assert!(!is_listed(&path, &module));
        let error = assert_one_error(&run_on(&["list"], &path), "a component");
        let line = error.strip_suffix('\n').expect("a line");
        assert!(!line.contains(char::is_control), "{error:?}");
    }
}

/// A module whose only connector is called `name`, which stands at 4096.
fn module_with_connector(name: &[u8]) -> Vec<u8> {
    let escaped: String = name.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let fields = format!("(data (i32.const 4096) \"{escaped}\")");
    let length = name.len();
    // By the canonical ABI: `total` and `connectors` of the description; of the connector its name,
    // and its direction and mode as zeros.
    let describe = format!(
        "(i32.store (i32.const 3092) (i32.const 1))
         (i32.store (i32.const 3096) (i32.const 3200)) (i32.store (i32.const 3100) (i32.const 1))
         (i32.store (i32.const 3200) (i32.const 4096)) (i32.store (i32.const 3204) (i32.const {length}))
         i32.const 3072"
    );
    let module = Module {
        describe,
        ..Module::new("(i32.const 0)")
    };
    module.with(&fields).component()
}

#[test]
fn a_module_cannot_speak_to_the_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.wasm");
    let long = [&b"Bank"[..], &[b'x'; 70_000]].concat();
    for name in [&b"Bank\x1b[2J\r\nTrusted\xe2\x80\xae"[..], &long] {
        fs::write(&path, module_with_connector(name)).expect("a file");
        let output = run_on(&["list"], &path);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(output.status.code(), Some(0));
        assert!(text.starts_with("Bank"), "{text:.80?}");
        assert!(!text.contains(['\x1b', '\r', '\u{202e}']), "{text:.80?}");
        assert_eq!(text.lines().count(), 1, "{text:.80?}");
    }
}

// SMTP

fn start() -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .listener(Listener::maildir().proxied())
        .listener(Listener::maildir().implicit_tls())
        .certificate(&Pki::new())
        .tenant("contoso.com", RULES)
        .with("[limits]\nsessions-per-address = 2000");
    TestBed::start(config)
}

/// Sends octets and no more; gives all that came back.
fn exchange(address: SocketAddr, input: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the server accepts connections");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a time-out");
    // The server may hang up in the middle, which a client sees as an error of either kind.
    let sent = stream.write_all(input);
    let _ = sent.and_then(|()| stream.shutdown(Shutdown::Write));
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return output,
            Ok(read) => output.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return output,
            Err(error) => panic!("the session does not end: {error}\n{input:?}"),
        }
    }
}

/// Holds that a server spoke SMTP: lines with a code, of a length that SMTP allows.
fn assert_replies(output: &[u8], input: &[u8]) {
    let shown = || String::from_utf8_lossy(input).into_owned();
    let text = std::str::from_utf8(output).unwrap_or_else(|_| panic!("not ASCII: {}", shown()));
    let Some(text) = text.strip_suffix("\r\n") else {
        panic!("{text:?} does not end a line: {}", shown())
    };
    for line in text.split("\r\n") {
        let code = line.get(..3).unwrap_or_default();
        let known = ["2", "3", "4", "5"]
            .iter()
            .any(|class| code.starts_with(class));
        let number = code.bytes().all(|byte| byte.is_ascii_digit());
        let separator = matches!(line.as_bytes().get(3), Some(b' ' | b'-'));
        assert!(known && number && separator, "{line:?}: {}", shown());
        let plain = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        assert!(plain && line.len() <= 510, "{line:?}: {}", shown());
    }
}

/// Lines that begin as SMTP and go on as anything.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let verb = prop::sample::select(vec![
        "EHLO ",
        "HELO ",
        "MAIL FROM:",
        "MAIL FROM:<",
        "RCPT TO:",
        "RCPT TO:<",
        "DATA",
        "BDAT ",
        "RSET",
        "NOOP ",
        "VRFY ",
        "EXPN ",
        "HELP ",
        "QUIT",
        "AUTH ",
        "XCLIENT ",
        "BDAT 3 LAST\r\n",
        "EHLO a.example\r\n",
        "EHLO a.example\r\nMAIL FROM:<a@b.example>\r\n",
        "MAIL FROM:<a@b.example> SIZE=",
        "EHLO a.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@contoso.com>\r\nDATA\r\n",
        "RCPT TO:<b@contoso.com>\r\n",
        "",
    ]);
    let noise = prop_oneof![
        vec(any::<u8>(), 0..60),
        "[ -~]{0,60}".prop_map(String::into_bytes),
        "(<[a-z@.\"\\\\<>\\[\\]:é]{0,30}>| SIZE=[0-9]{0,30}| BODY=[0-9A-Z]{0,9}){0,4}"
            .prop_map(String::into_bytes),
        (1_usize..5000).prop_map(|length| vec![b'x'; length]),
        Just(vec![b'.']),
    ];
    let end = prop::sample::select(vec![
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "\r",
        "",
        "\r\n.\r\n",
        "\0\r\n",
    ]);
    (verb, noise, end)
        .prop_map(|(verb, noise, end)| [verb.as_bytes(), &noise, end.as_bytes()].concat())
}

/// Holds that a daemon serves as if nothing had happened.
fn assert_unharmed(daemon: &Daemon) {
    let mut client = Client::greeted(daemon.address());
    client.hello(true, None);
    assert_eq!(
        client
            .envelope("alice@contosobank.com", "bob@contoso.com")
            .code,
        250
    );
    assert_eq!(client.data("Subject: still there\r\n\r\nHello.").code, 250);
    client.quit();
    // The log has a thread of its own; what came before this session is written when its decision is.
    daemon.wait_for_log("from=\"alice@contosobank.com\"");
    let mail = daemon.maildir("mail");
    assert!(
        mail.iter()
            .any(|message| message.contains("Subject: still there\n"))
    );
    for word in ["panicked", "ERROR"] {
        assert_eq!(daemon.count_log(word), 0, "{:#?}", daemon.log());
    }
}

#[test]
fn random_sessions_get_replies_and_do_no_harm() {
    let _shared = machine::shared();
    let daemon = start();
    let noise = samples(vec(any::<u8>(), 0..2000), 1000);
    let sessions = samples(vec(line(), 1..12), 2000)
        .into_iter()
        .map(|lines| lines.concat());
    for input in noise.into_iter().chain(sessions) {
        let output = exchange(daemon.address(), &input);
        assert_replies(&output, &input);
        assert!(
            output.starts_with(b"220"),
            "{:?}",
            String::from_utf8_lossy(&output)
        );
    }
    assert_unharmed(&daemon);
}

#[test]
fn lines_without_end_are_not_kept() {
    let _shared = machine::shared();
    let daemon = start();
    for input in [
        vec![b'x'; 20_000_000],
        vec![b'\r'; 1_000_000],
        b"\r\n".repeat(100_000),
    ] {
        let output = exchange(daemon.address(), &input);
        assert_replies(&output, &input[..60]);
    }
    assert_unharmed(&daemon);
}

#[test]
fn garbage_in_place_of_a_proxy_header_is_not_answered() {
    let _shared = machine::shared();
    let daemon = start();
    let v2 = b"\r\n\r\n\0\r\nQUIT\n";
    let v1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 25\r\n";
    for (number, noise) in samples(vec(any::<u8>(), 0..600), 600)
        .into_iter()
        .enumerate()
    {
        let input = match number % 3 {
            0 => noise,
            1 => [&v2[..], &noise].concat(),
            _ => edited(v1, &samples(vec(edit(), 1..4), number + 1)[number]),
        };
        let output = exchange(daemon.addresses[1], &input);
        // A change may leave a header that is one.
        assert!(
            output.is_empty() || number % 3 == 2 && output.starts_with(b"220 "),
            "{input:?}"
        );
    }
    let output = exchange(daemon.addresses[1], &[&v1[..], b"QUIT\r\n"].concat());
    assert!(output.starts_with(b"220 ") && output.ends_with(b"\r\n"));
    assert_unharmed(&daemon);
}

#[test]
fn garbage_in_place_of_a_handshake_is_not_smtp() {
    let _shared = machine::shared();
    let daemon = start();
    for noise in samples(vec(any::<u8>(), 0..600), 300) {
        let implicit = exchange(daemon.addresses[2], &noise);
        assert!(!implicit.starts_with(b"220"));
        let mut client = Client::greeted(daemon.address());
        client.expect("EHLO a.example", 250);
        client.expect("STARTTLS", 220);
        client.send(&[&noise[..], b"\r\nQUIT\r\n"].concat());
        drop(client);
    }
    assert_unharmed(&daemon);
}
