//! The empty world for modules that ask for WASI 0.2: no files, no sockets, no environment. What they print goes to the
//! log at debug level, and the end of it to whoever hears that they have failed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::Engine;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::clocks::WasiClocksView;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView, WasiView};

use super::instance::State;

/// What one call may write or be given, and what of it is logged or kept, in bytes. The host's own work in a call is not
/// interrupted.
const MOST: usize = 4096;

/// How many resources a module may hold: streams, descriptors, timers.
const MOST_RESOURCES: usize = 256;

/// How finely a module can tell time. It has less than this for an answer, so it cannot measure its
/// neighbours by what they leave it of the machine.
const TICK: Duration = Duration::from_secs(1);

/// A module's view of the world.
pub struct World {
    context: WasiCtx,
    table: ResourceTable,
    written: Written,
}

/// What a module has written last.
type Written = Arc<Mutex<VecDeque<u8>>>;

impl World {
    /// An empty world; `module` names the source of what is printed.
    pub fn new(module: &str) -> Self {
        let written = Written::default();
        let output = Output {
            module: module.into(),
            written: written.clone(),
        };
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_RESOURCES);
        World {
            context: WasiCtx::builder()
                .stdout(output.clone())
                .stderr(output)
                .wall_clock(CoarseClock::default())
                .monotonic_clock(CoarseClock::default())
                .max_random_size(MOST as u64)
                .build(),
            table,
            written,
        }
    }

    /// The end of what the module has written, which is forgotten then.
    pub fn take_written(&self) -> String {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let octets: Vec<u8> = written.drain(..).collect();
        String::from_utf8_lossy(&octets).trim_end().to_owned()
    }

    /// The view that wasmtime's WASI works on.
    pub fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.context,
            table: &mut self.table,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.world().view()
    }
}

/// The linker that all modules share; what may be asked of it is decided before, see `inspect`.
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

/// Time in whole ticks, of the world or since the clock was made.
struct CoarseClock(Instant);

impl Default for CoarseClock {
    fn default() -> Self {
        CoarseClock(Instant::now())
    }
}

fn in_ticks(time: Duration) -> Duration {
    // A tick is a second.
    Duration::from_secs(time.as_secs())
}

impl HostWallClock for CoarseClock {
    fn resolution(&self) -> Duration {
        TICK
    }

    fn now(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        in_ticks(now.unwrap_or_default())
    }
}

impl HostMonotonicClock for CoarseClock {
    fn resolution(&self) -> u64 {
        TICK.as_nanos() as u64
    }

    fn now(&self) -> u64 {
        in_ticks(self.0.elapsed()).as_nanos() as u64
    }
}

#[derive(Clone)]
struct Output {
    module: Arc<str>,
    written: Written,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let kept = &bytes[bytes.len().saturating_sub(MOST)..];
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = (written.len() + kept.len()).saturating_sub(MOST);
        let surplus = surplus.min(written.len());
        written.drain(..surplus);
        written.extend(kept);
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]);
        tracing::debug!(module = %self.module, output = text.trim_end(), "the module printed");
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MOST)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_sees_whole_ticks() {
        let clock = CoarseClock(Instant::now() - Duration::from_millis(3700));
        assert_eq!(HostMonotonicClock::now(&clock), 3_000_000_000);
        assert_eq!(HostWallClock::now(&clock).subsec_nanos(), 0);
    }
}
