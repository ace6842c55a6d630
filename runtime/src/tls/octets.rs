//! Digests, and the names in a certificate.

use aws_lc_rs::digest::{Context, SHA256, digest};
use portcullis_types::Sha256;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// The SHA-256 of some octets.
pub fn sha256(octets: &[u8]) -> Sha256 {
    let mut digest_octets = [0; 32];
    digest_octets.copy_from_slice(digest(&SHA256, octets).as_ref());
    Sha256::from_octets(&digest_octets)
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

/// The digest of several runs of octets, in which none can pass for the end of another.
pub fn digest_of<'a>(runs: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for run in runs {
        context.update(&(run.len() as u64).to_be_bytes());
        context.update(run);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
