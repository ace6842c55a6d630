//! A socket where other mail servers ask, and how long is waited for them.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::sessions::Sessions;
use crate::config;
use crate::frontend::smtp::listener::{Server, Settings};
use crate::smtp::connection::Connection;

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
}

/// Conversations that ended in an error lately.
struct Failures {
    since: Instant,
    number: u64,
}

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
    pub fn new(number: usize, config: config::Frontend, server: Arc<Server>) -> Self {
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
        }
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
