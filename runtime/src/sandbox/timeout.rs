//! Waiting for a bounded time, whatever the caller's runtime can do.

use std::pin::pin;
use std::time::Duration;

/// What a future gives within that time. In a Tokio runtime without a timer there is no limit to it: what is waited
/// for has limits of its own.
pub async fn within<T>(timeout: Duration, future: impl Future<Output = T>) -> Option<T> {
    match timer(timeout) {
        Some(timer) => {
            let (mut timer, mut future) = (pin!(timer), pin!(future));
            tokio::select! {
                biased;
                value = &mut future => Some(value),
                () = &mut timer => None,
            }
        }
        None => Some(future.await),
    }
}

/// Tokio has no way to ask for a timer but by a panic.
fn timer(timeout: Duration) -> Option<tokio::time::Sleep> {
    tokio::runtime::Handle::try_current().ok()?;
    std::panic::catch_unwind(|| tokio::time::sleep(timeout)).ok()
}

/// Waits so long; not at all, if there is no timer.
pub async fn rest(time: Duration) {
    if let Some(timer) = timer(time) {
        timer.await;
    }
}
