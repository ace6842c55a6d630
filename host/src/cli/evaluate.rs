//! `portcullis evaluate`: contexts in, verdicts out, a line each.

use std::io::{self, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::lines::{Line, MAX_LINE, read_line};
use super::paint::printable_lines;
use super::{
    output,
    policy::{self, PolicyArgs},
};
use portcullis::{Context, Decision, PolicySession};

mod logged;

/// Evaluate contexts: one JSON object a line in, one verdict a line out
///
/// A line that is no context gives {"error": …, "line": N} in its place, and exit code 1 at the end. Each line is answered
/// before the next one is waited for, so that a program can ask one question after another.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis evaluate rules.json < contexts.jsonl > verdicts.jsonl
  portcullis evaluate new.json --log portcullis.log --diff")]
pub struct Evaluate {
    #[command(flatten)]
    policy: PolicyArgs,
    /// A log as JSON, whose decisions have contexts ([log] contexts), in the place of standard input
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The tenant whose decisions are meant, if the log has several
    #[arg(long, value_name = "NAME", requires = "log")]
    tenant: Option<String>,
    /// Print only decisions of the log that would be others, and exit with 1 if there are any
    #[arg(long, requires = "log")]
    diff: bool,
}

#[derive(Serialize)]
struct BadLine {
    error: String,
    line: u64,
}

impl Evaluate {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let open = self.policy.open(policy::EVALUATION_MS).await?;
        let mut session = open.session();
        if let Some(path) = &self.log {
            let tenant = self.tenant.as_deref();
            return logged::evaluate(path, tenant, self.diff, &mut session).await;
        }
        let mut input = BufReader::new(io::stdin().lock());
        let mut output = BufWriter::new(io::stdout().lock());
        let mut line = Vec::new();
        let mut code = ExitCode::SUCCESS;
        for number in 1.. {
            // Whoever asks line by line waits for the answer to the last one.
            if !input.buffer().contains(&b'\n') {
                output.flush().context(output::UNWRITABLE)?;
            }
            match read_line(&mut input, &mut line)? {
                Line::End => break,
                Line::Blank => continue,
                Line::Whole => match parse(&line) {
                    Ok(context) => evaluate(&mut session, &context, &mut output).await?,
                    Err(error) => {
                        code = ExitCode::from(1);
                        write_line(
                            &mut output,
                            &BadLine {
                                error,
                                line: number,
                            },
                        )?;
                    }
                },
                Line::TooLong => {
                    code = ExitCode::from(1);
                    let error = format!("the line is longer than {MAX_LINE} bytes");
                    write_line(
                        &mut output,
                        &BadLine {
                            error,
                            line: number,
                        },
                    )?;
                }
            }
        }
        output.flush().context(output::UNWRITABLE)?;
        Ok(code)
    }
}

fn parse(line: &[u8]) -> Result<Context, String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    Context::from_json(text)
}

/// A policy that fails defers, as in a session, and the next line finds a fresh instance.
async fn evaluate(
    session: &mut PolicySession,
    context: &Context,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    match session.try_decide(context).await {
        Ok(decision) => write_line(output, decision.verdict()),
        Err(mut error) => {
            // It was shown when it was written.
            error.wrote.clear();
            output::tell(&format!("{}\n", printable_lines(&error.to_string())));
            write_line(output, Decision::unavailable(error).verdict())
        }
    }
}

fn write_line(output: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    output::json_line(output, value).context(output::UNWRITABLE)
}
