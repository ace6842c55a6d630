//! Partners' certificates that run out.

use portcullis_tests::{Client, Config, Listener, Pki, TestBed};

/// Whoever agreed with the partner hears in time that its mail is about to be refused, and once a day is enough.
#[test]
fn a_partners_certificate_that_runs_out_is_told_of_once() {
    let pki = Pki::new();
    let rules = r#"{"connectors": [{"name": "Bank", "direction": "inbound",
        "from": {"sender-domains": ["bank.test"]},
        "require": {"certificate-names": ["mail.bank.test"]}}]}"#;
    let config = Config::new()
        .hostname("mx.dest.test")
        .listener(Listener::maildir().starttls())
        .certificate(&pki)
        .tenant("dest.test", rules)
        .trust(&pki);
    let daemon = TestBed::start(config);
    for days in [40, 5, 5] {
        let identity = pki.with_days(&["mail.bank.test"], days);
        for _ in 0..2 {
            let mut client = Client::greeted(daemon.address());
            client.hello(true, Some(&identity));
            assert_eq!(client.envelope("a@bank.test", "b@dest.test").code, 250);
            client.quit();
        }
    }
    daemon.wait_for_log_times("session ends", 6);
    let told = "a partner's certificate expires soon";
    let line = daemon.wait_for_log(told);
    assert!(
        line.contains("mail.bank.test") && line.contains("days=5") && line.contains("Bank"),
        "{line}"
    );
    assert_eq!(
        daemon.count_log(told),
        2,
        "two certificates have few days left"
    );
}
