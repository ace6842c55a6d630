//! From a rules document to a finished policy.
//!
//! The evaluator is instantiated, configured with the document, and its memory is written into a new
//! component (Wizer): parsing, checking and indexing are paid here, once.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmparser::{Parser, Payload};
use wasmtime::component::{Component, Instance, Linker};
use wasmtime::{Engine, Store, StoreLimits, StoreLimitsBuilder, Trap, UpdateDeadline};
use wasmtime_wizer::{WasmtimeWizerComponent, Wizer};

use super::bindings::evaluator::Evaluator;
use super::cache::Cache;
use super::compiler::Compiler;
use super::engine::{Sandbox, SandboxError, base_config, start_clock};
use super::module::{LoadError, Module};
use super::workshop::{self, Cancel};
use super::{Problem, Summary};

/// The evaluator, as built from `guest/`.
pub const EVALUATOR: &[u8] = include_bytes!(env!("PORTCULLIS_EVALUATOR"));

/// The interface that a finished policy no longer has.
const RULES: &str = "portcullis:policy/rules@";

/// A document that was accepted.
#[derive(Debug)]
pub struct Rules {
    /// The rules in the evaluator's own form.
    pub packed: Arc<[u8]>,
    /// What the evaluator said of the document.
    pub summary: Summary,
}

/// How finely the time is measured that reading takes.
const TICK: Duration = Duration::from_millis(100);

/// Packed rules that are copied into each instance, in bytes; more are mapped.
const MOST_SHARED: usize = 32 << 10;

/// A document did not become a policy.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The document has errors.
    #[error("the rules have {} problems", .0.len())]
    Rejected(Vec<Problem>),
    /// It takes too long to read it.
    #[error("reading the rules takes more than {} (compile-time)", humantime::format_duration(*.0))]
    TooLong(Duration),
    /// The evaluator failed, which no document should make it do.
    #[error("the evaluator failed: {0:#}")]
    Failed(wasmtime::Error),
}

/// Builds policies from documents. Cheap to clone.
#[derive(Clone)]
pub struct Builder {
    engine: Engine,
    cache: Option<Arc<Cache>>,
    compiler: Compiler,
    evaluator: Arc<OnceLock<Component>>,
}

impl Builder {
    /// A builder; the evaluator is compiled when the first document comes.
    ///
    /// # Errors
    /// If this machine can run no engine.
    pub fn new(cache: Option<Arc<Cache>>, compiler: Compiler) -> Result<Self, SandboxError> {
        let engine = Engine::new(&base_config()).map_err(SandboxError)?;
        start_clock(&engine, TICK);
        Ok(Builder {
            engine,
            cache,
            compiler,
            evaluator: Arc::default(),
        })
    }

    /// Checks a document and runs its tests.
    ///
    /// # Errors
    /// The problems of a document with errors.
    pub async fn check(&self, document: String) -> Result<Summary, BuildError> {
        self.apart(async move |builder, cancel| {
            let reading = builder.evaluator(builder.time(), cancel).await;
            let mut reading = reading.map_err(BuildError::Failed)?;
            reading.configure(&document).await
        })
        .await
    }

    /// Checks a document and runs its tests.
    ///
    /// # Errors
    /// The problems of a document with errors.
    pub async fn read(&self, document: String) -> Result<Rules, BuildError> {
        self.read_within(self.time(), document).await
    }

    /// The same, in at most so much time.
    ///
    /// # Errors
    /// The problems of a document with errors.
    pub async fn read_within(&self, time: Duration, document: String) -> Result<Rules, BuildError> {
        let time = time.min(self.time());
        self.apart(async move |builder, cancel| {
            let reading = builder.evaluator(time, cancel).await;
            let mut reading = reading.map_err(BuildError::Failed)?;
            let summary = reading.configure(&document).await?;
            let packed = reading.packed().await.map_err(BuildError::Failed)?.into();
            Ok(Rules { packed, summary })
        })
        .await
    }

