//! `portcullis partner`: a sheet for the partner.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::letter::sheet;
use super::{Validate, policy};
use crate::cli::output;
use crate::cli::paint::printable;
use crate::cli::policy::PolicyArgs;

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For a mail
    #[default]
    Text,
    /// A page
    Html,
}

/// Write a sheet for the partner: what its server must show, how to try it, whom to ask
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis partner rules.json 'Contoso Bank'
  portcullis partner rules.json 'Contoso Bank' --format html --contact postmaster@contoso.com > bank.html")]
pub struct Partner {
    #[command(flatten)]
    policy: PolicyArgs,
    /// The connector
    connector: String,
    /// Whom the partner may ask [default: postmaster at the first accepted domain]
    #[arg(long, value_name = "ADDRESS")]
    contact: Option<String>,
    /// The configuration of `run`, for its authorities
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How to write it
    #[arg(long, value_enum, default_value_t)]
    format: Form,
}

impl Partner {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let policy = self.policy.open(policy::EVALUATION_MS).await?;
        let description = policy.description();
        let organization = description.organization.clone();
        let contact = self.contact.clone().unwrap_or_else(|| {
            let domain = description.accepted_domains.first();
            let domain = domain.map_or("the domain you write to", |it| it.trim_start_matches("*."));
            format!("postmaster@{domain}")
        });
        let validate = Validate::letter(self.policy, self.connector, self.config);
        for outcome in validate.outcomes().await? {
            let sheet = sheet(&outcome);
            output::result(&match self.format {
                Form::Text => format!("{}Questions: {}\n", sheet.text(), printable(&contact)),
                Form::Html => sheet.html(&organization, &contact),
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
