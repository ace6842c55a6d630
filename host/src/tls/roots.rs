//! The trusted roots and revocation lists that the configuration names, as files.

use std::path::Path;
use std::sync::Arc;

use portcullis::tls::{Authorities, Authority, BadCrl, Crl, Roots, crls_of};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use super::files::{certificates, wrong};
use crate::config;

/// Reads the ordinary roots, and those of authorities by name. What cannot be read now stays as it was `before`, which
/// the errors tell.
///
/// # Errors
/// Names the file and what is wrong with it, if there is nothing from before.
pub fn read_authorities(
    config: &config::Trust,
    before: Option<&Authorities>,
) -> Result<(Authorities, Vec<TlsError>), TlsError> {
    let (public, mut errors) = read_roots(config, before.map(Authorities::public))?;
    let mut named = Vec::new();
    for authority in &config.authority {
        let known = before.and_then(|before| {
            let mut known = before.named().iter();
            known.find(|known| *known.name == *authority.name)
        });
        let roots = match (roots_of(authority, &public), known) {
            (Err(error), Some(known)) => {
                errors.push(error);
                known.roots.clone()
            }
            (roots, _) => roots?,
        };
        named.push(Authority {
            name: authority.name.as_str().into(),
            roots,
            tenants: authority.tenants.clone(),
        });
    }
    Ok((Authorities::new(public, named), errors))
}

/// The system's roots, and those of a file.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn roots_beside_system(file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(of_system());
    if let Some(path) = file {
        store.add_parsable_certificates(authorities(path)?);
    }
    Ok(store)
}

/// The roots of an authority. Its certificates can be revoked by the same lists.
fn roots_of(authority: &config::Authority, public: &Roots) -> Result<Roots, TlsError> {
    let mut anchors = Vec::new();
    for path in authority.roots.iter() {
        anchors.extend(authorities(path)?);
    }
    let lists = (public.crls().to_vec(), Vec::new());
    Roots::new(anchors, lists).map_err(|error| {
        let name = Path::new(&authority.name);
        wrong(
            name,
            format!("the roots of this authority cannot be used: {error}"),
        )
    })
}

/// Reads what the configuration names. Certificates and revocation lists are two things: those of which the files
/// cannot be read now stay as they were `before`, which the errors tell.
///
/// # Errors
/// Names the file and what is wrong with it, if there is nothing from before.
fn read_roots(
    config: &config::Trust,
    before: Option<&Roots>,
) -> Result<(Roots, Vec<TlsError>), TlsError> {
    let mut errors = Vec::new();
    let anchors = match (anchors(config, before), before) {
        (Err(error), Some(before)) => {
            errors.push(error);
            before.anchors().to_vec()
        }
        (anchors, _) => anchors?,
    };
    let known = before.map_or(&[][..], Roots::crls);
    let lists = match (lists(config.crls.as_deref(), known), before) {
        (Err(error), Some(before)) => {
            errors.push(error);
            (before.crls().to_vec(), Vec::new())
        }
        (lists, _) => lists?,
    };
    let made = Roots::new(anchors, lists)
        .map_err(|error| wrong(Path::new("the trusted roots"), error.to_string()));
    match (made, before) {
        (Err(error), Some(before)) => {
            errors.push(error);
            Ok((before.clone(), errors))
        }
        (roots, _) => Ok((roots?, errors)),
    }
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
            return Ok(before.anchors().to_vec());
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
        let (_, parsed) = X509Certificate::from_der(authority).map_err(|error| {
            wrong(
                path,
                format!("certificate number {} is broken: {error}", number + 1),
            )
        })?;
        if let Some(doubt) = doubt(&parsed) {
            tracing::warn!(
                file = %path.display(),
                subject = %parsed.subject(),
                "certificate number {} among the trusted roots {doubt}",
                number + 1
            );
        }
    }
    Ok(all)
}

/// When the last root of each file ends, in seconds since 1970: until then the file is of use. One that cannot be read now
/// is left out.
pub fn ends_of_roots(config: &config::Trust) -> impl Iterator<Item = (&Path, i64)> {
    let end = |root: &CertificateDer| {
        let (_, root) = X509Certificate::from_der(root).ok()?;
        Some(root.validity().not_after.timestamp())
    };
    config.files().filter_map(move |path| {
        let all = certificates(path).ok()?;
        Some((path, all.iter().filter_map(end).max()?))
    })
}

/// Why a certificate may not do what it was named for.
fn doubt(root: &X509Certificate) -> Option<String> {
    let validity = root.validity();
    if validity.time_to_expiration().is_none() {
        let (from, to) = (validity.not_before, validity.not_after);
        return Some(format!("is valid from {from} to {to} only"));
    }
    let constraints = root.basic_constraints().ok().flatten();
    let is_authority = constraints.is_none_or(|constraints| constraints.value.ca);
    (!is_authority).then(|| "is not an authority's: it certifies no other certificate".into())
}

fn of_system() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a system root certificate cannot be read");
    }
    found.certs
}
