//! Mail to partners: who may send it, which way it goes, and what the sender is told.

use std::net::IpAddr;

use portcullis_tests::outbound::{LEVEL_RECORDS, LEVELS, ONCE, SHORT_TIMEOUTS, Setting, send};
use portcullis_tests::{
    Action, Behaviour, Client, Config, Daemon, Listener, MockServer, NO_RULES, Pki, Step, TestBed,
};
use rcgen::ExtendedKeyUsagePurpose;

fn honest(setting: &Setting, host: u8, name: &str) -> MockServer {
    let identity = setting.pki.trusted(&[name]);
    MockServer::start_at(setting.address(host), Behaviour::with(&identity))
}

#[test]
fn the_partners_reply_is_the_reply() {
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], SHORT_TIMEOUTS);
    let partner = honest(&setting, 2, "mx.partner.test");
    let outcome = setting.send("bob@name.test");
    let end = outcome.end.expect("an end");
    assert_eq!(end.code, 250);
    let text = end.text();
    assert!(text.starts_with("2.0.0 taken as 4711"), "{text}");
    let taken = &partner.taken()[0];
    assert!(taken.tls);
    assert_eq!(taken.recipients, ["<bob@name.test>"]);
    assert!(taken.content.starts_with("Received: "), "{}", taken.content);
    assert!(
        partner
            .commands()
            .contains(&"TLS MAIL FROM:<alice@contoso.com>".to_owned())
    );
}

#[test]
fn recipients_share_a_connection_where_they_share_a_way() {
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], SHORT_TIMEOUTS);
    let partner = honest(&setting, 2, "mx.partner.test");
    let mut client = setting.client();
    client.expect("MAIL FROM:<alice@contoso.com>", 250);
    client.expect("RCPT TO:<a@name.test>", 250);
    client.expect("RCPT TO:<b@NAME.test.>", 250);
    // The same servers, but another level, and another domain without a level.
    client.expect("RCPT TO:<c@verify.test>", 250);
    client.expect("RCPT TO:<d@opportunistic.test>", 250);
    let reply = client.data("Subject: x\r\n\r\nx");
    assert_eq!(reply.code, 250, "{reply:?}");
    let mut recipients: Vec<Vec<String>> = partner
        .taken()
        .iter()
        .map(|taken| taken.recipients.clone())
        .collect();
    recipients.sort();
    assert_eq!(
        recipients,
        [
            vec!["<a@name.test>", "<b@NAME.test>"],
            vec!["<c@verify.test>"],
            vec!["<d@opportunistic.test>"],
        ]
    );
    // The way of a refused recipient is none of the message's.
    let identity = setting.pki.trusted(&["mx.partner.test"]);
    let picky = Behaviour::with(&identity).but(Step::Rcpt, Action::Say("550 5.1.1 nobody\r\n"));
    let setting = Setting::start(
        setting.pki,
        LEVELS,
        &[
            LEVEL_RECORDS,
            "else.test. MX 1 mx.else.test.\nmx.else.test. A 127.0.0.3",
        ],
        SHORT_TIMEOUTS,
    );
    let _picky = MockServer::start_at(setting.address(2), picky);
    let other = honest(&setting, 3, "mx.else.test");
    let mut client = setting.client();
    client.expect("MAIL FROM:<alice@contoso.com>", 250);
    let reply = client.expect("RCPT TO:<a@name.test>", 550);
    assert!(reply.text().starts_with("5.1.1 nobody"), "{}", reply.text());
    client.expect("RCPT TO:<a@else.test>", 250);
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    assert_eq!(other.taken().len(), 1);
}

