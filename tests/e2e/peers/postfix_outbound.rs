//! A real Postfix that asks how to send, by the settings of `docs/integrations/postfix.md`, or by tables made for it.

use std::net::SocketAddr;
use std::process::Command;

use portcullis_tests::machine::free_address;
use portcullis_tests::pki::Identity;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::{Behaviour, Config, MockServer, Pki, TestBed};

use crate::front_doors::block;

const POSTFIX: &str = include_str!("../../../docs/integrations/postfix.md");

/// Partners at addresses of this machine, so that neither side asks a name server.
fn rules(port: u16, pin: &str) -> String {
    format!(
        r#"{{"connectors": [
    {{"name": "Encrypted", "direction": "outbound", "to": {{"recipient-domains": ["encrypted.test"]}},
     "route": {{"smart-hosts": ["[127.0.0.2]:{port}"]}}, "tls": {{"level": "encrypt"}}}},
    {{"name": "Named", "direction": "outbound", "to": {{"recipient-domains": ["*.named.test"]}},
     "route": {{"smart-hosts": ["[127.0.0.9]:{port}", "[127.0.0.3]:{port}"]}},
     "tls": {{"level": "name", "names": ["mail.named.test"], "min-version": "TLSv1.3"}}}},
    {{"name": "Pinned", "direction": "outbound", "to": {{"recipient-domains": ["pinned.test"]}},
     "route": {{"smart-hosts": ["[127.0.0.4]:{port}"]}},
     "tls": {{"level": "encrypt", "certificate-fingerprints": ["{pin}"]}}}},
    {{"name": "Verified", "direction": "outbound", "to": {{"recipient-domains": ["verified.test"]}},
     "route": {{"smart-hosts": ["[127.0.0.5]:{port}"]}}, "tls": {{"level": "verify"}}}},
    {{"name": "Opportunistic", "direction": "outbound", "to": {{"recipient-domains": ["plain.test"]}},
     "route": {{"smart-hosts": ["[127.0.0.6]:{port}"]}}}}
]}}"#
    )
}

/// A Postfix, its partners, and Portcullis, which is not started yet.
struct World {
    postfix: Postfix,
    pki: Pki,
    pinned: Identity,
    config: Config,
    relay: SocketAddr,
    port: u16,
}

impl World {
    fn new() -> World {
        let pki = Pki::new();
        let port = free_address().port();
        let relay = free_address();
        let pinned = Pki::self_signed(&["anything.test"]);
        let settings = block(POSTFIX, "smtp_tls_policy_maps")
            .lines()
            .filter(|line| !line.starts_with("smtp_tls_CAfile"))
            .collect::<Vec<_>>()
            .join("\n");
        let postfix = Postfix::start(
            &format!(
                "{settings}\nmyhostname = mx.contoso.com\nrelayhost = [127.0.0.7]:{port}\nsmtp_tls_CAfile = $config_directory/ca.pem\n"
            ),
            None,
        );
        std::fs::write(postfix.configuration().join("ca.pem"), &pki.root_pem).expect("a file");
        let socket = postfix.folder_in_queue("portcullis").join("ask");
        let tables = [block(POSTFIX, "clients = "), block(POSTFIX, "relay = ")].concat();
        let table = tables
            .replace(
                "/var/spool/postfix/portcullis/ask",
                &socket.display().to_string(),
            )
            .replace("127.0.0.1:10025", &relay.to_string());
        let config = Config::new()
            .hostname("relay.contoso.com")
            .tenant_with("contoso", &["contoso.com"], "rules.json")
            .file("rules.json", rules(port, &pinned.sha256()))
            .trust(&pki)
            .partners_here(port)
            .with(&table);
        World {
            postfix,
            pki,
            pinned,
            config,
            relay,
            port,
        }
    }

    fn daemon(&self) -> TestBed {
        let daemon = TestBed::start(self.config.clone());
        daemon.wait_for_log("listening for mail servers");
        daemon
    }

    fn partner(&self, host: u8, behaviour: Behaviour) -> MockServer {
        MockServer::start_at(SocketAddr::from(([127, 0, 0, host], self.port)), behaviour)
    }

    /// Sends a message to a partner.
    fn send(&self, to: &str) {
        let text = format!("From: a@contoso.com\nTo: {to}\nSubject: x\n\nhello\n");
        self.postfix.submit("a@contoso.com", &[to], &text);
    }

