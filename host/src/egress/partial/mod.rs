//! What became of messages whose recipients ended differently.
//!
//! SMTP has one reply for a message and all its recipients. Where some partners have taken it and others have not, the
//! client is told to come again for all of them, and what was delivered is remembered: so it is not delivered twice.
//! From then on recipients that ended differently come in transactions of their own, until each has been told what
//! became of it.
//!
//! A message is known by a digest of its header and its sender, a recipient by one of the sender and itself. With each
//! delivery a digest of the body is kept: there are programs that send several messages with one header, so the header
//! alone proves no delivery, and such a message is kept until it is whole. All of it is in memory; a journal, a line an
//! event, brings it back after a restart.

mod digest;
mod journal;
mod known;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use self::digest::{Body, Digest};
use self::journal::{Journal, alone, journal_of, replay, write_new};
use self::known::{Event, Known};
pub use self::known::{Group, State};

/// What comes while the journal is written anew is written behind it so often, before others have to wait.
const ROUNDS: usize = 5;

/// Whether a recipient may be part of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// With all others of which nothing is known.
    Free,
    /// With those of its group only.
    Group(Digest, Group),
    /// In another transaction.
    Later,
}

/// What became of a recipient of a message.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// The message.
    pub message: Digest,
    /// The recipient.
    pub recipient: Digest,
    /// What it shares its outcome with.
    pub egress: Digest,
    /// The body, once it is known.
    pub body: Option<Digest>,
    /// What became of it.
    pub state: State,
}

impl Note {
    fn new(message: Digest, recipient: Digest, egress: Digest, state: State) -> Self {
        Note {
            message,
            recipient,
            egress,
            body: None,
            state,
        }
    }
}

/// What is known of messages whose recipients ended differently.
pub struct Partial {
    memory: Arc<Mutex<Memory>>,
    /// Where the journal is.
    path: Option<PathBuf>,
    lock: Mutex<Lock>,
}

/// Keeps other processes away from the journal (flock(2)); it ends with this one.
enum Lock {
    None,
    /// Another process has it.
    Foreign,
    Ours {
        _file: File,
    },
}

/// What is known, and where it is written.
#[derive(Default)]
struct Memory {
    known: Known,
    journal: Option<Journal>,
}

impl Partial {
    /// Nothing yet; its journal is in a folder, of which each configuration has its own.
    pub fn of(folder: Option<&Path>, configuration: &Path) -> Self {
        Partial {
            memory: Arc::default(),
            path: folder.map(|folder| folder.join(journal_of(configuration))),
            lock: Mutex::new(Lock::None),
        }
    }

    /// Nothing, and nothing is kept.
    pub fn forgetful() -> Self {
        Partial {
            memory: Arc::default(),
            path: None,
            lock: Mutex::new(Lock::None),
        }
    }

