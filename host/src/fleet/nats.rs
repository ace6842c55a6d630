//! The fleet's store: buckets of NATS JetStream.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::ConnectOptions;
use async_nats::jetstream::kv::{Operation, Watch};
use async_nats::jetstream::object_store::ObjectStore;
use async_nats::jetstream::{Context, kv, object_store, stream};
use futures_util::StreamExt;
use portcullis::Sha256;
use portcullis::statement::digest_of;
use prometheus_client::metrics::counter::Counter;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::entry::Key;
use super::status::Status;
use super::store::{Found, StoreError, Stream, pause};
use crate::config;
use crate::observe::decisions::Sent;

/// How many versions of an entry the store keeps, to which one can go back.
const HISTORY: i64 = 16;
/// How long what a host says of itself stays.
const STATUS_AGE: Duration = Duration::from_secs(90);
/// How long the store may take for an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Lines of decisions that wait in the client.
const MAX_LINES: usize = 64;
/// How often it is told that they are not published.
const TELL: Duration = Duration::from_secs(60);
/// How long a policy may take to come.
const FETCH: Duration = Duration::from_secs(60);

fn other<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> StoreError {
    move |error| StoreError::Other {
        what,
        reason: error.to_string(),
    }
}

/// A connection to the store.
#[derive(Clone)]
pub struct Nats {
    jetstream: Context,
    bucket: String,
}

/// Whether a connection is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// However long it takes: it is tried again and again.
    Endless,
    /// One attempt.
    None,
}

impl From<kv::Entry> for Found {
    fn from(entry: kv::Entry) -> Self {
        Found {
            key: entry.key,
            value: (entry.operation == Operation::Put).then_some(entry.value),
            revision: entry.revision,
        }
    }
}

impl Nats {
    /// Connects. `event` is told of what happens to the connection.
    ///
    /// # Errors
    /// If the credentials cannot be used, or nobody answers.
    pub async fn connect(
        fleet: &config::Fleet,
        patience: Patience,
        name: &str,
        event: impl Fn(async_nats::Event) + Clone + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Nats::connect_with(ConnectOptions::new(), fleet, patience, name, event).await
    }

    /// Connects for decisions. What the server does not let us publish is counted, and told now and then.
    ///
    /// # Errors
    /// If the credentials cannot be used, or nobody answers.
    pub async fn connect_for_decisions(
        fleet: &config::Fleet,
        host: &str,
        unsent: Counter,
    ) -> Result<Self, StoreError> {
        let told = Arc::new(Mutex::new(None::<Instant>));
        let event = move |event| {
            if let async_nats::Event::ServerError(error) = event {
                unsent.inc();
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.is_none_or(|told| told.elapsed() >= TELL) {
                    *told = Some(Instant::now());
                    tracing::warn!(%error, "decisions are not published");
                }
            }
        };
        // Few lines wait in the client: those that wait before it are counted.
        let options = ConnectOptions::new().client_capacity(MAX_LINES);
        let name = format!("{host} (decisions)");
        Nats::connect_with(options, fleet, Patience::Endless, &name, event).await
    }

    async fn connect_with(
        options: ConnectOptions,
        fleet: &config::Fleet,
        patience: Patience,
        name: &str,
        event: impl Fn(async_nats::Event) + Clone + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let mut options = options
            .name(format!("portcullis {name}"))
            .connection_timeout(CONNECT)
            .request_timeout(Some(ANSWER))
            .reconnect_delay_callback(pause)
            .event_callback(move |happened| {
                event(happened);
                std::future::ready(())
            });
        if patience == Patience::Endless {
            options = options.retry_on_initial_connect().max_reconnects(None);
        }
        if let Some(path) = &fleet.credentials {
            let text = std::fs::read_to_string(path);
            let wrong = |source| StoreError::Credentials {
                path: path.clone(),
                source,
            };
            let text = text.map_err(wrong)?;
            let text = text.trim();
            options = match text.split_once(':') {
                _ if text.starts_with("SU") => options.nkey(text.to_owned()),
                Some((user, password)) if !text.contains('\n') => {
                    options.user_and_password(user.to_owned(), password.to_owned())
                }
                _ => options.credentials(text).map_err(wrong)?,
            };
        }
        if let Some(path) = &fleet.roots {
            options = options.add_root_certificates(path.clone());
        }
        if let Some(files) = fleet.identity() {
            options = options.add_client_certificate(files.certificate, files.key);
        }
        let servers: Vec<&str> = fleet
            .servers
            .iter()
            .map(|it| without_password(it))
            .collect();
        let servers = servers.join(", ");
        let addresses: Result<Vec<async_nats::ServerAddr>, _> =
            fleet.servers.iter().map(|server| server.parse()).collect();
        let wrong = |reason: String| StoreError::Connect {
            servers: servers.clone(),
            reason,
        };
        let addresses = addresses.map_err(|error| wrong(error.to_string()))?;
        if addresses.iter().any(async_nats::ServerAddr::has_user_pass) {
            let reason = "a password stands in a file (credentials), and not in the address";
            return Err(wrong(reason.into()));
        }
        let client = options.connect(addresses).await;
        let client = client.map_err(|error| wrong(error.to_string()))?;
        let mut jetstream = async_nats::jetstream::new(client);
        jetstream.set_timeout(ANSWER);
        Ok(Nats {
            jetstream,
            bucket: fleet.bucket.clone(),
        })
    }

