//! Files that policies are in: telling whether one has changed, and reading it whole.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use rustix::fs::OFlags;

/// Seconds after which a file that is changed again has another time of change.
const SETTLING: i64 = 2;

/// What the file system tells of a file: it need not be read again while this is the same.
#[derive(Clone, PartialEq)]
pub struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether a further change would have shown: clocks of file systems tick slowly.
    settled: bool,
}

impl FileVersion {
    /// The stamp of a file as it is now.
    pub fn of(path: &Path) -> io::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs() as i64);
        let metadata = fs::metadata(path)?;
        Ok(FileVersion {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            settled: now - metadata.ctime() > SETTLING,
        })
    }

    /// Whether both are of the same file, as far as can be told, though a further change may not have shown then.
    pub fn looks_like(&self, other: &FileVersion) -> bool {
        let settled = other.settled;
        *other
            == FileVersion {
                settled,
                ..self.clone()
            }
    }

    /// Whether a further change would have another stamp.
    pub fn is_settled(&self) -> bool {
        self.settled
    }
}

/// Reads a file of at most so many octets, a limit of that name.
///
/// # Errors
/// If it cannot be read, or is larger. What is no file, such as a pipe, would never end, or be waited for.
pub fn read(path: &Path, (most, name): (usize, &str)) -> io::Result<Vec<u8>> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take((most as u64).saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() > most {
        let text = format!("it is larger than {} ({name})", ByteSize(most as u64));
        return Err(io::Error::other(text));
    }
    Ok(bytes)
}
