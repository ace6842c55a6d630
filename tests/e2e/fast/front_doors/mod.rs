//! Front doors: what other servers send and are answered. The servers themselves are among the peers.

mod commands;
mod corpus;
mod dialogs;
mod failing;
pub(crate) mod http;
mod milter;
mod policy;
mod socket;
mod socketmap;

use portcullis_tests::{Config, Listener, Pki, TestBed, front_door};

/// Rules of one tenant for all that front doors tell.
const RULES: &str = r#"{"connectors": [
    {"name": "Encrypted", "direction": "inbound", "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}},
    {"name": "Named", "direction": "inbound", "from": {"sender-domains": ["named.test"]},
     "require": {"certificate-names": ["mx.named.test"]}},
    {"name": "Ranges", "direction": "inbound", "from": {"sender-domains": ["ranges.test"]},
     "require": {"source-ips": ["192.0.2.0/24"]}},
    {"name": "On trial 100%", "direction": "inbound", "mode": "audit", "from": {"sender-domains": ["trial.test"]},
     "require": {"tls": true}}
]}"#;

/// The same for a tenant whose policy reads the From header.
const HEADER_RULES: &str = r#"{"connectors": [
    {"name": "From 100%", "direction": "inbound", "from": {"sender-domains": ["bank.test"]}, "match-header-from": true,
     "require": {"certificate-names": ["mx.bank.test"]}}
]}"#;

/// A daemon with a front door with these further lines, for `contoso.com` and, by header, `header.test`.
fn daemon(pki: &Pki, lines: &str) -> TestBed {
    started(config(pki, lines))
}

/// A daemon whose front door can be asked.
fn started(config: Config) -> TestBed {
    let daemon = TestBed::start(config);
    daemon.wait_for_log("listening for mail servers");
    daemon
}

fn config(pki: &Pki, lines: &str) -> Config {
    Config::new()
        .listener(Listener::maildir())
        .trust(pki)
        .tenant("contoso.com", RULES)
        .tenant("header.test", HEADER_RULES)
        .with(&front_door::table(lines))
}
