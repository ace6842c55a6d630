//! A socket where other mail servers ask, and how long is waited for them.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::sessions::Sessions;
use crate::config;
use crate::egress::partner::{LateOutbound, Outbound};
use crate::frontend::smtp::listener::{Server, Settings};
use crate::observe::redact;
use crate::postfix::{NextHop, NextHops, next_hops};
use crate::smtp::connection::Connection;
use portcullis::Host;
use portcullis::store::{InForce, Tenant};

/// How long a request may take from its first octet to its last, and the reading of its answer.
pub const REQUEST: Duration = Duration::from_secs(30);
/// How long a connection may be idle. Servers keep theirs for later mail, and are surprised if they are closed.
pub const IDLE: Duration = Duration::from_secs(60 * 60);

/// A socket where other mail servers ask.
pub struct Frontend {
    pub(super) number: usize,
    pub(super) config: config::Frontend,
    pub(super) server: Arc<Server>,
    pub(super) sessions: Sessions,
    /// Whether a digest that is no SHA-256 has been told.
    pub(super) has_told_digest: AtomicBool,
    failures: Mutex<Failures>,
    /// How mail leaves, for those who are told about partners.
    outbound: Arc<LateOutbound>,
    /// The smart hosts of the policy in force that is asked about them.
    next_hops: tokio::sync::Mutex<KnownNextHops>,
}

/// Next hops that Postfix has been told of.
#[derive(Default)]
struct KnownNextHops {
    /// Those of a policy, with the port of those that have none of their own.
    described: Option<(InForce, u16, Arc<NextHops>)>,
    /// Those of policies before, and since when they are that.
    former: HashMap<(Host, u16), Instant>,
}

impl KnownNextHops {
    fn replace(&mut self, described: (InForce, u16, Arc<NextHops>)) {
        let now = Instant::now();
        self.former.retain(|_, since| since.elapsed() < FORMER);
        if let Some((.., before)) = self.described.replace(described) {
            for (host, port) in before.keys().take(MOST_FORMER) {
                self.former.insert((host.clone(), port), now);
            }
        }
    }
}

/// Conversations that ended in an error lately.
struct Failures {
    since: Instant,
    number: u64,
}

/// How long mail that has its next hop may wait for being sent there.
const FORMER: Duration = Duration::from_secs(4 * 60 * 60);
/// Next hops of a policy that are remembered so long.
const MOST_FORMER: usize = 100_000;
/// So many things that Postfix cannot carry out are told of a policy.
const MOST_GAPS: usize = 20;

/// So many of them are told one by one in so long; the others are counted.
const MOST_FAILURES: u64 = 20;
const FAILURES_IN: Duration = Duration::from_secs(60);

/// Why a conversation ends before the server ends it.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// The connection is lost.
    #[error("the connection is lost: {0}")]
    Lost(#[from] io::Error),
    /// What it says cannot be understood.
    #[error("{0}")]
    Malformed(String),
    /// It is too slow.
    #[error("it took too long")]
    Slow,
}

impl ConversationError {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        ConversationError::Malformed(what.into())
    }
}

impl Frontend {
    /// The socket with this number in the configuration.
    pub fn new(
        number: usize,
        config: config::Frontend,
        server: Arc<Server>,
        outbound: Arc<LateOutbound>,
    ) -> Self {
        Frontend {
            number,
            config,
            server,
            sessions: Sessions::default(),
            has_told_digest: AtomicBool::new(false),
            failures: Mutex::new(Failures {
                since: Instant::now(),
                number: 0,
            }),
            outbound,
            next_hops: tokio::sync::Mutex::default(),
        }
    }

    /// How mail leaves.
    ///
    /// # Errors
    /// Why it is not known.
    pub(super) fn outbound(&self) -> Result<Arc<Outbound>, String> {
        self.outbound.ready().map_err(|error| error.to_string())
    }

