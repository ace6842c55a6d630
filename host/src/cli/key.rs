//! `portcullis key`: keys that sign statements.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output;
use crate::trust::{public_key, write_key};
use portcullis::statement::SigningKey;

/// Make and show keys that sign statements about policies (Ed25519)
#[derive(Args)]
pub struct KeyCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    New(NewKey),
    Show(ShowKey),
}

/// Make a key: the private half in FILE, the public half in FILE.pub
///
/// Both are PEM. Neither replaces a file that is there. Whoever has FILE can sign: keep it where policies are signed,
/// and not on mail servers.
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis key new ops-2026.pem")]
struct NewKey {
    /// The file for the private half
    file: PathBuf,
}

/// Show by which name envelopes call a key
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis key show ops-2026.pem.pub")]
struct ShowKey {
    /// The file of either half
    file: PathBuf,
}

impl KeyCommand {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::New(NewKey { file }) => {
                let key = SigningKey::generate()?;
                write_key(&key, &file, &public_half(&file))?;
                output::result(&format!("{}\n", key.public().id()))?;
            }
            What::Show(ShowKey { file }) => {
                output::result(&format!("{}\n", public_key(&file)?.id()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Where the public half of a key is.
fn public_half(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}
