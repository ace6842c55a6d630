//! `portcullis validate` against partners that are well and ones that are not.

use std::path::Path;

use portcullis_tests::outbound::{SHORT_TIMEOUTS, Setting};
use portcullis_tests::validate::{self, check};
use portcullis_tests::{Behaviour, MockServer, Pki};
use serde_json::Value;

const PARTNERS: [&str; 7] = [
    "healthy", "plain", "unknown", "expired", "other", "silent", "soon",
];

fn rules() -> String {
    let outbound = PARTNERS.iter().map(|name| {
        format!(
            r#"{{"name": "To {name}", "direction": "outbound", "to": {{"recipient-domains": ["{name}.test"]}},
                "tls": {{"level": "name", "names": ["mx.{name}.test"]}}}}"#
        )
    });
    let inbound = [
        r#"{"name": "Bank", "direction": "inbound", "from": {"sender-domains": ["bank.test"]},
            "require": {"tls": true, "certificate-names": ["*.bank.test"], "source-ips": ["192.0.2.0/24"]}}"#
            .to_owned(),
        r#"{"name": "Off", "direction": "inbound", "enabled": false,
            "from": {"sender-domains": ["*"]}, "require": {"tls": true}}"#
            .to_owned(),
    ];
    let all: Vec<String> = outbound.chain(inbound).collect();
    format!(
        r#"{{"accepted-domains": ["contoso.com"], "connectors": [{}]}}"#,
        all.join(",")
    )
}

struct World {
    setting: Setting,
    partners: Vec<MockServer>,
}

fn world() -> World {
    let pki = Pki::new();
    let mut records = String::new();
    for (number, name) in PARTNERS.iter().enumerate() {
        let host = number + 2;
        records.push_str(&format!(
            "{name}.test. MX 10 mx.{name}.test.\nmx.{name}.test. A 127.0.0.{host}\n"
        ));
    }
    let setting = Setting::start(pki, &rules(), &[&records], SHORT_TIMEOUTS);
    let trusted = |name: &str| Behaviour::with(&setting.pki.with_days(&[name], 60));
    let behaviours = [
        trusted("mx.healthy.test"),
        Behaviour::default(),
        Behaviour::with(&Pki::self_signed(&["mx.unknown.test"])),
        Behaviour::with(&setting.pki.expired(&["mx.expired.test"])),
        trusted("mx.elsewhere.test"),
        Behaviour::default(),
        Behaviour::with(&setting.pki.with_days(&["mx.soon.test"], 3)),
    ];
    let start = |(number, behaviour): (usize, Behaviour)| {
        let partner = MockServer::start_at(setting.address(number as u8 + 2), behaviour);
        (PARTNERS[number] != "silent").then_some(partner)
    };
    let partners: Vec<MockServer> = behaviours
        .into_iter()
        .enumerate()
        .filter_map(start)
        .collect();
    World { setting, partners }
}

impl World {
    fn validate(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        validate::validate(&self.setting.daemon, arguments)
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        validate::output(&self.setting.daemon, arguments)
    }
}

#[test]
fn partners_that_are_well_and_ones_that_are_not() {
    let world = world();
    let (code, outcomes) = world.validate(&[]);
    assert_eq!(code, 1);
    assert_eq!(outcomes.len(), 8, "the disabled one is left out");
    for (name, valid, failing, word) in [
        ("healthy", true, "level", "name is reached"),
        ("plain", false, "starttls", "starttls-not-supported"),
        ("unknown", false, "level", "certificate-not-trusted"),
        ("expired", false, "level", "certificate-expired"),
        ("other", false, "level", "certificate-host-mismatch"),
        ("silent", false, "connect", "refused"),
        ("soon", true, "certificate", "expires in 3 days"),
    ] {
        let outcome = outcomes
            .iter()
            .find(|outcome| outcome["connector"] == format!("To {name}"))
            .expect("an outcome");
        assert_eq!(outcome["valid"], valid, "{name}");
        let server = &outcome["routes"][0]["servers"][0];
        let check = check(&server["checks"], failing);
        let detail = check["detail"].as_str().expect("a text");
        assert!(detail.contains(word), "{name}: {detail}");
        assert_eq!(check["status"] == "failed", !valid, "{name}");
        assert_eq!(check["hint"].is_string(), name != "healthy", "{name}");
    }
    let healthy = &outcomes[0]["routes"][0]["servers"][0];
    assert_eq!(healthy["reached"], "name");
    assert_eq!(healthy["certificate"]["names"][0], "mx.healthy.test");
    assert_eq!(healthy["certificate"]["key"], "ECDSA 256");
    for partner in &world.partners {
        let commands = partner.commands();
        assert!(
            commands.iter().all(|line| !line.contains("MAIL")),
            "{commands:?}"
        );
    }
}

