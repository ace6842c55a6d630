//! Tables of Postfix: TLS policies, clients' certificates, and clients' addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use portcullis::{Sha256, normal_domain};
use serde_json::{Map, Value, json};

use super::{Connector, Import, Kind, Row};

/// A line of a table: its key and its value.
struct Line {
    number: usize,
    key: String,
    value: String,
}

/// Makes rules of a table. `from` are the senders' domains that a table of clients is for.
pub fn import(name: &str, text: &str, from: &[String]) -> Import {
    let lines = lines(text);
    // A key in brackets is a next hop of a TLS policy.
    let is_range = |line: &Line| !line.key.starts_with('[') && range(&line.key).is_some();
    let is_digest = |line: &Line| {
        line.key.contains(':')
            && line
                .key
                .bytes()
                .all(|octet| octet == b':' || octet.is_ascii_hexdigit())
    };
    let mut import = Import::default();
    if lines.is_empty() {
        let mut row = Row::new(name.into());
        row.tell(Kind::NotImported, "there is no line in it");
        import.rows.push(row);
    } else if lines
        .iter()
        .any(|line| is_range(line) || matches!(line.key.as_str(), "if" | "endif"))
    {
        ranges(name, &lines, from, &mut import);
    } else if lines.iter().all(is_digest) {
        certificates(name, &lines, from, &mut import);
    } else {
        policies(name, &lines, &mut import);
    }
    import
}

/// The logical lines: one that begins with a blank continues the one before (postmap(1)).
fn lines(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => {
                last.value.push(' ');
                last.value.push_str(trimmed);
            }
            _ => {
                let (key, value) = trimmed.split_once([' ', '\t']).unwrap_or((trimmed, ""));
                lines.push(Line {
                    number: number + 1,
                    key: key.to_lowercase(),
                    value: value.trim().into(),
                });
            }
        }
    }
    lines
}

fn range(text: &str) -> Option<IpNet> {
    let bare = text.trim_matches(['[', ']']);
    let address = || bare.parse::<IpAddr>().ok().map(IpNet::from);
    bare.parse().ok().or_else(address)
}

/// `smtp_tls_policy_maps`.
fn policies(name: &str, lines: &[Line], import: &mut Import) {
    let keys: BTreeSet<&str> = lines.iter().map(|line| line.key.as_str()).collect();
    for line in lines {
        let mut row = Row::new(format!(
            "{name}:{}: {} {}",
            line.number, line.key, line.value
        ));
        match policy(line, &keys, &mut row) {
            Ok(mut connector) => {
                let made = import.unique(&line.key, "");
                connector.insert("name".into(), made.clone().into());
                import.connectors.push(connector);
                row.here.push(made);
            }
            Err(reason) => row.tell(Kind::NotImported, reason),
        }
        import.rows.push(row);
    }
}

