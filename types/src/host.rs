//! Smart hosts: `name`, `name:port`, `[address]` or `[address]:port`.

use alloc::string::{String, ToString};
use core::fmt;
use core::net::IpAddr;

use serde::{Serialize, Serializer};

/// A host to deliver to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name. It is resolved as MX first, then as address.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// A smart host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SmartHost {
    /// The host.
    pub host: Host,
    /// The port; 25 if absent.
    pub port: Option<u16>,
}

impl fmt::Display for SmartHost {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => to.write_str(name)?,
            Host::Address(address) => write!(to, "[{address}]")?,
        }
        match self.port {
            Some(port) => write!(to, ":{port}"),
            None => Ok(()),
        }
    }
}

impl Serialize for SmartHost {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.to_string())
    }
}
