//! Clients with certificates of a partner's own authority.

use portcullis_tests::{Config, Listener, Pki, TestBed};

use super::{INBOUND, NAME, assert_refused, inbound, without_intermediate};

const TO: &str = "bob@contoso.com";

struct World {
    public: Pki,
    partner: Pki,
    bed: TestBed,
}

fn world(rules: &str) -> World {
    let (public, partner) = (Pki::new(), Pki::named("Partner Root"));
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .certificate(&public)
        .tenant("contoso.com", rules)
        .trust(&public)
        .authority("partner", &partner, &[]);
    World {
        public,
        partner,
        bed: TestBed::start(config),
    }
}

#[test]
fn an_authority_counts_where_it_is_named_and_nowhere_else() {
    let World {
        public,
        partner,
        bed,
    } = world(INBOUND);
    let of_partner = partner.trusted(&[NAME]);
    let long = partner.through_intermediate(&[NAME]);
    let broken = without_intermediate(&long);
    let of_public = public.trusted(&[NAME]);
    let of_nobody = Pki::self_signed(&[NAME]);
    let over = partner.expired(&[NAME]);
    let misnamed = partner.trusted(&["mail.other.test"]);
    let [authority, name] = ["certificate-authority", "certificate-name"];
    let [untrusted, missing] = ["certificate-untrusted", "certificate-missing"];
    // What fails for mail from partner.test, ordinary.test and either.test.
    for (what, shown, failed) in [
        ("the partner's", Some(&of_partner), ["", authority, ""]),
        ("with an intermediate", Some(&long), ["", authority, ""]),
        (
            "without its intermediate",
            Some(&broken),
            [untrusted, untrusted, untrusted],
        ),
        ("a public one", Some(&of_public), [authority, "", ""]),
        (
            "nobody's",
            Some(&of_nobody),
            [untrusted, untrusted, untrusted],
        ),
        (
            "one that is over",
            Some(&over),
            [untrusted, untrusted, untrusted],
        ),
        ("another name", Some(&misnamed), [name, authority, name]),
        ("none", None, [missing, missing, missing]),
    ] {
        for ((domain, connector), failed) in [
            ("partner.test", "Partner"),
            ("ordinary.test", "Ordinary"),
            ("either.test", "Either"),
        ]
        .into_iter()
        .zip(failed)
        {
            println!("{what}, {domain}");
            let reply = inbound(&bed, shown, &format!("a@{domain}"), TO);
            match failed {
                "" => assert_eq!(reply.code, 250, "{reply:?}"),
                failed => assert_refused(&reply, connector, failed),
            }
        }
    }
    let refused = bed.wait_for_log("failed=\"certificate-authority\"");
    assert!(refused.contains("certificate=\"trusted\""), "{refused}");
}

/// A connector that applies by certificate applies to those of its own authorities.
#[test]
fn mail_is_selected_by_certificates_of_the_authorities_that_are_named() {
    let World {
        public,
        partner,
        bed,
    } = world(
        r#"{"connectors": [
        {"name": "By certificate", "direction": "inbound", "from": {"certificate-names": ["mail.partner.test"]},
         "require": {"certificate-authorities": ["partner"], "source-ips": ["192.0.2.0/24"]}},
        {"name": "But the partner's", "direction": "inbound", "from": {"sender-domains": ["except.test"]},
         "except": {"certificate-names": ["mail.other.test"]},
         "require": {"certificate-authorities": ["partner"], "source-ips": ["192.0.2.0/24"]}}]}"#,
    );
    let reply = |shown, from| inbound(&bed, Some(shown), from, TO);
    let of_partner = partner.trusted(&[NAME]);
    assert_refused(
        &reply(&of_partner, "a@any.test"),
        "By certificate",
        "source-ip",
    );
    let of_public = public.trusted(&[NAME]);
    assert_eq!(reply(&of_public, "a@any.test").code, 250);
    let excepted = partner.trusted(&["mail.other.test"]);
    assert_eq!(reply(&excepted, "a@except.test").code, 250);
    let same_name = public.trusted(&["mail.other.test"]);
    assert_refused(
        &reply(&same_name, "a@except.test"),
        "But the partner's",
        "certificate-authority",
    );
}

/// The organization's own servers are known by ordinary certificates: a partner must not send as one of them.
#[test]
fn a_partners_authority_lets_nobody_send_to_partners() {
    let (public, partner) = (Pki::new(), Pki::named("Partner Root"));
    let config = Config::new()
        .listener(Listener::outbound("certificate-names = [\"mta.contoso.com\"]").starttls())
        .certificate(&public)
        .tenant("contoso.com", portcullis_tests::NO_RULES)
        .with("[dns]\nservers = [\"127.0.0.1:9\"]\ntimeout = \"100ms\"")
        .trust(&public)
        .authority("partner", &partner, &[]);
    let bed = TestBed::start(config);
    let code = |pki: &Pki| {
        let mut client = portcullis_tests::Client::greeted(bed.address());
        client.hello(true, Some(&pki.trusted(&["mta.contoso.com"])));
        client.command("MAIL FROM:<a@contoso.com>").code
    };
    assert_eq!(code(&public), 250);
    assert_eq!(code(&partner), 550);
}
