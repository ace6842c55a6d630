//! Changes of the text of one connector where it stands. All others stay as they were written: their order, their
//! indentation, their spelling.

use std::ops::Range;

use portcullis::is_control_or_bidi;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The order in which fields are written that a connector does not have yet (`docs/spec.md`, section 3).
const ORDER: &[&str] = &[
    "name",
    "comment",
    "direction",
    "enabled",
    "mode",
    "from",
    "to",
    "sender-domains",
    "sender-ips",
    "recipient-domains",
    "except",
    "match-header-from",
    "require",
    "route",
    "smart-hosts",
    "tls",
    "level",
    "names",
    "min-version",
    "certificate-names",
    "certificate-fingerprints",
    "certificate-keys",
    "certificate-authorities",
    "source-ips",
    "dane",
    "mta-sts",
    "reply",
    "code",
    "enhanced",
    "text",
];

/// Longer lists and objects are written over several lines.
const WIDEST: usize = 100;

/// Where no line of the document is indented.
const UNIT: &str = "  ";

/// A document cannot be changed so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextError {
    /// It is no rules document.
    #[error("it is not a rules document: {0}")]
    NotRules(String),
    /// There is no such connector.
    #[error("there is no connector {name:?}{}", like(similar))]
    NoConnector {
        /// The name that was looked for.
        name: String,
        /// Names that are there, the most similar first.
        similar: Vec<String>,
    },
}

fn like(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => {
            let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            format!("; there is {}", quoted.join(", "))
        }
    }
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    connectors: &'a RawValue,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// The connectors of a document, where they stand.
struct Connectors<'a> {
    text: &'a str,
    /// The list, with its brackets.
    list: Range<usize>,
    each: Vec<Range<usize>>,
}

impl<'a> Connectors<'a> {
    fn of(text: &'a str) -> Result<Self, TextError> {
        let not_rules = |error: serde_json::Error| TextError::NotRules(error.to_string());
        let json = text.trim_start_matches('\u{feff}');
        let document: Document = serde_json::from_str(json).map_err(not_rules)?;
        let each: Vec<&RawValue> =
            serde_json::from_str(document.connectors.get()).map_err(not_rules)?;
        Ok(Connectors {
            text,
            list: place(text, document.connectors),
            each: each.iter().map(|raw| place(text, raw)).collect(),
        })
    }

    fn at(&self, range: &Range<usize>) -> &'a str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    fn names(&self) -> impl Iterator<Item = Option<String>> {
        self.each.iter().map(|range| {
            let named: Option<Named> = serde_json::from_str(self.at(range)).ok();
            named.map(|named| named.name)
        })
    }

    fn find(&self, name: &str) -> Result<usize, TextError> {
        let found = self
            .names()
            .position(|known| known.as_deref() == Some(name));
        found.ok_or_else(|| {
            let likeness =
                |known: &String| strsim::jaro_winkler(&known.to_lowercase(), &name.to_lowercase());
            let mut similar: Vec<String> = self
                .names()
                .flatten()
                .filter(|known| likeness(known) > 0.7)
                .collect();
            similar.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
            similar.truncate(3);
            TextError::NoConnector {
                name: name.into(),
                similar,
            }
        })
    }

    /// What a line begins with before a place, if that is nothing but blanks.
    fn indent(&self, at: usize) -> Option<&'a str> {
        let before = self.text.get(..at)?;
        let line = before.rsplit('\n').next().unwrap_or_default();
        line.trim().is_empty().then_some(line)
    }

    /// One step of indentation.
    fn unit(&self) -> &'a str {
        let lines = self.text.lines();
        let blanks = lines.map(|line| line.split_at(line.len() - line.trim_start().len()).0);
        blanks
            .filter(|blanks| !blanks.is_empty())
            .min_by_key(|blanks| blanks.len())
            .unwrap_or(UNIT)
    }

    fn with(&self, range: Range<usize>, replacement: &str) -> String {
        let before = self.text.get(..range.start).unwrap_or_default();
        let behind = self.text.get(range.end..).unwrap_or_default();
        [before, replacement, behind].concat()
    }
}

