//! Domains and certificate names: normal form and matching.
//!
//! Names are compared as lower-case IDNA A-labels (UTS 46) without a final dot. Domain patterns are
//! an exact name, `*.name` (the name and everything below it, as Exchange means it) or `*`.
//! Certificate names match as RFC 9525 §6.3 says: a wildcard is one whole left-most label.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::pack::{Reader, Writer, text, word_of};

use icu_normalizer::uts46::Uts46MapperBorrowed;
use idna::punycode;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// RFC 1035 §2.3.4, without the final dot.
const LONGEST_NAME: usize = 253;
/// No name has more bytes before IDNA's mapping; Punycode takes quadratic time.
const LONGEST_UNICODE_NAME: usize = 4 * LONGEST_NAME;

/// How closely a pattern fitted: larger is closer, 0 is not at all.
pub type Specificity = u16;

/// `*` fitted.
pub const ANY: Specificity = 1;
/// The whole name fitted.
pub const EXACT: Specificity = u16::MAX;

/// What `*.name` is worth: the longer the name, the closer.
fn subtree(name: &str) -> Specificity {
    ANY + name.len() as u16
}

/// A domain pattern of the rules, in normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern<Name = String> {
    /// `*`: every domain, and no domain at all.
    Any,
    /// That name alone.
    Exact(Name),
    /// That name and every name below it.
    Subtree(Name),
}

impl Pattern {
    /// Reads a pattern; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("*.") {
            _ if text == "*" => Ok(Pattern::Any),
            Some(name) => Ok(Pattern::Subtree(parse_domain(name)?)),
            None => Ok(Pattern::Exact(parse_domain(text)?)),
        }
    }
}

impl<Name: AsRef<str>> Pattern<Name> {
    /// The pattern, borrowed.
    pub fn as_ref(&self) -> Pattern<&str> {
        match self {
            Pattern::Any => Pattern::Any,
            Pattern::Exact(name) => Pattern::Exact(name.as_ref()),
            Pattern::Subtree(name) => Pattern::Subtree(name.as_ref()),
        }
    }

    /// The name without the `*.`; empty for `*`.
    pub fn name(&self) -> &str {
        match self {
            Pattern::Any => "",
            Pattern::Exact(name) | Pattern::Subtree(name) => name.as_ref(),
        }
    }

    /// How closely the pattern fits a domain in normal form; `None` is a sender without a domain.
    pub fn specificity(&self, domain: Option<&str>) -> Specificity {
        match (self.as_ref(), domain) {
            (Pattern::Any, _) => ANY,
            (Pattern::Exact(name), Some(domain)) if name == domain => EXACT,
            (Pattern::Subtree(name), Some(domain)) if is_within(domain, name) => subtree(name),
            _ => 0,
        }
    }

    /// How closely the pattern, a policy name, fits a name of a certificate.
    pub fn certificate_specificity(&self, name: &CertificateName) -> Specificity {
        match (self.as_ref(), name.wildcard) {
            (Pattern::Any, _) => 0,
            (Pattern::Exact(policy), true) if parent(policy) == Some(&name.name) => EXACT,
            (Pattern::Exact(_), true) => 0,
            _ => self.specificity(Some(&name.name)),
        }
    }
}

impl<Name: AsRef<str>> core::fmt::Display for Pattern<Name> {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        match self.as_ref() {
            Pattern::Any => f.write_str("*"),
            Pattern::Exact(name) => f.write_str(name),
            Pattern::Subtree(name) => write!(f, "*.{name}"),
        }
    }
}

/// A well-formed name of a certificate, in normal form.
pub struct CertificateName<'a> {
    /// The name, or what follows the `*.` of a wildcard.
    pub name: Cow<'a, str>,
    /// Whether the name is `*.name`.
    pub wildcard: bool,
}

impl<'a> CertificateName<'a> {
    /// Reads a name as it stands in a certificate; a malformed one matches nothing and is `None`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name = lowered(name)?;
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(is_part)
                && label.strip_prefix("xn--").is_none_or(is_a_label)
        };
        let well_formed = name.len() <= 253 && name.split('.').all(is_label);
        well_formed.then_some(CertificateName { name, wildcard })
    }
}

