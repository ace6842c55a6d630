//! Which policy decides about whose mail: tenants, their policies in force, and their replacement while
//! mail flows.

mod before;
mod error;
mod places;
mod statements;
mod tenant;
mod turns;
mod verify;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore};

pub use self::error::{Cause, PolicyError};
use self::places::{Places, TIMEOUT};
use self::statements::By;
pub use self::statements::{Signed, Statements, statement_beside, tenant_statement_beside};
pub use self::tenant::{InForce, Snapshot, Tenant, TenantSession, TenantSource};
use self::tenant::{Source, Versions};
use self::turns::{Turn, Turns};
use self::verify::{accept, verified, versions_of_statements};
pub use crate::cases::CasesError;
use crate::cases::{self, Cases, cases_beside};
use crate::engine::{Engine, QUICK};
pub use crate::file::FileVersion;
use crate::observer::Observer;
use crate::sandbox::documents::{DocumentError, Rules};
use crate::sandbox::loader::Loader;
use crate::sandbox::policy::LoadedPolicy;
use crate::sandbox::timeout::within;
use crate::session::Session;
use crate::statement::digest_of;
use crate::text::one_line;

/// The largest file of cases.
const MAX_TESTS: (usize, &str) = (1 << 20, "the limit of tests");

/// What was found in a tenant's file.
struct Loaded {
    source: Source,
    policy: Arc<LoadedPolicy>,
}

/// A tenant with the files that its policy is taken from.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Files {
    tenant: String,
    policy: PathBuf,
    tests: Option<PathBuf>,
    by: By,
    before_all: bool,
}

impl Files {
    fn of(tenant: &TenantSource) -> Self {
        Files {
            tenant: tenant.name.clone(),
            policy: tenant.policy.clone(),
            tests: tenant.tests.clone(),
            by: By::of(tenant.signed.as_ref()),
            before_all: tenant.before_all,
        }
    }
}

/// What came of reading a tenant's file.
pub struct LoadResult {
    number: usize,
    files: Files,
    /// Of two, the one that was begun later counts.
    order: u64,
    loaded: Result<Loaded, Cause>,
}

/// What an update did.
#[derive(Default)]
#[non_exhaustive]
pub struct Update {
    /// The tenants that have another policy now.
    pub changed: Vec<Arc<str>>,
    /// The tenants that keep what they had.
    pub errors: Vec<PolicyError>,
    /// How many files are still being read; each of them is an outcome that comes later.
    pub late: usize,
}

/// The policies of all tenants.
pub struct Store {
    current: ArcSwap<Snapshot>,
    engine: Engine,
    /// Exchanges go one after another.
    swapping: tokio::sync::Mutex<()>,
    places: Places,
    /// Turns of documents that are quick to read, and of what takes long: so that neither waits for the other kind.
    quick: Semaphore,
    slow: Semaphore,
    /// Turns of files that have been read and wait for those: so that few are in memory at a time.
    documents: Turns,
    components: Turns,
    /// How many files were begun to be read.
    begun: AtomicU64,
    /// The tenants whose file is being read, and who wants to know of a change of it. There is one reading of a
    /// tenant's file at a time: so all tenants have their turn.
    reading: Mutex<HashMap<Files, Arc<Recheck>>>,
    late: UnboundedSender<LoadResult>,
}

/// A request to look at a file again that is being read.
#[derive(Default)]
struct Recheck {
    asked: AtomicBool,
    notify: Notify,
}

/// A tenant's file is being read. If nobody waits for that any more, it may be read again.
struct Reading {
    store: Arc<Store>,
    files: Files,
    recheck: Arc<Recheck>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut reading = self.store.lock();
        let known = reading.get(&self.files);
        if known.is_some_and(|known| Arc::ptr_eq(known, &self.recheck)) {
            reading.remove(&self.files);
        }
    }
}