fn place(text: &str, raw: &RawValue) -> Range<usize> {
    // The value is a part of the text.
    let start = raw.get().as_ptr() as usize - text.as_ptr() as usize;
    start..start + raw.get().len()
}

/// The names of the connectors of a document, in their order.
///
/// # Errors
/// If it is no rules document.
pub fn names(text: &str) -> Result<Vec<String>, TextError> {
    Ok(Connectors::of(text)?.names().flatten().collect())
}

/// A connector of a document.
///
/// # Errors
/// If there is none of this name.
pub fn connector(text: &str, name: &str) -> Result<Map<String, Value>, TextError> {
    let connectors = Connectors::of(text)?;
    let found = connectors.find(name)?;
    let range = connectors.each.get(found).cloned().unwrap_or_default();
    serde_json::from_str(connectors.at(&range))
        .map_err(|error| TextError::NotRules(error.to_string()))
}

/// The document with one connector more, at the end.
///
/// # Errors
/// If it is no rules document.
pub fn add(text: &str, connector: &Map<String, Value>) -> Result<String, TextError> {
    let connectors = Connectors::of(text)?;
    let unit = connectors.unit();
    let value = Value::Object(connector.clone());
    let Some(last) = connectors.each.last() else {
        let outer = line_indent(text, connectors.list.start);
        let inner = format!("{outer}{unit}");
        let written = written(&value, &inner, unit, false);
        return Ok(connectors.with(
            connectors.list.clone(),
            &format!("[\n{inner}{written}\n{outer}]"),
        ));
    };
    let more = match connectors.indent(last.start) {
        Some(indent) => format!(",\n{indent}{}", written(&value, indent, unit, false)),
        None => format!(", {}", inline(&value)),
    };
    Ok(connectors.with(last.end..last.end, &more))
}

/// The document without a connector.
///
/// # Errors
/// If there is none of this name.
pub fn remove(text: &str, name: &str) -> Result<String, TextError> {
    let connectors = Connectors::of(text)?;
    let found = connectors.find(name)?;
    let at = |number: usize| connectors.each.get(number).cloned().unwrap_or_default();
    let range = match (found, connectors.each.get(found + 1)) {
        (_, Some(next)) => at(found).start..next.start,
        (0, None) => return Ok(connectors.with(connectors.list.clone(), "[]")),
        (_, None) => at(found - 1).end..at(found).end,
    };
    Ok(connectors.with(range, ""))
}

/// The document with a connector as it is to be: only those of its fields are written anew that differ.
///
/// # Errors
/// If there is none of this name.
pub fn update(text: &str, name: &str, connector: &Map<String, Value>) -> Result<String, TextError> {
    let connectors = Connectors::of(text)?;
    let found = connectors.find(name)?;
    let range = connectors.each.get(found).cloned().unwrap_or_default();
    let changed = patched(connectors.at(&range), connector, connectors.unit())
        .map_err(|error| TextError::NotRules(error.to_string()))?;
    Ok(connectors.with(range, &changed))
}

/// The members of an object, with their values as they are written.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OfMembers;
        impl<'de> Visitor<'de> for OfMembers {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(OfMembers)
    }
}

/// A member as it is to be written.
struct Member<'a> {
    name: String,
    /// What is before its name, with the comma; `None` if it comes anew.
    lead: Option<&'a str>,
    /// Its name and the colon, as they are written.
    label: String,
    value: String,
}

