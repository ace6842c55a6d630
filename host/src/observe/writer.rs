//! Where log lines go: to standard error, through a thread of its own.
//!
//! Mail never depends on whoever reads the log. A reader that is slow, a pipe that nobody holds any more or a
//! disk that is full costs lines, which are counted, and nothing else.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::fmt::MakeWriter;

/// Octets that wait to be written; what comes on top is lost.
const MAX_WAITING: usize = 4 << 20;
/// How long the end of the program waits for what was not written yet.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait where standard error takes nothing just now and does not block.
const PAUSE: Duration = Duration::from_millis(10);

static LOST: LazyLock<Counter> = LazyLock::new(Counter::default);

/// How many lines of the log could not be written.
pub fn lost_lines() -> Counter {
    LOST.clone()
}

/// Takes log lines. Cheap to clone.
#[derive(Clone, Default)]
pub struct Writer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    is_writing: bool,
}

/// Sees to it at the end of the program that what was logged is written, if it can be.
pub struct Flush(Arc<Shared>);

impl Writer {
    /// A writer to standard error, and its thread.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start() -> io::Result<(Writer, Flush)> {
        let writer = Writer::default();
        let shared = writer.0.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.write_to(&mut io::stderr()))?;
        let flush = Flush(writer.0.clone());
        Ok((writer, flush))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes lines, unless too many wait already.
    fn take(&self, lines: &[u8]) {
        let mut queue = self.lock();
        if queue.lines.len() + lines.len() > MAX_WAITING {
            LOST.inc_by(count(lines));
            return;
        }
        queue.lines.extend_from_slice(lines);
        drop(queue);
        self.more.notify_one();
    }

    fn write_to(&self, stream: &mut impl Write) {
        let mut told = 0;
        loop {
            let mut queue = self.lock();
            while queue.lines.is_empty() {
                queue = self
                    .more
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let lines = std::mem::take(&mut queue.lines);
            queue.is_writing = true;
            drop(queue);
            let written = write_whole(stream, &lines);
            LOST.inc_by(count(&lines[written..]));
            self.lock().is_writing = false;
            self.written.notify_all();
            let lost = LOST.get();
            if lost > told && written == lines.len() {
                tracing::warn!(lines = lost - told, "log lines were lost");
                told = lost;
            }
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the writer has a thread of its own"
)]
fn pause() {
    thread::sleep(PAUSE);
}

/// Writes as much as can be; gives how much that was.
fn write_whole(stream: &mut impl Write, lines: &[u8]) -> usize {
    let mut written = 0;
    while written < lines.len() {
        match stream.write(&lines[written..]) {
            Ok(0) => break,
            Ok(octets) => written += octets,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Somebody has set it so, and reads slowly.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => pause(),
            Err(_) => break,
        }
    }
    written
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.wait();
    }
}

impl Flush {
    /// Waits until what was logged is written, but not for a reader that does not read.
    pub fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut queue = self.0.lock();
        while queue.is_writing || !queue.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.written.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Lines<'a> {
        Lines(&self.0)
    }
}

/// What one event is written to: whole lines, at once.
pub struct Lines<'a>(&'a Shared);

impl Write for Lines<'_> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.0.take(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many octets, and fails from then on.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            let taken = octets.len().min(self.0);
            self.0 -= taken;
            match taken {
                0 => Err(io::ErrorKind::StorageFull.into()),
                taken => Ok(taken),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted_by_lines() {
        let lines = b"one\ntwo\nthree\n";
        for (room, lost) in [(100, 0), (14, 0), (8, 1), (5, 2), (0, 3)] {
            let written = write_whole(&mut Full(room), lines);
            assert_eq!(count(&lines[written..]), lost, "{room}");
        }
    }

    #[test]
    fn what_waits_is_bounded() {
        let shared = Shared::default();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..2 * MAX_WAITING / line.len() {
            shared.take(&line);
        }
        assert_eq!(shared.lock().lines.len(), MAX_WAITING);
    }
}
