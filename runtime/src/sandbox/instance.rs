//! An instance of a policy: what one session evaluates.

use std::sync::Arc;
use std::time::Duration;

use portcullis_types::{Description, Explanation, Fact, Verdict};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::Store;
use wasmtime::component::{self, ComponentExportIndex, TypedFunc};

use super::code::CompiledPolicy;
use super::engine::Engine;
use super::policy::LoadedPolicy;
use super::state::{CallMode, State, TimedOut, failed};
use super::timeout::{has_timer, within};
use crate::bindings::evaluation;
use crate::context::Context;
use crate::failure::EvaluationError;
use crate::text::make_harmless;

/// How long a session waits for a permit before its mail is deferred.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The same while a policy is loaded: nobody waits for it, and nobody would try again.
const LOADING_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Ticks after which a call on the caller's thread ends: at least one whole.
const INLINE_TICKS: u64 = 2;

/// How many bytes a description may make the host allocate. A long list of connectors has a few hundred KiB.
const MAX_ANSWER: usize = 16 << 20;

/// The same of a verdict. No clock runs while it is read, and a thread of many sessions reads it.
const MAX_VERDICT: usize = 2 << 20;

/// What is left of the caller's stack beside what the policy may use, in bytes: host functions and the caller's own.
const STACK_RESERVE: usize = 256 << 10;

/// An instance of a policy. What fails is not used again: the next evaluation finds a fresh one.
///
/// A policy answers on the caller's thread as a rule, in microseconds. One that has not answered within two ticks is
/// asked anew, in a fresh instance that yields to other tasks, and so are its evaluations from then on, for a while:
/// verdicts are pure, so it makes no difference to them.
pub struct Instance {
    running: Option<Running>,
    questions: u32,
    policy: Arc<LoadedPolicy>,
    code: Arc<CompiledPolicy>,
    _permit: OwnedSemaphorePermit,
}

impl Instance {
    /// A fresh instance.
    pub async fn new(
        engine: &Engine,
        policy: &Arc<LoadedPolicy>,
    ) -> Result<Instance, EvaluationError> {
        Instance::within(engine, policy, TIMEOUT).await
    }

    /// A fresh instance of a policy that is loaded, however long others are served before it.
    pub async fn first(
        engine: &Engine,
        policy: &Arc<LoadedPolicy>,
    ) -> Result<Instance, EvaluationError> {
        Instance::within(engine, policy, LOADING_TIMEOUT).await
    }

    async fn within(
        engine: &Engine,
        policy: &Arc<LoadedPolicy>,
        timeout: Duration,
    ) -> Result<Instance, EvaluationError> {
        let failed = |failure| policy.failed(failure);
        // Who waits for a slow call has no instance meanwhile: others need them.
        let _slow_call = match runs_inline(engine, policy) {
            true => None,
            false => {
                let permit = engine.admission.slow_call(&policy.slow_calls, timeout);
                Some(permit.await.map_err(failed)?)
            }
        };
        let permit = engine.admission.instance(timeout).await.map_err(failed)?;
        let code = engine
            .code_cache
            .get(&policy.code, &engine.wasmtime, &engine.linker);
        let code = code.await.map_err(failed)?;
        Ok(Instance {
            running: Some(Running::new(engine, policy, &code).await?),
            questions: 0,
            policy: policy.clone(),
            code,
            _permit: permit,
        })
    }

    /// The right to keep it between two evaluations; `None` if it has to go.
    pub fn try_retain(&self, engine: &Engine) -> Option<OwnedSemaphorePermit> {
        engine.admission.try_retain(self.memory())
    }

    /// The policy that this is an instance of.
    pub fn policy(&self) -> &Arc<LoadedPolicy> {
        &self.policy
    }

    /// Bytes of its memory.
    pub fn memory(&self) -> usize {
        let running = self.running.as_ref();
        running.map_or(0, |running| running.store.data().memory())
    }

    /// How often it has been asked to decide.
    pub fn questions(&self) -> u32 {
        self.questions
    }

    /// Decides about one recipient of one message.
    pub async fn evaluate(
        &mut self,
        engine: &Engine,
        context: &Context,
    ) -> Result<Verdict, EvaluationError> {
        self.evaluate_within(engine, context, TIMEOUT).await
    }

    /// The same while a policy is loaded, however long others are served before it.
    pub async fn try_out(
        &mut self,
        engine: &Engine,
        context: &Context,
    ) -> Result<Verdict, EvaluationError> {
        self.evaluate_within(engine, context, LOADING_TIMEOUT).await
    }

