//! Servers whose certificate, key or TLS version was agreed on.

use portcullis_tests::outbound::{ONCE, Outcome, SHORT_TIMEOUTS, Setting};
use portcullis_tests::{Action, Behaviour, MockServer, Pki, Step};

use super::{NAME, certificates, connector, document, keys, records};

const OTHER_CERTIFICATE: &str =
    "validation-failure: the server's certificate is not one that was agreed on";
const OTHER_KEY: &str =
    "validation-failure: the server's certificate has another key than those that were agreed on";

struct World {
    setting: Setting,
    server: MockServer,
}

/// A daemon with a connector to each domain, and the server of all of them.
fn world(pki: Pki, connectors: &[(&str, String)]) -> World {
    let domains: Vec<&str> = connectors.iter().map(|(domain, _)| *domain).collect();
    let connectors: Vec<String> = connectors
        .iter()
        .map(|(domain, tls)| connector(domain, tls))
        .collect();
    let setting = Setting::start(
        pki,
        &document(&connectors),
        &[&records(&domains)],
        &format!("{SHORT_TIMEOUTS}{ONCE}"),
    );
    let server = MockServer::start_at(setting.address(2), Behaviour::default());
    World { setting, server }
}

impl World {
    /// Holds that mail to a domain is deferred for a reason, delivered without one, for a server like this.
    fn expect(&self, behaviour: Behaviour, expected: &[(&str, &str)]) {
        self.server.behave(behaviour);
        for (domain, reason) in expected {
            self.server.forget();
            let outcome: Outcome = self.setting.send(&format!("bob@{domain}"));
            let told = format!("{domain}: {}", outcome.text());
            let taken = self.server.taken();
            if reason.is_empty() {
                assert!(outcome.is_delivered(), "{told}");
                assert!(taken[0].tls, "{told}");
                continue;
            }
            assert_eq!(outcome.last().code, 451, "{told}");
            assert!(outcome.text().contains(reason), "{told}");
            assert!(taken.is_empty(), "{told}");
            let said = self.server.commands();
            let mail = said.iter().any(|line| line.contains("MAIL"));
            assert!(!mail, "{told}: {said:?}");
            self.setting
                .daemon
                .wait_for_log(&format!("server skipped: {NAME}[127.0.0.2]"));
        }
    }
}

#[test]
fn a_server_shows_the_certificate_that_was_agreed_on_whoever_has_issued_it() {
    let pki = Pki::new();
    let own = Pki::self_signed(&[NAME]);
    let next = Pki::self_signed(&[NAME]);
    // A certificate without the server's name in it, and one that is over: what counts is which one it is.
    let nameless = Pki::self_signed(&["localhost"]);
    let over = pki.expired(&[NAME]);
    let world = world(
        pki,
        &[
            ("certificate.test", certificates("encrypt", &[&own])),
            ("rollover.test", certificates("encrypt", &[&own, &next])),
            ("key.test", keys("encrypt", &[&own])),
            ("keys.test", keys("encrypt", &[&next, &own])),
            ("odd.test", certificates("encrypt", &[&nameless, &over])),
        ],
    );
    let all = ["certificate.test", "rollover.test", "key.test", "keys.test"];
    let expect = |identity, reasons: [&str; 4]| {
        let expected: Vec<(&str, &str)> = all.into_iter().zip(reasons).collect();
        world.expect(Behaviour::with(identity), &expected);
    };
    expect(&own, ["", "", "", ""]);
    let tls12 = Behaviour {
        tls12: true,
        ..Behaviour::with(&own)
    };
    world.expect(tls12, &[("certificate.test", ""), ("key.test", "")]);
    expect(&next, [OTHER_CERTIFICATE, "", OTHER_KEY, ""]);
    // The same key in a new certificate.
    let renewed = own.renewed(&[NAME]);
    assert_eq!(renewed.key_sha256(), own.key_sha256());
    expect(&renewed, [OTHER_CERTIFICATE, OTHER_CERTIFICATE, "", ""]);
    // An authority that everybody trusts makes no difference.
    let issued = world.setting.pki.trusted(&[NAME]);
    let [certificate, key] = [OTHER_CERTIFICATE, OTHER_KEY];
    expect(&issued, [certificate, certificate, key, key]);
    let issued_for_it = world.setting.pki.renew(&own, &[NAME]);
    expect(&issued_for_it, [certificate, certificate, "", ""]);
    let expected = [("odd.test", "")];
    world.expect(Behaviour::with(&nameless), &expected);
    world.expect(Behaviour::with(&over), &expected);
    let no_tls = "starttls-not-supported";
    world.expect(Behaviour::default(), &[("certificate.test", no_tls)]);
    let garbled = Behaviour::with(&own).but(Step::StartTls, Action::Say("2x0 go ahead\r\n"));
    world.expect(garbled, &[("key.test", "validation-failure")]);
}

