//! Asking a recipient's policy, and the one table from verdict to reply.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::egress::partner::Lane;
use crate::observe::metrics::Metrics;
use crate::smtp::reply::Reply;
use portcullis::json::trust_name;
use portcullis::sandbox::interface::{Certificate, Context, Direction, Finding, Verdict};
use portcullis::sandbox::{EvaluationError, Instance, Sandbox};
use portcullis::store::{Table, Tenant, unavailable};

/// A session talks to few organizations; one that talks to more has the oldest instance dropped.
const MOST_INSTANCES: usize = 4;
/// Of a list in a verdict, so many items are logged.
const MOST_LISTED: usize = 20;
/// What remains for the transaction's id in a reply line of 512 octets (RFC 5321 §4.5.3.1.5).
const LONGEST_TEXT: usize = 440;

/// The instances of one session: one for each policy that it has asked. They live no longer than the
/// session, so nothing can pass from one sender to another.
pub struct Instances {
    sandbox: Sandbox,
    metrics: Arc<Metrics>,
    instances: Vec<Kept>,
}

/// An instance between two questions.
struct Kept {
    tenant: Arc<str>,
    instance: Instance,
    _room: OwnedSemaphorePermit,
}

impl Instances {
    /// None yet.
    pub fn new(sandbox: Sandbox, metrics: Arc<Metrics>) -> Self {
        Instances {
            sandbox,
            metrics,
            instances: Vec::new(),
        }
    }

    /// Drops those of policies that are in force no longer.
    pub fn retain_in_force(&mut self, policies: &Table) {
        self.instances.retain(|kept| {
            let policy = policies
                .named(&kept.tenant)
                .and_then(|tenant| tenant.policy.as_ref());
            policy.is_some_and(|policy| Arc::ptr_eq(policy, kept.instance.module()))
        });
    }

    /// Asks a tenant's policy. Where it cannot answer, the verdict defers, and the log says why.
    pub async fn decide(&mut self, tenant: &Tenant, context: &Arc<Context>, id: &str) -> Verdict {
        let verdict = match self.answer(tenant, context).await {
            Ok(verdict) => {
                self.note_answer(tenant);
                verdict
            }
            Err(failed) => {
                self.note_failure(tenant, failed.kind);
                tracing::error!(
                    tenant = %tenant.name,
                    transaction = id,
                    failure = failed.kind,
                    error = shorten(&failed.text),
                    "policy failed"
                );
                unavailable()
            }
        };
        self.metrics.decided(&tenant.name, &verdict);
        verdict
    }

    fn note_answer(&self, tenant: &Tenant) {
        let policy = tenant.policy.as_ref();
        if policy.is_some_and(|policy| policy.has_answered()) {
            self.metrics.policy_failing(&tenant.name, false);
            tracing::info!(tenant = %tenant.name, "the policy answers again");
        }
    }

    fn note_failure(&self, tenant: &Tenant, kind: &'static str) {
        self.metrics.policy_failed(&tenant.name, kind);
        let policy = tenant.policy.as_ref();
        if policy.is_some_and(|policy| policy.has_failed()) {
            self.metrics.policy_failing(&tenant.name, true);
            tracing::error!(tenant = %tenant.name, "the policy keeps failing; all of its mail is deferred");
        }
    }

    async fn answer(&mut self, tenant: &Tenant, context: &Arc<Context>) -> Result<Verdict, Failed> {
        let Some(module) = &tenant.policy else {
            return Err(Failed::new("not-loaded", "no policy is loaded"));
        };
        let loaded = |kept: &Kept| Arc::ptr_eq(kept.instance.module(), module);
        let at = self.instances.iter().position(loaded);
        let asked = match at {
            Some(at) => Ok(self.instances.swap_remove(at).instance),
            None => Instance::new(&self.sandbox, module).await,
        };
        match self.ask(tenant, asked, context).await {
            Ok(verdict) => match check(&verdict, context.direction) {
                Ok(()) => Ok(verdict),
                Err(reason) => Err(Failed::new("invalid", &reason)),
            },
            Err(error) => {
                let told = error.to_string();
                Err(Failed::new(
                    error.failure.name(),
                    &crate::observe::redact::words(&told),
                ))
            }
        }
    }

    /// An instance that failed is dropped: the next question gets a fresh one.
    async fn ask(
        &mut self,
        tenant: &Tenant,
        instance: Result<Instance, EvaluationError>,
        context: &Arc<Context>,
    ) -> Result<Verdict, EvaluationError> {
        let mut instance = instance?;
        let verdict = instance.evaluate(context).await?;
        if self.instances.len() >= MOST_INSTANCES {
            self.instances.remove(0);
        }
        if let Some(room) = instance.room() {
            self.instances.push(Kept {
                tenant: tenant.name.clone(),
                instance,
                _room: room,
            });
        }
        Ok(verdict)
    }
}

/// Whether a verdict is one for mail of that direction, and can be carried out.
///
/// # Errors
/// Why it is none.
pub fn check(verdict: &Verdict, asked: Direction) -> Result<(), String> {
    match (verdict, asked) {
        (Verdict::Accept(_), Direction::Outbound) => {
            Err("the policy answers outbound mail with an inbound verdict".into())
        }
        (Verdict::Deliver(_), Direction::Inbound) => {
            Err("the policy answers inbound mail with an outbound verdict".into())
        }
        (Verdict::Deliver(delivery), _) => Lane::check(delivery),
        _ => Ok(()),
    }
}

