//! From a verdict to the servers that may take the mail, in the order in which they are tried.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::dns::{Dns, DnsError};
use super::failure::Failure;
use crate::config::{AddressFamily, normal_domain};
use crate::sandbox::interface::{Delivery, Protection, Route, TlsLevel};
use crate::tls::names;

/// How many servers of a route are tried, and how many addresses of each.
const MOST_HOSTS: usize = 8;
const MOST_ADDRESSES: usize = 4;

/// A route with its protection. Recipients whose verdicts come to the same lane share a transaction.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Where to.
    pub target: Target,
    /// What the server must show.
    pub protection: Protection,
    /// What it would have to show if the connector were enforced.
    pub audit: Option<Protection>,
    /// The connector, for the log.
    pub connector: Option<String>,
    key: Arc<str>,
}

/// Where mail goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// The mail exchangers of a domain, as A-labels.
    Mx(String),
    /// The server at an address, from an address literal.
    Literal(IpAddr),
    /// Smart hosts, in order.
    SmartHosts(Vec<SmartHost>),
}

/// A smart host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmartHost {
    /// Its name or address.
    pub host: Host,
    /// Its port, unless it is the usual one.
    pub port: Option<u16>,
}

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, as A-labels.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Target::Mx(domain) => f.write_str(domain),
            Target::Literal(ip) => write!(f, "[{ip}]"),
            Target::SmartHosts(hosts) => {
                let hosts: Vec<String> = hosts.iter().map(SmartHost::to_string).collect();
                f.write_str(&hosts.join(", "))
            }
        }
    }
}

impl std::fmt::Display for SmartHost {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::Address(ip) => write!(f, "[{ip}]")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl SmartHost {
    /// Reads `name`, `name:port`, `[address]` or `[address]:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                (Host::Address(address.parse().ok()?), rest)
            }
            None => {
                let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                (Host::Name(host_name(name)?), rest)
            }
        };
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
            None if rest.is_empty() => None,
            None => return None,
        };
        Some(SmartHost { host, port })
    }
}

/// A host name in normal form; a wildcard is none.
fn host_name(text: &str) -> Option<String> {
    normal_domain(text).filter(|name| !name.starts_with("*."))
}

impl Lane {
    /// The lane of a verdict, for a recipient's domain or address literal.
    ///
    /// # Errors
    /// If the verdict asks for what can never be.
    pub fn new(delivery: Delivery, domain: &str) -> Result<Lane, Failure> {
        let impossible = |reason: String| Failure::Impossible(reason);
        let connector = delivery.connector.as_deref().unwrap_or("no connector");
        for protection in [Some(&delivery.tls), delivery.audit_tls.as_ref()]
            .into_iter()
            .flatten()
        {
            if let TlsLevel::Name(wanted) = &protection.level {
                let malformed = wanted.iter().find(|name| !names::is_well_formed(name));
                if wanted.is_empty() || malformed.is_some() {
                    let name = malformed.map_or("none at all", String::as_str);
                    return Err(impossible(format!(
                        "the policy ({connector}) asks for a certificate name that no certificate can have: {name}"
                    )));
                }
            }
        }
        let target = match delivery.route {
            Route::Mx => target_of(domain).ok_or_else(|| {
                impossible(format!("{domain:?} is not a domain that mail can go to"))
            })?,
            Route::SmartHosts(hosts) => {
                let parsed: Option<Vec<_>> =
                    hosts.iter().map(|host| SmartHost::parse(host)).collect();
                let parsed = parsed.filter(|hosts| !hosts.is_empty()).ok_or_else(|| {
                    impossible(format!(
                        "the policy ({connector}) names smart hosts that cannot be: {}",
                        hosts.join(", ")
                    ))
                })?;
                Target::SmartHosts(parsed)
            }
        };
        let key = format!("{target:?} {:?} {:?}", delivery.tls, delivery.audit_tls);
        Ok(Lane {
            target,
            protection: delivery.tls,
            audit: delivery.audit_tls,
            connector: delivery.connector,
            key: key.into(),
        })
    }