impl core::fmt::Display for CertificateName<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        let wildcard = if self.wildcard { "*." } else { "" };
        write!(f, "{wildcard}{}", self.name)
    }
}

/// The domain of an address in normal form: what follows the last `@`. `None` where there is no
/// domain to match: the null reverse-path, an address literal, nothing behind the `@`.
pub fn address_domain(address: &str) -> Option<Cow<'_, str>> {
    let (_, domain) = address.rsplit_once('@')?;
    lowered(domain).filter(|domain| !domain.starts_with('['))
}

/// The normal form of a domain that came from outside: A-labels in lower case, without a final dot.
fn lowered(domain: &str) -> Option<Cow<'_, str>> {
    let domain = tail(domain.strip_suffix('.').unwrap_or(domain));
    let domain = if !domain.is_ascii() {
        Cow::Owned(to_ascii(domain))
    } else if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(domain.to_ascii_lowercase())
    } else {
        Cow::Borrowed(domain)
    };
    (!domain.is_empty()).then_some(domain)
}

/// The last labels of a name that is longer than any can be. No pattern has more, and a long front
/// must not take a name out of the domain above it.
fn tail(domain: &str) -> &str {
    let excess = domain.len().saturating_sub(LONGEST_UNICODE_NAME);
    if excess == 0 {
        return domain;
    }
    // `get`, because the message of an index that is wrong takes more code than all that decides.
    let rest = domain.get(domain.ceil_char_boundary(excess)..);
    let dot = rest.and_then(|rest| rest.get(rest.find('.')?..));
    dot.unwrap_or_default()
}

/// A-labels of a name that has other characters (RFC 5891 section 4.4, mapped as UTS 46 says). A label that cannot be
/// mapped stays as it is: no pattern has one, and those above it count all the same. Otherwise a broken label in front
/// would take a name out of the domain above it, and past that domain's connectors.
fn to_ascii(domain: &str) -> String {
    let mapper = Uts46MapperBorrowed::new();
    let mut ascii = String::new();
    for (number, label) in domain.split(DOTS).enumerate() {
        if number > 0 {
            ascii.push('.');
        }
        let mapped: String = mapper.map_normalize(label.chars()).collect();
        match punycode::encode_str(&mapped) {
            _ if mapped.chars().any(|it| it == char::REPLACEMENT_CHARACTER) => {
                ascii.push_str(&label.to_ascii_lowercase());
            }
            Some(encoded) if !mapped.is_ascii() => {
                ascii.push_str("xn--");
                ascii.push_str(&encoded);
            }
            _ => ascii.push_str(&mapped),
        }
    }
    // The final dot may have been another one.
    if ascii.ends_with('.') {
        ascii.pop();
    }
    ascii
}

/// What separates labels (UTS 46 section 2.3).
const DOTS: [char; 4] = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

/// Whether what follows `xn--` encodes a label in normal form (RFC 5890 section 2.3.2.1).
fn is_a_label(encoded: &str) -> bool {
    let Some(label) = punycode::decode_to_string(encoded) else {
        return false;
    };
    let mapper = Uts46MapperBorrowed::new();
    let mapped = mapper.map_normalize(label.chars());
    !label.is_ascii() && mapped.eq(label.chars())
}

/// The normal form of a domain in the rules; the error says what is wrong with it.
pub fn parse_domain(text: &str) -> Result<String, String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Err("a domain is missing".into());
    }
    if text.len() > LONGEST_UNICODE_NAME {
        return Err(format!("{} bytes are too long for a domain", text.len()));
    }
    if text.contains('*') {
        return Err(format!(
            "in \"{text}\" a `*` stands where none can: it is allowed alone or as the whole first label"
        ));
    }
    if text.contains('@') {
        return Err(format!("\"{text}\" is an address, not a domain"));
    }
    let name = Uts46::new()
        .to_ascii(
            text.as_bytes(),
            AsciiDenyList::EMPTY,
            Hyphens::CheckFirstLast,
            DnsLength::Verify,
        )
        .map_err(|_| {
            format!("\"{text}\" is not a domain name: an empty or too long label, or characters that IDNA forbids")
        })?;
    if let Some(wrong) = name
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.'))
    {
        return Err(format!(
            "\"{text}\" is not a domain name: it has {wrong:?} in it"
        ));
    }
    if name
        .rsplit('.')
        .next()
        .is_some_and(|top| top.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(format!(
            "\"{text}\" is not a domain name: its last label is a number"
        ));
    }
    Ok(name.into_owned())
}

