//! TLS as a client: towards next hops and partners.

use std::sync::Arc;

use portcullis::tls::AnyPeer;
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio_rustls::TlsConnector;

use super::curves;
use super::error::TlsError;
use super::files::Pair;
use crate::config::CertificateFiles;

/// What a client needs for handshakes. Any certificate completes one: what it is worth is judged afterwards.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    /// The certificate that is shown to servers that ask, and its key.
    identity: Option<Pair>,
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl ClientTls {
    /// A client that has no certificate to show.
    ///
    /// # Errors
    /// If the TLS provider lacks what is needed.
    pub fn anonymous() -> Result<Self, rustls::Error> {
        ClientTls::new(None)
    }

    /// A client that shows a certificate to servers that ask for one.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn from_files(files: &CertificateFiles) -> Result<Self, TlsError> {
        let pair = Pair::read(files)?;
        ClientTls::new(Some(pair)).map_err(|source| TlsError::Config {
            path: files.certificate.clone(),
            source,
        })
    }

    fn new(identity: Option<Pair>) -> Result<Self, rustls::Error> {
        let provider = curves::provider();
        let verifier = Arc::new(AnyPeer::new(&provider));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity.clone() {
            Some(Pair { chain, key, .. }) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        // In a resumed session no certificate is shown: the one of the first handshake would be judged, however
        // long the server has had another one.
        config.resumption = Resumption::disabled();
        Ok(ClientTls {
            connector: TlsConnector::from(Arc::new(config)),
            identity,
        })
    }

    /// The certificate that is shown, with its key.
    pub fn identity(&self) -> Option<&Pair> {
        self.identity.as_ref()
    }

    /// What the handshake is done with.
    pub fn connector(&self) -> &TlsConnector {
        &self.connector
    }
}
