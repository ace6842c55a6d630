//! Policy delegation, as Postfix and Exim speak it.

use std::fs;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use portcullis_tests::Pki;
use portcullis_tests::front_door::Asking;
use portcullis_tests::pki::Identity;

use super::{RULES, daemon};

/// A request at RCPT, from a client with this protocol and certificate.
fn ask<'a>(asking: &mut Asking, from: &'a str, more: &[(&'a str, &'a str)]) -> String {
    ask_about(asking, from, "b@contoso.com", more)
}

fn ask_about<'a>(
    asking: &mut Asking,
    from: &'a str,
    to: &'a str,
    more: &[(&'a str, &'a str)],
) -> String {
    let mut attributes = vec![
        ("protocol_state", "RCPT"),
        ("protocol_name", "ESMTP"),
        ("client_address", "203.0.113.7"),
        ("client_port", "40000"),
        ("helo_name", "mx.example"),
        ("sender", from),
        ("recipient", to),
        ("encryption_protocol", ""),
        ("ccert_subject", ""),
        ("ccert_issuer", ""),
        ("ccert_fingerprint", ""),
    ];
    for (name, value) in more {
        attributes.retain(|(known, _)| known != name);
        attributes.push((name, value));
    }
    asking.policy(&attributes)
}

const TLS: (&str, &str) = ("encryption_protocol", "TLSv1.3");

fn fingerprint(identity: &Identity) -> String {
    let hex = identity.sha256().to_uppercase();
    let pairs: Vec<&str> = (0..32).map(|at| &hex[2 * at..2 * at + 2]).collect();
    pairs.join(":")
}

#[test]
fn decisions_are_told_in_postfix_words() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    assert_eq!(ask(&mut asking, "a@example.org", &[]), "DUNNO");
    let refused = ask(&mut asking, "a@bank.test", &[]);
    assert!(
        refused.starts_with("550 5.7.1 refused by connector \"Encrypted\" (tls)"),
        "{refused}"
    );
    // By its id the decision is found.
    let id = refused
        .rsplit_once('[')
        .expect("an id")
        .1
        .trim_end_matches(']');
    let line = daemon.wait_for_log(&format!("transaction=\"{id}\""));
    assert!(
        line.contains("verdict=\"reject\"") && line.contains("client=203.0.113.7"),
        "{line}"
    );
    assert_eq!(ask(&mut asking, "a@bank.test", &[TLS]), "DUNNO");
    assert_eq!(
        ask(&mut asking, "a@trial.test", &[]),
        "WARN portcullis: On trial 100% would refuse (tls)"
    );
    // What Postfix does not tell is not absent.
    let attributes = [
        ("protocol_state", "RCPT"),
        ("sender", "a@bank.test"),
        ("recipient", "b@contoso.com"),
    ];
    let deferred = asking.policy(&attributes);
    assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    assert!(
        deferred.contains("whether the session is encrypted"),
        "{deferred}"
    );
    // Whose mail this is, nobody here says.
    assert_eq!(
        ask_about(&mut asking, "a@bank.test", "b@elsewhere.test", &[]),
        "DUNNO"
    );
    let named = [("policy_context", "contoso")];
    let refused = ask_about(&mut asking, "a@bank.test", "b@elsewhere.test", &named);
    assert!(refused.starts_with("550 5.7.1 "), "{refused}");
}

#[test]
fn a_tenant_may_stand_for_all_recipients() {
    let daemon = daemon(&Pki::new(), "tenant = \"contoso\"");
    let mut asking = Asking::connect(daemon.folder());
    let refused = ask_about(&mut asking, "a@bank.test", "b@elsewhere.test", &[]);
    assert!(refused.starts_with("550 5.7.1 "), "{refused}");
}

