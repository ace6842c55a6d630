//! The JSON Schema of rules documents (draft 2020-12), made of the reader's own tables: `docs/schemas/rules.schema.json`.
//!
//! It refuses nothing that the reader accepts. What it cannot say is left to `portcullis check`: names that are
//! well-formed, connectors that contradict each other, tests that fail.

use std::fs;
use std::path::PathBuf;

use portcullis_types::{TLS_VERSIONS, VERDICT_FIELDS};
use serde_json::{Map, Value, json};

use crate::connector::USUAL;
use crate::context::UNKNOWN;
use crate::document::{
    DANE_MODES, DIRECTIONS, LEVELS, MAX_NAME, MAX_TEXT, MODES, MTA_STS_MODES, MX,
};
use crate::fields::{self, Fields, Kind, MAY_BE_UNKNOWN};
use crate::reader::field_names;

/// No control character (category Cc).
const LINE: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// A SHA-256 as [`portcullis_types::Sha256::parse`] reads it.
const DIGEST: &str = "^:*(?:[0-9A-Fa-f]:*){64}$";
/// An enhanced status code of class 5 (RFC 3463 section 2).
const ENHANCED: &str = "^5\\.(?:0|[1-9][0-9]{0,2})\\.(?:0|[1-9][0-9]{0,2})$";

fn schema() -> Value {
    let mut root = object(fields::DOCUMENT, &["connectors"]);
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["title"] = "Portcullis rules".into();
    root["description"] =
        "A rules document of Portcullis: the connectors of an organization.".into();
    root["$defs"] = json!({
        "connector": connector(),
        "inbound": inbound(),
        "outbound": outbound(),
        "selectors": selectors(fields::SELECTORS),
        "outbound-selectors": selectors(fields::OUTBOUND_SELECTORS),
        "require": object(fields::REQUIRE, &[]),
        "reply": object(fields::REPLY, &[]),
        "tls": tls(),
        "case": object(fields::CASE, &["name", "context", "expect"]),
        "context": context(),
        "tls-fact": object(fields::TLS_FACT, &["version"]),
        "certificate-fact": certificate(),
        "expectation": object(fields::EXPECTATION, &["verdict"]),
    });
    root
}

/// An object that has the fields of a table and no others.
fn object(table: &Fields, required: &[&str]) -> Value {
    let mut object = open_object(table, required);
    object["additionalProperties"] = false.into();
    object
}

