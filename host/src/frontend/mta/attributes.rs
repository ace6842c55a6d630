//! A request of policy delegation: its attributes, and the facts that they tell.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::certificates::Told;
use super::facts::{self, Protection};
use crate::frontend::header::FromField;
use crate::smtp::reply::Reply;
use portcullis::{Context, HeaderFrom, PeerCertificate, Security};

/// Octets of a request: more than a header in base64. Postfix's own limit for a line is 2,048.
const MAX_REQUEST: usize = 128 << 10;

/// Attributes of a request. Postfix 3.10 sends 32. Each is held against all before it.
const MAX_ATTRIBUTES: usize = 200;
/// Octets of a header that is whole. Exim gives no more, and does not say that it has cut one.
const MAX_HEADER: usize = 64 << 10;

/// The attributes of one request.
#[derive(Debug, PartialEq, Eq)]
pub struct Attributes(Vec<(String, String)>);

impl Attributes {
    /// Reads a request, if it is whole: its attributes and its length.
    ///
    /// # Errors
    /// Says what is malformed.
    pub fn parse(input: &[u8]) -> Result<Option<(Attributes, usize)>, String> {
        let mut attributes: Vec<(String, String)> = Vec::new();
        let mut read = 0;
        while let Some(end) = memchr::memchr(b'\n', &input[read..]) {
            let line = &input[read..read + end];
            read += end + 1;
            if line.is_empty() {
                return match attributes.is_empty() {
                    true => Err("a request without attributes".into()),
                    false => Ok(Some((Attributes(attributes), read))),
                };
            }
            // What is no UTF-8 is no address of anybody here.
            let line = String::from_utf8_lossy(line);
            let Some((name, value)) = line.split_once('=') else {
                return Err("a line without \"=\"".into());
            };
            // Of two values one could be a client's: a name in a certificate may hold a line end.
            if attributes.iter().any(|(known, _)| known == name) {
                return Err(format!("the attribute {name:?} stands there twice"));
            }
            if attributes.len() >= MAX_ATTRIBUTES {
                return Err(format!("more than {MAX_ATTRIBUTES} attributes"));
            }
            attributes.push((name.to_owned(), value.to_owned()));
        }
        match input.len() > MAX_REQUEST {
            true => Err(format!("a request of more than {MAX_REQUEST} octets")),
            false => Ok(None),
        }
    }

    /// The value of an attribute that was told, whatever it is.
    pub fn told(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter();
        let (_, value) = all.find(|(known, _)| known == name)?;
        Some(value)
    }

    /// The value of an attribute; empty if it was not told.
    pub fn get(&self, name: &str) -> &str {
        self.told(name).unwrap_or_default()
    }
}

impl Attributes {
    /// The protection of the session; what there is if no certificate is told, and what is known of one that is.
    pub fn protection(
        &self,
        no_certificate: PeerCertificate,
        certificate: impl FnOnce(Told) -> (PeerCertificate, Option<String>),
    ) -> Protection {
        match self.told("encryption_protocol") {
            None => Security::Unknown.into(),
            Some("") => Security::Plaintext.into(),
            Some(version) => {
                let told = match (self.told("ccert_fingerprint"), self.certificate()) {
                    (None, _) => (PeerCertificate::Unknown, None),
                    (Some(_), None) => (no_certificate, None),
                    (Some(_), Some(told)) => certificate(told),
                };
                Protection::tls(version, self.get("encryption_cipher"), told)
            }
        }
    }

    /// What is told of the client's certificate: its digest always, names only if Postfix trusts it.
    fn certificate(&self) -> Option<Told> {
        let fingerprint = self.told("ccert_fingerprint");
        let fingerprint = fingerprint.filter(|text| !text.is_empty())?;
        let issuer = facts::from_xtext(self.get("ccert_issuer"));
        let trusted = match self.told("ccert_verified") {
            Some("1" | "yes" | "true") => Some(true),
            Some(_) => Some(false),
            None => (!issuer.is_empty()).then_some(true),
        };
        Some(Told {
            digest: facts::digest(fingerprint),
            key: facts::digest(self.get("ccert_pubkey_fingerprint")),
            common_name: facts::from_xtext(self.get("ccert_subject")),
            issuer,
            names: self.told("ccert_dns_names").and_then(names),
            trusted,
            not_after: self.get("ccert_not_after").parse().ok(),
        })
    }

    /// The From field of the message, if its header is told, and is whole: in base64, because attributes end with their
    /// lines.
    ///
    /// # Errors
    /// The reply to a message whose field cannot be read.
    pub fn from_field(&self) -> Result<Option<FromField>, Reply> {
        let Some(encoded) = self.told("message_header") else {
            return Ok(None);
        };
        let Some(header) = from_base64(encoded) else {
            let text = "the mail server tells the header in another way than base64";
            return Err(Reply::new(451, (4, 3, 5), text));
        };
        if header.len() >= MAX_HEADER {
            return Ok(None);
        }
        // Servers end the lines of a header that they keep in LF alone.
        let lines = header.split(|octet| *octet == b'\n');
        let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let header = lines.collect::<Vec<&[u8]>>().join(&b"\r\n"[..]);
        FromField::read(&header).map(Some)
    }

