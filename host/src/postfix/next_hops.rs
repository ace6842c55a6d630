//! Next hops as Postfix writes them, and which connectors send mail there: Postfix asks for the policy of a next hop, and
//! does not tell whose mail it is.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use super::tls_policy::{NotInPostfix, TlsPolicy};
use crate::egress::partner::{EnforcedPolicy, Published, Records};
use portcullis::{
    Connector, Dane, Delivery, Direction, Host, Mode, MtaSts, Protection, Route, SmartHost,
    host_name,
};

/// The port of SMTP, where Postfix is told none.
const PORT: u16 = 25;

/// A next hop: `name`, `name:port`, `[name]`, `[address]:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// The host.
    pub host: Host,
    /// The port; `None` for one that is given by the name of a service.
    pub port: Option<u16>,
    /// Whether it may be the domain of a recipient, or the address in its place.
    pub may_be_domain: bool,
}

impl NextHop {
    /// Reads one; `None` if it is nothing that mail could be sent to.
    pub fn parse(text: &str) -> Option<NextHop> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']')?,
            None => match text.split_once(':') {
                // An address without brackets.
                _ if text.parse::<IpAddr>().is_ok() => (text, ""),
                Some((host, _)) => (host, &text[host.len()..]),
                None => (text, ""),
            },
        };
        let is_bracketed = text.starts_with('[');
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => Some(PORT),
            None => return None,
            Some("smtp") => Some(PORT),
            Some(port) => port.parse().ok(),
        };
        let tag = host
            .get(..5)
            .filter(|tag| tag.eq_ignore_ascii_case("ipv6:"));
        let address = host.get(tag.map_or(0, str::len)..)?.parse::<IpAddr>();
        let host = match address {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) => Host::Name(host_name(host)?),
        };
        Some(NextHop {
            // `[name]` is no domain: its MX is not looked up.
            may_be_domain: rest.is_empty() && is_bracketed == matches!(host, Host::Address(_)),
            host,
            port,
        })
    }

    /// That of a smart host; `port` is the one that is used where it has none.
    pub fn of(smart_host: &SmartHost, port: u16) -> NextHop {
        NextHop {
            host: smart_host.host.clone(),
            port: Some(smart_host.port.unwrap_or(port)),
            may_be_domain: false,
        }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => to.write_str(name)?,
            Host::Address(address) => write!(to, "[{address}]")?,
        }
        // Always with the port: a domain has none, so no recipient's domain is taken for a smart host.
        match self.port {
            None => Ok(()),
            Some(port) => write!(to, ":{port}"),
        }
    }
}

/// What `transport_maps` is told of a route: the mail exchangers of the domain, or smart hosts in order.
pub fn transport(route: &Route, port: u16) -> String {
    match route {
        // Without a next hop it is the domain, whatever relayhost says.
        Route::Mx => "smtp:".into(),
        Route::SmartHosts(hosts) => {
            let hosts = hosts.iter().map(|host| NextHop::of(host, port).to_string());
            format!("smtp:{}", hosts.collect::<Vec<_>>().join(", "))
        }
    }
}

/// The smart hosts of a policy's connectors, with what is asked of each.
#[derive(Debug, Default)]
pub struct NextHops {
    by_host: HashMap<Host, Vec<Use>>,
}

/// A connector that sends mail to a smart host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    port: u16,
    /// What it asks for.
    pub protection: Protection,
    /// Its name.
    pub connector: String,
}

impl NextHops {
    /// Of a policy's connectors; `port` is the one of partners where the rules name none.
    pub fn of(connectors: &[Connector], port: u16) -> NextHops {
        let mut all = NextHops::default();
        for connector in enabled(connectors) {
            let Some(Delivery {
                route: Route::SmartHosts(hosts),
                ..
            }) = &connector.delivery
            else {
                continue;
            };
            for host in hosts {
                let wanted = Use {
                    port: host.port.unwrap_or(port),
                    protection: in_force(connector),
                    connector: connector.name.clone(),
                };
                let uses = all.by_host.entry(host.host.clone()).or_default();
                let is_same =
                    |it: &Use| it.port == wanted.port && it.protection == wanted.protection;
                if !uses.iter().any(is_same) {
                    uses.push(wanted);
                }
            }
        }
        all
    }

