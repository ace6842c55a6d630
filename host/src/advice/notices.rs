//! What somebody should know: certificates that are about to expire or have changed, partners that have stopped to
//! encrypt, connectors without mail, connectors that would not work.

use std::collections::BTreeMap;
use std::path::Path;

use portcullis::{Connector, Direction, Mode};
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::mail::{COUNTED_DAYS, Mail};
use crate::decisions::{Connection, DAY, Flow, domain, moment};

const DAY_MS: i64 = DAY * 1000;
/// How far back is looked.
const LOOK_BACK: i64 = 30 * DAY_MS;
/// A change is news for so long.
const NEWS: i64 = 7 * DAY_MS;
/// So long before its end a certificate is told of.
const EXPIRY: i64 = 21;
/// Messages that a partner has encrypted before it counts as one that encrypts.
const HABIT: u64 = 3;

/// What is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A policy file is not taken.
    PolicyRejected,
    /// A connector was tried out and would not work.
    ValidationFailed,
    /// A partner has stopped to encrypt.
    TlsStopped,
    /// A certificate expires soon.
    CertificateExpires,
    /// A partner has another certificate, from another issuer or with other names.
    CertificateChanged,
    /// A connector has had no mail for long.
    ConnectorIdle,
}

/// Something that somebody should know.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Notice {
    /// What it is about.
    pub kind: Kind,
    /// The connector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector: Option<String>,
    /// The domain or the server.
    pub subject: String,
    /// In words.
    pub text: String,
}

impl Notice {
    /// A tenant's policy file is not taken.
    pub fn rejected(policy: &Path, why: &str) -> Self {
        Notice {
            kind: Kind::PolicyRejected,
            connector: None,
            subject: policy.display().to_string(),
            text: why.into(),
        }
    }

    /// What it has in common with one that says the same on another day.
    pub fn key(&self) -> String {
        let connector = self.connector.as_deref().unwrap_or_default();
        format!("{:?}\0{connector}\0{}", self.kind, self.subject)
    }
}

/// What is seen of a partner at one time.
#[derive(Clone)]
struct Sight {
    first: i64,
    last: i64,
    count: u64,
    is_encrypted: bool,
    certificate: Value,
}

/// A partner, as a connector sees it: its domain, or one of its servers.
type Partner = (Option<String>, String);

/// What somebody should know of a tenant's mail. The most pressing comes first.
pub fn notices(mail: &Mail, connectors: &[Connector], now: i64) -> Vec<Notice> {
    let mut partners = senders(
        mail.flows
            .iter()
            .filter(|flow| flow.last >= now - LOOK_BACK),
    );
    let recent = |it: &&Connection| it.last >= now - LOOK_BACK;
    for connection in mail.connections.iter().filter(recent) {
        let facts = &connection.facts;
        let text = |key: &str| facts[key].as_str().map(ToOwned::to_owned);
        let partner = (text("connector"), text("target").unwrap_or_default());
        if facts["failure"].is_string()
            && !facts["failure"]
                .as_str()
                .is_some_and(|why| why.contains("starttls-not-supported"))
        {
            continue;
        }
        partners.entry(partner).or_default().push(Sight {
            first: connection.first,
            last: connection.last,
            count: connection.count,
            is_encrypted: facts["tls"].is_string(),
            certificate: facts["certificate"].clone(),
        });
    }
    let mut found: Vec<Notice> = partners
        .into_iter()
        .flat_map(|(partner, sights)| of_partner(&partner, sights, now))
        .collect();
    found.extend(idle(mail, connectors, now));
    for (connector, validated) in &mail.validations {
        let is_there = connectors.iter().any(|it| it.name == *connector);
        if !validated.passed && is_there {
            found.push(Notice {
                kind: Kind::ValidationFailed,
                text: format!(
                    "it was tried out at {} and would not work: portcullis validate tells why",
                    validated.time
                ),
                subject: connector.clone(),
                connector: Some(connector.clone()),
            });
        }
    }
    found.sort_by(|a, b| (a.kind, &a.subject).cmp(&(b.kind, &b.subject)));
    found
}

/// The domains whose mail a connector has decided about.
fn senders<'a>(flows: impl Iterator<Item = &'a Flow>) -> BTreeMap<Partner, Vec<Sight>> {
    let mut partners: BTreeMap<Partner, Vec<Sight>> = BTreeMap::new();
    for flow in flows {
        let parse = |text: &str| -> Value { serde_json::from_str(text).unwrap_or_default() };
        let (context, verdict) = (parse(&flow.context), parse(&flow.verdict));
        if context["direction"] != "inbound" {
            continue;
        }
        let named = &verdict["connectors"][0];
        let Some(connector) = named.as_str().or(verdict["connector"].as_str()) else {
            continue;
        };
        let sender = domain(context["mail-from"].as_str().unwrap_or_default());
        let partner = (Some(connector.to_owned()), sender.to_owned());
        partners.entry(partner).or_default().push(Sight {
            first: flow.first,
            last: flow.last,
            count: flow.count,
            is_encrypted: context["tls"].is_object(),
            certificate: context["tls"]["certificate"].clone(),
        });
    }
    partners
}

