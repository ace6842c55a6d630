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

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// How long a message is known. Queues give up after five days (RFC 5321 §4.5.4.1).
const KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How long its recipients come one group after the other since it was heard of last: longer than any queue waits
/// between two attempts, and not so long that one that is never sent again costs its sender a transaction for each
/// recipient for days.
const IN_TURN: Duration = Duration::from_secs(12 * 60 * 60);
/// Recipients of messages that are known at a time; the oldest messages give way.
const MAX_RECIPIENTS: usize = 200_000;
/// Bodies of messages with one header that a recipient is known to have.
const MAX_BODIES: usize = 8;
/// What comes while the journal is written anew is written behind it so often, before others have to wait.
const ROUNDS: usize = 5;
/// Events after which the journal is written anew, without those that others have overtaken.
const MAX_EVENTS: usize = 1_000_000;

/// A digest: of a message, of one of its recipients, or of the egress that a recipient's mail takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 16]);

impl Digest {
    fn of(runs: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        for run in runs {
            context.update(&(run.len() as u64).to_be_bytes());
            context.update(run);
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&context.finish().as_ref()[..16]);
        Digest(digest)
    }

    /// A message, as it came.
    pub fn of_message(sender: &str, header: &[u8]) -> Self {
        Digest::of(&[b"message", sender.as_bytes(), header])
    }

    /// A recipient of a sender.
    pub fn of_recipient(sender: &str, recipient: &str) -> Self {
        Digest::of(&[b"recipient", sender.as_bytes(), recipient.as_bytes()])
    }

    /// What shares one outcome.
    pub fn of_egress(key: &str) -> Self {
        Digest::of(&[b"egress", key.as_bytes()])
    }
}

/// The body of a message, while it comes.
pub struct Body(Context);

impl Body {
    /// Nothing of it yet.
    pub fn new() -> Self {
        Body(Context::new(&SHA256))
    }

    /// A part of it.
    pub fn update(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// The digest of what has come.
    pub fn digest(&self) -> Digest {
        let whole = self.0.clone().finish();
        Digest::of(&[b"body", whole.as_ref()])
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest
            .0
            .iter()
            .map(|octet| format!("{octet:02x}"))
            .collect()
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let wrong = "not a digest";
        let octet = |at: usize| {
            text.get(at..at + 2)
                .map(|pair| u8::from_str_radix(pair, 16))
        };
        let mut digest = [0; 16];
        for (place, octet_of) in digest.iter_mut().enumerate() {
            *octet_of = octet(2 * place).and_then(Result::ok).ok_or(wrong)?;
        }
        (text.len() == 32).then_some(Digest(digest)).ok_or(wrong)
    }
}

/// What became of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has the message, and the client does not know yet.
    Delivered,
    /// It does not have the message.
    Open,
    /// It has the message, and the client was told.
    Told,
    /// It does not have the message, and the client was told so for good.
    Over,
}

/// Recipients of a message that end together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Those that have the message.
    Delivered,
    /// Those of one egress.
    Egress(Digest),
}

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

/// An event, as the journal has it.
#[derive(Clone, Serialize, Deserialize)]
struct Event {
    at: u64,
    message: Digest,
    recipient: Digest,
    /// `lane` before it had this name.
    #[serde(alias = "lane")]
    egress: Digest,
    /// The body that the recipient has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Digest>,
    state: State,
}

