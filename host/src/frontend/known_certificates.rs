//! Certificates of partners that are known beforehand. A server that tells no more than the digest of a client's
//! certificate tells all of it, if it is one of these.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;

use crate::config::KnownFiles;
use crate::tls::{TlsError, certificates};
use portcullis::tls::{Authorities, certificate};
use portcullis::{Certificate, Sha256};

/// How long a chain counts as what it was when it was verified: certificates run out.
const VERIFIED: Duration = Duration::from_secs(60);
/// How many certificates a folder may have.
const MOST: usize = 10_000;

/// The known certificates of a front door.
#[derive(Default)]
pub struct KnownCertificates {
    by_digest: HashMap<Sha256, Known>,
}

struct Known {
    chain: Vec<CertificateDer<'static>>,
    facts: ArcSwap<(Instant, Certificate)>,
}

impl KnownCertificates {
    /// Reads files. One that is wrong keeps no other out.
    pub fn read(all: &[KnownFiles], authorities: &Authorities) -> (Self, Vec<TlsError>) {
        let mut known = KnownCertificates::default();
        let mut errors = Vec::new();
        let mut paths = Vec::new();
        for files in all {
            match paths_of(files) {
                Ok(found) => paths.extend(found),
                Err(error) => errors.push(error),
            }
        }
        for path in paths {
            match certificates(&path) {
                Ok(chain) => {
                    let facts = certificate::facts(&chain, authorities);
                    // One whose key nobody can check has the digest of nothing.
                    let digest = facts.sha256.filter(|it| *it != Sha256::default());
                    if let Some(digest) = digest {
                        let facts = ArcSwap::from_pointee((Instant::now(), facts));
                        known.by_digest.insert(digest, Known { chain, facts });
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        (known, errors)
    }

    /// How many certificates are known.
    pub fn count(&self) -> usize {
        self.by_digest.len()
    }

    /// All that is known of a certificate with this digest.
    pub fn facts(&self, digest: &Sha256, authorities: &Authorities) -> Option<Certificate> {
        let known = self.by_digest.get(digest)?;
        let facts = known.facts.load();
        let (verified, certificate) = &**facts;
        if verified.elapsed() < VERIFIED {
            return Some(certificate.clone());
        }
        let facts = certificate::facts(&known.chain, authorities);
        known.facts.store((Instant::now(), facts.clone()).into());
        Some(facts)
    }
}

fn paths_of(files: &KnownFiles) -> Result<Vec<PathBuf>, TlsError> {
    let (folder, end) = match files {
        KnownFiles::File(path) => return Ok(vec![path.clone()]),
        KnownFiles::Folder(folder, end) => (folder, end),
    };
    let entries = fs::read_dir(folder).map_err(|error| TlsError::File {
        path: folder.clone(),
        reason: format!("the folder cannot be read: {error}"),
    })?;
    let is_meant = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.ends_with(end.as_bytes()) && !name.starts_with(b".")
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> = paths.filter(is_meant).take(MOST).collect();
    paths.sort();
    Ok(paths)
}
