//! Loading a component: inspection, compilation, a first instance.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;
use tokio::time::timeout;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre};

use super::bindings::policy::PolicyPre;
use super::build::instrumented;
use super::cache::Entry;
use super::engine::{Limits, Sandbox, turns};
use super::inspect::{self, Refused};
use super::instance::{EvaluationError, Failure, Instance, State};
use super::interface::{Context, Description, Verdict};
use super::workshop::{self, Cancel};
use crate::text::one_line;

/// How many times a module that was slow is run with patience before it is asked on the caller's
/// thread again.
const PATIENT_CALLS: u32 = 1000;

/// A module that fails so many times in a row is said to be failing.
const FAILING: u32 = 10;

/// The interface of a policy.
const EVALUATION: &str = "portcullis:policy/evaluation@0.1.0";
/// What an evaluator exports besides.
const RULES: &str = "portcullis:policy/rules@0.1.0";

/// What the shipped evaluator is called before it has rules.
const EVALUATOR_NAME: &str = "the evaluator";

/// A policy that can be asked.
#[derive(Clone)]
pub struct Module {
    /// What to call it: a file name.
    pub name: Arc<str>,
    /// What it says of itself, without its connectors.
    pub description: Description,
    pub(super) code: Code,
    pub(super) limits: Arc<Limits>,
    pub(super) uses_wasi: bool,
    is_of_rules: bool,
    /// What each instance is given, where the module is the evaluator that others share.
    pub(super) rules: Option<Arc<[u8]>>,
    /// How many more times it is run with patience.
    patience: Arc<AtomicU32>,
    /// Whose turn it is while it is run so.
    pub(super) turns: Arc<Semaphore>,
    /// Questions in a row without an answer.
    failures: Arc<AtomicU32>,
}

/// Where a module's native code is.
#[derive(Clone)]
pub(super) enum Code {
    /// In memory, as long as the module.
    Held(Arc<Compiled>),
    /// In the cache of compiled modules; on the shelf while it is in use.
    Kept(Entry),
}

/// A component that is ready to run.
pub(super) struct Compiled {
    pub(super) pre: InstancePre<State>,
    pub(super) exports: Exports,
    /// Its place in the cache of compiled modules.
    pub(super) entry: Option<Entry>,
}

/// Where the functions of the interface are.
#[derive(Clone)]
pub(super) struct Exports {
    pub(super) evaluate: ComponentExportIndex,
    pub(super) explain: ComponentExportIndex,
    pub(super) describe: ComponentExportIndex,
    /// An evaluator has this one too.
    pub(super) adopt: Option<ComponentExportIndex>,
}

impl Exports {
    fn of(component: &Component) -> Option<Self> {
        let evaluation = component.get_export_index(None, EVALUATION)?;
        let function = |name| component.get_export_index(Some(&evaluation), name);
        let rules = component.get_export_index(None, RULES);
        Some(Exports {
            adopt: rules.and_then(|rules| component.get_export_index(Some(&rules), "adopt")),
            evaluate: function("evaluate")?,
            explain: function("explain")?,
            describe: function("describe")?,
        })
    }
}

impl Module {
    /// Whether it was made of a rules document here, and so is the shipped evaluator.
    pub fn is_of_rules(&self) -> bool {
        self.is_of_rules
    }

    /// Whether its code can be had, as far as can be seen without loading it.
    pub fn is_at_hand(&self) -> bool {
        match &self.code {
            Code::Held(_) => true,
            Code::Kept(entry) => entry.size().is_some(),
        }
    }

    /// It has answered; tells whether it was failing until now.
    pub fn has_answered(&self) -> bool {
        // Most have not failed, and need not write what all sessions read.
        self.failures.load(Ordering::Relaxed) > 0
            && self.failures.swap(0, Ordering::Relaxed) >= FAILING
    }

