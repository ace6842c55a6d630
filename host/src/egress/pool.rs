//! Connections that outlive a transaction: to a next hop, or to a partner by one route and with one
//! protection. A key stands for exactly that, so a message never goes over a connection that was made
//! with less care than its own connector asks for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, interval, timeout};

use crate::config;
use crate::egress::client::{NotBegun, Relay, Sender};
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
    lanes: HashMap<Arc<str>, Lane>,
    idle: usize,
    /// What was connected under another one is not used again.
    generation: u64,
}

/// The connections of one key.
struct Lane {
    turns: Arc<Semaphore>,
    idle: Vec<Idle>,
}

/// A connection that nobody uses.
struct Idle {
    relay: Relay,
    born: Instant,
    since: Instant,
    messages: u32,
}

/// The right to use a connection.
pub struct Turn {
    pool: Arc<Pool>,
    key: Arc<str>,
    generation: u64,
    _permit: OwnedSemaphorePermit,
}

/// A connection in use. Dropped, it is closed.
pub struct Lease {
    relay: Relay,
    turn: Turn,
    born: Instant,
    messages: u32,
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

    /// Waits for the right to use a connection; `None` if that takes longer than `patience`.
    pub async fn turn(self: &Arc<Self>, key: &Arc<str>, patience: Duration) -> Option<Turn> {
        let (turns, generation) = {
            let mut state = self.lock();
            let generation = state.generation;
            let lane = state.lanes.entry(key.clone()).or_insert_with(|| Lane {
                turns: Arc::new(Semaphore::new(self.at_a_time)),
                idle: Vec::new(),
            });
            (lane.turns.clone(), generation)
        };
        let permit = timeout(patience, turns.acquire_owned()).await.ok()?.ok()?;
        Some(Turn {
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
        // The turns stay: those in use count, whatever they were made with.
        let idle = |lane: &mut Lane| std::mem::take(&mut lane.idle);
        let idle: Vec<Idle> = state.lanes.values_mut().flat_map(idle).collect();
        drop(state);
        part_with(idle);
    }

    /// Lets connections go that were idle too long, as long as the pool lives.
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
        for lane in state.lanes.values_mut() {
            // They stand in the order in which they became idle.
            let kept = lane
                .idle
                .partition_point(|idle| idle.since.elapsed() >= self.limits.idle);
            expired.extend(lane.idle.drain(..kept));
        }
        state.idle -= expired.len();
        state.lanes.retain(|_, lane| {
            let in_use = Arc::strong_count(&lane.turns) > 1
                || lane.turns.available_permits() < self.at_a_time;
            in_use || !lane.idle.is_empty()
        });
        drop(state);
        part_with(expired);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, key: &Arc<str>) -> Option<Idle> {
        let mut state = self.lock();
        // The one that was used last has the best chance to be alive.
        let idle = state.lanes.get_mut(key)?.idle.pop()?;
        state.idle -= 1;
        Some(idle)
    }

    /// Keeps a connection; gives it back if there is no use for it.
    fn keep(&self, key: &Arc<str>, generation: u64, idle: Idle) -> Option<Idle> {
        let mut state = self.lock();
        let worn =
            idle.messages >= self.limits.messages || idle.born.elapsed() >= self.limits.lifetime;
        if worn || state.generation != generation || state.idle >= self.limits.max_idle {
            return Some(idle);
        }
        let Some(lane) = state.lanes.get_mut(key) else {
            return Some(idle);
        };
        lane.idle.push(idle);
        state.idle += 1;
        None
    }
}

impl Turn {
    /// Begins a transaction on a connection that is there already; `None` if there is none that is
    /// alive. A server may have closed an idle connection, which costs nothing: no mail was on it.
    pub async fn reuse(mut self, sender: Sender<'_>) -> Result<Result<Lease, Reply>, Turn> {
        while let Some(idle) = self.pool.take(&self.key) {
            let mut lease = Lease {
                relay: idle.relay,
                turn: self,
                born: idle.born,
                messages: idle.messages,
            };
            match lease.relay.mail(sender).await {
                Ok(()) => return Ok(Ok(lease)),
                Err(NotBegun::Refused(reply)) => {
                    lease.release();
                    return Ok(Err(reply));
                }
                Err(NotBegun::Lost(failure)) => {
                    tracing::debug!(
                        "an idle connection was closed: {}",
                        crate::observe::redact::words(&failure.to_string())
                    );
                    self = lease.turn;
                }
            }
        }
        Err(self)
    }

    /// Takes a new connection into use.
    pub fn lease(self, relay: Relay) -> Lease {
        Lease {
            relay,
            turn: self,
            born: Instant::now(),
            messages: 0,
        }
    }
}

impl Lease {
    /// The session with the server.
    pub fn relay(&mut self) -> &mut Relay {
        &mut self.relay
    }

    /// The place that is spoken with, for the log.
    pub fn place(&self) -> &Arc<str> {
        self.relay.place()
    }

    /// Whether the session can go on.
    pub fn is_usable(&self) -> bool {
        self.relay.is_usable()
    }

    /// Gives the connection back after a transaction, for whoever needs it next.
    pub fn release(mut self) {
        if !self.relay.is_in_step() {
            return;
        }
        let idle = Idle {
            relay: self.relay,
            born: self.born,
            since: Instant::now(),
            messages: self.messages + 1,
        };
        let Turn {
            pool,
            key,
            generation,
            ..
        } = &self.turn;
        if let Some(idle) = pool.keep(key, *generation, idle) {
            part_with([idle]);
        }
    }
}

/// Says good-bye, without anybody waiting for it.
fn part_with(connections: impl IntoIterator<Item = Idle>) {
    for mut idle in connections {
        tokio::spawn(async move { idle.relay.quit().await });
    }
}
