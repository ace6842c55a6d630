//! Rules documents and contexts made up for tests.
//!
//! [`rules`] and [`context`] draw from the same few domains, addresses and certificate names, so
//! that matches, ties, nesting and conflicts are frequent. [`many_rules`] and [`context_for`] make
//! large documents, whose connectors are mostly about different partners, and contexts that hit
//! them. Every document is one that `check` accepts, perhaps with warnings.
//!
//! Half of the contexts have facts that are unknown; a [`Filling`] says what these might have been.

#![allow(dead_code, reason = "each test target uses a part of this")]

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

/// Domains that nest, one that only looks nested, and one that IDNA writes differently.
const DOMAINS: [&str; 8] = [
    "x.test",
    "a.x.test",
    "b.a.x.test",
    "ax.test",
    "y.test",
    "mail.y.test",
    "xn--bcher-kva.example",
    "m.xn--bcher-kva.example",
];

/// The label of [`DOMAINS`] that IDNA knows, and what people write for it.
const IDN: (&str, &str) = ("xn--bcher-kva", "bücher");

const DOMAIN_PATTERNS: [&str; 13] = [
    "*",
    "*.test",
    "x.test",
    "*.x.test",
    "a.x.test",
    "*.a.x.test",
    "b.a.x.test",
    "*.b.a.x.test",
    "y.test",
    "*.y.test",
    "mail.y.test",
    "xn--bcher-kva.example",
    "*.xn--bcher-kva.example",
];

/// Ranges that nest, in both families, each in normal form and different from the others.
const RANGES: [&str; 12] = [
    "0.0.0.0/0",
    "192.0.0.0/8",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "192.0.2.1",
    "192.0.2.129",
    "198.51.100.0/23",
    "198.51.100.7",
    "::/0",
    "2001:db8::/32",
    "2001:db8:1::/48",
    "2001:db8:1::1",
];

const CLIENTS: [&str; 7] = [
    "192.0.2.1",
    "192.0.2.129",
    "192.0.3.1",
    "198.51.100.7",
    "203.0.113.9",
    "2001:db8:1::1",
    "2001:db8:2::1",
];

const CERTIFICATE_PATTERNS: [&str; 9] = [
    "x.test",
    "*.x.test",
    "a.x.test",
    "*.a.x.test",
    "mail.x.test",
    "mail.y.test",
    "*.y.test",
    "mail.xn--bcher-kva.example",
    "*.xn--bcher-kva.example",
];

/// Names that certificates carry; the last ones are malformed.
const CERTIFICATE_NAMES: [&str; 16] = [
    "x.test",
    "*.x.test",
    "a.x.test",
    "*.a.x.test",
    "mail.x.test",
    "deep.b.a.x.test",
    "ax.test",
    "mail.y.test",
    "*.y.test",
    "mail.xn--bcher-kva.example",
    "*.xn--bcher-kva.example",
    "*",
    "m*.x.test",
    "a.*.test",
    "*.*.x.test",
    "a..x.test",
];

const FINGERPRINTS: [&str; 3] = [
    "1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014",
    "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
    "fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13",
];

/// Digests of public keys: others than those of certificates, so that none is taken for the other.
const KEYS: [&str; 3] = [
    "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",
    "baa5a0964d3320fbc0c6a922140453c8513ea24ab8fd0577034804a967248096",
];

/// Authorities that rules name. Their names are compared as they stand.
const AUTHORITIES: [&str; 4] = ["public", "Bank CA", "bank ca", "partner-ca"];

/// Authorities that chains end at; no rules name the last one.
const ANCHORS: [&str; 5] = ["public", "Bank CA", "bank ca", "partner-ca", "elsewhere"];

/// Names whose order differs by case, by script and between numbers and text.
const NAMES: [&str; 12] = [
    "Bank",
    "bank",
    "Bank 10",
    "Bank 9",
    "Ärzte",
    "Zoll",
    "a",
    "B",
    "Filter",
    "filter (alt)",
    "Partner-1",
    "Partner_1",
];

/// Labels that IDNA maps to others, that it forbids, or that are no labels at all.
const STRANGE_LABELS: [&str; 18] = [
    "xn--a",
    "xn--",
    "xn--zz--",
    "XN--BCHER-KVA",
    "ß",
    "_dmarc",
    "-a-",
    "ab--c",
    "",
    "\u{5d0}1",
    "a\u{ad}b",
    "🙂",
    "ａ",
    "㎏",
    "*",
    "\u{378}",
    "a\u{5d0}",
    "\u{308}a",
];

/// How many of [`STRANGE_LABELS`], at their end, are not for certificates: IDNA forbids them, though they
/// could be written in ASCII. A test of its own is about these.
const FORBIDDEN: usize = 3;

const SMART_HOSTS: [&str; 5] = [
    "mx1.x.test",
    "mx2.y.test:2525",
    "mail.xn--bcher-kva.example",
    "[192.0.2.25]",
    "[2001:db8::25]:26",
];

