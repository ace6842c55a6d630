//! From bytes to a policy: inspection, compilation, a first instance.

use std::sync::Arc;

use portcullis_types::Verdict;
use tokio::sync::OnceCell;

use super::background::{Cancel, run_on_thread};
use super::code::Code;
use super::compiler::Compiler;
use super::engine::Engine;
use super::evaluator::{self, PACKED_POLICY};
use super::idle::IdleInstances;
use super::inspect;
use super::instance::Instance;
use super::policy::{LoadError, LoadedPolicy};
use super::timeout::within;
use crate::context::Context;
use crate::failure::EvaluationError;
use crate::text::one_line;

/// Packed rules up to this size are copied into each instance of an evaluator that all policies share, so that ten
/// thousand tenants cost the memory of their rules and not of ten thousand components. Of larger ones a component is
/// made, whose memory is mapped.
const MAX_SHARED: usize = 32 << 10;

/// Components up to this size are looked at where they are loaded.
const MAX_INLINE: usize = 1 << 20;

/// Loads policies. Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    /// What they run on.
    pub engine: Arc<Engine>,
    /// Instances that sessions share, if they do.
    pub idle: Option<IdleInstances>,
    /// The evaluator that policies share, once one has been loaded.
    shared: Arc<OnceCell<Prepared>>,
}

/// What a component is.
enum Kind {
    /// The built-in evaluator with few rules inside: these.
    Rules(Arc<[u8]>),
    /// The built-in evaluator with many rules inside.
    Finished,
    /// Any other.
    Foreign,
}

impl Kind {
    fn of(component: &[u8]) -> Kind {
        let template = evaluator::template().ok();
        match template.and_then(|template| template.rules(component)) {
            Some(rules) if rules.len() <= MAX_SHARED => Kind::Rules(rules.into()),
            Some(_) => Kind::Finished,
            None => Kind::Foreign,
        }
    }
}

/// Code that is compiled and linked.
#[derive(Clone)]
struct Prepared {
    code: Code,
    uses_wasi: bool,
}

impl Loader {
    /// Nothing is compiled yet.
    pub fn new(engine: Engine, idle: Option<IdleInstances>) -> Self {
        Loader {
            engine: Arc::new(engine),
            idle,
            shared: Arc::default(),
        }
    }

    /// Loads a component. Compiling happens on a thread of its own; so it may take long, and the caller's tasks do not
    /// notice. A finished policy whose evaluator is the built-in one is loaded by its rules.
    ///
    /// # Errors
    /// Names the policy and what is wrong with it; the engine is as before.
    pub async fn component(
        &self,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<Arc<LoadedPolicy>, LoadError> {
        let limit = self.engine.limits.policy_size;
        if bytes.len() > limit {
            return Err(LoadError::TooLarge {
                name: name.into(),
                size: bytes.len(),
                limit,
            });
        }
        let (bytes, kind) = self.recognized(name, bytes).await?;
        match kind {
            Kind::Rules(rules) => self.packed(name, rules).await,
            Kind::Finished => self.own_component(name, bytes).await,
            Kind::Foreign if matches!(*self.engine.compiler, Compiler::BuiltInOnly) => {
                inspect::inspect(&bytes).map_err(|rejection| rejected(name, rejection))?;
                Err(LoadError::NoCompiler(name.into()))
            }
            Kind::Foreign => {
                let prepared = self.prepared(name, bytes).await?;
                self.describe(self.new_policy(name, prepared).await).await
            }
        }
    }

    /// What a component is. A large one is not looked at on the caller's thread, which may serve others.
    async fn recognized(&self, name: &str, bytes: Vec<u8>) -> Result<(Vec<u8>, Kind), LoadError> {
        let recognize = |bytes: Vec<u8>| {
            let kind = Kind::of(&bytes);
            (bytes, kind)
        };
        if bytes.len() <= MAX_INLINE {
            return Ok(recognize(bytes));
        }
        let recognizing = run_on_thread(self.engine.priority, move || recognize(bytes));
        recognizing.await.map_err(|error| LoadError::Compile {
            name: name.into(),
            reason: error.to_string(),
        })
    }

    /// Loads packed rules.
    ///
    /// # Errors
    /// If these are no rules of this evaluator.
    pub async fn packed(
        &self,
        name: &str,
        rules: Arc<[u8]>,
    ) -> Result<Arc<LoadedPolicy>, LoadError> {
        if Self::compiles(&rules) {
            let owned_name = name.to_owned();
            let finishing = move || finished(&owned_name, &rules);
            let finished = run_on_thread(self.engine.priority, finishing).await;
            let component = finished.map_err(|error| LoadError::Compile {
                name: name.into(),
                reason: error.to_string(),
            })?;
            return self.own_component(name, component?).await;
        }
        let preparing = || self.prepared(evaluator::NAME, PACKED_POLICY.to_vec());
        let prepared = self.shared.get_or_try_init(preparing).await?.clone();
        let policy = LoadedPolicy::new(name, prepared.code, prepared.uses_wasi);
        self.describe(policy.of_rules(Some(rules))).await
    }

    /// Whether [`Loader::packed`] compiles code for such rules.
    pub fn compiles(rules: &[u8]) -> bool {
        rules.len() > MAX_SHARED
    }

    /// Evaluates a policy that is about to become active, in a fresh instance.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn try_out(
        &self,
        policy: &Arc<LoadedPolicy>,
        context: &Context,
    ) -> Result<Verdict, EvaluationError> {
        let mut instance = Instance::first(&self.engine, policy).await?;
        instance.try_out(&self.engine, context).await
    }

