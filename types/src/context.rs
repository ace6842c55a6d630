//! Contexts: the facts about one recipient of one message.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::{Direction, Sha256, Trust, tls_version_name};

/// The name of the authority that stands for the host's ordinary roots.
const PUBLIC: &str = "public";
/// What stands for a fact that the host cannot tell.
const UNKNOWN: &str = "unknown";

/// The facts about one recipient of one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Context {
    /// Selects the connectors that apply.
    pub direction: Direction,
    /// The client's address.
    #[serde(skip_serializing_if = "ClientAddress::is_none")]
    pub client_ip: ClientAddress,
    /// The argument of EHLO or HELO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helo: Option<String>,
    /// The protection of the session.
    #[serde(rename = "tls", skip_serializing_if = "Security::is_plaintext")]
    pub security: Security,
    /// The envelope sender; empty for the null reverse-path.
    pub mail_from: String,
    /// The envelope recipient.
    pub rcpt_to: String,
    /// The From header.
    #[serde(skip_serializing_if = "HeaderFrom::is_pending")]
    pub header_from: HeaderFrom,
    /// Facts added in later versions.
    #[serde(
        rename = "certificate-common-name",
        skip_serializing_if = "has_no_common_name",
        serialize_with = "write_common_name"
    )]
    pub attributes: Vec<Attribute>,
}

/// The name of the attribute that is a name of the certificate, where not all of them are known.
pub const COMMON_NAME: &str = "certificate-common-name";

/// A name of the certificate, where not all of them are known.
pub fn common_name(attributes: &[Attribute]) -> Option<&str> {
    let named = attributes.iter().find(|it| it.name == COMMON_NAME)?;
    Some(&named.value)
}

fn has_no_common_name(attributes: &[Attribute]) -> bool {
    common_name(attributes).is_none()
}

fn write_common_name<S: Serializer>(attributes: &[Attribute], to: S) -> Result<S::Ok, S::Error> {
    common_name(attributes).serialize(to)
}

/// The address of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// The client has no IP address (a local socket).
    None,
    /// The address.
    Known(IpAddr),
    /// The host cannot tell.
    Unknown,
}

impl ClientAddress {
    fn is_none(&self) -> bool {
        *self == ClientAddress::None
    }
}

/// How a session is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // Most sessions are encrypted.
pub enum Security {
    /// It is not encrypted.
    Plaintext,
    /// It is encrypted.
    Encrypted(Tls),
    /// The host cannot tell.
    Unknown,
}

impl Security {
    fn is_plaintext(&self) -> bool {
        *self == Security::Plaintext
    }
}

/// An encrypted session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The protocol version on the wire; absent if unknown.
    pub version: Option<u16>,
    /// The name of the cipher suite; empty if unknown.
    pub cipher: String,
    /// The certificate.
    pub certificate: PeerCertificate,
}

/// The certificate of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCertificate {
    /// The peer presented none.
    None,
    /// The certificate.
    Presented(Certificate),
    /// The host cannot tell.
    Unknown,
}

/// The certificate that the peer presented. An absent field is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The SAN dNSNames; without any, the subject's CN.
    pub dns_names: Option<Vec<String>>,
    /// The subject's distinguished name; empty if unknown.
    pub subject: String,
    /// The issuer's distinguished name; empty if unknown.
    pub issuer: String,
    /// The digest of the DER form.
    pub sha256: Option<Sha256>,
    /// The digest of the subjectPublicKeyInfo.
    pub key_sha256: Option<Sha256>,
    /// The end of validity, in seconds since 1970.
    pub not_after: Option<i64>,
    /// Whether the chain is trusted, or why not.
    pub trust: Option<Trust>,
    /// The authorities whose roots the trusted chain ends at.
    pub anchors: Option<Vec<String>>,
}

/// The From header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderFrom {
    /// The host has not read it yet.
    Pending,
    /// Its addresses.
    Addresses(Vec<String>),
    /// The host never learns it.
    Unknown,
}

impl HeaderFrom {
    fn is_pending(&self) -> bool {
        *self == HeaderFrom::Pending
    }
}

/// An optional fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// The name of the fact.
    pub name: String,
    /// The value.
    pub value: String,
}