/// What is known of messages whose recipients ended differently.
pub struct Partial {
    known: Arc<Mutex<Known>>,
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

#[derive(Default)]
struct Known {
    messages: HashMap<Digest, Message>,
    /// The messages by those recipients that wait to be told.
    waiting: HashMap<Digest, Vec<Digest>>,
    /// The messages by age.
    by_age: VecDeque<(u64, Digest)>,
    /// How many recipients all messages have.
    recipients: usize,
    /// Events so far.
    events: u64,
    journal: Option<Journal>,
}

#[derive(Default)]
struct Message {
    recipients: HashMap<Digest, Recipient>,
    /// Who has asked since a transaction began last, and was told to come again.
    put_off: HashSet<Digest>,
    /// When it was heard of last.
    last: u64,
}

#[derive(Clone)]
struct Recipient {
    egress: Digest,
    /// The bodies that it has, of messages with this header.
    bodies: Vec<Digest>,
    state: State,
    /// The number of the event that has told so: while it is open, when it was tried last.
    event: u64,
}

struct Journal {
    path: PathBuf,
    file: Arc<File>,
    events: usize,
    /// After so many events it is written anew.
    most_events: usize,
    /// What was written since it is being written anew, if it is.
    since: Option<Vec<u8>>,
    /// Whether the last event could be written.
    is_sound: bool,
}

impl Message {
    fn group_of(&self, recipient: &Digest) -> Option<Group> {
        let recipient = self.recipients.get(recipient)?;
        match recipient.state {
            State::Delivered => Some(Group::Delivered),
            State::Open => Some(Group::Egress(recipient.egress)),
            State::Told | State::Over => None,
        }
    }

    /// The group whose turn it is: those that have the message, then the egress that was tried longest ago.
    fn next(&self) -> Option<Group> {
        let mut tried = HashMap::new();
        for recipient in self.recipients.values() {
            match recipient.state {
                State::Delivered => return Some(Group::Delivered),
                State::Open => {
                    let last: &mut u64 = tried.entry(recipient.egress).or_default();
                    *last = recipient.event.max(*last);
                }
                State::Told | State::Over => {}
            }
        }
        let (egress, _) = tried.into_iter().min_by_key(|(_, event)| *event)?;
        Some(Group::Egress(egress))
    }
}

impl Partial {
    /// Nothing yet; its journal is in a folder, of which each configuration has its own.
    pub fn of(folder: Option<&Path>, configuration: &Path) -> Self {
        Partial {
            known: Arc::default(),
            path: folder.map(|folder| folder.join(journal_of(configuration))),
            lock: Mutex::new(Lock::None),
        }
    }

    /// Nothing, and nothing is kept.
    pub fn forgetful() -> Self {
        Partial {
            known: Arc::default(),
            path: None,
            lock: Mutex::new(Lock::None),
        }
    }

    /// Reads the journal, and keeps it from now on.
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
        known.replay(path)?;
        let new = write_new(path, &known.events())?;
        let (journal, folder) = Journal::replaced(path.clone(), new, known.recipients)?;
        folder.sync_all()?;
        known.journal = Some(journal);
        *self.lock() = known;
        *lock = Lock::Ours { _file: file };
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

    fn lock(&self) -> MutexGuard<'_, Known> {
        locked(&self.known)
    }

    /// Whether what is delivered can be remembered: without that, a message goes one way only.
    pub fn remembers(&self) -> bool {
        let mut known = self.lock();
        known
            .journal
            .as_mut()
            .is_some_and(|journal| journal.is_sound || journal.write(b"\n"))
    }

    /// Whether a recipient may be part of a transaction, which has others if it has a `group` or is `taken`.
    pub fn turn(&self, recipient: Digest, group: Option<(Digest, Group)>, taken: bool) -> Turn {
        let mut known = self.lock();
        let now = now();
        known.forget_old(now);
        let Some(digest) = known.awaited(recipient, now) else {
            return match group {
                None => Turn::Free,
                Some(_) => Turn::Later,
            };
        };
        let message = known.messages.get_mut(&digest);
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
        let mut known = self.lock();
        if let Some(message) = known.messages.get_mut(&digest) {
            message.put_off.clear();
        }
        // Another session may have ended since it was asked for.
        let is_open = known
            .recipient(digest, recipient)
            .is_some_and(|recipient| recipient.state == State::Open);
        if let (Group::Egress(egress), true) = (group, is_open) {
            known.note(Note::new(digest, recipient, egress, State::Open), true);
        }
    }

