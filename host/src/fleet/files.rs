//! A store that consists of files, behind a web server or in a folder: as `portcullis fleet export` makes it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Request, StatusCode, Uri};
use portcullis::Sha256;
use portcullis::statement::digest_of;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

use super::entry::Key;
use super::index::{
    Index, IndexError, MAX_INDEX, Object, SHARDS, object_path, read_shard, shard_of,
};
use super::store::{Batch, Found, Reach, StoreError, Stream, TOGETHER, pause};
use crate::config;
use crate::http_client::{HttpClient, authorization};
use crate::tls::{Pair, roots_beside_system};

/// The file that names all others.
pub const INDEX: &str = "index.json";
/// How long a file may take to come, and how long a large policy.
const FETCH: Duration = Duration::from_secs(10);
const FETCH_LARGE: Duration = Duration::from_secs(60);
/// Files that are fetched at a time.
const MAX_FETCHES: usize = 16;
/// Batches that wait until the one before has been looked at.
const MAX_WAITING: usize = 2;
/// The largest file of what lets us in.
const MAX_CREDENTIALS: (usize, &str) = (64 << 10, "the limit of credentials");
/// How often an older index may come before it is believed that the store has gone back.
const MAX_STALE: u32 = 6;
/// What is told of a store at once.
const MAX_TROUBLE: usize = 5;

/// A store of files.
#[derive(Clone)]
pub struct Files(Arc<Inner>);

struct Inner {
    place: Place,
    poll: Duration,
    reach: Reach,
    latest: RwLock<Option<Latest>>,
}

/// The index that was read last.
#[derive(Clone)]
struct Latest {
    index: Arc<Index>,
    digest: Sha256,
    etag: Option<HeaderValue>,
}

/// Where files are.
enum Place {
    Web {
        client: HttpClient,
        /// Ends with a slash.
        base: String,
        /// The file of what lets us in.
        credentials: Option<PathBuf>,
    },
    /// With turns of those who wait for the file system, which may never answer.
    Folder(PathBuf, Arc<Semaphore>),
}

/// A file that has come.
struct Fetched {
    content: Bytes,
    etag: Option<HeaderValue>,
}

impl Place {
    fn open(fleet: &config::Fleet, url: &str) -> Result<Self, StoreError> {
        if let Some(folder) = url.strip_prefix("file://") {
            let turns = Arc::new(Semaphore::new(MAX_FETCHES));
            return Ok(Place::Folder(folder.into(), turns));
        }
        let wrong = |reason: String| StoreError::File {
            place: url.into(),
            reason,
        };
        let roots = roots_beside_system(fleet.roots.as_deref());
        let roots = roots.map_err(|error| wrong(error.to_string()))?;
        let identity = fleet.identity().map(|files| Pair::read(&files)).transpose();
        let identity = identity.map_err(|error| wrong(error.to_string()))?;
        let client = HttpClient::new(roots, identity.as_ref());
        let place = Place::Web {
            client: client.map_err(|error| wrong(error.to_string()))?,
            base: format!("{}/", url.trim_end_matches('/')),
            credentials: fleet.credentials.clone(),
        };
        place.authorization()?;
        Ok(place)
    }

    /// What lets us in, as it is in its file now: it may be good for a short time only.
    fn authorization(&self) -> Result<Option<HeaderValue>, StoreError> {
        let Place::Web {
            credentials: Some(path),
            ..
        } = self
        else {
            return Ok(None);
        };
        let wrong = |source| StoreError::Credentials {
            path: path.clone(),
            source,
        };
        let secret = portcullis::read_file(path, MAX_CREDENTIALS).map_err(wrong)?;
        let secret = String::from_utf8(secret)
            .map_err(|error| wrong(io::Error::new(ErrorKind::InvalidData, error)))?;
        let header = authorization(&secret);
        header
            .map(Some)
            .map_err(|error| wrong(io::Error::new(ErrorKind::InvalidData, error)))
    }

