//! Milter, as Postfix and Sendmail speak it.

use portcullis_tests::Pki;
use portcullis_tests::front_door::Asking;

use super::{HEADER_RULES, RULES, daemon};

const CLIENT: &str = "203.0.113.7";
const TLS: (&str, &str) = ("tls_version", "TLSv1.3");

fn greeted(asking: &mut Asking, macros: &[(&str, &str)]) {
    asking.negotiate();
    asking.client(CLIENT, 40000, macros);
}

#[test]
fn each_recipient_has_its_reply() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    greeted(&mut asking, &[]);
    asking.mail("a@bank.test");
    let refused = asking.rcpt("b@contoso.com").expect("a refusal");
    assert!(
        refused.starts_with("550 5.7.1 refused by connector \"Encrypted\" (tls)"),
        "{refused}"
    );
    assert_eq!(asking.rcpt("b@elsewhere.test"), None);
    // What TLS has shown comes with the HELO after it, and an abort before.
    asking.packet(b'A', b"");
    asking.helo(&[TLS, ("cipher", "TLS_AES_256_GCM_SHA384")]);
    asking.mail("a@bank.test");
    assert_eq!(asking.rcpt("b@contoso.com"), None);
    asking.packet(b'E', b"");
    assert_eq!(asking.reply(), None);
    // Another session on the same connection knows nothing of it.
    asking.packet(b'K', b"");
    asking.client(CLIENT, 40001, &[]);
    asking.mail("a@bank.test");
    assert!(asking.rcpt("b@contoso.com").is_some());
    let line = daemon.wait_for_log("tls=\"TLSv1.3\"");
    assert!(line.contains("client=203.0.113.7"), "{line}");
}

#[test]
fn sendmail_says_what_it_thinks_of_a_certificate() {
    let daemon = daemon(&Pki::new(), "");
    for (verify, subject, begin) in [
        ("OK", "mx.named.test", None),
        ("OK", "mx.other.test", Some("451 4.7.0 ")),
        ("FAIL", "mx.named.test", Some("451 4.7.0 ")),
        ("NOT", "", Some("451 4.7.0 ")),
        ("NO", "", Some("550 5.7.1 ")),
    ] {
        let mut asking = Asking::connect(daemon.folder());
        let macros = [
            TLS,
            ("verify", verify),
            ("cn_subject", subject),
            ("cert_subject", "/C=US/CN=mx.named.test"),
        ];
        greeted(&mut asking, &macros);
        asking.mail("a@named.test");
        let reply = asking.rcpt("b@contoso.com");
        match begin {
            None => assert_eq!(reply, None, "{verify}"),
            Some(begin) => {
                let reply = reply.expect("a reply");
                assert!(reply.starts_with(begin), "{verify}: {reply}");
            }
        }
    }
}

#[test]
fn the_header_is_decided_on_at_its_end() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    greeted(&mut asking, &[TLS, ("verify", "NO")]);
    // The daemon has seen no certificate, but Sendmail has asked for one.
    asking.mail("a@example.org");
    assert_eq!(asking.rcpt("b@header.test"), None);
    let apart = asking.rcpt("b@contoso.com").expect("a reply");
    assert!(apart.starts_with("451 4.5.3 "), "{apart}");
    let folded = [("Subject", "x"), ("From", "\"A\"\n <a@bank.test>")];
    let refused = asking.header(&folded).expect("a refusal");
    assert!(
        refused.starts_with("550 5.7.1 refused by connector \"From 100%\""),
        "{refused}"
    );
    asking.mail("a@example.org");
    assert_eq!(asking.rcpt("b@header.test"), None);
    assert_eq!(asking.header(&[("From", "a@example.org")]), None);
    // Of several From fields each may be the one that is shown.
    asking.mail("a@example.org");
    assert_eq!(asking.rcpt("b@header.test"), None);
    let two = [("From", "a@example.org"), ("From", "a@bank.test")];
    let refused = asking.header(&two).expect("a refusal");
    assert!(refused.starts_with("550 5.7.1 "), "{refused}");
}

/// The policy service knows the certificate, the milter the header.
#[test]
fn what_the_policy_service_knows_is_known_here() {
    let pki = Pki::new();
    let daemon = daemon(&pki, "");
    let digest = pki.trusted(&["mx.bank.test"]).sha256();
    let service = |asking: &mut Asking, names: &str, server_port: &str| {
        asking.policy(&[
            ("protocol_state", "RCPT"),
            ("client_address", CLIENT),
            ("client_port", "40000"),
            ("server_address", "192.0.2.25"),
            ("server_port", server_port),
            ("sender", "a@example.org"),
            ("recipient", "b@header.test"),
            ("encryption_protocol", "TLSv1.3"),
            ("ccert_fingerprint", &digest),
            ("ccert_dns_names", names),
            ("ccert_verified", "1"),
        ])
    };
    for (names, refused) in [("mx.bank.test", false), ("mx.other.test", true)] {
        let mut milter = Asking::connect(daemon.folder());
        greeted(&mut milter, &[TLS]);
        milter.mail("a@example.org");
        let mut policy = Asking::connect(daemon.folder());
        // The header will come; of another connection from the same port nobody knows it.
        let elsewhere = service(&mut policy, "mx.other.test", "2525");
        assert!(elsewhere.starts_with("451 4.7.0 "), "{elsewhere}");
        assert_eq!(service(&mut policy, names, "25"), "DUNNO");
        assert_eq!(milter.rcpt("b@header.test"), None);
        let reply = milter.header(&[("From", "a@bank.test")]);
        assert_eq!(reply.is_some(), refused, "{reply:?}");
        milter.packet(b'Q', b"");
        assert!(milter.is_closed());
    }
    // Each time by the policy service for either connection, and by the milter for the header alone.
    daemon.wait_for_log_times("to=\"b@header.test\"", 6);
    assert_eq!(daemon.count_log("to=\"b@header.test\""), 6);
}

