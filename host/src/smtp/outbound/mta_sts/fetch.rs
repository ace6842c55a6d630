//! Getting a policy from its HTTPS server (RFC 8461 §3.3).

use std::net::SocketAddr;
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

use super::policy::Policy;
use crate::smtp::outbound::dns::Dns;
use crate::smtp::outbound::failure::{ResultType, Unprotected};
use crate::tls::Roots;

/// RFC 8461 §3.3 suggests a minute; a client is waiting for its reply to RCPT.
const LIMIT: Duration = Duration::from_secs(30);
/// §3.3 suggests 64 KiB.
const LARGEST: usize = 64 << 10;
/// Addresses that are tried.
const MOST_ADDRESSES: usize = 4;

/// Fetches the policy of a domain. Redirects are not followed, and the certificate must be valid for
/// `mta-sts.DOMAIN`.
///
/// # Errors
/// What went wrong.
pub async fn fetch(
    dns: &Dns,
    roots: &Roots,
    domain: &str,
    port: u16,
) -> Result<Policy, Unprotected> {
    match timeout(LIMIT, get(dns, roots, domain, port)).await {
        Ok(Ok(text)) => Policy::parse(&text).map_err(|error| {
            Unprotected::new(
                ResultType::StsPolicyInvalid,
                format!("the MTA-STS policy of {domain}: {error}"),
            )
        }),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(not_fetched(domain, "no answer in time")),
    }
}

fn not_fetched(domain: &str, reason: impl std::fmt::Display) -> Unprotected {
    Unprotected::new(
        ResultType::StsPolicyFetchError,
        format!("the MTA-STS policy of {domain} cannot be fetched: {reason}"),
    )
}

async fn get(dns: &Dns, roots: &Roots, domain: &str, port: u16) -> Result<String, Unprotected> {
    let failed = |reason: String| not_fetched(domain, reason);
    let host = format!("mta-sts.{domain}");
    let found = dns
        .addresses(&host, crate::config::AddressFamily::Any)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut stream = None;
    for address in found.records.into_iter().take(MOST_ADDRESSES) {
        if let Ok(connected) = TcpStream::connect(SocketAddr::new(address, port)).await {
            stream = Some(connected);
            break;
        }
    }
    let stream = stream.ok_or_else(|| failed(format!("{host} does not answer")))?;
    let name = ServerName::try_from(host.clone()).map_err(|error| failed(error.to_string()))?;
    let tls = connector(roots).map_err(|error| failed(error.to_string()))?;
    let stream = tls.connect(name, stream).await.map_err(|error| {
        Unprotected::new(
            ResultType::StsWebpkiInvalid,
            format!("the certificate of {host}: {error}"),
        )
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(error.to_string()))?;
    // It ends with the request: dropping the sender closes it.
    let driver = tokio::spawn(connection);
    let request = Request::get("/.well-known/mta-sts.txt")
        .header(HOST, &host)
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
