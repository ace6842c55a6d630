//! How mail leaves for partners: addresses, name servers, connections.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::folders::default_state_folder;
use super::next_hop::{Login, RawLogin};
use super::problem::Key::{Name, Number};
use super::problem::{Outcome, Wrong, wrong};
use super::tenant::Tenant;
use super::values::{self, CertificateFiles};
use portcullis::{Host, host_name};

/// How mail leaves for partners.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct RawDelivery {
    /// The certificate chain (PEM) that is shown to partners who ask for one.
    pub certificate: Option<PathBuf>,
    /// Its key (PEM).
    pub key: Option<PathBuf>,
    /// The addresses that connections come from, at most one of each family.
    pub source_addresses: Vec<IpAddr>,
    /// Which addresses of a partner's servers are used.
    pub address_family: AddressFamily,
    /// The port of mail exchangers, and of smart hosts that name none.
    pub port: u16,
    /// The port of MTA-STS policy servers.
    pub mta_sts_port: u16,
    /// Folder in which MTA-STS policies are kept.
    pub state_directory: Option<PathBuf>,
    /// Networks that mail is sent to although they belong to this machine or its link only.
    #[serde(with = "values::networks")]
    #[cfg_attr(test, schemars(with = "super::schema::Networks"))]
    pub private_networks: Vec<IpNet>,
    /// The socket of `tlsrpt-collectd`, which is told what became of TLS (RFC 8460).
    pub tlsrpt_socket: Option<PathBuf>,
    /// The domains and smart hosts towards which cipher suites are used that are no good ones any more.
    pub legacy_ciphers: Vec<String>,
    /// Where we log in, of the smart hosts that rules name.
    #[serde(rename = "smart-host")]
    pub smart_hosts: Vec<RawSmartHost>,
}

/// How a smart host is spoken with that rules name.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawSmartHost {
    /// Its name or address as in the rules, with its port.
    pub address: String,
    /// Whether TLS begins with the first octet (RFC 8314 §3.3); by default at port 465.
    pub implicit_tls: Option<bool>,
    /// The name by which we log in.
    pub username: Option<String>,
    /// The file of the password.
    pub password_file: Option<PathBuf>,
    /// The name that its certificate must have; by default that of its address.
    pub certificate_name: Option<String>,
    /// The SHA-256 of certificates, of which it must show one.
    #[serde(default)]
    pub certificate_fingerprints: Vec<String>,
    /// The tenants whose mail goes there by it; all by default.
    pub tenants: Option<Vec<String>>,
}

impl Default for RawDelivery {
    fn default() -> Self {
        RawDelivery {
            certificate: None,
            key: None,
            source_addresses: Vec::new(),
            address_family: AddressFamily::Any,
            port: 25,
            mta_sts_port: 443,
            state_directory: None,
            private_networks: Vec::new(),
            tlsrpt_socket: None,
            legacy_ciphers: Vec::new(),
            smart_hosts: Vec::new(),
        }
    }
}

/// How mail leaves for partners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The certificate chain that is shown to partners who ask for one, and its key.
    pub identity: Option<CertificateFiles>,
    /// The addresses that connections come from, at most one of each family.
    pub source_addresses: Vec<IpAddr>,
    /// Which addresses of a partner's servers are used.
    pub address_family: AddressFamily,
    /// The port of mail exchangers, and of smart hosts that name none.
    pub port: u16,
    /// The port of MTA-STS policy servers.
    pub mta_sts_port: u16,
    /// Folder in which MTA-STS policies are kept.
    pub state_directory: Option<PathBuf>,
    /// Networks that mail is sent to although they belong to this machine or its link only.
    pub private_networks: Vec<IpNet>,
    /// The socket of `tlsrpt-collectd`, which is told what became of TLS (RFC 8460).
    pub tlsrpt_socket: Option<PathBuf>,
    /// The domains and smart hosts towards which cipher suites are used that are no good ones any more, in lower case.
    pub legacy_ciphers: Vec<String>,
    /// How smart hosts are spoken with that rules name.
    pub smart_hosts: Vec<SmartHost>,
    /// Whether nothing is connected to but public addresses: for those who may not look around in our networks.
    pub public_only: bool,
}

