//! Cases that a policy must pass: what is expected of a verdict.

use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::{Dane, MtaSts};

/// The fields of a verdict's JSON.
pub const VERDICT_FIELDS: [&str; 14] = [
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
    "audit-connector",
    "audit",
];

/// Writes the defaults into a verdict's JSON, which leaves them out: a case may expect them.
pub fn write_defaults(verdict: &mut Value) {
    let is_delivery = verdict["verdict"] == "deliver";
    let Some(fields) = verdict.as_object_mut() else {
        return;
    };
    fields
        .entry("audit")
        .or_insert_with(|| Value::Array(Vec::new()));
    if !is_delivery {
        return;
    }
    let protection = |fields: &mut Map<String, Value>| {
        for (key, default) in [
            ("dane", Dane::Opportunistic.name()),
            ("mta-sts", MtaSts::Opportunistic.name()),
        ] {
            fields.entry(key).or_insert_with(|| default.into());
        }
    };
    protection(fields);
    if let Some(Value::Object(audited)) = fields.get_mut("audit-tls") {
        protection(audited);
    }
}

/// Whether what was expected is found; an object may have more fields than were expected.
pub fn is_part_of(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| is_part_of(value, found))),
        _ => expected == found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_left_out_can_be_expected() {
        let mut verdict = json!({
            "verdict": "deliver", "route": "mx", "tls": {"level": "encrypt"}, "dane": "mandatory",
            "audit-tls": {"level": "verify"}
        });
        write_defaults(&mut verdict);
        for (field, expected) in [
            ("dane", json!("mandatory")),
            ("mta-sts", json!("opportunistic")),
            ("audit-tls", json!({"dane": "opportunistic"})),
            ("audit", json!([])),
        ] {
            assert!(is_part_of(&expected, &verdict[field]), "{field}: {verdict}");
        }
    }
}
