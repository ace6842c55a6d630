//! Context to verdict.

use alloc::format;
use alloc::vec::Vec;

use crate::connector::{Connector, Inbound, Kind, Outbound, Selectors, Texts};
use crate::facts::{Facts, Identity, Known};
use crate::names::{ANY, PatternSet, Specificity};
use crate::order::sort_by;
use crate::requirement::{Checked, Requirement};
use crate::truth::Truth;
use crate::{
    Acceptance, Context, Dane, Delivery, Direction, Fact, Finding, Mode, MtaSts, Policy,
    Protection, Refusal, Route, TlsLevel, Verdict,
};

/// What a deferral is called where a verdict depends on an unknown fact.
pub const FACT_UNAVAILABLE: &str = "fact-unavailable";

/// How specifically a connector matched: by certificate, client address, sender, recipient, in this
/// order.
pub type Rank = [Specificity; 4];

/// How specifically a connector matched, and whether it did for certain.
pub type Matched = (Truth, Rank);

impl Selectors<'_> {
    /// Whether the selectors match mail that is sent as `sender`, and how specifically. Certificates count whose chain
    /// ends at one of `authorities`.
    pub fn matched(&self, facts: &Facts, sender: Identity, authorities: Texts) -> Matched {
        const NO: Matched = (Truth::No, [0; 4]);
        let (from, by_sender) = domain_matched(self.sender_domains, sender);
        if from == Truth::No {
            return NO;
        }
        let recipient = Identity::Domain(facts.recipient.as_deref());
        let (to, by_recipient) = domain_matched(self.recipient_domains, recipient);
        if to == Truth::No {
            return NO;
        }
        let (address, by_address) = self.address_matched(facts);
        if address == Truth::No {
            return NO;
        }
        let (certificate, by_certificate) = self.certificate_matched(facts, authorities);
        (
            certificate.and(address).and(from).and(to),
            [by_certificate, by_address, by_sender, by_recipient],
        )
    }

    /// A list that is not given lets everything through.
    fn certificate_matched(&self, facts: &Facts, authorities: Texts) -> (Truth, Specificity) {
        if self.certificate_names.is_empty() {
            return (Truth::Yes, 0);
        }
        let names = facts.certificate_names().iter();
        let closest = names
            .map(|name| self.certificate_names.certificate_specificity(name))
            .max()
            .unwrap_or(0);
        let has_name = facts.has_name(|_| closest > 0);
        let is_trusted = facts.is_trusted().and(facts.is_anchored(authorities));
        (has_name.and(is_trusted), closest)
    }

    fn address_matched(&self, facts: &Facts) -> (Truth, Specificity) {
        if self.sender_ips.is_empty() {
            return (Truth::Yes, 0);
        }
        let specificity = match facts.client_ip {
            Known::Is(ip) => self.sender_ips.specificity(ip),
            Known::Absent | Known::Unknown => 0,
        };
        let matched = facts.client_ip.satisfies(|_| (specificity > 0).into());
        (matched, specificity)
    }
}

fn domain_matched(set: PatternSet, domain: Identity) -> (Truth, Specificity) {
    if set.is_empty() {
        return (Truth::Yes, 0);
    }
    match domain {
        Identity::Unknown if set.has_any() => (Truth::Yes, ANY),
        Identity::Unknown => (Truth::Unknown, 0),
        Identity::Domain(domain) => {
            let specificity = set.specificity(domain);
            ((specificity > 0).into(), specificity)
        }
    }
}

impl<'a> Connector<'a> {
    /// Whether an inbound connector matches, and how specifically. Each sender identity is judged by itself, so that
    /// an exempted envelope does not exempt a header that is not.
    pub fn inbound_matched(&self, inbound: &Inbound, facts: &Facts) -> Matched {
        let identities = if inbound.match_header_from {
            usize::MAX
        } else {
            1
        };
        let authorities = inbound.require.authorities;
        let each = facts.identities().take(identities).map(|sender| {
            let (matched, rank) = self.selectors.matched(facts, sender, authorities);
            (
                matched.and(!self.is_excepted(facts, sender, authorities)),
                rank,
            )
        });
        // The most certain counts, and of several the most specific.
        each.max().unwrap_or((Truth::No, Rank::default()))
    }

    fn is_excepted(&self, facts: &Facts, sender: Identity, authorities: Texts) -> Truth {
        match self.except.is_empty() {
            true => Truth::No,
            false => self.except.matched(facts, sender, authorities).0,
        }
    }

    /// How specifically an outbound connector matches; `None` if it does not. A recipient is always known.
    pub fn outbound_rank(&self, facts: &Facts) -> Option<Rank> {
        let nobody = Identity::Domain(None);
        if self.is_excepted(facts, nobody, Texts::default()) == Truth::Yes {
            return None;
        }
        let (matched, rank) = self.selectors.matched(facts, nobody, Texts::default());
        (matched == Truth::Yes).then_some(rank)
    }

