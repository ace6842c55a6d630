//! How mail leaves for partners: addresses, name servers, connections.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::folders::default_state_folder;
use super::problem::Key::Name;
use super::problem::{Outcome, Wrong, wrong};
use super::values::{self, CertificateFiles};

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
    /// Whether nothing is connected to but public addresses: for those who may not look around in our networks.
    pub public_only: bool,
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery::of(RawDelivery::default(), None)
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
        Ok(Delivery::of(self, identity))
    }

    /// The folder of what outlives the process: the configured one, systemd's, or the user's.
    pub(super) fn state_folder(&self) -> Option<PathBuf> {
        self.state_directory.clone().or_else(default_state_folder)
    }
}

impl Delivery {
    fn of(raw: RawDelivery, identity: Option<CertificateFiles>) -> Self {
        Delivery {
            identity,
            source_addresses: raw.source_addresses,
            address_family: raw.address_family,
            port: raw.port,
            mta_sts_port: raw.mta_sts_port,
            state_directory: raw.state_directory,
            private_networks: raw.private_networks,
            public_only: false,
        }
    }

    /// The folder of what outlives the process: the configured one, systemd's, or the user's.
    pub fn state_folder(&self) -> Option<PathBuf> {
        self.state_directory.clone().or_else(default_state_folder)
    }
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