#[test]
fn servers_are_tried_in_order_and_never_below_the_level() {
    let records = "
        name.test. MX 10 one.test.
        name.test. MX 20 two.test.
        one.test. A 127.0.0.2
        two.test. A 127.0.0.3
        verify.test. MX 10 dead.test.
        verify.test. MX 10 one.test.
        dead.test. A 127.0.0.4
    ";
    let rules = r#"{"connectors": [
        {"name": "to name", "direction": "outbound", "to": {"recipient-domains": ["name.test"]},
         "tls": {"level": "name", "names": ["*.test"]}},
        {"name": "to verify", "direction": "outbound", "to": {"recipient-domains": ["verify.test"]},
         "tls": {"level": "verify"}}]}"#;
    let setting = Setting::start(
        Pki::new(),
        rules,
        &[records],
        &format!("{SHORT_TIMEOUTS}{ONCE}"),
    );
    let one = honest(&setting, 2, "one.test");
    let two = honest(&setting, 3, "two.test");
    assert!(setting.send("a@name.test").is_delivered());
    assert_eq!((one.taken().len(), two.taken().len()), (1, 0));
    // The better one is attacked: the other one takes the mail, and neither gets it in plaintext.
    one.behave(Behaviour::default());
    assert!(setting.send("a@name.test").is_delivered());
    assert_eq!((one.taken().len(), two.taken().len()), (1, 1));
    assert!(two.taken()[0].tls);
    two.behave(Behaviour::with(&Pki::self_signed(&["two.test"])));
    let outcome = setting.send("a@name.test");
    assert_eq!(outcome.last().code, 451);
    // The better server's failure is told, the other one's is in the log.
    assert!(
        outcome.text().contains("one.test[127.0.0.2]"),
        "{}",
        outcome.text()
    );
    setting
        .daemon
        .wait_for_log("certificate-not-trusted: no trusted authority");
    assert_eq!((one.taken().len(), two.taken().len()), (1, 1));
    // Equals are tried in any order; one that is dead costs nothing but an attempt.
    one.behave(Behaviour::with(&setting.pki.trusted(&["one.test"])));
    for _ in 0..4 {
        assert!(setting.send("a@verify.test").is_delivered());
    }
    assert_eq!(one.taken().len(), 5);
}

#[test]
fn smart_hosts_and_address_literals() {
    let other = MockServer::start(Behaviour::default());
    let rules = format!(
        r#"{{"connectors": [
        {{"name": "to smart", "direction": "outbound", "to": {{"recipient-domains": ["smart.test"]}},
         "route": {{"smart-hosts": ["dead.test", "hosts.test", "[127.0.0.1]:{}"]}}}},
        {{"name": "to port", "direction": "outbound", "to": {{"recipient-domains": ["port.test"]}},
         "route": {{"smart-hosts": ["[127.0.0.1]:{}"]}}}},
        {{"name": "to nowhere", "direction": "outbound", "to": {{"recipient-domains": ["nowhere.test"]}},
         "route": {{"smart-hosts": ["missing.test"]}}}}]}}"#,
        other.address.port(),
        other.address.port(),
    );
    let records = "
        hosts.test. MX 10 mx.hosts.test.
        mx.hosts.test. A 127.0.0.2
        dead.test. A 127.0.0.9
    ";
    let setting = Setting::start(
        Pki::new(),
        &rules,
        &[records],
        &format!("{SHORT_TIMEOUTS}{ONCE}"),
    );
    let smart = honest(&setting, 2, "mx.hosts.test");
    assert!(setting.send("a@smart.test").is_delivered());
    assert_eq!(smart.taken().len(), 1);
    assert!(setting.send("a@port.test").is_delivered());
    assert_eq!(other.taken().len(), 1);
    // The administrator's own mistake is not a reason to return mail.
    let outcome = setting.send("a@nowhere.test");
    assert_eq!(outcome.last().code, 451, "{}", outcome.text());
    assert!(
        outcome.text().contains("missing.test"),
        "{}",
        outcome.text()
    );
    assert!(setting.send("a@[127.0.0.2]").is_delivered());
    assert_eq!(smart.taken().len(), 2);
}

