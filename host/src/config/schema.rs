//! The JSON Schema of the configuration (draft 2020-12), made of the structs that are read:
//! `docs/schemas/configuration.schema.json`.
//!
//! It refuses nothing that can be used. What it cannot say is left to `portcullis run --check-config`: durations and
//! sizes that are well-formed, tenants that there are, files that can be read.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::raw::RawConfig;
use super::values::Paths;

/// Addresses and ranges.
pub(super) enum Networks {}

/// A time.
pub(super) enum Time {}

/// A size.
pub(super) enum Size {}

macro_rules! written {
    ($($kind:ty, $name:literal: $schema:tt;)+) => {
        $(impl JsonSchema for $kind {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        })+
    };
}

written! {
    Networks, "Networks": {"type": "array", "items": {"type": "string"}, "examples": [["10.0.0.0/8", "2001:db8::1"]]};
    Time, "Time": {"type": "string", "examples": ["50ms", "1m 30s"]};
    Size, "Size": {"type": "string", "examples": ["25MiB"]};
    Paths, "Paths": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]};
}

fn schema() -> Value {
    let mut schema = serde_json::to_value(schemars::schema_for!(RawConfig)).expect("JSON");
    schema = serde_json::from_str(&schema.to_string().replace("Raw", "")).expect("JSON");
    without_null(&mut schema);
    schema["title"] = "Portcullis configuration".into();
    schema["description"] = "The configuration of `portcullis run`.".into();
    schema["properties"]["listener"]["minItems"] = 1.into();
    schema["properties"]["hostname"]["pattern"] = "^[!-~]+$".into();
    let definitions = schema["$defs"].as_object_mut().expect("definitions");
    sandbox(&mut definitions["Sandbox"]);
    for (definition, more) in rest() {
        let definition = definitions[definition].as_object_mut().expect("a struct");
        definition.extend(more.as_object().cloned().expect("an object"));
    }
    for (definition, key, more) in values() {
        let property = &mut definitions[definition]["properties"][key];
        let property = property.as_object_mut().expect("a key");
        property.extend(more.as_object().cloned().expect("an object"));
    }
    schema
}

/// TOML has no null: what is optional is left out.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = &types[..] {
                    let only = only.clone();
                    fields.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(any)) = fields.get_mut("anyOf") {
                any.retain(|one| *one != json!({"type": "null"}));
                if let [Value::Object(only)] = &any[..] {
                    let only = only.clone();
                    fields.remove("anyOf");
                    fields.extend(only);
                }
            }
            // Formats of numbers are the library's own words, and no limits.
            let is_number = |format: &Value| format.as_str().is_some_and(|it| it.contains("int"));
            fields.retain(|key, value| match key.as_str() {
                "default" => !has_null(value),
                "format" => !is_number(value),
                _ => true,
            });
            fields.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        _ => {}
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

/// The defaults are those of the embedding library.
fn sandbox(definition: &mut Value) {
    let defaults = RawConfig::default().with_defaults().sandbox;
    let defaults = serde_json::to_value(defaults).expect("JSON");
    for (key, default) in defaults.as_object().expect("a table") {
        // The folder depends on who asks.
        if key != "cache-directory" {
            definition["properties"][key]["default"] = default.clone();
        }
    }
}

