//! TLS on either side: handshakes, and what the peer's certificate is worth.

mod client;
mod curves;
mod files;
mod roots;

pub use client::ClientTls;
pub use files::{Pair, certificates};
pub use portcullis::tls::{Anchors, Purpose, Roots, certificate, is_provable, names};
pub use roots::read_roots;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};
use x509_parser::prelude::{FromDer, X509Certificate};

use portcullis::sandbox::interface::Tls;
use portcullis::tls::{self, AnyPeer};

/// A certificate that has fewer days left than this is about to be a problem.
pub const SOON: i64 = 21;

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
    /// The certificate and the key cannot be used.
    #[error("{}: the certificate cannot be used: {source}", path.display())]
    Config {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// What a listener needs for handshakes.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    roots: Roots,
    pairs: Arc<[(PathBuf, Pair)]>,
}

impl ServerTls {
    /// Reads the certificates and their keys: several of them for several names, or kinds of keys. One that cannot be
    /// read now stays as it was `before`, which the errors tell.
    ///
    /// # Errors
    /// Names the file and what is wrong with it, if there is nothing from before.
    pub fn from_files<'a>(
        files: impl IntoIterator<Item = (&'a PathBuf, &'a PathBuf)>,
        roots: Roots,
        before: Option<&ServerTls>,
    ) -> Result<(Self, Vec<TlsError>), TlsError> {
        let (mut pairs, mut errors) = (Vec::new(), Vec::new());
        for (certificate, key) in files {
            let known = before.and_then(|before| {
                let mut pairs = before.pairs.iter();
                pairs.find(|(path, _)| path == certificate)
            });
            match (Pair::read(certificate, key), known) {
                (Err(error), Some(known)) => {
                    errors.push(error);
                    pairs.push(known.clone());
                }
                (pair, _) => pairs.push((certificate.clone(), pair?)),
            }
        }
        Ok((ServerTls::new(pairs, roots)?, errors))
    }

    /// From chains and their keys, each with its file.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn new(pairs: Vec<(PathBuf, Pair)>, roots: Roots) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(AnyPeer::new(&provider));
        let resolver = ByName::new(&pairs, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Provider)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(resolver));
        // All suites are good ones; that the order is ours is what auditors ask for (RFC 9325 §4.2.1).
        config.ignore_client_order = true;
        // A resumed session would carry a certificate that was judged in the past, and tickets have made
        // large senders abort STARTTLS.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(ServerTls {
            config: Arc::new(config),
            roots,
            pairs: pairs.into(),
        })
    }

    /// The same certificates, with which peers are judged by these roots.
    pub fn with_roots(&self, roots: Roots) -> Self {
        ServerTls {
            roots,
            ..self.clone()
        }
    }

    /// The certificates, each with its file.
    pub fn pairs(&self) -> &[(PathBuf, Pair)] {
        &self.pairs
    }

    /// Whether one of the certificates is for a name.
    pub fn has_name(&self, wanted: &str) -> bool {
        let is_for = |(_, pair): &(PathBuf, Pair)| {
            let own = pair.chain.first().map(|own| X509Certificate::from_der(own));
            let names = match own {
                Some(Ok((_, own))) => certificate::dns_names(&own),
                _ => Vec::new(),
            };
            names.iter().any(|name| names::satisfies(name, wanted))
        };
        self.pairs.iter().any(is_for)
    }

    /// What the handshake is done with.
    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.config.clone().into()
    }

    /// The facts of a session whose handshake is done.
    pub fn facts(&self, session: &ServerConnection) -> Tls {
        tls::facts(session, &self.roots)
    }
}

/// Certificates by the name that a client asks for (SNI, RFC 6066 §3) and the signatures that it can check. One that
/// asks for no name, or for another one, is shown the first that it can check: its certificate may be pinned.
#[derive(Debug)]
struct ByName(Vec<(Vec<String>, Arc<CertifiedKey>)>);

impl ByName {
    fn new(pairs: &[(PathBuf, Pair)], provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut all = Vec::new();
        for (path, pair) in pairs {
            let key = pair.key.clone_key();
            let certified = CertifiedKey::from_der(pair.chain.clone(), key, provider);
            let certified = certified.map_err(|source| TlsError::Config {
                path: path.clone(),
                source,
            })?;
            let own = pair.chain.first().map(|own| X509Certificate::from_der(own));
            let names = match own {
                Some(Ok((_, own))) => certificate::dns_names(&own),
                _ => Vec::new(),
            };
            all.push((names, Arc::new(certified)));
        }
        Ok(ByName(all))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wanted = hello.server_name();
        let is_for = |names: &[String]| {
            wanted.is_some_and(|wanted| names.iter().any(|name| names::satisfies(name, wanted)))
        };
        let schemes = hello.signature_schemes();
        let checkable =
            |(_, key): &&(Vec<String>, Arc<CertifiedKey>)| key.key.choose_scheme(schemes).is_some();
        let named = self.0.iter().filter(|(names, _)| is_for(names));
        let chosen = named
            .clone()
            .find(checkable)
            .or_else(|| self.0.iter().find(checkable))
            .or_else(|| self.0.first());
        chosen.map(|(_, key)| key.clone())
    }
}