fn of_partner((connector, subject): &Partner, mut sights: Vec<Sight>, now: i64) -> Vec<Notice> {
    sights.sort_by_key(|sight| sight.last);
    let notice = |kind, text| Notice {
        kind,
        connector: connector.clone(),
        subject: subject.clone(),
        text,
    };
    let mut found = Vec::new();
    if let Some(text) = stopped(&sights, now) {
        found.push(notice(Kind::TlsStopped, text));
    }
    let certificates = certificates(&sights);
    for one in &certificates {
        // What has been replaced since is nobody's concern.
        let is_replaced = certificates.iter().any(|other| other.first > one.last);
        if let Some(text) = expires(one, now).filter(|_| !is_replaced) {
            found.push(notice(Kind::CertificateExpires, text));
        }
        if let Some(text) = replaces(one, &certificates, now) {
            found.push(notice(Kind::CertificateChanged, text));
        }
    }
    found
}

/// Each certificate that a partner has shown, from its first sight to its last.
fn certificates(sights: &[Sight]) -> Vec<Sight> {
    let mut known: BTreeMap<&str, Sight> = BTreeMap::new();
    for sight in sights {
        let Some(digest) = sight.certificate["sha256"].as_str() else {
            continue;
        };
        let one = known.entry(digest).or_insert_with(|| sight.clone());
        one.first = one.first.min(sight.first);
        one.last = one.last.max(sight.last);
    }
    known.into_values().collect()
}

/// Mail of a partner that has encrypted has been in plaintext for a day.
fn stopped(sights: &[Sight], now: i64) -> Option<String> {
    let (recent, before): (Vec<&Sight>, Vec<&Sight>) =
        sights.iter().partition(|sight| sight.last >= now - DAY_MS);
    let encrypted = |sights: &[&Sight]| -> u64 {
        let encrypted = sights.iter().filter(|sight| sight.is_encrypted);
        encrypted.map(|sight| sight.count).sum()
    };
    let is_stopped = !recent.is_empty() && encrypted(&recent) == 0 && encrypted(&before) >= HABIT;
    let since = recent.iter().map(|sight| sight.first).min()?;
    is_stopped.then(|| {
        format!(
            "it has stopped to encrypt; the first message or connection in plaintext was at {}",
            moment(since)
        )
    })
}

fn expires(sight: &Sight, now: i64) -> Option<String> {
    let end = sight.certificate["not-after"].as_str()?;
    let end = OffsetDateTime::parse(end, &Rfc3339).ok()?;
    let days = (end.unix_timestamp() * 1000 - now).div_euclid(DAY_MS);
    (days < EXPIRY).then(|| {
        let names = sight.certificate["dns-names"].as_array();
        let name = names
            .and_then(|names| names.first())
            .and_then(Value::as_str);
        let name = name.unwrap_or("no name");
        match days {
            ..0 => format!("its certificate ({name}) has expired"),
            days => format!("its certificate ({name}) expires in {days} days"),
        }
    })
}

/// A certificate that is new, and has come in the place of others with another issuer or other names.
fn replaces(new: &Sight, all: &[Sight], now: i64) -> Option<String> {
    if new.first < now - NEWS {
        return None;
    }
    let names = |sight: &Sight| sight.certificate["dns-names"].to_string();
    let issuer = |sight: &Sight| {
        let issuer = sight.certificate["issuer"].as_str();
        issuer.unwrap_or_default().to_owned()
    };
    let others: Vec<&Sight> = all
        .iter()
        .filter(|old| old.certificate["sha256"] != new.certificate["sha256"])
        .collect();
    let is_over = |old: &&&Sight| old.last <= new.first;
    let same_names: Vec<&&Sight> = others
        .iter()
        .filter(|old| names(old) == names(new))
        .collect();
    let since = moment(new.first);
    if same_names.is_empty() {
        // Beside others that are shown as well, it is one more server.
        let before = others.iter().find(is_over)?;
        return others.iter().all(|old| is_over(&old)).then(|| {
            format!(
                "since {since} its certificate has the names {}, and had {}",
                names(new),
                names(before)
            )
        });
    }
    let last = same_names.iter().max_by_key(|old| old.last)?;
    let is_replaced = same_names.iter().all(is_over);
    (is_replaced && issuer(last) != issuer(new)).then(|| {
        format!(
            "since {since} its certificate is issued by {}, and was by {}",
            issuer(new),
            issuer(last)
        )
    })
}

