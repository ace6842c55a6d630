//! What Exchange's inbound connectors mean, written down slowly: the rules that are made of them never accept what this
//! refuses.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_evaluator::{
    Certificate, ClientAddress, Context, Direction, HeaderFrom, PeerCertificate, Policy,
    SessionSecurity, Tls, Trust, Verdict,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::import::{Record, exchange};

#[derive(Clone, Debug)]
struct Partner {
    senders: Vec<&'static str>,
    recipients: Vec<&'static str>,
    addresses: Vec<&'static str>,
    certificate: Option<&'static str>,
    tls: bool,
    by_address: bool,
    by_certificate: bool,
    is_enabled: bool,
}

#[derive(Clone, Debug)]
struct Message {
    from: &'static str,
    to: &'static str,
    client: &'static str,
    certificate: Option<&'static str>,
    tls: bool,
}

fn covers(pattern: &str, domain: &str) -> bool {
    match pattern.strip_prefix("*.") {
        _ if pattern == "*" => true,
        Some(base) => domain == base || domain.ends_with(&format!(".{base}")),
        None => pattern == domain,
    }
}

impl Partner {
    fn is_in_range(&self, message: &Message) -> bool {
        let client: IpAddr = message.client.parse().unwrap();
        self.addresses
            .iter()
            .any(|range| match range.parse::<IpNet>() {
                Ok(range) => range.contains(&client),
                Err(_) => range.parse::<IpAddr>().unwrap() == client,
            })
    }

    fn has_name(&self, message: &Message) -> bool {
        let names = self.certificate.zip(message.certificate);
        names.is_some_and(|(pattern, name)| message.tls && covers(pattern, name))
    }

    /// Whether it is for a message at all.
    fn is_for(&self, message: &Message) -> bool {
        let is_known_by_address =
            self.senders == ["*"] && !self.addresses.is_empty() && !self.restricts();
        let is_to = self.recipients.is_empty() || self.recipients.contains(&message.to);
        let is_from = match is_known_by_address {
            true => self.is_in_range(message),
            false => self
                .senders
                .iter()
                .any(|pattern| covers(pattern, message.from)),
        };
        self.is_enabled && is_to && is_from
    }

    fn restricts(&self) -> bool {
        self.by_address || self.by_certificate
    }

    fn fits(&self, message: &Message) -> bool {
        self.by_address && self.is_in_range(message)
            || self.by_certificate && self.has_name(message)
    }

    fn record(&self, number: usize) -> Record {
        let fields = json!({
            "Name": format!("c{number}"), "ConnectorType": "Partner", "Enabled": self.is_enabled,
            "SenderDomains": self.senders, "AssociatedAcceptedDomains": self.recipients,
            "SenderIPAddresses": self.addresses, "TlsSenderCertificateName": self.certificate, "RequireTls": self.tls,
            "RestrictDomainsToIPAddresses": self.by_address, "RestrictDomainsToCertificate": self.by_certificate,
        });
        let Value::Object(fields) = fields else {
            return Record::default();
        };
        Record {
            kind: Some("InboundConnector".into()),
            fields,
        }
    }
}

/// Whether Exchange refuses a message for certain: where several connectors are for it, one is enough.
fn is_refused(partners: &[Partner], message: &Message) -> bool {
    let matching: Vec<&Partner> = partners
        .iter()
        .filter(|partner| partner.is_for(message))
        .collect();
    let restricting: Vec<&&Partner> = matching
        .iter()
        .filter(|partner| partner.restricts())
        .collect();
    let none_fits =
        !restricting.is_empty() && !restricting.iter().any(|partner| partner.fits(message));
    let all_want_tls = !matching.is_empty() && matching.iter().all(|partner| partner.tls);
    none_fits || all_want_tls && !message.tls
}

