//! `portcullis trust`: who the operators are, whose signatures hosts take.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::output;
use super::paint::printable;
use super::policy::read;
use super::sign::{end, key_name, key_set, put};
use super::signed::read_statement;
use crate::edit::replace::{create, replace};
use crate::trust::{private_key, public_key, read_roots};
use portcullis::statement::{Envelope, KeySet, NamedKey, Root, Roots, Time, VerifyError};

/// Say who the operators are, whose signatures hosts take
///
/// A root statement names the operators' keys. Hosts have it as [trust] policy-root.
#[derive(Args)]
pub struct TrustCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    New(NewRoot),
    Rotate(Rotate),
    Append(Append),
    Show(ShowRoot),
}

/// Make the first root statement
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis trust new root.json --key ops-2026.pem
  portcullis trust new root.json --key alice.pem --key bob.pem --operator carol.pem.pub --threshold 2")]
struct NewRoot {
    /// The file of root statements
    root: PathBuf,
    #[command(flatten)]
    operators: Operators,
}

/// Name other operators: with the next root statement
///
/// It is signed by the operators before and by those that it names, so many of each as their thresholds say. If all
/// signatures are there, it is appended to the file; otherwise it is in NAME.next.json until `portcullis sign add` and
/// `portcullis trust append` have completed it.
#[derive(Args)]
#[command(
    after_help = "Example:\n  portcullis trust rotate root.json --key ops-2026.pem --key ops-2027.pem --operator ops-2027.pem.pub"
)]
struct Rotate {
    /// The file of root statements
    root: PathBuf,
    #[command(flatten)]
    operators: Operators,
}

/// Append the next root statement, once all have signed it
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis trust append root.json root.next.json")]
struct Append {
    /// The file of root statements
    root: PathBuf,
    /// The next one
    next: PathBuf,
}

/// Show the operators, and how long their keys are good
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis trust show root.json")]
struct ShowRoot {
    /// The file of root statements
    root: PathBuf,
}

#[derive(Args)]
struct Operators {
    /// A private key that signs the statement; may be given several times
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// The public key of an operator, with the name for it: NAME=FILE or FILE; may be given several times [default: the
    /// keys that sign]
    #[arg(long = "operator", value_name = "FILE")]
    operators: Vec<String>,
    /// How many operators must sign
    #[arg(long, default_value_t = 1)]
    threshold: usize,
    /// How long the keys are good; nothing new is taken afterwards
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = humantime::parse_duration)]
    expires: Duration,
}

impl Operators {
    fn envelope(&self, version: u64) -> anyhow::Result<Envelope> {
        let root = Root {
            version,
            created: Time::now(),
            expires: end(self.expires)?,
            operators: self.key_set()?,
        };
        let mut envelope = Envelope::of(&root)?;
        for key in &self.keys {
            envelope.sign(&private_key(key)?);
        }
        Ok(envelope)
    }

    fn key_set(&self) -> anyhow::Result<KeySet> {
        if !self.operators.is_empty() {
            return key_set(&self.operators, self.threshold);
        }
        let keys = self.keys.iter().map(|file| {
            let key = public_key(file)?;
            Ok(NamedKey {
                name: key_name(file),
                key,
            })
        });
        Ok(KeySet {
            keys: keys.collect::<anyhow::Result<_>>()?,
            threshold: self.threshold,
        })
    }
}

impl TrustCommand {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::New(command) => command.run(),
            What::Rotate(command) => command.run(),
            What::Append(Append { root, next }) => {
                let envelope = read_statement(&next)?;
                append(&root, &envelope).with_context(|| next.display().to_string())?;
                show(&root)
            }
            What::Show(ShowRoot { root }) => show(&root),
        }
    }
}

impl NewRoot {
    fn run(self) -> anyhow::Result<ExitCode> {
        let line = self.operators.envelope(1)?.to_json() + "\n";
        Roots::read(line.as_bytes())?;
        let made = create(&self.root, line.as_bytes());
        made.with_context(|| format!("cannot make {}", self.root.display()))?;
        show(&self.root)
    }
}

impl Rotate {
    fn run(self) -> anyhow::Result<ExitCode> {
        let before = read_roots(&self.root)?;
        let envelope = self.operators.envelope(before.newest().version + 1)?;
        match before.followed_by(&envelope) {
            Ok(_) => append(&self.root, &envelope)?,
            Err(error @ VerifyError::Signatures { .. }) => {
                let next = self.root.with_extension("next.json");
                put(&next, &envelope)?;
                bail!(
                    "{error}. The statement is in {0}: let the others sign it (portcullis sign add {0} --key FILE), and append it (portcullis trust append {1} {0})",
                    next.display(),
                    self.root.display()
                );
            }
            Err(error) => return Err(error.into()),
        }
        show(&self.root)
    }
}

/// Appends a root statement that follows the newest of a file.
fn append(root: &Path, next: &Envelope) -> anyhow::Result<()> {
    read_roots(root)?.followed_by(next)?;
    let mut text = read(root)?;
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(next.to_json().as_bytes());
    text.push(b'\n');
    replace(root, &text).with_context(|| format!("cannot write {}", root.display()))
}

fn show(root: &Path) -> anyhow::Result<ExitCode> {
    let roots = read_roots(root)?;
    let newest = roots.newest();
    let operators = &newest.operators;
    let mut text = format!(
        "{}: root {}, good until {}; {} of {} operators must sign\n",
        root.display(),
        newest.version,
        newest.expires,
        operators.threshold,
        operators.keys.len()
    );
    for named in &operators.keys {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}  {}", named.key.id(), printable(&named.name));
    }
    output::result(&text)?;
    Ok(ExitCode::SUCCESS)
}
