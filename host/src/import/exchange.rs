//! Connectors of Exchange Online and of Exchange Server.
//!
//! In Exchange, several connectors for the same mail are alternatives: one that fits is enough. Here, all of them must
//! be satisfied. So those for the same mail are made one, and a wider one excepts what a narrower one restricts.

use super::record::{KINDS, Record};
use super::{Import, Kind, Row};

mod fields;
mod inbound;
#[cfg(test)]
mod model;
mod outbound;

/// Makes rules of an export.
pub fn import(records: &[Record]) -> Import {
    let mut import = Import::default();
    let of = |kind: &str| -> Vec<&Record> {
        let is_it = |record: &&Record| record.kind() == Some(kind);
        records.iter().filter(is_it).collect()
    };
    for record in of("AcceptedDomain") {
        import.accepted_domains.extend(accepted_domain(record));
    }
    import.accepted_domains.sort();
    import.accepted_domains.dedup();
    inbound::import(&of("InboundConnector"), &mut import);
    let outbound = [of("OutboundConnector"), of("SendConnector")].concat();
    outbound::import(&outbound, &of("TransportRule"), &mut import);
    let is_unknown = |record: &&Record| record.kind().is_none_or(|it| !KINDS.contains(&it));
    let unknown = records.iter().filter(is_unknown);
    for record in unknown {
        let mut row = Row::new(format!(
            "{} {:?}",
            record.kind().unwrap_or("a record"),
            record.text("Name").unwrap_or_default()
        ));
        row.tell(
            Kind::NotImported,
            "it is neither a connector nor an accepted domain",
        );
        import.rows.push(row);
    }
    let has_list = |kind: &str| {
        records
            .iter()
            .any(|record| record.kind.as_deref() == Some(kind))
    };
    if !has_list("OutboundConnector") && !has_list("SendConnector") {
        import.notes.push("Exchange lists connectors that transport rules use, and those in test mode, only when asked for them: they may be missing from this file".into());
    }
    import
}

fn accepted_domain(record: &Record) -> Option<String> {
    let name = record.text("DomainName").or(record.text("Name"))?;
    let name = name.to_lowercase();
    match record.flag("MatchSubDomains") {
        Ok(Some(true)) if !name.starts_with("*.") => Some(format!("*.{name}")),
        _ => Some(name),
    }
}
