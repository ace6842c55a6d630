//! `portcullis suggest`: what the mail that a server remembers says about its rules.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::bail;
use clap::Args;

use super::edit;
use super::output::{self, Format};
use super::paint::printable;
use super::remembered::RememberedArgs;
use crate::advice::{Advice, Mail, Suggestion, Thresholds, advice};
use crate::decisions::milliseconds;

/// Suggest connectors by the mail that a server remembers, and say what needs attention
///
/// Suggested are connectors for partners whose mail has been protected all along, and connectors in audit mode that would
/// have refused nothing. Told of are certificates that expire or have changed, partners that have stopped to encrypt,
/// and connectors without mail.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis suggest --config portcullis.toml
  portcullis suggest --config portcullis.toml --messages 100 --days 30 --format json")]
pub struct Suggest {
    #[command(flatten)]
    remembered: RememberedArgs,
    /// Suggest what rests on so many messages
    #[arg(long, value_name = "N", default_value_t = Thresholds::default().messages)]
    messages: u64,
    /// Suggest what rests on so many days
    #[arg(long, value_name = "N", default_value_t = Thresholds::default().days, value_parser = clap::value_parser!(i64).range(0..=180))]
    days: i64,
    /// How to write them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Suggest {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let remembered = self.remembered.open()?;
        let rules = &remembered.tenant.policy;
        if rules
            .extension()
            .is_none_or(|extension| extension != "json")
        {
            bail!(
                "{}: connectors are suggested for a rules document (.json) only",
                rules.display()
            );
        }
        let editor = edit::editor(rules)?;
        let least = Thresholds {
            messages: self.messages,
            days: self.days,
        };
        let now = milliseconds(SystemTime::now());
        let tenant = &remembered.tenant.name;
        let advice = {
            let mail = Mail::read(tenant, &remembered.decisions, now)?;
            let content = editor.read()?;
            advice(Arc::new(mail), &editor, &content.text, least, now).await?
        };
        match self.format {
            Format::Json => output::json(&advice)?,
            Format::Text => output::result(&told(&advice, &rules.display().to_string()))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn told(advice: &Advice, rules: &str) -> String {
    let mut text = String::new();
    let rules = edit::quoted(rules);
    for notice in &advice.notices {
        let connector = match &notice.connector {
            Some(connector) if *connector != notice.subject => format!("{connector}: "),
            _ => String::new(),
        };
        let line = format!("{connector}{}: {}", notice.subject, notice.text);
        text.push_str(&format!("attention: {}\n", printable(&line)));
    }
    for promotion in &advice.promotions {
        let connector = &promotion.connector;
        text.push_str(&format!(
            "{} could be enforced: it would have refused nothing, and {} messages since {} satisfied it\n  portcullis enforce {rules} {}\n",
            printable(connector),
            promotion.messages,
            promotion.since,
            printable(&edit::quoted(connector)),
        ));
    }
    for suggestion in &advice.suggestions {
        text.push_str(&of_partner(suggestion, &rules));
    }
    if text.is_empty() {
        text.push_str("nothing needs attention, and nothing is suggested\n");
    }
    text
}

fn of_partner(suggestion: &Suggestion, rules: &str) -> String {
    let Suggestion {
        domain,
        connector,
        messages,
        since,
        ..
    } = suggestion;
    let command = connector
        .as_object()
        .map(|connector| edit::add_command(rules, connector))
        .unwrap_or_default();
    let mut text = format!(
        "{} has no connector; {messages} messages since {since} would satisfy this one:\n  {}",
        printable(domain),
        printable(command.trim_end()),
    );
    if !suggestion.addresses.is_empty() {
        text.push_str(&format!(
            "\n  all of it came from {}, which may change without notice",
            suggestion.addresses.join(", ")
        ));
    }
    text + "\n"
}