    /// The smart hosts that a tenant's policy describes; those without a port have `port`. What Postfix cannot carry
    /// out is told once for each policy.
    ///
    /// # Errors
    /// If there is no policy, or it does not describe them.
    pub(super) async fn next_hops(
        &self,
        tenant: &Tenant,
        port: u16,
    ) -> Result<Arc<NextHops>, String> {
        let mut known = self.next_hops.lock().await;
        let (Some(in_force), Some(policy)) =
            (tenant.in_force, self.server.asking.policies.policy(tenant))
        else {
            return Err("there is no policy that decides about this mail".into());
        };
        if let Some(described) = &known.described
            && (described.0, described.1) == (in_force, port)
        {
            return Ok(described.2.clone());
        }
        let connectors = policy
            .connectors()
            .await
            .map_err(|error| error.to_string())?;
        for gap in next_hops::gaps(&connectors, port).iter().take(MOST_GAPS) {
            tracing::warn!(
                tenant = %tenant.name,
                connector = &*redact::redact(&gap.connector),
                wherever = gap.wherever,
                why = gap.why,
                relay = self.config.relay.map(tracing::field::display),
                "Postfix cannot carry out what this connector asks for; its mail goes by the relay if there is one, else it is deferred"
            );
        }
        let next_hops = Arc::new(NextHops::of(&connectors, port));
        known.replace((in_force, port, next_hops.clone()));
        Ok(next_hops)
    }

    /// Whether rules that are no longer in force sent mail to a next hop lately: Postfix may still have such mail.
    pub(super) async fn was_next_hop(&self, next_hop: &NextHop) -> bool {
        let known = self.next_hops.lock().await;
        let mut former = known.former.iter();
        former.any(|((host, port), since)| {
            *host == next_hop.host
                && next_hop.port.is_none_or(|it| it == *port)
                && since.elapsed() < FORMER
        })
    }

    /// Tells of a conversation that ended in an error, if there were not very many lately.
    pub(super) fn tell_of_failure(&self, session: &str, server: &str, error: &str) {
        self.server.asking.metrics.frontend_failed();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.since.elapsed() >= FAILURES_IN {
            let untold = failures.number.saturating_sub(MOST_FAILURES);
            if untold > 0 {
                tracing::warn!(untold, "further mail servers could not be answered");
            }
            *failures = Failures {
                since: Instant::now(),
                number: 0,
            };
        }
        failures.number += 1;
        if failures.number <= MOST_FAILURES {
            tracing::warn!(session, server, error, "a mail server cannot be answered");
        }
    }

    pub(super) fn settings(&self) -> Arc<Settings> {
        self.server.settings.load_full()
    }
}

/// Waits for requests on a connection.
#[derive(Default)]
pub(super) struct Patience {
    /// When the request has begun that is being read.
    begun: Option<Instant>,
}

impl Patience {
    /// A request is whole.
    pub(super) fn is_whole(&mut self) {
        self.begun = None;
    }

    /// Writes what is to be written, and waits for more of a request; for its beginning as long as it takes. Gives
    /// whether there is more.
    ///
    /// # Errors
    /// If the server is too slow, lost, or ends in the middle.
    pub(super) async fn more(
        &mut self,
        connection: &mut Connection,
    ) -> Result<bool, ConversationError> {
        match timeout(REQUEST, connection.flush()).await {
            Ok(flushed) => flushed?,
            Err(_) => return Err(ConversationError::Slow),
        }
        let is_idle = connection.input.is_empty();
        let deadline = match is_idle {
            true => Instant::now() + IDLE,
            false => *self.begun.get_or_insert_with(Instant::now) + REQUEST,
        };
        match timeout_at(deadline, connection.fill()).await {
            Ok(Ok(0)) if is_idle => Ok(false),
            Ok(Ok(0)) => Err(ConversationError::malformed(
                "its request ends in the middle",
            )),
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(error.into()),
            Err(_) if is_idle => Ok(false),
            Err(_) => Err(ConversationError::Slow),
        }
    }
}