#[test]
fn domains_without_servers() {
    let records = "
        null.test. MX 0 .
        text.test. TXT \"nothing else\"
        address.test. A 127.0.0.2
        gone.test. MX 10 missing.test.
        fails.test. MX 10 mx.partner.test.
        silent.test. MX 10 mx.partner.test.
        broken.test. MX 10 mx.partner.test.
        mx.partner.test. A 127.0.0.2
        alias.test. CNAME address.test.
    ";
    let setting = Setting::start(
        Pki::new(),
        NO_RULES,
        &[records],
        &format!("{SHORT_TIMEOUTS}{ONCE}"),
    );
    let partner = MockServer::start_at(setting.address(2), Behaviour::default());
    setting.dns.fail("fails.test.");
    setting.dns.silence("silent.test.");
    setting.dns.break_signatures("broken.test.");
    for (domain, expected) in [
        // RFC 7505 section 4.2.
        ("null.test", "556 5.1.10 "),
        ("text.test", "550 5.1.2 "),
        ("missing.test", "550 5.1.2 "),
        ("gone.test", "550 5.1.2 "),
        ("fails.test", "451 4.4.3 "),
        ("silent.test", "451 4.4.3 "),
        ("broken.test", "451 4.7.5 broken.test: dnssec-invalid"),
    ] {
        let outcome = setting.send(&format!("a@{domain}"));
        assert!(outcome.end.is_none(), "{domain}");
        let text = outcome.text();
        assert!(text.starts_with(expected), "{domain}: {text}");
    }
    assert!(partner.commands().is_empty());
    for domain in ["address.test", "alias.test"] {
        assert!(
            setting.send(&format!("a@{domain}")).is_delivered(),
            "{domain}"
        );
    }
}

#[test]
fn mail_never_comes_back_to_ourselves() {
    let records = "
        own-name.test. MX 10 relay.contoso.com.
        backup.test. MX 10 better.test.
        backup.test. MX 20 relay.contoso.com.
        backup.test. MX 30 worse.test.
        better.test. A 127.0.0.3
        worse.test. A 127.0.0.2
        relay.contoso.com. A 127.0.0.9
        greets.test. A 127.0.0.4
    ";
    let setting = Setting::start(Pki::new(), NO_RULES, &[records], SHORT_TIMEOUTS);
    let worse = honest(&setting, 2, "worse.test");
    let mirror = Behaviour {
        name: Some("relay.contoso.com"),
        ..Behaviour::default()
    };
    let _mirror = MockServer::start_at(setting.address(4), mirror);
    for domain in ["own-name.test", "greets.test"] {
        let text = setting.send(&format!("a@{domain}")).text();
        assert!(text.starts_with("554 5.4.6 "), "{domain}: {text}");
    }
    // RFC 5321 section 5.1: never on to those that are no better than we are.
    let text = setting.send("a@backup.test").text();
    assert!(text.starts_with("451 4.4.1 better.test"), "{text}");
    assert!(worse.commands().is_empty());
    let literal = setting.daemon.address();
    let rules = format!(
        r#"{{"connectors": [{{"name": "round", "direction": "outbound", "to": {{"recipient-domains": ["round.test"]}},
           "route": {{"smart-hosts": ["[127.0.0.1]:{}"]}}}}]}}"#,
        literal.port()
    );
    setting.daemon.replace("rules.json", rules.as_bytes());
    setting.daemon.wait_for_log_times("policy loaded", 2);
    let text = setting.send("a@round.test").text();
    assert!(text.starts_with("554 5.4.6 "), "{text}");
}

/// A daemon whose outbound listener admits by these lines.
fn admitting(pki: &Pki, admission: &str) -> TestBed {
    let config = Config::new()
        .hostname("relay.contoso.com")
        .listener(Listener::outbound(admission).starttls())
        .certificate(pki)
        .tenant("contoso.com", NO_RULES)
        .with("[dns]\nservers = [\"127.0.0.1:9\"]\ntimeout = \"100ms\"")
        .trust(pki);
    TestBed::start(config)
}