const VERSIONS: [&str; 5] = ["TLSv1", "TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3"];

// Documents

/// A valid rules document of up to twelve connectors.
pub fn rules() -> impl Strategy<Value = Value> {
    let names = Just(NAMES.to_vec()).prop_shuffle();
    let several = || prop_oneof![4 => connector().prop_map(|it| vec![it]), 1 => twins()];
    let connectors = prop_oneof![1 => vec(several(), 0..3), 3 => vec(several(), 3..10)];
    (connectors, names, any::<u64>()).prop_map(|(connectors, names, salt)| {
        let mut connectors = connectors.concat();
        connectors.truncate(names.len());
        for (connector, name) in connectors.iter_mut().zip(names) {
            connector["name"] = json!(name);
        }
        switch_off_conflicts(&mut connectors);
        let mut dice = Dice(salt);
        for connector in &mut connectors {
            respell_connector(connector, &mut dice);
        }
        document(connectors)
    })
}

fn document(connectors: Vec<Value>) -> Value {
    json!({
        "organization": "Contoso",
        "accepted-domains": ["x.test", "y.test"],
        "connectors": connectors,
    })
}

/// A connector without a name, its patterns in normal form.
fn connector() -> impl Strategy<Value = Value> {
    prop_oneof![2 => inbound_connector(), 1 => outbound_connector()]
}

/// Two connectors for the same mail, one enforced and one in audit mode.
fn twins() -> impl Strategy<Value = Vec<Value>> {
    let pair = prop_oneof![
        (inbound_connector(), inbound_connector()),
        (outbound_connector(), outbound_connector()),
    ];
    (pair, any::<bool>()).prop_map(|((one, mut other), is_first_audited)| {
        for field in ["from", "to", "except", "match-header-from"] {
            other[field] = one[field].clone();
        }
        drop_nulls(&mut other);
        let mut both = vec![one, other];
        both[0]["mode"] = json!(if is_first_audited { "audit" } else { "enforce" });
        both[1]["mode"] = json!(if is_first_audited { "enforce" } else { "audit" });
        both
    })
}

fn inbound_connector() -> BoxedStrategy<Value> {
    (
        inbound_selectors(),
        weighted(0.25, inbound_selectors()),
        weighted(0.9, requirements()),
        weighted(0.2, reply()),
        weighted(0.3, any::<bool>()),
        modes(),
    )
        .prop_map(|(from, except, require, reply, match_header_from, modes)| {
            object([
                ("direction", Some(json!("inbound"))),
                ("from", Some(from)),
                ("except", except),
                ("require", require),
                ("reply", reply),
                ("match-header-from", match_header_from.map(Value::from)),
                ("enabled", modes.0),
                ("mode", modes.1),
                ("comment", modes.2),
            ])
        })
        .boxed()
}

fn outbound_connector() -> BoxedStrategy<Value> {
    (
        some_of(&DOMAIN_PATTERNS, 3),
        weighted(0.25, some_of(&DOMAIN_PATTERNS, 2)),
        weighted(0.6, route()),
        weighted(0.8, tls_level()),
        weighted(0.3, select(&["opportunistic", "mandatory", "none"][..])),
        weighted(0.3, select(&["opportunistic", "none"][..])),
        modes(),
    )
        .prop_map(|(to, except, route, tls, dane, mta_sts, modes)| {
            // Mandatory DANE and a server without a name are an error.
            let nameless = route
                .as_ref()
                .is_some_and(|route| route.to_string().contains("\"["));
            let dane = dane.filter(|dane| !(nameless && *dane == "mandatory"));
            object([
                ("dane", dane.map(|dane| json!(dane))),
                ("mta-sts", mta_sts.map(|mta_sts| json!(mta_sts))),
                ("direction", Some(json!("outbound"))),
                ("to", Some(json!({"recipient-domains": to}))),
                (
                    "except",
                    except.map(|except| json!({"recipient-domains": except})),
                ),
                ("route", route),
                ("tls", tls),
                ("enabled", modes.0),
                ("mode", modes.1),
                ("comment", modes.2),
            ])
        })
        .boxed()
}

/// `enabled`, `mode` and `comment`, each perhaps left out.
fn modes() -> impl Strategy<Value = (Option<Value>, Option<Value>, Option<Value>)> {
    (
        weighted(
            0.3,
            prop_oneof![4 => Just(json!(true)), 1 => Just(json!(false))],
        ),
        weighted(
            0.4,
            prop_oneof![Just(json!("enforce")), Just(json!("audit"))],
        ),
        weighted(0.1, Just(json!("ticket 4711"))),
    )
}

