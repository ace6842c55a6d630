//! `portcullis evaluate`: contexts in, verdicts out, a line each.

use std::io::{self, BufRead, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::paint::printable_lines;
use super::{
    output,
    policy::{self, PolicyArgs},
};
use portcullis::{Context, Decision, PolicySession};

mod logged;

/// No context is longer; a line that is has no end in sight.
const MAX_LINE: usize = 1 << 20;

/// Evaluate contexts: one JSON object a line in, one verdict a line out
///
/// A line that is no context gives {"error": …, "line": N} in its place, and exit code 1 at the end.
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
            return logged::evaluate(path, self.diff, &mut session).await;
        }
        let mut input = io::stdin().lock();
        let mut output = BufWriter::new(io::stdout().lock());
        let mut line = Vec::new();
        let mut code = ExitCode::SUCCESS;
        for number in 1.. {
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
        Err(error) => {
            output::tell(&format!("{}\n", printable_lines(&error.to_string())));
            write_line(output, Decision::unavailable(error).verdict())
        }
    }
}

fn write_line(output: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    output::json_line(output, value).context(output::UNWRITABLE)
}

enum Line {
    Whole,
    Blank,
    TooLong,
    End,
}

/// Reads a line without its end; one that is too long is skipped, not kept.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let mut length = 0;
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            if length == 0 {
                return Ok(Line::End);
            }
            break;
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        length += part.len();
        if length <= MAX_LINE {
            line.extend_from_slice(part);
        }
        let consumed = part.len() + usize::from(end.is_some());
        length += usize::from(end.is_some() && length == 0);
        input.consume(consumed);
        if end.is_some() {
            break;
        }
    }
    Ok(match length {
        _ if length > MAX_LINE => Line::TooLong,
        _ if line.iter().all(u8::is_ascii_whitespace) => Line::Blank,
        _ => Line::Whole,
    })
}