/// Why a policy gave no answer.
struct Failed {
    kind: &'static str,
    text: String,
}

impl Failed {
    fn new(kind: &'static str, text: &str) -> Self {
        Failed {
            kind,
            text: text.into(),
        }
    }
}

/// The reply to a verdict that does not let the mail pass; `None` if it does.
pub fn refusal(verdict: &Verdict, id: &str) -> Option<Reply> {
    let (refusal, permanent) = match verdict {
        Verdict::Accept(_) | Verdict::Deliver(_) => return None,
        Verdict::Reject(refusal) => (refusal, true),
        Verdict::Defer(refusal) => (refusal, false),
    };
    let reply = Reply::from_policy(
        refusal.code,
        &refusal.enhanced,
        &one_line(&refusal.text),
        permanent,
    );
    Some(with_id(&reply, id))
}

/// The same reply with the transaction's id, by which it is found in the log.
pub fn with_id(reply: &Reply, id: &str) -> Reply {
    let text = reply.text();
    let mark = format!(" [{id}]");
    if text.ends_with(&mark) {
        return reply.clone();
    }
    // Of several lines, which another server has written, the last one has it.
    let (before, last) = match text.rsplit_once('\n') {
        Some((before, last)) => (format!("{before}\n"), last),
        None => (String::new(), text),
    };
    let last = &last[..last.floor_char_boundary(LONGEST_TEXT.min(last.len()))];
    let class = (reply.code() / 100) as u8;
    let enhanced = reply.enhanced().unwrap_or_else(|| (class, 0, 0).into());
    Reply::new(reply.code(), enhanced, format!("{before}{last}{mark}"))
}

/// A policy's text on one line, without control characters.
fn one_line(text: &str) -> String {
    let cleaned: String = text
        .chars()
        .take(LONGEST_TEXT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    cleaned.trim().to_owned()
}

/// One line of log a decision.
pub fn log(
    tenant: &Tenant,
    context: &Context,
    client: std::net::IpAddr,
    verdict: &Verdict,
    id: &str,
) {
    let session = id.split_once('.').map_or(id, |(session, _)| session);
    let tls = context.tls.as_ref().map_or("none", |tls| {
        portcullis::json::tls_version_name(tls.version)
    });
    let certificate = context
        .tls
        .as_ref()
        .and_then(|tls| tls.certificate.as_ref());
    let trust = certificate.map_or("none", |certificate| trust_name(certificate.trust));
    let name = |connector: &Option<String>| connector.clone().unwrap_or_default();
    let (outcome, connector, failed, audit) = match verdict {
        Verdict::Accept(acceptance) => (
            "accept",
            listed(&acceptance.connectors),
            "",
            &acceptance.audit,
        ),
        Verdict::Reject(refusal) => (
            "reject",
            name(&refusal.connector),
            &*refusal.failed,
            &refusal.audit,
        ),
        Verdict::Defer(refusal) => (
            "defer",
            name(&refusal.connector),
            &*refusal.failed,
            &refusal.audit,
        ),
        Verdict::Deliver(delivery) => ("deliver", name(&delivery.connector), "", &delivery.audit),
    };
    tracing::info!(
        verdict = outcome,
        tenant = %tenant.name,
        connector = shorten(&connector),
        failed = shorten(failed),
        audit = shorten(&audited(audit)),
        client = %crate::observe::redact::client(client),
        tls,
        certificate = trust,
        certificate_names = certificate.map(|it| listed(&it.dns_names)),
        certificate_issuer = certificate.map(|it| shorten(&it.issuer)),
        certificate_sha256 = certificate.map(fingerprint),
        from = &*crate::observe::redact::mailbox(&context.mail_from),
        to = &*crate::observe::redact::mailbox(&context.rcpt_to),
        session,
        transaction = id,
        "decision"
    );
}

/// The SHA-256 of a certificate, as `openssl x509 -fingerprint` has it without colons.
fn fingerprint(certificate: &Certificate) -> String {
    let (a, b, c, d) = certificate.sha256;
    format!("{a:016x}{b:016x}{c:016x}{d:016x}")
}

/// What of a module's words is logged.
fn shorten(text: &str) -> &str {
    const MOST: usize = 1000;
    &text[..text.floor_char_boundary(MOST.min(text.len()))]
}

/// Names in a row; a module may name very many.
fn listed(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(MOST_LISTED).map(String::as_str).collect();
    first.join(", ")
}

fn audited(audit: &[Finding]) -> String {
    let items: Vec<String> = audit
        .iter()
        .take(MOST_LISTED)
        .map(|f| format!("{} ({})", f.connector, f.failed))
        .collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_tells_its_transaction_once() {
        let reply = with_id(&Reply::new(550, (5, 7, 1), "no"), "abc.1");
        assert_eq!(reply.text(), "no [abc.1]");
        assert_eq!(with_id(&reply, "abc.1"), reply);
        let long = with_id(&Reply::new(550, (5, 7, 1), "x".repeat(2000)), "abc.1");
        let mut wire = Vec::new();
        long.write(&mut wire);
        assert!(wire.len() <= 512 && wire.ends_with(b" [abc.1]\r\n"));
    }
}
