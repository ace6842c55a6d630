//! Public suffixes: the domains below which anybody can register (publicsuffix.org).

use alloc::format;

use crate::hash::hash;
use crate::names;

/// The hashes of the list's rules, sorted. One false alarm in a million names is a price worth
/// paying: the answer only makes a warning.
static RULES: &[u32] = include!(concat!(env!("OUT_DIR"), "/suffixes.rs"));

/// Whether the domain, in normal form, is a public suffix.
pub fn is_public_suffix(domain: &str) -> bool {
    let Some(parent) = names::parent(domain) else {
        return true;
    };
    let listed = |rule: &str| RULES.binary_search(&hash(rule.as_bytes())).is_ok();
    listed(domain) || listed(&format!("*.{parent}")) && !listed(&format!("!{domain}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_wildcards_and_exceptions() {
        for (domain, suffix) in [
            ("com", true),
            ("nosuchtld", true),
            ("co.uk", true),
            ("contoso.com", false),
            ("foo.ck", true),
            ("www.ck", false),
            ("a.foo.ck", false),
        ] {
            assert_eq!(is_public_suffix(domain), suffix, "{domain}");
        }
    }
}
