//! Peers with old TLS: cipher suites without forward secrecy or with CBC, which are for those only who are listed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use portcullis_tests::dovecot::Dovecot;
use portcullis_tests::openssl::{AUTHORITY, Made, OWN, Wish, Workshop, s_client};
use portcullis_tests::outbound::Setting;
use portcullis_tests::pki::Identity;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::programs::missing;
use portcullis_tests::{Config, Listener, Pki, TestBed};
use tempfile::TempDir;

/// The client with old TLS that is listed, and another one.
const LISTED: &str = "127.0.0.2";
const OTHER: &str = "127.0.0.3";

/// RSA key exchange, and CBC.
const OLD: &str = "AES128-SHA";

const RULES: &str = r#"{"connectors": [
    {"name": "Bank", "direction": "inbound", "from": {"sender-domains": ["bank.test"]},
     "require": {"certificate-names": ["mail.bank.test"]}}]}"#;

/// For an RSA key that keys are exchanged with.
fn extensions(name: &str) -> String {
    format!(
        "{OWN}\nkeyUsage = critical, digitalSignature, keyEncipherment\nsubjectAltName = DNS:{name}"
    )
}

struct Inbound {
    shop: Workshop,
    root: Made,
    daemon: TestBed,
}

impl Inbound {
    fn new() -> Inbound {
        let shop = Workshop::new();
        let root = shop.ca("/CN=Root", "", None);
        let extensions = extensions("mx.contoso.com");
        let wish = Wish::new("/CN=mx.contoso.com", &extensions).key("rsa:2048");
        let own = shop.make(&wish, Some(&root));
        let legacy = "legacy-ciphers = [\"127.0.0.2\", \"10.0.0.0/8\"]";
        let config = Config::new()
            .listener(Listener::maildir().starttls().with(legacy))
            .listener(Listener::maildir().implicit_tls().with(legacy))
            .listener(Listener::maildir().starttls())
            .file("server.pem", own.pem())
            .file("server.key", own.key_pem())
            .tenant("contoso.com", RULES)
            .with("[trust]\nroots = \"ca.pem\"")
            .file("ca.pem", root.pem());
        Inbound {
            shop,
            root,
            daemon: TestBed::start(config),
        }
    }

    /// What s_client says of a session by STARTTLS from an address.
    fn session(&self, listener: usize, from: &str, options: &str, input: &str) -> String {
        let from = format!("{from}:0");
        let mut list = vec!["-bind", &from];
        list.extend(options.split_whitespace());
        s_client(self.daemon.addresses[listener], None, &list, input)
    }

    /// The version and suite of a handshake, or the alert that ends it.
    fn handshake(&self, from: &str, options: &str) -> String {
        self.handshake_with(0, from, options)
    }

    fn handshake_with(&self, listener: usize, from: &str, options: &str) -> String {
        let text = self.session(listener, from, options, "QUIT\r\n");
        let alert = text
            .lines()
            .find_map(|line| line.split(":SSL alert number ").nth(1));
        if let Some(alert) = alert {
            return format!("alert {alert}");
        }
        let suite = text.lines().find_map(|line| line.strip_prefix("New, "));
        let suite = suite.unwrap_or_else(|| panic!("{options}: {text}"));
        assert!(text.contains("221 "), "{text}");
        suite.replace(", Cipher is", "")
    }

