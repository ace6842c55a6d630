use std::net::IpAddr;
use std::sync::LazyLock;

use portcullis_evaluator::{
    Certificate, ClientAddress, Context, Direction, HeaderFrom, PeerCertificate, Policy,
    SessionSecurity, Tls, Trust, Verdict,
};

/// Rules that read each fact.
pub const RULES: &str = r#"{"connectors": [
        {"name": "a", "direction": "inbound", "match-header-from": true,
         "from": {"sender-domains": ["*.x.test", "bücher.example"]},
         "except": {"sender-domains": ["n.x.test"], "certificate-names": ["*.x.test"]},
         "require": {"tls": {"min-version": "TLSv1.3"}, "certificate-names": ["mail.x.test"]}},
        {"name": "b", "direction": "inbound", "from": {"sender-ips": ["10.0.0.0/8", "2001:db8::/32"],
         "recipient-domains": ["*"]}, "require": {"source-ips": ["10.1.0.0/16"]}},
        {"name": "c", "direction": "inbound", "mode": "audit", "from": {"certificate-names": ["*.x.test"]},
         "require": {"tls": true}},
        {"name": "d", "direction": "outbound", "to": {"recipient-domains": ["*.x.test"]}},
        {"name": "e", "direction": "outbound", "mode": "audit", "to": {"recipient-domains": ["*.x.test"]},
         "tls": {"level": "verify", "min-version": "TLSv1.3", "certificate-authorities": ["x"]}},
        {"name": "f", "direction": "inbound", "from": {"certificate-names": ["*.y.test"]},
         "except": {"sender-ips": ["10.0.0.0/8"]},
         "require": {"certificate-authorities": ["x"], "certificate-keys": [
            "0000000000000000000000000000000000000000000000000000000000000001"]}},
        {"name": "g", "direction": "inbound", "from": {"sender-domains": ["*"], "sender-ips": ["10.2.0.0/16"]},
         "require": {"certificate-fingerprints": [
            "0000000000000000000000000000000000000000000000000000000000000002"]}}]}"#;

static POLICY: LazyLock<Policy> =
    LazyLock::new(|| Policy::configure(RULES).expect("the rules are good").0);

static PACKED: LazyLock<Policy> = LazyLock::new(|| {
    let packed = POLICY.packed().to_vec();
    Policy::load_packed(packed).expect("our own rules")
});

/// A fact: absent, unknown, or what it is.
type Fact<T> = Option<Option<T>>;

/// The certificate's names, the last octets of its digests, its trust and its anchors; each perhaps unknown.
type Presented<'a> = (
    Option<Vec<&'a str>>,
    Option<u8>,
    Option<u8>,
    Option<u8>,
    Option<Vec<&'a str>>,
);

/// Protocol version, and certificate.
type Encryption<'a> = (Option<u16>, Fact<Presented<'a>>);

/// Direction, address, encryption, sender's and recipient's domain, and those in the header.
pub type Facts<'a> = (
    bool,
    Fact<IpAddr>,
    Fact<Encryption<'a>>,
    &'a str,
    &'a str,
    Fact<Vec<&'a str>>,
);

/// What unknown facts might have been: address, encryption, certificate and the domains in the header.
type Filling<'a> = (Option<IpAddr>, Option<(u16, bool)>, Known<'a>, Vec<&'a str>);

/// A certificate of which all is known.
type Known<'a> = (Vec<&'a str>, u8, u8, u8, Vec<&'a str>);

/// Any facts get a verdict. `explain` and packed rules give the same one, and what is accepted or rejected although
/// facts are unknown would be so whatever they are.
pub fn contexts(input: &[u8]) {
    let Some((facts, filling)) = crate::read::<(Facts, Filling)>(input) else {
        return;
    };
    let context = context(facts);
    let verdict = POLICY.evaluate(&context);
    assert_eq!(POLICY.explain(&context).verdict, verdict);
    assert_eq!(PACKED.evaluate(&context), verdict);
    let filled = filled(context, filling);
    match (verdict, POLICY.evaluate(&filled)) {
        (_, Verdict::Defer(refusal)) => panic!("{refusal:?}, but all is known: {filled:?}"),
        (Verdict::Accept(_), found) => assert!(matches!(found, Verdict::Accept(_)), "{filled:?}"),
        (Verdict::Reject(_), found) => assert!(matches!(found, Verdict::Reject(_)), "{filled:?}"),
        (Verdict::Deliver(first), Verdict::Deliver(second)) => assert_eq!(first, second),
        (Verdict::Deliver(_), found) => panic!("{found:?}, but mail goes out: {filled:?}"),
        (Verdict::Defer(_), _) => {}
    }
}

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(String::from).collect()
}

