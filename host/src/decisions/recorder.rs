//! The thread that keeps decisions.

use std::collections::HashMap;
use std::hash::RandomState;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{broadcast, oneshot};

use super::database::{Database, DatabaseError, Limits, NewValidation};
use super::query::Decision;
use super::record::{Connected, Count, Decided, Told, milliseconds};

/// Decisions that wait to be written; what comes on top is lost.
const MAX_WAITING: usize = 8192;
/// Decisions that are written in one go.
const MAX_BATCH: usize = 4096;
/// Decisions that are kept one by one in a second, so that very many cost no more.
const MAX_EACH_SECOND: u32 = 100;
/// How long decisions are gathered, and how long if somebody watches.
const GATHERED: Duration = Duration::from_secs(1);
const GATHERED_LIVE: Duration = Duration::from_millis(100);
/// Decisions that a slow watcher may be behind.
const BEHIND: usize = 1024;
/// How often the log tells of decisions that cannot be kept.
const PAUSE: Duration = Duration::from_secs(60);

enum Event {
    Decided(Box<Decided>),
    Connected(Box<Connected>, i64),
    Validated(Box<NewValidation>),
    Untold(Arc<str>, Vec<String>, i64, oneshot::Sender<Vec<bool>>),
    Told(Arc<str>, Vec<String>),
    Flush(oneshot::Sender<()>),
}

/// Takes what happens. Whoever tells it never waits.
pub struct Recorder {
    events: Option<SyncSender<Event>>,
    lost: Counter,
    live: broadcast::Sender<Live>,
    path: Option<PathBuf>,
    /// What was told, where no file has it.
    memory: Mutex<Memory>,
    hashing: RandomState,
    budget: Budget,
    counts: Arc<Counts>,
}

/// How many decisions are kept one by one: so many in a second.
#[derive(Default)]
struct Budget {
    second: AtomicU64,
    spent: AtomicU32,
}

impl Budget {
    /// Whether one more may be.
    fn spend(&self, now: SystemTime) -> bool {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.spent.store(0, Ordering::Relaxed);
        }
        self.spent.fetch_add(1, Ordering::Relaxed) < MAX_EACH_SECOND
    }
}

/// Decisions of flows that are in the file, which are only counted.
#[derive(Default)]
struct Counts(Mutex<HashMap<u64, Count>>);

impl Counts {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more; false if the flow is not in the file.
    fn add(&self, hash: u64, now: i64) -> bool {
        match self.lock().get_mut(&hash) {
            Some(count) => {
                count.number += 1;
                count.last = now;
                true
            }
            None => false,
        }
    }

    /// From now on, decisions of these flows are counted here, and if those of before are gone, of no others.
    fn know(&self, fresh: &[u64], is_reset: bool) {
        let mut all = self.lock();
        if is_reset {
            all.clear();
        }
        for hash in fresh {
            all.entry(*hash).or_default();
        }
    }

    /// What was counted, which is counted anew from now on.
    fn take(&self) -> Vec<(u64, Count)> {
        let mut all = self.lock();
        let counted = all.iter_mut().filter(|(_, count)| count.number > 0);
        counted
            .map(|(hash, count)| (*hash, std::mem::take(count)))
            .collect()
    }
}

/// Notices that were told, and when.
#[derive(Default)]
struct Memory(HashMap<(Arc<str>, String), Instant>);

impl Memory {
    fn untold(&mut self, tenant: &Arc<str>, notices: &[String], again: Duration) -> Vec<bool> {
        self.0
            .retain(|(of, notice), _| of != tenant || notices.contains(notice));
        let is_new = |notice: &String| {
            let told = self.0.get(&(tenant.clone(), notice.clone()));
            told.is_none_or(|told| told.elapsed() >= again)
        };
        notices.iter().map(is_new).collect()
    }
}

/// A decision that was just kept, and whose it is.
#[derive(Clone)]
pub struct Live {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The decision.
    pub decision: Arc<Decision>,
}

/// What is recorded, for whoever reads it.
pub type Recording = broadcast::Receiver<Live>;

impl Recorder {
    /// Nothing is kept.
    pub fn forgetful() -> Self {
        Recorder {
            events: None,
            lost: Counter::default(),
            live: broadcast::Sender::new(1),
            path: None,
            memory: Mutex::default(),
            hashing: RandomState::new(),
            budget: Budget::default(),
            counts: Arc::default(),
        }
    }

