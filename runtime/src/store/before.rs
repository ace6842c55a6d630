//! A policy that is asked before the tenant's own.

use portcullis_types::{Explanation, Verdict};

/// Connectors that an explanation has (`wit/policy.wit`).
const MOST_CONSIDERED: usize = 100;

/// Who has decided what is the connector that a verdict names: `operator: Blocked`; `operator` if it names none.
pub fn name_connectors(before: &str, verdict: &mut Verdict) {
    for finding in verdict.audit_mut() {
        finding.connector = name_of(before, &finding.connector);
    }
    if let Verdict::Reject(refusal) | Verdict::Defer(refusal) = verdict {
        refusal.connector = Some(match &refusal.connector {
            Some(connector) => name_of(before, connector),
            None => before.to_owned(),
        });
    }
}

/// The same of an explanation.
pub fn name_considered(before: &str, explanation: &mut Explanation) {
    name_connectors(before, &mut explanation.verdict);
    for consideration in &mut explanation.considered {
        consideration.connector = name_of(before, &consideration.connector);
    }
}

/// Whether the first policy leaves the mail to the one after it.
pub fn passes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Accept(_) | Verdict::Deliver(_))
}

/// The verdict of the second policy, after the first one has passed the mail: what that one has found in audit mode is
/// told too. How it would deliver is not.
pub fn add_findings(verdict: &mut Verdict, first: &mut Verdict) {
    let findings = std::mem::take(first.audit_mut());
    verdict.audit_mut().splice(..0, findings);
}

/// The reasons of both, after the first one has passed the mail: as many as one may give.
pub fn explained(
    before: &str,
    tenant: &str,
    mut first: Explanation,
    mut own: Explanation,
) -> Explanation {
    keep_apart(before, tenant, &mut own.verdict);
    add_findings(&mut own.verdict, &mut first.verdict);
    for consideration in &mut own.considered {
        keep_name_apart(before, tenant, &mut consideration.connector);
    }
    own.considered.splice(..0, first.considered);
    let more = own.considered.len().saturating_sub(MOST_CONSIDERED);
    own.considered.truncate(MOST_CONSIDERED);
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    own.others = own.others.saturating_add(first.others).saturating_add(more);
    own
}

/// The second policy cannot speak in the name of the first: its connectors that are named so get the tenant's name in
/// front.
pub fn keep_apart(before: &str, tenant: &str, verdict: &mut Verdict) {
    let look = |connector: &mut String| keep_name_apart(before, tenant, connector);
    for finding in verdict.audit_mut() {
        look(&mut finding.connector);
    }
    match verdict {
        Verdict::Accept(acceptance) => acceptance.connectors.iter_mut().for_each(look),
        Verdict::Reject(refusal) | Verdict::Defer(refusal) => {
            refusal.connector.iter_mut().for_each(look);
        }
        Verdict::Deliver(delivery) => {
            let named = delivery.connector.iter_mut();
            named.chain(&mut delivery.audit_connector).for_each(look);
        }
    }
}

fn keep_name_apart(before: &str, tenant: &str, connector: &mut String) {
    let rest = connector.strip_prefix(before);
    if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':')) {
        *connector = name_of(tenant, connector);
    }
}

fn name_of(before: &str, connector: &str) -> String {
    format!("{before}: {connector}")
}
