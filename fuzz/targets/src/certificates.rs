use std::sync::LazyLock;

use portcullis::tls::{Authorities, Roots, certificate};
use portcullis::{is_well_formed, satisfies};
use portcullis_tests::Pki;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A certificate that is as it should be.
pub static EXAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let identity = Pki::new().trusted(&["mx.example"]);
    identity.chain.concat()
});

/// Nothing is trusted, so that every chain is gone through to its end.
static NO_ROOTS: LazyLock<Authorities> = LazyLock::new(|| {
    let roots = Roots::new(Vec::new(), Default::default());
    Authorities::new(roots.expect("there is nothing to be read"), Vec::new())
});

/// Any octets are a certificate with facts or none; a name of it satisfies itself, if it is one.
pub fn certificates(input: &[u8]) {
    let chain = [CertificateDer::from_slice(input)];
    let facts = certificate::facts(&chain, &NO_ROOTS);
    certificate::trust_of_server(&chain, NO_ROOTS.public());
    if let Ok((_, parsed)) = X509Certificate::from_der(input) {
        certificate::dns_names(&parsed);
    }
    for name in facts.dns_names.iter().flatten() {
        let same = satisfies(name, name);
        assert!(same || !is_well_formed(name), "{name:?}");
    }
}
