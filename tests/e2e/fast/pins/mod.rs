//! Certificates and keys that were agreed on with a partner, whoever has issued them.

mod inbound;
mod outbound;
mod reuse;
mod validate;

use portcullis_tests::pki::Identity;

/// The name that partners' certificates have.
const NAME: &str = "mx.partner.test";

/// The records of partners whose server is at 127.0.0.2.
fn records(domains: &[&str]) -> String {
    let mut records = "mx.partner.test. A 127.0.0.2\n".to_owned();
    for domain in domains {
        records.push_str(&format!("{domain}. MX 10 mx.partner.test.\n"));
    }
    records
}

/// An outbound connector to a domain, with these fields of `tls` (JSON).
fn connector(domain: &str, tls: &str) -> String {
    format!(
        r#"{{"name": "To {domain}", "direction": "outbound", "to": {{"recipient-domains": ["{domain}"]}},
            "tls": {{{tls}}}}}"#
    )
}

fn document(connectors: &[String]) -> String {
    format!(r#"{{"connectors": [{}]}}"#, connectors.join(","))
}

/// Fields of `tls`: a level, and the certificates that are agreed on.
fn certificates(level: &str, pinned: &[&Identity]) -> String {
    let pins: Vec<String> = pinned.iter().map(|identity| identity.sha256()).collect();
    format!(r#""level": "{level}", "certificate-fingerprints": {pins:?}"#)
}

/// Fields of `tls`: a level, and the keys that are agreed on.
fn keys(level: &str, pinned: &[&Identity]) -> String {
    let pins: Vec<String> = pinned
        .iter()
        .map(|identity| identity.key_sha256())
        .collect();
    format!(r#""level": "{level}", "certificate-keys": {pins:?}"#)
}
