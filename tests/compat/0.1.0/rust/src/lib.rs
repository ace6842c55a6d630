//! The policy of the compatibility fixtures, in Rust. `../README.md` says what it decides.

wit_bindgen::generate!({
    path: "../../../../wit/released/0.1.0",
    world: "policy",
});

use exports::portcullis::policy::evaluation::*;

const BANK: &str = "contosobank.com";
const NAME: &str = "mail.contosobank.com";
const KEY: Sha256 = (1, 0x2233445566778899, 0xfedcba9876543210, u64::MAX);
const LOST: Sha256 = (u64::MAX, 0, 1, 0x8000000000000000);
/// 2100-01-01.
const LAST_DAY: i64 = 4102444800;
const TLS_1_2: u16 = 0x0303;
const TLS_1_3: u16 = 0x0304;

const ALL: [Fact; 12] = [
    Fact::ClientIp,
    Fact::MailFrom,
    Fact::RcptTo,
    Fact::HeaderFrom,
    Fact::Tls,
    Fact::TlsVersion,
    Fact::Certificate,
    Fact::CertificateNames,
    Fact::CertificateSha256,
    Fact::CertificateKey,
    Fact::CertificateTrust,
    Fact::CertificateAnchors,
];

struct Policy;

export!(Policy);

impl Guest for Policy {
    fn evaluate(context: Context) -> Verdict {
        verdict(&context)
    }

    fn explain(context: Context) -> Explanation {
        Explanation {
            verdict: verdict(&context),
            considered: match context.direction {
                Direction::Inbound => vec![consider_bank(&context), consider_trial(&context)],
                Direction::Outbound => outbound_connectors()
                    .iter()
                    .filter(|connector| connector.mode != Mode::Disabled)
                    .map(|connector| consider_outbound(connector, &context))
                    .collect(),
            },
            others: match context.direction {
                Direction::Inbound => 0,
                Direction::Outbound => 1,
            },
        }
    }

    fn describe(first: u32, limit: u32) -> Description {
        let mut connectors = inbound_connectors();
        connectors.extend(outbound_connectors());
        Description {
            organization: "Contoso".into(),
            accepted_domains: texts(&["contoso.com", "xn--contos-rva.example"]),
            reads: ALL.to_vec(),
            authorities: ["public", "Contoso CA"]
                .map(|name| NamedAuthority {
                    name: name.into(),
                    connector: "To Contoso Bank".into(),
                })
                .to_vec(),
            total: connectors.len() as u32,
            connectors: connectors
                .into_iter()
                .skip(first as usize)
                .take(limit as usize)
                .collect(),
        }
    }
}

fn verdict(context: &Context) -> Verdict {
    match context.direction {
        Direction::Inbound => inbound(context),
        Direction::Outbound => outbound(context),
    }
}

fn inbound(context: &Context) -> Verdict {
    let audit = findings(context);
    match domain(&context.rcpt_to).as_str() {
        "closed.contoso.com" => {
            return Verdict::Reject(Refusal {
                connector: None,
                failed: "closed".into(),
                code: 554,
                enhanced: "5.2.1".into(),
                text: "this mailbox is closed – for good".into(),
                audit,
            });
        }
        "later.contoso.com" => {
            return Verdict::Defer(Refusal {
                connector: None,
                failed: "busy".into(),
                code: 450,
                enhanced: "4.2.1".into(),
                text: "try again later".into(),
                audit,
            });
        }
        _ => {}
    }
    if domain(&context.mail_from) != BANK {
        return Verdict::Accept(Acceptance {
            connectors: Vec::new(),
            audit,
        });
    }
    let requirements = bank_requirements(context);
    let first = |outcome| requirements.iter().find(|it| it.satisfied == outcome);
    if let Some(failed) = first(Outcome::No) {
        return Verdict::Reject(Refusal {
            connector: Some("Contoso Bank".into()),
            failed: failed.requirement.clone(),
            code: 550,
            enhanced: "5.7.1".into(),
            text: format!("{} where {} is required", failed.fact, failed.expected),
            audit,
        });
    }
    if let Some(unknown) = first(Outcome::Unknown) {
        return Verdict::Defer(Refusal {
            connector: Some("Contoso Bank".into()),
            failed: "fact-unavailable".into(),
            code: 451,
            enhanced: "4.7.0".into(),
            text: format!("{} cannot be checked now", unknown.requirement),
            audit,
        });
    }
    Verdict::Accept(Acceptance {
        connectors: texts(&["Contoso Bank"]),
        audit,
    })
}