    /// How an outbound connector delivers when it enforces.
    pub fn delivery(&self, outbound: &Outbound) -> Delivery {
        Delivery {
            connector: Some(self.name.into()),
            route: outbound.route(),
            tls: outbound.protection(),
            audit_tls: None,
            audit_connector: None,
            audit: Vec::new(),
        }
    }
}

/// The protection if no connector asks for more.
pub const OPPORTUNISTIC: Protection = Protection {
    level: TlsLevel::Opportunistic,
    min_version: None,
    fingerprints: Vec::new(),
    keys: Vec::new(),
    authorities: Vec::new(),
    dane: Dane::Opportunistic,
    mta_sts: MtaSts::Opportunistic,
};

/// An inbound connector that matches, or may match.
pub struct Match<'a> {
    /// Whether it matches for certain.
    pub certain: bool,
    /// How specifically.
    pub rank: Rank,
    /// The connector.
    pub connector: Connector<'a>,
    /// Its inbound part.
    pub inbound: Inbound<'a>,
}

/// What a connector would do with a message.
enum Effect {
    /// Nothing: it is satisfied, or does not match.
    Pass,
    /// It refuses.
    Refuse(Requirement),
    /// It may refuse: a fact is unknown.
    Undecided,
}

impl Match<'_> {
    fn effect(&self, facts: &Facts) -> Effect {
        match Requirement::check(&self.inbound.require, facts) {
            Checked::Satisfied => Effect::Pass,
            Checked::Failed(requirement) if self.certain => Effect::Refuse(requirement),
            Checked::Failed(_) | Checked::Undecided(_) => Effect::Undecided,
        }
    }

    /// The fact that is unknown where the effect is not decided.
    fn unknown_fact(&self, facts: &Facts) -> Fact {
        if !self.certain {
            return self.unknown_selector(facts);
        }
        match Requirement::check(&self.inbound.require, facts) {
            Checked::Undecided(requirement) => match requirement.fact() {
                Fact::ClientIp => Fact::ClientIp,
                asked => facts.unknown_of_certificate(asked),
            },
            Checked::Satisfied | Checked::Failed(_) => Fact::Tls,
        }
    }

    fn unknown_selector(&self, facts: &Facts) -> Fact {
        let authorities = self.inbound.require.authorities;
        let lists = [&self.connector.selectors, &self.connector.except];
        let by_address = lists.iter().any(|list| !list.sender_ips.is_empty());
        if by_address && facts.client_ip == Known::Unknown {
            return Fact::ClientIp;
        }
        let by_certificate = lists.iter().any(|list| !list.certificate_names.is_empty());
        if by_certificate {
            let asked = [
                (Fact::CertificateTrust, facts.is_trusted()),
                (Fact::CertificateAnchors, facts.is_anchored(authorities)),
                (Fact::CertificateNames, facts.has_name(|_| false)),
            ];
            let unknown = asked
                .iter()
                .find(|(_, truth)| *truth == Truth::Unknown)
                .map(|(fact, _)| facts.unknown_of_certificate(*fact));
            if let Some(fact) = unknown {
                return fact;
            }
        }
        Fact::HeaderFrom
    }
}

impl Policy {
    pub(crate) fn decide(&self, context: &Context) -> Verdict {
        let facts = Facts::new(context, self.rules.reads_header_from());
        match context.direction {
            Direction::Inbound => self.decide_inbound(&facts),
            Direction::Outbound => self.decide_outbound(&facts),
        }
    }