/// One to three of the selector lists.
fn inbound_selectors() -> impl Strategy<Value = Value> {
    let fields = [
        ("sender-domains", some_of(&DOMAIN_PATTERNS, 4)),
        ("sender-ips", some_of(&RANGES, 4)),
        ("certificate-names", some_of(&CERTIFICATE_PATTERNS, 4)),
        ("recipient-domains", some_of(&DOMAIN_PATTERNS, 5)),
    ];
    let (names, lists): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    // The sender's domain is the usual selector, and the fewer there are, the more matches.
    let chosen = prop_oneof![
        4 => Just(vec![0]),
        2 => (0..4usize).prop_map(|field| vec![field]),
        1 => subsequence(vec![0, 1, 2, 3], 2..=3),
    ];
    (chosen, lists).prop_map(move |(chosen, lists)| {
        let chosen = chosen
            .into_iter()
            .map(|field| (names[field], Some(json!(lists[field]))));
        object(chosen)
    })
}

fn requirements() -> BoxedStrategy<Value> {
    let floor = prop_oneof![2 => Just("TLSv1.3"), 2 => Just("TLSv1.2"), 1 => select(&VERSIONS[..])]
        .prop_map(|version| json!({"min-version": version}));
    let tls = prop_oneof![2 => Just(json!(true)), 1 => Just(json!(false)), 2 => floor];
    (
        weighted(0.5, tls),
        weighted(0.3, some_of(&CERTIFICATE_PATTERNS, 3)),
        weighted(0.2, some_of(&FINGERPRINTS, 2)),
        weighted(0.15, some_of(&KEYS, 2)),
        weighted(0.2, some_of(&AUTHORITIES, 2)),
        weighted(0.3, some_of(&RANGES, 3)),
    )
        .prop_map(|(tls, names, fingerprints, keys, authorities, ranges)| {
            object([
                ("tls", tls),
                ("certificate-names", names.map(Value::from)),
                ("certificate-fingerprints", fingerprints.map(Value::from)),
                ("certificate-keys", keys.map(Value::from)),
                ("certificate-authorities", authorities.map(Value::from)),
                ("source-ips", ranges.map(Value::from)),
            ])
        })
        .boxed()
}

fn reply() -> impl Strategy<Value = Value> {
    (
        weighted(0.7, select(&[550, 551, 553, 554][..])),
        weighted(0.7, select(&["5.7.1", "5.7.0", "5.7.10"][..])),
        Just("see https://contoso.com/mail"),
    )
        .prop_map(|(code, enhanced, text)| {
            object([
                ("code", code.map(Value::from)),
                ("enhanced", enhanced.map(Value::from)),
                ("text", Some(json!(text))),
            ])
        })
}

fn route() -> impl Strategy<Value = Value> {
    prop_oneof![
        1 => Just(json!("mx")),
        3 => some_of(&SMART_HOSTS, 3).prop_map(|hosts| json!({"smart-hosts": hosts})),
    ]
}

fn tls_level() -> BoxedStrategy<Value> {
    // What is asked for beside a level needs one that requires TLS.
    let opportunistic = Just(json!({"level": "opportunistic"}));
    let nameless = select(&["encrypt", "verify"][..]).prop_map(|level| (level, None));
    let names = some_of(&CERTIFICATE_PATTERNS, 3).prop_map(|names| ("name", Some(names)));
    let required = (
        prop_oneof![nameless, names],
        weighted(0.3, select(&VERSIONS[..])),
        weighted(0.2, some_of(&FINGERPRINTS, 2)),
        weighted(0.2, some_of(&KEYS, 2)),
        weighted(0.2, some_of(&AUTHORITIES, 2)),
    )
        .prop_map(|((level, names), floor, fingerprints, keys, authorities)| {
            object([
                ("level", Some(json!(level))),
                ("names", names.map(Value::from)),
                ("min-version", floor.map(Value::from)),
                ("certificate-fingerprints", fingerprints.map(Value::from)),
                ("certificate-keys", keys.map(Value::from)),
                ("certificate-authorities", authorities.map(Value::from)),
            ])
        });
    prop_oneof![1 => opportunistic, 3 => required].boxed()
}

/// Between one and `most` of the choices.
fn some_of(choices: &'static [&'static str], most: usize) -> BoxedStrategy<Vec<&'static str>> {
    subsequence(choices, 1..=most).prop_shuffle().boxed()
}

/// Switches off every connector that `check` would refuse beside the enabled ones before it.
fn switch_off_conflicts(connectors: &mut [Value]) {
    let mut selectors = HashSet::new();
    let mut claimed = HashSet::new();
    for connector in connectors
        .iter_mut()
        .filter(|connector| connector["enabled"] != false)
    {
        // One in audit mode may stand beside an enforced one.
        let mode = if connector["mode"] == "audit" {
            "audit"
        } else {
            "enforce"
        };
        let claims: Vec<_> = strings(&connector["to"]["recipient-domains"])
            .into_iter()
            .map(|pattern| (mode, pattern))
            .collect();
        let is_new = claims.iter().all(|claim| !claimed.contains(claim));
        if is_new && selectors.insert((mode, selector_key(connector))) {
            claimed.extend(claims);
        } else {
            connector["enabled"] = json!(false);
        }
    }
}

