//! The rules once more, slow and obvious: what the evaluator is held against.
//!
//! The model reads the rules document anew for every question and looks at every connector in turn.
//! It takes only documents that `check` accepts and contexts that are well-formed, and panics at
//! anything else. It is written from the specification alone and shares nothing with the evaluator,
//! so that the two do not err alike.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// How close a pattern fits, or the closest of a list: more is closer, and a list that is not there
/// counts 0.
type Closeness = usize;

/// The fit of an exact name, closer than any wildcard.
const EXACT: Closeness = usize::MAX;

/// The fits of a connector's selectors, in the order in which they are compared.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Specificity {
    certificate: Closeness,
    ip: Closeness,
    sender: Closeness,
    recipient: Closeness,
}

/// The verdict on one context, as JSON, without the `text` of a refusal.
pub fn verdict(rules: &Value, context: &Value) -> Value {
    match string(&context["direction"]) {
        "inbound" => inbound(rules, context),
        "outbound" => outbound(rules, context),
        other => panic!("no such direction: {other}"),
    }
}

// Verdicts

fn inbound(rules: &Value, context: &Value) -> Value {
    let mut connectors = Vec::new();
    let mut refusals = Vec::new();
    let mut audit = Vec::new();
    for connector in matching(rules, context) {
        let failed = failed_requirement(&connector["require"], context);
        match (is_audit(connector), failed) {
            (true, Some(failed)) => {
                audit.push(json!({"connector": connector["name"], "failed": failed}))
            }
            (true, None) => {}
            (false, Some(failed)) => refusals.push((connector, failed)),
            (false, None) => connectors.push(connector["name"].clone()),
        }
    }
    match refusals.first() {
        Some((connector, failed)) => rejection(connector, failed, audit),
        None => json!({"verdict": "accept", "connectors": connectors, "audit": audit}),
    }
}

fn rejection(connector: &Value, failed: &str, audit: Vec<Value>) -> Value {
    let reply = &connector["reply"];
    let mut verdict = json!({
        "verdict": "reject",
        "connector": connector["name"],
        "failed": failed,
        "code": reply.get("code").unwrap_or(&json!(550)),
        "enhanced": reply.get("enhanced").unwrap_or(&json!("5.7.1")),
    });
    if !audit.is_empty() {
        verdict["audit"] = json!(audit);
    }
    verdict
}

fn outbound(rules: &Value, context: &Value) -> Value {
    let mut verdict = json!({
        "verdict": "deliver",
        "route": "mx",
        "tls": {"level": "opportunistic"},
        "audit": [],
    });
    // No two connectors claim the same pattern: the first that matches is alone in its specificity.
    if let Some(connector) = matching(rules, context).first() {
        verdict["connector"] = connector["name"].clone();
        verdict["route"] = route(&connector["route"]);
        let level = if is_audit(connector) {
            "audit-tls"
        } else {
            "tls"
        };
        verdict[level] = tls_level(&connector["tls"]);
        let audited = is_audit(connector);
        for field in ["dane", "mta-sts"] {
            let asked = connector[field].as_str().unwrap_or("opportunistic");
            if asked == "opportunistic" {
                continue;
            }
            if audited {
                verdict["audit-tls"][field] = json!(asked);
            }
            // What is mandatory only in audit mode is not mandatory yet.
            if !audited || asked == "none" {
                verdict[field] = json!(asked);
            }
        }
    }
    verdict
}

fn route(route: &Value) -> Value {
    match list(route, "smart-hosts") {
        Some(hosts) => {
            json!({"smart-hosts": hosts.into_iter().map(smart_host).collect::<Vec<_>>()})
        }
        None => json!("mx"),
    }
}

/// A smart host in normal form: a name as any domain, an address as the standard library writes it.
fn smart_host(host: &str) -> String {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return format!("[{}]{port}", parse_ip(address));
    }
    match host.split_once(':') {
        Some((name, port)) => format!("{}:{port}", domain(name)),
        None => domain(host),
    }
}

fn tls_level(tls: &Value) -> Value {
    match (&tls["level"], list(tls, "names")) {
        (Value::Null, _) => json!({"level": "opportunistic"}),
        (level, None) => json!({"level": level}),
        (level, Some(names)) => {
            json!({"level": level, "names": names.into_iter().map(domain).collect::<Vec<_>>()})
        }
    }
}

fn is_audit(connector: &Value) -> bool {
    connector["mode"] == "audit"
}

// Which connectors apply

/// The enabled connectors of the context's direction that apply to it, most specific first.
fn matching<'a>(rules: &'a Value, context: &Value) -> Vec<&'a Value> {
    let mut found = Vec::new();
    for connector in rules["connectors"]
        .as_array()
        .expect("a document has connectors")
    {
        let is_enabled = connector["enabled"] != false;
        if is_enabled
            && connector["direction"] == context["direction"]
            && let Some(specificity) = applies(connector, context)
        {
            found.push((Reverse(specificity), string(&connector["name"]), connector));
        }
    }
    found.sort_by(|(left, left_name, _), (right, right_name, _)| {
        (left, left_name).cmp(&(right, right_name))
    });
    found
        .into_iter()
        .map(|(_, _, connector)| connector)
        .collect()
}

