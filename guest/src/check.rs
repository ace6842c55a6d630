//! Problems that show only when connectors are seen together, or as a whole.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use crate::decide::OPPORTUNISTIC;
use crate::document::{ConnectorSpans, Document};
use crate::facts::Facts;
use crate::json::{Node, Span};
use crate::names::{Pattern, PatternSet};
use crate::problems::{Path, Problems};
use crate::rules::{Connector, Kind, Selectors};
use crate::{Certificate, Context, Dane, Direction, IpAddress, Mode, Policy, Tls, Trust};

/// Notes errors of the connectors together: after these a policy can be made of them.
pub fn errors(document: &Document, problems: &mut Problems) {
    let mut names = BTreeMap::new();
    let mut selectors = BTreeMap::new();
    let mut claims = BTreeMap::new();
    let connectors = document.rules.connectors.iter().zip(&document.spans);
    for (index, (connector, spans)) in connectors.enumerate() {
        let list = Path::Root.field("connectors");
        let path = list.element(index);
        if let Some(line) = names.insert(&*connector.name, index) {
            let message = format!(
                "the name \"{}\" is taken by connectors[{line}]",
                connector.name
            );
            problems.error(
                "duplicate-name",
                path.field("name"),
                spans.name,
                message,
                None,
            );
        }
        // Empty selectors are an error by themselves.
        if connector.mode == Mode::Disabled || connector.selectors.is_empty() {
            continue;
        }
        let key = (
            connector.direction() as u8,
            key(&connector.selectors),
            key(&connector.except),
        );
        if let Some(other) = selectors.insert(key, index) {
            let other = &document.rules.connectors[other].name;
            let message = format!(
                "\"{}\" and \"{other}\" are for the same mail",
                connector.name
            );
            let hint = "put both sets of requirements into one connector, or disable one".into();
            problems.error(
                "duplicate-connector",
                path,
                spans.whole,
                message,
                Some(hint),
            );
        } else if let Kind::Outbound(_) = connector.kind {
            for pattern in connector.selectors.recipient_domains.iter() {
                if let Some(other) = claims.insert(pattern.clone(), index) {
                    let other = &document.rules.connectors[other].name;
                    let message = format!("\"{pattern}\" is claimed by \"{other}\" already");
                    let hint = "mail to a domain can go only one way".into();
                    let span = entry_span(problems.document(), spans.selectors, &pattern);
                    let to = path.field("to");
                    let path = to.field("recipient-domains");
                    problems.error("duplicate-outbound-domain", path, span, message, Some(hint));
                }
            }
        }
    }
}