/// An object with the members that are wanted. What is so already stays as it is written, with all that is between.
fn patched(object: &str, wanted: &Map<String, Value>, unit: &str) -> serde_json::Result<String> {
    let Members(known) = serde_json::from_str(object)?;
    let first_lead = known
        .first()
        .map_or(" ", |_| lead(object.get(1..).unwrap_or_default()));
    let indent = first_lead.rsplit_once('\n').map(|(_, indent)| indent);
    let new_value = |value: &Value| match indent {
        Some(indent) => written(value, indent, unit, true),
        None => inline(value),
    };
    let mut members: Vec<Member> = Vec::new();
    let mut end = 1;
    for (name, raw) in &known {
        let range = place(object, raw);
        let before = object.get(end..range.start).unwrap_or_default();
        end = range.end;
        let Some(value) = wanted.get(name) else {
            continue;
        };
        let lead = lead(before);
        members.push(Member {
            name: name.clone(),
            lead: Some(lead),
            label: before.get(lead.len()..).unwrap_or_default().into(),
            value: match (value, serde_json::from_str::<Value>(raw.get())?) {
                (value, known) if *value == known => raw.get().into(),
                (Value::Object(wanted), Value::Object(_)) => patched(raw.get(), wanted, unit)?,
                _ => new_value(value),
            },
        });
    }
    for (name, value) in in_order(wanted) {
        if known.iter().any(|(known, _)| known == name) {
            continue;
        }
        let before = members
            .iter()
            .rposition(|member| rank(&member.name) <= rank(name));
        members.insert(
            before.map_or(0, |last| last + 1),
            Member {
                name: name.clone(),
                lead: None,
                label: format!("{}: ", Value::from(name.as_str())),
                value: new_value(value),
            },
        );
    }
    let tail = match known.is_empty() {
        true => " }",
        false => object.get(end..).unwrap_or_default(),
    };
    Ok(joined(&members, first_lead, indent.is_some(), tail))
}

/// What is before a name: blanks, and the comma.
fn lead(text: &str) -> &str {
    let end = text.find('"').unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn joined(members: &[Member], first_lead: &str, has_lines: bool, tail: &str) -> String {
    if members.is_empty() {
        return "{}".into();
    }
    let mut text = String::from("{");
    for (number, member) in members.iter().enumerate() {
        match (number, member.lead) {
            (0, _) => text.push_str(first_lead),
            (_, Some(lead)) if lead.contains(',') => text.push_str(lead),
            _ if has_lines => {
                text.push(',');
                text.push_str(first_lead);
            }
            _ => text.push_str(", "),
        }
        text.push_str(&member.label);
        text.push_str(&member.value);
    }
    text + tail
}

fn rank(name: &str) -> usize {
    let known = ORDER.iter().position(|known| *known == name);
    known.unwrap_or(ORDER.len())
}

fn in_order(fields: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by_key(|(name, _)| rank(name));
    fields
}

fn line_indent(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text.get(start..).unwrap_or_default();
    line.split_at(line.len() - line.trim_start_matches([' ', '\t']).len())
        .0
}

/// A whole document as people write it.
pub fn written_document(document: &Value) -> String {
    let mut text = String::from("{\n");
    let fields = document.as_object().into_iter().flatten();
    let fields: Vec<String> = fields
        .map(|(name, value)| {
            let value = match (name.as_str(), value) {
                ("connectors", Value::Array(list)) if !list.is_empty() => {
                    let indent = UNIT.repeat(2);
                    let each = list
                        .iter()
                        .map(|value| format!("{indent}{}", written(value, &indent, UNIT, false)));
                    format!("[\n{}\n{UNIT}]", each.collect::<Vec<_>>().join(",\n"))
                }
                _ => written(value, UNIT, UNIT, true),
            };
            format!("{UNIT}{}: {value}", Value::from(name.as_str()))
        })
        .collect();
    text.push_str(&fields.join(",\n"));
    text.push_str("\n}\n");
    escaped(&text)
}

/// JSON without characters that steer a terminal; they can stand in its texts only.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\n' => text.push('\n'),
            steers if is_control_or_bidi(steers) => {
                let mut units = [0; 2];
                for unit in steers.encode_utf16(&mut units) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
            other => text.push(other),
        }
    }
    text
}

