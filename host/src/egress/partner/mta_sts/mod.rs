//! MTA-STS (RFC 8461): what a domain asks of those who send to it, kept as long as it says.

mod fetch;
pub mod policy;

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::egress::partner::dns::DnsError;
use crate::egress::partner::failure::ProtectionError;
use fetch::FetchError;
pub use fetch::Sources;
pub use policy::{Mode, Policy};

/// Domains whose state is kept in memory.
const MAX_DOMAINS: u64 = 10_000;
/// RFC 8461 §3.3: a policy that could not be fetched is not asked for again at once.
const PAUSE: Duration = Duration::from_secs(300);
/// §3.3: a policy is looked at anew before it runs out, so that an attacker cannot wait for its end.
const REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// A file name has 255 octets on most file systems, and there is an extension.
const MAX_FILE_NAME: usize = 200;

/// The policies of the domains that mail was sent to.
pub struct PolicyCache {
    domains: Cache<String, Arc<Domain>>,
    /// Where policies outlive the process: forgetting them would open the door to a downgrade.
    folder: Option<PathBuf>,
    port: u16,
}

/// A domain.
struct Domain {
    state: Mutex<State>,
    fetching: tokio::sync::Mutex<()>,
}

impl Domain {
    fn of(state: State) -> Self {
        Domain {
            state: Mutex::new(state),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds, where the newest policy could not be had for that reason. One that is in force decides all the same.
    fn standing(&self, last_error: Option<FetchError>) -> PolicyState {
        let state = self.lock();
        let last_error = state.unreadable.clone().or(last_error);
        let kept = state.kept.as_ref().filter(|kept| kept.is_in_force());
        PolicyState {
            is_undecided: kept.is_none() && last_error.as_ref().is_some_and(|it| it.is_undecided),
            policy: kept.map(|kept| kept.policy.clone()),
            last_error: last_error.map(|last_error| last_error.why),
        }
    }
}

/// What is known of a domain.
#[derive(Default)]
struct State {
    kept: Option<Kept>,
    failed: Option<Failed>,
    /// Why nobody knows what was kept.
    unreadable: Option<FetchError>,
}

/// A policy with its age.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    id: String,
    policy: Policy,
    fetched: SystemTime,
}

impl Kept {
    /// How old it is; not known where the clock was set back since.
    fn age(&self) -> Option<Duration> {
        self.fetched.elapsed().ok()
    }

    /// It is over only where that is certain: a clock that was set back opens no door.
    fn is_in_force(&self) -> bool {
        self.age().is_none_or(|age| age < self.policy.max_age)
    }

    fn is_fresh(&self, id: &str) -> bool {
        let limit = REFRESH.min(self.policy.max_age / 2);
        self.id == id && self.age().is_some_and(|age| age < limit)
    }
}

impl State {
    /// What came of the last attempt, if it was for this id and is not too long ago.
    fn outcome(&self, id: &str) -> Option<Result<Policy, FetchError>> {
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.is_fresh(id)) {
            return Some(Ok(kept.policy.clone()));
        }
        let failed = self.failed.as_ref().filter(|failed| failed.id == id)?;
        (failed.at.elapsed() < PAUSE).then(|| Err(failed.last_error.clone()))
    }
}

/// An attempt that did not succeed.
struct Failed {
    id: String,
    at: Instant,
    last_error: FetchError,
}

/// What holds for a domain.
#[derive(Clone, Debug, Default)]
pub struct PolicyState {
    /// Its policy, if there is one.
    pub policy: Option<Policy>,
    /// Why the newest could not be had.
    pub last_error: Option<ProtectionError>,
    /// Whether nobody knows if there is one: a look-up that fails is never "no policy".
    pub is_undecided: bool,
}

impl PolicyCache {
    /// None yet; those that were kept in the folder are read when they are needed.
    pub fn new(folder: Option<PathBuf>, port: u16) -> Self {
        PolicyCache {
            domains: Cache::new(MAX_DOMAINS),
            folder,
            port,
        }
    }

    /// Whether these are the policies of that folder, from servers at that port.
    pub fn are_of(&self, folder: Option<&Path>, port: u16) -> bool {
        self.folder.as_deref() == folder && self.port == port
    }

