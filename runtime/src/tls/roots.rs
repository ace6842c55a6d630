//! Whose certificates are trusted, and which of them are revoked.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::octets::digest_of;
use super::path::{Anchors, BadCrl, Crl, PathVerification, Purpose};

/// Outcomes that are cached, and for how long: servers and clients show the same chain again and again.
const KEPT: u64 = 10_000;
const KEPT_FOR: Duration = Duration::from_secs(60);

/// A certificate cannot be trusted: OpenSSL does not take it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RootsError(openssl::error::ErrorStack);

/// The roots that the certificates of peers are judged against. Cheap to clone.
#[derive(Clone)]
pub struct Roots(Arc<Trusted>);

struct Trusted {
    anchors: Vec<CertificateDer<'static>>,
    crls: Vec<Arc<Crl>>,
    bad_crls: Vec<BadCrl>,
    store: Arc<RootCertStore>,
    path: Anchors,
    verifications: Cache<(Purpose, [u8; 32]), PathVerification>,
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.0.anchors == other.0.anchors && self.0.crls == other.0.crls
    }
}

impl Roots {
    /// These certificates, and these revocation lists with what is wrong with some of them.
    ///
    /// # Errors
    /// If a certificate cannot be used.
    pub fn new(
        anchors: Vec<CertificateDer<'static>>,
        (crls, bad_crls): (Vec<Arc<Crl>>, Vec<BadCrl>),
    ) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(anchors.iter().cloned());
        let path = Anchors::new(&anchors, crls.clone()).map_err(RootsError)?;
        Ok(Roots(Arc::new(Trusted {
            crls,
            bad_crls,
            store: Arc::new(store),
            path,
            verifications: Cache::builder()
                .max_capacity(KEPT)
                .time_to_live(KEPT_FOR)
                .build(),
            anchors,
        })))
    }

    /// Verifies a chain, the own certificate first.
    pub fn verify(&self, chain: &[CertificateDer<'_>], purpose: Purpose) -> PathVerification {
        let digest = digest_of(chain.iter().map(|certificate| &certificate[..]));
        self.0
            .verifications
            .get_with((purpose, digest), || self.0.path.verify(chain, purpose))
    }

    /// Whether a chain can end at one of the roots, which is known sooner than whether it does.
    pub fn may_end(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.0.path.may_end(chain)
    }

    /// The revocation lists that cannot be used, or are out of date.
    pub fn bad_crls(&self) -> &[BadCrl] {
        &self.0.bad_crls
    }

    /// The certificates themselves.
    pub fn anchors(&self) -> &[CertificateDer<'static>] {
        &self.0.anchors
    }

    /// The revocation lists in use.
    pub fn crls(&self) -> &[Arc<Crl>] {
        &self.0.crls
    }

    /// The certificates themselves, for HTTPS.
    pub fn store(&self) -> &Arc<RootCertStore> {
        &self.0.store
    }
}
