//! What this host is called and where it listens, so that no mail is sent to itself.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use super::failure::Failure;
use super::reachable;
use crate::config;
use crate::egress::client::{Audience, CONNECT, Cause, ClientConfig};
use crate::egress::dial;

/// This host, as partners see it.
pub struct ThisHost {
    /// Its name.
    pub name: Arc<str>,
    /// Where it listens, once it does.
    listening: OnceLock<Vec<SocketAddr>>,
}

impl ThisHost {
    /// A host that does not listen yet.
    pub fn new(name: &str) -> Self {
        ThisHost {
            name: name.into(),
            listening: OnceLock::new(),
        }
    }

    /// Notes where it listens.
    pub fn listens_on(&self, addresses: Vec<SocketAddr>) {
        // It is called once, when the sockets are bound.
        let _ = self.listening.set(addresses);
    }

    /// Whether it listens on an address.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        self.listening.get().into_iter().flatten().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip()
                    || own.ip().is_unspecified() && reachable::is_local(address.ip()))
        })
    }

    /// How it speaks with a partner's server.
    pub fn client_config(&self, timeouts: &Arc<config::Timeouts>) -> ClientConfig {
        ClientConfig {
            hostname: self.name.clone(),
            lmtp: false,
            chunks: false,
            timeouts: timeouts.clone(),
            audience: Audience::Internal,
        }
    }

    /// The failure of a server that was not connected to.
    pub fn unanswered(
        &self,
        timeouts: &Arc<config::Timeouts>,
        peer: &Arc<str>,
        failed: Option<dial::Unanswered>,
    ) -> Failure {
        let cause = failed
            .and_then(|failed| failed.error)
            .map_or(Cause::TimedOut, Cause::from);
        self.client_config(timeouts)
            .failure(peer, CONNECT, cause)
            .into()
    }
}
