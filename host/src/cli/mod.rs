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

use std::path::PathBuf;
use std::process::ExitCode;

use paint::printable_lines;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::ConfigError;
use portcullis::MAX_STACK;

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

/// An error for a person: a line, and the line of the configuration that is wrong, if it is that.
pub fn told(error: &anyhow::Error) -> String {
    let of_configuration = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<ConfigError>());
    let colour = paint::wanted(&std::io::stderr());
    let shown = of_configuration.and_then(|error| report::line_of_configuration(error, colour));
    format!(
        "portcullis: {}\n{}",
        printable_lines(&format!("{error:#}")),
        shown.unwrap_or_default()
    )
}

/// How results are written.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// For a program; stable.
    Json,
}

/// For an evaluation, as in a session, in milliseconds.
const EVALUATING: u64 = 50;

/// Which policy, and what it may use.
#[derive(Args)]
pub struct PolicyArgs {
    /// A rules document (.json) or a component (.wasm)
    policy: PathBuf,
    /// Memory that the policy may use
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    memory: usize,
    /// Time that one evaluation may take [default: 50; 10000 to explain]
    #[arg(long, value_name = "MS")]
    time_limit: Option<u64>,
}
