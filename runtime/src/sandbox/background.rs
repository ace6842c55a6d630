//! Threads for what takes seconds: reading documents, compiling.

use std::collections::VecDeque;
use std::io;
use std::num::NonZero;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

/// The niceness of threads of low priority.
const LOW: i32 = 10;

/// How long a thread is kept that has nothing to do.
const IDLE: Duration = Duration::from_secs(10);

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
    NoThread(io::Error),
    /// It panicked.
    #[error("it panicked")]
    Panicked,
}

/// Does something on a thread that does nothing else meanwhile, however long it takes.
///
/// # Errors
/// If there is no thread, or the work panics.
pub async fn run_on_thread<T: Send + 'static>(
    priority: Priority,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stopped> {
    static NORMAL: Threads = Threads::new(Priority::Normal);
    static LOW: Threads = Threads::new(Priority::Low);
    let threads = match priority {
        Priority::Normal => &NORMAL,
        Priority::Low => &LOW,
    };
    let (done, outcome) = oneshot::channel();
    // Nobody waits any more if the program ends.
    let work = move || drop(done.send(work()));
    threads.run(Box::new(work)).map_err(Stopped::NoThread)?;
    outcome.await.map_err(|_| Stopped::Panicked)
}

type Work = Box<dyn FnOnce() + Send>;

/// Threads that are kept a while: starting one costs more than most of what they do.
struct Threads {
    priority: Priority,
    queue: Mutex<Queue>,
    more: Condvar,
}

struct Queue {
    waiting: VecDeque<Work>,
    /// Threads that have nothing to do, but for what waits.
    idle: usize,
}

impl Threads {
    const fn new(priority: Priority) -> Self {
        Threads {
            priority,
            queue: Mutex::new(Queue {
                waiting: VecDeque::new(),
                idle: 0,
            }),
            more: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&'static self, work: Work) -> io::Result<()> {
        let mut queue = self.lock();
        if queue.waiting.len() < queue.idle {
            queue.waiting.push_back(work);
            drop(queue);
            self.more.notify_one();
            return Ok(());
        }
        drop(queue);
        let thread = std::thread::Builder::new().name("policy-loader".into());
        let run = move || {
            lower(self.priority);
            work();
            self.work();
        };
        thread.spawn(run).map(drop)
    }

    /// Does what comes, until nothing has come for a while.
    fn work(&self) {
        let mut queue = self.lock();
        loop {
            queue.idle += 1;
            let waited = self
                .more
                .wait_timeout_while(queue, IDLE, |queue| queue.waiting.is_empty());
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.idle -= 1;
            let Some(work) = queue.waiting.pop_front() else {
                return;
            };
            drop(queue);
            work();
            queue = self.lock();
        }
    }
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