    /// The code with which swaks ends, and what it says.
    fn swaks(&self, listener: usize, options: &str) -> (i32, String) {
        let output = Command::new("swaks")
            .current_dir(self.daemon.folder())
            .args(["--server", &self.daemon.addresses[listener].to_string()])
            .args(["--to", "bob@contoso.com", "--tls-protocol", "tlsv1_2"])
            .args(options.split_whitespace())
            .output()
            .unwrap_or_else(missing("swaks"));
        let code = output.status.code().expect("swaks ends");
        (code, String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The reply to a recipient of the bank's client with that certificate, by the old suite.
    fn of_the_bank(&self, shown: Option<(&Made, &[Made])>) -> String {
        let mut options = format!("-quiet -tls1_2 -cipher {OLD}:@SECLEVEL=0");
        if let Some((own, between)) = shown {
            options += &format!(
                " -cert {} -key {}",
                own.certificate.display(),
                own.key.display()
            );
            if !between.is_empty() {
                let pem: String = between.iter().map(Made::pem).collect();
                let path = self.shop.write("pem", &pem);
                options += &format!(" -cert_chain {}", path.display());
            }
        }
        let input = "EHLO client.example\r\nMAIL FROM:<a@bank.test>\r\nRCPT TO:<bob@contoso.com>\r\nQUIT\r\n";
        let text = self.session(0, LISTED, &options, input);
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.iter().position(|line| line.starts_with("221 "));
        let end = end.unwrap_or_else(|| panic!("{text}"));
        lines[end - 1].to_owned()
    }
}

#[test]
fn old_suites_are_for_clients_that_are_listed() {
    let world = Inbound::new();
    for suite in [
        OLD,
        "AES256-SHA",
        "AES128-SHA256",
        "AES256-SHA256",
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA256",
        "ECDHE-RSA-AES256-SHA384",
    ] {
        let options = format!("-tls1_2 -cipher {suite}:@SECLEVEL=0");
        assert!(
            world.handshake(LISTED, &options).ends_with(suite),
            "{suite}"
        );
        // handshake_failure (RFC 5246 §7.2).
        assert_eq!(world.handshake(OTHER, &options), "alert 40", "{suite}");
        let elsewhere = world.handshake_with(2, LISTED, &options);
        assert_eq!(elsewhere, "alert 40", "{suite}, another listener");
    }
}

/// Being listed makes nothing worse for those who have better.
#[test]
fn a_listed_client_gets_the_best_that_it_has() {
    let world = Inbound::new();
    for from in [LISTED, OTHER] {
        let best = world.handshake(from, "");
        assert!(best.starts_with("TLSv1.3 TLS_AES_"), "{best}");
        let options = format!("-tls1_2 -cipher {OLD}:AES256-SHA:ECDHE-RSA-AES128-GCM-SHA256");
        let best = world.handshake(from, &options);
        assert_eq!(best, "TLSv1.2 ECDHE-RSA-AES128-GCM-SHA256");
    }
}

#[test]
fn what_is_worse_fails_for_all() {
    let world = Inbound::new();
    for from in [LISTED, OTHER] {
        for version in ["-tls1", "-tls1_1"] {
            let options = format!("{version} -cipher ALL:@SECLEVEL=0");
            // protocol_version (RFC 5246 §7.2), or handshake_failure for want of what TLS 1.2 has.
            let alert = world.handshake(from, &options);
            assert!(["alert 70", "alert 40"].contains(&&*alert), "{alert}");
        }
        for suite in [
            "NULL-SHA256",
            "ECDHE-RSA-NULL-SHA",
            "ADH-AES128-SHA256",
            "AECDH-AES128-SHA",
        ] {
            let options = format!("-tls1_2 -cipher {suite}:@SECLEVEL=0");
            assert_eq!(world.handshake(from, &options), "alert 40", "{suite}");
        }
    }
}

#[test]
fn an_old_client_sends_its_mail() {
    let world = Inbound::new();
    for (listener, tls) in [(0, "--tls"), (1, "--tls-on-connect")] {
        let options = |from: &str| {
            format!(
                "--from a@example.org --local-interface {from} {tls} --tls-cipher {OLD}:@SECLEVEL=0"
            )
        };
        let before = world.daemon.maildir("mail").len();
        let (code, output) = world.swaks(listener, &options(LISTED));
        assert_eq!(code, 0, "{output}");
        let (code, output) = world.swaks(listener, &options(OTHER));
        // It has failed to begin TLS.
        assert_eq!(code, 29, "{output}");
        let mail = world.daemon.maildir("mail");
        assert_eq!(mail.len(), before + 1);
        assert!(
            mail.iter()
                .all(|text| text.contains("TLSv1.2 with cipher TLS_RSA_WITH_AES_128_CBC_SHA")),
            "{mail:?}"
        );
    }
}

#[test]
fn certificates_count_by_old_suites_as_well() {
    let world = Inbound::new();
    let (shop, root) = (&world.shop, &world.root);
    let make = |name: &str, issuer: Option<&Made>| {
        let extensions = extensions(name);
        let subject = format!("/CN={name}");
        shop.make(&Wish::new(&subject, &extensions).key("rsa:2048"), issuer)
    };
    let right = make("mail.bank.test", Some(root));
    let between = shop.make(&Wish::new("/CN=Intermediate", AUTHORITY), Some(root));
    let below = make("mail.bank.test", Some(&between));
    let wrong = make("mail.other.test", Some(root));
    let stranger = make("mail.bank.test", None);
    let taken = |shown| {
        let reply = world.of_the_bank(shown);
        assert!(reply.starts_with("250 2.1.5 "), "{reply}");
    };
    taken(Some((&right, &[])));
    taken(Some((&below, std::slice::from_ref(&between))));
    for (shown, why) in [
        (None, "(certificate-missing)"),
        (Some((&wrong, &[][..])), "(certificate-name)"),
        (Some((&stranger, &[][..])), "(certificate-untrusted)"),
        // Nobody shows what is between it and the root.
        (Some((&below, &[][..])), "(certificate-untrusted)"),
    ] {
        let reply = world.of_the_bank(shown);
        assert!(
            reply.starts_with("550 5.7.1 ") && reply.contains(why),
            "{why}: {reply}"
        );
    }
}

/// Connectors to partners whose servers all have old TLS. Smart hosts are where we log in.
const CONNECTORS: &str = r#"{"connectors": [
    {"name": "Encrypt", "direction": "outbound", "tls": {"level": "encrypt"},
     "to": {"recipient-domains": ["listed.test", "unlisted.test", "stranger.test"]}},
    {"name": "Verify", "direction": "outbound", "tls": {"level": "verify"},
     "to": {"recipient-domains": ["verified.test", "strangers.test"]}},
    {"name": "Name", "direction": "outbound", "tls": {"level": "name", "names": ["mx.old.test"]},
     "to": {"recipient-domains": ["named.test"]}},
    {"name": "Wrong name", "direction": "outbound", "tls": {"level": "name", "names": ["mx.other.test"]},
     "to": {"recipient-domains": ["wrong.test"]}},
    {"name": "Hub", "direction": "outbound", "tls": {"level": "encrypt"},
     "to": {"recipient-domains": ["by-hub.test"]}, "route": {"smart-hosts": ["hub.test"]}},
    {"name": "Unlisted hub", "direction": "outbound", "tls": {"level": "encrypt"},
     "to": {"recipient-domains": ["by-unlisted.test"]}, "route": {"smart-hosts": ["unlisted-hub.test"]}},
    {"name": "Wrong hub", "direction": "outbound", "tls": {"level": "encrypt"},
     "to": {"recipient-domains": ["by-wrong.test"]}, "route": {"smart-hosts": ["wrong-hub.test"]}}
]}"#;

