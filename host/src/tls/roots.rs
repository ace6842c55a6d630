//! Whose certificates are trusted, and which of them are revoked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use moka::sync::Cache;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use super::files::{certificates, wrong};
use super::path::{Anchors, BadCrl, Crl, Judgement, Purpose, crls_of};
use crate::config;

/// Judgements that are kept, and for how long: servers and clients show the same chain again and again.
const KEPT: u64 = 10_000;
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The roots that the certificates of peers are judged against. Cheap to clone.
#[derive(Clone)]
pub struct Roots(Arc<Trusted>);

struct Trusted {
    anchors: Vec<CertificateDer<'static>>,
    crls: Vec<Arc<Crl>>,
    bad_crls: Vec<BadCrl>,
    store: Arc<RootCertStore>,
    judge: Anchors,
    judgements: Cache<(Purpose, [u8; 32]), Judgement>,
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.0.anchors == other.0.anchors && self.0.crls == other.0.crls
    }
}

impl Roots {
    /// Reads what the configuration names. Certificates and revocation lists are two things: those of which the files
    /// cannot be read now stay as they were `before`, which the errors tell.
    ///
    /// # Errors
    /// Names the file and what is wrong with it, if there is nothing from before.
    pub fn read(
        config: &config::Trust,
        before: Option<&Roots>,
    ) -> Result<(Self, Vec<TlsError>), TlsError> {
        let mut errors = Vec::new();
        let anchors = match (anchors(config, before), before) {
            (Err(error), Some(before)) => {
                errors.push(error);
                before.0.anchors.clone()
            }
            (anchors, _) => anchors?,
        };
        let known = before.map_or(&[][..], |before| &before.0.crls);
        let lists = match (lists(config.crls.as_deref(), known), before) {
            (Err(error), Some(before)) => {
                errors.push(error);
                (before.0.crls.clone(), Vec::new())
            }
            (lists, _) => lists?,
        };
        match (Roots::new(anchors, lists), before) {
            (Err(error), Some(before)) => {
                errors.push(error);
                Ok((before.clone(), errors))
            }
            (roots, _) => Ok((roots?, errors)),
        }
    }

    /// These certificates, and these revocation lists with what is wrong with some of them.
    ///
    /// # Errors
    /// If a certificate cannot be used.
    pub fn new(
        anchors: Vec<CertificateDer<'static>>,
        (crls, bad_crls): (Vec<Arc<Crl>>, Vec<BadCrl>),
    ) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(anchors.iter().cloned());
        let judge = Anchors::new(&anchors, crls.clone())
            .map_err(|error| wrong(Path::new("the trusted roots"), error.to_string()))?;
        Ok(Roots(Arc::new(Trusted {
            crls,
            bad_crls,
            store: Arc::new(store),
            judge,
            judgements: Cache::builder()
                .max_capacity(KEPT)
                .time_to_live(KEPT_FOR)
                .build(),
            anchors,
        })))
    }

    /// Judges a chain, the own certificate first.
    pub fn judge(&self, chain: &[CertificateDer<'_>], purpose: Purpose) -> Judgement {
        let digest = digest_of(chain.iter().map(|certificate| &certificate[..]));
        self.0
            .judgements
            .get_with((purpose, digest), || self.0.judge.judge(chain, purpose))
    }

    /// The revocation lists that cannot be used, or are out of date.
    pub fn bad_crls(&self) -> &[BadCrl] {
        &self.0.bad_crls
    }

    /// The certificates themselves, for HTTPS.
    pub fn store(&self) -> &Arc<RootCertStore> {
        &self.0.store
    }
}

/// The digest of several runs of octets, in which none can pass for the end of another.
pub(super) fn digest_of<'a>(runs: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for run in runs {
        context.update(&(run.len() as u64).to_be_bytes());
        context.update(run);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The revocation lists of a folder, and what is wrong with some of them.
fn lists(
    folder: Option<&Path>,
    before: &[Arc<Crl>],
) -> Result<(Vec<Arc<Crl>>, Vec<BadCrl>), TlsError> {
    match folder {
        Some(folder) => crls_of(folder, before)
            .map_err(|error| wrong(folder, format!("cannot be read: {error}"))),
        None => Ok(Default::default()),
    }
}

/// All certificates that are trusted. Where the system's cannot be read now, those that are known stay.
fn anchors(
    config: &config::Trust,
    before: Option<&Roots>,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut anchors = Vec::new();
    match &config.roots {
        Some(paths) => {
            for path in paths.iter() {
                anchors.extend(authorities(path)?);
            }
        }
        None => anchors = of_system(),
    }
    match (anchors.is_empty(), before) {
        (true, Some(before)) => {
            tracing::error!(
                "the system's root certificates cannot be read now; those that are known stay in force"
            );
            return Ok(before.0.anchors.clone());
        }
        (true, None) => tracing::warn!(
            "the system has no root certificates: no peer's certificate will be trusted"
        ),
        (false, _) => {}
    }
    for path in config.additional_roots.iter() {
        anchors.extend(authorities(path)?);
    }
    Ok(anchors)
}

/// The certificates of a file, each of which must be readable: it was named by somebody who wants it to count.
fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = certificates(path)?;
    for (number, authority) in all.iter().enumerate() {
        X509Certificate::from_der(authority).map_err(|error| {
            wrong(
                path,
                format!("certificate number {} is broken: {error}", number + 1),
            )
        })?;
    }
    Ok(all)
}

fn of_system() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system root certificate cannot be read");
    }
    found.certs
}