    async fn evaluate_within(
        &mut self,
        engine: &Engine,
        context: &Context,
        timeout: Duration,
    ) -> Result<Verdict, EvaluationError> {
        self.questions = self.questions.saturating_add(1);
        if !runs_inline(engine, &self.policy) {
            // Boxed: the future is large, and most sessions never need it.
            return Box::pin(self.evaluate_in_turn(engine, context, timeout)).await;
        }
        let mut running = self.running(engine).await?;
        running.store.data_mut().forget_what_was_written();
        match running.evaluate_inline(context.lowered()) {
            Ok(verdict) => {
                self.running = Some(running);
                Ok(harmless(verdict))
            }
            Err(error) if error.is::<TimedOut>() => {
                self.policy.mark_slow();
                // The pool has an instance for one of the two.
                drop(running);
                Box::pin(self.evaluate_yielding(engine, context)).await
            }
            Err(error) => Err(running.failed(error)),
        }
    }

    /// Evaluates once it is its turn among slow calls.
    async fn evaluate_in_turn(
        &mut self,
        engine: &Engine,
        context: &Context,
        timeout: Duration,
    ) -> Result<Verdict, EvaluationError> {
        let slow_call = engine.admission.slow_call(&self.policy.slow_calls, timeout);
        let slow_call = slow_call.await;
        let _slow_call = slow_call.map_err(|failure| self.policy.failed(failure))?;
        self.evaluate_yielding(engine, context).await
    }

    async fn evaluate_yielding(
        &mut self,
        engine: &Engine,
        context: &Context,
    ) -> Result<Verdict, EvaluationError> {
        let mut running = self.running(engine).await?;
        running.store.data_mut().forget_what_was_written();
        running.yield_to_others();
        running.store.set_hostcall_fuel(MAX_VERDICT);
        self.policy.decay();
        let call = running
            .evaluate
            .call_async(&mut running.store, (context.lowered().clone(),));
        let answer = bounded(engine, &self.policy, call).await;
        self.keep(running, answer.map(|(verdict,)| harmless(verdict)))
    }

    /// Decides as `evaluate` does, and gives the reasons.
    pub async fn explain(
        &mut self,
        engine: &Engine,
        context: &Context,
    ) -> Result<Explanation, EvaluationError> {
        let mut running = self.running(engine).await?;
        running.yield_to_others();
        running.store.set_hostcall_fuel(MAX_ANSWER);
        let export = &self.code.exports.explain;
        let explain: wasmtime::Result<Explain> =
            function(&mut running.store, &running.instance, export);
        let answer = match explain {
            Ok(explain) => {
                let call = explain.call_async(&mut running.store, (context.lowered().clone(),));
                bounded(engine, &self.policy, call).await
            }
            Err(error) => Err(error),
        };
        let answer = answer.map(|(explanation,)| {
            let mut explanation = Explanation::from(explanation);
            explanation.texts_mut(&mut make_harmless);
            explanation.verdict.correct_codes();
            explanation
        });
        self.keep(running, answer)
    }

    /// Describes the policy, with at most `limit` connectors from number `first` on.
    pub async fn describe(
        &mut self,
        engine: &Engine,
        first: u32,
        limit: u32,
    ) -> Result<Description, EvaluationError> {
        let mut running = self.running(engine).await?;
        running.yield_to_others();
        running.store.set_hostcall_fuel(MAX_ANSWER);
        let export = &self.code.exports.describe;
        let describe: wasmtime::Result<Describe> =
            function(&mut running.store, &running.instance, export);
        let answer = match describe {
            Ok(describe) => {
                let call = describe.call_async(&mut running.store, (first, limit));
                bounded(engine, &self.policy, call).await
            }
            Err(error) => Err(error),
        };
        let answer = answer.map(|(description,)| {
            let mut description = Description::from(description);
            description.texts_mut(&mut make_harmless);
            once_each(&mut description.reads);
            for connector in &mut description.connectors {
                once_each(&mut connector.reads);
            }
            description
        });
        self.keep(running, answer)
    }
}

/// Whether a policy can be run on the caller's thread: it is quick, and the thread has stack enough.
fn runs_inline(engine: &Engine, policy: &LoadedPolicy) -> bool {
    let needed = engine.limits.stack + STACK_RESERVE;
    policy.is_quick() && stacker::remaining_stack().is_none_or(|left| left >= needed)
}

/// A list of facts is short, whatever the policy says.
fn once_each(facts: &mut Vec<Fact>) {
    let mut seen = Vec::new();
    facts.retain(|fact| {
        let is_new = !seen.contains(fact);
        if is_new {
            seen.push(*fact);
        }
        is_new
    });
    facts.shrink_to_fit();
}

/// What a policy says is made harmless when it enters the host, once.
fn harmless(verdict: evaluation::Verdict) -> Verdict {
    let mut verdict = Verdict::from(verdict);
    verdict.texts_mut(&mut make_harmless);
    verdict
}