/// What two connectors with the same selectors have in common, whatever the order of the lists.
fn selector_key(connector: &Value) -> String {
    let mut key = json!([connector["from"], connector["to"], connector["except"]]);
    for lists in key
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        for list in lists.values_mut().filter_map(Value::as_array_mut) {
            list.sort_by_key(Value::to_string);
        }
    }
    key.to_string()
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// A JSON object of the fields that have a value.
fn object(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let fields = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(fields.collect())
}

// Contexts

/// The facts that [`hide`] can hide, by their names in the JSON.
const HIDEABLE: [&str; 11] = [
    "client-ip",
    "tls",
    "version",
    "certificate",
    "dns-names",
    "sha256",
    "key-sha256",
    "not-after",
    "trust",
    "anchor",
    "header-from",
];

/// A context that the documents of [`rules`] have something to say about. Of every second one some
/// facts are unknown.
pub fn context() -> impl Strategy<Value = Value> {
    let hidden = prop_oneof![
        2 => Just(Vec::new()),
        1 => subsequence(&HIDEABLE[..], 1..=1),
        1 => subsequence(&HIDEABLE[..], 2..=5),
    ];
    (told_context(), hidden).prop_map(|(context, hidden)| hide(context, &hidden))
}

/// A context of which all facts are told, but perhaps for the digests of a certificate.
fn told_context() -> impl Strategy<Value = Value> {
    prop_oneof![4 => inbound_context(), 1 => outbound_context()]
}

/// Makes facts unknown: those of the session whether they are there or not, those of a certificate if
/// there is one.
fn hide(mut context: Value, hidden: &[&str]) -> Value {
    let is_hidden = |fact: &str| hidden.contains(&fact);
    let tls = &mut context["tls"];
    if tls["certificate"].is_object() {
        let certificate = &mut tls["certificate"];
        let parts: Vec<&str> = HIDEABLE[4..10]
            .iter()
            .copied()
            .filter(|part| is_hidden(part))
            .collect();
        if !parts.is_empty() {
            certificate["unknown"] = json!(parts);
        }
        // What is told of an unknown fact beside is not believed: here it is left in half of them.
        if parts.len() % 2 == 1 {
            for part in parts {
                certificate.as_object_mut().expect("an object").remove(part);
            }
        }
    }
    if tls.is_object() {
        for part in ["version", "certificate"] {
            if is_hidden(part) {
                tls[part] = json!("unknown");
            }
        }
    }
    for fact in ["client-ip", "tls", "header-from"] {
        if is_hidden(fact) {
            context[fact] = json!("unknown");
        }
    }
    drop_nulls(&mut context);
    context
}

/// What the unknown facts of a context might have been.
#[derive(Clone, Debug)]
pub struct Filling {
    client: Option<&'static str>,
    tls: Option<Value>,
    version: &'static str,
    certificate: Option<Value>,
    /// A certificate to take parts of.
    parts: Value,
    anchor: Option<Value>,
    header_from: Option<Vec<String>>,
}

/// A filling, for any context.
pub fn filling() -> impl Strategy<Value = Filling> {
    (
        weighted(0.9, select(&CLIENTS[..])),
        weighted(0.8, session_tls()),
        select(&VERSIONS[..]),
        weighted(0.8, certificate()),
        certificate(),
        weighted(0.7, anchor()),
        weighted(0.8, vec(sender(), 0..3)),
    )
        .prop_map(
            |(client, tls, version, certificate, parts, anchor, header_from)| Filling {
                client,
                tls,
                version,
                certificate,
                parts,
                anchor,
                header_from,
            },
        )
}

impl Filling {
    /// The context with all facts known: those that were known as they were, the others as they are
    /// here.
    pub fn fill(&self, context: &Value) -> Value {
        let mut context = context.clone();
        if context["client-ip"] == "unknown" {
            context["client-ip"] = json!(self.client);
        }
        if context["header-from"] == "unknown" {
            context["header-from"] = json!(self.header_from);
        }
        if context["tls"] == "unknown" {
            context["tls"] = json!(self.tls);
        }
        if context["tls"].is_object() {
            self.fill_tls(&mut context["tls"]);
        }
        drop_nulls(&mut context);
        context
    }

    fn fill_tls(&self, tls: &mut Value) {
        if tls["version"] == "unknown" {
            tls["version"] = json!(self.version);
        }
        if tls["certificate"] == "unknown" {
            tls["certificate"] = json!(self.certificate);
        }
        if tls["certificate"].is_object() {
            self.fill_certificate(&mut tls["certificate"]);
        }
        drop_nulls(tls);
    }

