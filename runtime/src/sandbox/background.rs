//! Threads for what takes seconds: reading documents, compiling.

use std::num::NonZero;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

/// The niceness of threads of low priority.
const LOW: i32 = 10;

/// How important work is beside what else the program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// As important: somebody waits for it.
    Normal,
    /// Less: the program serves others meanwhile.
    Low,
}

impl Priority {
    /// Gives it to this thread, for good.
    pub fn take_on(self) {
        lower(self);
    }
}

/// A piece of work did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// There is no thread for it.
    #[error("no thread can be started: {0}")]
    NoThread(std::io::Error),
    /// It panicked.
    #[error("it panicked")]
    Panicked,
}

/// Does something on a thread of its own.
///
/// # Errors
/// If there is no thread, or the work panics.
pub async fn run_on_thread<T: Send + 'static>(
    priority: Priority,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stopped> {
    let (done, outcome) = oneshot::channel();
    let work = move || {
        lower(priority);
        // Nobody waits any more if the program ends.
        let _ = done.send(work());
    };
    std::thread::Builder::new()
        .name("policy-loader".into())
        .spawn(work)
        .map_err(Stopped::NoThread)?;
    outcome.await.map_err(|_| Stopped::Panicked)
}

/// Tells work that nobody waits for it any more. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Cancelled>);

#[derive(Debug, Default)]
struct Cancelled {
    is_cancelled: AtomicBool,
    child: Mutex<Option<Pid>>,
}

impl Cancel {
    /// What cancels when it is dropped.
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// Whether nobody waits any more.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Relaxed)
    }

    /// From now on that process is killed if nobody waits any more; until it is `ended`, before it is waited for.
    pub fn began(&self, child: &Child) {
        *self.child() = Pid::from_raw(child.id().cast_signed());
        if self.is_cancelled() {
            self.kill();
        }
    }

    /// The process has ended, and its number may soon be another one's.
    pub fn ended(&self) {
        *self.child() = None;
    }

    fn kill(&self) {
        if let Some(child) = *self.child() {
            // It may have ended by itself.
            let _ = kill_process(child, Signal::KILL);
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cancels when it is dropped.
pub struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.is_cancelled.store(true, Ordering::Relaxed);
        self.0.kill();
    }
}

/// Does something that may spread over several threads.
pub fn run_in_pool<T: Send>(priority: Priority, work: impl FnOnce() -> T + Send) -> T {
    static NORMAL_POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    static LOW_POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let of_priority = match priority {
        Priority::Normal => &NORMAL_POOL,
        Priority::Low => &LOW_POOL,
    };
    match of_priority.get_or_init(|| pool(priority)) {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

fn pool(priority: Priority) -> Option<ThreadPool> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|_| "policy-compiler".into())
        .start_handler(move |_| lower(priority));
    pool.build().ok()
}

/// On Linux this is the calling thread's own. Where it is not allowed, the work is done all the same.
fn lower(priority: Priority) {
    if priority == Priority::Low {
        let _ = rustix::process::setpriority_process(None, LOW);
    }
}
