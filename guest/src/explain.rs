//! Why a verdict is as it is, and what a policy consists of, in words.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use portcullis_types::Sha256;

use crate::connector::{
    Connector, Digests, Inbound, Kind, Outbound, Requirements, Selectors, Texts,
};
use crate::decide::{Matched, Rank};
use crate::facts::{Facts, Identity, Known, common_name};
use crate::names::PatternSet;
use crate::order::sort_by;
use crate::reads::Reads;
use crate::requirement::{Requirement, version_name};
use crate::text::some_of;
use crate::truth::Truth;
use crate::{
    Certificate, Consideration, Context, Dane, Description, Explanation, HeaderFrom, Host, Mode,
    MtaSts, Outcome, Policy, RequirementOutcome, Route, SelectorOutcome, SmartHost, TlsLevel,
};

/// How many connectors an explanation shows.
const MAX_CONSIDERED: usize = 100;

impl Policy {
    pub(crate) fn explanation(&self, context: &Context) -> Explanation {
        let facts = Facts::new(context, self.rules.reads_header_from());
        let same_direction = self
            .rules
            .connectors()
            .filter(|c| c.direction() == context.direction);
        let mut considered: Vec<(Matched, bool, Consideration)> = Vec::new();
        let mut others = 0;
        for connector in same_direction {
            let (matched, rank) = connector.matched(&facts);
            let selectors = selector_outcomes(&connector, &facts);
            let near = selectors
                .iter()
                .any(|outcome| outcome.matched == Outcome::Yes);
            if considered.len() >= MAX_CONSIDERED && matched == Truth::No && !near {
                others += 1;
                continue;
            }
            let consideration = Consideration {
                connector: connector.name.into(),
                mode: connector.mode,
                matched: match connector.mode {
                    Mode::Disabled => Outcome::No,
                    Mode::Enforce | Mode::Audit => matched.into(),
                },
                requirements: match matched.is_possible() {
                    true => requirement_outcomes(&connector, &facts),
                    false => Vec::new(),
                },
                selectors,
            };
            considered.push(((matched, rank), near, consideration));
        }
        let is_matched = |consideration: &Consideration| match consideration.matched {
            Outcome::Yes => 2,
            Outcome::Unknown => 1,
            Outcome::No => 0,
        };
        sort_by(&mut considered, |(a, a_near, x), (b, b_near, y)| {
            (is_matched(y), b, b_near)
                .cmp(&(is_matched(x), a, a_near))
                .then_with(|| x.connector.cmp(&y.connector))
        });
        others += considered.len().saturating_sub(MAX_CONSIDERED) as u32;
        considered.truncate(MAX_CONSIDERED);
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
            reads: self.rules.reads().facts(),
            authorities: self.rules.authorities(),
            total: self.rules.len() as u32,
            connectors: connectors.map(|connector| describe(&connector)).collect(),
        }
    }
}

impl Connector<'_> {
    fn matched(&self, facts: &Facts) -> Matched {
        match &self.kind {
            Kind::Inbound(inbound) => self.inbound_matched(inbound, facts),
            Kind::Outbound(_) => match self.outbound_rank(facts) {
                Some(rank) => (Truth::Yes, rank),
                None => (Truth::No, Rank::default()),
            },
        }
    }
}

fn selector_outcomes(connector: &Connector, facts: &Facts) -> Vec<SelectorOutcome> {
    let (field, header_from, authorities) = match &connector.kind {
        Kind::Inbound(inbound) => (
            "from",
            inbound.match_header_from,
            inbound.require.authorities,
        ),
        Kind::Outbound(_) => ("to", false, Texts::default()),
    };
    let mut outcomes = Vec::new();
    for (field, selectors) in [(field, &connector.selectors), ("except", &connector.except)] {
        let lists = ListOutcomes {
            facts,
            header_from,
            authorities,
        };
        lists.of(field, selectors, &mut outcomes);
    }
    outcomes
}

