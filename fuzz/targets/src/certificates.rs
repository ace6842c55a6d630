use std::sync::LazyLock;

use portcullis::tls::{certificate, names};
use portcullis_tests::Pki;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that is as it should be.
pub static EXAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let identity = Pki::new().trusted(&["mx.example"]);
    identity.chain.concat()
});

/// Any octets are a certificate with facts or none; a name of it satisfies itself, if it is one.
pub fn certificates(input: &[u8]) {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let chain = [CertificateDer::from_slice(input)];
    let facts = certificate::facts(&chain, &RootCertStore::empty(), &provider);
    certificate::trust_of_server(&chain, &RootCertStore::empty(), &provider);
    if let Ok((_, parsed)) = X509Certificate::from_der(input) {
        certificate::dns_names(&parsed);
    }
    for name in facts.iter().flat_map(|facts| &facts.dns_names) {
        let same = names::satisfies(name, name);
        assert!(same || !names::is_well_formed(name), "{name:?}");
    }
}
