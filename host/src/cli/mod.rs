//! The command line: a file a command.

mod build;
mod check;
mod compile;
mod evaluate;
mod explain;
mod list;
pub mod output;
mod paint;
mod policy;
mod report;
mod run;
mod schema;
mod validate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use portcullis::MAX_STACK;
pub use report::told;

/// What threads need of their stacks beside a policy that runs on them, in bytes.
const OWN_STACK: usize = 2 << 20;

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
    Schema(schema::Schema),
    Validate(Box<validate::Validate>),
}

impl Cli {
    /// Runs the command. Results go to standard output, everything else to standard error.
    ///
    /// # Errors
    /// What stopped the command, for a person.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = match self.command {
            Command::Run(_) => tokio::runtime::Builder::new_multi_thread()
                .thread_stack_size(MAX_STACK + OWN_STACK)
                .enable_all()
                .build()?,
            _ => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        };
        let outcome = runtime.block_on(async {
            match self.command {
                Command::Run(command) => command.run().await,
                Command::Check(command) => command.run().await,
                Command::Build(command) => command.run().await,
                Command::Compile(command) => command.run(),
                Command::Evaluate(command) => command.run().await,
                Command::Explain(command) => command.run().await,
                Command::List(command) => command.run().await,
                Command::Schema(command) => command.run(),
                Command::Validate(command) => command.run().await,
            }
        });
        // A policy that compiles must not hold up the end.
        runtime.shutdown_background();
        outcome
    }
}
