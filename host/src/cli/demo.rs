//! `portcullis demo`: the page without a server.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::output;
use super::paint::printable;
use crate::admin::page;

/// Write the page into a folder, to be tried out without a server
///
/// Any web server shows it: the evaluator runs in the browser, on example connectors and invented mail. What is changed
/// is forgotten when the page is closed.
#[derive(Args)]
#[command(after_help = "Example:
  portcullis demo page && python3 -m http.server --directory page")]
pub struct DemoCommand {
    /// The folder
    folder: PathBuf,
}

impl DemoCommand {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        for (name, content) in page::demo()? {
            let path = self.folder.join(name);
            let folder = path.parent().unwrap_or(&self.folder);
            let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, content));
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        output::result(&format!(
            "{}: a web server that serves this folder shows the page\n",
            printable(&self.folder.display().to_string())
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}
