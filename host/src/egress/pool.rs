//! Connections that outlive a transaction: to a next hop, or to a partner by one route and with one
//! protection. A key stands for exactly that, so a message never goes over a connection that was made
//! with less care than its own connector asks for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, interval, timeout};

use crate::config;
use crate::egress::client::{MailError, Sender, SmtpClient};
use crate::smtp::reply::Reply;

/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// Connections by what they are good for.
pub struct Pool {
    limits: config::Connections,
    /// How many may be in use at a time for one key.
    at_a_time: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    connections: HashMap<Arc<str>, Connections>,
    idle: usize,
    /// What was connected under another one is not used again.
    generation: u64,
}

/// The connections of one key.
struct Connections {
    permits: Arc<Semaphore>,
    idle: Vec<Idle>,
}

/// A connection that nobody uses.
struct Idle {
    client: SmtpClient,
    created_at: Instant,
    since: Instant,
    messages: u32,
}

/// The right to use a connection.
pub struct Permit {
    pool: Arc<Pool>,
    key: Arc<str>,
    generation: u64,
    _permit: OwnedSemaphorePermit,
}

/// A connection in use. Dropped, it is closed.
pub struct PooledConnection {
    client: SmtpClient,
    permit: Permit,
    created_at: Instant,
    messages: u32,
}

/// What came of beginning a transaction on an idle connection.
pub enum Reuse {
    /// It has begun.
    Begun(Box<PooledConnection>),
    /// The server does not accept the sender.
    Refused(Reply),
    /// No connection is alive.
    NotConnected(Permit),
}

impl Pool {
    /// An empty pool. Where there is no limit of its own, the sessions are one.
    pub fn new(limits: config::Connections, at_a_time: Option<usize>) -> Arc<Self> {
        Arc::new(Pool {
            limits,
            at_a_time: at_a_time.unwrap_or(Semaphore::MAX_PERMITS),
            state: Mutex::default(),
        })
    }

    /// Waits for the right to use a connection; `None` if that takes longer than `limit`.
    pub async fn permit(self: &Arc<Self>, key: &Arc<str>, limit: Duration) -> Option<Permit> {
        let (permits, generation) = {
            let mut state = self.lock();
            let generation = state.generation;
            let connections = state
                .connections
                .entry(key.clone())
                .or_insert_with(|| Connections {
                    permits: Arc::new(Semaphore::new(self.at_a_time)),
                    idle: Vec::new(),
                });
            (connections.permits.clone(), generation)
        };
        let permit = timeout(limit, permits.acquire_owned()).await.ok()?.ok()?;
        Some(Permit {
            pool: self.clone(),
            key: key.clone(),
            generation,
            _permit: permit,
        })
    }

    /// Lets all connections go: what they were made with holds no longer.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.generation += 1;
        state.idle = 0;
        // The permits stay: those in use count, whatever they were made with.
        let idle = |connections: &mut Connections| std::mem::take(&mut connections.idle);
        let idle: Vec<Idle> = state.connections.values_mut().flat_map(idle).collect();
        drop(state);
        close(idle);
    }

    /// Lets connections go that were idle too long or that the server has closed, as long as the pool lives.
    pub async fn sweep(pool: Weak<Pool>) {
        let mut ticks = interval(SWEEP);
        loop {
            ticks.tick().await;
            match pool.upgrade() {
                Some(pool) => pool.expire(),
                None => return,
            }
        }
    }

    fn expire(&self) {
        let mut expired = Vec::new();
        let mut state = self.lock();
        for connections in state.connections.values_mut() {
            // A server that says anything now says that it closes (RFC 5321 §3.8): it should not wait for our part.
            expired.extend(connections.idle.extract_if(.., |idle| {
                idle.since.elapsed() >= self.limits.idle || !idle.client.is_in_step()
            }));
        }
        state.idle -= expired.len();
        state.connections.retain(|_, connections| {
            let in_use = Arc::strong_count(&connections.permits) > 1
                || connections.permits.available_permits() < self.at_a_time;
            in_use || !connections.idle.is_empty()
        });
        drop(state);
        close(expired);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, key: &Arc<str>) -> Option<Idle> {
        let mut state = self.lock();
        // The one that was used last has the best chance to be alive.
        let idle = state.connections.get_mut(key)?.idle.pop()?;
        state.idle -= 1;
        Some(idle)
    }

    /// Keeps a connection; gives it back if there is no use for it.
    fn keep(&self, key: &Arc<str>, generation: u64, idle: Idle) -> Option<Idle> {
        let mut state = self.lock();
        let expired = idle.messages >= self.limits.messages
            || idle.created_at.elapsed() >= self.limits.lifetime;
        if expired || state.generation != generation || state.idle >= self.limits.max_idle {
            return Some(idle);
        }
        let Some(connections) = state.connections.get_mut(key) else {
            return Some(idle);
        };
        connections.idle.push(idle);
        state.idle += 1;
        None
    }
}

impl Permit {
    /// Begins a transaction on an idle connection. A server may have closed an idle connection, which costs nothing: no mail was on it.
    pub async fn reuse(mut self, sender: Sender<'_>) -> Reuse {
        while let Some(idle) = self.pool.take(&self.key) {
            let mut connection = PooledConnection {
                client: idle.client,
                permit: self,
                created_at: idle.created_at,
                messages: idle.messages,
            };
            match connection.client.mail(sender).await {
                Ok(()) => return Reuse::Begun(Box::new(connection)),
                Err(MailError::Refused(reply)) => {
                    connection.release();
                    return Reuse::Refused(reply);
                }
                Err(MailError::Lost(failure)) => {
                    tracing::debug!(
                        "an idle connection was closed: {}",
                        crate::observe::redact::redact(&failure.to_string())
                    );
                    self = connection.permit;
                }
            }
        }
        Reuse::NotConnected(self)
    }

    /// Takes a new connection into use.
    pub fn used_by(self, client: SmtpClient) -> PooledConnection {
        PooledConnection {
            client,
            permit: self,
            created_at: Instant::now(),
            messages: 0,
        }
    }
}

impl PooledConnection {
    /// The session with the server.
    pub fn client(&mut self) -> &mut SmtpClient {
        &mut self.client
    }

    /// The peer that is spoken with, for the log.
    pub fn peer(&self) -> &Arc<str> {
        self.client.peer()
    }

    /// Whether the session can go on.
    pub fn is_usable(&self) -> bool {
        self.client.is_usable()
    }

    /// Gives the connection back after a transaction, for whoever needs it next.
    pub fn release(mut self) {
        if !self.client.is_in_step() {
            return;
        }
        self.client.rest();
        let idle = Idle {
            client: self.client,
            created_at: self.created_at,
            since: Instant::now(),
            messages: self.messages + 1,
        };
        let Permit {
            pool,
            key,
            generation,
            ..
        } = &self.permit;
        if let Some(idle) = pool.keep(key, *generation, idle) {
            close([idle]);
        }
    }
}

/// Says good-bye, without anybody waiting for it.
fn close(connections: impl IntoIterator<Item = Idle>) {
    for mut idle in connections {
        tokio::spawn(async move { idle.client.quit().await });
    }
}
