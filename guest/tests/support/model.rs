//! The rules once more, slow and obvious: what the evaluator is held against.
//!
//! The model reads the rules document anew for every question and looks at every connector in turn.
//! It takes only documents that `check` accepts and contexts that are well-formed, and panics at
//! anything else. It is written from the specification alone and shares nothing with the evaluator,
//! so that the two do not err alike.
//!
//! A fact may be unknown. What is compared with it is then neither true nor false, and what follows
//! from that is worked out by Kleene's tables, as the specification says.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

/// How close a pattern fits, or the closest of a list: more is closer, and a list that is not there
/// counts 0, as does one that is held against an unknown fact.
type Closeness = usize;

/// The fit of an exact name, closer than any wildcard.
const EXACT: Closeness = usize::MAX;

/// The authority that stands for the host's ordinary roots, and the one that rules without
/// `certificate-authorities` accept.
const PUBLIC: &str = "public";

/// What a deferral is called.
const FACT_UNAVAILABLE: &str = "fact-unavailable";

/// The fits of a connector's selectors, in the order in which they are compared.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Specificity {
    certificate: Closeness,
    ip: Closeness,
    sender: Closeness,
    recipient: Closeness,
}

/// A connector that applies to a context, or may apply.
struct Applying<'a> {
    connector: &'a Value,
    applies: Truth,
    specificity: Specificity,
}

/// What a connector does with mail.
enum Effect {
    /// It has nothing against it.
    Pass,
    /// It refuses it because of this requirement.
    Refuse(&'static str),
    /// It would pass or refuse it, depending on what is unknown.
    Undecided,
}

/// The verdict on one context, as JSON, without the `text` of a refusal.
pub fn verdict(rules: &Value, context: &Value) -> Value {
    match string(&context["direction"]) {
        "inbound" => inbound(rules, context),
        "outbound" => outbound(rules, context),
        other => panic!("no such direction: {other}"),
    }
}

/// The names of the enabled connectors of the context's direction that apply, most specific first,
/// each with whether it applies for certain.
pub fn applying(rules: &Value, context: &Value) -> Vec<(String, Truth)> {
    matching(rules, context)
        .into_iter()
        .map(|found| (string(&found.connector["name"]).to_owned(), found.applies))
        .collect()
}

/// The requirements of the connector with that name, in the order in which they are checked, each
/// with whether the context satisfies it.
pub fn requirements_of(rules: &Value, name: &str, context: &Value) -> Vec<(&'static str, Truth)> {
    let mut connectors = connectors(rules).iter();
    let connector = connectors.find(|connector| connector["name"] == name);
    requirements(
        &connector.expect("the connector is there")["require"],
        context,
    )
}

// Three-valued logic

/// A truth value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It is so.
    Yes,
    /// It is not so.
    No,
    /// It depends on something unknown.
    Unknown,
}

use Truth::{No, Unknown, Yes};

impl From<bool> for Truth {
    fn from(holds: bool) -> Truth {
        if holds { Yes } else { No }
    }
}

fn not(truth: Truth) -> Truth {
    match truth {
        Yes => No,
        No => Yes,
        Unknown => Unknown,
    }
}

/// Whether all hold: one that does not settles it, whatever is unknown of the others.
fn all(truths: &[Truth]) -> Truth {
    if truths.contains(&No) {
        No
    } else if truths.contains(&Unknown) {
        Unknown
    } else {
        Yes
    }
}

/// Whether any holds: one that does settles it, whatever is unknown of the others.
fn any(truths: &[Truth]) -> Truth {
    if truths.contains(&Yes) {
        Yes
    } else if truths.contains(&Unknown) {
        Unknown
    } else {
        No
    }
}

// Facts

/// A fact of a context.
#[derive(Clone, Copy)]
enum Fact<'a> {
    /// It is known not to be there.
    Absent,
    /// The host cannot tell.
    Hidden,
    /// It is this.
    Is(&'a Value),
}

