//! TLS on either side: handshakes, and what the peer's certificate is worth.

pub mod certificate;
mod client;
pub mod names;
mod verifier;

pub use client::ClientTls;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::sandbox::interface::Tls;
use verifier::AnyPeer;

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The TLS provider lacks what is needed.
    #[error("TLS cannot be used: {0}")]
    Provider(rustls::Error),
    /// The certificate and the key do not belong together.
    #[error("{}: the certificate cannot be used: {source}", path.display())]
    Config {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The roots that the certificates of peers are judged against.
#[derive(Clone, Debug)]
pub struct Roots(Arc<RootCertStore>);

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.0.roots == other.0.roots
    }
}

impl Roots {
    /// The certificates of a PEM file.
    ///
    /// # Errors
    /// If it cannot be read or holds none.
    pub fn from_file(path: &Path) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(path)? {
            store
                .add(certificate)
                .map_err(|error| file_error(path, error))?;
        }
        Ok(Roots(Arc::new(store)))
    }

    /// The system's certificates.
    pub fn of_system() -> Self {
        let mut store = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a system root certificate cannot be read");
        }
        let (added, ignored) = store.add_parsable_certificates(found.certs);
        tracing::debug!(added, ignored, "system root certificates");
        if added == 0 {
            tracing::warn!(
                "the system has no root certificates: no peer's certificate will be trusted"
            );
        }
        Roots(Arc::new(store))
    }

    /// The certificates themselves.
    pub fn store(&self) -> &Arc<RootCertStore> {
        &self.0
    }
}

/// What a listener needs for handshakes.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    roots: Roots,
    provider: Arc<CryptoProvider>,
}

impl ServerTls {
    /// Reads the certificate and its key.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn from_files(certificate: &Path, key: &Path, roots: Roots) -> Result<Self, TlsError> {
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file_error(key, error))?;
        ServerTls::new(chain, key, roots).map_err(|source| TlsError::Config {
            path: certificate.into(),
            source,
        })
    }

    /// From a chain and its key.
    ///
    /// # Errors
    /// If they do not belong together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Roots,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(AnyPeer::new(&provider));
        let mut config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        // All suites are good ones; that the order is ours is what auditors ask for (RFC 9325 §4.2.1).
        config.ignore_client_order = true;
        // A resumed session would carry a certificate that was judged in the past, and tickets have made
        // large senders abort STARTTLS.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(ServerTls {
            config: Arc::new(config),
            roots,
            provider,
        })
    }

    /// What the handshake is done with.
    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.config.clone().into()
    }

    /// The facts of a session whose handshake is done.
    pub fn facts(&self, session: &ServerConnection) -> Tls {
        let suite = session.negotiated_cipher_suite();
        let certificate = session
            .peer_certificates()
            .and_then(|chain| certificate::facts(chain, &self.roots.0, &self.provider));
        Tls {
            version: session.protocol_version().map_or(0, u16::from),
            cipher: suite
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown")
                .to_owned(),
            certificate,
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = fs::read(path).map_err(|error: io::Error| file_error(path, error))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| file_error(path, error))?;
    if chain.is_empty() {
        return Err(file_error(path, "there is no certificate in it"));
    }
    Ok(chain)
}

fn file_error(path: &Path, reason: impl ToString) -> TlsError {
    TlsError::File {
        path: path.into(),
        reason: reason.to_string(),
    }
}
