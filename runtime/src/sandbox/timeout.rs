//! Waiting for a bounded time, whatever the caller's runtime can do.

use std::cell::Cell;
use std::future::poll_fn;
use std::panic::catch_unwind;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};
use tokio::time::{Sleep, sleep};

/// What a future gives within that time. In a Tokio runtime without a timer there is no limit to it: what is waited
/// for has limits of its own.
pub async fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> Option<T> {
    let begun = Instant::now();
    let mut future = pin!(future);
    // Most are done at once, and no timer is made for them.
    let first = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    if let Poll::Ready(value) = first {
        return Some(value);
    }
    match timer(timeout.saturating_sub(begun.elapsed())) {
        Some(timer) => {
            let mut timer = pin!(timer);
            tokio::select! {
                biased;
                value = &mut future => Some(value),
                () = &mut timer => None,
            }
        }
        None => Some(future.await),
    }
}

/// Waits so long; not at all, if there is no timer.
pub async fn rest(time: Duration) {
    if let Some(timer) = timer(time) {
        timer.await;
    }
}

/// Whether the caller's runtime has a timer.
pub fn has_timer() -> bool {
    timer(Duration::ZERO).is_some()
}

thread_local! {
    /// The runtime that has been seen to have no timer.
    static WITHOUT_TIMER: Cell<Option<Id>> = const { Cell::new(None) };
}

/// Tokio has no way to ask for a timer but by a panic, which its hook prints: so each thread asks once.
fn timer(timeout: Duration) -> Option<Sleep> {
    let runtime = Handle::try_current().ok()?.id();
    if WITHOUT_TIMER.get() == Some(runtime) {
        return None;
    }
    let timer = catch_unwind(|| sleep(timeout)).ok();
    if timer.is_none() {
        WITHOUT_TIMER.set(Some(runtime));
    }
    timer
}