impl<'a> Fact<'a> {
    fn read(value: &'a Value) -> Fact<'a> {
        match value {
            Value::Null => Fact::Absent,
            Value::String(word) if word == "unknown" => Fact::Hidden,
            value => Fact::Is(value),
        }
    }

    /// A fact within this one: where there is none of the whole, there is none of the part.
    fn part(self, read: impl FnOnce(&'a Value) -> Fact<'a>) -> Fact<'a> {
        match self {
            Fact::Is(whole) => read(whole),
            other => other,
        }
    }

    /// Whether it is there and passes a test.
    fn passes(self, test: impl FnOnce(&'a Value) -> bool) -> Truth {
        match self {
            Fact::Absent => No,
            Fact::Hidden => Unknown,
            Fact::Is(value) => test(value).into(),
        }
    }

    fn is_there(self) -> Truth {
        self.passes(|_| true)
    }
}

fn client_ip(context: &Value) -> Fact<'_> {
    Fact::read(&context["client-ip"])
}

fn tls(context: &Value) -> Fact<'_> {
    Fact::read(&context["tls"])
}

fn tls_version(context: &Value) -> Fact<'_> {
    tls(context).part(|tls| Fact::read(&tls["version"]))
}

fn certificate(context: &Value) -> Fact<'_> {
    tls(context).part(|tls| Fact::read(&tls["certificate"]))
}

/// Whether the certificate has this among its unknown facts.
fn is_hidden(certificate: &Value, part: &str) -> bool {
    list(certificate, "unknown").is_some_and(|hidden| hidden.contains(&part))
}

/// A digest that is not told is unknown: every certificate has one.
fn digest<'a>(context: &'a Value, part: &str) -> Fact<'a> {
    certificate(context).part(|certificate| match &certificate[part] {
        Value::Null => Fact::Hidden,
        _ if is_hidden(certificate, part) => Fact::Hidden,
        digest => Fact::Is(digest),
    })
}

fn trust(context: &Value) -> Fact<'_> {
    certificate(context).part(|certificate| match &certificate["trust"] {
        _ if is_hidden(certificate, "trust") => Fact::Hidden,
        trust => Fact::Is(trust),
    })
}

/// Whether the certificate's chain is trusted.
fn is_trusted(context: &Value) -> Truth {
    trust(context).passes(|trust| trust == "trusted")
}

/// Whether the certificate's chain ends at one of the authorities.
fn is_anchored(authorities: &[&str], context: &Value) -> Truth {
    let Fact::Is(certificate) = certificate(context) else {
        return certificate(context).is_there();
    };
    match &certificate["anchor"] {
        _ if is_hidden(certificate, "anchor") => Unknown,
        // A trusted chain of which nothing more is told ends at the ordinary roots, any other at
        // none. Where nothing is told of the trust either, it is unknown where the chain ends.
        Value::Null => match is_trusted(context) {
            Yes => authorities.contains(&PUBLIC).into(),
            other => other,
        },
        Value::String(anchor) => authorities.contains(&anchor.as_str()).into(),
        anchors => anchors
            .as_array()
            .expect("an anchor is a name or a list of names")
            .iter()
            .any(|anchor| authorities.contains(&string(anchor)))
            .into(),
    }
}

/// The authorities that a connector accepts trusted chains of.
fn authorities(connector: &Value) -> Vec<&str> {
    list(&connector["require"], "certificate-authorities").unwrap_or_else(|| vec![PUBLIC])
}

/// Whether the certificate, trusted or not, has a name that one of the patterns matches.
fn is_named(patterns: &[&str], context: &Value) -> Truth {
    certificate_names(context).passes_names(|names| {
        patterns
            .iter()
            .any(|pattern| certificate_fit(pattern, names).is_some())
    })
}

/// The names in a certificate.
enum Names<'a> {
    NoCertificate,
    /// One of them may be known.
    Hidden(Option<&'a str>),
    Are(Vec<&'a str>),
}

impl Names<'_> {
    fn passes_names(&self, test: impl Fn(&[&str]) -> bool) -> Truth {
        match self {
            Names::NoCertificate => No,
            Names::Hidden(Some(name)) if test(&[name]) => Yes,
            Names::Hidden(_) => Unknown,
            Names::Are(names) => test(names).into(),
        }
    }
}