const RECORDS: &str = "
    listed.test. MX 10 mx.old.test.
    unlisted.test. MX 10 mx.old.test.
    verified.test. MX 10 mx.old.test.
    named.test. MX 10 mx.old.test.
    wrong.test. MX 10 mx.old.test.
    stranger.test. MX 10 mx.stranger.test.
    strangers.test. MX 10 mx.stranger.test.
    mx.old.test. A 127.0.0.2
    mx.stranger.test. A 127.0.0.3
    hub.test. A 127.0.0.4
    unlisted-hub.test. A 127.0.0.4
    wrong-hub.test. A 127.0.0.4
";

const DELIVERY: &str = r#"
    [delivery]
    legacy-ciphers = ["listed.test", "verified.test", "named.test", "wrong.test", "stranger.test", "strangers.test", "hub.test", "wrong-hub.test"]
    [[delivery.smart-host]]
    address = "hub.test"
    username = "app"
    password-file = "secret"
    [[delivery.smart-host]]
    address = "unlisted-hub.test"
    username = "app"
    password-file = "secret"
    [[delivery.smart-host]]
    address = "wrong-hub.test"
    username = "app"
    password-file = "secret"
"#;

/// A server that knows one old suite only, at three addresses.
struct Outbound {
    setting: Setting,
    postfix: Postfix,
    dovecot: Dovecot,
    _folder: TempDir,
}

