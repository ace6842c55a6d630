//! What is found in a store, and what is wrong with one.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use portcullis::one_line;
use portcullis::statement::Time;
use tokio::sync::Notify;

use super::entry::Key;
use crate::observe::metrics::FleetMetrics;

/// The longest pause before another attempt.
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// Entries that are looked at together, and about how many octets they have.
pub const TOGETHER: usize = 200;
pub const OCTETS_TOGETHER: usize = 8 << 20;

/// An entry of the store as it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where.
    pub key: String,
    /// What; `None` if it was deleted, which is nothing that anybody has signed.
    pub value: Option<Bytes>,
    /// When it was put, as the store counts.
    pub revision: u64,
}

/// Entries that have come together.
#[derive(Debug, Default)]
pub struct Batch {
    /// What has come.
    pub entries: Vec<Found>,
    /// Entries that are there and cannot be had, each with why.
    pub failed: Vec<(Key, String)>,
    /// All up to here has come, if that is known.
    pub revision: Option<u64>,
    /// The newest revision that there is, if that is known.
    pub newest: Option<u64>,
    /// Whether that is all that there was when it was asked for.
    pub is_current: bool,
    /// What else is wrong with the store; `None` if nothing is known about it.
    pub trouble: Option<Vec<String>>,
}

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// When it was made (RFC 3339).
    pub created: String,
    /// The revision of its newest entry.
    pub last: u64,
    /// Whether nothing is in it.
    pub is_empty: bool,
}

/// Whether the store can be reached.
#[derive(Clone)]
pub struct Reach {
    is_connected: Arc<AtomicBool>,
    awaits_tenants: Arc<AtomicBool>,
    changed: Arc<Notify>,
    /// Why not, and since when.
    lost: Arc<Mutex<Option<String>>>,
    metrics: FleetMetrics,
}

impl Reach {
    /// Not yet; whether tenants are awaited is told as well.
    pub fn new(awaits_tenants: Arc<AtomicBool>, metrics: FleetMetrics) -> Self {
        Reach {
            is_connected: Arc::default(),
            awaits_tenants,
            changed: Arc::default(),
            lost: Arc::default(),
            metrics,
        }
    }

    /// Whether it can.
    pub fn is_connected(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed)
    }

    /// Waits until it can be reached again.
    pub async fn connected(&self) {
        self.changed.notified().await;
    }

    /// It was heard of.
    pub fn heard(&self) {
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        self.metrics.last_contact.set(now);
    }

    /// It can be reached.
    pub fn found(&self) {
        self.heard();
        self.metrics.connected.set(1);
        if !self.is_connected.swap(true, Ordering::Relaxed) {
            tracing::info!("connected to the fleet's store");
            self.changed.notify_one();
        }
    }

    /// It cannot be reached any more.
    pub fn lost(&self, reason: Option<&StoreError>) {
        let was_connected = self.is_connected.swap(false, Ordering::Relaxed);
        self.metrics.connected.set(0);
        self.awaits_tenants.store(true, Ordering::Relaxed);
        let reason = reason.map(|it| one_line(&it.to_string()).into_owned());
        if was_connected {
            let reason = reason.as_deref();
            tracing::warn!(
                reason,
                "no connection to the fleet's store; policies stay as they are"
            );
        }
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if was_connected || lost.is_none() {
            let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            let text = format!("the store cannot be reached since {}{reason}", Time::now());
            *lost = Some(text);
        }
    }

    /// That it cannot be reached, and since when, if that is so.
    pub fn told(&self) -> Option<String> {
        if self.is_connected() {
            return None;
        }
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.clone()
            .or_else(|| Some("the store has not been reached yet".into()))
    }
}

/// The store does not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file of the configuration cannot be used.
    #[error("{}: {source}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no connection.
    #[error("cannot connect to {servers}: {reason}")]
    Connect {
        /// The servers that were tried.
        servers: String,
        /// Why.
        reason: String,
    },
    /// There is no such bucket, or we may not use it.
    #[error("{bucket}: {reason}; `portcullis fleet init` makes the buckets of a fleet")]
    Bucket {
        /// The bucket.
        bucket: String,
        /// Why.
        reason: String,
    },
    /// A file of the store cannot be had, or is not what it must be.
    #[error("{place}: {reason}")]
    File {
        /// Where it is.
        place: String,
        /// Why.
        reason: String,
    },
    /// Somebody else has put something meanwhile.
    #[error("{key} was changed meanwhile by somebody else; look at it and try again")]
    Changed {
        /// The key.
        key: String,
    },
    /// Something else.
    #[error("{what}: {reason}")]
    Other {
        /// What was tried.
        what: &'static str,
        /// Why it did not work.
        reason: String,
    },
}

impl StoreError {
    /// The store does not answer.
    pub fn silent(what: &'static str) -> Self {
        StoreError::Other {
            what,
            reason: "it does not answer".into(),
        }
    }
}

/// The pause before another attempt: longer each time, and not the same for all hosts.
pub fn pause(attempts: usize) -> Duration {
    let exponent = attempts.min(10) as u32;
    let most = Duration::from_millis(50 << exponent).min(MAX_PAUSE);
    most.mul_f64(0.5 + fastrand::f64() / 2.0)
}