/// How the lists of selectors compare with the facts.
struct ListOutcomes<'a> {
    facts: &'a Facts<'a>,
    header_from: bool,
    authorities: Texts<'a>,
}

impl ListOutcomes<'_> {
    fn of(&self, field: &str, selectors: &Selectors, outcomes: &mut Vec<SelectorOutcome>) {
        let facts = self.facts;
        let mut push = |name: &str, tried: Tried, fact: String| {
            outcomes.push(SelectorOutcome {
                selector: format!("{field}.{name}"),
                matched: tried.matched.into(),
                pattern: tried.pattern.unwrap_or(tried.all),
                fact,
            });
        };
        if !selectors.sender_domains.is_empty() {
            let identities = if self.header_from { usize::MAX } else { 1 };
            let identities: Vec<Identity> = facts.identities().take(identities).collect();
            let fact = sender_fact(facts, self.header_from);
            push(
                "sender-domains",
                domains(selectors.sender_domains, &identities),
                fact,
            );
        }
        if !selectors.sender_ips.is_empty() {
            push("sender-ips", self.addresses(selectors), ip_fact(facts));
        }
        if !selectors.certificate_names.is_empty() {
            let fact = certificate_fact(facts);
            push("certificate-names", self.certificates(selectors), fact);
        }
        if !selectors.recipient_domains.is_empty() {
            let recipient = Identity::Domain(facts.recipient.as_deref());
            let tried = domains(selectors.recipient_domains, &[recipient]);
            push("recipient-domains", tried, facts.context.rcpt_to.clone());
        }
    }

    fn addresses(&self, selectors: &Selectors) -> Tried {
        let longest = match self.facts.client_ip {
            Known::Is(ip) => selectors.sender_ips.longest(ip),
            Known::Absent | Known::Unknown => None,
        };
        let ranges = selectors.sender_ips.iter();
        Tried {
            matched: self.facts.client_ip.satisfies(|_| longest.is_some().into()),
            pattern: longest.map(|prefix| prefix.to_string()),
            all: some_of(ranges, selectors.sender_ips.iter().count()),
        }
    }

    fn certificates(&self, selectors: &Selectors) -> Tried {
        let set = selectors.certificate_names;
        let names = || self.facts.certificate_names().iter();
        let fitting = set
            .iter()
            .find(|pattern| names().any(|name| pattern.certificate_specificity(name) > 0));
        let has_name = self.facts.has_name(|_| fitting.is_some());
        let is_trusted = self.facts.is_trusted();
        let matched = has_name
            .and(is_trusted)
            .and(self.facts.is_anchored(self.authorities));
        Tried {
            matched,
            pattern: fitting
                .filter(|_| matched == Truth::Yes)
                .map(|pattern| pattern.to_string()),
            all: some_of(set.iter(), set.len()),
        }
    }
}

fn domains(set: PatternSet, identities: &[Identity]) -> Tried {
    let closeness = |identity: &Identity, pattern: &crate::names::Pattern<&str>| match identity {
        Identity::Domain(domain) => pattern.specificity(*domain),
        Identity::Unknown => 0,
    };
    let closest = set
        .iter()
        .filter_map(|pattern| {
            let closest = identities.iter().map(|it| closeness(it, &pattern)).max()?;
            (closest > 0).then_some((closest, pattern))
        })
        .max_by_key(|(closest, _)| *closest)
        .map(|(_, pattern)| pattern.to_string());
    Tried {
        matched: match &closest {
            Some(_) => Truth::Yes,
            None if identities.contains(&Identity::Unknown) => Truth::Unknown,
            None => Truth::No,
        },
        pattern: closest,
        all: some_of(set.iter(), set.len()),
    }
}

/// What came of a list.
struct Tried {
    matched: Truth,
    /// The pattern that matched.
    pattern: Option<String>,
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
        HeaderFrom::Unknown if header_from => format!("{envelope}; header From: {UNKNOWN}"),
        HeaderFrom::Addresses(addresses) if header_from => {
            format!(
                "{envelope}; header From: {}",
                some_of(addresses.iter(), addresses.len())
            )
        }
        _ => envelope.into(),
    }
}

