//! What is told of a decision and of a connection to a partner.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use portcullis::{Certificate, ClientAddress, Context, HeaderFrom, Protection, Sha256, Verdict};
use serde::Serialize;
use serde_json::{Value, json};

use crate::observe::redact;
use aws_lc_rs::digest::{SHA256, digest};

/// A decision about a recipient, as it is told.
pub struct Told<'a> {
    /// Whose policy has decided.
    pub tenant: &'a Arc<str>,
    /// The digest of its file.
    pub policy: Option<Sha256>,
    /// The session's id.
    pub session: &'a str,
    /// The transaction's id.
    pub transaction: &'a str,
    /// The facts.
    pub context: &'a Context,
    /// The decision.
    pub verdict: &'a Verdict,
}

impl Told<'_> {
    /// What it has in common with others of the same flow, as far as is seen at once: it is asked for with each message.
    pub fn hash(&self, state: &RandomState) -> u64 {
        let Told {
            tenant,
            policy,
            context,
            verdict,
            ..
        } = self;
        let mut hasher = state.build_hasher();
        (tenant, policy, context.direction() as u8).hash(&mut hasher);
        domain(context.mail_from()).hash(&mut hasher);
        domain(context.rcpt_to()).hash(&mut hasher);
        match context.client_ip() {
            ClientAddress::Known(ip) => ip.hash(&mut hasher),
            other => (other == ClientAddress::None).hash(&mut hasher),
        }
        if let Some(tls) = context.session_tls() {
            tls.version.hash(&mut hasher);
        }
        if let Some(certificate) = context.certificate() {
            (certificate.sha256, certificate.trust.map(|it| it as u8)).hash(&mut hasher);
            certificate.anchors.hash(&mut hasher);
            if certificate.sha256.is_none() {
                (&certificate.dns_names, &certificate.issuer).hash(&mut hasher);
            }
        }
        if let HeaderFrom::Addresses(addresses) = context.header() {
            for address in &addresses {
                domain(address).hash(&mut hasher);
            }
        }
        verdict.name().hash(&mut hasher);
        match verdict {
            Verdict::Accept(acceptance) => acceptance.connectors.hash(&mut hasher),
            Verdict::Reject(refusal) | Verdict::Defer(refusal) => {
                (&refusal.connector, &refusal.failed).hash(&mut hasher);
            }
            Verdict::Deliver(delivery) => {
                (&delivery.connector, &delivery.audit_connector).hash(&mut hasher);
            }
        }
        for finding in verdict.audit() {
            (&finding.connector, &finding.failed).hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// A decision about a recipient, on its way to be kept.
pub struct Decided {
    /// What it has in common with others of the same flow, while the program runs.
    pub hash: u64,
    /// Whose policy has decided.
    pub tenant: Arc<str>,
    /// The digest of its file.
    pub policy: Option<Sha256>,
    /// When.
    pub time: SystemTime,
    /// The session's id.
    pub session: Box<str>,
    /// The transaction's id.
    pub transaction: Box<str>,
    /// The facts.
    pub context: Context,
    /// The decision.
    pub verdict: Verdict,
}

/// What a partner's server has shown, or why it was not used.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Connected {
    /// Whose mail it was.
    #[serde(skip)]
    pub tenant: Arc<str>,
    /// The connector, if one has decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connector: Option<String>,
    /// The domain or the smart hosts.
    pub target: String,
    /// The server.
    pub server: String,
    /// The TLS version; absent in plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<&'static str>,
    /// The certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Certificate>,
    /// Why it was not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// The connector in audit mode that would have judged it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_connector: Option<String>,
    /// A digest of what that one asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_requires: Option<String>,
    /// What it lacks of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<String>,
}

/// A decision as it is kept.
pub struct Kept {
    /// Milliseconds since 1970.
    pub time: i64,
    /// What it has in common with others of the same flow.
    pub key: [u8; 16],
    /// The sender.
    pub mail_from: String,
    /// The recipient.
    pub rcpt_to: String,
    /// The client.
    pub client: Option<String>,
    /// The facts.
    pub context: Context,
}

/// How many decisions of a flow there were, and the last.
#[derive(Clone, Copy, Default)]
pub struct Count {
    /// How many.
    pub number: u64,
    /// Milliseconds since 1970.
    pub last: i64,
}

/// Milliseconds since 1970.
pub fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// With as much of people as the log tells.
pub fn kept(decided: &Decided) -> Kept {
    let context = redact::context(&decided.context);
    let client = match decided.context.client_ip() {
        ClientAddress::Known(ip) => Some(redact::client(ip).to_string()),
        _ => None,
    };
    Kept {
        time: milliseconds(decided.time),
        key: key(decided, &context, &context.header()),
        mail_from: context.mail_from().to_owned(),
        rcpt_to: context.rcpt_to().to_owned(),
        client,
        context,
    }
}

/// What decisions have in common that differ in nothing that rules can see, but for the local parts of addresses.
fn key(decided: &Decided, context: &Context, header: &HeaderFrom) -> [u8; 16] {
    let mut text = String::with_capacity(512);
    let mut add = |part: &str| {
        text.push_str(part);
        text.push('\0');
    };
    add(context.direction().name());
    add(domain(context.mail_from()));
    add(domain(context.rcpt_to()));
    match context.client_ip() {
        ClientAddress::Known(ip) => add(&ip.to_string()),
        ClientAddress::None => add("local"),
        ClientAddress::Unknown => add("unknown"),
    }
    if let HeaderFrom::Addresses(addresses) = header {
        for address in addresses {
            add(domain(address));
        }
    }
    match context.session_tls() {
        Some(tls) => {
            add(&format!("{:?}", tls.version));
            match context.certificate() {
                // The digest stands for all that is in it.
                Some(certificate) if certificate.sha256.is_some() => {
                    let (digest, trust) = (certificate.sha256, certificate.trust);
                    add(&format!("{digest:?}{trust:?}{:?}", certificate.anchors));
                }
                _ => add(&format!("{:?}", tls.certificate)),
            }
        }
        None => add(&format!("{:?}", context.session_security())),
    }
    add(&format!("{:?}", decided.policy.map(|digest| digest.0)));
    add(&format!("{:?}", decided.verdict));
    digest_of(text.as_bytes())
}

/// The first half of a SHA-256.
pub fn digest_of(bytes: &[u8]) -> [u8; 16] {
    let digest = digest(&SHA256, bytes);
    let mut half = [0; 16];
    for (to, from) in half.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    half
}

/// A digest of what a server must show.
pub fn digest_of_protection(protection: &Protection) -> String {
    let digest = digest_of(format!("{protection:?}").as_bytes());
    digest.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The domain of a mailbox; what has none stands for itself.
pub fn domain(mailbox: &str) -> &str {
    mailbox
        .rsplit_once('@')
        .map_or(mailbox, |(_, domain)| domain)
}

/// A verdict, with its name for those that only count.
pub fn written(verdict: &Verdict) -> Value {
    serde_json::to_value(verdict).unwrap_or_else(|_| json!({}))
}