    /// Reads the journal, and keeps it from now on. What was read is known though nothing can be written.
    ///
    /// # Errors
    /// If it cannot be read or written, or another process has it: then it may be asked for again.
    pub fn open(&self) -> io::Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        *lock = Lock::None;
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let Some(file) = alone(&path.with_extension("lock"))? else {
            *lock = Lock::Foreign;
            return Err(io::Error::other("another process has it"));
        };
        let mut known = Known::default();
        replay(path, |event| known.take(event, true))?;
        known.forget_old(now());
        let (events, recipients) = (known.events(), known.recipients());
        *self.lock() = Memory {
            known,
            journal: None,
        };
        *lock = Lock::Ours { _file: file };
        let journal = rewritten(path, &events, recipients).or_else(|error| {
            // A full disk has no place for a second one.
            tracing::warn!(journal = %path.display(), %error, "the journal of deliveries cannot be written anew");
            Journal::continued(path.clone(), recipients)
        })?;
        self.lock().journal = Some(journal);
        Ok(())
    }

    /// Whether another process has the journal, and may let go of it.
    pub fn is_waiting(&self) -> bool {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*lock, Lock::Foreign)
    }

    /// Where the journal is, if there is one.
    pub fn place(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        locked(&self.memory)
    }

    /// Whether what is delivered can be remembered: without that, a message goes one way only.
    pub fn remembers(&self) -> bool {
        let mut memory = self.lock();
        let journal = memory.journal.as_mut();
        journal.is_some_and(Journal::is_ready)
    }

    /// Whether a recipient may be part of a transaction, which has others if it has a `group` or is `taken`.
    pub fn turn(&self, recipient: Digest, group: Option<(Digest, Group)>, taken: bool) -> Turn {
        let known = &mut self.lock().known;
        let now = now();
        known.forget_old(now);
        let Some(digest) = known.awaited(recipient, now) else {
            return match group {
                None => Turn::Free,
                Some(_) => Turn::Later,
            };
        };
        let message = known.message(digest);
        let Some((message, own)) = message.and_then(|message| {
            let own = message.group_of(&recipient)?;
            Some((message, own))
        }) else {
            return Turn::Free;
        };
        let may = match group {
            Some(group) => group == (digest, own),
            None if taken => false,
            // Who asks a second time is not overtaken again: those whose turn it is may never come.
            None => message.next() == Some(own) || message.put_off.contains(&recipient),
        };
        if !may {
            message.put_off.insert(recipient);
            return Turn::Later;
        }
        Turn::Group(digest, own)
    }

    /// A recipient whose turn it is was taken: it is tried now, and another egress next time, even if this process ends
    /// before the transaction does.
    pub fn begun(&self, digest: Digest, group: Group, recipient: Digest) {
        let mut memory = self.lock();
        if let Some(message) = memory.known.message(digest) {
            message.put_off.clear();
        }
        // Another session may have ended since it was asked for.
        let is_open = memory
            .known
            .recipient(digest, recipient)
            .is_some_and(|recipient| recipient.state == State::Open);
        if let (Group::Egress(egress), true) = (group, is_open) {
            memory.note(Note::new(digest, recipient, egress, State::Open), true);
        }
    }

    /// Whether nothing is known of any message.
    pub fn is_empty(&self) -> bool {
        self.lock().known.is_empty()
    }

    /// Whether anything is known of a message.
    pub fn is_known(&self, message: Digest) -> bool {
        self.lock().known.has(message)
    }

    /// Whether a recipient has a message with this header.
    pub fn may_have(&self, message: Digest, recipient: Digest) -> bool {
        let known = &self.lock().known;
        let recipient = known.recipient(message, recipient);
        recipient.is_some_and(|recipient| !recipient.bodies.is_empty())
    }

    /// Whether a recipient has this very message.
    pub fn has(&self, message: Digest, recipient: Digest, body: Digest) -> bool {
        let known = &self.lock().known;
        let recipient = known.recipient(message, recipient);
        recipient.is_some_and(|recipient| recipient.bodies.contains(&body))
    }

    /// Whether a recipient has a message of which the client was not told so, though it may never ask again.
    pub fn owes(&self, recipient: Digest) -> bool {
        let known = &self.lock().known;
        known
            .waiting(recipient)
            .any(|known| known.state == State::Delivered)
    }

    /// A file without a name, in which a message can be kept.
    ///
    /// # Errors
    /// If there can be none.
    pub fn spool(&self) -> io::Result<File> {
        let memory = self.lock();
        let journal = memory.journal.as_ref();
        match journal.and_then(|journal| journal.path.parent()) {
            Some(folder) => tempfile::tempfile_in(folder),
            None => tempfile::tempfile(),
        }
    }

    /// Whether nothing is remembered, neither from before nor from now on.
    pub fn is_forgetful(&self) -> bool {
        let memory = self.lock();
        memory.journal.is_none() && memory.known.is_empty()
    }

    /// Notes that a recipient has the message, while others of it are not yet known. Nobody waits for it, unless this
    /// process ends now.
    pub fn note_delivery(&self, note: Note) {
        self.lock().note(note, false);
        self.write_anew();
    }

    /// Notes what became of a recipient. It survives the end of this process at once, and the machine's after
    /// [`Partial::sync`].
    pub fn note(&self, note: Note) {
        self.lock().note(note, true);
        self.write_anew();
    }

    /// Writes a journal that has grown long anew, on a thread of its own: mail does not wait for that.
    fn write_anew(&self) {
        let Some((path, events)) = self.lock().begin_anew() else {
            return;
        };
        let memory = self.memory.clone();
        let spawned = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                if let Err(error) = written_anew(&memory, &path, &events) {
                    locked(&memory).give_anew_up(&error);
                }
            });
        if let Err(error) = spawned {
            self.lock().give_anew_up(&error);
        }
    }

    /// Sees to it that what was noted is on the disk.
    ///
    /// # Errors
    /// If it is not.
    pub async fn sync(&self) -> io::Result<()> {
        let file = {
            let memory = self.lock();
            let journal = memory.journal.as_ref();
            let sound = journal.filter(|journal| journal.is_sound);
            sound.map(|journal| journal.file.clone())
        };
        let Some(file) = file else {
            return Err(io::Error::other("there is no journal"));
        };
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        synced.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Memory {
    fn note(&mut self, note: Note, has_ended: bool) {
        let event = Event {
            at: now(),
            message: note.message,
            recipient: note.recipient,
            egress: note.egress,
            body: note.body,
            state: note.state,
        };
        if let Some(journal) = &mut self.journal {
            journal.add(&event);
        }
        self.known.take(event, has_ended);
    }

    /// Whether the journal is to be written anew, and with which events.
    fn begin_anew(&mut self) -> Option<(PathBuf, Vec<Event>)> {
        let journal = self.journal.as_mut()?;
        if !journal.begin_anew() {
            return None;
        }
        Some((journal.path.clone(), self.known.events()))
    }

    fn take_since(&mut self) -> Vec<u8> {
        self.journal
            .as_mut()
            .map(Journal::take_since)
            .unwrap_or_default()
    }

    fn end_anew(&mut self, file: File) -> io::Result<Option<File>> {
        let recipients = self.known.recipients();
        let journal = self.journal.as_mut();
        journal
            .map(|journal| journal.end_anew(file, recipients))
            .transpose()
    }

    fn give_anew_up(&mut self, error: &io::Error) {
        tracing::error!(%error, "the journal of deliveries cannot be written anew");
        if let Some(journal) = &mut self.journal {
            journal.give_anew_up();
        }
    }
}

fn locked(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The journal with these events only, in the place of the one that is there.
fn rewritten(path: &Path, events: &[Event], recipients: usize) -> io::Result<Journal> {
    let new = write_new(path, events)?;
    let (journal, folder) = Journal::replaced(path.to_owned(), new, recipients)?;
    folder.sync_all()?;
    Ok(journal)
}

fn written_anew(memory: &Mutex<Memory>, path: &Path, events: &[Event]) -> io::Result<()> {
    let mut file = write_new(path, events)?;
    for _ in 0..ROUNDS {
        let since = locked(memory).take_since();
        if since.is_empty() {
            break;
        }
        file.write_all(&since)?;
        file.sync_data()?;
    }
    let folder = locked(memory).end_anew(file)?;
    // Without that the old name may come back, which leads to less.
    folder.map_or(Ok(()), |folder| folder.sync_all())
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipient(name: &str) -> Digest {
        Digest::of_recipient("a@own.test", name)
    }

    fn egress(name: &str) -> Digest {
        Digest::of_egress(name)
    }

    fn message() -> Digest {
        Digest::of_message("a@own.test", b"Subject: x\r\n\r\n")
    }

    fn opened(folder: &Path) -> Partial {
        let partial = Partial::of(Some(folder), Path::new("a.toml"));
        partial.open().unwrap();
        partial
    }

    #[test]
    fn a_journal_is_taken_over_from_the_process_before() {
        let folder = tempfile::tempdir().unwrap();
        let before = opened(folder.path());
        let partial = Partial::of(Some(folder.path()), Path::new("a.toml"));
        assert!(partial.open().is_err() && partial.is_waiting() && !partial.remembers());
        split(&before);
        drop(before);
        partial.open().unwrap();
        assert!(!partial.is_waiting() && partial.remembers() && has(&partial, "a"));
    }

    /// Two have it, two do not.
    fn split(partial: &Partial) {
        for (name, state) in [
            ("a", State::Delivered),
            ("b", State::Open),
            ("c", State::Open),
            ("d", State::Delivered),
        ] {
            note(partial, name, state, b"x");
        }
    }

    fn note(partial: &Partial, name: &str, state: State, body: &[u8]) {
        partial.note(Note {
            body: Some(body_of(body)),
            ..Note::new(message(), recipient(name), egress(name), state)
        });
    }

    fn has(partial: &Partial, name: &str) -> bool {
        partial.has(message(), recipient(name), body_of(b"x"))
    }

    fn body_of(content: &[u8]) -> Digest {
        let mut body = Body::new();
        content.chunks(1).for_each(|part| body.update(part));
        body.digest()
    }

    /// The recipients that a client gets taken which names them all.
    fn taken(partial: &Partial, names: &[&'static str]) -> Vec<&'static str> {
        let (mut group, mut taken) = (None, Vec::new());
        for name in names {
            match partial.turn(recipient(name), group, group.is_none() && !taken.is_empty()) {
                Turn::Free => taken.push(*name),
                Turn::Group(message, own) => {
                    partial.begun(message, own, recipient(name));
                    group = Some((message, own));
                    taken.push(*name);
                }
                Turn::Later => {}
            }
        }
        taken
    }

    #[test]
    fn each_group_has_its_turn_whatever_the_order() {
        let folder = tempfile::tempdir().unwrap();
        let partial = opened(folder.path());
        assert_eq!(taken(&partial, &["a", "b"]), ["a", "b"]);
        split(&partial);
        let all = ["b", "a", "c", "d", "e"];
        assert_eq!(taken(&partial, &all), ["a", "d"]);
        for name in ["a", "d"] {
            note(&partial, name, State::Told, b"x");
        }
        // Who was tried longest ago is next, in whatever order they are named.
        assert_eq!(taken(&partial, &["c", "b", "e"]), ["b"]);
        drop(partial);
        let partial = opened(folder.path());
        assert_eq!(
            taken(&partial, &["b", "c", "e"]),
            ["c"],
            "a restart makes no difference"
        );
        assert_eq!(taken(&partial, &["b", "c", "e"]), ["b"]);
        assert!(!has(&partial, "b"));
        assert!(has(&partial, "a"), "though it was told");
    }

    #[test]
    fn nobody_waits_for_those_who_never_come() {
        let partial = Partial::forgetful();
        split(&partial);
        assert_eq!(taken(&partial, &["b"]), [""; 0]);
        assert_eq!(taken(&partial, &["b"]), ["b"]);
    }

    #[test]
    fn another_message_with_the_same_header_is_none_that_was_delivered() {
        let folder = tempfile::tempdir().unwrap();
        let open = || opened(folder.path());
        let partial = open();
        split(&partial);
        drop(partial);
        let partial = open();
        let has = |name, body| partial.has(message(), recipient(name), body_of(body));
        assert!(has("a", b"x") && !has("a", b"y") && !has("b", b"x"));
        // The other one is delivered too, and takes nothing from the first.
        for name in ["a", "b", "c", "d"] {
            note(&partial, name, State::Told, b"y");
        }
        for (name, first) in [("a", true), ("b", false)] {
            assert!(has(name, b"y"), "{name}");
            assert_eq!(has(name, b"x"), first, "{name}");
        }
        drop(partial);
        let partial = open();
        assert!(super::tests::has(&partial, "a"));
        assert!(partial.has(message(), recipient("a"), body_of(b"y")));
    }

    #[test]
    fn a_restart_forgets_nothing_that_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let partial = opened(folder.path());
        split(&partial);
        drop(partial);
        let path = folder.path().join(journal_of(Path::new("a.toml")));
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"at\":1,\"mess");
        fs::write(&path, text).unwrap();
        let partial = opened(folder.path());
        assert!(has(&partial, "a"));
        assert_eq!(taken(&partial, &["a", "b", "c", "d"]), ["a", "d"]);
        assert!(partial.remembers());
    }

    #[test]
    fn a_long_journal_is_written_anew_while_events_come() {
        let folder = tempfile::tempdir().unwrap();
        let open = || opened(folder.path());
        let partial = open();
        partial.lock().journal.as_mut().unwrap().most_events = 100;
        split(&partial);
        for _ in 0..500 {
            note(&partial, "b", State::Open, b"x");
        }
        // Only the writer has the other one.
        while Arc::strong_count(&partial.memory) > 1 {
            std::thread::yield_now();
        }
        note(&partial, "c", State::Delivered, b"x");
        let path = folder.path().join(journal_of(Path::new("a.toml")));
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 500, "{lines}");
        drop(partial);
        let partial = open();
        for (name, has) in [("a", true), ("b", false), ("c", true), ("d", true)] {
            assert_eq!(self::has(&partial, name), has, "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_journal_is_read(text in "(\\{\"at\":[0-9]{0,3},?[ -~]{0,20}\\}?\n?){0,5}") {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(journal_of(Path::new("a.toml"))), text).unwrap();
            opened(folder.path());
        }
    }
}
