//! The command line: a file a command.

mod admin;
mod build;
mod check;
mod compile;
mod decisions;
mod demo;
mod edit;
mod evaluate;
mod explain;
mod export;
mod filter;
mod fleet;
mod generate;
mod import;
mod key;
mod lines;
mod list;
mod new;
pub mod output;
mod paint;
mod policy;
mod remembered;
mod report;
mod run;
mod schema;
mod setup;
mod sign;
mod signed;
mod suggest;
mod test;
mod trust;
mod validate;
mod verify;

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};

use crate::socket::Sockets;
use portcullis::MAX_STACK;
pub use report::told;

/// What threads need of their stacks beside a policy that runs on them, in bytes.
const OWN_STACK: usize = 2 << 20;

/// More descriptors than a runtime begins with.
const DESCRIPTORS: usize = 16;

/// Partner connectors for secure mail flow, as a sandboxed WebAssembly policy.
#[derive(Parser)]
#[command(
    name = "portcullis",
    version,
    about,
    max_term_width = 100,
    after_help = "Examples:\n  portcullis check rules.json\n  portcullis explain rules.json --from bob@contosobank.com --to alice@contoso.com --tls 1.3\n  portcullis run --config /etc/portcullis/portcullis.toml\n\nThe manual is in /usr/share/doc/portcullis, and in docs/ of the sources."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Check),
    Explain(Box<explain::Explain>),
    Validate(Box<validate::Validate>),
    Run(Box<run::Run>),
    Test(test::Test),
    New(new::New),
    Build(build::Build),
    /// What the sandbox has done in a process of its own
    #[command(hide = true)]
    Compile(compile::Compile),
    Evaluate(evaluate::Evaluate),
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
    Setup(setup::SetupCommand),
    Export(export::ExportCommand),
    Filter(filter::FilterCommand),
    Partner(Box<validate::Partner>),
    Demo(demo::DemoCommand),
    Generate(generate::Generate),
    Key(key::KeyCommand),
    Sign(Box<sign::SignCommand>),
    Verify(verify::Verify),
    Trust(trust::TrustCommand),
    Fleet(Box<fleet::FleetCommand>),
}

impl Cli {
    /// Runs the command. Results go to standard output, everything else to standard error.
    ///
    /// # Errors
    /// What stopped the command, for a person.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        // Before there are threads: it changes the environment.
        let sockets = match self.command {
            Command::Run(_) => Sockets::from_supervisor().context("cannot start")?,
            _ => Sockets::default(),
        };
        let runtime = self.runtime().context("cannot start")?;
        let outcome = runtime.block_on(async {
            match self.command {
                Command::Run(command) => command.run(sockets).await,
                Command::Check(command) => command.run().await,
                Command::Test(command) => command.run().await,
                Command::New(command) => command.run(),
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
                Command::Setup(command) => command.run().await,
                Command::Export(command) => command.run().await,
                Command::Filter(command) => command.run().await,
                Command::Validate(command) => command.run().await,
                Command::Partner(command) => command.run().await,
                Command::Demo(command) => command.run(),
                Command::Generate(command) => command.run(Cli::command()),
                Command::Key(command) => command.run(),
                Command::Sign(command) => command.run().await,
                Command::Verify(command) => command.run(),
                Command::Trust(command) => command.run(),
                Command::Fleet(command) => command.run().await,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::admin::OPENAPI;

    /// What a command does, and where the API and the page do the same.
    fn table() -> String {
        let description: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut by_command: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let Some(command) = operation["x-command"].as_str() else {
                    continue;
                };
                let path = path.replace("/api/tenants/{tenant}", "…");
                let request = format!("`{} {path}`", method.to_uppercase());
                by_command.entry(command).or_default().push(request);
                let of_command = places.entry(command).or_default();
                if let Some(place) = operation["x-page"].as_str()
                    && !of_command.contains(&place)
                {
                    of_command.push(place);
                }
            }
        }
        let mut text = String::from(
            "# Commands, and where the API and the page do the same\n\n\
             A test writes this page from the definitions of the commands and from `/api/openapi.json`. `…` stands for\n\
             `/api/tenants/{tenant}`. `enforce` and `audit` are `PUT …/connectors/{connector}` with another `mode`.\n\n\
             | command | | API | page |\n|---|---|---|---|\n",
        );
        let command = Cli::command();
        for command in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            let name = command.get_name();
            let about = command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            let requests = by_command.remove(name).unwrap_or_default().join("<br>");
            let places = places.get(name).map(|it| it.join(", ")).unwrap_or_default();
            text.push_str(&format!(
                "| `portcullis {name}` | {about} | {requests} | {places} |\n"
            ));
        }
        assert!(by_command.is_empty(), "no such commands: {by_command:?}");
        text
    }

    #[test]
    fn the_manual_has_all_commands() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, table()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == table(),
            "{} is not that of the commands; UPDATE_GOLDEN=1 rewrites it",
            path.display()
        );
    }
}
