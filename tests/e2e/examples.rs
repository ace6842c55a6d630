//! The five examples of the specification's section 6, over real sockets and real TLS.

use portcullis_tests::{Client, Daemon, Pki};

const CONFIG: &str = r#"
hostname = "mx.contoso.com"
[[listener]]
address = "127.0.0.1:0"
certificate = "server.pem"
key = "server.key"
proxy-protocol = ["127.0.0.0/8"]
next-hop = { maildir = "mail" }
[[tenant]]
name = "contoso"
domains = ["contoso.com"]
policy = "rules.json"
[trust]
roots = "ca.pem"
"#;

fn start(pki: &Pki, rules: &str) -> Daemon {
    let server = pki.trusted(&["mx.contoso.com"]);
    let files = [
        ("rules.json", rules),
        ("ca.pem", &pki.root_pem),
        ("server.pem", &server.certificate_pem),
        ("server.key", &server.key_pem),
    ];
    Daemon::start(CONFIG, &files)
}

#[test]
fn one_mail_from_the_bank_must_be_encrypted() {
    let pki = Pki::new();
    let daemon = start(
        &pki,
        r#"{"connectors": [{"name": "Contoso Bank", "direction": "inbound",
            "from": {"sender-domains": ["contosobank.com"]}, "require": {"tls": true}}]}"#,
    );
    let bank = "203.0.113.7".parse().unwrap();

    let mut client = Client::connect_as(daemon.address(), bank);
    client.hello(false, None);
    let refused = client.envelope("alice@contosobank.com", "bob@contoso.com");
    assert_eq!(refused.code, 550);
    assert!(
        refused
            .text()
            .starts_with("5.7.1 refused by connector \"Contoso Bank\" (tls)"),
        "{refused:?}"
    );
    client.expect("DATA", 554);

    let mut client = Client::connect_as(daemon.address(), bank);
    client.hello(true, None);
    assert_eq!(
        client
            .envelope("alice@contosobank.com", "bob@contoso.com")
            .code,
        250
    );
    assert_eq!(client.data("Subject: paid\r\n\r\nThank you.").code, 250);
    client.quit();

    let mail = daemon.maildir("mail");
    assert_eq!(mail.len(), 1);
    assert!(
        mail[0].contains("Return-Path: <alice@contosobank.com>\n"),
        "{}",
        mail[0]
    );
    assert!(
        mail[0].ends_with("Subject: paid\n\nThank you.\n"),
        "{}",
        mail[0]
    );
}
