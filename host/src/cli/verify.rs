//! `portcullis verify`: by whom a policy or a statement is signed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use super::output;
use super::paint::printable;
use super::policy::read;
use super::signed::{policy, read_statement, statement_in};
use crate::trust::NoLedger;
use crate::trust::read_roots;
use portcullis::statement::{
    Format, Payload, PolicyStatement, Retirement, Root, Roots, TenantStatement, Time,
};

/// Say by whom a policy or a statement is signed
///
/// Exits with 0 if a host with these root statements would take it, but for what it has accepted before; with 1 if it
/// would not.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis verify contoso.json --root root.json
  portcullis verify contoso.tenant.dsse.json --root root.json")]
pub struct Verify {
    /// A policy with NAME.dsse.json beside it, or a statement
    file: PathBuf,
    /// The operators' root statements
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
}

impl Verify {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let roots = read_roots(&self.root)?;
        let is_statement = self.file.to_string_lossy().ends_with(".dsse.json");
        let told = match is_statement {
            true => statement(&self.file, &roots),
            false => policy(&self.file, &read(&self.file)?, &roots),
        };
        match told {
            Ok(told) => {
                output::result(&format!("{}: {told}\n", self.file.display()))?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                output::tell(&super::report::told(&error));
                Ok(ExitCode::from(1))
            }
        }
    }
}

/// Says by whom a statement of the operators is signed, or one about a policy with the tenant's own beside it.
fn statement(path: &Path, roots: &Roots) -> anyhow::Result<String> {
    let envelope = read_statement(path)?;
    let context = || path.display().to_string();
    if envelope.payload_type == PolicyStatement::TYPE {
        let policies = [Format::Json, Format::Wasm].map(|format| {
            let name = path.to_string_lossy();
            let stem = name.strip_suffix("dsse.json").unwrap_or_default();
            PathBuf::from(format!("{stem}{}", format.name()))
        });
        let Some(found) = policies.iter().find(|path| path.exists()) else {
            bail!(
                "{}: it is about a policy, and neither {} nor {} is there",
                path.display(),
                policies[0].display(),
                policies[1].display()
            );
        };
        return policy(found, &read(found)?, roots);
    }
    let by = |names: &[String]| printable(&names.join(", "));
    let text = match &*envelope.payload_type {
        TenantStatement::TYPE => {
            let found: TenantStatement = statement_in(path, &envelope)?;
            let verified = roots.tenant(&envelope, &found.tenant, &NoLedger, Time::now());
            let verified = verified.with_context(context)?;
            let keys = found.policies.keys.iter().map(|key| &*key.name);
            format!(
                "tenant {} with {}, signed by {}, sequence {}; its policies are signed by {} of {}",
                printable(&found.tenant),
                printable(&found.domains.join(", ")),
                by(&verified.signed_by),
                found.sequence,
                found.policies.threshold,
                printable(&keys.collect::<Vec<_>>().join(", "))
            )
        }
        Retirement::TYPE => {
            let found: Retirement = statement_in(path, &envelope)?;
            let verified = roots.retirement(&envelope, &found.tenant, &NoLedger, Time::now());
            let verified = verified.with_context(context)?;
            format!(
                "tenant {} is retired, signed by {}, sequence {}",
                printable(&found.tenant),
                by(&verified.signed_by),
                found.sequence
            )
        }
        Root::TYPE => bail!(
            "{}: it is a root statement; portcullis trust show tells of it",
            path.display()
        ),
        other => bail!(
            "{}: nobody knows what {:?} is",
            path.display(),
            printable(other)
        ),
    };
    Ok(text)
}