fn outbound(context: &Context) -> Verdict {
    let to = domain(&context.rcpt_to);
    if to == "closed.example" {
        return Verdict::Reject(Refusal {
            connector: Some("Closed".into()),
            failed: "closed".into(),
            code: 550,
            enhanced: "5.7.1".into(),
            text: "we do not write to them".into(),
            audit: Vec::new(),
        });
    }
    if to == "later.example" {
        return Verdict::Defer(Refusal {
            connector: None,
            failed: "busy".into(),
            code: 451,
            enhanced: "4.4.1".into(),
            text: "they do not answer".into(),
            audit: Vec::new(),
        });
    }
    let decides = |connector: &Connector| {
        connector.mode != Mode::Disabled && connector.selects.recipient_domains == [to.clone()]
    };
    let connector = outbound_connectors().into_iter().find(decides);
    let delivery = connector.and_then(|connector| connector.delivery);
    Verdict::Deliver(delivery.unwrap_or_else(|| by_mx(None, opportunistic())))
}

/// What the connector in audit mode would have refused.
fn findings(context: &Context) -> Vec<Finding> {
    let requirement = trial_requirement(context);
    let failed = match requirement.satisfied {
        Outcome::Yes => return Vec::new(),
        Outcome::No => requirement.requirement,
        Outcome::Unknown => "fact-unavailable".into(),
    };
    vec![Finding {
        connector: "Trial".into(),
        failed,
    }]
}

fn trial_requirement(context: &Context) -> RequirementOutcome {
    version_requirement(context, TLS_1_3)
}

fn bank_requirements(context: &Context) -> Vec<RequirementOutcome> {
    vec![
        source_ip(context),
        encryption(context),
        version_requirement(context, TLS_1_2),
        presented(context),
        of_certificate(
            context,
            "certificate-fingerprint",
            format!("not {}", hex(&LOST)),
            |it| it.sha256.map(|digest| (digest != LOST, hex(&digest))),
        ),
        of_certificate(context, "certificate-key", hex(&KEY), |it| {
            it.key_sha256.map(|digest| (digest == KEY, hex(&digest)))
        }),
        of_certificate(
            context,
            "certificate-expiry",
            format!("before {LAST_DAY}"),
            |it| it.not_after.map(|end| (end < LAST_DAY, end.to_string())),
        ),
        of_certificate(context, "certificate-untrusted", "trusted".into(), |it| {
            it.trust
                .map(|trust| (trust == Trust::Trusted, trust_name(trust).into()))
        }),
        of_certificate(context, "certificate-authority", "public".into(), |it| {
            let anchors = it.anchors.as_ref()?;
            Some((anchors.iter().any(|it| it == "public"), anchors.join(",")))
        }),
        of_certificate(context, "certificate-name", NAME.into(), |it| {
            let names = it.dns_names.as_ref()?;
            Some((names.iter().any(|it| it == NAME), names.join(",")))
        }),
        header_from(context),
        requirement(
            "helo",
            answer(context.helo.as_deref() != Some("localhost")),
            "not localhost",
            context.helo.clone().unwrap_or_else(|| "none".into()),
        ),
        attributes(context),
    ]
}

