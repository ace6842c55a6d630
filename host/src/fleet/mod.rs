//! Policies from a store that many hosts follow: what is there is verified, kept on the disk, and handed over to the
//! daemon. Without the store all goes on as it was.

mod entry;
mod files;
mod index;
mod keeper;
mod nats;
mod publish;
mod source;
mod status;
mod store;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis::statement::{Format, PolicyStatement, Time, Trust};
use portcullis::store::Store;
use portcullis::{Priority, Sha256, one_line};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

pub use self::entry::{Entry, Key, MAX_BODY, MAX_ENTRY};
pub use self::files::INDEX;
pub use self::index::{
    Index, IndexError, Object, SHARDS, object_path, read_shard, shard_of, shard_to_json,
};
use self::keeper::{Judged, Keeper};
pub use self::keeper::{Own, Refusal};
pub use self::nats::{Nats, Patience};
pub use self::publish::{
    Draft, Newest, PublishError, Published, Release, history, publish, verify,
};
use self::source::Source;
pub use self::status::{Exception, Status};
pub use self::store::{Batch, Found, StoreError};
use self::store::{Reach, Stream, pause};
use crate::config::{self, Config, Tenant, state_file};
use crate::observe::decisions::{Sent, Sink};
use crate::observe::metrics::FleetMetrics;
use crate::trust::{DiskLedger, Trusted};

/// Refused entries that are remembered.
const MAX_REFUSED: usize = 10_000;
/// How often a host says what it is like, though nothing has changed.
const SAY: Duration = Duration::from_secs(30);
/// How often at most.
const SAY_PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether the store is still the same, and at entries that were refused.
const LOOK: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The pause before a policy is fetched again that did not come.
const FETCH_AGAIN: Duration = Duration::from_secs(10);
/// Large policies that are fetched at a time.
const MAX_FETCHES: usize = 4;
/// Refused entries that are looked at again each time.
const MAX_AGAIN: usize = 100;
/// Those that the operators have not named.
const MAX_JUNK: usize = 1000;
const MAX_JUNK_AGAIN: usize = 20;
/// Tenants that an alarm names.
const MAX_NAMES: usize = 5;

/// What the daemon is to carry out.
pub struct Change {
    /// Tenants that are new, or have another policy or other domains.
    pub tenants: Vec<Tenant>,
    /// Those that are taken away.
    pub retired: Vec<String>,
    /// Told once it is done, as far as it is done at once.
    pub done: oneshot::Sender<()>,
}

/// What there is before the store is followed.
pub struct Begun {
    /// Who will follow it.
    pub follower: Follower,
    /// The tenants that were kept.
    pub tenants: Vec<Tenant>,
    /// What will be to carry out.
    pub changes: mpsc::Receiver<Change>,
    /// What is in the configuration of the host, whenever that is another one.
    pub own: Arc<ArcSwap<Own>>,
    /// Where decisions go, if they are to be published.
    pub sink: Option<Sink>,
}

/// Follows the store.
pub struct Follower {
    config: config::Fleet,
    host: String,
    /// What this host has said of itself.
    said: Arc<ArcSwap<Status>>,
    /// Decisions that are to be published.
    decisions: Option<UnboundedReceiver<Sent>>,
    metrics: FleetMetrics,
    /// Whether there may be tenants that have not come yet.
    awaits_tenants: Arc<AtomicBool>,
    reach: Reach,
    /// Whether the store is followed.
    is_following: bool,
    trust: Arc<Trust>,
    disk: Arc<DiskLedger>,
    keeper: Keeper,
    changes: mpsc::Sender<Change>,
    policies: Arc<Store>,
    updated: watch::Receiver<()>,
    /// All up to here has been looked at.
    revision: u64,
    /// What there was in the store when it was looked at.
    head: u64,
    /// When the store was made that is followed.
    created: Option<String>,
    /// Whether all entries have to be looked at again.
    compare: bool,
    /// Whether something could not be kept, and has to come again.
    is_lost: bool,
    /// Whether something was refused because the disk did not take it.
    is_disk_full: bool,
    /// The tenants in the store, as long as not all have been seen.
    seen: Option<HashSet<String>>,
    missing: BTreeSet<String>,
    is_other_store: bool,
    /// What is wrong with the store otherwise.
    trouble: Vec<String>,
    /// Entries whose policy is being fetched.
    fetching: HashMap<String, (Key, Entry)>,
    bodies: JoinSet<Fetched>,
    /// Entries that were refused, each with why: what is too early now is looked at again.
    refused: BTreeMap<Key, String>,
    refused_after: Option<Key>,
    /// The same of what the operators have not named: it may be anybody's.
    junk: BTreeMap<Key, String>,
    junk_after: Option<Key>,
    /// Whether there is more of that than is remembered.
    is_junk_lost: bool,
    /// Whether the operators have other keys than those by which entries were refused.
    is_root_new: bool,
    /// Whether there is something in the store that has not come yet.
    is_behind: bool,
    /// Tenants that were handed over, and have not what they should yet.
    pending: HashSet<String>,
}