    /// Makes the buckets of a fleet, so many copies of each.
    ///
    /// # Errors
    /// If they cannot be made.
    pub async fn init(&self, replicas: usize) -> Result<(), StoreError> {
        let policies = kv::Config {
            bucket: self.bucket.clone(),
            description: "Portcullis: policies".into(),
            history: HISTORY,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        let status = kv::Config {
            bucket: self.status_bucket(),
            description: "Portcullis: what hosts say of themselves".into(),
            history: 1,
            max_age: STATUS_AGE,
            num_replicas: replicas,
            ..kv::Config::default()
        };
        for config in [policies, status] {
            let bucket = config.bucket.clone();
            let made = self.jetstream.create_key_value(config).await;
            made.map_err(|error| StoreError::Bucket {
                bucket,
                reason: error.to_string(),
            })?;
        }
        let bodies = object_store::Config {
            bucket: self.bucket.clone(),
            description: Some("Portcullis: large policies".into()),
            num_replicas: replicas,
            ..object_store::Config::default()
        };
        let made = self.jetstream.create_object_store(bodies).await;
        made.map_err(|error| StoreError::Bucket {
            bucket: self.bucket.clone(),
            reason: error.to_string(),
        })?;
        Ok(())
    }

    fn status_bucket(&self) -> String {
        format!("{}-status", self.bucket)
    }

    async fn policies(&self) -> Result<kv::Store, StoreError> {
        self.bucket(self.bucket.clone()).await
    }

    async fn bucket(&self, bucket: String) -> Result<kv::Store, StoreError> {
        let found = self.jetstream.get_key_value(&bucket).await;
        found.map_err(|error| StoreError::Bucket {
            bucket,
            reason: error.to_string(),
        })
    }

    async fn bodies(&self) -> Result<ObjectStore, StoreError> {
        let found = self.jetstream.get_object_store(&self.bucket).await;
        found.map_err(|error| StoreError::Bucket {
            bucket: self.bucket.clone(),
            reason: error.to_string(),
        })
    }

    /// What the stream of policies says of itself.
    ///
    /// # Errors
    /// If it does not answer, or there is none.
    pub async fn stream(&self) -> Result<Stream, StoreError> {
        let name = format!("KV_{}", self.bucket);
        let stream = self.jetstream.get_stream(&name).await;
        let stream: stream::Stream = stream.map_err(|error| StoreError::Bucket {
            bucket: self.bucket.clone(),
            reason: error.to_string(),
        })?;
        let info = stream.cached_info();
        Ok(Stream {
            created: info.created.to_string(),
            last: info.state.last_sequence,
            is_empty: info.state.messages == 0,
        })
    }

    /// All entries as they are now, and then each as it comes; or only those after a revision.
    ///
    /// # Errors
    /// If that cannot be begun.
    pub async fn watch(&self, after: Option<u64>) -> Result<Watch, StoreError> {
        let policies = self.policies().await?;
        let watch = match after {
            None => policies.watch_with_history(">").await,
            Some(revision) => policies.watch_all_from_revision(revision + 1).await,
        };
        watch.map_err(other("watching policies"))
    }

    /// The entry of a key.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn get(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        let policies = self.policies().await?;
        let found = policies.entry(key.to_string()).await;
        let found = found.map_err(other("reading an entry"))?;
        Ok(found.map(Found::from))
    }