    /// It has not answered; tells whether it is failing from now on.
    pub fn has_failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILING
    }

    pub(super) fn failed(&self, failure: Failure) -> EvaluationError {
        EvaluationError {
            module: self.name.clone(),
            failure,
            wrote: String::new(),
        }
    }

    /// Whether it can be asked on the caller's thread. WASI waits, and needs a stack of its own to.
    pub(super) fn is_quick(&self) -> bool {
        !self.uses_wasi && self.patience.load(Ordering::Relaxed) == 0
    }

    /// For some time it is run with patience. Not for ever: it may have been the machine that was slow.
    pub(super) fn has_been_slow(&self) {
        self.patience.store(PATIENT_CALLS, Ordering::Relaxed);
    }

    /// It has been run with patience.
    pub(super) fn had_patience(&self) {
        let less = |left: u32| left.checked_sub(1);
        // Fails at 0, which is where it is to stay.
        let _ = self
            .patience
            .try_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// A component could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is too large.
    #[error("policy {name}: {size} bytes are more than the {limit} that a module may have")]
    TooLarge {
        /// The module.
        name: String,
        /// Its size.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// It is not a policy for this host.
    #[error("policy {name}: {refused}")]
    Refused {
        /// The module.
        name: String,
        /// Why.
        refused: Refused,
    },
    /// It could not be compiled or linked.
    #[error("policy {name}: it cannot be compiled: {reason}")]
    Compile {
        /// The module.
        name: String,
        /// Why.
        reason: String,
    },
    /// It did not answer when asked what it is.
    #[error(transparent)]
    Failed(#[from] EvaluationError),
}

impl Sandbox {
    /// Loads a component. Compiling happens on a thread of its own; so it may take long, and sessions
    /// do not notice.
    ///
    /// # Errors
    /// Names the module and what is wrong with it; the engine is as before.
    pub async fn load(&self, name: &str, bytes: Vec<u8>) -> Result<Arc<Module>, LoadError> {
        if bytes.len() > self.limits.module {
            return Err(LoadError::TooLarge {
                name: name.into(),
                size: bytes.len(),
                limit: self.limits.module,
            });
        }
        let module = self.prepared(name, bytes).await?;
        let code = self.shelve(module.code).await;
        self.described(Module { code, ..module }).await
    }

    /// The same for a component that was made of rules here.
    ///
    /// # Errors
    /// Names the module and what is wrong with it; the engine is as before.
    pub(super) async fn load_rules(
        &self,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<Arc<Module>, LoadError> {
        let module = self.load(name, bytes).await?;
        Ok(Arc::new(Module {
            is_of_rules: true,
            ..Module::clone(&module)
        }))
    }

    /// A module that asks the shipped evaluator about packed rules.
    ///
    /// # Errors
    /// If these are no rules of this evaluator.
    pub async fn adopt(&self, name: &str, packed: Arc<[u8]>) -> Result<Arc<Module>, LoadError> {
        let prepared = self
            .evaluator
            .get_or_try_init(async || {
                let evaluator = instrumented().map_err(|error| LoadError::Compile {
                    name: EVALUATOR_NAME.into(),
                    reason: format!("{error:#}"),
                })?;
                self.prepared(EVALUATOR_NAME, evaluator).await
            })
            .await?;
        let module = Module {
            name: name.into(),
            is_of_rules: true,
            rules: Some(packed),
            patience: Arc::default(),
            turns: turns(),
            failures: Arc::default(),
            ..prepared.clone()
        };
        self.described(module).await
    }

    /// Compiling takes long, and sessions do not notice. Where nobody waits for it any more, it ends.
    async fn prepared(&self, name: &str, bytes: Vec<u8>) -> Result<Module, LoadError> {
        let failed = |reason: String| LoadError::Compile {
            name: name.into(),
            reason,
        };
        let (sandbox, owned_name) = (self.clone(), name.to_owned());
        let cancel = Cancel::default();
        let _ends_with_this = cancel.on_drop();
        let work = move || sandbox.prepare(&owned_name, &bytes, &cancel);
        let patience = self.compiler.patience();
        match timeout(patience, workshop::apart(work)).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!(
                "it is not compiled within {}",
                humantime::format_duration(patience)
            ))),
        }
    }

    /// Asks a policy that is about to be taken, in a fresh instance.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn try_out(
        &self,
        module: &Arc<Module>,
        context: &Arc<Context>,
    ) -> Result<Verdict, EvaluationError> {
        let mut instance = Instance::first(self, module).await?;
        instance.try_out(context).await
    }

    /// A first instance shows that the module runs, and what it is.
    async fn described(&self, mut module: Module) -> Result<Arc<Module>, LoadError> {
        let probe = Arc::new(module.clone());
        module.description = Instance::first(self, &probe).await?.describe(0, 0).await?;
        Ok(Arc::new(module))
    }

    fn prepare(&self, name: &str, bytes: &[u8], cancel: &Cancel) -> Result<Module, LoadError> {
        let cache = self.cache.as_ref();
        let inspected = inspect::inspect(bytes).map_err(|refused| LoadError::Refused {
            name: name.into(),
            refused,
        })?;
        let entry = cache.map(|cache| cache.entry(&self.engine, bytes));
        let known = entry.as_ref().and_then(|entry| entry.load(&self.engine));
        let failed = |error| cannot_compile(name, &error);
        let component = match known {
            Some(component) => component,
            None => {
                let compiler = self.compiler;
                let compiled = compiler.compile(&self.engine, entry.as_ref(), bytes, cancel);
                compiled.map_err(failed)?
            }
        };
        let compiled = self.linked(&component, entry).map_err(failed)?;
        Ok(Module {
            name: name.into(),
            description: Description {
                organization: String::new(),
                accepted_domains: Vec::new(),
                reads_header_from: false,
                total: 0,
                connectors: Vec::new(),
            },
            code: Code::Held(Arc::new(compiled)),
            limits: self.limits.clone(),
            uses_wasi: inspected.uses_wasi,
            is_of_rules: false,
            rules: None,
            patience: Arc::default(),
            turns: turns(),
            failures: Arc::default(),
        })
    }

    pub(super) fn linked(
        &self,
        component: &Component,
        entry: Option<Entry>,
    ) -> wasmtime::Result<Compiled> {
        let pre = self.linker.instantiate_pre(component)?;
        PolicyPre::new(pre.clone())?;
        let exports = Exports::of(component)
            .ok_or_else(|| wasmtime::format_err!("{EVALUATION} is not whole"))?;
        Ok(Compiled {
            pre,
            exports,
            entry,
        })
    }
}

fn cannot_compile(name: &str, error: &wasmtime::Error) -> LoadError {
    LoadError::Compile {
        name: name.into(),
        reason: one_line(&format!("{error:#}")).into(),
    }
}