/// Whether `domain` is `ancestor` or lies below it.
pub fn is_within(domain: &str, ancestor: &str) -> bool {
    match domain.strip_suffix(ancestor) {
        Some(rest) => rest.is_empty() || rest.ends_with('.'),
        None => false,
    }
}

/// The name without its first label.
pub fn parent(name: &str) -> Option<&str> {
    name.split_once('.').map(|(_, parent)| parent)
}

/// A name and all names above it, the name first.
pub fn ancestry(name: &str) -> impl Iterator<Item = &str> {
    core::iter::successors(Some(name), |name| parent(name))
}

/// Packs a list of sender or recipient domains.
pub fn write_domains(writer: &mut Writer, patterns: &[Pattern]) {
    write_set(writer, patterns, &[]);
}

/// Packs a list of certificate names.
pub fn write_certificate_names(writer: &mut Writer, patterns: &[Pattern]) {
    let exact = patterns.iter().filter_map(|pattern| match pattern {
        Pattern::Exact(name) => parent(name),
        _ => None,
    });
    write_set(writer, patterns, &in_order(exact));
}

fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn write_set(writer: &mut Writer, patterns: &[Pattern], parents: &[&str]) {
    let exact = in_order(patterns.iter().filter_map(|pattern| match pattern {
        Pattern::Exact(name) => Some(name.as_str()),
        _ => None,
    }));
    let subtree = in_order(patterns.iter().filter_map(|pattern| match pattern {
        Pattern::Subtree(name) => Some(name.as_str()),
        _ => None,
    }));
    let mut set = Writer::default();
    set.byte(patterns.contains(&Pattern::Any).into());
    for names in [&exact[..], &subtree, parents] {
        Names::write(&mut set, names);
    }
    writer.run(&set.finish());
}

/// Names in order: their number, where each ends, and their bytes.
#[derive(Clone, Copy, Default)]
struct Names<'a> {
    ends: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Names<'a> {
    fn write(writer: &mut Writer, names: &[&str]) {
        writer.number(names.len() as u32);
        let mut end = 0;
        for name in names {
            end += name.len() as u32;
            writer.word(end);
        }
        names.iter().for_each(|name| writer.bytes(name.as_bytes()));
    }

    fn read(reader: &mut Reader<'a>) -> Self {
        let count = reader.number() as usize;
        let ends = reader.bytes(4 * count);
        let length = count.checked_sub(1).and_then(|last| word_of(ends, last));
        Names {
            ends,
            bytes: reader.bytes(length.unwrap_or(0) as usize),
        }
    }

    fn len(self) -> usize {
        self.ends.len() / 4
    }

    fn get(self, number: usize) -> &'a [u8] {
        let end = |number| word_of(self.ends, number).unwrap_or(0) as usize;
        let start = number.checked_sub(1).map_or(0, end);
        self.bytes.get(start..end(number)).unwrap_or_default()
    }

    fn iter(self) -> impl Iterator<Item = &'a str> {
        (0..self.len()).map(move |number| text(self.get(number)))
    }

    /// How closely the longest of the names that a domain lies in fits it.
    fn closest(self, domain: &str) -> Option<Specificity> {
        if self.len() == 0 {
            return None;
        }
        ancestry(domain)
            .find(|name| self.contains(name))
            .map(subtree)
    }

    fn contains(self, name: &str) -> bool {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            match self.get(middle).cmp(name.as_bytes()) {
                Ordering::Less => from = middle + 1,
                Ordering::Equal => return true,
                Ordering::Greater => to = middle,
            }
        }
        false
    }
}

