//! What is known of the sessions of other servers in more than one place.
//!
//! Postfix tells the digest of a client's certificate to its policy service only, and the header to its milters only.
//! Both name the ends of the client's connection, by which they are put together.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::facts::Protection;
use portcullis::store::{Snapshot, Tenant};

/// How long the policies are remembered that a message began with, if its connection is replaced in the middle.
const REMEMBERED: Duration = Duration::from_secs(60);
/// The same if its header is still to come: Exim asks about it when the whole message is there.
const AWAITED: Duration = Duration::from_secs(10 * 60);
/// How many messages of either kind are remembered.
const MOST: usize = 10_000;
/// Octets of the name that a server has for a message. One with a longer name is not remembered.
const MAX_NAME: usize = 256;

/// What is known of sessions.
#[derive(Default)]
pub struct Sessions {
    milters: Mutex<HashMap<Ends, Arc<Joined>>>,
    begun: Mutex<Begun>,
    awaited: Mutex<Begun>,
}

/// Messages that have begun, by their servers' names for them.
#[derive(Default)]
struct Begun {
    messages: HashMap<String, (Instant, Transaction)>,
    /// From the one that was asked about first on. One that was asked about again is there again.
    order: VecDeque<(Instant, String)>,
}

/// Both ends of a client's connection. A client may use one port towards several servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client's.
    pub client: SocketAddr,
    /// The server's.
    pub server: SocketAddr,
}

/// A message that has begun: the policies that decide about it, and its name.
#[derive(Clone)]
pub struct Transaction {
    /// The policies.
    pub policies: Arc<Snapshot>,
    /// The name.
    pub id: String,
}

/// A session of a client that milter and policy service both hear of.
#[derive(Default)]
pub struct Joined(Mutex<Known>);

#[derive(Default)]
struct Known {
    protection: Option<Protection>,
    /// The tenants whose policies have let a recipient of a sender through.
    accepted: HashMap<(String, String), Arc<Tenant>>,
}

/// How many recipients of a session are remembered.
const MOST_RECIPIENTS: usize = 10_000;

impl Joined {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy service knows the session's protection.
    pub fn protected(&self, protection: Protection) {
        self.lock().protection = Some(protection);
    }

    /// The policy service has let a recipient through, whose header is still to be decided on.
    pub fn accepted(&self, sender: &str, recipient: &str, tenant: Arc<Tenant>) {
        let mut known = self.lock();
        if known.accepted.len() < MOST_RECIPIENTS {
            let key = (sender.to_owned(), recipient.to_owned());
            known.accepted.insert(key, tenant);
        }
    }

    /// Whose policy, as it was then, has let a recipient of this message through. It is told once.
    pub fn take_accepted(&self, sender: &str, recipient: &str) -> Option<Arc<Tenant>> {
        let key = (sender.to_owned(), recipient.to_owned());
        self.lock().accepted.remove(&key)
    }

    /// What the policy service has told of the session's protection.
    pub fn protection(&self) -> Option<Protection> {
        self.lock().protection.clone()
    }
}

/// A milter's session, which the policy service finds until this is dropped.
pub struct MilterGuard<'a> {
    sessions: &'a Sessions,
    ends: Ends,
    /// What is known of it.
    pub joined: Arc<Joined>,
}

impl Drop for MilterGuard<'_> {
    fn drop(&mut self) {
        let mut all = lock(&self.sessions.milters);
        // A later session between the same ends is another one.
        if all
            .get(&self.ends)
            .is_some_and(|it| Arc::ptr_eq(it, &self.joined))
        {
            all.remove(&self.ends);
        }
    }
}

fn lock<T>(all: &Mutex<T>) -> MutexGuard<'_, T> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    /// A milter hears of a client.
    pub fn milter(&self, ends: Ends) -> MilterGuard<'_> {
        let joined = Arc::<Joined>::default();
        lock(&self.milters).insert(ends, joined.clone());
        MilterGuard {
            sessions: self,
            ends,
            joined,
        }
    }

    /// The session of a client that a milter hears of as well.
    pub fn joined(&self, ends: Ends) -> Option<Arc<Joined>> {
        lock(&self.milters).get(&ends).cloned()
    }

    /// A connection ends that may be in the middle of a message, or another one may go on with it.
    pub fn leave(&self, instance: &str, transaction: &Transaction) {
        lock(&self.begun).remember(instance, transaction, REMEMBERED);
    }

    /// The server will tell the header of a message, and the policy reads it.
    pub fn await_header(&self, instance: &str, transaction: &Transaction) {
        lock(&self.awaited).remember(instance, transaction, AWAITED);
    }

    /// It has told it.
    pub fn header_told(&self, instance: &str) {
        lock(&self.awaited).messages.remove(instance);
    }

    /// Whether the header of a message is still to come.
    pub fn awaits_header(&self, instance: &str) -> bool {
        lock(&self.awaited).get(instance, AWAITED).is_some()
    }

    /// A message that another connection began.
    pub fn resume(&self, instance: &str) -> Option<Transaction> {
        let begun = lock(&self.begun).get(instance, REMEMBERED);
        begun.or_else(|| lock(&self.awaited).get(instance, AWAITED))
    }
}

impl Begun {
    fn remember(&mut self, instance: &str, transaction: &Transaction, kept: Duration) {
        if instance.is_empty() || instance.len() > MAX_NAME {
            return;
        }
        let now = Instant::now();
        self.make_room(now, kept);
        self.order.push_back((now, instance.to_owned()));
        self.messages
            .insert(instance.to_owned(), (now, transaction.clone()));
    }

    fn get(&self, instance: &str, kept: Duration) -> Option<Transaction> {
        let (since, transaction) = self.messages.get(instance)?;
        (since.elapsed() < kept).then(|| transaction.clone())
    }

    fn make_room(&mut self, now: Instant, kept: Duration) {
        while let Some((since, instance)) = self.order.front() {
            if self.order.len() < MOST && now.duration_since(*since) < kept {
                return;
            }
            let is_last = |(last, _): &(Instant, Transaction)| last == since;
            if self.messages.get(instance).is_some_and(is_last) {
                self.messages.remove(instance);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(id: usize) -> Transaction {
        Transaction {
            policies: Arc::default(),
            id: id.to_string(),
        }
    }

    #[test]
    fn the_oldest_messages_are_forgotten() {
        let sessions = Sessions::default();
        for number in 0..MOST {
            sessions.leave(&number.to_string(), &transaction(number));
        }
        // Asked about again, it is among the youngest.
        sessions.leave("0", &transaction(0));
        for number in MOST..MOST + 10 {
            sessions.leave(&number.to_string(), &transaction(number));
        }
        let id = |instance: &str| sessions.resume(instance).map(|it| it.id);
        assert_eq!(id("0"), Some("0".into()));
        assert_eq!(id("5"), None);
        assert_eq!(id(&MOST.to_string()), Some(MOST.to_string()));
        assert!(lock(&sessions.begun).order.len() <= MOST);
    }
}