    /// All entries that there have been of a key, as far as they are kept, oldest first.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn history(&self, key: &Key) -> Result<Vec<Found>, StoreError> {
        let policies = self.policies().await?;
        let history = policies.history(key.to_string()).await;
        let history = history.map_err(other("reading the history"))?;
        let found: Vec<_> = history.collect().await;
        let found = found.into_iter().map(|entry| entry.map(Found::from));
        found
            .collect::<Result<_, _>>()
            .map_err(other("reading the history"))
    }

    /// All entries as they are now.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn all(&self) -> Result<Vec<Found>, StoreError> {
        let stream = self.stream().await?;
        let mut all = Vec::new();
        if stream.is_empty {
            return Ok(all);
        }
        let mut watch = self.watch(None).await?;
        while let Some(entry) = timeout(ANSWER, watch.next())
            .await
            .map_err(other("reading entries"))?
        {
            let entry = entry.map_err(other("reading entries"))?;
            let is_last = entry.delta == 0;
            all.push(Found::from(entry));
            if is_last {
                break;
            }
        }
        Ok(all)
    }

    /// Puts an entry, if the newest is still that of this revision (0: there is none).
    ///
    /// # Errors
    /// If somebody else was first, or the store does not confirm it.
    pub async fn put(&self, key: &Key, value: Vec<u8>, after: u64) -> Result<u64, StoreError> {
        let policies = self.policies().await?;
        let put = policies.update(key.to_string(), value.into(), after).await;
        put.map_err(|error| match error.kind() {
            kv::UpdateErrorKind::WrongLastRevision => StoreError::Changed {
                key: key.to_string(),
            },
            _ => other("putting an entry")(error),
        })
    }

    /// Puts a large policy. It has its digest as its name, so it is there once.
    ///
    /// # Errors
    /// If the store does not confirm it.
    pub async fn put_body(&self, sha256: Sha256, body: &[u8]) -> Result<(), StoreError> {
        let bodies = self.bodies().await?;
        let name = object(sha256);
        // Somebody may have put something else under its name.
        let there = self.body(sha256, body.len() as u64).await;
        if there.is_ok_and(|there| digest_of(&there) == sha256) {
            return Ok(());
        }
        let mut body = body;
        let put = bodies.put(name.as_str(), &mut body).await;
        put.map(drop).map_err(other("putting a policy"))
    }

    /// Fetches a large policy of this size.
    ///
    /// # Errors
    /// If it does not come whole.
    pub async fn body(&self, sha256: Sha256, size: u64) -> Result<Vec<u8>, StoreError> {
        let fetching = async {
            let bodies = self.bodies().await?;
            let object = bodies.get(object(sha256)).await;
            // One that never ends is not waited for.
            let most = size.saturating_add(1);
            let mut object = object.map_err(other("fetching a policy"))?.take(most);
            let mut body = Vec::new();
            let read = object.read_to_end(&mut body);
            read.await.map_err(other("fetching a policy"))?;
            Ok(body)
        };
        let fetched = timeout(FETCH, fetching).await;
        fetched.map_err(other("fetching a policy"))?
    }

    /// Says what a host is like, until it says something else or has been silent for 90 seconds.
    ///
    /// # Errors
    /// If the store does not confirm it.
    pub async fn say(&self, status: &Status) -> Result<(), StoreError> {
        let bucket = self.bucket(self.status_bucket()).await?;
        let text = serde_json::to_vec(status).map_err(other("saying the status"))?;
        let put = bucket.put(status_key(&status.host), text.into()).await;
        put.map(drop).map_err(other("saying the status"))
    }

    /// Publishes decisions under a subject, as long as any come. What the store does not take is counted.
    pub async fn publish(
        &self,
        subject: String,
        mut decisions: UnboundedReceiver<Sent>,
        unsent: Counter,
    ) {
        let client = self.jetstream.client();
        while let Some(sent) = decisions.recv().await {
            match sent {
                Sent::Line(line, _room) => {
                    let published = client.publish(subject.clone(), line.into()).await;
                    if published.is_err() {
                        unsent.inc();
                    }
                }
                // What cannot be told now, others count.
                Sent::Flush(_done) => drop(client.flush().await),
            }
        }
    }

    /// What all hosts say of themselves, and then each as it says something else.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn watch_status(&self) -> Result<Said, StoreError> {
        let bucket = self.bucket(self.status_bucket()).await?;
        let watch = bucket.watch_with_history(">").await;
        Ok(Said(watch.map_err(other("reading the status"))?))
    }

    /// What all hosts say of themselves now.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn said(&self) -> Result<Vec<Status>, StoreError> {
        let bucket = self.bucket(self.status_bucket()).await?;
        let now = bucket.status().await.map_err(other("reading the status"))?;
        let mut all = Vec::new();
        if now.values() == 0 {
            return Ok(all);
        }
        let mut said = self.watch_status().await?;
        loop {
            let next = timeout(ANSWER, said.next()).await;
            let (status, is_current) = next.map_err(other("reading the status"))??;
            all.extend(status);
            if is_current {
                return Ok(all);
            }
        }
    }
}

/// What hosts say.
pub struct Said(Watch);

impl Said {
    /// What one says, and whether all that was there has been said. What cannot be read, as that of another version, or
    /// is said for somebody else, is `None`.
    ///
    /// # Errors
    /// If the store says no more.
    pub async fn next(&mut self) -> Result<(Option<Status>, bool), StoreError> {
        let ended = || StoreError::Other {
            what: "reading the status",
            reason: "the store says no more".into(),
        };
        let entry = self.0.next().await.ok_or_else(ended)?;
        let entry = entry.map_err(other("reading the status"))?;
        let status = serde_json::from_slice::<Status>(&entry.value).ok();
        // A host speaks for itself only.
        let status = status.filter(|status| status_key(&status.host) == entry.key);
        Ok((status, entry.seen_current))
    }
}

/// What a large policy is called in the store.
fn object(sha256: Sha256) -> String {
    format!("sha256-{sha256}")
}

/// The key of what a host says of itself.
fn status_key(host: &str) -> String {
    Key::Tenant(config::Ring::All, host.into())
        .to_string()
        .replacen("all.", "host.", 1)
}

/// A server's address as it may be told.
fn without_password(server: &str) -> &str {
    server.rsplit_once('@').map_or(server, |(_, host)| host)
}
