//! The engine and its policies: what an embedder begins with.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use portcullis_types::{Connector, Description, Explanation, Summary};

use crate::cases::{Cases, FailedCase};
use crate::context::Context;
use crate::decision::Decision;
use crate::description_size;
use crate::failure::{EvaluationError, Failure};
use crate::observer::Observer;
use crate::sandbox::background::Priority;
use crate::sandbox::compiler::Compiler;
use crate::sandbox::documents::{DocumentError, Documents, Rules};
use crate::sandbox::engine::{self as sandbox, EngineError, Settings};
use crate::sandbox::idle::{IdleInstances, Isolation};
use crate::sandbox::instance::Instance;
use crate::sandbox::limits::Limits;
use crate::sandbox::loader::{Loader, finished};
use crate::sandbox::policy::{LoadError, LoadedPolicy};
use crate::session::Session;

/// How many connectors are described at a time.
const WINDOW: u32 = 1000;
/// Bytes that all connectors of a policy may have: one of others may describe more than there is memory for.
const MAX_DESCRIPTION: usize = 1 << 30;

/// What policies run on. Cheap to clone; a program needs one.
#[derive(Clone)]
pub struct Engine {
    pub(crate) loader: Loader,
    pub(crate) documents: Documents,
}

/// Sets up an [`Engine`].
#[derive(Default)]
pub struct EngineBuilder {
    settings: Settings,
    isolation: Isolation,
}

impl EngineBuilder {
    /// What a policy may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Keeps compiled policies in a directory, so that a later start need not compile them. Nobody else may be able to
    /// write to it: what it contains is run.
    pub fn cache_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.settings.cache_directory = Some(directory.into());
        self
    }

    /// What compiles components. By default only the built-in evaluator is compiled.
    pub fn compiler(mut self, compiler: Compiler) -> Self {
        self.settings.compiler = compiler;
        self
    }

    /// How important compiling is beside what else the program does. By default less.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.settings.priority = priority;
        self
    }

    /// Who shares an instance of the built-in evaluator. By default the sessions of a tenant do, one after the other.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Who hears of what happens to policies.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.settings.observer = observer;
        self
    }

    /// Starts the engine.
    ///
    /// # Errors
    /// If the limits are more than this machine has, or the cache directory cannot be used.
    pub fn build(self) -> Result<Engine, EngineError> {
        let idle = IdleInstances::default();
        let engine = sandbox::Engine::new(self.settings, idle.end_all())?;
        let documents = Documents::new(
            engine.disk_cache.clone(),
            engine.compiler.clone(),
            engine.priority,
            engine.limits.policy_size,
        )?;
        let shared = (self.isolation == Isolation::Tenant).then_some(idle);
        Ok(Engine {
            loader: Loader::new(engine, shared),
            documents,
        })
    }
}

impl Engine {
    /// An engine with these limits, that loads rules documents and what `portcullis build` has made of them.
    ///
    /// # Errors
    /// If the limits are more than this machine has.
    pub fn new(limits: Limits) -> Result<Self, EngineError> {
        Engine::builder().limits(limits).build()
    }

    /// Sets an engine up step by step.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Loads a policy from a file: a rules document (`.json`) or a component (`.wasm`). A document is checked and its
    /// tests are run first.
    ///
    /// # Errors
    /// Names the file, the place in it and what is wrong.
    pub async fn load_file(&self, path: impl AsRef<Path>) -> Result<Policy, PolicyFileError> {
        let path = path.as_ref();
        let failed = |cause| PolicyFileError {
            path: path.to_owned(),
            cause,
        };
        let (file, limit) = (path.to_owned(), self.limits().policy_size);
        let reading = spawn_blocking(move || crate::file::read(&file, (limit, "policy-size")));
        let bytes = reading.await.map_err(std::io::Error::other).flatten();
        let bytes = bytes.map_err(|error| failed(PolicyError::Read(error)))?;
        let name = path.display().to_string();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("wasm") => {
                let loaded = self.load_component(&name, bytes).await;
                loaded.map_err(|error| failed(error.into()))
            }
            Some("json") => {
                let document = String::from_utf8(bytes).map_err(|error| {
                    failed(PolicyError::NotUtf8(error.utf8_error().valid_up_to()))
                })?;
                self.load_document(&name, document).await.map_err(failed)
            }
            _ => Err(failed(PolicyError::Kind)),
        }
    }

    /// Loads a rules document; `name` stands for the policy in errors of its evaluations.
    ///
    /// # Errors
    /// What is wrong with the document, with line and column.
    pub async fn load_document(&self, name: &str, document: String) -> Result<Policy, PolicyError> {
        let rules = self.documents.read(document).await?;
        if !rules.summary.warnings.is_empty() {
            let observer = &self.loader.engine.observer;
            observer.warned(name, &rules.summary.warnings);
        }
        Ok(self.load_rules(name, &rules).await?)
    }

    /// Loads rules that [`Engine::read`] has read; `name` stands for them in errors.
    ///
    /// # Errors
    /// If the rules are of another version of this library.
    pub async fn load_rules(&self, name: &str, rules: &Rules) -> Result<Policy, LoadError> {
        let loaded = self.loader.packed(name, rules.packed.clone()).await?;
        Ok(self.policy(loaded))
    }

    /// Loads a component; `name` stands for it in errors.
    ///
    /// # Errors
    /// What is wrong with the component.
    pub async fn load_component(&self, name: &str, bytes: Vec<u8>) -> Result<Policy, LoadError> {
        Ok(self.policy(self.loader.component(name, bytes).await?))
    }

    /// Checks a rules document and runs its tests.
    ///
    /// # Errors
    /// The problems of a document with errors.
    pub async fn check(&self, document: String) -> Result<Summary, DocumentError> {
        Ok(self.documents.read(document).await?.summary)
    }

    /// Reads a rules document, to load or to build it.
    ///
    /// # Errors
    /// The problems of a document with errors.
    pub async fn read(&self, document: String) -> Result<Rules, DocumentError> {
        self.documents.read(document).await
    }

    /// Makes a component of rules: a policy that needs nothing else.
    ///
    /// # Errors
    /// If the rules are larger than a component's memory can be.
    pub fn build(&self, name: &str, rules: &Rules) -> Result<Vec<u8>, LoadError> {
        finished(name, &rules.packed)
    }

    /// What a policy may use.
    pub fn limits(&self) -> &Limits {
        &self.loader.engine.limits
    }

    /// How many instances of policies there are now, of at most [`Limits::instances`].
    pub fn instances(&self) -> usize {
        self.loader.engine.admission.instances()
    }

    pub(crate) fn policy(&self, loaded: Arc<LoadedPolicy>) -> Policy {
        Policy {
            engine: self.clone(),
            loaded,
        }
    }
}

