//! Domains and certificate names: normal form and matching.
//!
//! Names are compared as lower-case IDNA A-labels (UTS 46) without a final dot. Domain patterns are
//! an exact name, `*.name` (the name and everything below it, as Exchange means it) or `*`.
//! Certificate names match as RFC 9525 §6.3 says: a wildcard is one whole left-most label.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// `*`: every domain, and no domain at all.
    Any,
    /// That name alone.
    Exact(String),
    /// That name and every name below it.
    Subtree(String),
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

    /// The name without the `*.`; empty for `*`.
    pub fn name(&self) -> &str {
        match self {
            Pattern::Any => "",
            Pattern::Exact(name) | Pattern::Subtree(name) => name,
        }
    }

    /// How closely the pattern fits a domain in normal form; `None` is a sender without a domain.
    pub fn specificity(&self, domain: Option<&str>) -> Specificity {
        match (self, domain) {
            (Pattern::Any, _) => ANY,
            (Pattern::Exact(name), Some(domain)) if name == domain => EXACT,
            (Pattern::Subtree(name), Some(domain)) if is_within(domain, name) => subtree(name),
            _ => 0,
        }
    }

    /// How closely the pattern, a policy name, fits a name of a certificate.
    pub fn certificate_specificity(&self, name: &CertificateName) -> Specificity {
        match (self, name.wildcard) {
            (Pattern::Any, _) => 0,
            (Pattern::Exact(policy), true) if parent(policy) == Some(&name.name) => EXACT,
            (Pattern::Exact(_), true) => 0,
            _ => self.specificity(Some(&name.name)),
        }
    }
}

impl core::fmt::Display for Pattern {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        match self {
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
        let name = match lowered(name)? {
            name if name.contains("xn--") => Cow::Owned(to_ascii(&name)?),
            name => name,
        };
        let well_formed = name
            .split('.')
            .all(|label| !label.is_empty() && !label.contains('*'));
        well_formed.then_some(CertificateName { name, wildcard })
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
        Cow::Owned(to_ascii(domain).unwrap_or_else(|| to_ascii_by_label(domain)))
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
    let rest = &domain[domain.ceil_char_boundary(excess)..];
    rest.find('.').map_or("", |dot| &rest[dot..])
}

fn to_ascii(domain: &str) -> Option<String> {
    let ascii = Uts46::new().to_ascii(
        domain.as_bytes(),
        AsciiDenyList::EMPTY,
        Hyphens::Allow,
        DnsLength::Ignore,
    );
    // Mapping can bring forth a final dot: U+3002 is one.
    let ascii = ascii.ok()?.into_owned();
    Some(ascii.strip_suffix('.').map(String::from).unwrap_or(ascii))
}

/// Where IDNA cannot read a label, the others count all the same: a broken label in front must not
/// take a name out of the domain above it, and past that domain's connectors.
fn to_ascii_by_label(domain: &str) -> String {
    let label = |label: &str| to_ascii(label).unwrap_or_else(|| label.to_lowercase());
    domain.split('.').map(label).collect::<Vec<_>>().join(".")
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

/// The patterns of one list, laid out for look-up: the cost is that of the name, not of the list.
#[derive(Clone, Debug, Default)]
pub struct PatternSet {
    any: bool,
    exact: Vec<String>,
    subtree: Vec<String>,
    /// The parents of the exact names, for wildcards in certificates.
    parents: Vec<String>,
}

impl PatternSet {
    /// The set for sender and recipient domains.
    pub fn of_domains(patterns: &[Pattern]) -> Self {
        let mut set = PatternSet::default();
        for pattern in patterns {
            match pattern {
                Pattern::Any => set.any = true,
                Pattern::Exact(name) => set.exact.push(name.clone()),
                Pattern::Subtree(name) => set.subtree.push(name.clone()),
            }
        }
        for list in [&mut set.exact, &mut set.subtree] {
            list.sort_unstable();
            list.dedup();
            list.shrink_to_fit();
        }
        set
    }

    /// The set for certificate names.
    pub fn of_certificate_names(patterns: &[Pattern]) -> Self {
        let mut set = PatternSet::of_domains(patterns);
        set.parents = set
            .exact
            .iter()
            .filter_map(|n| parent(n))
            .map(String::from)
            .collect();
        set.parents.sort_unstable();
        set.parents.dedup();
        set
    }

    /// The patterns, `*` first, then the exact names.
    pub fn iter(&self) -> impl Iterator<Item = Pattern> {
        let any = self.any.then_some(Pattern::Any);
        let exact = self.exact.iter().cloned().map(Pattern::Exact);
        let subtree = self.subtree.iter().cloned().map(Pattern::Subtree);
        any.into_iter().chain(exact).chain(subtree)
    }

    /// How many patterns there are.
    pub fn len(&self) -> usize {
        usize::from(self.any) + self.exact.len() + self.subtree.len()
    }

    /// Whether `*` is in it.
    pub fn has_any(&self) -> bool {
        self.any
    }

    /// Whether every domain that fits a pattern of `other` fits one of this set.
    pub fn covers(&self, other: &PatternSet) -> bool {
        other.iter().all(|pattern| match &pattern {
            _ if self.any => true,
            Pattern::Any => false,
            Pattern::Exact(name) => self.specificity(Some(name)) > 0,
            Pattern::Subtree(name) => ancestry(name).any(|name| contains(&self.subtree, name)),
        })
    }

    /// Whether there is no pattern in it.
    pub fn is_empty(&self) -> bool {
        !self.any && self.exact.is_empty() && self.subtree.is_empty()
    }

    /// How closely the closest pattern fits a domain; see [`Pattern::specificity`].
    pub fn specificity(&self, domain: Option<&str>) -> Specificity {
        let Some(domain) = domain else {
            return Specificity::from(self.any);
        };
        if contains(&self.exact, domain) {
            return EXACT;
        }
        if !self.subtree.is_empty()
            && let Some(name) = ancestry(domain).find(|name| contains(&self.subtree, name))
        {
            return subtree(name);
        }
        Specificity::from(self.any)
    }

    /// How closely the closest policy name fits a certificate name; see
    /// [`Pattern::certificate_specificity`].
    pub fn certificate_specificity(&self, name: &CertificateName) -> Specificity {
        if name.wildcard && contains(&self.parents, &name.name) {
            return EXACT;
        }
        if !name.wildcard && contains(&self.exact, &name.name) {
            return EXACT;
        }
        ancestry(&name.name)
            .find(|ancestor| contains(&self.subtree, ancestor))
            .map_or(0, subtree)
    }
}

fn contains(sorted: &[String], name: &str) -> bool {
    sorted
        .binary_search_by(|entry| entry.as_str().cmp(name))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
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
            let set = PatternSet::of_domains(core::slice::from_ref(&pattern));
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
            let set = PatternSet::of_certificate_names(core::slice::from_ref(&pattern));
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