fn source_ip(context: &Context) -> RequirementOutcome {
    let (satisfied, fact) = match &context.client_ip {
        ClientAddress::None => (Outcome::No, "none".into()),
        ClientAddress::Unknown => (Outcome::Unknown, "unknown".into()),
        ClientAddress::Known(ip) => {
            let is_theirs = match *ip {
                IpAddress::Ipv4(ip) => ip >> 8 == 0xCB0071,
                IpAddress::Ipv6((upper, _)) => upper >> 16 == 0x20010db80007,
            };
            (answer(is_theirs), ip_text(ip))
        }
    };
    requirement(
        "source-ip",
        satisfied,
        "203.0.113.0/24 or 2001:db8:7::/48",
        fact,
    )
}

fn encryption(context: &Context) -> RequirementOutcome {
    let (satisfied, fact) = match &context.security {
        SessionSecurity::Plaintext => (Outcome::No, "plaintext".into()),
        SessionSecurity::Unknown => (Outcome::Unknown, "unknown".into()),
        SessionSecurity::Encrypted(tls) => (Outcome::Yes, format!("encrypted {}", tls.cipher)),
    };
    requirement("tls", satisfied, "encryption", fact)
}

fn version_requirement(context: &Context, least: u16) -> RequirementOutcome {
    let (satisfied, fact) = match &context.security {
        SessionSecurity::Plaintext => (Outcome::No, "none".into()),
        SessionSecurity::Unknown => (Outcome::Unknown, "unknown".into()),
        SessionSecurity::Encrypted(tls) => match tls.version {
            None => (Outcome::Unknown, "unknown".into()),
            Some(version) => (answer(version >= least), version.to_string()),
        },
    };
    requirement("tls-version", satisfied, &least.to_string(), fact)
}

/// The certificate; without encryption there is none.
fn certificate(context: &Context) -> &PeerCertificate {
    match &context.security {
        SessionSecurity::Plaintext => &PeerCertificate::None,
        SessionSecurity::Unknown => &PeerCertificate::Unknown,
        SessionSecurity::Encrypted(tls) => &tls.certificate,
    }
}

fn presented(context: &Context) -> RequirementOutcome {
    let (satisfied, fact) = match certificate(context) {
        PeerCertificate::None => (Outcome::No, "none".into()),
        PeerCertificate::Unknown => (Outcome::Unknown, "unknown".into()),
        PeerCertificate::Presented(it) => {
            (Outcome::Yes, format!("{} by {}", it.subject, it.issuer))
        }
    };
    requirement("certificate-missing", satisfied, "a certificate", fact)
}

/// A requirement on a field, which is unknown where `read` gives nothing.
fn of_certificate(
    context: &Context,
    name: &str,
    expected: String,
    read: impl Fn(&Certificate) -> Option<(bool, String)>,
) -> RequirementOutcome {
    let unknown = (Outcome::Unknown, "unknown".into());
    let (satisfied, fact) = match certificate(context) {
        PeerCertificate::None => (Outcome::No, "none".into()),
        PeerCertificate::Unknown => unknown,
        PeerCertificate::Presented(it) => match read(it) {
            None => unknown,
            Some((is_satisfied, fact)) => (answer(is_satisfied), fact),
        },
    };
    requirement(name, satisfied, &expected, fact)
}

fn header_from(context: &Context) -> RequirementOutcome {
    let (satisfied, fact) = match &context.header_from {
        // The host asks again.
        HeaderFrom::Pending => (Outcome::Yes, "pending".into()),
        HeaderFrom::Unknown => (Outcome::Unknown, "unknown".into()),
        HeaderFrom::Addresses(addresses) => {
            let is_blocked = addresses.iter().any(|it| domain(it) == "blocked.example");
            (answer(!is_blocked), addresses.join(","))
        }
    };
    requirement("header-from", satisfied, "not blocked.example", fact)
}

fn attributes(context: &Context) -> RequirementOutcome {
    let all = &context.attributes;
    let is_listed = all
        .iter()
        .any(|it| it.name == "example.listed" && it.value == "yes");
    let fact: Vec<String> = all
        .iter()
        .map(|it| format!("{}={}", it.name, it.value))
        .collect();
    requirement("listed", answer(!is_listed), "not listed", fact.join(","))
}

