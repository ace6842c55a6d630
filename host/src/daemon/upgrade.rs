//! From one process to the next without a connection lost: the new one gets everything ready, takes the listening
//! sockets over by a Unix socket of the old one (SCM_RIGHTS, unix(7)), and serves them. Only then does the old one accept
//! no more, and its sessions end.
//!
//! The old process decides. The new one serves from `ready` on, and learns by the connection what has become of it:
//!
//! | old | new |
//! |---|---|
//! | | who it is |
//! | its sockets | |
//! | | `ready`: it serves them |
//! | `leave?` | |
//! | | `leave` |
//! | closes the connection: it accepts no more | goes on |
//! | or `stay`: it goes on, as the other one took too long | ends |
//!
//! Whichever of them ends or stands still at whatever moment, one of them goes on: the old one leaves only if the new one
//! has just answered, and a connection that closes without a word tells the new one that the old one is gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::{Config, state_file};
use crate::socket::{Bound, Place, Sockets, Spot, UnixPlace};

/// What both must speak.
const PROTOCOL: u32 = 1;
/// What becomes of an upgrade that does not succeed.
pub const NO_UPGRADE: &str = "the upgrade has come to nothing; the old process goes on";
/// How long to wait where no process can be answered that wants to take over.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the other process may take for its next word.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for a new process that binds what its predecessor has not.
const BINDING: Duration = Duration::from_secs(20);
/// The same for its first word, which it says as it connects: others wait meanwhile.
const GREETING: Duration = Duration::from_secs(2);
/// More sockets than a configuration has, and more octets than they need, in one line.
const MAX_LINE: usize = 1 << 20;
/// What accompanies each descriptor.
const SOCKET: u8 = b's';
const READY: &str = "ready";
const MAY_LEAVE: &str = "leave?";
const LEAVE: &str = "leave";
const STAY: &str = "stay";

/// An upgrade has come to nothing; the old process goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The other process is gone, or silent.
    #[error("the other process does not answer: {0}")]
    Lost(#[from] io::Error),
    /// It is none of ours.
    #[error("a process of user {uid} is at the upgrade socket, which is only for this user and root{}", number(.pid))]
    Foreign {
        /// Its number, if it is known.
        pid: Option<u32>,
        /// Whose it is.
        uid: u32,
    },
    /// It says what no Portcullis of this kind says.
    #[error(
        "the other process does not speak protocol {PROTOCOL}, but says {0:?}; restart instead"
    )]
    Protocol(String),
    /// It took too long, and the other one goes on.
    #[error("it took too long to serve the sockets")]
    Late,
    /// Some descriptors are missing.
    #[error("{came} of {sockets} sockets came: are there too few descriptors (ulimit -n)?")]
    Incomplete {
        /// Those that came.
        came: usize,
        /// Those that there are.
        sockets: usize,
    },
}

fn number(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(": process {pid}"))
        .unwrap_or_default()
}

#[derive(Serialize, Deserialize)]
struct Hello {
    portcullis: String,
    protocol: u32,
}

#[derive(Serialize, Deserialize)]
struct Offer {
    protocol: u32,
    sockets: Vec<Spot>,
}

/// Where the process of a configuration can be asked for its sockets. Under systemd it is in the folder that lives as long
/// as the service.
fn place(config: &Config) -> Option<UnixPlace> {
    let folders = std::env::var_os("RUNTIME_DIRECTORY");
    // There may be several.
    let folder = folders.iter().flat_map(std::env::split_paths).next();
    let folder = match folder.filter(|folder| folder.is_absolute()) {
        Some(folder) => folder,
        None => config.delivery.state_folder()?,
    };
    let path = state_file(&folder, "upgrade", &config.path, "sock");
    Some(UnixPlace {
        path,
        mode: 0o600,
        owner: None,
        group: None,
    })
}

/// Takes the sockets of the running process over, if there is one. It goes on serving them until it is relieved.
///
/// # Errors
/// If there is one, and not all of its sockets come.
pub async fn take_over(
    config: &Config,
    sockets: &mut Sockets,
) -> Result<Option<Predecessor>, UpgradeError> {
    let Some(at) = place(config) else {
        return Ok(None);
    };
    let nobody = || tracing::info!("there is no process to take over from");
    let Some(mut predecessor) = Predecessor::find(&at.path).await? else {
        nobody();
        return Ok(None);
    };
    match predecessor.sockets().await {
        Ok(taken) => {
            sockets.give(taken);
            Ok(Some(predecessor))
        }
        // It may have ended meanwhile, and then nobody else serves.
        Err(error) => match Predecessor::find(&at.path).await? {
            Some(_) => Err(error),
            None => {
                nobody();
                Ok(None)
            }
        },
    }
}

