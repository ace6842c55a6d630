//! What a TLS session tells of the peer: its certificate, its names, and whether its chain is trusted.

mod authorities;
pub mod certificate;
mod octets;
mod path;
mod roots;
mod verifier;

use rustls::{CommonState, SupportedCipherSuite};

pub use self::authorities::{Authorities, Authority, PUBLIC, Verification};
pub use self::path::{Anchors, BadCrl, Crl, PathVerification, Purpose, crls_of};
pub use self::roots::{Roots, RootsError};
pub use self::verifier::{AnyPeer, is_provable};
use portcullis_types::{PeerCertificate, Tls};

/// The facts of a session whose handshake is done.
pub fn facts(session: &CommonState, authorities: &Authorities) -> Tls {
    let suite = session.negotiated_cipher_suite();
    let certificate = session
        .peer_certificates()
        .filter(|chain| !chain.is_empty())
        .map(|chain| certificate::facts(chain, authorities));
    Tls {
        version: session.protocol_version().map(u16::from),
        cipher: suite
            .as_ref()
            .map(SupportedCipherSuite::suite)
            .and_then(|suite| suite.as_str())
            .unwrap_or("unknown")
            .to_owned(),
        certificate: match certificate {
            Some(certificate) => PeerCertificate::Presented(certificate),
            None => PeerCertificate::None,
        },
    }
}
