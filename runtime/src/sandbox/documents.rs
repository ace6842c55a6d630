//! From a rules document to packed rules.
//!
//! The evaluator is instantiated for each document, in an engine without a pool: what a document makes it allocate is
//! gone afterwards.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use portcullis_types::{Problem, Summary};
use wasmtime::component::{Component, Linker};
use wasmtime::{Store, StoreLimits, StoreLimitsBuilder, Trap, UpdateDeadline};

use super::background::{Cancel, Priority, run_on_thread};
use super::base_config::base_config;
use super::compiler::Compiler;
use super::disk_cache::DiskCache;
use super::engine::EngineError;
use super::evaluator::{self, DOCUMENTS};
use super::limits::start_clock;
use crate::bindings::evaluator::Evaluator;

/// A document that was accepted.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The rules in the evaluator's own form.
    pub packed: Arc<[u8]>,
    /// What the evaluator says of the document.
    pub summary: Summary,
}

/// How finely the time is measured that reading takes.
const TICK: Duration = Duration::from_millis(100);

/// A document did not become rules.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The document has errors.
    #[error("{}", rejected(.0))]
    Rejected(Vec<Problem>),
    /// It is larger than allowed.
    #[error("the rules have {size} bytes, more than {limit} (policy-size)")]
    TooLarge {
        /// Bytes that it has.
        size: usize,
        /// Bytes that it may have.
        limit: usize,
    },
    /// It takes too long to read it.
    #[error("reading the rules takes more than {} (compile-time)", humantime::format_duration(*.0))]
    TooLong(Duration),
    /// The evaluator failed, which no document should make it do.
    #[error("the evaluator failed: {0}")]
    Failed(String),
}

fn rejected(problems: &[Problem]) -> String {
    let is_error = |problem: &&Problem| problem.severity == portcullis_types::Severity::Error;
    let mut errors = problems.iter().filter(is_error);
    let Some(first) = errors.next() else {
        return "the rules are rejected".into();
    };
    let more = match errors.count() {
        0 => String::new(),
        more => format!(" (and {more} more errors)"),
    };
    format!("{}:{}: {}{more}", first.line, first.column, first.message)
}

/// Reads documents. Cheap to clone.
#[derive(Clone)]
pub struct Documents {
    engine: wasmtime::Engine,
    disk_cache: Option<Arc<DiskCache>>,
    compiler: Arc<Compiler>,
    priority: Priority,
    /// Bytes that a document may have.
    most: usize,
    evaluator: Arc<OnceLock<Component>>,
}

impl Documents {
    /// The evaluator is compiled when the first document comes.
    ///
    /// # Errors
    /// If this machine can run no engine.
    pub fn new(
        disk_cache: Option<Arc<DiskCache>>,
        compiler: Arc<Compiler>,
        priority: Priority,
        most: usize,
    ) -> Result<Self, EngineError> {
        let engine = wasmtime::Engine::new(&base_config()).map_err(EngineError::Limits)?;
        start_clock(&engine, TICK, || {}).map_err(EngineError::Thread)?;
        Ok(Documents {
            engine,
            disk_cache,
            compiler,
            priority,
            most,
            evaluator: Arc::default(),
        })
    }

    /// Checks a document and runs its tests.
    ///
    /// # Errors
    /// The problems of a document with errors.
    pub async fn read(&self, document: String) -> Result<Rules, DocumentError> {
        self.read_within(Duration::MAX, document).await
    }

    /// The same, in at most so much time.
    ///
    /// # Errors
    /// The problems of a document with errors.
    pub async fn read_within(
        &self,
        time: Duration,
        document: String,
    ) -> Result<Rules, DocumentError> {
        let (size, limit) = (document.len(), self.most);
        if size > limit {
            return Err(DocumentError::TooLarge { size, limit });
        }
        let time = time.min(self.compiler.reading_time());
        let documents = self.clone();
        let cancel = Cancel::default();
        let _ends_with_this = cancel.on_drop();
        // A large document takes seconds, and nobody must wait for it but who asks.
        let reading = run_on_thread(self.priority, move || {
            let mut reader = documents.reader(time, cancel).map_err(failed)?;
            let summary = reader.configure(&document)?;
            let packed = reader.pack().map_err(failed)?.into();
            Ok(Rules { packed, summary })
        });
        reading
            .await
            .unwrap_or_else(|error| Err(DocumentError::Failed(error.to_string())))
    }

    /// An instance of the evaluator that runs for so long at most.
    fn reader(&self, time: Duration, cancel: Cancel) -> wasmtime::Result<Reader> {
        let component = self.compiled(&cancel)?;
        let limits = StoreLimitsBuilder::new().memory_size(self.compiler.reading_memory());
        let mut store = Store::new(&self.engine, limits.build());
        store.limiter(|limits| limits);
        // The document and the rules cross the boundary whole.
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
        let exports = Evaluator::instantiate(&mut store, &component, &linker)?;
        Ok(Reader {
            store,
            exports,
            time,
        })
    }

    /// The evaluator, compiled once.
    fn compiled(&self, cancel: &Cancel) -> wasmtime::Result<Component> {
        if let Some(evaluator) = self.evaluator.get() {
            return Ok(evaluator.clone());
        }
        let built_in = evaluator::compiled(&self.engine, DOCUMENTS);
        let cache = self.disk_cache.as_ref().filter(|_| built_in.is_none());
        let entry = cache.map(|cache| cache.entry(&self.engine, DOCUMENTS));
        let known = built_in.or_else(|| entry.as_ref()?.load(&self.engine));
        let evaluator = match known {
            Some(known) => known,
            None => self.compiler.compile(
                &self.engine,
                entry.as_ref(),
                DOCUMENTS,
                self.priority,
                cancel,
            )?,
        };
        Ok(self.evaluator.get_or_init(|| evaluator).clone())
    }
}

fn failed(error: wasmtime::Error) -> DocumentError {
    DocumentError::Failed(format!("{error:#}"))
}

/// An instance of the evaluator.
struct Reader {
    store: Store<StoreLimits>,
    exports: Evaluator,
    time: Duration,
}

impl Reader {
    fn configure(&mut self, document: &str) -> Result<Summary, DocumentError> {
        let rules = self.exports.portcullis_policy_rules();
        let answer = rules.call_configure(&mut self.store, document);
        let answer = answer.map_err(|error| match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => DocumentError::TooLong(self.time),
            _ => failed(error),
        })?;
        answer.map(Summary::from).map_err(|problems| {
            DocumentError::Rejected(problems.into_iter().map(Problem::from).collect())
        })
    }

    fn pack(&mut self) -> wasmtime::Result<Vec<u8>> {
        let rules = self.exports.portcullis_policy_rules();
        rules.call_pack(&mut self.store)
    }
}