/// Listens on a Unix socket, whose folder is made if need be.
async fn listen_in_folder(sockets: &mut Sockets, place: UnixPlace) -> io::Result<Bound> {
    if let Some(folder) = place.path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    sockets.listen(&Place::Unix(place)).await
}

/// Starts the program as it is on the disk now, to take over from this process.
pub async fn start(program: PathBuf) {
    // The end of the first process of a container is the end of all.
    if std::process::id() == 1 {
        tracing::warn!(
            error = "this is the first process of a container: start another container",
            "{NO_UPGRADE}"
        );
        return;
    }
    let starting = move || -> io::Result<std::process::ExitStatus> {
        let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
        if !arguments.iter().any(|it| it == "--upgrade") {
            arguments.push("--upgrade".into());
        }
        tracing::info!(program = %program.display(), "another process is started, to take over");
        let mut program = std::process::Command::new(program);
        program
            .args(arguments)
            .stdin(std::process::Stdio::null())
            // The supervisor waits for signs of life of the new process, too.
            .env_remove("WATCHDOG_PID");
        program.spawn()?.wait()
    };
    match tokio::task::spawn_blocking(starting).await {
        Ok(Ok(status)) => tracing::warn!(%status, "{NO_UPGRADE}"),
        Ok(Err(error)) => tracing::warn!(%error, "{NO_UPGRADE}"),
        Err(error) => tracing::error!(%error, "{NO_UPGRADE}"),
    }
}

/// Where this program is. Once its file is replaced, that can no longer be asked.
pub fn program() -> PathBuf {
    let called = || std::env::args_os().next().unwrap_or_default().into();
    std::env::current_exe().unwrap_or_else(|_| called())
}

/// The socket by which another process can take over, if there can be one.
pub async fn listen(config: &Config, sockets: &mut Sockets) -> Option<UnixListener> {
    let bound = match place(config) {
        Some(place) => listen_in_folder(sockets, place).await,
        None => Err(io::Error::other("there is no folder for it")),
    };
    match bound {
        Ok(Bound::Unix(listener, _)) => Some(listener),
        Ok(Bound::Tcp(..)) => None,
        Err(error) => {
            tracing::warn!(%error, "upgrades take a restart: there is no socket for them ([delivery] state-directory)");
            None
        }
    }
}

/// Gives the sockets that are in use to the first process that comes to take over and serves them, of which `replaced`
/// is told.
pub async fn offer(listener: UnixListener, sockets: Sockets, replaced: mpsc::Sender<Successor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Descriptors have run out, most likely.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        match Successor::welcome(stream, &sockets).await {
            Ok(successor) => {
                // Nobody waits for it where the process ends anyway.
                let _ = replaced.send(successor).await;
                return;
            }
            Err(error) => tracing::warn!(%error, "{NO_UPGRADE}"),
        }
    }
}

/// The process that a new one takes over from.
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// The process that has the upgrade socket; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be connected to, or is none of ours.
    async fn find(path: &Path) -> Result<Option<Self>, UpgradeError> {
        match UnixStream::connect(path).await {
            Ok(stream) => {
                known(&stream)?;
                Ok(Some(Predecessor(stream)))
            }
            Err(error) => match error.kind() {
                // A path that is too long has no socket.
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::InvalidInput => Ok(None),
                _ => Err(error.into()),
            },
        }
    }

    /// The listening sockets that it has. It goes on serving them.
    async fn sockets(&mut self) -> Result<Vec<(Spot, OwnedFd)>, UpgradeError> {
        let stream = &mut self.0;
        let hello = Hello {
            portcullis: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL,
        };
        say(stream, &serde_json::to_string(&hello).unwrap_or_default()).await?;
        // It answers one process after another, and each may keep it that long.
        let line = hear(stream, BINDING + PATIENCE).await?;
        let offer: Result<Offer, _> = serde_json::from_str(&line);
        let offer = offer.ok().filter(|offer| offer.protocol == PROTOCOL);
        let Some(Offer { sockets, .. }) = offer else {
            return Err(UpgradeError::Protocol(line));
        };
        let (mut came, all) = (Vec::new(), sockets.len());
        for spot in sockets {
            let Some(socket) = within(PATIENCE, receive(stream)).await? else {
                let came = came.len();
                return Err(UpgradeError::Incomplete { came, sockets: all });
            };
            came.push((spot, socket));
        }
        Ok(came)
    }

    /// Tells it that its sockets are served here, and waits until it has left, or is gone.
    ///
    /// # Errors
    /// If it stays.
    pub async fn relieve(mut self) -> Result<(), UpgradeError> {
        let stream = &mut self.0;
        // One that is gone cannot hear it.
        let _ = say(stream, READY).await;
        loop {
            match line(stream).await {
                Ok(word) if word == MAY_LEAVE => {
                    let _ = say(stream, LEAVE).await;
                }
                Ok(word) if word == STAY => return Err(UpgradeError::Late),
                Ok(word) => return Err(UpgradeError::Protocol(word)),
                Err(_) => return Ok(()),
            }
        }
    }
}

