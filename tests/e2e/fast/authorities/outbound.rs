//! Servers with certificates of a partner's own authority.

use portcullis_tests::outbound::{ONCE, SHORT_TIMEOUTS, Setting};
use portcullis_tests::{Action, Behaviour, MockServer, Pki, Step};

use super::{NAME, without_intermediate};

/// A connector for each recipient domain.
const RULES: &str = r#"{"connectors": [
    {"name": "To partner", "direction": "outbound", "to": {"recipient-domains": ["partner.test"]},
     "tls": {"level": "name", "names": ["mail.partner.test"], "certificate-authorities": ["partner"]}},
    {"name": "To ordinary", "direction": "outbound", "to": {"recipient-domains": ["ordinary.test"]},
     "tls": {"level": "name", "names": ["mail.partner.test"]}},
    {"name": "To either", "direction": "outbound", "to": {"recipient-domains": ["either.test"]},
     "tls": {"level": "verify", "certificate-authorities": ["public", "partner"]}},
    {"name": "To encrypted", "direction": "outbound", "to": {"recipient-domains": ["encrypted.test"]},
     "tls": {"level": "encrypt", "certificate-authorities": ["partner"]}},
    {"name": "To nobody's", "direction": "outbound", "to": {"recipient-domains": ["nobodys.test"]},
     "tls": {"level": "verify", "certificate-authorities": ["nobody"]}}]}"#;

const DOMAINS: [&str; 5] = ["partner", "ordinary", "either", "encrypted", "nobodys"];

#[test]
fn an_authority_counts_for_servers_where_it_is_named_and_nowhere_else() {
    let (public, partner) = (Pki::new(), Pki::named("Partner Root"));
    let mut records = "mx.partner.test. A 127.0.0.2\n".to_owned();
    for domain in DOMAINS {
        records.push_str(&format!("{domain}.test. MX 10 mx.partner.test.\n"));
    }
    let authority = "[[trust.authority]]\nname = \"partner\"\nroots = \"partner.pem\"";
    let setting = Setting::start_with(
        public,
        RULES,
        &[&records],
        &format!("{SHORT_TIMEOUTS}{ONCE}{authority}"),
        &[("partner.pem", &partner.root_pem)],
    );
    let server = MockServer::start_at(setting.address(2), Behaviour::default());
    let long = partner.through_intermediate(&[NAME]);
    let with = |identity| Behaviour::with(identity);
    let [other, name] = ["certificate-not-trusted", "certificate-host-mismatch"];
    let over = "certificate-expired";
    // Why mail to each domain is deferred; delivered, if there is no reason.
    for (what, behaviour, expected) in [
        (
            "the partner's",
            with(&partner.trusted(&[NAME])),
            ["", other, "", "", other],
        ),
        (
            "with an intermediate",
            with(&long),
            ["", other, "", "", other],
        ),
        (
            "without its intermediate",
            with(&without_intermediate(&long)),
            [other; 5],
        ),
        (
            "a public one",
            with(&setting.pki.trusted(&[NAME])),
            [other, "", "", other, other],
        ),
        ("nobody's", with(&Pki::self_signed(&[NAME])), [other; 5]),
        (
            "one that is over",
            with(&partner.expired(&[NAME])),
            [over, other, over, over, over],
        ),
        (
            "another name",
            with(&partner.trusted(&["mail.other.test"])),
            [name, other, "", "", other],
        ),
        (
            "no STARTTLS",
            Behaviour::default(),
            ["starttls-not-supported"; 5],
        ),
        (
            "a broken handshake",
            with(&partner.trusted(&[NAME])).but(Step::StartTls, Action::Cut),
            ["validation-failure"; 5],
        ),
    ] {
        server.behave(behaviour);
        for (domain, expected) in DOMAINS.into_iter().zip(expected) {
            server.forget();
            let outcome = setting.send(&format!("bob@{domain}.test"));
            let told = format!("{what}, {domain}: {}", outcome.text());
            let taken = server.forget();
            if expected.is_empty() {
                assert!(outcome.is_delivered() && taken[0].tls, "{told}");
                continue;
            }
            assert_eq!(outcome.last().code, 451, "{told}");
            assert!(outcome.text().contains(expected), "{told}");
            assert!(taken.is_empty(), "{told}");
        }
    }
    let skipped = setting
        .daemon
        .wait_for_log("comes from public, not from partner");
    assert!(skipped.contains("certificate-not-trusted"), "{skipped}");
}
