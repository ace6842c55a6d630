//! Tokens, which let somebody in: only their digests are kept, in a file, and they expire.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::edit::replace::{folder_of, sync_folder};
use portcullis::store::FileVersion;

/// What a token begins with, so that those who look for leaked secrets find it.
const PREFIX: &str = "portcullis_";
/// Octets of a secret.
const SECRET: usize = 32;
/// The largest file of tokens.
const LARGEST: u64 = 4 << 20;
const FILE: &str = "admin-tokens.json";
/// The mode of a file that its owner alone may use.
const PRIVATE: u32 = 0o600;

/// What the bearer of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Everything, for all tenants
    Operator,
    /// Everything, for the tenants that are named
    Tenant,
    /// See, and change nothing; for all tenants, or those that are named
    Read,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Token {
    /// By which it is revoked.
    pub id: String,
    /// Whose it is, for the history and the log.
    pub name: String,
    /// The SHA-256 of the whole token, as hex digits.
    pub sha256: String,
    /// What it is for.
    pub scope: Scope,
    /// The tenants that it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenants: Vec<String>,
    /// When it expires: RFC 3339.
    pub expires: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    tokens: Vec<Token>,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// There is none like it.
    Unknown,
    /// Its time is over.
    Expired,
    /// The tokens cannot be read.
    Unreadable,
}

/// The tokens of a server.
pub struct Tokens {
    path: PathBuf,
    known: Mutex<Option<(FileVersion, Arc<Vec<Token>>)>>,
}

impl Token {
    /// Whether it is for a tenant.
    pub fn is_for(&self, tenant: &str) -> bool {
        match self.scope {
            Scope::Operator => true,
            Scope::Tenant => self.tenants.iter().any(|it| it == tenant),
            Scope::Read => self.tenants.is_empty() || self.tenants.iter().any(|it| it == tenant),
        }
    }

    /// Whether its bearer may change something.
    pub fn may_write(&self) -> bool {
        self.scope != Scope::Read
    }

    fn is_expired(&self) -> bool {
        let end = OffsetDateTime::parse(&self.expires, &Rfc3339);
        end.map_or(true, |end| end <= OffsetDateTime::now_utc())
    }
}

/// The file of tokens, in the folder of what outlives the process.
pub fn default_place(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

impl Tokens {
    /// Those in a file, which is read when somebody asks, and again after it has changed.
    pub fn new(path: PathBuf) -> Self {
        Tokens {
            path,
            known: Mutex::default(),
        }
    }

    /// The token that somebody shows.
    ///
    /// # Errors
    /// Why it lets nobody in.
    pub fn find(&self, shown: &str) -> Result<Token, NotTaken> {
        let known = self.read().map_err(|error| {
            tracing::error!(file = %self.path.display(), %error, "tokens cannot be read; nobody is let in");
            NotTaken::Unreadable
        })?;
        let shown = hex(digest(&SHA256, shown.as_bytes()).as_ref());
        // All are compared, each in the same time, whatever is shown.
        let mut found = None;
        for token in known.iter() {
            let is_it = verify_slices_are_equal(token.sha256.as_bytes(), shown.as_bytes()).is_ok();
            if is_it {
                found = Some(token);
            }
        }
        match found {
            None => Err(NotTaken::Unknown),
            Some(token) if token.is_expired() => Err(NotTaken::Expired),
            Some(token) => Ok(token.clone()),
        }
    }

    /// Whether a token that was found still holds.
    pub fn holds(&self, token: &Token) -> bool {
        let known = self.read().unwrap_or_default();
        !token.is_expired() && known.contains(token)
    }

    fn read(&self) -> io::Result<Arc<Vec<Token>>> {
        let version = match FileVersion::of(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            version => version?,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, tokens)) = &*known
            && *of == version
            && version.is_settled()
        {
            return Ok(tokens.clone());
        }
        let tokens = Arc::new(read(&self.path)?.tokens);
        *known = Some((version, tokens.clone()));
        Ok(tokens)
    }
}

fn read(path: &Path) -> io::Result<Content> {
    let bytes = match portcullis::read_file(path, (LARGEST as usize, "the size of a token file")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
        bytes => bytes?,
    };
    serde_json::from_slice(&bytes).map_err(io::Error::other)
}