/// A policy that is loaded. Cheap to clone.
#[derive(Clone)]
pub struct Policy {
    engine: Engine,
    pub(crate) loaded: Arc<LoadedPolicy>,
}

impl Policy {
    /// Its name: that of its file.
    pub fn name(&self) -> &str {
        &self.loaded.name
    }

    /// What it says of itself, without its connectors.
    pub fn description(&self) -> &Description {
        &self.loaded.description
    }

    /// Whether its evaluator is the built-in one.
    pub fn is_built_in(&self) -> bool {
        self.loaded.is_built_in
    }

    /// All connectors, in the order of the rules.
    ///
    /// # Errors
    /// If the policy does not answer.
    pub async fn connectors(&self) -> Result<Vec<Connector>, EvaluationError> {
        let mut connectors = Vec::new();
        let mut size = 0;
        for first in (0..self.description().total).step_by(WINDOW as usize) {
            // A fresh instance for each window: what one allocates is given back.
            let engine = &self.engine.loader.engine;
            let mut instance = Instance::new(engine, &self.loaded).await?;
            let window = instance.describe(engine, first, WINDOW).await?;
            let count = window.connectors.len();
            size += window
                .connectors
                .iter()
                .map(description_size::of)
                .sum::<usize>();
            if size > MAX_DESCRIPTION {
                let reason = "it describes more than 1 GiB of connectors".into();
                return Err(self.loaded.failed(Failure::Invalid(reason)));
            }
            // It may have said that there are more, or fewer.
            connectors.extend(window.connectors.into_iter().take(WINDOW as usize));
            if count != WINDOW as usize {
                break;
            }
        }
        Ok(connectors)
    }

    /// Holds the policy against cases, and gives those that it does not pass.
    pub async fn run_cases(&self, cases: &Cases) -> Vec<FailedCase> {
        let loader = &self.engine.loader;
        cases.run_all(loader, &self.loaded).await
    }

    #[cfg(test)]
    pub(crate) fn idle(&self) -> Option<&IdleInstances> {
        self.engine.loader.idle.as_ref()
    }

    /// A session: one for each SMTP session, so that nothing can pass from one sender to another. Of the built-in
    /// evaluator, which keeps nothing of a question, sessions share instances ([`EngineBuilder::isolation`]).
    pub fn session(&self) -> PolicySession {
        PolicySession {
            session: Session::new(&self.engine.loader),
            name: self.loaded.name.clone(),
            policy: self.clone(),
        }
    }
}

/// The evaluations of one SMTP session by one policy.
pub struct PolicySession {
    session: Session,
    name: Arc<str>,
    policy: Policy,
}

impl PolicySession {
    /// Decides. If the policy gives no answer, the decision defers the mail, and the observer hears why.
    pub async fn decide(&mut self, context: &Context) -> Decision {
        let policy = Some(&self.policy.loaded);
        self.session
            .decide(&self.name, policy, (context, &self.name), Decision::new)
            .await
    }

    /// Decides, and says why if the policy gives no answer.
    ///
    /// # Errors
    /// If the policy does not answer, or with what cannot be carried out.
    pub async fn try_decide(&mut self, context: &Context) -> Result<Decision, EvaluationError> {
        let policy = Some(&self.policy.loaded);
        self.session
            .try_decide(&self.name, policy, (context, &self.name), Decision::new)
            .await
    }

    /// Decides, and gives the reasons.
    ///
    /// # Errors
    /// If the policy does not answer.
    pub async fn explain(&mut self, context: &Context) -> Result<Explanation, EvaluationError> {
        let engine = &self.policy.engine.loader.engine;
        let mut instance = Instance::new(engine, &self.policy.loaded).await?;
        instance.explain(engine, context).await
    }
}

/// A file is not a policy.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
#[non_exhaustive]
pub struct PolicyFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub cause: PolicyError,
}

/// Something is not a policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(std::io::Error),
    /// The rules are not text.
    #[error("the rules are not UTF-8: see byte {0}")]
    NotUtf8(usize),
    /// The file's name says that it is something else.
    #[error("a policy is a .json or a .wasm file")]
    Kind,
    /// The document is not accepted.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The component is not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// How long a document may take beside those that are read quickly.
pub(crate) const QUICK: Duration = Duration::from_secs(1);
