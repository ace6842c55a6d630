//! `portcullis check`: the problems of a rules document, or of a component.

mod component;

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::paint::printable;
use super::{
    output::{self, Format},
    paint, policy, report,
};
use crate::config::Delivery;
use crate::frontend::ways::{Lacking, Way};
use crate::postfix::next_hops::{Gap, gaps};
use portcullis::{Connector, DocumentError, Engine, Fact};

/// Show the problems of a rules document, or of a component
///
/// A component is loaded, asked in both directions, and held against NAME.tests.json beside it. Exits with 0 if there are none or only warnings, with 1 if there are errors, with 2 if the file
/// cannot be read.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  portcullis check rules.json\n  portcullis check rules.json --for postfix"
)]
pub struct Check {
    /// The rules document (.json), or the component (.wasm)
    rules: PathBuf,
    /// Also say whether it is signed: the operators' root statements, with NAME.dsse.json beside the policy
    #[arg(long, value_name = "ROOT.json")]
    root: Option<PathBuf>,
    /// Also show each connector that reads a fact which another server that asks cannot tell
    #[arg(long = "for", value_enum, value_name = "WAY")]
    way: Option<Way>,
    /// How to write the problems
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Check {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        policy::tell_signers(&self.rules, self.root.as_deref())?;
        if self.rules.extension().is_some_and(|it| it == "wasm") {
            return self.component().await;
        }
        let document = policy::read_document(&self.rules)?;
        let engine = policy::engine(policy::limits())?;
        let (problems, code) = match engine.check(document.clone()).await {
            Ok(summary) => (summary.warnings, ExitCode::SUCCESS),
            Err(DocumentError::Rejected(problems)) => (problems, ExitCode::from(1)),
            Err(error) => return Err(error.into()),
        };
        let connectors = match self.way {
            Some(_) if code == ExitCode::SUCCESS => connectors(&engine, document.clone()).await?,
            _ => Vec::new(),
        };
        let lacking = self.way.map(|way| (way, way.lacking(&connectors)));
        let gaps = match self.way {
            Some(Way::Postfix) => gaps(&connectors, Delivery::default().port),
            _ => Vec::new(),
        };
        match self.format {
            Format::Json => match &lacking {
                None => output::json(&problems)?,
                Some((_, lacking)) => {
                    let all = json!({"problems": problems, "lacking": lacking, "outbound": gaps});
                    output::json(&all)?;
                }
            },
            Format::Text => {
                let colour = paint::wanted(&std::io::stdout());
                let path = self.rules.display().to_string();
                output::result(&report::problems(&path, &document, &problems, colour))?;
                if let Some((way, lacking)) = &lacking {
                    output::result(&told(*way, lacking))?;
                    output::result(&told_of_outbound(&gaps))?;
                }
            }
        }
        Ok(code)
    }
}

async fn connectors(engine: &Engine, document: String) -> anyhow::Result<Vec<Connector>> {
    let policy = engine.load_document("rules.json", document).await?;
    Ok(policy.connectors().await?)
}

/// What a way cannot tell, a connector after another.
fn told(way: Way, lacking: &[Lacking<'_>]) -> String {
    let mut text = String::new();
    for lack in lacking {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "connector \"{}\" reads {}, of which {way} tells {}: such mail is deferred\n  = help: {}",
            printable(lack.connector),
            words(lack.fact),
            lack.known,
            lack.hint
        );
    }
    if lacking.is_empty() {
        let _ = writeln!(text, "{way} tells all facts that the rules read");
    }
    text
}

/// What Postfix cannot carry out on the way out.
fn told_of_outbound(gaps: &[Gap]) -> String {
    let mut text = String::new();
    for gap in gaps {
        let wherever = match gap.wherever {
            "" => String::new(),
            wherever => format!(" {wherever}"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "connector \"{}\"{wherever}: {}: such mail goes by the relay, or is deferred\n  = help: {}",
            printable(&gap.connector),
            gap.why,
            gap.hint
        );
    }
    text
}

fn words(fact: Fact) -> &'static str {
    match fact {
        Fact::HeaderFrom => "the From header",
        Fact::Certificate => "whether a certificate is shown",
        Fact::CertificateNames => "the names of the certificate",
        Fact::CertificateSha256 => "the fingerprint of the certificate",
        Fact::CertificateKey => "the public key of the certificate",
        Fact::CertificateTrust => "whether the certificate is trusted",
        Fact::CertificateAnchors => "which authority has issued the certificate",
        other => other.name(),
    }
}
