//! What the process uses, by the names that all Prometheus clients give to that.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};

/// The numbers; where there is no /proc, they stay at 0.
pub struct Process {
    open_files: Gauge,
    max_files: Gauge,
    resident: Gauge,
    started: Gauge,
}

impl Default for Process {
    fn default() -> Self {
        let process = Process {
            open_files: Gauge::default(),
            max_files: Gauge::default(),
            resident: Gauge::default(),
            started: Gauge::default(),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        process.started.set(i64::try_from(now).unwrap_or(i64::MAX));
        process
    }
}

impl Process {
    /// They have no prefix of ours.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Open file descriptors";
        registry.register("process_open_fds", help, self.open_files.clone());
        let help = "File descriptors that there may be";
        registry.register("process_max_fds", help, self.max_files.clone());
        let help = "Resident memory in bytes";
        registry.register("process_resident_memory_bytes", help, self.resident.clone());
        let help = "When the process has started, as a Unix time";
        let name = "process_start_time_seconds";
        registry.register(name, help, self.started.clone());
    }

    /// Looks how they are now.
    pub fn look(&self) {
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // One is the folder itself.
            let count = files.count().saturating_sub(1);
            self.open_files
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.and_then(|limit| i64::try_from(limit).ok());
        self.max_files.set(limit.unwrap_or(i64::MAX));
        let pages = fs::read_to_string("/proc/self/statm").ok();
        let pages = pages.as_deref().and_then(|it| it.split(' ').nth(1));
        if let Some(pages) = pages.and_then(|pages| pages.parse::<i64>().ok()) {
            let size = i64::try_from(rustix::param::page_size()).unwrap_or(4096);
            self.resident.set(pages.saturating_mul(size));
        }
    }
}
