//! Connections that are kept are for those only for whom they were verified.

use std::thread;

use portcullis_tests::outbound::{Outcome, SHORT_TIMEOUTS, Setting, send_from};
use portcullis_tests::{Behaviour, MockServer, Pki};

use super::{NAME, certificates, connector, document, keys, records};

const SMART_HOST: &str = r#""route": {"smart-hosts": ["mx.partner.test"]}, "tls""#;

/// All connectors use the same smart host, so nothing but `tls` tells their routes apart.
fn by_smart_host(connectors: &[String]) -> String {
    document(connectors).replace("\"tls\"", SMART_HOST)
}

struct World {
    setting: Setting,
    server: MockServer,
}

impl World {
    /// The tenants contoso.com and fabrikam.com with these rules, and a server that behaves like this.
    fn new(contoso: &str, fabrikam: &str, behaviour: Behaviour) -> World {
        let tenant = "
            [[tenant]]
            name = \"fabrikam\"
            domains = [\"fabrikam.com\"]
            policy = \"fabrikam.json\"
        ";
        let setting = Setting::start_with(
            Pki::new(),
            contoso,
            &[&records(&["lax.test", "strict.test", "partner.test"])],
            &format!("{SHORT_TIMEOUTS}{tenant}"),
            &[("fabrikam.json", fabrikam)],
        );
        let server = MockServer::start_at(setting.address(2), behaviour);
        World { setting, server }
    }

    fn send(&self, from: &str, to: &str) -> Outcome {
        send_from(&mut self.setting.client(), from, to)
    }

    fn assert_delivered(&self, from: &str, to: &str) {
        let outcome = self.send(from, to);
        assert!(outcome.is_delivered(), "{to}: {}", outcome.text());
    }

    fn assert_deferred(&self, from: &str, to: &str) {
        let before = self.server.taken().len();
        let outcome = self.send(from, to);
        assert_eq!(outcome.last().code, 451, "{to}: {}", outcome.text());
        assert!(
            outcome.text().contains("validation-failure"),
            "{}",
            outcome.text()
        );
        assert_eq!(self.server.taken().len(), before);
    }

    /// Holds that each handshake was a whole one, in which the server has shown its certificate.
    fn assert_nothing_is_resumed(&self) {
        assert_eq!(self.server.resumed(), 0);
    }
}

/// What the server's certificate does not satisfy, in each way in which two connectors can differ.
fn stricter() -> [String; 5] {
    let other = Pki::self_signed(&[NAME]);
    [
        certificates("encrypt", &[&other]),
        keys("encrypt", &[&other]),
        r#""level": "encrypt", "min-version": "TLSv1.3""#.into(),
        r#""level": "verify""#.into(),
        r#""level": "encrypt", "certificate-authorities": ["public"]"#.into(),
    ]
}

fn self_signed_with_tls12() -> Behaviour {
    Behaviour {
        // Its session tickets would be taken at once, other than those of TLS 1.3.
        tls12: true,
        ..Behaviour::with(&Pki::self_signed(&[NAME]))
    }
}

fn assert_other_reason(outcome: &Outcome) {
    assert_eq!(outcome.last().code, 451, "{}", outcome.text());
}

#[test]
fn a_connector_uses_no_connection_that_was_opened_for_a_laxer_one() {
    for strict in stricter() {
        println!("{strict}");
        let rules = by_smart_host(&[
            connector("lax.test", r#""level": "encrypt""#),
            connector("strict.test", &strict),
        ]);
        let world = World::new(&rules, portcullis_tests::NO_RULES, self_signed_with_tls12());
        let from = "a@contoso.com";
        for _ in 0..2 {
            world.assert_delivered(from, "b@lax.test");
            assert_other_reason(&world.send(from, "b@strict.test"));
        }
        assert_eq!(world.server.taken().len(), 2);
        // One that is kept, and one for each attempt that failed.
        assert_eq!(world.server.connections(), 3);
        world.assert_nothing_is_resumed();
    }
}

/// One message to both: what is open for one of its recipients is not for the other.
#[test]
fn recipients_of_one_message_do_not_share_what_only_one_of_them_may_use() {
    let own = Pki::self_signed(&[NAME]);
    let other = Pki::self_signed(&[NAME]);
    let rules = by_smart_host(&[
        connector("lax.test", &certificates("encrypt", &[&own, &other])),
        connector("strict.test", &certificates("encrypt", &[&other])),
    ]);
    let world = World::new(&rules, portcullis_tests::NO_RULES, Behaviour::with(&own));
    let mut client = world.setting.client();
    client.expect("MAIL FROM:<a@contoso.com>", 250);
    client.expect("RCPT TO:<b@lax.test>", 250);
    let refused = client.expect("RCPT TO:<b@strict.test>", 451);
    assert!(refused.text().contains("validation-failure"), "{refused:?}");
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    assert_eq!(world.server.wait_for(1)[0].recipients, ["<b@lax.test>"]);
}

#[test]
fn a_tenant_uses_no_connection_that_was_opened_for_a_laxer_one() {
    let own = Pki::self_signed(&[NAME]);
    let other = Pki::self_signed(&[NAME]);
    let with = |tls: &str| document(&[connector("partner.test", tls)]);
    for (lax, strict) in [
        (
            certificates("encrypt", &[&own]),
            certificates("encrypt", &[&other]),
        ),
        (keys("encrypt", &[&own]), keys("encrypt", &[&other])),
        (keys("encrypt", &[&own, &other]), keys("encrypt", &[&other])),
        // The same digests under the other name.
        (
            certificates("encrypt", &[&own]),
            certificates("encrypt", &[&own]).replace("fingerprints", "keys"),
        ),
    ] {
        let world = World::new(&with(&lax), &with(&strict), Behaviour::with(&own));
        world.assert_delivered("a@contoso.com", "b@partner.test");
        world.assert_deferred("a@fabrikam.com", "b@partner.test");
        // Several at a time find no gap.
        thread::scope(|scope| {
            for number in 0..8 {
                let world = &world;
                scope.spawn(move || match number % 2 {
                    0 => world.assert_delivered("a@contoso.com", "b@partner.test"),
                    _ => assert_other_reason(&world.send("a@fabrikam.com", "b@partner.test")),
                });
            }
        });
        assert_eq!(world.server.taken().len(), 5);
        world.assert_nothing_is_resumed();
    }
}

#[test]
fn a_pin_that_is_changed_is_not_satisfied_by_what_is_open() {
    let own = Pki::self_signed(&[NAME]);
    let other = Pki::self_signed(&[NAME]);
    let rules = |pinned| document(&[connector("partner.test", &keys("encrypt", &[pinned]))]);
    let world = World::new(
        &rules(&own),
        portcullis_tests::NO_RULES,
        Behaviour::with(&own),
    );
    let (from, to) = ("a@contoso.com", "b@partner.test");
    world.assert_delivered(from, to);
    let loaded = world.setting.daemon.count_log("policy loaded");
    let daemon = &world.setting.daemon;
    daemon.replace("rules.json", rules(&other).as_bytes());
    daemon.wait_for_log_times("policy loaded", loaded + 1);
    world.assert_deferred(from, to);
}

/// What is kept was verified when it was opened. The server may have another certificate since then, which the next
/// connection shows.
#[test]
fn a_server_whose_certificate_changes_is_noticed_with_the_next_connection() {
    let own = Pki::self_signed(&[NAME]);
    let rules = document(&[connector("partner.test", &certificates("encrypt", &[&own]))]);
    let world = World::new(
        &rules,
        portcullis_tests::NO_RULES,
        Behaviour {
            tls12: true,
            ..Behaviour::with(&own)
        },
    );
    let (from, to) = ("a@contoso.com", "b@partner.test");
    world.assert_delivered(from, to);
    world.server.behave(Behaviour {
        tls12: true,
        ..Behaviour::with(&own.renewed(&[NAME]))
    });
    world.server.hang_up();
    world.assert_deferred(from, to);
    world.assert_nothing_is_resumed();
}
