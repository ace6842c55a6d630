//! `portcullis check`: the problems of a rules document.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Format, output, paint, policy, report};
use portcullis::json::ProblemJson;
use portcullis::sandbox::{BuildError, Builder};

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
        let builder = Builder::new(policy::default_cache(), policy::compiler())?;
        let (problems, code) = match builder.check(document.clone()).await {
            Ok(summary) => (summary.warnings, ExitCode::SUCCESS),
            Err(BuildError::Rejected(problems)) => (problems, ExitCode::from(1)),
            Err(error) => return Err(error.into()),
        };
        match self.format {
            Format::Json => {
                let json: Vec<ProblemJson> = problems.iter().map(ProblemJson::from).collect();
                output::json(&json)?;
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
