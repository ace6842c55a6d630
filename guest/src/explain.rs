//! Why a verdict is as it is, and what a policy consists of, in words.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use crate::decide::{Failure, Rank, trust_name, version_name};
use crate::facts::Facts;
use crate::names::{Pattern, PatternSet, some_of};
use crate::rules::{Connector, Fingerprint, Inbound, Kind, Outbound, Requirements, Selectors};
use crate::{
    Certificate, Consideration, Context, Dane, Description, Explanation, Mode, MtaSts, Policy,
    RequirementOutcome, Route, SelectorOutcome, TlsLevel,
};

/// How many connectors an explanation shows.
const MOST_CONSIDERED: usize = 100;

impl Policy {
    pub(crate) fn explanation(&self, context: &Context) -> Explanation {
        let facts = Facts::new(context, self.rules.reads_header_from());
        let same_direction = self
            .rules
            .connectors()
            .filter(|c| c.direction() == context.direction);
        let mut considered: Vec<(Option<Rank>, bool, Consideration)> = Vec::new();
        let mut others = 0;
        for connector in same_direction {
            let rank = connector.rank(&facts);
            let selectors = selector_outcomes(&connector, &facts);
            let near = selectors.iter().any(|outcome| outcome.matched);
            if considered.len() >= MOST_CONSIDERED && rank.is_none() && !near {
                others += 1;
                continue;
            }
            let consideration = Consideration {
                connector: connector.name.into(),
                mode: connector.mode,
                matched: rank.is_some() && connector.mode != Mode::Disabled,
                requirements: match rank {
                    Some(_) => requirement_outcomes(&connector, &facts),
                    None => Vec::new(),
                },
                selectors,
            };
            considered.push((rank, near, consideration));
        }
        considered.sort_by(|(a, a_near, x), (b, b_near, y)| {
            (y.matched, b, b_near)
                .cmp(&(x.matched, a, a_near))
                .then_with(|| x.connector.cmp(&y.connector))
        });
        others += considered.len().saturating_sub(MOST_CONSIDERED) as u32;
        considered.truncate(MOST_CONSIDERED);
        Explanation {
            verdict: self.decide(context),
            considered: considered
                .into_iter()
                .map(|(.., consideration)| consideration)
                .collect(),
            others,
        }
    }

    pub(crate) fn description(&self, first: u32, limit: u32) -> Description {
        let last = self
            .rules
            .len()
            .min((first as usize).saturating_add(limit as usize));
        let connectors = (first as usize..last).filter_map(|number| self.rules.connector(number));
        Description {
            organization: self.rules.organization().into(),
            accepted_domains: self
                .rules
                .accepted_domains()
                .iter()
                .map(|p| p.to_string())
                .collect(),
            reads_header_from: self.rules.reads_header_from(),
            total: self.rules.len() as u32,
            connectors: connectors.map(|connector| describe(&connector)).collect(),
        }
    }
}

impl Connector<'_> {
    fn rank(&self, facts: &Facts) -> Option<Rank> {
        match &self.kind {
            Kind::Inbound(inbound) => self.inbound_rank(inbound, facts),
            Kind::Outbound(_) => self.outbound_rank(facts),
        }
    }
}

fn selector_outcomes(connector: &Connector, facts: &Facts) -> Vec<SelectorOutcome> {
    let (field, header_from) = match &connector.kind {
        Kind::Inbound(inbound) => ("from", inbound.match_header_from),
        Kind::Outbound(_) => ("to", false),
    };
    let mut outcomes = Vec::new();
    for (field, selectors) in [(field, &connector.selectors), ("except", &connector.except)] {
        list_outcomes(field, selectors, facts, header_from, &mut outcomes);
    }
    outcomes
}

