//! Where entries come from: NATS JetStream, or files that a web server or a folder has.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use portcullis::Sha256;
use tokio::sync::mpsc;

use super::entry::Key;
use super::files::Files;
use super::nats::{Nats, Patience};
use super::status::Status;
use super::store::{Batch, Found, OCTETS_TOGETHER, Reach, StoreError, Stream, TOGETHER};
use crate::config;

/// A store.
#[derive(Clone)]
pub enum Source {
    /// NATS JetStream.
    Nats(Arc<Nats>),
    /// Files.
    Files(Files),
}

impl Source {
    /// Gets to a store.
    ///
    /// # Errors
    /// If what lets us in cannot be used.
    pub async fn open(
        fleet: &config::Fleet,
        host: &str,
        reach: &Reach,
    ) -> Result<Self, StoreError> {
        if let Some(url) = &fleet.url {
            let files = Files::open(fleet, url, reach.clone())?;
            return Ok(Source::Files(files));
        }
        let reach = reach.clone();
        let event = move |event| match event {
            async_nats::Event::Connected => reach.found(),
            async_nats::Event::Disconnected => reach.lost(None),
            other => tracing::debug!(event = %other, "fleet"),
        };
        let nats = Nats::connect(fleet, Patience::Endless, host, event).await?;
        Ok(Source::Nats(Arc::new(nats)))
    }

    /// How long to wait at least before it is followed anew.
    pub fn pause(&self) -> Duration {
        match self {
            Source::Nats(_) => Duration::ZERO,
            Source::Files(files) => files.poll(),
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn stream(&self) -> Result<Stream, StoreError> {
        match self {
            Source::Nats(nats) => nats.stream().await,
            Source::Files(files) => files.stream().await,
        }
    }

    /// All entries as they are now, and then each as it comes; or only those after a revision, as far as the store can
    /// tell.
    ///
    /// # Errors
    /// If that cannot be begun.
    pub async fn watch(&self, after: Option<u64>) -> Result<Entries, StoreError> {
        match self {
            Source::Nats(nats) => Ok(Entries::Nats(Box::new(nats.watch(after).await?))),
            Source::Files(files) => Ok(Entries::Files(files.watch())),
        }
    }

    /// The entry of a key.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn get(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        match self {
            Source::Nats(nats) => nats.get(key).await,
            Source::Files(files) => files.get(key).await,
        }
    }

    /// A large policy.
    ///
    /// # Errors
    /// If it does not come whole.
    pub async fn body(&self, sha256: Sha256, size: u64) -> Result<Vec<u8>, StoreError> {
        match self {
            Source::Nats(nats) => nats.body(sha256, size).await,
            Source::Files(files) => files.body(sha256, size).await,
        }
    }

    /// Says what this host is like, where that can be said.
    ///
    /// # Errors
    /// If the store does not confirm it.
    pub async fn say(&self, status: &Status) -> Result<(), StoreError> {
        match self {
            Source::Nats(nats) => nats.say(status).await,
            Source::Files(_) => Ok(()),
        }
    }
}

/// Entries as they come.
pub enum Entries {
    /// From NATS.
    Nats(Box<async_nats::jetstream::kv::Watch>),
    /// From files.
    Files(mpsc::Receiver<Result<Batch, StoreError>>),
}

impl Entries {
    /// Those that come next, together. Nothing is lost if this is dropped while it waits.
    ///
    /// # Errors
    /// If no more come.
    pub async fn next(&mut self) -> Result<Batch, StoreError> {
        match self {
            Entries::Nats(watch) => {
                let first = watch.next().await;
                together(first, watch)
            }
            Entries::Files(batches) => batches.recv().await.unwrap_or_else(|| Err(ended())),
        }
    }
}

fn ended() -> StoreError {
    StoreError::Other {
        what: "following the store",
        reason: "it says no more".into(),
    }
}

/// An entry and those that have come with it.
fn together(
    first: Option<<async_nats::jetstream::kv::Watch as futures_util::Stream>::Item>,
    watch: &mut async_nats::jetstream::kv::Watch,
) -> Result<Batch, StoreError> {
    let (mut batch, mut octets) = (Batch::default(), 0);
    let mut next = Some(first);
    while let Some(entry) = next {
        let entry = entry.ok_or_else(ended)?;
        let entry = match entry {
            Ok(entry) => entry,
            // What has come before is looked at first.
            Err(error) if batch.entries.is_empty() => {
                return Err(StoreError::Other {
                    what: "following the store",
                    reason: error.to_string(),
                });
            }
            Err(_) => break,
        };
        batch.is_current |= entry.seen_current;
        batch.revision = Some(entry.revision);
        octets += entry.value.len();
        batch.entries.push(Found::from(entry));
        next = match batch.entries.len() < TOGETHER && octets < OCTETS_TOGETHER {
            true => watch.next().now_or_never(),
            false => None,
        };
    }
    Ok(batch)
}
