//! An instance of a module: what one session asks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::component::{self, ComponentExportIndex, HasData, TypedFunc};
use wasmtime::{PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, UpdateDeadline};

use super::engine::{Limits, Sandbox, TICKS};
use super::interface::{Context, Description, Explanation, Verdict};
use super::module::{Compiled, Module};
use super::wasi::World;
use crate::text::one_line;

/// How long a session waits for its turn, and for a slot, before its mail is deferred.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same of a policy that is loaded: nobody waits for it, and nobody would try again.
const LOADING_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Ticks after which a call on the caller's thread ends: at least one whole.
const QUICK: u64 = 2;

/// How many bytes a description may make the host allocate. A long list of connectors has a few hundred KiB.
const LONGEST_ANSWER: usize = 16 << 20;

/// The same of a verdict. No clock runs while it is read, and a thread of many sessions reads it.
const LONGEST_VERDICT: usize = 2 << 20;

/// A module did not answer.
#[derive(Debug, thiserror::Error)]
#[error("policy {module}: {failure}{}", what_it_wrote(wrote))]
pub struct EvaluationError {
    /// The module's name.
    pub module: Arc<str>,
    /// What went wrong.
    pub failure: Failure,
    /// What it wrote last before that, if it wrote anything: the reason, as a rule.
    pub wrote: String,
}

fn what_it_wrote(wrote: &str) -> String {
    let lines: Vec<String> = wrote.lines().map(|line| format!("\n  | {line}")).collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!("\nbefore that it wrote:{}", lines.concat()),
    }
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
    /// Its code cannot be had.
    #[error(
        "its compiled code has gone from the cache ({0}); it is made anew when the policies are reloaded (SIGHUP)"
    )]
    NotLoaded(String),
    /// It is slow, and too many questions came before this one.
    #[error("the module is slow: its turn did not come within {} ms", .0.as_millis())]
    Busy(Duration),
    /// All slots are taken.
    #[error("all {0} sandbox instances are in use")]
    NoSlot(usize),
    /// It could not be instantiated, or answered with what the interface does not allow.
    #[error("{0}")]
    Invalid(String),
}

impl Failure {
    /// Whether it may say more of the machine than of the module.
    pub fn is_of_the_moment(&self) -> bool {
        matches!(
            self,
            Failure::TimedOut(_) | Failure::Busy(_) | Failure::NoSlot(_) | Failure::NotLoaded(_)
        )
    }

    /// The stable name, for metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Failure::Trapped(_) => "trap",
            Failure::TimedOut(_) => "time-out",
            Failure::OutOfMemory(_) => "out-of-memory",
            Failure::StackOverflow(_) => "stack-overflow",
            Failure::NotLoaded(_) => "not-loaded",
            Failure::Busy(_) => "busy",
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
    /// Memory and tables before they grew last.
    before: (usize, usize),
    /// Whether the last wish to grow was denied. What a module is denied it may do without.
    denied: bool,
    pace: Pace,
    world: Option<Box<World>>,
}

/// How a call is run.
#[derive(Clone, Copy)]
enum Pace {
    /// On the caller's thread, which it must not hold up: it ends at the deadline that the epoch sets.
    Quick,
    /// On a stack of its own, where each tick lets other sessions go on, until the time is up. The clock
    /// is first read at the first tick.
    Patient(Option<Instant>),
}

impl State {
    /// The empty world, made when a module first asks for it.
    pub(super) fn world(&mut self) -> &mut World {
        self.world
            .get_or_insert_with(|| Box::new(World::new(&self.module)))
    }

    /// What is written from now on belongs to another question.
    fn forget_what_was_written(&mut self) {
        if let Some(world) = &self.world {
            world.take_written();
        }
    }

    /// Called at each tick while the module runs.
    fn on_tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let Pace::Patient(deadline) = &mut self.pace else {
            return Err(TimedOut.into());
        };
        let budget = self.limits.evaluation;
        let now = Instant::now();
        let deadline = *deadline.get_or_insert(now + budget - budget / TICKS);
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
        let memory = self.memory.saturating_add(desired.saturating_sub(current));
        self.denied = memory > self.limits.memory;
        if !self.denied {
            self.before = (self.memory, self.tables);
            self.memory = memory;
        }
        Ok(!self.denied)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let tables = self.tables.saturating_add(desired.saturating_sub(current));
        self.denied = tables > self.limits.table_elements;
        if !self.denied {
            self.before = (self.memory, self.tables);
            self.tables = tables;
        }
        Ok(!self.denied)
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }
}

impl State {
    /// What was allowed could not be had.
    fn take_back(&mut self) {
        (self.memory, self.tables) = self.before;
        self.denied = true;
    }
}

/// An instance of a module. What fails is not used again: the next question finds a fresh one.
///
/// A module answers on the caller's thread as a rule, in microseconds. One that has not answered within
/// two ticks is asked anew, in a fresh instance that is run with patience, and so is what it is asked
/// from then on, for a while: verdicts are pure, so it makes no difference to them.
pub struct Instance {
    running: Option<Running>,
    sandbox: Sandbox,
    module: Arc<Module>,
    code: Arc<Compiled>,
    _slot: OwnedSemaphorePermit,
}