fn list_outcomes(
    field: &str,
    selectors: &Selectors,
    facts: &Facts,
    header_from: bool,
    outcomes: &mut Vec<SelectorOutcome>,
) {
    let mut push = |name: &str, tried: Tried, fact: String| {
        outcomes.push(SelectorOutcome {
            selector: format!("{field}.{name}"),
            matched: tried.matched.is_some(),
            pattern: tried.matched.unwrap_or(tried.all),
            fact,
        });
    };
    let domains = |set: PatternSet, domains: &[Option<&str>]| Tried {
        matched: set
            .iter()
            .filter_map(|pattern| {
                let closest = domains.iter().map(|d| pattern.specificity(*d)).max()?;
                (closest > 0).then_some((closest, pattern))
            })
            .max_by_key(|(closest, _)| *closest)
            .map(|(_, pattern)| pattern.to_string()),
        all: some_of(set.iter(), set.len()),
    };
    if !selectors.sender_domains.is_empty() {
        let identities = facts
            .identities()
            .take(if header_from { usize::MAX } else { 1 });
        let identities: Vec<Option<&str>> = identities.collect();
        let fact = sender_fact(facts, header_from);
        push(
            "sender-domains",
            domains(selectors.sender_domains, &identities),
            fact,
        );
    }
    if !selectors.sender_ips.is_empty() {
        let longest = facts
            .client_ip
            .and_then(|ip| selectors.sender_ips.longest(ip));
        let tried = Tried {
            matched: longest.map(|prefix| prefix.to_string()),
            all: some_of(
                selectors.sender_ips.iter(),
                selectors.sender_ips.iter().count(),
            ),
        };
        push("sender-ips", tried, ip_fact(facts));
    }
    if !selectors.certificate_names.is_empty() {
        let set = selectors.certificate_names;
        let fits = |pattern: &Pattern<&str>| {
            facts
                .trusted_names()
                .iter()
                .any(|name| pattern.certificate_specificity(name) > 0)
        };
        let tried = Tried {
            matched: set.iter().find(fits).map(|pattern| pattern.to_string()),
            all: some_of(set.iter(), set.len()),
        };
        push("certificate-names", tried, certificate_fact(facts));
    }
    if !selectors.recipient_domains.is_empty() {
        let tried = domains(selectors.recipient_domains, &[facts.recipient.as_deref()]);
        push("recipient-domains", tried, facts.context.rcpt_to.clone());
    }
}

/// What came of a list.
struct Tried {
    matched: Option<String>,
    all: String,
}

fn sender_fact(facts: &Facts, header_from: bool) -> String {
    let context = facts.context;
    let envelope = if context.mail_from.is_empty() {
        "<>"
    } else {
        &context.mail_from
    };
    match &context.header_from {
        Some(addresses) if header_from => {
            format!(
                "{envelope}; header From: {}",
                some_of(addresses.iter(), addresses.len())
            )
        }
        _ => envelope.into(),
    }
}

fn ip_fact(facts: &Facts) -> String {
    facts
        .client_ip
        .map_or_else(|| "not known".into(), |ip| ip.to_string())
}

fn certificate_fact(facts: &Facts) -> String {
    let Some(tls) = facts.tls() else {
        return "the session is not encrypted".into();
    };
    let Some(certificate) = &tls.certificate else {
        return "no certificate".into();
    };
    format!(
        "{} ({})",
        names_fact(certificate),
        trust_name(certificate.trust)
    )
}

fn names_fact(certificate: &Certificate) -> String {
    match certificate.dns_names.len() {
        0 => "a certificate without names".into(),
        count => some_of(certificate.dns_names.iter(), count),
    }
}

fn requirement_outcomes(connector: &Connector, facts: &Facts) -> Vec<RequirementOutcome> {
    let Kind::Inbound(Inbound { require, .. }) = &connector.kind else {
        return Vec::new();
    };
    Failure::ALL
        .into_iter()
        .filter(|failure| failure.is_guarded(require))
        .map(|failure| RequirementOutcome {
            requirement: failure.name().into(),
            satisfied: !failure.holds(require, facts),
            expected: expected(failure, require),
            fact: fact(failure, facts),
        })
        .collect()
}

fn expected(failure: Failure, require: &Requirements) -> String {
    match failure {
        Failure::Tls => "an encrypted session".into(),
        Failure::TlsVersion => format!("at least {}", version_name(require.min_version)),
        Failure::CertificateMissing => "a client certificate".into(),
        Failure::CertificateFingerprint => {
            let shown = require.fingerprints().map(|pin| fingerprint(&pin));
            some_of(shown, require.fingerprints().count())
        }
        Failure::CertificateUntrusted => "a certificate from a trusted authority".into(),
        Failure::CertificateName => some_of(
            require.certificate_names.iter(),
            require.certificate_names.len(),
        ),
        Failure::SourceIp => some_of(require.source_ips.iter(), require.source_ips.iter().count()),
    }
}

fn fact(failure: Failure, facts: &Facts) -> String {
    let encrypted = match facts.tls() {
        None => "the session is not encrypted".into(),
        Some(tls) => format!("{} with {}", version_name(tls.version), tls.cipher),
    };
    let Some(certificate) = facts.certificate() else {
        return match failure {
            Failure::Tls | Failure::TlsVersion => encrypted,
            Failure::SourceIp => ip_fact(facts),
            _ => "no certificate".into(),
        };
    };
    match failure {
        Failure::Tls | Failure::TlsVersion => encrypted,
        Failure::CertificateMissing => certificate.subject.clone(),
        Failure::CertificateFingerprint => fingerprint(&certificate.sha256),
        Failure::CertificateUntrusted => trust_name(certificate.trust).into(),
        Failure::CertificateName => names_fact(certificate),
        Failure::SourceIp => ip_fact(facts),
    }
}

