//! Each level of protection against servers that are honest and ones that are not.

use portcullis_tests::outbound::{LEVEL_RECORDS, LEVELS, ONCE, Outcome, SHORT_TIMEOUTS, Setting};
use portcullis_tests::pki::Identity;
use portcullis_tests::{Action, Behaviour, MockServer, Pki, Step};
use rcgen::ExtendedKeyUsagePurpose;

const NAMES: [&str; 4] = ["opportunistic", "encrypt", "verify", "name"];

/// What is expected at a level.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Delivered under TLS.
    Encrypted,
    /// Delivered in plaintext.
    Plain,
    /// Deferred, with this result in the reply.
    Deferred(&'static str),
}

use Expected::{Deferred, Encrypted, Plain};

struct World {
    setting: Setting,
    partner: MockServer,
}

impl World {
    fn new() -> World {
        let setting = Setting::start(
            Pki::new(),
            LEVELS,
            &[LEVEL_RECORDS],
            &format!("{SHORT_TIMEOUTS}{ONCE}"),
        );
        let partner = MockServer::start_at(setting.address(2), Behaviour::default());
        World { setting, partner }
    }

    /// Sends to each level, and holds what came of it against what is expected.
    fn expect(&self, what: &str, behaviour: Behaviour, expected: [Expected; 4]) {
        self.partner.behave(behaviour);
        for (level, expected) in NAMES.into_iter().zip(expected) {
            let taken = self.partner.taken().len();
            let said = self.partner.commands().len();
            let outcome = self.setting.send(&format!("bob@{level}.test"));
            let new = &self.partner.taken()[taken..];
            let case = format!("{what}, {level}: {}", outcome.text());
            match expected {
                Deferred(result) => {
                    assert!(new.is_empty(), "{case}");
                    assert_eq!(outcome.last().code, 451, "{case}");
                    assert!(outcome.text().contains(result), "{case}");
                    let said = self.partner.commands().split_off(said);
                    let told = said.iter().any(|line| line.contains("MAIL"));
                    assert!(!told, "{case}: not even the envelope is told: {said:?}");
                    let logged = format!("not delivered: {}", "mx.partner.test");
                    self.setting.daemon.wait_for_log(&logged);
                }
                Encrypted | Plain => {
                    assert!(outcome.is_delivered(), "{case}");
                    assert_eq!(new.len(), 1, "{case}");
                    assert_eq!(new[0].tls, matches!(expected, Encrypted), "{case}");
                    assert!(new[0].content.ends_with("\r\n..dot"), "{case}");
                }
            }
        }
    }
}

fn without_intermediate(identity: &Identity) -> Identity {
    Identity {
        chain: identity.chain[..1].to_vec(),
        ..identity.clone()
    }
}

#[test]
fn certificates_of_every_kind() {
    let world = World::new();
    let pki = &world.setting.pki;
    let trusted = |names: &[&str]| Behaviour::with(&pki.trusted(names));
    let not_trusted = Deferred("certificate-not-trusted");
    let mismatch = Deferred("certificate-host-mismatch");
    let all = [Encrypted; 4];
    world.expect("the right one", trusted(&["mx.partner.test"]), all);
    let tls12 = Behaviour {
        tls12: true,
        ..trusted(&["mx.partner.test"])
    };
    world.expect("TLS 1.2", tls12, all);
    world.expect("one label up", trusted(&["*.partner.test"]), all);
    world.expect(
        "two labels up",
        trusted(&["*.test"]),
        [Encrypted, Encrypted, Encrypted, mismatch],
    );
    world.expect(
        "another name",
        trusted(&["mx.other.test"]),
        [Encrypted, Encrypted, Encrypted, mismatch],
    );
    world.expect(
        "nobody vouches",
        Behaviour::with(&Pki::self_signed(&["mx.partner.test"])),
        [Encrypted, Encrypted, not_trusted, not_trusted],
    );
    let expired = Deferred("certificate-expired");
    world.expect(
        "it is over",
        Behaviour::with(&pki.expired(&["mx.partner.test"])),
        [Encrypted, Encrypted, expired, expired],
    );
    let invalid = Deferred("validation-failure");
    world.expect(
        "it has not begun",
        Behaviour::with(&pki.not_yet_valid(&["mx.partner.test"])),
        [Encrypted, Encrypted, invalid, invalid],
    );
    let for_clients = [ExtendedKeyUsagePurpose::ClientAuth];
    world.expect(
        "not one for servers",
        Behaviour::with(&pki.with_usages(&["mx.partner.test"], &for_clients)),
        [Encrypted, Encrypted, invalid, invalid],
    );
    let long = pki.through_intermediate(&["mx.partner.test"]);
    world.expect("with its intermediate", Behaviour::with(&long), all);
    world.expect(
        "without its intermediate",
        Behaviour::with(&without_intermediate(&long)),
        [Encrypted, Encrypted, not_trusted, not_trusted],
    );
}

