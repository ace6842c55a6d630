//! The facts of a peer's certificate: its names, and whether its chain is trusted.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authorities::Authorities;
pub use super::octets::{dns_names, sha256};
use super::path::Purpose;
use super::roots::Roots;
use super::verifier::is_provable;
use portcullis_types::{Certificate, Sha256, Trust};

/// The facts of a client's chain, its own certificate first.
pub fn facts(chain: &[CertificateDer<'_>], authorities: &Authorities) -> Certificate {
    let worthless = Certificate {
        dns_names: Some(Vec::new()),
        trust: Some(Trust::Invalid),
        anchors: Some(Vec::new()),
        ..Certificate::default()
    };
    let parsed = chain.first().map(|own| X509Certificate::from_der(own));
    let (Some(own), Some(Ok((_, parsed)))) = (chain.first(), parsed) else {
        return Certificate {
            sha256: Some(Sha256::default()),
            key_sha256: Some(Sha256::default()),
            ..worthless
        };
    };
    let described = Certificate {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        not_after: Some(parsed.validity().not_after.timestamp()),
        ..worthless
    };
    if !is_provable(own) {
        // Nobody knows whether the client has the key, so it may be somebody else's certificate: no pin may fit it.
        return Certificate {
            sha256: Some(Sha256::default()),
            key_sha256: Some(Sha256::default()),
            ..described
        };
    }
    let verification = authorities.verify(chain, Purpose::Peer);
    Certificate {
        dns_names: Some(names(&parsed, verification.constrains_names)),
        sha256: Some(sha256(own)),
        key_sha256: Some(sha256(parsed.public_key().raw)),
        trust: Some(verification.trust),
        anchors: Some(verification.anchors),
        ..described
    }
}

/// The SHA-256 of a certificate's public key (subjectPublicKeyInfo, RFC 5280 section 4.1.2.7).
pub fn key_sha256(certificate: &CertificateDer<'_>) -> Option<Sha256> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(sha256(parsed.public_key().raw))
}

/// Whether the chain of a receiving server ends at a root.
pub fn trust_of_server(chain: &[CertificateDer<'_>], roots: &Roots) -> Trust {
    match chain.first().is_some_and(is_provable) {
        true => roots.verify(chain, Purpose::Server).trust,
        false => Trust::Invalid,
    }
}

/// The SAN dNSNames; where there is no SAN at all, the subject's CN. Constraints are held against the SAN only
/// (RFC 5280 §4.2.1.10), so below an authority that may not certify all names a CN says nothing.
fn names(certificate: &X509Certificate, constrained: bool) -> Vec<String> {
    // One that cannot be read is there all the same.
    let has_alternative = !matches!(certificate.subject_alternative_name(), Ok(None));
    if has_alternative || constrained {
        return dns_names(certificate);
    }
    let common_names = certificate.subject().iter_common_name();
    common_names
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned)
        .collect()
}
