//! What Postfix is told to demand of a server (`smtp_tls_policy_maps`).

use std::fmt;

use crate::egress::partner::{EnforcedPolicy, Published, Records};
use portcullis::tls::PUBLIC;
use portcullis::{Dane, MtaSts, Protection, Sha256, TlsLevel};

/// A policy for a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPolicy {
    /// The level.
    pub level: Level,
    /// The lowest TLS version on the wire.
    pub min_version: Option<u16>,
    /// The MTA-STS policy that it carries out.
    pub sts: Option<Sts>,
}

/// A level of Postfix, with what the certificate must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Level {
    /// TLS if it is offered.
    May,
    /// TLS, with any certificate.
    Encrypt,
    /// TLSA records where there are some, else `may`.
    Dane,
    /// TLSA records.
    DaneOnly,
    /// A certificate or a public key with one of these digests.
    Fingerprint(Vec<Sha256>),
    /// A trusted certificate with one of these names, or a name below one that begins with a dot.
    Secure(Vec<String>),
}

/// An MTA-STS policy, for reports (RFC 8460).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sts {
    domain: String,
    max_age: u64,
    patterns: Vec<String>,
}

/// Why Postfix cannot carry out what a connector asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInPostfix {
    /// It always checks names.
    #[error("Postfix has no level for a trusted certificate with any name")]
    AnyName,
    /// It trusts one set of authorities.
    #[error("Postfix trusts the same authorities for all partners")]
    Authorities,
    /// It checks either.
    #[error("Postfix checks TLSA records or what the connector asks of the certificate, not both")]
    Dane,
    /// It checks either.
    #[error(
        "Postfix checks the MTA-STS policy or what the connector asks of the certificate, not both"
    )]
    MtaSts,
    /// It checks either.
    #[error("some of the servers have TLSA records, and an MTA-STS policy is for all")]
    DaneAndMtaSts,
    /// Its list is of both, and one match is enough.
    #[error("Postfix checks one fingerprint, or the names, not both")]
    Pins,
    /// The domain's policy has none of its servers.
    #[error("the MTA-STS policy of the domain names none of its servers")]
    NoServers,
    /// There is one answer for a next hop.
    #[error("connectors share this next hop and ask for what no single policy covers")]
    Shared,
    /// It reads it as a word.
    #[error("hostname, nexthop and dot-nexthop are words of Postfix, and no names")]
    Word,
    /// It is not known what the partner publishes.
    #[error("it depends on TLSA records or an MTA-STS policy, which a table cannot look up")]
    NotLookedUp,
}

impl NotInPostfix {
    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            NotInPostfix::AnyName => {
                "use level \"name\" with the names of the partner's certificates"
            }
            NotInPostfix::Authorities => "pin the certificate or its key",
            NotInPostfix::Dane => "set \"dane\" to \"none\"",
            NotInPostfix::MtaSts | NotInPostfix::DaneAndMtaSts => "set \"mta-sts\" to \"none\"",
            NotInPostfix::Pins => "pin either the certificate or its key, at the level \"encrypt\"",
            NotInPostfix::NoServers => "the partner has to mend its policy",
            NotInPostfix::Shared => "let them ask for the same",
            NotInPostfix::Word => "use the full name",
            NotInPostfix::NotLookedUp => {
                "set \"dane\" and \"mta-sts\" to \"none\", or let Postfix ask the daemon"
            }
        }
    }
}

impl TlsPolicy {
    /// Whether what a partner publishes makes a difference.
    fn needs_lookup(protection: &Protection) -> bool {
        protection.mta_sts == MtaSts::Opportunistic || protection.dane == Dane::Opportunistic
    }

