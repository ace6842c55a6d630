//! Problems that show only when connectors are seen together, or as a whole.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::connector::{Connector, Inbound, Kind};
use crate::decide::{Match, OPPORTUNISTIC, Rank};
use crate::document::ConnectorSpans;
use crate::facts::Facts;
use crate::hash::hash;
use crate::ip::{Prefix, PrefixSet};
use crate::json::{Node, Span};
use crate::names::{Pattern, PatternSet};
use crate::pack::At;
use crate::problems::{Path, Problems};
use crate::rules::Rules;
use crate::witness::{Witness, witness, witnesses};
use crate::{Context, Dane, Direction, Mode, Policy};

/// Ranges of one connector that are compared with wider connectors.
const MAX_RANGES: usize = 16;

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
            .map(|(index, connector)| (connector.selection, kind_and_mode(&connector), index)),
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

/// Connectors of one direction and mode must not be for the same mail. One in audit mode may stand beside an enforced
/// one: so the next, stricter step is tried.
fn kind_and_mode(connector: &Connector) -> u8 {
    2 * connector.direction() as u8 + u8::from(connector.mode == Mode::Audit)
}

/// Notes domains that several outbound connectors of one mode claim.
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
    let keys = claims.iter().enumerate().map(|(number, (index, pattern))| {
        let kind = match pattern {
            Pattern::Any => 0,
            Pattern::Exact(_) => 1,
            Pattern::Subtree(_) => 2,
        };
        let is_audit = rules
            .connector(*index)
            .is_some_and(|it| it.mode == Mode::Audit);
        (
            pattern.name().as_bytes(),
            2 * kind + u8::from(is_audit),
            number,
        )
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
    let mut overlaps = BTreeSet::new();
    for (index, (connector, spans)) in policy.rules.connectors().zip(spans).enumerate() {
        if connector.mode == Mode::Disabled {
            continue;
        }
        let mut warnings = Warnings {
            policy,
            connector,
            index,
            spans,
            problems,
            overlaps: &mut overlaps,
        };
        warnings.excepts_all();
        match connector.kind {
            Kind::Outbound(_) => warnings.lowers_level(),
            Kind::Inbound(inbound) => {
                warnings.requires_nothing(&inbound);
                warnings.never_matches();
                warnings.leaves_own_domain_open(&inbound);
                if !warnings.is_unsatisfiable() {
                    warnings.is_refused_by_wider();
                }
            }
        }
    }
}

/// The warnings about one connector.
struct Warnings<'a, 'p, 'd> {
    policy: &'a Policy,
    connector: Connector<'a>,
    index: usize,
    spans: &'a ConnectorSpans,
    problems: &'p mut Problems<'d>,
    /// Pairs that nothing can satisfy, the first in the document first.
    overlaps: &'p mut BTreeSet<(At, At)>,
}

impl Warnings<'_, '_, '_> {
    fn warn(
        &mut self,
        code: &'static str,
        field: Option<&str>,
        span: Span,
        message: String,
        hint: &str,
    ) {
        let list = Path::Root.field("connectors");
        let path = list.element(self.index);
        let path = field.map_or(path, |field| path.field(field));
        self.problems
            .warning(code, path, span, message, Some(hint.into()));
    }

    fn excepts_all(&mut self) {
        if excepts_all(&self.connector) {
            let name = self.connector.name;
            let message = format!("\"{name}\" excepts all that it is for, so it does nothing");
            let hint = "narrow \"except\", or disable the connector";
            self.warn(
                "except-covers-all",
                Some("except"),
                self.spans.except,
                message,
                hint,
            );
        }
    }

    fn lowers_level(&mut self) {
        if let Some(other) = lowers(self.policy, &self.connector) {
            let message = format!(
                "while \"{}\" is in audit mode, its mail is not protected as \"{other}\" would protect it",
                self.connector.name
            );
            let hint = "the most specific connector decides, and in audit mode it delivers opportunistically";
            self.warn("audit-lowers-level", None, self.spans.name, message, hint);
        }
    }

    fn requires_nothing(&mut self, inbound: &Inbound) {
        if inbound.require.is_empty() {
            let name = self.connector.name;
            let message = format!("\"{name}\" requires nothing, so it refuses nothing");
            let hint = "add \"require\"; a connector never lets pass what another one refuses";
            self.warn("requires-nothing", None, self.spans.name, message, hint);
        }
    }

    fn never_matches(&mut self) {
        if never_matches(self.policy, &self.connector) {
            let message = format!(
                "\"{}\" can never match: none of its recipient domains is one of \"accepted-domains\"",
                self.connector.name
            );
            let hint = "an inbound connector sees only mail to accepted domains";
            self.warn(
                "never-matches",
                Some("from"),
                self.spans.selectors,
                message,
                hint,
            );
        }
    }

    fn leaves_own_domain_open(&mut self, inbound: &Inbound) {
        if !inbound.require.source_ips.is_empty() || inbound.require.needs_certificate() {
            return;
        }
        let (policy, connector) = (self.policy, self.connector);
        for pattern in own_domains(policy, &connector) {
            let span = entry_span(self.problems.document(), self.spans.selectors, &pattern);
            let list = Path::Root.field("connectors");
            let from = list.element(self.index);
            let from = from.field("from");
            let message = format!(
                "\"{pattern}\" is your own domain, and anybody may still send as it: TLS alone tells nothing about the sender"
            );
            let hint = Some("require \"source-ips\" or \"certificate-names\" too".into());
            self.problems.warning(
                "own-domain-unprotected",
                from.field("sender-domains"),
                span,
                message,
                hint,
            );
        }
    }

    fn is_unsatisfiable(&mut self) -> bool {
        let Some(other) = unsatisfiable_with(self.policy, &self.connector) else {
            return false;
        };
        // Each of two may see the other.
        let (at, other_at) = (self.connector.at, other.at);
        if !self.overlaps.insert((at.min(other_at), at.max(other_at))) {
            return true;
        }
        let message = format!(
            "no message can satisfy both \"{}\" and \"{}\": their \"source-ips\" have no address in common",
            self.connector.name, other.name
        );
        let hint = "widen one of them, or let the wider connector except this mail";
        self.warn(
            "unsatisfiable-overlap",
            None,
            self.spans.name,
            message,
            hint,
        );
        true
    }

    fn is_refused_by_wider(&mut self) {
        if let Some(other) = refused_by_wider(self.policy, &self.connector) {
            let message = format!(
                "mail that \"{}\" lets pass is refused by the wider \"{other}\", whose \"source-ips\" it need not come from",
                self.connector.name
            );
            let hint =
                "let the wider connector except this mail, or add the partner's addresses to it";
            self.warn("refused-by-wider", None, self.spans.name, message, hint);
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
fn unsatisfiable_with<'a>(policy: &'a Policy, connector: &Connector) -> Option<Connector<'a>> {
    let Kind::Inbound(inbound) = &connector.kind else {
        return None;
    };
    let sources = &inbound.require.source_ips;
    if sources.is_empty() || connector.mode != Mode::Enforce {
        return None;
    }
    let others = with_same_witness(policy, connector, witness(connector), |matched| {
        let others = &matched.inbound.require.source_ips;
        !others.is_empty()
            && !others
                .iter()
                .any(|other| sources.iter().any(|own| own.overlaps(&other)))
    });
    others.map(|other| other.connector)
}