    /// A file of at most so many octets; `None` if it is the one that has this tag.
    async fn read(
        &self,
        path: &str,
        (most, patience): (usize, Duration),
        tag: Option<&HeaderValue>,
    ) -> Result<Option<Fetched>, StoreError> {
        match self {
            Place::Folder(folder, turns) => {
                let place = folder.join(path);
                let wrong = |reason: String| StoreError::File {
                    place: place.display().to_string(),
                    reason,
                };
                let reading = read_file(place.clone(), most, turns.clone());
                let content = timeout(patience, reading).await;
                let content = content.map_err(|_| wrong("it does not answer".into()))?;
                let content = content.map_err(|error| wrong(error.to_string()))?;
                let etag = None;
                Ok(Some(Fetched { content, etag }))
            }
            Place::Web { client, base, .. } => {
                let place = format!("{base}{path}");
                let wrong = |reason: String| StoreError::File {
                    place: place.clone(),
                    reason,
                };
                let uri: Uri = place.parse().map_err(|_| wrong("it is no URL".into()))?;
                let mut request = Request::get(uri);
                if let Some(secret) = self.authorization()? {
                    request = request.header(AUTHORIZATION, secret);
                }
                if let Some(tag) = tag {
                    request = request.header(IF_NONE_MATCH, tag);
                }
                let request = request.body(Full::default());
                let request = request.map_err(|error| wrong(error.to_string()))?;
                let answer = client.request(request, most, patience).await;
                let answer = answer.map_err(|error| wrong(error.to_string()))?;
                match answer.status() {
                    StatusCode::NOT_MODIFIED if tag.is_some() => Ok(None),
                    StatusCode::OK => Ok(Some(Fetched {
                        etag: answer.headers().get(ETAG).cloned(),
                        content: answer.into_body(),
                    })),
                    other => Err(wrong(format!("the server answers {other}"))),
                }
            }
        }
    }

    /// The file with a digest.
    async fn object(&self, object: Object, patience: Duration) -> Result<Bytes, StoreError> {
        let path = object.path();
        let wrong = |reason: String| StoreError::File {
            place: path.clone(),
            reason,
        };
        let most = usize::try_from(object.size).unwrap_or(usize::MAX);
        let Some(Fetched { content, .. }) = self.read(&path, (most, patience), None).await? else {
            return Err(wrong("it did not come".into()));
        };
        let found = digest_of(&content);
        match found == object.sha256 {
            true => Ok(content),
            false => Err(wrong(format!("what came has the SHA-256 {found}"))),
        }
    }
}

/// Reads a file, if few others wait for the file system.
async fn read_file(place: PathBuf, most: usize, turns: Arc<Semaphore>) -> io::Result<Bytes> {
    let turn = turns.acquire_owned().await.map_err(io::Error::other)?;
    let read = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        portcullis::read_file(&place, (most, "its size in the index"))
    });
    let content = read.await.map_err(io::Error::other)??;
    Ok(content.into())
}

impl Files {
    /// The files at an address.
    ///
    /// # Errors
    /// If what lets us in cannot be used.
    pub fn open(fleet: &config::Fleet, url: &str, reach: Reach) -> Result<Self, StoreError> {
        Ok(Files(Arc::new(Inner {
            place: Place::open(fleet, url)?,
            poll: fleet.poll,
            reach,
            latest: RwLock::default(),
        })))
    }

