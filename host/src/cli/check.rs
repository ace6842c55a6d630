//! `portcullis check`: the problems of a rules document.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{
    output::{self, Format},
    paint, policy, report,
};
use portcullis::DocumentError;

/// Show the problems of a rules document
///
/// Exits with 0 if there are none or only warnings, with 1 if there are errors, with 2 if the file
/// cannot be read.
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis check rules.json")]
pub struct Check {
    /// The rules document
    rules: PathBuf,
    /// How to write the problems
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Check {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let document = policy::read_document(&self.rules)?;
        let engine = policy::engine(policy::limits())?;
        let (problems, code) = match engine.check(document.clone()).await {
            Ok(summary) => (summary.warnings, ExitCode::SUCCESS),
            Err(DocumentError::Rejected(problems)) => (problems, ExitCode::from(1)),
            Err(error) => return Err(error.into()),
        };
        match self.format {
            Format::Json => {
                output::json(&problems)?;
            }
            Format::Text => {
                let colour = paint::wanted(&std::io::stdout());
                let path = self.rules.display().to_string();
                output::result(&report::problems(&path, &document, &problems, colour))?;
            }
        }
        Ok(code)
    }
}