    /// The next hops.
    pub fn keys(&self) -> impl Iterator<Item = (&Host, u16)> {
        let all = self.by_host.iter();
        all.flat_map(|(host, uses)| uses.iter().map(move |it| (host, it.port)))
    }

    /// Which connectors send mail to a next hop, each protection once.
    pub fn at(&self, next_hop: &NextHop) -> impl Iterator<Item = &Use> + use<'_> {
        let uses = self.by_host.get(&next_hop.host).into_iter().flatten();
        let port = next_hop.port;
        uses.filter(move |it| port.is_none_or(|port| port == it.port))
    }
}

/// What a connector asks Postfix for that it cannot carry out.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Gap {
    /// The connector.
    pub connector: String,
    /// Where that is so, if not always.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub wherever: &'static str,
    /// Why.
    pub why: String,
    /// What to do.
    pub hint: &'static str,
}

/// What the enabled outbound connectors ask for that Postfix cannot carry out.
pub fn gaps(connectors: &[Connector], port: u16) -> Vec<Gap> {
    let next_hops = NextHops::of(connectors, port);
    let mut gaps = Vec::new();
    for connector in enabled(connectors) {
        let Some(delivery) = &connector.delivery else {
            continue;
        };
        let mut add = |wherever, why: NotInPostfix| {
            gaps.push(Gap {
                connector: connector.name.clone(),
                wherever,
                why: why.to_string(),
                hint: why.hint(),
            });
        };
        let asked = asked(&in_force(connector), &delivery.route);
        let fails = |published: &Published| {
            let mut told = asked.iter().map(|it| TlsPolicy::of(it, Some(published)));
            told.find_map(Result::err)
        };
        if let Some(why) = fails(&Published::NOTHING) {
            add("", why);
            continue;
        }
        for (wherever, published) in partners() {
            if let Some(why) = fails(&published) {
                add(wherever, why);
            }
        }
        let Route::SmartHosts(hosts) = &delivery.route else {
            continue;
        };
        let is_shared = hosts.iter().any(|host| {
            let uses = next_hops.at(&NextHop::of(host, port));
            let told = uses.map(|it| {
                let asked = of_host(&it.protection, &host.host);
                TlsPolicy::of(&asked, Some(&Published::NOTHING))
            });
            let told: Vec<TlsPolicy> = told.flatten().collect();
            TlsPolicy::strictest(&told).is_err()
        });
        if is_shared {
            add("", NotInPostfix::Shared);
        }
    }
    gaps
}

/// What is asked of each next hop of a route.
pub fn asked(protection: &Protection, route: &Route) -> Vec<Protection> {
    match route {
        Route::Mx => vec![protection.clone()],
        Route::SmartHosts(hosts) => {
            let hosts = hosts.iter();
            hosts.map(|host| of_host(protection, &host.host)).collect()
        }
    }
}

/// What is asked of a smart host: MTA-STS is about the exchangers of a recipient's domain, and no TLSA records are at an
/// address.
pub fn of_host(protection: &Protection, host: &Host) -> Protection {
    Protection {
        mta_sts: MtaSts::None,
        dane: match (protection.dane, host) {
            (Dane::Opportunistic, Host::Address(_)) => Dane::None,
            (asked, _) => asked,
        },
        ..protection.clone()
    }
}

