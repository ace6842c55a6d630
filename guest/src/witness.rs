//! Messages made up from a connector's own selectors, to see what the others say to them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::connector::{Connector, Kind, PUBLIC};
use crate::ip::Prefix;
use crate::names::{Pattern, PatternSet};
use crate::{
    Certificate, ClientAddress, Context, Direction, HeaderFrom, PeerCertificate, SessionSecurity,
    Tls, Trust,
};

/// Entries of each of a connector's lists that messages are made of.
const MAX_ENTRIES: usize = 16;

/// A message, and the range that its client's address stands for: `None` if it may come from anywhere.
pub struct Witness {
    /// The message.
    pub message: Context,
    /// The range.
    pub range: Option<Prefix>,
}

/// Messages from these ranges, to these recipients, that a connector is for, and one for each of its other domains and
/// names, so that what is said to a part of its mail shows too.
pub fn witnesses(connector: &Connector, ranges: &[Prefix], recipients: PatternSet) -> Vec<Witness> {
    let mut messages: Vec<Witness> = match ranges {
        [] => from_anywhere(connector),
        ranges => {
            let from = |range: &Prefix| Witness {
                message: from(connector, Some(range.first())),
                range: Some(*range),
            };
            ranges.iter().map(from).collect()
        }
    };
    let range = ranges.first().copied();
    let first = || from(connector, range.map(|range| range.first()));
    let selectors = &connector.selectors;
    let mut add = |message| messages.push(Witness { message, range });
    for mail_from in addresses_in(selectors.sender_domains).skip(1) {
        add(Context {
            mail_from,
            ..first()
        });
    }
    for rcpt_to in addresses_in(recipients) {
        add(Context { rcpt_to, ..first() });
    }
    let names = certificate_names(connector);
    if names.len() > 1 {
        for name in names.iter().take(MAX_ENTRIES) {
            let security = presenting(connector, alloc::vec![name.name().into()]);
            add(Context {
                security,
                ..first()
            });
        }
    }
    messages
}

/// From no address, or from one of either family.
fn from_anywhere(connector: &Connector) -> Vec<Witness> {
    let any_ipv4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let any_ipv6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let clients = [None, Some(any_ipv4), Some(any_ipv6)];
    let from = |client| Witness {
        message: from(connector, client),
        range: None,
    };
    clients.map(from).into()
}

fn from(connector: &Connector, client: Option<IpAddr>) -> Context {
    let client_ip = match client {
        Some(ip) => ClientAddress::Known(ip.into()),
        None => ClientAddress::None,
    };
    Context {
        client_ip,
        ..witness(connector)
    }
}

/// An address in each domain of a list.
fn addresses_in(set: PatternSet<'_>) -> impl Iterator<Item = String> {
    let patterns = set.iter().filter(|pattern| *pattern != Pattern::Any);
    patterns
        .take(MAX_ENTRIES)
        .map(|pattern| format!("a@{}", pattern.name()))
}

/// A message that the connector's selectors match, unless its own `except` stands against it.
pub fn witness(connector: &Connector) -> Context {
    let address = |set: PatternSet| addresses_in(set).next().unwrap_or_default();
    let selectors = &connector.selectors;
    let names = certificate_names(connector).iter();
    Context {
        direction: Direction::Inbound,
        client_ip: match addresses(connector).next() {
            Some(range) => ClientAddress::Known(range.first().into()),
            None => ClientAddress::None,
        },
        helo: None,
        security: presenting(
            connector,
            names.map(|pattern| pattern.name().into()).collect(),
        ),
        mail_from: address(selectors.sender_domains),
        rcpt_to: address(selectors.recipient_domains),
        header_from: HeaderFrom::Pending,
        attributes: Vec::new(),
    }
}

/// With a certificate that has these names, by an authority that the connector accepts.
fn presenting(connector: &Connector, names: Vec<String>) -> SessionSecurity {
    SessionSecurity::Encrypted(Tls {
        version: Some(u16::MAX),
        cipher: String::new(),
        certificate: PeerCertificate::Presented(Certificate {
            dns_names: Some(names),
            subject: String::new(),
            issuer: String::new(),
            sha256: None,
            key_sha256: None,
            not_after: None,
            trust: Some(Trust::Trusted),
            anchors: Some(anchors(connector)),
        }),
    })
}

/// The addresses that a connector is for; else those that it requires.
fn addresses<'a>(connector: &Connector<'a>) -> impl Iterator<Item = Prefix> + use<'a> {
    match &connector.kind {
        Kind::Inbound(inbound) if connector.selectors.sender_ips.is_empty() => {
            inbound.require.source_ips.iter()
        }
        _ => connector.selectors.sender_ips.iter(),
    }
}

/// The certificate names that a connector is for; else those that it requires.
fn certificate_names<'a>(connector: &Connector<'a>) -> PatternSet<'a> {
    match &connector.kind {
        Kind::Inbound(inbound) if connector.selectors.certificate_names.is_empty() => {
            inbound.require.certificate_names
        }
        _ => connector.selectors.certificate_names,
    }
}

/// Authorities that a connector accepts.
fn anchors(connector: &Connector) -> Vec<String> {
    match &connector.kind {
        Kind::Inbound(inbound) if !inbound.require.authorities.is_empty() => inbound
            .require
            .authorities
            .iter()
            .map(String::from)
            .collect(),
        _ => alloc::vec![PUBLIC.into()],
    }
}