impl Serialize for ClientAddress {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            ClientAddress::None => to.serialize_none(),
            ClientAddress::Known(ip) => to.collect_str(ip),
            ClientAddress::Unknown => to.serialize_str(UNKNOWN),
        }
    }
}

impl Serialize for Security {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Security::Plaintext => to.serialize_none(),
            Security::Encrypted(tls) => tls.serialize(to),
            Security::Unknown => to.serialize_str(UNKNOWN),
        }
    }
}

impl Serialize for HeaderFrom {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            HeaderFrom::Pending => to.serialize_none(),
            HeaderFrom::Addresses(addresses) => addresses.serialize(to),
            HeaderFrom::Unknown => to.serialize_str(UNKNOWN),
        }
    }
}

impl Serialize for Tls {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(None)?;
        let name = |version| match tls_version_name(version) {
            Some(name) => name.to_string(),
            None => format!("0x{version:04x}"),
        };
        let version = self.version.map_or_else(|| UNKNOWN.into(), name);
        map.serialize_entry("version", &version)?;
        if !self.cipher.is_empty() {
            map.serialize_entry("cipher", &self.cipher)?;
        }
        match &self.certificate {
            PeerCertificate::None => {}
            PeerCertificate::Presented(certificate) => {
                map.serialize_entry("certificate", certificate)?;
            }
            PeerCertificate::Unknown => map.serialize_entry("certificate", UNKNOWN)?,
        }
        map.end()
    }
}

/// The facts within a certificate that may stand under `unknown`.
const FACTS: [&str; 6] = [
    "dns-names",
    "sha256",
    "key-sha256",
    "not-after",
    "trust",
    "anchor",
];

impl Certificate {
    /// The names of the facts that are unknown.
    fn unknown(&self) -> Vec<&'static str> {
        let is_known = [
            self.dns_names.is_some(),
            self.sha256.is_some(),
            self.key_sha256.is_some(),
            self.not_after.is_some(),
            self.trust.is_some(),
            self.anchors.is_some(),
        ];
        let unknown = FACTS.into_iter().zip(is_known).filter(|(_, known)| !known);
        unknown.map(|(name, _)| name).collect()
    }
}

impl Serialize for Certificate {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(None)?;
        if let Some(names) = &self.dns_names {
            map.serialize_entry("dns-names", names)?;
        }
        for (key, text) in [("subject", &self.subject), ("issuer", &self.issuer)] {
            if !text.is_empty() {
                map.serialize_entry(key, text)?;
            }
        }
        for (key, digest) in [("sha256", &self.sha256), ("key-sha256", &self.key_sha256)] {
            if let Some(digest) = digest {
                map.serialize_entry(key, digest)?;
            }
        }
        if let Some(moment) = self.not_after.and_then(rfc3339) {
            map.serialize_entry("not-after", &moment)?;
        }
        if let Some(trust) = self.trust {
            map.serialize_entry("trust", &trust)?;
        }
        match self.anchors.as_deref() {
            Some([anchor]) => map.serialize_entry("anchor", anchor)?,
            // What is left out is read as the usual ones.
            Some([]) if Certificate::usual_anchors(self.trust).as_deref() == Some(&[]) => {}
            Some([]) => map.serialize_entry("anchor", &[(); 0])?,
            None => {}
            Some(several) => map.serialize_entry("anchor", several)?,
        }
        let unknown = self.unknown();
        if !unknown.is_empty() {
            map.serialize_entry("unknown", &unknown)?;
        }
        map.end()
    }
}

/// A moment in seconds since 1970, as RFC 3339 has it: in a year of four digits. The crate would bring the standard
/// library for it.
fn rfc3339(seconds: i64) -> Option<String> {
    let moment = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    let (year, month, day) = moment.to_calendar_date();
    if !(0..=9999).contains(&year) {
        return None;
    }
    let (hour, minute, second) = moment.to_hms();
    let month = u8::from(month);
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
    ))
}

impl Certificate {
    /// The anchors of a chain of which only the trust was told: a trusted one ends at the ordinary roots.
    pub fn usual_anchors(trust: Option<Trust>) -> Option<Vec<String>> {
        trust.map(|trust| match trust {
            Trust::Trusted => alloc::vec![PUBLIC.into()],
            _ => Vec::new(),
        })
    }
}

