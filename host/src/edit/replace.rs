//! Files that are replaced as a whole: whoever watches one never sees half of it.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

/// The mode of a file that was not there.
const NEW: u32 = 0o644;

/// Replaces a file in one step: it is on the disk when this ends. One that is there keeps its mode and its owner, and a
/// link its target.
///
/// # Errors
/// If it cannot be written; then the old one is there as it was.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = path.canonicalize();
    let path = target.as_deref().unwrap_or(path);
    let there = path.metadata().ok();
    if there.as_ref().is_some_and(|there| !there.is_file()) {
        return Err(io::Error::other("it is not a regular file"));
    }
    let folder = folder_of(path);
    // Without this, an error names the temporary file.
    folder.metadata()?;
    let mode = there
        .as_ref()
        .map_or(Permissions::from_mode(NEW), |there| there.permissions());
    let mut file = tempfile::Builder::new()
        .permissions(mode)
        .tempfile_in(folder)?;
    if let Some(there) = there {
        let new = file.as_file().metadata()?;
        if (new.uid(), new.gid()) != (there.uid(), there.gid()) {
            fchown(file.as_file(), Some(there.uid()), Some(there.gid())).map_err(|error| {
                io::Error::new(error.kind(), format!("its owner cannot be kept: {error}"))
            })?;
        }
        // The process's umask, and a change of the owner, take some of the mode away.
        file.as_file().set_permissions(there.permissions())?;
    }
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    if let Err(error) = sync_folder(folder) {
        // It is in force; only a power failure could bring the old one back.
        tracing::warn!(file = %path.display(), %error, "the folder cannot be synced");
    }
    Ok(())
}

/// Creates a file as a whole: it is on the disk when this ends.
///
/// # Errors
/// If there is one already, or it cannot be written.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    folder.metadata()?;
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(NEW))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    sync_folder(folder)
}

/// The folder that a file is in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Sees to it that what was created or renamed in a folder is on the disk.
///
/// # Errors
/// If it is not.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
