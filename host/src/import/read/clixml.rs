//! `Export-Clixml`.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde_json::{Map, Value};

use crate::import::record::{DEEPEST, KINDS, ReadError, Record};

/// An element that is open.
struct Open {
    /// The name of the field that it is, if it is one.
    field: Option<String>,
    kind: Element,
    text: String,
    list: Vec<Value>,
    fields: Map<String, Value>,
    /// The .NET type, as far as it tells what a record is of.
    record: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq)]
enum Element {
    /// Text of a string.
    Text,
    Boolean,
    Nil,
    Object,
    List,
    /// The properties of the object around it.
    Properties,
    /// What an object looks like to people: its value where its depth was left out.
    Shown,
    /// The name of a type.
    Type,
    /// What is of no use.
    Other,
}

fn element(name: &str) -> Element {
    match name {
        "S" | "DT" | "G" | "I32" | "I64" | "D" | "By" | "U32" | "TS" | "URI" | "Version" => {
            Element::Text
        }
        "B" => Element::Boolean,
        "Nil" => Element::Nil,
        "Obj" | "Objs" => Element::Object,
        "LST" | "IE" | "STK" | "QUE" => Element::List,
        "MS" | "Props" => Element::Properties,
        "ToString" => Element::Shown,
        "T" => Element::Type,
        _ => Element::Other,
    }
}

/// Reads the objects of a file.
pub fn read(text: &str) -> Result<Vec<Record>, ReadError> {
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut records = Vec::new();
    loop {
        let at = reader.buffer_position();
        let damaged = |reason: String| {
            let before = text
                .get(..usize::try_from(at).unwrap_or(usize::MAX))
                .unwrap_or(text);
            let line = before.rsplit('\n').next().unwrap_or_default();
            ReadError::Damaged {
                line: before.matches('\n').count() + 1,
                column: line.chars().count() + 1,
                reason,
            }
        };
        match reader
            .read_event()
            .map_err(|error| damaged(format!("this is not XML: {error}")))?
        {
            Event::Start(start) => {
                if open.len() > DEEPEST {
                    return Err(damaged("it is nested too deep".into()));
                }
                open.push(opened(&start).map_err(damaged)?);
            }
            Event::Empty(start) => {
                let closed = opened(&start).map_err(damaged)?;
                close(closed, &mut open, &mut records);
            }
            Event::Text(part) => {
                if let Some(last) = open.last_mut() {
                    last.text.push_str(&part);
                }
            }
            Event::GeneralRef(name) => {
                let name: &str = &name;
                let known = character(name).ok_or_else(|| {
                    damaged(format!("the entity {name:?} is not one of XML's own"))
                })?;
                if let Some(last) = open.last_mut() {
                    last.text.push(known);
                }
            }
            Event::End(_) => {
                if let Some(closed) = open.pop() {
                    close(closed, &mut open, &mut records);
                }
            }
            // Entities of a document's own are the way to make a small file large.
            Event::DocType(_) => {
                return Err(damaged(
                    "it has a document type, which no export has".into(),
                ));
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match (records.is_empty(), open.is_empty()) {
        (_, false) => Err(ReadError::Damaged {
            line: text.lines().count(),
            column: 1,
            reason: "it ends in the middle".into(),
        }),
        (true, _) => Err(ReadError::Foreign("there is no connector in it".into())),
        _ => Ok(records),
    }
}

fn character(name: &str) -> Option<char> {
    let number = |digits: &str, radix| {
        u32::from_str_radix(digits, radix)
            .ok()
            .and_then(char::from_u32)
    };
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        name => match (name.strip_prefix("#x"), name.strip_prefix('#')) {
            (Some(digits), _) => number(digits, 16),
            (_, Some(digits)) => number(digits, 10),
            _ => None,
        },
    }
}

fn opened(start: &BytesStart) -> Result<Open, String> {
    let mut field = None;
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        if attribute.key.as_ref() == "N" {
            field = Some(unescaped(&attribute.value));
        }
    }
    Ok(Open {
        field,
        kind: element(start.name().as_ref()),
        text: String::new(),
        list: Vec::new(),
        fields: Map::new(),
        record: None,
    })
}

/// An element has ended: its value goes to the one around it.
fn close(closed: Open, open: &mut [Open], records: &mut Vec<Record>) {
    let text = || unescaped(&closed.text);
    let value = match closed.kind {
        Element::Text => Value::from(text()),
        // What is neither is told of where it is read.
        Element::Boolean => match closed.text.trim() {
            "true" => Value::from(true),
            "false" => Value::from(false),
            other => Value::from(other),
        },
        Element::Nil => Value::Null,
        Element::List => Value::Array(closed.list),
        Element::Object if !closed.fields.is_empty() => {
            let is_field = closed.field.is_some();
            // A record is no part of another one.
            let is_inner = open.iter().any(|outer| outer.kind == Element::Properties);
            if is_field || is_inner {
                Value::Object(closed.fields)
            } else {
                records.push(Record {
                    kind: closed.record.map(str::to_owned),
                    fields: closed.fields,
                });
                return;
            }
        }
        Element::Object => match closed.list.into_iter().next_back() {
            Some(list) => list,
            None => return,
        },
        Element::Properties => {
            if let Some(object) = open.last_mut() {
                object.fields.extend(closed.fields);
            }
            return;
        }
        Element::Shown => {
            if let Some(object) = open.last_mut() {
                object.list.insert(0, Value::from(text()));
            }
            return;
        }
        Element::Type => {
            let name = closed.text;
            let kind = KINDS.into_iter().find(|kind| name.contains(kind));
            // The types stand two levels below their object.
            if let Some(object) = open
                .iter_mut()
                .rev()
                .find(|outer| outer.kind == Element::Object)
            {
                object.record = object.record.or(kind);
            }
            return;
        }
        Element::Other => return,
    };
    let Some(outer) = open.last_mut() else {
        return;
    };
    match closed.field {
        Some(name) => drop(outer.fields.insert(name, value)),
        None => outer.list.push(value),
    }
}

/// PowerShell writes characters that XML does not have as `_x000A_`.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("_x") {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        let code = escape
            .get(2..6)
            .filter(|_| escape.as_bytes().get(6) == Some(&b'_'));
        let code = code
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        match code {
            Some(character) => {
                plain.push(character);
                rest = &escape[7..];
            }
            None => {
                plain.push_str("_x");
                rest = &escape[2..];
            }
        }
    }
    plain + rest
}
