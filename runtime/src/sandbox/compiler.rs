//! Compiling, which hostile input can make slow, large or crash.
//!
//! A compiler that is at work cannot be stopped. So it works in a process of its own, whose time and memory the kernel
//! limits; it ends with the process that waits for it.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use wasmtime::component::Component;
use wasmtime::{Engine, Result, bail, format_err};

use super::background::{Cancel, Priority, run_in_pool};
use super::base_config::base_config;
use super::disk_cache::{self, Entry};
use super::inspect;
use crate::text::one_line;

/// What a compiled component may have, in bytes.
const MAX_CODE: u64 = 1 << 30;
/// What is read of a compiler's last words, in bytes.
const MAX_WORDS: u64 = 4 << 10;

/// What compiles components.
///
/// Compilers have been crashed and made to eat memory by hostile input. A program that loads components of others
/// compiles them in a process of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compiler {
    /// Only the built-in evaluator is compiled, in this process. That is enough for rules documents and for policies
    /// that `portcullis build` has made of them; other components are not loaded.
    BuiltInOnly,
    /// All components are compiled in this process: for those who trust them.
    InProcess,
    /// All components are compiled by a program.
    Subprocess(Subprocess),
}

/// A program that compiles: it calls [`compile`] with its standard input and output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subprocess {
    /// The program.
    pub program: PathBuf,
    /// Its first arguments; the time in seconds and the memory in bytes follow.
    pub arguments: Vec<OsString>,
    /// What it may take.
    pub limits: CompileLimits,
}

/// What it may take to compile a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Processor time, in whole seconds.
    pub time: Duration,
    /// Bytes of memory.
    pub memory: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        CompileLimits {
            time: Duration::from_secs(300),
            memory: 4 << 30,
        }
    }
}

/// How many times as long by the clock a compiler may take as it may compute: mail goes first, and a machine may be
/// busy.
const CLOCK: u32 = 4;

impl Compiler {
    /// How long a compiler is waited for.
    pub(crate) fn timeout(&self) -> Duration {
        match self {
            Compiler::BuiltInOnly | Compiler::InProcess => Duration::MAX,
            Compiler::Subprocess(it) => it.limits.time.saturating_mul(CLOCK),
        }
    }

    /// How long reading a document may take.
    pub(crate) fn reading_time(&self) -> Duration {
        match self {
            Compiler::BuiltInOnly | Compiler::InProcess => CompileLimits::default().time,
            Compiler::Subprocess(it) => it.limits.time,
        }
    }

    /// How many bytes of memory reading a document may take.
    pub(crate) fn reading_memory(&self) -> usize {
        let memory = match self {
            Compiler::BuiltInOnly | Compiler::InProcess => CompileLimits::default().memory,
            Compiler::Subprocess(it) => it.limits.memory,
        };
        usize::try_from(memory).unwrap_or(usize::MAX)
    }

    /// Compiles a component, and keeps the outcome if it has a place in the cache.
    pub(crate) fn compile(
        &self,
        engine: &Engine,
        entry: Option<&Entry>,
        component: &[u8],
        priority: Priority,
        cancel: &Cancel,
    ) -> Result<Component> {
        let code = match self {
            Compiler::BuiltInOnly | Compiler::InProcess => here(engine, component, priority)?,
            Compiler::Subprocess(program) => apart(program, component, cancel)?,
        };
        match entry {
            Some(entry) => entry.keep(engine, &code),
            None => disk_cache::component(engine, &code),
        }
    }
}

/// Hostile bytes have made compilers panic before; that ends here.
fn here(engine: &Engine, component: &[u8], priority: Priority) -> Result<Vec<u8>> {
    let compile = || run_in_pool(priority, || engine.precompile_component(component));
    catch_unwind(AssertUnwindSafe(compile))
        .unwrap_or_else(|_| Err(format_err!("the compiler panicked over this component")))
}

fn apart(program: &Subprocess, component: &[u8], cancel: &Cancel) -> Result<Vec<u8>> {
    let limits = program.limits;
    let mut child = Command::new(&program.program)
        .args(&program.arguments)
        .arg(limits.time.as_secs().max(1).to_string())
        .arg(limits.memory.to_string())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format_err!("the compiler cannot be started: {error}"))?;
    cancel.began(&child);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (code, words) = thread::scope(|scope| {
        scope.spawn(|| hand_over(stdin, component));
        let words = scope.spawn(|| read(stderr, MAX_WORDS));
        let code = read(stdout, MAX_CODE + 1);
        (code, words.join().unwrap_or_default())
    });
    cancel.ended();
    let status = child.wait()?;
    if !status.success() {
        bail!("{}", reason(status, limits, &words));
    }
    if code.len() as u64 > MAX_CODE {
        bail!("it is more than {} MiB when compiled", MAX_CODE >> 20);
    }
    Ok(code)
}

/// A compiler that has ended reads no more, which its status explains.
fn hand_over(stdin: Option<ChildStdin>, component: &[u8]) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(component);
    }
}

/// What can be read; whether it is all, the status tells.
fn read(from: Option<impl Read>, most: u64) -> Vec<u8> {
    let mut read = Vec::new();
    if let Some(from) = from {
        let _ = from.take(most).read_to_end(&mut read);
    }
    read
}

fn reason(status: ExitStatus, limits: CompileLimits, words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    let words = one_line(words.trim());
    match status.signal().map(Signal::from_named_raw) {
        None => words.strip_prefix("portcullis: ").unwrap_or(&words).into(),
        Some(Some(Signal::XCPU)) => format!(
            "compiling it takes more than {} of processor time (compile-time)",
            humantime::format_duration(limits.time)
        ),
        // So ends whoever is given no memory.
        Some(Some(Signal::ABORT)) if words.contains("memory allocation of") => format!(
            "compiling it takes more than {} of memory (compile-memory)",
            bytesize::ByteSize(limits.memory)
        ),
        _ => format!(
            "the compiler crashed over this component ({status}): {}",
            words.lines().next().unwrap_or_default()
        ),
    }
}

/// What a [`Subprocess`] does: confines this process, and compiles the component that is read within these limits.
///
/// # Errors
/// If it cannot be compiled.
pub fn compile(
    limits: CompileLimits,
    mut component: impl Read,
    mut code: impl Write,
) -> Result<()> {
    confine(limits)?;
    let mut bytes = Vec::new();
    component.read_to_end(&mut bytes)?;
    let engine = Engine::new(&base_config())?;
    match engine.precompile_component(&bytes) {
        Ok(compiled) => Ok(code.write_all(&compiled)?),
        // What is wrong with the component itself is told as such.
        Err(error) => Err(inspect::validate(&bytes).map_or_else(Into::into, |()| error)),
    }
}

fn confine(limits: CompileLimits) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // Where memory runs out, this process goes and not the daemon. It may be read-only.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    let at_most = |limit| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    setrlimit(Resource::Core, at_most(0))?;
    // Address space that is only reserved, as by malloc for each thread, is no memory.
    setrlimit(Resource::Data, at_most(limits.memory))?;
    let seconds = limits.time.as_secs();
    // At the first of the two it is told which limit it was.
    let time = Rlimit {
        current: Some(seconds),
        maximum: Some(seconds.saturating_add(1)),
    };
    setrlimit(Resource::Cpu, time)?;
    Ok(())
}