impl Instance {
    /// A fresh instance.
    pub async fn new(sandbox: &Sandbox, module: &Arc<Module>) -> Result<Instance, EvaluationError> {
        Instance::with_patience(sandbox, module, PATIENCE).await
    }

    /// A fresh instance of a policy that is loaded, however long others are served before it.
    pub(super) async fn first(
        sandbox: &Sandbox,
        module: &Arc<Module>,
    ) -> Result<Instance, EvaluationError> {
        Instance::with_patience(sandbox, module, LOADING_PATIENCE).await
    }

    async fn with_patience(
        sandbox: &Sandbox,
        module: &Arc<Module>,
        patience: Duration,
    ) -> Result<Instance, EvaluationError> {
        let failed = |failure| module.failed(failure);
        // Who waits for its turn has no slot meanwhile: others need them.
        let _turn = sandbox.turn(module, patience).await.map_err(failed)?;
        let slot = sandbox.slot(patience).await;
        let slot =
            slot.ok_or_else(|| failed(Failure::NoSlot(sandbox.limits.instances as usize)))?;
        let code = sandbox.code(&module.code).await.map_err(failed)?;
        Ok(Instance {
            running: Some(Running::new(sandbox, module, &code).await?),
            sandbox: sandbox.clone(),
            module: module.clone(),
            code,
            _slot: slot,
        })
    }

    /// The right to keep it between two questions; `None` if it has to go.
    pub fn room(&self) -> Option<OwnedSemaphorePermit> {
        let running = self.running.as_ref();
        let memory = running.map_or(0, |running| running.store.data().memory);
        self.sandbox.room(memory)
    }

    /// The module that this is an instance of.
    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Decides about one recipient of one message.
    pub async fn evaluate(&mut self, context: &Arc<Context>) -> Result<Verdict, EvaluationError> {
        self.evaluate_in_turn(context, PATIENCE).await
    }

    /// The same for a policy that is loaded, however long others are served before it.
    pub(super) async fn try_out(
        &mut self,
        context: &Arc<Context>,
    ) -> Result<Verdict, EvaluationError> {
        self.evaluate_in_turn(context, LOADING_PATIENCE).await
    }

    async fn evaluate_in_turn(
        &mut self,
        context: &Arc<Context>,
        patience: Duration,
    ) -> Result<Verdict, EvaluationError> {
        let turn = self.sandbox.turn(&self.module, patience).await;
        let _turn = turn.map_err(|failure| self.module.failed(failure))?;
        let mut running = self.running().await?;
        running.store.data_mut().forget_what_was_written();
        if self.module.is_quick() {
            match running.evaluate_quickly(context) {
                Ok(verdict) => {
                    self.running = Some(running);
                    return Ok(verdict);
                }
                Err(error) if error.is::<TimedOut>() => self.module.has_been_slow(),
                Err(error) => return Err(running.failed(error)),
            }
            // The pool has a slot for one of the two.
            drop(running);
            running = Running::new(&self.sandbox, &self.module, &self.code).await?;
        }
        running.be_patient();
        running.store.set_hostcall_fuel(LONGEST_VERDICT);
        self.module.had_patience();
        let call = running
            .evaluate
            .call_async(&mut running.store, (context.clone(),));
        let answer = bounded(&self.module, call).await;
        self.keep(running, answer.map(|(verdict,)| verdict))
    }

    /// Decides as `evaluate` does, and tells why.
    pub async fn explain(
        &mut self,
        context: &Arc<Context>,
    ) -> Result<Explanation, EvaluationError> {
        let mut running = self.running().await?;
        running.be_patient();
        running.store.set_hostcall_fuel(LONGEST_ANSWER);
        let answer = match function(
            &mut running.store,
            &running.instance,
            &self.code.exports.explain,
        ) {
            Ok(explain) => {
                let call = explain.call_async(&mut running.store, (context.clone(),));
                bounded(&self.module, call).await
            }
            Err(error) => Err(error),
        };
        self.keep(running, answer.map(|(explanation,)| explanation))
    }

    /// Describes the policy, with at most `limit` connectors from number `first` on.
    pub async fn describe(
        &mut self,
        first: u32,
        limit: u32,
    ) -> Result<Description, EvaluationError> {
        let mut running = self.running().await?;
        running.be_patient();
        running.store.set_hostcall_fuel(LONGEST_ANSWER);
        let answer = match function(
            &mut running.store,
            &running.instance,
            &self.code.exports.describe,
        ) {
            Ok(describe) => {
                let call = describe.call_async(&mut running.store, (first, limit));
                bounded(&self.module, call).await
            }
            Err(error) => Err(error),
        };
        self.keep(running, answer.map(|(description,)| description))
    }
}

impl Instance {
    async fn running(&mut self) -> Result<Running, EvaluationError> {
        match self.running.take() {
            Some(running) => Ok(running),
            None => Running::new(&self.sandbox, &self.module, &self.code).await,
        }
    }

