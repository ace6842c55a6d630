//! The authorities that the connectors of a rules document name.
//!
//! What connectors mean is the evaluator's business. Which authorities there are is the host's, and the interface of
//! policies does not say which ones they name: so the names are taken from the document, once it is accepted.

use std::collections::HashSet;

use serde::Deserialize;

/// An authority that a connector names under `certificate-authorities`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAuthority {
    /// The name of the authority.
    pub name: String,
    /// The first enabled connector that names it.
    pub connector: String,
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    connectors: Vec<Connector>,
}

#[derive(Deserialize)]
struct Connector {
    #[serde(default)]
    name: String,
    #[serde(default = "yes")]
    enabled: bool,
    require: Option<Requirements>,
    tls: Option<Requirements>,
}

#[derive(Deserialize)]
struct Requirements {
    #[serde(rename = "certificate-authorities", default)]
    authorities: Vec<String>,
}

fn yes() -> bool {
    true
}

/// The authorities that enabled connectors name, each once. `document` is one that the evaluator has accepted.
pub(super) fn named_in(document: &str) -> Vec<NamedAuthority> {
    let document = document.trim_start_matches('\u{feff}');
    let Ok(Document { connectors }) = serde_json::from_str(document) else {
        return Vec::new();
    };
    let mut seen = HashSet::new();
    let mut named = Vec::new();
    for connector in connectors.into_iter().filter(|it| it.enabled) {
        let parts = connector.require.into_iter().chain(connector.tls);
        for name in parts.flat_map(|part| part.authorities) {
            if seen.insert(name.clone()) {
                named.push(NamedAuthority {
                    name,
                    connector: connector.name.clone(),
                });
            }
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_found_once_with_its_connector() {
        let document = r#"{"organization": "Contoso", "connectors": [
            {"name": "off", "direction": "inbound", "enabled": false, "from": {"sender-domains": ["a.test"]},
             "require": {"certificate-authorities": ["Off"]}},
            {"name": "in", "direction": "inbound", "from": {"sender-domains": ["b.test"]},
             "require": {"tls": {"min-version": "TLSv1.3"}, "certificate-authorities": ["public", "Bank CA"]}},
            {"name": "out", "direction": "outbound", "to": {"recipient-domains": ["b.test"]},
             "tls": {"level": "verify", "certificate-authorities": ["Bank CA", "Other \u0043A"]}},
            {"name": "plain", "direction": "outbound", "to": {"recipient-domains": ["c.test"]}}]}"#;
        let named = named_in(&format!("\u{feff}{document}"));
        let named: Vec<(&str, &str)> = named.iter().map(|it| (&*it.name, &*it.connector)).collect();
        let expected = [("public", "in"), ("Bank CA", "in"), ("Other CA", "out")];
        assert_eq!(named, expected);
        assert_eq!(named_in("[]"), []);
    }
}