fn ip_fact(facts: &Facts) -> String {
    match facts.client_ip {
        Known::Is(ip) => ip.to_string(),
        Known::Absent => "not known".into(),
        Known::Unknown => UNKNOWN.into(),
    }
}

/// What stands for a fact that the host cannot tell.
const UNKNOWN: &str = "unknown";

/// Who the certificate identifies.
fn certificate_fact(facts: &Facts) -> String {
    match (facts.tls(), facts.certificate()) {
        (Known::Absent, _) => "the session is not encrypted".into(),
        (_, Known::Absent) => "no certificate".into(),
        (_, Known::Unknown) => UNKNOWN.into(),
        (_, Known::Is(certificate)) => {
            let trust = certificate.trust.map_or(UNKNOWN, |trust| trust.name());
            let anchors = foreign_anchors(certificate);
            format!(
                "{} ({trust}{anchors})",
                names_fact(facts.context, certificate)
            )
        }
    }
}

/// The authorities, where they are others than the ordinary roots.
fn foreign_anchors(certificate: &Certificate) -> String {
    match certificate.anchors.as_deref() {
        Some([anchor]) if anchor == crate::connector::PUBLIC => String::new(),
        Some([]) | None => String::new(),
        Some(anchors) => format!(" by {}", some_of(anchors.iter(), anchors.len())),
    }
}

fn names_fact(context: &crate::Context, certificate: &Certificate) -> String {
    match certificate.dns_names.as_deref() {
        None => match common_name(context) {
            Some(name) => format!("{name}, other names unknown"),
            None => UNKNOWN.into(),
        },
        Some([]) => "a certificate without names".into(),
        Some(names) => some_of(names.iter(), names.len()),
    }
}

fn requirement_outcomes(connector: &Connector, facts: &Facts) -> Vec<RequirementOutcome> {
    let Kind::Inbound(Inbound { require, .. }) = &connector.kind else {
        return Vec::new();
    };
    Requirement::ALL
        .into_iter()
        .filter(|requirement| requirement.is_asked(require))
        // That a chain must end at the ordinary roots goes without saying where it does.
        .filter(|requirement| {
            *requirement != Requirement::CertificateAuthority
                || !require.authorities.is_empty()
                || facts.is_trusted().is_possible()
                    && facts.is_anchored(require.authorities) != Truth::Yes
        })
        .map(|requirement| RequirementOutcome {
            requirement: requirement.name().into(),
            satisfied: requirement.is_satisfied(require, facts).into(),
            expected: expected(requirement, require),
            fact: fact(requirement, facts),
        })
        .collect()
}

fn expected(requirement: Requirement, require: &Requirements) -> String {
    match requirement {
        Requirement::Tls => "an encrypted session".into(),
        Requirement::TlsVersion => format!("at least {}", version_name(require.min_version)),
        Requirement::CertificateMissing => "a client certificate".into(),
        Requirement::CertificateFingerprint => digests(require.fingerprints),
        Requirement::CertificateKey => digests(require.keys),
        Requirement::CertificateUntrusted => "a certificate from a trusted authority".into(),
        Requirement::CertificateAuthority => match require.authorities.is_empty() {
            true => crate::connector::PUBLIC.into(),
            false => some_of(require.authorities.iter(), require.authorities.len()),
        },
        Requirement::CertificateName => some_of(
            require.certificate_names.iter(),
            require.certificate_names.len(),
        ),
        Requirement::SourceIp => {
            some_of(require.source_ips.iter(), require.source_ips.iter().count())
        }
    }
}

fn digests(pins: Digests) -> String {
    some_of(pins.iter().map(Sha256::from), pins.len())
}

