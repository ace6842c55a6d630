//! The client, for next hops that are told.

use std::net::SocketAddr;
use std::sync::Arc;

/// Who the client is, for a next hop that is told.
pub struct Client {
    /// The client's address and port.
    pub address: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The argument of EHLO or HELO.
    pub helo: String,
    /// Whether it was EHLO.
    pub esmtp: bool,
    /// What its address is called.
    pub name: ClientName,
}

/// What a client's address is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientName {
    /// A name in the DNS that leads back to the address.
    Confirmed(Arc<str>),
    /// There is no such name.
    None,
    /// Nobody has looked, or had an answer.
    Unknown,
}
