//! A real nginx that asks where sessions go, by the settings of `docs/integrations/nginx.md`.

use portcullis_tests::machine::free_address;
use portcullis_tests::nginx::Nginx;
use portcullis_tests::pki::Identity;
use portcullis_tests::{Behaviour, Client, Config, Listener, MockServer, Pki, TestBed};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use crate::front_doors::block;

const DOCUMENT: &str = include_str!("../../../docs/integrations/nginx.md");

const RULES: &str = r#"{"connectors": [
    {"name": "Encrypted", "direction": "inbound", "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}},
    {"name": "Named", "direction": "inbound", "from": {"sender-domains": ["named.test"]},
     "require": {"certificate-names": ["mx.named.test"]}}
]}"#;

#[test]
fn nginx_asks_at_the_first_recipient() {
    let (pki, door, address) = (Pki::new(), free_address(), free_address());
    let behind = MockServer::start(Behaviour::default());
    let table = block(DOCUMENT, "[[frontend]]")
        .replace("127.0.0.1:8460", &door.to_string())
        .replace("/etc/portcullis/", "./")
        .replace("127.0.0.1:2525", &behind.address.to_string());
    let config = Config::new()
        .listener(Listener::maildir())
        .trust(&pki)
        .tenant("contoso.com", RULES)
        .file("frontend.token", "secret\n")
        .with(&table);
    let daemon = TestBed::start(config);
    daemon.wait_for_log("listening for mail servers");
    let server = pki.trusted(&["mx.contoso.com"]);
    let folder = daemon.folder();
    server.write(folder, "mx");
    std::fs::write(folder.join("ca.pem"), &pki.root_pem).expect("a file");
    let file = |name: &str| folder.join(name).display().to_string();
    let tls = format!(
        "protocol smtp; starttls on; ssl_certificate {}; ssl_certificate_key {}; ssl_verify_client optional; ssl_client_certificate {};",
        file("mx.pem"),
        file("mx.key"),
        file("ca.pem")
    );
    let mail = block(DOCUMENT, "auth_http ")
        .replace("127.0.0.1:8460", &door.to_string())
        .replace("TOKEN", "secret")
        .replace("listen 25", &format!("listen {address}"))
        .replace("protocol smtp;", &tls)
        // The server behind is nobody who believes it.
        .replace("xclient on", "xclient off");
    let nginx = Nginx::start(&mail, address);
    let session = |identity: Option<&Identity>, tls: bool| {
        let mut client = Client::greeted(nginx.address);
        client.hello(tls, identity);
        client
    };
    let reply = |identity: Option<&Identity>, tls: bool, from: &str| {
        let reply = session(identity, tls).envelope(from, "b@contoso.com");
        format!("{} {}", reply.code, reply.text())
    };
    let refused = reply(None, false, "a@bank.test");
    assert!(
        refused.starts_with("550 5.7.1 refused by connector \"Encrypted\" (tls)"),
        "{refused}\n{}",
        nginx.log()
    );
    assert!(
        reply(None, true, "a@bank.test").starts_with("250 "),
        "{}",
        nginx.log()
    );
    let right = pki.with_usages(&["first.test", "mx.named.test"], &[ServerAuth, ClientAuth]);
    let wrong = pki.with_usages(&["mx.other.test"], &[ServerAuth, ClientAuth]);
    let taken = reply(Some(&right), true, "a@named.test");
    assert!(taken.starts_with("250 "), "{taken}\n{}", nginx.log());
    assert!(reply(Some(&wrong), true, "a@named.test").contains("(certificate-name)"));
    assert!(reply(None, true, "a@named.test").contains("(certificate-missing)"));
    // After a refusal the session goes on, and once it is passed on nobody is asked any more, as the document says.
    let mut client = session(None, false);
    assert_eq!(client.envelope("a@bank.test", "b@contoso.com").code, 550);
    let mut client = session(None, false);
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    assert_eq!(client.command("RCPT TO:<c@contoso.com>").code, 250);
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    behind.wait_for(1);
    drop(daemon);
    let reply = session(None, true).envelope("a@example.org", "b@contoso.com");
    assert_eq!(reply.code, 451, "{reply:?}");
}