    /// What two lanes have in common if and only if they are the same.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }
}

fn target_of(domain: &str) -> Option<Target> {
    let Some(literal) = domain.strip_prefix('[') else {
        return host_name(domain).map(Target::Mx);
    };
    let literal = literal.strip_suffix(']')?;
    let tag = literal
        .get(..5)
        .filter(|tag| tag.eq_ignore_ascii_case("IPv6:"));
    let address = match tag {
        Some(_) => literal.get(5..)?.parse::<Ipv6Addr>().ok()?.into(),
        None => literal.parse().ok()?,
    };
    Some(Target::Literal(address))
}

/// A server that may take the mail.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name, unless it is known by address only.
    pub name: Option<String>,
    /// The name that aliases lead to.
    pub canonical: Option<String>,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
    /// Whether DNSSEC has proven the way to it and its addresses.
    pub secure: bool,
}

impl Candidate {
    /// The name, or the address in brackets.
    pub fn label(&self) -> String {
        match (&self.name, self.addresses.first()) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => format!("[{}]", address.ip()),
            (None, None) => "nowhere".into(),
        }
    }
}

/// Where a server is to be looked for: its addresses are asked for only when it is its turn.
#[derive(Clone, Debug)]
pub struct Stop {
    host: Host,
    port: u16,
    /// Whether DNSSEC has proven that the route leads here.
    secure: bool,
}

impl Stop {
    /// The name, unless it is known by address only.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
    }

    /// The server with its addresses.
    ///
    /// # Errors
    /// If it has none, or nobody knows.
    pub async fn resolve(&self, dns: &Dns, family: AddressFamily) -> Result<Candidate, Failure> {
        let name = match &self.host {
            Host::Address(ip) => {
                return Ok(Candidate {
                    name: None,
                    canonical: None,
                    addresses: vec![SocketAddr::new(*ip, self.port)],
                    secure: false,
                });
            }
            Host::Name(name) => name,
        };
        let found = match dns.addresses(name, family).await {
            Ok(found) => found,
            Err(DnsError::NoSuchName(name)) => return Err(Failure::NoHosts(name)),
            Err(error) => return Err(error.into()),
        };
        if found.records.is_empty() {
            return Err(Failure::NoHosts(name.clone()));
        }
        let addresses = interleaved(found.records);
        let addresses = addresses.into_iter().take(MOST_ADDRESSES);
        Ok(Candidate {
            name: Some(name.clone()),
            canonical: Some(found.name),
            addresses: addresses.map(|ip| SocketAddr::new(ip, self.port)).collect(),
            secure: self.secure && found.secure,
        })
    }
}

/// IPv6 and IPv4 by turns, so that the lack of one of them costs one attempt.
fn interleaved(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut v6, mut v4): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.into_iter().partition(IpAddr::is_ipv6);
    fastrand::shuffle(&mut v6);
    fastrand::shuffle(&mut v4);
    let length = v6.len().max(v4.len());
    (0..length)
        .flat_map(|at| [v6.get(at).copied(), v4.get(at).copied()])
        .flatten()
        .collect()
}

/// The stops of a route in the order in which they are tried.
///
/// # Errors
/// If there are none, or nobody knows.
pub async fn stops(
    dns: &Dns,
    target: &Target,
    port: u16,
    own_name: &str,
) -> Result<Vec<Stop>, Failure> {
    let mut stops = match target {
        Target::Literal(ip) => vec![Stop {
            host: Host::Address(*ip),
            port,
            secure: false,
        }],
        Target::Mx(domain) => exchangers(dns, domain, port, own_name).await?,
        Target::SmartHosts(hosts) => {
            let mut stops = Vec::new();
            let mut trouble = None;
            for host in hosts {
                match smart_host(dns, host, port, own_name).await {
                    Ok(found) => stops.extend(found),
                    Err(failure) => trouble = Some(failure.or(trouble)),
                }
            }
            match trouble {
                Some(trouble) if stops.is_empty() => return Err(trouble),
                _ => stops,
            }
        }
    };
    stops.truncate(MOST_HOSTS);
    Ok(stops)
}

