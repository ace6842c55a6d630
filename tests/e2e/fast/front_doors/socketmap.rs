//! Socketmap, as Postfix asks for the policy of a destination and for the route of a recipient.

use portcullis_tests::front_door::{self, Asking};
use portcullis_tests::outbound::{SHORT_TIMEOUTS, Setting};
use portcullis_tests::{Config, Https, Listener, Pki, TestBed};

const RULES: &str = r#"{"connectors": [
    {"name": "Encrypted", "direction": "outbound", "to": {"recipient-domains": ["*.bank.test"]},
     "tls": {"level": "encrypt"}},
    {"name": "Plain", "direction": "outbound", "to": {"recipient-domains": ["plain.test", "signed.test", "half.test"]}},
    {"name": "Named", "direction": "outbound", "to": {"recipient-domains": ["named.test"]},
     "tls": {"level": "name", "names": ["mail.named.test", "*.named.test"], "min-version": "TLSv1.3"}},
    {"name": "Any name", "direction": "outbound", "to": {"recipient-domains": ["verified.test"]},
     "tls": {"level": "verify"}},
    {"name": "Pinned", "direction": "outbound", "to": {"recipient-domains": ["pinned.test"]},
     "tls": {"level": "encrypt", "certificate-keys": ["abababababababababababababababababababababababababababababababab"]}},
    {"name": "Hosts", "direction": "outbound", "to": {"recipient-domains": ["hosts.test"]},
     "route": {"smart-hosts": ["[192.0.2.1]:25", "filter.test:2525", "[2001:db8::1]:26"]}, "tls": {"level": "encrypt"}},
    {"name": "Shared", "direction": "outbound", "to": {"recipient-domains": ["shared.test"]},
     "route": {"smart-hosts": ["[192.0.2.1]:25"]}, "tls": {"level": "name", "names": ["filter.test"]}},
    {"name": "Other name", "direction": "outbound", "to": {"recipient-domains": ["other.test"]},
     "route": {"smart-hosts": ["[192.0.2.9]:25"]}, "tls": {"level": "name", "names": ["a.test"]}},
    {"name": "Other pin", "direction": "outbound", "to": {"recipient-domains": ["another.test"]},
     "route": {"smart-hosts": ["[192.0.2.9]:25"]},
     "tls": {"level": "encrypt", "certificate-keys": ["abababababababababababababababababababababababababababababababab"]}},
    {"name": "Mandatory", "direction": "outbound", "to": {"recipient-domains": ["mandatory.test"]}, "dane": "mandatory"},
    {"name": "On trial", "direction": "outbound", "mode": "audit", "to": {"recipient-domains": ["trial.test"]},
     "tls": {"level": "verify"}, "dane": "none", "mta-sts": "none"},
    {"name": "Inbound", "direction": "inbound", "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}}
]}"#;

const RECORDS: &str = "
    bank.test. MX 10 mx.bank.test.
    a.bank.test. MX 10 mx.bank.test.
    mx.bank.test. A 192.0.2.10
    plain.test. MX 10 mx.bank.test.
    signed.test. MX 10 mx.signed.test.
    mx.signed.test. A 192.0.2.11
    _{port}._tcp.mx.signed.test. TLSA 3 1 1 abababababababababababababababababababababababababababababababab
    half.test. MX 10 mx.signed.test.
    half.test. MX 20 mx.bank.test.
    named.test. MX 10 mx.bank.test.
    verified.test. MX 10 mx.bank.test.
    pinned.test. MX 10 mx.signed.test.
    mandatory.test. MX 10 mx.bank.test.
    filter.test. A 192.0.2.12
    _2525._tcp.filter.test. TLSA 3 1 1 abababababababababababababababababababababababababababababababab
";

fn setting(lines: &str, more: &str) -> Setting {
    let table = front_door::table(&format!("tenant = \"contoso\"\n{lines}"));
    let more = format!("{SHORT_TIMEOUTS}{more}\n{table}");
    let setting = Setting::start(Pki::new(), RULES, &[RECORDS], &more);
    setting.daemon.wait_for_log("listening for mail servers");
    setting
}

