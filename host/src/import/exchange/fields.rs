//! Fields that the records have in common.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::import::record::Record;
use crate::import::{Connector, Kind, Row};

/// Who a connector was made by, for its comment.
pub fn origin(record: &Record) -> String {
    let mut text = record.text("Comment").unwrap_or_default().to_owned();
    if !text.is_empty() {
        text.push_str(" · ");
    }
    text.push_str("imported from Exchange");
    if let Some(guid) = record.text("Guid") {
        text.push_str(&format!(", {guid}"));
    }
    if record.text("ConnectorSource") == Some("HybridWizard") {
        text.push_str(", made by the hybrid wizard");
    }
    text
}

/// What is between `smtp:` and the number behind a semicolon, and whether that is the usual one.
///
/// # Errors
/// If something else is behind it: another domain, perhaps.
pub fn domain(text: &str) -> Result<(String, bool), String> {
    let (address, cost) = match text.split_once(';') {
        Some((address, cost)) => (address, Some(cost.trim())),
        None => (text, None),
    };
    if cost.is_some_and(|cost| cost.is_empty() || !cost.bytes().all(|it| it.is_ascii_digit())) {
        return Err(format!("{text:?} is no domain with a cost"));
    }
    let domain = match address.split_once(':') {
        Some((scheme, domain)) if scheme.eq_ignore_ascii_case("smtp") => domain,
        _ => address,
    };
    Ok((
        domain.trim().to_lowercase(),
        cost.is_none_or(|cost| cost == "1"),
    ))
}

/// The domains of a list, once each.
pub fn domains(record: &Record, field: &str, row: &mut Row) -> Result<Vec<String>, String> {
    let mut domains = Vec::new();
    for text in record.list(field)? {
        let (domain, is_usual) = domain(&text)?;
        if !is_usual {
            row.tell(
                Kind::Note,
                format!("the cost in {text:?} has no counterpart"),
            );
        }
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    Ok(domains)
}

/// The name in a certificate's subject: `<I>CN=…<S>CN=mail.contoso.com, O=…`.
pub fn certificate_name(text: &str) -> Option<String> {
    let Some((_, subject)) = text.split_once("<S>") else {
        return (!text.contains(['<', '=', ' '])).then(|| text.to_lowercase());
    };
    let parts = subject.split(',').map(str::trim);
    let mut names = parts.filter_map(|part| part.strip_prefix("CN="));
    names.next().map(str::to_lowercase)
}

/// Notes what has no counterpart, and changes nothing about who may send what.
pub fn tell_of_others(record: &Record, fields: &[(&str, &str)], row: &mut Row) {
    for (field, meaning) in fields {
        let is_set = match record.field(field) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(list)) => list.iter().any(|entry| !entry.is_null()),
            Some(Value::String(text)) => !matches!(text.as_str(), "" | "False" | "None"),
            Some(_) => true,
        };
        if is_set {
            row.tell(Kind::Note, format!("{field}: {meaning}"));
        }
    }
}

/// The beginning of a connector.
pub fn connector(name: String, comment: String, direction: &str) -> Connector {
    let mut connector = Map::new();
    connector.insert("name".into(), name.into());
    connector.insert("comment".into(), comment.into());
    connector.insert("direction".into(), direction.into());
    connector
}

pub type Sorted<T> = BTreeMap<T, Vec<usize>>;

pub fn grouped<T: Ord>(keys: impl Iterator<Item = T>) -> Sorted<T> {
    let mut groups = Sorted::new();
    for (number, key) in keys.enumerate() {
        groups.entry(key).or_insert_with(Vec::new).push(number);
    }
    groups
}
