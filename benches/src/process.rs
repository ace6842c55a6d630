//! Processes: started, placed on CPUs, measured and ended.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Portcullis where it was said to be, or beside this program.
pub fn beside_us(path: Option<&Path>) -> Result<PathBuf> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("portcullis"),
    };
    fs::canonicalize(&path).with_context(|| path.display().to_string())
}

/// Which CPUs servers and clients run on, so that one does not take the other's time.
#[derive(Clone, Copy)]
pub struct Placement {
    apart: bool,
}

impl Placement {
    /// Servers on one CPU, this process on another, where there are two.
    pub fn choose() -> Result<Placement> {
        let apart = std::thread::available_parallelism()?.get() > 1;
        if apart {
            let own = std::process::id().to_string();
            let placed = Command::new("taskset")
                .args(["-p", "-c", "1", &own])
                .stdout(Stdio::null())
                .status()
                .context("taskset (Debian package util-linux) is needed")?;
            ensure!(placed.success(), "cannot run on CPU 1");
        }
        Ok(Placement { apart })
    }

    /// How it is, for people.
    pub fn describe(self) -> &'static str {
        match self.apart {
            true => "servers on CPU 0, client and sink on CPU 1",
            false => "all on one CPU",
        }
    }

    /// A command that runs where servers do.
    pub fn server(self, program: impl AsRef<OsStr>) -> Command {
        if !self.apart {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program);
        command
    }
}

/// A process that ends with this value.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says goes to a file.
    pub fn start(command: &mut Command, log: PathBuf) -> Result<Process> {
        // What a server keeps goes where its log does, and not to a user's home.
        let state = log.parent().unwrap_or(Path::new("."));
        let child = command
            .env("XDG_STATE_HOME", state)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Process { child, log })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended, with what it said.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("the server has ended ({status}): {}", said.trim_end());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It fails only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of this process and all below it, also of those that have ended.
pub fn cpu_seconds(root: u32) -> Result<f64> {
    let processes = all()?;
    let parent = |pid: &u32| Some(processes.get(pid)?.parent);
    let is_below = |pid: u32| std::iter::successors(Some(pid), parent).any(|pid| pid == root);
    let ours = processes.iter().filter(|(pid, _)| is_below(**pid));
    let ticks: u64 = ours.map(|(_, process)| process.ticks).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

struct Usage {
    parent: u32,
    ticks: u64,
}

fn all() -> Result<HashMap<u32, Usage>> {
    let mut processes = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
            continue;
        };
        // A process may end while we look.
        let stat = fs::read_to_string(entry.path().join("stat"));
        if let Some(usage) = stat.ok().as_deref().and_then(usage) {
            processes.insert(pid, usage);
        }
    }
    Ok(processes)
}

fn usage(stat: &str) -> Option<Usage> {
    // The name stands in parentheses and may contain anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    Some(Usage {
        parent: fields.get(1)?.parse().ok()?,
        // User and system time, its own and that of children that have ended.
        ticks: fields
            .get(11..15)?
            .iter()
            .flat_map(|it| it.parse::<u64>())
            .sum(),
    })
}

/// Memory of processes, in KiB.
#[derive(Default)]
pub struct Memory {
    /// With the share of what is shared.
    pub pss: u64,
    /// With all of what is shared.
    pub rss: u64,
}

impl Memory {
    /// What these processes have.
    pub fn of(pids: &[u32]) -> Result<Memory> {
        let mut memory = Memory::default();
        for pid in pids {
            let path = format!("/proc/{pid}/smaps_rollup");
            memory.pss += amount(&path, "Pss:")?;
            memory.rss += amount(&path, "Rss:")?;
        }
        Ok(memory)
    }
}

/// The most memory that a process has had since it was started, in KiB.
pub fn highest_rss(pid: u32) -> Result<u64> {
    amount(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// A line of a file in which the kernel tells of memory.
fn amount(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    let amount = rest.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok());
    amount.with_context(|| format!("{path} has no {name}"))
}