fn trust(number: u8) -> Trust {
    // Every second one is trusted: otherwise hardly any connector would see one that is.
    match number {
        0 => Trust::Expired,
        1 => Trust::UnknownIssuer,
        2 => Trust::NotYetValid,
        3 => Trust::Revoked,
        4..128 => Trust::Invalid,
        128.. => Trust::Trusted,
    }
}

fn certificate((names, sha256, key, trusted, anchors): Presented) -> Certificate {
    let digest = |last: u8| (0, 0, 0, u64::from(last));
    Certificate {
        dns_names: names.map(owned),
        subject: String::new(),
        issuer: String::new(),
        sha256: sha256.map(digest),
        key_sha256: key.map(digest),
        not_after: None,
        trust: trusted.map(trust),
        anchors: anchors.map(owned),
    }
}

fn tls((version, presented): Encryption) -> Tls {
    Tls {
        version,
        cipher: String::new(),
        certificate: match presented {
            None => PeerCertificate::None,
            Some(None) => PeerCertificate::Unknown,
            Some(Some(presented)) => PeerCertificate::Presented(certificate(presented)),
        },
    }
}

pub fn context((outbound, ip, encryption, from, to, header): Facts) -> Context {
    Context {
        direction: match outbound {
            true => Direction::Outbound,
            false => Direction::Inbound,
        },
        client_ip: match ip {
            None => ClientAddress::None,
            Some(None) => ClientAddress::Unknown,
            Some(Some(ip)) => ClientAddress::Known(ip.into()),
        },
        helo: None,
        security: match encryption {
            None => SessionSecurity::Plaintext,
            Some(None) => SessionSecurity::Unknown,
            Some(Some(encryption)) => SessionSecurity::Encrypted(tls(encryption)),
        },
        mail_from: from.into(),
        rcpt_to: to.into(),
        header_from: match header {
            None => HeaderFrom::Pending,
            Some(None) => HeaderFrom::Unknown,
            Some(Some(header)) => HeaderFrom::Addresses(owned(header)),
        },
        attributes: Vec::new(),
    }
}

/// The context with all facts known: those that were known as they were.
fn filled(mut context: Context, (ip, encryption, known, header): Filling) -> Context {
    if matches!(context.client_ip, ClientAddress::Unknown) {
        context.client_ip = ip.map_or(ClientAddress::None, |ip| ClientAddress::Known(ip.into()));
    }
    if matches!(context.header_from, HeaderFrom::Unknown) {
        context.header_from = HeaderFrom::Addresses(owned(header));
    }
    let (version, has_certificate) = encryption.unwrap_or((0x0304, true));
    let (names, sha256, key, trusted, anchors) = known;
    let whole = certificate((
        Some(names),
        Some(sha256),
        Some(key),
        Some(trusted),
        Some(anchors),
    ));
    let presented = match has_certificate {
        true => PeerCertificate::Presented(whole.clone()),
        false => PeerCertificate::None,
    };
    if matches!(context.security, SessionSecurity::Unknown) {
        context.security = match encryption {
            None => SessionSecurity::Plaintext,
            Some(_) => SessionSecurity::Encrypted(Tls {
                version: Some(version),
                cipher: String::new(),
                certificate: presented.clone(),
            }),
        };
    }
    if let SessionSecurity::Encrypted(tls) = &mut context.security {
        tls.version.get_or_insert(version);
        if matches!(tls.certificate, PeerCertificate::Unknown) {
            tls.certificate = presented;
        }
        if let PeerCertificate::Presented(certificate) = &mut tls.certificate {
            fill_certificate(certificate, whole);
        }
    }
    context
}

fn fill_certificate(certificate: &mut Certificate, known: Certificate) {
    let fields = |it: Certificate| (it.dns_names, it.sha256, it.key_sha256, it.trust, it.anchors);
    let (names, sha256, key, trust, anchors) = fields(known);
    certificate.dns_names = certificate.dns_names.take().or(names);
    certificate.sha256 = certificate.sha256.or(sha256);
    certificate.key_sha256 = certificate.key_sha256.or(key);
    certificate.trust = certificate.trust.or(trust);
    certificate.anchors = certificate.anchors.take().or(anchors);
}