/// What keys of one table say about each other.
fn rest() -> [(&'static str, Value); 4] {
    let has_files = |key: &str| {
        let files = json!({"anyOf": [{"type": "string"}, {"minItems": 1}]});
        json!({"properties": {key: files}, "required": [key]})
    };
    let needs = |key: &str, other: &str| json!({"if": has_files(key), "then": has_files(other)});
    let is =
        |key: &str, value: Value| json!({"properties": {key: {"const": value}}, "required": [key]});
    let some = |key: &str| json!({"properties": {key: {"minItems": 1}}, "required": [key]});
    [
        (
            "Listener",
            json!({
                "oneOf": [{"required": ["next-hop"]}, {"required": ["outbound"]}],
                "allOf": [
                    needs("certificate", "key"),
                    needs("key", "certificate"),
                    {"if": is("tls", "implicit".into()), "then": has_files("certificate")}
                ]
            }),
        ),
        (
            "NextHop",
            json!({
                "oneOf": [{"required": ["smtp"]}, {"required": ["lmtp"]}, {"required": ["maildir"]}],
                "allOf": [
                    {"if": is("xclient", true.into()), "then": {"required": ["smtp"]}},
                    {"if": {"required": ["maildir"]}, "then": {"properties": {"proxy-protocol": false}}}
                ]
            }),
        ),
        (
            "Outbound",
            json!({
                "anyOf": [some("clients"), some("certificate-names"), some("certificate-fingerprints"), json!({"required": ["password-file"]})]
            }),
        ),
        (
            "Delivery",
            json!({"dependentRequired": {"certificate": ["key"], "key": ["certificate"]}}),
        ),
    ]
}

/// What a value must be besides its type.
fn values() -> Vec<(&'static str, &'static str, Value)> {
    let mut values = vec![
        ("NextHop", "proxy-protocol", json!({"enum": [1, 2]})),
        ("Limits", "text-line", json!({"minimum": 1000})),
        ("Tenant", "name", json!({"minLength": 1})),
        (
            "Outbound",
            "certificate-fingerprints",
            json!({"items": {"type": "string", "pattern": "^:*(?:[0-9A-Fa-f]:*){64}$"}}),
        ),
        (
            "Authority",
            "roots",
            json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
        ),
    ];
    for (definition, keys) in [
        ("NextHop", &["recipients"][..]),
        (
            "Limits",
            &[
                "recipients",
                "sessions",
                "sessions-per-address",
                "errors",
                "commands",
                "hops",
            ],
        ),
        ("Sandbox", &["instances"]),
        ("Delivery", &["port", "mta-sts-port"]),
        ("Connections", &["per-route", "messages"]),
    ] {
        values.extend(
            keys.iter()
                .map(|key| (definition, *key, json!({"minimum": 1}))),
        );
    }
    values
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn the_schema_is_that_of_the_configuration() {
    let path = root().join("docs/schemas/configuration.schema.json");
    let generated = serde_json::to_string_pretty(&schema()).expect("JSON") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &generated).expect("the schema is written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        generated == found,
        "{} is not that of the configuration; UPDATE_GOLDEN=1 rewrites it",
        path.display()
    );
}

fn validator() -> Validator {
    let schema = schema();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::validator_for(&schema).expect("a schema")
}

fn to_json(text: &str) -> Option<Value> {
    let table: toml::Table = text.parse().ok()?;
    serde_json::to_value(table).ok()
}

fn assert_valid(validator: &Validator, text: &str) {
    let value = to_json(text).expect("TOML");
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|error| format!("{}: {error}", error.instance_path))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
}

/// The configurations that people read.
fn published() -> Vec<String> {
    let read = |name: &str| fs::read_to_string(root().join(name)).expect("a file");
    let mut texts = vec![read("examples/portcullis.toml")];
    for name in [
        "README.md",
        "docs/configuration.md",
        "docs/postfix.md",
        "docs/validate.md",
    ] {
        let page = read(name);
        let blocks = page.split("```toml\n").skip(1);
        let whole = blocks
            .filter_map(|rest| rest.split("```").next())
            .filter(|text| RawConfig::read(text).is_ok());
        texts.extend(whole.map(str::to_owned));
    }
    texts
}

#[test]
fn what_is_published_and_what_is_shown_is_valid() {
    let validator = validator();
    for text in published() {
        assert_valid(&validator, &text);
        let shown = RawConfig::read(&text).expect("a configuration").show();
        assert_valid(&validator, &shown.expect("TOML"));
    }
}

/// What is said of a configuration of which the shape is right: the schema cannot know.
const BEYOND_SHAPE: [&str; 33] = [
    "bad-address",
    "bad-domain",
    "bad-duration",
    "bad-policy",
    "bad-proxy-source",
    "bad-size",
    "certificate-name-without-login",
    "domain-twice",
    "frontend-bad-mode",
    "frontend-relay",
    "frontend-relay-clients",
    "implicit-tls-on-unix-socket",
    "legacy-ciphers-domain",
    "legacy-ciphers-without-tls",
    "little-memory",
    "login-on-unix-socket",
    "login-with-xclient",
    "login-without-password",
    "missing-certificate",
    "missing-policy",
    "no-listener",
    "operator-twice",
    "outbound-bad-client",
    "outbound-certificate-without-tls",
    "outbound-without-tenant",
    "password-file-without-tls",
    "smart-host-address",
    "smart-host-nameless",
    "smart-host-tenant",
    "smart-host-twice",
    "stack-too-large",
    "tenant-twice",
    "two-source-addresses",
];

