//! The command line, as a person and a script see it. Broken rules and broken configurations are
//! files with golden answers beside them: a new case is a new file, and `UPDATE_GOLDEN=1` writes its
//! answer, to be read before it is kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use portcullis_tests::{Pki, portcullis, run};
use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

/// Runs a command in a folder, so that answers hold no paths of this machine.
fn run_in(folder: &Path, arguments: &[&str]) -> Output {
    portcullis(arguments)
        .current_dir(folder)
        .output()
        .expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn assert_golden(path: &Path, answer: &str) {
    let golden = path.with_extension("expected");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, answer).expect("the golden answer is written");
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(
        answer,
        expected,
        "{}; UPDATE_GOLDEN=1 rewrites it",
        golden.display()
    );
}

fn name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("a name")
}

#[test]
fn the_whole_configuration_is_shown_and_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("portcullis.toml");
    let show = |text: &str| {
        fs::write(&path, text).expect("a file");
        let path = path.to_string_lossy();
        let output = run(&["run", "--show-config", "--config", &path], b"");
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            text_of_errors(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let shown = show(
        "hostname = \"mx.contoso.com\"
        [[listener]]
        address = \"127.0.0.1:0\"
        next-hop = { maildir = \"mail\" }
        [limits]
        sessions = 7
        ",
    );
    for line in [
        "sessions = 7 # default: 2000",
        "recipients = 100",
        "command = \"5m\"",
    ] {
        assert!(shown.lines().any(|own| own == line), "{line}\n{shown}");
    }
    assert_eq!(show(&shown), shown);
}

/// Whoever checks may be another user than the one who will run.
#[test]
fn a_check_of_the_configuration_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("portcullis.toml");
    fs::write(folder.path().join("rules.json"), r#"{"connectors": []}"#).expect("a file");
    fs::write(
        &path,
        "hostname = \"mx.contoso.com\"
        [[listener]]
        address = \"127.0.0.1:0\"
        outbound = { clients = [\"127.0.0.1\"] }
        [[listener]]
        address = \"127.0.0.1:0\"
        next-hop = { maildir = \"mail\" }
        [[tenant]]
        name = \"contoso\"
        domains = [\"contoso.com\"]
        policy = \"rules.json\"
        [delivery]
        state-directory = \"state\"
        [sandbox]
        cache-directory = \"cache\"
        ",
    )
    .expect("a file");
    let output = run(
        &["run", "--check-config", "--config", &path.to_string_lossy()],
        b"",
    );
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        text_of_errors(&output.stderr)
    );
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["portcullis.toml", "rules.json"]);
}

#[test]
fn mail_of_our_own_senders_is_explained_as_what_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rules.json");
    let rules = r#"{"accepted-domains": ["contoso.com", "*.corp.test"], "connectors": [
        {"name": "to bank", "direction": "outbound", "to": {"recipient-domains": ["bank.test"]},
         "tls": {"level": "encrypt"}}]}"#;
    fs::write(&path, rules).expect("a file");
    let path = path.to_string_lossy();
    let explain = |from: &str, to: &str, more: &[&str]| {
        let about = ["explain", &*path, "--from", from, "--to", to];
        let output = run(&[&about[..], more].concat(), b"");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for (from, to, more, is_outbound) in [
        ("a@contoso.com", "b@bank.test", &[][..], true),
        ("a@x.CORP.test", "b@bank.test", &[], true),
        ("a@contoso.com", "b@corp.test", &[], false),
        ("b@bank.test", "a@contoso.com", &[], false),
        ("a@contoso.com", "b@bank.test", &["--inbound"], false),
        ("a@elsewhere.test", "b@bank.test", &["--outbound"], true),
    ] {
        let told = explain(from, to, more);
        assert_eq!(
            told.contains("\"to bank\""),
            is_outbound,
            "{from} {to}: {told}"
        );
    }
}

#[test]
fn broken_rules_are_shown_where_they_are_broken() {
    let folder = folder("bad-rules");
    for path in files(&folder, "json") {
        let output = run_in(&folder, &["check", name(&path)]);
        let answer = text(&output.stdout);
        assert_golden(&path, &answer);
        let errors = !answer.ends_with(": 0 errors, 0 warnings\n") && answer.contains("error[");
        assert_eq!(
            output.status.code(),
            Some(i32::from(errors)),
            "{}",
            path.display()
        );
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn every_code_of_the_manual_has_a_broken_file() {
    let manual = fs::read_to_string(folder("../docs/spec.md")).expect("the manual");
    let (_, section) = manual
        .split_once("## What `check` finds")
        .expect("the section");
    let codes: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|line| line.split(" |").next().unwrap_or_default().split("`, `"))
        .map(|code| code.trim_end_matches('`'))
        .collect();
    assert!(codes.len() > 20, "{codes:?}");
    let folder = folder("bad-rules");
    let mut shown = BTreeSet::new();
    for path in files(&folder, "json") {
        let output = run_in(&folder, &["check", "--format", "json", name(&path)]);
        let problems: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        for problem in problems.as_array().expect("a list") {
            assert!(problem["line"].as_u64() > Some(0) && problem["column"].as_u64() > Some(0));
            assert!(problem["path"].is_string() && problem["message"].is_string());
            shown.insert(problem["code"].as_str().expect("a code").to_owned());
        }
    }
    let shown: BTreeSet<&str> = shown.iter().map(String::as_str).collect();
    assert_eq!(codes, shown);
}

#[test]
fn broken_configurations_are_told_with_their_place() {
    let folder = folder("bad-configs");
    for path in files(&folder, "toml") {
        let output = run_in(&folder, &["run", "--check-config", "--config", name(&path)]);
        let code = output.status.code().expect("it ends");
        assert!(code == 1 || code == 2, "{}", path.display());
        assert!(output.stdout.is_empty());
        // Log lines begin with the time.
        let answer: String = text(&output.stderr)
            .lines()
            .map(|line| {
                line.split_once("Z ERROR ")
                    .map_or(line, |(_, line)| line)
                    .to_owned()
                    + "\n"
            })
            .collect();
        assert_golden(&path, &format!("{answer}exit {code}\n"));
    }
}

#[test]
fn the_json_of_the_manual_is_right() {
    let manual = fs::read_to_string(folder("../docs/spec.md")).expect("the manual");
    let blocks: Vec<&str> = manual
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    let [rules, context] = blocks[..] else {
        panic!("a document and a context")
    };
    let temporary = tempfile::tempdir().expect("a folder");
    let path = temporary.path().join("rules.json");
    fs::write(&path, rules).expect("a file");
    let path = path.to_string_lossy();
    let output = run(&["check", &path], b"");
    assert!(
        text(&output.stdout).ends_with(": 0 errors, 0 warnings\n"),
        "{}",
        text(&output.stdout)
    );
    let context = context.replace('\n', " ");
    let output = run(&["evaluate", &path], context.as_bytes());
    assert_eq!(
        text(&output.stdout),
        "{\"verdict\":\"accept\",\"connectors\":[\"Contoso Bank\"],\"audit\":[]}\n"
    );
}

#[test]
fn the_example_rules_are_clean_and_become_a_component() {
    let rules = folder("../examples/rules.json");
    let rules = rules.to_string_lossy();
    let output = run(&["check", &rules], b"");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).ends_with(": 0 errors, 0 warnings\n"));
    let temporary = tempfile::tempdir().expect("a folder");
    let policy = temporary.path().join("policy.wasm");
    let policy = policy.to_string_lossy();
    let output = run(&["build", &rules, "-o", &policy], b"");
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains(": 6 connectors, 2 tests passed, "));
    assert_eq!(
        run(&["list", &policy], b"").stdout,
        run(&["list", &rules], b"").stdout
    );
    let lines = text(&run(&["list", &policy], b"").stdout);
    assert_eq!(lines.lines().count(), 6);
    assert!(
        lines.starts_with(
            "Contoso Bank is encrypted       inbound   enforce   from *.contosobank.com → TLS\n"
        ),
        "{lines}"
    );
    let json: Value =
        serde_json::from_slice(&run(&["list", "--format", "json", &policy], b"").stdout)
            .expect("JSON");
    assert_eq!(json[5]["direction"], "outbound");
    let component = fs::read(&*policy).expect("the component");
    let (imports, exports) = outermost_names(&component);
    assert_eq!(imports, Vec::<String>::new());
    assert_eq!(exports, ["portcullis:policy/evaluation@0.1.0"]);
}

