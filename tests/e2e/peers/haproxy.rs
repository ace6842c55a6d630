//! A real HAProxy that ends TLS, by the settings of `docs/integrations/haproxy.md`.

use std::fs;

use portcullis_tests::client::Handshake;
use portcullis_tests::haproxy::HaProxy;
use portcullis_tests::pki::Identity;
use portcullis_tests::sink::free_address;
use portcullis_tests::{Client, Config, Listener, Pki, TestBed};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use crate::front_doors::block;

const DOCUMENT: &str = include_str!("../../../docs/integrations/haproxy.md");

const RULES: &str = r#"{"connectors": [
    {"name": "Encrypted", "direction": "inbound", "from": {"sender-domains": ["bank.test"]},
     "require": {"tls": {"min-version": "TLSv1.3"}}},
    {"name": "Named", "direction": "inbound", "from": {"sender-domains": ["named.test"]},
     "require": {"certificate-names": ["mx.named.test"]}}
]}"#;

#[test]
fn haproxy_tells_of_the_tls_that_it_ends() {
    let pki = Pki::new();
    let daemon = TestBed::start(
        Config::new()
            .listener(Listener::maildir().proxied())
            .trust(&pki)
            .tenant("contoso.com", RULES),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let server = pki.trusted(&["mx.contoso.com"]);
    fs::write(
        file("mx.pem"),
        server.certificate_pem.clone() + &server.key_pem,
    )
    .expect("a file");
    fs::write(file("clients.pem"), &pki.root_pem).expect("a file");
    let address = free_address();
    let frontend = block(DOCUMENT, "bind :465")
        .replace(":465", &address.to_string())
        .replace("/etc/haproxy/mx.pem", &file("mx.pem"))
        .replace("/etc/haproxy/clients.pem", &file("clients.pem"));
    let backend = block(DOCUMENT, "send-proxy-v2-ssl-cn")
        .replace("127.0.0.1:2465", &daemon.address().to_string());
    let haproxy = HaProxy::start(&format!("{frontend}\n{backend}"), address);
    let reply = |identity: Option<&Identity>, version, from: &str| {
        let mut client = Client::connect(haproxy.address);
        let handshake = Handshake { identity, version };
        client.handshake(&handshake).expect("a handshake");
        assert_eq!(client.reply().code, 220, "{}", haproxy.said());
        client.expect("EHLO client.example", 250);
        let reply = client.envelope(from, "b@contoso.com");
        format!("{} {}", reply.code, reply.text())
    };
    assert!(reply(None, None, "a@bank.test").starts_with("250 "));
    let line = daemon.wait_for_log("from=\"a@bank.test\"");
    assert!(
        line.contains("tls=\"TLSv1.3\"") && line.contains("client=127.0.0.1"),
        "{line}"
    );
    let old = Some(&rustls::version::TLS12);
    let refused = reply(None, old, "a@bank.test");
    assert!(refused.contains("(tls-version)"), "{refused}");
    let of = |pki: &Pki, name: &str| pki.with_usages(&[name], &[ServerAuth, ClientAuth]);
    let taken = reply(Some(&of(&pki, "mx.named.test")), None, "a@named.test");
    assert!(taken.starts_with("250 "), "{taken}");
    // One name is told, and of a certificate that is not trusted, or of none, nothing. OpenSSL does not trust a client
    // with a certificate for servers.
    let stranger = Pki::named("Stranger");
    for identity in [
        Some(&of(&pki, "mx.other.test")),
        Some(&of(&stranger, "mx.named.test")),
        Some(&pki.trusted(&["mx.named.test"])),
        None,
    ] {
        let deferred = reply(identity, None, "a@named.test");
        assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    }
}
