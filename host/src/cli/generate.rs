//! `portcullis generate`: what a package ships beside the program, made from the definitions of the commands.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Command, Subcommand};
use clap_complete::Shell;

use super::output;

/// Make the manual pages, or the completions of a shell
#[derive(Args)]
#[command(
    after_help = "Examples:\n  portcullis generate man /usr/local/share/man/man1\n  portcullis generate completions bash > /usr/share/bash-completion/completions/portcullis"
)]
pub struct Generate {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A manual page for each command, into a folder
    Man {
        /// The folder
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// What a shell completes a command line with, to standard output
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Generate {
    /// Runs the command, with the definitions of all commands.
    pub fn run(self, mut all: Command) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Man { folder } => {
                fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
                clap_mangen::generate_to(all, &folder)
                    .with_context(|| folder.display().to_string())?;
            }
            What::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut all, "portcullis", &mut script);
                output::result(&String::from_utf8_lossy(&script))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
