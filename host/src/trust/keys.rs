//! Files of keys (PEM, RFC 7468), as OpenSSL has them.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use openssl::pkey::PKey;
use portcullis::read_file;
use portcullis::statement::{KeyError, PublicKey, SigningKey};

/// The mode of a file that its owner alone may use.
const PRIVATE: u32 = 0o600;
/// The largest file of a key.
const MOST: (usize, &str) = (64 << 10, "the limit of keys");

/// A file of a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no such key.
    #[error("{}: {reason}; `portcullis key new` and `openssl genpkey -algorithm ed25519` make such keys", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: KeyError,
    },
}

/// Reads a private key. OpenSSL asks for the password of one that has one.
///
/// # Errors
/// If it cannot be read, or is none of Ed25519.
pub fn private_key(path: &Path) -> Result<SigningKey, KeyFileError> {
    let pem = read(path)?;
    let wrong = |reason| KeyFileError::Key {
        path: path.into(),
        reason,
    };
    let der = PKey::private_key_from_pem(&pem).and_then(|key| key.private_key_to_pkcs8());
    let der = der.map_err(|_| wrong(KeyError::Private))?;
    SigningKey::from_der(&der).map_err(wrong)
}

/// Reads a public key, or the public half of a private one.
///
/// # Errors
/// If it cannot be read, or is none of Ed25519.
pub fn public_key(path: &Path) -> Result<PublicKey, KeyFileError> {
    let pem = read(path)?;
    let Ok(key) = PKey::public_key_from_pem(&pem) else {
        return Ok(private_key(path)?.public());
    };
    let der = key.public_key_to_der();
    let public = der.map_err(|_| KeyError::Public);
    let public = public.and_then(|der| PublicKey::from_der(&der));
    public.map_err(|reason| KeyFileError::Key {
        path: path.into(),
        reason,
    })
}

/// Writes a key into a new file, and its public half into another; neither replaces what is there.
///
/// # Errors
/// If one of them is there, or cannot be written.
pub fn write_key(key: &SigningKey, path: &Path, public: &Path) -> Result<(), KeyFileError> {
    let wrong = |reason| KeyFileError::Key {
        path: path.into(),
        reason,
    };
    let der = key.to_der().map_err(wrong)?;
    let private = PKey::private_key_from_der(&der).and_then(|key| {
        let halves = (key.private_key_to_pem_pkcs8()?, key.public_key_to_pem()?);
        Ok(halves)
    });
    let (private_pem, public_pem) = private.map_err(|_| wrong(KeyError::Private))?;
    write_new(path, PRIVATE, &private_pem)?;
    write_new(public, 0o644, &public_pem)
}

fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), KeyFileError> {
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(path);
    let written = file.and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|source| KeyFileError::File {
        path: path.into(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    read_file(path, MOST).map_err(|source| KeyFileError::File {
        path: path.into(),
        source,
    })
}