/// The patterns of one list, where they are packed; the cost of a look-up is that of the name, not of
/// the list.
#[derive(Clone, Copy, Debug, Default)]
pub struct PatternSet<'a> {
    packed: Reader<'a>,
}

impl<'a> PatternSet<'a> {
    /// Reads over a packed set.
    pub fn read(reader: &mut Reader<'a>) -> Self {
        PatternSet {
            packed: Reader::new(reader.run()),
        }
    }

    fn parts(mut self) -> Parts<'a> {
        Parts {
            any: self.packed.byte() != 0,
            exact: Names::read(&mut self.packed),
            subtree: Names::read(&mut self.packed),
            parents: self.packed,
        }
    }

    /// The patterns, `*` first, then the exact names.
    pub fn iter(self) -> impl Iterator<Item = Pattern<&'a str>> {
        let Parts {
            any,
            exact,
            subtree,
            ..
        } = self.parts();
        let any = any.then_some(Pattern::Any);
        let exact = exact.iter().map(Pattern::Exact);
        let subtree = subtree.iter().map(Pattern::Subtree);
        any.into_iter().chain(exact).chain(subtree)
    }

    /// How many patterns there are.
    pub fn len(self) -> usize {
        let parts = self.parts();
        usize::from(parts.any) + parts.exact.len() + parts.subtree.len()
    }

    /// Whether `*` is in it.
    pub fn has_any(mut self) -> bool {
        self.packed.byte() != 0
    }

    /// Whether every domain that fits a pattern of `other` fits one of this set.
    pub fn covers(self, other: PatternSet) -> bool {
        let own = self.parts();
        other.iter().all(|pattern| match &pattern {
            _ if own.any => true,
            Pattern::Any => false,
            Pattern::Exact(name) => self.specificity(Some(name)) > 0,
            Pattern::Subtree(name) => own.subtree.closest(name).is_some(),
        })
    }

    /// Whether there is no pattern in it.
    pub fn is_empty(self) -> bool {
        self.packed.rest().is_empty() || self.len() == 0
    }

    /// How closely the closest pattern fits a domain; see [`Pattern::specificity`].
    pub fn specificity(self, domain: Option<&str>) -> Specificity {
        let parts = self.parts();
        match domain {
            Some(domain) if parts.exact.contains(domain) => EXACT,
            Some(domain) if let Some(closest) = parts.subtree.closest(domain) => closest,
            _ => parts.any.into(),
        }
    }

    /// How closely the closest policy name fits a certificate name; see
    /// [`Pattern::certificate_specificity`].
    pub fn certificate_specificity(self, name: &CertificateName) -> Specificity {
        let mut parts = self.parts();
        let whole = match name.wildcard {
            true => Names::read(&mut parts.parents),
            false => parts.exact,
        };
        if whole.contains(&name.name) {
            return EXACT;
        }
        parts.subtree.closest(&name.name).unwrap_or(0)
    }
}

