//! The five examples of the specification, over real sockets and real TLS with real certificates.

use std::net::IpAddr;

use portcullis_tests::client::Handshake;
use portcullis_tests::pki::Identity;
use portcullis_tests::{Client, Config, Daemon, Listener, Pki, Reply, TestBed};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, EmailProtection, ServerAuth};

const BANK: &str = "203.0.113.7";

fn start(pki: &Pki, rules: &str) -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir().starttls().proxied())
        .certificate(pki)
        .tenant("contoso.com", rules)
        .trust(pki);
    TestBed::start(config)
}

/// How a client comes.
#[derive(Clone, Copy)]
enum Session<'a> {
    Plain,
    Tls,
    Tls12(&'a Identity),
    With(&'a Identity),
}

/// The reply to RCPT, for a sender at an address; what is accepted is sent whole.
fn send(daemon: &Daemon, ip: &str, session: Session, from: &str) -> Reply {
    let ip: IpAddr = ip.parse().expect("an address");
    let mut client = Client::connect_as(daemon.address(), ip);
    client.expect("EHLO client.example", 250);
    let handshake = match session {
        Session::Plain => None,
        Session::Tls => Some(Handshake::default()),
        Session::With(identity) => Some(Handshake {
            identity: Some(identity),
            version: None,
        }),
        Session::Tls12(identity) => Some(Handshake {
            identity: Some(identity),
            version: Some(&rustls::version::TLS12),
        }),
    };
    if let Some(handshake) = handshake {
        client.expect("STARTTLS", 220);
        client
            .handshake(&handshake)
            .expect("any certificate completes the handshake");
        client.expect("EHLO client.example", 250);
    }
    let reply = client.envelope(from, "bob@contoso.com");
    if reply.code == 250 {
        assert_eq!(client.data("Subject: hello\r\n\r\nHello.").code, 250);
    } else {
        client.expect("DATA", 554);
    }
    client.quit();
    reply
}

fn assert_accepted(reply: &Reply) {
    assert_eq!(reply.code, 250, "{reply:?}");
}

fn assert_refused(reply: &Reply, connector: &str, failed: &str) {
    assert_eq!(reply.code, 550, "{reply:?}");
    let begin = format!("5.7.1 refused by connector \"{connector}\" ({failed}): ");
    assert!(reply.text().starts_with(&begin), "{reply:?}");
}

#[test]
fn one_mail_from_the_bank_must_be_encrypted() {
    let pki = Pki::new();
    let daemon = start(
        &pki,
        r#"{"connectors": [{"name": "Contoso Bank", "direction": "inbound",
            "from": {"sender-domains": ["contosobank.com"]}, "require": {"tls": true}}]}"#,
    );
    let bank = |session| send(&daemon, BANK, session, "alice@contosobank.com");
    assert_refused(&bank(Session::Plain), "Contoso Bank", "tls");
    assert_accepted(&bank(Session::Tls));
    assert_accepted(&bank(Session::With(&Pki::self_signed(&[
        "anything.example",
    ]))));
    // Not the bank: a name that only ends like it, one below it, and nobody.
    for other in [
        "alice@evilcontosobank.com",
        "alice@mail.contosobank.com",
        "",
    ] {
        assert_accepted(&send(&daemon, BANK, Session::Plain, other));
    }
    let mail = daemon.maildir("mail");
    assert_eq!(mail.len(), 5);
    let from_the_bank = mail
        .iter()
        .filter(|m| m.starts_with("Return-Path: <alice@contosobank.com>\n"));
    for message in from_the_bank {
        assert!(
            message.contains("(using TLSv1.3 with cipher TLS13_"),
            "{message}"
        );
        assert!(message.ends_with("Subject: hello\n\nHello.\n"), "{message}");
    }
}

