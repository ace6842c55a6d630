//! The problems of a component.

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::Check;
use crate::cli::output::{self, Format};
use crate::cli::paint::printable_lines;
use crate::cli::policy;
use crate::cli::report;
use crate::cli::test::read_cases;
use portcullis::{Context, Policy, Severity, cases_beside};

/// A problem of a component. It has no place in a text.
#[derive(Serialize)]
struct Found {
    severity: Severity,
    message: String,
}

impl Check {
    /// Checks a component.
    pub(super) async fn component(&self) -> anyhow::Result<ExitCode> {
        if self.way.is_some() {
            bail!("--for is for rules documents");
        }
        let path = self.rules.display().to_string();
        let engine = policy::engine(policy::limits())?;
        let bytes = policy::read(&self.rules)?;
        let found = match engine.load_component(&path, bytes).await {
            Ok(policy) => self.problems(&policy).await?,
            Err(error) => vec![Found::error(error.to_string())],
        };
        let has_errors = found.iter().any(|it| it.severity == Severity::Error);
        match self.format {
            Format::Json => output::json(&found)?,
            Format::Text => output::result(&told(&path, &found))?,
        }
        Ok(match has_errors {
            true => ExitCode::from(1),
            false => ExitCode::SUCCESS,
        })
    }

    async fn problems(&self, policy: &Policy) -> anyhow::Result<Vec<Found>> {
        let mut found = answers(policy).await;
        let beside = cases_beside(&self.rules).filter(|path| path.exists());
        if let Some(path) = beside {
            let cases = read_cases(&path)?;
            for failed in policy.run_cases(&cases).await {
                let message = format!("{}:{}: {failed}", path.display(), failed.line);
                found.push(Found::error(message));
            }
        }
        Ok(found)
    }
}

/// Whether it answers a question in each direction. A policy for one direction is a good one; one that answers in none
/// is not.
async fn answers(policy: &Policy) -> Vec<Found> {
    let (from, to) = ("alice@example.org", "bob@example.com");
    let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
    let questions = [
        Context::inbound(localhost, from, to).helo("mail.example"),
        Context::outbound(from, to).helo("mail.example"),
    ];
    let mut found = Vec::new();
    for question in &questions {
        if let Err(mut error) = policy.session().try_decide(question).await {
            // It was shown when it was written.
            error.wrote.clear();
            let message = format!("it does not decide {} mail: {error}", question.direction());
            found.push(Found {
                severity: Severity::Warning,
                message,
            });
        }
    }
    if found.len() == questions.len() {
        found
            .iter_mut()
            .for_each(|it| it.severity = Severity::Error);
    }
    found
}

impl Found {
    fn error(message: String) -> Self {
        Found {
            severity: Severity::Error,
            message,
        }
    }
}

fn told(path: &str, found: &[Found]) -> String {
    let mut text: String = found
        .iter()
        .map(|it| format!("{}: {}\n", it.severity, it.message))
        .collect();
    text.push_str(&report::summary(path, found.iter().map(|it| it.severity)));
    text.push('\n');
    printable_lines(&text)
}