    /// Whether nothing is known of any message.
    pub fn is_empty(&self) -> bool {
        self.lock().messages.is_empty()
    }

    /// Whether anything is known of a message.
    pub fn is_known(&self, message: Digest) -> bool {
        self.lock().messages.contains_key(&message)
    }

    /// Whether a recipient has a message with this header.
    pub fn may_have(&self, message: Digest, recipient: Digest) -> bool {
        let known = self.lock();
        let recipient = known.recipient(message, recipient);
        recipient.is_some_and(|recipient| !recipient.bodies.is_empty())
    }

    /// Whether a recipient has this very message.
    pub fn has(&self, message: Digest, recipient: Digest, body: Digest) -> bool {
        let known = self.lock();
        let recipient = known.recipient(message, recipient);
        recipient.is_some_and(|recipient| recipient.bodies.contains(&body))
    }

    /// Whether a recipient has a message of which the client was not told so, though it may never ask again.
    pub fn owes(&self, recipient: Digest) -> bool {
        let known = self.lock();
        let waiting = known.waiting.get(&recipient).into_iter().flatten();
        waiting
            .filter_map(|message| known.recipient(*message, recipient))
            .any(|known| known.state == State::Delivered)
    }

    /// A file without a name, in which a message can be kept.
    ///
    /// # Errors
    /// If there can be none.
    pub fn spool(&self) -> io::Result<File> {
        let known = self.lock();
        let journal = known.journal.as_ref();
        match journal.and_then(|journal| journal.path.parent()) {
            Some(folder) => tempfile::tempfile_in(folder),
            None => tempfile::tempfile(),
        }
    }

