//! From one process to the next without a connection lost: the new one gets everything ready, takes the listening
//! sockets over by a Unix socket of the old one (SCM_RIGHTS, unix(7)), and serves them. Only then does the old one accept
//! no more, and its sessions end.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

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
const BINDING: Duration = Duration::from_secs(60);
/// More sockets than a configuration has, and more octets than they need, in one line.
const MAX_LINE: usize = 1 << 20;
/// What accompanies each descriptor.
const SOCKET: u8 = b's';
const READY: &str = "ready";
const DONE: &str = "done";

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
    process: u32,
    sockets: Vec<Spot>,
}

/// Where a process can be asked for its sockets. Under systemd it is in the folder that lives as long as the service.
pub fn place(config: &Config) -> Option<Place> {
    let folders = std::env::var_os("RUNTIME_DIRECTORY");
    // There may be several.
    let folder = folders.iter().flat_map(std::env::split_paths).next();
    let path = match folder.filter(|folder| folder.is_absolute()) {
        Some(folder) => folder.join("upgrade.sock"),
        None => state_file(
            &config.delivery.state_folder()?,
            "upgrade",
            &config.path,
            "sock",
        ),
    };
    Some(Place::Unix(UnixPlace {
        path,
        mode: 0o600,
        owner: None,
        group: None,
    }))
}

/// Takes the sockets of the running process over, if there is one.
///
/// # Errors
/// If there is one, and not all of its sockets come.
pub async fn take_over(
    config: &Config,
    sockets: &mut Sockets,
) -> Result<Option<Takeover>, UpgradeError> {
    let Some(Place::Unix(at)) = place(config) else {
        return Ok(None);
    };
    let Some(predecessor) = Predecessor::find(&at.path).await? else {
        tracing::info!("there is no process to take over from");
        return Ok(None);
    };
    let taken = tokio::task::spawn_blocking(|| predecessor.take_over()).await;
    let mut taken = taken.map_err(io::Error::other)??;
    sockets.give(std::mem::take(&mut taken.sockets));
    Ok(Some(taken))
}

/// Listens on a Unix socket, whose folder is made if need be.
async fn listen_in_folder(sockets: &mut Sockets, place: &Place) -> io::Result<Bound> {
    if let Place::Unix(unix) = place
        && let Some(folder) = unix.path.parent()
    {
        std::fs::create_dir_all(folder)?;
    }
    sockets.listen(place).await
}

async fn welcome(
    stream: tokio::net::UnixStream,
    sockets: Arc<Sockets>,
) -> Result<Successor, UpgradeError> {
    let process = known(&stream)?;
    let stream = blocking(stream)?;
    let welcoming = move || Successor::welcome(process, stream, &sockets);
    let welcomed = tokio::task::spawn_blocking(welcoming).await;
    welcomed.map_err(io::Error::other)?
}

/// Starts the program as it is on the disk now, to take over from this process.
pub async fn start(program: PathBuf) {
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
        Some(place) => listen_in_folder(sockets, &place).await,
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
pub async fn offer(
    listener: UnixListener,
    sockets: Arc<Sockets>,
    replaced: mpsc::Sender<Successor>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Descriptors have run out, most likely.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        match welcome(stream, sockets.clone()).await {
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

/// What it has given.
pub struct Takeover {
    /// Its sockets.
    pub sockets: Vec<(Spot, OwnedFd)>,
    process: u32,
    stream: UnixStream,
}

impl Predecessor {
    /// The process that has the upgrade socket; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be connected to, or is none of ours.
    pub async fn find(path: &Path) -> Result<Option<Self>, UpgradeError> {
        let stream = match tokio::net::UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                    _ => Err(error.into()),
                };
            }
        };
        known(&stream)?;
        Ok(Some(Predecessor(blocking(stream)?)))
    }

    /// The listening sockets that it has. It goes on serving them.
    ///
    /// # Errors
    /// If not all of them come.
    pub fn take_over(self) -> Result<Takeover, UpgradeError> {
        let hello = Hello {
            portcullis: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL,
        };
        say(&self.0, &serde_json::to_string(&hello).unwrap_or_default())?;
        let line = hear(&self.0)?;
        let offer: Offer =
            serde_json::from_str(&line).map_err(|_| UpgradeError::Protocol(line.clone()))?;
        if offer.protocol != PROTOCOL {
            return Err(UpgradeError::Protocol(line));
        }
        let (process, sockets) = (offer.process, offer.sockets.len());
        let mut came = Vec::new();
        for spot in offer.sockets {
            let Some(socket) = receive(&self.0)? else {
                let came = came.len();
                return Err(UpgradeError::Incomplete { came, sockets });
            };
            came.push((spot, socket));
        }
        Ok(Takeover {
            sockets: came,
            process,
            stream: self.0,
        })
    }
}

impl Takeover {
    /// Tells the old process that its sockets are served, and waits until it has heard that. One that has ended
    /// meanwhile need not hear it.
    ///
    /// # Errors
    /// If it goes on all the same.
    pub fn complete(self) -> Result<(), UpgradeError> {
        let heard = say(&self.stream, READY).and_then(|()| hear(&self.stream));
        match heard {
            Ok(word) if word == DONE => Ok(()),
            Ok(word) => Err(UpgradeError::Protocol(word)),
            Err(error) if is_alive(self.process) => Err(error.into()),
            Err(_) => Ok(()),
        }
    }
}

fn is_alive(process: u32) -> bool {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    process.is_some_and(|process| test_kill_process(process).is_ok())
}