/// How a smart host is spoken with that rules name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmartHost {
    /// Which one.
    pub address: portcullis::SmartHost,
    /// Whether TLS begins with the first octet; absent if the port tells.
    pub implicit_tls: Option<bool>,
    /// How we log in there, if we do.
    pub login: Option<Login>,
    /// The tenants whose mail goes there by it; all if absent.
    pub tenants: Option<Vec<String>>,
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery::of(RawDelivery::default(), None, Vec::new())
    }
}

impl RawDelivery {
    pub(super) fn check(self) -> Result<Delivery, Wrong> {
        let at = |key| [Name("delivery"), Name(key)];
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some(CertificateFiles {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            (Some(_), None) => return wrong(at("certificate"), "it needs key as well"),
            (None, Some(_)) => return wrong(at("key"), "it needs certificate as well"),
            (None, None) => None,
        };
        let addresses = &self.source_addresses;
        let of_family = |v4| addresses.iter().filter(move |ip| ip.is_ipv4() == v4);
        if of_family(true).count() > 1 || of_family(false).count() > 1 {
            return wrong(
                at("source-addresses"),
                "there is at most one address of each family",
            );
        }
        for (key, port) in [("port", self.port), ("mta-sts-port", self.mta_sts_port)] {
            if port == 0 {
                return wrong(at(key), "it must be at least 1");
            }
        }
        for (number, name) in self.legacy_ciphers.iter().enumerate() {
            if host_name(name).is_none() && name.parse::<IpAddr>().is_err() {
                let message = format!("{name:?} is neither a domain nor an address");
                return wrong(
                    [Name("delivery"), Name("legacy-ciphers"), Number(number)],
                    message,
                );
            }
        }
        let mut smart_hosts = Vec::new();
        for (number, host) in self.smart_hosts.iter().enumerate() {
            let below = [Name("delivery"), Name("smart-host"), Number(number)];
            let host = host.clone().check();
            smart_hosts.push(host.map_err(|wrong| wrong.below(&below))?);
        }
        Ok(Delivery::of(self, identity, smart_hosts))
    }

    /// The folder of what outlives the process: the configured one, systemd's, or the user's.
    pub(super) fn state_folder(&self) -> Option<PathBuf> {
        self.state_directory.clone().or_else(default_state_folder)
    }
}

impl Delivery {
    fn of(
        raw: RawDelivery,
        identity: Option<CertificateFiles>,
        smart_hosts: Vec<SmartHost>,
    ) -> Self {
        let plain = |name: &String| match name.parse::<IpAddr>() {
            Ok(ip) => ip.to_string(),
            Err(_) => host_name(name).unwrap_or_else(|| name.clone()),
        };
        Delivery {
            identity,
            source_addresses: raw.source_addresses,
            address_family: raw.address_family,
            port: raw.port,
            mta_sts_port: raw.mta_sts_port,
            state_directory: raw.state_directory,
            private_networks: raw.private_networks,
            tlsrpt_socket: raw.tlsrpt_socket,
            legacy_ciphers: raw.legacy_ciphers.iter().map(plain).collect(),
            smart_hosts,
            public_only: false,
        }
    }

    /// The folder of what outlives the process: the configured one, systemd's, or the user's.
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state_directory.clone().or_else(default_state_folder)
    }
}

impl RawSmartHost {
    /// Makes relative paths start at a folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.password_file
            .iter_mut()
            .for_each(|path| *path = folder.join(&*path));
    }

    fn check(self) -> Result<SmartHost, Wrong> {
        let Some(address) = smart_host(&self.address) else {
            let message = format!(
                "{:?} is not a smart host such as \"smtp.contoso.com:465\"",
                self.address
            );
            return wrong([Name("address")], message);
        };
        let login = RawLogin {
            username: self.username,
            password_file: self.password_file,
            certificate_name: self.certificate_name,
            certificate_fingerprints: self.certificate_fingerprints,
        };
        let login = login.check()?;
        let is_nameless = |login: &Login| {
            login.certificate_name.is_none() && login.certificate_fingerprints.is_empty()
        };
        if matches!(address.host, Host::Address(_)) && login.as_ref().is_some_and(is_nameless) {
            let message = "a server without a name needs certificate-name or certificate-fingerprints, by which it proves that it may have the password";
            return wrong([Name("username")], message);
        }
        Ok(SmartHost {
            address,
            implicit_tls: self.implicit_tls,
            login,
            tenants: self.tenants,
        })
    }
}

