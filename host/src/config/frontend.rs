//! Front doors: where other mail servers ask the policies.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::listener::{Destination, Listener, TlsMode};
use super::problem::Key::{Name, Number};
use super::problem::{Outcome, Wrong, wrong};
use super::tenant::Tenant;
use super::values::{self, Paths};
use crate::socket::{Place, UnixPlace};

/// A socket where other mail servers ask.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawFrontend {
    /// Where it is: the path of a Unix socket, or an address and a port.
    pub address: String,
    /// The mode of the Unix socket.
    #[serde(default = "mode")]
    pub mode: String,
    /// The owner of the Unix socket; whoever runs Portcullis by default.
    pub owner: Option<String>,
    /// The group of the Unix socket; that of whoever runs Portcullis by default.
    pub group: Option<String>,
    /// The protocols that are spoken there, told apart by the first octet.
    #[serde(default = "Protocol::all")]
    pub protocols: Vec<Protocol>,
    /// Whose policy decides about recipients whose domain is no tenant's, and about the way out; nobody's by default, or
    /// the only tenant's.
    pub tenant: Option<String>,
    /// Our own outbound listener, for mail to partners of which Postfix cannot carry out what its connector asks for.
    pub relay: Option<SocketAddr>,
    /// Certificates of partners (PEM): files, or `FOLDER/*.pem`. Of a certificate among them all is known by its digest.
    #[serde(default)]
    pub known_certificates: Paths,
    /// Whether the servers that ask here ask all clients for a certificate, so that none told is none shown.
    #[serde(default)]
    pub certificates_requested: bool,
    /// The file of the token that clients by HTTP show; without it nobody may ask over TCP.
    pub token: Option<PathBuf>,
    /// Where nginx passes sessions on whose first recipient is accepted.
    pub nginx_server: Option<SocketAddr>,
    /// How many connections there may be at a time.
    #[serde(default = "connections")]
    pub connections: usize,
}

fn mode() -> String {
    "0660".into()
}

fn connections() -> usize {
    1000
}

/// A protocol of a front door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Postfix's policy delegation.
    Policy,
    /// Milter.
    Milter,
    /// Postfix's socketmap, for the way out.
    Socketmap,
    /// HTTP.
    Http,
}

impl Protocol {
    /// All of them.
    pub fn all() -> Vec<Protocol> {
        vec![
            Protocol::Policy,
            Protocol::Milter,
            Protocol::Socketmap,
            Protocol::Http,
        ]
    }

    /// Its name in the configuration, the log and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Policy => "policy",
            Protocol::Milter => "milter",
            Protocol::Socketmap => "socketmap",
            Protocol::Http => "http",
        }
    }
}

/// A socket where other mail servers ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Where it is.
    pub place: Place,
    /// The protocols that are spoken there.
    pub protocols: Vec<Protocol>,
    /// Whose policy decides about recipients whose domain is no tenant's, and about the way out.
    pub tenant: Option<String>,
    /// Our own outbound listener, for what Postfix cannot carry out.
    pub relay: Option<SocketAddr>,
    /// Certificates of partners.
    pub known_certificates: Vec<KnownFiles>,
    /// Whether the servers that ask here ask all clients for a certificate.
    pub certificates_requested: bool,
    /// The file of the token that clients by HTTP show.
    pub token: Option<PathBuf>,
    /// Where nginx passes sessions on whose first recipient is accepted.
    pub nginx_server: Option<SocketAddr>,
    /// How many connections there may be at a time.
    pub connections: usize,
}

/// Certificates of partners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownFiles {
    /// A chain, the partner's own certificate first.
    File(PathBuf),
    /// Such files in a folder, by the end of their names.
    Folder(PathBuf, String),
}

impl KnownFiles {
    fn of(path: &Path) -> KnownFiles {
        let name = path.file_name().and_then(|name| name.to_str());
        match (path.parent(), name.and_then(|name| name.strip_prefix('*'))) {
            (Some(folder), Some(end)) => KnownFiles::Folder(folder.into(), end.into()),
            _ => KnownFiles::File(path.into()),
        }
    }
}

