//! `portcullis new`: a folder to begin with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};

use super::output;

/// What stands for the name in files and their names.
const PLACEHOLDER: &str = "my-policy";
/// Characters of a name: that of a crate, a package and a file.
const LONGEST_NAME: usize = 64;

/// Make a folder to begin with
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis new policy --language rust my-policy")]
pub struct New {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Policy(NewPolicy),
}

/// A policy in another language: a program that builds and passes its tests
#[derive(Args)]
struct NewPolicy {
    /// The folder, whose last part is the policy's name
    folder: PathBuf,
    /// The language
    #[arg(long, value_enum)]
    language: Language,
}

#[derive(Clone, Copy, ValueEnum)]
enum Language {
    Rust,
    Javascript,
    Python,
    C,
}

/// A file of a folder: its name, and what is in it.
type File = (&'static str, &'static str);

macro_rules! files {
    ($($name:literal: $path:literal,)*) => {
        &[$(($name, include_str!(concat!("../../templates/", $path)))),*]
    };
}

/// The files of all languages.
const COMMON: &[File] = files! {
    "my-policy.tests.json": "my-policy.tests.json",
};

impl Language {
    fn files(self) -> &'static [File] {
        match self {
            Language::Rust => files! {
                "Cargo.toml": "rust/Cargo.toml.in",
                "src/lib.rs": "rust/lib.rs",
                "portcullis-policy/Cargo.toml": "../../bindings/rust/Cargo.toml",
                "portcullis-policy/src/lib.rs": "../../bindings/rust/src/lib.rs",
                "portcullis-policy/wit/policy.wit": "../../wit/policy.wit",
                "portcullis-policy/wit/middleware.wit": "../../wit/middleware/middleware.wit",
                "Makefile": "rust/Makefile",
                "README.md": "rust/README.md",
                ".gitignore": "rust/gitignore",
            },
            Language::Javascript => files! {
                "package.json": "javascript/package.json",
                "wit/policy.wit": "../../wit/policy.wit",
                "policy.js": "javascript/policy.js",
                "Makefile": "javascript/Makefile",
                "README.md": "javascript/README.md",
                ".gitignore": "javascript/gitignore",
            },
            Language::Python => files! {
                "requirements.txt": "python/requirements.txt",
                "wit/policy.wit": "../../wit/policy.wit",
                "policy.py": "python/policy.py",
                "Makefile": "python/Makefile",
                "README.md": "python/README.md",
                ".gitignore": "python/gitignore",
            },
            Language::C => files! {
                "wit/policy.wit": "../../wit/policy.wit",
                "policy.c": "c/policy.c",
                "interface.c": "c/interface.c",
                "interface.h": "c/interface.h",
                "Makefile": "c/Makefile",
                "README.md": "c/README.md",
                ".gitignore": "c/gitignore",
            },
        }
    }
}

impl New {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let What::Policy(policy) = self.what;
        policy.run()
    }
}

impl NewPolicy {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let folder = self.folder.display();
        let name = self.folder.file_name().and_then(|name| name.to_str());
        let name = name.filter(|name| is_name(name)).with_context(|| {
            format!("{folder}: a name has a-z, 0-9 and -, and begins with a letter")
        })?;
        if self.folder.symlink_metadata().is_ok() {
            bail!("{folder} is there already");
        }
        for (path, content) in COMMON.iter().chain(self.language.files()) {
            let path = self.folder.join(path.replace(PLACEHOLDER, name));
            write(&path, &content.replace(PLACEHOLDER, name))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        output::tell(&format!("{folder}: README.md says how it is built\n"));
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether Cargo, npm and make take it for a name.
fn is_name(name: &str) -> bool {
    let of_name = |it: char| matches!(it, 'a'..='z' | '0'..='9' | '-');
    name.len() <= LONGEST_NAME
        && name.starts_with(|it: char| it.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(of_name)
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)
}
