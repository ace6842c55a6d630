//! Threads for what takes seconds: reading rules, compiling. Where there is less time than work, mail
//! goes first.

use std::num::NonZero;
use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::oneshot;

/// How far these threads stand back, as `nice` counts.
const STANDING_BACK: i32 = 10;

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
pub async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stopped> {
    let (done, outcome) = oneshot::channel();
    let work = move || {
        stand_back();
        // Nobody waits any more if the program ends.
        let _ = done.send(work());
    };
    std::thread::Builder::new()
        .name("workshop".into())
        .spawn(work)
        .map_err(Stopped::NoThread)?;
    outcome.await.map_err(|_| Stopped::Panicked)
}

/// Does something that may spread over several threads.
pub fn together<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    match POOL.get_or_init(pool) {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

fn pool() -> Option<ThreadPool> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|_| "workshop".into())
        .start_handler(|_| stand_back());
    pool.build().ok()
}

/// On Linux this is the calling thread's own. Where it is not allowed, the work is done all the same.
fn stand_back() {
    let _ = rustix::process::setpriority_process(None, STANDING_BACK);
}
