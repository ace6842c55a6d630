//! The journal: a line an event, so that a restart forgets nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use super::digest::Digest;
use super::known::Event;

/// Events after which the journal is written anew, without those that others have overtaken.
const MAX_EVENTS: usize = 1_000_000;

/// Octets on the disk that are the journal's before they are written: a disk that fills up while messages are under way
/// takes nothing from what becomes of them.
const ROOM: u64 = 2 << 20;
/// With fewer left, no message begins that needs the journal. An event has about 300 octets.
const LEAST_ROOM: u64 = ROOM / 2;

/// The file that events are written to.
pub struct Journal {
    pub path: PathBuf,
    pub file: Arc<File>,
    events: usize,
    /// After so many events it is written anew.
    pub most_events: usize,
    /// What was written since it is being written anew, if it is.
    since: Option<Vec<u8>>,
    /// Whether the file ends with a whole line, as far as is known.
    pub is_sound: bool,
    room: Room,
}

/// What of the disk is the journal's.
#[derive(Debug, Default)]
struct Room {
    /// Octets of the file that are written.
    written: u64,
    /// Octets of the file that have their place on the disk; all of them where the file system knows no such thing.
    reserved: u64,
}

impl Room {
    fn of(file: &File) -> io::Result<Self> {
        let mut room = Room {
            written: file.metadata()?.len(),
            reserved: 0,
        };
        room.reserve(file);
        Ok(room)
    }

    fn is_enough(&self) -> bool {
        self.reserved.saturating_sub(self.written) >= LEAST_ROOM
    }

    /// Takes more of the disk, if there is too little left.
    fn reserve(&mut self, file: &File) {
        if self.is_enough() {
            return;
        }
        match fallocate(file, FallocateFlags::KEEP_SIZE, self.written, ROOM) {
            Ok(()) => self.reserved = self.written + ROOM,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.reserved = u64::MAX,
            Err(_) => {}
        }
    }
}

/// Hands the events in a journal over, in their order. There may be no such file.
pub fn replay(path: &Path, mut take: impl FnMut(Event)) -> io::Result<()> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let mut lines: Vec<&[u8]> = text.split(|octet| *octet == b'\n').collect();
    // The last line may be cut off.
    let last = lines.pop().unwrap_or_default();
    let mut unreadable = 0;
    for line in lines.into_iter().filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(event) => take(event),
            Err(_) => unreadable += 1,
        }
    }
    if let Ok(event) = serde_json::from_slice(last) {
        take(event);
    }
    if unreadable > 0 {
        let file = path.display();
        tracing::warn!(%file, lines = unreadable, "lines of the journal cannot be read");
    }
    Ok(())
}

/// A file beside the journal, with these events.
pub fn write_new(path: &Path, events: &[Event]) -> io::Result<File> {
    let mut text = Vec::new();
    for event in events {
        serde_json::to_writer(&mut text, event)?;
        text.push(b'\n');
    }
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path.with_extension("new"))?;
    file.write_all(&text)?;
    file.sync_all()?;
    Ok(file)
}

impl Journal {
    /// The journal that has been written beside the old one, in its place, and the folder, which is not synced yet.
    pub fn replaced(path: PathBuf, file: File, events: usize) -> io::Result<(Self, File)> {
        let folder = File::open(path.parent().unwrap_or(Path::new(".")))?;
        let room = Room::of(&file)?;
        fs::rename(path.with_extension("new"), &path)?;
        // It goes on in the file that was written: there is no other writer.
        let journal = Journal {
            path,
            file: Arc::new(file),
            // What is live is not written anew again and again.
            events: events / 2,
            most_events: MAX_EVENTS,
            since: None,
            is_sound: true,
            room,
        };
        Ok((journal, folder))
    }

    /// The journal that is there, or a new one, goes on in its own file.
    pub fn continued(path: PathBuf, events: usize) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        let room = Room::of(&file)?;
        Ok(Journal {
            path,
            file: Arc::new(file),
            events,
            most_events: MAX_EVENTS,
            since: None,
            // Its last line may be cut off.
            is_sound: false,
            room,
        })
    }

    /// Writes lines; tells whether they are written.
    pub fn write(&mut self, line: &[u8]) -> bool {
        let line = match self.is_sound {
            true => line.to_vec(),
            // What was written last may be cut off, and must not take this with it.
            false => [b"\n", line].concat(),
        };
        let written = (&*self.file).write_all(&line);
        if let Err(error) = &written
            && self.is_sound
        {
            tracing::error!(
                journal = %self.path.display(),
                %error,
                "what is delivered cannot be remembered; each message goes one way only"
            );
        }
        self.is_sound = written.is_ok();
        if self.is_sound {
            self.room.written += line.len() as u64;
            self.room.reserve(&self.file);
        }
        self.is_sound
    }

    /// Whether what becomes of a message that begins now can be written.
    pub fn is_ready(&mut self) -> bool {
        self.room.reserve(&self.file);
        self.room.is_enough() && (self.is_sound || self.write(b"\n"))
    }

    /// Adds an event.
    pub fn add(&mut self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        self.write(&line);
        self.events += 1;
        if let Some(since) = &mut self.since {
            since.extend_from_slice(&line);
        }
    }

    /// Whether it is to be written anew: then what comes from now on is kept for the new one too.
    pub fn begin_anew(&mut self) -> bool {
        let is_due = self.events > self.most_events && self.since.is_none();
        if is_due {
            self.since = Some(Vec::new());
        }
        is_due
    }

    /// What has come since it is written anew.
    pub fn take_since(&mut self) -> Vec<u8> {
        self.since.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A new file has all that it has, for so many recipients, and takes its place; gives the folder, which is not
    /// synced yet.
    pub fn end_anew(&mut self, mut file: File, recipients: usize) -> io::Result<File> {
        file.write_all(&self.take_since())?;
        file.sync_data()?;
        let (new, folder) = Journal::replaced(self.path.clone(), file, recipients)?;
        let most_events = self.most_events;
        *self = Journal { most_events, ..new };
        Ok(folder)
    }

    /// It goes on as it is, and is tried again later.
    pub fn give_anew_up(&mut self) {
        self.since = None;
        self.events = self.most_events / 2;
    }
}

/// The journal's name in the folder of what outlives the process.
pub fn journal_of(configuration: &Path) -> String {
    let path = fs::canonicalize(configuration).unwrap_or_else(|_| configuration.into());
    let digest = String::from(Digest::of(&[path.as_os_str().as_encoded_bytes()]));
    format!("partial-deliveries-{digest}.jsonl")
}

/// The file, locked; `None` if another process has it.
pub fn alone(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        locked => locked.map(|()| Some(file)).map_err(io::Error::from),
    }
}