impl Store {
    /// No tenants yet, and where outcomes come that an update has not waited for; [`Store::enter`] takes
    /// them.
    pub fn new(engine: Engine) -> (Self, UnboundedReceiver<LoadResult>) {
        let (late, outcomes) = unbounded_channel();
        let at_a_time = std::thread::available_parallelism().map_or(1, usize::from) + 1;
        let policies = Store {
            current: ArcSwap::default(),
            engine,
            swapping: tokio::sync::Mutex::new(()),
            places: Places::default(),
            quick: Semaphore::new(at_a_time),
            slow: Semaphore::new(at_a_time),
            documents: Turns::default(),
            components: Turns::default(),
            begun: AtomicU64::new(0),
            reading: Mutex::default(),
            late,
        };
        (policies, outcomes)
    }

    /// The tenants now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Whether a policy would be taken for a tenant if its file had this content: loaded, and by its cases. Nothing
    /// changes.
    ///
    /// # Errors
    /// Why it would not.
    pub async fn try_policy(
        &self,
        tenant: &TenantSource,
        content: Vec<u8>,
    ) -> Result<(), PolicyError> {
        let wrong = |cause| PolicyError {
            tenant: tenant.name.clone(),
            cause,
        };
        if tenant.signed.is_some() {
            let reason = "policies are signed here, so none is taken without its statement";
            let path = tenant.policy.clone();
            return Err(wrong(Cause::Kind { path, reason }));
        }
        let most = self.engine.limits().policy_size;
        if content.len() > most {
            let reason = "it is larger than policies may be";
            let path = tenant.policy.clone();
            return Err(wrong(Cause::Kind { path, reason }));
        }
        let tests = self.with_cases_beside(tenant.clone()).await.tests;
        let tests = match &tests {
            Some(path) => {
                let read = self.places.read(path, MAX_TESTS).await.map_err(wrong)?;
                Some((path.as_path(), read))
            }
            None => None,
        };
        let turns = match is_component(&tenant.policy) {
            true => &self.components,
            false => &self.documents,
        };
        let turn = turns.of(&tenant.policy).await;
        let loading = Box::pin(self.load_bytes(&tenant.policy, content, turn));
        let policy = loading.await.map_err(wrong)?;
        let tests = tests.as_ref().map(|(path, bytes)| (*path, &bytes[..]));
        let tried = self.try_out(&policy, true, tests).await;
        tried.map_err(|source| {
            wrong(Cause::Fails {
                path: tenant.policy.clone(),
                source,
            })
        })
    }

    /// What policies run on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The policy of a tenant; `None` if it has none.
    pub fn policy(&self, tenant: &Tenant) -> Option<crate::Policy> {
        let loaded = tenant.policy.clone()?;
        Some(self.engine.policy(loaded))
    }

    /// A session, whose transactions ask the policies of any tenants.
    pub fn session(&self) -> TenantSession {
        TenantSession(Session::new(&self.engine.loader))
    }

    /// Brings the tenants in line with the configuration and the files: all of them, or only those with
    /// these numbers, where nothing else has changed. Each file that has changed is loaded, checked and
    /// tested; then all are exchanged in one step. A file that is not taken leaves its tenant with the
    /// policy that it had, and so does one that takes long to read, as long as that takes.
    pub async fn update(
        self: &Arc<Self>,
        configured: &[TenantSource],
        only: Option<&BTreeSet<usize>>,
    ) -> Update {
        self.update_within(TIMEOUT, configured, only).await
    }