#[test]
fn requests_may_come_together_and_in_pieces() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    let request = |from: &str| {
        format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\ninstance=1\nsender={from}\nrecipient=b@contoso.com\nclient_address=192.0.2.1\nencryption_protocol=\n\n"
        )
    };
    let both = request("a@bank.test") + &request("a@ranges.test");
    let (one, other) = both.split_at(70);
    asking.send(one.as_bytes());
    asking.send(other.as_bytes());
    assert!(asking.action().starts_with("550 5.7.1 "));
    assert_eq!(asking.action(), "DUNNO");
}

#[test]
fn names_of_a_certificate_are_those_that_postfix_knows() {
    let pki = Pki::new();
    let daemon = daemon(&pki, "");
    let mut asking = Asking::connect(daemon.folder());
    let identity = pki.trusted(&["mx.named.test"]);
    let fingerprint = fingerprint(&identity);
    // Whether certificates are asked for at all Postfix does not tell.
    let deferred = ask(&mut asking, "a@named.test", &[TLS]);
    assert!(
        deferred.starts_with("451 4.7.0 ") && deferred.contains("has shown a certificate"),
        "{deferred}"
    );
    let of = |subject: &'static str, issuer: &'static str| {
        [
            TLS,
            ("ccert_subject", subject),
            ("ccert_issuer", issuer),
            ("ccert_fingerprint", &*fingerprint),
        ]
    };
    assert_eq!(
        ask(
            &mut asking,
            "a@named.test",
            &of("mx.named.test", "Test+20CA")
        ),
        "DUNNO"
    );
    // The name that is not there may be among those that Postfix does not tell.
    for (subject, issuer) in [("mx.other.test", "CA"), ("", "CA"), ("", "")] {
        let deferred = ask(&mut asking, "a@named.test", &of(subject, issuer));
        assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    }
    let daemon = super::daemon(&pki, "certificates-requested = true");
    let mut asking = Asking::connect(daemon.folder());
    let refused = ask(&mut asking, "a@named.test", &[TLS]);
    assert!(refused.starts_with("550 5.7.1 "), "{refused}");
    assert!(refused.contains("(certificate-missing)"), "{refused}");
}

#[test]
fn who_is_meant_must_be_clear() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    for (from, to, begin) in [
        ("a@bank.test", "b", "451 4.1.3 "),
        ("a@bank.test", "b%contoso.com@elsewhere.test", "451 4.1.3 "),
        ("a@bank.test", "contoso.com!b@contoso.com", "451 4.1.3 "),
        ("a@bank.test", "b@[192.0.2.25]", "451 4.1.3 "),
        ("a@bank.test", "b@xn--0.contoso.com", "451 4.1.3 "),
        ("a@bank.test(x)", "b@contoso.com", "451 4.1.7 "),
        ("root", "b@contoso.com", "451 4.1.7 "),
        ("a@bank.test", "postmaster", "550 5.7.1 "),
        ("", "b@contoso.com", "DUNNO"),
    ] {
        let action = ask_about(&mut asking, from, to, &[]);
        assert!(action.starts_with(begin), "{from} {to}: {action}");
    }
}

#[test]
fn exim_tells_all_that_there_is() {
    let pki = Pki::new();
    let daemon = daemon(&pki, "");
    let mut asking = Asking::connect(daemon.folder());
    let fingerprint = pki.trusted(&["mx.named.test"]).sha256();
    let of = |names: &'static str, verified: &'static str| {
        [
            ("encryption_protocol", "TLS1.3"),
            ("ccert_fingerprint", &*fingerprint),
            ("ccert_dns_names", names),
            ("ccert_verified", verified),
            ("ccert_not_after", "1900000000"),
        ]
    };
    let both = of("mx.other.test,mx.named.test", "1");
    assert_eq!(ask(&mut asking, "a@named.test", &both), "DUNNO");
    let refused = ask(&mut asking, "a@named.test", &of("mx.other.test", "1"));
    assert!(refused.contains("(certificate-name)"), "{refused}");
    let deferred = ask(&mut asking, "a@named.test", &of("mx.named.test", "0"));
    assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    // Whether there is a SAN is not known where neither names nor CN are told.
    let deferred = ask(&mut asking, "a@named.test", &of("", "1"));
    assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    // A name in a certificate that holds a line end would be a second attribute.
    let forged = "request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a@named.test\nrecipient=b@contoso.com\nccert_verified=0\nccert_dns_names=x\nccert_verified=1\n\n";
    asking.send(forged.as_bytes());
    daemon.wait_for_log("\\\"ccert_verified\\\" stands there twice");
    assert!(asking.is_closed());
}

