//! Outbound connectors in Exim's words: options of its `smtp` transport, and what it is told of a server's certificate.

use std::fmt;

use crate::egress::partner::{Published, Records};
use portcullis::tls::PUBLIC;
use portcullis::{
    Dane, Host, MtaSts, Protection, Route, Sha256, SmartHost, TlsLevel, any_satisfies,
    tls_version_name,
};

/// What Exim demands of a server by itself. The names and the digest of the certificate it asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demands {
    tls: Tls,
    dane: DaneUse,
    min_version: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    /// If it is offered.
    May,
    /// `hosts_require_tls`.
    Encrypt,
    /// `tls_verify_hosts` too.
    Verify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DaneUse {
    None,
    /// `hosts_try_dane`.
    Try,
    /// `hosts_require_dane`.
    Require,
}

/// Why Exim cannot carry out what a connector asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInExim {
    /// It does not tell it.
    #[error("Exim does not tell the public key of a certificate; pin the certificate")]
    Key,
    /// It trusts one set of authorities.
    #[error("Exim trusts the same authorities for all partners; pin the certificate")]
    Authorities,
    /// It checks either.
    #[error(
        "Exim checks TLSA records or who has issued the certificate, not both; set \"dane\" to \"none\""
    )]
    Dane,
    /// It checks either.
    #[error(
        "some of the servers have TLSA records, and an MTA-STS policy is for all; set \"mta-sts\" to \"none\""
    )]
    DaneAndMtaSts,
}

impl Demands {
    /// No less than a protection, where this is published.
    ///
    /// # Errors
    /// If Exim cannot demand it.
    pub fn of(protection: &Protection, published: &Published) -> Result<Demands, NotInExim> {
        let Protection {
            level,
            min_version,
            fingerprints,
            keys,
            authorities,
            dane,
            mta_sts,
        } = protection;
        if !keys.is_empty() {
            return Err(NotInExim::Key);
        }
        if authorities.iter().any(|name| name != PUBLIC) {
            return Err(NotInExim::Authorities);
        }
        let records = match dane {
            Dane::None => Records::None,
            Dane::Opportunistic => published.records,
            Dane::Mandatory => Records::All,
        };
        let has_records = matches!(records, Records::All | Records::Some);
        // The chain of a pinned certificate need not be trusted, unless authorities are named.
        let by_level = matches!(level, TlsLevel::Verify | TlsLevel::Name(_));
        let needs_trust = !authorities.is_empty() || by_level && fingerprints.is_empty();
        if needs_trust && has_records {
            return Err(NotInExim::Dane);
        }
        let enforced = *mta_sts == MtaSts::Opportunistic && published.enforced.is_some();
        if enforced && records == Records::Some {
            return Err(NotInExim::DaneAndMtaSts);
        }
        // Exim checks TLSA records alone where there are some: they prove more than the policy asks for.
        let by_policy = enforced && records != Records::All;
        let needs_tls = *level != TlsLevel::Opportunistic
            || min_version.is_some()
            || !fingerprints.is_empty()
            || records != Records::None && records != Records::Some;
        Ok(Demands {
            tls: match (needs_trust || by_policy, needs_tls) {
                (true, _) => Tls::Verify,
                (false, true) => Tls::Encrypt,
                (false, false) => Tls::May,
            },
            dane: match records {
                Records::None | Records::Unusable => DaneUse::None,
                Records::Some => DaneUse::Try,
                Records::All => DaneUse::Require,
            },
            min_version: *min_version,
        })
    }
}

impl fmt::Display for Demands {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = match self.tls {
            Tls::May => "may",
            Tls::Encrypt => "encrypt",
            Tls::Verify => "verify",
        };
        let dane = match self.dane {
            DaneUse::None => "none",
            DaneUse::Try => "try",
            DaneUse::Require => "require",
        };
        let least = self.min_version.and_then(tls_version_name);
        write!(to, "tls={tls} dane={dane} min={}", least.unwrap_or("any"))
    }
}