    /// The policy that demands no less than a protection, from servers whose domain has `published` this; `None` if it
    /// was not looked up.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(
        protection: &Protection,
        published: Option<&Published>,
    ) -> Result<TlsPolicy, NotInPostfix> {
        let needs_lookup = match protection {
            // Postfix looks these up itself.
            Protection {
                level: TlsLevel::Opportunistic,
                dane: Dane::Opportunistic,
                mta_sts: MtaSts::None,
                ..
            } if !asks_of_certificate(protection) && protection.min_version.is_none() => false,
            _ => TlsPolicy::needs_lookup(protection),
        };
        let published = match published {
            None if needs_lookup => {
                // What is not possible at all is not for lack of a look-up.
                TlsPolicy::of(protection, Some(&Published::NOTHING))?;
                return Err(NotInPostfix::NotLookedUp);
            }
            published => published,
        };
        let records = match protection.dane {
            Dane::None => Records::None,
            Dane::Mandatory => Records::All,
            // Not looked up: there may be some.
            Dane::Opportunistic => published.map_or(Records::Some, |it| it.records),
        };
        let enforced = published
            .and_then(|it| it.enforced.as_ref())
            .filter(|_| protection.mta_sts == MtaSts::Opportunistic);
        let (level, sts) = match asks_of_certificate(protection) {
            false => published_level(protection, records, enforced)?,
            true if matches!(records, Records::All | Records::Some) => {
                return Err(NotInPostfix::Dane);
            }
            true if enforced.is_some() => return Err(NotInPostfix::MtaSts),
            true => (agreed_level(protection)?, None),
        };
        Ok(TlsPolicy {
            level,
            min_version: protection.min_version,
            sts,
        })
    }

    /// The policy that covers all of these.
    ///
    /// # Errors
    /// If none of them does.
    pub fn strictest(policies: &[TlsPolicy]) -> Result<Option<TlsPolicy>, NotInPostfix> {
        if policies.is_empty() {
            return Ok(None);
        }
        let covers_all = |one: &&TlsPolicy| policies.iter().all(|other| one.covers(other));
        let found = policies.iter().find(covers_all).cloned();
        let mut found = found.ok_or(NotInPostfix::Shared)?;
        // With a policy to report, Postfix from 3.10.5 on checks that, and no other names.
        if policies.iter().any(|policy| policy.sts != found.sts) {
            found.sts = None;
        }
        Ok(Some(found))
    }

    fn covers(&self, other: &TlsPolicy) -> bool {
        self.level.covers(&other.level) && self.min_version >= other.min_version
    }

    /// The word for the level.
    pub fn level_name(&self) -> &'static str {
        match self.level {
            Level::May => "may",
            Level::Encrypt => "encrypt",
            Level::Dane => "dane",
            Level::DaneOnly => "dane-only",
            Level::Fingerprint(_) => "fingerprint",
            Level::Secure(_) => "secure",
        }
    }

    /// The versions that are too old, in the words that all versions of Postfix understand.
    pub fn protocols(&self) -> Option<&'static str> {
        match self.min_version? {
            0x0304 => Some("!SSLv2:!SSLv3:!TLSv1:!TLSv1.1:!TLSv1.2"),
            _ => Some("!SSLv2:!SSLv3:!TLSv1:!TLSv1.1"),
        }
    }

    /// With the attributes for reports, which Postfix knows from 3.10 on. To older ones they make the whole invalid.
    pub fn with_report(&self) -> String {
        let Some(sts) = &self.sts else {
            return self.to_string();
        };
        let mut text = format!(
            "{self} policy_type=sts policy_domain={} policy_ttl={}",
            sts.domain, sts.max_age
        );
        for pattern in &sts.patterns {
            text += &format!(" mx_host_pattern={pattern}");
        }
        text += " { policy_string = version: STSv1 } { policy_string = mode: enforce }";
        for pattern in &sts.patterns {
            text += &format!(" {{ policy_string = mx: {pattern} }}");
        }
        text += &format!(" {{ policy_string = max_age: {} }}", sts.max_age);
        text
    }
}

/// Whether something is asked of the certificate that both sides have agreed on.
fn asks_of_certificate(protection: &Protection) -> bool {
    matches!(protection.level, TlsLevel::Verify | TlsLevel::Name(_))
        || !protection.fingerprints.is_empty()
        || !protection.keys.is_empty()
        || !protection.authorities.is_empty()
}

