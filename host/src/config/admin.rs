//! Who looks after the server: the API and the page, alerts, validation.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::fleet::Fleet;
use super::problem::Key::{Name, Number};
use super::problem::{Outcome, wrong};
use super::values;
use crate::smtp::address::Address;
use crate::socket::{Place, UnixPlace};

/// What stands for proxies on the Unix socket.
const LOCAL: &str = "unix";

fn network(text: &str) -> Option<IpNet> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).ok()
}

/// The API and the page.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Admin {
    /// Where they are served: the path of a Unix socket, or an address and a port.
    pub address: String,
    /// Proxies whose word on where a request comes from is taken: networks, or `unix` for those on the Unix socket.
    pub proxies: Vec<String>,
    /// Names by which a browser may reach them, beside addresses and `localhost`.
    pub hosts: Vec<String>,
    /// The mode of the Unix socket.
    pub socket_mode: String,
    /// The file of the tokens that let somebody in.
    pub tokens: Option<PathBuf>,
    /// Whether rules may be changed.
    pub edit: bool,
    /// Keys that sign changes of the fleet's tenants, which are published then. Without, those are read-only here.
    pub signing_keys: Vec<PathBuf>,
    /// Whether a validation may reach addresses that are no public ones.
    pub validate_private_networks: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Admin {
            address: "/run/portcullis/admin.sock".into(),
            proxies: Vec::new(),
            hosts: Vec::new(),
            socket_mode: "0660".into(),
            tokens: None,
            edit: true,
            signing_keys: Vec::new(),
            validate_private_networks: false,
        }
    }
}

impl Admin {
    /// Where they are served.
    pub fn place(&self) -> Place {
        match self.address.parse() {
            Ok(address) => Place::Tcp(address),
            Err(_) => Place::Unix(UnixPlace {
                path: PathBuf::from(&self.address),
                mode: values::mode(&self.socket_mode).unwrap_or(0o660),
                owner: None,
                group: None,
            }),
        }
    }

    /// The networks of proxies.
    pub fn proxy_networks(&self) -> Vec<IpNet> {
        self.proxies
            .iter()
            .filter_map(|text| network(text))
            .collect()
    }

    /// Whether those on the Unix socket may be proxies.
    pub fn trusts_local_proxies(&self) -> bool {
        self.proxies.iter().any(|text| text == LOCAL)
    }

    /// Makes relative paths start at a folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        if let Place::Unix(unix) = self.place() {
            // A path that is not UTF-8 has been none before.
            self.address = folder.join(unix.path).to_string_lossy().into_owned();
        }
        for path in self.tokens.iter_mut().chain(&mut self.signing_keys) {
            *path = folder.join(&*path);
        }
    }

    pub(super) fn validate(&self, fleet: Option<&Fleet>) -> Outcome {
        let at = |key| [Name("admin"), Name(key)];
        let has_servers = fleet.is_some_and(|fleet| !fleet.servers.is_empty());
        if !self.signing_keys.is_empty() && !has_servers {
            let text = "changes are published to the servers of [fleet], and there are none";
            return wrong(at("signing-keys"), text);
        }
        let is_path = self.address.contains('/');
        if self.address.parse::<SocketAddr>().is_err() && !is_path {
            let message = format!(
                "{:?} is neither an address with a port nor the path of a socket",
                self.address
            );
            return wrong(at("address"), message);
        }
        if values::mode(&self.socket_mode).is_none() {
            let message = format!("{:?} is no mode such as \"0660\"", self.socket_mode);
            return wrong(at("socket-mode"), message);
        }
        for (number, proxy) in self.proxies.iter().enumerate() {
            if proxy != LOCAL && network(proxy).is_none() {
                let [section, key] = at("proxies");
                return wrong(
                    [section, key, Number(number)],
                    format!("{proxy:?} is no address, no range and not \"unix\""),
                );
            }
        }
        for (number, host) in self.hosts.iter().enumerate() {
            let is_name = portcullis::host_name(host).is_some();
            if !is_name {
                let [section, key] = at("hosts");
                return wrong(
                    [section, key, Number(number)],
                    format!("{host:?} is no host name"),
                );
            }
        }
        Ok(())
    }
}

/// Where alerts go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Alerts {
    /// A URL that is sent alerts as JSON.
    pub webhook: Option<String>,
    /// The mailboxes that alerts are sent to.
    pub mail_to: Vec<String>,
    /// The sender of that mail; postmaster at the hostname by default.
    pub mail_from: Option<String>,
    /// The server that takes it: `host:port`.
    pub mail_server: Option<String>,
    /// How often it is looked whether there is something to tell.
    #[serde(with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub every: Duration,
}

impl Default for Alerts {
    fn default() -> Self {
        Alerts {
            webhook: None,
            mail_to: Vec::new(),
            mail_from: None,
            mail_server: None,
            every: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Alerts {
    /// Whether they go anywhere but to the log.
    pub fn are_sent(&self) -> bool {
        self.webhook.is_some() || !self.mail_to.is_empty()
    }

    pub(super) fn validate(&self) -> Outcome {
        let at = |key| [Name("alerts"), Name(key)];
        if let Some(url) = &self.webhook {
            let parsed = url.parse::<hyper::Uri>().ok();
            let is_url = parsed.is_some_and(|url| {
                url.host().is_some() && matches!(url.scheme_str(), Some("http" | "https"))
            });
            if !is_url {
                return wrong(at("webhook"), format!("{url:?} is no http or https URL"));
            }
        }
        let boxes = self.mail_to.iter().chain(&self.mail_from);
        for mailbox in boxes {
            if let Err(error) = Address::parse(mailbox) {
                return wrong(at("mail-to"), format!("{mailbox:?}: {error}"));
            }
        }
        if !self.mail_to.is_empty() && self.mail_server.is_none() {
            return wrong(at("mail-to"), "it needs mail-server, which takes the mail");
        }
        Ok(())
    }
}

/// When connectors are tried out.
#[derive(Clone, Debug, PartialEq, Eq, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Validation {
    /// How often enabled outbound connectors are tried out; never by default.
    #[serde(
        with = "values::optional_duration",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(test, schemars(with = "Option<super::schema::Time>"))]
    pub every: Option<Duration>,
}