fn fact(requirement: Requirement, facts: &Facts) -> String {
    match requirement {
        Requirement::Tls | Requirement::TlsVersion => encryption_fact(facts),
        Requirement::SourceIp => ip_fact(facts),
        _ => match facts.certificate() {
            Known::Absent => "no certificate".into(),
            Known::Unknown => UNKNOWN.into(),
            Known::Is(certificate) => fact_of_certificate(requirement, facts, certificate),
        },
    }
}

fn encryption_fact(facts: &Facts) -> String {
    match facts.tls() {
        Known::Absent => "the session is not encrypted".into(),
        Known::Unknown => UNKNOWN.into(),
        Known::Is(tls) => {
            let version = tls.version.map_or(UNKNOWN, version_name);
            match tls.cipher.is_empty() {
                true => version.into(),
                false => format!("{version} with {}", tls.cipher),
            }
        }
    }
}

fn fact_of_certificate(
    requirement: Requirement,
    facts: &Facts,
    certificate: &Certificate,
) -> String {
    let digest = |digest: Option<crate::connector::Sha256>| {
        digest.map_or_else(|| UNKNOWN.into(), |it| Sha256::from(it).to_string())
    };
    match requirement {
        Requirement::CertificateFingerprint => digest(certificate.sha256),
        Requirement::CertificateKey => digest(certificate.key_sha256),
        Requirement::CertificateUntrusted => certificate
            .trust
            .map_or(UNKNOWN, |trust| trust.name())
            .into(),
        Requirement::CertificateAuthority => match certificate.anchors.as_deref() {
            None => UNKNOWN.into(),
            Some([]) => "none".into(),
            Some(anchors) => some_of(anchors.iter(), anchors.len()),
        },
        Requirement::CertificateName => names_fact(facts.context, certificate),
        _ => certificate.subject.clone(),
    }
}

fn describe(connector: &Connector) -> crate::Connector {
    let (field, requires) = match &connector.kind {
        Kind::Inbound(inbound) => ("from", requires(&inbound.require)),
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
        requires,
        comment: connector.comment.map(String::from),
        selects: patterns(&connector.selectors),
        delivery,
        reads: Reads::of(connector).facts(),
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

fn requires(require: &Requirements) -> String {
    let parts: Vec<String> = Requirement::ALL
        .into_iter()
        .filter(|requirement| requirement.is_asked(require))
        .filter_map(|requirement| {
            Some(match requirement {
                Requirement::Tls => "TLS".into(),
                Requirement::TlsVersion => expected(requirement, require),
                Requirement::CertificateMissing | Requirement::CertificateUntrusted => return None,
                Requirement::CertificateFingerprint => "a pinned certificate".into(),
                Requirement::CertificateKey => "a pinned key".into(),
                Requirement::CertificateAuthority if require.authorities.is_empty() => return None,
                Requirement::CertificateAuthority => {
                    format!("a certificate by {}", expected(requirement, require))
                }
                Requirement::CertificateName => {
                    format!("certificate {}", expected(requirement, require))
                }
                Requirement::SourceIp => format!("source {}", expected(requirement, require)),
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
    if let Some(version) = protection.min_version {
        level.push_str(&format!(", at least {}", version_name(version)));
    }
    if !protection.fingerprints.is_empty() {
        level.push_str(", a pinned certificate");
    }
    if !protection.keys.is_empty() {
        level.push_str(", a pinned key");
    }
    if !protection.authorities.is_empty() {
        let authorities = protection.authorities.iter();
        let names = some_of(authorities, protection.authorities.len());
        level.push_str(&format!(", a certificate by {names}"));
    }
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
        Route::SmartHosts(hosts) => {
            let shown = hosts.iter().map(smart_host);
            format!("{level}, by {}", some_of(shown, hosts.len()))
        }
    }
}

fn smart_host(smart_host: &SmartHost) -> String {
    let host = match &smart_host.host {
        Host::Name(name) => name.clone(),
        Host::Address(address) => format!("[{}]", core::net::IpAddr::from(*address)),
    };
    match smart_host.port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    }
}
