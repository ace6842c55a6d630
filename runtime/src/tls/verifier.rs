//! Certificates in the handshake, on either side: any will do, as long as the peer proves that it has
//! the key. What the certificate is worth is judged afterwards, so that a client certificate can be a
//! fact for the policy, and a refusal can say what was wrong with a server's.

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Public};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Verifier};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The signatures that peers may make, in the order of our wishes. OpenSSL's peers with a small RSA key take the first
/// that they know, and fail where it does not fit: so small digests stand first.
const SCHEMES: [u16; 20] = [
    0x0403, // ecdsa_secp256r1_sha256
    0x0503, // ecdsa_secp384r1_sha384
    0x0603, // ecdsa_secp521r1_sha512
    0x0807, // ed25519
    0x0804, // rsa_pss_rsae_sha256
    0x0809, // rsa_pss_pss_sha256
    0x0401, // rsa_pkcs1_sha256
    0x0805, // rsa_pss_rsae_sha384
    0x0806, // rsa_pss_rsae_sha512
    0x080a, // rsa_pss_pss_sha384
    0x080b, // rsa_pss_pss_sha512
    0x0501, // rsa_pkcs1_sha384
    0x0601, // rsa_pkcs1_sha512
    0x0808, // ed448
    0x081a, // ecdsa_brainpoolP256r1tls13_sha256 (RFC 8734)
    0x081b, // ecdsa_brainpoolP384r1tls13_sha384
    0x081c, // ecdsa_brainpoolP512r1tls13_sha512
    // Of TLS 1.2 with curves beyond those of TLS 1.3, by digest (RFC 5246 §7.4.1.4.1).
    0x0303, // ecdsa_sha224
    0x0301, // rsa_pkcs1_sha224
    0x0402, // dsa_sha256
];

/// Accepts every certificate whose key the peer has.
#[derive(Debug)]
pub struct AnyPeer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyPeer {
    /// A verifier with the provider's signature algorithms, and with OpenSSL's for the keys that it does not know.
    pub fn new(provider: &CryptoProvider) -> Self {
        AnyPeer {
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let bad = || Error::from(CertificateError::BadSignature);
        let Some(key) = public_key(certificate) else {
            // It proves nothing, and satisfies nothing: see `is_provable`.
            return Ok(HandshakeSignatureValid::assertion());
        };
        if self.is_good(message, &key, signature) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let outcome = match PKey::public_key_from_der(&key) {
            Ok(known) => match is_good(message, &known, signature) {
                Ok(true) => Ok(HandshakeSignatureValid::assertion()),
                Ok(false) | Err(_) => Err(bad()),
            },
            Err(_) => Ok(HandshakeSignatureValid::assertion()),
        };
        drop(ErrorStack::get());
        outcome
    }

    /// By the provider's algorithms.
    fn is_good(&self, message: &[u8], key: &[u8], signature: &DigitallySignedStruct) -> bool {
        let key = SubjectPublicKeyInfoDer::from(key);
        let Ok(key) = webpki::RawPublicKeyEntity::try_from(&key) else {
            return false;
        };
        let fitting = self.algorithms.mapping.iter();
        fitting
            .filter(|(scheme, _)| *scheme == signature.scheme)
            .flat_map(|(_, algorithms)| *algorithms)
            .any(|algorithm| {
                key.verify_signature(*algorithm, message, signature.signature())
                    .is_ok()
            })
    }
}

/// By OpenSSL.
fn is_good(
    message: &[u8],
    key: &PKey<Public>,
    signature: &DigitallySignedStruct,
) -> Result<bool, ErrorStack> {
    let scheme = u16::from(signature.scheme);
    let digest = match scheme {
        0x0303 | 0x0301 => Some(MessageDigest::sha224()),
        0x0401 | 0x0402 | 0x0403 | 0x0804 | 0x0809 | 0x081a => Some(MessageDigest::sha256()),
        0x0501 | 0x0503 | 0x0805 | 0x080a | 0x081b => Some(MessageDigest::sha384()),
        0x0601 | 0x0603 | 0x0806 | 0x080b | 0x081c => Some(MessageDigest::sha512()),
        _ => None,
    };
    let mut verifier = match digest {
        Some(digest) => Verifier::new(digest, key)?,
        None => Verifier::new_without_digest(key)?,
    };
    if matches!(scheme, 0x0804..=0x0806 | 0x0809..=0x080b) {
        verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
        verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
    }
    verifier.verify_oneshot(signature.signature(), message)
}

/// Whether a peer that shows this certificate has had to prove that it has the key. A key of a kind that nobody here
/// knows proves nothing.
pub fn is_provable(certificate: &CertificateDer<'_>) -> bool {
    let known = public_key(certificate).map(|key| PKey::public_key_from_der(&key).is_ok());
    drop(ErrorStack::get());
    known.unwrap_or(false)
}

/// The key alone is looked at, because the usual path refuses certificates that a handshake here must not fail on:
/// version 1, unknown critical extensions.
fn public_key(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.public_key().raw.to_vec())
}

/// RFC 8446 §4.2.3: in TLS 1.3 RSA signs with PSS only.
fn fits_tls13(scheme: SignatureScheme) -> Result<(), Error> {
    match u16::from(scheme) & 0xff {
        0x01 | 0x02 if u16::from(scheme) < 0x0800 => {
            Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
        }
        _ => Ok(()),
    }
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.verify(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            fits_tls13(signature.scheme)?;
            self.verify(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            SCHEMES.map(SignatureScheme::from).to_vec()
        }
    };
}

impl ClientCertVerifier for AnyPeer {
    signatures!();

    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // An empty list asks for any certificate (RFC 8446 §4.2.4).
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
}

impl ServerCertVerifier for AnyPeer {
    signatures!();

    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
}
