//! Permits: for instances, for slow calls, for memory that is retained.

use std::num::NonZero;
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::limits::Limits;
use super::timeout::within;
use crate::failure::Failure;

/// Bytes in which [`Limits::retained_memory`] is counted.
const MEMORY_UNIT: usize = 64 << 10;

/// Who may run. Cheap to clone.
#[derive(Clone)]
pub struct Admission {
    /// One permit an instance. The pool answers exhaustion with an error; here evaluations queue instead.
    instances: Arc<Semaphore>,
    most_instances: usize,
    /// One permit for each [`MEMORY_UNIT`] of retained memory.
    retained: Arc<Semaphore>,
    /// Slow calls of all policies.
    slow: SlowCalls,
}

/// Permits for slow calls.
#[derive(Clone)]
pub struct SlowCalls(Arc<Semaphore>);

impl Default for SlowCalls {
    /// For half of the processors.
    fn default() -> Self {
        // Each policy has some, and the kernel tells it by several files.
        static PROCESSORS: LazyLock<usize> =
            LazyLock::new(|| available_parallelism().map_or(1, NonZero::get));
        SlowCalls(Arc::new(Semaphore::new(PROCESSORS.div_ceil(2))))
    }
}

/// The right to a slow call, as long as it is not dropped.
pub struct SlowCall {
    _of_all: OwnedSemaphorePermit,
    _of_policy: OwnedSemaphorePermit,
}

impl Admission {
    /// As many as the limits say.
    pub fn new(limits: &Limits) -> Self {
        let most_instances = limits.instances as usize;
        Admission {
            instances: Arc::new(Semaphore::new(most_instances)),
            most_instances,
            retained: Arc::new(Semaphore::new(limits.retained_memory / MEMORY_UNIT)),
            slow: SlowCalls::default(),
        }
    }

    /// How many instances there are now.
    pub fn instances(&self) -> usize {
        self.most_instances - self.instances.available_permits()
    }

    /// The right to one instance.
    ///
    /// # Errors
    /// If all are in use for that long.
    pub async fn instance(&self, timeout: Duration) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(permit) = self.instances.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let acquired = within(timeout, self.instances.clone().acquire_owned()).await;
        let permit = acquired.and_then(Result::ok);
        permit.ok_or(Failure::PoolExhausted(self.most_instances))
    }

    /// The right to a slow call of a policy with these permits of its own. Half of the processors are for slow calls, so
    /// however many sessions ask policies that never answer, those of other policies find one. Each policy has its
    /// turn, however many evaluations of another one wait.
    ///
    /// # Errors
    /// If too many are ahead for that long.
    pub async fn slow_call(
        &self,
        of_policy: &SlowCalls,
        timeout: Duration,
    ) -> Result<SlowCall, Failure> {
        let both = async {
            let of_policy = of_policy.0.clone().acquire_owned().await.ok()?;
            let of_all = self.slow.0.clone().acquire_owned().await.ok()?;
            Some(SlowCall {
                _of_all: of_all,
                _of_policy: of_policy,
            })
        };
        let permit = within(timeout, both).await.flatten();
        permit.ok_or(Failure::Throttled(timeout))
    }

    /// The right to retain an instance with so much memory between two evaluations, if there is room. The last tenth of
    /// the instances is for evaluations, so idle sessions cannot keep others from being decided on.
    pub fn try_retain(&self, memory: usize) -> Option<OwnedSemaphorePermit> {
        if self.instances.available_permits() <= self.most_instances / 10 {
            return None;
        }
        let units = u32::try_from(memory.div_ceil(MEMORY_UNIT)).ok()?;
        self.retained.clone().try_acquire_many_owned(units).ok()
    }
}
