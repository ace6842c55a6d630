//! Tables for Postfix that ask nobody: `transport` and `tls_policy`, for `texthash:`.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::next_hops::{NextHop, asked, transport};
use super::tls_policy::{Level, NotInPostfix, TlsPolicy};
use crate::egress::partner::Published;
use portcullis::{Delivery, Route};

/// A domain (`bank.test`), the domains below one (`.bank.test`) or all others (`*`), and what is decided about mail there.
pub struct Line {
    /// The key.
    pub key: String,
    /// The decision.
    pub delivery: Delivery,
}

/// The two tables.
#[derive(Debug, Default)]
pub struct Tables {
    /// For `transport_maps`.
    pub transport: String,
    /// For `smtp_tls_policy_maps`.
    pub tls_policy: String,
    /// Settings of `main.cf` beside them.
    pub settings: Vec<String>,
    /// What the tables cannot express, and what they do instead.
    pub notes: Vec<String>,
    /// Whether mail is deferred for that.
    pub defers: bool,
}

/// What is asked of each next hop, by all lines.
type Asked = BTreeMap<String, Vec<Result<TlsPolicy, NotInPostfix>>>;

impl Tables {
    /// The tables for lines that do not repeat a key. Partners publish what is said, or it is not known what. Smart hosts
    /// without a port have `port`.
    pub fn of(lines: &[Line], published: Option<&Published>, port: u16) -> Tables {
        let mut by_next_hop = Asked::new();
        for line in lines {
            let protections = asked(&line.delivery.tls, &line.delivery.route);
            for (next_hop, protection) in line.next_hops(port).into_iter().zip(protections) {
                let policy = TlsPolicy::of(&protection, published);
                by_next_hop.entry(next_hop).or_default().push(policy);
            }
        }
        let told: BTreeMap<String, Result<TlsPolicy, NotInPostfix>> = by_next_hop
            .into_iter()
            .filter_map(|(key, policies)| Some((key, strictest(policies).transpose()?)))
            .collect();
        let mut tables = Tables::default();
        for (key, policy) in told.iter().filter(|(key, _)| *key != ALL) {
            if let Ok(policy) = policy {
                // Writing to a string cannot fail.
                let _ = writeln!(tables.tls_policy, "{key} {policy}");
            }
        }
        for line in lines {
            tables.add(line, &told, port);
        }
        tables.set(told.values().flatten());
        tables
    }

    fn add(
        &mut self,
        line: &Line,
        told: &BTreeMap<String, Result<TlsPolicy, NotInPostfix>>,
        port: u16,
    ) {
        let delivery = &line.delivery;
        let connector = delivery.connector.as_deref().unwrap_or_default();
        let key = &line.key;
        let next_hops = line.next_hops(port);
        let wrong = next_hops
            .iter()
            .filter_map(|next_hop| told.get(next_hop)?.as_ref().err());
        let transport = match wrong.copied().next() {
            Some(why) => {
                self.defers = true;
                let what = match key.as_str() {
                    ALL => "all other mail".to_owned(),
                    _ => format!("mail to {key}"),
                };
                self.notes.push(format!(
                    "connector {connector:?}: {why}; {what} is deferred; {}",
                    why.hint()
                ));
                format!("retry:4.7.5 connector {connector:?}: {why}")
            }
            None => transport(&delivery.route, port),
        };
        if delivery.audit_tls.is_some() {
            let name = delivery.audit_connector.as_deref().unwrap_or(connector);
            self.notes.push(format!(
                "connector {name:?} is in audit mode: Postfix does not tell whether {key} would have satisfied it"
            ));
        }
        if key != ALL {
            // Writing to a string cannot fail.
            let _ = writeln!(self.transport, "{key} {transport}");
            return;
        }
        self.set_all(connector, &transport, told.get(ALL));
    }

    /// Mail that no other line is about: that is for settings, because `*` in a table would be about our own mail, too.
    fn set_all(
        &mut self,
        connector: &str,
        transport: &str,
        policy: Option<&Result<TlsPolicy, NotInPostfix>>,
    ) {
        let level = match policy {
            Some(Ok(policy)) => match policy.level {
                Level::Fingerprint(_) | Level::Secure(_) => {
                    self.defers = true;
                    self.notes.push(format!(
                        "connector {connector:?}: Postfix has no names or fingerprints for all domains; all other mail is deferred"
                    ));
                    let why = format!("retry:4.7.5 connector {connector:?} names no domains");
                    // A name of a setting begins with `$` in `main.cf`.
                    let why = why.replace('$', "$$");
                    self.settings.push(format!("default_transport = {why}"));
                    return;
                }
                _ => Some(policy),
            },
            _ => None,
        };
        match transport {
            // The exchangers of the domain, and no relay.
            "smtp:" => self
                .settings
                .extend(["default_transport = smtp".into(), "relayhost =".into()]),
            transport => self.settings.push(format!(
                "default_transport = {}",
                transport.replace('$', "$$")
            )),
        }
        if let Some(policy) = level {
            self.settings
                .push(format!("smtp_tls_security_level = {}", policy.level_name()));
            self.settings.extend(policy.protocols().map(|protocols| {
                format!(
                    "smtp_tls_mandatory_protocols = {}",
                    protocols.replace(':', ", ")
                )
            }));
        }
    }

