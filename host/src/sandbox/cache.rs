//! Compiled modules on disk.
//!
//! A compiled module is native code, so loading one is the single place of the host where `unsafe`
//! cannot be avoided. An entry is taken only from a folder that nobody else can write, under the
//! digest of its module and the engine's compatibility hash, and if its own digest holds; anything
//! else is compiled anew.

#![allow(unsafe_code)]

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};
use wasmtime::Engine;
use wasmtime::component::Component;

/// A folder of compiled modules.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made or looked at.
    #[error("the compile cache {}: {source}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could put code there for us to run.
    #[error("the compile cache {} is not ours alone: it must be a folder owned by this user with mode 0700", folder.display())]
    NotOurs {
        /// The folder.
        folder: PathBuf,
    },
}

impl Cache {
    /// Opens the folder; makes it if it is missing.
    ///
    /// # Errors
    /// If it cannot be made, or if others can write to it.
    pub fn open(folder: &Path) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Io {
            folder: folder.into(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(failed)?;
        let metadata = fs::symlink_metadata(folder).map_err(failed)?;
        let ours = metadata.is_dir()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.permissions().mode() & 0o022 == 0;
        if !ours {
            return Err(CacheError::NotOurs {
                folder: folder.into(),
            });
        }
        Ok(Cache {
            folder: folder.into(),
        })
    }

    /// The component, compiled now unless it was before.
    pub(super) fn load_or_compile(
        &self,
        engine: &Engine,
        module: &[u8],
    ) -> wasmtime::Result<Component> {
        let path = self.folder.join(file_name(engine, module));
        if let Some(code) = read_intact(&path) {
            // SAFETY: these bytes came from `precompile_component` of a compatible engine: they stood in a
            // folder that only this user can write, and their digest holds.
            match unsafe { Component::deserialize(engine, &code) } {
                Ok(component) => return Ok(component),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a compiled module is rebuilt")
                }
            }
        }
        let code = engine.precompile_component(module)?;
        if let Err(error) = write(&path, &code) {
            tracing::warn!(path = %path.display(), %error, "a compiled module cannot be kept");
        }
        // SAFETY: these bytes were made by `precompile_component` right here.
        unsafe { Component::deserialize(engine, &code) }
    }
}

fn file_name(engine: &Engine, module: &[u8]) -> String {
    let mut compatibility = Digest(Context::new(&SHA256));
    engine
        .precompile_compatibility_hash()
        .hash(&mut compatibility);
    let engine = compatibility.0.finish();
    format!(
        "{}-{}.cwasm",
        hex(digest(&SHA256, module).as_ref()),
        hex(&engine.as_ref()[..8])
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The code of an entry, if its digest, which stands behind it, holds.
fn read_intact(path: &Path) -> Option<Vec<u8>> {
    let mut code = fs::read(path).ok()?;
    let end = code.len().checked_sub(SHA256_OUTPUT_LEN)?;
    if digest(&SHA256, &code[..end]).as_ref() != &code[end..] {
        tracing::warn!(path = %path.display(), "a compiled module is damaged and is rebuilt");
        return None;
    }
    code.truncate(end);
    Some(code)
}

/// Writes an entry in one step: others see all of it or none.
fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(code)?;
    file.write_all(digest(&SHA256, code).as_ref())?;
    file.persist(path)?;
    Ok(())
}

struct Digest(Context);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}