/// Reads `name`, `name:port`, `[address]` or `[address]:port`, as rules have it.
fn smart_host(text: &str) -> Option<portcullis::SmartHost> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, Some(port.parse().ok().filter(|port| *port > 0)?))
        }
        _ => (text, None),
    };
    let host = match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(address) => Host::Address(address.parse().ok()?),
        None => Host::Name(host_name(host)?),
    };
    Some(portcullis::SmartHost { host, port })
}

impl SmartHost {
    /// Whether another entry is for the same smart host and one of the same tenants. One that is for all tenants stands
    /// for those that no entry before it names.
    fn serves_with(&self, later: &SmartHost) -> bool {
        self.address == later.address
            && match (&self.tenants, &later.tenants) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(own), Some(others)) => others.iter().any(|name| own.contains(name)),
            }
    }
}

/// Of smart hosts: none is there twice for a tenant, and tenants that are named are known, unless they may be in files of
/// their own.
pub(super) fn validate_smart_hosts(
    hosts: &[SmartHost],
    tenants: &[Tenant],
    has_files: bool,
) -> Outcome {
    for (number, host) in hosts.iter().enumerate() {
        if hosts
            .iter()
            .take(number)
            .any(|other| other.serves_with(host))
        {
            let at = [Name("delivery"), Name("smart-host"), Number(number)];
            let message = "another entry is for this smart host and the same tenants";
            return wrong(at, message);
        }
        for (place, name) in host.tenants.iter().flatten().enumerate() {
            if !has_files && !tenants.iter().any(|known| known.name == *name) {
                let at = [
                    Name("delivery"),
                    Name("smart-host"),
                    Number(number),
                    Name("tenants"),
                    Number(place),
                ];
                return wrong(at, format!("there is no tenant {name:?}"));
            }
        }
    }
    Ok(())
}

/// Which addresses are used.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AddressFamily {
    /// Both families.
    #[default]
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// Whom to ask where a domain's servers are.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Dns {
    /// Recursive name servers, address and port; the system's if there are none.
    pub servers: Vec<SocketAddr>,
    /// Whether answers are validated by DNSSEC. Without, DANE never applies.
    pub dnssec: bool,
    /// The keys of the root (DNSKEY records); the Internet's if absent.
    pub trust_anchor: Option<PathBuf>,
    /// Name servers whose word for it that an answer is proven (the AD bit) is taken, beside those on loopback: nobody
    /// can change what comes from them.
    pub trust_ad: Vec<IpAddr>,
    /// For one answer of a name server.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub timeout: Duration,
}

impl Default for Dns {
    fn default() -> Self {
        Dns {
            servers: Vec::new(),
            dnssec: true,
            trust_anchor: None,
            trust_ad: Vec::new(),
            timeout: Duration::from_secs(5),
        }
    }
}

/// How long connections are kept for further messages.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Connections {
    /// To partners, at a time, by one route and with one protection.
    pub per_route: usize,
    /// That are kept idle, in all.
    pub max_idle: usize,
    /// How long one is kept idle.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub idle: Duration,
    /// How long one is used; after that the partner's certificate and records are looked at anew.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub lifetime: Duration,
    /// How many messages one carries.
    pub messages: u32,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            per_route: 20,
            max_idle: 200,
            idle: Duration::from_secs(20),
            lifetime: Duration::from_secs(300),
            messages: 100,
        }
    }
}

impl Connections {
    pub(super) fn validate(&self) -> Outcome {
        for (key, is_zero) in [
            ("per-route", self.per_route == 0),
            ("messages", self.messages == 0),
        ] {
            if is_zero {
                return wrong([Name("connections"), Name(key)], "it must be at least 1");
            }
        }
        Ok(())
    }
}
