//! `portcullis build`: a rules document becomes a component.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use super::{output, paint, policy, report};
use crate::edit::replace::replace;
use portcullis::DocumentError;

/// Make one self-contained component of a rules document
///
/// Checks the document and runs its tests first; on errors nothing is written.
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis build rules.json -o policy.wasm")]
pub struct Build {
    /// The rules document
    rules: PathBuf,
    /// The component to write
    #[arg(short, long, value_name = "POLICY.wasm")]
    output: PathBuf,
}

impl Build {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let document = policy::read_document(&self.rules)?;
        let show = |problems: &[_]| {
            let colour = paint::wanted(&std::io::stderr());
            let path = self.rules.display().to_string();
            output::tell(&report::problems(&path, &document, problems, colour));
        };
        if let (Ok(rules), Ok(output)) = (self.rules.canonicalize(), self.output.canonicalize())
            && rules == output
        {
            bail!("{}: it would overwrite the rules", self.output.display());
        }
        let engine = policy::engine(policy::limits())?;
        let rules = match engine.read(document.clone()).await {
            Ok(rules) => rules,
            Err(DocumentError::Rejected(problems)) => {
                show(&problems);
                return Ok(ExitCode::from(1));
            }
            Err(error) => return Err(error.into()),
        };
        let summary = &rules.summary;
        if !summary.warnings.is_empty() {
            show(&summary.warnings);
        }
        let component = engine.build(&self.rules.display().to_string(), &rules)?;
        replace(&self.output, &component)
            .with_context(|| format!("cannot write {}", self.output.display()))?;
        output::tell(&format!(
            "{}: {} connectors, {} tests passed, {} bytes\n",
            self.output.display(),
            summary.connectors,
            summary.tests,
            component.len()
        ));
        Ok(ExitCode::SUCCESS)
    }
}