#[test]
fn only_what_is_needed_is_sent() {
    const HEADER: u32 = 0x20;
    let daemon = daemon(&Pki::new(), "");
    let steps = |asking: &mut Asking| asking.negotiate();
    let mut asking = Asking::connect(daemon.folder());
    assert_eq!(steps(&mut asking) & HEADER, 0);
    let before = daemon.count_log("policy loaded");
    daemon.replace("header.json", RULES.as_bytes());
    daemon.wait_for_log_times("policy loaded", before + 1);
    let mut without = Asking::connect(daemon.folder());
    assert_eq!(steps(&mut without) & HEADER, HEADER);
    // A policy that reads the header comes while a connection stands that brings none.
    daemon.replace("header.json", HEADER_RULES.as_bytes());
    daemon.wait_for_log_times("policy loaded", before + 2);
    without.client(CLIENT, 40000, &[]);
    without.mail("a@example.org");
    let deferred = without.rcpt("b@header.test").expect("a reply");
    assert!(deferred.starts_with("451 4.3.5 "), "{deferred}");
}

/// Postfix takes comments and spaces out of addresses, and tells milters both forms.
#[test]
fn what_is_decided_about_is_what_is_delivered_to() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    greeted(&mut asking, &[]);
    for (written, read, begin) in [
        ("a@bank.test(x)", "a@bank.test", "550 5.7.1 "),
        ("a@bank.test(x)", "", "451 4.1.7 "),
        ("a@bank.test", "", "550 5.7.1 "),
    ] {
        let macros = format!("M{{mail_addr}}\0{read}\0");
        asking.packet(b'D', macros.as_bytes());
        asking.mail(written);
        let reply = asking.rcpt("b@contoso.com").expect("a reply");
        assert!(reply.starts_with(begin), "{written}: {reply}");
    }
    for (written, read, begin) in [
        ("b@contoso.com(x)", "b@contoso.com", Some("550 5.7.1 ")),
        ("b@contoso.com ", "", Some("451 4.1.3 ")),
        ("b", "", Some("451 4.1.3 ")),
        ("b%contoso.com", "", Some("451 4.1.3 ")),
        ("b%contoso.com@elsewhere.test", "", Some("451 4.1.3 ")),
        ("b@[192.0.2.25]", "", Some("451 4.1.3 ")),
        ("postmaster", "", Some("550 5.7.1 ")),
        ("b@elsewhere.test", "", None),
    ] {
        asking.mail("a@bank.test");
        let macros = format!("R{{rcpt_addr}}\0{read}\0");
        asking.packet(b'D', macros.as_bytes());
        let reply = asking.rcpt(written);
        match begin {
            None => assert_eq!(reply, None, "{written}"),
            Some(begin) => {
                let reply = reply.unwrap_or_else(|| panic!("{written} is taken"));
                assert!(reply.starts_with(begin), "{written}: {reply}");
            }
        }
    }
}

#[test]
fn a_header_is_decided_on_for_those_alone_whose_policy_reads_it() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    greeted(&mut asking, &[TLS, ("verify", "NO")]);
    for (first, second) in [
        ("b@header.test", "x@elsewhere.test"),
        ("x@elsewhere.test", "b@header.test"),
    ] {
        asking.mail("a@example.org");
        assert_eq!(asking.rcpt(first), None);
        let apart = asking.rcpt(second).expect("a reply");
        assert!(apart.starts_with("451 4.5.3 "), "{apart}");
    }
}

/// A server that sends macros of its own choice may keep quiet about TLS.
#[test]
fn without_the_macros_that_are_wanted_tls_is_unknown() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    let words = [6u32, 0xff, 0x1f_ffff].map(u32::to_be_bytes);
    asking.packet(b'O', &words.concat());
    asking.answer();
    asking.client(CLIENT, 40000, &[]);
    asking.mail("a@bank.test");
    let deferred = asking.rcpt("b@contoso.com").expect("a reply");
    assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    // A client need not say HELO again after STARTTLS.
    let mut asking = Asking::connect(daemon.folder());
    greeted(&mut asking, &[]);
    asking.packet(b'D', b"M{tls_version}\0TLSv1.3\0");
    asking.mail("a@bank.test");
    assert_eq!(asking.rcpt("b@contoso.com"), None);
}
