//! SMTP sessions: what a client gets to know.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Answer, Loaded, Way, no_session, said};
use crate::client::Handshake;
use crate::pki::Identity;
use crate::{Client, Daemon, Pki};

const CONFIG: &str = r#"
hostname = "mx.contoso.com"
[[listener]]
address = "127.0.0.1:0"
certificate = "server.pem"
key = "server.key"
proxy-protocol = ["127.0.0.0/8"]
next-hop = { maildir = "mail" }
[[tenant]]
name = "cases"
domains = DOMAINS
policy = "POLICY"
[trust]
roots = "ca.pem"
[limits]
sessions-per-address = 1000
"#;

/// A server, and an authority whose certificates it trusts.
pub struct Smtp {
    pki: Pki,
    daemon: Option<Daemon>,
}

impl Smtp {
    /// Without a server yet.
    pub fn new() -> Smtp {
        Smtp {
            pki: Pki::new(),
            daemon: None,
        }
    }
}

impl Way for Smtp {
    fn name(&self) -> &'static str {
        "SMTP"
    }

    fn is_smtp(&self) -> bool {
        true
    }

    fn load(&mut self, policy: &Loaded<'_>) -> Result<(), String> {
        self.daemon = None;
        let folder = tempfile::tempdir().expect("a folder");
        let server = self.pki.trusted(&["mx.contoso.com"]);
        for (name, content) in [
            ("ca.pem", &self.pki.root_pem),
            ("server.pem", &server.certificate_pem),
            ("server.key", &server.key_pem),
        ] {
            fs::write(folder.path().join(name), content).expect("a file");
        }
        let config = CONFIG
            .replace("DOMAINS", &format!("{:?}", policy.domains))
            .replace("POLICY", put(&folder, policy));
        self.daemon = Some(Daemon::start_in(folder, &config));
        Ok(())
    }

    fn ask(&mut self, context: &Value) -> Answer {
        if let Some(reason) = no_session(context) {
            return Answer::Skip(reason);
        }
        let daemon = self.daemon.as_ref().expect("a policy is loaded first");
        play(daemon, &self.pki, context)
    }
}

/// Puts a policy into a folder, and gives the name of its file.
pub fn put(folder: &TempDir, policy: &Loaded<'_>) -> &'static str {
    let (name, written) = match policy.component {
        Some(component) => {
            let name = "policy.wasm";
            (
                name,
                fs::copy(component, folder.path().join(name)).map(drop),
            )
        }
        None => {
            let name = "rules.json";
            (
                name,
                fs::write(folder.path().join(name), policy.rules.to_string()),
            )
        }
    };
    written.expect("a file");
    name
}

fn play(daemon: &Daemon, pki: &Pki, context: &Value) -> Answer {
    let text = |field: &str| context[field].as_str().expect("a string").to_owned();
    let client_ip = text("client-ip").parse().expect("an address");
    let mut client = Client::connect_as(daemon.address(), client_ip);
    client.expect("EHLO client.example", 250);
    if context["tls"].is_object() {
        client.expect("STARTTLS", 220);
        let identity = identity(pki, &context["tls"]["certificate"]);
        let handshake = Handshake {
            identity: identity.as_ref(),
            version: None,
        };
        client.handshake(&handshake).expect("a handshake");
        client.expect("EHLO client.example", 250);
    }
    let at_rcpt = client.envelope(&text("mail-from"), &text("rcpt-to"));
    let last = match context["header-from"].as_array() {
        Some(addresses) if at_rcpt.code == 250 && !addresses.is_empty() => {
            let addresses: Vec<&str> = addresses.iter().filter_map(Value::as_str).collect();
            client.data(&format!(
                "From: {}\r\nSubject: test\r\n\r\nHello.",
                addresses.join(", ")
            ))
        }
        _ => at_rcpt,
    };
    Answer::Reply(match last.code {
        250 => json!({ "code": 250 }),
        code => said(code, &last.text()),
    })
}

/// A certificate with the names and the worth that a case asks for.
fn identity(pki: &Pki, certificate: &Value) -> Option<Identity> {
    let names: Vec<&str> = certificate
        .get("dns-names")?
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    Some(match certificate["trust"].as_str()? {
        "trusted" => pki.trusted(&names),
        "expired" => pki.expired(&names),
        "not-yet-valid" => pki.not_yet_valid(&names),
        "unknown-issuer" => Pki::self_signed(&names),
        other => panic!("no certificate can be made that is {other}"),
    })
}
