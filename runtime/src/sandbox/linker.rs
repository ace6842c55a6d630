//! What policies may call: WASI 0.2 in an empty world.

use wasmtime::Engine;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::clocks::WasiClocksView;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;

use super::state::State;
use super::wasi::TICK;

/// The linker that all policies share; what may be asked of it is decided before, see `inspect`.
pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<State, HasTimers>(&mut linker, |state| Timers(state))?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// The monotonic clock, whose timers go by ticks as well.
struct Timers<'a>(&'a mut State);

struct HasTimers;

impl HasData for HasTimers {
    type Data<'a> = Timers<'a>;
}

impl monotonic_clock::Host for Timers<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.0.clocks().now()
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.0.clocks().resolution()
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = monotonic_clock::Host::now(&mut self.0.clocks())?;
        self.subscribe_duration(when.saturating_sub(now))
    }

    fn subscribe_duration(&mut self, nanoseconds: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let tick = TICK.as_nanos() as u64;
        let ticks = nanoseconds.div_ceil(tick).saturating_mul(tick);
        self.0.clocks().subscribe_duration(ticks)
    }
}