    fn latest(&self) -> Option<Latest> {
        let latest = self.0.latest.read();
        latest.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the index again.
    async fn read_index(&self) -> Result<Latest, StoreError> {
        let before = self.latest();
        let tag = before.as_ref().and_then(|it| it.etag.as_ref());
        let fetched = self.0.place.read(INDEX, (MAX_INDEX, FETCH), tag).await?;
        let latest = match (fetched, before) {
            (None, Some(before)) => before,
            (None, None) => return Err(wrong_index("it did not come".into())),
            (Some(Fetched { content, etag }), before) => {
                let digest = digest_of(&content);
                match before.filter(|it| it.digest == digest) {
                    Some(before) => Latest { etag, ..before },
                    None => {
                        let index = Index::read(&content);
                        let index = index.map_err(|error| wrong_index(error.to_string()))?;
                        let index = Arc::new(index);
                        Latest {
                            index,
                            digest,
                            etag,
                        }
                    }
                }
            }
        };
        Ok(latest)
    }

    fn keep(&self, latest: &Latest) {
        let mut kept = self
            .0
            .latest
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *kept = Some(latest.clone());
    }

    /// How often it is looked whether something has changed.
    pub fn poll(&self) -> Duration {
        self.0.poll
    }

    /// What the store says of itself.
    ///
    /// # Errors
    /// If there is no index.
    pub async fn stream(&self) -> Result<Stream, StoreError> {
        let latest = match self.latest() {
            Some(latest) => latest,
            None => {
                let latest = self.read_index().await;
                let latest = latest.inspect_err(|error| self.0.reach.lost(Some(error)))?;
                self.0.reach.found();
                self.keep(&latest);
                latest
            }
        };
        let index = latest.index;
        Ok(Stream {
            created: index.store.clone(),
            last: index.revision,
            is_empty: index.shards.iter().all(Option::is_none),
        })
    }

    /// The entry of a key.
    ///
    /// # Errors
    /// If a file does not come.
    pub async fn get(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        let Some(latest) = self.latest() else {
            return Err(wrong_index("it has not come yet".into()));
        };
        let number = shard_of(key);
        let Some(shard) = latest.index.shards.get(number).copied().flatten() else {
            return Ok(None);
        };
        let entries = self.shard(number, shard).await?;
        let Some((_, object)) = entries.into_iter().find(|(found, _)| found == key) else {
            return Ok(None);
        };
        Ok(Some(Found {
            key: key.to_string(),
            value: Some(self.0.place.object(object, FETCH).await?),
            revision: latest.index.revision,
        }))
    }

    /// A large policy.
    ///
    /// # Errors
    /// If it does not come whole.
    pub async fn body(&self, sha256: Sha256, size: u64) -> Result<Vec<u8>, StoreError> {
        let body = self
            .0
            .place
            .object(Object { sha256, size }, FETCH_LARGE)
            .await?;
        Ok(body.into())
    }

    async fn shard(&self, number: usize, shard: Object) -> Result<Vec<(Key, Object)>, StoreError> {
        let content = self.0.place.object(shard, FETCH).await?;
        read_shard(&content, number).map_err(|error: IndexError| StoreError::File {
            place: object_path(shard.sha256),
            reason: error.to_string(),
        })
    }

    /// All entries as they are now, and then each as it comes.
    pub fn watch(&self) -> mpsc::Receiver<Result<Batch, StoreError>> {
        let (to, batches) = mpsc::channel(MAX_WAITING);
        let watching = Watching {
            files: self.clone(),
            shards: vec![Shard::default(); SHARDS],
            seen: None,
            stale: 0,
            to,
        };
        tokio::spawn(watching.run());
        batches
    }
}

fn wrong_index(reason: String) -> StoreError {
    StoreError::File {
        place: INDEX.into(),
        reason,
    }
}

/// What was seen of a shard.
#[derive(Clone, Default)]
struct Shard {
    /// All of it.
    sha256: Option<Sha256>,
    entries: HashMap<Key, Sha256>,
}

/// Looks at the index again and again, and fetches what is new.
struct Watching {
    files: Files,
    shards: Vec<Shard>,
    /// The index that was looked at last, if all came that it names.
    seen: Option<Latest>,
    /// How often there was an older one since.
    stale: u32,
    to: mpsc::Sender<Result<Batch, StoreError>>,
}

/// Whoever asked for entries wants no more.
struct Unwanted;

impl Watching {
    async fn run(mut self) {
        let mut attempts = 0;
        loop {
            match self.look().await {
                Ok(Ok(())) => attempts = 0,
                Ok(Err(error)) => {
                    self.files.0.reach.lost(Some(&error));
                    attempts += 1;
                }
                Err(Unwanted) => return,
            }
            let poll = self.files.0.poll;
            let pause = match attempts {
                0 => poll.mul_f64(0.9 + fastrand::f64() / 5.0),
                _ => pause(attempts).max(poll),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.to.closed() => return,
            }
        }
    }

    /// Looks at the index once.
    async fn look(&mut self) -> Result<Result<(), StoreError>, Unwanted> {
        let latest = match self.files.read_index().await {
            Ok(latest) => latest,
            Err(error) => return Ok(Err(error)),
        };
        self.files.0.reach.found();
        if self
            .seen
            .as_ref()
            .is_some_and(|it| it.digest == latest.digest)
        {
            if std::mem::take(&mut self.stale) > 0 {
                let batch = Batch {
                    newest: Some(latest.index.revision),
                    is_current: true,
                    trouble: Some(Vec::new()),
                    ..Batch::default()
                };
                self.send(Ok(batch)).await?;
            }
            return Ok(Ok(()));
        }
        let known = self.files.latest();
        if let Some(known) = &known {
            let is_older = latest.index.revision < known.index.revision;
            self.stale = if is_older { self.stale + 1 } else { 0 };
            if known.index.store != latest.index.store || self.stale > MAX_STALE {
                self.files.keep(&latest);
                let error = StoreError::Other {
                    what: "looking at the store",
                    reason: "it is another one".into(),
                };
                self.send(Err(error)).await?;
                return Err(Unwanted);
            }
            // A cache may give what was there before: so nobody knows what there is now.
            if is_older {
                let text = format!(
                    "{INDEX} is of revision {}, older than what was there before ({}), and is not followed",
                    latest.index.revision, known.index.revision
                );
                let batch = Batch {
                    newest: Some(known.index.revision),
                    trouble: Some(vec![text]),
                    ..Batch::default()
                };
                self.send(Ok(batch)).await?;
                return Ok(Ok(()));
            }
        }
        self.stale = 0;
        self.files.keep(&latest);
        let is_whole = self.take(&latest.index).await?;
        self.seen = is_whole.then_some(latest);
        Ok(Ok(()))
    }