#[test]
fn only_the_organizations_own_servers_may_send() {
    let pki = Pki::new();
    let own = pki.trusted(&["mta.contoso.com"]);
    let foreign = pki.trusted(&["mta.other.test"]);
    let unknown = Pki::self_signed(&["mta.contoso.com"]);
    let code = |daemon: &Daemon, identity| {
        let mut client = Client::greeted(daemon.address());
        client.hello(true, identity);
        client.command("MAIL FROM:<a@contoso.com>").code
    };
    let by_name = admitting(&pki, "certificate-names = [\"*.contoso.com\"]");
    assert_eq!(code(&by_name, None), 550);
    assert_eq!(code(&by_name, Some(&own)), 250);
    assert_eq!(code(&by_name, Some(&foreign)), 550);
    assert_eq!(code(&by_name, Some(&unknown)), 550);
    by_name.wait_for_log("relay access denied");
    let pinned = format!("certificate-fingerprints = [\"{}\"]", unknown.sha256());
    let pinned = admitting(&pki, &pinned);
    assert_eq!(code(&pinned, Some(&unknown)), 250);
    assert_eq!(code(&pinned, Some(&own)), 550);
    let elsewhere = admitting(&pki, "clients = [\"192.0.2.0/24\"]");
    let mut client = elsewhere.client();
    let reply = client.expect("MAIL FROM:<a@contoso.com>", 550);
    assert!(
        reply.text().starts_with("5.7.1 relay access denied"),
        "{}",
        reply.text()
    );
}

#[test]
fn the_senders_policy_decides() {
    let closed = r#"{"connectors": [{"name": "closed", "direction": "outbound",
        "to": {"recipient-domains": ["*"]}, "tls": {"level": "encrypt"}}]}"#;
    let tenant = "
        [[tenant]]
        name = \"fabrikam\"
        domains = [\"*.fabrikam.com\"]
        policy = \"closed.json\"
    ";
    let setting = Setting::start_with(
        Pki::new(),
        NO_RULES,
        &[LEVEL_RECORDS],
        &format!("{SHORT_TIMEOUTS}{tenant}"),
        &[("closed.json", closed)],
    );
    let _partner = MockServer::start_at(setting.address(2), Behaviour::default());
    for (sender, code) in [
        ("a@contoso.com", 250),
        ("a@mail.fabrikam.com", 451),
        // No tenant's, or nobody's: the listener's tenant decides.
        ("a@elsewhere.test", 250),
        ("", 250),
    ] {
        let mut client = setting.client();
        let reply = client.envelope(sender, "bob@opportunistic.test");
        assert_eq!(reply.code, code, "{sender}: {}", reply.text());
    }
}

#[test]
fn connections_are_reused_within_their_level_only() {
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], SHORT_TIMEOUTS);
    let partner = honest(&setting, 2, "mx.partner.test");
    for _ in 0..3 {
        assert!(setting.send("a@verify.test").is_delivered());
    }
    let mut client = setting.client();
    assert!(send(&mut client, "b@verify.test").is_delivered());
    assert!(send(&mut client, "c@verify.test").is_delivered());
    client.quit();
    assert_eq!(partner.connections(), 1);
    // The same server, but another level: its own connection, even from a higher to a lower level.
    assert!(setting.send("a@name.test").is_delivered());
    assert!(setting.send("a@opportunistic.test").is_delivered());
    assert_eq!(partner.connections(), 3);
    assert_eq!(partner.taken().len(), 7);
    assert_eq!(
        partner.resumed(),
        0,
        "a certificate is judged in each handshake"
    );
    let greetings = partner
        .commands()
        .iter()
        .filter(|line| line.starts_with("EHLO"))
        .count();
    assert_eq!(greetings, 3);
}

#[test]
fn a_connection_that_was_closed_meanwhile_costs_nothing() {
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], SHORT_TIMEOUTS);
    let partner = honest(&setting, 2, "mx.partner.test");
    assert!(setting.send("a@verify.test").is_delivered());
    for _ in 0..3 {
        partner.hang_up();
        let outcome = setting.send("a@verify.test");
        assert!(outcome.is_delivered(), "{}", outcome.text());
    }
    assert_eq!(partner.taken().len(), 4);
    assert_eq!(partner.connections(), 4);
}

