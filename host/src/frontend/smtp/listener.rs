//! Listening sockets, and what all sessions share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use crate::config::{self};
use crate::egress::next_hop::NextHop;
use crate::egress::next_hops::NextHops;
use crate::egress::partial::Partial;
use crate::egress::partner::Dns;
use crate::egress::path::Egress;
use crate::frontend::ask::Asking;
use crate::frontend::known_certificates::KnownCertificates;
use crate::frontend::smtp::guesses::Guesses;
use crate::frontend::smtp::limits::{ConnectionLimits, Room};
use crate::tls::ServerTls;
use portcullis::tls::Authorities;

/// What all sessions share.
pub struct Server {
    /// Our name.
    pub hostname: Arc<str>,
    /// The policies, and what is counted of their answers.
    pub asking: Arc<Asking>,
    /// What a reload of the configuration exchanges; a session keeps what it began with.
    pub settings: ArcSwap<Settings>,
    /// What became of messages whose recipients ended differently.
    pub partial: Partial,
    /// Who is inside.
    pub connections: Arc<ConnectionLimits>,
    /// The memory for long headers.
    pub headers: Room,
    /// Where notifications go for senders of tenants: as all mail to them does, if it comes here.
    pub notified: Option<Arc<NextHop>>,
    /// The next hops that tenants have of their own.
    pub next_hops: Arc<NextHops>,
    /// Notifications that are sent at a time.
    pub notifications: Arc<Semaphore>,
    /// Passwords that did not fit.
    pub guesses: Guesses,
    /// How many passwords are verified at a time.
    pub verifications: Arc<Semaphore>,
    /// Whether mail is taken: policies have been read.
    pub is_listening: AtomicBool,
    /// Whether balancers are to send no more clients.
    pub draining: watch::Sender<bool>,
    /// Whether no more connections are accepted.
    pub closed: watch::Sender<bool>,
    /// Whether sessions are to end.
    pub stopping: watch::Sender<bool>,
}

/// What a reload of the configuration exchanges.
pub struct Settings {
    /// Whose certificates are trusted.
    pub authorities: Authorities,
    /// What a session may use.
    pub limits: config::Limits,
    /// How long to wait.
    pub timeouts: config::Timeouts,
    /// The certificates, by the listener's number.
    pub tls: HashMap<usize, ServerTls>,
    /// The certificates of partners that are known beforehand, by the front door's number.
    pub known: HashMap<usize, KnownCertificates>,
    /// Whom to ask what clients' addresses are called, if anybody wants to know.
    pub names: Option<Arc<Dns>>,
    /// Whether there are tenants that are not known for a mistake: nobody's mail may be theirs.
    pub lacks_tenants: bool,
    /// Whether there may be tenants of the fleet that have not come yet.
    pub awaits_tenants: Arc<AtomicBool>,
}

impl Settings {
    /// Whether a domain that is nobody's may be a tenant's all the same.
    pub fn may_lack_tenants(&self) -> bool {
        self.lacks_tenants || self.awaits_tenants.load(Ordering::Relaxed)
    }

    /// What a listener does handshakes with, if it does.
    pub fn tls(&self, listener: &Listener) -> Option<ServerTls> {
        self.tls.get(&listener.number).cloned()
    }
}

/// A listening socket, as configured.
pub struct Listener {
    /// Its place in the configuration.
    pub number: usize,
    /// The configuration.
    pub config: config::Listener,
    /// Where accepted mail goes.
    pub egress: Egress,
}

impl Listener {
    /// Whether a client may use cipher suites that are no good ones any more.
    pub fn is_legacy(&self, client: IpAddr) -> bool {
        let listed = &self.config.legacy_ciphers;
        listed.iter().any(|net| net.contains(&client))
    }
}
