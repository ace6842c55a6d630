//! Getting a policy from its HTTPS server (RFC 8461 §3.3).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config;
use crate::egress::dial::{self, interleaved};
use crate::egress::partner::dns::{Dns, DnsError};
use crate::egress::partner::failure::{ProtectionError, ResultType};
use crate::egress::partner::mta_sts::policy::Policy;
use crate::egress::partner::reachable;
use portcullis::Trust;
use portcullis::tls::{Roots, certificate};

/// RFC 8461 §3.3 suggests a minute; a client is waiting for its reply to RCPT.
const LIMIT: Duration = Duration::from_secs(20);
/// What one address has of it to answer.
const ADDRESS_LIMIT: Duration = Duration::from_secs(8);
/// §3.3 suggests 64 KiB.
const LARGEST: usize = 64 << 10;
/// Addresses that are tried.
const MAX_ADDRESSES: usize = 4;

/// How policies are had.
#[derive(Clone)]
pub struct Sources {
    /// Who is asked for names.
    pub dns: Arc<Dns>,
    /// Whose certificates are trusted.
    pub roots: Roots,
    /// From where connections come, and where they may lead.
    pub delivery: Arc<config::Delivery>,
}

/// Why a policy could not be had.
#[derive(Clone, Debug)]
pub struct FetchError {
    /// In words.
    pub why: ProtectionError,
    /// Whether there may well be one: its server is not down, but could not be looked up.
    pub is_undecided: bool,
}

impl FetchError {
    pub fn undecided(reason: String) -> Self {
        FetchError {
            why: ProtectionError::new(ResultType::StsPolicyFetchError, reason),
            is_undecided: true,
        }
    }
}

impl From<ProtectionError> for FetchError {
    fn from(why: ProtectionError) -> Self {
        FetchError {
            why,
            is_undecided: false,
        }
    }
}

/// Fetches the policy of a domain. Redirects are not followed, and the certificate must be valid for
/// `mta-sts.DOMAIN`.
///
/// # Errors
/// What went wrong.
pub async fn fetch(sources: &Sources, domain: &str, port: u16) -> Result<Policy, FetchError> {
    let text = match timeout(LIMIT, get(sources, domain, port)).await {
        Ok(outcome) => outcome?,
        Err(_) => return Err(not_fetched(domain, "no answer in time").into()),
    };
    Policy::parse(&text).map_err(|error| {
        let detail = format!("the MTA-STS policy of {domain}: {error}");
        ProtectionError::new(ResultType::StsPolicyInvalid, detail).into()
    })
}

fn not_fetched(domain: &str, reason: impl std::fmt::Display) -> ProtectionError {
    ProtectionError::new(
        ResultType::StsPolicyFetchError,
        format!("the MTA-STS policy of {domain} cannot be fetched: {reason}"),
    )
}

async fn get(sources: &Sources, domain: &str, port: u16) -> Result<String, FetchError> {
    let host = format!("mta-sts.{domain}");
    let Sources {
        dns,
        roots,
        delivery,
    } = sources;
    let found = dns.addresses(&host, delivery.address_family).await;
    let found = found.map_err(|error| FetchError {
        // What does not exist has no policy. What could not be asked for may have one.
        is_undecided: !matches!(error, DnsError::NoSuchName(_)),
        why: not_fetched(domain, error),
    })?;
    let has_addresses = !found.records.is_empty();
    let may_connect = |ip: &IpAddr| reachable::may_connect(delivery, *ip);
    let addresses = found.records.into_iter().filter(may_connect);
    let addresses = addresses.take(MAX_ADDRESSES);
    let addresses = interleaved(addresses.collect(), IpAddr::is_ipv6);
    let mut addresses: Vec<SocketAddr> = addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .collect();
    let mut failure = not_fetched(domain, format!("{host} does not answer"));
    if has_addresses && addresses.is_empty() {
        let reason = format!(
            "{host} is at an address of this machine or of its link only, which [delivery] private-networks does not name"
        );
        return Err(not_fetched(domain, reason).into());
    }
    while !addresses.is_empty() {
        let sources = &delivery.source_addresses;
        let (connected, _) = dial::connect(&addresses, sources, ADDRESS_LIMIT).await;
        let Some((number, stream)) = connected else {
            break;
        };
        match timeout(ADDRESS_LIMIT, request(stream, roots, domain, &host)).await {
            Ok(Ok(text)) => return Ok(text),
            Ok(Err(why)) => failure = why,
            Err(_) => failure = not_fetched(domain, "no answer in time"),
        }
        addresses.remove(number);
    }
    Err(failure.into())
}

async fn request(
    stream: TcpStream,
    roots: &Roots,
    domain: &str,
    host: &str,
) -> Result<String, ProtectionError> {
    let failed = |reason: String| not_fetched(domain, reason);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
    let tls = connector(roots).map_err(|error| failed(error.to_string()))?;
    let stream = tls.connect(name, stream).await.map_err(|error| {
        ProtectionError::new(
            ResultType::StsWebpkiInvalid,
            format!("the certificate of {host}: {error}"),
        )
    })?;
    // Neither revocation nor every constraint is judged in the handshake.
    let (_, session) = stream.get_ref();
    let chain = session.peer_certificates().unwrap_or_default();
    match certificate::trust_of_server(chain, roots) {
        Trust::Trusted => {}
        other => {
            let text = format!("the certificate of {host} is {}", other.name());
            return Err(ProtectionError::new(ResultType::StsWebpkiInvalid, text));
        }
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(error.to_string()))?;
    // It ends with the request: dropping the sender closes it.
    let driver = tokio::spawn(connection);
    let request = Request::get("/.well-known/mta-sts.txt")
        .header(HOST, host)
        .header(USER_AGENT, "Portcullis")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(error.to_string()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| failed(error.to_string()))?;
    if response.status() != StatusCode::OK {
        return Err(failed(format!("{host} answers {}", response.status())));
    }
    let kind = response.headers().get(CONTENT_TYPE);
    let is_text = kind
        .and_then(|kind| kind.to_str().ok())
        .and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/plain"));
    if !is_text {
        return Err(failed(format!(
            "{host} answers with something else than text/plain"
        )));
    }
    let body = Limited::new(response.into_body(), LARGEST)
        .collect()
        .await
        .map_err(|error| failed(error.to_string()))?;
    driver.abort();
    String::from_utf8(body.to_bytes().into()).map_err(|_| failed("it is not UTF-8".into()))
}

fn connector(roots: &Roots) -> Result<TlsConnector, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots.store().clone())
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
