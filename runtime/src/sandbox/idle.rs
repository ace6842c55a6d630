//! Instances of the built-in evaluator between two questions.
//!
//! Making and dropping an instance costs more than a question to it. The built-in evaluator keeps nothing of a question:
//! it wipes what the last one has left in its memory before it takes the next. So the sessions of a tenant can ask the
//! same instance, one after the other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OwnedSemaphorePermit;

use super::engine::Engine;
use super::instance::Instance;
use super::policy::LoadedPolicy;
use crate::failure::EvaluationError;

/// Idle instances of all policies. Those of a tenant are asked on the threads of the caller's runtime, one question at a
/// time on each, so a busy tenant needs few.
const MOST_IDLE: usize = 64;

/// Questions after which an instance makes way for a fresh one.
const MOST_QUESTIONS: u32 = 1000;

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
    /// Goes up each second.
    generation: AtomicU32,
}

struct Idle {
    instance: Instance,
    generation: u32,
    _permit: OwnedSemaphorePermit,
}

/// An instance that is asked. It goes back with [`IdleInstances::put`] once it has answered; otherwise it ends.
pub struct Taken {
    /// The instance.
    pub instance: Instance,
    generation: u32,
}

impl IdleInstances {
    /// One that has been asked before, or else a fresh one.
    ///
    /// # Errors
    /// If none can be made.
    pub async fn take(
        &self,
        engine: &Engine,
        policy: &Arc<LoadedPolicy>,
    ) -> Result<Taken, EvaluationError> {
        if let Some(taken) = self.last_of(policy) {
            return Ok(taken);
        }
        // It may take a while to make one, which counts.
        let generation = self.generation();
        // Few sessions have to make one, and the others have no room for it.
        let instance = Box::pin(Instance::new(engine, policy)).await?;
        Ok(Taken {
            instance,
            generation,
        })
    }

    /// Keeps one that has answered, unless its time is over or others need the room.
    pub fn put(&self, engine: &Engine, taken: Taken) {
        let Taken {
            instance,
            generation,
        } = taken;
        if generation != self.generation() || instance.questions() >= MOST_QUESTIONS {
            return;
        }
        let Some(_permit) = instance.try_retain(engine) else {
            return;
        };
        let mut idle = self.shared.lock();
        let oldest = (idle.len() >= MOST_IDLE).then(|| idle.remove(0));
        idle.push(Idle {
            instance,
            generation,
            _permit,
        });
        // Others need not wait while it is dropped.
        drop(idle);
        drop(oldest);
    }

    /// What is to be called each second. All instances end then: so a policy that is replaced, or has no mail, holds
    /// neither memory nor code, and none is asked for long.
    pub fn end_all(&self) -> impl FnMut() + Send + 'static {
        let shared = Arc::downgrade(&self.shared);
        move || {
            if let Some(shared) = Weak::upgrade(&shared) {
                shared.generation.fetch_add(1, Ordering::Relaxed);
                let idle = std::mem::take(&mut *shared.lock());
                drop(idle);
            }
        }
    }

    fn last_of(&self, policy: &Arc<LoadedPolicy>) -> Option<Taken> {
        let mut idle = self.shared.lock();
        let is_its = |idle: &Idle| Arc::ptr_eq(idle.instance.policy(), policy);
        let at = idle.iter().rposition(is_its)?;
        let Idle {
            instance,
            generation,
            ..
        } = idle.remove(at);
        Some(Taken {
            instance,
            generation,
        })
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