/// Why the store is followed no longer, where nothing is wrong with it.
enum End {
    /// Nobody wants it.
    Unwanted,
    /// All of it has to be looked at again.
    Compare,
}

/// What is fetched came, or did not.
type Fetched = (String, Sha256, Format, Result<Vec<u8>, StoreError>);

impl Follower {
    /// What was kept before, and who follows the store.
    ///
    /// # Errors
    /// If what was kept cannot be read.
    pub fn begin(
        config: config::Fleet,
        server: &Config,
        Trusted { trust, disk }: Trusted,
        (policies, updated): (Arc<Store>, watch::Receiver<()>),
        awaits_tenants: Arc<AtomicBool>,
        metrics: FleetMetrics,
    ) -> Result<Begun, Refusal> {
        // Signatures need that folder as well.
        let folder = server.delivery.state_folder().unwrap_or_default();
        let folder = state_file(&folder, "policies", &server.path, "d");
        let most = server.sandbox.limits().policy_size;
        let own = Arc::new(ArcSwap::from_pointee(Own::of(server)));
        let (keeper, tenants) = Keeper::open(
            trust.clone(),
            disk.clone(),
            folder,
            config.ring,
            (most, own.clone()),
        )?;
        awaits_tenants.store(true, Ordering::Relaxed);
        let (changes, taken) = mpsc::channel(1);
        let host = config.name.clone();
        let host = host.unwrap_or_else(|| server.hostname.clone());
        let decisions = config.decisions.as_ref();
        let sink = decisions.map(|_| Sink::new(&host, metrics.unsent.clone()));
        let (sink, decisions) = sink.unzip();
        let follower = Follower {
            host,
            said: Arc::default(),
            decisions,
            metrics: metrics.clone(),
            reach: Reach::new(awaits_tenants.clone(), metrics),
            awaits_tenants,
            is_following: false,
            head: 0,
            created: disk.meta(STORE)?,
            config,
            trust,
            disk,
            pending: tenants.iter().map(|it| it.name.clone()).collect(),
            keeper,
            changes,
            policies,
            updated,
            revision: 0,
            compare: true,
            is_lost: false,
            is_disk_full: false,
            seen: None,
            missing: BTreeSet::new(),
            is_other_store: false,
            trouble: Vec::new(),
            fetching: HashMap::new(),
            bodies: JoinSet::new(),
            refused: BTreeMap::new(),
            refused_after: None,
            junk: BTreeMap::new(),
            junk_after: None,
            is_junk_lost: false,
            is_root_new: false,
            is_behind: false,
        };
        Ok(Begun {
            follower,
            tenants,
            changes: taken,
            own,
            sink,
        })
    }

    /// What this host says of itself.
    pub fn said(&self) -> Arc<ArcSwap<Status>> {
        self.said.clone()
    }