#[test]
fn each_destination_has_its_policy() {
    let setting = setting("", "");
    let mut asking = Asking::connect(setting.daemon.folder());
    for (key, expected) in [
        ("bank.test", "OK encrypt"),
        ("A.Bank.test", "OK encrypt"),
        (".bank.test", "NOTFOUND "),
        ("example.org", "NOTFOUND "),
        ("plain.test", "OK may"),
        ("signed.test", "OK dane-only"),
        ("half.test", "OK dane"),
        (
            "named.test",
            "OK secure match=mail.named.test:named.test:.named.test protocols=!SSLv2:!SSLv3:!TLSv1:!TLSv1.1:!TLSv1.2",
        ),
        ("mandatory.test", "OK dane-only"),
        ("trial.test", "OK may"),
        // Our own domain, and next hops that no connector has.
        ("contoso.com", "NOTFOUND "),
        ("[192.0.2.77]", "NOTFOUND "),
        ("[192.0.2.1]:26", "NOTFOUND "),
        ("filter.test", "NOTFOUND "),
        ("*", "NOTFOUND "),
        ("", "NOTFOUND "),
        // Smart hosts, with their ports.
        ("filter.test:2525", "OK dane-only"),
        ("[2001:db8::1]:26", "OK encrypt"),
    ] {
        assert_eq!(asking.map("tls", key), expected, "{key}");
    }
    // Two connectors share it, and what one asks for covers the other.
    assert_eq!(
        asking.map("tls", "[192.0.2.1]:25"),
        "OK secure match=filter.test"
    );
    for (key, expected) in [
        (
            "verified.test",
            "TEMP connector \"Any name\": Postfix has no level for a trusted certificate with any name",
        ),
        (
            "pinned.test",
            "TEMP connector \"Pinned\": Postfix checks TLSA records or what the connector asks of the certificate",
        ),
        (
            "[192.0.2.9]:25",
            "TEMP connector \"Other name, Other pin\": connectors share this next hop",
        ),
    ] {
        let answer = asking.map("tls", key);
        assert!(answer.starts_with(expected), "{answer}");
        // By its id it is found in the log.
        let (_, id) = answer.rsplit_once(" [").expect("an id");
        let id = id.trim_end_matches(']');
        setting
            .daemon
            .wait_for_log(&format!("transaction=\"{id}\""));
    }
    // What cannot be read may be a partner's to Postfix.
    for key in [
        "xn--0.test",
        "xn--a.bank.test",
        "1\u{5d0}.bank.test",
        "-x.bank.test",
    ] {
        let answer = asking.map("tls", key);
        assert!(answer.starts_with("TEMP "), "{key}: {answer}");
    }
    for told in ["Any name", "Other name", "Other pin"] {
        let line = format!("connector=\"{told}\" ");
        let words = [&*line, "cannot carry out"];
        setting.daemon.wait_for_log_with(&words, 1);
    }
}

#[test]
fn a_pin_is_a_fingerprint_where_no_records_are() {
    let setting = setting("", "");
    setting
        .dns
        .set(&["pinned.test. MX 10 mx.bank.test.\nmx.bank.test. A 192.0.2.10"]);
    let mut asking = Asking::connect(setting.daemon.folder());
    let pin = ["AB"; 32].join(":");
    assert_eq!(
        asking.map("tls", "pinned.test"),
        format!("OK fingerprint match={pin}")
    );
}

/// What cannot be looked up is not taken to be absent.
#[test]
fn a_name_server_that_fails_defers_what_depends_on_it() {
    let setting = setting("", "");
    setting
        .dns
        .fail(&format!("_{}._tcp.mx.signed.test.", setting.port));
    let mut asking = Asking::connect(setting.daemon.folder());
    let answer = asking.map("tls", "signed.test");
    assert!(
        answer.starts_with("TEMP ") && answer.contains("tlsa"),
        "{answer}"
    );
    setting.dns.fail("a.bank.test.");
    let answer = asking.map("tls", "a.bank.test");
    assert!(answer.starts_with("TEMP "), "{answer}");
    assert_eq!(asking.map("tls", "[2001:db8::1]:26"), "OK encrypt");
}