    /// The same, where the next file is waited for so long.
    pub async fn update_within(
        self: &Arc<Self>,
        patience: Duration,
        configured: &[TenantSource],
        only: Option<&BTreeSet<usize>>,
    ) -> Update {
        let numbers: Vec<usize> = match only {
            Some(numbers) => numbers.iter().copied().collect(),
            None => (0..configured.len()).collect(),
        };
        let (mut outcomes, late) = self.load_all(patience, &numbers, configured).await;
        let _one_at_a_time = self.swapping.lock().await;
        let before = self.snapshot();
        let mut snapshot = match only {
            Some(_) => Snapshot::clone(&before),
            None => Snapshot::default(),
        };
        if only.is_some() {
            let named = numbers.iter().filter_map(|number| configured.get(*number));
            snapshot.leave(&named.map(|tenant| &*tenant.name).collect());
        }
        let mut swap = Swap::default();
        let mut names = HashSet::new();
        for number in numbers {
            let Some(tenant) = configured.get(number) else {
                continue;
            };
            // The one before all is no tenant, and one of its kind.
            let name = (!tenant.before_all).then_some(&tenant.name);
            if !names.insert(name) {
                swap.update.errors.push(PolicyError {
                    tenant: tenant.name.clone(),
                    cause: Cause::NameTaken,
                });
                continue;
            }
            let entered = swap.tenant(before.known(tenant), tenant, outcomes.remove(&number));
            let wrong = snapshot.enter(entered, tenant);
            swap.update.errors.extend(wrong);
        }
        self.swap(snapshot, swap, late).await
    }

    /// Takes an outcome that came late, if it is still wanted.
    pub async fn enter(&self, configured: &[TenantSource], outcome: LoadResult) -> Update {
        // Of the others it need not be told which files they have: there may be very many.
        let wanted = |tenant: &&TenantSource| {
            tenant.name == outcome.files.tenant && Files::of(tenant) == outcome.files
        };
        let Some(tenant) = configured.iter().find(wanted) else {
            return Update::default();
        };
        let _one_at_a_time = self.swapping.lock().await;
        let before = self.snapshot();
        let mut snapshot = Snapshot::clone(&before);
        let mut swap = Swap::default();
        let entered = swap.tenant(before.known(tenant), tenant, Some(outcome));
        let wrong = snapshot.enter(entered, tenant);
        swap.update.errors.extend(wrong);
        self.swap(snapshot, swap, 0).await
    }

    /// Takes tenants away. Their mail is nobody's from now on.
    pub async fn remove(&self, names: &HashSet<&str>) {
        let _one_at_a_time = self.swapping.lock().await;
        let mut snapshot = Snapshot::clone(&self.snapshot());
        let removed = snapshot.remove(names);
        let replaced = removed.iter().filter_map(|tenant| tenant.policy.clone());
        let swap = Swap {
            replaced: replaced.collect(),
            ..Swap::default()
        };
        self.swap(snapshot, swap, 0).await;
    }

    async fn swap(&self, snapshot: Snapshot, swap: Swap, late: usize) -> Update {
        self.current.store(Arc::new(snapshot));
        for policy in swap.replaced {
            self.engine
                .loader
                .engine
                .code_cache
                .evict(&policy.code)
                .await;
        }
        Update {
            late,
            ..swap.update
        }
    }