/// The hosts of a route for `route_data` of `manualroute`, with `;` between them; empty for the exchangers of the domain.
/// Exim looks a name up as what it is told to: `has_exchangers` says which names have MX records.
pub fn hosts(route: &Route, port: u16, has_exchangers: impl Fn(&str) -> bool) -> String {
    let Route::SmartHosts(hosts) = route else {
        return String::new();
    };
    let host = |host: &SmartHost| {
        let port = host.port.unwrap_or(port);
        match &host.host {
            Host::Name(name) if has_exchangers(name) => format!("{name}/MX:{port}"),
            Host::Name(name) => format!("{name}:{port}"),
            Host::Address(address) => format!("[{address}]:{port}"),
        }
    };
    hosts.iter().map(host).collect::<Vec<_>>().join(";")
}

/// What Exim tells of a server's certificate. Whether it is trusted is Exim's own business.
pub struct Shown<'a> {
    /// The server's name.
    pub server: &'a str,
    /// The names in the certificate.
    pub names: &'a [String],
    /// Its digest.
    pub digest: Option<Sha256>,
}

/// Holds a certificate against what was agreed on, and against the MTA-STS policy.
///
/// # Errors
/// What it does not satisfy, with the name of RFC 8460.
pub fn judge(
    protection: &Protection,
    published: &Published,
    shown: &Shown<'_>,
) -> Result<(), String> {
    let pins = &protection.fingerprints;
    if !pins.is_empty() && !shown.digest.is_some_and(|digest| pins.contains(&digest)) {
        let why = "validation-failure: the server's certificate is not one that was agreed on";
        return Err(why.into());
    }
    if let TlsLevel::Name(wanted) = &protection.level
        && !any_satisfies(shown.names, wanted)
    {
        let why = "certificate-host-mismatch: the server's certificate is for other names";
        return Err(why.into());
    }
    let enforced = published
        .enforced
        .as_ref()
        .filter(|_| protection.mta_sts == MtaSts::Opportunistic);
    // TLSA records of all servers prove more than the policy asks for.
    let is_by_records = protection.dane != Dane::None && published.records == Records::All;
    let Some(policy) = enforced.filter(|_| !is_by_records) else {
        return Ok(());
    };
    let server = shown.server.to_ascii_lowercase();
    if !policy.servers.contains(&server) {
        let why = "validation-failure: the MTA-STS policy does not name this server";
        return Err(why.into());
    }
    match any_satisfies(shown.names, &[server]) {
        true => Ok(()),
        false => Err("certificate-host-mismatch: the certificate is not for the server".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::egress::partner::EnforcedPolicy;

    fn published(records: Records, servers: &[&str]) -> Published {
        Published {
            records,
            enforced: (!servers.is_empty()).then(|| EnforcedPolicy {
                domain: "bank.test".into(),
                max_age: Duration::from_secs(1),
                patterns: Vec::new(),
                servers: servers.iter().map(|&name| name.to_owned()).collect(),
            }),
        }
    }

    fn protection(level: TlsLevel) -> Protection {
        Protection {
            level,
            ..Protection::OPPORTUNISTIC
        }
    }

    #[test]
    fn each_level_is_demanded_or_is_not_possible() {
        let name = || TlsLevel::Name(vec!["mx.bank.test".into()]);
        for (level, records, servers, expected) in [
            (
                TlsLevel::Opportunistic,
                Records::None,
                &[][..],
                "tls=may dane=none min=any",
            ),
            (
                TlsLevel::Opportunistic,
                Records::Some,
                &[],
                "tls=may dane=try min=any",
            ),
            (
                TlsLevel::Opportunistic,
                Records::All,
                &[],
                "tls=encrypt dane=require min=any",
            ),
            (
                TlsLevel::Opportunistic,
                Records::Unusable,
                &[],
                "tls=encrypt dane=none min=any",
            ),
            (
                TlsLevel::Opportunistic,
                Records::None,
                &["mx"],
                "tls=verify dane=none min=any",
            ),
            (
                TlsLevel::Opportunistic,
                Records::All,
                &["mx"],
                "tls=encrypt dane=require min=any",
            ),
            (
                TlsLevel::Opportunistic,
                Records::Some,
                &["mx"],
                "DaneAndMtaSts",
            ),
            (
                TlsLevel::Encrypt,
                Records::Some,
                &[],
                "tls=encrypt dane=try min=any",
            ),
            (
                TlsLevel::Verify,
                Records::None,
                &[],
                "tls=verify dane=none min=any",
            ),
            (
                TlsLevel::Verify,
                Records::Unusable,
                &[],
                "tls=verify dane=none min=any",
            ),
            (TlsLevel::Verify, Records::Some, &[], "Dane"),
            (
                name(),
                Records::None,
                &["mx"],
                "tls=verify dane=none min=any",
            ),
            (name(), Records::All, &[], "Dane"),
        ] {
            let demands = Demands::of(&protection(level.clone()), &published(records, servers));
            let told = demands.map_or_else(|why| format!("{why:?}"), |it| it.to_string());
            assert_eq!(told, expected, "{level:?} {records:?} {servers:?}");
        }
        let pinned = Protection {
            fingerprints: vec![Sha256::default()],
            min_version: Some(0x0304),
            ..protection(TlsLevel::Encrypt)
        };
        let demands = Demands::of(&pinned, &published(Records::All, &[])).expect("demands");
        assert_eq!(demands.to_string(), "tls=encrypt dane=require min=TLSv1.3");
        let by_key = Protection {
            keys: vec![Sha256::default()],
            ..pinned
        };
        assert_eq!(
            Demands::of(&by_key, &Published::NOTHING),
            Err(NotInExim::Key)
        );
    }

    #[test]
    fn hosts_are_written_as_exim_reads_them() {
        let smart_host = |host, port| SmartHost { host, port };
        let route = Route::SmartHosts(vec![
            smart_host(
                Host::Address("192.0.2.1".parse().expect("an address")),
                None,
            ),
            smart_host(Host::Name("mx.test".into()), None),
            smart_host(Host::Name("host.test".into()), Some(2525)),
            smart_host(
                Host::Address("2001:db8::1".parse().expect("an address")),
                Some(26),
            ),
        ]);
        assert_eq!(
            hosts(&route, 25, |name| name == "mx.test"),
            "[192.0.2.1]:25;mx.test/MX:25;host.test:2525;[2001:db8::1]:26"
        );
        assert_eq!(hosts(&Route::Mx, 25, |_| true), "");
    }

    #[test]
    fn certificates_are_held_against_names_pins_and_policies() {
        let names = ["mx.bank.test".to_owned()];
        let shown = |server| Shown {
            server,
            names: &names,
            digest: Some(Sha256([1, 2, 3, 4])),
        };
        let judged = |protection: &Protection, published: &Published, server| {
            let judged = judge(protection, published, &shown(server));
            judged.map_err(|why| {
                why.split(':')
                    .next()
                    .map(ToOwned::to_owned)
                    .unwrap_or_default()
            })
        };
        let nothing = Published::NOTHING;
        let named = |name: &str| protection(TlsLevel::Name(vec![name.into()]));
        assert_eq!(judged(&named("*.bank.test"), &nothing, "x"), Ok(()));
        let mismatch = Err("certificate-host-mismatch".to_owned());
        assert_eq!(judged(&named("other.test"), &nothing, "x"), mismatch);
        let pinned = |digest| Protection {
            fingerprints: vec![Sha256(digest)],
            ..protection(TlsLevel::Encrypt)
        };
        assert_eq!(judged(&pinned([1, 2, 3, 4]), &nothing, "x"), Ok(()));
        let failure = Err("validation-failure".to_owned());
        assert_eq!(judged(&pinned([1, 2, 3, 5]), &nothing, "x"), failure);
        let policy = published(Records::None, &["mx.bank.test", "mx2.bank.test"]);
        let open = protection(TlsLevel::Opportunistic);
        assert_eq!(judged(&open, &policy, "MX.bank.test"), Ok(()));
        assert_eq!(judged(&open, &policy, "mx2.bank.test"), mismatch);
        assert_eq!(judged(&open, &policy, "mx3.bank.test"), failure);
        let with_records = published(Records::All, &["mx2.bank.test"]);
        assert_eq!(judged(&open, &with_records, "mx.bank.test"), Ok(()));
    }
}
