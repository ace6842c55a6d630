use std::net::IpAddr;
use std::sync::LazyLock;

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

/// Protocol version, and the certificate's names and whether it is trusted.
type Encryption<'a> = (u16, Option<(Vec<&'a str>, bool)>);

/// Direction, address, encryption, sender's and recipient's domain, and those in the header.
type Facts<'a> = (
    bool,
    Option<IpAddr>,
    Option<Encryption<'a>>,
    &'a str,
    &'a str,
    Option<Vec<&'a str>>,
);

/// Any facts get a verdict, and `explain` gives the same one.
pub fn contexts(input: &[u8]) {
    let Some(facts) = crate::read::<Facts>(input) else {
        return;
    };
    let context = context(facts);
    let verdict = POLICY.evaluate(&context);
    assert_eq!(POLICY.explain(&context).verdict, verdict);
}

fn context((outbound, ip, tls, from, to, header): Facts) -> Context {
    let owned = |names: Vec<&str>| names.into_iter().map(String::from).collect();
    let certificate = |(names, trusted)| Certificate {
        dns_names: owned(names),
        subject: String::new(),
        issuer: String::new(),
        sha256: (0, 0, 0, 0),
        not_after: None,
        trust: match trusted {
            true => Trust::Trusted,
            false => Trust::Expired,
        },
    };
    Context {
        direction: match outbound {
            true => Direction::Outbound,
            false => Direction::Inbound,
        },
        client_ip: ip.map(IpAddress::from_ip),
        helo: None,
        tls: tls.map(|(version, facts)| Tls {
            version,
            cipher: String::new(),
            certificate: facts.map(certificate),
        }),
        mail_from: from.into(),
        rcpt_to: to.into(),
        header_from: header.map(owned),
        attributes: Vec::new(),
    }
}
