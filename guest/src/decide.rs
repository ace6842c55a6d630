//! Context to verdict.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::document::TLS_VERSIONS;
use crate::facts::Facts;
use crate::names::{PatternSet, Specificity, some_of};
use crate::rules::{Connector, Inbound, Kind, Outbound, Requirements, Selectors};
use crate::{
    Acceptance, Context, Dane, Delivery, Direction, Finding, Mode, MtaSts, Policy, Protection,
    Refusal, Route, TlsLevel, Trust, Verdict,
};

/// How specifically a connector matched: by certificate, client address, sender, recipient, in this
/// order.
pub type Rank = [Specificity; 4];

/// A requirement that a message does not satisfy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The session is not encrypted.
    Tls,
    /// Its version is too low.
    TlsVersion,
    /// The client showed no certificate.
    CertificateMissing,
    /// The certificate is none of those that are pinned.
    CertificateFingerprint,
    /// The certificate's chain is not trusted.
    CertificateUntrusted,
    /// The certificate carries none of the names.
    CertificateName,
    /// The client's address is in none of the ranges.
    SourceIp,
}

impl Failure {
    /// All, in the order in which they are checked.
    pub const ALL: [Failure; 7] = [
        Failure::Tls,
        Failure::TlsVersion,
        Failure::CertificateMissing,
        Failure::CertificateFingerprint,
        Failure::CertificateUntrusted,
        Failure::CertificateName,
        Failure::SourceIp,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Tls => "tls",
            Failure::TlsVersion => "tls-version",
            Failure::CertificateMissing => "certificate-missing",
            Failure::CertificateFingerprint => "certificate-fingerprint",
            Failure::CertificateUntrusted => "certificate-untrusted",
            Failure::CertificateName => "certificate-name",
            Failure::SourceIp => "source-ip",
        }
    }

    /// Whether the requirements ask for this at all.
    pub fn is_guarded(self, require: &Requirements) -> bool {
        match self {
            Failure::Tls => require.needs_tls(),
            Failure::TlsVersion => require.min_version > 0,
            Failure::CertificateMissing => require.needs_certificate(),
            Failure::CertificateFingerprint => require.pins(),
            // A pinned certificate needs no chain.
            Failure::CertificateUntrusted => {
                !require.certificate_names.is_empty() && !require.pins()
            }
            Failure::CertificateName => !require.certificate_names.is_empty(),
            Failure::SourceIp => !require.source_ips.is_empty(),
        }
    }

    /// Whether a message that is asked for this fails it.
    pub fn holds(self, require: &Requirements, facts: &Facts) -> bool {
        let certificate = facts.certificate();
        match self {
            Failure::Tls => facts.tls().is_none(),
            Failure::TlsVersion => facts
                .tls()
                .is_none_or(|tls| tls.version < require.min_version),
            Failure::CertificateMissing => certificate.is_none(),
            Failure::CertificateFingerprint => {
                certificate.is_none_or(|c| !require.fingerprints().any(|pin| pin == c.sha256))
            }
            Failure::CertificateUntrusted => certificate.is_none_or(|c| c.trust != Trust::Trusted),
            Failure::CertificateName => !facts
                .certificate_names()
                .iter()
                .any(|name| require.certificate_names.certificate_specificity(name) > 0),
            Failure::SourceIp => require.source_ips.specificity(facts.client_ip) == 0,
        }
    }

    /// The first requirement that a message fails.
    pub fn first(require: &Requirements, facts: &Facts) -> Option<Failure> {
        Failure::ALL
            .into_iter()
            .find(|failure| failure.is_guarded(require) && failure.holds(require, facts))
    }

    /// What the sender is told.
    fn told(self, require: &Requirements, facts: &Facts) -> String {
        match self {
            Failure::Tls => "the session is not encrypted".into(),
            Failure::TlsVersion => format!(
                "the session is {}, at least {} is required",
                facts
                    .tls()
                    .map_or("not encrypted", |tls| version_name(tls.version)),
                version_name(require.min_version)
            ),
            Failure::CertificateMissing => "no client certificate was shown".into(),
            Failure::CertificateFingerprint => {
                "the client certificate is not one that was agreed on".into()
            }
            Failure::CertificateUntrusted => format!(
                "the client certificate is not trusted: {}",
                facts
                    .certificate()
                    .map_or("missing", |c| trust_name(c.trust))
            ),
            Failure::CertificateName => {
                let (carried, wanted) = (facts.certificate_names(), require.certificate_names);
                format!(
                    "the client certificate carries another name: it is for {}, not for {}",
                    match carried {
                        [] => "no name".into(),
                        carried => some_of(carried.iter(), carried.len()),
                    },
                    some_of(wanted.iter(), wanted.len())
                )
            }
            Failure::SourceIp => match facts.client_ip {
                Some(ip) => format!("{ip} is not an agreed address"),
                None => "the client's address is not known".into(),
            },
        }
    }
}

