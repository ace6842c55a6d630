//! Whose signatures policies need, and what was accepted of them.

mod keys;
mod ledger;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis::read_file;
use portcullis::statement::{
    Accepted, Envelope, Ledger, LedgerError, Roots, Subject, Trust, VerifyError,
};

pub use self::keys::{private_key, public_key, write_key};
pub use self::ledger::{DiskLedger, DiskLedgerError, Kept, Write};
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

/// Whose signatures policies need, and where what was accepted is kept.
#[derive(Clone)]
pub struct Trusted {
    /// The operators' keys, and what was accepted.
    pub trust: Arc<Trust>,
    /// Where that is kept.
    pub disk: Arc<DiskLedger>,
}

/// Whose signatures policies need; `None` if they need none. What there was before goes on with the keys that are in
/// the file now; without, `ledger` opens what was accepted.
///
/// # Errors
/// Why that cannot be told: then no policy can be taken.
pub fn open(
    config: &Config,
    before: Option<&Trusted>,
    ledger: fn(&Path) -> Result<DiskLedger, DiskLedgerError>,
) -> Result<Option<Trusted>, TrustError> {
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
        let (known, roots) = (before.trust.roots(), newest(roots, &before.disk)?);
        // A newer one may have come over the network just now.
        let is_older = roots.first_digest() == known.first_digest()
            && roots.newest().version < known.newest().version;
        if !is_older {
            before.trust.exchange(roots);
        }
        return Ok(Some(before.clone()));
    }
    let folder = config.delivery.state_folder();
    let folder = folder.ok_or(TrustError::NoFolder)?;
    let disk = Arc::new(ledger(&ledger::place(&folder, &config.path))?);
    let trust = Arc::new(Trust::new(newest(roots, &disk)?, disk.clone()));
    Ok(Some(Trusted { trust, disk }))
}

/// The root statements of the file, and those that have come since over a network.
fn newest(mut roots: Roots, disk: &DiskLedger) -> Result<Roots, TrustError> {
    for kept in disk.roots()? {
        // Those that the file has, or that follow another first one, do not follow.
        let next = Envelope::read(kept.as_bytes()).ok();
        if let Some(next) = next.and_then(|next| roots.followed_by(&next).ok()) {
            roots = next;
        }
    }
    Ok(roots)
}

/// Nothing was accepted before: for whoever signs and publishes, and is no host.
#[derive(Debug)]
pub struct NoLedger;

impl Ledger for NoLedger {
    fn accepted(&self, _: Subject, _: &str) -> Result<Option<Accepted>, LedgerError> {
        Ok(None)
    }

    fn accept(&self, _: Subject, _: &str, _: &Accepted) -> Result<(), LedgerError> {
        Ok(())
    }
}
