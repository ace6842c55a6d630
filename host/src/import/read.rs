//! Exports, in whatever form they are: JSON of either module of PowerShell, CLIXML, CSV, or a configuration of
//! Microsoft365DSC.

mod clixml;
mod csv;
mod dsc;

use serde_json::{Map, Value};

use super::record::{DEEPEST, KINDS, ReadError, Record};

/// Records of one export.
const MOST: usize = 20_000;

/// Reads an export, of whatever form it is.
///
/// # Errors
/// Where it is damaged, or what to run instead.
pub fn read(bytes: &[u8]) -> Result<Vec<Record>, ReadError> {
    let text = decoded(bytes)?;
    let records = read_text(&text)?;
    match records.len() > MOST {
        true => Err(ReadError::Foreign(format!(
            "there are {} records in it, more than the {MOST} that a tenant may have",
            records.len()
        ))),
        false => Ok(records),
    }
}

fn read_text(text: &str) -> Result<Vec<Record>, ReadError> {
    let begin = text.trim_start();
    match begin.as_bytes() {
        [] => Err(ReadError::Foreign("the file is empty".into())),
        [b'{' | b'[', ..] => json(text),
        [b'<', ..] => clixml::read(text),
        _ if begin.starts_with("#TYPE") || csv::is_csv(begin) => csv::read(text),
        _ if dsc::is_dsc(begin) => dsc::read(text),
        _ if begin.contains(" : ") => Err(ReadError::Lossy {
            reason: "this is the output of Format-List, which shortens lists".into(),
        }),
        _ => Err(ReadError::Foreign("this is no export of connectors".into())),
    }
}

/// PowerShell 5.1 writes UTF-16 with a byte order mark.
pub(super) fn decoded(bytes: &[u8]) -> Result<String, ReadError> {
    let wide = |from: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let units = bytes.chunks_exact(2).map(|pair| from([pair[0], pair[1]]));
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .ok()
    };
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => wide(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => wide(u16::from_be_bytes, rest),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        bytes => String::from_utf8(bytes.to_vec()).ok(),
    };
    text.ok_or_else(|| ReadError::Foreign("the file is neither UTF-8 nor UTF-16".into()))
}

/// The names of the lists in an export, and what they are of.
fn list_kind(name: &str) -> Option<&'static str> {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.to_ascii_lowercase();
    let plain = plain.strip_suffix('s').unwrap_or(&plain);
    KINDS
        .into_iter()
        .find(|kind| kind.eq_ignore_ascii_case(plain))
}

fn json(text: &str) -> Result<Vec<Record>, ReadError> {
    let value: Value = serde_json::from_str(text).map_err(|error| ReadError::Damaged {
        line: error.line(),
        column: error.column(),
        reason: format!("this is not JSON: {error}"),
    })?;
    let mut records = Vec::new();
    collect(value, None, &mut records, 0);
    match records.is_empty() {
        true => Err(ReadError::Foreign("there is no connector in it".into())),
        false => Ok(records),
    }
}

/// Takes the records out of lists, of objects that hold lists, and of what PowerShell 5.1 puts around a list.
fn collect(value: Value, kind: Option<&str>, records: &mut Vec<Record>, depth: usize) {
    match value {
        _ if depth > DEEPEST => {}
        Value::Array(list) => {
            for value in list {
                collect(value, kind, records, depth + 1);
            }
        }
        Value::Object(fields) => {
            let is_wrapped = fields.contains_key("value") && fields.contains_key("Count");
            let holds_lists = fields.keys().any(|name| list_kind(name).is_some());
            if !is_wrapped && !holds_lists {
                records.push(Record {
                    kind: kind.map(str::to_owned),
                    fields,
                });
                return;
            }
            for (name, value) in fields {
                match list_kind(&name) {
                    Some(kind) => collect(value, Some(kind), records, depth + 1),
                    None if is_wrapped && name == "value" => {
                        collect(value, kind, records, depth + 1)
                    }
                    // A list of something else is told of: it may be a name that was mistyped.
                    None if value.is_array() || value.is_object() => records.push(Record {
                        kind: Some(name),
                        fields: Map::new(),
                    }),
                    None => {}
                }
            }
        }
        // An empty list is written as a list of nothing.
        _ => {}
    }
}
