//! What is told of a decision: a line of the log, and the same for others who want it.

use std::borrow::Cow;
use std::sync::Arc;

use portcullis::{
    ClientAddress, Context, EvaluationError, Finding, Security, Sha256, Verdict, tls_version_name,
};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

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

/// Tells a decision on these facts: the log, and whoever else wants it.
pub fn tell(asked: &Asked<'_>, context: &Context, verdict: &Verdict, sink: Option<&Sink>) {
    let is_logged = tracing::enabled!(tracing::Level::INFO);
    if !is_logged && sink.is_none() {
        return;
    }
    let line = Line::of(asked, context, verdict);
    if is_logged {
        line.log();
    }
    if let Some(sink) = sink {
        sink.take(&line);
    }
}

/// What is told of a decision.
#[derive(Serialize)]
pub struct Line<'a> {
    verdict: &'static str,
    tenant: &'a str,
    connector: String,
    failed: String,
    audit: String,
    client: String,
    tls: &'static str,
    certificate: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_names: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_sha256: Option<Sha256>,
    from: Cow<'a, str>,
    to: Cow<'a, str>,
    session: &'a str,
    transaction: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Sha256>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
}

impl<'a> Line<'a> {
    fn of(asked: &Asked<'a>, context: &'a Context, verdict: &Verdict) -> Self {
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
        Line {
            verdict: verdict.name(),
            tenant: asked.tenant,
            connector,
            failed,
            audit: shorten(&audited(verdict.audit())).to_owned(),
            client: Client(context.client_ip()).to_string(),
            tls,
            certificate: trust,
            certificate_names: certificate
                .map(|it| listed(it.dns_names.as_deref().unwrap_or_default())),
            certificate_issuer: certificate
                .map(|it| redact::redact(shorten(&it.issuer)).into_owned()),
            certificate_sha256: certificate.and_then(|it| it.sha256),
            from: redact::mailbox(context.mail_from()),
            to: redact::mailbox(context.rcpt_to()),
            session: asked.session,
            transaction: asked.transaction,
            policy: asked.policy.map(|it| it.digest),
            sequence: asked.policy.and_then(|it| it.sequence),
            context: redact::tells_contexts().then(|| redact::context(context).to_json()),
        }
    }

    fn log(&self) {
        tracing::info!(
            verdict = self.verdict,
            tenant = %self.tenant,
            connector = self.connector,
            failed = self.failed,
            audit = self.audit,
            client = %self.client,
            tls = self.tls,
            certificate = self.certificate,
            certificate_names = self.certificate_names,
            certificate_issuer = self.certificate_issuer,
            certificate_sha256 = self.certificate_sha256.map(tracing::field::display),
            from = &*self.from,
            to = &*self.to,
            session = self.session,
            transaction = self.transaction,
            policy = self.policy.map(tracing::field::display),
            sequence = self.sequence,
            context = self.context,
            "decision"
        );
    }
}

/// Takes decisions for whoever is not the log. Whoever tells it never waits.
pub struct Sink {
    host: Box<str>,
    lines: UnboundedSender<Sent>,
    /// Octets that may wait.
    room: Arc<Semaphore>,
    lost: Counter,
}

/// What a sink gives on.
pub enum Sent {
    /// A decision as a line of JSON. The room that it takes is free again once the permit is dropped.
    Line(Vec<u8>, OwnedSemaphorePermit),
    /// To be dropped once all that was before has been given on.
    Flush(oneshot::Sender<()>),
}

/// Octets of lines that wait to be sent; what comes on top is lost.
const MAX_WAITING: usize = 4 << 20;
/// The longest line that is sent, in octets.
const MAX_LINE: usize = 64 << 10;

impl Sink {
    /// A sink of this host that counts what it loses, and where lines come out.
    pub fn new(host: &str, lost: Counter) -> (Self, UnboundedReceiver<Sent>) {
        let (lines, sent) = unbounded_channel();
        let sink = Sink {
            host: host.into(),
            lines,
            room: Arc::new(Semaphore::new(MAX_WAITING)),
            lost,
        };
        (sink, sent)
    }

    fn take(&self, line: &Line<'_>) {
        #[derive(Serialize)]
        struct Whole<'a> {
            timestamp: String,
            level: &'static str,
            message: &'static str,
            host: &'a str,
            #[serde(flatten)]
            line: &'a Line<'a>,
        }
        let now = OffsetDateTime::now_utc().format(&Rfc3339);
        let whole = Whole {
            timestamp: now.unwrap_or_default(),
            level: "INFO",
            message: "decision",
            host: &self.host,
            line,
        };
        // Texts and numbers can always be written.
        let json = serde_json::to_vec(&whole).unwrap_or_default();
        let wanted = u32::try_from(json.len()).unwrap_or(u32::MAX);
        let room = match json.len() > MAX_LINE {
            true => Err(()),
            false => self
                .room
                .clone()
                .try_acquire_many_owned(wanted)
                .map_err(drop),
        };
        let sent = room.map(|room| self.lines.send(Sent::Line(json, room)).is_ok());
        if sent != Ok(true) {
            self.lost.inc();
        }
    }

    /// Waits until what was told has been given on.
    pub async fn flush(&self) {
        let (done, waiting) = oneshot::channel();
        // Nobody takes anything any more, otherwise.
        if self.lines.send(Sent::Flush(done)).is_ok() {
            let _ = waiting.await;
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn line(context: &str) -> Line<'_> {
        Line {
            verdict: "accept",
            tenant: "contoso",
            connector: String::new(),
            failed: String::new(),
            audit: String::new(),
            client: "192.0.2.1".into(),
            tls: "none",
            certificate: "none",
            certificate_names: None,
            certificate_issuer: None,
            certificate_sha256: None,
            from: "a@a.test".into(),
            to: "b@b.test".into(),
            session: "s",
            transaction: "t",
            policy: None,
            sequence: Some(3),
            context: Some(context.into()),
        }
    }

    #[test]
    fn what_waits_to_be_sent_is_bounded() {
        let lost = Counter::default();
        let (sink, mut sent) = Sink::new("h1", lost.clone());
        let context = "x".repeat(1000);
        let mut told = 0;
        while lost.get() == 0 {
            sink.take(&line(&context));
            told += 1;
        }
        let mut octets = 0;
        for _ in 1..told {
            let Ok(Sent::Line(line, _)) = sent.try_recv() else {
                panic!("a line is missing");
            };
            octets += line.len();
        }
        assert!(
            octets <= MAX_WAITING && octets > MAX_WAITING - 4000,
            "{octets}"
        );
        // There is room again.
        sink.take(&line(&context));
        assert_eq!(lost.get(), 1);
        let Ok(Sent::Line(json, _)) = sent.try_recv() else {
            panic!("there is no line");
        };
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            (&json["host"], &json["sequence"]),
            (&"h1".into(), &3.into())
        );
        // One that is too long is lost, and nothing else.
        sink.take(&line(&"x".repeat(MAX_LINE)));
        assert_eq!(lost.get(), 2);
        // Where nobody takes any, all are.
        drop(sent);
        sink.take(&line(&context));
        assert_eq!(lost.get(), 3);
    }
}