fn policy(line: &Line, keys: &BTreeSet<&str>, row: &mut Row) -> Result<Connector, String> {
    if line.key.contains(['[', ':']) {
        return Err("its key is a next hop: only transport_maps tell whose mail that is".into());
    }
    let (bare, is_below) = match line.key.strip_prefix('.') {
        Some(bare) => (bare, true),
        None => (line.key.as_str(), false),
    };
    let domain = normal_domain(bare).ok_or_else(|| format!("{bare:?} is not a domain"))?;
    let mut connector = Map::new();
    connector.insert("comment".into(), "imported from Postfix".into());
    connector.insert("direction".into(), "outbound".into());
    let to = match is_below {
        true => format!("*.{domain}"),
        false => domain.clone(),
    };
    connector.insert("to".into(), json!({"recipient-domains": [to]}));
    if is_below && !keys.contains(bare) {
        connector.insert("except".into(), json!({"recipient-domains": [domain]}));
    }
    let mut words = line.value.split_whitespace();
    let level = words.next().ok_or("there is no level")?.to_lowercase();
    let attributes = attributes(words)?;
    let mut tls = Map::new();
    let mut ask = |level: &str| tls.insert("level".into(), level.into());
    match level.as_str() {
        "none" => row.tell(Kind::Differs, "TLS is used where it is offered, though Postfix would not"),
        "may" => {}
        "encrypt" => drop(ask("encrypt")),
        "dane" => {}
        "dane-only" => drop(connector.insert("dane".into(), "mandatory".into())),
        "secure" => {
            ask("name");
            // Of all domains below one, each is its own next hop.
            let by_next_hop = attributes.get("match").is_none_or(|names| {
                names.iter().any(|name| matches!(name.as_str(), "nexthop" | "dot-nexthop"))
            });
            if is_below && by_next_hop {
                return Err("the certificate is to be of the very domain below, which no pattern says: name the domains, or match=NAME".into());
            }
            let names = match attributes.get("match") {
                Some(names) => names.iter().map(|name| matched(name, &domain, row)).collect::<Result<Vec<_>, _>>()?.concat(),
                None => vec![domain.clone(), format!("*.{domain}")],
            };
            tls.insert("names".into(), json!(names));
        }
        "verify" => return Err("verify compares the certificate with the MX name that DNS gives, which no level here does: use secure, or level name with the MX's names".into()),
        "fingerprint" => {
            ask("encrypt");
            let digests = attributes.get("match").ok_or("fingerprint without match")?;
            let digests: Option<Vec<String>> = digests.iter().map(|text| digest(text)).collect();
            let digests = digests.ok_or("a fingerprint is no SHA-256, and another digest cannot be converted")?;
            row.tell(Kind::Differs, "Postfix takes a certificate's or a public key's fingerprint; it is taken as the certificate's: if it is the key's, use certificate-keys");
            tls.insert("certificate-fingerprints".into(), json!(digests));
        }
        other => return Err(format!("{other:?} is no level")),
    }
    for (attribute, values) in &attributes {
        match attribute.as_str() {
            "match" => {}
            "protocols" => match least_version(values) {
                Some(None) => {}
                Some(Some(version)) if !tls.is_empty() => {
                    drop(tls.insert("min-version".into(), version.into()))
                }
                _ => return Err(format!("protocols={} has no counterpart", values.join(":"))),
            },
            "ciphers" => row.tell(
                Kind::Note,
                "cipher suites are those of rustls, all of which are strong",
            ),
            "servername" => row.tell(Kind::Note, "the server's own name is sent (SNI)"),
            _ => {
                return Err(format!(
                    "{attribute}={} has no counterpart",
                    values.join(":")
                ));
            }
        }
    }
    if !tls.is_empty() {
        connector.insert("tls".into(), Value::Object(tls));
    }
    Ok(connector)
}

/// The least version that protocols leave; `Some(None)` if it is below what is ever used, `None` if they say more.
fn least_version(protocols: &[String]) -> Option<Option<&'static str>> {
    let mut least = None;
    for protocol in protocols {
        match protocol.as_str() {
            ">=tlsv1" | ">=tlsv1.0" | ">=tlsv1.1" | ">=tlsv1.2" | "!sslv2" | "!sslv3"
            | "!tlsv1" | "!tlsv1.0" | "!tlsv1.1" => {}
            ">=tlsv1.3" | "!tlsv1.2" => least = Some("TLSv1.3"),
            _ => return None,
        }
    }
    Some(least)
}

fn attributes<'a>(
    words: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut attributes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for word in words {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| format!("{word:?} is no attribute"))?;
        if name.starts_with("policy_") {
            return Err(format!(
                "{name} is what a plug-in writes, and no configuration"
            ));
        }
        let is_digest = value.len() > 40
            && value
                .bytes()
                .all(|octet| matches!(octet, b':' | b'|') || octet.is_ascii_hexdigit());
        let values: Vec<String> = match is_digest {
            true => value.split('|').map(str::to_lowercase).collect(),
            false => value
                .split([':', '|', ','])
                .map(str::to_lowercase)
                .collect(),
        };
        attributes
            .entry(name.to_lowercase())
            .or_default()
            .extend(values);
    }
    Ok(attributes)
}

