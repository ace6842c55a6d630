//! What a TLS session tells of the peer: its certificate, its names, and whether its chain is trusted.

pub mod certificate;
pub mod names;
mod path;
mod roots;
mod verifier;

use rustls::{CommonState, SupportedCipherSuite};

pub use self::path::{Anchors, BadCrl, Crl, Judgement, Purpose, crls_of};
pub use self::roots::{Roots, RootsError};
pub use self::verifier::{AnyPeer, is_provable};
use crate::sandbox::interface::Tls;

/// The facts of a session whose handshake is done; the certificate is verified with `roots`.
pub fn facts(session: &CommonState, roots: &Roots) -> Tls {
    let suite = session.negotiated_cipher_suite();
    let certificate = session
        .peer_certificates()
        .filter(|chain| !chain.is_empty())
        .map(|chain| certificate::facts(chain, roots));
    Tls {
        version: session.protocol_version().map_or(0, u16::from),
        cipher: suite
            .as_ref()
            .map(SupportedCipherSuite::suite)
            .and_then(|suite| suite.as_str())
            .unwrap_or("unknown")
            .to_owned(),
        certificate,
    }
}