    fn fill_certificate(&self, certificate: &mut Value) {
        let hidden = strings(&certificate["unknown"]);
        for part in ["dns-names", "sha256", "key-sha256", "not-after", "trust"] {
            let is_digest = part.ends_with("sha256");
            let is_hidden = hidden.iter().any(|it| it == part);
            if is_hidden || is_digest && certificate[part].is_null() {
                certificate[part] = match &self.parts[part] {
                    // Even this may not be told; and every certificate has digests.
                    Value::Null if is_digest => json!(FINGERPRINTS[0]),
                    value => value.clone(),
                };
            }
        }
        let is_trust_hidden = hidden.iter().any(|it| it == "trust");
        let is_anchor_hidden = hidden.iter().any(|it| it == "anchor");
        // Of a chain that may be trusted or not, nothing that is not told is known of the anchor.
        if is_anchor_hidden || is_trust_hidden && certificate["anchor"].is_null() {
            let is_trusted = certificate["trust"] == "trusted";
            certificate["anchor"] = json!(self.anchor.as_ref().filter(|_| is_trusted));
        }
        certificate["unknown"] = Value::Null;
        drop_nulls(certificate);
    }
}

fn inbound_context() -> BoxedStrategy<Value> {
    (
        (weighted(0.95, select(&CLIENTS[..])), any::<u64>()),
        weighted(0.8, Just("mail.x.test")),
        weighted(0.7, session_tls()),
        sender(),
        address(),
        weighted(0.4, vec(sender(), 0..3)),
    )
        .prop_map(
            |((client, salt), helo, tls, sender, recipient, header_from)| {
                let client = client.map(|client| respell_ip(client, &mut Dice(salt)));
                object([
                    ("direction", Some(json!("inbound"))),
                    ("client-ip", client.map(Value::from)),
                    ("helo", helo.map(Value::from)),
                    ("tls", tls),
                    ("mail-from", Some(json!(sender))),
                    ("rcpt-to", Some(json!(recipient))),
                    ("header-from", header_from.map(Value::from)),
                ])
            },
        )
        .boxed()
}

fn outbound_context() -> impl Strategy<Value = Value> {
    (weighted(0.8, sender()), address()).prop_map(|(sender, recipient)| {
        object([
            ("direction", Some(json!("outbound"))),
            ("mail-from", sender.map(Value::from)),
            ("rcpt-to", Some(json!(recipient))),
        ])
    })
}

/// The sender's address, of which some have no domain.
fn sender() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => address(),
        2 => Just(String::new()),
        1 => select(&["postmaster", "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]", "a@"][..])
            .prop_map(str::to_owned),
    ]
}

fn address() -> impl Strategy<Value = String> {
    let local = prop_oneof![8 => Just("bob"), 1 => Just("Bob.Ross"), 1 => Just("\"b@y.test\"")];
    let domain = prop_oneof![9 => select(&DOMAINS[..]), 1 => Just("elsewhere.example")];
    (local, domain, any::<u64>()).prop_map(|(local, domain, salt)| {
        let mut dice = Dice(salt);
        let domain = respell_domain(domain, &mut dice);
        format!("{local}@{}", dice.perhaps_strange(domain))
    })
}

fn session_tls() -> BoxedStrategy<Value> {
    let version = prop_oneof![
        4 => Just("TLSv1.3"),
        3 => Just("TLSv1.2"),
        1 => select(&VERSIONS[..]),
    ];
    (version, weighted(0.8, certificate()))
        .prop_map(|(version, certificate)| {
            object([
                ("version", Some(json!(version))),
                ("cipher", Some(json!("TLS13_AES_256_GCM_SHA384"))),
                ("certificate", certificate),
            ])
        })
        .boxed()
}

fn certificate() -> BoxedStrategy<Value> {
    let untrusted = &[
        "expired",
        "unknown-issuer",
        "not-yet-valid",
        "revoked",
        "invalid",
    ][..];
    (
        subsequence(&CERTIFICATE_NAMES[..], 0..6),
        weighted(0.9, select(&FINGERPRINTS[..])),
        weighted(0.9, select(&KEYS[..])),
        prop_oneof![2 => Just("trusted"), 1 => select(untrusted)],
        weighted(0.5, anchor()),
        weighted(0.9, Just("2027-06-01T00:00:00Z")),
        any::<u64>(),
    )
        .prop_map(|(names, sha256, key, trust, anchor, not_after, salt)| {
            let mut dice = Dice(salt);
            let names: Vec<_> = names
                .into_iter()
                .map(|name| {
                    let name = respell_domain(name, &mut dice);
                    dice.perhaps_below(&STRANGE_LABELS[..STRANGE_LABELS.len() - FORBIDDEN], name)
                })
                .collect();
            object([
                ("dns-names", Some(json!(names))),
                ("subject", Some(json!("CN=mail.x.test"))),
                ("issuer", Some(json!("CN=Example CA"))),
                ("sha256", sha256.map(|it| json!(dice.respell_digest(it)))),
                ("key-sha256", key.map(|it| json!(dice.respell_digest(it)))),
                ("not-after", not_after.map(Value::from)),
                ("trust", Some(json!(trust))),
                ("anchor", anchor.filter(|_| trust == "trusted")),
            ])
        })
        .boxed()
}