#[test]
fn two_and_from_a_server_with_the_certificate_name_given() {
    let pki = Pki::new();
    let daemon = start(
        &pki,
        r#"{"connectors": [{"name": "Contoso Bank", "direction": "inbound",
            "from": {"sender-domains": ["contosobank.com"]},
            "require": {"tls": true, "certificate-names": ["mail.contosobank.com"]}}]}"#,
    );
    fn bank(daemon: &Daemon, session: Session) -> Reply {
        send(daemon, BANK, session, "alice@contosobank.com")
    }
    let name = &["mail.contosobank.com"];

    for good in [
        pki.trusted(name),
        pki.trusted(&["other.example", "MAIL.contosobank.com"]),
        pki.trusted(&["*.contosobank.com"]),
        pki.with_usages(name, &[ServerAuth]),
        pki.with_usages(name, &[ClientAuth]),
        pki.with_usages(name, &[]),
    ] {
        assert_accepted(&bank(&daemon, Session::With(&good)));
        assert_accepted(&bank(&daemon, Session::Tls12(&good)));
    }
    for (bad, failed) in [
        (pki.trusted(&["mail.example.net"]), "certificate-name"),
        (pki.trusted(&["contosobank.com"]), "certificate-name"),
        (pki.trusted(&["*.mail.contosobank.com"]), "certificate-name"),
        (pki.trusted(&["a.mail.contosobank.com"]), "certificate-name"),
        (Pki::self_signed(name), "certificate-untrusted"),
        (Pki::new().trusted(name), "certificate-untrusted"),
        (pki.expired(name), "certificate-untrusted"),
        (pki.not_yet_valid(name), "certificate-untrusted"),
        (
            pki.with_usages(name, &[EmailProtection]),
            "certificate-untrusted",
        ),
        // A common name is none where the authority may certify other names only.
        (pki.constrained("corp.example", name[0]), "certificate-name"),
    ] {
        assert_refused(&bank(&daemon, Session::With(&bad)), "Contoso Bank", failed);
        assert_refused(&bank(&daemon, Session::Tls12(&bad)), "Contoso Bank", failed);
    }
    assert_refused(
        &bank(&daemon, Session::Tls),
        "Contoso Bank",
        "certificate-missing",
    );
    assert_refused(&bank(&daemon, Session::Plain), "Contoso Bank", "tls");
    // The sender learns why its certificate is not trusted.
    let expired = bank(&daemon, Session::With(&pki.expired(name)));
    assert!(
        expired.text().contains("not trusted: expired"),
        "{expired:?}"
    );
}

#[test]
fn three_mail_from_the_bank_must_come_from_its_addresses() {
    let pki = Pki::new();
    let daemon = start(
        &pki,
        r#"{"connectors": [{"name": "Contoso Bank", "direction": "inbound",
            "from": {"sender-domains": ["contosobank.com"]},
            "require": {"source-ips": ["203.0.113.0/25", "198.51.100.4", "2001:db8:7::/48"]}}]}"#,
    );
    let bank = |ip| send(&daemon, ip, Session::Plain, "alice@contosobank.com");
    for good in [
        "203.0.113.0",
        "203.0.113.127",
        "198.51.100.4",
        "2001:db8:7:ffff::1",
    ] {
        assert_accepted(&bank(good));
    }
    for bad in [
        "203.0.113.128",
        "203.0.112.255",
        "198.51.100.5",
        "2001:db8:8::1",
    ] {
        assert_refused(&bank(bad), "Contoso Bank", "source-ip");
        assert_accepted(&send(&daemon, bad, Session::Plain, "carol@example.org"));
    }
}

#[test]
fn four_all_mail_from_the_internet_must_come_from_the_filter() {
    let pki = Pki::new();
    let daemon = start(
        &pki,
        r#"{"connectors": [{"name": "Filter", "direction": "inbound",
            "from": {"sender-domains": ["*"]}, "require": {"source-ips": ["192.0.2.0/24"]}}]}"#,
    );
    for sender in ["alice@contosobank.com", "carol@example.org", ""] {
        assert_accepted(&send(&daemon, "192.0.2.9", Session::Plain, sender));
        assert_refused(
            &send(&daemon, BANK, Session::Plain, sender),
            "Filter",
            "source-ip",
        );
    }
}

#[test]
fn five_mail_from_the_partners_addresses_must_be_encrypted() {
    let pki = Pki::new();
    let daemon = start(
        &pki,
        r#"{"connectors": [{"name": "Partner", "direction": "inbound",
            "from": {"sender-ips": ["203.0.113.0/24", "2001:db8::/32"]}, "require": {"tls": true}}]}"#,
    );
    for ip in [BANK, "2001:db8::25"] {
        for sender in ["alice@contosobank.com", "carol@example.org", ""] {
            assert_refused(&send(&daemon, ip, Session::Plain, sender), "Partner", "tls");
            assert_accepted(&send(&daemon, ip, Session::Tls, sender));
        }
    }
    assert_accepted(&send(
        &daemon,
        "203.0.114.1",
        Session::Plain,
        "alice@contosobank.com",
    ));
}
