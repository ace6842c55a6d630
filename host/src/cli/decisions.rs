//! `portcullis decisions`: what a server has decided lately.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::output::{self, Format};
use super::paint::{self, Painter, printable};
use super::remembered::RememberedArgs;
use crate::decisions::{Decision, Filter};

/// How often new decisions are looked for.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Accept,
    Deliver,
    Reject,
    Defer,
    /// With a finding of a connector in audit mode
    Audit,
}

/// Show what a server has decided lately
///
/// The server keeps decisions in its state directory, as [decisions] of its configuration says.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis decisions --config portcullis.toml
  portcullis decisions --config portcullis.toml --search 8f3kq2 --format json
  portcullis decisions --config portcullis.toml --verdict reject --follow")]
pub struct DecisionsCommand {
    #[command(flatten)]
    remembered: RememberedArgs,
    /// Those that this connector had to do with
    #[arg(long, value_name = "NAME")]
    connector: Option<String>,
    /// Those with this outcome
    #[arg(long, value_enum, value_name = "VERDICT")]
    verdict: Option<Kind>,
    /// Those with this text in the id of the transaction or session, an address, or the client
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Go on with what is decided from now on
    #[arg(long)]
    follow: bool,
    /// How to write them; JSON is one object a line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl DecisionsCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let remembered = self.remembered.open()?;
        let verdict = self.verdict.and_then(|kind| kind.to_possible_value());
        let filter = Filter {
            connector: self.connector.clone(),
            verdict: verdict.map(|value| value.get_name().to_owned()),
            text: self.search.clone(),
            limit: Some(self.limit),
            ..Filter::default()
        };
        let tenant = &remembered.tenant.name;
        let mut last = remembered.decisions.last(tenant, &filter)?;
        last.reverse();
        let mut newest = self.show(&last, 0)?;
        if !self.follow {
            return Ok(ExitCode::SUCCESS);
        }
        loop {
            tokio::time::sleep(PAUSE).await;
            let filter = Filter {
                after: Some(newest),
                ..filter.clone()
            };
            let mut last = remembered.decisions.last(tenant, &filter)?;
            last.reverse();
            newest = self.show(&last, newest)?;
        }
    }

    /// Shows decisions, and gives the number of the newest.
    fn show(&self, decisions: &[Decision], newest: i64) -> anyhow::Result<i64> {
        let painter = Painter(paint::wanted(&std::io::stdout()));
        for decision in decisions {
            match self.format {
                Format::Json => output::json_line(&mut std::io::stdout().lock(), decision)?,
                Format::Text => output::result(&line(decision, painter))?,
            }
        }
        Ok(decisions.last().map_or(newest, |last| last.number))
    }
}

fn line(decision: &Decision, painter: Painter) -> String {
    let text = |value: &Value| printable(value.as_str().unwrap_or_default()).to_string();
    let verdict = &decision.verdict;
    let name = text(&verdict["verdict"]);
    let shown = match name.as_str() {
        "reject" | "defer" => painter.bad(format!("{name:<7}")),
        _ => painter.good(format!("{name:<7}")),
    };
    let mut connectors: Vec<String> = verdict["connectors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    connectors.extend(
        verdict["connector"]
            .as_str()
            .map(printable)
            .map(|it| it.to_string()),
    );
    let mut line = format!(
        "{}  {shown}  <{}> to <{}>  {}",
        decision.time,
        text(&decision.context["mail-from"]),
        text(&decision.context["rcpt-to"]),
        printable(decision.client.as_deref().unwrap_or("-")),
    );
    if !connectors.is_empty() {
        line.push_str(&format!("  {}", connectors.join(", ")));
    }
    if let Some(failed) = verdict["failed"].as_str() {
        line.push_str(&format!(" ({})", printable(failed)));
    }
    for finding in verdict["audit"].as_array().into_iter().flatten() {
        let (connector, failed) = (text(&finding["connector"]), text(&finding["failed"]));
        line.push_str(&format!("  audit: {connector} ({failed})"));
    }
    format!("{line}  [{}]\n", printable(&decision.transaction))
}
