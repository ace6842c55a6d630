//! The cases under `tests`: a context and what must become of it.

use alloc::format;
use alloc::vec::Vec;

use serde_json::{Map, Value, json};

use crate::context;
use crate::document::Object;
use crate::json::Node;
use crate::problems::{Path, Problems, shorten};
use crate::{Dane, Finding, MtaSts, Policy, Protection, Refusal, Route, TlsLevel, Verdict};

/// The fields of a verdict's JSON form.
const FIELDS: [&str; 13] = [
    "verdict",
    "connector",
    "connectors",
    "failed",
    "code",
    "enhanced",
    "text",
    "route",
    "tls",
    "dane",
    "mta-sts",
    "audit-tls",
    "audit",
];

/// Runs the cases and notes those that fail.
pub fn run(policy: &Policy, cases: &[Node], problems: &mut Problems) {
    let root = Path::Root.field("tests");
    for (index, node) in cases.iter().enumerate() {
        run_one(policy, *node, &root.element(index), problems);
    }
}

fn run_one(policy: &Policy, node: Node, path: &Path, problems: &mut Problems) -> Option<()> {
    let object = Object::read(node, path, &["name", "context", "expect"], problems)?;
    let name = object.required_string("name", problems);
    let (context_node, context_path) = object.required("context", problems)?;
    let context = context::read(context_node, &context_path, problems);
    let (expect, expect_path) = object.required("expect", problems)?;
    let fields = Object::read(expect, &expect_path, &FIELDS, problems)?;
    fields.required("verdict", problems)?;
    let verdict = to_json(&policy.evaluate(&context?));
    for member in expect.members()? {
        let path = expect_path.field(&member.key);
        let Ok(expected) = serde_json::from_str::<Value>(member.value.text()) else {
            let message = "this is not something that a verdict can have".into();
            problems.error("wrong-type", path, member.value.span(), message, None);
            return None;
        };
        let found = verdict.get(&*member.key).unwrap_or(&Value::Null);
        if !is_part_of(&expected, found) {
            let message = format!(
                "the test \"{}\" fails: {} is {}, not {}",
                shorten(&name.unwrap_or_default()),
                member.key,
                shorten(&format!("{found}")),
                shorten(&format!("{expected}"))
            );
            let hint = Some(format!("the verdict is {verdict}"));
            problems.error("failed-test", path, member.value.span(), message, hint);
            return None;
        }
    }
    Some(())
}

/// Whether what was expected is found; an object may have more fields than were expected.
fn is_part_of(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| is_part_of(value, found))),
        _ => expected == found,
    }
}

/// The JSON form of a verdict.
fn to_json(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Accept(acceptance) => json!({
            "verdict": "accept",
            "connectors": acceptance.connectors,
            "audit": findings(&acceptance.audit),
        }),
        Verdict::Reject(refusal) => refusal_json("reject", refusal),
        Verdict::Defer(refusal) => refusal_json("defer", refusal),
        Verdict::Deliver(delivery) => {
            let mut fields = Map::new();
            fields.insert("verdict".into(), "deliver".into());
            if let Some(connector) = &delivery.connector {
                fields.insert("connector".into(), connector.as_str().into());
            }
            let route = match &delivery.route {
                Route::Mx => "mx".into(),
                Route::SmartHosts(hosts) => json!({ "smart-hosts": hosts }),
            };
            fields.insert("route".into(), route);
            fields.insert("tls".into(), level_json(&delivery.tls.level));
            fields.insert("dane".into(), dane_name(delivery.tls.dane).into());
            fields.insert("mta-sts".into(), mta_sts_name(delivery.tls.mta_sts).into());
            if let Some(audited) = &delivery.audit_tls {
                fields.insert("audit-tls".into(), protection_json(audited));
            }
            fields.insert("audit".into(), findings(&delivery.audit));
            Value::Object(fields)
        }
    }
}

fn refusal_json(verdict: &str, refusal: &Refusal) -> Value {
    let mut value = json!({
        "verdict": verdict,
        "failed": refusal.failed,
        "code": refusal.code,
        "enhanced": refusal.enhanced,
        "text": refusal.text,
        "audit": findings(&refusal.audit),
    });
    if let Some(connector) = &refusal.connector {
        value["connector"] = connector.as_str().into();
    }
    value
}

fn level_json(level: &TlsLevel) -> Value {
    match level {
        TlsLevel::Opportunistic => json!({ "level": "opportunistic" }),
        TlsLevel::Encrypt => json!({ "level": "encrypt" }),
        TlsLevel::Verify => json!({ "level": "verify" }),
        TlsLevel::Name(names) => json!({ "level": "name", "names": names }),
    }
}

fn protection_json(protection: &Protection) -> Value {
    let mut value = level_json(&protection.level);
    value["dane"] = dane_name(protection.dane).into();
    value["mta-sts"] = mta_sts_name(protection.mta_sts).into();
    value
}

/// The word for what TLSA records count for.
pub fn dane_name(dane: Dane) -> &'static str {
    match dane {
        Dane::Opportunistic => "opportunistic",
        Dane::Mandatory => "mandatory",
        Dane::None => "none",
    }
}

/// The word for what an MTA-STS policy counts for.
pub fn mta_sts_name(mta_sts: MtaSts) -> &'static str {
    match mta_sts {
        MtaSts::Opportunistic => "opportunistic",
        MtaSts::None => "none",
    }
}

fn findings(findings: &[Finding]) -> Value {
    findings
        .iter()
        .map(|finding| json!({ "connector": finding.connector, "failed": finding.failed }))
        .collect::<Vec<_>>()
        .into()
}
