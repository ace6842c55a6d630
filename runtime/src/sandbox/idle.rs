//! Instances of the built-in evaluator between two questions.
//!
//! Making and dropping an instance costs more than a question to it. The built-in evaluator keeps nothing of a question:
//! it wipes what the last one has left in its memory before it takes the next. So the sessions of a tenant can ask the
//! same instance, one after the other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use super::engine::Engine;
use super::instance::Instance;
use super::policy::LoadedPolicy;
use crate::failure::EvaluationError;

/// Idle instances of all policies. Those of a tenant are asked on the threads of the caller's runtime, one question at a
/// time on each, so a busy tenant needs few.
const MAX_IDLE: usize = 64;

/// Questions after which an instance makes way for a fresh one.
const MAX_QUESTIONS: u32 = 1000;

/// Who shares an instance of the built-in evaluator. Each session has its own of components of others, whatever is said
/// here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// The sessions of one tenant, one after the other.
    #[default]
    Tenant,
    /// Nobody: it ends with the session.
    Session,
}

/// Instances that wait for the next question to their policies. Cheap to clone.
#[derive(Clone, Default)]
pub struct IdleInstances {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The last one is asked next: its memory is in the processor's caches.
    idle: Mutex<Vec<Idle>>,
    /// Goes up each second, while the list is held.
    generation: AtomicU32,
}

struct Idle {
    borrowed: Borrowed,
    _permit: OwnedSemaphorePermit,
}

/// An instance that is asked. It goes back with [`IdleInstances::put`] once it has answered; otherwise it ends.
pub struct Borrowed {
    /// The instance.
    pub instance: Instance,
    /// Whose mail it is asked about. The policy before all others is asked about every tenant's.
    tenant: Arc<str>,
    generation: u32,
    /// Bytes of its memory when it was made.
    memory: usize,
}

impl IdleInstances {
    /// One that has been asked about the tenant's mail before, or else a fresh one.
    ///
    /// # Errors
    /// If none can be made.
    pub async fn take(
        &self,
        engine: &Engine,
        tenant: &Arc<str>,
        policy: &Arc<LoadedPolicy>,
    ) -> Result<Borrowed, EvaluationError> {
        if let Some(borrowed) = self.last_of(tenant, policy) {
            return Ok(borrowed);
        }
        // It may take a while to make one, which counts.
        let generation = self.generation();
        // Boxed: the future is large, and few sessions need it.
        let instance = Box::pin(Instance::new(engine, policy)).await?;
        Ok(Borrowed {
            memory: instance.memory(),
            instance,
            tenant: tenant.clone(),
            generation,
        })
    }

    /// Keeps one that has answered, unless its time is over, others need the room, or it has grown, which somebody would
    /// have to wipe.
    pub fn put(&self, engine: &Engine, borrowed: Borrowed) {
        let instance = &borrowed.instance;
        if instance.questions() >= MAX_QUESTIONS || instance.memory() > borrowed.memory {
            return;
        }
        let Some(_permit) = instance.try_retain(engine) else {
            return;
        };
        let mut idle = self.shared.lock();
        // Asked while no new one can begin.
        if borrowed.generation != self.generation() {
            return;
        }
        let oldest = (idle.len() >= MAX_IDLE).then(|| idle.remove(0));
        idle.push(Idle { borrowed, _permit });
        // Others need not wait while it is dropped.
        drop(idle);
        drop(oldest);
    }

    /// What is to be called each second. All instances end then: so a policy that is replaced, or has no mail, holds
    /// neither memory nor code, and none is asked for long.
    pub fn end_all(&self) -> impl FnMut() + Send + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || {
            if let Some(shared) = shared.upgrade() {
                let mut idle = shared.lock();
                shared.generation.fetch_add(1, Ordering::Relaxed);
                let ended = std::mem::take(&mut *idle);
                drop(idle);
                drop(ended);
            }
        }
    }

    fn last_of(&self, tenant: &Arc<str>, policy: &Arc<LoadedPolicy>) -> Option<Borrowed> {
        let mut idle = self.shared.lock();
        let is_its = |Idle { borrowed, .. }: &Idle| {
            Arc::ptr_eq(borrowed.instance.policy(), policy) && borrowed.tenant == *tenant
        };
        let at = idle.iter().rposition(is_its)?;
        Some(idle.remove(at).borrowed)
    }

    fn generation(&self) -> u32 {
        self.shared.generation.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