fn consider_bank(context: &Context) -> Consideration {
    let matched = domain(&context.mail_from) == BANK;
    Consideration {
        connector: "Contoso Bank".into(),
        mode: Mode::Enforce,
        matched: answer(matched),
        selectors: vec![selector(
            "from.sender-domains",
            answer(matched),
            BANK,
            &context.mail_from,
        )],
        requirements: match matched {
            true => bank_requirements(context),
            false => Vec::new(),
        },
    }
}

fn consider_trial(context: &Context) -> Consideration {
    Consideration {
        connector: "Trial".into(),
        mode: Mode::Audit,
        matched: Outcome::Yes,
        selectors: vec![
            selector("from.sender-domains", Outcome::Yes, "*", &context.mail_from),
            selector("to.recipient-domains", Outcome::Yes, "*", &context.rcpt_to),
        ],
        requirements: vec![trial_requirement(context)],
    }
}

fn consider_outbound(connector: &Connector, context: &Context) -> Consideration {
    let pattern = &connector.selects.recipient_domains[0];
    let matched = answer(*pattern == domain(&context.rcpt_to));
    Consideration {
        connector: connector.name.clone(),
        mode: connector.mode,
        matched,
        selectors: vec![selector(
            "to.recipient-domains",
            matched,
            pattern,
            &context.rcpt_to,
        )],
        requirements: Vec::new(),
    }
}

fn inbound_connectors() -> Vec<Connector> {
    vec![
        Connector {
            name: "Contoso Bank".into(),
            direction: Direction::Inbound,
            mode: Mode::Enforce,
            applies_to: "from contosobank.com".into(),
            requires: "encryption, its certificate, its addresses".into(),
            comment: Some("agreed in Zürich".into()),
            selects: Selectors {
                sender_domains: texts(&[BANK]),
                sender_ips: texts(&["203.0.113.0/24", "2001:db8:7::/48"]),
                certificate_names: texts(&[NAME]),
                recipient_domains: texts(&["*"]),
            },
            delivery: None,
            reads: ALL.to_vec(),
        },
        Connector {
            name: "Trial".into(),
            direction: Direction::Inbound,
            mode: Mode::Audit,
            applies_to: "from everyone".into(),
            requires: "TLS 1.3".into(),
            comment: None,
            selects: Selectors {
                sender_domains: texts(&["*"]),
                sender_ips: Vec::new(),
                certificate_names: Vec::new(),
                recipient_domains: texts(&["*"]),
            },
            delivery: None,
            reads: vec![Fact::Tls, Fact::TlsVersion],
        },
    ]
}

fn outbound_connectors() -> Vec<Connector> {
    let to_bank = Delivery {
        connector: Some("To Contoso Bank".into()),
        route: Route::SmartHosts(vec![
            SmartHost {
                host: Host::Name("mx1.contosobank.com".into()),
                port: Some(2525),
            },
            SmartHost {
                host: Host::Address(IpAddress::Ipv4(0xC0000201)),
                port: None,
            },
            SmartHost {
                host: Host::Address(IpAddress::Ipv6((0x20010db800000000, 0x25))),
                port: Some(65535),
            },
        ]),
        tls: Protection {
            level: TlsLevel::Name(texts(&[NAME, "*.contosobank.com"])),
            min_version: Some(TLS_1_2),
            fingerprints: vec![LOST, KEY],
            keys: vec![KEY],
            authorities: texts(&["public", "Contoso CA"]),
            dane: Dane::None,
            mta_sts: MtaSts::None,
        },
        audit_tls: None,
        audit_connector: None,
        audit: Vec::new(),
    };
    let verified = Protection {
        level: TlsLevel::Verify,
        min_version: Some(TLS_1_3),
        dane: Dane::Mandatory,
        ..opportunistic()
    };
    let encrypted = Delivery {
        audit_tls: Some(verified.clone()),
        audit_connector: Some("Verified".into()),
        audit: vec![Finding {
            connector: "Verified".into(),
            failed: "tls".into(),
        }],
        ..by_mx(
            Some("Encrypted"),
            Protection {
                level: TlsLevel::Encrypt,
                ..opportunistic()
            },
        )
    };
    vec![
        outbound_connector(
            "To Contoso Bank",
            Mode::Enforce,
            BANK,
            "its smart hosts",
            to_bank,
        ),
        outbound_connector(
            "Verified",
            Mode::Enforce,
            "verify.example",
            "a trusted certificate",
            by_mx(Some("Verified"), verified),
        ),
        outbound_connector(
            "Encrypted",
            Mode::Audit,
            "encrypt.example",
            "encryption",
            encrypted,
        ),
        outbound_connector(
            "Former",
            Mode::Disabled,
            "former.example",
            "",
            by_mx(Some("Former"), opportunistic()),
        ),
    ]
}