    /// Makes a policy of rules: a component that needs nothing else. The instance that has read the
    /// document would not do: what reading has left behind in its memory is not for the policy.
    ///
    /// # Errors
    /// If the evaluator fails, which no rules should make it do.
    pub async fn component(&self, packed: Arc<[u8]>) -> Result<Vec<u8>, BuildError> {
        self.apart(async move |builder, cancel| {
            let snapshot = async {
                let mut holding = builder.evaluator(builder.time(), cancel).await?;
                holding.adopt(&packed).await?;
                drop(packed);
                holding.snapshot().await
            };
            snapshot.await.map_err(BuildError::Failed)
        })
        .await
    }

    /// Loads rules into a sandbox. Few rules are copied into each instance of an evaluator that all share,
    /// so that ten thousand tenants cost the memory of their rules and not of ten thousand modules; of
    /// many a component is made, whose memory is mapped.
    ///
    /// # Errors
    /// Names what could not be done; no rules should make it fail.
    pub async fn load(
        &self,
        sandbox: &Sandbox,
        name: &str,
        packed: Arc<[u8]>,
    ) -> Result<Arc<Module>, LoadError> {
        if !Self::compiles(&packed) {
            return sandbox.adopt(name, packed).await;
        }
        match self.component(packed).await {
            Ok(component) => sandbox.load_rules(name, component).await,
            Err(error) => Err(LoadError::Compile {
                name: name.into(),
                reason: error.to_string(),
            }),
        }
    }

    /// Whether [`Builder::load`] compiles code for such rules.
    pub fn compiles(packed: &[u8]) -> bool {
        packed.len() > MOST_SHARED
    }

    /// How long it may take to read a document.
    fn time(&self) -> Duration {
        match self.compiler {
            Compiler::Here => Duration::MAX,
            Compiler::Apart(limits) => limits.time,
        }
    }

    /// Runs on a thread of its own: a large document takes seconds, and sessions must not notice. Where nobody waits
    /// for it any more, it ends.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(&Builder, Cancel) -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let builder = self.clone();
        let runtime = tokio::runtime::Handle::current();
        let cancel = Cancel::default();
        let _ends_with_this = cancel.on_drop();
        workshop::apart(move || runtime.block_on(work(&builder, cancel)))
            .await
            .unwrap_or_else(|error| Err(BuildError::Failed(wasmtime::format_err!("{error}"))))
    }

    /// An instance of the evaluator, with Wizer's way into its memory, that runs for so long at most.
    async fn evaluator(&self, time: Duration, cancel: Cancel) -> wasmtime::Result<Running> {
        let component = self.compiled(&cancel)?;
        let memory = match self.compiler {
            Compiler::Here => None,
            Compiler::Apart(limits) => usize::try_from(limits.memory).ok(),
        };
        let most = StoreLimitsBuilder::new().memory_size(memory.unwrap_or(usize::MAX));
        let mut store = Store::new(&self.engine, most.build());
        store.limiter(|most| most);
        // The document and the snapshot cross the boundary whole.
        store.set_hostcall_fuel(usize::MAX);
        let mut ticks = time.as_millis().div_ceil(TICK.as_millis());
        store.epoch_deadline_callback(move |_| {
            ticks = ticks.saturating_sub(1);
            match ticks == 0 || cancel.is_cancelled() {
                true => Err(Trap::Interrupt.into()),
                false => Ok(UpdateDeadline::Continue(1)),
            }
        });
        // The first tick may come at once.
        store.set_epoch_deadline(2);
        let linker = Linker::new(&self.engine);
        let instance = linker.instantiate_async(&mut store, &component).await?;
        let exports = Evaluator::new(&mut store, &instance)?;
        Ok(Running {
            store,
            instance,
            exports,
            time,
        })
    }

    /// The evaluator, compiled once.
    fn compiled(&self, cancel: &Cancel) -> wasmtime::Result<Component> {
        if let Some(evaluator) = self.evaluator.get() {
            return Ok(evaluator.clone());
        }
        let evaluator = instrumented()?;
        let cache = self.cache.as_ref();
        let entry = cache.map(|cache| cache.entry(&self.engine, &evaluator));
        let known = entry.as_ref().and_then(|entry| entry.load(&self.engine));
        let evaluator = match known {
            Some(known) => known,
            None => {
                let compiler = self.compiler;
                compiler.compile(&self.engine, entry.as_ref(), &evaluator, cancel)?
            }
        };
        Ok(self.evaluator.get_or_init(|| evaluator).clone())
    }
}