/// A process that takes over, and serves already.
pub struct Successor {
    /// Its number, if it is known here.
    pub process: Option<u32>,
    stream: UnixStream,
}

impl Successor {
    /// Gives the sockets to whoever is at the other end, and waits until they are served there.
    ///
    /// # Errors
    /// If it is none of ours, or ends before it serves them. Nothing has changed then.
    pub fn welcome(
        process: Option<u32>,
        stream: UnixStream,
        sockets: &Sockets,
    ) -> Result<Self, UpgradeError> {
        let line = hear(&stream)?;
        let hello: Result<Hello, _> = serde_json::from_str(&line);
        let is_known = hello.is_ok_and(|hello| hello.protocol == PROTOCOL);
        let offer = Offer {
            protocol: PROTOCOL,
            process: std::process::id(),
            sockets: match is_known {
                true => sockets
                    .used()
                    .iter()
                    .map(|(spot, _)| spot.clone())
                    .collect(),
                false => Vec::new(),
            },
        };
        say(&stream, &serde_json::to_string(&offer).unwrap_or_default())?;
        if !is_known {
            return Err(UpgradeError::Protocol(line));
        }
        for (_, socket) in sockets.used() {
            send(&stream, socket)?;
        }
        stream.set_read_timeout(Some(BINDING))?;
        match hear(&stream)? {
            word if word == READY => Ok(Successor { process, stream }),
            word => Err(UpgradeError::Protocol(word)),
        }
    }

    /// Tells it that it is alone now. If it has ended meanwhile, there is nothing to be done.
    pub fn leave(self) {
        let _ = say(&self.stream, DONE);
    }
}

/// The number of the process at the other end, as far as it is known here, which runs as the same user or as root.
fn known(stream: &tokio::net::UnixStream) -> Result<Option<u32>, UpgradeError> {
    let peer = stream.peer_cred()?;
    // One of another namespace has none.
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let pid = pid.filter(|pid| *pid != 0);
    match peer.uid() {
        uid if uid == 0 || uid == rustix::process::geteuid().as_raw() => Ok(pid),
        uid => Err(UpgradeError::Foreign { pid, uid }),
    }
}

/// A stream for a thread that waits for the other process, though not for ever.
fn blocking(stream: tokio::net::UnixStream) -> io::Result<UnixStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn say(mut stream: &UnixStream, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\n").as_bytes())
}

/// The next line, and no octet beyond: descriptors come with those.
fn hear(mut stream: &UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut octet = [0];
    loop {
        stream
            .read_exact(&mut octet)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it has ended"),
                _ => error,
            })?;
        match octet {
            [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            _ if line.len() == MAX_LINE => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line without an end",
                ));
            }
            [other] => line.push(other),
        }
    }
}

fn send(stream: &UnixStream, socket: &OwnedFd) -> io::Result<()> {
    let sockets = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    message.push(SendAncillaryMessage::ScmRights(&sockets));
    // Fails rather than ends this process if the other one is gone.
    sendmsg(
        stream,
        &[IoSlice::new(&[SOCKET])],
        &mut message,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The next descriptor; `None` if it is lost on the way, as it is if this process may have no more.
fn receive(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut octet = [0];
    let mut octets = [IoSliceMut::new(&mut octet)];
    recvmsg(stream, &mut octets, &mut message, RecvFlags::CMSG_CLOEXEC)?;
    let came = message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    Ok(came)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_speaks_otherwise_gets_nothing() {
        for words in [
            "",
            "GET / HTTP/1.1\n",
            "{\"portcullis\":\"9\",\"protocol\":2}\n",
            "{}\n",
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(words.as_bytes()).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let outcome = Successor::welcome(None, ours, &Sockets::default());
            assert!(outcome.is_err(), "{words}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_ends_early_changes_nothing() {
        let mut sockets = Sockets::default();
        let place = Place::Tcp("127.0.0.1:0".parse().unwrap());
        sockets.listen(&place).await.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let welcome = std::thread::spawn(move || {
            let outcome = Successor::welcome(None, ours, &sockets).err();
            (outcome, sockets)
        });
        let came = Predecessor(theirs).take_over().unwrap();
        assert_eq!(came.sockets.len(), 1);
        drop(came);
        let (outcome, sockets) = welcome.join().unwrap();
        assert!(
            matches!(outcome, Some(UpgradeError::Lost(_))),
            "{outcome:?}"
        );
        let Spot::Tcp { bound, .. } = sockets.used()[0].0 else {
            panic!("a TCP socket");
        };
        std::net::TcpStream::connect(bound).unwrap();
    }

    #[tokio::test]
    async fn what_was_taken_over_is_the_same_socket() {
        let mut sockets = Sockets::default();
        let place = Place::Tcp("127.0.0.1:0".parse().unwrap());
        sockets.listen(&place).await.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let welcome = std::thread::spawn(move || {
            Successor::welcome(None, ours, &sockets).unwrap().leave();
            sockets.used()[0].0.clone()
        });
        let mut new = Sockets::default();
        let mut takeover = Predecessor(theirs).take_over().unwrap();
        new.give(std::mem::take(&mut takeover.sockets));
        let socket = new.listen(&place).await.unwrap();
        takeover.complete().unwrap();
        let Spot::Tcp { bound, .. } = welcome.join().unwrap() else {
            panic!("a TCP socket");
        };
        assert_eq!(socket.to_string(), bound.to_string());
        assert!(new.close_unused().is_empty());
    }
}