    /// Keeps what has answered.
    fn keep<T>(
        &mut self,
        running: Running,
        answer: wasmtime::Result<T>,
    ) -> Result<T, EvaluationError> {
        match answer {
            Ok(answer) => {
                self.running = Some(running);
                Ok(answer)
            }
            Err(error) => Err(running.failed(error)),
        }
    }
}

/// A store with the module in it.
struct Running {
    store: Store<State>,
    instance: component::Instance,
    evaluate: TypedFunc<(Arc<Context>,), (Verdict,)>,
}

impl Running {
    async fn new(
        sandbox: &Sandbox,
        module: &Module,
        code: &Compiled,
    ) -> Result<Self, EvaluationError> {
        if module.is_quick() {
            let mut store = store(sandbox, module, Pace::Quick);
            let instantiated = code.pre.instantiate(&mut store).and_then(|instance| {
                if let (Some(rules), Some(adopt)) = (&module.rules, &code.exports.adopt) {
                    let adopt: Adopt = function(&mut store, &instance, adopt)?;
                    accepted(adopt.call(&mut store, (rules.clone(),))?)?;
                }
                Ok(instance)
            });
            match instantiated {
                Ok(instance) => return Running::of(store, instance, code),
                Err(error) if error.is::<TimedOut>() => module.has_been_slow(),
                Err(error) => return Err(failed(error, store.data())),
            }
        }
        let mut store = store(sandbox, module, Pace::Patient(None));
        let instantiating = async {
            let instance = code.pre.instantiate_async(&mut store).await?;
            if let (Some(rules), Some(adopt)) = (&module.rules, &code.exports.adopt) {
                let adopt: Adopt = function(&mut store, &instance, adopt)?;
                accepted(adopt.call_async(&mut store, (rules.clone(),)).await?)?;
            }
            Ok(instance)
        };
        match bounded(module, instantiating).await {
            Ok(instance) => Running::of(store, instance, code),
            Err(error) => Err(failed(error, store.data())),
        }
    }

    fn of(
        mut store: Store<State>,
        instance: component::Instance,
        code: &Compiled,
    ) -> Result<Self, EvaluationError> {
        match function(&mut store, &instance, &code.exports.evaluate) {
            Ok(evaluate) => Ok(Running {
                store,
                instance,
                evaluate,
            }),
            Err(error) => Err(failed(error, store.data())),
        }
    }

    fn evaluate_quickly(&mut self, context: &Arc<Context>) -> wasmtime::Result<Verdict> {
        self.store.data_mut().pace = Pace::Quick;
        self.store.set_epoch_deadline(QUICK);
        self.store.set_hostcall_fuel(LONGEST_VERDICT);
        let (verdict,) = self.evaluate.call(&mut self.store, (context.clone(),))?;
        Ok(verdict)
    }

    fn be_patient(&mut self) {
        self.store.data_mut().pace = Pace::Patient(None);
        self.store.set_epoch_deadline(1);
    }

    fn failed(&self, error: wasmtime::Error) -> EvaluationError {
        failed(error, self.store.data())
    }
}

/// The evaluator's function that takes packed rules.
type Adopt = TypedFunc<(Arc<[u8]>,), (bool,)>;

fn accepted((taken,): (bool,)) -> wasmtime::Result<()> {
    if !taken {
        wasmtime::bail!("these are not rules of this evaluator");
    }
    Ok(())
}

/// An empty store.
fn store(sandbox: &Sandbox, module: &Module, pace: Pace) -> Store<State> {
    let state = State {
        module: module.name.clone(),
        limits: sandbox.limits.clone(),
        memory: 0,
        tables: 0,
        before: (0, 0),
        denied: false,
        pace,
        world: None,
    };
    let mut store = Store::new(&sandbox.engine, state);
    store.limiter(|state| state);
    store.set_hostcall_fuel(LONGEST_ANSWER);
    store.epoch_deadline_callback(|mut store| store.data_mut().on_tick());
    store.set_epoch_deadline(match pace {
        Pace::Quick => QUICK,
        Pace::Patient(_) => 1,
    });
    store
}

/// An export with its types. That they are those of the interface was seen when the module was loaded.
fn function<P, R>(
    store: &mut Store<State>,
    instance: &component::Instance,
    export: &ComponentExportIndex,
) -> wasmtime::Result<TypedFunc<P, R>>
where
    P: component::ComponentNamedList + component::Lower,
    R: component::ComponentNamedList + component::Lift,
{
    instance.get_typed_func(store, export)
}

/// Ends a call that waits in the host: there no epoch ends it. Only modules with imports can.
async fn bounded<T>(
    module: &Module,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    if !module.uses_wasi {
        return call.await;
    }
    match tokio::time::timeout(module.limits.evaluation, call).await {
        Ok(answer) => answer,
        Err(_) => Err(TimedOut.into()),
    }
}

fn failed(error: wasmtime::Error, state: &State) -> EvaluationError {
    EvaluationError {
        module: state.module.clone(),
        failure: classify(error, state),
        wrote: state
            .world
            .as_ref()
            .map(|world| world.take_written())
            .unwrap_or_default(),
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
        None => Failure::Invalid(one_line(&format!("{error:#}")).into()),
    }
}