/// What a trusted chain ends at.
fn anchor() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => select(&ANCHORS[..]).prop_map(|anchor| json!(anchor)),
        1 => some_of(&ANCHORS, 3).prop_map(|anchors| json!(anchors)),
    ]
}

// Spellings: what means the same, written as people write it

fn respell_connector(connector: &mut Value, dice: &mut Dice) {
    for selectors in ["from", "to", "except", "require"] {
        for list in ["sender-domains", "recipient-domains", "certificate-names"] {
            respell(&mut connector[selectors], list, |pattern| {
                respell_domain(pattern, dice)
            });
        }
        for list in ["sender-ips", "source-ips"] {
            respell(&mut connector[selectors], list, |range| {
                respell_range(range, dice)
            });
        }
    }
    for requirements in ["require", "tls"] {
        for list in ["certificate-fingerprints", "certificate-keys"] {
            respell(&mut connector[requirements], list, |digest| {
                dice.respell_digest(digest)
            });
        }
    }
    respell(&mut connector["tls"], "names", |name| {
        respell_domain(name, dice)
    });
    respell(&mut connector["route"], "smart-hosts", |host| match host {
        address if address.starts_with('[') => address.to_owned(),
        with_port if with_port.contains(':') => dice.perhaps_upper(with_port),
        name => respell_domain(name, dice),
    });
    drop_nulls(connector);
}

fn respell(lists: &mut Value, field: &str, mut spelling: impl FnMut(&str) -> String) {
    for item in lists
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        *item = json!(spelling(item.as_str().expect("patterns are strings")));
    }
}

/// Takes away the fields that asking for them has left behind.
fn drop_nulls(object: &mut Value) {
    object
        .as_object_mut()
        .expect("an object")
        .retain(|_, value| !value.is_null());
}

fn respell_domain(name: &str, dice: &mut Dice) -> String {
    // The whole pattern `*` is no name.
    if name == "*" {
        return name.to_owned();
    }
    let unicode = name.replace(IDN.0, IDN.1);
    match dice.roll(8) {
        1 => name.to_uppercase(),
        2 => format!("{name}."),
        3 => unicode,
        4 => format!("{}.", unicode.to_uppercase()),
        _ => name.to_owned(),
    }
}

fn respell_range(range: &str, dice: &mut Dice) -> String {
    let Some((address, length)) = range.split_once('/') else {
        return respell_ip(range, dice);
    };
    let length: u32 = length.parse().expect("a prefix length is a number");
    match address.parse::<Ipv4Addr>() {
        Ok(v4) => {
            let v4 = Ipv4Addr::from_bits(
                v4.to_bits() | dice.host_bits() as u32 & ones(length, 32) as u32,
            );
            let mapped = format!("{}/{}", v4.to_ipv6_mapped(), length + 96);
            if dice.roll(8) == 1 {
                mapped
            } else {
                format!("{v4}/{length}")
            }
        }
        Err(_) => {
            let v6: Ipv6Addr = address.parse().expect("a range begins with an address");
            let v6 = Ipv6Addr::from_bits(v6.to_bits() | dice.host_bits() & ones(length, 128));
            format!("{v6}/{length}")
        }
    }
}

/// A mask of the bits behind a prefix of that length.
fn ones(length: u32, width: u32) -> u128 {
    1u128
        .checked_shl(width - length)
        .unwrap_or(0)
        .wrapping_sub(1)
}

fn respell_ip(address: &str, dice: &mut Dice) -> String {
    match (address.parse::<Ipv4Addr>(), dice.roll(8)) {
        (Ok(v4), 1) => v4.to_ipv6_mapped().to_string(),
        (Err(_), 1) => address.to_uppercase(),
        _ => address.to_owned(),
    }
}

/// A stream of numbers that its seed decides (SplitMix64). Seed 0 rolls only zeros, which spell
/// everything plainly: that is what failures shrink to.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        if self.0 == 0 {
            return 0;
        }
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }

    /// Bits to set behind a prefix, mostly none.
    fn host_bits(&mut self) -> u128 {
        if self.roll(6) == 1 {
            u128::from(self.roll(u64::MAX))
        } else {
            0
        }
    }

    /// A domain as only somebody writes it who has something in mind: with other letters and dots that
    /// mean the same, or below a strange label.
    fn perhaps_strange(&mut self, domain: String) -> String {
        match self.roll(24) {
            1 => domain.replace('.', "\u{3002}"),
            2 => domain.replacen('.', "\u{ff0e}", 1),
            3 => domain.replace('x', "ｘ").replace('ü', "u\u{308}"),
            _ => self.perhaps_below(&STRANGE_LABELS, domain),
        }
    }

    fn perhaps_below(&mut self, labels: &[&str], domain: String) -> String {
        match self.roll(16) {
            1 => {
                let label = labels[self.roll(labels.len() as u64) as usize];
                format!("{label}.{domain}")
            }
            _ => domain,
        }
    }

    /// A digest as tools print it: some with colons, some with capitals.
    fn respell_digest(&mut self, digest: &str) -> String {
        let written = self.perhaps_upper(digest);
        if self.roll(8) != 1 {
            return written;
        }
        let octets: Vec<&str> = (0..digest.len())
            .step_by(2)
            .map(|at| &written[at..at + 2])
            .collect();
        octets.join(":")
    }

    fn perhaps_upper(&mut self, text: &str) -> String {
        if self.roll(8) == 1 {
            text.to_uppercase()
        } else {
            text.to_owned()
        }
    }
}