/// Notes warnings about rules without errors.
pub fn warnings(policy: &Policy, spans: &[ConnectorSpans], problems: &mut Problems) {
    for (index, (connector, spans)) in policy.rules.connectors.iter().zip(spans).enumerate() {
        if connector.mode == Mode::Disabled {
            continue;
        }
        let list = Path::Root.field("connectors");
        let mut warn = |code, field: Option<&str>, span, message, hint: &str| {
            let path = list.element(index);
            let path = field.map_or(path, |field| path.field(field));
            problems.warning(code, path, span, message, Some(hint.into()));
        };
        let name = &connector.name;
        if excepts_all(connector) {
            let message = format!("\"{name}\" excepts all that it is for, so it does nothing");
            warn(
                "except-covers-all",
                Some("except"),
                spans.except,
                message,
                "narrow \"except\", or disable the connector",
            );
        }
        let inbound = match &connector.kind {
            Kind::Inbound(inbound) => inbound,
            Kind::Outbound(_) => {
                if let Some(other) = lowers(policy, connector) {
                    let message = format!(
                        "while \"{name}\" is in audit mode, its mail is not protected as \"{other}\" would protect it"
                    );
                    warn(
                        "audit-lowers-level",
                        None,
                        spans.name,
                        message,
                        "the most specific connector decides, and in audit mode it delivers opportunistically",
                    );
                }
                continue;
            }
        };
        if inbound.require.is_empty() {
            let message = format!("\"{name}\" requires nothing, so it refuses nothing");
            warn(
                "requires-nothing",
                None,
                spans.name,
                message,
                "add \"require\"; a connector never lets pass what another one refuses",
            );
        }
        if never_matches(policy, connector) {
            let message = format!(
                "\"{name}\" can never match: none of its recipient domains is one of \"accepted-domains\""
            );
            warn(
                "never-matches",
                Some("from"),
                spans.selectors,
                message,
                "an inbound connector sees only mail to accepted domains",
            );
        }
        if inbound.require.source_ips.is_empty() && !inbound.require.needs_certificate() {
            for pattern in own_domains(policy, connector) {
                let span = entry_span(problems.document(), spans.selectors, &pattern);
                let from = list.element(index);
                let from = from.field("from");
                let message = format!(
                    "\"{pattern}\" is your own domain, and anybody may still send as it: TLS alone tells nothing about the sender"
                );
                let hint = Some("require \"source-ips\" or \"certificate-names\" too".into());
                problems.warning(
                    "own-domain-unprotected",
                    from.field("sender-domains"),
                    span,
                    message,
                    hint,
                );
            }
        }
        if let Some(other) = unsatisfiable_with(policy, connector) {
            let message = format!(
                "no message can satisfy both \"{name}\" and \"{other}\": their \"source-ips\" have no address in common"
            );
            let hint =
                Some("widen one of them, or let the wider connector except this mail".into());
            problems.warning(
                "unsatisfiable-overlap",
                list.element(index),
                spans.name,
                message,
                hint,
            );
        }
    }
}

/// The selectors in one form, whatever their order in the document.
fn key(selectors: &Selectors) -> [String; 4] {
    fn join<T: Display>(items: impl Iterator<Item = T>) -> String {
        items
            .map(|item| item.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }
    [
        join(selectors.sender_domains.iter()),
        join(selectors.sender_ips.iter()),
        join(selectors.certificate_names.iter()),
        join(selectors.recipient_domains.iter()),
    ]
}

/// Where a pattern stands in the lists of some selectors; the selectors themselves if it cannot be
/// found.
fn entry_span(document: &str, selectors: Span, pattern: &Pattern) -> Span {
    let lists = Node::at(document, selectors).members().unwrap_or_default();
    lists
        .iter()
        .filter(|member| member.key.ends_with("-domains"))
        .flat_map(|member| member.value.elements().unwrap_or_default())
        .find(|node| {
            let text = node.string().unwrap_or_default();
            Pattern::parse(&text).is_ok_and(|parsed| parsed == *pattern)
        })
        .map_or(selectors, |node| node.span())
}

/// Whether everything that the connector is for is excepted: each list of `except` covers the list
/// of its kind.
fn excepts_all(connector: &Connector) -> bool {
    let (from, except) = (&connector.selectors, &connector.except);
    let names = |except: &PatternSet, from: &PatternSet| {
        except.is_empty() || except.has_any() || !from.is_empty() && except.covers(from)
    };
    let ips = except.sender_ips.is_empty()
        || !from.sender_ips.is_empty()
            && from
                .sender_ips
                .iter()
                .all(|inner| except.sender_ips.iter().any(|outer| outer.covers(inner)));
    !except.is_empty()
        && names(&except.sender_domains, &from.sender_domains)
        && names(&except.certificate_names, &from.certificate_names)
        && names(&except.recipient_domains, &from.recipient_domains)
        && ips
}

fn never_matches(policy: &Policy, connector: &Connector) -> bool {
    let accepted = &policy.rules.accepted_domains;
    let recipients = &connector.selectors.recipient_domains;
    let shares = |pattern: &Pattern| {
        let own = core::slice::from_ref(pattern);
        accepted.specificity(Some(pattern.name())) > 0
            || accepted
                .iter()
                .any(|a| PatternSet::of_domains(own).specificity(Some(a.name())) > 0)
    };
    !accepted.is_empty() && !recipients.is_empty() && !recipients.iter().any(|p| shares(&p))
}

/// The sender domains of the connector that are the organization's own.
fn own_domains<'a>(
    policy: &'a Policy,
    connector: &'a Connector,
) -> impl Iterator<Item = Pattern> + 'a {
    let own = |pattern: &Pattern| {
        policy
            .rules
            .accepted_domains
            .specificity(Some(pattern.name()))
            > 0
    };
    let patterns = connector.selectors.sender_domains.iter();
    patterns
        .filter(|pattern| *pattern != Pattern::Any)
        .filter(own)
}

