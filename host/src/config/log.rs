//! The log and the metrics.

use std::net::SocketAddr;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::problem::Key::Name;
use super::problem::{Outcome, wrong};
use super::values;

/// Where numbers are shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Metrics {
    /// Address and port of an HTTP server with `/metrics`, for Prometheus.
    pub address: SocketAddr,
    /// Which tenants have numbers of their own.
    #[serde(default)]
    pub tenants: TenantSeries,
}

/// Which tenants have numbers of their own. Those of the others are counted together, under an empty name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum TenantSeries {
    /// All.
    #[default]
    All,
    /// Those with which something is wrong, of what is wrong.
    Failing,
    /// None.
    None,
}

/// What is remembered of decisions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Decisions {
    /// Decisions that are remembered of each tenant; 0 for none.
    pub keep: u32,
    /// The size of the file that they are kept in.
    #[serde(with = "values::size")]
    #[cfg_attr(test, schemars(with = "super::schema::Size"))]
    pub size: ByteSize,
}

impl Default for Decisions {
    fn default() -> Self {
        Decisions {
            keep: 20_000,
            size: ByteSize::mib(512),
        }
    }
}

impl Decisions {
    /// The file has to hold something.
    pub(super) fn validate(&self) -> Outcome {
        const LEAST: ByteSize = ByteSize::mib(1);
        match self.keep > 0 && self.size < LEAST {
            true => wrong(
                [Name("decisions"), Name("size")],
                format!("the file needs at least {LEAST}"),
            ),
            false => Ok(()),
        }
    }
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
    /// Whether a decision's line has all facts, with which it can be repeated.
    pub contexts: bool,
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