    /// Follows the store as long as the daemon takes what comes: on a thread of its own, which leaves the processors to
    /// mail.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let awaits_tenants = Awaits(self.awaits_tenants.clone());
        let follow = move || {
            // However this ends.
            let _awaits_tenants = awaits_tenants;
            Priority::Low.take_on();
            runtime.block_on(self.follow());
        };
        let thread = std::thread::Builder::new().name("fleet".into());
        thread.spawn(follow).map(drop)
    }

    async fn follow(mut self) {
        let mut attempts = 0;
        let mut told = None;
        let source = loop {
            match Source::open(&self.config, &self.host, &self.reach).await {
                Ok(source) => break source,
                Err(error) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        tracing::error!(%error, "the fleet's store cannot be followed");
                        told = Some(error);
                    }
                }
            }
            sleep(pause(attempts)).await;
            attempts += 1;
        };
        let publishing = self.decisions.take().map(|decisions| {
            let (fleet, host) = (self.config.clone(), self.host.clone());
            let unsent = self.metrics.unsent.clone();
            tokio::spawn(publish_decisions(fleet, host, decisions, unsent))
        });
        self.follow_source(&source).await;
        // Sessions that end after that decide, too.
        if let Some(publishing) = publishing {
            let _ = publishing.await;
        }
    }

    /// Follows the store until nobody wants what comes.
    async fn follow_source(&mut self, source: &Source) {
        let (mut attempts, mut told) = (0, None);
        while !self.changes.is_closed() {
            let begun = Instant::now();
            let error = match self.watch(source).await {
                Ok(End::Unwanted) => return,
                Ok(End::Compare) => {
                    self.compare = true;
                    continue;
                }
                Err(error) => error,
            };
            self.is_following = false;
            self.note();
            self.said.store(Arc::new(self.status()));
            let error = one_line(&error.to_string()).into_owned();
            // The same is not told again and again.
            if told.as_ref() != Some(&error) {
                tracing::warn!(%error, "the fleet's store is not followed; policies stay as they are");
                told = Some(error);
            }
            let is_lost = std::mem::take(&mut self.is_lost);
            if begun.elapsed() > LOOK && !is_lost {
                (attempts, told) = (0, None);
            }
            sleep(pause(attempts).max(source.pause())).await;
            attempts += 1;
        }
    }

    /// Looks at all that is in the store, and at what comes, until something is wrong, or nobody wants it any more.
    async fn watch(&mut self, source: &Source) -> Result<End, StoreError> {
        let stream = source.stream().await?;
        self.look_at_store(&stream);
        let after = (!self.compare).then_some(self.revision);
        let mut entries = source.watch(after).await?;
        self.is_following = true;
        self.seen = self.compare.then(HashSet::new);
        // What was more than can be remembered is looked at again.
        self.is_junk_lost &= !self.compare;
        if self.compare && stream.is_empty {
            self.all_seen();
        }
        tracing::info!(
            store = stream.created,
            revision = stream.last,
            "following the fleet's store"
        );
        // If nothing is new, nothing more comes.
        self.note();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.tick().await;
        let mut again = interval(LOOK_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        again.tick().await;
        let mut say_at = Instant::now();
        let mut said_at = say_at;
        let reach = self.reach.clone();
        loop {
            tokio::select! {
                batch = entries.next() => {
                    self.take(source, batch?).await;
                    say_at = say_at.min((said_at + SAY_PAUSE).max(Instant::now()));
                }
                Some(fetched) = self.bodies.join_next(), if !self.bodies.is_empty() => {
                    if let Ok(fetched) = fetched {
                        self.take_body(source, fetched).await;
                    }
                    say_at = say_at.min((said_at + SAY_PAUSE).max(Instant::now()));
                }
                changed = self.updated.changed() => {
                    if changed.is_err() {
                        return Ok(End::Unwanted);
                    }
                    if !self.pending.is_empty() {
                        self.note();
                        say_at = say_at.min((said_at + SAY_PAUSE).max(Instant::now()));
                    }
                }
                _ = looks.tick() => {
                    self.look(source).await?;
                    // There may be room again.
                    if std::mem::take(&mut self.is_disk_full) {
                        self.look_at_refused(source).await;
                    }
                }
                _ = again.tick() => {
                    self.look_at_refused(source).await;
                    self.keeper.tidy();
                    // There is room again for what was not remembered.
                    if self.is_junk_lost && self.junk.len() < MAX_JUNK {
                        return Ok(End::Compare);
                    }
                }
                () = reach.connected() => self.look(source).await?,
                () = sleep_until(say_at) => {
                    said_at = Instant::now();
                    say_at = said_at + SAY;
                    self.said.store(Arc::new(self.status()));
                    let status = self.said.load_full();
                    if let Err(error) = source.say(&status).await {
                        tracing::warn!(%error, "the fleet is not told how this host is");
                    }
                }
            }
            if self.changes.is_closed() {
                return Ok(End::Unwanted);
            }
            let has_refused = !self.refused.is_empty() || !self.junk.is_empty();
            if std::mem::take(&mut self.is_root_new) && has_refused {
                return Ok(End::Compare);
            }
            if self.keeper.take_released() {
                self.look_at_refused(source).await;
            }
            if self.is_lost {
                self.compare = true;
                self.revision = 0;
                return Err(StoreError::Other {
                    what: "keeping what came of the store",
                    reason: "the disk does not take it".into(),
                });
            }
        }
    }

    /// Whether the store is the one that was followed before. One that is not has to be compared.
    fn look_at_store(&mut self, stream: &Stream) {
        self.head = stream.last;
        let is_other = self
            .created
            .as_ref()
            .is_some_and(|it| *it != stream.created);
        if is_other || (self.created.is_some() && !self.compare && stream.last < self.revision) {
            tracing::error!(
                store = stream.created,
                "the fleet's store is another one than before, or has lost entries; policies stay as they are, and all are compared"
            );
            self.is_other_store = true;
            self.compare = true;
            self.revision = 0;
        }
        if self.created.as_ref() != Some(&stream.created) {
            self.created = Some(stream.created.clone());
            if let Err(error) = self.disk.set_meta(STORE, &stream.created) {
                tracing::warn!(%error, "which store is followed is not kept");
            }
        }
    }

    async fn look(&mut self, source: &Source) -> Result<(), StoreError> {
        let stream = source.stream().await?;
        if let Source::Nats(_) = source {
            self.reach.heard();
        }
        let before = (self.created.clone(), self.compare);
        self.look_at_store(&stream);
        match (self.created.clone(), self.compare) == before {
            true => {
                self.note();
                Ok(())
            }
            false => Err(StoreError::Other {
                what: "looking at the store",
                reason: "it is another one".into(),
            }),
        }
    }

    /// Looks again at entries that were refused: their time may have come.
    async fn look_at_refused(&mut self, source: &Source) {
        let mut again = turns(&self.refused, &mut self.refused_after, MAX_AGAIN);
        again.extend(turns(&self.junk, &mut self.junk_after, MAX_JUNK_AGAIN));
        let begun = Instant::now();
        // What is being fetched comes by itself.
        again.retain(|key| !self.fetching.contains_key(&key.to_string()));
        for key in again {
            if begun.elapsed() > LOOK {
                return;
            }
            let found = timeout(LOOK, source.get(&key)).await;
            let found = found.unwrap_or_else(|_| Err(StoreError::silent("reading an entry")));
            let batch = match found {
                Ok(Some(found)) if found.value.is_some() => Batch {
                    entries: vec![found],
                    ..Batch::default()
                },
                Ok(_) => {
                    self.forget(&key);
                    continue;
                }
                // There is another time.
                Err(error) => {
                    tracing::debug!(key = %key, %error, "an entry cannot be looked at again");
                    continue;
                }
            };
            self.take(source, batch).await;
        }
    }

    /// Judges entries, keeps what came of them, and hands it over.
    async fn take(&mut self, source: &Source, batch: Batch) {
        let mut judged = Vec::new();
        let mut names = HashSet::new();
        for found in batch.entries {
            let Some(key) = Key::read(&found.key) else {
                continue;
            };
            let Some(value) = &found.value else {
                self.forget(&key);
                continue;
            };
            let entry = match Entry::read(value) {
                Ok(entry) => entry,
                Err(error) => {
                    self.refuse(&key, 0, &error.into());
                    if let Key::Tenant(_, name) = key {
                        self.see(Some(name));
                    }
                    continue;
                }
            };
            if let Key::Tenant(_, name) = &key {
                self.missing.remove(name);
                // What is judged is held against what was kept before it.
                if !names.insert(name.clone()) {
                    self.hand_over(std::mem::take(&mut judged)).await;
                    names = [name.clone()].into();
                }
            }
            let name = match &key {
                Key::Tenant(_, name) => Some(name.clone()),
                Key::Root(_) => None,
            };
            judged.extend(self.judge(source, key, entry));
            self.see(name);
        }
        self.hand_over(judged).await;
        for (key, reason) in batch.failed {
            self.refuse(&key, 0, &Refusal::Fetch(reason));
        }
        if let Some(newest) = batch.newest {
            (self.head, self.is_behind) = (newest, !batch.is_current);
        }
        if let Some(revision) = batch.revision {
            self.revision = revision.max(self.revision);
        }
        if batch.is_current {
            self.all_seen();
        }
        self.note();
        if let Some(trouble) = batch.trouble.filter(|it| *it != self.trouble) {
            for text in &trouble {
                tracing::error!("the fleet's store is damaged: {}", one_line(text));
            }
            self.trouble = trouble;
        }
    }

    /// An entry was deleted, which nobody can sign: a tenant stays, and what was none is forgotten.
    fn forget(&mut self, key: &Key) {
        self.refused.remove(key);
        self.junk.remove(key);
        match key {
            Key::Tenant(_, name) if self.keeper.has(name) => {
                if self.missing.insert(name.clone()) {
                    tracing::error!(key = %key, "an entry of the fleet's store was deleted, which nobody can sign; the tenant stays");
                }
            }
            Key::Tenant(_, name) => self.keeper.settled(name),
            Key::Root(_) => self.keeper.settled(&key.to_string()),
        }
    }

    /// A tenant that is known here, or will be once its policy has come, is in the store.
    fn see(&mut self, name: Option<String>) {
        if let (Some(name), Some(seen)) = (name, &mut self.seen)
            && (self.keeper.has(&name) || self.keeper.is_vouched(&name))
        {
            seen.insert(name);
        }
    }

    fn judge(&mut self, source: &Source, key: Key, entry: Entry) -> Option<Judged> {
        match self.keeper.judge(&key, &entry) {
            Ok(Judged::NeedsBody { sha256, size }) => {
                self.fetch(source, key, entry, (sha256, size), Duration::ZERO);
                None
            }
            Ok(Judged::Same(name)) => {
                self.settle(&key);
                self.pending.insert(name);
                None
            }
            Ok(judged) => {
                self.settle(&key);
                Some(judged)
            }
            Err(refusal) => {
                self.refuse(&key, entry.sequence(), &refusal);
                None
            }
        }
    }

    /// An entry is refused no longer.
    fn settle(&mut self, key: &Key) {
        self.refused.remove(key);
        self.junk.remove(key);
    }

    fn refuse(&mut self, key: &Key, sequence: u64, refusal: &Refusal) {
        let name = match key {
            Key::Tenant(_, name) => name.clone(),
            Key::Root(_) => key.to_string(),
        };
        let is_root = matches!(key, Key::Root(_));
        let (refused, most) = match is_root || self.keeper.is_vouched(&name) {
            true => (&mut self.refused, MAX_REFUSED),
            false => (&mut self.junk, MAX_JUNK),
        };
        let reason = one_line(&refusal.to_string()).into_owned();
        let has_room = refused.len() < most || refused.contains_key(key);
        self.is_junk_lost |= !has_room;
        let before = has_room.then(|| refused.insert(key.clone(), reason.clone()));
        // What is looked at again is not told again.
        if before.is_some_and(|before| before.as_ref() != Some(&reason)) {
            tracing::error!(key = %key, sequence, "an entry of the fleet's store is not taken: {reason}");
        }
        self.is_disk_full |= matches!(refusal, Refusal::Disk(_));
        self.pending.remove(&name);
        self.keeper.except(&name, sequence, refusal);
    }

    /// Fetches a large policy, a while after it did not come.
    fn fetch(
        &mut self,
        source: &Source,
        key: Key,
        entry: Entry,
        (sha256, size): (Sha256, u64),
        pause: Duration,
    ) {
        let Entry::Policy { statement, .. } = &entry else {
            return;
        };
        let format = statement.statement::<PolicyStatement>();
        let format = format.map_or(Format::Json, |it| it.format);
        let text = key.to_string();
        // It is on its way, or waits for its time.
        let is_begun = |(_, known): &(Key, Entry)| *known == entry;
        if self.fetching.get(&text).is_some_and(is_begun) {
            return;
        }
        if let Key::Tenant(_, name) = &key {
            let waits = Refusal::Fetching(sha256);
            self.keeper.except(name, entry.sequence(), &waits);
        }
        self.fetching.insert(text.clone(), (key, entry));
        let source = source.clone();
        self.bodies.spawn(async move {
            sleep(pause).await;
            static FETCHES: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(MAX_FETCHES);
            let _turn = FETCHES.acquire().await;
            let body = source.body(sha256, size).await;
            (text, sha256, format, body)
        });
    }

    async fn take_body(&mut self, source: &Source, (key, sha256, format, body): Fetched) {
        // Another entry may have come in its place.
        let Some((key, entry)) = self.fetching.remove(&key) else {
            return;
        };
        let kept = match body {
            Ok(body) => self.keeper.keep_body(sha256, format, &body),
            Err(error) => Err(Refusal::Body(sha256, error.to_string())),
        };
        match kept {
            Ok(()) => {
                let judged = self.judge(source, key, entry);
                self.hand_over(judged.into_iter().collect()).await;
            }
            Err(refusal) => {
                self.refuse(&key, entry.sequence(), &refusal);
                if let Ok(Judged::NeedsBody { sha256, size }) = self.keeper.judge(&key, &entry) {
                    self.fetch(
                        source,
                        key.clone(),
                        entry.clone(),
                        (sha256, size),
                        FETCH_AGAIN,
                    );
                    self.refuse_quietly(&key, &entry, &refusal);
                }
            }
        }
    }

    fn refuse_quietly(&mut self, key: &Key, entry: &Entry, refusal: &Refusal) {
        if let Key::Tenant(_, name) = key {
            self.keeper.except(name, entry.sequence(), refusal);
        }
    }

    /// Keeps what was judged, and hands it over: once this ends, it is in force, or being read.
    async fn hand_over(&mut self, judged: Vec<Judged>) {
        let names: Vec<String> = judged.iter().filter_map(Judged::name).collect();
        if let Err(refusal) = self.keeper.commit() {
            tracing::error!("what came of the fleet's store is not taken: {refusal}");
            self.keeper.undo();
            for name in &names {
                self.keeper.except(name, 0, &refusal);
            }
            self.is_lost = true;
            return;
        }
        let (mut tenants, mut retired) = (Vec::new(), Vec::new());
        for judged in judged {
            match judged {
                Judged::Tenant(tenant) => tenants.push(*tenant),
                Judged::Retired(name) => retired.push(name),
                Judged::Root => {
                    self.is_root_new = true;
                    let root = self.trust.roots().newest().version;
                    tracing::info!(root, "the operators have other keys");
                }
                Judged::Nothing | Judged::Same(_) | Judged::NeedsBody { .. } => {}
            }
        }
        self.pending.extend(names);
        for name in &retired {
            self.pending.remove(name);
            self.missing.remove(name);
        }
        if !tenants.is_empty() || !retired.is_empty() {
            let (done, taken) = oneshot::channel();
            let change = Change {
                tenants,
                retired,
                done,
            };
            // Fails only if the daemon ends.
            let _ = self.changes.send(change).await;
            let _ = taken.await;
        }
        self.note();
    }

    /// Looks what became of tenants that were handed over.
    fn note(&mut self) {
        let policies = self.policies.snapshot();
        self.keeper.note(&self.pending, &policies);
        let waiting: HashSet<&String> = self.keeper.exceptions().map(|it| &it.tenant).collect();
        self.pending.retain(|name| waiting.contains(name));
        let exceptions = waiting.len() + self.keeper.dropped();
        self.metrics.exceptions.set(as_gauge(exceptions as u64));
        self.metrics.revision.set(as_gauge(self.revision));
        let has_seen_all = !self.compare && self.seen.is_none() && self.revision >= self.head;
        if has_seen_all && self.missing.is_empty() {
            self.is_other_store = false;
        }
        let is_current = has_seen_all && self.is_following && !self.is_behind;
        // Of what is refused and not remembered, some may be tenants.
        let is_current = is_current && !self.is_junk_lost;
        let awaits = || !is_current || !self.reach.is_connected() || self.keeper.lacks(&policies);
        self.awaits_tenants.store(awaits(), Ordering::Relaxed);
        // The connection may have gone meanwhile.
        if awaits() {
            self.awaits_tenants.store(true, Ordering::Relaxed);
        }
    }

    /// All entries have been seen once: what is in force, and not among them, somebody has lost.
    fn all_seen(&mut self) {
        self.compare = false;
        let Some(seen) = self.seen.take() else {
            return;
        };
        let missing = self.keeper.names().filter(|name| !seen.contains(*name));
        self.missing = missing.cloned().collect();
        if !self.missing.is_empty() {
            tracing::error!("{}", self.told_missing());
        }
        self.note();
    }

    fn told_missing(&self) -> String {
        let names = self.missing.iter().take(MAX_NAMES).map(|name| &**name);
        let names = names.collect::<Vec<_>>().join(", ");
        let count = self.missing.len();
        format!(
            "{count} tenants of this host are not in the store, and stay: {names}{}",
            if count > MAX_NAMES { ", …" } else { "" }
        )
    }

    fn status(&self) -> Status {
        let mut alarms = Vec::new();
        if !self.missing.is_empty() {
            alarms.push(self.told_missing());
        }
        alarms.extend(self.reach.told());
        if self.is_other_store {
            alarms.push("the store is another one than before, or has lost entries".into());
        }
        alarms.extend(self.trouble.iter().cloned());
        let root = self.trust.roots();
        let root = root.newest();
        if root.expires <= Time::now() {
            alarms.push(format!(
                "root {} has expired at {}: nothing new is taken",
                root.version, root.expires
            ));
        }
        let policies = self.policies.snapshot();
        let mut all = self.keeper.taken_over();
        all.extend(self.keeper.exceptions().cloned());
        let further = all.len().saturating_sub(status::MAX_EXCEPTIONS) + self.keeper.dropped();
        let shorten = |mut it: Exception| {
            let in_force = policies.named(&it.tenant).and_then(|it| it.in_force);
            it.in_force = in_force.and_then(|it| it.sequence);
            it.reason = it.reason.chars().take(status::MAX_REASON).collect();
            it
        };
        Status {
            host: self.host.clone(),
            ring: self.config.ring,
            version: env!("CARGO_PKG_VERSION").into(),
            time: Time::now().to_string(),
            store: self.created.clone().unwrap_or_default(),
            revision: self.revision,
            root: root.version,
            tenants: self.keeper.names().count(),
            exceptions: all
                .into_iter()
                .take(status::MAX_EXCEPTIONS)
                .map(shorten)
                .collect(),
            further_exceptions: further,
            alarms,
        }
    }
}

