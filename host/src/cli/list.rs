//! `portcullis list`: the connectors of a policy.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;

use super::paint::{self, Paint, printable};
use super::{Format, PolicyArgs, output};
use portcullis::json::{ConnectorJson, direction_name, mode_name};
use portcullis::sandbox::interface::{Connector, Mode};

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
            .open(super::EVALUATING)
            .await?
            .connectors()
            .await?;
        match self.format {
            Format::Json => {
                let json: Vec<ConnectorJson> = connectors.iter().map(ConnectorJson::from).collect();
                output::json(&json)?;
            }
            Format::Text => {
                let paint = Paint(paint::wanted(&std::io::stdout()));
                output::result(&table(&connectors, paint))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(connectors: &[Connector], paint: Paint) -> String {
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
            direction_name(connector.direction),
            mode_name(connector.mode),
            printable(&connector.applies_to),
            printable(&connector.demands)
        );
        // Writing to a string cannot fail.
        let _ = match connector.mode {
            Mode::Disabled => writeln!(table, "{}  {}", paint.dim(name), paint.dim(line)),
            _ => writeln!(table, "{}  {line}", paint.strong(name)),
        };
    }
    table
}