/// The address in a text that people write for one: alone, in angle brackets, or behind a name. The null sender is
/// empty. `None` if it could be read as an address of another domain, or is none.
pub fn mailbox(text: &str) -> Option<&str> {
    let trimmed = text.trim();
    let inside = match trimmed.strip_suffix('>') {
        Some(front) => {
            let (before, inside) = front.rsplit_once('<')?;
            if before.contains(['<', '>']) {
                return None;
            }
            inside
        }
        None => trimmed,
    };
    let (local, domain) = inside.rsplit_once('@').unwrap_or(("", inside));
    let is_foreign = |character: char| {
        character.is_whitespace()
            || character.is_control()
            || matches!(character, '<' | '>' | ',' | ';' | '"' | '(' | ')')
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{feff}')
    };
    // Within quotes a local part may hold all of them (RFC 5321 section 4.1.2).
    let is_local_wrong = match local.starts_with('"') {
        true => !is_quoted(local),
        false => local.contains(is_foreign) || local.contains('@'),
    };
    (!domain.contains(is_foreign) && !is_local_wrong).then_some(inside)
}

/// Whether a text is one quoted string to its end.
fn is_quoted(text: &str) -> bool {
    let mut characters = text.chars().skip(1);
    loop {
        match characters.next() {
            None => return false,
            Some('"') => return characters.next().is_none(),
            Some('\\') if characters.next().is_none() => return false,
            Some(_) => {}
        }
    }
}

#[cfg(feature = "read")]
pub use read::parse_context;

#[cfg(feature = "read")]
mod read {
    use core::fmt;
    use core::marker::PhantomData;

    use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
    use serde::de::{Error, IntoDeserializer, MapAccess, SeqAccess, Visitor};
    use serde::{Deserialize, Deserializer};

    use time::format_description::well_known::Rfc3339;

    use super::*;
    use crate::tls_version;

    // A field that may be left out is read by `present`: `null` is no fact. Some write it for what is absent, others for
    // what they do not know.

    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct ContextJson {
        direction: Direction,
        #[serde(default, deserialize_with = "present")]
        client_ip: Option<OrUnknown<IpAddr>>,
        #[serde(default, deserialize_with = "present")]
        helo: Option<String>,
        #[serde(default, deserialize_with = "present")]
        tls: Option<OrUnknown<Object<TlsJson>>>,
        #[serde(default, deserialize_with = "present")]
        mail_from: Option<String>,
        rcpt_to: String,
        #[serde(default, deserialize_with = "present")]
        header_from: Option<OrUnknown<Vec<String>>>,
        #[serde(default, deserialize_with = "present")]
        certificate_common_name: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct TlsJson {
        version: String,
        #[serde(default)]
        cipher: String,
        #[serde(default, deserialize_with = "present")]
        certificate: Option<OrUnknown<Object<CertificateJson>>>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct CertificateJson {
        #[serde(default)]
        dns_names: Vec<String>,
        #[serde(default)]
        subject: String,
        #[serde(default)]
        issuer: String,
        #[serde(default, deserialize_with = "present")]
        sha256: Option<String>,
        #[serde(default, deserialize_with = "present")]
        key_sha256: Option<String>,
        #[serde(default, deserialize_with = "present")]
        not_after: Option<String>,
        #[serde(default, deserialize_with = "present")]
        trust: Option<String>,
        #[serde(default, deserialize_with = "present")]
        anchor: Option<OneOrMore>,
        #[serde(default)]
        unknown: Vec<String>,
    }

    fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        T::deserialize(from).map(Some)
    }

    /// A value, or the word `unknown` in its place.
    enum OrUnknown<T> {
        Known(T),
        Unknown,
    }

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for OrUnknown<T> {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_any(OrUnknownVisitor(PhantomData))
        }
    }

