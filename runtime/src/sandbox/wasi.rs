//! The empty world for policies that import WASI 0.2: no files, no sockets, no environment. The observer gets what they
//! print, and the error of a failed evaluation has the end of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxView};

use crate::observer::Observer;
use crate::text::harmless_lines;

/// What one call may write or be given, and what of it is logged or kept, in bytes. The host's own work in a call is not
/// interrupted.
const MAX_OUTPUT: usize = 4096;

/// How many resources a policy may hold: streams, descriptors, timers.
const MAX_RESOURCES: usize = 256;

/// How finely a policy can tell time. It has less than this for an answer, so it cannot measure its
/// neighbours by what they leave it of the machine.
pub const TICK: Duration = Duration::from_secs(1);

/// A policy's view of the world.
pub struct WasiState {
    context: WasiCtx,
    table: ResourceTable,
    written: Written,
}

/// What a policy has written last.
type Written = Arc<Mutex<VecDeque<u8>>>;

impl WasiState {
    /// An empty world; `policy` names the source of what is printed.
    pub fn new(policy: &str, observer: &Arc<dyn Observer>) -> Self {
        let written = Written::default();
        let output = Output {
            policy: policy.into(),
            observer: observer.clone(),
            written: written.clone(),
        };
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        WasiState {
            context: WasiCtx::builder()
                .stdout(output.clone())
                .stderr(output)
                .wall_clock(CoarseClock::default())
                .monotonic_clock(CoarseClock::default())
                .max_random_size(MAX_OUTPUT as u64)
                .build(),
            table,
            written,
        }
    }

    /// The end of what the policy has written, which is forgotten then.
    pub fn take_written(&self) -> String {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let octets: Vec<u8> = written.drain(..).collect();
        harmless_lines(String::from_utf8_lossy(&octets).trim_end())
    }

    /// The view that wasmtime's WASI works on.
    pub fn view(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.context,
            table: &mut self.table,
        }
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
    policy: Arc<str>,
    observer: Arc<dyn Observer>,
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
        let kept = &bytes[bytes.len().saturating_sub(MAX_OUTPUT)..];
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = (written.len() + kept.len()).saturating_sub(MAX_OUTPUT);
        let surplus = surplus.min(written.len());
        written.drain(..surplus);
        written.extend(kept);
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_OUTPUT)]);
        self.observer
            .printed(&self.policy, &harmless_lines(text.trim_end()));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_OUTPUT)
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
