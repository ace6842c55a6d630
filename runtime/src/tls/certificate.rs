//! The facts of a peer's certificate: its names, and whether its chain is trusted.

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Roots;
use super::path::Purpose;
use super::verifier::is_provable;
use crate::sandbox::interface::{Certificate, Trust};

/// The facts of a chain, the client's own certificate first.
pub fn facts(chain: &[CertificateDer<'_>], roots: &Roots) -> Certificate {
    let nothing = Certificate {
        dns_names: Vec::new(),
        subject: String::new(),
        issuer: String::new(),
        sha256: (0, 0, 0, 0),
        not_after: None,
        trust: Trust::Invalid,
    };
    let Some((own, Ok((_, parsed)))) = chain
        .first()
        .map(|own| (own, X509Certificate::from_der(own)))
    else {
        return nothing;
    };
    let described = Certificate {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        not_after: Some(parsed.validity().not_after.timestamp()),
        ..nothing
    };
    if !is_provable(own) {
        // Nobody knows whether the client has the key, so it may be somebody else's certificate.
        return described;
    }
    let judgement = roots.judge(chain, Purpose::Peer);
    Certificate {
        dns_names: names(&parsed, judgement.constrains_names),
        sha256: sha256(own),
        trust: judgement.trust,
        ..described
    }
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
pub fn trust_of_server(chain: &[CertificateDer<'_>], roots: &Roots) -> Trust {
    match chain.first().is_some_and(is_provable) {
        true => roots.judge(chain, Purpose::Server).trust,
        false => Trust::Invalid,
    }
}

/// The SAN dNSNames. They are IA5Strings (RFC 5280 §4.2.1.6): what has other characters is no name.
pub fn dns_names(certificate: &X509Certificate) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) if name.is_ascii() => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
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
