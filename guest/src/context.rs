//! The JSON form of a context, for the cases under `tests`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

use portcullis_types::{
    COMMON_NAME, Certificate as CertificateJson, Sha256 as Digest, TLS_VERSIONS, mailbox,
};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::connector::Sha256;
use crate::document::DIRECTIONS;
use crate::fields;
use crate::json::Node;
use crate::problems::{Path, Problems};
use crate::reader::{Object, choice, elements, field_names, string};
use crate::text::shorten;
use crate::{
    Attribute, Certificate, ClientAddress, Context, Direction, HeaderFrom, PeerCertificate,
    SessionSecurity, Tls, Trust,
};

/// What stands for a fact that the host cannot tell.
pub const UNKNOWN: &str = "unknown";

/// Reads a context; what is wrong with it is noted.
pub fn read(node: Node, path: &Path, problems: &mut Problems) -> Option<Context> {
    let object = Object::read(node, path, &[fields::CONTEXT], problems)?;
    let (direction_node, direction_path) = object.required("direction", problems)?;
    let direction = choice(direction_node, &direction_path, &DIRECTIONS, problems)?;
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
        client_ip: match object.optional("client-ip") {
            None => ClientAddress::None,
            Some((node, _)) if is_unknown(node) => ClientAddress::Unknown,
            Some((node, path)) => ClientAddress::Known(ip(node, &path, problems)?),
        },
        helo: optional_string(&object, "helo", problems),
        security: match object.optional("tls") {
            None => SessionSecurity::Plaintext,
            Some((node, _)) if is_unknown(node) => SessionSecurity::Unknown,
            Some((node, path)) => SessionSecurity::Encrypted(tls(node, &path, problems)?),
        },
        mail_from: mail_from.unwrap_or_default(),
        rcpt_to: address(rcpt_to, &rcpt_to_path, problems)?,
        header_from: match object.optional("header-from") {
            None => HeaderFrom::Pending,
            Some((node, _)) if is_unknown(node) => HeaderFrom::Unknown,
            Some((node, path)) => HeaderFrom::Addresses(addresses(node, &path, problems)),
        },
        attributes: optional_string(&object, COMMON_NAME, problems)
            .map(|value| Attribute {
                name: COMMON_NAME.into(),
                value,
            })
            .into_iter()
            .collect(),
    })
}

fn is_unknown(node: Node) -> bool {
    node.string().as_deref() == Some(UNKNOWN)
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

fn ip(node: Node, path: &Path, problems: &mut Problems) -> Option<crate::IpAddress> {
    let ip: IpAddr = parsed(node, path, "an IP address", problems, |text| {
        text.parse().ok()
    })?;
    Some(ip.into())
}

fn tls(node: Node, path: &Path, problems: &mut Problems) -> Option<Tls> {
    let object = Object::read(node, path, &[fields::TLS_FACT], problems)?;
    let (version, version_path) = object.required("version", problems)?;
    Some(Tls {
        version: match is_unknown(version) {
            true => None,
            false => Some(choice(version, &version_path, &TLS_VERSIONS, problems)?),
        },
        cipher: optional_string(&object, "cipher", problems).unwrap_or_default(),
        certificate: match object.optional("certificate") {
            None => PeerCertificate::None,
            Some((node, _)) if is_unknown(node) => PeerCertificate::Unknown,
            Some((node, path)) => PeerCertificate::Presented(certificate(node, &path, problems)?),
        },
    })
}

fn certificate(node: Node, path: &Path, problems: &mut Problems) -> Option<Certificate> {
    let object = Object::read(node, path, &[fields::CERTIFICATE_FACT], problems)?;
    let mut unknown = Vec::new();
    if let Some((node, path)) = object.optional("unknown") {
        let words: Vec<(&str, &str)> = field_names(&[fields::CERTIFICATE_FACT])
            .take(fields::MAY_BE_UNKNOWN)
            .map(|name| (name, name))
            .collect();
        for (index, node) in elements(node, &path, problems).into_iter().enumerate() {
            unknown.extend(choice(node, &path.element(index), &words, problems));
        }
    }
    let is_known = |name: &str| !unknown.contains(&name);
    // What stands beside its name under `unknown` must be well-formed all the same.
    let mut digest = |name| -> Option<Sha256> {
        let (node, path) = object.optional(name)?;
        let digest = parsed(node, &path, "64 hex digits", problems, Digest::parse)?;
        is_known(name).then(|| Sha256::from(digest))
    };
    let (sha256, key_sha256) = (digest("sha256"), digest("key-sha256"));
    let not_after = object.optional("not-after").and_then(|(node, path)| {
        parsed(
            node,
            &path,
            "a time such as 2027-01-01T00:00:00Z",
            problems,
            |text| OffsetDateTime::parse(text, &Rfc3339).ok(),
        )
    });
    let trust = match object.optional("trust") {
        None if !is_known("trust") => None,
        _ => Some(trust(&object, problems)?).filter(|_| is_known("trust")),
    };
    let dns_names = object
        .optional("dns-names")
        .map_or_else(Vec::new, |(node, path)| strings(node, &path, problems));
    let anchors = match object.optional("anchor") {
        None => CertificateJson::usual_anchors(trust.map(Into::into)),
        Some((node, path)) => Some(match node.elements() {
            Some(_) => strings(node, &path, problems),
            None => alloc::vec![string(node, &path, problems)?.into()],
        }),
    };
    Some(Certificate {
        dns_names: is_known("dns-names").then_some(dns_names),
        subject: optional_string(&object, "subject", problems).unwrap_or_default(),
        issuer: optional_string(&object, "issuer", problems).unwrap_or_default(),
        sha256,
        key_sha256,
        not_after: not_after
            .filter(|_| is_known("not-after"))
            .map(OffsetDateTime::unix_timestamp),
        anchors: anchors.filter(|_| is_known("anchor")),
        trust,
    })
}

fn trust(object: &Object, problems: &mut Problems) -> Option<Trust> {
    let (node, path) = object.required("trust", problems)?;
    let words: Vec<(&str, Trust)> = portcullis_types::Trust::ALL
        .iter()
        .map(|trust| (trust.name(), Trust::from(*trust)))
        .collect();
    choice(node, &path, &words, problems)
}