    /// What holds for a domain now. A policy that is kept outlives its record and its server (§5.1); where none can
    /// be had the domain is as one that has none (§3.3).
    pub async fn of(self: &Arc<Self>, sources: &Sources, domain: &str) -> PolicyState {
        let load = async { Arc::new(Domain::of(self.load(domain).await)) };
        let known = self.domains.get_with(domain.to_owned(), load).await;
        if known.lock().unreadable.is_some() {
            let again = self.load(domain).await;
            let mut state = known.lock();
            if state.unreadable.is_some() {
                (state.kept, state.unreadable) = (again.kept, again.unreadable);
            }
        }
        let records = match sources.dns.txt(&format!("_mta-sts.{domain}")).await {
            Ok(answer) => answer.records,
            Err(error @ DnsError::Bogus(_)) => {
                return known.standing(Some(FetchError::undecided(error.to_string())));
            }
            // A server that does not answer this question hides a policy that is new at most.
            Err(_) => Vec::new(),
        };
        let Some(id) = policy::record_id(&records) else {
            return known.standing(None);
        };
        let is_fresh = |kept: &Kept| kept.is_fresh(&id);
        if known.lock().kept.as_ref().is_some_and(is_fresh) {
            return known.standing(None);
        }
        // It goes on whoever waits for it: what came of it is known to the next one who asks.
        let fetching = tokio::spawn({
            let (policies, known) = (self.clone(), known.clone());
            let (sources, domain) = (sources.clone(), domain.to_owned());
            async move { policies.fetch(&known, &sources, &domain, id).await }
        });
        if known.lock().kept.as_ref().is_some_and(Kept::is_in_force) {
            // Nobody waits for a policy to be refreshed.
            return known.standing(None);
        }
        match fetching.await {
            Ok(Ok(policy)) => PolicyState {
                policy: Some(policy),
                ..PolicyState::default()
            },
            Ok(Err(last_error)) => known.standing(Some(last_error)),
            Err(error) => known.standing(Some(FetchError::undecided(error.to_string()))),
        }
    }

    /// Fetches a policy, unless somebody else has done so meanwhile. Sessions that ask for the same domain share one
    /// fetch.
    async fn fetch(
        &self,
        known: &Domain,
        sources: &Sources,
        domain: &str,
        id: String,
    ) -> Result<Policy, FetchError> {
        let _one_at_a_time = known.fetching.lock().await;
        if let Some(outcome) = known.lock().outcome(&id) {
            return outcome;
        }
        match fetch::fetch(sources, domain, self.port).await {
            Ok(policy) => {
                let kept = Kept {
                    id,
                    policy: policy.clone(),
                    fetched: SystemTime::now(),
                };
                self.store(domain, &kept).await;
                *known.lock() = State {
                    kept: Some(kept),
                    ..State::default()
                };
                Ok(policy)
            }
            Err(last_error) => {
                tracing::warn!(
                    domain,
                    "{}",
                    crate::observe::redact::redact(&last_error.why.to_string())
                );
                known.lock().failed = Some(Failed {
                    id,
                    at: Instant::now(),
                    last_error: last_error.clone(),
                });
                Err(last_error)
            }
        }
    }

    /// A domain's file. Domains here are A-labels, so they are safe as names of files; a long one is too long for one.
    fn file(&self, domain: &str) -> Option<PathBuf> {
        let name = match domain.len() {
            0..=MAX_FILE_NAME => domain.to_owned(),
            _ => digest(&SHA256, domain.as_bytes())
                .as_ref()
                .iter()
                .map(|octet| format!("{octet:02x}"))
                .collect(),
        };
        Some(self.folder.as_ref()?.join(format!("{name}.json")))
    }

    async fn load(&self, domain: &str) -> State {
        let Some(file) = self.file(domain) else {
            return State::default();
        };
        let kept: std::io::Result<Kept> = match tokio::fs::read(&file).await {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(Into::into),
            Err(error) if error.kind() == ErrorKind::NotFound => return State::default(),
            Err(error) => Err(error),
        };
        match kept {
            Ok(kept) => State {
                kept: Some(kept),
                ..State::default()
            },
            // It was there for a reason. Fetched anew it is overwritten.
            Err(error) => State {
                unreadable: Some(FetchError::undecided(format!(
                    "the MTA-STS policy that was kept for {domain} cannot be read ({}: {error}); remove the file if it is of no use",
                    file.display()
                ))),
                ..State::default()
            },
        }
    }

    /// Removes the files of policies that are over.
    pub async fn tidy(self: Arc<Self>) {
        let Some(folder) = self.folder.clone() else {
            return;
        };
        // A folder that is not there has nothing to tidy.
        let _ = tokio::task::spawn_blocking(move || tidy(&folder)).await;
    }

    async fn store(&self, domain: &str, kept: &Kept) {
        let (Some(file), Ok(bytes)) = (self.file(domain), serde_json::to_vec(kept)) else {
            return;
        };
        let stored = {
            let file = file.clone();
            tokio::task::spawn_blocking(move || replace(&file, &bytes)).await
        };
        if let Err(error) = stored.unwrap_or_else(|error| Err(error.into())) {
            tracing::warn!(file = %file.display(), %error, "an MTA-STS policy cannot be kept");
        }
    }
}

/// A file is there as a whole or not at all, whenever the machine loses power.
fn replace(file: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = file.with_extension("new");
    let mut writing = fs::File::create(&new)?;
    writing.write_all(content)?;
    writing.sync_all()?;
    fs::rename(&new, file)?;
    fs::File::open(folder)?.sync_all()
}

fn tidy(folder: &Path) -> std::io::Result<()> {
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        let kept = fs::read(&path).ok();
        let kept: Option<Kept> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if kept.is_some_and(|kept| !kept.is_in_force()) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
