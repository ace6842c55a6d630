//! What a supervisor such as systemd is told (sd_notify(3)). Without one, nobody is. It may be slow, or not read at all:
//! what it does not take at once is lost.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How much longer than usual the start may take each time that something is said of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// That mail is taken.
pub fn ready(status: &str) {
    tell(&format!("READY=1\nSTATUS={status}"));
}

/// That the configuration is being read again; `ready` ends it.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// That the start takes its time, and goes on.
pub fn starting(status: &str) {
    let more = PATIENCE.as_micros();
    tell(&format!("STATUS={status}\nEXTEND_TIMEOUT_USEC={more}"));
}

/// That no more mail is taken, and how long sessions may take to end.
pub fn stopping(patience: Duration) {
    let more = (patience + PATIENCE).as_micros();
    tell(&format!(
        "STOPPING=1\nSTATUS=waiting for sessions to end\nEXTEND_TIMEOUT_USEC={more}"
    ));
}

/// That another process is the service from now on.
pub fn replaced_by(process: u32) {
    tell(&format!("MAINPID={process}"));
}

/// Says as long as it lives that the process is alive, if a supervisor wants to know.
pub async fn feed_watchdog() {
    let Some(within) = watchdog() else {
        return;
    };
    let mut times = tokio::time::interval(within / 2);
    loop {
        times.tick().await;
        tell("WATCHDOG=1");
    }
}

/// Within what time the supervisor wants to hear of this process (sd_watchdog_enabled(3)).
fn watchdog() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let of_us = match std::env::var_os("WATCHDOG_PID") {
        Some(_) => number("WATCHDOG_PID") == Some(std::process::id().into()),
        None => true,
    };
    let within = number("WATCHDOG_USEC").filter(|within| of_us && *within > 1);
    within.map(Duration::from_micros)
}

/// A supervisor that cannot be told is no reason to end, or to wait.
fn tell(state: &str) {
    let Some(place) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let telling = || -> io::Result<()> {
        let place = match place.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&place)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), &place).map(drop)
    };
    if let Err(error) = telling() {
        tracing::debug!(%error, state, "the supervisor cannot be told");
    }
}
