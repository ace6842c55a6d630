//! Problems that show only when connectors are seen together, or as a whole.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::decide::OPPORTUNISTIC;
use crate::document::ConnectorSpans;
use crate::facts::Facts;
use crate::hash::hash;
use crate::json::{Node, Span};
use crate::names::{Pattern, PatternSet};
use crate::problems::{Path, Problems};
use crate::rules::{Connector, Kind, Rules};
use crate::{Certificate, Context, Dane, Direction, IpAddress, Mode, Policy, Tls, Trust};

/// Notes errors of the connectors together: after these a policy can be made of them.
pub fn errors(rules: &Rules, spans: &[ConnectorSpans], problems: &mut Problems) {
    duplicate_names(rules, spans, problems);
    let duplicates = duplicate_selections(rules, spans, problems);
    duplicate_claims(rules, &duplicates, spans, problems);
}

fn duplicate_names(rules: &Rules, spans: &[ConnectorSpans], problems: &mut Problems) {
    let names = (0..).zip(
        rules
            .connectors()
            .map(|connector| connector.name.as_bytes()),
    );
    for (index, other) in repeated(names.map(|(index, name)| (name, 0, index))) {
        let list = Path::Root.field("connectors");
        let path = list.element(index);
        let name = rules
            .connector(index)
            .map_or("", |connector| connector.name);
        let message = format!("the name \"{name}\" is taken by connectors[{other}]");
        let span = spans.get(index).map_or(Span::default(), |spans| spans.name);
        problems.error("duplicate-name", path.field("name"), span, message, None);
    }
}

/// Notes connectors for the same mail, and gives their numbers.
fn duplicate_selections(
    rules: &Rules,
    spans: &[ConnectorSpans],
    problems: &mut Problems,
) -> Vec<usize> {
    let considered = considered(rules);
    let found = repeated(
        considered
            .map(|(index, connector)| (connector.selection, connector.direction() as u8, index)),
    );
    for (index, other) in &found {
        let (Some(connector), Some(other)) = (rules.connector(*index), rules.connector(*other))
        else {
            continue;
        };
        let list = Path::Root.field("connectors");
        let message = format!(
            "\"{}\" and \"{}\" are for the same mail",
            connector.name, other.name
        );
        let hint = "put both sets of requirements into one connector, or disable one".into();
        let span = spans
            .get(*index)
            .map_or(Span::default(), |spans| spans.whole);
        problems.error(
            "duplicate-connector",
            list.element(*index),
            span,
            message,
            Some(hint),
        );
    }
    found.into_iter().map(|(index, _)| index).collect()
}

/// Notes domains that several outbound connectors claim.
fn duplicate_claims(
    rules: &Rules,
    duplicates: &[usize],
    spans: &[ConnectorSpans],
    problems: &mut Problems,
) {
    let outbound = considered(rules).filter(|(index, connector)| {
        connector.direction() == Direction::Outbound && duplicates.binary_search(index).is_err()
    });
    let claims: Vec<(usize, Pattern<&str>)> = outbound
        .flat_map(|(index, connector)| {
            let patterns = connector.selectors.recipient_domains.iter();
            patterns.map(move |pattern| (index, pattern))
        })
        .collect();
    let keys = claims.iter().enumerate().map(|(number, (_, pattern))| {
        let kind = match pattern {
            Pattern::Any => 0,
            Pattern::Exact(_) => 1,
            Pattern::Subtree(_) => 2,
        };
        (pattern.name().as_bytes(), kind, number)
    });
    for (claim, earlier) in repeated(keys) {
        let (index, pattern) = claims[claim];
        let other = rules
            .connector(claims[earlier].0)
            .map_or("", |connector| connector.name);
        let message = format!("\"{pattern}\" is claimed by \"{other}\" already");
        let hint = "mail to a domain can go only one way".into();
        let whole = spans
            .get(index)
            .map_or(Span::default(), |spans| spans.selectors);
        let span = entry_span(problems.document(), whole, &pattern);
        let list = Path::Root.field("connectors");
        let path = list.element(index);
        let to = path.field("to");
        let path = to.field("recipient-domains");
        problems.error("duplicate-outbound-domain", path, span, message, Some(hint));
    }
}

/// The connectors that are switched on; empty selectors are an error by themselves.
fn considered(rules: &Rules) -> impl Iterator<Item = (usize, Connector<'_>)> {
    rules.connectors().enumerate().filter(|(_, connector)| {
        connector.mode != Mode::Disabled && !connector.selectors.is_empty()
    })
}

/// The numbers of keys that stood there before, each with the number of the last one that was the
/// same, in the order of the numbers.
fn repeated<'a>(keys: impl Iterator<Item = (&'a [u8], u8, usize)>) -> Vec<(usize, usize)> {
    // Sorted by hash first: bytes are only compared where hashes are the same.
    let mut sorted: Vec<(u32, &[u8], u8, usize)> = keys
        .map(|(key, kind, number)| (hash(key), key, kind, number))
        .collect();
    sorted.sort_unstable();
    let mut found: Vec<(usize, usize)> = sorted
        .windows(2)
        .filter_map(|pair| {
            let [(_, key, kind, earlier), (_, other, other_kind, number)] = pair else {
                return None;
            };
            (key == other && kind == other_kind).then_some((*number, *earlier))
        })
        .collect();
    found.sort_unstable();
    found
}