    /// The built-in evaluator with rules of its own inside.
    async fn own_component(
        &self,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<Arc<LoadedPolicy>, LoadError> {
        let prepared = self.prepared(name, bytes).await?;
        let policy = self.new_policy(name, prepared).await;
        self.describe(policy.of_rules(None)).await
    }

    async fn new_policy(&self, name: &str, prepared: Prepared) -> LoadedPolicy {
        let code = self.engine.code_cache.insert(prepared.code).await;
        LoadedPolicy::new(name, code, prepared.uses_wasi)
    }

    /// Compiles and links. Where nobody waits for it any more, it ends.
    async fn prepared(&self, name: &str, bytes: Vec<u8>) -> Result<Prepared, LoadError> {
        let failed = |reason: String| LoadError::Compile {
            name: name.into(),
            reason,
        };
        let (loader, owned_name) = (self.clone(), name.to_owned());
        let cancel = Cancel::default();
        let _ends_with_this = cancel.on_drop();
        let work = move || loader.prepare(&owned_name, &bytes, &cancel);
        let timeout = self.engine.compiler.timeout();
        match within(timeout, run_on_thread(self.engine.priority, work)).await {
            Some(Ok(prepared)) => prepared,
            Some(Err(error)) => Err(failed(error.to_string())),
            None => Err(failed(format!(
                "it is not compiled within {}",
                humantime::format_duration(timeout)
            ))),
        }
    }

    fn prepare(&self, name: &str, bytes: &[u8], cancel: &Cancel) -> Result<Prepared, LoadError> {
        let Engine {
            wasmtime,
            linker,
            disk_cache,
            compiler,
            priority,
            ..
        } = &*self.engine;
        let inspected = inspect::inspect(bytes).map_err(|rejection| rejected(name, rejection))?;
        let built_in = evaluator::compiled(wasmtime, bytes);
        // It needs no place in the cache.
        let cache = disk_cache.as_ref().filter(|_| built_in.is_none());
        let entry = cache.map(|cache| cache.entry(wasmtime, bytes));
        let known = built_in.or_else(|| entry.as_ref()?.load(wasmtime));
        let failed = |error: wasmtime::Error| LoadError::Compile {
            name: name.into(),
            reason: one_line(&format!("{error:#}")).into(),
        };
        let component = match known {
            Some(component) => component,
            None => compiler
                .compile(wasmtime, entry.as_ref(), bytes, *priority, cancel)
                .map_err(failed)?,
        };
        let compiled =
            super::code::CompiledPolicy::new(linker, &component, entry).map_err(failed)?;
        Ok(Prepared {
            code: Code::Resident(Arc::new(compiled)),
            uses_wasi: inspected.uses_wasi,
        })
    }

    /// A first instance shows that the policy runs, and what it is.
    async fn describe(&self, mut policy: LoadedPolicy) -> Result<Arc<LoadedPolicy>, LoadError> {
        let probe = Arc::new(policy.undescribed());
        let mut instance = Instance::first(&self.engine, &probe).await?;
        policy.description = instance.describe(&self.engine, 0, 0).await?;
        // None were asked for.
        policy.description.connectors = Vec::new();
        Ok(Arc::new(policy))
    }
}

fn rejected(name: &str, rejection: inspect::Rejection) -> LoadError {
    LoadError::Rejected {
        name: name.into(),
        rejection,
    }
}

/// The finished policy with these rules: a component that needs nothing else.
///
/// # Errors
/// If they do not fit into its memory.
pub fn finished(name: &str, rules: &[u8]) -> Result<Vec<u8>, LoadError> {
    let failed = |reason: String| LoadError::Compile {
        name: name.into(),
        reason,
    };
    let template = evaluator::template().map_err(|error| failed(error.to_string()))?;
    let component = template.policy(rules);
    component.ok_or_else(|| failed("its rules are larger than its memory can be".into()))
}