    /// Whether anything is ever remembered.
    pub fn is_forgetful(&self) -> bool {
        self.lock().journal.is_none()
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
        let known = self.known.clone();
        let spawned = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                if let Err(error) = written_anew(&known, &path, &events) {
                    locked(&known).give_anew_up(&error);
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
            let known = self.lock();
            let journal = known.journal.as_ref();
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

impl Known {
    /// The message for which a recipient has to wait, if it is one that still comes.
    fn awaited(&self, recipient: Digest, now: u64) -> Option<Digest> {
        let digest = *self.waiting.get(&recipient)?.first()?;
        let message = self.messages.get(&digest)?;
        (now <= message.last.saturating_add(IN_TURN.as_secs())).then_some(digest)
    }

    fn recipient(&self, message: Digest, recipient: Digest) -> Option<&Recipient> {
        self.messages.get(&message)?.recipients.get(&recipient)
    }

    fn note(&mut self, note: Note, has_ended: bool) {
        let Note {
            message,
            recipient,
            egress,
            body,
            state,
        } = note;
        let event = Event {
            at: now(),
            message,
            recipient,
            egress,
            body,
            state,
        };
        self.write(&event);
        self.take(event, has_ended);
    }

    fn replay(&mut self, path: &Path) -> io::Result<()> {
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
                Ok(event) => self.take(event, true),
                Err(_) => unreadable += 1,
            }
        }
        if let Ok(event) = serde_json::from_slice(last) {
            self.take(event, true);
        }
        if unreadable > 0 {
            let file = path.display();
            tracing::warn!(%file, lines = unreadable, "lines of the journal cannot be read");
        }
        self.forget_old(now());
        Ok(())
    }

    /// The events that tell what is known now.
    fn events(&self) -> Vec<Event> {
        let mut events = Vec::with_capacity(self.recipients);
        for (at, message) in &self.by_age {
            let Some(known) = self.messages.get(message) else {
                continue;
            };
            let mut recipients: Vec<_> = known.recipients.iter().collect();
            recipients.sort_by_key(|(_, recipient)| recipient.event);
            let mut at = *at;
            for (recipient, of) in recipients {
                let event = |at, body, state| Event {
                    at,
                    message: *message,
                    recipient: *recipient,
                    egress: of.egress,
                    body,
                    state,
                };
                // It is as old as its first event, and was heard of last at the others.
                let bodies = of.bodies.iter();
                events.extend(bodies.map(|body| event(at, Some(*body), State::Delivered)));
                events.push(event(at, None, of.state));
                at = known.last;
            }
            if let Some(last) = events.last_mut().filter(|last| last.message == *message) {
                last.at = known.last;
            }
        }
        events
    }

    fn write(&mut self, event: &Event) {
        let Some(journal) = &mut self.journal else {
            return;
        };
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        journal.write(&line);
        journal.events += 1;
        if let Some(since) = &mut journal.since {
            since.extend_from_slice(&line);
        }
    }

    /// Whether the journal is to be written anew, and with which events.
    fn begin_anew(&mut self) -> Option<(PathBuf, Vec<Event>)> {
        let journal = self.journal.as_mut()?;
        if journal.events <= journal.most_events || journal.since.is_some() {
            return None;
        }
        journal.since = Some(Vec::new());
        let path = journal.path.clone();
        Some((path, self.events()))
    }

    fn take_since(&mut self) -> Vec<u8> {
        let since = self.journal.as_mut().and_then(|it| it.since.as_mut());
        since.map(std::mem::take).unwrap_or_default()
    }

    /// From now on the new file is the journal; gives the folder that is to be synced.
    fn end_anew(&mut self, mut file: File) -> io::Result<Option<File>> {
        let since = self.take_since();
        file.write_all(&since)?;
        file.sync_data()?;
        let recipients = self.recipients;
        let Some(journal) = &mut self.journal else {
            return Ok(None);
        };
        let most_events = journal.most_events;
        let (new, folder) = Journal::replaced(journal.path.clone(), file, recipients)?;
        *journal = Journal { most_events, ..new };
        Ok(Some(folder))
    }

    /// It goes on as it is, and is tried again later.
    fn give_anew_up(&mut self, error: &io::Error) {
        tracing::error!(%error, "the journal of deliveries cannot be written anew");
        if let Some(journal) = &mut self.journal {
            journal.since = None;
            journal.events = journal.most_events / 2;
        }
    }

    /// Takes an event over. The recipient waits to be told, once its transaction `has_ended`.
    fn take(&mut self, event: Event, has_ended: bool) {
        let Event {
            at,
            message: digest,
            recipient,
            egress,
            body,
            state,
        } = event;
        let by_age = &mut self.by_age;
        let message = self.messages.entry(digest).or_insert_with(|| {
            by_age.push_back((at, digest));
            Message::default()
        });
        message.last = message.last.max(at);
        self.events += 1;
        let known = message.recipients.entry(recipient).or_insert_with(|| {
            self.recipients += 1;
            Recipient {
                egress,
                bodies: Vec::new(),
                state,
                event: 0,
            }
        });
        (known.egress, known.state, known.event) = (egress, state, self.events);
        if let (Some(body), State::Delivered | State::Told) = (body, state)
            && !known.bodies.contains(&body)
        {
            let surplus = (known.bodies.len() + 1).saturating_sub(MAX_BODIES);
            known.bodies.drain(..surplus);
            known.bodies.push(body);
        }
        let waiting = self.waiting.entry(recipient).or_default();
        waiting.retain(|known| *known != digest);
        if has_ended && matches!(state, State::Delivered | State::Open) {
            // One that was given up somewhere holds up none that came after it.
            waiting.insert(0, digest);
        }
        if waiting.is_empty() {
            self.waiting.remove(&recipient);
        }
        // What one of several messages with this header has come to says nothing of the others.
        let is_final = |known: &Recipient| {
            matches!(known.state, State::Told | State::Over) && known.bodies.len() <= 1
        };
        if message.recipients.values().all(is_final) {
            // Whoever comes with it now sends it anew.
            self.forget(digest);
        }
    }

    fn forget(&mut self, digest: Digest) {
        let place = self.by_age.iter().rposition(|(_, known)| *known == digest);
        if let Some(place) = place {
            self.by_age.remove(place);
        }
        self.remove(digest);
    }

    fn remove(&mut self, digest: Digest) {
        let Some(message) = self.messages.remove(&digest) else {
            return;
        };
        self.recipients -= message.recipients.len();
        for recipient in message.recipients.keys() {
            if let Some(waiting) = self.waiting.get_mut(recipient) {
                waiting.retain(|known| *known != digest);
                if waiting.is_empty() {
                    self.waiting.remove(recipient);
                }
            }
        }
    }

    fn forget_old(&mut self, now: u64) {
        while let Some((at, digest)) = self.by_age.front().copied() {
            let is_old = at.saturating_add(KEPT.as_secs()) < now;
            if !is_old && self.recipients <= MAX_RECIPIENTS {
                return;
            }
            self.by_age.pop_front();
            self.remove(digest);
        }
    }
}

fn locked(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn written_anew(known: &Mutex<Known>, path: &Path, events: &[Event]) -> io::Result<()> {
    let mut file = write_new(path, events)?;
    for _ in 0..ROUNDS {
        let since = locked(known).take_since();
        if since.is_empty() {
            break;
        }
        file.write_all(&since)?;
        file.sync_data()?;
    }
    let folder = locked(known).end_anew(file)?;
    // Without that the old name may come back, which leads to less.
    folder.map_or(Ok(()), |folder| folder.sync_all())
}

/// A file beside the journal, with these events.
fn write_new(path: &Path, events: &[Event]) -> io::Result<File> {
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
    fn replaced(path: PathBuf, file: File, events: usize) -> io::Result<(Self, File)> {
        let folder = File::open(path.parent().unwrap_or(Path::new(".")))?;
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
        };
        Ok((journal, folder))
    }

    fn write(&mut self, line: &[u8]) -> bool {
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
        self.is_sound
    }
}

/// The journal's name in the folder of what outlives the process.
fn journal_of(configuration: &Path) -> String {
    let path = fs::canonicalize(configuration).unwrap_or_else(|_| configuration.into());
    let digest = String::from(Digest::of(&[path.as_os_str().as_encoded_bytes()]));
    format!("partial-deliveries-{digest}.jsonl")
}

/// `None` if another process has it.
fn alone(path: &Path) -> io::Result<Option<File>> {
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
    fn a_message_that_never_comes_again_orders_others_for_some_hours_only() {
        let mut known = Known::default();
        for (name, state) in [("a", State::Delivered), ("b", State::Open)] {
            known.note(
                Note::new(message(), recipient(name), egress(name), state),
                true,
            );
        }
        let later = |hours: u64| now() + hours * 60 * 60;
        assert_eq!(known.awaited(recipient("a"), later(11)), Some(message()));
        assert_eq!(known.awaited(recipient("a"), later(13)), None);
        assert!(known.recipient(message(), recipient("a")).is_some());
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
        while Arc::strong_count(&partial.known) > 1 {
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

    #[test]
    fn what_is_old_or_too_much_is_forgotten() {
        let mut known = Known::default();
        for number in 0..MAX_RECIPIENTS as u64 + 10 {
            known.take(
                Event {
                    at: number,
                    message: Digest::of_message("", &number.to_be_bytes()),
                    recipient: recipient(&number.to_string()),
                    egress: egress("a"),
                    body: None,
                    state: State::Delivered,
                },
                true,
            );
        }
        known.forget_old(0);
        assert_eq!(known.messages.len(), MAX_RECIPIENTS);
        known.forget_old(KEPT.as_secs() + MAX_RECIPIENTS as u64);
        assert_eq!(known.messages.len(), 10);
        assert_eq!(known.by_age.len(), 10);
        assert_eq!(known.waiting.len(), 10);
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