/// The level where the certificate is the business of whoever publishes something about it.
fn published_level(
    protection: &Protection,
    records: Records,
    enforced: Option<&EnforcedPolicy>,
) -> Result<(Level, Option<Sts>), NotInPostfix> {
    let needs_tls = protection.level != TlsLevel::Opportunistic || protection.min_version.is_some();
    let level = match (records, enforced) {
        // Postfix checks either: TLSA records prove more than the policy asks for.
        (Records::All, _) => Level::DaneOnly,
        (Records::Some, Some(_)) => return Err(NotInPostfix::DaneAndMtaSts),
        // At `dane`, a server without records would need no TLS.
        (Records::Some, None) if needs_tls => Level::DaneOnly,
        (Records::Some, None) => Level::Dane,
        (Records::None | Records::Unusable, Some(policy)) => {
            if policy.servers.is_empty() {
                return Err(NotInPostfix::NoServers);
            }
            let sts = Sts {
                domain: policy.domain.clone(),
                max_age: policy.max_age.as_secs(),
                patterns: policy.patterns.clone(),
            };
            return Ok((Level::Secure(policy.servers.clone()), Some(sts)));
        }
        // RFC 7672 section 2.2: records that SMTP does not use still ask for TLS.
        (Records::Unusable, None) => Level::Encrypt,
        (Records::None, None) if needs_tls => Level::Encrypt,
        (Records::None, None) => Level::May,
    };
    Ok((level, None))
}

/// The level where the certificate was agreed on.
fn agreed_level(protection: &Protection) -> Result<Level, NotInPostfix> {
    let Protection {
        level,
        fingerprints,
        keys,
        authorities,
        ..
    } = protection;
    let has_pins = !fingerprints.is_empty() || !keys.is_empty();
    if authorities.iter().any(|name| name != PUBLIC) {
        return Err(NotInPostfix::Authorities);
    }
    match level {
        TlsLevel::Name(_) if has_pins => Err(NotInPostfix::Pins),
        TlsLevel::Name(names) if names.iter().any(|name| WORDS.contains(&&**name)) => {
            Err(NotInPostfix::Word)
        }
        TlsLevel::Name(names) => Ok(Level::Secure(
            names.iter().flat_map(|name| matches(name)).collect(),
        )),
        // The chain of a pinned certificate need not be trusted, unless authorities are named.
        _ if has_pins && authorities.is_empty() => match (&fingerprints[..], &keys[..]) {
            (pins, []) | ([], pins) => Ok(Level::Fingerprint(pins.to_vec())),
            _ => Err(NotInPostfix::Pins),
        },
        _ if has_pins => Err(NotInPostfix::Pins),
        _ => Err(NotInPostfix::AnyName),
    }
}

/// What `match` has beside names (postconf(5)).
const WORDS: [&str; 3] = ["hostname", "nexthop", "dot-nexthop"];

/// `*.x.com` is `x.com` and any name below it, which Postfix writes `.x.com`.
fn matches(name: &str) -> Vec<String> {
    match name.strip_prefix("*.") {
        Some(base) => vec![base.to_owned(), format!(".{base}")],
        None => vec![name.to_owned()],
    }
}

impl Level {
    /// Whether whatever satisfies this satisfies the other.
    fn covers(&self, other: &Level) -> bool {
        let all_in = |some: &[Sha256], all: &[Sha256]| some.iter().all(|it| all.contains(it));
        match (self, other) {
            (_, Level::May) => true,
            (Level::May, _) => false,
            (Level::Dane, other) => *other == Level::Dane,
            (_, Level::Encrypt) => true,
            (Level::DaneOnly, other) => matches!(other, Level::Dane | Level::DaneOnly),
            (Level::Secure(names), Level::Secure(others)) => {
                names.iter().all(|name| others.contains(name))
            }
            (Level::Fingerprint(pins), Level::Fingerprint(others)) => all_in(pins, others),
            (Level::Encrypt | Level::Secure(_) | Level::Fingerprint(_), _) => false,
        }
    }
}

