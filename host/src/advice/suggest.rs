//! Connectors that mail suggests which no connector applies to yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::OPERATOR;
use crate::decisions::{Connection, DAY, Flow, domain, moment};

/// Addresses of a partner that are named; more are no list that anybody would keep.
const MAX_ADDRESSES: usize = 8;
const NEWEST_TLS: &str = "TLSv1.3";

/// How much mail must have come before a connector is suggested.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// So many messages.
    pub messages: u64,
    /// In so many days at least.
    pub days: i64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            messages: 20,
            days: 14,
        }
    }
}

/// A connector that is suggested.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Suggestion {
    /// The partner's domain.
    pub domain: String,
    /// The connector, as it stands in a rules document, in audit mode.
    pub connector: Value,
    /// A case for the document's `tests`, made of a message that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Value>,
    /// How many messages it rests on.
    pub messages: u64,
    /// When the first of them came: RFC 3339, in UTC.
    pub since: String,
    /// Addresses that all of them came from, where these are few. They may change without notice.
    pub addresses: Vec<String>,
}

/// What has been seen of a domain.
struct Seen<'a> {
    messages: u64,
    first: i64,
    last: i64,
    /// The lowest TLS version; `None` if some of it was not encrypted.
    tls: Option<&'a str>,
    /// The names that each certificate had; `None` if some had none that is trusted.
    names: Option<BTreeSet<&'a str>>,
    /// Whether each certificate was trusted.
    trusted: bool,
    addresses: BTreeSet<&'a str>,
    example: &'a Value,
}

impl<'a> Seen<'a> {
    fn nothing(example: &'a Value) -> Self {
        Seen {
            messages: 0,
            first: i64::MAX,
            last: 0,
            tls: Some(NEWEST_TLS),
            names: None,
            trusted: true,
            addresses: BTreeSet::new(),
            example,
        }
    }

    /// What was seen once more; `tls` is that of a context or of a connection.
    fn add(&mut self, version: Option<&'a str>, certificate: &'a Value) {
        let is_first = self.first == i64::MAX;
        self.tls = match (self.tls, version) {
            (Some(lowest), Some(version)) if version.starts_with("TLSv1.") => {
                Some(lowest.min(version))
            }
            _ => None,
        };
        let names = certificate["dns-names"].as_array().into_iter().flatten();
        let names: BTreeSet<&str> = names.filter_map(Value::as_str).collect();
        let is_trusted = certificate["trust"] == "trusted" && !names.is_empty();
        self.trusted &= is_trusted;
        self.names = match (&self.names, is_trusted) {
            (None, true) if is_first => Some(names),
            (Some(known), true) => Some(known.intersection(&names).copied().collect()),
            _ => None,
        };
    }

    fn at(&mut self, first: i64, last: i64, count: u64) {
        self.first = self.first.min(first);
        self.last = self.last.max(last);
        self.messages += count;
    }

    fn is_enough(&self, least: Thresholds) -> bool {
        self.messages >= least.messages && self.last - self.first >= least.days * DAY * 1000
    }

    fn common_names(&self) -> Vec<&'a str> {
        self.names.iter().flatten().copied().collect()
    }

    fn described(&self) -> String {
        let (messages, since) = (self.messages, moment(self.first));
        format!("suggested by {messages} messages since {since}")
    }
}

/// Connectors for partners whose mail has been protected all along, the busiest first. Domains of `own` are left out.
pub fn suggestions(
    flows: &[Flow],
    connections: &[Connection],
    own: &[String],
    least: Thresholds,
) -> Vec<Suggestion> {
    let parse = |text: &String| serde_json::from_str(text).unwrap_or(Value::Null);
    let parsed: Vec<(Value, Value, &Flow)> = flows
        .iter()
        .map(|flow| (parse(&flow.context), parse(&flow.verdict), flow))
        .collect();
    // Where a connector applies already, the administrator has decided.
    let plain = parsed
        .iter()
        .filter(|(_, verdict, _)| is_plain(verdict))
        .map(|(context, _, flow)| (context, *flow));
    let (inbound, outbound): (Vec<_>, Vec<_>) =
        plain.partition(|(context, _)| context["direction"] == "inbound");
    let mut found = from_partners(&inbound, own, least);
    found.extend(to_partners(&outbound, connections, least));
    found.sort_by_key(|suggestion| std::cmp::Reverse(suggestion.messages));
    found
}

/// Whether the operator's policy has found something, which is no tenant's connector.
fn is_operators(finding: &Value) -> bool {
    let connector = finding["connector"].as_str().unwrap_or_default();
    let rest = connector.strip_prefix(OPERATOR);
    rest.is_some_and(|rest| rest.starts_with(": "))
}

fn is_plain(verdict: &Value) -> bool {
    let is_empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    matches!(verdict["verdict"].as_str(), Some("accept" | "deliver"))
        && verdict["connector"].is_null()
        && is_empty(&verdict["connectors"])
        && verdict["audit"]
            .as_array()
            .is_none_or(|findings| findings.iter().all(is_operators))
}

