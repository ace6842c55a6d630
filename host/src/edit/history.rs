//! The versions of a file, in a folder beside it: `rules.json.history/` has a log, a line a version, and the content of
//! each, named by its digest.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::digest::digest_of;
use super::replace::{self, replace, sync_folder};

/// Versions that are kept, and the octets that all but the last ones may take.
const MOST_VERSIONS: usize = 1000;
const MOST_OCTETS: u64 = 256 << 20;
/// Versions that are kept whatever they take.
const LEAST_VERSIONS: usize = 10;

/// The mode of a file that its owner alone may use.
const PRIVATE: u32 = 0o600;

/// Links are not followed.
const NO_LINK: i32 = OFlags::NOFOLLOW.bits() as i32;

const LOG: &str = "log.jsonl";
const LOCK: &str = "lock";

/// A version of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Version {
    /// Its number: the first is 1.
    pub version: u64,
    /// When it was saved: RFC 3339, in UTC.
    pub time: String,
    /// Who saved it; empty if that is not known.
    #[serde(default)]
    pub author: String,
    /// What was done, such as `add "Contoso Bank"`.
    #[serde(default)]
    pub action: String,
    /// Why, in the author's words.
    #[serde(default)]
    pub comment: String,
    /// The SHA-256 of the content, as hex digits.
    pub digest: String,
}

/// The versions of a file. They are this process's to change as long as this lives.
pub struct History {
    folder: PathBuf,
    versions: Vec<Version>,
    /// Whether the log ends with a whole line.
    is_whole: bool,
    /// Who may read the file may read its versions too, and nobody else.
    mode: u32,
    /// Whose it is: its versions are the same user's, whoever makes them.
    owner: Option<(u32, u32)>,
    _lock: Option<File>,
}

impl History {
    /// Reads the versions of a file, of which there may be none.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn read(file: &Path) -> io::Result<Self> {
        let folder = folder_of(file);
        let text = match fs::read(folder.join(LOG)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            text => text?,
        };
        // It may be cut off within a character.
        let text = String::from_utf8_lossy(&text);
        // A line that was cut off by a power failure belongs to a version that was never in force.
        let versions = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        Ok(History {
            versions: versions.collect(),
            is_whole: text.is_empty() || text.ends_with('\n'),
            folder,
            mode: fs::metadata(file).map_or(PRIVATE, |file| file.mode()) & 0o666,
            owner: fs::metadata(file).ok().map(|file| (file.uid(), file.gid())),
            _lock: None,
        })
    }

    /// The same, for whoever changes the file: others wait until this is dropped.
    ///
    /// # Errors
    /// If it cannot be locked or read.
    pub fn lock(file: &Path) -> io::Result<Self> {
        let history = History::read(file)?;
        history.create_folder()?;
        let lock = history.open(LOCK)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        // Others may have written before it was locked.
        let history = History::read(file)?;
        Ok(History {
            _lock: Some(lock),
            ..history
        })
    }

    fn create_folder(&self) -> io::Result<()> {
        let is_new = match fs::create_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            created => created.map(|()| true)?,
        };
        let mode = self.mode | (self.mode & 0o444) >> 2 | 0o700;
        // Where others may write, a link may stand in its place.
        let folder = OpenOptions::new()
            .read(true)
            .custom_flags(NO_LINK | OFlags::DIRECTORY.bits() as i32)
            .open(&self.folder)?;
        // The file's mode may have changed since.
        if is_new || folder.metadata()?.mode() & 0o777 != mode {
            folder.set_permissions(Permissions::from_mode(mode))?;
        }
        self.give(&folder)?;
        match is_new {
            true => sync_folder(replace::folder_of(&self.folder)),
            false => Ok(()),
        }
    }

    /// Makes a file that is new belong to whom the versions belong.
    fn give(&self, file: &File) -> io::Result<()> {
        let own = file.metadata()?;
        match self.owner {
            Some((uid, gid)) if (own.uid(), own.gid()) != (uid, gid) => {
                fchown(file, Some(uid), Some(gid))
            }
            _ => Ok(()),
        }
    }

    /// A file in the folder that is appended to.
    fn open(&self, name: &str) -> io::Result<File> {
        let path = self.folder.join(name);
        let new = !path.exists();
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(PRIVATE)
            .custom_flags(NO_LINK)
            .open(path)?;
        if new {
            file.set_permissions(Permissions::from_mode(self.mode | PRIVATE))?;
            self.give(&file)?;
        }
        Ok(file)
    }

    /// The versions, the oldest first.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The content of a version.
    ///
    /// # Errors
    /// If it is no longer there, or damaged.
    pub fn content(&self, version: &Version) -> io::Result<String> {
        let content = fs::read_to_string(self.place(&version.digest))?;
        match digest_of(content.as_bytes()) == version.digest {
            true => Ok(content),
            false => Err(io::Error::other("it has been changed on the disk")),
        }
    }

    /// Notes a version, whose content is on the disk before it is named.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn add(&mut self, version: Version, content: &str) -> io::Result<()> {
        // What is there may be damaged.
        if self.content(&version).is_err() {
            let place = self.place(&version.digest);
            replace(&place, content.as_bytes())?;
            self.give(&File::open(&place)?)?;
        }
        let mut line = match self.is_whole {
            true => Vec::new(),
            false => vec![b'\n'],
        };
        serde_json::to_writer(&mut line, &version)?;
        line.push(b'\n');
        let mut log = self.open(LOG)?;
        self.is_whole = false;
        log.write_all(&line)?;
        log.sync_all()?;
        sync_folder(&self.folder)?;
        self.is_whole = true;
        self.versions.push(version);
        Ok(())
    }

    /// Takes the last version back, which did not come into force.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn take_back(&mut self) -> io::Result<()> {
        self.versions.pop();
        self.write_anew()
    }

    /// Forgets the oldest versions, if there are too many.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn tidy(&mut self) -> io::Result<()> {
        let size = |version: &Version| {
            fs::metadata(self.place(&version.digest)).map_or(0, |file| file.len())
        };
        let mut octets = 0;
        let newest = self.versions.iter().rev().enumerate();
        let kept = newest.take_while(|(number, version)| {
            octets += size(version);
            *number < LEAST_VERSIONS || *number < MOST_VERSIONS && octets <= MOST_OCTETS
        });
        let kept = kept.count();
        if kept == self.versions.len() {
            return Ok(());
        }
        let forgotten: Vec<Version> = self.versions.drain(..self.versions.len() - kept).collect();
        self.write_anew()?;
        for version in forgotten {
            if !self
                .versions
                .iter()
                .any(|kept| kept.digest == version.digest)
            {
                let _ = fs::remove_file(self.place(&version.digest));
            }
        }
        Ok(())
    }

    fn write_anew(&mut self) -> io::Result<()> {
        let mut text = Vec::new();
        for version in &self.versions {
            serde_json::to_writer(&mut text, version)?;
            text.push(b'\n');
        }
        replace(&self.folder.join(LOG), &text)?;
        self.is_whole = true;
        Ok(())
    }

    fn place(&self, digest: &str) -> PathBuf {
        // Whatever a log may say, nothing outside the folder is read.
        let name: String = digest.chars().filter(char::is_ascii_hexdigit).collect();
        self.folder.join(format!("{name}.json"))
    }
}

fn folder_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".history");
    file.with_file_name(name)
}