    /// The enabled inbound connectors that match or may match, the most specific first.
    pub(crate) fn matching(&self, facts: &Facts) -> Vec<Match<'_>> {
        let candidates = self.rules.inbound(facts);
        let mut matching: Vec<Match> = candidates
            .filter_map(|connector| {
                let Kind::Inbound(inbound) = connector.kind else {
                    return None;
                };
                let (matched, rank) = connector.inbound_matched(&inbound, facts);
                matched.is_possible().then_some(Match {
                    certain: matched == Truth::Yes,
                    rank,
                    connector,
                    inbound,
                })
            })
            .collect();
        sort_by(&mut matching, |a, b| {
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
        let mut refused_by: Option<(&Match, Requirement)> = None;
        let mut undecided: Option<&Match> = None;
        let matching = self.matching(facts);
        for matched in &matching {
            let is_enforced = matched.connector.mode == Mode::Enforce;
            let failed = match matched.effect(facts) {
                Effect::Pass => {
                    if is_enforced && matched.certain {
                        acceptance.connectors.push(matched.connector.name.into());
                    }
                    continue;
                }
                Effect::Refuse(requirement) if is_enforced => {
                    refused_by.get_or_insert((matched, requirement));
                    continue;
                }
                Effect::Undecided if is_enforced => {
                    undecided.get_or_insert(matched);
                    continue;
                }
                Effect::Refuse(requirement) => requirement.name(),
                Effect::Undecided => FACT_UNAVAILABLE,
            };
            acceptance.audit.push(Finding {
                connector: matched.connector.name.into(),
                failed: failed.into(),
            });
        }
        match (refused_by, undecided) {
            (Some((matched, requirement)), _) => {
                Verdict::Reject(refusal(matched, requirement, facts, acceptance.audit))
            }
            (None, Some(matched)) => Verdict::Defer(deferral(matched, facts, acceptance.audit)),
            (None, None) => Verdict::Accept(acceptance),
        }
    }

    fn decide_outbound(&self, facts: &Facts) -> Verdict {
        let claims = self.claims(facts);
        let most_specific = claims.iter().map(|claim| claim.rank).max();
        let mut closest = claims
            .into_iter()
            .filter(|claim| Some(claim.rank) == most_specific);
        let (first, second) = (closest.next(), closest.next());
        // Of the same mail one may be enforced, and one in audit mode.
        let (enforced, audited) = match (first, second) {
            (None, _) => return Verdict::Deliver(by_mx()),
            (Some(first), second) if first.connector.mode == Mode::Audit => (second, Some(first)),
            (first, second) => (first, second),
        };
        Verdict::Deliver(match (enforced, audited) {
            (Some(enforced), None) => enforced.delivery(),
            (None, Some(audited)) => audited.audited_delivery(),
            (Some(enforced), Some(audited)) => Delivery {
                audit_tls: Some(audited.outbound.protection()),
                audit_connector: Some(audited.connector.name.into()),
                ..enforced.delivery()
            },
            (None, None) => by_mx(),
        })
    }

    /// The enabled outbound connectors that match.
    pub(crate) fn claims<'a>(&'a self, facts: &Facts) -> Vec<Claim<'a>> {
        let found = self.rules.outbound(facts).filter_map(|connector| {
            let Kind::Outbound(outbound) = connector.kind else {
                return None;
            };
            Some(Claim {
                rank: connector.outbound_rank(facts)?,
                connector,
                outbound,
            })
        });
        found.collect()
    }
}

/// An outbound connector that matches.
pub struct Claim<'a> {
    /// How specifically.
    pub rank: Rank,
    /// The connector.
    pub connector: Connector<'a>,
    /// Its outbound part.
    pub outbound: Outbound<'a>,
}

impl Claim<'_> {
    fn delivery(&self) -> Delivery {
        self.connector.delivery(&self.outbound)
    }

    /// In audit mode alone: the mail goes its way, and nothing more is asked for than without the connector.
    fn audited_delivery(&self) -> Delivery {
        let mut delivery = self.delivery();
        let dane = match delivery.tls.dane {
            Dane::Mandatory => Dane::Opportunistic,
            asked => asked,
        };
        let tls = Protection {
            dane,
            mta_sts: delivery.tls.mta_sts,
            ..OPPORTUNISTIC
        };
        delivery.audit_tls = Some(core::mem::replace(&mut delivery.tls, tls));
        delivery
    }
}

fn by_mx() -> Delivery {
    Delivery {
        connector: None,
        route: Route::Mx,
        tls: OPPORTUNISTIC,
        audit_tls: None,
        audit_connector: None,
        audit: Vec::new(),
    }
}

/// The refusal names the connector and the requirement, whatever text the rules add.
fn refusal(
    matched: &Match,
    requirement: Requirement,
    facts: &Facts,
    audit: Vec<Finding>,
) -> Refusal {
    let reply = matched.inbound.reply;
    let mut text = format!(
        "refused by connector \"{}\" ({}): {}",
        matched.connector.name,
        requirement.name(),
        requirement.message(&matched.inbound.require, facts)
    );
    if !reply.text.is_empty() {
        text.push_str("; ");
        text.push_str(reply.text);
    }
    Refusal {
        connector: Some(matched.connector.name.into()),
        failed: requirement.name().into(),
        code: reply.code,
        enhanced: reply.enhanced.into(),
        text,
        audit,
    }
}

/// The sender is not at fault, so the mail is not refused permanently.
fn deferral(matched: &Match, facts: &Facts, audit: Vec<Finding>) -> Refusal {
    Refusal {
        connector: Some(matched.connector.name.into()),
        failed: FACT_UNAVAILABLE.into(),
        code: 451,
        enhanced: "4.7.0".into(),
        text: format!(
            "connector \"{}\" cannot be checked ({FACT_UNAVAILABLE}): {} is not known here",
            matched.connector.name,
            in_words(matched.unknown_fact(facts))
        ),
        audit,
    }
}

fn in_words(fact: Fact) -> &'static str {
    match fact {
        Fact::ClientIp => "the client's address",
        Fact::MailFrom => "the sender",
        Fact::RcptTo => "the recipient",
        Fact::HeaderFrom => "the From header",
        Fact::Tls => "whether the session is encrypted",
        Fact::TlsVersion => "the TLS version",
        Fact::Certificate => "whether the client has shown a certificate",
        Fact::CertificateNames => "what names the client certificate has",
        Fact::CertificateSha256 => "the fingerprint of the client certificate",
        Fact::CertificateKey => "the public key of the client certificate",
        Fact::CertificateTrust => "whether the client certificate is trusted",
        Fact::CertificateAnchors => "which authority has issued the client certificate",
    }
}
