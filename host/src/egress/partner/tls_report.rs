//! What became of TLS towards a domain that wants to know (RFC 8460), told to `tlsrpt-collectd` on this machine, which
//! writes and sends the reports.
//!
//! A datagram has the outcome of one handshake, in the format of libtlsrpt. It holds what the domain has published
//! against the server, and not what our own connectors ask for beyond that: that is no fault of the domain.

use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::dane::Demand;
use super::dns::Tlsa;
use super::endpoint::Endpoint;
use super::failure::{Failure, ProtectionError, ResultType};
use super::mta_sts::{Mode, Policy};
use super::resources::OutboundResources;
use super::route::{PartnerPath, Target};
use super::servers::not_named;
use super::verify::server_is;
use crate::egress::client::SmtpClient;
use crate::observe::metrics::Metrics;
use crate::observe::redact::redact;

/// Domains that are asked at a time whether they want to know.
const AT_A_TIME: usize = 100;
/// Octets of a text in a datagram.
const MAX_TEXT: usize = 500;

/// Tells the collector.
pub struct Reports {
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// A datagram: what became of one handshake.
#[derive(Debug, Serialize)]
struct Datagram<'a> {
    /// The version of the format.
    #[serde(rename = "dpv")]
    version: &'static str,
    #[serde(rename = "d")]
    domain: &'a str,
    /// The TXT record by which the domain wants to know.
    #[serde(rename = "pr")]
    record: &'a str,
    policies: &'a [PolicyOutcome],
}

/// What became of it by one published policy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct PolicyOutcome {
    policy_type: u8,
    policy_domain: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policy_string: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mx_host: Vec<String>,
    failure_details: Vec<FailureDetail>,
    /// How many details there are.
    t: usize,
    /// 1 if the session has failed by this policy.
    f: u8,
}

#[derive(Debug, Serialize)]
struct FailureDetail {
    #[serde(rename = "c")]
    code: u16,
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    sending_address: Option<String>,
    #[serde(rename = "n", skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
    #[serde(rename = "r", skip_serializing_if = "Option::is_none")]
    server_address: Option<String>,
    #[serde(rename = "a")]
    text: String,
}

/// The kinds of policies, by the numbers of libtlsrpt.
const TLSA: u8 = 1;
const STS: u8 = 2;
const NO_POLICY: u8 = 9;

/// The number of a result of RFC 8460 §4.3.
fn code(result: ResultType) -> u16 {
    match result {
        ResultType::StarttlsNotSupported => 201,
        ResultType::CertificateHostMismatch => 202,
        ResultType::CertificateNotTrusted => 203,
        ResultType::CertificateExpired => 204,
        ResultType::ValidationFailure => 205,
        ResultType::StsPolicyFetchError => 301,
        ResultType::StsPolicyInvalid => 302,
        ResultType::StsWebpkiInvalid => 303,
        ResultType::TlsaInvalid => 304,
        ResultType::DnssecInvalid => 305,
        ResultType::DaneRequired => 306,
    }
}

/// Who spoke with whom.
#[derive(Clone, Default)]
struct Ends {
    sending: Option<IpAddr>,
    server_name: Option<String>,
    server: Option<IpAddr>,
}

impl PolicyOutcome {
    fn new(
        policy_type: u8,
        domain: &str,
        outcome: Result<(), &ProtectionError>,
        ends: &Ends,
    ) -> Self {
        let details: Vec<FailureDetail> = outcome
            .err()
            .map(|why| FailureDetail {
                code: code(why.result),
                sending_address: ends.sending.map(|ip| ip.to_string()),
                server_name: ends.server_name.clone(),
                server_address: ends.server.map(|ip| ip.to_string()),
                text: shorten(&why.detail),
            })
            .into_iter()
            .collect();
        PolicyOutcome {
            policy_type,
            policy_domain: domain.to_owned(),
            policy_string: Vec::new(),
            mx_host: Vec::new(),
            t: details.len(),
            f: u8::from(!details.is_empty()),
            failure_details: details,
        }
    }

    fn of_sts(self, policy: &Policy) -> Self {
        let mode = match policy.mode {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        };
        let mx = policy.mx.iter().map(|mx| format!("mx: {mx}"));
        let age = format!("max_age: {}", policy.max_age.as_secs());
        let lines = ["version: STSv1".to_owned(), format!("mode: {mode}")];
        PolicyOutcome {
            policy_string: lines.into_iter().chain(mx).chain([age]).collect(),
            mx_host: policy.mx.clone(),
            ..self
        }
    }
}