fn open_object(table: &Fields, required: &[&str]) -> Value {
    let properties: Map<String, Value> = table
        .iter()
        .map(|field| {
            let mut value = value(field.kind);
            value["description"] = field.about.into();
            (field.name.to_owned(), value)
        })
        .collect();
    let mut object = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn value(kind: Kind) -> Value {
    match kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Address => json!({"type": "string", "examples": ["alice@contosobank.com"]}),
        Kind::Anchor => json!({"type": ["string", "array"], "items": {"type": "string"}}),
        Kind::Authorities => list(line(1, MAX_NAME), json!([["public"]])),
        Kind::CertificateFact => or_unknown("certificate-fact"),
        Kind::CertificateNames => list(
            json!({"type": "string", "not": {"const": "*"}}),
            json!([["*.contosobank.com"]]),
        ),
        Kind::ClientIp => json!({"type": "string", "examples": ["203.0.113.7", UNKNOWN]}),
        Kind::Code => {
            json!({"type": "integer", "minimum": 500, "maximum": 559, "default": USUAL.code})
        }
        Kind::Connectors => json!({"type": "array", "items": reference("connector")}),
        Kind::Context => reference("context"),
        Kind::Dane => words(&DANE_MODES, "opportunistic"),
        Kind::Digest => json!({"type": "string", "pattern": DIGEST}),
        Kind::Digests => {
            let zeros = json!({"pattern": "^[0:]*$"});
            list(
                json!({"type": "string", "pattern": DIGEST, "not": zeros}),
                Value::Null,
            )
        }
        Kind::Direction => words(&DIRECTIONS, ""),
        Kind::Domains => list(
            json!({"type": "string"}),
            json!([["contosobank.com", "*.contosobank.com"]]),
        ),
        Kind::Enabled => json!({"type": "boolean", "default": true}),
        Kind::EnhancedCode => {
            json!({"type": "string", "pattern": ENHANCED, "default": USUAL.enhanced})
        }
        Kind::Expectation => reference("expectation"),
        Kind::HeaderFrom => json!({"anyOf": [value(Kind::Texts), {"const": UNKNOWN}]}),
        Kind::MatchHeaderFrom => json!({"type": "boolean", "default": false}),
        Kind::MinVersion => words(&TLS_VERSIONS, ""),
        Kind::Mode => words(&MODES, "enforce"),
        Kind::Moment => json!({"type": "string", "format": "date-time"}),
        Kind::MtaSts => words(&MTA_STS_MODES, "opportunistic"),
        Kind::Name => line(1, MAX_NAME),
        Kind::OwnDomains => list(
            json!({"type": "string", "not": {"const": "*"}}),
            json!([["contoso.com", "*.contoso.com"]]),
        ),
        Kind::Ranges => list(
            json!({"type": "string"}),
            json!([["203.0.113.7", "203.0.113.0/24", "2001:db8:7::/48"]]),
        ),
        Kind::Reply => reference("reply"),
        Kind::ReplyText => {
            let mut text = line(0, MAX_TEXT);
            text["default"] = USUAL.text.into();
            text
        }
        Kind::Require => reference("require"),
        Kind::RequireTls => json!({
            "anyOf": [{"type": "boolean"}, object(fields::REQUIRE_TLS, &["min-version"])],
            "default": false
        }),
        Kind::Route => json!({
            "anyOf": [{"const": MX}, object(fields::ROUTE, &["smart-hosts"])],
            "default": MX
        }),
        // The direction says which.
        Kind::Selectors => json!({"type": "object"}),
        Kind::SmartHosts => list(
            json!({"type": "string", "minLength": 1}),
            json!([["mx1.contosobank.com", "[203.0.113.9]:2525"]]),
        ),
        Kind::Tests => json!({"type": "array", "items": reference("case")}),
        Kind::TlsFact => or_unknown("tls-fact"),
        Kind::TlsLevel => words(&LEVELS, ""),
        Kind::Tls => reference("tls"),
        Kind::Trust => {
            let words = portcullis_types::Trust::ALL
                .iter()
                .map(|trust| trust.name());
            json!({"enum": words.collect::<Vec<_>>()})
        }
        Kind::Unknown => {
            let names = field_names(&[fields::CERTIFICATE_FACT]).take(MAY_BE_UNKNOWN);
            json!({"type": "array", "items": {"enum": names.collect::<Vec<_>>()}})
        }
        Kind::Version => {
            let known = TLS_VERSIONS.iter().map(|(name, _)| *name);
            json!({"enum": known.chain([UNKNOWN]).collect::<Vec<_>>()})
        }
        Kind::Verdict => json!({"enum": ["accept", "reject", "defer", "deliver"]}),
        // What a verdict does not have, a case may expect to be null.
        Kind::ExpectedText => json!({"type": ["string", "null"]}),
        Kind::ExpectedTexts => json!({"type": ["array", "null"], "items": {"type": "string"}}),
        Kind::ExpectedCode => json!({"type": ["integer", "null"]}),
        Kind::ExpectedDane => or_null(&DANE_MODES),
        Kind::ExpectedMtaSts => or_null(&MTA_STS_MODES),
        Kind::ExpectedRoute => json!({
            "anyOf": [{"enum": [MX, null]}, object(fields::ROUTE, &[])]
        }),
        Kind::ExpectedTls => nullable(protection(&[])),
        Kind::AuditTls => nullable(protection(&["dane", "mta-sts"])),
        Kind::Findings => json!({
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"connector": {"type": "string"}, "failed": {"type": "string"}},
                "required": ["connector", "failed"],
                "additionalProperties": false
            }
        }),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

fn or_unknown(name: &str) -> Value {
    json!({"anyOf": [reference(name), {"const": UNKNOWN}]})
}

/// A list of at least one.
fn list(items: Value, examples: Value) -> Value {
    let mut list = json!({"type": "array", "items": items, "minItems": 1});
    if !examples.is_null() {
        list["examples"] = examples;
    }
    list
}

fn line(least: usize, most: usize) -> Value {
    let mut line = json!({"type": "string", "maxLength": most, "pattern": LINE});
    if least > 0 {
        line["minLength"] = least.into();
    }
    line
}