    /// Loads the policies of these tenants, several at a time. Those that take long are not waited for; gives
    /// how many they are.
    async fn load_all(
        self: &Arc<Self>,
        patience: Duration,
        numbers: &[usize],
        configured: &[TenantSource],
    ) -> (HashMap<usize, LoadResult>, usize) {
        let before = self.snapshot();
        let (done, mut ended) = unbounded_channel();
        let mut late = 0;
        for &number in numbers {
            let Some(tenant) = configured.get(number) else {
                continue;
            };
            let again = Arc::<Recheck>::default();
            match self.lock().entry(Files::of(tenant)) {
                Entry::Occupied(reading) => {
                    // Its outcome will be that of the file as it is now.
                    reading.get().asked.store(true, Ordering::Release);
                    reading.get().notify.notify_one();
                    continue;
                }
                Entry::Vacant(place) => place.insert(again.clone()),
            };
            let old = before.known(tenant);
            let known = old.filter(|old| old.is_at_hand()).and_then(|old| {
                let (source, policy) = (old.source.clone()?, old.policy.clone()?);
                Some((source, policy))
            });
            let in_force = old.and_then(|old| old.policy.as_ref());
            let replaces = in_force.is_some_and(|policy| !policy.is_mute());
            let reading = Reading {
                store: self.clone(),
                files: Files::of(tenant),
                recheck: again,
            };
            let (tenant, done) = (tenant.clone(), done.clone());
            late += 1;
            // If nobody waits any more, it goes on: whoever asks for this file meanwhile gets its outcome.
            tokio::spawn(async move {
                let store = &reading.store;
                let newest = store.newest(number, tenant, known, replaces, &reading);
                if let Err(SendError(outcome)) = done.send(newest.await) {
                    // Nobody waits at all if the program ends.
                    let _ = store.late.send(outcome);
                }
            });
        }
        drop(done);
        let mut outcomes = HashMap::new();
        // As long as one after another ends, the next is waited for too.
        while let Some(Some(outcome)) = within(patience, ended.recv()).await {
            outcomes.insert(outcome.number, outcome);
        }
        ended.close();
        while let Some(outcome) = ended.recv().await {
            outcomes.insert(outcome.number, outcome);
        }
        late -= outcomes.len();
        (outcomes, late)
    }

