//! The JSON form of a context, for the cases under `tests`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::document::{Object, TLS_VERSIONS, choice, elements, parse_fingerprint, string};
use crate::json::Node;
use crate::names::mailbox;
use crate::problems::{Path, Problems, shorten};
use crate::{Certificate, Context, Direction, IpAddress, Tls, Trust};

/// Reads a context; what is wrong with it is noted.
pub fn read(node: Node, path: &Path, problems: &mut Problems) -> Option<Context> {
    let known = [
        "direction",
        "client-ip",
        "helo",
        "tls",
        "mail-from",
        "rcpt-to",
        "header-from",
    ];
    let object = Object::read(node, path, &known, problems)?;
    let (direction_node, direction_path) = object.required("direction", problems)?;
    let directions = [
        ("inbound", Direction::Inbound),
        ("outbound", Direction::Outbound),
    ];
    let direction = choice(direction_node, &direction_path, &directions, problems)?;
    let mail_from = match direction {
        Direction::Inbound => {
            let (node, path) = object.required("mail-from", problems)?;
            Some(address(node, &path, problems)?)
        }
        // Outbound connectors go by the recipient.
        Direction::Outbound => object
            .optional("mail-from")
            .and_then(|(node, path)| address(node, &path, problems)),
    };
    let (rcpt_to, rcpt_to_path) = object.required("rcpt-to", problems)?;
    Some(Context {
        direction,
        client_ip: object
            .optional("client-ip")
            .and_then(|(node, path)| ip(node, &path, problems)),
        helo: optional_string(&object, "helo", problems),
        tls: object
            .optional("tls")
            .and_then(|(node, path)| tls(node, &path, problems)),
        mail_from: mail_from.unwrap_or_default(),
        rcpt_to: address(rcpt_to, &rcpt_to_path, problems)?,
        header_from: object
            .optional("header-from")
            .map(|(node, path)| addresses(node, &path, problems)),
        attributes: Vec::new(),
    })
}

fn optional_string<'p>(
    object: &Object<'_, 'p>,
    name: &'p str,
    problems: &mut Problems,
) -> Option<String> {
    let (node, path) = object.optional(name)?;
    string(node, &path, problems).map(String::from)
}

fn strings(node: Node, path: &Path, problems: &mut Problems) -> Vec<String> {
    let nodes = elements(node, path, problems).into_iter().enumerate();
    nodes
        .filter_map(|(index, node)| string(node, &path.element(index), problems))
        .map(String::from)
        .collect()
}

/// A string that `parse` takes, or a note what it should have been.
fn parsed<T>(
    node: Node,
    path: &Path,
    wanted: &str,
    problems: &mut Problems,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let text = string(node, path, problems)?;
    let value = parse(&text);
    if value.is_none() {
        let message = format!("\"{}\" is not {wanted}", shorten(&text));
        problems.error("malformed-fact", *path, node.span(), message, None);
    }
    value
}

fn address(node: Node, path: &Path, problems: &mut Problems) -> Option<String> {
    let wanted = "an address such as \"alice@contosobank.com\"";
    parsed(node, path, wanted, problems, |text| {
        mailbox(text).map(String::from)
    })
}

fn addresses(node: Node, path: &Path, problems: &mut Problems) -> Vec<String> {
    let nodes = elements(node, path, problems).into_iter().enumerate();
    nodes
        .filter_map(|(index, node)| address(node, &path.element(index), problems))
        .collect()
}

fn ip(node: Node, path: &Path, problems: &mut Problems) -> Option<IpAddress> {
    let ip: IpAddr = parsed(node, path, "an IP address", problems, |text| {
        text.parse().ok()
    })?;
    Some(IpAddress::from_ip(ip))
}

fn tls(node: Node, path: &Path, problems: &mut Problems) -> Option<Tls> {
    let object = Object::read(node, path, &["version", "cipher", "certificate"], problems)?;
    let (version, version_path) = object.required("version", problems)?;
    Some(Tls {
        version: choice(version, &version_path, &TLS_VERSIONS, problems)?,
        cipher: optional_string(&object, "cipher", problems).unwrap_or_default(),
        certificate: object
            .optional("certificate")
            .and_then(|(node, path)| certificate(node, &path, problems)),
    })
}

fn certificate(node: Node, path: &Path, problems: &mut Problems) -> Option<Certificate> {
    let known = [
        "dns-names",
        "subject",
        "issuer",
        "sha256",
        "not-after",
        "trust",
    ];
    let object = Object::read(node, path, &known, problems)?;
    let trusts = [
        Trust::Trusted,
        Trust::Expired,
        Trust::UnknownIssuer,
        Trust::NotYetValid,
        Trust::Revoked,
        Trust::Invalid,
    ]
    .map(|trust| (crate::decide::trust_name(trust), trust));
    let (trust, trust_path) = object.required("trust", problems)?;
    let sha256 = object
        .optional("sha256")
        .and_then(|(node, path)| parsed(node, &path, "64 hex digits", problems, parse_fingerprint));
    let not_after = object.optional("not-after").and_then(|(node, path)| {
        parsed(
            node,
            &path,
            "a time such as 2027-01-01T00:00:00Z",
            problems,
            |text| OffsetDateTime::parse(text, &Rfc3339).ok(),
        )
    });
    Some(Certificate {
        dns_names: object
            .optional("dns-names")
            .map(|(node, path)| strings(node, &path, problems))
            .unwrap_or_default(),
        subject: optional_string(&object, "subject", problems).unwrap_or_default(),
        issuer: optional_string(&object, "issuer", problems).unwrap_or_default(),
        sha256: sha256.unwrap_or_default(),
        not_after: not_after.map(OffsetDateTime::unix_timestamp),
        trust: choice(trust, &trust_path, &trusts, problems)?,
    })
}