#[test]
fn each_recipient_has_its_route() {
    let setting = setting("", "");
    let mut asking = Asking::connect(setting.daemon.folder());
    for (key, expected) in [
        ("b@bank.test", "OK smtp:"),
        (
            "b@hosts.test",
            "OK smtp:[192.0.2.1]:25, filter.test:2525, [2001:db8::1]:26",
        ),
        (
            "an odd name@Hosts.test",
            "OK smtp:[192.0.2.1]:25, filter.test:2525, [2001:db8::1]:26",
        ),
        ("b@trial.test", "OK smtp:"),
        // Without a relay it is Postfix that defers, when it asks for the policy.
        ("b@verified.test", "OK smtp:"),
        ("b@example.org", "NOTFOUND "),
        ("b@contoso.com", "NOTFOUND "),
        ("postmaster", "NOTFOUND "),
        ("*", "NOTFOUND "),
    ] {
        assert_eq!(asking.map("route", key), expected, "{key}");
    }
    let line = setting.daemon.wait_for_log("to=\"b@hosts.test\"");
    assert!(line.contains("verdict=\"deliver\""), "{line}");
    let answer = asking.map("routes", "b@bank.test");
    assert_eq!(
        answer,
        "PERM there is no map \"routes\": tls, tlsrpt and route are"
    );
}

#[test]
fn what_postfix_cannot_carry_out_goes_by_the_relay() {
    let relay = portcullis_tests::machine::free_address();
    let listener = format!(
        "[[listener]]\naddress = \"{relay}\"\noutbound = {{ clients = [\"127.0.0.1\"], tenant = \"contoso\" }}"
    );
    let setting = setting(&format!("relay = \"{relay}\""), &listener);
    let mut asking = Asking::connect(setting.daemon.folder());
    let by_relay = format!("OK smtp:[127.0.0.1]:{}", relay.port());
    for key in ["verified.test", "pinned.test", "other.test", "another.test"] {
        assert_eq!(asking.map("route", &format!("b@{key}")), by_relay, "{key}");
    }
    assert_eq!(asking.map("route", "b@bank.test"), "OK smtp:");
    assert_eq!(
        asking.map("route", "b@hosts.test"),
        "OK smtp:[192.0.2.1]:25, filter.test:2525, [2001:db8::1]:26"
    );
    let key = format!("[127.0.0.1]:{}", relay.port());
    assert_eq!(asking.map("tls", &key), "OK may");
    // Who asks for the domain all the same does not get less.
    assert!(asking.map("tls", "verified.test").starts_with("TEMP "));
}

#[test]
fn an_mta_sts_policy_is_told_and_reported() {
    let pki = Pki::new();
    let https = Https::start(
        &pki.trusted(&["mta-sts.sts.test"]),
        "version: STSv1\nmode: enforce\nmx: *.sts.test\nmx: backup.test\nmax_age: 86400\n",
    );
    let rules = r#"{"connectors": [
        {"name": "Sts", "direction": "outbound", "to": {"recipient-domains": ["sts.test"]}, "tls": {"level": "encrypt"}},
        {"name": "Named", "direction": "outbound", "to": {"recipient-domains": ["*.sts.test"]},
         "tls": {"level": "name", "names": ["x.test"]}}]}"#;
    let records = "
        sts.test. MX 10 mx1.sts.test.
        sts.test. MX 20 backup.test.
        sts.test. MX 30 stranger.test.
        mx1.sts.test. A 192.0.2.10
        backup.test. A 192.0.2.11
        stranger.test. A 192.0.2.12
        mta-sts.sts.test. A 127.0.0.1
        _mta-sts.sts.test. 1 TXT \"v=STSv1; id=1;\"";
    let more = format!(
        "{SHORT_TIMEOUTS}\n[delivery]\nmta-sts-port = {}\n{}",
        https.address.port(),
        front_door::table("")
    );
    let setting = Setting::start(pki, rules, &[records], &more);
    setting.daemon.wait_for_log("listening for mail servers");
    let mut asking = Asking::connect(setting.daemon.folder());
    let secure = "OK secure match=mx1.sts.test:backup.test servername=hostname";
    assert_eq!(asking.map("tls", "sts.test"), secure);
    assert_eq!(
        asking.map("tlsrpt", "sts.test"),
        format!(
            "{secure} policy_type=sts policy_domain=sts.test policy_ttl=86400 mx_host_pattern=*.sts.test \
             mx_host_pattern=backup.test {{ policy_string = version: STSv1 }} {{ policy_string = mode: enforce }} \
             {{ policy_string = mx: *.sts.test }} {{ policy_string = mx: backup.test }} {{ policy_string = max_age: 86400 }}"
        )
    );
}

