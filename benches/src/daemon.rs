//! Portcullis in a folder of its own, with mail going to a sink.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::client;
use crate::process::{Memory, Placement, Process, cpu_seconds, highest_rss};
use crate::targets::{await_greeting, free_address};

/// Portcullis and its sink. They end with this value.
pub struct Daemon {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its files.
    pub folder: TempDir,
    binary: PathBuf,
    placement: Placement,
    sink: Process,
    portcullis: Option<Process>,
}

impl Daemon {
    /// A folder and a sink; `tenants` is the part of the configuration that tells of them.
    pub async fn prepare(binary: PathBuf, tenants: &str) -> Result<Daemon> {
        let placement = Placement::choose()?;
        let folder = tempfile::tempdir()?;
        let [address, next] = [free_address()?, free_address()?];
        let config = format!(
            r#"hostname = "mx.dest.example"
[[listener]]
address = "{address}"
next-hop = {{ smtp = "{next}" }}
[limits]
sessions-per-address = 2000
[sandbox]
cache-directory = "cache"
{tenants}"#
        );
        fs::write(folder.path().join("portcullis.toml"), config)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["sink", "--listen", &next.to_string()]);
        let mut sink = Process::start(&mut command, folder.path().join("sink.log"))?;
        await_greeting(next, || sink.check()).await?;
        Ok(Daemon {
            address,
            folder,
            binary,
            placement,
            sink,
            portcullis: None,
        })
    }

    /// Starts Portcullis, anew if it runs; gives the time until it answers.
    pub async fn start(&mut self) -> Result<Duration> {
        self.portcullis = None;
        let mut command = self.placement.server(&self.binary);
        command
            .args(["run", "--log-level", "warn", "--config", "portcullis.toml"])
            .current_dir(self.folder.path());
        let begun = Instant::now();
        let log = self.folder.path().join("portcullis.log");
        let process = self.portcullis.insert(Process::start(&mut command, log)?);
        await_greeting(self.address, || process.check()).await?;
        Ok(begun.elapsed())
    }

    /// What memory Portcullis takes.
    pub fn memory(&self) -> Result<Memory> {
        Memory::of(&[self.pid()?])
    }

    /// The most memory that it took since it was started, in KiB.
    pub fn highest_rss(&self) -> Result<u64> {
        highest_rss(self.pid()?)
    }

    /// The CPU time that it has taken.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid()?)
    }

    fn pid(&self) -> Result<u32> {
        let process = self.portcullis.as_ref().context("it is not running")?;
        Ok(process.id())
    }

    /// Fails if it or its sink has ended.
    pub fn check(&mut self) -> Result<()> {
        self.sink.check()?;
        self.portcullis.iter_mut().try_for_each(Process::check)
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a component of a document.
    pub fn build(&self, document: &Path, component: &Path) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg("build").arg(document).arg("-o").arg(component);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", said.trim_end());
        Ok(())
    }

    /// Puts a file in the place of another, in one step.
    pub fn replace(&self, new: &str, old: &str) -> Result<()> {
        Ok(fs::rename(self.path(new), self.path(old))?)
    }

    /// Waits until mail to that recipient is refused in the name of a version.
    pub async fn await_version(&mut self, version: &str, rcpt: &str) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(300);
        let begun = Instant::now();
        loop {
            self.check()?;
            let (_, reply) = client::ask(self.address, "user@iponly.example", rcpt).await?;
            if reply.contains(&format!("\"{version}\"")) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("{version} did not come into force; the last reply: {reply}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