impl RawFrontend {
    /// Makes relative paths start at a folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        if self.address.parse::<SocketAddr>().is_err() {
            // What is read from TOML is UTF-8.
            self.address = folder.join(&self.address).to_string_lossy().into_owned();
        }
        let absolute = |path: &mut PathBuf| *path = folder.join(&*path);
        self.known_certificates.iter_mut().for_each(absolute);
        self.token.iter_mut().for_each(absolute);
    }

    pub(super) fn check(self) -> Result<Frontend, Wrong> {
        let Some(mode) = values::mode(&self.mode) else {
            let message = format!("{:?} is no mode such as \"0660\"", self.mode);
            return wrong([Name("mode")], message);
        };
        let place = match self.address.parse() {
            Ok(address) => Place::Tcp(address),
            Err(_) if !self.address.contains('/') => {
                let message = format!(
                    "{:?} is neither an address with a port nor the path of a socket",
                    self.address
                );
                return wrong([Name("address")], message);
            }
            Err(_) => Place::Unix(UnixPlace {
                path: self.address.into(),
                mode,
                owner: self.owner,
                group: self.group,
            }),
        };
        if self.protocols.is_empty() {
            return wrong([Name("protocols")], "it speaks no protocol");
        }
        if self.connections == 0 {
            return wrong([Name("connections")], "it must be at least 1");
        }
        let known = self.known_certificates.iter();
        Ok(Frontend {
            place,
            protocols: self.protocols,
            tenant: self.tenant,
            relay: self.relay,
            known_certificates: known.map(|path| KnownFiles::of(path)).collect(),
            certificates_requested: self.certificates_requested,
            token: self.token,
            nginx_server: self.nginx_server,
            connections: self.connections,
        })
    }
}

/// Tenants that are named are known, unless they may be in files of their own.
pub(super) fn validate_tenants(
    frontends: &[Frontend],
    tenants: &[Tenant],
    has_files: bool,
) -> Outcome {
    for (number, frontend) in frontends.iter().enumerate() {
        let is_known = |name: &String| has_files || tenants.iter().any(|it| it.name == *name);
        if let Some(unknown) = frontend.tenant.as_ref().filter(|name| !is_known(name)) {
            return wrong(
                [Name("frontend"), Number(number), Name("tenant")],
                format!("there is no tenant {unknown:?}"),
            );
        }
    }
    Ok(())
}

/// A relay is a listener for mail to partners, which takes it from whoever is told to send it there.
pub(super) fn validate_relays(frontends: &[Frontend], listeners: &[Listener]) -> Outcome {
    for (number, frontend) in frontends.iter().enumerate() {
        let Some(relay) = frontend.relay else {
            continue;
        };
        let keys = || [Name("frontend"), Number(number), Name("relay")];
        let is_there = |listener: &&Listener| {
            let address = listener.address;
            address.port() == relay.port()
                && (address.ip() == relay.ip() || address.ip().is_unspecified())
        };
        let found = listeners.iter().find(is_there);
        let Some((listener, Destination::Outbound(outbound))) =
            found.map(|it| (it, &it.destination))
        else {
            let message = format!("there is no [[listener]] with outbound at {relay}");
            return wrong(keys(), message);
        };
        if listener.tls == TlsMode::Implicit || !listener.proxy_protocol.is_empty() {
            let message = "its listener takes mail by plain SMTP and STARTTLS only: neither implicit TLS nor the PROXY protocol";
            return wrong(keys(), message);
        }
        if let (Some(own), Some(other)) = (&frontend.tenant, &outbound.tenant)
            && own != other
        {
            let message = format!("its listener sends by the rules of {other:?}, not of {own:?}");
            return wrong(keys(), message);
        }
        let admits = |net: &IpNet| net.contains(&relay.ip());
        if relay.ip().is_loopback() && !outbound.clients.iter().any(admits) {
            let message = format!(
                "its listener does not take mail from {}: add that to its clients",
                relay.ip()
            );
            return wrong(keys(), message);
        }
    }
    Ok(())
}
