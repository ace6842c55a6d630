//! The parameters by which a sender asks for delivery status notifications (RFC 3461 §4).

use std::fmt;

/// The longest ENVID (RFC 3461 §4.4) and ORCPT (§4.2), in characters of xtext.
const MAX_ENVELOPE_ID: usize = 100;
const MAX_ORIGINAL_RECIPIENT: usize = 500;

/// How much of a message a notification of a failure brings back (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// All of it.
    Full,
    /// Its header.
    Headers,
}

impl Return {
    /// Reads the value of RET.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_uppercase().as_str() {
            "FULL" => Some(Self::Full),
            "HDRS" => Some(Self::Headers),
            _ => None,
        }
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        })
    }
}

/// Of what a sender wants to be told (RFC 3461 §4.1); of nothing if all are false.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Notify {
    /// That the message was delivered.
    pub success: bool,
    /// That it was not, and will not be.
    pub failure: bool,
    /// That it takes long.
    pub delay: bool,
}

impl Notify {
    /// Reads the value of NOTIFY.
    pub fn parse(text: &str) -> Option<Self> {
        let mut notify = Self::default();
        if text.eq_ignore_ascii_case("NEVER") {
            return Some(notify);
        }
        for word in text.split(',') {
            match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => notify.success = true,
                "FAILURE" => notify.failure = true,
                "DELAY" => notify.delay = true,
                _ => return None,
            }
        }
        Some(notify)
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let words = [
            (self.success, "SUCCESS"),
            (self.failure, "FAILURE"),
            (self.delay, "DELAY"),
        ];
        let said: Vec<&str> = words
            .iter()
            .filter(|(is_said, _)| *is_said)
            .map(|(_, word)| *word)
            .collect();
        match said.is_empty() {
            true => f.write_str("NEVER"),
            false => f.write_str(&said.join(",")),
        }
    }
}

/// Whether this is xtext (RFC 3461 §4) of printable characters; `<>` is one, too (RFC 4954 §5).
pub fn is_xtext(text: &str) -> bool {
    decode_xtext(text).is_some()
}

/// Whether this is the value of ENVID.
pub fn is_envelope_id(text: &str) -> bool {
    text.len() <= MAX_ENVELOPE_ID && is_xtext(text)
}

/// Whether this is the value of ORCPT: the type of an address, and the address. That of `utf-8` may have characters
/// beyond ASCII, where SMTPUTF8 is said (RFC 6533 §3).
pub fn is_original_recipient(text: &str) -> bool {
    let Some((kind, address)) = text.split_once(';') else {
        return false;
    };
    let of_kind = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-';
    let is_kind = !kind.is_empty() && kind.bytes().all(of_kind);
    let is_address = match kind.eq_ignore_ascii_case("utf-8") {
        true => address.chars().all(|it| !it.is_control() && it != ' '),
        false => is_xtext(address),
    };
    text.chars().count() <= MAX_ORIGINAL_RECIPIENT && is_kind && is_address && !address.is_empty()
}

/// What xtext stands for; absent if it is none, or hides what is not printable.
pub fn decode_xtext(text: &str) -> Option<String> {
    let mut decoded = String::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        let octet = match octet {
            b'+' => {
                let (high, low) = (hex_digit(rest.next()?)?, hex_digit(rest.next()?)?);
                high << 4 | low
            }
            b'=' => return None,
            octet => octet,
        };
        if !(b' '..=b'~').contains(&octet) {
            return None;
        }
        decoded.push(octet.into());
    }
    Some(decoded)
}

/// Encodes a text as xtext.
pub fn encode_xtext(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' | 0..=32 | 127.. => encoded.push_str(&format!("+{byte:02X}")),
            _ => encoded.push(byte.into()),
        }
    }
    encoded
}

/// A digit of hexchar, which RFC 3461 §4 has in upper case. Some write it in lower case.
fn hex_digit(octet: u8) -> Option<u8> {
    match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        b'a'..=b'f' => Some(octet - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_of_notify_are_what_the_rfc_says() {
        for (text, read) in [
            ("NEVER", Some("NEVER")),
            ("never", Some("NEVER")),
            ("success", Some("SUCCESS")),
            ("DELAY,failure,SUCCESS", Some("SUCCESS,FAILURE,DELAY")),
            ("", None),
            ("SUCCESS,", None),
            ("NEVER,SUCCESS", None),
            ("SUCCESS, FAILURE", None),
            ("ALWAYS", None),
        ] {
            let found = Notify::parse(text).map(|it| it.to_string());
            assert_eq!(found.as_deref(), read, "{text}");
        }
    }

    #[test]
    fn xtext_hides_nothing() {
        for (text, decoded) in [
            ("QQ314159", Some("QQ314159")),
            ("a+2Bb+3Dc", Some("a+b=c")),
            ("a+20b", Some("a b")),
            ("<>", Some("<>")),
            ("a+2bb", Some("a+b")),
            ("a+2", None),
            ("a+", None),
            ("a=b", None),
            ("a+0D+0A", None),
            ("a+00", None),
            ("a+7F", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(decode_xtext(text).as_deref(), decoded, "{text}");
        }
        assert!(is_envelope_id(&"x".repeat(100)));
        assert!(!is_envelope_id(&"x".repeat(101)));
    }

    #[test]
    fn original_recipients_have_a_type() {
        for (text, is_one) in [
            ("rfc822;b@contoso.com", true),
            ("RFC822;b+2Bc@contoso.com", true),
            ("x400;/PN=b/", false),
            ("x400;/PN+3Db/", true),
            ("utf-8;b\\x{FC}@contoso.com", true),
            ("utf-8;b\u{fc}@contoso.com", true),
            ("rfc822;b\u{fc}@contoso.com", false),
            ("rfc822;", false),
            (";b@contoso.com", false),
            ("b@contoso.com", false),
        ] {
            assert_eq!(is_original_recipient(text), is_one, "{text}");
        }
        assert!(is_original_recipient(&format!(
            "rfc822;{}",
            "x".repeat(493)
        )));
        assert!(!is_original_recipient(&format!(
            "rfc822;{}",
            "x".repeat(494)
        )));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in "[ -~]{0,40}") {
            prop_assert_eq!(decode_xtext(&encode_xtext(&text)), Some(text));
        }

        #[test]
        fn any_text_is_xtext_or_not(text in any::<String>()) {
            let _ = (decode_xtext(&text), Notify::parse(&text), is_original_recipient(&text));
        }
    }
}