/// A certificate that is shown as part of the chain is nobody's but its owner's.
#[test]
fn what_is_shown_behind_the_servers_own_certificate_satisfies_no_pin() {
    let own = Pki::self_signed(&[NAME]);
    let world = world(
        Pki::new(),
        &[
            ("certificate.test", certificates("encrypt", &[&own])),
            ("key.test", keys("encrypt", &[&own])),
        ],
    );
    let mut attacker = Pki::self_signed(&[NAME]);
    attacker.chain.push(own.chain[0].clone());
    world.expect(
        Behaviour::with(&attacker),
        &[
            ("certificate.test", OTHER_CERTIFICATE),
            ("key.test", OTHER_KEY),
        ],
    );
}

#[test]
fn pins_beside_what_else_is_required_must_hold_too() {
    let pki = Pki::new();
    let issued = pki.trusted(&[NAME]);
    let own = Pki::self_signed(&[NAME]);
    let misnamed = Pki::self_signed(&["mx.other.test"]);
    let authorities = r#", "certificate-authorities": ["public"]"#;
    let names = r#", "names": ["mx.partner.test"]"#;
    let both = [&issued, &own];
    let all = [&issued, &own, &misnamed];
    let world = world(
        pki,
        &[
            // The chain need not be trusted, but for authorities that are named.
            ("verify.test", certificates("verify", &both)),
            ("key.test", keys("verify", &both)),
            ("public.test", keys("verify", &both) + authorities),
            ("name.test", certificates("name", &all) + names),
            (
                "two.test",
                format!(
                    r#"{}, "certificate-keys": ["{}"]"#,
                    certificates("encrypt", &both),
                    own.key_sha256()
                ),
            ),
        ],
    );
    world.expect(
        Behaviour::with(&issued),
        &[
            ("verify.test", ""),
            ("key.test", ""),
            ("public.test", ""),
            ("name.test", ""),
            ("two.test", OTHER_KEY),
        ],
    );
    world.expect(
        Behaviour::with(&own),
        &[
            ("verify.test", ""),
            ("key.test", ""),
            ("public.test", "certificate-not-trusted"),
            ("name.test", ""),
            ("two.test", ""),
        ],
    );
    let mismatch = "certificate-host-mismatch";
    world.expect(Behaviour::with(&misnamed), &[("name.test", mismatch)]);
}

#[test]
fn a_server_that_speaks_an_older_version_of_tls_gets_no_mail() {
    let newer = r#""level": "encrypt", "min-version": "TLSv1.3""#;
    let older = r#""level": "encrypt", "min-version": "TLSv1.2""#;
    let named = r#""level": "name", "names": ["mx.partner.test"], "min-version": "TLSv1.3""#;
    let pki = Pki::new();
    let issued = pki.trusted(&[NAME]);
    let world = world(
        pki,
        &[
            ("newer.test", newer.into()),
            ("older.test", older.into()),
            ("name.test", named.into()),
        ],
    );
    let tls12 = Behaviour {
        tls12: true,
        ..Behaviour::with(&issued)
    };
    let reason = "validation-failure: the session is TLSv1.2, at least TLSv1.3 is required";
    let all = ["newer.test", "older.test", "name.test"];
    let expected: Vec<_> = all.into_iter().zip([reason, "", reason]).collect();
    world.expect(tls12, &expected);
    let expected: Vec<_> = all.into_iter().zip(["", "", ""]).collect();
    world.expect(Behaviour::with(&issued), &expected);
}