impl Outbound {
    fn new() -> Outbound {
        let setting = Setting::start_with(
            Pki::new(),
            CONNECTORS,
            &[RECORDS],
            DELIVERY,
            &[("secret", "rain\n")],
        );
        let folder = tempfile::tempdir().expect("a folder");
        let open = PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("the folder is opened");
        let strange = rsa();
        let own = setting
            .pki
            .renew(&strange, &["mx.old.test", "hub.test", "unlisted-hub.test"]);
        own.write(folder.path(), "own");
        strange
            .renewed(&["mx.stranger.test"])
            .write(folder.path(), "strange");
        let dovecot = Dovecot::start("scram-sha-256", &[("app", "rain")]);
        let path = folder.path().display();
        let settings = format!(
            "myhostname = mx.old.test
relay_domains = static:ok
relay_recipient_maps = static:ok
relay_transport = discard:
default_transport = discard:
smtpd_relay_restrictions = reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_loglevel = 1
smtpd_tls_chain_files = {path}/own.key, {path}/own.pem
smtpd_tls_protocols = >=TLSv1.2, <=TLSv1.2
smtpd_tls_mandatory_protocols = >=TLSv1.2, <=TLSv1.2
tls_medium_cipherlist = {OLD}
tls_high_cipherlist = {OLD}
smtpd_sasl_type = dovecot
smtpd_sasl_path = {socket}
smtpd_tls_auth_only = yes",
            socket = dovecot.socket.display()
        );
        let services = format!(
            "{} inet n - n - - smtpd\n{} inet n - n - - smtpd -o smtpd_tls_chain_files={path}/strange.key,{path}/strange.pem\n{} inet n - n - - smtpd -o smtpd_sasl_auth_enable=yes -o smtpd_relay_restrictions=permit_sasl_authenticated,reject\n",
            setting.address(2),
            setting.address(3),
            setting.address(4)
        );
        Outbound {
            postfix: Postfix::start_with(&settings, &services),
            setting,
            dovecot,
            _folder: folder,
        }
    }

    fn is_delivered(&self, to: &str) {
        let outcome = self.setting.send(to);
        assert!(
            outcome.is_delivered(),
            "{to}: {}\n{}",
            outcome.text(),
            self.postfix.log()
        );
        let line = self.postfix.wait_for_log(&format!("to=<{to}>"));
        assert!(line.contains("status=sent"), "{line}");
    }

    fn is_deferred(&self, to: &str, why: &str) {
        let outcome = self.setting.send(to);
        let text = outcome.text();
        assert!(
            text.starts_with('4') && text.contains(why),
            "{to}: {text}\n{}",
            self.postfix.log()
        );
        assert!(!self.postfix.log().contains(&format!("to=<{to}>")));
    }
}

/// A certificate on an RSA key, which nobody vouches for.
fn rsa() -> Identity {
    let shop = Workshop::new();
    shop.openssl(&["genrsa", "-out", "key", "2048"]);
    let pkcs8 = [
        "pkcs8", "-topk8", "-nocrypt", "-in", "key", "-outform", "DER",
    ];
    let key = shop.openssl(&pkcs8);
    Identity {
        chain: Vec::new(),
        key_der: key,
        certificate_pem: String::new(),
        key_pem: String::new(),
    }
    .renewed(&["any.test"])
}

#[test]
fn mail_to_an_old_server_goes_if_its_domain_is_listed() {
    let world = Outbound::new();
    world.is_deferred("a@unlisted.test", "handshake");
    world.is_delivered("b@listed.test");
    // A connection to the same server stands.
    world.is_deferred("c@unlisted.test", "handshake");
    let log = world.postfix.log();
    assert!(
        log.contains("TLSv1.2 with cipher AES128-SHA (128/128 bits)"),
        "{log}"
    );
}

#[test]
fn levels_hold_by_old_suites_as_well() {
    let world = Outbound::new();
    world.is_delivered("a@verified.test");
    world.is_delivered("a@named.test");
    world.is_deferred("a@wrong.test", "certificate-host-mismatch");
    world.is_delivered("a@stranger.test");
    world.is_deferred("a@strangers.test", "certificate-not-trusted");
    // Nor do they by connections that stand.
    world.is_delivered("b@named.test");
    world.is_deferred("b@wrong.test", "certificate-host-mismatch");
    world.is_delivered("b@stranger.test");
    world.is_deferred("b@strangers.test", "certificate-not-trusted");
}

#[test]
fn a_login_works_by_old_suites_as_well() {
    let world = Outbound::new();
    world.is_delivered("a@by-hub.test");
    let log = world.postfix.wait_for_log("sasl_username=app");
    assert!(log.contains("sasl_method=SCRAM-SHA-256,"), "{log}");
    // The password is for the one whose certificate has the smart host's name.
    world.is_deferred("a@by-wrong.test", "certificate-host-mismatch");
    world.is_deferred("a@by-unlisted.test", "handshake");
    assert!(
        !world.dovecot.log().contains("mismatch"),
        "{}",
        world.dovecot.log()
    );
}
