//! Clients whose key was agreed on.

use portcullis_tests::client::Handshake;
use portcullis_tests::pki::Identity;
use portcullis_tests::{Client, Config, Listener, Pki, TestBed};

use super::NAME;

/// Mail from each domain needs a key, a certificate, or a key and an authority.
fn rules(own: &Identity, next: &Identity) -> String {
    let (key, next_key, certificate) = (own.key_sha256(), next.key_sha256(), own.sha256());
    let connector = |domain: &str, require: String| {
        format!(
            r#"{{"name": "{domain}", "direction": "inbound", "from": {{"sender-domains": ["{domain}"]}},
                "require": {{{require}}}}}"#
        )
    };
    let connectors = [
        connector("key.test", format!(r#""certificate-keys": ["{key}"]"#)),
        connector(
            "keys.test",
            format!(r#""certificate-keys": ["{next_key}", "{key}"]"#),
        ),
        connector(
            "certificate.test",
            format!(r#""certificate-fingerprints": ["{certificate}"]"#),
        ),
        connector(
            "public.test",
            format!(r#""certificate-keys": ["{key}"], "certificate-authorities": ["public"]"#),
        ),
    ];
    super::document(&connectors)
}

#[test]
fn a_client_shows_a_certificate_for_the_key_that_was_agreed_on() {
    let pki = Pki::new();
    let (own, next) = (Pki::self_signed(&[NAME]), Pki::self_signed(&[NAME]));
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .certificate(&pki)
        .tenant("contoso.com", &rules(&own, &next))
        .trust(&pki);
    let bed = TestBed::start(config);
    let renewed = own.renewed(&["mx.new.test"]);
    let issued = pki.renew(&own, &[NAME]);
    let other = pki.trusted(&[NAME]);
    // The chain of an attacker's certificate may have the right one in it.
    let mut behind = Pki::self_signed(&[NAME]);
    behind.chain.push(own.chain[0].clone());
    let [key, certificate] = ["certificate-key", "certificate-fingerprint"];
    let [untrusted, missing] = ["certificate-untrusted", "certificate-missing"];
    // What fails for mail from key.test, keys.test, certificate.test and public.test.
    for (what, shown, failed) in [
        ("the one", Some(&own), ["", "", "", untrusted]),
        ("the next one", Some(&next), [key, "", certificate, key]),
        ("renewed", Some(&renewed), ["", "", certificate, untrusted]),
        ("issued for it", Some(&issued), ["", "", certificate, ""]),
        ("another key", Some(&other), [key, key, certificate, key]),
        ("behind", Some(&behind), [key, key, certificate, key]),
        ("none", None, [missing; 4]),
    ] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let domains = ["key.test", "keys.test", "certificate.test", "public.test"];
            for (domain, failed) in domains.into_iter().zip(failed) {
                let mut client = Client::greeted(bed.address());
                client.hello(false, None);
                client.expect("STARTTLS", 220);
                let handshake = Handshake {
                    identity: shown,
                    version: Some(version),
                };
                client.handshake(&handshake).expect("the handshake is done");
                client.expect("EHLO client.example", 250);
                let reply = client.envelope(&format!("a@{domain}"), "bob@contoso.com");
                let told = format!("{what}, {domain}: {reply:?}");
                if failed.is_empty() {
                    assert_eq!(reply.code, 250, "{told}");
                    continue;
                }
                assert_eq!(reply.code, 550, "{told}");
                let expected = format!("5.7.1 refused by connector \"{domain}\" ({failed})");
                assert!(reply.text().starts_with(&expected), "{told}");
            }
        }
    }
    // In plaintext there is no key.
    let reply = bed.client().envelope("a@key.test", "bob@contoso.com");
    let expected = "5.7.1 refused by connector \"key.test\" (tls)";
    assert!(reply.text().starts_with(expected), "{reply:?}");
}