/// A value as people write it: what is short on one line, if it may be.
fn written(value: &Value, indent: &str, unit: &str, may_be_short: bool) -> String {
    let short = inline(value);
    if may_be_short && indent.len() + short.chars().count() <= WIDEST {
        return short;
    }
    let inner = format!("{indent}{unit}");
    let (open, close, lines): (_, _, Vec<String>) = match value {
        Value::Array(list) if !list.is_empty() => {
            let line = |value| written(value, &inner, unit, true);
            ("[", "]", list.iter().map(line).collect())
        }
        Value::Object(fields) if !fields.is_empty() => {
            let line = |(name, value): (&String, &Value)| {
                let name = Value::from(name.as_str());
                format!("{name}: {}", written(value, &inner, unit, true))
            };
            ("{", "}", in_order(fields).into_iter().map(line).collect())
        }
        _ => return short,
    };
    let lines: Vec<String> = lines.iter().map(|line| format!("{inner}{line}")).collect();
    format!("{open}\n{}\n{indent}{close}", lines.join(",\n"))
}

fn inline(value: &Value) -> String {
    match value {
        Value::Array(list) => {
            let each: Vec<String> = list.iter().map(inline).collect();
            format!("[{}]", each.join(", "))
        }
        Value::Object(fields) if !fields.is_empty() => {
            let field = |(name, value): (&String, &Value)| {
                format!("{}: {}", Value::from(name.as_str()), inline(value))
            };
            let each: Vec<String> = in_order(fields).into_iter().map(field).collect();
            format!("{{ {} }}", each.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{
    "organization":   "Contoso",
    "connectors": [
        { "name": "a",   "direction": "inbound", "from": {"sender-domains": ["a.test"]}, "require": {"tls": true} },
        {
            "direction": "inbound",
            "name": "b",
            "comment": "kept \u0061s it is",
            "from": { "sender-domains": ["b.test",
                                         "c.test"] },
            "require": {
                "certificate-names": ["b.test"]
            }
        }
    ],
    "tests": []
}
"#;

    fn changed(name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let mut connector = connector(DOCUMENT, name).unwrap();
        change(&mut connector);
        update(DOCUMENT, name, &connector).unwrap()
    }

    #[test]
    fn what_does_not_differ_stays_as_it_is_written() {
        assert_eq!(changed("a", |_| ()), DOCUMENT);
        assert_eq!(changed("b", |_| ()), DOCUMENT);
    }

    #[test]
    fn a_field_is_added_at_its_place() {
        let text = changed("b", |connector| {
            connector.insert("mode".into(), "audit".into());
        });
        let expected = DOCUMENT.replace(
            "s it is\",\n",
            "s it is\",\n            \"mode\": \"audit\",\n",
        );
        assert_eq!(text, expected);
        let text = changed("a", |connector| {
            connector.insert("mode".into(), "audit".into());
        });
        let expected = DOCUMENT.replace(
            "\"inbound\", \"from\": {\"sender-domains\": [\"a",
            "\"inbound\", \"mode\": \"audit\", \"from\": {\"sender-domains\": [\"a",
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_value_is_changed_where_it_stands() {
        let text = changed("b", |connector| {
            connector["require"]["certificate-names"] = Value::from(vec!["x.test", "y.test"]);
        });
        let expected = DOCUMENT.replace("[\"b.test\"]", "[\"x.test\", \"y.test\"]");
        assert_eq!(text, expected);
        let text = changed("b", |connector| {
            connector.remove("comment");
        });
        let expected = DOCUMENT.replace("            \"comment\": \"kept \\u0061s it is\",\n", "");
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_on_one_line_stays_there_and_what_is_not_is_indented() {
        let document = DOCUMENT.replace("\"certificate-names\": [\"b.test\"]", "\"tls\": true");
        let mut b = connector(&document, "b").unwrap();
        b["require"]["source-ips"] = Value::from(vec!["192.0.2.1"]);
        b["from"]["recipient-domains"] = Value::from(vec!["own.test"]);
        let text = update(&document, "b", &b).unwrap();
        let expected = document
            .replace(
                "\"c.test\"] }",
                "\"c.test\"], \"recipient-domains\": [\"own.test\"] }",
            )
            .replace(
                "                \"tls\": true\n",
                "                \"tls\": true,\n                \"source-ips\": [\"192.0.2.1\"]\n",
            );
        assert_eq!(text, expected);
    }

    #[test]
    fn connectors_come_and_go() {
        let new = connector(DOCUMENT, "a").unwrap();
        let mut named = new.clone();
        named.insert("name".into(), "new".into());
        let more = add(DOCUMENT, &named).unwrap();
        assert_eq!(names(&more).unwrap(), ["a", "b", "new"]);
        assert!(more.contains("        },\n        {\n            \"name\": \"new\",\n            \"direction\": \"inbound\",\n"), "{more}");
        assert_eq!(remove(&more, "new").unwrap(), DOCUMENT);
        let less = remove(DOCUMENT, "a").unwrap();
        assert_eq!(names(&less).unwrap(), ["b"]);
        assert!(
            less.contains("\"connectors\": [\n        {\n            \"direction\""),
            "{less}"
        );
        let none = remove(&less, "b").unwrap();
        assert!(none.contains("\"connectors\": [],\n"), "{none}");
        assert_eq!(names(&add(&none, &named).unwrap()).unwrap(), ["new"]);
        assert_eq!(
            add(r#"{"connectors": []}"#, &named)
                .unwrap()
                .lines()
                .count(),
            8
        );
    }

    #[test]
    fn a_connector_that_is_not_there_is_told_of_with_those_like_it() {
        let told = |name: &str| {
            remove(&DOCUMENT.replace("\"a\"", "\"Contoso Bank\""), name)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            told("contoso bank"),
            "there is no connector \"contoso bank\"; there is \"Contoso Bank\""
        );
        assert_eq!(told("z"), "there is no connector \"z\"");
        assert!(matches!(names("[]"), Err(TextError::NotRules(_))));
    }

    fn value() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            "[ -~é\\n\"]{0,8}".prop_map(Value::from),
            any::<u16>().prop_map(Value::from),
            proptest::collection::vec("[a-z]{0,30}", 0..4).prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 12, 4, |inner| {
            let names = proptest::sample::select(ORDER);
            proptest::collection::btree_map(names, inner, 0..4).prop_map(|fields| {
                fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect()
            })
        })
    }

    fn any_connector() -> impl proptest::strategy::Strategy<Value = Map<String, Value>> {
        use proptest::prelude::*;
        let names = proptest::sample::select(ORDER);
        proptest::collection::btree_map(names, value(), 0..6).prop_map(|fields| {
            let fields = fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value));
            let mut fields: Map<String, Value> = fields.collect();
            fields.insert("name".into(), "x".into());
            fields
        })
    }

    proptest::proptest! {
        /// Whatever a connector is and becomes: the document says it, and all else is as it was.
        #[test]
        fn a_change_is_made_and_no_other(
            old in any_connector(), new in any_connector(), lines in proptest::bool::ANY, after in proptest::bool::ANY
        ) {
            let old = match lines {
                true => serde_json::to_string_pretty(&old).unwrap(),
                false => serde_json::to_string(&old).unwrap(),
            };
            let other = r#"{"name":   "other"}"#;
            let list = match after {
                true => format!("{other},\n  {old}"),
                false => format!("{old} , {other}"),
            };
            let document = format!("{{ \"connectors\" : [{list}]}}");
            let text = update(&document, "x", &new).unwrap();
            proptest::prop_assert_eq!(connector(&text, "x").unwrap(), new.clone());
            proptest::prop_assert!(text.contains(other));
            proptest::prop_assert_eq!(update(&text, "x", &new).unwrap(), text);
            let removed = remove(&document, "x").unwrap();
            proptest::prop_assert_eq!(names(&removed).unwrap(), ["other"]);
            let added = add(&removed, &new).unwrap();
            proptest::prop_assert_eq!(connector(&added, "x").unwrap(), new);
        }
    }
}
