//! The engine: its limits, its pool of slots and its clock.

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
};

use super::cache::Cache;
use super::compiler::Compiler;
use super::instance::{Failure, State};
use super::module::Module;
use super::shelf::Shelf;
use super::wasi;

/// An evaluation is looked at this often, and yields to other sessions then.
pub const TICKS: u32 = 10;

/// The largest stack of an instance that can be asked for, in bytes. Quick calls run on the stacks of the
/// program's own threads, which have this much and [`OWN_STACK`].
pub const MOST_STACK: usize = 2 << 20;
/// What the program's own threads need of their stacks, in bytes.
pub const OWN_STACK: usize = 2 << 20;

/// Core instances, memories and tables of a component. Python comes as some forty core modules that share
/// one memory.
const CORE_INSTANCES: u32 = 64;
const MEMORIES: u32 = 2;
const TABLES: u32 = 4;

/// Bytes in which [`Limits::kept`] is counted.
const KEPT_UNIT: usize = 64 << 10;

/// What a module may use.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Bytes of memory of all instances that sessions keep between two questions.
    pub kept: usize,
    /// Bytes that a component or document may have.
    pub module: usize,
    /// Bytes of compiled code in memory, of all modules that are in the compile cache.
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
            kept: 1 << 30,
            module: 256 << 20,
            code: 256 << 20,
        }
    }
}

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox cannot be set up: {0:#}")]
pub struct SandboxError(pub(super) wasmtime::Error);

/// The place where policies run. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    pub(super) engine: Engine,
    pub(super) linker: Arc<Linker<State>>,
    pub(super) limits: Arc<Limits>,
    /// One permit an instance: the pool answers exhaustion with an error, a queue in front of it with
    /// patience.
    pub(super) slots: Arc<Semaphore>,
    /// A permit for each [`KEPT_UNIT`] of the memory of instances that sessions keep.
    pub(super) kept: Arc<Semaphore>,
    /// Whose turn it is of all slow modules.
    turns: Arc<Semaphore>,
    pub(super) cache: Option<Arc<Cache>>,
    pub(super) compiler: Compiler,
    pub(super) shelf: Shelf,
    /// The shipped evaluator, once somebody has asked for it.
    pub(super) evaluator: Arc<OnceCell<Module>>,
}

impl Sandbox {
    /// Sets the engine up and starts its clock.
    ///
    /// # Errors
    /// If the limits are more than this machine's address space holds.
    pub fn new(
        limits: Limits,
        cache: Option<Arc<Cache>>,
        compiler: Compiler,
    ) -> Result<Self, SandboxError> {
        let mut config = base_config();
        config
            .max_wasm_stack(limits.stack)
            // Host calls run on the same stack.
            .async_stack_size(limits.stack + (512 << 10))
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(&limits)));
        let engine = Engine::new(&config).map_err(SandboxError)?;
        start_clock(&engine, limits.evaluation / TICKS);
        let linker = wasi::linker(&engine).map_err(SandboxError)?;
        Ok(Sandbox {
            engine,
            linker: Arc::new(linker),
            slots: Arc::new(Semaphore::new(limits.instances as usize)),
            kept: Arc::new(Semaphore::new(limits.kept / KEPT_UNIT)),
            turns: turns(),
            shelf: Shelf::new(limits.code),
            limits: Arc::new(limits),
            cache,
            compiler,
            evaluator: Arc::default(),
        })
    }

    /// The right to one instance; none if all are in use for that long.
    pub(super) async fn slot(&self, patience: Duration) -> Option<OwnedSemaphorePermit> {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Some(slot);
        }
        let acquired = tokio::time::timeout(patience, self.slots.clone().acquire_owned()).await;
        acquired.ok()?.ok()
    }

    /// Waits until a module may be run with patience. Half of the processors are for that, so however many
    /// sessions ask modules that never answer, those of other modules find one. Each module has its turn,
    /// however many questions there are to another one. A module that is quick has no turns.
    pub(super) async fn turn(
        &self,
        module: &Module,
        patience: Duration,
    ) -> Result<Option<Turn>, Failure> {
        if module.is_quick() {
            return Ok(None);
        }
        let both = async {
            let of_module = module.turns.clone().acquire_owned().await.ok()?;
            let of_all = self.turns.clone().acquire_owned().await.ok()?;
            Some(Turn {
                _of_all: of_all,
                _of_module: of_module,
            })
        };
        let turn = timeout(patience, both).await.ok().flatten();
        turn.map(Some).ok_or(Failure::Busy(patience))
    }

    /// The right to keep an instance with so much memory between two questions, if there is room. The last
    /// tenth of the slots is for questions, so sessions that are idle cannot keep others from being
    /// decided on.
    pub(super) fn room(&self, memory: usize) -> Option<OwnedSemaphorePermit> {
        if self.slots.available_permits() <= self.limits.instances as usize / 10 {
            return None;
        }
        let units = u32::try_from(memory.div_ceil(KEPT_UNIT)).ok()?;
        self.kept.clone().try_acquire_many_owned(units).ok()
    }

    /// What a module may use.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// A slow module's turn, as long as it is not dropped.
pub(super) struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_module: OwnedSemaphorePermit,
}

/// Turns for half of the processors.
pub(super) fn turns() -> Arc<Semaphore> {
    let processors = available_parallelism().map_or(1, NonZero::get);
    Arc::new(Semaphore::new(processors.div_ceil(2)))
}

/// What is the same for policies that run and for the evaluator while it builds.
pub fn base_config() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        // It would have the module's own names in it.
        .wasm_backtrace_max_frames(None)
        // The concurrent call path costs every call, and no policy needs it.
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true);
    config
}

fn pool(limits: &Limits) -> PoolingAllocationConfig {
    // Python comes as some forty core modules that share one memory. The numbers only count.
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
        // A slot is made good as new by copying back the few pages that were written, so that its next
        // user finds all pages mapped.
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(64 << 10)
        .table_keep_resident(16 << 10);
    pool
}

/// Ticks as long as the engine lives.
pub(super) fn start_clock(engine: &Engine, period: Duration) {
    let engine = engine.weak();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(period);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    });
}
