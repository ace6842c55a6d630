//! The command line: a file a command.

mod admin;
mod build;
mod check;
mod compile;
mod decisions;
mod edit;
mod evaluate;
mod explain;
mod import;
mod list;
pub mod output;
mod paint;
mod policy;
mod remembered;
mod report;
mod run;
mod schema;
mod suggest;
mod validate;

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use portcullis::MAX_STACK;
pub use report::told;

/// What threads need of their stacks beside a policy that runs on them, in bytes.
const OWN_STACK: usize = 2 << 20;

/// More descriptors than a runtime begins with.
const DESCRIPTORS: usize = 16;

/// Partner connectors for secure mail flow, as a sandboxed WebAssembly policy.
#[derive(Parser)]
#[command(name = "portcullis", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<run::Run>),
    Check(check::Check),
    Build(build::Build),
    /// What the sandbox has done in a process of its own
    #[command(hide = true)]
    Compile(compile::Compile),
    Evaluate(evaluate::Evaluate),
    Explain(Box<explain::Explain>),
    List(list::List),
    Add(Box<edit::Add>),
    Edit(Box<edit::Edit>),
    Enforce(edit::Enforce),
    Audit(edit::Audit),
    Remove(edit::Remove),
    History(edit::History),
    Diff(edit::Diff),
    Restore(edit::Restore),
    Import(Box<import::ImportCommand>),
    Decisions(Box<decisions::DecisionsCommand>),
    Suggest(suggest::Suggest),
    Admin(admin::AdminCommand),
    Schema(schema::Schema),
    Validate(Box<validate::Validate>),
}

impl Cli {
    /// Runs the command. Results go to standard output, everything else to standard error.
    ///
    /// # Errors
    /// What stopped the command, for a person.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = self.runtime().context("cannot start")?;
        let outcome = runtime.block_on(async {
            match self.command {
                Command::Run(command) => command.run().await,
                Command::Check(command) => command.run().await,
                Command::Build(command) => command.run().await,
                Command::Compile(command) => command.run(),
                Command::Evaluate(command) => command.run().await,
                Command::Explain(command) => command.run().await,
                Command::List(command) => command.run().await,
                Command::Add(command) => command.run().await,
                Command::Edit(command) => command.run().await,
                Command::Enforce(command) => command.run().await,
                Command::Audit(command) => command.run().await,
                Command::Remove(command) => command.run().await,
                Command::History(command) => command.run().await,
                Command::Diff(command) => command.run().await,
                Command::Restore(command) => command.run().await,
                Command::Import(command) => command.run().await,
                Command::Decisions(command) => command.run().await,
                Command::Suggest(command) => command.run().await,
                Command::Admin(command) => command.run(),
                Command::Schema(command) => command.run(),
                Command::Validate(command) => command.run().await,
            }
        });
        // A policy that compiles must not hold up the end.
        runtime.shutdown_background();
        outcome
    }

    /// What the command runs on. Tokio panics where there are too few descriptors, so it is tried whether there are any.
    fn runtime(&self) -> std::io::Result<tokio::runtime::Runtime> {
        let tried: Result<Vec<_>, _> = (0..DESCRIPTORS / 2).map(|_| UnixStream::pair()).collect();
        drop(tried?);
        let mut builder = match self.command {
            Command::Run(_) => tokio::runtime::Builder::new_multi_thread(),
            _ => tokio::runtime::Builder::new_current_thread(),
        };
        builder
            .thread_stack_size(MAX_STACK + OWN_STACK)
            .enable_all()
            .build()
    }
}
