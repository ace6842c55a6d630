//! `session-bench`: what whole SMTP sessions cost, beside a bare relay and other mail servers.

mod client;
mod compare;
mod daemon;
mod front_doors;
mod idle;
mod numbers;
mod postfix;
mod process;
mod rows;
mod rules;
mod server;
mod spread;
mod swap;
mod targets;
mod tenants;
mod tls;
mod wire;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Measures whole SMTP sessions.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send mail over many connections, each as fast as the server answers
    Load(client::Load),
    /// Take all mail and discard it
    Sink(server::Sink),
    /// Relay all mail, without any policy
    Proxy(server::Proxy),
    /// Open sessions that stay idle, and say what memory they take in the server
    Idle(idle::Idle),
    /// Measure Portcullis beside a bare relay and other mail servers
    Compare(compare::Compare),
    /// Measure Postfix with Portcullis and with a milter that does nothing; needs root
    FrontDoors(front_doors::FrontDoors),
    /// Exchange a large policy while mail flows
    Swap(swap::Swap),
    /// Run very many tenants
    Tenants(tenants::Tenants),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    // What is dropped here ends the processes that it has started.
    let result = tokio::select! {
        biased;
        result = interruption() => result,
        result = run(command) => result,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("session-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Load(load) => load.run().await,
        Command::Sink(sink) => sink.run().await,
        Command::Proxy(proxy) => proxy.run().await,
        Command::Idle(idle) => idle.run().await,
        Command::Compare(compare) => compare.run().await,
        Command::FrontDoors(front_doors) => front_doors.run().await,
        Command::Swap(swap) => swap.run().await,
        Command::Tenants(tenants) => tenants.run().await,
    }
}

async fn interruption() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    anyhow::bail!("interrupted")
}