fn fingerprint(words: &Fingerprint) -> String {
    let (a, b, c, d) = words;
    format!("{a:016x}{b:016x}{c:016x}{d:016x}")
}

fn describe(connector: &Connector) -> crate::Connector {
    let (field, demands) = match &connector.kind {
        Kind::Inbound(inbound) => ("from", demands(&inbound.require)),
        Kind::Outbound(outbound) => ("to", delivery(outbound)),
    };
    let mut applies_to = selection(&connector.selectors, field);
    if !connector.except.is_empty() {
        applies_to = format!(
            "{applies_to}, except {}",
            selection(&connector.except, field)
        );
    }
    let delivery = match &connector.kind {
        Kind::Inbound(_) => None,
        Kind::Outbound(outbound) => Some(connector.delivery(outbound)),
    };
    crate::Connector {
        name: connector.name.into(),
        direction: connector.direction(),
        mode: connector.mode,
        applies_to,
        demands,
        comment: connector.comment.map(String::from),
        selects: patterns(&connector.selectors),
        delivery,
    }
}

fn patterns(selectors: &Selectors) -> crate::Selectors {
    fn all<T: Display>(items: impl Iterator<Item = T>) -> Vec<String> {
        items.map(|item| item.to_string()).collect()
    }
    crate::Selectors {
        sender_domains: all(selectors.sender_domains.iter()),
        sender_ips: all(selectors.sender_ips.iter()),
        certificate_names: all(selectors.certificate_names.iter()),
        recipient_domains: all(selectors.recipient_domains.iter()),
    }
}

fn selection(selectors: &Selectors, field: &str) -> String {
    let mut parts = Vec::new();
    let Selectors {
        sender_domains,
        sender_ips,
        certificate_names,
        recipient_domains,
    } = selectors;
    if !sender_domains.is_empty() {
        parts.push(format!(
            "from {}",
            some_of(sender_domains.iter(), sender_domains.len())
        ));
    }
    if !sender_ips.is_empty() {
        parts.push(format!(
            "from {}",
            some_of(sender_ips.iter(), sender_ips.iter().count())
        ));
    }
    if !certificate_names.is_empty() {
        let names = some_of(certificate_names.iter(), certificate_names.len());
        parts.push(format!("with certificate {names}"));
    }
    if !recipient_domains.is_empty() {
        parts.push(format!(
            "to {}",
            some_of(recipient_domains.iter(), recipient_domains.len())
        ));
    }
    if parts.is_empty() {
        parts.push(format!("{field} anybody"));
    }
    parts.join(" and ")
}

fn demands(require: &Requirements) -> String {
    let parts: Vec<String> = Failure::ALL
        .into_iter()
        .filter(|failure| failure.is_guarded(require))
        .filter_map(|failure| {
            Some(match failure {
                Failure::Tls => "TLS".into(),
                Failure::TlsVersion => expected(failure, require),
                Failure::CertificateMissing | Failure::CertificateUntrusted => return None,
                Failure::CertificateFingerprint => "a pinned certificate".into(),
                Failure::CertificateName => format!("certificate {}", expected(failure, require)),
                Failure::SourceIp => format!("source {}", expected(failure, require)),
            })
        })
        .collect();
    if parts.is_empty() {
        return "nothing".into();
    }
    parts.join(", ")
}

fn delivery(outbound: &Outbound) -> String {
    let protection = outbound.protection();
    let mut level = match &protection.level {
        TlsLevel::Opportunistic => "TLS if offered".into(),
        TlsLevel::Encrypt => "TLS".into(),
        TlsLevel::Verify => "TLS with a trusted certificate".into(),
        TlsLevel::Name(names) => {
            format!(
                "TLS with a trusted certificate for {}",
                some_of(names.iter(), names.len())
            )
        }
    };
    match protection.dane {
        Dane::Opportunistic => {}
        Dane::Mandatory => level.push_str(" and DANE"),
        Dane::None => level.push_str(", without DANE"),
    }
    if protection.mta_sts == MtaSts::None {
        level.push_str(", without MTA-STS");
    }
    match &outbound.route() {
        Route::Mx => format!("{level}, by MX"),
        Route::SmartHosts(hosts) => format!("{level}, by {}", some_of(hosts.iter(), hosts.len())),
    }
}