// Large documents

/// How many connectors in a row share the domain, and partly the addresses, of one another.
const CLUSTER: usize = 64;

/// What connector number `i` of a large document is about. It depends on the number alone, so that
/// [`context_for`] hits the documents of every seed.
enum Subject {
    /// Senders at a domain of their own.
    Domain(String),
    /// Senders at a domain of their own and everything under it.
    Wildcard(String),
    /// Clients in an IPv4 range of their own.
    Ipv4(Ipv4Addr),
    /// Clients in an IPv6 range of their own.
    Ipv6(Ipv6Addr),
    /// Clients with a certificate for a name of their own.
    Certificate(String),
    /// Senders at a domain that many connectors name, from a range of the connector's own.
    Shared(String, Ipv4Addr),
    /// Recipients at a domain of their own.
    Recipient(String),
    /// Recipients at a domain of their own and everything under it.
    RecipientWildcard(String),
}

fn subject(i: usize) -> Subject {
    let number = u32::try_from(i).expect("a document has fewer than 2^32 connectors");
    match i % 10 {
        0 | 1 => Subject::Domain(format!("p{i}.partners.example")),
        2 => Subject::Wildcard(format!("p{i}.partners.example")),
        // A connector about the domains of one that is just before it.
        3 => Subject::Domain(format!("mail.p{}.partners.example", i - 1)),
        4 => Subject::Ipv4(own_v4(number)),
        5 => Subject::Ipv6(own_v6(number)),
        6 => Subject::Certificate(format!("mx.p{i}.partners.example")),
        7 => Subject::Shared(format!("c{}.clusters.example", i / CLUSTER), own_v4(number)),
        8 => Subject::Recipient(format!("p{i}.customers.example")),
        _ => Subject::RecipientWildcard(format!("p{i}.customers.example")),
    }
}

/// The first address of the `/28` number `number` of `10.0.0.0/8`.
fn own_v4(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0A00_0000 | (number % (1 << 20)) << 4)
}

/// The first address of the `/64` number `number` of `2001:db8::/32`.
fn own_v6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(0x2001_0DB8 << 96 | u128::from(number) << 64)
}

/// A valid document of that many connectors, up to a million, the same for the same seed.
///
/// Most connectors are about a partner of their own, by domain, range or certificate; some share a
/// domain with dozens of others. The seed decides what they require.
pub fn many_rules(connectors: usize, seed: u64) -> Value {
    let mut dice = Dice(seed.wrapping_add(1).max(1));
    document(
        (0..connectors)
            .map(|i| numbered_connector(i, &mut dice))
            .collect(),
    )
}

fn numbered_connector(i: usize, dice: &mut Dice) -> Value {
    let mut connector = match subject(i) {
        Subject::Recipient(domain) => numbered_outbound(&domain, &domain, dice),
        Subject::RecipientWildcard(domain) => {
            numbered_outbound(&format!("*.{domain}"), &domain, dice)
        }
        Subject::Domain(domain) => numbered_inbound(json!({"sender-domains": [domain]}), i, dice),
        Subject::Wildcard(domain) => {
            numbered_inbound(json!({"sender-domains": [format!("*.{domain}")]}), i, dice)
        }
        Subject::Ipv4(first) => {
            numbered_inbound(json!({"sender-ips": [format!("{first}/28")]}), i, dice)
        }
        Subject::Ipv6(first) => {
            numbered_inbound(json!({"sender-ips": [format!("{first}/64")]}), i, dice)
        }
        Subject::Certificate(name) => {
            numbered_inbound(json!({"certificate-names": [name]}), i, dice)
        }
        Subject::Shared(domain, first) => {
            // The last of a cluster is for all of its domain; the others for a range each.
            let from = if i % CLUSTER > CLUSTER - 10 {
                json!({"sender-domains": [domain]})
            } else {
                json!({"sender-domains": [domain], "sender-ips": [format!("{first}/28")]})
            };
            numbered_inbound(from, i, dice)
        }
    };
    connector["name"] = json!(format!("Connector {i}"));
    match dice.roll(20) {
        0 => connector["enabled"] = json!(false),
        1 | 2 => connector["mode"] = json!("audit"),
        _ => {}
    }
    connector
}