fn outermost_names(component: &[u8]) -> (Vec<String>, Vec<String>) {
    use wasmparser::{Parser, Payload};
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0);
    for payload in Parser::new(0).parse_all(component) {
        match payload.expect("a component") {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                imports.extend(
                    section
                        .into_iter()
                        .map(|import| import.expect("an import").name.name.to_owned()),
                );
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                exports.extend(
                    section
                        .into_iter()
                        .map(|export| export.expect("an export").name.name.to_owned()),
                );
            }
            _ => {}
        }
    }
    (imports, exports)
}

#[test]
fn what_has_errors_is_not_built_and_what_cannot_be_read_is_told() {
    let temporary = tempfile::tempdir().expect("a folder");
    let output = temporary.path().join("policy.wasm");
    let bad = folder("bad-rules/levels.json");
    let built = run(
        &[
            "build",
            &bad.to_string_lossy(),
            "-o",
            &output.to_string_lossy(),
        ],
        b"",
    );
    assert_eq!(built.status.code(), Some(1));
    assert!(text(&built.stderr).contains("error[level-without-names]"));
    assert!(!output.exists());
    for command in ["check", "list", "evaluate"] {
        let refused = run(&[command, "none.json"], b"");
        assert_eq!(refused.status.code(), Some(2), "{command}");
        assert!(refused.stdout.is_empty());
        assert_eq!(
            text(&refused.stderr),
            "portcullis: cannot read none.json: No such file or directory (os error 2)\n"
        );
    }
    for command in ["list", "evaluate"] {
        let refused = run(&[command, &bad.to_string_lossy()], b"");
        assert_eq!(refused.status.code(), Some(2), "{command}");
        assert!(
            text(&refused.stderr).contains("levels.json is not a valid policy"),
            "{command}"
        );
    }
    assert_eq!(run(&["list", "policy.txt"], b"").status.code(), Some(2));
}