/// Partners whose own wishes may not go together with a connector's.
fn partners() -> [(&'static str, Published); 2] {
    let enforced = EnforcedPolicy {
        domain: String::new(),
        max_age: std::time::Duration::ZERO,
        patterns: Vec::new(),
        servers: vec![String::new()],
    };
    let with_records = Published {
        records: Records::All,
        enforced: None,
    };
    let with_policy = Published {
        records: Records::None,
        enforced: Some(enforced),
    };
    [
        ("where the partner has TLSA records", with_records),
        ("where the partner has an MTA-STS policy", with_policy),
    ]
}

fn enabled(connectors: &[Connector]) -> impl Iterator<Item = &Connector> {
    connectors.iter().filter(|connector| {
        connector.direction == Direction::Outbound && connector.mode != Mode::Disabled
    })
}

/// What is asked for now: in audit mode, only what a partner publishes itself.
fn in_force(connector: &Connector) -> Protection {
    let Some(Delivery { tls, .. }) = &connector.delivery else {
        return Protection::OPPORTUNISTIC;
    };
    if connector.mode != Mode::Audit {
        return tls.clone();
    }
    Protection {
        dane: match tls.dane {
            Dane::Mandatory => Dane::Opportunistic,
            asked => asked,
        },
        mta_sts: tls.mta_sts,
        ..Protection::OPPORTUNISTIC
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops_are_read_as_postfix_writes_them() {
        for (text, shown, may_be_domain) in [
            ("Bank.test", Some("bank.test:25"), true),
            ("bank.test:25", Some("bank.test:25"), false),
            ("bank.test:2525", Some("bank.test:2525"), false),
            ("bank.test:submission", Some("bank.test"), false),
            ("[mx.bank.test]", Some("mx.bank.test:25"), false),
            ("[192.0.2.1]", Some("[192.0.2.1]:25"), true),
            ("[192.0.2.1]:smtp", Some("[192.0.2.1]:25"), false),
            ("[IPv6:2001:db8::1]:26", Some("[2001:db8::1]:26"), false),
            ("192.0.2.1", Some("[192.0.2.1]:25"), false),
            ("[bank.test", None, false),
            ("[bank.test]x", None, false),
            ("*", None, false),
            ("", None, false),
        ] {
            let parsed = NextHop::parse(text);
            assert_eq!(
                parsed.as_ref().map(ToString::to_string).as_deref(),
                shown,
                "{text}"
            );
            let may_be = parsed.is_some_and(|it| it.may_be_domain);
            assert_eq!(may_be, may_be_domain, "{text}");
        }
        assert_eq!(NextHop::parse("a.test:x").expect("a host").port, None);
    }

    fn connector(name: &str, mode: Mode, tls: Protection, hosts: &[&str]) -> Connector {
        let hosts = hosts.iter().map(|address| SmartHost {
            host: Host::Address(address.parse().expect("an address")),
            port: None,
        });
        let hosts: Vec<SmartHost> = hosts.collect();
        Connector {
            name: name.into(),
            direction: Direction::Outbound,
            mode,
            applies_to: String::new(),
            requires: String::new(),
            comment: None,
            selects: portcullis::Selectors::default(),
            delivery: Some(Delivery {
                connector: Some(name.into()),
                route: match hosts.is_empty() {
                    true => Route::Mx,
                    false => Route::SmartHosts(hosts),
                },
                tls,
                audit_tls: None,
                audit_connector: None,
                audit: Vec::new(),
            }),
            reads: Vec::new(),
        }
    }

    #[test]
    fn gaps_are_told_by_connector() {
        use portcullis::TlsLevel;
        let level = |level| Protection {
            level,
            ..Protection::OPPORTUNISTIC
        };
        let named = |name: &str| level(TlsLevel::Name(vec![name.into()]));
        let all = [
            connector("Any name", Mode::Enforce, level(TlsLevel::Verify), &[]),
            connector(
                "On trial",
                Mode::Audit,
                level(TlsLevel::Verify),
                &["192.0.2.1"],
            ),
            connector("Off", Mode::Disabled, level(TlsLevel::Verify), &[]),
            connector(
                "Encrypted",
                Mode::Enforce,
                level(TlsLevel::Encrypt),
                &["192.0.2.1"],
            ),
            connector(
                "A",
                Mode::Enforce,
                named("a.test"),
                &["192.0.2.1", "192.0.2.2"],
            ),
            connector("B", Mode::Enforce, named("b.test"), &["192.0.2.2"]),
            connector("By MX", Mode::Enforce, named("b.test"), &[]),
        ];
        let gaps = gaps(&all, PORT);
        let told: Vec<(&str, &str, bool)> = gaps
            .iter()
            .map(|gap| (&*gap.connector, gap.wherever, gap.why.contains("share")))
            .collect();
        let (records, policy) = (partners()[0].0, partners()[1].0);
        assert_eq!(
            told,
            [
                ("Any name", "", false),
                ("A", "", true),
                ("B", "", true),
                ("By MX", records, false),
                ("By MX", policy, false),
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_is_read_again(text in "\\PC{0,30}") {
            if let Some(next_hop) = NextHop::parse(&text).filter(|it| it.port.is_some()) {
                let again = NextHop::parse(&next_hop.to_string()).expect("a next hop");
                proptest::prop_assert_eq!((again.host, again.port), (next_hop.host, next_hop.port));
            }
        }
    }
}
