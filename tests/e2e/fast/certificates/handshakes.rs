//! Certificates of every kind in the handshake itself.

use portcullis_tests::openssl::{Made, OWN, OpensslPartner, Wish, Workshop};
use portcullis_tests::outbound::{ONCE, Outcome};
use portcullis_tests::{Config, Listener, NO_RULES, TestBed};

use super::{BANK, Inbound, World};

/// A key, and with which versions of TLS it is used. In TLS 1.3 a curve is part of the signature scheme, and some have
/// none.
const KEYS: [(&str, &[&str]); 11] = [
    ("P-256", &["", "-tls1_2", "-tls1_3"]),
    ("secp384r1", &["", "-tls1_2", "-tls1_3"]),
    ("secp521r1", &["", "-tls1_2", "-tls1_3"]),
    ("secp224r1", &["-tls1_2"]),
    ("secp256k1", &["-tls1_2"]),
    ("brainpoolP256r1", &["-tls1_2"]),
    ("rsa:1024", &["", "-tls1_2", "-tls1_3"]),
    ("rsa:2048", &["", "-tls1_2", "-tls1_3"]),
    ("ed25519", &["", "-tls1_2", "-tls1_3"]),
    ("ed448", &["", "-tls1_2", "-tls1_3"]),
    ("rsa-pss", &["", "-tls1_3"]),
];

#[test]
fn any_certificate_completes_the_handshake() {
    let world = World::new();
    let mut wrong = Vec::new();
    for (key, versions) in KEYS {
        for sha1 in [false, true] {
            let digest: &[&str] = match (sha1, key) {
                (false, _) => &[],
                // These have a digest of their own.
                (true, "ed25519" | "ed448") => continue,
                (true, _) => &["-sha1"],
            };
            let wish = Wish::new(BANK, OWN).key(key).options(digest);
            let own = world.shop.make(&wish, None);
            for version in versions {
                let case = format!("{key} {digest:?} {version}");
                wrong.extend(handshake_faults(&world, &own, version, &case));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// What is not as it should be with a certificate that nobody vouches for.
fn handshake_faults(world: &World, own: &Made, version: &'static str, case: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |is_so: bool, of: &str, said: String| {
        if !is_so {
            faults.push(format!("{case}, {of}: {said}"));
        }
    };
    match world.try_inbound(own, &[], version) {
        Err(said) => expect(false, "inbound", said),
        Ok(Inbound { bank, shop }) => {
            expect(bank.contains("(certificate-untrusted)"), "inbound", bank);
            expect(shop.starts_with("250 "), "inbound with TLS only", shop);
        }
    }
    let said = |outcome: &Outcome| format!("{} {}", outcome.text(), world.partner.said());
    let outcome = world.outbound("encrypt", own, &[], version);
    expect(outcome.is_delivered(), "encrypt", said(&outcome));
    let outcome = world.outbound("verify", own, &[], version);
    let is_so = outcome.last().code == 451 && outcome.text().contains("certificate-not-trusted");
    expect(is_so, "verify", said(&outcome));
    faults
}

#[test]
fn a_next_hop_may_show_any_certificate() {
    let partner = OpensslPartner::start();
    let config = Config::new()
        .listener(Listener::smtp(partner.address))
        .tenant("contoso.com", NO_RULES)
        .with(ONCE);
    let shop = Workshop::new();
    let show = |key, version| {
        let wish = Wish::new("/CN=hop", OWN).key(key);
        partner.show(shop.shown(&shop.make(&wish, None), &[], version));
    };
    show("P-256", "");
    let daemon = TestBed::start(config);
    for (number, (key, versions)) in KEYS.iter().enumerate() {
        // It takes nothing in plaintext.
        show(key, versions[0]);
        let mut client = daemon.client();
        let rcpt = client.envelope("a@example.org", "bob@contoso.com");
        assert_eq!(rcpt.code, 250, "{key}: {rcpt:?} {}", partner.said());
        let end = client.data("Subject: x\r\n\r\nx");
        assert_eq!(end.code, 250, "{key}: {end:?}");
        assert_eq!(partner.taken(), number + 1, "{key}");
    }
}

#[test]
fn a_client_that_cannot_use_its_certificate_is_one_without() {
    let world = World::new();
    let only_old = |(_, versions): &(_, &[&str])| versions == &["-tls1_2"];
    let keys: Vec<&str> = KEYS
        .into_iter()
        .filter(only_old)
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys.len(), 3);
    for key in keys {
        let wish = Wish::new(BANK, OWN).key(key);
        let own = world.shop.make(&wish, Some(&world.root));
        // It has no signature for TLS 1.3, where openssl then shows none.
        let inbound = world.inbound(&own, &[], "-tls1_3");
        assert!(
            inbound.bank.contains("(certificate-missing)"),
            "{key}: {inbound:?}"
        );
        assert!(inbound.shop.starts_with("250 "), "{key}: {inbound:?}");
        // A server goes back to TLS 1.2 for it.
        let outcome = world.outbound("name", &own, &[], "");
        assert!(
            outcome.is_delivered(),
            "{key}: {outcome:?} {}",
            world.partner.said()
        );
    }
}

#[test]
#[ignore = "rustls knows RSA-PSS keys in TLS 1.3 only (SignatureScheme::algorithm)"]
fn a_server_with_an_rsa_pss_key_and_tls_1_2_completes_the_handshake() {
    let world = World::new();
    let wish = Wish::new(BANK, OWN).key("rsa-pss");
    let own = world.shop.make(&wish, Some(&world.root));
    let outcome = world.outbound("encrypt", &own, &[], "-tls1_2");
    assert!(outcome.is_delivered(), "{}", outcome.text());
}

#[test]
#[ignore = "rustls takes handshake messages of 64 KiB at most"]
fn a_certificate_of_a_hundred_thousand_octets_completes_the_handshake() {
    let world = World::new();
    let names: Vec<String> = (0..2700)
        .map(|number| format!("DNS.{number} = h{number:06}.very-long-host-name.a.test"))
        .collect();
    let names = format!(
        "subjectAltName = @names\n[names]\nDNS.x = mail.a.test\n{}",
        names.join("\n")
    );
    let own = world.shop.own(&names, &world.root);
    assert!(world.inbound(&own, &[], "").bank.starts_with("250 "));
    assert!(world.outbound("name", &own, &[], "").is_delivered());
}
