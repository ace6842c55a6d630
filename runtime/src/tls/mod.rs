//! What a TLS session tells of the peer: its certificate, its names, and whether its chain is trusted.

mod authorities;
pub mod certificate;
mod octets;
mod path;
mod roots;
mod verifier;

use rustls::pki_types::CertificateDer;
use rustls::{CommonState, SupportedCipherSuite};

pub use self::authorities::{Authorities, Authority, PUBLIC, Verification};
pub use self::path::{Anchors, BadCrl, Crl, PathVerification, Purpose, crls_of};
pub use self::roots::{Roots, RootsError};
pub use self::verifier::{AnyPeer, is_provable};
use portcullis_types::{PeerCertificate, Tls};

/// The facts of a session whose handshake is done.
pub fn facts(session: &CommonState, authorities: &Authorities) -> Tls {
    let suite = session.negotiated_cipher_suite();
    let cipher = suite
        .as_ref()
        .map(SupportedCipherSuite::suite)
        .and_then(|suite| suite.as_str());
    let version = session.protocol_version().map(u16::from);
    let chain = session.peer_certificates().unwrap_or_default();
    facts_of(version, cipher.unwrap_or("unknown"), chain, authorities)
}

/// The same of a session by another library: its version as on the wire, the name of its cipher suite, and the
/// certificates that the peer has shown, its own first; none if there is none.
pub fn facts_of(
    version: Option<u16>,
    cipher: &str,
    chain: &[CertificateDer<'_>],
    authorities: &Authorities,
) -> Tls {
    Tls {
        version,
        cipher: cipher.to_owned(),
        certificate: match chain {
            [] => PeerCertificate::None,
            chain => PeerCertificate::Presented(certificate::facts(chain, authorities)),
        },
    }
}