    /// Waits until a message to a recipient is deferred for a reason.
    fn wait_for_deferral(&self, to: &str, why: &str) {
        let line = self.postfix.wait_for_log(&format!("to=<{to}>"));
        assert!(
            line.contains("status=deferred") && line.contains(why),
            "{line}\n{}",
            self.postfix.log()
        );
    }
}

#[test]
fn postfix_sends_as_connectors_say() {
    let world = World::new();
    let daemon = world.daemon();
    let right = world.pki.trusted(&["mail.named.test"]);
    let any = world.pki.trusted(&["any.test"]);
    let encrypted = world.partner(2, Behaviour::with(&Pki::self_signed(&["x.test"])));
    let named = world.partner(3, Behaviour::with(&right));
    let pinned = world.partner(4, Behaviour::with(&world.pinned));
    let verified = world.partner(5, Behaviour::with(&any));
    let plain = world.partner(6, Behaviour::default());
    let others = world.partner(7, Behaviour::default());
    for (to, partner, tls) in [
        ("b@encrypted.test", &encrypted, true),
        // The first of its smart hosts does not answer.
        ("b@sub.named.test", &named, true),
        ("b@pinned.test", &pinned, true),
        ("b@verified.test", &verified, true),
        ("b@plain.test", &plain, false),
        // No connector is about it: Postfix's own settings decide.
        ("b@other.test", &others, false),
    ] {
        world.send(to);
        let taken = partner.wait_for(1);
        assert_eq!(
            taken[0].recipients,
            [format!("<{to}>")],
            "{}",
            world.postfix.log()
        );
        assert_eq!(taken[0].tls, tls, "{to}\n{}", world.postfix.log());
    }
    world
        .postfix
        .wait_for_queue(|queue| queue.contains("is empty"));
    let relayed = world.postfix.wait_for_log("to=<b@verified.test>");
    assert!(
        relayed.contains(&format!(
            "relay=127.0.0.1[127.0.0.1]:{}",
            world.relay.port()
        )),
        "{relayed}"
    );
    daemon.wait_for_log("to=\"b@sub.named.test\"");
}

/// Nothing is sent below its level: not by Postfix, not by the relay.
#[test]
fn postfix_defers_what_partners_do_not_satisfy() {
    let world = World::new();
    let _daemon = world.daemon();
    let wrong = world.pki.trusted(&["mail.other.test"]);
    let stranger = Pki::self_signed(&["any.test"]);
    let partners = [
        world.partner(2, Behaviour::default()),
        world.partner(3, Behaviour::with(&wrong)),
        world.partner(4, Behaviour::with(&wrong)),
        world.partner(5, Behaviour::with(&stranger)),
    ];
    for (to, why) in [
        ("b@encrypted.test", "TLS is required, but was not offered"),
        ("b@x.named.test", "4.7.5"),
        ("b@pinned.test", "Server certificate not verified"),
        ("b@verified.test", "certificate-not-trusted"),
    ] {
        world.send(to);
        world.wait_for_deferral(to, why);
    }
    for partner in &partners {
        assert!(partner.taken().is_empty(), "{}", world.postfix.log());
    }
}

/// Mail waits while nobody answers, and goes when somebody does.
#[test]
fn postfix_keeps_mail_while_nobody_answers() {
    let world = World::new();
    let encrypted = world.partner(2, Behaviour::with(&Pki::self_signed(&["x.test"])));
    let daemon = world.daemon();
    world.send("b@encrypted.test");
    assert!(encrypted.wait_for(1)[0].tls);
    drop(daemon);
    world.send("c@encrypted.test");
    world.wait_for_deferral("c@encrypted.test", "4.3.0");
    assert_eq!(encrypted.taken().len(), 1);
    let _daemon = world.daemon();
    // Postfix knows for half a minute what became of the last address that it looked up: another one comes before it.
    world.send("d@encrypted.test");
    encrypted.wait_for(2);
    world.postfix.flush();
    assert!(encrypted.wait_for(3).iter().all(|taken| taken.tls));
    world
        .postfix
        .wait_for_queue(|queue| queue.contains("is empty"));
}

