//! `portcullis build`: a rules document becomes a component, and so does a core module.

mod core_module;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use super::{output, paint, policy, report};
use crate::edit::replace::replace;
use portcullis::{DocumentError, Engine};

/// Make one self-contained component: of a rules document, or of a core module
///
/// Checks the document and runs its tests first; on errors nothing is written. A core module, as compilers of C and of
/// Rust for wasm32-unknown-unknown make them, becomes a component of the interface. It is loaded, and held against
/// POLICY.tests.json, first.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  portcullis build rules.json -o policy.wasm\n  portcullis build policy.core.wasm -o policy.wasm"
)]
pub struct Build {
    /// The rules document (.json), or the core module (.wasm)
    rules: PathBuf,
    /// The component to write
    #[arg(short, long, value_name = "POLICY.wasm")]
    output: PathBuf,
}

impl Build {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        if let (Ok(rules), Ok(output)) = (self.rules.canonicalize(), self.output.canonicalize())
            && rules == output
        {
            bail!(
                "{}: it would overwrite what it is made of",
                self.output.display()
            );
        }
        let engine = policy::engine(policy::limits())?;
        match self.rules.extension().is_some_and(|it| it == "wasm") {
            true => self.of_core_module(&engine).await,
            false => self.of_rules(&engine).await,
        }
    }

    async fn of_rules(&self, engine: &Engine) -> anyhow::Result<ExitCode> {
        let document = policy::read_document(&self.rules)?;
        let show = |problems: &[_]| {
            let colour = paint::wanted(&std::io::stderr());
            let path = self.rules.display().to_string();
            output::tell(&report::problems(&path, &document, problems, colour));
        };
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
        self.write(&component)?;
        output::tell(&format!(
            "{}: {} connectors, {} tests passed, {} bytes\n",
            self.output.display(),
            summary.connectors,
            summary.tests,
            component.len()
        ));
        Ok(ExitCode::SUCCESS)
    }

    fn write(&self, component: &[u8]) -> anyhow::Result<()> {
        replace(&self.output, component)
            .with_context(|| format!("cannot write {}", self.output.display()))
    }
}
