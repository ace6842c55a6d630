//! TLS as a client: towards next hops and partners.

use std::sync::Arc;

use portcullis::tls::AnyPeer;
use rustls::ClientConfig;
use rustls::client::Resumption;

use super::curves;
use super::error::TlsError;
use super::files::Pair;
use super::legacy;
use crate::config::CertificateFiles;
use crate::smtp::tls::Connector;

/// What a client needs for handshakes. Any certificate completes one: what it is worth is judged afterwards.
#[derive(Clone)]
pub struct ClientTls {
    connector: Connector,
    legacy: Connector,
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
    /// If the providers of TLS lack what is needed.
    pub fn anonymous() -> Result<Self, TlsError> {
        ClientTls::new(None, TlsError::Provider)
    }

    /// A client that shows a certificate to servers that ask for one.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn from_files(files: &CertificateFiles) -> Result<Self, TlsError> {
        let pair = Pair::read(files)?;
        ClientTls::new(Some(pair), |source| TlsError::Config {
            path: files.certificate.clone(),
            source,
        })
    }

    fn new(
        identity: Option<Pair>,
        wrong: impl Fn(rustls::Error) -> TlsError,
    ) -> Result<Self, TlsError> {
        let provider = curves::provider();
        let verifier = Arc::new(AnyPeer::new(&provider));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(&wrong)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity.clone() {
            Some(Pair { chain, key, .. }) => {
                builder.with_client_auth_cert(chain, key).map_err(wrong)?
            }
            None => builder.with_no_client_auth(),
        };
        // In a resumed session no certificate is shown: the one of the first handshake would be judged, however
        // long the server has had another one.
        config.resumption = Resumption::disabled();
        let legacy = legacy::client(identity.as_ref()).map_err(TlsError::Legacy)?;
        Ok(ClientTls {
            connector: Connector::Rustls(Arc::new(config).into()),
            legacy: Connector::Legacy(legacy),
            identity,
        })
    }

    /// The certificate that is shown, with its key.
    pub fn identity(&self) -> Option<&Pair> {
        self.identity.as_ref()
    }

    /// What the handshake is done with.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The same with a server for which suites are allowed that are no good ones any more.
    pub fn legacy(&self) -> &Connector {
        &self.legacy
    }
}