/// A process that takes over, and serves already. Once this is dropped, it knows that it is alone.
pub struct Successor {
    /// Its number, if it is known here.
    pub process: Option<u32>,
    _stream: UnixStream,
}

impl Successor {
    /// Gives the sockets to whoever is at the other end, and waits until they are served there.
    ///
    /// # Errors
    /// If it is none of ours, ends, or takes too long. Nothing has changed then.
    async fn welcome(mut stream: UnixStream, sockets: &Sockets) -> Result<Self, UpgradeError> {
        let process = known(&stream)?;
        match hand_over(&mut stream, sockets).await {
            Ok(()) => Ok(Successor {
                process,
                _stream: stream,
            }),
            Err(error) => {
                // One that is gone cannot hear it.
                let _ = say(&mut stream, STAY).await;
                Err(error)
            }
        }
    }
}

async fn hand_over(stream: &mut UnixStream, sockets: &Sockets) -> Result<(), UpgradeError> {
    let line = hear(stream, GREETING).await?;
    let hello: Result<Hello, _> = serde_json::from_str(&line);
    let is_known = hello.is_ok_and(|hello| hello.protocol == PROTOCOL);
    let used = match is_known {
        true => sockets.used(),
        false => &[],
    };
    let offer = Offer {
        protocol: PROTOCOL,
        sockets: used.iter().map(|(spot, _)| spot.clone()).collect(),
    };
    say(stream, &serde_json::to_string(&offer).unwrap_or_default()).await?;
    if !is_known {
        return Err(UpgradeError::Protocol(line));
    }
    for (_, socket) in used {
        within(PATIENCE, send(stream, socket)).await?;
    }
    expect(READY, hear(stream, BINDING).await?)?;
    say(stream, MAY_LEAVE).await?;
    expect(LEAVE, hear(stream, PATIENCE).await?)
}

fn expect(word: &str, heard: String) -> Result<(), UpgradeError> {
    match heard == word {
        true => Ok(()),
        false => Err(UpgradeError::Protocol(heard)),
    }
}

/// The number of the process at the other end, as far as it is known here, which runs as the same user or as root.
fn known(stream: &UnixStream) -> Result<Option<u32>, UpgradeError> {
    let peer = stream.peer_cred()?;
    // One of another namespace has none.
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.filter(|pid| *pid != 0);
    match peer.uid() {
        uid if uid == 0 || uid == rustix::process::geteuid().as_raw() => Ok(pid),
        uid => Err(UpgradeError::Foreign { pid, uid }),
    }
}

/// What comes within a time.
async fn within<T>(limit: Duration, coming: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let came = timeout(limit, coming).await;
    came.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn say(stream: &mut UnixStream, line: &str) -> io::Result<()> {
    let line = format!("{line}\n");
    within(PATIENCE, stream.write_all(line.as_bytes())).await
}

/// The next line, all of which must come in time.
async fn hear(stream: &mut UnixStream, limit: Duration) -> io::Result<String> {
    within(limit, line(stream)).await
}

/// The next line, and no octet beyond: descriptors come with those.
async fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => return Ok(String::from_utf8_lossy(&line).into_owned()),
            Ok(_) if line.len() == MAX_LINE => {
                let why = "a line without an end";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            Ok(octet) => line.push(octet),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(io::Error::new(error.kind(), "it has ended"));
            }
            Err(error) => return Err(error),
        }
    }
}