async fn smart_host(
    dns: &Dns,
    smart_host: &SmartHost,
    port: u16,
    own_name: &str,
) -> Result<Vec<Stop>, Failure> {
    let port = smart_host.port.unwrap_or(port);
    match &smart_host.host {
        Host::Address(_) => Ok(vec![Stop {
            host: smart_host.host.clone(),
            port,
            secure: false,
        }]),
        Host::Name(name) => match exchangers(dns, name, port, own_name).await {
            // A name that the administrator gave will be there again: nobody's mail is returned for it.
            Err(Failure::Dns(DnsError::NoSuchName(name)) | Failure::NoHosts(name)) => {
                Err(Failure::Dns(DnsError::Failed {
                    reason: "there is no such smart host".into(),
                    name,
                }))
            }
            outcome => outcome,
        },
    }
}

/// The mail exchangers of a name, or the name itself where it has none (RFC 5321 §5.1).
async fn exchangers(
    dns: &Dns,
    name: &str,
    port: u16,
    own_name: &str,
) -> Result<Vec<Stop>, Failure> {
    let found = dns.mx(name).await?;
    if found.records.is_empty() {
        // Without an MX, DNSSEC has proven that as well where it proves the address.
        return Ok(vec![Stop {
            host: Host::Name(name.to_owned()),
            port,
            secure: true,
        }]);
    }
    if found.records.iter().any(|(_, exchange)| exchange == ".") {
        return Err(Failure::NullMx(name.to_owned()));
    }
    let mut records = found.records;
    // Shuffled first, so that a stable sort leaves equals in random order.
    fastrand::shuffle(&mut records);
    records.sort_by_key(|(preference, _)| *preference);
    // RFC 5321 §5.1: whoever is a mail exchanger passes mail on to better ones only.
    let own = records
        .iter()
        .find(|(_, exchange)| exchange.eq_ignore_ascii_case(own_name));
    if let Some((own, _)) = own {
        let own = *own;
        records.retain(|(preference, _)| *preference < own);
        if records.is_empty() {
            return Err(Failure::Loop(name.into()));
        }
    }
    Ok(records
        .into_iter()
        .map(|(_, exchange)| Stop {
            host: Host::Name(exchange),
            port,
            secure: found.secure,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smart_hosts_are_read() {
        for (text, expected) in [
            ("mx1.contosobank.com", Some("mx1.contosobank.com")),
            (
                "MX1.contosobank.com.:2525",
                Some("mx1.contosobank.com:2525"),
            ),
            ("[203.0.113.9]:2525", Some("[203.0.113.9]:2525")),
            ("[2001:db8::1]", Some("[2001:db8::1]")),
            ("[nothing]", None),
            ("[203.0.113.9]2525", None),
            ("mx:0", None),
            ("mx:99999", None),
            ("*.x.com", None),
            ("a b", None),
            ("", None),
        ] {
            let parsed = SmartHost::parse(text).map(|host| host.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn the_target_of_a_domain_is_a_name_or_an_address() {
        let target = |domain: &str| target_of(domain).map(|target| target.to_string());
        for (domain, expected) in [
            ("Bücher.example", Some("xn--bcher-kva.example")),
            ("[192.0.2.1]", Some("[192.0.2.1]")),
            ("[IPv6:2001:db8::1]", Some("[2001:db8::1]")),
            ("[x]", None),
            ("*.x.com", None),
        ] {
            assert_eq!(target(domain).as_deref(), expected, "{domain}");
        }
    }

    #[test]
    fn families_take_turns() {
        let parse = |list: &[&str]| {
            list.iter()
                .map(|ip| ip.parse().unwrap())
                .collect::<Vec<IpAddr>>()
        };
        let order = interleaved(parse(&["192.0.2.1", "192.0.2.2", "2001:db8::1"]));
        assert_eq!(
            order.iter().map(IpAddr::is_ipv6).collect::<Vec<_>>(),
            [true, false, false]
        );
    }
}