fn idle(mail: &Mail, connectors: &[Connector], now: i64) -> Vec<Notice> {
    let mut found = Vec::new();
    // Of mail that satisfies a connector in audit mode, a verdict says nothing.
    let enforced = connectors.iter().filter(|it| it.mode == Mode::Enforce);
    // One that never had any may be new.
    let had_mail = |it: &&Connector| {
        let first = mail.first_seen.get(&it.name);
        first.is_some_and(|first| *first <= now - COUNTED_DAYS * DAY_MS)
    };
    let idle = enforced.filter(|it| !mail.counters.contains_key(&it.name));
    for connector in idle.filter(had_mail) {
        let way = match connector.direction {
            Direction::Inbound => "no mail has come",
            Direction::Outbound => "no mail has left",
        };
        found.push(Notice {
            kind: Kind::ConnectorIdle,
            connector: Some(connector.name.clone()),
            subject: connector.name.clone(),
            text: format!("{way} by it for {COUNTED_DAYS} days"),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_800_000_000_000;

    fn sight(days_ago: i64, count: u64, certificate: Value) -> Sight {
        Sight {
            first: NOW - days_ago * DAY_MS,
            last: NOW - days_ago * DAY_MS + 1000,
            count,
            is_encrypted: true,
            certificate,
        }
    }

    fn certificate(digest: &str, names: &[&str], issuer: &str, days: i64) -> Value {
        let end = OffsetDateTime::from_unix_timestamp(NOW / 1000 + days * DAY + 60).unwrap();
        json!({ "sha256": digest, "dns-names": names, "issuer": issuer,
                "not-after": end.format(&Rfc3339).unwrap() })
    }

    fn told(sights: Vec<Sight>) -> Vec<(Kind, String)> {
        let partner = (Some("Bank".into()), "bank.test".into());
        let found = of_partner(&partner, sights, NOW);
        found.into_iter().map(|it| (it.kind, it.text)).collect()
    }

    #[test]
    fn the_last_certificate_counts() {
        let old = certificate("a", &["mx.bank.test"], "CN=A", 3);
        let new = certificate("b", &["mx.bank.test"], "CN=A", 90);
        let expires = told(vec![sight(2, 5, old.clone())]);
        assert_eq!(
            expires,
            [(
                Kind::CertificateExpires,
                "its certificate (mx.bank.test) expires in 3 days".into()
            )]
        );
        assert_eq!(told(vec![sight(2, 5, old), sight(1, 5, new)]), []);
    }

    #[test]
    fn another_issuer_and_other_names_are_news() {
        let old = certificate("a", &["mx.bank.test"], "CN=A", 90);
        let issuer = certificate("b", &["mx.bank.test"], "CN=B", 90);
        let names = certificate("c", &["mail.bank.test"], "CN=A", 90);
        let found = told(vec![sight(20, 5, old.clone()), sight(2, 5, issuer.clone())]);
        assert!(
            matches!(&found[..], [(Kind::CertificateChanged, text)] if text.contains("issued by CN=B, and was by CN=A")),
            "{found:?}"
        );
        let found = told(vec![sight(20, 5, old.clone()), sight(2, 5, names.clone())]);
        assert!(
            matches!(&found[..], [(Kind::CertificateChanged, text)] if text.contains("mail.bank.test")),
            "{found:?}"
        );
        // Two servers with certificates of their own, as before; and a change of long ago.
        assert_eq!(
            told(vec![
                sight(20, 5, old.clone()),
                sight(20, 5, names.clone()),
                sight(1, 5, old.clone()),
                sight(1, 5, names)
            ]),
            []
        );
        assert_eq!(told(vec![sight(29, 5, old), sight(9, 5, issuer)]), []);
    }

    #[test]
    fn a_partner_that_always_sent_in_plaintext_has_stopped_nothing() {
        let plain = |days_ago, count| Sight {
            is_encrypted: false,
            ..sight(days_ago, count, Value::Null)
        };
        let encrypted = sight(5, 5, certificate("a", &["mx.bank.test"], "CN=A", 90));
        assert_eq!(told(vec![plain(5, 5), plain(0, 5)]), []);
        assert_eq!(told(vec![encrypted.clone()]), []);
        let found = told(vec![encrypted, plain(0, 1)]);
        assert!(matches!(&found[..], [(Kind::TlsStopped, _)]), "{found:?}");
    }
}