fn certificate_names(context: &Value) -> Names<'_> {
    match certificate(context) {
        Fact::Absent => Names::NoCertificate,
        Fact::Is(certificate) if !is_hidden(certificate, "dns-names") => {
            Names::Are(list(certificate, "dns-names").unwrap_or_default())
        }
        Fact::Hidden => Names::Hidden(None),
        Fact::Is(_) => Names::Hidden(context["certificate-common-name"].as_str()),
    }
}

// Verdicts

fn inbound(rules: &Value, context: &Value) -> Value {
    let mut connectors = Vec::new();
    let mut refusals = Vec::new();
    let mut doubts = Vec::new();
    let mut audit = Vec::new();
    for found in matching(rules, context) {
        let connector = found.connector;
        let effect = effect(&found, context);
        if is_audit(connector) {
            let failed = match effect {
                Effect::Pass => continue,
                Effect::Refuse(failed) => failed,
                Effect::Undecided => FACT_UNAVAILABLE,
            };
            audit.push(json!({"connector": connector["name"], "failed": failed}));
            continue;
        }
        match effect {
            Effect::Pass if found.applies == Yes => connectors.push(connector["name"].clone()),
            Effect::Pass => {}
            Effect::Refuse(failed) => refusals.push((connector, failed)),
            Effect::Undecided => doubts.push(connector),
        }
    }
    if let Some((connector, failed)) = refusals.first() {
        return rejection(connector, failed, audit);
    }
    if let Some(connector) = doubts.first() {
        return deferral(connector, audit);
    }
    json!({"verdict": "accept", "connectors": connectors, "audit": audit})
}

/// A connector refuses mail that it applies to and that does not satisfy all that it requires.
fn effect(found: &Applying, context: &Value) -> Effect {
    let requirements = requirements(&found.connector["require"], context);
    let satisfied: Vec<Truth> = requirements.iter().map(|(_, holds)| *holds).collect();
    match all(&[found.applies, not(all(&satisfied))]) {
        No => Effect::Pass,
        Unknown => Effect::Undecided,
        Yes => {
            let mut violated = requirements.iter().filter(|(_, holds)| *holds == No);
            Effect::Refuse(violated.next().expect("one is violated").0)
        }
    }
}

fn rejection(connector: &Value, failed: &str, audit: Vec<Value>) -> Value {
    let reply = &connector["reply"];
    let verdict = json!({
        "verdict": "reject",
        "connector": connector["name"],
        "failed": failed,
        "code": reply.get("code").unwrap_or(&json!(550)),
        "enhanced": reply.get("enhanced").unwrap_or(&json!("5.7.1")),
    });
    with_findings(verdict, audit)
}

/// The connector's own reply is for mail that it refuses, and this may be mail that it does not.
fn deferral(connector: &Value, audit: Vec<Value>) -> Value {
    let verdict = json!({
        "verdict": "defer",
        "connector": connector["name"],
        "failed": FACT_UNAVAILABLE,
        "code": 451,
        "enhanced": "4.7.0",
    });
    with_findings(verdict, audit)
}

fn with_findings(mut verdict: Value, audit: Vec<Value>) -> Value {
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
    let found = matching(rules, context);
    let closest = found.iter().map(|found| &found.specificity).max();
    // Of one mode no two connectors claim the same pattern: of those that are equally close there is
    // at most one of each.
    let of_mode = |audit: bool| {
        let mut closest = found
            .iter()
            .filter(|found| Some(&found.specificity) == closest);
        closest
            .find(|found| is_audit(found.connector) == audit)
            .map(|found| found.connector)
    };
    match (of_mode(false), of_mode(true)) {
        (None, None) => {}
        (None, Some(audited)) => deliver_audited(audited, &mut verdict),
        (Some(enforced), beside) => {
            deliver_enforced(enforced, &mut verdict);
            if let Some(audited) = beside {
                verdict["audit-tls"] = audited_protection(audited);
                verdict["audit-connector"] = audited["name"].clone();
            }
        }
    }
    verdict
}

