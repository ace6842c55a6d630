//! `portcullis run`: the SMTP session loop.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use super::output::{self, Format};
use super::paint;
use super::policy::compiler;
use crate::config::{self, Config};
use crate::daemon::{Begin, Daemon, Purpose, tell_of_tenant};
use crate::demo::Demo;
use crate::observe::writer;
use crate::socket::Sockets;

/// Run the SMTP proxy
///
/// Without a configuration it works at once on an embedded default: 127.0.0.1 port 2525, a
/// certificate made on the spot, example connectors, mail kept in a Maildir ./mail.
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis run --config /etc/portcullis/portcullis.toml")]
pub struct Run {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is given without `--config`, which is not meant so
    #[arg(hide = true, value_name = "FILE", conflicts_with = "config")]
    misplaced: Option<PathBuf>,
    /// Say whether it would start, and end
    #[arg(long)]
    check_config: bool,
    /// Print the whole configuration, with what is not the default marked, and end
    #[arg(long, conflicts_with = "check_config")]
    show_config: bool,
    /// Take over from the process that runs with this configuration, once everything is ready
    #[arg(long, conflicts_with_all = ["check_config", "show_config"])]
    upgrade: bool,
    /// How to write the log
    #[arg(long, value_enum, default_value_t)]
    log_format: Format,
    /// What to log: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
}

impl Run {
    /// Runs the command, with what a supervisor has given.
    pub async fn run(self, sockets: Sockets) -> anyhow::Result<ExitCode> {
        if let Some(path) = &self.misplaced {
            let path = path.display();
            bail!(
                "run takes no file by itself: `portcullis run --config {path}` for a configuration, `portcullis explain {path}` for a policy"
            );
        }
        allow_descriptors();
        // A file that would become too large is an error of who writes it, and not the end of the program.
        let file_size = SignalKind::from_raw(Signal::XFSZ.as_raw());
        let _nobody_waits_for_it = signal(file_size).context("no signals")?;
        // What libraries say is of use only where something is wrong with them.
        let filter = Targets::new()
            .with_default(LevelFilter::WARN)
            .with_target("portcullis", self.log_level);
        // What was logged last is written before the program ends.
        let (writer, flush) = writer::Writer::start().context("the log has no thread")?;
        let log = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_writer(writer)
            // It would be told on standard error, where it panics if that is closed.
            .log_internal_errors(false)
            .with_target(false);
        match self.log_format {
            Format::Json => {
                let log = log.json().flatten_event(true);
                log.finish().with(filter).init();
            }
            Format::Text => {
                let log = log.with_ansi(stderr().is_terminal() && paint::wanted(&stderr()));
                log.finish().with(filter).init();
            }
        }
        let Some(path) = &self.config else {
            let demo = Demo::new()?;
            if self.show_config {
                output::result(&config::show(&demo.config())?)?;
                return Ok(ExitCode::SUCCESS);
            }
            let config = Config::load(&demo.config())?;
            let compiler = compiler(config.sandbox.compile_limits());
            let daemon = Daemon::new(config, None, compiler, self.purpose()).await?;
            if !self.check_config {
                let introduction = format!("{}\n", demo.introduction());
                let introduce = Box::new(move || output::tell(&introduction));
                daemon.run(sockets, self.begin(), introduce).await?;
            }
            return Ok(ExitCode::SUCCESS);
        };
        if self.show_config {
            output::result(&config::show(path)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let (config, errors) = Config::load_after(path, None)?;
        errors.iter().for_each(tell_of_tenant);
        let compiler = compiler(config.sandbox.compile_limits());
        let purpose = self.purpose();
        let mut daemon = Daemon::new(config, Some(path.clone()), compiler, purpose).await?;
        if self.check_config {
            let obstacles = daemon.obstacles();
            let is_complete = daemon.is_complete().await && errors.is_empty();
            // What is told here comes after what was logged.
            flush.wait();
            if !obstacles.is_empty() {
                bail!(
                    "{}: it would not start: {}",
                    path.display(),
                    obstacles.join("; ")
                );
            }
            if !is_complete {
                output::tell(&format!(
                    "{}: it would start, but defer the mail of tenants without a policy\n",
                    path.display()
                ));
                return Ok(ExitCode::from(1));
            }
            output::result(&format!("{}: ok\n", path.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        daemon.run(sockets, self.begin(), Box::new(|| {})).await?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Run {
    fn begin(&self) -> Begin {
        match self.upgrade {
            true => Begin::Upgrade,
            false => Begin::Anew,
        }
    }

    fn purpose(&self) -> Purpose {
        match self.check_config {
            true => Purpose::Check,
            false => Purpose::Run,
        }
    }
}

/// As many descriptors as there may be: each session takes one or two, and the usual soft limit is for programs
/// that use select(2).
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where that is refused, what there was has to do.
    let _ = setrlimit(Resource::Nofile, most);
}
