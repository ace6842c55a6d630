//! `portcullis schema`: the JSON Schemas of what people write.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::output;

/// Tests compare them with what the readers know.
const RULES: &str = include_str!("../../../docs/schemas/rules.schema.json");
const CONFIGURATION: &str = include_str!("../../../docs/schemas/configuration.schema.json");

/// Print the JSON Schema of rules documents or of the configuration
///
/// An editor that knows the schema completes what is written and marks mistakes. In a rules document,
/// "$schema" names it; in the configuration, a first line "#:schema FILE" does.
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis schema rules > rules.schema.json")]
pub struct Schema {
    /// What the schema is of
    #[arg(value_enum)]
    of: Subject,
}

#[derive(Clone, Copy, ValueEnum)]
enum Subject {
    /// Rules documents (JSON)
    Rules,
    /// The configuration of `portcullis run` (TOML)
    Configuration,
}

impl Schema {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        output::result(match self.of {
            Subject::Rules => RULES,
            Subject::Configuration => CONFIGURATION,
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
