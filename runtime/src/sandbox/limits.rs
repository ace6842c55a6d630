//! What a policy may use, and the settings of wasmtime that follow from it.

use std::time::{Duration, Instant};

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::base_config::base_config;

/// A call that runs on is interrupted this often, and yields to other tasks then.
pub const TICKS: u32 = 10;

/// The largest stack of an instance, in bytes.
pub const MAX_STACK: usize = 2 << 20;
/// What host functions need of the same stack, in bytes.
const HOST_STACK: usize = 512 << 10;

/// Core instances, memories and tables of a component. Python comes as some forty core modules that share
/// one memory; JavaScript by QuickJS, where its imports are stubs, as an engine, an adapter and a script with a memory
/// each; and a middleware has a policy inside, with one more, which may be a middleware too.
const CORE_INSTANCES: u32 = 64;
const MEMORIES: u32 = 6;
const TABLES: u32 = 8;

/// What a policy may use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of linear memory that an instance may have, all memories together.
    pub memory: usize,
    /// Wall time of one evaluation.
    pub evaluation: Duration,
    /// Bytes of stack.
    pub stack: usize,
    /// Elements that all tables of an instance may have.
    pub table_elements: usize,
    /// Instances at a time.
    pub instances: u32,
    /// Bytes of memory of all instances that are retained between two evaluations.
    pub retained_memory: usize,
    /// Bytes that a component or document may have.
    pub policy_size: usize,
    /// Bytes of compiled code in memory, of all policies that are in the disk cache.
    pub code: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory: 64 << 20,
            evaluation: Duration::from_millis(50),
            stack: 512 << 10,
            table_elements: 100_000,
            instances: 1000,
            retained_memory: 1 << 30,
            policy_size: 256 << 20,
            code: 256 << 20,
        }
    }
}

/// A limit that no engine can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
#[non_exhaustive]
pub struct LimitError {
    /// Which one: `table-elements` is [`Limits::table_elements`].
    pub name: &'static str,
    /// The range.
    pub reason: &'static str,
}

impl Limits {
    /// Whether an engine can have them; the machine may have too little for them all the same.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn check(&self) -> Result<(), LimitError> {
        let rules = [
            // The built-in evaluator begins with as much; more has no 32-bit address.
            (
                "memory",
                (20 << 16..=1 << 32).contains(&self.memory),
                "a policy must have between 1.25MiB and 4GiB",
            ),
            (
                "evaluation",
                self.evaluation >= Duration::from_millis(1),
                "an evaluation must have at least 1ms",
            ),
            (
                "stack",
                (64 << 10..=MAX_STACK).contains(&self.stack),
                "the stack must be between 64KiB and 2MiB",
            ),
            (
                "table-elements",
                (1000..=10_000_000).contains(&self.table_elements),
                "there must be between 1000 and 10000000 table elements",
            ),
            (
                "instances",
                self.instances > 0,
                "there must be at least 1 instance",
            ),
        ];
        match rules.into_iter().find(|(_, is_met, _)| !is_met) {
            Some((name, _, reason)) => Err(LimitError { name, reason }),
            None => Ok(()),
        }
    }
}

/// For policies that run.
pub fn config(limits: &Limits) -> Config {
    let mut config = base_config();
    config
        .max_wasm_stack(limits.stack)
        .async_stack_size(limits.stack + HOST_STACK)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(limits)));
    config
}

fn pool(limits: &Limits) -> PoolingAllocationConfig {
    let of_all = |of_one: u32| limits.instances.saturating_mul(of_one);
    let mut pool = PoolingAllocationConfig::new();
    // What one component may have, each of all instances can have: nobody takes what others need.
    pool.total_component_instances(limits.instances)
        .max_core_instances_per_component(CORE_INSTANCES)
        .total_core_instances(of_all(CORE_INSTANCES))
        .max_memories_per_component(MEMORIES)
        .total_memories(of_all(MEMORIES))
        .max_tables_per_component(TABLES)
        .total_tables(of_all(TABLES))
        .total_stacks(limits.instances)
        .max_memory_size(limits.memory)
        .table_elements(limits.table_elements)
        .max_unused_warm_slots(limits.instances / 10)
        // A slot is reset by copying back the few pages that were written, so that its next user finds all pages
        // mapped.
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(64 << 10)
        .table_keep_resident(16 << 10);
    pool
}

/// Ticks as long as the engine lives, and calls a function each second.
#[allow(
    clippy::disallowed_methods,
    reason = "the clock has a thread of its own"
)]
pub fn start_clock(
    engine: &Engine,
    period: Duration,
    mut each_second: impl FnMut() + Send + 'static,
) -> std::io::Result<()> {
    let engine = engine.weak();
    let tick = move || {
        let second = Duration::from_secs(1);
        let (mut ticked, mut called) = (Instant::now(), Instant::now());
        loop {
            std::thread::sleep(period.min(second));
            let Some(engine) = engine.upgrade() else {
                return;
            };
            if ticked.elapsed() >= period {
                ticked = Instant::now();
                engine.increment_epoch();
            }
            if called.elapsed() >= second {
                called = Instant::now();
                each_second();
            }
        }
    };
    std::thread::Builder::new()
        .name("policy-clock".into())
        .spawn(tick)?;
    Ok(())
}
