//! A real Exim that asks how to send, by `examples/exim/`.

use std::net::SocketAddr;

use portcullis_tests::exim::Exim;
use portcullis_tests::sink::free_address;
use portcullis_tests::{Behaviour, Config, Listener, MockServer, Pki, TestBed};

const ROUTERS: &str = include_str!("../../../examples/exim/portcullis-send.conf");
const TRANSPORT: &str = include_str!("../../../examples/exim/portcullis-transport.conf");

/// Partners at addresses of this machine, so that neither side asks a name server.
fn rules(port: u16, pin: &str) -> String {
    let connector = |name: &str, host: u8, tls: &str| {
        format!(
            r#"{{"name": "{name}", "direction": "outbound", "to": {{"recipient-domains": ["{name}.test"]}},
                "route": {{"smart-hosts": ["[127.0.0.{host}]:{port}"]}}, "tls": {tls}}}"#
        )
    };
    let connectors = [
        connector("plain", 2, r#"{"level": "opportunistic"}"#),
        connector("encrypted", 3, r#"{"level": "encrypt"}"#),
        connector("verified", 4, r#"{"level": "verify"}"#),
        connector(
            "named",
            5,
            r#"{"level": "name", "names": ["*.named.test"]}"#,
        ),
        connector(
            "pinned",
            6,
            &format!(r#"{{"level": "encrypt", "certificate-fingerprints": ["{pin}"]}}"#),
        ),
        connector(
            "new",
            7,
            r#"{"level": "encrypt", "min-version": "TLSv1.3"}"#,
        ),
        connector(
            "key",
            8,
            &format!(r#"{{"level": "encrypt", "certificate-keys": ["{pin}"]}}"#),
        ),
    ];
    format!(r#"{{"connectors": [{}]}}"#, connectors.join(","))
}

struct World {
    exim: Exim,
    daemon: Option<TestBed>,
    pki: Pki,
    port: u16,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(pin: &str) -> World {
        let (pki, address, port) = (Pki::new(), free_address(), free_address().port());
        let config = Config::new()
            .listener(Listener::maildir())
            .tenant_with("contoso", &["contoso.com"], "rules.json")
            .file("rules.json", rules(port, pin))
            .partners_here(port)
            .with(&format!(
                "[[frontend]]\naddress = \"{address}\"\nprotocols = [\"policy\", \"socketmap\"]"
            ));
        let daemon = TestBed::start(config);
        daemon.wait_for_log("listening for mail servers");
        let folder = tempfile::tempdir().expect("a folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("the folder is opened");
        let roots = folder.path().join("ca.pem");
        std::fs::write(&roots, &pki.root_pem).expect("a file");
        let at = |text: &str| text.replace("127.0.0.1:8460", &address.to_string());
        // Other tests' partners are nowhere else; nothing is ignored for being here.
        let transport = at(TRANSPORT).replace("{system}", &format!("{{{}}}", roots.display()));
        let exim = Exim::start_with(
            "domainlist local_domains = contoso.com\nqueue_run_max = 5\nno_message_logs\nacl_smtp_rcpt = accept\nbegin acl\n",
            &at(ROUTERS),
            &transport.replace("  driver = smtp\n", "  driver = smtp\n  allow_localhost\n"),
        );
        World {
            exim,
            daemon: Some(daemon),
            pki,
            port,
            _folder: folder,
        }
    }

    fn partner(&self, host: u8, behaviour: Behaviour) -> MockServer {
        MockServer::start_at(SocketAddr::from(([127, 0, 0, host], self.port)), behaviour)
    }

    fn send(&self, to: &str) {
        let text = format!("From: a@contoso.com\nTo: {to}\nSubject: x\n\nhello\n");
        self.exim.submit("a@contoso.com", &[to], &text);
    }
}

#[test]
fn exim_sends_at_each_level() {
    let pinned = Pki::self_signed(&["anything.test"]);
    let world = World::new(&pinned.sha256());
    let stranger = Pki::self_signed(&["x.test"]);
    let any = world.pki.trusted(&["any.test"]);
    let named = world.pki.trusted(&["first.test", "mx.named.test"]);
    let old = Behaviour {
        tls12: true,
        ..Behaviour::with(&stranger)
    };
    // One name with a comma in it is not two.
    let wrong = world.pki.trusted(&["evil.test,mx.named.test"]);
    for (name, host, good, bad) in [
        ("plain", 2, Behaviour::default(), None),
        (
            "encrypted",
            3,
            Behaviour::with(&stranger),
            Some(Behaviour::default()),
        ),
        (
            "verified",
            4,
            Behaviour::with(&any),
            Some(Behaviour::with(&stranger)),
        ),
        (
            "named",
            5,
            Behaviour::with(&named),
            Some(Behaviour::with(&wrong)),
        ),
        (
            "pinned",
            6,
            Behaviour::with(&pinned),
            Some(Behaviour::with(&any)),
        ),
        ("new", 7, Behaviour::with(&stranger), Some(old)),
    ] {
        let to = format!("b@{name}.test");
        let partner = world.partner(host, bad.clone().unwrap_or_default());
        if bad.is_some() {
            world.send(&to);
            assert!(partner.taken().is_empty(), "{name}: {}", world.exim.log());
            assert!(
                !world.exim.is_idle(),
                "{name}: it waits: {}",
                world.exim.log()
            );
            partner.behave(good);
            world.exim.run_queue();
        } else {
            world.send(&to);
        }
        let taken = partner.taken();
        assert_eq!(taken.len(), 1, "{name}: {}", world.exim.log());
        assert_eq!(
            taken[0].tls,
            name != "plain",
            "{name}: {}",
            world.exim.log()
        );
        assert!(world.exim.is_idle(), "{name}: {}", world.exim.log());
    }
    // By the mail exchangers of the domain, of which the name server of the test knows none.
    world.send("b@example.invalid");
    let log = world.exim.log();
    assert!(!log.contains("R=portcullis_hosts defer"), "{log}");
    assert!(log.contains("b@example.invalid"), "{log}");
    // What Exim does not tell is not guessed.
    let partner = world.partner(8, Behaviour::with(&pinned));
    world.send("b@key.test");
    assert!(partner.taken().is_empty());
    let log = world.exim.log();
    assert!(
        log.contains("Exim does not tell the public key of a certificate"),
        "{log}"
    );
}

#[test]
fn exim_keeps_mail_while_nobody_answers() {
    let mut world = World::new(&Pki::self_signed(&["x.test"]).sha256());
    let partner = world.partner(2, Behaviour::default());
    world.daemon = None;
    world.send("b@plain.test");
    assert!(partner.taken().is_empty() && !world.exim.is_idle());
    let log = world.exim.log();
    assert!(log.contains("the policy cannot be asked"), "{log}");
}
