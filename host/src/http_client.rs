//! Requests to HTTP servers of others.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::tls::{Pair, provider};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection is kept that nobody uses, and how many are.
const IDLE: Duration = Duration::from_secs(30);
const MAX_IDLE: usize = 16;

/// There is no answer that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The server cannot be reached, or breaks off.
    #[error("{0}")]
    Connection(String),
    /// Nothing came in time.
    #[error("it took longer than {} s", .0.as_secs())]
    Time(Duration),
    /// What came is too large, or broke off.
    #[error("the answer cannot be read: {0}")]
    Body(String),
}

/// Makes requests, over connections that are kept.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpClient {
    /// Trusts servers whose certificates lead to these roots, and shows them a certificate.
    ///
    /// # Errors
    /// If the certificate cannot be shown.
    pub fn new(
        roots: impl Into<Arc<RootCertStore>>,
        identity: Option<&Pair>,
    ) -> Result<Self, rustls::Error> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match identity {
            Some(Pair { chain, key, .. }) => {
                config.with_client_auth_cert(chain.clone(), key.clone_key())?
            }
            None => config.with_no_client_auth(),
        };
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(HttpClient { client })
    }

    /// Makes a request and reads the answer, which has at most so many octets; what a server says that does not succeed
    /// is left unread. Redirects are not followed.
    ///
    /// # Errors
    /// If there is no whole answer in time.
    pub async fn request(
        &self,
        mut request: Request<Full<Bytes>>,
        most: usize,
        patience: Duration,
    ) -> Result<Response<Bytes>, HttpError> {
        let agent = HeaderValue::from_static("Portcullis");
        request.headers_mut().insert(USER_AGENT, agent);
        let asked = async {
            let answer = self.client.request(request).await;
            let (head, body) = answer.map_err(|error| cause(&error))?.into_parts();
            if !head.status.is_success() || most == 0 {
                return Ok(Response::from_parts(head, Bytes::new()));
            }
            let body = Limited::new(body, most).collect().await;
            let body = body.map_err(|error| HttpError::Body(error.to_string()))?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        let answer = timeout(patience, asked).await;
        answer.map_err(|_| HttpError::Time(patience))?
    }
}

/// What is at the bottom of an error, which says more than "client error (Connect)".
fn cause(error: &hyper_util::client::legacy::Error) -> HttpError {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    HttpError::Connection(deepest.to_string())
}

/// The `Authorization` of a client that has a name and a password (RFC 7617), or a token (RFC 6750).
///
/// # Errors
/// If it cannot stand in a header.
pub fn authorization(secret: &str) -> Result<HeaderValue, HttpError> {
    let secret = secret.trim();
    let text = match secret.contains(':') {
        true => format!("Basic {}", STANDARD.encode(secret)),
        false => format!("Bearer {secret}"),
    };
    let value = HeaderValue::try_from(text);
    let mut value =
        value.map_err(|_| HttpError::Connection("the credentials cannot be sent".into()))?;
    value.set_sensitive(true);
    Ok(value)
}
