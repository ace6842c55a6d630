//! `portcullis compile`: what the sandbox has done in a process of its own.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use portcullis::{CompileLimits, compile};

/// Compile a component from standard input to standard output
#[derive(Args)]
pub struct Compile {
    /// Processor time that it may take
    seconds: u64,
    /// Memory that it may take
    bytes: u64,
}

impl Compile {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let limits = CompileLimits {
            time: Duration::from_secs(self.seconds),
            memory: self.bytes,
        };
        compile(limits, std::io::stdin(), std::io::stdout().lock())?;
        Ok(ExitCode::SUCCESS)
    }
}