    /// Keeps what happens in a file; counts what it cannot.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn start(path: &Path, limits: Limits, lost: Counter) -> Result<Self, StartError> {
        let database = Database::open(path, limits)?;
        let (events, received) = sync_channel(MAX_WAITING);
        let live = broadcast::Sender::new(BEHIND);
        let counts = Arc::<Counts>::default();
        let writer = Writer {
            counts: counts.clone(),
            path: path.into(),
            limits,
            database: Some(database),
            received,
            lost: lost.clone(),
            live: live.clone(),
            told: None,
        };
        thread::Builder::new()
            .name("decisions".into())
            .spawn(move || writer.run())?;
        Ok(Recorder {
            events: Some(events),
            lost,
            live,
            path: Some(path.into()),
            memory: Mutex::default(),
            hashing: RandomState::new(),
            budget: Budget::default(),
            counts,
        })
    }

    /// Whether anything is kept.
    pub fn keeps(&self) -> bool {
        self.events.is_some()
    }

    /// The file.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A decision was made. Of very many, only some are kept one by one, and the others are counted.
    pub fn decided(&self, told: &Told<'_>) {
        if !self.keeps() {
            return;
        }
        let now = SystemTime::now();
        let hash = told.hash(&self.hashing);
        if !self.budget.spend(now) && self.counts.add(hash, milliseconds(now)) {
            return;
        }
        self.send(Event::Decided(Box::new(Decided {
            hash,
            tenant: told.tenant.clone(),
            policy: told.policy,
            time: now,
            session: told.session.into(),
            transaction: told.transaction.into(),
            context: told.context.clone(),
            verdict: told.verdict.clone(),
        })));
    }

    /// A partner's server was spoken with.
    pub fn connected(&self, connected: impl FnOnce() -> Connected) {
        if self.keeps() {
            let now = milliseconds(SystemTime::now());
            self.send(Event::Connected(Box::new(connected()), now));
        }
    }

    /// A connector was tried out; the report is what `portcullis validate --format json` prints.
    pub fn validated(&self, tenant: &Arc<str>, connector: &str, passed: bool, report: String) {
        self.send(Event::Validated(Box::new(NewValidation {
            tenant: tenant.clone(),
            connector: connector.into(),
            time: milliseconds(SystemTime::now()),
            passed,
            report,
        })));
    }

    /// Which of these notices are to be told now: those that were not, in that time. What else was told no longer holds,
    /// and is told again when it comes back.
    pub async fn untold(
        &self,
        tenant: &Arc<str>,
        notices: Vec<String>,
        again: Duration,
    ) -> Vec<bool> {
        if !self.keeps() {
            return self.remember().untold(tenant, &notices, again);
        }
        let since = milliseconds(SystemTime::now() - again);
        let (answer, answered) = oneshot::channel();
        self.send(Event::Untold(
            tenant.clone(),
            notices.clone(),
            since,
            answer,
        ));
        match answered.await {
            Ok(untold) => untold,
            // What cannot be looked up is told, and remembered here.
            Err(_) => self.remember().untold(tenant, &notices, again),
        }
    }

    fn remember(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These notices were told.
    pub fn told(&self, tenant: &Arc<str>, notices: Vec<String>) {
        let now = Instant::now();
        let known = notices
            .iter()
            .map(|notice| ((tenant.clone(), notice.clone()), now));
        self.remember().0.extend(known);
        self.send(Event::Told(tenant.clone(), notices));
    }

    /// What is decided from now on.
    pub fn watch(&self) -> Recording {
        self.live.subscribe()
    }

    /// Waits until what was told is written.
    pub async fn flush(&self) {
        let (done, waiting) = oneshot::channel();
        self.send(Event::Flush(done));
        // It is dropped if nothing is kept.
        let _ = waiting.await;
    }

    fn send(&self, event: Event) {
        if let Some(events) = &self.events
            && events.try_send(event).is_err()
        {
            self.lost.inc();
        }
    }
}

/// Nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// There can be no thread.
    #[error("no thread: {0}")]
    Thread(#[from] io::Error),
}

struct Writer {
    counts: Arc<Counts>,
    path: PathBuf,
    limits: Limits,
    /// Absent while it cannot be opened.
    database: Option<Database>,
    received: Receiver<Event>,
    lost: Counter,
    live: broadcast::Sender<Live>,
    /// When the log was last told that decisions are lost.
    told: Option<Instant>,
}

#[derive(Default)]
struct Gathered {
    decided: Vec<Decided>,
    connected: Vec<(Connected, i64)>,
    others: Vec<Event>,
    /// Whether somebody waits for it.
    is_urgent: bool,
}

