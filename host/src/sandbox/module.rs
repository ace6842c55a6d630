//! Loading a component: inspection, compilation, a first instance.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use wasmtime::Engine;
use wasmtime::component::Component;

use super::bindings::policy::PolicyPre;
use super::cache::Cache;
use super::engine::{Limits, Sandbox};
use super::inspect::{self, Refused};
use super::instance::{EvaluationError, Instance, State};
use super::interface::Description;

/// A component that is ready to run.
#[derive(Clone)]
pub struct Module {
    /// What to call it: a file name.
    pub name: Arc<str>,
    /// What it says of itself, without its connectors.
    pub description: Description,
    pub(super) pre: PolicyPre<State>,
    pub(super) limits: Arc<Limits>,
    pub(super) uses_wasi: bool,
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
        let (sandbox, owned_name) = (self.clone(), name.to_owned());
        let prepared =
            tokio::task::spawn_blocking(move || sandbox.prepare(&owned_name, &bytes)).await;
        let mut module = prepared.unwrap_or_else(|error| {
            Err(LoadError::Compile {
                name: name.into(),
                reason: error.to_string(),
            })
        })?;
        let probe = Arc::new(module.clone());
        module.description = Instance::new(self, &probe).await?.describe(0, 0).await?;
        Ok(Arc::new(module))
    }

    fn prepare(&self, name: &str, bytes: &[u8]) -> Result<Module, LoadError> {
        let inspected = inspect::inspect(bytes).map_err(|refused| LoadError::Refused {
            name: name.into(),
            refused,
        })?;
        let failed = |error: wasmtime::Error| LoadError::Compile {
            name: name.into(),
            reason: format!("{error:#}"),
        };
        let component = compile(&self.engine, self.cache.as_deref(), bytes).map_err(failed)?;
        let pre = self
            .linker
            .instantiate_pre(&component)
            .and_then(PolicyPre::new)
            .map_err(failed)?;
        Ok(Module {
            name: name.into(),
            description: Description {
                organization: String::new(),
                accepted_domains: Vec::new(),
                reads_header_from: false,
                total: 0,
                connectors: Vec::new(),
            },
            pre,
            limits: self.limits.clone(),
            uses_wasi: inspected.uses_wasi,
        })
    }
}

/// The compiled form, from the cache if it is there. Hostile bytes have made compilers panic before;
/// that ends here.
pub fn compile(
    engine: &Engine,
    cache: Option<&Cache>,
    bytes: &[u8],
) -> wasmtime::Result<Component> {
    let compile = || match cache {
        Some(cache) => cache.load_or_compile(engine, bytes),
        None => Component::from_binary(engine, bytes),
    };
    catch_unwind(AssertUnwindSafe(compile)).unwrap_or_else(|_| {
        Err(wasmtime::format_err!(
            "the compiler panicked over this module"
        ))
    })
}