#[test]
fn a_test_message_is_sent_by_the_connector_that_is_for_it() {
    let world = world();
    let (code, outcomes) =
        world.validate(&["--to", "bob@healthy.test", "--from", "alice@contoso.com"]);
    assert_eq!((code, outcomes.len()), (0, 1));
    let message = &outcomes[0]["routes"][0]["message"];
    assert_eq!(message["status"], "ok");
    assert!(
        message["detail"]
            .as_str()
            .expect("a text")
            .contains("taken as 4711")
    );
    let taken = world.partners[0].taken();
    assert_eq!(taken.len(), 1);
    assert!(taken[0].tls && taken[0].content.contains("Auto-Submitted: auto-generated"));
    let (code, outcomes) = world.validate(&["To other", "--to", "bob@other.test"]);
    assert_eq!(code, 1);
    assert!(
        outcomes[0]["routes"][0].get("message").is_none(),
        "nothing is sent below the level"
    );
    let (code, text) = world.run(&["--to", "bob@elsewhere.test"]);
    assert_eq!(code, 2);
    assert!(
        text.contains("no connector is for bob@elsewhere.test"),
        "{text}"
    );
    let (code, text) = world.run(&["Nobody"]);
    assert_eq!(code, 2);
    assert!(text.contains("there is no connector \"Nobody\""), "{text}");
}

#[test]
fn what_an_inbound_partner_needs_and_whether_this_one_has_it() {
    let world = world();
    let folder = world.setting.daemon.folder();
    let (code, outcomes) = world.validate(&["Bank"]);
    assert_eq!(code, 0);
    assert!(outcomes[0].get("valid").is_none());
    let needs = &outcomes[0]["partner"]["checks"];
    assert_eq!(check(needs, "certificate-name")["detail"], "*.bank.test");
    assert_eq!(check(needs, "source-ip")["detail"], "192.0.2.0/24");
    let write = |name: &str, identity: portcullis_tests::pki::Identity| {
        identity.write(folder, name);
        folder.join(format!("{name}.pem")).display().to_string()
    };
    let pki = &world.setting.pki;
    let right = write("right", pki.trusted(&["mail.bank.test"]));
    let (code, outcomes) = world.validate(&["Bank", "--ip", "192.0.2.7", "--client-cert", &right]);
    assert_eq!((code, &outcomes[0]["valid"]), (0, &Value::Bool(true)));
    for (arguments, failing) in [
        (&["--ip", "192.0.2.7"][..], "tls"),
        (
            &["--ip", "198.51.100.1", "--client-cert", &right],
            "source-ip",
        ),
        (&["--ip", "192.0.2.7", "--tls"], "certificate-missing"),
        (
            &[
                "--ip",
                "192.0.2.7",
                "--client-cert",
                &write("other", pki.trusted(&["mail.other.test"])),
            ],
            "certificate-name",
        ),
        (
            &[
                "--ip",
                "192.0.2.7",
                "--client-cert",
                &write("unknown", Pki::self_signed(&["mail.bank.test"])),
            ],
            "certificate-untrusted",
        ),
    ] {
        let (code, outcomes) = world.validate(&[&["Bank"][..], arguments].concat());
        assert_eq!(code, 1, "{failing}");
        let check = check(&outcomes[0]["partner"]["checks"], failing);
        assert_eq!(check["status"], "failed", "{failing}");
        assert!(check["hint"].is_string(), "{failing}");
    }
    let soon = write("soon", pki.with_days(&["mail.bank.test"], 3));
    let (code, outcomes) = world.validate(&["Bank", "--ip", "192.0.2.7", "--client-cert", &soon]);
    assert_eq!(code, 0);
    assert_eq!(
        check(&outcomes[0]["partner"]["checks"], "certificate")["status"],
        "warning"
    );
    let (code, text) = world.run(&["Bank", "--from", "a@elsewhere.test"]);
    assert_eq!(code, 0);
    assert!(text.contains("it is not for this mail"), "{text}");
}

/// What the manual shows is what the program says.
#[test]
fn the_manual_shows_a_real_letter() {
    let world = world();
    let (code, letter) = world.run(&["Bank", "--letter"]);
    assert_eq!(code, 0);
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/validate.md");
    let manual = std::fs::read_to_string(manual).expect("the manual");
    assert!(
        manual.contains(&letter),
        "docs/validate.md does not show:\n{letter}"
    );
}

#[test]
fn the_manual_shows_real_output() {
    let world = world();
    let (_, text) = world.run(&["To healthy", "To other", "Bank"]);
    let port = world.setting.port.to_string();
    let shown: String = text.replace(&port, "25");
    // The time to the greeting is never the same.
    let shown: Vec<String> = shown
        .lines()
        .map(|line| match line.find("greeted within ") {
            Some(at) => format!("{}greeted within 1 ms", &line[..at]),
            None => line.to_owned(),
        })
        .collect();
    let shown = shown.join("\n");
    let manual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/validate.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        println!("{shown}");
    }
    let manual = std::fs::read_to_string(manual).expect("the manual");
    assert!(
        manual.contains(&shown),
        "docs/validate.md does not show:\n{shown}"
    );
}