    fn observer(&self) -> &Arc<dyn Observer> {
        &self.engine.loader.engine.observer
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Files, Arc<Recheck>>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy in a tenant's file, as it is when this ends. If the file changes meanwhile, what was begun is given
    /// up.
    async fn newest(
        &self,
        number: usize,
        tenant: TenantSource,
        mut known: Option<(Source, Arc<LoadedPolicy>)>,
        replaces: bool,
        reading: &Reading,
    ) -> LoadResult {
        let again = &reading.recheck;
        loop {
            again.asked.store(false, Ordering::Release);
            let order = self.begun.fetch_add(1, Ordering::Relaxed);
            let tenant = self.with_cases_beside(tenant.clone()).await;
            let versions = self.versions(&tenant).await;
            let begun = versions.as_ref().ok().cloned();
            let loading = self.load(&tenant, versions, known.clone(), replaces);
            // Whatever a file does to those who read it, its tenant hears of it.
            let mut loading = pin!(AssertUnwindSafe(loading).catch_unwind());
            let loaded = loop {
                tokio::select! {
                    loaded = &mut loading => break Some(loaded),
                    () = again.notify.notified() => {
                        again.asked.store(false, Ordering::Release);
                        let now = self.with_cases_beside(tenant.clone()).await;
                        let now = self.versions(&now).await.ok();
                        match (&begun, &now) {
                            (None, None) => {}
                            (Some(begun), Some(now)) if begun.look_like(now) => {
                                // Where clocks tick slowly, it may have changed all the same: it is looked at in the end.
                                let may_differ = !begun.are_settled();
                                again.asked.fetch_or(may_differ, Ordering::Release);
                            }
                            _ => break None,
                        }
                    }
                }
            };
            let Some(loaded) = loaded else {
                continue;
            };
            let mut all = self.lock();
            if again.asked.load(Ordering::Acquire) {
                if let Ok(Ok(loaded)) = loaded {
                    known = Some((loaded.source, loaded.policy));
                }
                continue;
            }
            all.remove(&reading.files);
            let panicked = |_| Err(Cause::Panicked(tenant.policy.clone()));
            return LoadResult {
                number,
                files: reading.files.clone(),
                order,
                loaded: loaded.unwrap_or_else(panicked),
            };
        }
    }

    /// The tenant with the cases that stand beside its component, unless it has others. What cannot be told is found
    /// when they are read.
    async fn with_cases_beside(&self, mut tenant: TenantSource) -> TenantSource {
        if let (None, Some(beside)) = (&tenant.tests, cases_beside(&tenant.policy)) {
            let is_there = self.places.with_file(&beside, Path::try_exists).await;
            tenant.tests = is_there.unwrap_or(true).then_some(beside);
        }
        tenant
    }

    /// What the file system tells of a tenant's files.
    async fn versions(&self, tenant: &TenantSource) -> Result<Versions, Cause> {
        let tests = match &tenant.tests {
            Some(tests) => Some(self.places.stamp(tests).await?),
            None => None,
        };
        let (statement, about) = versions_of_statements(&self.places, tenant).await?;
        Ok(Versions {
            policy: self.places.stamp(&tenant.policy).await?,
            tests,
            statement,
            about,
        })
    }

    /// The policy in a tenant's files that look so: the one in force, if they have not changed.
    async fn load(
        &self,
        tenant: &TenantSource,
        versions: Result<Versions, Cause>,
        known: Option<(Source, Arc<LoadedPolicy>)>,
        replaces: bool,
    ) -> Result<Loaded, Cause> {
        let known = known.filter(|(known, _)| {
            known.path == tenant.policy
                && known.tests == tenant.tests
                && known.by == By::of(tenant.signed.as_ref())
        });
        let versions = versions?;
        if let Some((source, policy)) = &known
            && source.versions == versions
            && versions.are_settled()
        {
            return Ok(Loaded {
                source: source.clone(),
                policy: policy.clone(),
            });
        }
        let turns = match is_component(&tenant.policy) {
            true => &self.components,
            false => &self.documents,
        };
        let turn = turns.of(&tenant.policy).await;
        // Those that wait for their turn are many, and this takes much memory.
        Box::pin(self.load_changed(tenant, versions, known, replaces, turn)).await
    }

    /// The policy in a tenant's files that have changed, or may have.
    async fn load_changed(
        &self,
        tenant: &TenantSource,
        versions: Versions,
        known: Option<(Source, Arc<LoadedPolicy>)>,
        replaces: bool,
        turn: Turn,
    ) -> Result<Loaded, Cause> {
        let most = (
            self.engine.limits().policy_size,
            "the limit of a policy's size",
        );
        let bytes = self.places.read(&tenant.policy, most).await?;
        let digest = digest_of(&bytes);
        let tests = match &tenant.tests {
            Some(path) => Some((path, self.places.read(path, MAX_TESTS).await?)),
            None => None,
        };
        let passed = tests.as_ref().map(|(_, bytes)| digest_of(bytes));
        let verified = verified(&self.places, tenant, &versions, bytes.len(), digest).await?;
        let known = known.filter(|(known, _)| known.digest == digest);
        let is_passed = known.as_ref().is_some_and(|(it, _)| it.passed == passed);
        let policy = match known {
            Some((_, policy)) => policy,
            None => self.load_bytes(&tenant.policy, bytes, turn).await?,
        };
        if !is_passed {
            let tests = tests
                .as_ref()
                .map(|(path, bytes)| (path.as_path(), &bytes[..]));
            let tried = self.try_out(&policy, replaces, tests).await;
            tried.map_err(|source| Cause::Fails {
                path: tenant.policy.clone(),
                source,
            })?;
        }
        if let Some(verified) = &verified {
            accept(tenant, verified.clone()).await?;
        }
        let source = Source {
            path: tenant.policy.clone(),
            tests: tenant.tests.clone(),
            by: By::of(tenant.signed.as_ref()),
            versions,
            digest,
            passed,
            verified,
        };
        Ok(Loaded { source, policy })
    }

    /// Sees whether a policy does what it must: what replaces another answers at least one question, as rules always
    /// do, and it passes its cases.
    async fn try_out(
        &self,
        policy: &Arc<LoadedPolicy>,
        replaces: bool,
        tests: Option<(&Path, &[u8])>,
    ) -> Result<(), CasesError> {
        if !policy.is_built_in {
            let probed = cases::probe(&self.engine.loader, policy, replaces).await;
            match probed {
                Ok(()) => policy.set_mute(false),
                Err(error) if replaces => return Err(error),
                // There is nothing better that could stay in force.
                Err(error) => {
                    policy.set_mute(true);
                    let error = error.to_string();
                    self.observer().mute(&policy.name, &one_line(&error));
                }
            }
        }
        if let Some((path, bytes)) = tests {
            let cases = Cases::read(path, bytes)?;
            cases.run(&self.engine.loader, policy).await?;
        }
        Ok(())
    }

    /// The policy that a file holds, for which its turn has come.
    async fn load_bytes(
        &self,
        path: &Path,
        bytes: Vec<u8>,
        turn: Turn,
    ) -> Result<Arc<LoadedPolicy>, Cause> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("wasm") => {
                let _slow = self.slow.acquire().await;
                let name = path.display().to_string();
                Ok(self.engine.loader.component(&name, bytes).await?)
            }
            Some("json") => self.load_document(path, bytes, turn).await,
            _ => Err(Cause::Kind {
                path: path.to_owned(),
                reason: "a policy is a .json or a .wasm file",
            }),
        }
    }

    /// Reads a document among those that are quick to read; among those that are slow, if it is none of them.
    async fn read_document(&self, document: String, turn: Turn) -> Result<Rules, DocumentError> {
        let quick = {
            let _turn = self.quick.acquire().await;
            self.engine
                .documents
                .read_within(QUICK, document.clone())
                .await
        };
        drop(turn);
        match quick {
            Err(DocumentError::TooLong(_)) => {
                let _turn = self.slow.acquire().await;
                self.engine.documents.read(document).await
            }
            outcome => outcome,
        }
    }

    async fn load_document(
        &self,
        path: &Path,
        bytes: Vec<u8>,
        turn: Turn,
    ) -> Result<Arc<LoadedPolicy>, Cause> {
        let name = path.display().to_string();
        let path = path.to_owned();
        let Ok(document) = String::from_utf8(bytes) else {
            let reason = "the rules are not UTF-8";
            return Err(Cause::Kind { path, reason });
        };
        match self.read_document(document, turn).await {
            Ok(rules) => {
                if !rules.summary.warnings.is_empty() {
                    self.observer().warned(&name, &rules.summary.warnings);
                }
                // Many large policies that change at once are compiled one after another.
                let _turn = match Loader::compiles(&rules.packed) {
                    true => Some(self.slow.acquire().await),
                    false => None,
                };
                Ok(self.engine.loader.packed(&name, rules.packed).await?)
            }
            Err(DocumentError::Rejected(problems)) => Err(Cause::Rejected { path, problems }),
            Err(source) => Err(Cause::Document { path, source }),
        }
    }
}