fn words<T>(words: &[(&str, T)], default: &str) -> Value {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    match default {
        "" => json!({"enum": names}),
        default => json!({"enum": names, "default": default}),
    }
}

fn or_null<T>(words: &[(&str, T)]) -> Value {
    let names = words.iter().map(|(name, _)| Value::from(*name));
    json!({"enum": names.chain([Value::Null]).collect::<Vec<_>>()})
}

fn nullable(object: Value) -> Value {
    json!({"anyOf": [{"type": "null"}, object]})
}

/// The parts of a protection that a case looks at.
fn protection(more: &[&str]) -> Value {
    let mut protection = object(fields::TLS, &[]);
    for field in fields::OUTBOUND {
        if more.contains(&field.name) {
            protection["properties"][field.name] = value(field.kind);
        }
    }
    for property in protection["properties"]
        .as_object_mut()
        .into_iter()
        .flatten()
    {
        if let Some(property) = property.1.as_object_mut() {
            // Nothing is assumed of what is left out.
            property.remove("default");
        }
    }
    protection
}

fn connector() -> Value {
    let of = |direction: &str| {
        json!({
            "if": {"properties": {"direction": {"const": direction}}, "required": ["direction"]},
            "then": reference(direction)
        })
    };
    let mut connector = open_object(fields::CONNECTOR, &["name", "direction"]);
    let names = field_names(&[fields::CONNECTOR, fields::INBOUND, fields::OUTBOUND]);
    connector["propertyNames"] = json!({"enum": names.collect::<Vec<_>>()});
    connector["allOf"] = json!([of("inbound"), of("outbound")]);
    connector
}

/// What a direction adds to a connector; `field` has its selectors.
fn with_common(table: &Fields, field: &str, selectors: &str) -> Value {
    let mut connector = object(table, &[field]);
    let properties = &mut connector["properties"];
    for common in fields::CONNECTOR {
        // Described where all connectors are.
        properties[common.name] = true.into();
    }
    properties["except"] = reference(selectors);
    let about = properties[field]["description"].take();
    properties[field] = reference(selectors);
    properties[field]["description"] = about;
    connector
}

fn inbound() -> Value {
    with_common(fields::INBOUND, "from", "selectors")
}

fn outbound() -> Value {
    with_common(fields::OUTBOUND, "to", "outbound-selectors")
}

fn selectors(table: &Fields) -> Value {
    let mut selectors = object(table, &[]);
    selectors["minProperties"] = 1.into();
    selectors
}

fn tls() -> Value {
    let mut tls = object(fields::TLS, &["level"]);
    let if_level = |level: &str, then: Value, otherwise: Value| {
        json!({
            "if": {"properties": {"level": {"const": level}}, "required": ["level"]},
            "then": then,
            "else": otherwise
        })
    };
    let needs_tls = field_names(&[fields::TLS]).skip_while(|name| *name != "min-version");
    let none: Map<String, Value> = needs_tls.map(|name| (name.into(), false.into())).collect();
    tls["allOf"] = json!([
        if_level(
            "name",
            json!({"required": ["names"]}),
            json!({"properties": {"names": false}})
        ),
        if_level("opportunistic", json!({"properties": none}), true.into()),
    ]);
    tls
}

fn context() -> Value {
    let mut context = object(fields::CONTEXT, &["direction", "rcpt-to"]);
    context["if"] = json!({"properties": {"direction": {"const": "inbound"}}});
    context["then"] = json!({"required": ["mail-from"]});
    context
}

fn certificate() -> Value {
    let mut certificate = object(fields::CERTIFICATE_FACT, &[]);
    certificate["if"] = json!({
        "properties": {"unknown": {"contains": {"const": "trust"}}},
        "required": ["unknown"]
    });
    certificate["else"] = json!({"required": ["trust"]});
    certificate
}

#[test]
fn the_schema_is_that_of_the_reader() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas/rules.schema.json");
    let generated = serde_json::to_string_pretty(&schema()).expect("JSON") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &generated).expect("the schema is written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        generated == found,
        "{} is not that of the reader; UPDATE_GOLDEN=1 rewrites it",
        path.display()
    );
}

#[test]
fn a_case_can_expect_what_a_verdict_has() {
    let names: Vec<&str> = field_names(&[fields::EXPECTATION]).collect();
    assert_eq!(names, VERDICT_FIELDS);
}
