//! Envelope mailboxes: RFC 5321 §4.1.2 and §4.1.3, with UTF-8 as RFC 6531 §3.3 adds it.
//!
//! An [`Address`] can only be made by its parsers, so one that exists is well formed and can be
//! written into a command without further checks. It is kept as it was written: quotes and letter
//! case stay, only the trailing dot of a domain goes.
//!
//! Limits: local part 64 octets (§4.5.3.1.1), domain 255 octets (§4.5.3.1.2), and the mailbox 254
//! octets, because a path is at most 256 octets with its angle brackets (§4.5.3.1.3).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::CodePointMapData;
use icu_properties::props::{GeneralCategory, GeneralCategoryGroup};
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use thiserror::Error;

const MAX_LOCAL_PART: usize = 64;
const MAX_DOMAIN: usize = 255;
const MAX_MAILBOX: usize = 254;
/// RFC 1035 §2.3.4.
const MAX_LABEL: usize = 63;

/// Why a text is not a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AddressError {
    /// There is no text at all.
    #[error("the address is empty")]
    Empty,
    /// The text has a local part only.
    #[error("the address has no domain")]
    NoDomain,
    /// The local part is neither a dot-string nor a quoted string.
    #[error("the local part of the address is malformed")]
    LocalPart,
    /// The local part is over 64 octets.
    #[error("the local part of the address is too long")]
    LocalPartTooLong,
    /// The domain is neither a host name nor an address literal.
    #[error("the domain of the address is malformed")]
    Domain,
    /// The domain is over 255 octets.
    #[error("the domain of the address is too long")]
    DomainTooLong,
    /// The whole is over 254 octets.
    #[error("the address is too long")]
    TooLong,
}

/// A well-formed envelope mailbox, such as `jane@example.com`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    /// Length of the local part; an `@` follows it unless the address is the bare `Postmaster`.
    local_length: usize,
}

impl Address {
    /// Parses a mailbox written without angle brackets and without a source route.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let (local, after) = split_local_part(text).ok_or(AddressError::LocalPart)?;
        if local.len() > MAX_LOCAL_PART {
            return Err(AddressError::LocalPartTooLong);
        }
        let domain = match after.strip_prefix('@') {
            Some(domain) => domain.strip_suffix('.').unwrap_or(domain),
            None if after.is_empty() => return Err(AddressError::NoDomain),
            None => return Err(AddressError::LocalPart),
        };
        if domain.len() > MAX_DOMAIN {
            return Err(AddressError::DomainTooLong);
        }
        if !is_domain(domain) && !is_address_literal(domain) {
            return Err(AddressError::Domain);
        }
        let text = format!("{local}@{domain}");
        if text.len() > MAX_MAILBOX {
            return Err(AddressError::TooLong);
        }
        Ok(Self {
            text,
            local_length: local.len(),
        })
    }

    /// Parses a recipient: a mailbox, or the bare `postmaster` in any case, which every server has
    /// to accept (RFC 5321 §4.5.1).
    pub fn parse_recipient(text: &str) -> Result<Self, AddressError> {
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self {
                text: text.to_owned(),
                local_length: text.len(),
            });
        }
        Self::parse(text)
    }

    /// The address as it was written, without a trailing dot in the domain.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The local part as it was written, with its quotes if it has any.
    pub fn local_part(&self) -> &str {
        self.text.get(..self.local_length).unwrap_or_default()
    }

    /// What a server behind us could read in the local part that is not a mailbox of the domain; `None` if nothing.
    ///
    /// Sendmail and Postfix route `user%host` and `host!user`, and read a quoted `user@host` like one that is not;
    /// others deliver to files and programs. The precedents are Exim's default configuration
    /// (`CHECK_RCPT_LOCAL_LOCALPARTS`, `CHECK_RCPT_REMOTE_LOCALPARTS`) and Postfix's `allow_untrusted_routing` and
    /// `allow_min_user`.
    pub fn hidden_route(&self, is_local: bool) -> Option<char> {
        let written = self.local_part();
        let unquoted: String = match written.strip_prefix('"') {
            None => written.to_owned(),
            Some(inside) => unescaped(inside.strip_suffix('"').unwrap_or(inside)),
        };
        // Compatibility forms such as a full-width percent sign become the sign itself where text is normalized.
        let normalized = ComposingNormalizerBorrowed::new_nfkc().normalize(&unquoted);
        route_in(&unquoted, is_local).or_else(|| route_in(&normalized, is_local))
    }

    /// The domain or address literal; `None` for the bare `Postmaster`.
    pub fn domain(&self) -> Option<&str> {
        self.text.get(self.local_length..)?.strip_prefix('@')
    }

    /// Whether the address needs no SMTPUTF8 (RFC 6531 §3.4).
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A quoted string's content without the backslashes of its quoted pairs.
fn unescaped(inside: &str) -> String {
    let mut characters = inside.chars();
    let mut text = String::new();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            other => text.push(other),
        }
    }
    text
}