/// The evaluator with Wizer's way into its memory. Builders and sandboxes use the same, so that it is
/// compiled once for both.
pub fn instrumented() -> wasmtime::Result<Vec<u8>> {
    let (_, instrumented) = Wizer::new().instrument_component(EVALUATOR)?;
    Ok(instrumented)
}

/// An instance of the evaluator.
struct Running {
    store: Store<StoreLimits>,
    instance: Instance,
    exports: Evaluator,
    time: Duration,
}

impl Running {
    async fn configure(&mut self, document: &str) -> Result<Summary, BuildError> {
        let rules = self.exports.portcullis_policy_rules();
        let answer = rules.call_configure(&mut self.store, document).await;
        answer
            .map_err(|error| match error.downcast_ref::<Trap>() {
                Some(Trap::Interrupt) => BuildError::TooLong(self.time),
                _ => BuildError::Failed(error),
            })?
            .map_err(BuildError::Rejected)
    }

    async fn packed(&mut self) -> wasmtime::Result<Vec<u8>> {
        let rules = self.exports.portcullis_policy_rules();
        rules.call_packed(&mut self.store).await
    }

    async fn adopt(&mut self, packed: &[u8]) -> wasmtime::Result<()> {
        let rules = self.exports.portcullis_policy_rules();
        match rules.call_adopt(&mut self.store, packed).await? {
            true => Ok(()),
            false => wasmtime::bail!("the evaluator does not take its own rules back"),
        }
    }

    /// The component that starts where this instance stands.
    async fn snapshot(&mut self) -> wasmtime::Result<Vec<u8>> {
        let wizer = Wizer::new();
        let (context, _) = wizer.instrument_component(EVALUATOR)?;
        let mut state = WasmtimeWizerComponent {
            store: &mut self.store,
            instance: self.instance,
        };
        without_rules_export(wizer.snapshot_component(&context, &mut state).await?)
    }
}

/// Takes the evaluator's `rules` export away: a finished policy needs no configuring. It is the last
/// of the exports, as in the world, so no index behind it moves.
fn without_rules_export(component: Vec<u8>) -> wasmtime::Result<Vec<u8>> {
    let mut depth = 0;
    let mut section_start = 0;
    let mut found: Option<std::ops::Range<usize>> = None;
    for payload in Parser::new(0).parse_all(&component) {
        let payload = payload?;
        let end = payload.as_section().map(|(_, range)| range.end);
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentExportSection(section) if depth == 0 => {
                let mut exports = section.clone().into_iter();
                let first = exports.next().transpose()?;
                if first.is_some_and(|export| export.name.name.starts_with(RULES))
                    && exports.next().is_none()
                {
                    found = Some(section_start..section.range().end);
                } else if found.is_some() {
                    wasmtime::bail!("the evaluator has an export behind {RULES}");
                }
            }
            _ => {}
        }
        if depth == 0 {
            section_start = end.unwrap_or(section_start);
        }
    }
    let range =
        found.ok_or_else(|| wasmtime::format_err!("the evaluator does not export {RULES}"))?;
    let mut stripped = component;
    stripped.drain(range);
    Ok(stripped)
}
