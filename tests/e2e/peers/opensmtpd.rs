//! A real OpenSMTPD that asks through its filter, by the settings of `docs/integrations/opensmtpd.md`.

use portcullis_tests::daemon::binary;
use portcullis_tests::machine::free_address;
use portcullis_tests::opensmtpd::OpenSmtpd;
use portcullis_tests::{Behaviour, Client, Config, Listener, MockServer, TestBed};

use crate::front_doors::block;

const DOCUMENT: &str = include_str!("../../../docs/integrations/opensmtpd.md");

const RULES: &str = r#"{"connectors": [
    {"name": "Encrypted", "direction": "inbound", "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}},
    {"name": "Ranges", "direction": "inbound", "from": {"sender-domains": ["ranges.test"]},
     "require": {"source-ips": ["192.0.2.0/24"]}}
]}"#;

#[test]
fn opensmtpd_asks_through_its_filter() {
    let address = free_address();
    let table = block(DOCUMENT, "[[frontend]]")
        .replace("/run/portcullis/ask", &address.to_string())
        .replace("group = \"opensmtpq\"\n", "");
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", RULES)
        .with(&table);
    let daemon = TestBed::start(config.clone());
    daemon.wait_for_log("listening for mail servers");
    let behind = MockServer::start(Behaviour::default());
    // Its own user may not enter the folder that the program is in.
    let program = tempfile::tempdir().expect("a folder");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(program.path(), open).expect("the folder is opened");
    let copy = program.path().join("portcullis");
    std::fs::copy(binary(), &copy).expect("a copy");
    let filter = block(DOCUMENT, "proc-exec")
        .replace(
            "\"portcullis filter",
            &format!("\"{} filter", copy.display()),
        )
        .replace("/run/portcullis/ask", &address.to_string());
    let smtpd = OpenSmtpd::start(&filter, behind.address);
    // No TLS: Debian's 6.8 has lost its keys with OpenSSL 3 (`missing private key`). Unit tests have its lines.
    let reply = |from: &str| {
        let mut client = Client::greeted(smtpd.address);
        client.hello(false, None);
        let reply = client.envelope(from, "b@contoso.com");
        format!("{} {}", reply.code, reply.text())
    };
    let refused = reply("a@bank.test");
    assert!(
        refused.starts_with("550 5.7.1 refused by connector \"Encrypted\" (tls)"),
        "{refused}\n{}",
        smtpd.log()
    );
    assert!(reply("a@example.org").starts_with("250 "));
    let outside = reply("a@ranges.test");
    assert!(outside.contains("(source-ip)"), "{outside}");
    let mut client = Client::greeted(smtpd.address);
    client.hello(false, None);
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    behind.wait_for(1);
    drop(daemon);
    let deferred = reply("a@example.org");
    assert!(
        deferred.starts_with("451 4.3.0 the policy cannot be asked"),
        "{deferred}"
    );
    let daemon = TestBed::start(config);
    daemon.wait_for_log("listening for mail servers");
    assert!(reply("a@example.org").starts_with("250 "));
}