fn deliver_enforced(connector: &Value, verdict: &mut Value) {
    verdict["connector"] = connector["name"].clone();
    verdict["route"] = route(&connector["route"]);
    verdict["tls"] = tls_level(&connector["tls"]);
    add_published(connector, verdict);
}

/// Alone, a connector in audit mode gives the route; what it asks for is only reported.
fn deliver_audited(connector: &Value, verdict: &mut Value) {
    verdict["connector"] = connector["name"].clone();
    verdict["route"] = route(&connector["route"]);
    verdict["audit-tls"] = audited_protection(connector);
    add_published(connector, verdict);
    // What is mandatory only in audit mode is not mandatory yet.
    if verdict["dane"] == "mandatory" {
        verdict.as_object_mut().expect("an object").remove("dane");
    }
}

fn audited_protection(connector: &Value) -> Value {
    let mut protection = tls_level(&connector["tls"]);
    add_published(connector, &mut protection);
    protection
}

/// Adds how the connector uses what the recipient's domain publishes, unless that is the default.
fn add_published(connector: &Value, to: &mut Value) {
    for field in ["dane", "mta-sts"] {
        if let Some(asked) = connector[field].as_str()
            && asked != "opportunistic"
        {
            to[field] = json!(asked);
        }
    }
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

/// What stands under `tls` of an outbound connector, in normal form.
fn tls_level(tls: &Value) -> Value {
    if tls.is_null() {
        return json!({"level": "opportunistic"});
    }
    let mut found = json!({"level": tls["level"]});
    if let Some(names) = list(tls, "names") {
        found["names"] = names.into_iter().map(domain).collect();
    }
    for field in ["certificate-fingerprints", "certificate-keys"] {
        if let Some(pins) = list(tls, field) {
            found[field] = pins.into_iter().map(hex_digits).collect();
        }
    }
    if let Some(authorities) = list(tls, "certificate-authorities") {
        found["certificate-authorities"] = json!(authorities);
    }
    if let Some(version) = tls["min-version"].as_str() {
        // The one version with two names.
        found["min-version"] = json!(if version == "TLSv1.0" {
            "TLSv1"
        } else {
            version
        });
    }
    found
}

fn is_audit(connector: &Value) -> bool {
    connector["mode"] == "audit"
}

// Which connectors apply

/// The enabled connectors of the context's direction that apply to it or may apply, most specific
/// first.
fn matching<'a>(rules: &'a Value, context: &Value) -> Vec<Applying<'a>> {
    let mut found: Vec<Applying> = connectors(rules)
        .iter()
        .filter(|connector| connector["enabled"] != false)
        .filter(|connector| connector["direction"] == context["direction"])
        .map(|connector| applies(connector, context))
        .filter(|found| found.applies != No)
        .collect();
    found.sort_by_key(|found| {
        let name = string(&found.connector["name"]);
        (Reverse(found.specificity.clone()), name)
    });
    found
}

fn connectors(rules: &Value) -> &[Value] {
    let connectors = rules["connectors"].as_array();
    connectors.expect("a document has connectors")
}

/// Whether the connector applies, which is so if it applies to one of the sender identities that it
/// counts, and how specifically: for the closest of those that it applies to; only if there are none
/// of these, for the closest of those that it may apply to.
fn applies<'a>(connector: &'a Value, context: &Value) -> Applying<'a> {
    let each: Vec<(Truth, Specificity)> = sender_identities(connector, context)
        .iter()
        .map(|sender| applies_to(connector, sender, context))
        .collect();
    let truths: Vec<Truth> = each.iter().map(|(truth, _)| *truth).collect();
    let applies = any(&truths);
    let closest = each
        .into_iter()
        .filter(|(truth, _)| *truth == applies)
        .map(|(_, specificity)| specificity)
        .max();
    Applying {
        connector,
        applies,
        specificity: closest.expect("mail has a sender, if only the null sender"),
    }
}

