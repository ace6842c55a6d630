//! `portcullis validate` knows the authorities of the configuration.

use portcullis_tests::outbound::{SHORT_TIMEOUTS, Setting};
use portcullis_tests::pki::Identity;
use portcullis_tests::validate::{check, output, validate};
use portcullis_tests::{Behaviour, MockServer, Pki};

use super::{INBOUND, NAME};

const OUTBOUND: &str = r#"{"name": "To partner", "direction": "outbound", "to": {"recipient-domains": ["partner.test"]},
    "tls": {"level": "name", "names": ["mail.partner.test"], "certificate-authorities": ["partner"]}},
    {"name": "By certificate", "direction": "inbound", "from": {"certificate-names": ["mail.partner.test"]},
     "require": {"certificate-authorities": ["partner"], "source-ips": ["192.0.2.0/24"]}}"#;

struct World {
    partner: Pki,
    setting: Setting,
}

fn world() -> World {
    let partner = Pki::named("Partner Root");
    let inbound = INBOUND.strip_suffix("]}").expect("a list of connectors");
    let setting = Setting::start_with(
        Pki::new(),
        &format!("{inbound}, {OUTBOUND}]}}"),
        &["partner.test. MX 10 mx.partner.test.\nmx.partner.test. A 127.0.0.2"],
        &format!(
            "{SHORT_TIMEOUTS}[[trust.authority]]\nname = \"partner\"\nroots = \"partner.pem\""
        ),
        &[("partner.pem", &partner.root_pem)],
    );
    World { partner, setting }
}

impl World {
    fn written(&self, name: &str, identity: &Identity) -> String {
        let folder = self.setting.daemon.folder();
        identity.write(folder, name);
        folder.join(format!("{name}.pem")).display().to_string()
    }
}

#[test]
fn a_partner_is_told_whether_its_authority_is_the_one_that_is_named() {
    let world = world();
    let partner = world.written("own", &world.partner.trusted(&[NAME]));
    let public = world.written("public", &world.setting.pki.trusted(&[NAME]));
    for (connector, shown, failing) in [
        ("Partner", &partner, ""),
        ("Partner", &public, "certificate-authority"),
        ("Ordinary", &public, ""),
        ("Ordinary", &partner, "certificate-authority"),
        ("Either", &partner, ""),
        ("Either", &public, ""),
    ] {
        let given = [connector, "--ip", "192.0.2.7", "--client-cert", shown];
        let (code, outcomes) = validate(&world.setting.daemon, &given);
        assert_eq!(code, i32::from(!failing.is_empty()), "{connector} {shown}");
        assert_eq!(outcomes[0]["valid"], failing.is_empty());
        if !failing.is_empty() {
            let check = check(&outcomes[0]["partner"]["checks"], failing);
            assert_eq!(check["status"], "failed", "{connector} {shown}");
            assert!(check["hint"].is_string());
        }
    }
    // A connector that applies by certificate: to the partner's, and not to another one of the same name.
    let by_certificate = |shown: &str| {
        let given = [
            "By certificate",
            "--ip",
            "192.0.2.7",
            "--client-cert",
            shown,
        ];
        validate(&world.setting.daemon, &given)
    };
    let (code, outcomes) = by_certificate(&partner);
    assert_eq!((code, &outcomes[0]["valid"]), (0, &true.into()));
    let (code, outcomes) = by_certificate(&public);
    assert_eq!(code, 0);
    assert!(outcomes[0].get("valid").is_none(), "{outcomes:?}");
    let (code, outcomes) = validate(
        &world.setting.daemon,
        &["By certificate", "--ip", "203.0.113.7"],
    );
    assert_eq!((code, &outcomes[0]["valid"]), (1, &false.into()));
}

#[test]
fn what_a_partner_needs_names_its_authority() {
    let world = world();
    for connector in ["Partner", "By certificate"] {
        let (code, outcomes) = validate(&world.setting.daemon, &[connector]);
        assert_eq!(code, 0);
        let needs = &outcomes[0]["partner"]["checks"];
        let detail = &check(needs, "certificate-authority")["detail"];
        assert_eq!(detail, "partner", "{connector}");
    }
    let (code, letter) = output(&world.setting.daemon, &["Partner", "--letter"]);
    assert_eq!(code, 0);
    assert!(
        letter.contains("\n- has it from this authority: partner\n"),
        "{letter}"
    );
    assert!(!letter.contains("public authority"), "{letter}");
}

#[test]
fn a_server_is_verified_against_the_authority_that_is_named() {
    let world = world();
    let server = MockServer::start_at(
        world.setting.address(2),
        Behaviour::with(&world.partner.through_intermediate(&[NAME])),
    );
    let tried = || {
        let (code, outcomes) = validate(&world.setting.daemon, &["To partner"]);
        let server = outcomes[0]["routes"][0]["servers"][0].clone();
        let level = check(&server["checks"], "level").clone();
        (code, level, server)
    };
    let (code, level, reached) = tried();
    assert_eq!((code, &level["status"]), (0, &"ok".into()), "{level}");
    assert_eq!(reached["reached"], "name");
    server.behave(Behaviour::with(&world.setting.pki.trusted(&[NAME])));
    let (code, level, reached) = tried();
    assert_eq!((code, &level["status"]), (1, &"failed".into()), "{level}");
    let detail = level["detail"].as_str().expect("a text");
    assert!(
        detail.contains("comes from public, not from partner"),
        "{detail}"
    );
    assert_eq!(reached["valid"], false);
    assert!(server.commands().iter().all(|line| !line.contains("MAIL")));
}

#[test]
fn an_authority_that_the_tenant_may_not_name_is_not_trusted() {
    let partner = Pki::named("Partner Root");
    let more = "
        [[trust.authority]]
        name = \"partner\"
        roots = \"partner.pem\"
        tenants = [\"fabrikam\"]
        [[tenant]]
        name = \"fabrikam\"
        domains = [\"fabrikam.com\"]
        policy = \"fabrikam.json\"
    ";
    let setting = Setting::start_with(
        Pki::new(),
        INBOUND,
        &[],
        &format!("{SHORT_TIMEOUTS}{more}"),
        &[
            ("partner.pem", &partner.root_pem),
            ("fabrikam.json", INBOUND),
        ],
    );
    let world = World { partner, setting };
    let shown = world.written("own", &world.partner.trusted(&[NAME]));
    let (code, outcomes) = validate(&world.setting.daemon, &["Partner", "--client-cert", &shown]);
    assert_eq!(code, 1);
    let checks = &outcomes[0]["partner"]["checks"];
    assert_eq!(check(checks, "certificate-untrusted")["status"], "failed");
}