fn as_gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Some of these, behind those whose turn it was last.
fn turns(all: &BTreeMap<Key, String>, last: &mut Option<Key>, most: usize) -> Vec<Key> {
    let behind = |key: &&Key| last.as_ref().is_some_and(|last| *key > last);
    let first: Vec<&Key> = all.keys().filter(behind).take(most).collect();
    let others = all
        .keys()
        .filter(|key| !behind(key))
        .take(most - first.len());
    let turns: Vec<Key> = first.iter().copied().chain(others).cloned().collect();
    *last = turns.last().cloned();
    turns
}

/// Whoever follows no longer may not know of all tenants.
struct Awaits(Arc<AtomicBool>);

impl Drop for Awaits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Publishes decisions, by a connection of their own: they never keep policies waiting.
async fn publish_decisions(
    fleet: config::Fleet,
    host: String,
    decisions: UnboundedReceiver<Sent>,
    unsent: Counter,
) {
    let Some(subject) = fleet.decisions.clone() else {
        return;
    };
    let mut attempts = 0;
    let nats = loop {
        match Nats::connect_for_decisions(&fleet, &host, unsent.clone()).await {
            Ok(nats) => break nats,
            Err(error) => tracing::debug!(%error, "decisions are not published"),
        }
        sleep(pause(attempts)).await;
        attempts += 1;
    };
    nats.publish(subject, decisions, unsent).await;
}

/// What the store that is followed is kept under.
const STORE: &str = "store";
