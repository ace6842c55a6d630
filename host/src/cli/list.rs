//! `portcullis list`: the connectors of a policy.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;

use super::paint::{self, Painter, printable};
use super::{
    output::{self, Format},
    policy::{self, PolicyArgs},
};
use portcullis::{Connector, Direction, Fact, Mode};
use serde::Serialize;

/// The widest column of names; what is longer stands out of it.
const WIDEST: usize = 60;

/// List the connectors of a policy, a line each
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis list policy.wasm")]
pub struct List {
    #[command(flatten)]
    policy: PolicyArgs,
    /// How to write the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl List {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let connectors = self
            .policy
            .open(policy::EVALUATION_MS)
            .await?
            .connectors()
            .await?;
        match self.format {
            Format::Json => {
                let listed: Vec<Listed> = connectors.iter().map(Listed::from).collect();
                output::json(&listed)?;
            }
            Format::Text => {
                if connectors.is_empty() {
                    output::tell("the policy lists no connectors\n");
                }
                let paint = Painter(paint::wanted(&std::io::stdout()));
                output::result(&table(&connectors, paint))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A connector in a list.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Listed<'a> {
    name: &'a str,
    direction: Direction,
    mode: Mode,
    applies_to: &'a str,
    requires: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a str>,
    reads: &'a [Fact],
}

impl<'a> From<&'a Connector> for Listed<'a> {
    fn from(connector: &'a Connector) -> Self {
        Listed {
            name: &connector.name,
            direction: connector.direction,
            mode: connector.mode,
            applies_to: &connector.applies_to,
            requires: &connector.requires,
            comment: connector.comment.as_deref(),
            reads: &connector.reads,
        }
    }
}

fn table(connectors: &[Connector], paint: Painter) -> String {
    let width = connectors
        .iter()
        .map(|c| c.name.chars().count())
        .max()
        .unwrap_or_default()
        .min(WIDEST);
    let mut table = String::new();
    for connector in connectors {
        let name = format!("{:width$}", printable(&connector.name));
        let line = format!(
            "{:8}  {:8}  {} → {}",
            connector.direction,
            connector.mode,
            printable(&connector.applies_to),
            printable(&connector.requires)
        );
        // Writing to a string cannot fail.
        let _ = match connector.mode {
            Mode::Disabled => writeln!(table, "{}  {}", paint.dim(name), paint.dim(line)),
            _ => writeln!(table, "{}  {line}", paint.strong(name)),
        };
    }
    table
}
