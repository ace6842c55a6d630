//! Decisions of a log, asked again.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use portcullis::{Context, Decision, PolicySession, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::lines::{Line, read_line};
use crate::cli::output;
use crate::observe::decisions::outcome;

/// A line of the log. Of other lines, all of this is absent.
#[derive(Deserialize)]
#[serde(default)]
struct Logged {
    /// The facts: as text in a log, as an object in files that others have made.
    context: Value,
    verdict: Value,
    connector: String,
    failed: String,
    transaction: String,
    tenant: String,
}

impl Default for Logged {
    fn default() -> Self {
        Logged {
            context: Value::Null,
            verdict: Value::Null,
            connector: String::new(),
            failed: String::new(),
            transaction: String::new(),
            tenant: String::new(),
        }
    }
}

/// What was decided, as far as the log tells it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Decided {
    verdict: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    connector: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    failed: String,
}

/// A decision that would be another one.
#[derive(Serialize)]
struct Different<'a> {
    line: u64,
    transaction: &'a str,
    #[serde(rename = "mail-from")]
    mail_from: &'a str,
    #[serde(rename = "rcpt-to")]
    rcpt_to: &'a str,
    was: Decided,
    is: Decided,
}

/// Asks again; with `diff`, only what differs is printed.
///
/// # Errors
/// If the log cannot be read.
pub async fn evaluate(
    path: &Path,
    tenant: Option<&str>,
    diff: bool,
    session: &mut PolicySession,
) -> anyhow::Result<ExitCode> {
    let cannot = || format!("cannot read {}", path.display());
    let mut input = BufReader::new(File::open(path).with_context(cannot)?);
    let mut output = BufWriter::new(std::io::stdout().lock());
    let mut line = Vec::new();
    let (mut decisions, mut different, mut others) = (0_u64, 0_u64, 0_u64);
    let (mut only, mut undecided) = (String::new(), 0_u64);
    for number in 1.. {
        match read_line(&mut input, &mut line).with_context(cannot)? {
            Line::End => break,
            Line::Blank => continue,
            Line::TooLong => {
                others += 1;
                continue;
            }
            Line::Whole => {}
        }
        let logged: Logged = serde_json::from_slice(&line).unwrap_or_default();
        let Some(context) = context_of(&logged.context) else {
            others += 1;
            continue;
        };
        match tenant {
            Some(tenant) if logged.tenant != tenant => continue,
            Some(_) => {}
            None if decisions == 0 => only = logged.tenant.clone(),
            None if only == logged.tenant => {}
            None => bail!(
                "{}:{number}: the log has decisions of several tenants: say with --tenant whose these rules are",
                path.display()
            ),
        }
        decisions += 1;
        let verdict = match session.try_decide(&context).await {
            Ok(decision) => decision.into_verdict(),
            Err(error) => Decision::unavailable(error).into_verdict(),
        };
        if !diff {
            output::json_line(&mut output, &verdict).context(output::UNWRITABLE)?;
            continue;
        }
        let was = Decided {
            verdict: logged.verdict.as_str().unwrap_or_default().into(),
            connector: logged.connector,
            failed: logged.failed,
        };
        let is = decided(&verdict);
        if is.failed == "fact-unavailable" && was.failed != is.failed {
            undecided += 1;
            continue;
        }
        if was != is {
            different += 1;
            let told = Different {
                line: number,
                transaction: &logged.transaction,
                mail_from: context.mail_from(),
                rcpt_to: context.rcpt_to(),
                was,
                is,
            };
            output::json_line(&mut output, &told).context(output::UNWRITABLE)?;
        }
    }
    output.flush().context(output::UNWRITABLE)?;
    if diff {
        output::tell(&format!(
            "{different} of {decisions} decisions would be others\n"
        ));
    }
    if undecided > 0 {
        output::tell(&format!(
            "of {undecided} it cannot be told: not all facts are in the log ([log] clients)\n"
        ));
    }
    if others > 0 {
        output::tell(&format!("{others} lines of the log have no context\n"));
    }
    Ok(ExitCode::from(u8::from(different > 0)))
}

fn context_of(value: &Value) -> Option<Context> {
    match value {
        Value::String(text) => Context::from_json(text).ok(),
        Value::Object(_) => Context::from_json(&value.to_string()).ok(),
        _ => None,
    }
}

/// As the log tells it.
fn decided(verdict: &Verdict) -> Decided {
    let (connector, failed) = outcome(verdict);
    Decided {
        verdict: verdict.name().into(),
        connector,
        failed,
    }
}