/// Notes warnings about rules without errors.
pub fn warnings(policy: &Policy, spans: &[ConnectorSpans], problems: &mut Problems) {
    for (index, (connector, spans)) in policy.rules.connectors().zip(spans).enumerate() {
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
        if excepts_all(&connector) {
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
                if let Some(other) = lowers(policy, &connector) {
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
        if never_matches(policy, &connector) {
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
            for pattern in own_domains(policy, &connector) {
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
        if let Some(other) = unsatisfiable_with(policy, &connector) {
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

/// Where a pattern stands in the lists of some selectors; the selectors themselves if it cannot be
/// found.
fn entry_span(document: &str, selectors: Span, pattern: &Pattern<&str>) -> Span {
    let lists = Node::at(document, selectors).members().unwrap_or_default();
    lists
        .iter()
        .filter(|member| member.key.ends_with("-domains"))
        .flat_map(|member| member.value.elements().unwrap_or_default())
        .find(|node| {
            let text = node.string().unwrap_or_default();
            Pattern::parse(&text).is_ok_and(|parsed| parsed.as_ref() == *pattern)
        })
        .map_or(selectors, |node| node.span())
}

/// Whether everything that the connector is for is excepted: each list of `except` covers the list
/// of its kind.
fn excepts_all(connector: &Connector) -> bool {
    let (from, except) = (&connector.selectors, &connector.except);
    let names = |except: PatternSet, from: PatternSet| {
        except.is_empty() || except.has_any() || !from.is_empty() && except.covers(from)
    };
    let ips = except.sender_ips.is_empty()
        || !from.sender_ips.is_empty()
            && from
                .sender_ips
                .iter()
                .all(|inner| except.sender_ips.iter().any(|outer| outer.covers(&inner)));
    !except.is_empty()
        && names(except.sender_domains, from.sender_domains)
        && names(except.certificate_names, from.certificate_names)
        && names(except.recipient_domains, from.recipient_domains)
        && ips
}

fn never_matches(policy: &Policy, connector: &Connector) -> bool {
    let accepted = policy.rules.accepted_domains();
    let recipients = &connector.selectors.recipient_domains;
    let shares = |pattern: Pattern<&str>| {
        accepted.specificity(Some(pattern.name())) > 0
            || accepted
                .iter()
                .any(|accepted| pattern.specificity(Some(accepted.name())) > 0)
    };
    !accepted.is_empty() && !recipients.is_empty() && !recipients.iter().any(shares)
}

/// The sender domains of the connector that are the organization's own.
fn own_domains<'a>(
    policy: &'a Policy,
    connector: &Connector<'a>,
) -> impl Iterator<Item = Pattern<&'a str>> + 'a {
    let accepted = policy.rules.accepted_domains();
    let own = move |pattern: &Pattern<&str>| accepted.specificity(Some(pattern.name())) > 0;
    let patterns = connector.selectors.sender_domains.iter();
    patterns
        .filter(|pattern| *pattern != Pattern::Any)
        .filter(own)
}

/// An enforced connector that this one overlaps and whose source addresses are all others. Shown by
/// a witness: a message that this connector is for, made up from its own selectors, is decided on,
/// and whoever else matches it is compared. So what decides is what warns.
fn unsatisfiable_with(policy: &Policy, connector: &Connector) -> Option<String> {
    let Kind::Inbound(inbound) = &connector.kind else {
        return None;
    };
    let sources = &inbound.require.source_ips;
    if sources.is_empty() || connector.mode != Mode::Enforce {
        return None;
    }
    let context = witness(connector);
    let facts = Facts::new(&context, policy.rules.reads_header_from());
    let matching = policy.matching(&facts);
    matching
        .iter()
        .any(|matched| matched.connector.at == connector.at)
        .then_some(())?;
    matching
        .iter()
        .filter(|matched| matched.connector.mode == Mode::Enforce)
        .find(|matched| {
            let others = &matched.inbound.require.source_ips;
            !others.is_empty()
                && !others
                    .iter()
                    .any(|other| sources.iter().any(|own| own.overlaps(&other)))
        })
        .map(|matched| String::from(matched.connector.name))
}

/// The enforced connector that would decide about this one's mail if this one, in audit mode, did
/// not stand in front of it.
fn lowers(policy: &Policy, connector: &Connector) -> Option<String> {
    if connector.mode != Mode::Audit {
        return None;
    }
    let mut context = witness(connector);
    context.direction = Direction::Outbound;
    let facts = Facts::new(&context, false);
    let claims = policy.claims(&facts).into_iter();
    let behind = claims.filter(|(_, other, outbound)| {
        let asked = outbound.protection();
        other.mode == Mode::Enforce
            && (asked.level != OPPORTUNISTIC.level || asked.dane == Dane::Mandatory)
    });
    behind
        .max_by_key(|(rank, ..)| *rank)
        .map(|(_, other, _)| other.name.into())
}

/// A message that the connector's selectors match, unless its own `except` stands against it.
fn witness(connector: &Connector) -> Context {
    let address = |set: PatternSet| {
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
        mail_from: address(selectors.sender_domains),
        rcpt_to: address(selectors.recipient_domains),
        header_from: None,
        attributes: Vec::new(),
    }
}
