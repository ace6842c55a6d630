//! What the store of an instance holds, and how its errors are told apart.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::HasData;
use wasmtime::{
    FrameInfo, PoolConcurrencyLimitError, ResourceLimiter, Trap, UpdateDeadline, WasmBacktrace,
};
use wasmtime_wasi::{WasiCtxView, WasiView};

use super::limits::{Limits, TICKS};
use super::wasi::WasiState;
use crate::failure::{EvaluationError, Failure};
use crate::observer::Observer;
use crate::text::one_line;

/// Functions that are named where a policy has trapped, and characters of a name.
const MOST_NAMES: usize = 6;
const MOST_OF_NAME: usize = 100;
/// What wasmtime's list of functions begins with.
const PLACE: &str = "error while executing at wasm backtrace";

/// What the store of an instance holds.
pub struct State {
    policy: Arc<str>,
    limits: Arc<Limits>,
    observer: Arc<dyn Observer>,
    memory: usize,
    tables: usize,
    /// Memory and tables before they grew last.
    before: (usize, usize),
    /// Whether the last wish to grow was denied. A policy may do without what it is denied.
    denied: bool,
    mode: CallMode,
    wasi: Option<Box<WasiState>>,
}

/// How a call is run.
#[derive(Clone, Copy, Debug)]
pub enum CallMode {
    /// On the caller's thread, which it must not hold up: it ends at the deadline that the epoch sets.
    Inline,
    /// On a stack of its own, where each tick lets other sessions go on, until the time is up. The clock
    /// is first read at the first tick.
    Yielding(Option<Instant>),
}

impl State {
    /// Nothing yet.
    pub fn new(
        policy: Arc<str>,
        limits: Arc<Limits>,
        observer: Arc<dyn Observer>,
        mode: CallMode,
    ) -> Self {
        State {
            policy,
            limits,
            observer,
            memory: 0,
            tables: 0,
            before: (0, 0),
            denied: false,
            mode,
            wasi: None,
        }
    }

    /// Bytes of linear memory.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Changes how calls are run.
    pub fn set_mode(&mut self, mode: CallMode) {
        self.mode = mode;
    }

    /// The empty world of WASI, made when a policy first asks for it.
    fn wasi(&mut self) -> &mut WasiState {
        self.wasi
            .get_or_insert_with(|| Box::new(WasiState::new(&self.policy, &self.observer)))
    }

    /// What is written from now on belongs to another evaluation.
    pub fn forget_what_was_written(&mut self) {
        if let Some(wasi) = &self.wasi {
            wasi.take_written();
        }
    }

    /// Called at each tick while the policy runs.
    pub fn on_tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        let CallMode::Yielding(deadline) = &mut self.mode else {
            return Err(TimedOut.into());
        };
        let budget = self.limits.evaluation;
        let now = Instant::now();
        let deadline = *deadline.get_or_insert(now + budget - budget / TICKS);
        if now >= deadline {
            return Err(TimedOut.into());
        }
        Ok(UpdateDeadline::Yield(1))
    }
}

impl HasData for State {
    type Data<'a> = &'a mut State;
}

/// The call took too long.
#[derive(Debug, thiserror::Error)]
#[error("out of time")]
pub struct TimedOut;

impl ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let memory = self.memory.saturating_add(desired.saturating_sub(current));
        self.denied = memory > self.limits.memory;
        if !self.denied {
            self.before = (self.memory, self.tables);
            self.memory = memory;
        }
        Ok(!self.denied)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let tables = self.tables.saturating_add(desired.saturating_sub(current));
        self.denied = tables > self.limits.table_elements;
        if !self.denied {
            self.before = (self.memory, self.tables);
            self.tables = tables;
        }
        Ok(!self.denied)
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }
}

impl State {
    /// What was allowed could not be had.
    fn take_back(&mut self) {
        (self.memory, self.tables) = self.before;
        self.denied = true;
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi().view()
    }
}

/// The error of a call that failed.
pub fn failed(error: wasmtime::Error, state: &State) -> EvaluationError {
    EvaluationError {
        policy: state.policy.clone(),
        failure: classify(error, state),
        wrote: state
            .wasi
            .as_ref()
            .map(|wasi| wasi.take_written())
            .unwrap_or_default(),
    }
}

fn classify(error: wasmtime::Error, state: &State) -> Failure {
    let limits = &state.limits;
    if error.is::<PoolConcurrencyLimitError>() {
        return Failure::PoolExhausted(limits.instances as usize);
    }
    if error.is::<TimedOut>() {
        return Failure::TimedOut(limits.evaluation);
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => Failure::StackOverflow(limits.stack),
        Some(Trap::Interrupt) => Failure::TimedOut(limits.evaluation),
        _ if state.denied => Failure::OutOfMemory(limits.memory),
        Some(trap) => Failure::Trapped(format!("{trap}{}", place_of(&error))),
        None => Failure::Invalid(format!(
            "the policy does not do what the interface says: {}",
            without_place(&error)
        )),
    }
}

/// The functions in which a policy has trapped, from the inside out, if it has names for them.
fn place_of(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return String::new();
    };
    let names = backtrace.frames().iter().filter_map(FrameInfo::func_name);
    let names: Vec<String> = names.take(MOST_NAMES).map(harmless_name).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" in {}", names.join(", called by ")),
    }
}

/// The policy has chosen it.
fn harmless_name(name: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(name));
    one_line(&name).chars().take(MOST_OF_NAME).collect()
}

/// What went wrong, without the functions in which it did.
fn without_place(error: &wasmtime::Error) -> String {
    let causes = error.chain().map(ToString::to_string);
    let causes: Vec<String> = causes.filter(|it| !it.starts_with(PLACE)).collect();
    one_line(&causes.join(": ")).into()
}
