//! The ways to a verdict, each against the cases of the conformance kit.

use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::conformance::{Kind, Report, conforms, conforms_wholly, file};
use portcullis_tests::daemon::binary;
use portcullis_tests::ways::{NO_CONTEXT, OUTBOUND};
use serde_json::Value;

/// The program of the tests that is all ways which are no packages.
pub(crate) const WAY: &str = env!("CARGO_BIN_EXE_conformance-way");

#[test]
fn natively() {
    conforms_wholly(Kind::Documents, &[WAY, "native"], &[]);
}

#[test]
fn by_the_command_line() {
    let (way, program) = (file("ways/cli.py"), binary().to_string_lossy());
    let command = ["python3", &way.to_string_lossy(), &program];
    for kind in [Kind::Documents, Kind::Components] {
        conforms_wholly(kind, &command, &[]);
    }
}

#[test]
fn by_the_library() {
    let program = example();
    let command = [&*program.to_string_lossy()];
    for kind in [Kind::Documents, Kind::Components] {
        conforms_wholly(kind, &command, &[]);
    }
}

/// An example of the library, which is built with the tests.
fn example() -> PathBuf {
    let folder = Path::new(WAY).parent().expect("a folder");
    let program = folder.join("examples/conformance");
    assert!(
        program.is_file(),
        "{} is not built: cargo build --release --package portcullis --examples",
        program.display()
    );
    program
}

#[test]
fn over_smtp() {
    for kind in [Kind::Documents, Kind::Components] {
        let Report { passed, skipped } = conforms(kind, &[WAY, "smtp"], &[]);
        // A case that is left out has to say so itself, but for mail that sessions of a listener are not about.
        let skipped: Vec<&String> = skipped.keys().collect();
        assert_eq!(
            skipped,
            ["a fact that no SMTP session has", OUTBOUND, NO_CONTEXT]
        );
        assert!(passed > 300, "only {passed} cases were asked");
    }
}

/// The judge tells who differs, and who does not follow the protocol.
#[test]
fn others_do_not_conform() {
    let host = |answer: &str| {
        let program = format!(
            "import sys\nfor line in sys.stdin:\n    print({answer:?} if '\"context\"' in line[:12] else '{{\"loaded\": true}}', flush=True)"
        );
        let runner = Command::new("python3")
            .arg(file("run.py"))
            .args(["--", "python3", "-c", &program])
            .output();
        let output = runner.expect("python3 can be run");
        let told = [&output.stdout[..], &output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&told).into_owned(),
        )
    };
    let contexts = std::fs::read_to_string(file("contexts.json")).expect("a file");
    let contexts: Value = serde_json::from_str(&contexts).expect("JSON");
    let none = contexts.as_array().map_or(0, Vec::len);
    for (answer, code, reason) in [
        (r#"{"reply": {"code": 250}}"#, 1, " failed, 0 skipped"),
        (r#"{"verdict": {"verdict": "\ud800"}}"#, 1, ": 0 passed, "),
        (r#"{"error": "no"}"#, 1, &format!(": {none} passed, ")),
        ("[]", 2, "an answer is no object"),
        (
            r#"{"skip": null, "verdict": {}}"#,
            2,
            "is not one of the protocol",
        ),
        (r#"{"error": null}"#, 2, "is not one of the protocol"),
        (
            "{\"skip\": \"no\"}\n{}",
            2,
            "it says more than it was asked",
        ),
    ] {
        let (found, told) = host(answer);
        assert_eq!(found, Some(code), "{answer}: {told}");
        assert!(told.contains(reason), "{answer}: {told}");
    }
}