    /// What Postfix needs so that the levels hold.
    fn set<'a>(&mut self, policies: impl Iterator<Item = &'a TlsPolicy> + Clone) {
        let mut has = |wanted: fn(&Level) -> bool, setting: &str| {
            if policies.clone().any(|policy| wanted(&policy.level)) {
                self.settings.push(setting.into());
            }
        };
        has(
            |level| matches!(level, Level::Dane | Level::DaneOnly),
            "smtp_dns_support_level = dnssec",
        );
        has(
            |level| matches!(level, Level::Fingerprint(_)),
            "smtp_tls_fingerprint_digest = sha256",
        );
        has(
            |level| matches!(level, Level::Secure(_)),
            "smtp_tls_CAfile = /etc/ssl/certs/ca-certificates.crt",
        );
    }
}

/// The key of all other mail.
pub const ALL: &str = "*";

impl Line {
    /// What Postfix asks `smtp_tls_policy_maps` for.
    fn next_hops(&self, port: u16) -> Vec<String> {
        match &self.delivery.route {
            Route::Mx => vec![self.key.clone()],
            Route::SmartHosts(hosts) => {
                let hosts = hosts.iter();
                hosts
                    .map(|host| NextHop::of(host, port).to_string())
                    .collect()
            }
        }
    }
}

fn strictest(
    policies: Vec<Result<TlsPolicy, NotInPostfix>>,
) -> Result<Option<TlsPolicy>, NotInPostfix> {
    let policies = policies.into_iter().collect::<Result<Vec<_>, _>>()?;
    TlsPolicy::strictest(&policies)
}

#[cfg(test)]
mod tests {
    use portcullis::{Dane, Host, MtaSts, Protection, SmartHost, TlsLevel};

    use super::*;

    fn line(key: &str, level: TlsLevel, hosts: &[&str]) -> Line {
        let hosts = hosts.iter().map(|name| SmartHost {
            host: match name.parse() {
                Ok(address) => Host::Address(address),
                Err(_) => Host::Name((*name).into()),
            },
            port: None,
        });
        let hosts: Vec<SmartHost> = hosts.collect();
        Line {
            key: key.into(),
            delivery: Delivery {
                connector: Some(format!("To {key}")),
                route: match hosts.is_empty() {
                    true => Route::Mx,
                    false => Route::SmartHosts(hosts),
                },
                tls: Protection {
                    level,
                    ..Protection::OPPORTUNISTIC
                },
                audit_tls: None,
                audit_connector: None,
                audit: Vec::new(),
            },
        }
    }

    #[test]
    fn what_a_table_cannot_look_up_is_deferred() {
        let lines = [
            line("bank.test", TlsLevel::Encrypt, &[]),
            line(
                ".hosts.test",
                TlsLevel::Encrypt,
                &["192.0.2.1", "192.0.2.2"],
            ),
            line(
                "named.test",
                TlsLevel::Name(vec!["*.filter.test".into()]),
                &["filter.test"],
            ),
        ];
        let tables = Tables::of(&lines, None, 25);
        assert_eq!(
            tables.transport,
            "bank.test retry:4.7.5 connector \"To bank.test\": it depends on TLSA records or an MTA-STS policy, which a table cannot look up
.hosts.test smtp:[192.0.2.1]:25, [192.0.2.2]:25
named.test retry:4.7.5 connector \"To named.test\": it depends on TLSA records or an MTA-STS policy, which a table cannot look up
"
        );
        assert_eq!(
            tables.tls_policy,
            "[192.0.2.1]:25 encrypt\n[192.0.2.2]:25 encrypt\n"
        );
        assert!(tables.defers);
        assert_eq!(tables.notes.len(), 2);
        let tables = Tables::of(&lines, Some(&Published::NOTHING), 2525);
        assert_eq!(
            tables.transport,
            "bank.test smtp:\n.hosts.test smtp:[192.0.2.1]:2525, [192.0.2.2]:2525\nnamed.test smtp:filter.test:2525\n"
        );
        assert_eq!(
            tables.tls_policy,
            "[192.0.2.1]:2525 encrypt\n[192.0.2.2]:2525 encrypt\nbank.test encrypt\nfilter.test:2525 secure match=filter.test:.filter.test\n"
        );
        assert!(!tables.defers && tables.notes.is_empty(), "{tables:?}");
    }

    #[test]
    fn what_is_about_all_mail_is_a_setting() {
        let mut all = line("*", TlsLevel::Encrypt, &[]);
        all.delivery.tls.min_version = Some(0x0304);
        all.delivery.tls.dane = Dane::None;
        all.delivery.tls.mta_sts = MtaSts::None;
        let tables = Tables::of(&[all], None, 25);
        assert_eq!((&*tables.transport, &*tables.tls_policy), ("", ""));
        assert_eq!(
            tables.settings,
            [
                "default_transport = smtp",
                "relayhost =",
                "smtp_tls_security_level = encrypt",
                "smtp_tls_mandatory_protocols = !SSLv2, !SSLv3, !TLSv1, !TLSv1.1, !TLSv1.2"
            ]
        );
        let named = line("*", TlsLevel::Name(vec!["a.test".into()]), &[]);
        let tables = Tables::of(&[named], Some(&Published::NOTHING), 25);
        assert!(tables.defers && tables.settings[0].starts_with("default_transport = retry:"));
    }
}