/// A change of the rules holds for the next question, on connections that are open. Mail that has its next hop already is
/// not sent there without what was asked for.
#[test]
fn a_change_of_the_rules_is_told_at_once() {
    let setting = setting("", "");
    let mut asking = Asking::connect(setting.daemon.folder());
    assert_eq!(asking.map("tls", "[192.0.2.50]:25"), "NOTFOUND ");
    assert_eq!(asking.map("tls", "[2001:db8::1]:26"), "OK encrypt");
    let rules = r#"{"connectors": [{"name": "New", "direction": "outbound", "to": {"recipient-domains": ["bank.test"]},
        "route": {"smart-hosts": ["[192.0.2.50]:25"]}, "tls": {"level": "name", "names": ["new.test"]}}]}"#;
    let before = setting.daemon.count_log("policy loaded");
    setting.daemon.replace("rules.json", rules.as_bytes());
    let loaded = before + 1;
    setting.daemon.wait_for_log_times("policy loaded", loaded);
    assert_eq!(
        asking.map("route", "b@bank.test"),
        "OK smtp:[192.0.2.50]:25"
    );
    assert_eq!(
        asking.map("tls", "[192.0.2.50]:25"),
        "OK secure match=new.test"
    );
    let former = asking.map("tls", "[2001:db8::1]:26");
    assert!(
        former.starts_with("TEMP this next hop is that of rules which are no longer in force"),
        "{former}"
    );
    assert_eq!(asking.map("tls", "[192.0.2.77]:25"), "NOTFOUND ");
}

/// Without a policy nobody knows what is asked for.
#[test]
fn rules_that_cannot_be_read_defer_all_next_hops() {
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", "{")
        .with(&front_door::table(""));
    let daemon = TestBed::start(config);
    daemon.wait_for_log("listening for mail servers");
    let mut asking = Asking::connect(daemon.folder());
    for (map, key) in [
        ("tls", "[192.0.2.1]:25"),
        ("tls", "filter.test:2525"),
        ("tls", "bank.test"),
        ("route", "b@bank.test"),
    ] {
        let answer = asking.map(map, key);
        assert!(answer.starts_with("TEMP "), "{map} {key}: {answer}");
    }
}

#[test]
fn what_is_no_request_ends_the_conversation_and_nothing_else() {
    let setting = setting("", "");
    let mut other = Asking::connect(setting.daemon.folder());
    for garbage in [&b"1x"[..], b"99999:tls", b"3:tlsx", b"7:tls x.y;"] {
        let mut asking = Asking::connect(setting.daemon.folder());
        asking.send(garbage);
        assert!(asking.is_closed(), "{garbage:?}");
    }
    other.send(b"10:tls x");
    other.send(b".test,0:,3:tls,");
    assert_eq!(other.netstring(), "NOTFOUND ");
    for _ in 0..2 {
        let answer = other.netstring();
        assert_eq!(answer, "PERM a request is the name of a map and a key");
    }
}

/// Whose connectors these are must be told where there are several tenants; inbound mail goes on.
#[test]
fn several_tenants_need_one_to_be_named() {
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", RULES)
        .tenant("fabrikam.com", RULES)
        .with(&front_door::table(""));
    let daemon = TestBed::start(config);
    daemon.wait_for_log("listening for mail servers");
    let mut asking = Asking::connect(daemon.folder());
    let answer = asking.map("route", "b@bank.test");
    assert!(
        answer.starts_with("TEMP there are several tenants"),
        "{answer}"
    );
    assert_eq!(asking.map("route", "b@fabrikam.com"), "NOTFOUND ");
    assert_eq!(asking.map("tls", "fabrikam.com"), "NOTFOUND ");
}