    /// Whether the header is told, whole or not.
    pub fn has_header(&self) -> bool {
        self.told("message_header").is_some()
    }

    /// Whether the server will tell the header later, with one request for all recipients of the message.
    pub fn header_follows(&self) -> bool {
        !self.has_header() && self.get("message_header_follows") == "yes"
    }

    /// The facts about a recipient, in a session that is protected so.
    pub fn context(&self, sender: &str, protection: Protection, header: HeaderFrom) -> Context {
        let client = facts::client_address(self.get("client_address"));
        let recipient = self.get("recipient");
        let context = Context::inbound(None, sender, recipient).client_address(client);
        let mut context = protection.add_to(context).header_from(header);
        context.set_helo(self.told("helo_name").map(str::to_owned));
        context
    }

    /// Reads what a person has of a request: lines with an attribute each, of Postfix's log (`send attr name = value`)
    /// or as they are sent.
    ///
    /// # Errors
    /// Says which line is none.
    pub fn parse_dump(text: &str) -> Result<Attributes, String> {
        const LOGGED: &str = "send attr ";
        let mut attributes: Vec<(String, String)> = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let logged = line.split_once(LOGGED).map(|(_, logged)| logged);
            let Some((name, value)) = logged.unwrap_or(line).split_once('=') else {
                return Err(format!(
                    "{line:?} is not like \"sender=alice@contosobank.com\""
                ));
            };
            let (name, value) = (name.trim(), value.trim());
            if attributes.iter().any(|(known, _)| known == name) {
                return Err(format!("the attribute {name:?} stands there twice"));
            }
            attributes.push((name.to_owned(), value.to_owned()));
        }
        Ok(Attributes(attributes))
    }
}

/// A list of names, by commas. One in a name is doubled, as Exim does it, so that nobody makes two names of one. Where a
/// name may begin or end in one, nobody can tell them apart.
pub fn names(text: &str) -> Option<Vec<String>> {
    const COMMA: char = '\u{0}';
    if text.contains(",,,") {
        return None;
    }
    let text = text.replace(",,", &COMMA.to_string());
    let names = text.split(',').map(|name| name.trim().replace(COMMA, ","));
    Some(names.filter(|name| !name.is_empty()).collect())
}

/// RFC 4648 section 4, and nothing else: what is read leniently is read in two ways.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_name_makes_no_other_name() {
        let names = |text| names(text).unwrap_or(vec!["unknown".into()]);
        assert_eq!(names("a.test, b.test"), ["a.test", "b.test"]);
        assert_eq!(names("x,,,,,mx.bank.test"), ["unknown"]);
        assert_eq!(names("x,,,mx.bank.test"), ["unknown"]);
        assert_eq!(
            names("evil.test,,mx.bank.test,c.test"),
            ["evil.test,mx.bank.test", "c.test"]
        );
        assert_eq!(names(""), Vec::<String>::new());
    }

    #[test]
    fn base64_is_read_in_one_way() {
        assert_eq!(from_base64("RnJvbTo="), Some(b"From:".to_vec()));
        assert_eq!(from_base64(""), Some(Vec::new()));
        for text in ["====", "=AAA", "AA=A", "AAA", "A===", "AA\u{c4}A", "AAAA "] {
            assert_eq!(from_base64(text), None, "{text}");
        }
    }

    #[test]
    fn requests_are_read_one_after_another() {
        let input = b"request=smtpd_access_policy\nsender=a=b@c.test\n\nrequest=x";
        assert!(Attributes::parse(b"sender=a\nsender=b\n\n").is_err());
        let (request, length) = Attributes::parse(input).unwrap().unwrap();
        assert_eq!(request.get("sender"), "a=b@c.test");
        assert_eq!(request.told("recipient"), None);
        assert_eq!(&input[length..], b"request=x");
        assert_eq!(Attributes::parse(&input[length..]), Ok(None));
        assert!(Attributes::parse(b"\n").is_err());
        assert!(Attributes::parse(b"no equals sign\n").is_err());
        assert!(Attributes::parse(&[b'a'; MAX_REQUEST + 1]).is_err());
        let many: String = (0..=MAX_ATTRIBUTES).map(|it| format!("{it}=\n")).collect();
        assert!(Attributes::parse(many.as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_read_or_refused(input in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            if let Ok(Some((_, length))) = Attributes::parse(&input) {
                proptest::prop_assert!(length <= input.len());
            }
        }
    }
}