/// How specifically the connector applies, if it does: for the closest of the sender identities
/// that it counts.
fn applies(connector: &Value, context: &Value) -> Option<Specificity> {
    let selectors = if context["direction"] == "inbound" {
        &connector["from"]
    } else {
        &connector["to"]
    };
    let except = &connector["except"];
    sender_identities(connector, context)
        .into_iter()
        // Where there is no `except` there are no lists in it that could fail to match.
        .filter(|sender| except.is_null() || fit(except, sender, context).is_none())
        .filter_map(|sender| fit(selectors, sender, context))
        .max()
}

/// The addresses that the sender may be known by: the envelope's and, where the connector says so,
/// the header's.
fn sender_identities<'a>(connector: &Value, context: &'a Value) -> Vec<&'a str> {
    // Outbound mail is selected by recipient alone, and its sender may be unknown.
    let mut identities = vec![context["mail-from"].as_str().unwrap_or("")];
    if connector["match-header-from"] == true {
        identities.extend(list(context, "header-from").unwrap_or_default());
    }
    identities
}

/// How a set of selectors fits: each list that is there must have a pattern that matches.
fn fit(selectors: &Value, sender: &str, context: &Value) -> Option<Specificity> {
    let certificate = &context["tls"]["certificate"];
    let sender = address_domain(sender);
    let recipient = address_domain(string(&context["rcpt-to"]));
    Some(Specificity {
        certificate: closest(selectors, "certificate-names", |pattern| {
            selected_certificate(pattern, certificate)
        })?,
        ip: closest(selectors, "sender-ips", |range| ip_fit(range, context))?,
        sender: closest(selectors, "sender-domains", |pattern| {
            domain_fit(pattern, sender.as_deref())
        })?,
        recipient: closest(selectors, "recipient-domains", |pattern| {
            domain_fit(pattern, recipient.as_deref())
        })?,
    })
}

/// The closest fit in a list; 0 if there is no such list, nothing if none of it fits.
fn closest(
    selectors: &Value,
    field: &str,
    fit: impl Fn(&str) -> Option<Closeness>,
) -> Option<Closeness> {
    match list(selectors, field) {
        Some(patterns) => patterns.into_iter().filter_map(fit).max(),
        None => Some(0),
    }
}

// What must hold

/// The first requirement that is not satisfied, by its stable name.
fn failed_requirement(require: &Value, context: &Value) -> Option<&'static str> {
    let names = list(require, "certificate-names");
    let fingerprints = list(require, "certificate-fingerprints");
    let wants_certificate = names.is_some() || fingerprints.is_some();
    let wants_tls = require["tls"] == true || require["tls"].is_object();

    let tls = &context["tls"];
    if (wants_tls || wants_certificate) && tls.is_null() {
        return Some("tls");
    }
    if let Some(floor) = require["tls"]["min-version"].as_str()
        && version(string(&tls["version"])) < version(floor)
    {
        return Some("tls-version");
    }
    if wants_certificate
        && let Some(failed) = failed_certificate(names, fingerprints, &tls["certificate"])
    {
        return Some(failed);
    }
    if let Some(ranges) = list(require, "source-ips")
        && !ranges
            .into_iter()
            .any(|range| ip_fit(range, context).is_some())
    {
        return Some("source-ip");
    }
    None
}

fn failed_certificate(
    names: Option<Vec<&str>>,
    fingerprints: Option<Vec<&str>>,
    certificate: &Value,
) -> Option<&'static str> {
    if certificate.is_null() {
        return Some("certificate-missing");
    }
    // A pinned certificate is known by itself: nobody else has to vouch for it.
    let is_pinned = fingerprints.is_some();
    if let Some(fingerprints) = fingerprints {
        let sha256 = string(&certificate["sha256"]);
        if !fingerprints
            .into_iter()
            .any(|fingerprint| fingerprint.eq_ignore_ascii_case(sha256))
        {
            return Some("certificate-fingerprint");
        }
    }
    if let Some(names) = names {
        if !is_pinned && certificate["trust"] != "trusted" {
            return Some("certificate-untrusted");
        }
        if !names
            .into_iter()
            .any(|name| certificate_fit(name, certificate).is_some())
        {
            return Some("certificate-name");
        }
    }
    None
}

/// The place of a TLS version among all, oldest first.
fn version(name: &str) -> usize {
    match name {
        "TLSv1" | "TLSv1.0" => 0,
        "TLSv1.1" => 1,
        "TLSv1.2" => 2,
        "TLSv1.3" => 3,
        other => panic!("no such TLS version: {other}"),
    }
}

// Certificates

/// How a selector fits the certificate: one that is not trusted identifies nobody.
fn selected_certificate(pattern: &str, certificate: &Value) -> Option<Closeness> {
    if certificate["trust"] == "trusted" {
        certificate_fit(pattern, certificate)
    } else {
        None
    }
}