/// The first character that makes a local part more than a name.
fn route_in(local: &str, is_local: bool) -> Option<char> {
    // A hidden file, an option of a delivery program (Postfix's allow_min_user), a file, a program, somebody's home.
    let first = local
        .chars()
        .next()
        .filter(|first| "./|-~".contains(*first));
    if first.is_some() {
        return first;
    }
    // Exim expands `${…}` in more places than it should (CVE-2019-10149).
    if local.contains("${") {
        return Some('$');
    }
    if !is_local && local.contains("/../") {
        return Some('/');
    }
    // Routes, and what ends, groups or lists addresses where quotes are lost. In the Internet's mailboxes a slash may
    // be part of a name; on our own disk it would lead to another file.
    let is_route = |character: &char| match character {
        '/' | '|' => is_local,
        _ => "@%!^()<>[]:;,\\\"".contains(*character) || character.is_control(),
    };
    local.chars().find(is_route)
}

/// The sender of an envelope: a mailbox, or the null path `<>` of notifications (RFC 5321 §4.5.5).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`.
    Null,
    /// `<mailbox>`.
    Address(Address),
}

impl ReversePath {
    /// The text between the angle brackets, which is empty for the null path.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Null => "",
            Self::Address(address) => address.as_str(),
        }
    }

    /// Whether the path needs no SMTPUTF8 (RFC 6531 §3.4).
    pub fn is_ascii(&self) -> bool {
        self.as_str().is_ascii()
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The length of the quoted string at the start of `text`, its two quotes included.
///
/// Accepts qtextSMTP and quoted-pairSMTP (RFC 5321 §4.1.2) and UTF-8 text (RFC 6531 §3.3), which
/// cannot be the second half of a quoted pair.
pub(crate) fn quoted_string_length(text: &str) -> Option<usize> {
    let mut characters = text.char_indices();
    if characters.next()?.1 != '"' {
        return None;
    }
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some(at + 1),
            '\\' => {
                let (_, quoted) = characters.next()?;
                if !matches!(quoted, ' '..='~') {
                    return None;
                }
            }
            ' '..='~' => {}
            other if is_utf8_text(other) => {}
            _ => return None,
        }
    }
    None
}

/// Where the first of `wanted` stands in `text` outside quoted strings. There is none behind a
/// malformed quoted string.
pub(super) fn find_unquoted(text: &str, wanted: &[char]) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        at += rest.find(|character| character == '"' || wanted.contains(&character))?;
        let found = text.get(at..)?;
        if !found.starts_with('"') {
            return Some(at);
        }
        at += quoted_string_length(found)?;
    }
}