#[test]
fn evaluate_keeps_the_order_and_tells_bad_lines() {
    let rules = folder("../examples/rules.json");
    let good = r#"{"direction":"outbound","rcpt-to":"x@contosobank.com"}"#;
    let long = "x".repeat(2 << 20);
    let deep = "[".repeat(100_000);
    let lines: Vec<&[u8]> = vec![
        good.as_bytes(),
        b"oops",
        b"",
        br#"{"direction":"inbound","rcpt-to":"a@b.example"}"#,
        br#"{"direction":"inbound","mail-from":"","rcpt-to":"a@b.example","colour":1}"#,
        br#"{"direction":"inbound","mail-from":"","rcpt-to":"a@b.example","tls":{"version":"SSLv3"}}"#,
        long.as_bytes(),
        b"\xff\xfe",
        deep.as_bytes(),
        good.as_bytes(),
    ];
    let output = run(&["evaluate", &rules.to_string_lossy()], &lines.join(&b'\n'));
    assert_eq!(output.status.code(), Some(1));
    let answers: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let bad: Vec<u64> = answers
        .iter()
        .filter_map(|answer| answer["line"].as_u64())
        .collect();
    // The blank third line has no answer.
    assert_eq!(bad, [2, 4, 5, 6, 7, 8, 9]);
    assert_eq!(answers.len(), 9);
    assert_eq!(answers[0]["connector"], "To Contoso Bank");
    assert_eq!(answers[8], answers[0]);
    assert_eq!(answers[2]["error"], "missing field `mail-from`");
    assert_eq!(answers[5]["error"], "the line is longer than 1048576 bytes");
    let clean = run(&["evaluate", &rules.to_string_lossy()], good.as_bytes());
    assert_eq!(clean.status.code(), Some(0));
}