impl Instance {
    async fn running(&mut self, engine: &Engine) -> Result<Running, EvaluationError> {
        match self.running.take() {
            Some(running) => Ok(running),
            None => Box::pin(Running::new(engine, &self.policy, &self.code)).await,
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

type Evaluate = TypedFunc<(Arc<evaluation::Context>,), (evaluation::Verdict,)>;
type Explain = TypedFunc<(Arc<evaluation::Context>,), (evaluation::Explanation,)>;
type Describe = TypedFunc<(u32, u32), (evaluation::Description,)>;
/// The evaluator's function that takes packed rules.
type LoadPacked = TypedFunc<(Arc<[u8]>,), (bool,)>;

/// A store with the policy in it.
struct Running {
    store: Store<State>,
    instance: component::Instance,
    evaluate: Evaluate,
}

impl Running {
    async fn new(
        engine: &Engine,
        policy: &LoadedPolicy,
        code: &CompiledPolicy,
    ) -> Result<Self, EvaluationError> {
        if runs_inline(engine, policy) {
            let mut store = store(engine, policy, CallMode::Inline);
            let instantiated = code.pre.instantiate(&mut store).and_then(|instance| {
                if let (Some(rules), Some(load)) = (&policy.rules, &code.exports.load_packed) {
                    let load: LoadPacked = function(&mut store, &instance, load)?;
                    loaded(load.call(&mut store, (rules.clone(),))?)?;
                }
                Ok(instance)
            });
            match instantiated {
                Ok(instance) => return Running::of(store, instance, code),
                Err(error) if error.is::<TimedOut>() => policy.mark_slow(),
                Err(error) => return Err(failed(error, store.data())),
            }
        }
        let mut store = store(engine, policy, CallMode::Yielding(None));
        let instantiating = async {
            let instance = code.pre.instantiate_async(&mut store).await?;
            if let (Some(rules), Some(load)) = (&policy.rules, &code.exports.load_packed) {
                let load: LoadPacked = function(&mut store, &instance, load)?;
                loaded(load.call_async(&mut store, (rules.clone(),)).await?)?;
            }
            Ok(instance)
        };
        match bounded(engine, policy, instantiating).await {
            Ok(instance) => Running::of(store, instance, code),
            Err(error) => Err(failed(error, store.data())),
        }
    }

    fn of(
        mut store: Store<State>,
        instance: component::Instance,
        code: &CompiledPolicy,
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

    fn evaluate_inline(
        &mut self,
        context: &Arc<evaluation::Context>,
    ) -> wasmtime::Result<evaluation::Verdict> {
        self.store.data_mut().set_mode(CallMode::Inline);
        self.store.set_epoch_deadline(INLINE_TICKS);
        self.store.set_hostcall_fuel(MAX_VERDICT);
        let (verdict,) = self.evaluate.call(&mut self.store, (context.clone(),))?;
        Ok(verdict)
    }

    fn yield_to_others(&mut self) {
        self.store.data_mut().set_mode(CallMode::Yielding(None));
        self.store.set_epoch_deadline(1);
    }

    fn failed(&self, error: wasmtime::Error) -> EvaluationError {
        failed(error, self.store.data())
    }
}

fn loaded((is_loaded,): (bool,)) -> wasmtime::Result<()> {
    if !is_loaded {
        wasmtime::bail!("these are not rules of this evaluator");
    }
    Ok(())
}

/// An empty store.
fn store(engine: &Engine, policy: &LoadedPolicy, mode: CallMode) -> Store<State> {
    let state = State::new(
        policy.name.clone(),
        engine.limits.clone(),
        engine.observer.clone(),
        mode,
    );
    let mut store = Store::new(&engine.wasmtime, state);
    store.limiter(|state| state);
    store.set_hostcall_fuel(MAX_ANSWER);
    store.epoch_deadline_callback(|mut store| store.data_mut().on_tick());
    store.set_epoch_deadline(match mode {
        CallMode::Inline => INLINE_TICKS,
        CallMode::Yielding(_) => 1,
    });
    store
}

/// An export with its types. That they are those of the interface was seen when the policy was loaded.
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

/// Ends a call that waits in the host: there no epoch ends it. Only policies with imports can.
async fn bounded<T>(
    engine: &Engine,
    policy: &LoadedPolicy,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    if !policy.uses_wasi {
        return call.await;
    }
    // Wasmtime's clocks panic without one.
    if !has_timer() {
        wasmtime::bail!("it imports WASI, and the host's runtime has no timer");
    }
    let answer = within(engine.limits.evaluation, call).await;
    answer.unwrap_or_else(|| Err(TimedOut.into()))
}