/// Whether `character` is non-ASCII and can be seen.
///
/// Control and space characters can break a line or a field in a reader that knows them, and the
/// invisible format characters make one address look like another. The two joiners stay because
/// some scripts cannot be written without them.
pub(super) fn is_utf8_text(character: char) -> bool {
    let invisible = matches!(
        character,
        '\u{61c}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !character.is_ascii() && !character.is_control() && !character.is_whitespace() && !invisible
}

/// Whether `text` is a host name: RFC 5321 §4.1.2 with underscores, which real hosts have, and
/// U-labels (RFC 6531 §3.3).
pub(super) fn is_domain(text: &str) -> bool {
    text.len() <= MAX_DOMAIN && text.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let is_ascii = |character: char| {
        !character.is_ascii() || character.is_ascii_alphanumeric() || matches!(character, '-' | '_')
    };
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.chars().all(is_ascii)
        && match label.is_ascii() {
            true => label.len() <= MAX_LABEL,
            false => is_u_label(label),
        }
}

/// Whether a label is one of IDNA with characters beyond ASCII (RFC 5890 §2.3.2.1), in any case.
///
/// UTS 46 knows which characters there may be, and the rules of joiners and of directions. It maps the widths and cases
/// of letters, as those do who look the name up. What it takes and IDNA does not are symbols, which are neither
/// letters, digits nor marks, and characters without the context that they need (RFC 5892, appendix A).
fn is_u_label(label: &str) -> bool {
    let uts46 = Uts46::new();
    let (deny, hyphens) = (AsciiDenyList::EMPTY, Hyphens::Allow);
    let Ok(ascii) = uts46.to_ascii(label.as_bytes(), deny, hyphens, DnsLength::Ignore) else {
        return false;
    };
    // A U-label is measured by its A-label, so its UTF-8 form may be longer.
    if ascii.len() > MAX_LABEL
        || !ascii
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
    {
        return false;
    }
    let (mapped, valid) = uts46.to_unicode(ascii.as_bytes(), deny, hyphens);
    valid.is_ok() && has_context(label) && has_context(&mapped)
}

/// Whether each character that is none of letters, digits and marks has the context that allows it (RFC 5892,
/// appendix A.3 to A.9; those of the joiners, A.1 and A.2, are part of UTS 46).
fn has_context(label: &str) -> bool {
    let characters: Vec<char> = label.chars().collect();
    let at = |number: Option<usize>| number.and_then(|number| characters.get(number)).copied();
    let any = |is: fn(char) -> bool| characters.iter().any(|character| is(*character));
    characters.iter().enumerate().all(|(number, character)| {
        let before = at(number.checked_sub(1));
        let after = at(Some(number + 1));
        match character {
            '\u{200c}' | '\u{200d}' => true,
            '\u{b7}' => before == Some('l') && after == Some('l'),
            '\u{375}' => after.is_some_and(is_greek),
            '\u{5f3}' | '\u{5f4}' => before.is_some_and(is_hebrew),
            '\u{30fb}' => any(is_japanese),
            '\u{660}'..='\u{669}' => !any(|other| matches!(other, '\u{6f0}'..='\u{6f9}')),
            '\u{6f0}'..='\u{6f9}' => !any(|other| matches!(other, '\u{660}'..='\u{669}')),
            other if other.is_ascii() => true,
            other => {
                let groups = CodePointMapData::<GeneralCategory>::new();
                let wanted = GeneralCategoryGroup::Letter
                    .union(GeneralCategoryGroup::Mark)
                    .union(GeneralCategoryGroup::DecimalNumber);
                wanted.contains(groups.get(*other))
            }
        }
    })
}

fn is_greek(character: char) -> bool {
    matches!(character, '\u{370}'..='\u{3ff}' | '\u{1f00}'..='\u{1fff}')
}

fn is_hebrew(character: char) -> bool {
    matches!(character, '\u{591}'..='\u{5f4}')
}

/// Hiragana, Katakana or Han.
fn is_japanese(character: char) -> bool {
    matches!(
        character,
        '\u{3041}'..='\u{309f}'
            | '\u{30a1}'..='\u{30fa}'
            | '\u{30fd}'..='\u{30ff}'
            | '\u{3005}'
            | '\u{3007}'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3fffd}'
    )
}