/// How close the pattern fits the names of the certificate, trusted or not.
fn certificate_fit(pattern: &str, certificate: &Value) -> Option<Closeness> {
    let names = list(certificate, "dns-names").unwrap_or_default();
    names
        .into_iter()
        .filter_map(|name| certificate_name_fit(pattern, name))
        .max()
}

fn certificate_name_fit(pattern: &str, name: &str) -> Option<Closeness> {
    let pattern = domain(pattern);
    let name = certificate_name(name)?;
    if let Some(base) = pattern.strip_prefix("*.") {
        // What a certificate wildcard covers is under a base where the name behind its `*.` is.
        let name = name.strip_prefix("*.").unwrap_or(&name);
        return is_within(name, base).then_some(base.len());
    }
    // A certificate wildcard stands for one whole left-most label.
    let covered = pattern
        .split_once('.')
        .map(|(_, parent)| format!("*.{parent}"));
    (name == pattern || Some(name) == covered).then_some(EXACT)
}

/// A name in a certificate in normal form, unless it is malformed.
fn certificate_name(name: &str) -> Option<String> {
    let name = ascii_domain(name)?;
    let plain = name.strip_prefix("*.").unwrap_or(&name);
    let is_well_formed = plain
        .split('.')
        .all(|label| !label.is_empty() && !label.contains('*'));
    is_well_formed.then_some(name)
}

// Domains

/// How close a domain pattern fits the domain of an address that may have none.
fn domain_fit(pattern: &str, address_domain: Option<&str>) -> Option<Closeness> {
    if pattern == "*" {
        return Some(1);
    }
    let pattern = domain(pattern);
    let address_domain = address_domain?;
    match pattern.strip_prefix("*.") {
        Some(base) => is_within(address_domain, base).then_some(1 + base.len()),
        None => (address_domain == pattern).then_some(EXACT),
    }
}

fn is_within(name: &str, base: &str) -> bool {
    name == base || name.ends_with(&format!(".{base}"))
}

/// The domain of an address in normal form: none for the null sender, an address literal, or where
/// nothing follows the `@`.
fn address_domain(address: &str) -> Option<String> {
    let (_, written) = address.rsplit_once('@')?;
    let name = domain(written);
    (!name.is_empty() && !name.starts_with('[')).then_some(name)
}

/// A domain in normal form. One that IDNA cannot read is compared as it stands, so that a broken
/// label in front does not take it out of the domain above, and past that domain's connectors.
fn domain(name: &str) -> String {
    ascii_domain(name).unwrap_or_else(|| without_final_dot(&name.to_lowercase()))
}

/// Lower-case A-labels without a final dot.
fn ascii_domain(name: &str) -> Option<String> {
    idna::domain_to_ascii(name)
        .ok()
        .map(|name| without_final_dot(&name))
}

fn without_final_dot(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_owned()
}

// Addresses

/// How close a range fits the client: the length of its prefix, counted from 1.
fn ip_fit(range: &str, context: &Value) -> Option<Closeness> {
    let client = bits(parse_ip(context["client-ip"].as_str()?));
    let prefix = range_bits(range);
    client.starts_with(&prefix).then_some(prefix.len())
}

/// The bits of a range that an address in it begins with.
fn range_bits(range: &str) -> String {
    let (address, length) = match range.split_once('/') {
        Some((address, length)) => (
            address,
            Some(
                length
                    .parse::<usize>()
                    .expect("a prefix length is a number"),
            ),
        ),
        None => (range, None),
    };
    let written: IpAddr = address.parse().expect("a range begins with an address");
    match (written, length) {
        // Past the 96 bits that mark an address as mapped, the range is one of IPv4.
        (IpAddr::V6(v6), Some(length)) => match v6.to_ipv4_mapped() {
            Some(v4) if length >= 96 => v4_bits(v4)[..=length - 96].to_owned(),
            _ => v6_bits(v6)[..=length].to_owned(),
        },
        (IpAddr::V4(v4), Some(length)) => v4_bits(v4)[..=length].to_owned(),
        (_, None) => bits(parse_ip(address)),
    }
}

/// An address, where one that is IPv4 mapped into IPv6 is IPv4.
fn parse_ip(address: &str) -> IpAddr {
    address
        .parse::<IpAddr>()
        .expect("an address is well-formed")
        .to_canonical()
}

/// All bits of an address behind a mark of its family, so that no prefix of one family fits the
/// other.
fn bits(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4_bits(v4),
        IpAddr::V6(v6) => v6_bits(v6),
    }
}

fn v4_bits(address: Ipv4Addr) -> String {
    format!("4{:032b}", address.to_bits())
}

fn v6_bits(address: Ipv6Addr) -> String {
    format!("6{:0128b}", address.to_bits())
}

// JSON

/// The strings of a list, if the list is there.
fn list<'a>(object: &'a Value, field: &str) -> Option<Vec<&'a str>> {
    Some(object.get(field)?.as_array()?.iter().map(string).collect())
}

fn string(value: &Value) -> &str {
    value.as_str().expect("the field is there and a string")
}
