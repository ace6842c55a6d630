//! Postfix on either side: as the organization's own server, and as a partner's.

use std::fs;

use portcullis_tests::outbound::{SHORT_TIMEOUTS, Setting};
use portcullis_tests::postfix::Postfix;
use portcullis_tests::{Behaviour, MockServer, Pki, sink};

const RULES: &str = r#"{"connectors": [
    {"name": "To the bank", "direction": "outbound", "to": {"recipient-domains": ["bank.test"]},
     "tls": {"level": "name", "names": ["mx.bank.test"]}},
    {"name": "To the broker", "direction": "outbound", "to": {"recipient-domains": ["broker.test"]},
     "tls": {"level": "name", "names": ["mx.broker.test"]}}
]}"#;

const RECORDS: &str = "
    bank.test. MX 10 mx.bank.test.
    mx.bank.test. A 127.0.0.2
    broker.test. MX 10 mx.broker.test.
    mx.broker.test. A 127.0.0.3
";

/// The organization's own server, which hands all its mail to Portcullis.
fn sender(setting: &Setting) -> Postfix {
    let relay = setting.daemon.address();
    let settings = format!(
        "myhostname = mta.contoso.com
relayhost = [{}]:{}
minimal_backoff_time = 300s
smtp_tls_security_level = encrypt",
        relay.ip(),
        relay.port()
    );
    Postfix::start(&settings, None)
}

#[test]
fn a_queue_drains_and_what_is_not_safe_stays_with_the_reason() {
    let setting = Setting::start(Pki::new(), RULES, &[RECORDS], SHORT_TIMEOUTS);
    let right = setting.pki.trusted(&["mx.bank.test"]);
    let bank = MockServer::start_at(setting.address(2), Behaviour::with(&right));
    let wrong = setting.pki.trusted(&["mx.other.test"]);
    let broker = MockServer::start_at(setting.address(3), Behaviour::with(&wrong));
    let own = sender(&setting);
    for number in 0..5 {
        let text = format!("Subject: {number}\n\nto the bank\n.\nnot the end\n");
        own.submit("alice@contoso.com", &["a@bank.test", "b@bank.test"], &text);
    }
    own.submit(
        "alice@contoso.com",
        &["c@broker.test"],
        "Subject: x\n\nto the broker\n",
    );
    let taken = bank.wait_for(5);
    assert!(taken.iter().all(|message| message.tls));
    assert!(taken[0].content.contains("\r\n..\r\nnot the end"));
    let queue = own.wait_for_queue(|queue| queue.contains("1 Request") && queue.contains("451"));
    assert!(queue.contains("c@broker.test"), "{queue}");
    // Postfix breaks the lines of a reason.
    let reason: String = queue.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        reason.contains("451 4.7.5 mx.broker.test[127.0.0.3]")
            && reason.contains(
                "certificate-host-mismatch: the server's certificate is for mx.other.test"
            ),
        "{queue}"
    );
    assert!(broker.taken().is_empty());
    broker.behave(Behaviour::with(&setting.pki.trusted(&["mx.broker.test"])));
    own.flush();
    assert_eq!(broker.wait_for(1)[0].recipients, ["<c@broker.test>"]);
    own.wait_for_queue(|queue| queue.contains("Mail queue is empty"));
}

#[test]
fn recipients_that_go_different_ways_all_get_their_mail() {
    let setting = Setting::start(Pki::new(), RULES, &[RECORDS], SHORT_TIMEOUTS);
    let bank = setting.pki.trusted(&["mx.bank.test"]);
    let bank = MockServer::start_at(setting.address(2), Behaviour::with(&bank));
    let broker = setting.pki.trusted(&["mx.broker.test"]);
    let broker = MockServer::start_at(setting.address(3), Behaviour::with(&broker));
    let own = sender(&setting);
    let to = ["a@bank.test", "b@broker.test", "c@bank.test"];
    own.submit("alice@contoso.com", &to, "Subject: x\n\nto all\n");
    let first = bank.wait_for(1);
    assert_eq!(first[0].recipients.len(), 2);
    assert_eq!(broker.wait_for(1)[0].recipients, ["<b@broker.test>"]);
    own.wait_for_queue(|queue| queue.contains("Mail queue is empty"));
    assert_eq!(bank.taken().len(), 1);
}

#[test]
fn a_partner_that_demands_tls() {
    let setting = Setting::start(Pki::new(), RULES, &[RECORDS], SHORT_TIMEOUTS);
    let folder = tempfile::tempdir().expect("a folder");
    let identity = setting.pki.trusted(&["mx.bank.test"]);
    identity.write(folder.path(), "mx");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), open).expect("the folder is opened");
    let sink = sink::SmtpSink::start(&[]);
    let settings = format!(
        "myhostname = mx.bank.test
relay_domains = bank.test
relay_recipient_maps = static:ok
relayhost = [127.0.0.1]:{port}
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access inline:{{ {{nobody@bank.test = REJECT who is that}} }}
smtpd_tls_security_level = encrypt
smtpd_tls_chain_files = {folder}/mx.key, {folder}/mx.pem",
        port = sink.address.port(),
        folder = folder.path().display()
    );
    let bank = Postfix::start(&settings, Some(setting.address(2)));
    let outcome = setting.send("a@bank.test");
    assert!(outcome.is_delivered(), "{}\n{}", outcome.text(), bank.log());
    assert!(
        outcome.text().contains("2.0.0 Ok: queued as "),
        "{}",
        outcome.text()
    );
    bank.wait_for_queue(|queue| queue.contains("Mail queue is empty"));
    assert_eq!(sink.messages().len(), 1);
    // What Postfix refuses is told in its words.
    let refused = setting.send("nobody@bank.test");
    assert_eq!(refused.last().code, 554, "{}", refused.text());
    assert!(refused.text().contains("5.7.1 "), "{}", refused.text());
}
