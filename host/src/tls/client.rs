//! TLS as a client: towards next hops and partners.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use super::verifier::AnyPeer;
use super::{TlsError, certificates, file_error};

/// Sessions that are kept for resumption, which spares a partner's server and ours a full handshake.
const SESSIONS: usize = 1024;

/// What a client needs for handshakes. Any certificate completes one: what it is worth is judged
/// afterwards, of a resumed session too.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    identity: Option<Arc<Identity>>,
}

/// The certificate that is shown to servers that ask, and its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        match (&self.identity, &other.identity) {
            (None, None) => true,
            (Some(own), Some(other)) => {
                own.chain == other.chain && own.key.secret_der() == other.key.secret_der()
            }
            _ => false,
        }
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
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file_error(key, error))?;
        ClientTls::new(Some(Identity { chain, key })).map_err(|source| TlsError::Config {
            path: certificate.into(),
            source,
        })
    }

    fn new(identity: Option<Identity>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(AnyPeer::new(&provider));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &identity {
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key())?
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(ClientTls {
            connector: TlsConnector::from(Arc::new(config)),
            identity: identity.map(Arc::new),
        })
    }

    /// What the handshake is done with.
    pub fn connector(&self) -> &TlsConnector {
        &self.connector
    }
}