fn shorten(text: &str) -> String {
    let text = redact(text);
    portcullis::one_line(&text[..text.floor_char_boundary(MAX_TEXT.min(text.len()))]).to_string()
}

fn presentation(record: &Tlsa) -> String {
    let data: String = record.data.iter().map(|it| format!("{it:02x}")).collect();
    format!(
        "{} {} {} {data}",
        record.usage, record.selector, record.matching
    )
}

/// What became of a handshake by all that the domain and the server have published.
fn outcomes(
    domain: &str,
    server: &Endpoint,
    policy: Option<&Policy>,
    handshake: Result<&[CertificateDer<'_>], &ProtectionError>,
    ends: &Ends,
) -> Vec<PolicyOutcome> {
    let mut outcomes = Vec::new();
    if server.dane.needs_tls() {
        let verified = handshake.map_err(Clone::clone).and_then(|chain| {
            let requirements = server.requirements();
            server.dane.verify(chain, &requirements.identities())
        });
        let base = server.dane.base().unwrap_or(domain);
        let outcome = PolicyOutcome::new(TLSA, base, verified.as_ref().copied(), ends);
        let records = match &*server.dane {
            Demand::Records { records, .. } => records.iter().map(presentation).collect(),
            Demand::None | Demand::Encrypted => Vec::new(),
        };
        outcomes.push(PolicyOutcome {
            policy_string: records,
            ..outcome
        });
    }
    if let Some(policy) = policy.filter(|policy| policy.mode != Mode::None) {
        let name = server.candidate.name.as_deref().unwrap_or_default();
        let verified =
            handshake
                .map_err(Clone::clone)
                .and_then(|chain| match policy.allows(name) {
                    true => server_is(chain, name, &server.authorities),
                    false => Err(not_named(domain)),
                });
        let outcome = PolicyOutcome::new(STS, domain, verified.as_ref().copied(), ends);
        outcomes.push(outcome.of_sts(policy));
    }
    if let (None, Some(why)) = (policy, &server.policy_error) {
        outcomes.push(PolicyOutcome::new(STS, domain, Err(why), ends));
    }
    if outcomes.is_empty() {
        // Without a policy any certificate will do.
        outcomes.push(PolicyOutcome::new(
            NO_POLICY,
            domain,
            handshake.map(|_| ()),
            ends,
        ));
    }
    outcomes
}

impl Reports {
    /// Nothing is told yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Reports {
            permits: Arc::new(Semaphore::new(AT_A_TIME)),
            metrics,
        }
    }

    /// Tells the collector what became of TLS with a server, if the domain wants to know.
    pub(super) fn handshake(
        &self,
        resources: &OutboundResources,
        path: &PartnerPath,
        server: &Endpoint,
        client: &SmtpClient,
        begun: &Result<(), ProtectionError>,
    ) {
        let Some((socket, domain)) = wanted(resources, path) else {
            return;
        };
        let ends = Ends {
            sending: client.local_address(),
            server_name: server.candidate.name.clone(),
            server: Some(server.address.ip()),
        };
        let chain = client.tls_session().map(|session| session.chain());
        let chain = chain.unwrap_or_default();
        let handshake = begun.as_ref().map(|()| &*chain);
        let outcomes = outcomes(domain, server, server.policy.as_ref(), handshake, &ends);
        self.tell(resources, socket, domain, outcomes);
    }

    /// The same of a server that what is published keeps us from.
    pub(super) fn unreached(
        &self,
        resources: &OutboundResources,
        path: &PartnerPath,
        policy: Option<&Policy>,
        failure: &Failure,
    ) {
        let (Some((socket, domain)), Failure::Unprotected { peer, why }) =
            (wanted(resources, path), failure)
        else {
            return;
        };
        let ends = Ends {
            server_name: Some(peer.to_string()),
            ..Ends::default()
        };
        let outcome = match (why.result, policy) {
            // What a connector demands beyond what is published.
            (ResultType::DaneRequired, _) => return,
            (ResultType::DnssecInvalid | ResultType::TlsaInvalid, _) => {
                PolicyOutcome::new(TLSA, peer, Err(why), &ends)
            }
            (_, Some(policy)) => PolicyOutcome::new(STS, domain, Err(why), &ends).of_sts(policy),
            (_, None) => PolicyOutcome::new(STS, domain, Err(why), &ends),
        };
        self.tell(resources, socket, domain, vec![outcome]);
    }
}

