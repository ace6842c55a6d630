//! `Export-Csv`, which writes a list as the name of its type: such a file is refused, and never guessed at.

use crate::import::record::{ReadError, Record};
use serde_json::{Map, Value};

/// Whether a text begins as a table of connectors does.
pub fn is_csv(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    let names = ["Name", "SenderDomains", "RecipientDomains", "Identity"];
    first.contains([',', ';'])
        && names.iter().any(|name| {
            first
                .split([',', ';'])
                .any(|cell| cell.trim_matches('"') == *name)
        })
}

/// Reads a table.
pub fn read(text: &str) -> Result<Vec<Record>, ReadError> {
    let lines: String = text
        .lines()
        .filter(|line| !line.starts_with("#TYPE"))
        .map(|line| format!("{line}\n"))
        .collect();
    let header = lines.lines().next().unwrap_or_default();
    // `-UseCulture` writes semicolons in much of Europe.
    let delimiter = match header.matches(';').count() > header.matches(',').count() {
        true => b';',
        false => b',',
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(lines.as_bytes());
    let damaged = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        ReadError::Damaged {
            line: usize::try_from(line).unwrap_or(usize::MAX),
            column: 1,
            reason: format!("this is not CSV: {error}"),
        }
    };
    let names: Vec<String> = reader
        .headers()
        .map_err(damaged)?
        .iter()
        .map(str::to_owned)
        .collect();
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(damaged)?;
        let mut fields = Map::new();
        for (name, cell) in names.iter().zip(row.iter()) {
            let is_list = ["Domains", "Addresses", "IPAddresses", "SmartHosts"]
                .iter()
                .any(|end| name.ends_with(end));
            // `{a, b}` is how Format-Table shows lists; a blank parts what was joined.
            // Behind a semicolon stands a cost, and nothing else.
            let is_joined = cell.split_once(';').is_some_and(|(_, cost)| {
                cost.is_empty() || !cost.bytes().all(|it| it.is_ascii_digit())
            });
            let is_lossy = cell.starts_with("System.")
                || is_list && (is_joined || cell.trim().contains([' ', '{', ',']));
            if is_lossy {
                return Err(ReadError::Lossy {
                    reason: format!(
                        "the table has no list where one is wanted: {name} is {cell:?}"
                    ),
                });
            }
            fields.insert(name.clone(), Value::from(cell));
        }
        records.push(Record { kind: None, fields });
    }
    match records.is_empty() {
        true => Err(ReadError::Foreign("there is no connector in it".into())),
        false => Ok(records),
    }
}