/// A TLS version's name.
pub fn version_name(version: u16) -> &'static str {
    TLS_VERSIONS
        .iter()
        .find(|(_, number)| *number == version)
        .map_or("an unknown version", |(name, _)| name)
}

/// The JSON form of a chain's outcome.
pub fn trust_name(trust: Trust) -> &'static str {
    match trust {
        Trust::Trusted => "trusted",
        Trust::Expired => "expired",
        Trust::UnknownIssuer => "unknown-issuer",
        Trust::NotYetValid => "not-yet-valid",
        Trust::Revoked => "revoked",
        Trust::Invalid => "invalid",
    }
}

impl Selectors<'_> {
    /// How specifically the selectors match, with `sender` as the sender's domain; `None` if they do
    /// not.
    fn rank(&self, facts: &Facts, sender: Option<&str>) -> Option<Rank> {
        let fits = |given: bool, specificity: Specificity| {
            (!given || specificity > 0).then_some(specificity)
        };
        let domains = |set: PatternSet, domain| {
            let given = !set.is_empty();
            fits(given, if given { set.specificity(domain) } else { 0 })
        };
        Some([
            fits(
                !self.certificate_names.is_empty(),
                self.certificate_rank(facts),
            )?,
            fits(
                !self.sender_ips.is_empty(),
                self.sender_ips.specificity(facts.client_ip),
            )?,
            domains(self.sender_domains, sender)?,
            domains(self.recipient_domains, facts.recipient.as_deref())?,
        ])
    }

    fn certificate_rank(&self, facts: &Facts) -> Specificity {
        if self.certificate_names.is_empty() {
            return 0;
        }
        let names = facts.trusted_names().iter();
        names
            .map(|name| self.certificate_names.certificate_specificity(name))
            .max()
            .unwrap_or(0)
    }
}

impl Connector<'_> {
    /// How specifically an inbound connector matches; `None` if it does not. Each sender identity is
    /// judged by itself, so that an exempted envelope does not exempt a header that is not.
    pub fn inbound_rank(&self, inbound: &Inbound, facts: &Facts) -> Option<Rank> {
        let identities = if inbound.match_header_from {
            usize::MAX
        } else {
            1
        };
        facts
            .identities()
            .take(identities)
            .filter(|sender| !self.is_excepted(facts, *sender))
            .filter_map(|sender| self.selectors.rank(facts, sender))
            .max()
    }

    fn is_excepted(&self, facts: &Facts, sender: Option<&str>) -> bool {
        !self.except.is_empty() && self.except.rank(facts, sender).is_some()
    }

    /// How specifically an outbound connector matches; `None` if it does not.
    pub fn outbound_rank(&self, facts: &Facts) -> Option<Rank> {
        if self.is_excepted(facts, None) {
            return None;
        }
        self.selectors.rank(facts, None)
    }

    /// How an outbound connector delivers when it enforces.
    pub fn delivery(&self, outbound: &Outbound) -> Delivery {
        Delivery {
            connector: Some(self.name.into()),
            route: outbound.route(),
            tls: outbound.protection(),
            audit_tls: None,
            audit: Vec::new(),
        }
    }
}

/// The protection where no connector asks for more.
pub const OPPORTUNISTIC: Protection = Protection {
    level: TlsLevel::Opportunistic,
    dane: Dane::Opportunistic,
    mta_sts: MtaSts::Opportunistic,
};

/// An inbound connector that matches.
pub struct Match<'a> {
    /// How specifically.
    pub rank: Rank,
    /// The connector.
    pub connector: Connector<'a>,
    /// Its inbound part.
    pub inbound: Inbound<'a>,
}

