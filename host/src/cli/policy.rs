//! Opening what a command calls POLICY: a rules document or a component.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, value_parser};

use super::{output, paint, report, signed};
use crate::trust::read_roots;
use portcullis::{
    CompileLimits, Compiler, DocumentError, Engine, Limits, Observer, Policy, Priority, Rules,
    Subprocess,
};

/// For an evaluation, as in a session, in milliseconds.
pub const EVALUATION_MS: u64 = 50;

/// Where help shows what a policy may use: few want to change it.
const LIMITS: &str = "Limits";

/// Which policy, and what it may use.
#[derive(Args)]
pub struct PolicyArgs {
    /// A rules document (.json) or a component (.wasm)
    pub policy: PathBuf,
    /// Take it only if it is signed: the operators' root statements, with NAME.dsse.json beside the policy
    #[arg(long, value_name = "ROOT.json")]
    root: Option<PathBuf>,
    /// Memory that the policy may use
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = value_parser!(u32).range(2..=4096), help_heading = LIMITS)]
    memory: u32,
    /// Time that one evaluation may take [default: 50; 10000 to explain]
    #[arg(long, value_name = "MS", value_parser = value_parser!(u64).range(1..), help_heading = LIMITS)]
    time_limit: Option<u64>,
}

impl PolicyArgs {
    /// Loads the policy; a document is built first. An evaluation has so many milliseconds, unless the command line
    /// says otherwise.
    pub async fn open(&self, time_limit: u64) -> anyhow::Result<Policy> {
        let mut limits = limits();
        limits.memory = (self.memory as usize) << 20;
        limits.evaluation = Duration::from_millis(self.time_limit.unwrap_or(time_limit));
        let engine = engine(limits)?;
        let name = self.policy.display().to_string();
        tell_signers(&self.policy, self.root.as_deref())?;
        Ok(match extension(&self.policy)? {
            Kind::Component => engine.load_component(&name, read(&self.policy)?).await?,
            Kind::Document => {
                let rules = read_rules(&self.policy, &engine).await?;
                engine.load_rules(&name, &rules).await?
            }
        })
    }
}

/// Says by whom a policy is signed.
///
/// # Errors
/// If it is not, or by others than those.
pub fn tell_signers(policy: &Path, root: Option<&Path>) -> anyhow::Result<()> {
    if let Some(root) = root {
        let told = signed::policy(policy, &read(policy)?, &read_roots(root)?)?;
        output::tell(&format!("{}: {told}\n", policy.display()));
    }
    Ok(())
}

/// Whoever runs a command reads what a policy writes.
struct Author;

impl Observer for Author {
    fn printed(&self, policy: &str, text: &str) {
        let lines = text.lines().map(|line| {
            let (policy, line) = (paint::printable(policy), paint::printable(line));
            format!("{policy} | {line}\n")
        });
        output::tell(&lines.collect::<String>());
    }
}

/// What a POLICY is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Document,
    Component,
}

/// What a file is, by its name.
pub fn extension(path: &Path) -> anyhow::Result<Kind> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => Ok(Kind::Document),
        Some("wasm") => Ok(Kind::Component),
        _ => bail!("{}: a policy is a .json or a .wasm file", path.display()),
    }
}

/// Reads a file; the error names it.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let limit = Limits::default().policy_size;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() > limit {
        let limit = bytesize::ByteSize(limit as u64);
        bail!("{} is larger than {limit}", path.display());
    }
    Ok(bytes)
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
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = *bytes {
        bail!("{} is UTF-16: save it as UTF-8", path.display());
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default());
        let (line, last) = before.split('\n').enumerate().last().unwrap_or_default();
        anyhow::anyhow!(
            "{}:{}:{}: this is not UTF-8: save the file as UTF-8",
            path.display(),
            line + 1,
            last.chars().count() + 1
        )
    })
}

/// Reads a rules document, and runs its tests; problems are told.
pub async fn read_rules(path: &Path, engine: &Engine) -> anyhow::Result<Rules> {
    let document = read_document(path)?;
    match engine.read(document.clone()).await {
        Ok(rules) => Ok(rules),
        Err(DocumentError::Rejected(problems)) => {
            let colour = paint::wanted(&std::io::stderr());
            let name = path.display().to_string();
            output::tell(&report::problems(&name, &document, &problems, colour));
            bail!("{} is not a valid policy", path.display())
        }
        Err(error) => Err(error.into()),
    }
}

/// Components are compiled in a process of their own: by this program, even if its file has been replaced meanwhile.
pub fn compiler(limits: CompileLimits) -> Compiler {
    let itself = Path::new("/proc/self/exe");
    let called = || std::env::args_os().next().unwrap_or_default().into();
    Compiler::Subprocess(Subprocess {
        program: match itself.exists() {
            true => itself.into(),
            // There is no /proc here.
            false => called(),
        },
        arguments: vec!["compile".into()],
        limits,
    })
}

/// For one command: of the default number of instances, the address space alone is terabytes.
pub fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.instances = 4;
    limits
}

/// An engine for one command. Somebody waits for it.
pub fn engine(limits: Limits) -> anyhow::Result<Engine> {
    let builder = || {
        Engine::builder()
            .limits(limits.clone())
            .compiler(compiler(CompileLimits::default()))
            .priority(Priority::Normal)
            .observer(Arc::new(Author))
    };
    // The compile cache of this user. Without one it only takes longer.
    if let Some(folder) = crate::config::default_cache_folder() {
        match builder().cache_directory(folder).build() {
            Ok(engine) => return Ok(engine),
            Err(error) => tracing::debug!(%error, "no compile cache"),
        }
    }
    Ok(builder().build()?)
}
