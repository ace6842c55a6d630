//! Curves that certificates in use are on and that our provider does not have. They are named last, as a client only,
//! so that servers may show such certificates in TLS 1.2 (RFC 8422 §5.1); an exchange on one of them is OpenSSL's.

use std::sync::{Arc, LazyLock};

use openssl::bn::BigNumContext;
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcKey, EcPoint, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use rustls::crypto::{
    ActiveKeyExchange, CipherSuiteCommon, CryptoProvider, SharedSecret, SupportedKxGroup, aws_lc_rs,
};
use rustls::{
    Error, NamedGroup, PeerMisbehaved, ProtocolVersion, SignatureScheme, SupportedCipherSuite,
    Tls12CipherSuite,
};

/// The provider of TLS as a client that takes every certificate which the protocol allows.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider
            .kx_groups
            .extend(CURVES.iter().map(|curve| curve as &dyn SupportedKxGroup));
        for suite in &mut provider.cipher_suites {
            if let SupportedCipherSuite::Tls12(known) = suite {
                *suite = SupportedCipherSuite::Tls12(with_ed448(known));
            }
        }
        Arc::new(provider)
    });
    PROVIDER.clone()
}

/// A suite of TLS 1.2 whose servers may sign with Ed448 as well, if they may with Ed25519.
fn with_ed448(suite: &'static Tls12CipherSuite) -> &'static Tls12CipherSuite {
    if !suite.sign.contains(&SignatureScheme::ED25519) {
        return suite;
    }
    let common = &suite.common;
    let sign: Vec<SignatureScheme> = suite
        .sign
        .iter()
        .copied()
        .chain([SignatureScheme::ED448])
        .collect();
    // There is one provider for the process.
    Box::leak(Box::new(Tls12CipherSuite {
        common: CipherSuiteCommon {
            suite: common.suite,
            hash_provider: common.hash_provider,
            confidentiality_limit: common.confidentiality_limit,
        },
        prf_provider: suite.prf_provider,
        kx: suite.kx,
        sign: sign.leak(),
        aead_alg: suite.aead_alg,
    }))
}

/// A curve, by its number in TLS and its name in OpenSSL.
#[derive(Debug)]
struct Curve(u16, Nid);

static CURVES: [Curve; 6] = [
    Curve(0x19, Nid::SECP521R1),
    Curve(0x1a, Nid::BRAINPOOL_P256R1),
    Curve(0x1b, Nid::BRAINPOOL_P384R1),
    Curve(0x1c, Nid::BRAINPOOL_P512R1),
    Curve(0x16, Nid::SECP256K1),
    Curve(0x15, Nid::SECP224R1),
];

/// An exchange that has begun.
struct Exchange {
    curve: u16,
    key: EcKey<Private>,
    public: Vec<u8>,
}

impl SupportedKxGroup for Curve {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let begin = || {
            let group = EcGroup::from_curve_name(self.1)?;
            let key = EcKey::generate(&group)?;
            let mut context = BigNumContext::new()?;
            let form = PointConversionForm::UNCOMPRESSED;
            let public = key.public_key().to_bytes(&group, form, &mut context)?;
            Ok(Exchange {
                curve: self.0,
                key,
                public,
            })
        };
        let begun: Result<Exchange, ErrorStack> = begin();
        let begun = begun.map_err(|error| Error::General(error.to_string()))?;
        Ok(Box::new(begun))
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::from(self.0)
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        // The others are none of TLS 1.3 (RFC 8446 §4.2.7).
        version == ProtocolVersion::TLSv1_2 || self.1 == Nid::SECP521R1
    }
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let derive = || {
            let group = self.key.group();
            let mut context = BigNumContext::new()?;
            let point = EcPoint::from_bytes(group, peer, &mut context)?;
            let public = EcKey::from_public_key(group, &point)?;
            public.check_key()?;
            let (own, public) = (
                PKey::from_ec_key(self.key.clone())?,
                PKey::from_ec_key(public)?,
            );
            let mut deriver = Deriver::new(&own)?;
            deriver.set_peer(&public)?;
            deriver.derive_to_vec()
        };
        let secret: Result<Vec<u8>, ErrorStack> = derive();
        secret
            .map(|secret| SharedSecret::from(&secret[..]))
            .map_err(|_| PeerMisbehaved::InvalidKeyShare.into())
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::from(self.curve)
    }
}