fn is_component(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "wasm")
}

/// What an exchange of policies brings.
#[derive(Default)]
struct Swap {
    update: Update,
    replaced: Vec<Arc<LoadedPolicy>>,
}

impl Swap {
    /// The tenant as it is from now on. Without an outcome, or with one that is older than what is known, it
    /// keeps its policy.
    fn tenant(
        &mut self,
        old: Option<&Arc<Tenant>>,
        configured: &TenantSource,
        outcome: Option<LoadResult>,
    ) -> Tenant {
        let mut tenant = Tenant {
            name: configured.name.as_str().into(),
            in_force: old.and_then(|old| old.in_force),
            rejected: None,
            policy: old.and_then(|old| old.policy.clone()),
            source: None,
            statement: old.and_then(|old| old.statement.clone()),
            order: old.map_or(0, |old| old.order),
            before: None,
        };
        let newer = |outcome: &LoadResult| old.is_none_or(|old| outcome.order >= old.order);
        let Some(outcome) = outcome.filter(newer) else {
            tenant.source = old.and_then(|old| old.source.clone());
            tenant.rejected = old.and_then(|old| old.rejected.clone());
            return tenant;
        };
        tenant.order = outcome.order;
        match outcome.loaded {
            Ok(Loaded { source, policy }) => {
                // Even one that has not changed may not be in force: a tenant can be removed and come back, and files
                // change, while they are read.
                let in_force = tenant.policy.as_ref();
                let is_same = in_force.is_some_and(|known| Arc::ptr_eq(known, &policy));
                if !is_same {
                    self.replaced.extend(tenant.policy.replace(policy));
                }
                let sequence = source.verified.as_ref().map(|it| it.statement.sequence);
                // What was signed anew is in force anew.
                if !is_same || tenant.in_force.and_then(|it| it.sequence) != sequence {
                    self.update.changed.push(tenant.name.clone());
                    tenant.in_force = Some(InForce {
                        digest: source.digest,
                        since: SystemTime::now(),
                        sequence,
                    });
                }
                tenant.statement = source.verified.clone();
                tenant.source = Some(source);
            }
            Err(cause) => {
                tenant.rejected = Some(cause.to_string().into());
                self.update.errors.push(PolicyError {
                    tenant: configured.name.clone(),
                    cause,
                });
            }
        }
        tenant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, domain: &str, policy: PathBuf) -> TenantSource {
        TenantSource {
            name: name.into(),
            domains: vec![domain.into()],
            policy,
            tests: None,
            signed: None,
            before_all: false,
        }
    }

