//! Facts about mail, as the command line reads them.

use std::fs;

use portcullis_tests::run;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::{RULES, edit, edited, samples};

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