/// Makes a token, and gives it with its secret, which is shown once.
///
/// # Errors
/// If it cannot be kept.
pub fn create(
    path: &Path,
    name: &str,
    scope: Scope,
    tenants: Vec<String>,
    lifetime: Duration,
) -> io::Result<(Token, String)> {
    let mut secret = [0; SECRET];
    let mut id = [0; 4];
    for octets in [&mut secret[..], &mut id[..]] {
        aws_lc_rs::rand::fill(octets).map_err(|_| io::Error::other("no randomness"))?;
    }
    let secret = format!("{PREFIX}{}", hex(&secret));
    let end = OffsetDateTime::now_utc() + lifetime;
    let end = end.replace_nanosecond(0).unwrap_or(end);
    let token = Token {
        id: hex(&id),
        name: name.into(),
        sha256: hex(digest(&SHA256, secret.as_bytes()).as_ref()),
        scope,
        tenants,
        expires: end.format(&Rfc3339).map_err(io::Error::other)?,
    };
    change(path, |tokens| {
        tokens.retain(|token| !token.is_expired());
        tokens.push(token.clone());
    })?;
    Ok((token, secret))
}

/// All tokens.
///
/// # Errors
/// If they cannot be read.
pub fn list(path: &Path) -> io::Result<Vec<Token>> {
    Ok(read(path)?.tokens)
}

/// Takes a token back; false if there is none with that id.
///
/// # Errors
/// If that cannot be written.
pub fn revoke(path: &Path, id: &str) -> io::Result<bool> {
    let mut is_found = false;
    change(path, |tokens| {
        let before = tokens.len();
        tokens.retain(|token| token.id != id);
        is_found = tokens.len() < before;
    })?;
    Ok(is_found)
}

/// Changes the file, while nobody else does. A new one belongs to whom its folder belongs to: the server, which another
/// user may administer. That user may have put links there, which are not followed.
fn change(path: &Path, change: impl FnOnce(&mut Vec<Token>)) -> io::Result<()> {
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    let lock = open_lock(&path.with_extension("lock"), folder)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let mut content = match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_symlink() => {
            return Err(io::Error::other("there is a link in its place"));
        }
        _ => read(path)?,
    };
    change(&mut content.tokens);
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(PRIVATE))
        .tempfile_in(folder)?;
    give(file.as_file(), folder)?;
    file.write_all(&serde_json::to_vec_pretty(&content)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(folder)
}

/// Opens the file that is locked.
fn open_lock(path: &Path, folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .append(true)
        .mode(PRIVATE)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            give(&file, folder)?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

/// Makes a file that we have just created belong to whom its folder belongs to.
fn give(file: &File, folder: &Path) -> io::Result<()> {
    let (own, folder) = (file.metadata()?, folder.metadata()?);
    match own.uid() == folder.uid() {
        true => Ok(()),
        false => fchown(file, Some(folder.uid()), Some(folder.gid())),
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_is_found_until_it_expires_or_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        let tokens = Tokens::new(path.clone());
        assert_eq!(tokens.find("x").unwrap_err(), NotTaken::Unknown);
        let make = |lifetime| create(&path, "a", Scope::Tenant, vec!["contoso".into()], lifetime);
        let (token, secret) = make(HOUR).unwrap();
        assert_eq!(tokens.find(&secret).unwrap(), token);
        assert!(token.is_for("contoso") && !token.is_for("fabrikam"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains(&secret[PREFIX.len()..]),
            "only the digest is kept"
        );
        let (_, other) = make(Duration::ZERO).unwrap();
        assert_eq!(tokens.find(&other).unwrap_err(), NotTaken::Expired);
        assert!(revoke(&path, &token.id).unwrap());
        assert!(!revoke(&path, &token.id).unwrap());
        assert_eq!(tokens.find(&secret).unwrap_err(), NotTaken::Unknown);
    }

    #[test]
    fn damaged_tokens_let_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        fs::write(&path, "{").unwrap();
        let found = Tokens::new(path.clone()).find("x");
        assert_eq!(found.unwrap_err(), NotTaken::Unreadable);
        assert!(create(&path, "a", Scope::Operator, Vec::new(), HOUR).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "{");
    }
}