impl Policy {
    pub(crate) fn decide(&self, context: &Context) -> Verdict {
        let facts = Facts::new(context, self.rules.reads_header_from());
        match context.direction {
            Direction::Inbound => self.decide_inbound(&facts),
            Direction::Outbound => self.decide_outbound(&facts),
        }
    }

    /// The enabled inbound connectors that match, the most specific first.
    pub(crate) fn matching(&self, facts: &Facts) -> Vec<Match<'_>> {
        let candidates = self.rules.inbound(facts);
        let mut matching: Vec<Match> = candidates
            .filter_map(|connector| {
                let Kind::Inbound(inbound) = connector.kind else {
                    return None;
                };
                let rank = connector.inbound_rank(&inbound, facts)?;
                Some(Match {
                    rank,
                    connector,
                    inbound,
                })
            })
            .collect();
        matching.sort_unstable_by(|a, b| {
            b.rank
                .cmp(&a.rank)
                .then_with(|| a.connector.name.cmp(b.connector.name))
        });
        matching
    }

    fn decide_inbound(&self, facts: &Facts) -> Verdict {
        let mut acceptance = Acceptance {
            connectors: Vec::new(),
            audit: Vec::new(),
        };
        let mut refused_by: Option<(&Match, Failure)> = None;
        let matching = self.matching(facts);
        for matched in &matching {
            let failure = Failure::first(&matched.inbound.require, facts);
            match (matched.connector.mode, failure) {
                (Mode::Enforce, None) => acceptance.connectors.push(matched.connector.name.into()),
                (Mode::Enforce, Some(failure)) => {
                    refused_by.get_or_insert((matched, failure));
                }
                (_, None) => {}
                (_, Some(failure)) => acceptance.audit.push(Finding {
                    connector: matched.connector.name.into(),
                    failed: failure.name().into(),
                }),
            }
        }
        match refused_by {
            None => Verdict::Accept(acceptance),
            Some((matched, failure)) => {
                Verdict::Reject(refusal(matched, failure, facts, acceptance.audit))
            }
        }
    }

    fn decide_outbound(&self, facts: &Facts) -> Verdict {
        let Some((connector, outbound)) = self.responsible(facts) else {
            return Verdict::Deliver(Delivery {
                connector: None,
                route: Route::Mx,
                tls: OPPORTUNISTIC,
                audit_tls: None,
                audit: Vec::new(),
            });
        };
        let mut delivery = connector.delivery(&outbound);
        if connector.mode == Mode::Audit {
            let dane = match delivery.tls.dane {
                Dane::Mandatory => Dane::Opportunistic,
                asked => asked,
            };
            let tls = Protection {
                level: TlsLevel::Opportunistic,
                dane,
                mta_sts: delivery.tls.mta_sts,
            };
            delivery.audit_tls = Some(core::mem::replace(&mut delivery.tls, tls));
        }
        Verdict::Deliver(delivery)
    }

    /// The most specific enabled outbound connector that the recipient's domain is not excepted from.
    fn responsible<'a>(&'a self, facts: &Facts) -> Option<(Connector<'a>, Outbound<'a>)> {
        let claims = self.claims(facts).into_iter();
        let (_, connector, outbound) = claims.max_by_key(|(rank, ..)| *rank)?;
        Some((connector, outbound))
    }

    /// The enabled outbound connectors that match.
    pub(crate) fn claims<'a>(&'a self, facts: &Facts) -> Vec<(Rank, Connector<'a>, Outbound<'a>)> {
        let found = self.rules.outbound(facts).filter_map(|connector| {
            let Kind::Outbound(outbound) = connector.kind else {
                return None;
            };
            Some((connector.outbound_rank(facts)?, connector, outbound))
        });
        found.collect()
    }
}

/// The refusal names the connector and the requirement, whatever text the rules add.
fn refusal(matched: &Match, failure: Failure, facts: &Facts, audit: Vec<Finding>) -> Refusal {
    let reply = matched.inbound.reply;
    let mut text = format!(
        "refused by connector \"{}\" ({}): {}",
        matched.connector.name,
        failure.name(),
        failure.told(&matched.inbound.require, facts)
    );
    if !reply.text.is_empty() {
        text.push_str("; ");
        text.push_str(reply.text);
    }
    Refusal {
        connector: Some(matched.connector.name.into()),
        failed: failure.name().into(),
        code: reply.code,
        enhanced: reply.enhanced.into(),
        text,
        audit,
    }
}