#[test]
fn tls_that_is_withheld_or_broken() {
    let world = World::new();
    let right = world.setting.pki.trusted(&["mx.partner.test"]);
    let honest = || Behaviour::with(&right);
    let missing = Deferred("starttls-not-supported");
    let broken = Deferred("validation-failure");
    let no_tls = [Plain, missing, missing, missing];
    let bad_tls = [Plain, broken, broken, broken];
    world.expect("no STARTTLS", Behaviour::default(), no_tls);
    let stripped = Behaviour {
        hides_starttls: true,
        ..honest()
    };
    world.expect("the offer is stripped", stripped, no_tls);
    let say = |text| honest().but(Step::StartTls, Action::Say(text));
    world.expect("declined", say("454 4.7.0 not now\r\n"), no_tls);
    world.expect("declined for good", say("502 5.5.1 what?\r\n"), no_tls);
    world.expect("garbled", say("2x0 go ahead\r\n"), bad_tls);
    world.expect("not a reply", say("\x16\x03\x03\r\n"), bad_tls);
    world.expect(
        "plaintext behind the reply",
        say("220 go ahead\r\n250 mx.partner.test\r\n"),
        bad_tls,
    );
    let cut = honest().but(Step::StartTls, Action::Cut);
    world.expect("cut at STARTTLS", cut, bad_tls);
    let old = Behaviour {
        old_tls: true,
        ..honest()
    };
    world.expect("TLS 1.1 at most", old, bad_tls);
    let stalls = Behaviour {
        stalls_handshake: true,
        ..honest()
    };
    world.expect("the handshake stalls", stalls, bad_tls);
    let cut = honest().but(Step::EhloTls, Action::Cut);
    world.expect("cut behind the handshake", cut, bad_tls);
}

/// Where a session breaks, how, and what the client must be told.
#[test]
fn sessions_that_break_in_every_state() {
    let world = World::new();
    let right = world.setting.pki.trusted(&["mx.partner.test"]);
    let steps = [
        Step::Greeting,
        Step::Ehlo,
        Step::EhloTls,
        Step::Mail,
        Step::Rcpt,
        Step::Data,
        Step::End,
    ];
    let refused_for_now = Action::Say("450 4.2.9 not now\r\n");
    let refused_for_good = Action::Say("550 5.1.9 never\r\n");
    let garbage = Action::Say("hello\r\n");
    for step in steps {
        let before_mail = matches!(step, Step::Greeting | Step::Ehlo | Step::EhloTls);
        for (action, own) in [
            (Action::Cut, "451"),
            (Action::Silence, "451"),
            (garbage.clone(), "451"),
            (refused_for_now.clone(), "450 4.2.9 not now"),
            (refused_for_good.clone(), "550 5.1.9 never"),
        ] {
            // Before MAIL nothing is said about the mail, so nothing is a reason to give it up.
            let expected = if before_mail { "451" } else { own };
            let behaviour = Behaviour::with(&right).but(step, action.clone());
            let outcome = outcome(&world, behaviour);
            let case = format!("{action:?} at {step:?}: {}", outcome.text());
            assert!(outcome.text().starts_with(expected), "{case}");
            let at_end = matches!(step, Step::Data | Step::End);
            assert_eq!(outcome.end.is_some(), at_end, "{case}");
            assert!(world.partner.taken().is_empty(), "{case}");
        }
    }
}

#[test]
fn what_looks_like_success_is_not_taken_for_it() {
    let world = World::new();
    let right = world.setting.pki.trusted(&["mx.partner.test"]);
    let early = Behaviour::with(&right).but(Step::Data, Action::Say("250 2.0.0 taken\r\n"));
    let early = outcome(&world, early);
    assert_eq!(early.last().code, 451, "{}", early.text());
    let half = Behaviour::with(&right).but(Step::End, Action::Say("250-2.0.0 tak\r\n"));
    let half = outcome(&world, half);
    assert_eq!(half.last().code, 451, "{}", half.text());
    assert!(world.partner.taken().is_empty());
    // The one case in which SMTP itself doubles mail: taken, and the word of it lost.
    let lost = Behaviour::with(&right).but(Step::End, Action::TakeAndCut);
    let lost = outcome(&world, lost);
    assert_eq!(lost.last().code, 451, "{}", lost.text());
    assert_eq!(world.partner.taken().len(), 1);
}

fn outcome(world: &World, behaviour: Behaviour) -> Outcome {
    world.partner.behave(behaviour);
    world.setting.send("bob@name.test")
}

#[test]
fn replies_that_came_before_tls_are_not_taken_for_those_under_it() {
    let world = World::new();
    let identity = world.setting.pki.trusted(&["mx.partner.test"]);
    // Somebody without a key answers all that comes before the handshake at once, and passes on the rest.
    let ahead = "220 mx\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n";
    let behaviour = Behaviour::with(&identity).but(Step::Greeting, Action::Say(ahead));
    world.partner.behave(behaviour);
    for level in NAMES {
        let outcome = world.setting.send(&format!("bob@{level}.test"));
        assert_eq!(outcome.last().code, 451, "{level}: {}", outcome.text());
    }
    let commands = world.partner.commands();
    assert!(commands.is_empty(), "{commands:?}");
}

#[test]
fn a_partner_cannot_write_lines_into_the_log() {
    let world = World::new();
    let identity = world.setting.pki.trusted(&["mx.partner.test"]);
    let said =
        "454-no\r\n454-2026-01-01T00:00:00.000000Z  INFO decision forged\r\n454 x\r\x1b[2Jy\r\n";
    let declines = Behaviour::with(&identity).but(Step::StartTls, Action::Say(said));
    world.partner.behave(declines);
    let outcome = world.setting.send("bob@encrypt.test");
    assert_eq!(outcome.last().code, 451);
    // Logged last of all, so that what the partner said stands before it.
    world.setting.daemon.wait_for_log("recipient refused");
    let log = world.setting.daemon.log();
    let forged: Vec<_> = log.iter().filter(|line| line.contains("forged")).collect();
    assert!(!forged.is_empty(), "what the partner said is told");
    for line in forged {
        assert!(
            !line.starts_with("2026-01-01") && !line.contains(['\r', '\x1b']),
            "{line:?}"
        );
    }
}