/// Whether the connector selects mail from one identity, and does not except it.
fn applies_to(connector: &Value, sender: &Sender, context: &Value) -> (Truth, Specificity) {
    let selectors = if context["direction"] == "inbound" {
        &connector["from"]
    } else {
        &connector["to"]
    };
    let accepted = authorities(connector);
    let (selected, specificity) = fit(selectors, sender, &accepted, context);
    let except = &connector["except"];
    let excepted = if except.is_null() {
        // There are no lists in it that could fail to match.
        No
    } else {
        fit(except, sender, &accepted, context).0
    };
    (all(&[selected, not(excepted)]), specificity)
}

/// An address that mail is sent from.
enum Sender {
    /// The domain of a known address, if it has one.
    Domain(Option<String>),
    /// An address in a header that the host never learns. There may be none, or several; but a
    /// connector that applies to any address whatever applies to the envelope's as well, so that
    /// it does not matter whether this one is there.
    Hidden,
}

/// The addresses that the sender may be known by: the envelope's and, where the connector says so,
/// the header's.
fn sender_identities(connector: &Value, context: &Value) -> Vec<Sender> {
    // Outbound mail is selected by recipient alone, and its sender may be unknown.
    let envelope = context["mail-from"].as_str().unwrap_or("");
    let mut identities = vec![Sender::Domain(address_domain(envelope))];
    if connector["match-header-from"] == true {
        match Fact::read(&context["header-from"]) {
            Fact::Absent => {}
            Fact::Hidden => identities.push(Sender::Hidden),
            Fact::Is(_) => {
                let addresses = list(context, "header-from").expect("a list of addresses");
                identities.extend(
                    addresses
                        .into_iter()
                        .map(|address| Sender::Domain(address_domain(address))),
                );
            }
        }
    }
    identities
}

/// Whether a set of selectors fits, and how: each list that is there must have a pattern that
/// matches.
fn fit(
    selectors: &Value,
    sender: &Sender,
    accepted: &[&str],
    context: &Value,
) -> (Truth, Specificity) {
    let recipient = Sender::Domain(address_domain(string(&context["rcpt-to"])));
    let (certificate_fits, certificate) = match list(selectors, "certificate-names") {
        Some(patterns) => certificate_selected(&patterns, accepted, context),
        None => (Yes, 0),
    };
    let (ip_fits, ip) = match list(selectors, "sender-ips") {
        Some(ranges) => ip_selected(&ranges, context),
        None => (Yes, 0),
    };
    let (sender_fits, sender) = match list(selectors, "sender-domains") {
        Some(patterns) => domain_selected(&patterns, sender),
        None => (Yes, 0),
    };
    let (recipient_fits, recipient) = match list(selectors, "recipient-domains") {
        Some(patterns) => domain_selected(&patterns, &recipient),
        None => (Yes, 0),
    };
    let specificity = Specificity {
        certificate,
        ip,
        sender,
        recipient,
    };
    let fits = all(&[certificate_fits, ip_fits, sender_fits, recipient_fits]);
    (fits, specificity)
}

/// A certificate identifies by its name, and only if it is trusted, by an authority that the
/// connector accepts.
fn certificate_selected(
    patterns: &[&str],
    accepted: &[&str],
    context: &Value,
) -> (Truth, Closeness) {
    let selected = all(&[
        is_trusted(context),
        is_anchored(accepted, context),
        is_named(patterns, context),
    ]);
    let closest = match certificate_names(context) {
        Names::Are(names) => closest(patterns, |pattern| certificate_fit(pattern, &names)),
        Names::Hidden(Some(name)) => closest(patterns, |pattern| certificate_fit(pattern, &[name])),
        Names::NoCertificate | Names::Hidden(None) => None,
    };
    (selected, closest.unwrap_or(0))
}

fn ip_selected(ranges: &[&str], context: &Value) -> (Truth, Closeness) {
    let fit = |ip: &Value| closest(ranges, |range| ip_fit(range, string(ip)));
    let closest = match client_ip(context) {
        Fact::Is(ip) => fit(ip),
        Fact::Absent | Fact::Hidden => None,
    };
    let selected = client_ip(context).passes(|ip| fit(ip).is_some());
    (selected, closest.unwrap_or(0))
}

