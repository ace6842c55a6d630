//! Which servers may have our passwords.

use rustls::pki_types::CertificateDer;

use crate::config::Login;
use crate::egress::partner::verify::server_is;
use portcullis::tls::{Authorities, certificate, is_provable};

/// Whether a server has proven to be the one that may have the password: by one of the digests that are configured, or by
/// a trusted certificate for its name, which is `name` unless another one is configured.
///
/// # Errors
/// Why not.
pub fn may_have_password(
    login: &Login,
    name: &str,
    chain: &[CertificateDer<'_>],
    authorities: &Authorities,
) -> Result<(), String> {
    let pins = &login.certificate_fingerprints;
    if pins.is_empty() {
        let name = login.certificate_name.as_deref().unwrap_or(name);
        return server_is(chain, name, authorities).map_err(|why| why.to_string());
    }
    match chain.first().filter(|own| is_provable(own)) {
        Some(own) if pins.contains(&certificate::sha256(own)) => Ok(()),
        _ => Err("its certificate is none of certificate-fingerprints".into()),
    }
}