    struct OrUnknownVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for OrUnknownVisitor<T> {
        type Value = OrUnknown<T>;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("a fact, or \"unknown\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            match text {
                UNKNOWN => Ok(OrUnknown::Unknown),
                text => T::deserialize(text.into_deserializer()).map(OrUnknown::Known),
            }
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(OrUnknown::Known)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            T::deserialize(SeqAccessDeserializer::new(list)).map(OrUnknown::Known)
        }
    }

    /// What is written as an object; serde would take a list of its values too.
    struct Object<T>(T);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_map(ObjectVisitor(PhantomData))
        }
    }

    struct ObjectVisitor<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
        type Value = Object<T>;

        fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
            to.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Object)
        }
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }

    /// Reads a context.
    ///
    /// # Errors
    /// Says what is wrong, and where: the field, the line and the column.
    pub fn parse_context(text: &str) -> Result<Context, String> {
        // Some editors begin a file with a byte order mark.
        let mut json = serde_json::Deserializer::from_str(text.trim_start_matches('\u{feff}'));
        let context: Object<ContextJson> =
            serde_path_to_error::deserialize(&mut json).map_err(|error| told(&error))?;
        json.end().map_err(|error| error.to_string())?;
        context.0.try_into()
    }

    fn told(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
        match (error.path().iter().next(), error.inner().is_data()) {
            (Some(_), true) => format!("{}: {}", error.path(), error.inner()),
            // Where the text is no JSON, the place says it.
            _ => error.inner().to_string(),
        }
    }

    impl TryFrom<ContextJson> for Context {
        type Error = String;

        fn try_from(json: ContextJson) -> Result<Self, String> {
            let mail_from = match (json.mail_from, json.direction) {
                (Some(mail_from), _) => mail_from,
                // Outbound connectors go by the recipient.
                (None, Direction::Outbound) => String::new(),
                (None, Direction::Inbound) => return Err("missing field `mail-from`".into()),
            };
            Ok(Context {
                direction: json.direction,
                client_ip: match json.client_ip {
                    None => ClientAddress::None,
                    Some(OrUnknown::Known(ip)) => ClientAddress::Known(ip.to_canonical()),
                    Some(OrUnknown::Unknown) => ClientAddress::Unknown,
                },
                helo: json.helo,
                security: match json.tls {
                    None => Security::Plaintext,
                    Some(OrUnknown::Known(tls)) => Security::Encrypted(tls.0.try_into()?),
                    Some(OrUnknown::Unknown) => Security::Unknown,
                },
                mail_from: read_mailbox("mail-from", &mail_from)?,
                rcpt_to: read_mailbox("rcpt-to", &json.rcpt_to)?,
                header_from: match json.header_from {
                    None => HeaderFrom::Pending,
                    Some(OrUnknown::Known(texts)) => HeaderFrom::Addresses(mailboxes(&texts)?),
                    Some(OrUnknown::Unknown) => HeaderFrom::Unknown,
                },
                attributes: json
                    .certificate_common_name
                    .map(|value| Attribute {
                        name: COMMON_NAME.into(),
                        value,
                    })
                    .into_iter()
                    .collect(),
            })
        }
    }

    /// A time of RFC 3339 in seconds since 1970. A leap second counts as the second before it. With its offset, a time may
    /// be in a year of UTC that cannot be written; that is none.
    fn moment(text: &str) -> Option<i64> {
        // The parser takes anything between the date and the time; section 5.6 has "T", and a space for readability.
        if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
            return None;
        }
        let parsed = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        let seconds = parsed.unix_timestamp();
        rfc3339(seconds).map(|_| seconds)
    }

    fn read_mailbox(field: &str, text: &str) -> Result<String, String> {
        let read = mailbox(text).map(String::from);
        read.ok_or_else(|| {
            format!("{field}: {text:?} is not an address such as \"alice@contosobank.com\"")
        })
    }

    fn mailboxes(texts: &[String]) -> Result<Vec<String>, String> {
        let read = |(number, text): (usize, &String)| {
            read_mailbox(&format!("header-from[{number}]"), text)
        };
        texts.iter().enumerate().map(read).collect()
    }

    impl TryFrom<TlsJson> for Tls {
        type Error = String;

        fn try_from(json: TlsJson) -> Result<Self, String> {
            let version =
                match &*json.version {
                    UNKNOWN => None,
                    name => Some(tls_version(name).ok_or_else(|| {
                        format!("tls.version: {name:?} is not TLSv1.2 or TLSv1.3")
                    })?),
                };
            Ok(Tls {
                version,
                cipher: json.cipher,
                certificate: match json.certificate {
                    None => PeerCertificate::None,
                    Some(OrUnknown::Known(certificate)) => {
                        PeerCertificate::Presented(certificate.0.try_into()?)
                    }
                    Some(OrUnknown::Unknown) => PeerCertificate::Unknown,
                },
            })
        }
    }

    impl TryFrom<CertificateJson> for Certificate {
        type Error = String;

        fn try_from(json: CertificateJson) -> Result<Self, String> {
            if let Some(other) = json
                .unknown
                .iter()
                .find(|name| !FACTS.contains(&name.as_str()))
            {
                return Err(format!(
                    "certificate.unknown: {other:?} is not one of: {}",
                    FACTS.join(", ")
                ));
            }
            let is_known = |name: &str| !json.unknown.iter().any(|unknown| unknown == name);
            let digest = |name: &str, text: Option<String>| match text {
                None => Ok(None),
                Some(text) => match Sha256::parse(&text) {
                    Some(digest) => Ok(Some(digest).filter(|_| is_known(name))),
                    None => Err(format!("certificate.{name}: {text:?} is not 64 hex digits")),
                },
            };
            let moment = |text: String| {
                moment(&text).ok_or_else(|| {
                    format!(
                        "certificate.not-after: {text:?} is not a time like 2027-01-01T00:00:00Z"
                    )
                })
            };
            let trust = match json.trust {
                None if is_known("trust") => {
                    return Err("certificate: missing field `trust`".into());
                }
                None => None,
                Some(word) => Some(Trust::from_name(&word).ok_or_else(|| {
                    format!("certificate.trust: {word:?} is not a known outcome")
                })?),
            };
            let trust = trust.filter(|_| is_known("trust"));
            let anchors = match json.anchor {
                _ if !is_known("anchor") => None,
                None => Certificate::usual_anchors(trust),
                Some(OneOrMore::One(anchor)) => Some(alloc::vec![anchor]),
                Some(OneOrMore::More(anchors)) => Some(anchors),
            };
            let not_after = json.not_after.map(moment).transpose()?;
            Ok(Certificate {
                dns_names: is_known("dns-names").then_some(json.dns_names),
                subject: json.subject,
                issuer: json.issuer,
                sha256: digest("sha256", json.sha256)?,
                key_sha256: digest("key-sha256", json.key_sha256)?,
                not_after: not_after.filter(|_| is_known("not-after")),
                trust,
                anchors,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mailbox;

    #[test]
    fn what_is_no_address_is_none() {
        for (text, read) in [
            ("a@bank.test", Some("a@bank.test")),
            (" a@bank.test ", Some("a@bank.test")),
            ("<a@bank.test>", Some("a@bank.test")),
            ("Alice, at home <a@bank.test>", Some("a@bank.test")),
            ("\"a b, c@d\"@bank.test", Some("\"a b, c@d\"@bank.test")),
            ("<>", Some("")),
            ("postmaster", Some("postmaster")),
            ("a@bank.test, b@other.test", None),
            ("<a@bank.test>, <b@other.test>", None),
            ("a@bank.test@other.test", None),
            ("a@bank.test>", None),
            ("Alice a@bank.test", None),
            ("a@bank.test (Alice)", None),
            ("a@bank.te\u{200b}st", None),
        ] {
            assert_eq!(mailbox(text), read, "{text}");
        }
    }

    #[cfg(feature = "read")]
    #[test]
    fn what_is_unknown_stays_so() {
        for text in [
            r#"{"direction":"inbound","client-ip":"unknown","tls":"unknown","mail-from":"","rcpt-to":"a@b.test","header-from":"unknown"}"#,
            r#"{"direction":"inbound","tls":{"version":"unknown","certificate":"unknown"},"mail-from":"","rcpt-to":"a@b.test"}"#,
            r#"{"direction":"inbound","client-ip":"192.0.2.1","tls":{"version":"TLSv1.3","certificate":{"dns-names":["a.test"],"not-after":"2027-01-01T00:00:00Z","trust":"trusted","anchor":"public","unknown":["sha256","key-sha256"]}},"mail-from":"c@d.test","rcpt-to":"a@b.test"}"#,
            r#"{"direction":"inbound","tls":{"version":"TLSv1.2","certificate":{"unknown":["dns-names","sha256","key-sha256","not-after","trust","anchor"]}},"mail-from":"c@d.test","rcpt-to":"a@b.test"}"#,
        ] {
            let context = super::parse_context(text).expect(text);
            assert_eq!(serde_json::to_string(&context).expect("JSON"), text);
        }
    }

    #[cfg(feature = "read")]
    #[test]
    fn a_time_is_one_of_rfc_3339() {
        let (first, last) = (-62_167_219_200, 253_402_300_799);
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01t00:00:00z", Some(0)),
            ("1970-01-01 00:00:00.999+00:00", Some(0)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01_00:00:00Z", None),
            ("1970-01-01\u{e9}00:00:00Z", None),
            ("1970-01-01T00:00Z", None),
            ("1970-01-01T00:00:00", None),
            ("1970-01-01T00:00:00+0100", None),
            ("1970-01-01T00:00:00+24:00", None),
            ("1970-01-01T00:00:00+00:60", None),
            ("1970-01-01T24:00:00Z", None),
            ("1969-12-31T23:59:60Z", Some(-1)),
            ("1970-01-01T00:59:60+01:00", Some(-1)),
            ("1969-12-31T23:59:60.5Z", Some(-1)),
            ("1969-12-31T23:59:60+01:00", None),
            ("1970-01-02T23:59:60Z", None),
            ("1969-12-31T22:59:60Z", None),
            ("1969-12-31T23:59:61Z", None),
            ("2023-02-28T23:59:60Z", Some(1_677_628_799)),
            ("2024-02-28T23:59:60Z", None),
            ("0000-01-01T00:00:00Z", Some(first)),
            ("0000-02-29T00:00:00Z", Some(first + 59 * 86_400)),
            ("0000-01-01T00:00:00-00:01", Some(first + 60)),
            ("0000-01-01T00:00:00+00:01", None),
            ("9999-12-31T23:59:59Z", Some(last)),
            ("9999-12-31T23:59:60Z", Some(last)),
            ("9999-12-31T23:59:59-00:01", None),
        ] {
            let context = alloc::format!(
                r#"{{"direction":"inbound","tls":{{"version":"TLSv1.3","certificate":{{"not-after":"{text}","trust":"trusted"}}}},"mail-from":"","rcpt-to":"a@b.test"}}"#
            );
            let read = super::parse_context(&context).ok().map(|context| {
                // What is read can be written, and read again.
                let written = serde_json::to_string(&context).expect("JSON");
                assert_eq!(super::parse_context(&written).as_ref(), Ok(&context));
                let super::Security::Encrypted(tls) = context.security else {
                    panic!("no TLS: {text}");
                };
                let super::PeerCertificate::Presented(certificate) = tls.certificate else {
                    panic!("no certificate: {text}");
                };
                certificate.not_after.expect("a time")
            });
            assert_eq!(read, seconds, "{text}");
        }
    }

    #[cfg(feature = "read")]
    #[test]
    fn what_is_wrong_is_told() {
        let context = |field: &str| {
            alloc::format!(
                r#"{{"direction":"inbound","mail-from":"","rcpt-to":"a@b.test",{field}}}"#
            )
        };
        for (field, error) in [
            (r#""client-ip":"nowhere""#, "invalid IP address syntax"),
            (r#""tls":{"version":"TLSv9"}"#, "tls.version: \"TLSv9\""),
            (
                r#""tls":{"version":"TLSv1.3","certificate":{}}"#,
                "missing field `trust`",
            ),
            (
                r#""tls":{"version":"TLSv1.3","certificate":{"unknown":["colour"]}}"#,
                "certificate.unknown: \"colour\" is not one of",
            ),
            (r#""tls":{"verison":"TLSv1.3"}"#, "unknown field `verison`"),
            (r#""client-ip":null"#, "invalid type: null"),
            (r#""tls":null"#, "invalid type: null"),
            (r#""header-from":null"#, "invalid type: null"),
            (
                r#""tls":["TLSv1.3"]"#,
                "invalid type: sequence, expected an object",
            ),
            (
                r#""tls":{"version":"TLSv1.3","certificate":[["a.test"]]}"#,
                "expected an object",
            ),
        ] {
            let found = super::parse_context(&context(field)).expect_err(field);
            assert!(found.contains(error), "{found}");
        }
        for text in ["null", "[]", "7", r#"["inbound","192.0.2.1"]"#] {
            let found = super::parse_context(text).expect_err(text);
            assert!(found.contains("expected an object"), "{found}");
        }
    }
}
