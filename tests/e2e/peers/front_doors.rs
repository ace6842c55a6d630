//! Mail servers of others that ask a front door, by the settings of `docs/integrations/`, as they stand there. Only what
//! cannot be the same beside other tests is another: addresses, and the folder of the socket.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use portcullis_tests::exim::Exim;
use portcullis_tests::load::Stop;
use portcullis_tests::machine::free_address;
use portcullis_tests::pki::Identity;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::programs::missing;
use portcullis_tests::sendmail::Sendmail;
use portcullis_tests::{Client, Config, Listener, Pki, TestBed, machine};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rcgen::{CertificateParams, DnType, SanType};

const RULES: &str = r#"{"connectors": [
    {"name": "Encrypted", "direction": "inbound", "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}},
    {"name": "Named", "direction": "inbound", "from": {"sender-domains": ["named.test"]},
     "require": {"certificate-names": ["mx.named.test"]}},
    {"name": "Trial", "direction": "inbound", "mode": "audit", "from": {"sender-domains": ["trial.test"]},
     "require": {"tls": true}}
]}"#;

const HEADER_RULES: &str = r#"{"connectors": [
    {"name": "From", "direction": "inbound", "from": {"sender-domains": ["named.test"]}, "match-header-from": true,
     "require": {"certificate-names": ["mx.named.test"]}}
]}"#;

/// The indented block of a document that has this in it, without its indentation.
pub fn block(document: &str, mark: &str) -> String {
    let paragraphs = document.split("\n\n");
    let mut blocks = paragraphs.filter(|block| block.starts_with("    ") && block.contains(mark));
    let block = blocks
        .next()
        .unwrap_or_else(|| panic!("no block with {mark:?}"));
    assert!(blocks.next().is_none(), "two blocks with {mark:?}");
    block
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("    ").expect("an indented line")))
        .collect()
}

const POSTFIX: &str = include_str!("../../../docs/integrations/postfix.md");

/// The indented lines that `portcullis setup` prints for Postfix are those of the document, and it can enter them itself.
#[test]
fn setup_prints_and_makes_the_settings_that_postfix_needs() {
    let folder = tempfile::tempdir().expect("a folder");
    let postfix = Postfix::start("", Some(free_address()));
    let socket = postfix.folder_in_queue("portcullis").join("ask");
    let table = block(POSTFIX, "certificates-requested").replace(
        "/var/spool/postfix/portcullis/ask",
        &socket.display().to_string(),
    );
    let config = Config::new().tenant("contoso.com", RULES).with(&table);
    config.write(folder.path());
    let config = folder.path().join("portcullis.toml").display().to_string();
    let main = postfix.configuration().display().to_string();
    let setup = |options: &[&str]| {
        let arguments = [
            &[
                "setup",
                "postfix",
                "--config",
                &config,
                "--directory",
                &main,
            ],
            options,
        ];
        let output = portcullis_tests::run(&arguments.concat(), b"");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}{error}");
        text
    };
    let before = std::fs::read_to_string(postfix.configuration().join("main.cf")).expect("a file");
    let printed = setup(&[]);
    for line in [
        "postconf -e 'smtpd_tls_ask_ccert = yes'",
        "check_policy_service { unix:portcullis/ask, timeout=10s, default_action=DEFER_IF_PERMIT }'",
        "certificate-names: only the CN",
    ] {
        assert!(printed.contains(line), "{printed}");
    }
    let now = || std::fs::read_to_string(postfix.configuration().join("main.cf")).expect("a file");
    assert_eq!(now(), before, "it changes nothing by itself");
    let applied = setup(&["--apply"]);
    assert!(
        applied.contains("is as it was. Now: postfix reload"),
        "{applied}"
    );
    assert!(now().contains("check_policy_service { unix:portcullis/ask"));
    assert!(setup(&[]).contains("All settings are as they should be."));
}

/// A Postfix that asks, and whom it asks.
struct Asked {
    postfix: Postfix,
    address: SocketAddr,
    folder: tempfile::TempDir,
    pki: Pki,
    config: Config,
}

impl Asked {
    /// By the settings in the document, with the milter or without.
    fn new(milter: bool) -> Asked {
        Asked::by(milter, RULES)
    }

