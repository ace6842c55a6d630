//! `portcullis validate` with certificates and keys that were agreed on.

use portcullis_tests::outbound::{SHORT_TIMEOUTS, Setting};
use portcullis_tests::validate::{check, output, validate};
use portcullis_tests::{Behaviour, MockServer, Pki};

use super::{NAME, certificates, connector, document, keys, records};

#[test]
fn servers_are_tried_against_what_was_agreed_on() {
    let own = Pki::self_signed(&[NAME]);
    let domains = ["certificate.test", "key.test", "newer.test"];
    let newer = r#""level": "encrypt", "min-version": "TLSv1.3""#;
    let rules = document(&[
        connector(domains[0], &certificates("encrypt", &[&own])),
        connector(domains[1], &keys("encrypt", &[&own])),
        connector(domains[2], newer),
    ]);
    let setting = Setting::start(Pki::new(), &rules, &[&records(&domains)], SHORT_TIMEOUTS);
    let server = MockServer::start_at(setting.address(2), Behaviour::default());
    let tls12 = |identity| Behaviour {
        tls12: true,
        ..Behaviour::with(identity)
    };
    let renewed = own.renewed(&[NAME]);
    for (behaviour, expected) in [
        (Behaviour::with(&own), ["", "", ""]),
        (tls12(&own), ["", "", "at least TLSv1.3 is required"]),
        (
            Behaviour::with(&renewed),
            ["is not one that was agreed on", "", ""],
        ),
        (
            Behaviour::with(&setting.pki.trusted(&[NAME])),
            ["is not one that was agreed on", "has another key", ""],
        ),
    ] {
        server.behave(behaviour);
        let (code, outcomes) = validate(&setting.daemon, &[]);
        let fails = expected.iter().any(|reason| !reason.is_empty());
        assert_eq!(code, i32::from(fails), "{expected:?}");
        for (outcome, expected) in outcomes.iter().zip(expected) {
            assert_eq!(outcome["valid"], expected.is_empty(), "{outcome}");
            let checks = &outcome["routes"][0]["servers"][0]["checks"];
            let level = check(checks, "level");
            let detail = level["detail"].as_str().expect("a text");
            assert!(detail.contains(expected), "{detail}");
            assert_eq!(level["status"] == "failed", !expected.is_empty());
        }
    }
}

#[test]
fn clients_are_tried_against_what_was_agreed_on() {
    let pki = Pki::new();
    let own = Pki::self_signed(&[NAME]);
    let renewed = own.renewed(&[NAME]);
    let inbound = |name: &str, require: String| {
        format!(
            r#"{{"name": "{name}", "direction": "inbound", "from": {{"sender-domains": ["{name}.test"]}},
                "require": {{{require}}}}}"#
        )
    };
    let rules = document(&[
        inbound(
            "certificate",
            format!(r#""certificate-fingerprints": ["{}"]"#, own.sha256()),
        ),
        inbound(
            "key",
            format!(r#""certificate-keys": ["{}"]"#, own.key_sha256()),
        ),
    ]);
    let setting = Setting::start(pki, &rules, &[], SHORT_TIMEOUTS);
    let (code, letter) = output(&setting.daemon, &["key", "--letter"]);
    assert_eq!(code, 0);
    let told = format!(
        "\n- shows a certificate for the public key with the SHA-256 {}\n",
        own.key_sha256()
    );
    assert!(letter.contains(&told), "{letter}");
    let other = setting.pki.trusted(&[NAME]);
    for (name, shown, expected) in [
        ("own", own, ["", ""]),
        ("renewed", renewed, ["certificate-fingerprint", ""]),
        (
            "other",
            other,
            ["certificate-fingerprint", "certificate-key"],
        ),
    ] {
        shown.write(setting.daemon.folder(), name);
        let path = setting.daemon.folder().join(format!("{name}.pem"));
        for (connector, expected) in ["certificate", "key"].into_iter().zip(expected) {
            let path = path.to_str().expect("a path");
            let given = [connector, "--client-cert", path];
            let (code, outcomes) = validate(&setting.daemon, &given);
            assert_eq!(code, i32::from(!expected.is_empty()), "{name} {connector}");
            assert_eq!(
                outcomes[0]["valid"],
                expected.is_empty(),
                "{name} {connector}"
            );
            if !expected.is_empty() {
                let check = check(&outcomes[0]["partner"]["checks"], expected);
                assert_eq!(check["status"], "failed", "{name} {connector}");
                assert!(check["hint"].is_string(), "{name} {connector}");
            }
        }
    }
}