/// The collector's socket, and the domain that mail goes to by its own servers.
fn wanted<'a>(
    resources: &'a OutboundResources,
    path: &'a PartnerPath,
) -> Option<(&'a Path, &'a str)> {
    match (&resources.config.tlsrpt_socket, &path.target) {
        (Some(socket), Target::Mx(domain)) => Some((socket, domain)),
        _ => None,
    }
}

impl Reports {
    /// Tells the collector, if the domain wants to know. Nobody waits for it.
    fn tell(
        &self,
        resources: &OutboundResources,
        socket: &Path,
        domain: &str,
        policies: Vec<PolicyOutcome>,
    ) {
        let metrics = self.metrics.clone();
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            metrics.tls_report(false);
            return;
        };
        let (dns, socket, domain) = (resources.dns.clone(), socket.to_owned(), domain.to_owned());
        tokio::spawn(async move {
            let _permit = permit;
            let found = dns.txt(&format!("_smtp._tls.{domain}")).await;
            let records = found.map(|answer| answer.records).unwrap_or_default();
            let Some(record) = record_of(&records) else {
                return;
            };
            let datagram = Datagram {
                version: "1",
                domain: &domain,
                record,
                policies: &policies,
            };
            let told = send(&socket, &datagram);
            if let Err(error) = &told {
                tracing::debug!(socket = %socket.display(), %error, "the collector of TLS reports does not take one");
            }
            metrics.tls_report(told.is_ok());
        });
    }
}

/// The one record of a domain that wants to know (RFC 8460 §3).
fn record_of(records: &[String]) -> Option<&str> {
    let is_one = |record: &&String| {
        record
            .strip_prefix("v=TLSRPTv1")
            .is_some_and(|rest| rest.trim_start().starts_with(';'))
    };
    let mut own = records.iter().filter(is_one);
    match (own.next(), own.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

fn send(socket: &Path, datagram: &Datagram) -> std::io::Result<()> {
    let text = serde_json::to_vec(datagram)?;
    let sender = UnixDatagram::unbound()?;
    // A collector that does not read holds nobody up.
    sender.set_nonblocking(true)?;
    sender.send_to(&text, socket)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_wants_to_know_by_one_record() {
        let records = |texts: &[&str]| -> Vec<String> {
            texts.iter().map(|text| (*text).to_owned()).collect()
        };
        let own = "v=TLSRPTv1; rua=mailto:tls@bank.test";
        for (texts, expected) in [
            (&[own][..], Some(own)),
            (&["v=spf1 -all", own], Some(own)),
            (
                &["v=TLSRPTv1;rua=mailto:a@b"],
                Some("v=TLSRPTv1;rua=mailto:a@b"),
            ),
            (&[own, own], None),
            (&["v=TLSRPTv10; rua=mailto:a@b"], None),
            (&["v=spf1 -all"], None),
            (&[], None),
        ] {
            assert_eq!(record_of(&records(texts)), expected, "{texts:?}");
        }
    }

    #[test]
    fn a_failure_is_told_with_its_details() {
        let why = ProtectionError::new(ResultType::CertificateExpired, "over\nit is");
        let ends = Ends {
            sending: Some("192.0.2.1".parse().unwrap()),
            server_name: Some("mx.bank.test".into()),
            server: Some("192.0.2.2".parse().unwrap()),
        };
        let policy = Policy {
            mode: Mode::Testing,
            mx: vec!["*.bank.test".into()],
            max_age: std::time::Duration::from_secs(86_400),
        };
        let failed = PolicyOutcome::new(STS, "bank.test", Err(&why), &ends).of_sts(&policy);
        let fine = PolicyOutcome::new(NO_POLICY, "bank.test", Ok(()), &ends);
        let datagram = Datagram {
            version: "1",
            domain: "bank.test",
            record: "v=TLSRPTv1;rua=x",
            policies: &[failed, fine],
        };
        let expected = serde_json::json!({
            "dpv": "1", "d": "bank.test", "pr": "v=TLSRPTv1;rua=x",
            "policies": [
                {
                    "policy-type": 2, "policy-domain": "bank.test",
                    "policy-string": ["version: STSv1", "mode: testing", "mx: *.bank.test", "max_age: 86400"],
                    "mx-host": ["*.bank.test"],
                    "failure-details": [{"c": 204, "s": "192.0.2.1", "n": "mx.bank.test", "r": "192.0.2.2", "a": "over it is"}],
                    "t": 1, "f": 1,
                },
                {"policy-type": 9, "policy-domain": "bank.test", "failure-details": [], "t": 0, "f": 0},
            ],
        });
        assert_eq!(serde_json::to_value(&datagram).unwrap(), expected);
    }
}
