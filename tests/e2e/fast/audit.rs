//! A stricter connector in audit mode beside an enforced one: mail passes, and what it would have cost is seen.

use portcullis_tests::metrics::{self, METRICS};
use portcullis_tests::outbound::{LEVEL_RECORDS, ONCE, SHORT_TIMEOUTS, Setting};
use portcullis_tests::pki::Identity;
use portcullis_tests::{Behaviour, Client, Config, Listener, MockServer, Pki, Reply, TestBed};

const RULES: &str = r#"{"connectors": [
    {"name": "Bank, now", "direction": "inbound", "from": {"sender-domains": ["bank.test"]},
     "require": {"tls": true}},
    {"name": "Bank, next", "direction": "inbound", "mode": "audit", "from": {"sender-domains": ["bank.test"]},
     "require": {"certificate-names": ["mail.bank.test"]}}]}"#;

fn findings(daemon: &TestBed, failed: &str) -> u64 {
    let sample =
        format!("portcullis_audit_findings_total{{tenant=\"contoso\",failed=\"{failed}\"}} ");
    // A series that nothing was counted in need not be there.
    metrics::value(daemon, &sample).unwrap_or(0)
}

#[test]
fn what_the_stricter_connector_would_refuse_passes_and_is_told() {
    let pki = Pki::new();
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .certificate(&pki)
        .tenant("contoso.com", RULES)
        .trust(&pki)
        .with(METRICS);
    let bed = TestBed::start(config);
    let send = |tls: bool, shown: Option<&Identity>| -> Reply {
        let mut client = Client::greeted(bed.address());
        client.hello(tls, shown);
        let rcpt = client.envelope("a@bank.test", "bob@contoso.com");
        match rcpt.code {
            250 => client.data("Subject: x\r\n\r\nx"),
            _ => rcpt,
        }
    };
    let other = pki.trusted(&["mail.other.test"]);
    let [missing, name, tls] = ["certificate-missing", "certificate-name", "tls"];
    // How often each has been found after that.
    for (number, (shown, failed, counts)) in [
        (None, missing, [1, 0]),
        (Some(&other), name, [1, 1]),
        (None, missing, [2, 1]),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(send(true, shown).code, 250);
        assert_eq!(bed.maildir("mail").len(), number + 1);
        let told = format!(
            "verdict=\"accept\" tenant=contoso connector=\"Bank, now\" failed=\"\" audit=\"Bank, next ({failed})\""
        );
        bed.wait_for_log(&told);
        assert_eq!([missing, name].map(|it| findings(&bed, it)), counts);
    }
    // Whoever satisfies both is no finding.
    assert_eq!(
        send(true, Some(&pki.trusted(&["mail.bank.test"]))).code,
        250
    );
    bed.wait_for_log("connector=\"Bank, now\" failed=\"\" audit=\"\"");
    assert_eq!([missing, name].map(|it| findings(&bed, it)), [2, 1]);
    // The enforced one refuses, and the other one is still told of.
    let refused = send(false, None);
    assert_eq!(refused.code, 550);
    let text = refused.text();
    assert!(
        text.starts_with("5.7.1 refused by connector \"Bank, now\" (tls)"),
        "{text}"
    );
    bed.wait_for_log("connector=\"Bank, now\" failed=\"tls\" audit=\"Bank, next (tls)\"");
    assert_eq!(findings(&bed, tls), 1);
    assert_eq!(bed.maildir("mail").len(), 4);
}

#[test]
fn a_stricter_level_is_tried_while_the_enforced_one_holds() {
    let connector = |name: &str, mode: &str, tls: &str| {
        format!(
            r#"{{"name": "{name}", "direction": "outbound", "mode": "{mode}",
                "to": {{"recipient-domains": ["name.test"]}}, "tls": {{{tls}}}}}"#
        )
    };
    let own = Pki::self_signed(&["mx.partner.test"]);
    let next = format!(
        r#""level": "encrypt", "certificate-keys": ["{}"]"#,
        own.key_sha256()
    );
    let rules = format!(
        r#"{{"connectors": [{}, {}]}}"#,
        connector("Now", "enforce", r#""level": "encrypt""#),
        connector("Next", "audit", &next)
    );
    let more = format!("{SHORT_TIMEOUTS}{ONCE}{METRICS}");
    let setting = Setting::start(Pki::new(), &rules, &[LEVEL_RECORDS], &more);
    let server = MockServer::start_at(setting.address(2), Behaviour::with(&own));
    let sent = |audit: &str| {
        let outcome = setting.send("bob@name.test");
        assert!(outcome.is_delivered(), "{}", outcome.text());
        let told = format!(
            "connector=\"Now\" level=\"encrypt\" tls=\"TLSv1.3\" dane=false mta_sts=false audit=\"{audit}"
        );
        setting.daemon.wait_for_log(&told);
    };
    sent("satisfied\"");
    server.behave(Behaviour::with(&own.renewed(&["mx.partner.test"])));
    sent("satisfied\"");
    let other = setting.pki.trusted(&["mx.partner.test"]);
    server.behave(Behaviour::with(&other));
    sent("validation-failure: the server's certificate has another key");
    assert!(server.taken().iter().all(|taken| taken.tls));
    assert_eq!(server.taken().len(), 3);
    for (result, count) in [("satisfied", 2), ("validation-failure", 1)] {
        let sample = format!("portcullis_audit_connections_total{{result=\"{result}\"}} ");
        assert_eq!(metrics::value(&setting.daemon, &sample), Some(count));
    }
    // What is enforced holds, whatever the other one says.
    server.behave(Behaviour::default());
    let outcome = setting.send("bob@name.test");
    assert_eq!(outcome.last().code, 451);
    let text = outcome.text();
    assert!(text.contains("starttls-not-supported"), "{text}");
    assert_eq!(server.taken().len(), 3);
}