#[test]
fn explain_reads_well() {
    let rules = folder("../examples/rules.json");
    let rules = rules.to_string_lossy();
    let message = [
        "--from",
        "alice@fabrikam.com",
        "--to",
        "bob@contoso.com",
        "--ip",
        "192.0.2.9",
    ];
    let explain = |more: &[&str]| {
        let output = run(&[&["explain", &rules][..], &message, more].concat(), b"");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let refused = explain(&["--cert-name", "mail.example.net"]);
    let begin = "Mail from <alice@fabrikam.com> to <bob@contoso.com>, client 192.0.2.9, TLSv1.3, client certificate mail.example.net (trusted)
rejected: 550 5.7.1 refused by connector \"Fabrikam shows its certificate\" (certificate-name): the client certificate carries another name: it is for mail.example.net, not for *.fabrikam.com

Connector \"Partner's servers encrypt\" is for this mail
  = from.sender-ips: 192.0.2.0/24 fits 192.0.2.9
  ✓ requires an encrypted session (tls); this mail: TLSv1.3 with any cipher

Connector \"Fabrikam shows its certificate\" is for this mail
  = from.sender-domains: *.fabrikam.com fits alice@fabrikam.com
  ✓ requires an encrypted session (tls); this mail: TLSv1.3 with any cipher
  ✓ requires a client certificate (certificate-missing); this mail: CN=mail.example.net
  ✓ requires a certificate from a trusted authority (certificate-untrusted); this mail: trusted
  ✗ requires *.fabrikam.com (certificate-name); this mail: mail.example.net

Connector \"Everything through the filter\" is not for this mail
";
    assert!(refused.starts_with(begin), "{refused}");
    assert!(!refused.contains('\x1b'));
    let accepted = explain(&["--cert-name", "mx.fabrikam.com"]);
    assert!(accepted.contains("\naccepted: it satisfies every connector that is for it: Partner's servers encrypt, Fabrikam shows its certificate\n"), "{accepted}");
    let json: Value = serde_json::from_str(&explain(&["--format", "json"])).expect("JSON");
    assert_eq!(json["verdict"]["failed"], "tls");
    assert_eq!(json["considered"][0]["selectors"][0]["matched"], true);
    assert_eq!(json["considered"][0]["requirements"][0]["satisfied"], false);
    let context = br#"{"direction":"outbound","rcpt-to":"x@mail.contosobank.com"}"#;
    let output = run(&["explain", &rules, "--context", "-"], context);
    let told = text(&output.stdout);
    assert!(told.starts_with("Mail to <x@mail.contosobank.com>\ndelivered by MX, with TLS only, and a trusted certificate for *.contosobank.com\n"), "{told}");
}

/// What can be asked for by JSON can be asked for by options.
#[test]
fn explain_takes_all_that_a_certificate_may_be_known_by() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.json");
    let digest = "ab".repeat(32);
    let connector = |name: &str, require: String| {
        format!(
            r#"{{"name": "{name}", "direction": "inbound", "from": {{"sender-domains": ["{name}.test"]}},
                "require": {require}}}"#
        )
    };
    let connectors = [
        connector("key", format!(r#"{{"certificate-keys": ["{digest}"]}}"#)),
        connector(
            "whole",
            format!(r#"{{"certificate-fingerprints": ["{digest}"]}}"#),
        ),
        connector(
            "authority",
            r#"{"certificate-names": ["mx.test"], "certificate-authorities": ["own"]}"#.into(),
        ),
    ];
    fs::write(
        &rules,
        format!(r#"{{"connectors": [{}]}}"#, connectors.join(",")),
    )
    .expect("a file");
    let rules = rules.to_string_lossy();
    let verdict = |name: &str, options: &[&str]| {
        let from = format!("a@{name}.test");
        let message = [
            "explain",
            &rules,
            "--from",
            &from,
            "--to",
            "b@own.test",
            "--format",
            "json",
        ];
        let output = run(&[&message, options].concat(), b"");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        answer["verdict"]["verdict"]
            .as_str()
            .expect("a verdict")
            .to_owned()
    };
    // What is not said of a certificate is unknown.
    for (name, options, otherwise) in [
        ("key", &["--cert-key-sha256", &digest][..], "defer"),
        ("whole", &["--cert-sha256", &digest], "defer"),
        (
            "authority",
            &["--cert-name", "mx.test", "--cert-authority", "own"],
            "reject",
        ),
    ] {
        assert_eq!(verdict(name, options), "accept", "{name}");
        assert_eq!(
            verdict(name, &["--cert-name", "mx.test"]),
            otherwise,
            "{name}"
        );
    }
    let refused = run(
        &[
            "explain",
            &rules,
            "--from",
            "a@b.test",
            "--to",
            "c@d.test",
            "--cert-trust",
            "expired",
        ],
        b"",
    );
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("--cert-name"),
        "{}",
        text(&refused.stderr)
    );
}

/// Where a file is wrong, and what is to be done.
#[test]
fn files_that_cannot_be_used_are_told_of_by_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let write = |name: &str, bytes: &[u8]| {
        fs::write(path(name), bytes).expect("a file");
        path(name)
    };
    let rules = write("rules.json", br#"{"connectors": []}"#);
    let error = |arguments: &[&str]| {
        let output = run(arguments, b"");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        text(&output.stderr).replace(&path(""), "")
    };
    let latin = write("latin.json", b"{\n  \"name\": \"M\xfcller\"\n}");
    assert_eq!(
        error(&["check", &latin]),
        "portcullis: latin.json:2:13: this is not UTF-8: save the file as UTF-8\n"
    );
    let wide = write("wide.json", b"\xff\xfe{\0}\0");
    assert_eq!(
        error(&["check", &wide]),
        "portcullis: wide.json is UTF-16: save it as UTF-8\n"
    );
    let context = write(
        "context.json",
        b"{\"direction\": \"inbound\",\n \"rcpt-to\": 5}",
    );
    assert_eq!(
        error(&["explain", &rules, "--context", &context]),
        "portcullis: context.json: rcpt-to: invalid type: integer `5`, expected a string at line 2 column 13\n"
    );
    assert_eq!(
        error(&["build", &rules, "-o", &path("nowhere/policy.wasm")]),
        "portcullis: cannot write nowhere/policy.wasm: No such file or directory (os error 2)\n"
    );
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_no_crash() {
    let rules = folder("../examples/rules.json");
    let rules = rules.to_string_lossy();
    let context = r#"{"direction":"outbound","rcpt-to":"x@contosobank.com"}"#;
    let temporary = tempfile::tempdir().expect("a folder");
    let input = temporary.path().join("contexts.jsonl");
    fs::write(&input, context).expect("a file");
    let config = temporary.path().join("portcullis.toml");
    let text = format!(
        "hostname = \"mx.test\"\n[[listener]]\naddress = \"127.0.0.1:0\"\nnext-hop = {{ maildir = \"mail\" }}
         [[tenant]]\nname = \"a\"\ndomains = [\"a.test\"]\npolicy = {rules:?}\n"
    );
    fs::write(&config, text).expect("a file");
    let config = config.to_string_lossy();
    let full = || {
        fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("a device")
    };
    let commands: [&[&str]; 9] = [
        &["check", &rules],
        &["check", "--format", "json", &rules],
        &["list", &rules],
        &["list", "--format", "json", &rules],
        &["explain", &rules, "--outbound", "--to", "x@contosobank.com"],
        &["evaluate", &rules],
        &["schema", "rules"],
        &["validate", &rules, "Contoso Bank is encrypted"],
        &["run", "--check-config", "--config", &config],
    ];
    for arguments in commands {
        let start = |out: Stdio, error: Stdio| {
            portcullis(arguments)
                .stdin(fs::File::open(&input).expect("the contexts"))
                .stdout(out)
                .stderr(error)
                .spawn()
                .expect("the program starts")
        };
        let output = start(full().into(), Stdio::piped()).wait_with_output();
        let output = output.expect("the program ends");
        let told = text_of_errors(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert_eq!(
            told,
            "portcullis: cannot write to standard output: No space left on device (os error 28)",
            "{arguments:?}"
        );
        // Nor does it crash where that cannot be said either.
        let both = start(full().into(), full().into()).wait().expect("it ends");
        assert_eq!(both.code(), Some(2), "{arguments:?}");
        // Whoever reads the output may have read enough.
        let mut child = start(Stdio::piped(), Stdio::piped());
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(text_of_errors(&output.stderr), "", "{arguments:?}");
    }
}

/// What was said on standard error, apart from the log.
fn text_of_errors(bytes: &[u8]) -> String {
    let text = text(bytes);
    let said = text.lines().filter(|line| !line.contains("Z  INFO "));
    said.collect::<Vec<_>>().join("\n")
}

#[test]
fn schemas_are_printed_as_they_are_published() {
    for name in ["rules", "configuration"] {
        let output = run(&["schema", name], b"");
        assert_eq!(output.status.code(), Some(0));
        let published = folder("../docs/schemas").join(format!("{name}.schema.json"));
        assert_eq!(
            text(&output.stdout),
            fs::read_to_string(published).expect("a file")
        );
    }
    assert_eq!(run(&["schema", "contexts"], b"").status.code(), Some(2));
}

#[test]
fn rules_that_name_an_authority_which_is_not_defined_are_warned_of() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = r#"{"$schema": "rules.schema.json", "connectors": [
        {"name": "from bank", "direction": "inbound", "from": {"sender-domains": ["bank.test"]},
         "require": {"certificate-authorities": ["public", "Bank CA", "Lost CA"]}},
        {"name": "to bank", "direction": "outbound", "to": {"recipient-domains": ["bank.test"]},
         "tls": {"level": "verify", "certificate-authorities": ["Bank CA", "Other CA"]}}]}"#;
    fs::write(folder.path().join("rules.json"), rules).expect("a file");
    Pki::self_signed(&["ca.test"]).write(folder.path(), "ca");
    let built = folder.path().join("rules.wasm");
    let built = built.to_string_lossy();
    let source = folder.path().join("rules.json");
    let output = run(&["build", &source.to_string_lossy(), "-o", &built], b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let tenant = |name: &str, policy: &str| {
        format!(
            "[[tenant]]\nname = \"{name}\"\ndomains = [\"{name}.test\"]\npolicy = \"{policy}\"\n"
        )
    };
    let authority = |name: &str, tenants: &str| {
        format!("[[trust.authority]]\nname = \"{name}\"\nroots = \"ca.pem\"\n{tenants}\n")
    };
    let config = [
        "hostname = \"mx.test\"\n[[listener]]\naddress = \"127.0.0.1:0\"\nnext-hop = { maildir = \"mail\" }\n".to_owned(),
        tenant("a", "rules.json"),
        tenant("b", "rules.wasm"),
        authority("Bank CA", "tenants = [\"a\"]"),
        authority("Other CA", ""),
    ]
    .concat();
    let path = folder.path().join("portcullis.toml");
    fs::write(&path, config).expect("a file");
    let path = path.to_string_lossy();
    let arguments = [
        "run",
        "--check-config",
        "--log-format",
        "json",
        "--config",
        &path,
    ];
    let output = run(&arguments, b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let warned: Vec<[String; 3]> = text(&output.stderr)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|line| line["authority"].is_string())
        .map(|line| {
            assert_eq!(line["level"], "WARN");
            ["tenant", "connector", "authority"]
                .map(|field| line[field].as_str().expect("a name").to_owned())
        })
        .collect();
    let expected = [
        ["a", "from bank", "Lost CA"],
        ["b", "from bank", "Bank CA"],
        ["b", "from bank", "Lost CA"],
    ];
    assert_eq!(warned, expected);
}

/// A tenant's policy is not to fill the log.
#[test]
fn of_very_many_authorities_that_are_not_defined_some_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let authorities: Vec<String> = (0..1000).map(|number| format!("CA {number}")).collect();
    let rules = serde_json::json!({"connectors": [{
        "name": "bank", "direction": "inbound", "from": {"sender-domains": ["bank.test"]},
        "require": {"certificate-authorities": authorities}}]});
    fs::write(folder.path().join("rules.json"), rules.to_string()).expect("a file");
    let config = "hostname = \"mx.test\"\n\
        [[listener]]\naddress = \"127.0.0.1:0\"\nnext-hop = { maildir = \"mail\" }\n\
        [[tenant]]\nname = \"a\"\ndomains = [\"a.test\"]\npolicy = \"rules.json\"\n";
    let path = folder.path().join("portcullis.toml");
    fs::write(&path, config).expect("a file");
    let path = path.to_string_lossy();
    let output = run(&["run", "--check-config", "--config", &path], b"");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let log = text(&output.stderr);
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("authorit"))
        .collect();
    assert_eq!(lines.len(), 11, "{log}");
    assert!(lines[10].contains("more=990"), "{log}");
}

#[test]
fn help_has_an_example_for_each_command() {
    for command in [
        "run", "check", "build", "evaluate", "explain", "list", "add", "edit", "enforce", "audit",
        "remove", "history", "diff", "restore", "schema",
    ] {
        let output = run(&[command, "--help"], b"");
        assert_eq!(output.status.code(), Some(0));
        let help = text(&output.stdout);
        assert!(help.contains(&format!("  portcullis {command} ")), "{help}");
        assert!(!help.contains('\x1b'));
    }
}

/// It ends with a message, whatever it is that there is no descriptor for.
#[test]
fn too_few_descriptors_are_told() {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rules.json");
    for count in 5..24 {
        let program = portcullis(&["list", rules]);
        let output = std::process::Command::new("prlimit")
            .arg(format!("--nofile={count}"))
            .arg(program.get_program())
            .args(program.get_args())
            .output()
            .expect("prlimit can be run");
        let told = text(&output.stderr);
        assert!(!told.contains("panicked"), "{count}: {told}");
        let is_told = told.starts_with("portcullis: ");
        // With the fewest, not even its libraries can be opened.
        let is_loader = told.contains("shared libraries");
        assert!(
            output.status.success() || is_told || is_loader,
            "{count}: {told}"
        );
    }
}
