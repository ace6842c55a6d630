//! Opening what a command calls POLICY: a rules document or a component.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{PolicyArgs, output, paint, report};
use portcullis::sandbox::interface::Connector;
use portcullis::sandbox::{
    BuildError, Builder, Cache, CompileLimits, Compiler, Instance, Limits, Module, Sandbox,
};

/// How many connectors are asked for at a time.
const WINDOW: u32 = 1000;

/// A policy that can be asked.
pub struct Open {
    /// Where it runs.
    pub sandbox: Sandbox,
    /// The policy.
    pub module: Arc<Module>,
}

impl Open {
    /// A fresh instance.
    pub async fn instance(&self) -> anyhow::Result<Instance> {
        Ok(Instance::new(&self.sandbox, &self.module).await?)
    }

    /// All connectors, in the order of the document.
    pub async fn connectors(&self) -> anyhow::Result<Vec<Connector>> {
        let mut connectors = Vec::new();
        for first in (0..self.module.description.total).step_by(WINDOW as usize) {
            // A fresh instance for each window: what one allocates is given back.
            let window = self.instance().await?.describe(first, WINDOW).await?;
            let count = window.connectors.len();
            if count > WINDOW as usize {
                bail!("the policy describes more connectors than it was asked for");
            }
            connectors.extend(window.connectors);
            // A module may have said that there are more.
            if count < WINDOW as usize {
                break;
            }
        }
        Ok(connectors)
    }
}

impl PolicyArgs {
    /// Loads the policy; a document is built first. An evaluation has so many milliseconds, unless the command line
    /// says otherwise.
    pub async fn open(&self, time_limit: u64) -> anyhow::Result<Open> {
        let limits = Limits {
            memory: self.memory << 20,
            evaluation: Duration::from_millis(self.time_limit.unwrap_or(time_limit)),
            instances: 4,
            ..Limits::default()
        };
        let cache = default_cache();
        let sandbox = Sandbox::new(limits, cache.clone(), compiler())?;
        let name = self.policy.display().to_string();
        let module = match extension(&self.policy)? {
            Kind::Component => sandbox.load(&name, read(&self.policy)?).await?,
            Kind::Document => {
                let builder = Builder::new(cache, compiler())?;
                let packed = read_rules(&self.policy, &builder).await?;
                builder.load(&sandbox, &name, packed).await?
            }
        };
        Ok(Open { sandbox, module })
    }
}

enum Kind {
    Document,
    Component,
}

fn extension(path: &Path) -> anyhow::Result<Kind> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Ok(Kind::Document),
        Some("wasm") => Ok(Kind::Component),
        _ => bail!("{}: a policy is a .json or a .wasm file", path.display()),
    }
}

/// Reads a file; the error names it.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a rules document; the error names it.
pub fn read_document(path: &Path) -> anyhow::Result<String> {
    let bytes = read(path)?;
    if bytes.starts_with(b"\0asm") {
        bail!(
            "{} is a WebAssembly module, and no rules document: ask it with `portcullis list`, `explain` or `evaluate`",
            path.display()
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{} is not UTF-8: see byte {at}", path.display())
    })
}

async fn read_rules(path: &Path, builder: &Builder) -> anyhow::Result<Arc<[u8]>> {
    let document = read_document(path)?;
    match builder.read(document.clone()).await {
        Ok(rules) => Ok(rules.packed),
        Err(BuildError::Rejected(problems)) => {
            let colour = paint::wanted(&std::io::stderr());
            let name = path.display().to_string();
            output::tell(&report::problems(&name, &document, &problems, colour));
            bail!("{} is not a valid policy", path.display())
        }
        Err(error) => Err(error.into()),
    }
}

/// Modules are compiled in a process of their own.
pub fn compiler() -> Compiler {
    Compiler::Apart(CompileLimits::default())
}

/// The compile cache of this user; none if there is no place for it, which costs only time.
pub fn default_cache() -> Option<Arc<Cache>> {
    let folder = crate::config::default_cache_folder()?;
    match Cache::open(&folder) {
        Ok(cache) => Some(Arc::new(cache)),
        Err(error) => {
            tracing::debug!(%error, "no compile cache");
            None
        }
    }
}
