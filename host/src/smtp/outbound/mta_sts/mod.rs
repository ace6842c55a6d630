//! MTA-STS (RFC 8461): what a domain asks of those who send to it, kept as long as it says.

mod fetch;
pub mod policy;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::dns::Dns;
use super::failure::Unprotected;
use crate::log;
use crate::tls::Roots;
pub use policy::{Mode, Policy};

/// Domains whose state is kept in memory.
const MOST_DOMAINS: u64 = 10_000;
/// RFC 8461 §3.3: a policy that could not be fetched is not asked for again at once.
const PAUSE: Duration = Duration::from_secs(300);
/// §3.3: a policy is looked at anew before it runs out, so that an attacker cannot wait for its end.
const REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// The policies of the domains that mail was sent to.
pub struct Policies {
    domains: Cache<String, Arc<Mutex<State>>>,
    /// Where policies outlive the process: forgetting them would open the door to a downgrade.
    folder: Option<PathBuf>,
    port: u16,
}

/// What is known of a domain.
#[derive(Default)]
struct State {
    kept: Option<Kept>,
    failed: Option<Failed>,
}

/// A policy with its age.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    id: String,
    policy: Policy,
    fetched: SystemTime,
}

impl Kept {
    /// How old it is; a clock that was set back makes it as old as can be.
    fn age(&self) -> Duration {
        self.fetched.elapsed().unwrap_or(Duration::MAX)
    }

    fn is_in_force(&self) -> bool {
        self.age() < self.policy.max_age
    }

    fn is_fresh(&self, id: &str) -> bool {
        self.id == id && self.age() < REFRESH.min(self.policy.max_age / 2)
    }
}

/// An attempt that did not succeed.
struct Failed {
    id: String,
    at: Instant,
    why: Unprotected,
}

/// What holds for a domain.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Its policy, if there is one.
    pub policy: Option<Policy>,
    /// Why the newest could not be had.
    pub trouble: Option<Unprotected>,
}

impl Policies {
    /// None yet; those that were kept in the folder are read when they are needed.
    pub fn new(folder: Option<PathBuf>, port: u16) -> Self {
        Policies {
            domains: Cache::new(MOST_DOMAINS),
            folder,
            port,
        }
    }

    /// What holds for a domain now. A policy that is kept outlives its record and its server (§5.1);
    /// where none can be had the domain is as one that has none (§3.3).
    pub async fn of(&self, dns: &Dns, roots: &Roots, domain: &str) -> Standing {
        let load = async { Arc::new(Mutex::new(self.load(domain).await)) };
        let state = self.domains.get_with(domain.to_owned(), load).await;
        // Sessions that ask for the same domain share one fetch.
        let mut state = state.lock().await;
        let records = match dns.txt(&format!("_mta-sts.{domain}")).await {
            Ok(answer) => answer.records,
            Err(_) => Vec::new(),
        };
        let mut standing = Standing::default();
        if let Some(id) = policy::record_id(&records)
            && !state.kept.as_ref().is_some_and(|kept| kept.is_fresh(&id))
        {
            standing.trouble = self.fetch(dns, roots, domain, id, &mut state).await.err();
        }
        let kept = state.kept.as_ref().filter(|kept| kept.is_in_force());
        standing.policy = kept.map(|kept| kept.policy.clone());
        standing
    }

    async fn fetch(
        &self,
        dns: &Dns,
        roots: &Roots,
        domain: &str,
        id: String,
        state: &mut State,
    ) -> Result<(), Unprotected> {
        if let Some(failed) = &state.failed
            && failed.id == id
            && failed.at.elapsed() < PAUSE
        {
            return Err(failed.why.clone());
        }
        match fetch::fetch(dns, roots, domain, self.port).await {
            Ok(policy) => {
                let kept = Kept {
                    id,
                    policy,
                    fetched: SystemTime::now(),
                };
                self.store(domain, &kept).await;
                *state = State {
                    kept: Some(kept),
                    failed: None,
                };
                Ok(())
            }
            Err(why) => {
                tracing::warn!(domain, "{}", log::words(&why.to_string()));
                let at = Instant::now();
                state.failed = Some(Failed {
                    id,
                    at,
                    why: why.clone(),
                });
                Err(why)
            }
        }
    }

    /// A domain's file. Domains here are A-labels, so they are safe as names of files.
    fn file(&self, domain: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{domain}.json")))
    }

    async fn load(&self, domain: &str) -> State {
        let Some(file) = self.file(domain) else {
            return State::default();
        };
        let kept = tokio::fs::read(&file).await.ok();
        let kept = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        State { kept, failed: None }
    }

    async fn store(&self, domain: &str, kept: &Kept) {
        let (Some(file), Ok(bytes)) = (self.file(domain), serde_json::to_vec(kept)) else {
            return;
        };
        let new = file.with_extension("new");
        let stored = async {
            tokio::fs::create_dir_all(file.parent().unwrap_or(&file)).await?;
            tokio::fs::write(&new, bytes).await?;
            tokio::fs::rename(&new, &file).await
        };
        if let Err(error) = stored.await {
            tracing::warn!(file = %file.display(), %error, "an MTA-STS policy cannot be kept");
        }
    }
}
