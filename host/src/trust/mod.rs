//! Whose signatures policies need, and what was accepted of them.

mod keys;
mod ledger;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis::read_file;
use portcullis::statement::{Roots, Trust, VerifyError};

pub use self::keys::{private_key, public_key, write_key};
pub use self::ledger::{DiskLedger, DiskLedgerError};
use crate::config::{self, Config};

/// The largest file of root statements.
const MOST: (usize, &str) = (4 << 20, "the limit of root statements");

/// Nobody's signatures can be told from others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The root statements cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The root statements are not what they must be.
    #[error("{}: {source}", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// Why.
        source: VerifyError,
    },
    /// There is no folder for what was accepted.
    #[error(
        "[trust] policies = \"signed\" needs a folder to remember in what was accepted; set [delivery] state-directory"
    )]
    NoFolder,
    /// What was accepted cannot be told.
    #[error(transparent)]
    Ledger(#[from] DiskLedgerError),
}

/// Reads root statements.
///
/// # Errors
/// What is wrong with the file.
pub fn read_roots(path: &Path) -> Result<Roots, TrustError> {
    let bytes = read_file(path, MOST).map_err(|source| TrustError::Read {
        path: path.into(),
        source,
    })?;
    Roots::read(&bytes).map_err(|source| TrustError::Root {
        path: path.into(),
        source,
    })
}

/// Whose signatures policies need; `None` if they need none. What there was before goes on with the keys that are in
/// the file now; without, `ledger` opens what was accepted.
///
/// # Errors
/// Why that cannot be told: then no policy can be taken.
pub fn open(
    config: &Config,
    before: Option<&Arc<Trust>>,
    ledger: fn(&Path) -> Result<DiskLedger, DiskLedgerError>,
) -> Result<Option<Arc<Trust>>, TrustError> {
    let config::Trust {
        policies,
        policy_root,
        ..
    } = &config.trust;
    let (config::Policies::Signed, Some(root)) = (policies, policy_root) else {
        return Ok(None);
    };
    let roots = read_roots(root)?;
    if let Some(before) = before {
        before.exchange(roots);
        return Ok(Some(before.clone()));
    }
    let folder = config.delivery.state_folder();
    let folder = folder.ok_or(TrustError::NoFolder)?;
    let place = ledger::place(&folder, &config.path);
    Ok(Some(Arc::new(Trust::new(roots, ledger(&place)?))))
}
