//! Certificates of every kind, made by an authority of the test's own.

use std::fs;
use std::path::Path;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, NameConstraints, PublicKeyData,
};
use time::{Duration, OffsetDateTime};

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    /// The chain, the own certificate first (DER).
    pub chain: Vec<Vec<u8>>,
    /// The key (PKCS#8 DER).
    pub key_der: Vec<u8>,
    /// The own certificate (PEM).
    pub certificate_pem: String,
    /// The key (PEM).
    pub key_pem: String,
}

impl Identity {
    /// Writes `NAME.pem` and `NAME.key` into a folder.
    pub fn write(&self, folder: &Path, name: &str) {
        fs::write(folder.join(format!("{name}.pem")), &self.certificate_pem).expect("a file");
        fs::write(folder.join(format!("{name}.key")), &self.key_pem).expect("a file");
    }

    /// The SHA-256 of the certificate, in hex digits.
    pub fn sha256(&self) -> String {
        sha256(&self.chain[0])
    }

    /// The SHA-256 of the public key (subjectPublicKeyInfo), in hex digits.
    pub fn key_sha256(&self) -> String {
        sha256(&self.key().subject_public_key_info())
    }

    /// A new certificate for the same key, that nobody vouches for.
    pub fn renewed(&self, names: &[&str]) -> Identity {
        let key = self.key();
        let certificate = params(names).self_signed(&key).expect("a certificate");
        identity(&certificate, &key)
    }

    fn key(&self) -> KeyPair {
        KeyPair::try_from(&self.key_der[..]).expect("a key")
    }
}

/// The SHA-256 of some octets, in hex digits.
pub fn sha256(octets: &[u8]) -> String {
    let digest = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .expect("a TLS 1.3 suite")
        .common
        .hash_provider
        .hash(octets);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An authority.
pub struct Pki {
    /// Its certificate, for `trust.roots`.
    pub root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for Pki {
    fn default() -> Self {
        Pki::new()
    }
}

impl Pki {
    /// A new authority.
    pub fn new() -> Pki {
        Pki::named("Test Root")
    }

    /// A new authority of that name.
    pub fn named(name: &str) -> Pki {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("a root");
        Pki {
            root_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A trusted certificate for these names; serverAuth only, as public authorities issue today.
    pub fn trusted(&self, names: &[&str]) -> Identity {
        self.issue(params(names))
    }

    /// A certificate that is over.
    pub fn expired(&self, names: &[&str]) -> Identity {
        let mut params = params(names);
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(60);
        params.not_after = now - Duration::days(30);
        self.issue(params)
    }

    /// A trusted certificate that has so many days left.
    pub fn with_days(&self, names: &[&str], days: i64) -> Identity {
        let mut params = params(names);
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(60);
        params.not_after = now + Duration::days(days) + Duration::hours(12);
        self.issue(params)
    }

    /// A certificate that has not begun.
    pub fn not_yet_valid(&self, names: &[&str]) -> Identity {
        let mut params = params(names);
        let now = OffsetDateTime::now_utc();
        params.not_before = now + Duration::days(30);
        params.not_after = now + Duration::days(60);
        self.issue(params)
    }

    /// A trusted certificate with these extended key usages, or none.
    pub fn with_usages(&self, names: &[&str], usages: &[ExtendedKeyUsagePurpose]) -> Identity {
        let mut params = params(names);
        params.extended_key_usages = usages.to_vec();
        self.issue(params)
    }

    /// A certificate that nobody vouches for.
    pub fn self_signed(names: &[&str]) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names).self_signed(&key).expect("a certificate");
        identity(&certificate, &key)
    }

    /// A trusted certificate for the key of another one.
    pub fn renew(&self, old: &Identity, names: &[&str]) -> Identity {
        let key = old.key();
        let certificate = params(names)
            .signed_by(&key, &self.issuer)
            .expect("a certificate");
        identity(&certificate, &key)
    }

    /// A trusted certificate whose chain goes over an intermediate authority, and that authority's
    /// certificate, which is in the chain as well.
    pub fn through_intermediate(&self, names: &[&str]) -> Identity {
        self.through(CertificateParams::default(), params(names))
    }

    /// A certificate with this common name and no other names, from an authority that may certify names below
    /// this one only.
    pub fn constrained(&self, permitted: &str, common_name: &str) -> Identity {
        let mut authority = CertificateParams::default();
        authority.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(permitted.into())],
            excluded_subtrees: Vec::new(),
        });
        let mut own = params(&[]);
        own.distinguished_name.push(DnType::CommonName, common_name);
        self.through(authority, own)
    }

    fn through(&self, mut params: CertificateParams, own: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "Test Intermediate");
        let certificate = params.signed_by(&key, &self.issuer).expect("an authority");
        let below = Pki {
            root_pem: String::new(),
            issuer: Issuer::new(params, key),
        };
        let mut identity = below.issue(own);
        identity.chain.push(certificate.der().to_vec());
        identity
    }

    /// A certificate of what these parameters say.
    pub fn issue(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        identity(&certificate, &key)
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).expect("names");
    params.distinguished_name.push(
        DnType::CommonName,
        names.first().cloned().unwrap_or_default(),
    );
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn identity(certificate: &Certificate, key: &KeyPair) -> Identity {
    Identity {
        chain: vec![certificate.der().to_vec()],
        key_der: key.serialize_der(),
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    }
}