/// What a packed set consists of.
struct Parts<'a> {
    any: bool,
    exact: Names<'a>,
    subtree: Names<'a>,
    /// [`Names`]: the parents of the exact names, for wildcards in certificates.
    parents: Reader<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn packed(pattern: &Pattern, write: fn(&mut Writer, &[Pattern])) -> Vec<u8> {
        let mut writer = Writer::default();
        write(&mut writer, core::slice::from_ref(pattern));
        writer.finish()
    }

    #[test]
    fn a_wildcard_is_the_domain_and_everything_below() {
        for (text, domain, fits) in [
            ("contosobank.com", "contosobank.com", true),
            ("contosobank.com", "mail.contosobank.com", false),
            ("*.contosobank.com", "contosobank.com", true),
            ("*.contosobank.com", "a.b.contosobank.com", true),
            ("*.contosobank.com", "evilcontosobank.com", false),
            ("*.contosobank.com", "com", false),
            ("*", "x", true),
            ("bücher.example", "xn--bcher-kva.example", true),
            ("*.BÜCHER.example.", "a.xn--bcher-kva.example", true),
        ] {
            let pattern = pattern(text);
            let packed = packed(&pattern, write_domains);
            let set = PatternSet::read(&mut Reader::new(&packed));
            let one = pattern.specificity(Some(domain));
            assert_eq!(one > 0, fits, "{text} {domain}");
            assert_eq!(one, set.specificity(Some(domain)), "{text} {domain}");
        }
        assert_eq!(pattern("*").specificity(None), ANY);
        assert_eq!(pattern("*.x.com").specificity(None), 0);
    }

    #[test]
    fn certificate_names_follow_rfc_9525() {
        for (policy, certificate, fits) in [
            ("mail.x.com", "mail.x.com", true),
            ("mail.x.com", "MAIL.X.COM.", true),
            ("mail.x.com", "*.x.com", true),
            ("mail.x.com", "*.com", false),
            ("a.mail.x.com", "*.x.com", false),
            ("x.com", "*.x.com", false),
            ("x.com", "*.com", true),
            ("*.x.com", "x.com", true),
            ("*.x.com", "a.b.x.com", true),
            ("*.x.com", "*.x.com", true),
            ("*.x.com", "*.b.x.com", true),
            ("*.x.com", "*.com", false),
            ("*.x.com", "*", false),
            ("mail.x.com", "m*.x.com", false),
            ("*.com", "a.*.com", false),
            ("*.com", "*.*.com", false),
            ("mail.x.com", "", false),
            ("mail.x.com", "*.", false),
            ("*.x.com", ".x.com", false),
            ("*.x.com", "a..x.com", false),
            ("*.x.com", "xn--zzzzzzzzz99.x.com", false),
        ] {
            let pattern = pattern(policy);
            let packed = packed(&pattern, write_certificate_names);
            let set = PatternSet::read(&mut Reader::new(&packed));
            let name = CertificateName::parse(certificate);
            let one = name
                .as_ref()
                .map_or(0, |name| pattern.certificate_specificity(name));
            let looked_up = name
                .as_ref()
                .map_or(0, |name| set.certificate_specificity(name));
            assert_eq!(one > 0, fits, "{policy} {certificate}");
            assert_eq!(one, looked_up, "{policy} {certificate}");
        }
    }

    #[test]
    fn malformed_domains_are_told_apart() {
        for wrong in [
            "",
            ".",
            "*.",
            "a..b",
            "a.*.b",
            "m*.x.com",
            "**",
            "*x.com",
            "user@x.com",
            "x y.com",
            "[192.0.2.1]",
            "192.0.2.1",
            "-a.com",
            "a-.com",
            "x.com/24",
            &("a".repeat(64) + ".com"),
            &"a.".repeat(200),
            "xn--a.com",
            "a\u{0}b.com",
            "{x}",
        ] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Pattern::parse("_dmarc.x.com").is_ok());
    }

    #[test]
    fn the_domain_of_an_address_follows_its_last_at() {
        for (address, domain) in [
            ("a@X.com", Some("x.com")),
            ("\"a@evil.com\"@x.com", Some("x.com")),
            ("a@x.com.", Some("x.com")),
            ("a@bücher.example", Some("xn--bcher-kva.example")),
            ("a@x。com", Some("x.com")),
            (
                "a@\u{378}.läden.example",
                Some("\u{378}.xn--lden-loa.example"),
            ),
            ("", None),
            ("postmaster", None),
            ("a@[192.0.2.1]", None),
            ("a@", None),
            ("a@.", None),
        ] {
            assert_eq!(address_domain(address).as_deref(), domain, "{address}");
        }
    }

    #[test]
    fn a_long_front_does_not_take_a_name_out_of_its_domain() {
        let address = format!("a@{}x.com", "a.".repeat(100_000));
        let domain = address_domain(&address).unwrap();
        assert!(domain.len() < 2000);
        assert_eq!(
            pattern("*.x.com").specificity(Some(&domain)),
            subtree("x.com")
        );
        assert_eq!(pattern("x.com").specificity(Some(&domain)), 0);
    }
}