#[test]
fn bad_configurations_of_bad_shape_are_not_valid() {
    let validator = validator();
    let mut seen = 0;
    for entry in fs::read_dir(root().join("tests/bad-configs")).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        if path.extension().is_none_or(|it| it != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a file");
        let Some(value) = to_json(&text) else {
            assert_eq!(name, "not-toml");
            continue;
        };
        seen += 1;
        let is_beyond = BEYOND_SHAPE.contains(&&*name);
        assert_eq!(validator.is_valid(&value), is_beyond, "{name}");
    }
    assert!(seen > 25, "{seen}");
}

/// All configurations that differ from this one in a single place.
fn neighbours(value: &Value) -> Vec<Value> {
    let others = [
        json!(true),
        json!(7),
        json!(0),
        json!("x"),
        json!([]),
        json!(["x"]),
        json!({}),
    ];
    let mut found = others.to_vec();
    match value {
        Value::Object(fields) => {
            // The library reads a list in place of a table as its values in order, which nobody means.
            found.retain(|other| !other.is_array());
            let with = |key: &str, value: Value| {
                let mut fields = fields.clone();
                fields.insert(key.into(), value);
                Value::Object(fields)
            };
            for (key, value) in fields {
                found.extend(neighbours(value).into_iter().map(|it| with(key, it)));
                let mut fields: Map<String, Value> = fields.clone();
                fields.remove(key);
                found.push(Value::Object(fields));
            }
            found.push(with("colour", json!("blue")));
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                found.extend(neighbours(item).into_iter().map(|item| {
                    let mut items = items.clone();
                    items[number] = item;
                    Value::Array(items)
                }));
            }
        }
        _ => {}
    }
    found
}

/// What can be used is valid, and what cannot be read is not.
#[test]
fn the_reader_agrees_about_neighbours() {
    let validator = validator();
    let texts = [
        fs::read_to_string(root().join("examples/portcullis.toml")).expect("a file"),
        r#"
            hostname = "mx.contoso.com"
            [[listener]]
            address = "0.0.0.0:25"
            tls = "implicit"
            certificate = ["mx.pem"]
            key = "mx.key"
            proxy-protocol = ["10.0.0.1"]
            client-names = true
            next-hop = { smtp = "10.0.0.5:25", xclient = true, proxy-protocol = 2, recipients = 9 }
            [[listener]]
            address = "0.0.0.0:26"
            next-hop = { lmtp = "unix:/run/lmtp", starttls = false }
            [[listener]]
            address = "0.0.0.0:27"
            next-hop = { maildir = "mail", recipients = 1 }
            [[listener]]
            address = "0.0.0.0:587"
            certificate = "mx.pem"
            key = "mx.key"
            [listener.outbound]
            clients = ["10.0.0.0/8"]
            certificate-names = ["*.contoso.com"]
            certificate-fingerprints = ["00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"]
            tenant = "contoso"
            [[tenant]]
            name = "contoso"
            domains = ["contoso.com"]
            policy = "contoso.json"
            tests = "cases.json"
            [limits]
            message-size = "25MiB"
            recipients = 5
            [timeouts]
            command = "90s"
            [sandbox]
            memory = "2MiB"
            evaluation = "50ms"
            instances = 3
            [trust]
            roots = "a.pem"
            authority = [{ name = "Bank", roots = ["b.pem"], tenants = ["contoso"] }]
            [delivery]
            certificate = "c.pem"
            key = "c.key"
            port = 26
            address-family = "ipv4"
            source-addresses = ["192.0.2.1"]
            [dns]
            servers = ["192.0.2.53:53"]
            dnssec = false
            trust-ad = ["192.0.2.53"]
            [connections]
            messages = 5
            [metrics]
            address = "127.0.0.1:9100"
            [log]
            mailboxes = "domain"
            clients = "network"
        "#
        .to_owned(),
    ];
    for text in texts {
        let value = to_json(&text).expect("TOML");
        assert!(validator.is_valid(&value));
        for neighbour in neighbours(&value).into_iter().filter(Value::is_object) {
            let table = toml::Table::try_from(&neighbour).expect("TOML");
            let text = table.to_string();
            match super::Config::parse(&text, Path::new("/etc/portcullis")) {
                Ok(_) => assert_valid(&validator, &text),
                Err(problem) if is_of_shape(problem.code) => {
                    assert!(!validator.is_valid(&neighbour), "{problem}\n{text}");
                }
                Err(_) => {}
            }
        }
    }
}

fn is_of_shape(code: &str) -> bool {
    matches!(
        code,
        "unknown-key" | "missing-key" | "wrong-type" | "unknown-value"
    )
}