    /// A store, where outcomes come late, and rules in a folder.
    fn store() -> (
        Arc<Store>,
        UnboundedReceiver<LoadResult>,
        tempfile::TempDir,
        PathBuf,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.json");
        std::fs::write(&rules, r#"{"connectors": []}"#).unwrap();
        let (store, late) = Store::new(Engine::new(crate::Limits::default()).unwrap());
        (Arc::new(store), late, folder, rules)
    }

    #[tokio::test]
    async fn an_update_that_is_given_up_holds_up_none_after_it() {
        let (store, mut late, _folder, rules) = store();
        let configured = [source("a", "a.test", rules)];
        tokio::select! {
            biased;
            _ = store.update(&configured, None) => unreachable!("it waits for a file"),
            () = std::future::ready(()) => {}
        }
        let update = store.update(&configured, None).await;
        assert!(update.errors.is_empty());
        if !store.snapshot().is_complete() {
            let outcome = late.recv().await.unwrap();
            store.enter(&configured, outcome).await;
        }
        let snapshot = store.snapshot();
        assert!(snapshot.is_complete() && snapshot.tenant("a.test").is_some());
        // And it can be asked for again.
        let update = store.update(&configured, None).await;
        assert!(update.errors.is_empty() && update.late == 0);
        assert!(store.snapshot().is_complete());
    }

    #[tokio::test]
    async fn a_domain_is_one_tenants() {
        let (store, _late, _folder, rules) = store();
        let configured = [
            source("a", "a.test", rules.clone()),
            source("b", "A.test.", rules.clone()),
            source("a", "c.test", rules.clone()),
            source("d", "not a domain", rules),
        ];
        let told = |update: Update| {
            let errors = update.errors.iter().map(PolicyError::to_string);
            errors.collect::<Vec<_>>()
        };
        let errors = told(store.update(&configured, None).await);
        let wrong = [
            "tenant b: a.test: it is a domain of tenant a",
            "tenant a: there is another tenant of this name",
            "tenant d: not a domain: it is not a domain",
        ];
        assert_eq!(errors, wrong);
        let owner = |store: &Store| store.snapshot().tenant("a.test").map(|it| it.name.clone());
        assert_eq!(owner(&store).as_deref(), Some("a"));
        let errors = told(store.update(&configured, Some(&[1].into())).await);
        assert_eq!(errors, wrong[..1]);
        assert_eq!(owner(&store).as_deref(), Some("a"));
    }
}