    /// The same with these rules for contoso.com.
    fn by(milter: bool, rules: &str) -> Asked {
        let pki = Pki::new();
        let folder = tempfile::tempdir().expect("a folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("the folder is opened");
        let server = pki.trusted(&["mx.contoso.com"]);
        server.write(folder.path(), "mx");
        let file = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(file("ca.pem"), &pki.root_pem).expect("a file");
        let mut settings = format!(
            "myhostname = mx.contoso.com
mydestination = contoso.com, header.test
local_transport = discard:
mynetworks =
smtpd_tls_security_level = may
smtpd_tls_cert_file = {}
smtpd_tls_key_file = {}
smtpd_tls_CAfile = {}
{}",
            file("mx.pem"),
            file("mx.key"),
            file("ca.pem"),
            block(POSTFIX, "smtpd_recipient_restrictions")
        );
        if milter {
            settings += &block(POSTFIX, "smtpd_milters");
        }
        let address = free_address();
        let postfix = Postfix::start(&settings, Some(address));
        let socket = postfix.folder_in_queue("portcullis").join("ask");
        let known = folder.path().join("partners");
        std::fs::create_dir(&known).expect("a folder");
        let table = block(POSTFIX, "certificates-requested")
            .replace(
                "/var/spool/postfix/portcullis/ask",
                &socket.display().to_string(),
            )
            .replace("/etc/portcullis/partners", &known.display().to_string());
        let config = Config::new()
            .listener(Listener::maildir())
            .trust(&pki)
            .tenant("contoso.com", rules)
            .tenant("header.test", HEADER_RULES)
            .with(&table);
        Asked {
            postfix,
            address,
            folder,
            pki,
            config,
        }
    }

    fn daemon(&self) -> TestBed {
        TestBed::start(self.config.clone())
    }

    fn partners(&self) -> std::path::PathBuf {
        self.folder.path().join("partners")
    }

    fn client(&self, tls: bool, identity: Option<&Identity>) -> Client {
        let mut client = Client::greeted(self.address);
        client.hello(tls, identity);
        client
    }

    /// Postfix's reply to a recipient.
    fn reply(&self, tls: bool, identity: Option<&Identity>, from: &str) -> String {
        let mut client = self.client(tls, identity);
        let reply = client.envelope(from, "b@contoso.com");
        format!("{} {}", reply.code, reply.text())
    }
}

#[test]
fn postfix_refuses_with_our_words_and_takes_the_rest() {
    let asked = Asked::new(false);
    let daemon = asked.daemon();
    let reply = asked.reply(false, None, "a@bank.test");
    assert!(
        reply.starts_with(
            "550 5.7.1 <b@contoso.com>: Recipient address rejected: refused by connector \"Encrypted\" (tls)"
        ),
        "{reply}"
    );
    assert!(asked.reply(true, None, "a@bank.test").starts_with("250 "));
    assert!(asked.reply(false, None, "a@trial.test").starts_with("250 "));
    asked
        .postfix
        .wait_for_log("portcullis: Trial would refuse (tls)");
    daemon.wait_for_log("connector=\"Encrypted\"");
}

#[test]
fn postfix_tells_of_certificates_what_it_knows() {
    let asked = Asked::new(false);
    let daemon = asked.daemon();
    let (pki, from) = (&asked.pki, "a@named.test");
    let both = pki.with_usages(&["mx.named.test"], &[ServerAuth, ClientAuth]);
    let reply = asked.reply(true, Some(&both), from);
    assert!(
        reply.starts_with("250 "),
        "{reply}\n{}",
        asked.postfix.log()
    );
    let other = pki.with_usages(&["mx.other.test"], &[ServerAuth, ClientAuth]);
    let server_only = pki.trusted(&["first.test", "mx.named.test"]);
    for identity in [&other, &server_only] {
        let reply = asked.reply(true, Some(identity), from);
        assert!(reply.starts_with("451 4.7.0 "), "{reply}");
    }
    let reply = asked.reply(true, None, from);
    assert!(
        reply.starts_with("550 5.7.1 ") && reply.contains("(certificate-missing)"),
        "{reply}"
    );
    // The partner's certificate is known from now on.
    std::fs::write(
        asked.partners().join("named.pem"),
        &server_only.certificate_pem,
    )
    .expect("a file");
    let before = daemon.count_log("configuration reloaded");
    daemon.signal("HUP");
    daemon.wait_for_log_times("configuration reloaded", before + 1);
    let reply = asked.reply(true, Some(&server_only), from);
    assert!(reply.starts_with("250 "), "{reply}");
}

#[test]
fn postfix_milter_and_policy_service_are_put_together() {
    let asked = Asked::new(true);
    let _daemon = asked.daemon();
    let identity = asked
        .pki
        .with_usages(&["mx.named.test"], &[ServerAuth, ClientAuth]);
    let other = asked.pki.trusted(&["mx.other.test"]);
    std::fs::write(asked.partners().join("other.pem"), &other.certificate_pem).expect("a file");
    let content = "From: a@named.test\r\nSubject: x\r\n\r\nx";
    let mut client = asked.client(true, Some(&identity));
    assert_eq!(client.envelope("a@example.org", "b@header.test").code, 250);
    assert_eq!(client.data(content).code, 250);
    // A certificate that is not the partner's, whose names are known.
    let _daemon = {
        drop(_daemon);
        asked.daemon()
    };
    let mut client = asked.client(true, Some(&other));
    assert_eq!(client.envelope("a@example.org", "b@header.test").code, 250);
    let reply = client.data(content);
    assert_eq!(reply.code, 550, "{reply:?}");
    assert!(
        reply.text().contains("refused by connector \"From\""),
        "{reply:?}"
    );
    // Another From is nobody's business.
    assert_eq!(client.envelope("a@example.org", "b@header.test").code, 250);
    assert_eq!(client.data("From: a@example.org\r\n\r\nx").code, 250);
}

#[test]
fn postfix_defers_while_nobody_answers() {
    let asked = Asked::new(false);
    let reply = asked.reply(true, None, "a@example.org");
    assert!(reply.starts_with("450 4.7.1 "), "{reply}");
    let daemon = asked.daemon();
    let mut client = asked.client(false, None);
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    drop(daemon);
    let reply = client.command("RCPT TO:<c@contoso.com>");
    assert_eq!(reply.code, 450, "{reply:?}");
    let _daemon = asked.daemon();
    assert_eq!(client.command("RCPT TO:<c@contoso.com>").code, 250);
}

const SENDMAIL: &str = include_str!("../../../docs/integrations/sendmail.md");

#[test]
fn sendmail_asks_as_a_milter() {
    let address = free_address();
    let table = block(SENDMAIL, "[[frontend]]").replace("127.0.0.1:8460", &address.to_string());
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", RULES)
        .tenant("header.test", HEADER_RULES)
        .with(&table);
    let daemon = TestBed::start(config);
    let settings = block(SENDMAIL, "INPUT_MAIL_FILTER")
        .replace("inet:8460@", &format!("inet:{}@", address.port()));
    let sendmail = Sendmail::start(
        &settings,
        "contoso.com smtp:[127.0.0.1]\nheader.test smtp:[127.0.0.1]\n",
    );
    let mut client = Client::greeted(sendmail.address);
    client.expect("EHLO client.example", 250);
    let reply = client.envelope("a@bank.test", "b@contoso.com");
    assert_eq!(reply.code, 550, "{reply:?}\n{}", sendmail.log());
    assert!(
        reply
            .text()
            .starts_with("5.7.1 <b@contoso.com>... refused by connector \"Encrypted\" (tls)"),
        "{reply:?}"
    );
    client.expect("RSET", 250);
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    client.expect("RSET", 250);
    assert_eq!(client.envelope("a@example.org", "b@header.test").code, 250);
    let reply = client.data("From: a@named.test\r\n\r\nx");
    assert_eq!(reply.code, 550, "{reply:?}");
    drop(daemon);
    let mut client = Client::greeted(sendmail.address);
    client.expect("EHLO client.example", 250);
    let reply = client.command("MAIL FROM:<a@bank.test>");
    assert_eq!(reply.code, 451, "{reply:?}");
}

const EXIM: &str = include_str!("../../../docs/integrations/exim.md");
const EXIM_ACL: &str = include_str!("../../../examples/exim/portcullis-acl.conf");

/// An Exim that asks by the settings of the document, and whom it asks.
struct EximAsked {
    exim: Exim,
    daemon: TestBed,
    pki: Pki,
    _folder: tempfile::TempDir,
}

impl EximAsked {
    /// With the header or without.
    fn new(header: bool) -> EximAsked {
        let (pki, address) = (Pki::new(), free_address());
        let table = block(EXIM, "[[frontend]]").replace("127.0.0.1:8460", &address.to_string());
        let config = Config::new()
            .listener(Listener::maildir())
            .trust(&pki)
            .tenant("contoso.com", RULES)
            .tenant("header.test", HEADER_RULES)
            .with(&table);
        let daemon = TestBed::start(config);
        daemon.wait_for_log("listening for mail servers");
        let folder = tempfile::tempdir().expect("a folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("the folder is opened");
        pki.trusted(&["mx.contoso.com"]).write(folder.path(), "mx");
        let file = |name: &str| folder.path().join(name);
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(file("mx.key"), readable).expect("it is opened");
        std::fs::write(file("ca.pem"), &pki.root_pem).expect("a file");
        let acls = EXIM_ACL.replace("127.0.0.1:8460", &address.to_string());
        let mut main = block(EXIM, "tls_try_verify_hosts");
        let mut data = String::new();
        if header {
            main += &block(EXIM, "PORTCULLIS_HEADER");
            data += &block(EXIM, "portcullis_data");
        }
        let exim = Exim::asking(
            &main,
            (&file("mx.pem"), &file("mx.key"), &file("ca.pem")),
            &format!("{acls}\n"),
            [&block(EXIM, "portcullis_rcpt"), &data],
        );
        EximAsked {
            exim,
            daemon,
            pki,
            _folder: folder,
        }
    }

    fn client(&self, tls: bool, identity: Option<&Identity>) -> Client {
        let mut client = Client::greeted(self.exim.address);
        client.hello(tls, identity);
        client
    }

    /// Exim's reply to a recipient.
    fn reply(&self, tls: bool, identity: Option<&Identity>, from: &str) -> String {
        let reply = self.client(tls, identity).envelope(from, "b@contoso.com");
        format!("{} {}", reply.code, reply.text())
    }
}

/// The sessions of the document, as swaks shows them.
#[test]
fn a_partner_reads_what_the_document_shows() {
    let asked = Asked::by(false, &block(POSTFIX, "Contoso Bank\", \"direction\""));
    let _daemon = asked.daemon();
    for session in [
        block(POSTFIX, "--quit-after RCPT\n"),
        block(POSTFIX, "--tls"),
    ] {
        let (command, lines) = session.split_once('\n').expect("a command and lines");
        let command = command.strip_prefix("$ swaks").expect("swaks");
        let command = command.replace("mx.contoso.com", &asked.address.to_string());
        let output = Command::new("swaks")
            .args(command.split_whitespace())
            .output()
            .unwrap_or_else(missing("swaks"));
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        for line in lines.lines() {
            // Without the transaction's id.
            let line = line.rsplit_once(" [").map_or(line, |(line, _)| line);
            assert!(shown.contains(&format!("\n{line}")), "{line:?} in {shown}");
        }
    }
}

/// What a client is told of each recipient of one message.
fn replies_of_one_message(address: SocketAddr) -> Vec<u16> {
    let mut client = Client::greeted(address);
    client.hello(false, None);
    client.expect("MAIL FROM:<a@swap.test>", 250);
    let replies = (0..5).map(|number| {
        let reply = client.command(&format!("RCPT TO:<user{number}@contoso.com>"));
        assert!(matches!(reply.code, 250 | 550), "{reply:?}");
        reply.code
    });
    let replies = replies.collect();
    client.quit();
    replies
}

/// The same policy decides about all recipients of a message, by policy delegation and milter together.
#[test]
fn no_message_is_decided_by_two_policies() {
    const SENDERS: usize = 8;
    const SWAPS: usize = 20;
    let _shared = machine::shared();
    let asked = Asked::new(true);
    let daemon = asked.daemon();
    let stop = AtomicBool::new(false);
    let [refused, accepted] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let send = || {
        while !stop.load(Ordering::Relaxed) {
            let replies = replies_of_one_message(asked.address);
            let first = replies[0];
            assert!(replies.iter().all(|it| *it == first), "{replies:?}");
            let count = if first == 250 { &accepted } else { &refused };
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        let senders: Vec<_> = (0..SENDERS).map(|_| scope.spawn(send)).collect();
        let before = daemon.count_log("policy loaded");
        for swap in 1..=SWAPS {
            let domain = if swap % 2 == 1 {
                "swap.test"
            } else {
                "bank.test"
            };
            let rules = RULES.replace("bank.test", domain);
            daemon.replace("contoso.json", rules.as_bytes());
            daemon.wait_for_log_times("policy loaded", before + swap);
            let count = if swap % 2 == 1 { &refused } else { &accepted };
            let seen = count.load(Ordering::Relaxed);
            while count.load(Ordering::Relaxed) == seen {
                assert!(senders.iter().all(|sender| !sender.is_finished()));
                // The senders wake nobody up.
                thread::yield_now();
            }
        }
        stop.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.join().expect("a sender");
        }
    });
}

#[test]
fn exim_tells_names_and_digests_of_certificates() {
    let asked = EximAsked::new(false);
    let refused = asked.reply(false, None, "a@bank.test");
    assert!(
        refused.starts_with("550 5.7.1 refused by connector \"Encrypted\" (tls)"),
        "{refused}\n{}",
        asked.exim.log()
    );
    assert!(asked.reply(true, None, "a@bank.test").starts_with("250 "));
    assert!(asked.reply(false, None, "a@trial.test").starts_with("250 "));
    let right = asked.pki.trusted(&["first.test", "mx.named.test"]);
    let taken = asked.reply(true, Some(&right), "a@named.test");
    assert!(taken.starts_with("250 "), "{taken}\n{}", asked.exim.log());
    let other = asked.pki.trusted(&["mx.other.test"]);
    let wrong = asked.reply(true, Some(&other), "a@named.test");
    assert!(wrong.contains("(certificate-name)"), "{wrong}");
    let none = asked.reply(true, None, "a@named.test");
    assert!(none.contains("(certificate-missing)"), "{none}");
    // The CN is no name beside others, and commas make no other names.
    let mut person = CertificateParams::new([]).expect("no names");
    let mail = "a@evil.test".try_into().expect("an address");
    person.subject_alt_names = vec![SanType::Rfc822Name(mail)];
    person
        .distinguished_name
        .push(DnType::CommonName, "mx.named.test");
    let commas = asked.pki.trusted(&["x,", ",mx.named.test"]);
    for identity in [asked.pki.issue(person), commas] {
        let reply = asked.reply(true, Some(&identity), "a@named.test");
        assert!(!reply.starts_with("250 "), "{reply}");
    }
    let stranger = Pki::self_signed(&["mx.named.test"]);
    let deferred = asked.reply(true, Some(&stranger), "a@named.test");
    assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    let mut client = asked.client(false, None);
    let deferred = client.envelope("a@example.org", "b@header.test");
    assert_eq!(deferred.code, 451, "{deferred:?}");
    drop(asked.daemon);
    let mut client = Client::greeted(asked.exim.address);
    client.hello(true, None);
    let deferred = client.envelope("a@example.org", "b@contoso.com");
    assert_eq!(deferred.code, 451);
    assert!(
        deferred
            .text()
            .starts_with("4.3.0 the policy cannot be asked"),
        "{deferred:?}"
    );
}

#[test]
fn exim_tells_the_header() {
    let asked = EximAsked::new(true);
    let send = |identity: Option<&Identity>, header: &str| {
        let mut client = asked.client(identity.is_some(), identity);
        let reply = client.envelope("a@example.org", "b@header.test");
        assert_eq!(reply.code, 250, "{reply:?}\n{}", asked.exim.log());
        let reply = client.data(&format!("Subject: x\r\n{header}\r\n\r\nx"));
        format!("{} {}", reply.code, reply.text())
    };
    let refused = send(None, "From: a@named.test");
    assert!(
        refused.starts_with("550 5.7.1 refused by connector \"From\" (tls)"),
        "{refused}\n{}",
        asked.exim.log()
    );
    // In another field of the same name, in a folded one, and behind many octets of others.
    let second = send(None, "From: a@example.org\r\nFrom: a@named.test");
    assert!(second.starts_with("550 5.7.1 "), "{second}");
    let folded = send(None, "From: \"a\r\n b\"\r\n <a@named.test>");
    assert!(folded.contains("connector \"From\""), "{folded}");
    let long = format!("X: {}\r\n", "x".repeat(900)).repeat(60);
    let behind = send(None, &format!("{long}From: a@named.test"));
    assert!(behind.contains("connector \"From\""), "{behind}");
    let cut = send(None, &format!("{}From: a@named.test", long.repeat(2)));
    assert!(cut.starts_with("451 4.7.0 "), "{cut}");
    let identity = asked.pki.trusted(&["mx.named.test"]);
    let cut = send(
        Some(&identity),
        &format!("{}From: a@b.test", long.repeat(2)),
    );
    assert!(cut.starts_with("250 "), "whatever the field says: {cut}");
    assert!(send(Some(&identity), "From: a@named.test").starts_with("250 "));
    assert!(send(None, "From: a@example.org").starts_with("250 "));
    // Who needs another reply after the header comes again.
    let mut client = asked.client(false, None);
    assert_eq!(client.envelope("a@example.org", "b@header.test").code, 250);
    client.expect("RCPT TO:<c@header.test>", 250);
    let reply = client.command("RCPT TO:<b@contoso.com>");
    assert!(
        reply.code == 451 && reply.text().starts_with("4.5.3 "),
        "{reply:?}"
    );
    let reply = client.data("From: a@named.test\r\n\r\nx");
    assert_eq!(reply.code, 550, "{reply:?}");
    let mut client = asked.client(false, None);
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    assert_eq!(client.command("RCPT TO:<b@header.test>").code, 451);
    assert_eq!(client.data("From: a@named.test\r\n\r\nx").code, 250);
}