async fn send(stream: &UnixStream, socket: &OwnedFd) -> io::Result<()> {
    let sending = || {
        let sockets = [socket.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        message.push(SendAncillaryMessage::ScmRights(&sockets));
        // Fails rather than ends this process if the other one is gone.
        let octets = [IoSlice::new(&[SOCKET])];
        sendmsg(stream, &octets, &mut message, SendFlags::NOSIGNAL)?;
        Ok(())
    };
    stream.async_io(Interest::WRITABLE, sending).await
}

/// The next descriptor; `None` if it is lost on the way, as it is if this process may have no more.
async fn receive(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let receiving = || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = RecvAncillaryBuffer::new(&mut space);
        let mut octet = [0];
        let mut octets = [IoSliceMut::new(&mut octet)];
        recvmsg(stream, &mut octets, &mut message, RecvFlags::CMSG_CLOEXEC)?;
        Ok(message.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        }))
    };
    stream.async_io(Interest::READABLE, receiving).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process with one socket, and where that is.
    async fn old() -> (Sockets, Place) {
        let mut sockets = Sockets::default();
        let place = Place::Tcp("127.0.0.1:0".parse().unwrap());
        sockets.listen(&place).await.unwrap();
        (sockets, place)
    }

    fn bound(sockets: &Sockets) -> std::net::SocketAddr {
        match sockets.used()[0].0 {
            Spot::Tcp { bound, .. } => bound,
            Spot::Unix(_) => panic!("a TCP socket"),
        }
    }

    /// Says and hears what a new process does, up to some point.
    async fn begun(theirs: UnixStream, words: &[&str]) -> Predecessor {
        let mut new = Predecessor(theirs);
        assert_eq!(new.sockets().await.unwrap().len(), 1);
        for word in words {
            say(&mut new.0, word).await.unwrap();
        }
        new
    }

    #[tokio::test]
    async fn a_peer_that_speaks_otherwise_gets_nothing() {
        for words in [
            "",
            "GET / HTTP/1.1\n",
            "{\"portcullis\":\"9\",\"protocol\":2}\n",
            "{}\n",
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(words.as_bytes()).await.unwrap();
            theirs.shutdown().await.unwrap();
            let (sockets, _) = old().await;
            assert!(Successor::welcome(ours, &sockets).await.is_err(), "{words}");
            let mut told = String::new();
            let _ = theirs.read_to_string(&mut told).await;
            assert!(!told.contains("127.0.0.1"), "{told}");
        }
    }

    #[tokio::test]
    async fn what_was_taken_over_is_the_same_socket() {
        let (sockets, place) = old().await;
        let (ours, theirs) = UnixStream::pair().unwrap();
        let taking = async {
            let (mut old, mut new) = (Predecessor(theirs), Sockets::default());
            new.give(old.sockets().await.unwrap());
            let socket = new.listen(&place).await.unwrap();
            assert!(new.close_unused().is_empty());
            old.relieve().await.unwrap();
            socket
        };
        let leaving = async { drop(Successor::welcome(ours, &sockets).await.unwrap()) };
        let (socket, ()) = tokio::join!(taking, leaving);
        assert_eq!(socket.to_string(), bound(&sockets).to_string());
    }

    #[tokio::test]
    async fn the_old_process_goes_on_whenever_the_new_one_ends() {
        for words in [&[][..], &[READY]] {
            let (sockets, _) = old().await;
            let (ours, theirs) = UnixStream::pair().unwrap();
            let ending = async { drop(begun(theirs, words).await) };
            let (welcomed, ()) = tokio::join!(Successor::welcome(ours, &sockets), ending);
            let error = welcomed.err();
            assert!(matches!(error, Some(UpgradeError::Lost(_))), "{error:?}");
            std::net::TcpStream::connect(bound(&sockets)).unwrap();
        }
    }

    #[tokio::test]
    async fn the_new_process_goes_on_whenever_the_old_one_ends() {
        for words in [&[][..], &[MAY_LEAVE]] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let ending = async {
                for word in words {
                    say(&mut ours, word).await.unwrap();
                }
                drop(ours);
            };
            let (relieved, ()) = tokio::join!(Predecessor(theirs).relieve(), ending);
            relieved.unwrap();
        }
    }

    /// A process that stands still for too long finds that the old one has stayed.
    #[tokio::test(start_paused = true)]
    async fn a_new_process_that_is_late_is_told_that_the_old_one_stays() {
        for (words, heard) in [(&[][..], &[STAY][..]), (&[READY], &[MAY_LEAVE, STAY])] {
            let (sockets, _) = old().await;
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (welcomed, mut late) =
                tokio::join!(Successor::welcome(ours, &sockets), begun(theirs, words));
            assert!(welcomed.is_err());
            for word in heard {
                assert_eq!(line(&mut late.0).await.unwrap(), *word);
            }
        }
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let staying = async {
            say(&mut ours, MAY_LEAVE).await.unwrap();
            say(&mut ours, STAY).await.unwrap();
        };
        let (relieved, ()) = tokio::join!(Predecessor(theirs).relieve(), staying);
        assert!(matches!(relieved, Err(UpgradeError::Late)), "{relieved:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_octet_by_octet_holds_nobody_up() {
        let (sockets, _) = old().await;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let begun = tokio::time::Instant::now();
        let dripping = async {
            while theirs.write_all(b"{").await.is_ok() {
                tokio::time::sleep(GREETING / 2).await;
            }
        };
        let (welcomed, ()) = tokio::join!(Successor::welcome(ours, &sockets), dripping);
        assert!(welcomed.is_err());
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }
}
