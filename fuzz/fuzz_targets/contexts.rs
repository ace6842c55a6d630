//! Any facts get a verdict, and `explain` gives the same one.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portcullis_evaluator::{Certificate, Context, Direction, IpAddress, Policy, Tls, Trust};

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let rules = r#"{"connectors": [
        {"name": "a", "direction": "inbound", "match-header-from": true,
         "from": {"sender-domains": ["*.x.test", "bücher.example"]},
         "except": {"sender-domains": ["n.x.test"], "certificate-names": ["*.x.test"]},
         "require": {"tls": {"min-version": "TLSv1.3"}, "certificate-names": ["mail.x.test"]}},
        {"name": "b", "direction": "inbound", "from": {"sender-ips": ["10.0.0.0/8", "2001:db8::/32"],
         "recipient-domains": ["*"]}, "require": {"source-ips": ["10.1.0.0/16"]}},
        {"name": "c", "direction": "inbound", "mode": "audit", "from": {"certificate-names": ["*.x.test"]},
         "require": {"tls": true}},
        {"name": "d", "direction": "outbound", "to": {"recipient-domains": ["*.x.test"]}}]}"#;
    Policy::configure(rules).expect("the rules are good").0
});

#[derive(Arbitrary, Debug)]
struct Facts<'a> {
    outbound: bool,
    ip: Option<std::net::IpAddr>,
    tls: Option<(u16, Option<(Vec<&'a str>, bool)>)>,
    from: &'a str,
    to: &'a str,
    header: Option<Vec<&'a str>>,
}

fuzz_target!(|facts: Facts| {
    let context = Context {
        direction: if facts.outbound { Direction::Outbound } else { Direction::Inbound },
        client_ip: facts.ip.map(IpAddress::from_ip),
        helo: None,
        tls: facts.tls.map(|(version, certificate)| Tls {
            version,
            cipher: String::new(),
            certificate: certificate.map(|(names, trusted)| Certificate {
                dns_names: names.into_iter().map(String::from).collect(),
                subject: String::new(),
                issuer: String::new(),
                sha256: (0, 0, 0, 0),
                not_after: None,
                trust: if trusted { Trust::Trusted } else { Trust::Expired },
            }),
        }),
        mail_from: facts.from.into(),
        rcpt_to: facts.to.into(),
        header_from: facts.header.map(|names| names.into_iter().map(String::from).collect()),
        attributes: Vec::new(),
    };
    let verdict = POLICY.evaluate(&context);
    assert_eq!(POLICY.explain(&context).verdict, verdict);
});
