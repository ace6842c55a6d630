//! Compiled code in memory: what was used last stays.
//!
//! Ten thousand tenants may each bring a component, and few of them get mail at a time. Code that is in the disk cache
//! is mapped when it is needed, and evicted when it is idle or when others need the room. Whoever runs it holds on to
//! it.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use wasmtime::Engine;
use wasmtime::component::Linker;

use super::code::{Code, CompiledPolicy};
use super::state::State;
use crate::failure::Failure;

/// Code that has not been used for so long is evicted.
const IDLE: Duration = Duration::from_secs(60);

/// Code by its place in the disk cache. Cheap to clone.
#[derive(Clone)]
pub struct CodeCache(Cache<Arc<str>, Arc<CompiledPolicy>>);

impl CodeCache {
    /// Room for so many bytes of code.
    pub fn new(capacity: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(capacity >> 10)
            .weigher(|_, compiled: &Arc<CompiledPolicy>| compiled.kib())
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(IDLE);
        CodeCache(cache.build())
    }

    /// Keeps code, if it can be had again.
    pub async fn insert(&self, code: Code) -> Code {
        let Code::Resident(compiled) = &code else {
            return code;
        };
        match &compiled.entry {
            Some(entry) if entry.size().is_some() => {
                let entry = entry.clone();
                self.0.insert(entry.name(), compiled.clone()).await;
                self.0.run_pending_tasks().await;
                Code::Cached(entry)
            }
            _ => code,
        }
    }

    /// Evicts the code of a policy that is no longer active. Whoever runs it still holds on to it.
    pub async fn evict(&self, code: &Code) {
        if let Code::Cached(entry) = code {
            self.0.invalidate(&entry.name()).await;
            self.0.run_pending_tasks().await;
        }
    }

    /// A policy's code. If it has to be mapped, that happens on a thread of its own, once for all who need it.
    ///
    /// # Errors
    /// If it is in the disk cache no longer.
    pub async fn get(
        &self,
        code: &Code,
        engine: &Engine,
        linker: &Arc<Linker<State>>,
    ) -> Result<Arc<CompiledPolicy>, Failure> {
        let entry = match code {
            Code::Resident(compiled) => return Ok(compiled.clone()),
            Code::Cached(entry) => entry,
        };
        let loading = async {
            let (engine, linker, entry) = (engine.clone(), linker.clone(), entry.clone());
            let gone = Failure::NotLoaded(entry.path().display().to_string());
            let loading = tokio::task::spawn_blocking(move || {
                let component = entry.load(&engine)?;
                CompiledPolicy::new(&linker, &component, Some(entry)).ok()
            });
            loading.await.ok().flatten().map(Arc::new).ok_or(gone)
        };
        let place = self.0.entry(entry.name());
        let loaded = place.or_try_insert_with(loading).await;
        let loaded = loaded.map_err(|failure| Failure::clone(&failure))?;
        if loaded.is_fresh() {
            self.0.run_pending_tasks().await;
        }
        Ok(loaded.into_value())
    }
}