impl Gathered {
    fn add(&mut self, event: Event) {
        match event {
            Event::Decided(decided) => self.decided.push(*decided),
            Event::Connected(connected, time) => self.connected.push((*connected, time)),
            other => {
                self.is_urgent = true;
                self.others.push(other);
            }
        }
    }

    fn len(&self) -> usize {
        self.decided.len() + self.connected.len()
    }
}

impl Writer {
    fn run(mut self) {
        while let Some(gathered) = self.gather() {
            self.write(gathered);
        }
    }

    /// What happens within some time; `None` once nobody can tell anything any more.
    fn gather(&self) -> Option<Gathered> {
        let mut gathered = Gathered::default();
        match self.received.recv_timeout(GATHERED) {
            Ok(event) => gathered.add(event),
            Err(RecvTimeoutError::Disconnected) => return None,
            // Something may have been counted.
            Err(RecvTimeoutError::Timeout) => return Some(gathered),
        }
        let time = match self.live.receiver_count() {
            0 => GATHERED,
            _ => GATHERED_LIVE,
        };
        let end = Instant::now() + time;
        while gathered.len() < MAX_BATCH && !gathered.is_urgent {
            let left = end.saturating_duration_since(Instant::now());
            match self.received.recv_timeout(left) {
                Ok(event) => gathered.add(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        Some(gathered)
    }

    fn write(&mut self, gathered: Gathered) {
        if let Err(error) = self.write_counts() {
            self.complain(&error);
        }
        let number = gathered.len() as u64;
        match self.try_write(gathered.decided, &gathered.connected) {
            Ok(()) => {}
            Err(error) => {
                self.lost.inc_by(number);
                self.complain(&error);
            }
        }
        for event in gathered.others {
            if let Err(error) = self.other(event) {
                self.complain(&error);
            }
        }
    }

    /// Writes what was only counted.
    fn write_counts(&mut self) -> Result<(), DatabaseError> {
        let counted = self.counts.take();
        if counted.is_empty() {
            return Ok(());
        }
        self.with(|database| database.count(&counted))
    }

    fn try_write(
        &mut self,
        decided: Vec<Decided>,
        connected: &[(Connected, i64)],
    ) -> Result<(), DatabaseError> {
        if decided.is_empty() && connected.is_empty() {
            return Ok(());
        }
        let written = self.with(|database| database.write(decided, connected))?;
        if let Some(database) = &mut self.database {
            let (fresh, is_reset) = database.fresh();
            self.counts.know(&fresh, is_reset);
        }
        if self.live.receiver_count() > 0 {
            for written in written {
                let live = Live {
                    tenant: written.tenant.clone(),
                    decision: Arc::new(Decision::of(&written)),
                };
                // Whoever watched may be gone.
                let _ = self.live.send(live);
            }
        }
        Ok(())
    }

    fn other(&mut self, event: Event) -> Result<(), DatabaseError> {
        match event {
            Event::Validated(validated) => self.with(|database| database.validated(&validated)),
            Event::Untold(tenant, notices, since, answer) => {
                let now = milliseconds(SystemTime::now());
                let untold =
                    self.with(|database| database.untold(&tenant, &notices, now, since))?;
                let _ = answer.send(untold);
                Ok(())
            }
            Event::Told(tenant, notices) => {
                let now = milliseconds(SystemTime::now());
                self.with(|database| database.told(&tenant, &notices, now))
            }
            Event::Flush(done) => {
                let _ = done.send(());
                Ok(())
            }
            Event::Decided(_) | Event::Connected(..) => Ok(()),
        }
    }

    /// Does something with the file, which is opened anew after it has failed.
    fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Database) -> rusqlite::Result<T>,
    ) -> Result<T, DatabaseError> {
        let known = self.database.take().filter(Database::is_there);
        let mut database = match known {
            Some(database) => database,
            None => Database::open(&self.path, self.limits)?,
        };
        match work(&mut database) {
            Ok(done) => {
                self.database = Some(database);
                Ok(done)
            }
            Err(source) => {
                // It is opened anew next time.
                database.give_up(&source);
                Err(DatabaseError {
                    path: self.path.clone(),
                    source,
                })
            }
        }
    }

    fn complain(&mut self, error: &DatabaseError) {
        if self.told.is_some_and(|told| told.elapsed() < PAUSE) {
            return;
        }
        self.told = Some(Instant::now());
        tracing::warn!(%error, "decisions cannot be remembered; mail is not affected");
    }
}