#[test]
fn what_is_idle_too_long_is_let_go_politely() {
    let idle = format!("{SHORT_TIMEOUTS}\n[connections]\nidle = \"1s\"\n");
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], &idle);
    let partner = honest(&setting, 2, "mx.partner.test");
    assert!(setting.send("a@verify.test").is_delivered());
    partner.wait_for_command("TLS QUIT");
    assert!(setting.send("a@verify.test").is_delivered());
    assert_eq!(partner.connections(), 2);
}

/// A server that closes first waits for the other side, and may keep its connection in its own count until then.
#[test]
fn what_the_server_has_closed_is_closed_at_once() {
    let long = format!("{SHORT_TIMEOUTS}\n[connections]\nidle = \"1h\"\n");
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], &long);
    let partner = honest(&setting, 2, "mx.partner.test");
    assert!(setting.send("a@verify.test").is_delivered());
    partner.fall_silent();
    partner.wait_for_command("TLS QUIT");
    assert!(setting.send("a@verify.test").is_delivered());
    assert_eq!(partner.connections(), 2);
}

#[test]
fn our_certificate_is_shown_to_partners_who_pin_it() {
    let pki = Pki::new();
    let own = pki.with_usages(
        &["relay.contoso.com"],
        &[ExtendedKeyUsagePurpose::ClientAuth],
    );
    let delivery = format!(
        "{SHORT_TIMEOUTS}\n[delivery]\ncertificate = \"client.pem\"\nkey = \"client.key\"\nsource-addresses = [\"127.0.0.7\"]\n"
    );
    let files = [
        ("client.pem", own.certificate_pem.as_str()),
        ("client.key", own.key_pem.as_str()),
    ];
    let setting = Setting::start_with(pki, LEVELS, &[LEVEL_RECORDS], &delivery, &files);
    let pinning = Behaviour {
        demands_client: Some(setting.pki.root_pem.clone()),
        ..Behaviour::with(&setting.pki.trusted(&["mx.partner.test"]))
    };
    let partner = MockServer::start_at(setting.address(2), pinning.clone());
    assert!(setting.send("a@name.test").is_delivered());
    assert_eq!(
        partner.peers(),
        ["127.0.0.7".parse::<IpAddr>().expect("an address")]
    );
    let without = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], SHORT_TIMEOUTS);
    let _partner = MockServer::start_at(without.address(2), pinning);
    let text = without.send("a@encrypt.test").text();
    assert!(text.starts_with("451 4.7.5 mx.partner.test"), "{text}");
}

#[test]
fn an_audited_connector_reports_and_delivers() {
    let rules = LEVELS.replace("\"outbound\",", "\"outbound\", \"mode\": \"audit\",");
    let setting = Setting::start(
        Pki::new(),
        &rules,
        &[LEVEL_RECORDS],
        &format!("{SHORT_TIMEOUTS}{ONCE}"),
    );
    let partner = MockServer::start_at(setting.address(2), Behaviour::default());
    assert!(setting.send("a@encrypt.test").is_delivered());
    setting
        .daemon
        .wait_for_log("audit=\"starttls-not-supported: ");
    partner.behave(Behaviour::with(&setting.pki.trusted(&["mx.other.test"])));
    assert!(setting.send("a@name.test").is_delivered());
    setting
        .daemon
        .wait_for_log("audit=\"certificate-host-mismatch: ");
    assert!(setting.send("a@verify.test").is_delivered());
    setting.daemon.wait_for_log("audit=\"satisfied\"");
    assert_eq!(partner.taken().len(), 3);
}

#[test]
fn changed_roots_hold_for_the_next_message() {
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], SHORT_TIMEOUTS);
    let partner = honest(&setting, 2, "mx.partner.test");
    assert!(setting.send("a@name.test").is_delivered());
    let other = Pki::new();
    setting.daemon.replace("ca.pem", other.root_pem.as_bytes());
    setting.daemon.wait_for_log("the way out has changed");
    let text = setting.send("a@name.test").text();
    assert!(text.starts_with("451 4.7.5 "), "{text}");
    assert_eq!(partner.taken().len(), 1);
}
