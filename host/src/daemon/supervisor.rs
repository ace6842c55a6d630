//! What a supervisor such as systemd is told (sd_notify(3)). Without one, nobody is.

use std::time::Duration;

use sd_notify::NotifyState;

/// How much longer than usual the start may take each time that something is said of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// That mail is taken.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// That the configuration is being read again; `ready` ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// That the start takes its time, and goes on.
pub fn starting(status: &str) {
    notify(&[NotifyState::Status(status), more_time(PATIENCE)]);
}

/// That no more mail is taken, and how long sessions may take to end.
pub fn stopping(patience: Duration) {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("waiting for sessions to end"),
        more_time(patience + PATIENCE),
    ]);
}

/// That another process is the service from now on.
pub fn replaced_by(process: u32) {
    notify(&[NotifyState::MainPid(process)]);
}

/// Says as long as it lives that the process is alive, if a supervisor wants to know.
pub async fn feed_watchdog() {
    let Some(within) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut times = tokio::time::interval(within / 2);
    loop {
        times.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn more_time(patience: Duration) -> NotifyState<'static> {
    let microseconds = u32::try_from(patience.as_micros());
    NotifyState::ExtendTimeoutUsec(microseconds.unwrap_or(u32::MAX))
}

/// A supervisor that cannot be told is no reason to end.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the supervisor cannot be told");
    }
}