fn partners() -> impl Strategy<Value = Vec<Partner>> {
    let senders = prop_oneof![
        Just(vec!["*"]),
        Just(vec!["a.test"]),
        Just(vec!["*.a.test"]),
        Just(vec!["b.test"]),
        Just(vec!["a.test", "b.test"]),
    ];
    let recipients = prop_oneof![4 => Just(vec![]), 1 => Just(vec!["own.test"]), 1 => Just(vec!["own.test", "also.test"])];
    let addresses = prop_oneof![
        Just(vec![]),
        Just(vec!["192.0.2.0/24"]),
        Just(vec!["198.51.100.7"]),
        Just(vec!["192.0.2.9/25", "198.51.100.7"]),
    ];
    let certificate = prop_oneof![Just(None), Just(Some("*.a.test")), Just(Some("mx.b.test"))];
    let partner = (
        senders,
        recipients,
        addresses,
        certificate,
        any::<[bool; 3]>(),
        prop::bool::weighted(0.9),
    )
        .prop_map(
            |(
                senders,
                recipients,
                addresses,
                certificate,
                [tls, by_address, by_certificate],
                is_enabled,
            )| Partner {
                by_address: by_address && !addresses.is_empty(),
                by_certificate: by_certificate && certificate.is_some(),
                senders,
                recipients,
                addresses,
                certificate,
                tls,
                is_enabled,
            },
        );
    prop::collection::vec(partner, 1..6)
}

fn messages() -> Vec<Message> {
    let mut messages = Vec::new();
    for from in ["a.test", "x.a.test", "b.test", "c.test"] {
        for to in ["own.test", "also.test", "third.test"] {
            for client in ["192.0.2.1", "192.0.2.200", "198.51.100.7", "203.0.113.1"] {
                let sessions = [
                    (false, None),
                    (true, None),
                    (true, Some("mx.a.test")),
                    (true, Some("mx.b.test")),
                ];
                messages.extend(sessions.map(|(tls, certificate)| Message {
                    from,
                    to,
                    client,
                    certificate,
                    tls,
                }));
            }
        }
    }
    messages
}

fn context(message: &Message) -> Context {
    let certificate = match message.certificate {
        None => PeerCertificate::None,
        Some(name) => PeerCertificate::Presented(Certificate {
            dns_names: Some(vec![name.into()]),
            subject: String::new(),
            issuer: String::new(),
            sha256: None,
            key_sha256: None,
            not_after: None,
            trust: Some(Trust::Trusted),
            anchors: Some(vec!["public".into()]),
        }),
    };
    Context {
        direction: Direction::Inbound,
        client_ip: ClientAddress::Known(message.client.parse::<IpAddr>().unwrap().into()),
        helo: None,
        security: match message.tls {
            false => SessionSecurity::Plaintext,
            true => SessionSecurity::Encrypted(Tls {
                version: Some(0x304),
                cipher: String::new(),
                certificate,
            }),
        },
        mail_from: format!("x@{}", message.from),
        rcpt_to: format!("y@{}", message.to),
        header_from: HeaderFrom::Pending,
        attributes: Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn what_exchange_refuses_is_never_accepted(partners in partners()) {
        let records: Vec<Record> = partners.iter().enumerate().map(|(number, partner)| partner.record(number)).collect();
        let import = exchange::import(&records);
        let document = import.document().to_string();
        let policy = Policy::configure(&document);
        prop_assert!(policy.is_ok(), "{document}: {:?}", policy.err());
        let (policy, _) = policy.unwrap();
        for message in messages() {
            if is_refused(&partners, &message) {
                let verdict = policy.evaluate(&context(&message));
                prop_assert!(!matches!(verdict, Verdict::Accept(_)), "{message:?} is accepted by {document}");
            }
        }
    }
}

#[test]
fn an_empty_map_is_no_record_of_anything() {
    let import = exchange::import(&[Record {
        kind: None,
        fields: Map::new(),
    }]);
    assert!(import.connectors.is_empty() && !import.is_same());
}
