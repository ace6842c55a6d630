//! A timer for many waits.

use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::task::coop::{has_budget_remaining, unconstrained};
use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for all waits of a session, which are many and short: setting a timer anew costs less than making another
/// for each. It is made when it is first needed.
#[derive(Default)]
pub struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// What comes of a future that is ready before the deadline.
    pub async fn until<T>(
        &mut self,
        deadline: Instant,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = pin!(future);
        let mut is_set = false;
        std::future::poll_fn(|context| {
            let had_budget = has_budget_remaining();
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            let timer = self
                .0
                .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
            if !std::mem::replace(&mut is_set, true) {
                timer.as_mut().reset(deadline);
            }
            let out_of_time = match had_budget && !has_budget_remaining() {
                // Whoever always has something to do must not stop the clock.
                true => pin!(unconstrained(timer.as_mut())).poll(context),
                false => timer.as_mut().poll(context),
            };
            out_of_time.map(|()| None)
        })
        .await
    }

    /// What comes of a future that is ready within a time.
    pub async fn within<T>(
        &mut self,
        limit: Duration,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        // The sum must not overflow.
        let far = Duration::from_secs(365 * 24 * 60 * 60);
        self.until(Instant::now() + limit.min(far), future).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_deadline() {
        let mut timer = Timer::default();
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(timer.within(second, ready(1)).await, Some(1));
        assert_eq!(timer.within(3 * second, pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), 3 * second);
        // Shorter than the last one, longer, and over already.
        assert_eq!(timer.within(second, pending::<()>()).await, None);
        assert_eq!(timer.within(5 * second, pending::<()>()).await, None);
        assert_eq!(timer.until(begun, pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), 9 * second);
        let soon = tokio::time::sleep(second);
        assert_eq!(timer.within(Duration::MAX, soon).await, Some(()));
    }

    #[tokio::test]
    async fn whoever_is_always_busy_runs_out_of_time_too() {
        let busy = async {
            loop {
                tokio::task::consume_budget().await;
            }
        };
        let mut timer = Timer::default();
        let ended: Option<()> = timer.within(Duration::from_millis(10), busy).await;
        assert_eq!(ended, None);
    }
}