fn numbered_inbound(from: Value, i: usize, dice: &mut Dice) -> Value {
    let partner = format!("p{i}.partners.example");
    let require = match dice.roll(6) {
        0 | 1 => json!({"tls": true}),
        2 => json!({"tls": {"min-version": "TLSv1.3"}}),
        3 => json!({"certificate-names": [format!("*.{partner}")]}),
        4 => json!({"source-ips": [format!("{}/28", own_v4(i as u32)), "192.0.2.0/24"]}),
        _ => {
            json!({"tls": true, "source-ips": [format!("{}/64", own_v6(i as u32)), "192.0.2.0/24"]})
        }
    };
    let mut connector = Map::new();
    connector.insert("direction".to_owned(), json!("inbound"));
    connector.insert("from".to_owned(), from);
    connector.insert("require".to_owned(), require);
    if dice.roll(10) == 0 {
        connector.insert(
            "except".to_owned(),
            json!({"sender-domains": [format!("news.{partner}")]}),
        );
    }
    if dice.roll(50) == 0 {
        connector.insert("match-header-from".to_owned(), json!(true));
    }
    Value::Object(connector)
}

fn numbered_outbound(pattern: &str, domain: &str, dice: &mut Dice) -> Value {
    let tls = match dice.roll(4) {
        0 => json!({"level": "encrypt"}),
        1 => json!({"level": "verify"}),
        2 => json!({"level": "name", "names": [format!("*.{domain}")]}),
        _ => json!({"level": "opportunistic"}),
    };
    let route = match dice.roll(2) {
        0 => json!("mx"),
        _ => json!({"smart-hosts": [format!("mx1.{domain}"), format!("mx2.{domain}:2525")]}),
    };
    json!({
        "direction": "outbound",
        "to": {"recipient-domains": [pattern]},
        "route": route,
        "tls": tls,
    })
}

/// Context number `n` for a document of that many connectors: it hits at least one of them, unless
/// that is switched off, whatever the document's seed.
pub fn context_for(rules_connectors: usize, n: u64) -> Value {
    let mut dice = Dice(n.wrapping_add(1).max(1));
    let i = dice.roll(rules_connectors.max(1) as u64) as usize;
    let partner = format!("p{i}.partners.example");
    let client = json!(["192.0.2.1", "203.0.113.9"][dice.roll(2) as usize]);
    match subject(i) {
        Subject::Domain(domain) => numbered_context(&domain, client, &partner, &mut dice),
        Subject::Wildcard(domain) => {
            let labels = ["", "mail.", "a.b.c."][dice.roll(3) as usize];
            numbered_context(&format!("{labels}{domain}"), client, &partner, &mut dice)
        }
        Subject::Ipv4(first) => {
            numbered_context("elsewhere.example", json!(first), &partner, &mut dice)
        }
        Subject::Ipv6(first) => {
            numbered_context("elsewhere.example", json!(first), &partner, &mut dice)
        }
        Subject::Certificate(_) => {
            let mut context = numbered_context("elsewhere.example", client, &partner, &mut dice);
            context["tls"] = numbered_tls(&partner, "TLSv1.3", "trusted");
            context
        }
        Subject::Shared(domain, first) => {
            numbered_context(&domain, json!(first), &partner, &mut dice)
        }
        Subject::Recipient(domain) => numbered_recipient(&domain),
        Subject::RecipientWildcard(domain) => numbered_recipient(&format!("mail.{domain}")),
    }
}

/// Context number `n` for a document of that many connectors, with one or two of its facts unknown.
pub fn hidden_context_for(rules_connectors: usize, n: u64) -> Value {
    let mut dice = Dice(n.wrapping_add(1).max(1));
    let mut hidden = || HIDEABLE[dice.roll(HIDEABLE.len() as u64) as usize];
    hide(context_for(rules_connectors, n), &[hidden(), hidden()])
}

fn numbered_recipient(domain: &str) -> Value {
    json!({
        "direction": "outbound",
        "mail-from": "bob@x.test",
        "rcpt-to": format!("alice@{domain}"),
    })
}

fn numbered_context(sender_domain: &str, client: Value, partner: &str, dice: &mut Dice) -> Value {
    let mut context = json!({
        "direction": "inbound",
        "client-ip": client,
        "helo": format!("mx.{partner}"),
        "mail-from": format!("alice@{sender_domain}"),
        "rcpt-to": "bob@x.test",
    });
    match dice.roll(4) {
        0 => {}
        1 => context["tls"] = numbered_tls(partner, "TLSv1.2", "trusted"),
        2 => context["tls"] = numbered_tls(partner, "TLSv1.3", "unknown-issuer"),
        _ => context["tls"] = numbered_tls(partner, "TLSv1.3", "trusted"),
    }
    context
}

fn numbered_tls(partner: &str, version: &str, trust: &str) -> Value {
    json!({
        "version": version,
        "cipher": "TLS13_AES_256_GCM_SHA384",
        "certificate": {
            "dns-names": [format!("mx.{partner}")],
            "subject": format!("CN=mx.{partner}"),
            "issuer": "CN=Example CA",
            "sha256": FINGERPRINTS[0],
            "not-after": "2027-06-01T00:00:00Z",
            "trust": trust,
        },
    })
}