#[test]
fn known_certificates_give_all_back_and_are_read_again() {
    let pki = Pki::new();
    let daemon = daemon(&pki, "known-certificates = \"partners/*.pem\"");
    let folder = daemon.folder().join("partners");
    let before = daemon.count_log("configuration reloaded");
    fs::create_dir(&folder).expect("a folder");
    let identity = pki.trusted(&["other.test", "mx.named.test"]);
    fs::write(folder.join("broken.pem"), "no certificate").expect("a file");
    fs::write(folder.join("named.pem"), &identity.certificate_pem).expect("a file");
    daemon.signal("HUP");
    daemon.wait_for_log_times("configuration reloaded", before + 1);
    daemon.wait_for_log("broken.pem");
    let mut asking = Asking::connect(daemon.folder());
    let known = fingerprint(&identity);
    let of = |fingerprint| [TLS, ("ccert_fingerprint", fingerprint)];
    assert_eq!(ask(&mut asking, "a@named.test", &of(&known)), "DUNNO");
    let stranger = fingerprint(&Pki::self_signed(&["mx.named.test"]));
    let deferred = ask(&mut asking, "a@named.test", &of(&stranger));
    assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    // The digest of another kind is of no use, which is told once.
    let md5 = "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF";
    for _ in 0..2 {
        let deferred = ask(&mut asking, "a@named.test", &of(md5));
        assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    }
    // The log has all of it once it has what came later.
    ask(&mut asking, "a@bank.test", &[]);
    daemon.wait_for_log("connector=\"Encrypted\"");
    assert_eq!(daemon.count_log("smtpd_tls_fingerprint_digest"), 1);
}

#[test]
fn only_recipients_are_decided_about() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    let at = |state, instance| [("protocol_state", state), ("instance", instance)];
    // In smtpd_client_restrictions nobody is asked about, and nobody would notice.
    let misplaced = ask_about(&mut asking, "", "", &at("CONNECT", "1"));
    assert!(
        misplaced.starts_with("451 4.3.5 ") && misplaced.contains("smtpd_recipient_restrictions"),
        "{misplaced}"
    );
    let refused = ask_about(
        &mut asking,
        "a@bank.test",
        "b@contoso.com",
        &at("DATA", "2"),
    );
    assert!(refused.starts_with("550 5.7.1 "), "{refused}");
    // At the end of a message its recipients have been decided about.
    let accepted = ask(&mut asking, "a@example.org", &at("RCPT", "3"));
    assert_eq!(accepted, "DUNNO");
    for recipient in ["", "b@contoso.com"] {
        let state = at("END-OF-MESSAGE", "3");
        assert_eq!(
            ask_about(&mut asking, "a@example.org", recipient, &state),
            "DUNNO"
        );
    }
    assert_eq!(ask_about(&mut asking, "", "x", &at("VRFY", "4")), "DUNNO");
}

#[test]
fn a_message_keeps_the_policy_that_it_began_with() {
    let daemon = daemon(&Pki::new(), "");
    let at = |instance: &'static str| [("instance", instance)];
    let mut asking = Asking::connect(daemon.folder());
    assert_eq!(
        ask(&mut asking, "a@ranges.test", &at("old"))
            .split(' ')
            .next(),
        Some("550")
    );
    let looser = RULES.replace("192.0.2.0/24", "203.0.113.0/24");
    let before = daemon.count_log("policy loaded");
    daemon.replace("contoso.json", looser.as_bytes());
    daemon.wait_for_log_times("policy loaded", before + 1);
    assert!(ask(&mut asking, "a@ranges.test", &at("old")).starts_with("550 "));
    // Others may ask about several messages in turn.
    assert_eq!(ask(&mut asking, "a@ranges.test", &at("new")), "DUNNO");
    assert!(ask(&mut asking, "a@ranges.test", &at("old")).starts_with("550 "));
    // Postfix may use another connection in the middle of a message.
    drop(asking);
    let mut asking = Asking::connect(daemon.folder());
    daemon.wait_for_log("a mail server has left");
    assert!(ask(&mut asking, "a@ranges.test", &at("old")).starts_with("550 "));
    assert_eq!(ask(&mut asking, "a@ranges.test", &at("new")), "DUNNO");
}

