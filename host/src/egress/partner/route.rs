//! From a verdict to the servers that may take the mail, in the order in which they are tried.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::config::AddressFamily;
use crate::egress::dial::interleaved;
use crate::egress::partner::dns::{Dns, DnsError};
use crate::egress::partner::failure::Failure;
use crate::tls::names;
use portcullis::domain::normal_domain;
use portcullis::sandbox::interface::{Dane, Delivery, Protection, Route, TlsLevel};

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

/// A host name in normal form; a wildcard is none, nor is a label that begins or ends with a hyphen (RFC 1123 §2.1).
fn host_name(text: &str) -> Option<String> {
    let is_part = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_part)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    normal_domain(text).filter(|name| name.len() <= 253 && name.split('.').all(is_label))
}

impl Lane {
    /// Whether a verdict can be carried out at all, whoever the recipient is.
    ///
    /// # Errors
    /// What in it can never be.
    pub fn check(delivery: &Delivery) -> Result<(), String> {
        let connector = delivery.connector.as_deref().unwrap_or("no connector");
        let protections = [Some(&delivery.tls), delivery.audit_tls.as_ref()];
        for protection in protections.into_iter().flatten() {
            if let TlsLevel::Name(wanted) = &protection.level {
                let malformed = wanted.iter().find(|name| !names::is_well_formed(name));
                if wanted.is_empty() || malformed.is_some() {
                    let name = malformed.map_or("none at all", String::as_str);
                    return Err(format!(
                        "the policy ({connector}) asks for a certificate name that no certificate can have: {name}"
                    ));
                }
            }
        }
        let Route::SmartHosts(hosts) = &delivery.route else {
            return Ok(());
        };
        let parsed: Vec<Option<SmartHost>> =
            hosts.iter().map(|host| SmartHost::parse(host)).collect();
        if parsed.is_empty() || parsed.iter().any(Option::is_none) {
            return Err(format!(
                "the policy ({connector}) names smart hosts that cannot be: {}",
                match &hosts[..] {
                    [] => "none at all".to_owned(),
                    hosts => hosts.join(", "),
                }
            ));
        }
        let by_address = |host: &SmartHost| matches!(host.host, Host::Address(_));
        if delivery.tls.dane == Dane::Mandatory && parsed.iter().flatten().all(by_address) {
            return Err(format!(
                "the policy ({connector}) makes DANE mandatory, and its smart hosts have no names that TLSA records could be at"
            ));
        }
        Ok(())
    }

    /// The lane of a verdict that can be carried out, for a recipient's domain or address literal; `None` if no mail
    /// can go there.
    pub fn new(delivery: Delivery, domain: &str) -> Option<Lane> {
        let target = match &delivery.route {
            Route::Mx => target_of(domain)?,
            Route::SmartHosts(hosts) => {
                let hosts: Option<Vec<_>> =
                    hosts.iter().map(|host| SmartHost::parse(host)).collect();
                Target::SmartHosts(hosts?)
            }
        };
        let key = format!("{target:?} {:?} {:?}", delivery.tls, delivery.audit_tls);
        Some(Lane {
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
    /// Whether DNSSEC has proven the way to its name, which is an alias of what it has not proven.
    pub leads_out: bool,
}

impl Candidate {
    /// The name with one of its addresses.
    pub fn place(&self, address: SocketAddr) -> String {
        let (ip, port) = (address.ip(), address.port());
        match &self.name {
            Some(name) => format!("{name}[{ip}]:{port}"),
            None => format!("[{ip}]:{port}"),
        }
    }

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
    /// Of a mail exchanger: how much it is preferred, and the names of what it is an exchanger for.
    exchanger: Option<(u16, Arc<[String]>)>,
    /// Whether the rules name it, or what it is an exchanger for. Such a name will be there again: nobody's mail is
    /// returned for it.
    named_by_rules: bool,
}

impl Stop {
    /// The name, unless it is known by address only.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            Host::Name(name) => Some(name),
            Host::Address(_) => None,
        }
    }

    /// How much a mail exchanger is preferred; less is more.
    pub fn preference(&self) -> Option<u16> {
        self.exchanger.as_ref().map(|(preference, _)| *preference)
    }

    /// Whether the rules name it, and not somebody's DNS.
    pub fn is_named_by_rules(&self) -> bool {
        self.named_by_rules
    }

    /// The names of what it is an exchanger for, if DNSSEC has proven that it is: the domain of the mail, or a smart
    /// host's name, and what that is an alias of.
    pub fn domains(&self) -> &[String] {
        match &self.exchanger {
            Some((_, names)) if self.secure => names,
            _ => &[],
        }
    }

    fn no_address(&self, name: &str) -> Failure {
        match self.named_by_rules {
            true => Failure::Dns(DnsError::Failed {
                name: name.to_owned(),
                reason: "there is no such smart host, or it has no address".into(),
            }),
            false => Failure::NoHosts(name.to_owned()),
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
                    leads_out: false,
                });
            }
            Host::Name(name) => name,
        };
        let found = match dns.addresses(name, family).await {
            Ok(found) => found,
            Err(DnsError::NoSuchName(name)) => return Err(self.no_address(&name)),
            Err(error) => return Err(error.into()),
        };
        if found.records.is_empty() {
            return Err(self.no_address(name));
        }
        let mut addresses = found.records;
        fastrand::shuffle(&mut addresses);
        let addresses = interleaved(addresses, IpAddr::is_ipv6);
        let addresses = addresses.into_iter().take(MOST_ADDRESSES);
        Ok(Candidate {
            leads_out: self.secure && !found.secure && found.name != *name && !found.is_renamed,
            name: Some(name.clone()),
            canonical: Some(found.name),
            addresses: addresses.map(|ip| SocketAddr::new(ip, self.port)).collect(),
            secure: self.secure && found.secure,
        })
    }
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
            exchanger: None,
            named_by_rules: false,
        }],
        Target::Mx(domain) => exchangers(dns, domain, port, own_name, false).await?,
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
            exchanger: None,
            named_by_rules: true,
        }]),
        Host::Name(name) => match exchangers(dns, name, port, own_name, true).await {
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
    named_by_rules: bool,
) -> Result<Vec<Stop>, Failure> {
    let found = dns.mx(name).await?;
    if found.records.is_empty() {
        // Without an MX, DNSSEC has proven that as well where it proves the address.
        return Ok(vec![Stop {
            host: Host::Name(name.to_owned()),
            port,
            secure: true,
            exchanger: None,
            named_by_rules,
        }]);
    }
    if found.records.iter().any(|(_, exchange)| exchange == ".") {
        return Err(Failure::NullMx(name.to_owned()));
    }
    let mut records = found.records;
    // What is no name of a host is no server; as a wildcard it would be every server to some.
    records.retain(|(_, exchange)| host_name(exchange).is_some());
    if records.is_empty() {
        return Err(Failure::Dns(DnsError::Failed {
            name: name.to_owned(),
            reason: "its mail exchangers are no host names".into(),
        }));
    }
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
    let mut names = vec![name.to_owned()];
    if found.name != *name {
        names.push(found.name);
    }
    let names: Arc<[String]> = names.into();
    Ok(records
        .into_iter()
        .map(|(preference, exchange)| Stop {
            host: Host::Name(exchange),
            port,
            secure: found.secure,
            exchanger: Some((preference, names.clone())),
            named_by_rules,
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
}