fn outbound_connector(
    name: &str,
    mode: Mode,
    to: &str,
    requires: &str,
    delivery: Delivery,
) -> Connector {
    Connector {
        name: name.into(),
        direction: Direction::Outbound,
        mode,
        applies_to: format!("to {to}"),
        requires: requires.into(),
        comment: None,
        selects: Selectors {
            sender_domains: Vec::new(),
            sender_ips: Vec::new(),
            certificate_names: Vec::new(),
            recipient_domains: texts(&[to]),
        },
        delivery: Some(delivery),
        reads: vec![Fact::RcptTo],
    }
}

fn by_mx(connector: Option<&str>, tls: Protection) -> Delivery {
    Delivery {
        connector: connector.map(Into::into),
        route: Route::Mx,
        tls,
        audit_tls: None,
        audit_connector: None,
        audit: Vec::new(),
    }
}

fn opportunistic() -> Protection {
    Protection {
        level: TlsLevel::Opportunistic,
        min_version: None,
        fingerprints: Vec::new(),
        keys: Vec::new(),
        authorities: Vec::new(),
        dane: Dane::Opportunistic,
        mta_sts: MtaSts::Opportunistic,
    }
}

fn requirement(name: &str, satisfied: Outcome, expected: &str, fact: String) -> RequirementOutcome {
    RequirementOutcome {
        requirement: name.into(),
        satisfied,
        expected: expected.into(),
        fact,
    }
}

fn selector(name: &str, matched: Outcome, pattern: &str, fact: &str) -> SelectorOutcome {
    SelectorOutcome {
        selector: name.into(),
        matched,
        pattern: pattern.into(),
        fact: fact.into(),
    }
}

fn answer(holds: bool) -> Outcome {
    match holds {
        true => Outcome::Yes,
        false => Outcome::No,
    }
}

fn domain(address: &str) -> String {
    let (_, domain) = address.rsplit_once('@').unwrap_or(("", ""));
    domain.to_ascii_lowercase()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.into()).collect()
}

fn hex(&(a, b, c, d): &Sha256) -> String {
    format!("{a:016x}{b:016x}{c:016x}{d:016x}")
}

fn ip_text(ip: &IpAddress) -> String {
    match *ip {
        IpAddress::Ipv4(ip) => {
            let octets: Vec<String> = ip.to_be_bytes().iter().map(u8::to_string).collect();
            octets.join(".")
        }
        IpAddress::Ipv6((upper, lower)) => {
            let groups = [upper, lower].into_iter().flat_map(|half| {
                [48, 32, 16, 0].map(|shift| format!("{:x}", half >> shift & 0xffff))
            });
            groups.collect::<Vec<String>>().join(":")
        }
    }
}

fn trust_name(trust: Trust) -> &'static str {
    match trust {
        Trust::Trusted => "trusted",
        Trust::Expired => "expired",
        Trust::UnknownIssuer => "unknown-issuer",
        Trust::NotYetValid => "not-yet-valid",
        Trust::Revoked => "revoked",
        Trust::Invalid => "invalid",
    }
}
