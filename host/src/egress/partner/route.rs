//! From a verdict to the servers that may take the mail, in the order in which they are tried.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crate::config::AddressFamily;
use crate::egress::dial::interleaved;
use crate::egress::partner::dns::{Dns, DnsError};
use crate::egress::partner::failure::Failure;
use portcullis::host_name;
use portcullis::tls::Authorities;
use portcullis::{Delivery, Protection, Route};
use portcullis::{Host, SmartHost};

/// How many servers of a route are tried, and how many addresses of each.
pub const MAX_HOSTS: usize = 8;
const MAX_ADDRESSES: usize = 4;

/// A route with its protection. Recipients whose verdicts come to the same path share a transaction.
#[derive(Clone, Debug)]
pub struct PartnerPath {
    /// Where to.
    pub target: Target,
    /// What the server must show.
    pub protection: Protection,
    /// What it would have to show if the connector were enforced.
    pub audit: Option<Protection>,
    /// The connector, for the log.
    pub connector: Option<String>,
    /// The one in audit mode, for the log.
    pub audited: Option<String>,
    /// The tenant whose mail it is.
    tenant: Option<Arc<str>>,
    /// Whether its rules name authorities, of which it may name some only.
    names_authorities: bool,
    /// Whether the sender demands TLS all the way, verified (RFC 8689).
    pub requires_tls: bool,
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

impl PartnerPath {
    /// The path of a verdict that can be carried out, for a recipient's domain or address literal; `None` if no mail
    /// can go there.
    pub fn new(delivery: Delivery, domain: &str) -> Option<PartnerPath> {
        let target = match &delivery.route {
            Route::Mx => target_of(domain)?,
            Route::SmartHosts(hosts) => Target::SmartHosts(hosts.clone()),
        };
        let key = format!("{target:?} {:?} {:?}", delivery.tls, delivery.audit_tls);
        Some(PartnerPath {
            target,
            protection: delivery.tls,
            audited: match &delivery.audit_tls {
                // In audit mode alone, it is the one that decides where mail goes.
                Some(_) => delivery.audit_connector.or(delivery.connector.clone()),
                None => None,
            },
            audit: delivery.audit_tls,
            connector: delivery.connector,
            tenant: None,
            names_authorities: false,
            requires_tls: false,
            key: key.into(),
        })
    }

    /// The same by a tenant's rules: of the authorities that they name, those count that the tenant may name. What is
    /// connected for one tenant by its authorities is not for another one.
    pub fn of_tenant(mut self, tenant: &Arc<str>) -> PartnerPath {
        let audited = self.audit.as_ref();
        let named = std::iter::once(&self.protection).chain(audited);
        self.names_authorities = named.map(|it| it.authorities.len()).sum::<usize>() > 0;
        // At a smart host it may have logged in.
        if self.names_authorities || matches!(self.target, Target::SmartHosts(_)) {
            self.key = format!("{} {tenant:?}", self.key).into();
        }
        self.tenant = Some(tenant.clone());
        self
    }

    /// The same for a message whose sender demands TLS all the way, if he does. It goes over no connection that was made
    /// with less care.
    pub fn requiring_tls(mut self, requires_tls: bool) -> PartnerPath {
        if requires_tls {
            self.key = format!("{} requiretls", self.key).into();
            self.requires_tls = true;
        }
        self
    }

    /// The tenant whose mail it is. Others may share what was connected for it.
    pub fn tenant(&self) -> Option<&Arc<str>> {
        self.tenant.as_ref()
    }

    /// The authorities that servers are verified with.
    pub fn authorities(&self, all: &Authorities) -> Authorities {
        match &self.tenant {
            Some(tenant) if self.names_authorities => all.for_tenant(tenant),
            _ => all.clone(),
        }
    }

    /// What two paths have in common if and only if they are the same.
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
pub struct MxHost {
    host: Host,
    port: u16,
    /// Whether DNSSEC has proven that the route leads here.
    secure: bool,
    /// Of a mail exchanger: how much it is preferred, and the names of what it is an exchanger for.
    exchanger: Option<(u16, Arc<[String]>)>,
    /// The smart host of the rules that it is, or is an exchanger for. Such a name will be there again: nobody's mail is
    /// returned for it.
    smart_host: Option<Arc<SmartHost>>,
}

impl MxHost {
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
        self.smart_host.is_some()
    }

    /// The smart host of the rules that it is, or is an exchanger for.
    pub fn smart_host(&self) -> Option<&Arc<SmartHost>> {
        self.smart_host.as_ref()
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
        match self.is_named_by_rules() {
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
        let addresses = addresses.into_iter().take(MAX_ADDRESSES);
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
) -> Result<Vec<MxHost>, Failure> {
    let stops = match target {
        Target::Literal(ip) => vec![MxHost {
            host: Host::Address(*ip),
            port,
            secure: false,
            exchanger: None,
            smart_host: None,
        }],
        Target::Mx(domain) => exchangers(dns, domain, port, own_name, None).await?,
        Target::SmartHosts(hosts) => {
            let mut stops = Vec::new();
            let mut last_error = None;
            for host in hosts {
                match smart_host(dns, host, port, own_name).await {
                    Ok(found) => stops.extend(found),
                    Err(failure) => last_error = Some(failure.or(last_error)),
                }
            }
            match last_error {
                Some(last_error) if stops.is_empty() => return Err(last_error),
                _ => stops,
            }
        }
    };
    Ok(stops)
}

async fn smart_host(
    dns: &Dns,
    smart_host: &SmartHost,
    port: u16,
    own_name: &str,
) -> Result<Vec<MxHost>, Failure> {
    let port = smart_host.port.unwrap_or(port);
    let named = Some(Arc::new(smart_host.clone()));
    match &smart_host.host {
        Host::Address(_) => Ok(vec![MxHost {
            host: smart_host.host.clone(),
            port,
            secure: false,
            exchanger: None,
            smart_host: named,
        }]),
        Host::Name(name) => match exchangers(dns, name, port, own_name, named).await {
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
    smart_host: Option<Arc<SmartHost>>,
) -> Result<Vec<MxHost>, Failure> {
    let found = dns.mx(name).await?;
    if found.records.is_empty() {
        // Without an MX, DNSSEC has proven that as well where it proves the address.
        return Ok(vec![MxHost {
            host: Host::Name(name.to_owned()),
            port,
            secure: true,
            exchanger: None,
            smart_host,
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
        .map(|(preference, exchange)| MxHost {
            host: Host::Name(exchange),
            port,
            secure: found.secure,
            exchanger: Some((preference, names.clone())),
            smart_host: smart_host.clone(),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
