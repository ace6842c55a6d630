//! The code of modules in memory: what was used last stays.
//!
//! Ten thousand tenants may each bring a module, and few of them get mail at a time. Code that stands in
//! the cache of compiled modules is mapped when somebody asks for it, and let go when it is idle or when
//! others need the room. Who runs it holds on to it.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use moka::policy::EvictionPolicy;

use super::engine::Sandbox;
use super::instance::Failure;
use super::module::{Code, Compiled, Module};

/// Code that nobody has asked for so long is let go.
const IDLE: Duration = Duration::from_secs(60);

/// Code by its place in the cache of compiled modules. Cheap to clone.
#[derive(Clone)]
pub(super) struct Shelf(Cache<Arc<str>, Arc<Compiled>>);

impl Shelf {
    /// Room for so many bytes of code.
    pub(super) fn new(most: u64) -> Self {
        let shelf = Cache::builder()
            .max_capacity(most >> 10)
            .weigher(|_, compiled: &Arc<Compiled>| compiled.kib())
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(IDLE);
        Shelf(shelf.build())
    }

    /// Lets go what is too much now, and not only when there is more to do.
    async fn make_room(&self) {
        self.0.run_pending_tasks().await;
    }
}

impl Compiled {
    /// What it takes of the shelf, in KiB.
    fn kib(&self) -> u32 {
        let bytes = self.entry.as_ref().and_then(|entry| entry.size());
        u32::try_from(bytes.unwrap_or(0) >> 10).unwrap_or(u32::MAX)
    }
}

impl Sandbox {
    /// Puts code on the shelf, if it can be had again.
    pub(super) async fn shelve(&self, code: Code) -> Code {
        let Code::Held(compiled) = &code else {
            return code;
        };
        match &compiled.entry {
            Some(entry) if entry.size().is_some() => {
                let entry = entry.clone();
                self.shelf.0.insert(entry.name(), compiled.clone()).await;
                self.shelf.make_room().await;
                Code::Kept(entry)
            }
            _ => code,
        }
    }

    /// Lets go of the code of a module that is in force no longer. Who runs it still holds on to it.
    pub async fn forget(&self, module: &Module) {
        if let Code::Kept(entry) = &module.code {
            self.shelf.0.invalidate(&entry.name()).await;
            self.shelf.make_room().await;
        }
    }

    /// A module's code. Where it has to be mapped, that happens on a thread of its own, once for all who
    /// ask.
    pub(super) async fn code(&self, code: &Code) -> Result<Arc<Compiled>, Failure> {
        let entry = match code {
            Code::Held(compiled) => return Ok(compiled.clone()),
            Code::Kept(entry) => entry,
        };
        let loading = async {
            let (sandbox, entry) = (self.clone(), entry.clone());
            let gone = Failure::NotLoaded(entry.path().display().to_string());
            let loading = tokio::task::spawn_blocking(move || {
                let component = entry.load(&sandbox.engine)?;
                sandbox.linked(&component, Some(entry)).ok()
            });
            loading.await.ok().flatten().map(Arc::new).ok_or(gone)
        };
        let place = self.shelf.0.entry(entry.name());
        let loaded = place.or_try_insert_with(loading).await;
        let loaded = loaded.map_err(|failure| Failure::clone(&failure))?;
        if loaded.is_fresh() {
            self.shelf.make_room().await;
        }
        Ok(loaded.into_value())
    }
}
