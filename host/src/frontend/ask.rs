//! The one call of every front door: decide, count, log.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use portcullis::store::{Snapshot, Store, Tenant};
use portcullis::tls::Authorities;
use portcullis::{
    Context, Decision, EvaluationError, Explanation, PeerCertificate, Security, TenantSession,
    Trust, Verdict, normal_domain,
};

use super::expiry::Expiring;
use crate::decisions::{Recorder, Told};
use crate::observe::decisions::{self, Asked, Sink};
use crate::observe::metrics::Metrics;
use crate::smtp::reply::Reply;

/// What all sessions ask with.
pub struct Asking {
    /// The policies.
    pub policies: Arc<Store>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whose certificates are about to run out.
    pub expiring: Expiring,
    /// Where decisions are kept.
    pub recorder: Arc<Recorder>,
    /// Who else is told of them.
    pub sink: Option<Sink>,
}

/// The questions of one session.
pub struct Asker {
    asking: Arc<Asking>,
    session: TenantSession,
}

/// One question.
pub struct Request<'a> {
    /// Whose policy is asked.
    pub tenant: &'a Tenant,
    /// The facts.
    pub context: &'a Context,
    /// Whom the host trusts: which of the facts about a certificate a tenant's rules may see.
    pub authorities: &'a Authorities,
    /// The session's id.
    pub session: &'a str,
    /// The transaction's id. It stands in the reply, so that the log line is found.
    pub transaction: &'a str,
}

impl Asker {
    /// For a session that begins.
    pub fn new(asking: Arc<Asking>) -> Self {
        Asker {
            session: asking.policies.session(),
            asking,
        }
    }

    /// What is asked next is about another client: nothing that a policy has noted of the one before is left.
    pub fn begin(&mut self) {
        self.session = self.asking.policies.session();
    }

    /// Drops what belongs to policies that are no longer active.
    pub fn retain_active(&mut self, policies: &Snapshot) {
        self.session.retain_active(policies);
    }

    /// Decides, and gives the reasons. It is not counted, logged or kept.
    ///
    /// # Errors
    /// If the policy does not answer, or there is none.
    pub async fn explain(
        &mut self,
        tenant: &Tenant,
        context: &Context,
    ) -> Result<Explanation, EvaluationError> {
        self.session.explain(tenant, context).await
    }

    /// Decides, counts, logs and keeps. If the policy gives no answer, the decision defers the mail.
    pub async fn ask(&mut self, request: Request<'_>) -> Decision {
        let (decision, context) = self.decide(&request).await;
        if is_news(&context, decision.verdict()) {
            self.asking.recorder.decided(&Told {
                tenant: &request.tenant.name,
                policy: decider(&request, &decision).in_force.map(|it| it.digest),
                session: request.session,
                transaction: request.transaction,
                context: &context,
                verdict: decision.verdict(),
            });
        }
        decision
    }

    /// The same of no mail in particular: it is not kept.
    pub async fn look_up(&mut self, request: Request<'_>) -> Decision {
        self.decide(&request).await.0
    }

    async fn decide<'a>(&mut self, request: &Request<'a>) -> (Decision, Cow<'a, Context>) {
        let context = match restricted(request) {
            Some(restricted) => Cow::Owned(restricted),
            None => Cow::Borrowed(request.context),
        };
        let begun = Instant::now();
        let decision = self.session.decide(request.tenant, &context).await;
        self.asking.metrics.evaluated(begun.elapsed());
        let Asking {
            metrics,
            expiring,
            sink,
            ..
        } = &*self.asking;
        let tenant = &request.tenant.name;
        let asked = Asked {
            tenant,
            session: request.session,
            transaction: request.transaction,
            policy: decider(request, &decision).in_force,
        };
        if let Some(error) = decision.error() {
            let failed = &decider(request, &decision).name;
            metrics.policy_failed(failed, error.failure.name());
            decisions::log_failure(&asked, error);
        }
        metrics.decided(tenant, decision.verdict());
        decisions::tell(&asked, &context, decision.verdict(), sink.as_ref());
        expiring.look(request.tenant, &context, decision.verdict());
        (decision, context)
    }
}

/// Whose policy has made a decision.
fn decider<'a>(request: &Request<'a>, decision: &Decision) -> &'a Tenant {
    let before = request.tenant.before();
    let before = before.filter(|_| decision.is_made_before());
    before.unwrap_or(request.tenant)
}

/// The reply to mail that a policy refuses.
pub fn refusal(decision: &Decision, id: &str) -> Option<Reply> {
    let refusal = decision.refusal()?;
    let reply = Reply::from_policy(refusal.code, refusal.enhanced, refusal.text);
    Some(reply.with_id(id))
}

/// The tenant of a recipient's domain. Without a domain it is the postmaster, of the first tenant.
pub fn tenant_of<'a>(policies: &'a Snapshot, domain: Option<&str>) -> Option<&'a Arc<Tenant>> {
    match domain {
        None => policies.first(),
        Some(domain) => policies.tenant(&normal_domain(domain)?),
    }
}

/// Whether a decision says more than one that was made before: asked again with the header, a policy says the same to
/// most messages.
fn is_news(context: &Context, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Accept(acceptance) if acceptance.audit.is_empty() => !context.has_header(),
        _ => true,
    }
}

/// The facts for a tenant whose rules may not name all authorities, if that makes a difference.
fn restricted(request: &Request<'_>) -> Option<Context> {
    let Request {
        tenant,
        context,
        authorities,
        ..
    } = request;
    if !authorities.differ_by_tenant() {
        return None;
    }
    let anchors = context.certificate()?.anchors.as_ref()?;
    let allowed = authorities.anchors_for(&tenant.name, anchors);
    if allowed.len() == anchors.len() {
        return None;
    }
    let mut tls = context.session_tls()?.clone();
    if let PeerCertificate::Presented(certificate) = &mut tls.certificate {
        if allowed.is_empty() {
            certificate.trust = Some(Trust::UnknownIssuer);
        }
        certificate.anchors = Some(allowed);
    }
    Some(Context::clone(context).security(Security::Encrypted(tls)))
}