fn from_partners(flows: &[(&Value, &Flow)], own: &[String], least: Thresholds) -> Vec<Suggestion> {
    let mut domains: BTreeMap<&str, Seen<'_>> = BTreeMap::new();
    for (context, flow) in flows {
        let Some(domain) = domain_of(&context["mail-from"]) else {
            continue;
        };
        if own.iter().any(|own| own.eq_ignore_ascii_case(domain)) {
            continue;
        }
        let seen = domains
            .entry(domain)
            .or_insert_with(|| Seen::nothing(context));
        let tls = &context["tls"];
        seen.add(tls["version"].as_str(), &tls["certificate"]);
        seen.at(flow.first, flow.last, flow.count);
        let address = context["client-ip"].as_str();
        seen.addresses.extend(address.filter(|it| *it != "unknown"));
    }
    let enough = domains
        .into_iter()
        .filter(|(_, seen)| seen.is_enough(least));
    enough
        .filter_map(|(domain, seen)| from_partner(domain, &seen))
        .collect()
}

fn from_partner(domain: &str, seen: &Seen<'_>) -> Option<Suggestion> {
    let tls = match seen.tls? {
        NEWEST_TLS => json!({ "min-version": NEWEST_TLS }),
        _ => json!(true),
    };
    let mut require = json!({ "tls": tls });
    let names = seen.common_names();
    if !names.is_empty() {
        require["certificate-names"] = json!(names);
    }
    let connector = json!({
        "name": domain,
        "direction": "inbound",
        "mode": "audit",
        "comment": seen.described(),
        "from": { "sender-domains": [domain] },
        "require": require,
    });
    let test = json!({
        "name": format!("mail from {domain} as it came"),
        "context": seen.example,
        "expect": { "verdict": "accept", "audit": [] },
    });
    Some(Suggestion {
        domain: domain.into(),
        connector,
        test: Some(test),
        messages: seen.messages,
        since: moment(seen.first),
        addresses: addresses(seen),
    })
}