/// An enforced connector that this one overlaps and whose source addresses are all others. Shown by
/// a witness: a message that this connector is for, made up from its own selectors, is decided on,
/// and whoever else matches it is compared. So what decides is what warns.
fn unsatisfiable_with<'a>(policy: &'a Policy, connector: &Connector) -> Option<&'a str> {
    let Kind::Inbound(inbound) = &connector.kind else {
        return None;
    };
    let sources = &inbound.require.source_ips;
    if sources.is_empty() || connector.mode != Mode::Enforce {
        return None;
    }
    let context = witness(connector);
    let facts = Facts::new(&context, policy.index.reads_header_from);
    let matching = policy.matching(&facts);
    matching
        .iter()
        .any(|matched| core::ptr::eq(matched.connector, connector))
        .then_some(())?;
    matching
        .iter()
        .filter(|matched| matched.connector.mode == Mode::Enforce)
        .find(|matched| {
            let others = &matched.inbound.require.source_ips;
            !others.is_empty()
                && !others
                    .iter()
                    .any(|other| sources.iter().any(|own| own.overlaps(other)))
        })
        .map(|matched| matched.connector.name.as_str())
}

/// The enforced connector that would decide about this one's mail if this one, in audit mode, did
/// not stand in front of it.
fn lowers<'a>(policy: &'a Policy, connector: &Connector) -> Option<&'a str> {
    if connector.mode != Mode::Audit {
        return None;
    }
    let mut context = witness(connector);
    context.direction = Direction::Outbound;
    let facts = Facts::new(&context, false);
    let behind = policy.claims(&facts).filter(|(_, other, outbound)| {
        let asked = &outbound.protection;
        other.mode == Mode::Enforce
            && (asked.level != OPPORTUNISTIC.level || asked.dane == Dane::Mandatory)
    });
    behind
        .max_by_key(|(rank, ..)| *rank)
        .map(|(_, other, _)| other.name.as_str())
}

/// A message that the connector's selectors match, unless its own `except` stands against it.
fn witness(connector: &Connector) -> Context {
    let address = |set: &PatternSet| {
        let pattern = set.iter().find(|pattern| *pattern != Pattern::Any);
        pattern.map_or_else(String::new, |pattern| format!("a@{}", pattern.name()))
    };
    let selectors = &connector.selectors;
    let names = selectors
        .certificate_names
        .iter()
        .map(|pattern| pattern.name().into());
    Context {
        direction: Direction::Inbound,
        client_ip: selectors
            .sender_ips
            .iter()
            .next()
            .map(|p| IpAddress::from_ip(p.first())),
        helo: None,
        tls: Some(Tls {
            version: u16::MAX,
            cipher: String::new(),
            certificate: Some(Certificate {
                dns_names: names.collect(),
                subject: String::new(),
                issuer: String::new(),
                sha256: (0, 0, 0, 0),
                not_after: None,
                trust: Trust::Trusted,
            }),
        }),
        mail_from: address(&selectors.sender_domains),
        rcpt_to: address(&selectors.recipient_domains),
        header_from: None,
        attributes: Vec::new(),
    }
}
