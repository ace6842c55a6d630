//! Whether a certificate carries a name (`docs/spec.md`, "Name matching"; RFC 9525 §6.3).

/// Whether the certificate name `presented` satisfies the policy name `wanted`: `mail.x.com` is
/// satisfied by `mail.x.com` and `*.x.com`; `*.x.com` by `x.com`, any name under it at any depth, and
/// certificate wildcards under it. Malformed names satisfy nothing and are satisfied by nothing.
pub fn satisfies(presented: &str, wanted: &str) -> bool {
    let (Some(presented), Some(wanted)) = (Name::parse(presented), Name::parse(wanted)) else {
        return false;
    };
    if wanted.wildcard {
        return is_or_under(&presented.base, &wanted.base);
    }
    if !presented.wildcard {
        return presented.base == wanted.base;
    }
    // One whole left-most label, and never a public name of one label.
    wanted
        .base
        .split_once('.')
        .is_some_and(|(_, parent)| parent == presented.base)
}

/// Whether any certificate name satisfies any policy name.
pub fn any_satisfies(presented: &[String], wanted: &[String]) -> bool {
    presented
        .iter()
        .any(|name| wanted.iter().any(|pattern| satisfies(name, pattern)))
}

/// Whether a name can be satisfied at all.
pub fn is_well_formed(name: &str) -> bool {
    Name::parse(name).is_some()
}

use crate::domain::is_or_under;

struct Name {
    wildcard: bool,
    /// Lower-case A-labels without a final dot.
    base: String,
}

impl Name {
    fn parse(text: &str) -> Option<Name> {
        let (wildcard, base) = match text.strip_prefix("*.") {
            Some(base) => (true, base),
            None => (false, text),
        };
        let base = base.strip_suffix('.').unwrap_or(base);
        let base = idna::domain_to_ascii(base).ok()?;
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
        };
        (base.len() <= 253 && base.split('.').all(label)).then_some(Name { wildcard, base })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_the_specification_says() {
        for (presented, wanted, expected) in [
            ("mail.x.com", "mail.x.com", true),
            ("MAIL.x.com.", "mail.X.com", true),
            ("*.x.com", "mail.x.com", true),
            ("*.x.com", "a.mail.x.com", false),
            ("*.x.com", "x.com", false),
            ("x.com", "*.x.com", true),
            ("a.b.x.com", "*.x.com", true),
            ("*.b.x.com", "*.x.com", true),
            ("*.x.com", "*.x.com", true),
            ("*.com", "*.x.com", false),
            ("yx.com", "*.x.com", false),
            ("*", "x", false),
            ("*", "*", false),
            ("a.*.com", "*.com", false),
            ("m*.x.com", "*.x.com", false),
            ("*.com", "x.com", true),
            ("bücher.example", "xn--bcher-kva.example", true),
            ("", "", false),
        ] {
            assert_eq!(
                satisfies(presented, wanted),
                expected,
                "{presented} {wanted}"
            );
        }
    }

    proptest::proptest! {
        /// The evaluator matches the names of clients by the same rules.
        #[test]
        fn the_evaluator_agrees(
            wanted in "(\\*\\.)?[abX](\\.[abx]){1,2}",
            presented in "(\\*\\.|\\*|a\\.\\*\\.|a\\*\\.|a /\\.|a{63}\\.|a{64}\\.|(a{62}\\.){4})?([abx]\\.){0,2}[abx]\\.?",
        ) {
            let rules = format!(
                r#"{{"connectors": [{{"name": "n", "direction": "inbound", "from": {{"sender-domains": ["*"]}},
                    "require": {{"certificate-names": ["{wanted}"]}}}}]}}"#
            );
            let (policy, _) = portcullis_evaluator::Policy::configure(&rules).expect("valid rules");
            let context = crate::Context::inbound(None, "a@b.test", "c@d.test").tls(crate::Tls {
                version: Some(0x0304),
                cipher: String::new(),
                certificate: crate::PeerCertificate::Presented(crate::Certificate {
                    dns_names: Some(vec![presented.clone()]),
                    trust: Some(crate::Trust::Trusted),
                    anchors: Some(vec!["public".into()]),
                    ..crate::Certificate::default()
                }),
            });
            let context = portcullis_types::parse_context(&context.to_json()).expect("JSON");
            let context = portcullis_evaluator::Context::from(context);
            let accepted = matches!(
                policy.evaluate(&context),
                portcullis_evaluator::Verdict::Accept(_)
            );
            proptest::prop_assert_eq!(accepted, satisfies(&presented, &wanted));
        }
    }
}