/// RFC 5321 §4.1.3. Of the general form only IPv6 is registered with IANA; in any other, angle brackets could
/// stand, which servers read in different ways.
fn is_address_literal(text: &str) -> bool {
    let Some(inner) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    else {
        return false;
    };
    match inner.split_once(':') {
        None => inner.parse::<Ipv4Addr>().is_ok(),
        Some((tag, rest)) => tag.eq_ignore_ascii_case("IPv6") && rest.parse::<Ipv6Addr>().is_ok(),
    }
}

/// Splits off a quoted string or a dot-string at the start of `text`.
fn split_local_part(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('"') {
        return text.split_at_checked(quoted_string_length(text)?);
    }
    let end = text.find('@').unwrap_or(text.len());
    let (local, after) = text.split_at_checked(end)?;
    local.split('.').all(is_atom).then_some((local, after))
}

fn is_atom(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_atom_character)
}

/// `atext` of RFC 5322 §3.2.3 and UTF-8 text (RFC 6531 §3.3).
fn is_atom_character(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(character)
        || is_utf8_text(character)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepts_well_formed_mailboxes_as_written() {
        for (text, local, domain) in [
            ("jane@example.com", "jane", "example.com"),
            ("Jane.Doe@EXAMPLE.com", "Jane.Doe", "EXAMPLE.com"),
            ("a!#$%&'*+-/=?^_`{|}~@b", "a!#$%&'*+-/=?^_`{|}~", "b"),
            (r#""a b"@example.com"#, r#""a b""#, "example.com"),
            (
                r#""a\"b\\@c>"@example.com"#,
                r#""a\"b\\@c>""#,
                "example.com",
            ),
            (r#"""@example.com"#, r#""""#, "example.com"),
            ("a@under_score.example", "a", "under_score.example"),
            ("a@xn--bcher-kva.example", "a", "xn--bcher-kva.example"),
            ("jörg@bücher.example", "jörg", "bücher.example"),
            ("\"ö\"@हिन्दी.example", "\"ö\"", "हिन्दी.example"),
            ("ผู้ใช้@คน.example", "ผู้ใช้", "คน.example"),
            ("a@[192.0.2.1]", "a", "[192.0.2.1]"),
            ("a@[IPv6:2001:db8::1]", "a", "[IPv6:2001:db8::1]"),
            ("a@[ipv6:::ffff:192.0.2.1]", "a", "[ipv6:::ffff:192.0.2.1]"),
        ] {
            let address = Address::parse(text).expect(text);
            assert_eq!(address.as_str(), text);
            assert_eq!(address.to_string(), text);
            assert_eq!(address.local_part(), local);
            assert_eq!(address.domain(), Some(domain));
            assert_eq!(address.is_ascii(), text.is_ascii());
        }
    }

    #[test]
    fn refuses_everything_else() {
        use AddressError::{Domain, Empty, LocalPart, NoDomain};
        for (text, error) in [
            ("", Empty),
            ("jane", NoDomain),
            ("postmaster", NoDomain),
            (r#""quoted""#, NoDomain),
            ("@example.com", LocalPart),
            (".a@b", LocalPart),
            ("a.@b", LocalPart),
            ("a..b@c", LocalPart),
            ("a b@c", LocalPart),
            (" a@c", LocalPart),
            ("a,b@c", LocalPart),
            ("a<b@c", LocalPart),
            ("a\\b@c", LocalPart),
            ("a(c)@d", LocalPart),
            (r#"a"b"@c"#, LocalPart),
            (r#""a"b@c"#, LocalPart),
            (r#""a"."b"@c"#, LocalPart),
            (r#""a@b"#, LocalPart),
            (r#""a\"#, LocalPart),
            ("\"a\tb\"@c", LocalPart),
            ("\"a\r\nb\"@c", LocalPart),
            ("\"\\\u{7f}\"@c", LocalPart),
            ("\"\\ö\"@c", LocalPart),
            ("\"\u{85}\"@c", LocalPart),
            ("a\u{0}@c", LocalPart),
            ("a\u{a0}b@c", LocalPart),
            ("a\u{202e}b@c", LocalPart),
            ("a@", Domain),
            ("a@.", Domain),
            ("a@b..", Domain),
            ("a@.b", Domain),
            ("a@b..c", Domain),
            ("a@b@c", Domain),
            ("a@-b", Domain),
            ("a@b-.c", Domain),
            ("a@b c", Domain),
            ("a@b,c", Domain),
            ("a@b>", Domain),
            ("a@b。c", Domain),
            ("a@b⒈c", Domain),
            ("a@[]", Domain),
            ("a@[192.0.2.1", Domain),
            ("a@[192.0.2]", Domain),
            ("a@[192.0.2.256]", Domain),
            ("a@[192.0.2.1]x", Domain),
            ("a@[2001:db8::1]", Domain),
            ("a@[IPv6:192.0.2.1]", Domain),
            ("a@[IPv6:fe80::1%eth0]", Domain),
            ("a@[:x]", Domain),
            ("a@[tag-:x]", Domain),
            ("a@[tag:]", Domain),
            ("a@[x-tag:!Z^~]", Domain),
            ("a@[HE:<]", Domain),
            ("a@[tag:a b]", Domain),
            ("a@[tag:a]b]", Domain),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn u_labels_are_those_of_idna() {
        for (domain, is_one) in [
            // RFC 5892, appendix A.
            ("नी\u{200c}.example", false),
            ("क्\u{200d}ष.example", true),
            ("क्\u{200c}ष.example", true),
            ("a\u{200d}b.example", false),
            ("l\u{b7}l.example", true),
            ("col\u{b7}lecció.example", true),
            ("a\u{b7}b.example", false),
            ("\u{375}α.example", true),
            ("α\u{375}.example", false),
            ("א\u{5f3}.example", true),
            ("\u{5f3}א.example", false),
            ("צה\u{5f4}ל.example", true),
            ("ア\u{30fb}イ.example", true),
            ("a\u{30fb}b.example", false),
            ("ا\u{661}.example", true),
            ("ا\u{6f1}.example", true),
            ("ا\u{661}\u{6f1}.example", false),
            // Digits of other scripts, marks, letters in any case.
            ("क\u{966}.example", true),
            ("ไทย\u{e51}.example", true),
            ("BÜCHER.example", true),
            ("bu\u{308}cher.example", true),
            // Symbols, dots, numbers that are no digits, and what would be mapped away.
            ("☃.example", false),
            ("a\u{bd}.example", false),
            ("a\u{b2}.example", false),
            ("a\u{ad}b.example", false),
            ("a\u{ff0e}b.example", false),
            // Another width of the same letters.
            ("ａ.example", true),
            ("\u{3002}a.example", false),
        ] {
            assert_eq!(is_domain(domain), is_one, "{domain:?}");
        }
    }

    #[test]
    fn local_parts_that_could_be_routes_are_known() {
        for (local, at_home, elsewhere) in [
            ("jane", None, None),
            ("first.last+tag=x", None, None),
            ("O'Brien", None, None),
            (r#""john smith""#, None, None),
            (r#""jane""#, None, None),
            ("a#$&*?_`{|}", Some('|'), None),
            ("a/b", Some('/'), None),
            ("/etc/passwd", Some('/'), Some('/')),
            (r#""a/../b""#, Some('/'), Some('/')),
            ("|program", Some('|'), Some('|')),
            (r#""|program""#, Some('|'), Some('|')),
            ("bob%fabrikam.test", Some('%'), Some('%')),
            ("fabrikam.test!bob", Some('!'), Some('!')),
            ("fabrikam.test^bob", Some('^'), Some('^')),
            (r#""bob@fabrikam.test""#, Some('@'), Some('@')),
            (r#""bob\@fabrikam.test""#, Some('@'), Some('@')),
            (r#""bob\%fabrikam.test""#, Some('%'), Some('%')),
            (r#""@fabrikam.test:bob""#, Some('@'), Some('@')),
            (r#"":include:/tmp/x""#, Some(':'), Some(':')),
            (r#""a,b""#, Some(','), Some(',')),
            (r#""<a""#, Some('<'), Some('<')),
            (r#""a\\b""#, Some('\\'), Some('\\')),
            (r#""\"a""#, Some('"'), Some('"')),
            (r#"".a""#, Some('.'), Some('.')),
            ("-f", Some('-'), Some('-')),
            ("~root", Some('~'), Some('~')),
            ("${run{x}}", Some('$'), Some('$')),
            ("bob\u{ff05}fabrikam.test", Some('%'), Some('%')),
            ("bob\u{ff20}fabrikam.test", Some('@'), Some('@')),
            ("fabrikam\u{ff01}bob", Some('!'), Some('!')),
            ("a\u{2100}b", Some('/'), None),
        ] {
            let address = Address::parse(&format!("{local}@contoso.test")).expect(local);
            assert_eq!(address.hidden_route(true), at_home, "{local}");
            assert_eq!(address.hidden_route(false), elsewhere, "{local}");
        }
        let postmaster = Address::parse_recipient("postmaster").expect("valid");
        assert_eq!(postmaster.hidden_route(true), None);
    }

    #[test]
    fn drops_one_trailing_dot() {
        let address = Address::parse("a@example.com.").expect("valid");
        assert_eq!(address.as_str(), "a@example.com");
        assert_eq!(address.domain(), Some("example.com"));
    }

    #[test]
    fn enforces_the_length_limits() {
        let local = "l".repeat(64);
        let label = "d".repeat(63);
        let domain = format!("{label}.{label}.{}", "d".repeat(61));
        assert_eq!(domain.len(), 189);
        let longest = format!("{local}@{domain}");
        assert!(Address::parse(&longest).is_ok());
        assert_eq!(
            Address::parse(&format!("{longest}d")),
            Err(AddressError::TooLong)
        );
        assert_eq!(
            Address::parse(&format!("l{longest}")),
            Err(AddressError::LocalPartTooLong)
        );
        assert_eq!(
            Address::parse(&format!("a@{label}d.example")),
            Err(AddressError::Domain)
        );
        let long_u_label = format!("a@{}", "ü".repeat(40));
        assert!(Address::parse(&long_u_label).is_ok());
        let long_domain = ["d"; 129].join(".");
        assert_eq!(
            Address::parse(&format!("a@{long_domain}")),
            Err(AddressError::DomainTooLong)
        );
    }

    #[test]
    fn only_a_recipient_may_be_the_bare_postmaster() {
        for text in ["postmaster", "Postmaster", "POSTMASTER"] {
            let address = Address::parse_recipient(text).expect(text);
            assert_eq!(address.as_str(), text);
            assert_eq!(address.local_part(), text);
            assert_eq!(address.domain(), None);
        }
        assert_eq!(
            Address::parse_recipient("hostmaster"),
            Err(AddressError::NoDomain)
        );
    }

    #[test]
    fn the_null_path_is_empty_text() {
        assert_eq!(ReversePath::Null.as_str(), "");
        let address = Address::parse("ö@b").expect("valid");
        let path = ReversePath::Address(address);
        assert_eq!((path.as_str(), path.is_ascii()), ("ö@b", false));
    }

    proptest! {
        #[test]
        fn a_parsed_address_is_safe_and_parses_to_itself(text in "[ -~\u{80}-\u{2100}]{0,8}@[ -~ö]{0,8}") {
            if let Ok(address) = Address::parse(&text) {
                prop_assert_eq!(Address::parse(address.as_str()), Ok(address.clone()));
                prop_assert!(!address.as_str().contains(char::is_control));
                let rebuilt = format!("{}@{}", address.local_part(), address.domain().unwrap_or("?"));
                prop_assert_eq!(rebuilt, address.as_str());
            }
        }
    }
}
