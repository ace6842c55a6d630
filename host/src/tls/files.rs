//! Certificates and keys as files. What is wrong with one is told in a sentence, with what to do about it.

use std::io;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use crate::config::CertificateFiles;

/// A certificate chain with its key.
pub struct Pair {
    /// The chain, the own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// End of the own certificate's validity, in seconds since 1970.
    pub not_after: i64,
    /// What may become a problem.
    pub warnings: Vec<String>,
}

impl Clone for Pair {
    fn clone(&self) -> Self {
        Pair {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            not_after: self.not_after,
            warnings: self.warnings.clone(),
        }
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key.secret_der() == other.key.secret_der()
    }
}

impl Pair {
    /// Reads a certificate chain and its key (PEM).
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn read(files: &CertificateFiles) -> Result<Pair, TlsError> {
        let CertificateFiles { certificate, key } = files;
        let chain = certificates(certificate)?;
        let secret = private_key(key)?;
        let own = own_certificate(certificate, key, &chain, &secret)?;
        let (_, parsed) = X509Certificate::from_der(own)
            .map_err(|error| wrong(certificate, format!("the certificate is broken: {error}")))?;
        let validity = parsed.validity();
        let mut warnings = Vec::new();
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        if validity.not_before.timestamp() > now {
            warnings.push(format!(
                "{}: the certificate is not valid yet",
                certificate.display()
            ));
        }
        if crate::config::is_public(key) {
            warnings.push(format!(
                "{}: the key can be read by everybody on this machine: chmod 600 it, or 640 with a group of its own",
                key.display()
            ));
        }
        Ok(Pair {
            not_after: validity.not_after.timestamp(),
            chain,
            key: secret,
            warnings,
        })
    }

    /// The days that the own certificate has left; negative once it is over.
    pub fn days_left(&self) -> i64 {
        days_until(self.not_after)
    }
}

/// The days until a time in seconds since 1970; negative once it is over.
pub fn days_until(end: i64) -> i64 {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    (end - now).div_euclid(24 * 60 * 60)
}

/// The certificate that the key belongs to, which must be the first one.
fn own_certificate<'a>(
    certificate: &Path,
    key: &Path,
    chain: &'a [CertificateDer<'static>],
    secret: &PrivateKeyDer<'static>,
) -> Result<&'a CertificateDer<'static>, TlsError> {
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(secret)
        .map_err(|_| wrong(key, "the key is of a kind that is not supported: RSA from 2048 bits, ECDSA on P-256, P-384 or P-521, and Ed25519 are".into()))?;
    let public = signer
        .public_key()
        .ok_or_else(|| wrong(key, "the key has no public part".into()))?;
    let belongs = |certificate: &&CertificateDer<'static>| {
        X509Certificate::from_der(certificate)
            .is_ok_and(|(_, parsed)| parsed.public_key().raw == public.as_ref())
    };
    match chain.iter().position(|certificate| belongs(&certificate)) {
        Some(0) => Ok(&chain[0]),
        Some(place) => Err(wrong(
            certificate,
            format!(
                "the chain is in the wrong order: the certificate that {} belongs to is number {}, and must be the first",
                key.display(),
                place + 1
            ),
        )),
        None => Err(wrong(
            certificate,
            format!(
                "the key {} does not belong to the certificate",
                key.display()
            ),
        )),
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// If it cannot be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|_| wrong(path, instead(&pem, "certificate")))?;
    if chain.is_empty() {
        return Err(wrong(path, instead(&pem, "certificate")));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| wrong(path, instead(&pem, "private key")))
}

/// The largest file of PEM: a hundred times the roots of all systems.
const MAX_PEM: (usize, &str) = (32 << 20, "the limit of PEM files");

/// Reads a file of PEM, without the mark that some editors put in front.
fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    // What has no end, or no writer, must not be waited for.
    let bytes = portcullis::read_file(path, MAX_PEM);
    let bytes = bytes.map_err(|error| wrong(path, unreadable(&error)))?;
    Ok(bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .map(<[u8]>::to_vec)
        .unwrap_or(bytes))
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "cannot be read: {error}; give it to the group of this process (mode 640), or pass it on with LoadCredential= of systemd"
        ),
        _ => format!("cannot be read: {error}"),
    }
}

/// What a file holds that does not hold what is wanted.
fn instead(file: &[u8], wanted: &str) -> String {
    let convert = match wanted {
        "certificate" => "openssl x509 -inform DER -in FILE -out FILE.pem",
        _ => "openssl pkey -inform DER -in FILE -out FILE.pem",
    };
    if file.is_empty() {
        return format!("the file is empty; a {wanted} is wanted");
    }
    if file.starts_with(b"\xff\xfe") || file.starts_with(b"\xfe\xff") {
        return "it is UTF-16; save it as plain text".into();
    }
    if file.starts_with(b"\x30") {
        return format!("it is DER (or PKCS #12), and PEM is wanted: {convert}");
    }
    let has = |label: &str| memchr::memmem::find(file, label.as_bytes()).is_some();
    if has("ENCRYPTED") {
        return "the key is encrypted, and nobody is there to be asked for its passphrase: openssl pkey -in FILE -out FILE.pem".into();
    }
    let kinds = [
        ("CERTIFICATE REQUEST-----", "a certificate request"),
        ("PRIVATE KEY-----", "a private key"),
        ("PUBLIC KEY-----", "a public key"),
        ("BEGIN CERTIFICATE-----", "a certificate"),
        ("BEGIN X509 CRL-----", "a revocation list"),
        ("PARAMETERS-----", "parameters only"),
    ];
    match kinds.iter().find(|(label, _)| has(label)) {
        Some((_, found)) if *found == format!("a {wanted}") => {
            format!("the {wanted} in it is cut off or broken")
        }
        Some((_, found)) => format!("there is {found} in it, and no {wanted}"),
        None => format!("there is no {wanted} in it (PEM, \"-----BEGIN …-----\")"),
    }
}

pub(super) fn wrong(path: &Path, reason: String) -> TlsError {
    TlsError::File {
        path: path.into(),
        reason,
    }
}