#[test]
fn a_header_that_nobody_brings_is_unknown() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    let deferred = ask_about(&mut asking, "a@example.org", "b@header.test", &[]);
    assert!(
        deferred.starts_with("451 4.7.0 ") && deferred.contains("the From header"),
        "{deferred}"
    );
}

#[test]
fn a_header_that_the_server_tells_is_decided_on() {
    let daemon = daemon(&Pki::new(), "");
    let mut asking = Asking::connect(daemon.folder());
    let mut recipient = |to: &str, first: &str| {
        let more = [
            ("instance", "1"),
            ("message_header_follows", "yes"),
            ("message_recipient", first),
        ];
        ask_about(&mut asking, "a@example.org", to, &more)
    };
    assert_eq!(recipient("b@contoso.com", ""), "DUNNO");
    assert_eq!(recipient("c@contoso.com", "b@contoso.com"), "DUNNO");
    let needed = recipient("b@header.test", "");
    assert_eq!(needed, "DUNNO\nmessage_header=needed");
    let another = recipient("b@header.test", "b@contoso.com");
    assert!(another.starts_with("451 4.5.3 "), "{another}");
    let another = recipient("b@nobodys.test", "b@header.test");
    assert!(another.starts_with("451 4.5.3 "), "{another}");
    assert!(recipient("c@header.test", "b@header.test").starts_with("DUNNO"));
    let mut asking = Asking::connect(daemon.folder());
    let mut message = |header: &str| {
        let header = BASE64_STANDARD.encode(header);
        let more = [
            ("instance", "1"),
            ("protocol_state", "DATA"),
            ("message_header", &header),
        ];
        ask_about(&mut asking, "a@example.org", "b@header.test", &more)
    };
    let refused = message("Subject: x\nFrom: a@bank.test\n");
    assert!(refused.starts_with("550 5.7.1 "), "{refused}");
    assert_eq!(message("Subject: x\r\nFrom: a@example.org\r\n"), "DUNNO");
    // A message without one was written by nobody's partner.
    assert_eq!(message(""), "DUNNO");
    let long = message(&"X: x\n".repeat(14_000));
    assert!(long.starts_with("451 4.7.0 "), "{long}");
    // A policy that does not read it is not troubled by it.
    let more = [("protocol_state", "DATA"), ("message_header", "?")];
    let mut others = Asking::connect(daemon.folder());
    let taken = ask_about(&mut others, "a@example.org", "b@contoso.com", &more);
    assert_eq!(taken, "DUNNO");
    // One that was to be told, and is not.
    let mut forgetful = Asking::connect(daemon.folder());
    let follows = [("instance", "2"), ("message_header_follows", "yes")];
    let needed = ask_about(&mut forgetful, "a@example.org", "b@header.test", &follows);
    assert!(needed.ends_with("message_header=needed"), "{needed}");
    let more = [("instance", "2"), ("protocol_state", "END-OF-MESSAGE")];
    let deferred = ask_about(&mut forgetful, "a@example.org", "b@header.test", &more);
    assert!(deferred.starts_with("451 4.3.5 "), "{deferred}");
    let more = [("protocol_state", "DATA"), ("message_header", "?")];
    let mut asking = Asking::connect(daemon.folder());
    let unread = ask_about(&mut asking, "a@example.org", "b@header.test", &more);
    assert!(unread.starts_with("451 4.3.5 "), "{unread}");
}