fn addresses(seen: &Seen<'_>) -> Vec<String> {
    match seen.addresses.len() {
        0..=MAX_ADDRESSES => seen.addresses.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

fn to_partners(
    flows: &[(&Value, &Flow)],
    connections: &[Connection],
    least: Thresholds,
) -> Vec<Suggestion> {
    let mut by_target: HashMap<&str, Vec<&Connection>> = HashMap::new();
    for connection in connections {
        if let Some(target) = connection.facts["target"].as_str() {
            by_target.entry(target).or_default().push(connection);
        }
    }
    let mut domains: BTreeMap<&str, Seen<'_>> = BTreeMap::new();
    for (context, flow) in flows {
        let Some(domain) = domain_of(&context["rcpt-to"]) else {
            continue;
        };
        let seen = domains
            .entry(domain)
            .or_insert_with(|| Seen::nothing(context));
        seen.at(flow.first, flow.last, flow.count);
    }
    let mut found = Vec::new();
    for (domain, mail) in domains {
        let Some(shown) = by_target.get(domain).filter(|_| mail.is_enough(least)) else {
            continue;
        };
        let mut servers = Seen::nothing(mail.example);
        // A server that did not answer says nothing about TLS.
        let says = |it: &&&Connection| {
            let failure = it.facts["failure"].as_str();
            failure.is_none_or(|why| why.contains("starttls-not-supported"))
        };
        for connection in shown.iter().filter(says) {
            let facts = &connection.facts;
            servers.add(facts["tls"].as_str(), &facts["certificate"]);
            servers.at(connection.first, connection.last, connection.count);
        }
        found.extend(to_partner(domain, &mail, &servers));
    }
    found
}

fn to_partner(domain: &str, mail: &Seen<'_>, servers: &Seen<'_>) -> Option<Suggestion> {
    if servers.messages == 0 {
        return None;
    }
    servers.tls?;
    let names = servers.common_names();
    let tls = match (servers.trusted, names.is_empty()) {
        (true, false) => json!({ "level": "name", "names": names }),
        (true, true) => json!({ "level": "verify" }),
        (false, _) => json!({ "level": "encrypt" }),
    };
    let connector = json!({
        "name": format!("To {domain}"),
        "direction": "outbound",
        "mode": "audit",
        "comment": mail.described(),
        "to": { "recipient-domains": [domain] },
        "tls": tls,
    });
    Some(Suggestion {
        domain: domain.into(),
        connector,
        test: None,
        messages: mail.messages,
        since: moment(mail.first),
        addresses: Vec::new(),
    })
}

/// The domain of a mailbox, unless it is an address literal or there is none.
fn domain_of(mailbox: &Value) -> Option<&str> {
    let mailbox = mailbox.as_str()?;
    let domain = domain(mailbox);
    let is_name = mailbox.len() > domain.len() && !domain.starts_with('[') && !domain.is_empty();
    is_name.then_some(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS: i64 = DAY * 1000;

    fn flow(context: Value, verdict: Value, first: i64, last: i64, count: u64) -> Flow {
        Flow {
            context: context.to_string(),
            verdict: verdict.to_string(),
            first,
            last,
            count,
        }
    }

    fn accepted() -> Value {
        json!({ "verdict": "accept", "connectors": [], "audit": [] })
    }

    fn mail(from: &str, tls: Value) -> Value {
        json!({ "direction": "inbound", "client-ip": "203.0.113.7", "tls": tls,
                "mail-from": from, "rcpt-to": "b@contoso.com" })
    }

    fn with_names(version: &str, names: &[&str]) -> Value {
        json!({ "version": version,
                "certificate": { "dns-names": names, "trust": "trusted" } })
    }

    fn inbound(flows: &[Flow]) -> Vec<Suggestion> {
        suggestions(flows, &[], &[], Thresholds::default())
    }

    #[test]
    fn what_all_mail_of_a_partner_had_is_suggested() {
        let both = [
            with_names("TLSv1.3", &["a.bank.test", "mail.bank.test"]),
            with_names("TLSv1.2", &["mail.bank.test", "b.bank.test"]),
        ];
        let flows: Vec<Flow> = both
            .into_iter()
            .map(|tls| flow(mail("a@bank.test", tls), accepted(), 0, 20 * DAYS, 15))
            .collect();
        let found = inbound(&flows);
        assert_eq!(found.len(), 1);
        let require = &found[0].connector["require"];
        assert_eq!(
            *require,
            json!({ "tls": true, "certificate-names": ["mail.bank.test"] })
        );
        assert_eq!(found[0].connector["mode"], "audit");
        assert_eq!(
            (found[0].messages, &found[0].addresses[..]),
            (30, &["203.0.113.7".to_owned()][..])
        );
    }

    #[test]
    fn one_message_in_plaintext_is_enough_to_suggest_nothing() {
        let tls = with_names("TLSv1.3", &["mail.bank.test"]);
        let flows = [
            flow(mail("a@bank.test", tls), accepted(), 0, 20 * DAYS, 100),
            flow(mail("a@bank.test", Value::Null), accepted(), DAYS, DAYS, 1),
        ];
        assert_eq!(inbound(&flows), []);
    }

    #[test]
    fn an_untrusted_certificate_takes_the_names_away() {
        let mut other = with_names("TLSv1.3", &["mail.bank.test"]);
        other["certificate"]["trust"] = "unknown-issuer".into();
        for tls in [[0, 1], [1, 0]] {
            let both = [with_names("TLSv1.3", &["mail.bank.test"]), other.clone()];
            let flows = tls.map(|number| {
                flow(
                    mail("a@bank.test", both[number].clone()),
                    accepted(),
                    0,
                    20 * DAYS,
                    15,
                )
            });
            let found = inbound(&flows);
            assert_eq!(
                found[0].connector["require"],
                json!({ "tls": { "min-version": "TLSv1.3" } })
            );
        }
    }

    #[test]
    fn little_mail_mail_of_a_few_days_and_mail_with_a_connector_suggest_nothing() {
        let tls = || with_names("TLSv1.3", &["mail.bank.test"]);
        let decided = json!({ "verdict": "accept", "connectors": ["Bank"], "audit": [] });
        for (verdict, last, count) in [
            (accepted(), 20 * DAYS, 19),
            (accepted(), 13 * DAYS, 100),
            (decided, 20 * DAYS, 100),
        ] {
            let flows = [flow(mail("a@bank.test", tls()), verdict, 0, last, count)];
            assert_eq!(inbound(&flows), []);
        }
        let flows = [flow(
            mail("a@bank.test", tls()),
            accepted(),
            0,
            20 * DAYS,
            100,
        )];
        assert_eq!(
            suggestions(&flows, &[], &["BANK.test".into()], Thresholds::default()),
            []
        );
    }

    #[test]
    fn the_level_of_an_outbound_connector_is_what_its_servers_reached() {
        let delivered = json!({ "verdict": "deliver", "route": "mx", "audit": [] });
        let context = json!({ "direction": "outbound", "mail-from": "b@contoso.com", "rcpt-to": "a@bank.test" });
        let flows = [flow(context, delivered, 0, 20 * DAYS, 50)];
        let shown = |facts: Value| Connection {
            facts,
            first: 0,
            last: DAYS,
            count: 3,
        };
        let certificate = |trust: &str| json!({ "dns-names": ["mx.bank.test"], "trust": trust });
        for (facts, level) in [
            (
                json!({ "target": "bank.test", "tls": "TLSv1.3", "certificate": certificate("trusted") }),
                Some("name"),
            ),
            (
                json!({ "target": "bank.test", "tls": "TLSv1.3", "certificate": certificate("expired") }),
                Some("encrypt"),
            ),
            (json!({ "target": "bank.test" }), None),
            (json!({ "target": "other.test", "tls": "TLSv1.3" }), None),
        ] {
            let found = suggestions(&flows, &[shown(facts.clone())], &[], Thresholds::default());
            let found = found.first().map(|it| it.connector["tls"]["level"].clone());
            assert_eq!(found, level.map(Value::from), "{facts}");
        }
    }
}