/// A pattern of `match`, as names.
fn matched(pattern: &str, domain: &str, row: &mut Row) -> Result<Vec<String>, String> {
    Ok(match pattern {
        "nexthop" => vec![domain.into()],
        "dot-nexthop" => {
            row.tell(
                Kind::Differs,
                format!("*.{domain} includes {domain} itself"),
            );
            vec![format!("*.{domain}")]
        }
        "hostname" => {
            return Err(
                "match=hostname compares with the MX name that DNS gives, which no level here does"
                    .into(),
            );
        }
        name => match name.strip_prefix('.') {
            Some(bare) => {
                row.tell(Kind::Differs, format!("*.{bare} includes {bare} itself"));
                vec![format!("*.{bare}")]
            }
            None => vec![name.into()],
        },
    })
}

fn digest(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    Sha256::parse(&digits).map(|_| digits.to_lowercase())
}

/// `check_ccert_access`.
fn certificates(name: &str, lines: &[Line], from: &[String], import: &mut Import) {
    let mut row = Row::new(name.into());
    let digests: Option<Vec<String>> = lines.iter().map(|line| digest(&line.key)).collect();
    let is_ok = |line: &Line| {
        matches!(
            line.value.to_uppercase().as_str(),
            "OK" | "PERMIT" | "RELAY"
        )
    };
    match (digests, from) {
        (None, _) => row.tell(
            Kind::NotImported,
            "a fingerprint is no SHA-256, and another digest cannot be converted",
        ),
        _ if !lines.iter().all(is_ok) => row.tell(
            Kind::NotImported,
            "its results differ; only OK is a fingerprint that a partner has",
        ),
        (Some(digests), []) => {
            let listed = serde_json::to_string(&digests).unwrap_or_default();
            row.tell(Kind::NotImported, format!("it lets these clients send, and restricts nobody: [[listener]] outbound = {{ certificate-fingerprints = {listed}, tenant = … }}; or say whose certificates they are: --from DOMAIN"));
        }
        (Some(digests), from) => restrict(
            name,
            from,
            json!({"certificate-fingerprints": digests}),
            &mut row,
            import,
        ),
    }
    import.rows.push(row);
}

/// A cidr table of clients.
fn ranges(name: &str, lines: &[Line], from: &[String], import: &mut Import) {
    let mut row = Row::new(name.into());
    let results: BTreeSet<String> = lines.iter().map(|line| line.value.to_uppercase()).collect();
    let parsed: Option<Vec<IpNet>> = lines.iter().map(|line| range(&line.key)).collect();
    let is_ok = results
        .iter()
        .all(|result| matches!(result.as_str(), "OK" | "PERMIT" | "DUNNO"));
    match (parsed, from) {
        (None, _) => row.tell(
            Kind::NotImported,
            "it has lines whose order counts (if, !, endif)",
        ),
        (Some(ranges), _) if ranges.iter().any(|range| range.trunc() != *range) => row.tell(
            Kind::NotImported,
            "a range has bits behind its prefix; Postfix skips such a line",
        ),
        _ if results.len() > 1 || !is_ok => row.tell(
            Kind::NotImported,
            "its results differ, and the first that matches counts",
        ),
        (_, []) => row.tell(
            Kind::NotImported,
            "say whose addresses they are: --from DOMAIN",
        ),
        (Some(ranges), from) => {
            let ranges: Vec<String> = ranges
                .iter()
                .map(|range| range.trunc().to_string())
                .collect();
            restrict(name, from, json!({"source-ips": ranges}), &mut row, import);
        }
    }
    import.rows.push(row);
}

fn restrict(name: &str, from: &[String], require: Value, row: &mut Row, import: &mut Import) {
    let file = name.rsplit('/').next().unwrap_or(name);
    let made = import.unique(file, "");
    let mut connector = Map::new();
    connector.insert("name".into(), made.clone().into());
    connector.insert("comment".into(), "imported from Postfix".into());
    connector.insert("direction".into(), "inbound".into());
    connector.insert("from".into(), json!({"sender-domains": from}));
    connector.insert("require".into(), require);
    import.connectors.push(connector);
    row.here.push(made);
    row.tell(
        Kind::Differs,
        "mail of these domains from other clients is refused; the table only let these pass",
    );
}
