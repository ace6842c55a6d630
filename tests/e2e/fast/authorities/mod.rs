//! Authorities of partners: trusted for connectors that name them, and for nothing else.

mod inbound;
mod outbound;
mod reload;
mod tenants;
mod validate;

use portcullis_tests::pki::Identity;
use portcullis_tests::{Client, Daemon, Reply};

/// The name that partners' certificates have.
const NAME: &str = "mail.partner.test";

/// The connectors of a tenant for mail from each domain: all ask for a certificate with one name, and each for other
/// authorities.
const INBOUND: &str = r#"{"connectors": [
    {"name": "Partner", "direction": "inbound", "from": {"sender-domains": ["partner.test"]},
     "require": {"certificate-names": ["mail.partner.test"], "certificate-authorities": ["partner"]}},
    {"name": "Ordinary", "direction": "inbound", "from": {"sender-domains": ["ordinary.test"]},
     "require": {"certificate-names": ["mail.partner.test"]}},
    {"name": "Either", "direction": "inbound", "from": {"sender-domains": ["either.test"]},
     "require": {"certificate-names": ["mail.partner.test"], "certificate-authorities": ["public", "partner"]}}]}"#;

/// The reply to a recipient, from a client that shows a certificate.
fn inbound(daemon: &Daemon, shown: Option<&Identity>, from: &str, to: &str) -> Reply {
    let mut client = Client::greeted(daemon.address());
    client.hello(true, shown);
    client.envelope(from, to)
}

/// Holds that mail is refused by a connector for a reason.
fn assert_refused(reply: &Reply, connector: &str, failed: &str) {
    let told = format!("5.7.1 refused by connector \"{connector}\" ({failed})");
    assert_eq!(reply.code, 550, "{reply:?}");
    assert!(reply.text().starts_with(&told), "{reply:?}");
}

/// The chain without the authorities in between.
fn without_intermediate(identity: &Identity) -> Identity {
    Identity {
        chain: identity.chain[..1].to_vec(),
        ..identity.clone()
    }
}
