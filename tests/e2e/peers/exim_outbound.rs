//! A real Exim that asks how to send, by `examples/exim/`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use portcullis_tests::exim::Exim;
use portcullis_tests::machine::free_address;
use portcullis_tests::resolver::{Authority, Signing, Zone};
use portcullis_tests::{Behaviour, Config, Https, Listener, MockServer, Pki, TestBed};

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
        let port = free_address().port();
        World::with(Pki::new(), port, &rules(port, pin), |config| config, None)
    }

    /// With these rules, a configuration that is changed so, and a name server.
    fn with(
        pki: Pki,
        port: u16,
        rules: &str,
        change: impl FnOnce(Config) -> Config,
        name_server: Option<IpAddr>,
    ) -> World {
        let address = free_address();
        let config = Config::new()
            .listener(Listener::maildir())
            .tenant_with("contoso", &["contoso.com"], "rules.json")
            .file("rules.json", rules)
            .partners_here(port)
            .with(&format!(
                "[[frontend]]\naddress = \"{address}\"\nprotocols = [\"policy\", \"socketmap\"]"
            ));
        let config = change(config).trust(&pki);
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
        let driver = format!("  driver = smtp\n  allow_localhost\n  port = {port}\n");
        let transport = transport.replace("  driver = smtp\n", &driver);
        let routers = at(ROUTERS).replace(" : 127.0.0.0/8 : ::1", "");
        let options = "domainlist local_domains = contoso.com\nqueue_run_max = 5\nno_message_logs\nacl_smtp_rcpt = accept\nbegin acl\n";
        let exim = match name_server {
            None => Exim::start_with(options, &routers, &transport),
            Some(address) => Exim::start_with_dns(address, options, &routers, &transport),
        };
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

const BY_NAME: &str = r#"{"connectors": [
    {"name": "Dane", "direction": "outbound", "to": {"recipient-domains": ["dane.test"]}, "tls": {"level": "encrypt"}},
    {"name": "Sts", "direction": "outbound", "to": {"recipient-domains": ["sts.test"]}, "tls": {"level": "encrypt"}},
    {"name": "Hub", "direction": "outbound", "to": {"recipient-domains": ["hubbed.test"]},
     "route": {"smart-hosts": ["hub.test:PORT"]}, "tls": {"level": "encrypt"}},
    {"name": "Named", "direction": "outbound", "to": {"recipient-domains": ["named.test"]},
     "route": {"smart-hosts": ["hub.test:PORT"]}, "tls": {"level": "name", "names": ["*.named.test"]}}
]}"#;

const RECORDS: &str = "
    dane MX 10 mx.dane
    mx.dane A 127.0.0.20
    _PORT._tcp.mx.dane TLSA 3 0 1 DIGEST
    sts MX 10 mx.sts
    mx.sts A 127.0.0.21
    _mta-sts.sts TXT \"v=STSv1; id=1;\"
    mta-sts.sts A 127.0.0.1
    hub A 127.0.0.22
";

/// Whose name server is this one. No other test has it.
const NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 53));

#[test]
fn exim_sends_by_what_the_name_server_says() {
    let (pki, port) = (Pki::new(), free_address().port());
    let right = Pki::self_signed(&["x.test"]);
    let filled = |text: &str| {
        text.replace("PORT", &port.to_string())
            .replace("DIGEST", &right.sha256())
    };
    let zones = [
        Zone::new(".", "ns.servers.test. A 127.0.0.1").signed(Signing::Nsec),
        Zone::new("test.", &filled(RECORDS)).signed(Signing::Nsec),
    ];
    let authority = Authority::start(&zones);
    let _unbound = authority.resolver_at(SocketAddr::new(NAME_SERVER, 53), true, &[]);
    let https = Https::start(
        &pki.trusted(&["mta-sts.sts.test"]),
        "version: STSv1\nmode: enforce\nmx: mx.sts.test\nmax_age: 86400\n",
    );
    let sts = pki.trusted(&["mx.sts.test"]);
    let named = pki.trusted(&["mx.named.test"]);
    let by_name = |config: Config| {
        let more = format!(
            "[dns]\nservers = [\"{NAME_SERVER}:53\"]\ntrust-anchor = \"root.key\"\n[delivery]\nmta-sts-port = {}",
            https.address.port()
        );
        let config = config.with(&more);
        config.file("root.key", authority.trust_anchor())
    };
    let wrong = pki.trusted(&["x.test"]);
    let world = World::with(pki, port, &filled(BY_NAME), by_name, Some(NAME_SERVER));
    for (domain, host, right) in [("dane.test", 20, &right), ("sts.test", 21, &sts)] {
        let partner = world.partner(host, Behaviour::with(&wrong));
        world.send(&format!("b@{domain}"));
        let log = || world.exim.log();
        assert!(partner.taken().is_empty(), "{domain}: {}", log());
        assert!(!world.exim.is_idle(), "{domain}: it waits: {}", log());
        partner.behave(Behaviour::with(right));
        world.exim.run_queue();
        assert_eq!(partner.taken().len(), 1, "{domain}: {}", log());
        assert!(world.exim.is_idle(), "{domain}: {}", log());
    }
    // Two recipients of one message, at one host, with connectors that ask for different things of it.
    let hub = world.partner(22, Behaviour::with(&wrong));
    let text = "From: a@contoso.com\nSubject: x\n\nhello\n";
    let both = ["b@hubbed.test", "b@named.test"];
    world.exim.submit("a@contoso.com", &both, text);
    let recipients = || -> Vec<String> {
        let taken = hub.taken();
        taken.iter().flat_map(|it| it.recipients.clone()).collect()
    };
    assert_eq!(recipients(), ["<b@hubbed.test>"], "{}", world.exim.log());
    assert!(!world.exim.is_idle());
    hub.behave(Behaviour::with(&named));
    world.exim.run_queue();
    assert_eq!(
        recipients(),
        ["<b@hubbed.test>", "<b@named.test>"],
        "{}",
        world.exim.log()
    );
    assert!(world.exim.is_idle());
}
