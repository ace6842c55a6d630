//! Why a tenant's policy is not taken.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_types::{Problem, Severity};

use crate::cases::CasesError;
use crate::sandbox::documents::DocumentError;
use crate::sandbox::policy::LoadError;
use crate::statement::VerifyError;

/// A tenant's policy file was not taken.
#[derive(Debug, thiserror::Error)]
#[error("tenant {tenant}: {cause}")]
#[non_exhaustive]
pub struct PolicyError {
    /// The tenant.
    pub tenant: String,
    /// Why.
    pub cause: Cause,
}

/// Why a policy file was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is neither a `.json` nor a `.wasm` file, or not UTF-8.
    #[error("{}: {reason}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The document has errors.
    #[error("{}", rejected(path, problems))]
    Rejected {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
    /// The document could not be read.
    #[error("{}: {source}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DocumentError,
    },
    /// The component was not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It does not do what it must.
    #[error("{}: {source}", path.display())]
    Fails {
        /// The file.
        path: PathBuf,
        /// What it does.
        source: CasesError,
    },
    /// Nobody has signed it, and somebody must.
    #[error("policies are signed here, and there is no {}", .0.display())]
    Unsigned(
        /// The file of the statement.
        PathBuf,
    ),
    /// The statement about it, or about the tenant, is not taken.
    #[error("{}: {source}", path.display())]
    Statement {
        /// The file that it is in, or the policy that it is about.
        path: PathBuf,
        /// Why.
        source: VerifyError,
    },
    /// It is no domain, nor `*.` and one.
    #[error("{0}: it is not a domain")]
    Domain(String),
    /// The domain is another tenant's.
    #[error("{domain}: it is a domain of tenant {owner}")]
    DomainTaken {
        /// The domain, in normal form.
        domain: String,
        /// Whose it is.
        owner: Arc<str>,
    },
    /// Another tenant has the name, and counts.
    #[error("there is another tenant of this name")]
    NameTaken,
    /// Reading it was given up, which no file should bring about.
    #[error("{}: it could not be read: the reader panicked", .0.display())]
    Panicked(PathBuf),
}

fn rejected(path: &Path, problems: &[Problem]) -> String {
    let mut errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error);
    let Some(first) = errors.next() else {
        return format!("{}: rejected", path.display());
    };
    let more = match errors.count() {
        0 => String::new(),
        more => format!(" (and {more} more errors)"),
    };
    let Problem {
        line,
        column,
        message,
        ..
    } = first;
    format!("{}:{line}:{column}: {message}{more}", path.display())
}
