//! The log and the metrics.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where numbers are shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Metrics {
    /// Address and port of an HTTP server with `/metrics`, for Prometheus.
    pub address: SocketAddr,
}

/// What the log tells of people.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Log {
    /// Mailboxes of envelopes, and those in what other servers say.
    pub mailboxes: Mailboxes,
    /// Addresses of clients.
    pub clients: Clients,
}

/// What is told of a mailbox.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mailboxes {
    /// All of it.
    #[default]
    Full,
    /// Its domain.
    Domain,
}

/// What is told of a client's address.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Clients {
    /// All of it.
    #[default]
    Full,
    /// Its network: /24 of IPv4, /48 of IPv6.
    Network,
}