impl fmt::Display for TlsPolicy {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.level_name())?;
        match &self.level {
            Level::Fingerprint(pins) => {
                let pins: Vec<String> = pins.iter().map(with_colons).collect();
                write!(to, " match={}", pins.join("|"))?;
            }
            Level::Secure(names) => write!(to, " match={}", names.join(":"))?,
            Level::May | Level::Encrypt | Level::Dane | Level::DaneOnly => {}
        }
        if self.sts.is_some() {
            // RFC 8461 section 4.1: the name of the server.
            to.write_str(" servername=hostname")?;
        }
        match self.protocols() {
            Some(protocols) => write!(to, " protocols={protocols}"),
            None => Ok(()),
        }
    }
}

/// A digest as Postfix writes it.
fn with_colons(digest: &Sha256) -> String {
    let hex = digest.to_string().to_uppercase();
    let pairs: Vec<&str> = (0..hex.len() / 2)
        .filter_map(|at| hex.get(2 * at..2 * at + 2))
        .collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn protection(level: TlsLevel) -> Protection {
        Protection {
            level,
            ..Protection::OPPORTUNISTIC
        }
    }

    fn published(records: Records, servers: Option<&[&str]>) -> Published {
        Published {
            records,
            enforced: servers.map(|servers| EnforcedPolicy {
                domain: "bank.test".into(),
                max_age: Duration::from_secs(86400),
                patterns: vec!["*.bank.test".into()],
                servers: servers.iter().map(|&name| name.to_owned()).collect(),
            }),
        }
    }

    fn told(protection: &Protection, records: Records, servers: Option<&[&str]>) -> String {
        match TlsPolicy::of(protection, Some(&published(records, servers))) {
            Ok(policy) => policy.to_string(),
            Err(why) => format!("{why:?}"),
        }
    }

    #[test]
    fn each_level_is_told_or_is_not_possible() {
        let names = || TlsLevel::Name(vec!["mail.bank.test".into(), "*.bank.test".into()]);
        let secure = "secure match=mail.bank.test:bank.test:.bank.test";
        let sts = "secure match=mx1.bank.test:mx2.bank.test servername=hostname";
        let servers: Option<&[&str]> = Some(&["mx1.bank.test", "mx2.bank.test"]);
        for (level, records, enforced, expected) in [
            (TlsLevel::Opportunistic, Records::None, None, "may"),
            (TlsLevel::Opportunistic, Records::Unusable, None, "encrypt"),
            (TlsLevel::Opportunistic, Records::Some, None, "dane"),
            (TlsLevel::Opportunistic, Records::All, None, "dane-only"),
            (TlsLevel::Opportunistic, Records::None, servers, sts),
            (TlsLevel::Opportunistic, Records::All, servers, "dane-only"),
            (
                TlsLevel::Opportunistic,
                Records::Some,
                servers,
                "DaneAndMtaSts",
            ),
            (
                TlsLevel::Opportunistic,
                Records::None,
                Some(&[][..]),
                "NoServers",
            ),
            (TlsLevel::Encrypt, Records::None, None, "encrypt"),
            (TlsLevel::Encrypt, Records::Some, None, "dane-only"),
            (TlsLevel::Encrypt, Records::All, None, "dane-only"),
            (TlsLevel::Encrypt, Records::Unusable, servers, sts),
            (TlsLevel::Verify, Records::None, None, "AnyName"),
            (names(), Records::None, None, secure),
            (names(), Records::Unusable, None, secure),
            (names(), Records::Some, None, "Dane"),
            (names(), Records::None, servers, "MtaSts"),
        ] {
            let asked = format!("{level:?} {records:?} {enforced:?}");
            assert_eq!(
                told(&protection(level), records, enforced),
                expected,
                "{asked}"
            );
        }
    }

    #[test]
    fn nothing_is_told_that_was_not_looked_up() {
        let told =
            |protection: &Protection| TlsPolicy::of(protection, None).map(|it| it.to_string());
        let plain = Protection {
            dane: Dane::None,
            mta_sts: MtaSts::None,
            ..protection(TlsLevel::Encrypt)
        };
        assert_eq!(told(&plain), Ok("encrypt".into()));
        let with_dane = Protection {
            dane: Dane::Opportunistic,
            ..plain.clone()
        };
        assert_eq!(told(&with_dane), Err(NotInPostfix::NotLookedUp));
        let opportunistic = Protection {
            level: TlsLevel::Opportunistic,
            ..with_dane
        };
        assert_eq!(told(&opportunistic), Ok("dane".into()));
        let old = Protection {
            min_version: Some(0x0303),
            ..opportunistic
        };
        assert_eq!(told(&old), Err(NotInPostfix::NotLookedUp));
        let mandatory = Protection {
            dane: Dane::Mandatory,
            min_version: Some(0x0304),
            ..plain.clone()
        };
        assert_eq!(
            told(&mandatory),
            Ok("dane-only protocols=!SSLv2:!SSLv3:!TLSv1:!TLSv1.1:!TLSv1.2".into())
        );
        let pinned = Protection {
            keys: vec![Sha256::default(), Sha256::default()],
            ..plain.clone()
        };
        let zeros = ["00"; 32].join(":");
        assert_eq!(
            told(&pinned),
            Ok(format!("fingerprint match={zeros}|{zeros}"))
        );
        let both = Protection {
            fingerprints: vec![Sha256::default()],
            ..pinned.clone()
        };
        assert_eq!(told(&both), Err(NotInPostfix::Pins));
        let named = Protection {
            level: TlsLevel::Name(vec!["mx.bank.test".into()]),
            ..pinned
        };
        assert_eq!(told(&named), Err(NotInPostfix::Pins));
        let private = Protection {
            authorities: vec!["Contoso".into()],
            ..plain.clone()
        };
        assert_eq!(told(&private), Err(NotInPostfix::Authorities));
        let public = Protection {
            authorities: vec![PUBLIC.into()],
            ..plain
        };
        assert_eq!(told(&public), Err(NotInPostfix::AnyName));
    }

    #[test]
    fn the_strictest_covers_the_others() {
        let policy = |level, min_version| TlsPolicy {
            level,
            min_version,
            sts: None,
        };
        let secure = |names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned());
            policy(Level::Secure(names.collect()), None)
        };
        let (may, encrypt) = (policy(Level::May, None), policy(Level::Encrypt, None));
        let strictest = |all: &[&TlsPolicy]| {
            let all: Vec<TlsPolicy> = all.iter().map(|&it| it.clone()).collect();
            TlsPolicy::strictest(&all)
        };
        assert_eq!(strictest(&[]), Ok(None));
        assert_eq!(strictest(&[&may, &encrypt]), Ok(Some(encrypt.clone())));
        let (one, two) = (secure(&["a.test"]), secure(&["a.test", "b.test"]));
        assert_eq!(strictest(&[&two, &one, &encrypt]), Ok(Some(one.clone())));
        assert_eq!(
            strictest(&[&one, &secure(&["b.test"])]),
            Err(NotInPostfix::Shared)
        );
        let newer = policy(Level::Encrypt, Some(0x0304));
        assert_eq!(strictest(&[&newer, &one]), Err(NotInPostfix::Shared));
        assert_eq!(strictest(&[&newer, &encrypt]), Ok(Some(newer)));
        let dane = policy(Level::Dane, None);
        assert_eq!(strictest(&[&dane, &encrypt]), Err(NotInPostfix::Shared));
        let only = policy(Level::DaneOnly, None);
        assert_eq!(strictest(&[&dane, &encrypt, &only]), Ok(Some(only.clone())));
        assert_eq!(strictest(&[&only, &one]), Err(NotInPostfix::Shared));
    }

    #[test]
    fn reports_carry_the_policy() {
        let published = published(Records::None, Some(&["mx1.bank.test"]));
        let policy = TlsPolicy::of(&protection(TlsLevel::Encrypt), Some(&published));
        assert_eq!(
            policy.expect("a policy").with_report(),
            "secure match=mx1.bank.test servername=hostname policy_type=sts policy_domain=bank.test \
             policy_ttl=86400 mx_host_pattern=*.bank.test { policy_string = version: STSv1 } \
             { policy_string = mode: enforce } { policy_string = mx: *.bank.test } \
             { policy_string = max_age: 86400 }"
        );
    }
}