/// `portcullis export postfix` writes tables by which Postfix sends in the same way, and asks nobody.
#[test]
fn postfix_sends_by_tables() {
    let world = World::new();
    let folder = world.postfix.configuration();
    let file = folder.join("rules.json");
    std::fs::write(&file, rules(world.port, &world.pinned.sha256())).expect("a file");
    let tables = folder.join("portcullis");
    let tables = tables.to_str().expect("UTF-8");
    let file = file.to_str().expect("UTF-8");
    let output = portcullis_tests::run(&["export", "postfix", file, "-o", tables], b"");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("connector \"Verified\": Postfix has no level for a trusted certificate with any name; mail to verified.test is deferred"),
        "{told}"
    );
    let settings = [
        format!("transport_maps = texthash:{tables}/transport"),
        format!("smtp_tls_policy_maps = texthash:{tables}/tls_policy"),
    ];
    let configuration = folder.to_str().expect("UTF-8");
    for setting in &settings {
        let table = if setting.starts_with("t") {
            "transport"
        } else {
            "tls_policy"
        };
        let text = std::fs::read_to_string(format!("{tables}/{table}")).expect("a table");
        assert!(text.contains(&format!("#   {setting}\n")), "{text}");
        let status = Command::new("/usr/sbin/postconf")
            .args(["-c", configuration, "-e", setting])
            .status();
        assert!(status.expect("postconf").success());
    }
    world.postfix.reload();
    let right = world.pki.trusted(&["mail.named.test"]);
    let encrypted = world.partner(2, Behaviour::with(&Pki::self_signed(&["x.test"])));
    let named = world.partner(3, Behaviour::with(&right));
    let pinned = world.partner(4, Behaviour::with(&world.pinned));
    for (to, partner) in [
        ("b@encrypted.test", &encrypted),
        ("b@named.test", &named),
        ("b@sub.named.test", &named),
        ("b@pinned.test", &pinned),
    ] {
        let before = partner.taken().len();
        world.send(to);
        let taken = partner.wait_for(before + 1);
        assert_eq!(
            taken[before].recipients,
            [format!("<{to}>")],
            "{}",
            world.postfix.log()
        );
        assert!(taken[before].tls, "{to}\n{}", world.postfix.log());
    }
    world.send("b@verified.test");
    world.wait_for_deferral("b@verified.test", "Postfix has no level");
    named.behave(Behaviour::with(&world.pki.trusted(&["mail.other.test"])));
    world.send("c@named.test");
    world.wait_for_deferral("c@named.test", "4.7.5");
}

/// What `portcullis setup postfix --outbound` prints is what the document says, and the line that shows that it works does.
#[test]
fn setup_prints_and_makes_the_settings_of_the_way_out() {
    let world = World::new();
    let daemon = world.daemon();
    let configuration = world.postfix.configuration();
    let configuration = configuration.to_str().expect("UTF-8");
    let config = daemon.folder().join("portcullis.toml");
    let setup = |options: &[&str]| {
        let config = config.to_str().expect("UTF-8");
        let mut arguments = vec!["setup", "postfix", "--outbound", "--config", config];
        arguments.extend(["--directory", configuration]);
        arguments.extend(options);
        let output = portcullis_tests::run(&arguments, b"");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };
    let printed = setup(&[]);
    assert!(
        printed.contains("All settings are as they should be."),
        "{printed}"
    );
    let line = printed.lines().find(|line| line.contains("postmap -c"));
    let line = line.expect("a line").trim();
    assert!(printed.contains("prints \"encrypt\""), "{printed}");
    let output = Command::new("sh")
        .args(["-c", line])
        .output()
        .expect("a shell");
    // The domain's next hop is asked about, and that of a connector with smart hosts is one of these.
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "encrypt\n",
        "{output:?}"
    );
    for name in [
        "transport_maps",
        "smtp_tls_policy_maps",
        "smtp_tls_fingerprint_digest",
    ] {
        let status = Command::new("/usr/sbin/postconf")
            .args(["-c", configuration, "-X", name])
            .status();
        assert!(status.expect("postconf").success());
    }
    let status = Command::new("/usr/sbin/postconf")
        .args(["-c", configuration, "-e", "transport_maps = texthash:/x"])
        .status();
    assert!(status.expect("postconf").success());
    let printed = setup(&["--apply"]);
    for line in [
        "postconf -e 'transport_maps = socketmap:unix:portcullis/ask:route, texthash:/x'",
        "postconf -e 'smtp_tls_policy_maps = socketmap:unix:portcullis/ask:tls'",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    assert!(setup(&[]).contains("All settings are as they should be."));
}
