//! `portcullis history`, `diff` and `restore`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::review::{Save, editor, save_text};
use crate::cli::output::{self, Format};
use crate::cli::paint::{printable, printable_lines};
use crate::edit::Version;
use crate::edit::effect::difference;

/// List the versions of a rules document that have been saved
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis history rules.json")]
pub struct History {
    /// The rules document
    rules: PathBuf,
    /// How to write the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl History {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let editor = editor(&self.rules)?;
        let versions = editor.versions()?;
        let digest = editor.read()?.digest;
        match self.format {
            Format::Json => output::json(&versions)?,
            Format::Text => {
                let lines: Vec<String> = versions.iter().map(line).collect();
                output::result(&lines.concat())?;
                let last = versions.last();
                if last.is_some_and(|last| last.digest != digest) {
                    output::tell(
                        "the file has been changed since, without portcullis; the next save keeps that as a version\n",
                    );
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn line(version: &Version) -> String {
    let author = match version.author.as_str() {
        "" => "-".into(),
        author => printable(author),
    };
    let comment = match version.comment.as_str() {
        "" => String::new(),
        comment => format!(": {}", printable(comment)),
    };
    let Version {
        version: number,
        time,
        action,
        ..
    } = version;
    format!(
        "{number:>4}  {time}  {author}  {}{comment}\n",
        printable(action)
    )
}

/// Show how versions of a rules document differ
///
/// Exits with 0 if they are the same, with 1 if they differ.
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis diff rules.json 3")]
pub struct Diff {
    /// The rules document
    rules: PathBuf,
    /// The version to compare; the one before the last if left out
    from: Option<u64>,
    /// The version to compare it with; the file as it is if left out
    to: Option<u64>,
}

impl Diff {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let editor = editor(&self.rules)?;
        let now = editor.read()?;
        let from = match self.from {
            Some(version) => version,
            None => {
                let versions = editor.versions()?;
                let other = versions
                    .iter()
                    .rev()
                    .find(|version| version.digest != now.digest);
                match other {
                    Some(version) => version.version,
                    None => return Ok(ExitCode::SUCCESS),
                }
            }
        };
        let before = editor.content(from)?;
        let (after, name) = match self.to {
            Some(version) => (editor.content(version)?, format!("version {version}")),
            None => (now.text, "now".into()),
        };
        let difference = difference(&before, &after, (&format!("version {from}"), &name));
        // For patch(1) it stays as it is.
        match std::io::stdout().is_terminal() {
            true => output::result(&printable_lines(&difference))?,
            false => output::result(&difference)?,
        }
        Ok(match before == after {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(1),
        })
    }
}

/// Put a version of a rules document into force again
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis restore rules.json 3 --yes")]
pub struct Restore {
    /// The rules document
    rules: PathBuf,
    /// The version
    version: u64,
    #[command(flatten)]
    save: Save,
}

impl Restore {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let editor = editor(&self.rules)?;
        let before = editor.read()?;
        let after = editor.content(self.version)?;
        let action = format!("restore version {}", self.version);
        save_text(&editor, &self.save, before, after, action, &[]).await
    }
}
