//! Names that are none.

use portcullis_tests::openssl::Wish;

use super::World;

#[test]
fn what_is_no_name_never_matches() {
    let world = World::with_name("bücher.test", "");
    let label = "xn--bcher-kva.test";
    let none = "certificate-name";
    let mismatch = "certificate-host-mismatch";
    let san = |names: &str| format!("subjectAltName = ASN1:SEQUENCE:names\n[names]\n{names}");
    let ia5 = format!("good = IMPLICIT:2,IA5:{label}");
    let utf8 = "bad = IMPLICIT:2,FORMAT:UTF8,UTF8:bücher.test";
    let latin1 = "bad = IMPLICIT:2,FORMAT:HEX,OCT:62FC636865722E74657374";
    let both = format!("{utf8}\n{ia5}");
    // The common name, what else the certificate says, and what fails inbound and outbound.
    for (what, common_name, extension, inbound, outbound) in [
        ("a name", "x", san(&ia5), "", ""),
        ("a name in UTF-8", "x", san(utf8), none, mismatch),
        ("a name in Latin-1", "x", san(latin1), none, mismatch),
        (
            "a name in UTF-8 beside one that is good",
            "x",
            san(&both),
            "",
            "",
        ),
        (
            "a common name beside another name",
            label,
            "subjectAltName = DNS:other.test".into(),
            none,
            mismatch,
        ),
        (
            "a common name beside a name in UTF-8",
            label,
            san(utf8),
            none,
            mismatch,
        ),
        (
            "a common name beside a name in Latin-1",
            label,
            san(latin1),
            none,
            mismatch,
        ),
        (
            "a common name beside a mailbox",
            label,
            "subjectAltName = email:a@b.test".into(),
            none,
            mismatch,
        ),
        (
            "a common name beside an address",
            label,
            "subjectAltName = IP:127.0.0.1".into(),
            none,
            mismatch,
        ),
        // Of clients it is taken where nothing else is there; of servers never (RFC 9525).
        ("a common name alone", label, String::new(), "", mismatch),
    ] {
        let subject = format!("/C=DE/CN={common_name}");
        let extensions = format!("basicConstraints = critical, CA:FALSE\n{extension}");
        let own = world
            .shop
            .make(&Wish::new(&subject, &extensions), Some(&world.root));
        let told = world.inbound(&own, &[], "").bank;
        let expected = match inbound {
            "" => "250 ".to_owned(),
            failed => format!("550 5.7.1 refused by connector \"Bank\" ({failed})"),
        };
        assert!(told.starts_with(&expected), "{what}: {told}");
        let outcome = world.outbound("name", &own, &[], "");
        let as_expected = match outbound {
            "" => outcome.is_delivered(),
            result => outcome.text().contains(result),
        };
        assert!(as_expected, "{what}: {}", outcome.text());
        assert!(
            world.outbound("verify", &own, &[], "").is_delivered(),
            "{what}"
        );
    }
}