    /// Fetches what is new in an index; false if something of it did not come.
    async fn take(&mut self, index: &Index) -> Result<bool, Unwanted> {
        // Until all of it has come, there may be more tenants than are known.
        let begun = Batch {
            newest: Some(index.revision),
            ..Batch::default()
        };
        self.send(Ok(begun)).await?;
        let (mut trouble, mut wanted, mut gone) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut read = HashMap::new();
        let changed: Vec<(usize, Option<Object>)> = (index.shards.iter().copied().enumerate())
            .filter(|(number, shard)| {
                self.shards[*number].sha256 != shard.map(|shard| shard.sha256)
            })
            .collect();
        let files = &self.files;
        let mut shards = stream::iter(changed)
            .map(|(number, shard)| async move {
                let entries = match shard {
                    Some(shard) => files.shard(number, shard).await,
                    None => Ok(Vec::new()),
                };
                (number, shard, entries)
            })
            .buffer_unordered(MAX_FETCHES);
        while let Some((number, shard, entries)) = shards.next().await {
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) => {
                    trouble.push(error.to_string());
                    continue;
                }
            };
            let known = &self.shards[number].entries;
            let there: HashSet<&Key> = entries.iter().map(|(key, _)| key).collect();
            gone.extend(known.keys().filter(|key| !there.contains(key)).cloned());
            for (key, object) in entries {
                if known.get(&key) != Some(&object.sha256) {
                    wanted.insert(key, object);
                }
            }
            read.insert(number, shard.map(|shard| shard.sha256));
        }
        drop(shards);
        let is_whole = self.fetch(wanted, &mut read).await? && trouble.is_empty();
        for key in &gone {
            self.shards[shard_of(key)].entries.remove(key);
        }
        for (number, sha256) in read {
            self.shards[number].sha256 = sha256;
        }
        trouble.sort();
        trouble.truncate(MAX_TROUBLE);
        let gone = gone.into_iter().map(|key| Found {
            key: key.to_string(),
            value: None,
            revision: index.revision,
        });
        let batch = Batch {
            entries: gone.collect(),
            failed: Vec::new(),
            revision: is_whole.then_some(index.revision),
            newest: Some(index.revision),
            is_current: is_whole,
            trouble: Some(trouble),
        };
        self.send(Ok(batch)).await?;
        Ok(is_whole)
    }

    /// Fetches entries and sends them on; false if one did not come. Shards of which something did not come are taken out
    /// of those that were read.
    async fn fetch(
        &mut self,
        mut wanted: BTreeMap<Key, Object>,
        read: &mut HashMap<usize, Option<Sha256>>,
    ) -> Result<bool, Unwanted> {
        // Others are verified by root statements, each of which follows the one before it.
        let mut roots: Vec<(Key, Object)> = wanted
            .extract_if(.., |key, _| matches!(key, Key::Root(_)))
            .collect();
        roots.sort_by_key(|(key, _)| match key {
            Key::Root(version) => *version,
            Key::Tenant(..) => u64::MAX,
        });
        for root in roots {
            if !self.fetch_some(vec![root], read).await? {
                read.clear();
                return Ok(false);
            }
        }
        let wanted = wanted.into_iter().collect();
        self.fetch_some(wanted, read).await
    }

    async fn fetch_some(
        &mut self,
        wanted: Vec<(Key, Object)>,
        read: &mut HashMap<usize, Option<Sha256>>,
    ) -> Result<bool, Unwanted> {
        let files = self.files.clone();
        let mut fetched = stream::iter(wanted)
            .map(|(key, object)| {
                let files = files.clone();
                async move {
                    let content = files.0.place.object(object, FETCH).await;
                    (key, object, content)
                }
            })
            .buffer_unordered(MAX_FETCHES)
            .ready_chunks(TOGETHER);
        let mut is_whole = true;
        // What has come waits for nothing that has not.
        while let Some(fetched) = fetched.next().await {
            let mut batch = Batch::default();
            for (key, object, content) in fetched {
                let shard = shard_of(&key);
                match content {
                    Ok(content) => {
                        batch.entries.push(Found {
                            key: key.to_string(),
                            value: Some(content),
                            revision: 0,
                        });
                        self.shards[shard].entries.insert(key, object.sha256);
                    }
                    Err(error) => {
                        is_whole = false;
                        read.remove(&shard);
                        batch.failed.push((key, error.to_string()));
                    }
                }
            }
            self.send(Ok(batch)).await?;
        }
        Ok(is_whole)
    }

    async fn send(&self, batch: Result<Batch, StoreError>) -> Result<(), Unwanted> {
        self.to.send(batch).await.map_err(|_| Unwanted)
    }
}
