//! `portcullis test`: a policy against cases.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;

use super::output::{self, Format};
use super::paint::printable_lines;
use super::policy::{self, Kind, PolicyArgs};
use portcullis::{Cases, FailedCase, cases_beside};

/// The largest file of cases.
const MAX_CASES: (usize, &str) = (1 << 20, "the limit of tests");

/// Hold a policy against cases, contexts with the verdicts that they must get
///
/// The cases are a list as under `tests` in a rules document, whose own tests are run as well. Exits with 0 if the policy
/// passes all of them, with 1 if it does not, with 2 if that cannot be told.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  portcullis test policy.wasm\n  portcullis test rules.json more.tests.json"
)]
pub struct Test {
    #[command(flatten)]
    policy: PolicyArgs,
    /// The cases [default: NAME.tests.json beside NAME.wasm]
    tests: Option<PathBuf>,
    /// How to write the outcome
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What came of it.
#[derive(Serialize)]
struct Outcome {
    passed: usize,
    failed: Vec<FailedCase>,
}

impl Test {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let own = match policy::extension(&self.policy.policy)? {
            Kind::Component => 0,
            Kind::Document => own_tests(&self.policy.policy).await?,
        };
        let path = self.tests.clone();
        let path = path.or_else(|| cases_beside(&self.policy.policy));
        let cases = path.as_deref().map(read_cases).transpose()?;
        let policy = self.policy.open(policy::EVALUATION_MS).await?;
        let (number, failed) = match &cases {
            None => (0, Vec::new()),
            Some(cases) => (cases.len(), policy.run_cases(cases).await),
        };
        if own + number == 0 {
            bail!("{}: there are no tests", self.policy.policy.display());
        }
        let outcome = Outcome {
            passed: own + number - failed.len(),
            failed,
        };
        match self.format {
            Format::Json => output::json(&outcome)?,
            Format::Text => output::result(&self.told(&outcome, path.as_deref()))?,
        }
        Ok(match outcome.failed.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(1),
        })
    }

    fn told(&self, outcome: &Outcome, path: Option<&Path>) -> String {
        let mut text = String::new();
        let path = path.unwrap_or(&self.policy.policy).display();
        for failed in &outcome.failed {
            text.push_str(&format!("{path}:{}: {failed}\n", failed.line));
        }
        let policy = self.policy.policy.display();
        let all = outcome.passed + outcome.failed.len();
        text.push_str(&match outcome.failed.is_empty() {
            true => format!("{policy}: {all} tests passed\n"),
            false => format!("{policy}: {} of {all} tests failed\n", outcome.failed.len()),
        });
        printable_lines(&text)
    }
}

/// How many tests of its own a document has; with one that fails it is none.
async fn own_tests(path: &Path) -> anyhow::Result<usize> {
    let engine = policy::engine(policy::limits())?;
    let rules = policy::read_rules(path, &engine).await?;
    Ok(usize::try_from(rules.summary.tests)?)
}

/// Reads a file of cases; errors name it.
pub fn read_cases(path: &Path) -> anyhow::Result<Cases> {
    let octets = portcullis::read_file(path, MAX_CASES)
        .with_context(|| format!("cannot read the tests {}", path.display()))?;
    Ok(Cases::read(path, &octets)?)
}
