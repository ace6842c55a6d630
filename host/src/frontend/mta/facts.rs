//! Facts in the words of other servers.

use std::net::IpAddr;

use portcullis::{
    COMMON_NAME, ClientAddress, Context, PeerCertificate, Security, Tls, tls_version,
};

/// The protection of a session. Where not all names of the certificate are known, one may be.
#[derive(Clone, Debug)]
pub struct Protection {
    /// The facts.
    pub security: Security,
    /// The name.
    pub common_name: Option<String>,
}

impl From<Security> for Protection {
    fn from(security: Security) -> Self {
        Protection {
            security,
            common_name: None,
        }
    }
}

impl Protection {
    /// In an encrypted session. Exim writes `TLS1.3` for what all others call `TLSv1.3`.
    pub fn tls(version: &str, cipher: &str, told: (PeerCertificate, Option<String>)) -> Self {
        let (certificate, common_name) = told;
        Protection {
            security: Security::Encrypted(tls(version, cipher, certificate)),
            common_name,
        }
    }

    /// Whether the session is known to be encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.security, Security::Encrypted(_))
    }

    /// A context with it.
    pub fn add_to(self, context: Context) -> Context {
        let context = context.security(self.security);
        match self.common_name {
            Some(name) => context.attribute(COMMON_NAME, name),
            None => context,
        }
    }
}

/// The address of a client: Postfix calls that of a local socket `unknown`, and milters write `IPv6:` before some.
pub fn client_address(text: &str) -> ClientAddress {
    let text = text
        .get(..5)
        .filter(|start| start.eq_ignore_ascii_case("IPv6:"))
        .map_or(text, |start| &text[start.len()..]);
    match text.parse::<IpAddr>() {
        Ok(ip) => ClientAddress::Known(ip.to_canonical()),
        Err(_) => ClientAddress::Unknown,
    }
}

fn tls(version: &str, cipher: &str, certificate: PeerCertificate) -> Tls {
    let known = tls_version(version).or_else(|| {
        let number = version.strip_prefix("TLS")?;
        tls_version(&format!("TLSv{number}"))
    });
    Tls {
        version: known,
        cipher: cipher.to_owned(),
        certificate,
    }
}

/// What Postfix and Sendmail write for octets that are none of a word: `+20` (RFC 3461 section 4).
pub fn from_xtext(text: &str) -> String {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'+');
        let octet = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match octet {
            Some(octet) => {
                octets.push(octet);
                rest = &after[2..];
            }
            None => {
                octets.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&octets).into_owned()
}

/// A digest in hexadecimal, with or without colons.
pub fn digest(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|octet| *octet != b':').collect();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    match digits.len() % 2 {
        0 => digits.chunks(2).map(octet).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_servers_are_understood() {
        let known = |text: &str| ClientAddress::Known(text.parse().expect("an address"));
        for (text, address) in [
            ("192.0.2.1", known("192.0.2.1")),
            ("IPv6:2001:db8::1", known("2001:db8::1")),
            ("2001:db8::1", known("2001:db8::1")),
            ("::ffff:192.0.2.1", known("192.0.2.1")),
            ("unknown", ClientAddress::Unknown),
            ("", ClientAddress::Unknown),
        ] {
            assert_eq!(client_address(text), address, "{text}");
        }
        let version = |text| tls(text, "", PeerCertificate::None).version;
        assert_eq!(version("TLSv1.3"), Some(0x0304));
        assert_eq!(version("TLS1.2"), Some(0x0303));
        assert_eq!(version("TLSv1.4"), None);
        assert_eq!(from_xtext("Contoso+20Bank+2BCo+"), "Contoso Bank+Co+");
        assert_eq!(digest("AB:cd:01"), Some(vec![0xab, 0xcd, 1]));
        assert_eq!(digest("abc"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_decoded(text in "\\PC{0,40}") {
            let _ = (client_address(&text), from_xtext(&text), digest(&text));
        }
    }
}
