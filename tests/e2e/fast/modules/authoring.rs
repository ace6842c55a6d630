//! What somebody who writes a policy is shown of it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use portcullis_tests::daemon::portcullis;
use portcullis_tests::modules::Module;
use portcullis_tests::run;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{CONTEXT, accepting};

/// Cases, the second of which nothing passes that accepts.
const CASES: &str = r#"[
  {"name": "anybody", "context": CONTEXT, "expect": {"verdict": "accept"}},
  {"name": "a stranger",
   "context": CONTEXT,
   "expect": {"verdict": "reject", "code": 550}}
]"#;

/// Files in a folder of their own.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in files {
        fs::write(folder.path().join(name), content).expect("a file");
    }
    folder
}

/// A command in a folder: its code, and what it says on standard output and on standard error.
fn said(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = portcullis(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let text = |octets| String::from_utf8(octets).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn cases() -> String {
    CASES.replace("CONTEXT", CONTEXT)
}

#[test]
fn a_component_is_held_against_the_cases_beside_it() {
    let component = accepting().component();
    let cases = cases();
    let folder = folder(&[
        ("p.wasm", &component),
        ("p.tests.json", cases.as_bytes()),
        (
            "good.json",
            json!([serde_json::from_str::<Value>(&cases).expect("JSON")[0]])
                .to_string()
                .as_bytes(),
        ),
        ("broken.json", b"[\n  {\"name\": \"x\"}]"),
        ("none.json", b"[]"),
    ]);
    let said = |arguments: &[&str]| said(folder.path(), arguments);
    let failed =
        "p.tests.json:4: the test \"a stranger\" fails: verdict is \"accept\", not \"reject\"\n";
    let (code, told, _) = said(&["test", "p.wasm"]);
    assert_eq!(
        (code, told),
        (Some(1), format!("{failed}p.wasm: 1 of 2 tests failed\n"))
    );
    let (code, told, _) = said(&["test", "p.wasm", "good.json"]);
    assert_eq!((code, &*told), (Some(0), "p.wasm: 1 tests passed\n"));
    let (code, told, _) = said(&["test", "p.wasm", "--format", "json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(code, Some(1));
    let expected = json!({"passed": 1, "failed": [
        {"name": "a stranger", "line": 4, "what": "verdict is \"accept\", not \"reject\""}]});
    assert_eq!(told, expected);
    for (arguments, reason) in [
        (
            &["test", "p.wasm", "broken.json"][..],
            "broken.json: these are no tests: missing field `context` at line 2",
        ),
        (
            &["test", "p.wasm", "none.json"],
            "p.wasm: there are no tests",
        ),
        (
            &["test", "p.wasm", "absent.json"],
            "cannot read the tests absent.json",
        ),
        (
            &["test", "absent.wasm", "good.json"],
            "cannot read absent.wasm",
        ),
    ] {
        let (code, _, told) = said(arguments);
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(reason), "{told}");
    }
    let (code, told, _) = said(&["check", "p.wasm"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&format!("\nerror: {failed}")), "{told}");
    assert!(told.ends_with("p.wasm: 1 error, 1 warning\n"), "{told}");
}

/// A document has tests of its own, and can be held against others.
#[test]
fn documents_are_tested_as_components_are() {
    let rules = format!(
        r#"{{"connectors": [], "tests": [{{"name": "all", "context": {CONTEXT}, "expect": {{"verdict": "accept"}}}}]}}"#
    );
    let folder = folder(&[("r.json", rules.as_bytes()), ("c.json", cases().as_bytes())]);
    let (code, told, _) = said(folder.path(), &["test", "r.json"]);
    assert_eq!((code, &*told), (Some(0), "r.json: 1 tests passed\n"));
    let (code, told, _) = said(folder.path(), &["test", "r.json", "c.json"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("c.json:4: the test"), "{told}");
    assert!(told.ends_with("r.json: 1 of 3 tests failed\n"), "{told}");
}

/// Whoever asks question by question has each answer before the next question.
#[test]
fn each_line_is_answered_at_once() {
    let folder = folder(&[("r.json", b"{\"connectors\": []}")]);
    let mut child = portcullis(&["evaluate", "r.json"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut questions = child.stdin.take().expect("its input");
    let mut answers = BufReader::new(child.stdout.take().expect("its output"));
    for question in [CONTEXT, "nonsense", CONTEXT] {
        // In two pieces, the first of which is no question yet.
        let (first, second) = question.split_at(4);
        questions.write_all(first.as_bytes()).expect("it reads");
        questions.flush().expect("it reads");
        writeln!(questions, "{second}").expect("it reads");
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("it answers");
        let is_context = question == CONTEXT;
        assert_eq!(answer.contains("accept"), is_context, "{answer}");
    }
    drop(questions);
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
}

#[test]
fn a_trap_is_told_with_its_functions() {
    let inner = "(func $decide_about_senders unreachable)";
    let module = Module::new("(call $decide_about_senders) (i32.const 0)").with(inner);
    let folder = folder(&[("p.wasm", &module.component())]);
    let output = run(
        &["evaluate", &folder.path().join("p.wasm").to_string_lossy()],
        CONTEXT.as_bytes(),
    );
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let place = "instruction executed in decide_about_senders, called by evaluate\n";
    assert!(told.ends_with(place), "{told}");
    let (code, told, _) = said(folder.path(), &["check", "p.wasm"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(
        told.starts_with("error: it does not decide inbound mail: "),
        "{told}"
    );
    assert!(told.contains("in decide_about_senders"), "{told}");
}

/// The names are the policy's own: they are short, and nothing in them steers a terminal.
#[test]
fn names_of_functions_are_harmless() {
    let name = format!("$\"\\1b[31m{}\"", "x".repeat(10_000));
    let inner = format!("(func {name} (export \"f\") unreachable)");
    let module = Module::new(&format!("(call {name}) (i32.const 0)")).with(&inner);
    let folder = folder(&[("p.wasm", &module.component())]);
    let output = run(
        &["evaluate", &folder.path().join("p.wasm").to_string_lossy()],
        CONTEXT.as_bytes(),
    );
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("executed in "), "{told}");
    assert!(!told.contains('\u{1b}') && told.len() < 600, "{told}");
}

#[test]
fn core_modules_become_components() {
    let folder = folder(&[
        ("p.core.wasm", &accepting().core()),
        ("component.wasm", &accepting().component()),
        ("empty.wasm", b"\0asm\x01\0\0\0"),
        ("text.wasm", b"(module)"),
        ("cut.wasm", accepting().core().get(..200).expect("more")),
        ("failing.tests.json", cases().as_bytes()),
    ]);
    let said = |arguments: &[&str]| said(folder.path(), arguments);
    let (code, _, told) = said(&["build", "p.core.wasm", "-o", "p.wasm"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.starts_with("p.wasm: 0 tests passed, "), "{told}");
    let (code, told, _) = said(&["check", "p.wasm"]);
    assert_eq!(code, Some(0), "{told}");
    let expected = "warning: it does not decide outbound mail: policy p.wasm: the policy answers outbound mail with an inbound verdict\np.wasm: 0 errors, 1 warning\n";
    assert_eq!(told, expected);
    for (input, output, code, reason) in [
        (
            "component.wasm",
            "x.wasm",
            2,
            "component.wasm: this is a component already",
        ),
        (
            "empty.wasm",
            "x.wasm",
            2,
            "empty.wasm: no component can be made of it",
        ),
        (
            "text.wasm",
            "x.wasm",
            2,
            "text.wasm: this is not WebAssembly",
        ),
        ("cut.wasm", "x.wasm", 2, "cut.wasm: this is damaged"),
        (
            "p.core.wasm",
            "failing.wasm",
            1,
            "failing.tests.json:4: the test \"a stranger\" fails",
        ),
        (
            "p.core.wasm",
            "p.core.wasm",
            2,
            "it would overwrite what it is made of",
        ),
    ] {
        let (found, _, told) = said(&["build", input, "-o", output]);
        assert_eq!(found, Some(code), "{input}: {told}");
        assert!(told.contains(reason), "{input}: {told}");
        assert!(input == output || !folder.path().join(output).exists());
    }
}

/// A middleware that asks the policy inside, and refuses what that one accepts if `harsh`.
fn middleware(harsh: bool) -> Vec<u8> {
    const INSIDE: &str = "portcullis:policy/evaluation@0.1.0";
    let harsh = match harsh {
        // The variant's case: what it accepts becomes a refusal of nobody.
        true => {
            "(if (i32.eqz (i32.load8_u (i32.const 0))) (then (i32.store8 (i32.const 0) (i32.const 2))))"
        }
        false => "",
    };
    let text = format!(
        r#"(module
            (import "{INSIDE}" "evaluate" (func $evaluate (param i32 i32)))
            (import "{INSIDE}" "explain" (func $explain (param i32 i32)))
            (import "{INSIDE}" "describe" (func $describe (param i32 i32 i32)))
            (memory (export "memory") 64)
            (global $next (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32) (local $at i32)
                (local.set $at (global.get $next))
                (global.set $next (i32.and
                    (i32.add (i32.add (global.get $next) (local.get $size)) (i32.const 7)) (i32.const -8)))
                (local.get $at))
            (func (export "{INSIDE}#evaluate") (param i32) (result i32)
                (call $evaluate (local.get 0) (i32.const 0)) {harsh} (i32.const 0))
            (func (export "{INSIDE}#explain") (param i32) (result i32)
                (call $explain (local.get 0) (i32.const 0)) (i32.const 0))
            (func (export "{INSIDE}#describe") (param i32 i32) (result i32)
                (call $describe (local.get 0) (local.get 1) (i32.const 0)) (i32.const 0)))"#
    );
    wat::parse_str(text).expect("WebAssembly")
}

const RULES: &str = r#"{"connectors": [{"name": "Bank", "direction": "inbound", "from": {"sender-domains": ["bank.test"]},
    "require": {"tls": true}}]}"#;

#[test]
fn a_middleware_is_put_around_a_policy() {
    let bank = r#"[{"name": "bank", "context": {"direction": "inbound", "mail-from": "a@bank.test",
        "rcpt-to": "b@contoso.com"}, "expect": {"verdict": "accept"}}]"#;
    let folder = folder(&[
        ("through.wasm", &middleware(false)),
        ("harsh.wasm", &middleware(true)),
        ("rules.json", RULES.as_bytes()),
        ("wrong.json", b"{\"connectors\": [{}]}"),
        ("text.wasm", b"(component)"),
        ("other.wasm", &accepting().component()),
        ("failing.tests.json", bank.as_bytes()),
    ]);
    let said = |arguments: &[&str]| said(folder.path(), arguments);
    let (code, _, told) = said(&[
        "build",
        "through.wasm",
        "--around",
        "rules.json",
        "-o",
        "p.wasm",
    ]);
    assert_eq!(code, Some(0), "{told}");
    let (code, listed, _) = said(&["list", "p.wasm"]);
    assert_eq!(code, Some(0));
    assert!(listed.starts_with("Bank  inbound"), "{listed}");
    let mail = [
        "--from",
        "a@bank.test",
        "--to",
        "b@contoso.com",
        "--ip",
        "192.0.2.1",
    ];
    let (_, told, _) = said(&[&["explain", "p.wasm"], &mail[..]].concat());
    assert!(
        told.contains("refused by connector \"Bank\" (tls)"),
        "{told}"
    );
    // What is composed can be composed again.
    let (code, _, told) = said(&["build", "harsh.wasm", "--around", "p.wasm", "-o", "q.wasm"]);
    assert_eq!(code, Some(0), "{told}");
    let context =
        r#"{"direction": "inbound", "mail-from": "a@other.test", "rcpt-to": "b@contoso.com"}"#;
    let verdict = |policy: &str| {
        let path = folder.path().join(policy);
        let output = run(&["evaluate", &path.to_string_lossy()], context.as_bytes());
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(verdict("p.wasm").contains("\"accept\""));
    assert!(verdict("q.wasm").contains("\"defer\""));

    for (arguments, reason) in [
        (
            &["through.wasm"][..],
            "this module is a middleware: it imports portcullis:policy/evaluation@0.1.0",
        ),
        (
            &["other.wasm", "--around", "rules.json"],
            "other.wasm: this imports no portcullis:policy/evaluation@",
        ),
        (
            &["rules.json", "--around", "rules.json"],
            "rules.json: rules ask no policy inside",
        ),
        (&["through.wasm", "--around", "wrong.json"], "wrong.json:1:"),
        (
            &["through.wasm", "--around", "text.wasm"],
            "text.wasm: this is not WebAssembly",
        ),
        (
            &["through.wasm", "--around", "through.wasm"],
            "this module is a middleware",
        ),
        (
            &["through.wasm", "--around", "missing.json"],
            "missing.json",
        ),
    ] {
        let (code, _, told) = said(&[&["build"], arguments, &["-o", "x.wasm"]].concat());
        assert!(matches!(code, Some(1 | 2)), "{arguments:?}: {told}");
        assert!(told.contains(reason), "{arguments:?}: {told}");
        assert!(!folder.path().join("x.wasm").exists());
    }
    let (code, _, told) = said(&[
        "build",
        "through.wasm",
        "--around",
        "rules.json",
        "-o",
        "failing.wasm",
    ]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("the test \"bank\" fails"), "{told}");
    let (code, _, told) = said(&[
        "build",
        "through.wasm",
        "--around",
        "rules.json",
        "-o",
        "rules.json",
    ]);
    assert_eq!(code, Some(2));
    assert!(
        told.contains("it would overwrite what it is made of"),
        "{told}"
    );
    let (code, _, told) = said(&["build", "rules.json", "--http", "-o", "server.wasm"]);
    assert_eq!(code, Some(0), "{told}");
    let (code, told, _) = said(&["check", "server.wasm"]);
    assert_ne!(code, Some(0), "{told}");
}

/// The commands of docs/policies.md, one after another.
#[test]
fn the_commands_of_the_document_work() {
    let document = include_str!("../../../../docs/policies.md");
    let passing = r#"[{"name": "accepted", "context": {"direction": "inbound", "mail-from": "a@other.test",
        "rcpt-to": "b@contoso.com"}, "expect": {"verdict": "accept"}}]"#;
    let folder = folder(&[
        ("rules.json", RULES.as_bytes()),
        ("policy.wasm", &accepting().component()),
        ("policy.core.wasm", &accepting().core()),
        ("middleware.core.wasm", &middleware(false)),
        ("policy.tests.json", passing.as_bytes()),
    ]);
    let commands: Vec<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("    portcullis "))
        .collect();
    assert!(commands.len() > 7, "{commands:?}");
    for command in commands {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let (code, told, error) = said(folder.path(), &arguments);
        assert_eq!(code, Some(0), "{command}: {told}{error}");
    }
}

/// A policy that writes something, and answers.
#[test]
fn what_a_policy_writes_is_shown() {
    let words = b"seen\x1b[31m alice";
    let module = super::wasi::writing(words, "(i32.const 0)");
    let folder = folder(&[("p.wasm", &module)]);
    let output = run(
        &["evaluate", &folder.path().join("p.wasm").to_string_lossy()],
        CONTEXT.as_bytes(),
    );
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("p.wasm | seen"), "{told}");
    assert!(!told.contains('\u{1b}'), "{told}");
}
