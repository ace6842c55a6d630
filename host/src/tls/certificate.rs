//! The facts of a peer's certificate: its names, and whether its chain is trusted.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::sandbox::interface::{Certificate, Trust};

/// The facts of a chain, the client's own certificate first.
pub fn facts(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Option<Certificate> {
    let (own, intermediates) = chain.split_first()?;
    let usages = [KeyUsage::server_auth, KeyUsage::client_auth];
    let judgement = judge(own, intermediates, roots, provider, &usages);
    let sha256 = sha256(own);
    // The handshake has parsed it before.
    let (_, parsed) = X509Certificate::from_der(own).ok()?;
    Some(Certificate {
        dns_names: names(&parsed, judgement.constrains_names),
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        sha256,
        not_after: Some(parsed.validity().not_after.timestamp()),
        trust: judgement.trust,
    })
}

fn sha256(certificate: &[u8]) -> (u64, u64, u64, u64) {
    let digest = digest(&SHA256, certificate);
    let mut words = digest
        .as_ref()
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u64::from_be_bytes(*bytes));
    let mut next = || words.next().unwrap_or_default();
    (next(), next(), next(), next())
}

/// Whether the chain of a receiving server ends at a root.
pub fn trust_of_server(
    chain: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
) -> Trust {
    chain
        .split_first()
        .map_or(Trust::Invalid, |(own, intermediates)| {
            judge(
                own,
                intermediates,
                roots,
                provider,
                &[KeyUsage::server_auth],
            )
            .trust
        })
}

/// The SAN dNSNames.
pub fn dns_names(certificate: &X509Certificate) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

/// The SAN dNSNames; where there is none, the subject's CN. Constraints are held against the SAN only
/// (RFC 5280 §4.2.1.10), so below an authority that may not certify all names a CN says nothing.
fn names(certificate: &X509Certificate, constrained: bool) -> Vec<String> {
    let dns_names = dns_names(certificate);
    if !dns_names.is_empty() || constrained {
        return dns_names;
    }
    let common_names = certificate.subject().iter_common_name();
    common_names
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned)
        .collect()
}

/// What is to be said of a chain.
struct Judgement {
    trust: Trust,
    /// Whether an authority on the way may certify some names only.
    constrains_names: bool,
}

/// Whether the chain ends at a root. A sending server's certificate is good for serverAuth,
/// clientAuth or no extended key usage at all: public authorities no longer issue clientAuth.
fn judge(
    own: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    provider: &CryptoProvider,
    usages: &[fn() -> KeyUsage],
) -> Judgement {
    let unconstrained = |trust| Judgement {
        trust,
        constrains_names: false,
    };
    let Ok(entity) = EndEntityCert::try_from(own) else {
        return unconstrained(Trust::Invalid);
    };
    let verify = |usage: KeyUsage| {
        let algorithms = provider.signature_verification_algorithms.all;
        let now = UnixTime::now();
        entity
            .verify_for_usage(
                algorithms,
                &roots.roots,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map(|path| {
                let mut between = path.intermediate_certificates();
                path.anchor().name_constraints.is_some()
                    || between.any(|authority| constrains_names(&authority.der()))
            })
    };
    let mut outcome = Err(webpki::Error::RequiredEkuNotFoundContext(
        webpki::RequiredEkuNotFoundContext {
            required: KeyUsage::server_auth(),
            present: Vec::new(),
        },
    ));
    for usage in usages {
        // The reason that is told is of the usage that went further.
        outcome = outcome.or_else(|first| {
            verify(usage()).map_err(|second| if is_usage(&first) { second } else { first })
        });
    }
    let error = match outcome {
        Ok(constrains_names) => {
            return Judgement {
                trust: Trust::Trusted,
                constrains_names,
            };
        }
        Err(error) => error,
    };
    unconstrained(match error {
        webpki::Error::CertExpired { .. } => Trust::Expired,
        webpki::Error::CertNotValidYet { .. } => Trust::NotYetValid,
        webpki::Error::UnknownIssuer => Trust::UnknownIssuer,
        webpki::Error::CertRevoked => Trust::Revoked,
        _ if own_issuer(own) => Trust::UnknownIssuer,
        _ => Trust::Invalid,
    })
}

/// Whether an authority may certify some names only. One that cannot be read may not certify any.
fn constrains_names(authority: &[u8]) -> bool {
    X509Certificate::from_der(authority).map_or(true, |(_, parsed)| {
        !matches!(parsed.name_constraints(), Ok(None))
    })
}

fn is_usage(error: &webpki::Error) -> bool {
    matches!(error, webpki::Error::RequiredEkuNotFoundContext(_))
}

/// Whether the certificate is its own issuer: whatever else is wrong with it, nobody vouches for it.
fn own_issuer(certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject() == parsed.issuer())
}
