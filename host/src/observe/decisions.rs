//! The log line of a decision.

use portcullis::{
    ClientAddress, Context, EvaluationError, Finding, Security, Verdict, tls_version_name,
};

use portcullis::store::InForce;

use super::redact;

/// Of a list in a verdict, so many items are logged.
const MAX_LISTED: usize = 20;
/// Bytes of a text in a verdict that are logged.
const MAX_TEXT: usize = 1000;

/// Whose policy was asked, and by whom.
pub struct Asked<'a> {
    /// The tenant's name.
    pub tenant: &'a str,
    /// The session's id.
    pub session: &'a str,
    /// The transaction's id.
    pub transaction: &'a str,
    /// The policy that has decided.
    pub policy: Option<InForce>,
}

/// Logs a decision on these facts.
pub fn log(asked: &Asked<'_>, context: &Context, verdict: &Verdict) {
    if !tracing::enabled!(tracing::Level::INFO) {
        return;
    }
    let tls = match context.session_security() {
        Security::Plaintext => "none",
        Security::Unknown => "unknown",
        Security::Encrypted(tls) => tls.version.and_then(tls_version_name).unwrap_or("unknown"),
    };
    let certificate = context.certificate();
    let trust = certificate.map_or("none", |certificate| {
        certificate.trust.map_or("unknown", |trust| trust.name())
    });
    let (connector, failed) = outcome(verdict);
    tracing::info!(
        verdict = verdict.name(),
        tenant = %asked.tenant,
        connector,
        failed,
        audit = shorten(&audited(verdict.audit())),
        client = %Client(context.client_ip()),
        tls,
        certificate = trust,
        certificate_names = certificate.map(|it| listed(it.dns_names.as_deref().unwrap_or_default())),
        certificate_issuer = certificate.map(|it| redact::redact(shorten(&it.issuer)).into_owned()),
        certificate_sha256 = certificate.and_then(|it| it.sha256).map(tracing::field::display),
        from = &*redact::mailbox(context.mail_from()),
        to = &*redact::mailbox(context.rcpt_to()),
        session = asked.session,
        transaction = asked.transaction,
        policy = asked.policy.map(|it| tracing::field::display(it.digest)),
        sequence = asked.policy.and_then(|it| it.sequence),
        context = redact::tells_contexts().then(|| redact::context(context).to_json()),
        "decision"
    );
}

/// The connectors and the requirement that a verdict names, as they are logged.
pub fn outcome(verdict: &Verdict) -> (String, String) {
    let (connector, failed) = match verdict {
        Verdict::Accept(acceptance) => (listed(&acceptance.connectors), ""),
        Verdict::Reject(refusal) | Verdict::Defer(refusal) => (
            refusal.connector.clone().unwrap_or_default(),
            &*refusal.failed,
        ),
        Verdict::Deliver(delivery) => (delivery.connector.clone().unwrap_or_default(), ""),
    };
    (shorten(&connector).to_owned(), shorten(failed).to_owned())
}

/// Logs that a policy gave no answer.
pub fn log_failure(asked: &Asked<'_>, error: &EvaluationError) {
    let text = error.to_string();
    tracing::error!(
        tenant = %asked.tenant,
        transaction = asked.transaction,
        failure = error.failure.name(),
        error = shorten(&redact::redact(&text)),
        "policy failed"
    );
}

struct Client(ClientAddress);

impl std::fmt::Display for Client {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ClientAddress::Known(ip) => redact::client(ip).fmt(to),
            ClientAddress::None => to.write_str("local"),
            ClientAddress::Unknown => to.write_str("unknown"),
        }
    }
}

fn shorten(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT.min(text.len()))]
}

/// Names in a row; a policy may name very many.
fn listed(names: &[String]) -> String {
    let first: Vec<&str> = names.iter().take(MAX_LISTED).map(String::as_str).collect();
    first.join(", ")
}

fn audited(audit: &[Finding]) -> String {
    let items: Vec<String> = audit
        .iter()
        .take(MAX_LISTED)
        .map(|finding| format!("{} ({})", finding.connector, finding.failed))
        .collect();
    items.join(", ")
}