/// The wider enforced connector that refuses by address what this one lets pass by certificate or by address.
fn refused_by_wider<'a>(policy: &'a Policy, connector: &Connector) -> Option<&'a str> {
    let Kind::Inbound(inbound) = &connector.kind else {
        return None;
    };
    let (selectors, require) = (&connector.selectors, &inbound.require);
    let by_certificate = !selectors.certificate_names.is_empty() || require.needs_certificate();
    // All addresses tell nobody apart.
    let narrow = |ranges: PrefixSet| -> Vec<Prefix> {
        let narrow = ranges.iter().filter(|range| range.len() > 0);
        narrow.take(MAX_RANGES).collect()
    };
    let mut ranges = narrow(selectors.sender_ips);
    if ranges.is_empty() {
        ranges = narrow(require.source_ips);
    }
    if connector.mode != Mode::Enforce || ranges.is_empty() && !by_certificate {
        return None;
    }
    let accepted = policy.rules.accepted_domains();
    let recipients = match selectors.recipient_domains.is_empty() {
        true => accepted,
        false => selectors.recipient_domains,
    };
    let messages = witnesses(connector, &ranges, recipients);
    messages.into_iter().find_map(|Witness { message, range }| {
        let found = with_same_witness(policy, connector, message, |matched| {
            let sources = &matched.inbound.require.source_ips;
            let covers_all = |source: Prefix| match &range {
                Some(range) => source.covers(range),
                None => source.len() == 0,
            };
            // What is for a part of this connector's mail only is meant to go beyond it.
            let from_all = range.is_some() || without_all_addresses(matched.rank)[1] == 0;
            let to = matched.connector.selectors.recipient_domains;
            let to_all = || to.is_empty() || to.covers(recipients);
            from_all && !sources.is_empty() && !sources.iter().any(covers_all) && to_all()
        });
        found
            .filter(|other| other.is_wider)
            .map(|other| other.connector.name)
    })
}

/// How specifically something matched, if a range of all addresses is as wide as no range.
fn without_all_addresses(mut rank: Rank) -> Rank {
    // The specificity of a range is one more than its length.
    if rank[1] == 1 {
        rank[1] = 0;
    }
    rank
}

/// An enforced connector that matches a message which another one is for.
struct Other<'a> {
    connector: Connector<'a>,
    /// Whether it is less specific than that one.
    is_wider: bool,
}

/// Of the enforced connectors that match a message which this one is for, the first that is so.
fn with_same_witness<'a>(
    policy: &'a Policy,
    connector: &Connector,
    context: Context,
    is_so: impl Fn(&Match) -> bool,
) -> Option<Other<'a>> {
    let facts = Facts::new(&context, policy.rules.reads_header_from());
    let matching = policy.matching(&facts);
    let own = matching
        .iter()
        .find(|matched| matched.connector.at == connector.at)?;
    let other = matching
        .iter()
        .filter(|matched| matched.connector.mode == Mode::Enforce)
        .filter(|matched| matched.connector.at != connector.at)
        .find(|matched| is_so(matched))?;
    Some(Other {
        connector: other.connector,
        is_wider: without_all_addresses(other.rank) < without_all_addresses(own.rank),
    })
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
    let claims = policy.claims(&facts);
    let own = claims
        .iter()
        .find(|claim| claim.connector.at == connector.at)?;
    let enforced = claims
        .iter()
        .filter(|claim| claim.connector.mode == Mode::Enforce);
    let deciding = enforced.max_by_key(|claim| claim.rank)?;
    let asked = deciding.outbound.protection();
    let is_asked = asked.level != OPPORTUNISTIC.level || asked.dane == Dane::Mandatory;
    // Beside one for the same mail it only looks on.
    (is_asked && deciding.rank < own.rank).then(|| deciding.connector.name.into())
}