fn domain_selected(patterns: &[&str], sender: &Sender) -> (Truth, Closeness) {
    match sender {
        Sender::Domain(domain) => {
            match closest(patterns, |pattern| domain_fit(pattern, domain.as_deref())) {
                Some(closeness) => (Yes, closeness),
                None => (No, 0),
            }
        }
        // Whatever the address is, `*` fits it.
        Sender::Hidden => match closest(patterns, |pattern| domain_fit(pattern, None)) {
            Some(closeness) => (Yes, closeness),
            None => (Unknown, 0),
        },
    }
}

/// The closest fit in a list; nothing if none of it fits.
fn closest(patterns: &[&str], fit: impl Fn(&str) -> Option<Closeness>) -> Option<Closeness> {
    patterns.iter().filter_map(|pattern| fit(pattern)).max()
}

// What must hold

/// What is required, by the stable names and in the order of the specification, and whether each
/// holds.
fn requirements(require: &Value, context: &Value) -> Vec<(&'static str, Truth)> {
    let names = list(require, "certificate-names");
    let fingerprints = list(require, "certificate-fingerprints");
    let keys = list(require, "certificate-keys");
    let authorities = list(require, "certificate-authorities");
    let floor = require["tls"]["min-version"].as_str();

    // A pinned certificate is known by itself: nobody else has to vouch for it, unless the rules
    // say who.
    let is_pinned = fingerprints.is_some() || keys.is_some();
    let wants_certificate = is_pinned || names.is_some() || authorities.is_some();
    let wants_trust = authorities.is_some() || names.is_some() && !is_pinned;
    let wants_tls = require["tls"] == true || floor.is_some() || wants_certificate;

    let mut found = Vec::new();
    if wants_tls {
        found.push(("tls", tls(context).is_there()));
    }
    if let Some(floor) = floor {
        let reaches = |spoken: &Value| version(string(spoken)) >= version(floor);
        found.push(("tls-version", tls_version(context).passes(reaches)));
    }
    if wants_certificate {
        found.push(("certificate-missing", certificate(context).is_there()));
    }
    if let Some(pins) = fingerprints {
        found.push((
            "certificate-fingerprint",
            is_pin(&pins, digest(context, "sha256")),
        ));
    }
    if let Some(pins) = keys {
        found.push((
            "certificate-key",
            is_pin(&pins, digest(context, "key-sha256")),
        ));
    }
    if wants_trust {
        let accepted = authorities.unwrap_or_else(|| vec![PUBLIC]);
        found.push(("certificate-untrusted", is_trusted(context)));
        found.push(("certificate-authority", is_anchored(&accepted, context)));
    }
    if let Some(names) = names {
        found.push(("certificate-name", is_named(&names, context)));
    }
    if let Some(ranges) = list(require, "source-ips") {
        found.push(("source-ip", ip_selected(&ranges, context).0));
    }
    found
}

fn is_pin(pins: &[&str], digest: Fact) -> Truth {
    digest.passes(|digest| {
        let digest = hex_digits(string(digest));
        pins.iter().any(|pin| hex_digits(pin) == digest)
    })
}

/// A digest in normal form.
fn hex_digits(written: &str) -> String {
    written.replace(':', "").to_lowercase()
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

// Names in certificates

/// How close the pattern fits the closest of the names.
fn certificate_fit(pattern: &str, names: &[&str]) -> Option<Closeness> {
    names
        .iter()
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

/// A domain in normal form. Where IDNA cannot read it, each label is taken by itself, and one that is
/// broken is compared as it stands: otherwise it would take the name out of the domain above, and
/// past that domain's connectors.
fn domain(name: &str) -> String {
    ascii_domain(name).unwrap_or_else(|| {
        let labels = name.split(DOTS).map(|label| {
            let read = ascii_domain(label).filter(|_| !label.is_empty());
            read.unwrap_or_else(|| label.to_lowercase())
        });
        without_final_dot(&labels.collect::<Vec<_>>().join("."))
    })
}

/// What IDNA takes for a dot (UTS 46 section 2.3).
const DOTS: [char; 4] = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

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
fn ip_fit(range: &str, client: &str) -> Option<Closeness> {
    let client = bits(parse_ip(client));
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
