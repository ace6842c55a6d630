//! TLS on either side: handshakes, and what the peer's certificate is worth.

mod client;
mod curves;
mod error;
mod files;
mod legacy;
mod roots;

pub use client::ClientTls;
pub use curves::provider;
pub use error::TlsError;
pub use files::{Pair, certificates, days_until};
pub use roots::{ends_of_roots, read_authorities, roots_beside_system};

use std::path::PathBuf;
use std::sync::Arc;

use openssl::ssl::SslContext;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::CertificateFiles;
use crate::smtp::tls::{Acceptor, TlsSession};
use portcullis::tls::{self, AnyPeer, Authorities, certificate};
use portcullis::{Tls, satisfies};

/// A certificate that has fewer days left than this is about to be a problem.
pub const EXPIRY_WARNING: i64 = 21;

/// What a listener needs for handshakes.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// For clients that may use suites which are no good ones any more.
    legacy: Option<SslContext>,
    authorities: Authorities,
    pairs: Arc<[(PathBuf, Pair)]>,
}

/// The provider of TLS as a server. First is the suite that RFC 8446 §9.1 makes mandatory: processors have instructions
/// for its SHA-256, and few have them for the SHA-384 of the one that is first otherwise.
fn server_provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
    let suites = &mut provider.cipher_suites;
    suites.sort_by_key(|suite| suite.suite() != first);
    provider
}

impl ServerTls {
    /// Reads the certificates and their keys: several of them for several names, or kinds of keys. One that cannot be
    /// read now stays as it was `before`, which the errors tell.
    ///
    /// # Errors
    /// Names the file and what is wrong with it, if there is nothing from before.
    pub fn from_files(
        files: &[CertificateFiles],
        authorities: Authorities,
        before: Option<&ServerTls>,
    ) -> Result<(Self, Vec<TlsError>), TlsError> {
        let (mut pairs, mut errors) = (Vec::new(), Vec::new());
        for files in files {
            let known = before.and_then(|before| {
                let mut pairs = before.pairs.iter();
                pairs.find(|(path, _)| *path == files.certificate)
            });
            match (Pair::read(files), known) {
                (Err(error), Some(known)) => {
                    errors.push(error);
                    pairs.push(known.clone());
                }
                (pair, _) => pairs.push((files.certificate.clone(), pair?)),
            }
        }
        Ok((ServerTls::new(pairs, authorities)?, errors))
    }

    /// From chains and their keys, each with its file.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn new(pairs: Vec<(PathBuf, Pair)>, authorities: Authorities) -> Result<Self, TlsError> {
        let provider = Arc::new(server_provider());
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
            legacy: None,
            authorities,
            pairs: pairs.into(),
        })
    }

    /// The same for a listener some of whose clients may use suites that are no good ones any more.
    ///
    /// # Errors
    /// If OpenSSL does not take the certificate.
    pub fn with_legacy(mut self) -> Result<Self, TlsError> {
        let pairs = self.pairs.iter().map(|(_, pair)| pair);
        self.legacy = Some(legacy::server(pairs).map_err(TlsError::Legacy)?);
        Ok(self)
    }

    /// The same certificates, with which peers are verified with these authorities.
    pub fn with_authorities(&self, authorities: Authorities) -> Self {
        ServerTls {
            authorities,
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
            names.iter().any(|name| satisfies(name, wanted))
        };
        self.pairs.iter().any(is_for)
    }

    /// What the handshake is done with; by a client that may use them, with suites that are no good ones any more.
    pub fn acceptor(&self, is_legacy: bool) -> Acceptor {
        match &self.legacy {
            Some(legacy) if is_legacy => Acceptor::Legacy(legacy.clone()),
            _ => Acceptor::Rustls(self.config.clone().into()),
        }
    }

    /// The facts of a session whose handshake is done.
    pub fn facts(&self, session: &TlsSession) -> Tls {
        let version = session.version().map(u16::from);
        tls::facts_of(
            version,
            session.cipher(),
            &session.chain(),
            &self.authorities,
        )
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
            wanted.is_some_and(|wanted| names.iter().any(|name| satisfies(name, wanted)))
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
