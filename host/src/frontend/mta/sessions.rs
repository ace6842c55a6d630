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
/// How many such messages there are.
const MOST: usize = 1000;

/// What is known of sessions.
#[derive(Default)]
pub struct Sessions {
    milters: Mutex<HashMap<Ends, Arc<Joined>>>,
    begun: Mutex<VecDeque<(Instant, String, Transaction)>>,
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
    pub fn leave(&self, instance: String, transaction: Transaction) {
        if instance.is_empty() {
            return;
        }
        let mut begun = lock(&self.begun);
        begun.retain(|(since, it, _)| since.elapsed() < REMEMBERED && *it != instance);
        if begun.len() >= MOST {
            begun.pop_front();
        }
        begun.push_back((Instant::now(), instance, transaction));
    }

    /// A message that another connection began.
    pub fn resume(&self, instance: &str) -> Option<Transaction> {
        let mut begun = lock(&self.begun);
        if begun.is_empty() {
            return None;
        }
        begun.retain(|(since, ..)| since.elapsed() < REMEMBERED);
        let mut found = begun.iter().filter(|(_, it, _)| it == instance);
        found.next().map(|(.., transaction)| transaction.clone())
    }
}
