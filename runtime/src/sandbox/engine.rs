//! What policies run on: wasmtime's engine with its pool and clock, caches and permits.

use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::Linker;

use super::admission::Admission;
use super::background::Priority;
use super::code_cache::CodeCache;
use super::compiler::Compiler;
use super::disk_cache::{CacheError, DiskCache};
use super::limits::{self, LimitError, Limits, TICKS};
use super::linker;
use super::state::State;
use crate::observer::{Nobody, Observer};

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A limit is out of its range.
    #[error("the limits for policies: {0}")]
    OutOfRange(#[from] LimitError),
    /// The limits are more than the machine has.
    #[error("the limits for policies cannot be met: {0:#}")]
    Limits(wasmtime::Error),
    /// No thread can be started.
    #[error("no thread can be started for policies: {0}")]
    Thread(std::io::Error),
    /// The cache directory cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// How an engine is set up.
pub struct Settings {
    /// What a policy may use.
    pub limits: Limits,
    /// Where compiled code is kept.
    pub cache_directory: Option<PathBuf>,
    /// What compiles components.
    pub compiler: Compiler,
    /// How important compiling is.
    pub priority: Priority,
    /// Who hears of what happens.
    pub observer: Arc<dyn Observer>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            limits: Limits::default(),
            cache_directory: None,
            compiler: Compiler::BuiltInOnly,
            priority: Priority::Low,
            observer: Arc::new(Nobody),
        }
    }
}

/// Instances whose addresses are left to other uses.
const RESERVE: u32 = 2;

/// What policies run on.
pub struct Engine {
    /// Wasmtime's engine.
    pub wasmtime: wasmtime::Engine,
    /// What policies may call.
    pub linker: Arc<Linker<State>>,
    /// What a policy may use.
    pub limits: Arc<Limits>,
    /// Who may run.
    pub admission: Admission,
    /// Compiled code in memory.
    pub code_cache: CodeCache,
    /// Compiled code on disk.
    pub disk_cache: Option<Arc<DiskCache>>,
    /// What compiles components.
    pub compiler: Arc<Compiler>,
    /// How important compiling is.
    pub priority: Priority,
    /// Who hears of what happens.
    pub observer: Arc<dyn Observer>,
}

impl Engine {
    /// Sets the engine up and starts its clock, which also calls a function each second.
    ///
    /// # Errors
    /// If the limits are out of their range or more than this machine's address space holds, or the cache directory cannot be used.
    pub fn new(
        settings: Settings,
        each_second: impl FnMut() + Send + 'static,
    ) -> Result<Self, EngineError> {
        let Settings {
            limits,
            cache_directory,
            compiler,
            priority,
            observer,
        } = settings;
        limits.check()?;
        let (engine, limits) = within_address_space(limits, &*observer)?;
        let tick = limits.evaluation / TICKS;
        limits::start_clock(&engine, tick, each_second).map_err(EngineError::Thread)?;
        let linker = linker::linker(&engine).map_err(EngineError::Limits)?;
        let disk_cache = match cache_directory {
            Some(folder) => Some(Arc::new(DiskCache::open(&folder, observer.clone())?)),
            None => None,
        };
        Ok(Engine {
            wasmtime: engine,
            linker: Arc::new(linker),
            admission: Admission::new(&limits),
            code_cache: CodeCache::new(limits.code),
            limits: Arc::new(limits),
            disk_cache,
            compiler: Arc::new(compiler),
            priority,
            observer,
        })
    }
}

/// An engine with as many instances as were asked for, or as this process has addresses for: each takes 24 GiB of them,
/// and processors with 39 bits of address, and `ulimit -v`, leave few.
fn within_address_space(
    mut limits: Limits,
    observer: &dyn Observer,
) -> Result<(wasmtime::Engine, Limits), EngineError> {
    let build = |limits: &Limits| wasmtime::Engine::new(&limits::config(limits));
    let wanted = limits.instances;
    let mut why = match build(&limits) {
        Ok(engine) => return Ok((engine, limits)),
        Err(error) => error,
    };
    while limits.instances > 1 {
        limits.instances /= 2;
        // Documents are read in memory of their own.
        let with_reserve = Limits {
            instances: limits.instances + RESERVE,
            ..limits.clone()
        };
        let built = build(&with_reserve).map(drop).and_then(|()| build(&limits));
        match built {
            Ok(engine) => {
                observer.fewer_instances(wanted, limits.instances);
                return Ok((engine, limits));
            }
            Err(error) => why = error,
        }
    }
    Err(EngineError::Limits(why))
}
