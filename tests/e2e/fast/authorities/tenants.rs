//! Authorities that only some tenants may name.

use portcullis_tests::outbound::{ONCE, SHORT_TIMEOUTS, send_from};
use portcullis_tests::pki::Identity;
use portcullis_tests::{
    Behaviour, Client, Config, Dns, Listener, MockServer, Pki, TestBed, machine,
};

use super::{INBOUND, NAME, assert_refused};

/// Mail to partner.test at the level `name`, from the partner's authority.
const OUTBOUND: &str = r#"{"connectors": [
    {"name": "To partner", "direction": "outbound", "to": {"recipient-domains": ["partner.test"]},
     "tls": {"level": "name", "names": ["mail.partner.test"], "certificate-authorities": ["partner"]}}]}"#;

#[test]
fn a_tenant_that_may_not_name_an_authority_does_not_trust_it() {
    let (public, partner) = (Pki::new(), Pki::named("Partner Root"));
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .certificate(&public)
        .tenant("contoso.com", INBOUND)
        .tenant("fabrikam.com", INBOUND)
        .trust(&public)
        .authority("partner", &partner, &["contoso"]);
    let bed = TestBed::start(config);
    let client = |shown: &Identity| {
        let mut client = Client::greeted(bed.address());
        client.hello(true, Some(shown));
        client
    };
    for shown in [
        partner.trusted(&[NAME]),
        partner.through_intermediate(&[NAME]),
    ] {
        // What one tenant is told of a certificate is not left over for the next one.
        let mut client = client(&shown);
        client.expect("MAIL FROM:<a@partner.test>", 250);
        for _ in 0..2 {
            client.expect("RCPT TO:<bob@contoso.com>", 250);
            let reply = client.command("RCPT TO:<bob@fabrikam.com>");
            assert_refused(&reply, "Partner", "certificate-untrusted");
        }
    }
    let log = |tenant: &str, trust: &str| {
        format!("tenant={tenant} connector=\"Partner\" failed=\"{trust}\"")
    };
    bed.wait_for_log(&log("contoso", ""));
    let refused = bed.wait_for_log(&log("fabrikam", "certificate-untrusted"));
    assert!(
        refused.contains("certificate=\"unknown-issuer\""),
        "{refused}"
    );
    // Whom everybody trusts, everybody trusts.
    let mut client = client(&public.trusted(&[NAME]));
    client.expect("MAIL FROM:<a@either.test>", 250);
    client.expect("RCPT TO:<bob@contoso.com>", 250);
    client.expect("RCPT TO:<bob@fabrikam.com>", 250);
}

/// Two tenants whose rules are the same, and a partner of whose authority one of them may know.
struct World {
    pki: Pki,
    partner: MockServer,
    bed: TestBed,
    _dns: Dns,
}

fn world(more: &str) -> World {
    let (public, pki) = (Pki::new(), Pki::named("Partner Root"));
    let port = machine::free_address().port();
    let dns = Dns::start(&["partner.test. MX 10 mx.partner.test.\nmx.partner.test. A 127.0.0.2"]);
    let config = Config::new()
        .listener(Listener::outbound(
            "clients = [\"127.0.0.1\"], tenant = \"contoso\"",
        ))
        .tenant("contoso.com", OUTBOUND)
        .tenant("fabrikam.com", OUTBOUND)
        .trust(&public)
        .authority("partner", &pki, &["contoso"])
        .dns(&dns)
        .partners_here(port)
        .with(SHORT_TIMEOUTS)
        .with(more);
    let behaviour = Behaviour::with(&pki.trusted(&[NAME]));
    World {
        partner: MockServer::start_at(([127, 0, 0, 2], port).into(), behaviour),
        bed: TestBed::start(config),
        pki,
        _dns: dns,
    }
}

impl World {
    /// Holds that one tenant's mail is delivered, and the other's is not.
    fn assert_told_apart(&self) {
        let send = |from| send_from(&mut self.bed.client(), from, "bob@partner.test");
        let before = self.partner.taken().len();
        for number in 1..=2 {
            let own = send("a@contoso.com");
            assert!(own.is_delivered(), "{}", own.text());
            let other = send("a@fabrikam.com");
            assert_eq!(other.last().code, 451, "{}", other.text());
            let told = other.text();
            assert!(told.contains("certificate-not-trusted"), "{told}");
            assert_eq!(self.partner.taken().len(), before + number);
        }
    }
}

#[test]
fn mail_to_a_partner_is_not_sent_by_an_authority_that_its_tenant_may_not_name() {
    let world = world(ONCE);
    world.assert_told_apart();
    let long = world.pki.through_intermediate(&[NAME]);
    world.partner.behave(Behaviour::with(&long));
    world.assert_told_apart();
}

#[test]
fn a_connection_that_one_tenants_authority_has_opened_is_not_for_another_tenant() {
    let world = world("");
    world.assert_told_apart();
    // The one whose certificate was trusted is used again.
    let kept = world.partner.commands();
    let kept = kept.iter().filter(|line| line.starts_with("TLS MAIL"));
    assert_eq!(kept.count(), 2);
    assert_eq!(world.partner.connections(), 3);
}
