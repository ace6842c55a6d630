//! An instance of a module: what one session asks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::HasData;
use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, UpdateDeadline};

use super::bindings::policy::Policy;
use super::engine::{Limits, Sandbox, TICKS};
use super::interface::{Context, Description, Explanation, Verdict};
use super::module::Module;
use super::wasi::World;

/// How long a session waits for a slot before its mail is deferred.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many bytes an answer may make the host allocate. A long list of connectors has a few hundred
/// KiB.
const LONGEST_ANSWER: usize = 16 << 20;

/// A module did not answer.
#[derive(Debug, thiserror::Error)]
#[error("policy {module}: {failure}")]
pub struct EvaluationError {
    /// The module's name.
    pub module: Arc<str>,
    /// What went wrong.
    pub failure: Failure,
}

/// What went wrong in a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It did what WebAssembly forbids, or gave up.
    #[error("the module trapped: {0}")]
    Trapped(String),
    /// It took too long.
    #[error("the module did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// It asked for more memory or tables than it may have.
    #[error("the module asked for more than the {} KiB of memory that it may have", .0 / 1024)]
    OutOfMemory(usize),
    /// It recursed too deeply.
    #[error("the module used up its stack of {} KiB", .0 / 1024)]
    StackOverflow(usize),
    /// All slots are taken.
    #[error("all {0} sandbox instances are in use")]
    NoSlot(usize),
    /// It could not be instantiated, or answered with what the interface does not allow.
    #[error("{0}")]
    Invalid(String),
}

impl Failure {
    /// The stable name, for metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Failure::Trapped(_) => "trap",
            Failure::TimedOut(_) => "time-out",
            Failure::OutOfMemory(_) => "out-of-memory",
            Failure::StackOverflow(_) => "stack-overflow",
            Failure::NoSlot(_) => "no-slot",
            Failure::Invalid(_) => "invalid",
        }
    }
}

/// What the store of an instance holds.
pub struct State {
    module: Arc<str>,
    limits: Arc<Limits>,
    memory: usize,
    tables: usize,
    denied: bool,
    deadline: Option<Instant>,
    world: Option<Box<World>>,
}

impl State {
    /// The empty world, made when a module first asks for it.
    pub(super) fn world(&mut self) -> &mut World {
        self.world
            .get_or_insert_with(|| Box::new(World::new(&self.module)))
    }

    /// Called at each tick while the module runs.
    fn on_tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let budget = self.limits.evaluation;
        let now = Instant::now();
        // The clock is not read before the first tick: most evaluations never see one.
        let deadline = *self.deadline.get_or_insert(now + budget - budget / TICKS);
        if now >= deadline {
            return Err(TimedOut.into());
        }
        Ok(UpdateDeadline::Yield(1))
    }
}

impl HasData for State {
    type Data<'a> = &'a mut State;
}

#[derive(Debug, thiserror::Error)]
#[error("out of time")]
struct TimedOut;

impl ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.memory = self.memory.saturating_add(desired.saturating_sub(current));
        let allowed = self.memory <= self.limits.memory;
        self.denied |= !allowed;
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.tables = self.tables.saturating_add(desired.saturating_sub(current));
        let allowed = self.tables <= self.limits.table_elements;
        self.denied |= !allowed;
        Ok(allowed)
    }
}

/// An instance of a module. After an error it is spent: the next question needs a fresh one.
pub struct Instance {
    store: Store<State>,
    policy: Policy,
    module: Arc<Module>,
    _slot: OwnedSemaphorePermit,
}

impl Instance {
    /// A fresh instance.
    pub async fn new(sandbox: &Sandbox, module: &Arc<Module>) -> Result<Instance, EvaluationError> {
        let failed = |failure| EvaluationError {
            module: module.name.clone(),
            failure,
        };
        let slot = tokio::time::timeout(PATIENCE, sandbox.slots.clone().acquire_owned()).await;
        let Ok(Ok(slot)) = slot else {
            return Err(failed(Failure::NoSlot(sandbox.limits.instances as usize)));
        };
        let state = State {
            module: module.name.clone(),
            limits: sandbox.limits.clone(),
            memory: 0,
            tables: 0,
            denied: false,
            deadline: None,
            world: None,
        };
        let mut store = Store::new(&sandbox.engine, state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(LONGEST_ANSWER);
        store.epoch_deadline_callback(|mut store| store.data_mut().on_tick());
        store.set_epoch_deadline(1);
        let instantiated = bounded(
            module,
            &sandbox.limits,
            module.pre.instantiate_async(&mut store),
        )
        .await;
        match instantiated {
            Ok(policy) => Ok(Instance {
                store,
                policy,
                module: module.clone(),
                _slot: slot,
            }),
            Err(error) => Err(failed(classify(error, store.data()))),
        }
    }

    /// The module that this is an instance of.
    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Decides about one recipient of one message.
    pub async fn evaluate(&mut self, context: &Context) -> Result<Verdict, EvaluationError> {
        self.start();
        let call = self
            .policy
            .portcullis_policy_evaluation()
            .call_evaluate(&mut self.store, context);
        let answer = bounded(&self.module, &self.module.limits, call).await;
        answer.map_err(|error| self.failed(error))
    }

    /// Decides as `evaluate` does, and tells why.
    pub async fn explain(&mut self, context: &Context) -> Result<Explanation, EvaluationError> {
        self.start();
        let call = self
            .policy
            .portcullis_policy_evaluation()
            .call_explain(&mut self.store, context);
        let answer = bounded(&self.module, &self.module.limits, call).await;
        answer.map_err(|error| self.failed(error))
    }

    /// Describes the policy, with at most `limit` connectors from number `first` on.
    pub async fn describe(
        &mut self,
        first: u32,
        limit: u32,
    ) -> Result<Description, EvaluationError> {
        self.start();
        let call =
            self.policy
                .portcullis_policy_evaluation()
                .call_describe(&mut self.store, first, limit);
        let answer = bounded(&self.module, &self.module.limits, call).await;
        answer.map_err(|error| self.failed(error))
    }

    fn start(&mut self) {
        self.store.data_mut().deadline = None;
        self.store.set_epoch_deadline(1);
    }

    fn failed(&self, error: wasmtime::Error) -> EvaluationError {
        EvaluationError {
            module: self.module.name.clone(),
            failure: classify(error, self.store.data()),
        }
    }
}

/// Ends a call that waits in the host: there no epoch ends it. Only modules with imports can.
async fn bounded<T>(
    module: &Module,
    limits: &Limits,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    if !module.uses_wasi {
        return call.await;
    }
    match tokio::time::timeout(limits.evaluation, call).await {
        Ok(answer) => answer,
        Err(_) => Err(TimedOut.into()),
    }
}

fn classify(error: wasmtime::Error, state: &State) -> Failure {
    let limits = &state.limits;
    if error.is::<PoolConcurrencyLimitError>() {
        return Failure::NoSlot(limits.instances as usize);
    }
    if error.is::<TimedOut>() {
        return Failure::TimedOut(limits.evaluation);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => Failure::StackOverflow(limits.stack),
        Some(Trap::Interrupt) => Failure::TimedOut(limits.evaluation),
        _ if state.denied => Failure::OutOfMemory(limits.memory),
        Some(trap) => Failure::Trapped(trap.to_string()),
        None => Failure::Invalid(format!("{error:#}")),
    }
}
