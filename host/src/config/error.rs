//! Why a configuration cannot be used.

use std::path::PathBuf;

use super::problem::Problem;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{problem}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What.
        problem: Box<Problem>,
    },
    /// There is something in it that TOML cannot say, such as a path that is not UTF-8.
    #[error(transparent)]
    Show(#[from] toml::ser::Error),
}
