//! Listening sockets, TCP and Unix: those that another process gives to this one, and those that this one binds.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use nix::unistd::{Gid, Group, Uid, User, chown};
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// The mode of a socket before it has its own.
const PRIVATE: u32 = 0o600;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(UnixPlace),
}

/// A Unix socket, and who may open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixPlace {
    /// Where it is.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Its owner; whoever runs this, if absent.
    pub owner: Option<String>,
    /// Its group; that of whoever runs this, if absent.
    pub group: Option<String>,
}

/// A socket that is bound.
pub enum Bound {
    /// A Unix socket, and where it is.
    Unix(UnixListener, PathBuf),
    /// An address.
    Tcp(TcpListener, SocketAddr),
}

impl fmt::Display for Bound {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Unix(_, path) => write!(to, "{}", path.display()),
            Bound::Tcp(_, address) => write!(to, "{address}"),
        }
    }
}

/// Where a socket listens that is passed from one process to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spot {
    /// An address, as it is configured and as it is: port 0 stands for any.
    Tcp {
        /// As it is configured.
        configured: SocketAddr,
        /// As it is.
        bound: SocketAddr,
    },
    /// A path.
    Unix(PathBuf),
}

impl Spot {
    fn of(place: &Place, bound: &Bound) -> Spot {
        match (place, bound) {
            (Place::Tcp(configured), Bound::Tcp(_, bound)) => Spot::Tcp {
                configured: *configured,
                bound: *bound,
            },
            (_, Bound::Tcp(_, bound)) => Spot::Tcp {
                configured: *bound,
                bound: *bound,
            },
            (_, Bound::Unix(_, path)) => Spot::Unix(path.clone()),
        }
    }

    fn is(&self, place: &Place) -> bool {
        match (self, place) {
            (Spot::Tcp { configured, bound }, Place::Tcp(wanted)) => {
                wanted == bound || wanted == configured
            }
            (Spot::Unix(path), Place::Unix(wanted)) => *path == wanted.path,
            _ => false,
        }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spot::Tcp { bound, .. } => write!(to, "{bound}"),
            Spot::Unix(path) => write!(to, "{}", path.display()),
        }
    }
}

/// A socket that another process has given.
#[derive(Debug)]
struct Given {
    spot: Spot,
    socket: OwnedFd,
    /// Whether it is a supervisor's, who has said who may open it.
    is_of_supervisor: bool,
}

/// More sockets than a supervisor gives.
const MAX_SOCKETS: usize = 1024;

/// The listening sockets of this process.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Given by another process, and not in use yet.
    given: Vec<Given>,
    /// In use: a second descriptor of each, for the process that takes over.
    used: Vec<(Spot, OwnedFd)>,
}

impl Sockets {
    /// The sockets that the supervisor has given to this process (sd_listen_fds(3)). What says so is taken out of the
    /// environment, so no other thread may run yet.
    ///
    /// # Errors
    /// If one of them is no listening stream socket.
    pub fn from_supervisor() -> io::Result<Self> {
        check_number()?;
        let mut passed = ListenFd::from_env();
        let given = (0..passed.len()).map(|number| {
            let (spot, socket) = socket_of_supervisor(&mut passed, number).map_err(|error| {
                let text = format!("socket {number} of LISTEN_FDS: {error}");
                io::Error::new(error.kind(), text)
            })?;
            Ok(Given {
                spot,
                socket,
                is_of_supervisor: true,
            })
        });
        Ok(Sockets {
            given: given.collect::<io::Result<_>>()?,
            used: Vec::new(),
        })
    }

    /// Sockets of the process that this one takes over from. Those that there are already come first.
    pub fn give(&mut self, sockets: Vec<(Spot, OwnedFd)>) {
        let given = sockets.into_iter().map(|(spot, socket)| Given {
            spot,
            socket,
            is_of_supervisor: false,
        });
        self.given.extend(given);
    }

    /// A socket that listens there: one that was given, or else a new one. A Unix socket that a dead process has left
    /// is replaced.
    ///
    /// # Errors
    /// If the address is taken, or not ours.
    pub async fn listen(&mut self, place: &Place) -> io::Result<Bound> {
        let given = self.given.iter().position(|given| given.spot.is(place));
        let given = given.map(|number| self.given.remove(number));
        let bound = match (given, place) {
            (Some(given), Place::Tcp(_)) => {
                // What is accepted inherits it.
                sockopt::set_tcp_nodelay(&given.socket, true)?;
                let listener = std::net::TcpListener::from(given.socket);
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                Bound::Tcp(TcpListener::from_std(listener)?, address)
            }
            // Nobody can reach it whose file is gone.
            (Some(given), Place::Unix(unix)) if is_socket(&unix.path) => {
                if !given.is_of_supervisor {
                    let (owner, group) = ids(unix)?;
                    admit(&unix.path, unix, owner, group)?;
                }
                let listener = std::os::unix::net::UnixListener::from(given.socket);
                listener.set_nonblocking(true)?;
                Bound::Unix(UnixListener::from_std(listener)?, unix.path.clone())
            }
            (_, Place::Unix(unix)) => Bound::Unix(bind_unix(unix).await?, unix.path.clone()),
            (None, Place::Tcp(address)) => {
                let listener = bind_tcp(*address).map_err(|error| self.explain(*address, error))?;
                let address = listener.local_addr()?;
                Bound::Tcp(listener, address)
            }
        };
        let second = match &bound {
            Bound::Tcp(listener, _) => listener.as_fd().try_clone_to_owned(),
            Bound::Unix(listener, _) => listener.as_fd().try_clone_to_owned(),
        };
        self.used.push((Spot::of(place, &bound), second?));
        Ok(bound)
    }

    /// Where the address was given, but is configured in other words, says so.
    fn explain(&self, address: SocketAddr, error: io::Error) -> io::Error {
        let has_port =
            |spot: &Spot| matches!(spot, Spot::Tcp { bound, .. } if bound.port() == address.port());
        let same_port = self.given.iter().find(|given| has_port(&given.spot));
        match (error.kind(), same_port) {
            (io::ErrorKind::AddrInUse, Some(given)) => {
                let text = format!(
                    "{error}; this process was given a socket at {}: configure that address",
                    given.spot
                );
                io::Error::new(error.kind(), text)
            }
            _ => error,
        }
    }

    /// Closes those that were given and are not in use; gives where they listened.
    pub fn close_unused(&mut self) -> Vec<Spot> {
        let unused = std::mem::take(&mut self.given);
        unused.into_iter().map(|given| given.spot).collect()
    }

    /// Those that are in use.
    pub fn used(&self) -> &[(Spot, OwnedFd)] {
        &self.used
    }
}

/// Whether a supervisor of this process has said how many sockets it gives, in a number that can be.
fn check_number() -> io::Result<()> {
    let (Some(number), process) = (
        std::env::var_os("LISTEN_FDS"),
        std::env::var("LISTEN_PID").unwrap_or_default(),
    ) else {
        return Ok(());
    };
    let is_for_us = process.is_empty() || process == std::process::id().to_string();
    let parsed = number.to_str().and_then(|number| number.parse().ok());
    match parsed.is_some_and(|number: usize| number <= MAX_SOCKETS) {
        false if is_for_us => {
            let text = format!(
                "LISTEN_FDS is {:?}, and no number of sockets up to {MAX_SOCKETS}",
                number.to_string_lossy()
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
        _ => Ok(()),
    }
}

fn is_socket(path: &Path) -> bool {
    let file = std::fs::symlink_metadata(path);
    file.is_ok_and(|file| file.file_type().is_socket())
}

fn socket_of_supervisor(passed: &mut ListenFd, number: usize) -> io::Result<(Spot, OwnedFd)> {
    let (spot, socket) = match passed.take_tcp_listener(number) {
        Ok(Some(tcp)) => {
            let bound = tcp.local_addr()?;
            let configured = bound;
            (Spot::Tcp { configured, bound }, OwnedFd::from(tcp))
        }
        // One that was taken is not taken again.
        Ok(None) => return Err(io::ErrorKind::NotFound.into()),
        Err(_) => {
            let unix = passed.take_unix_listener(number);
            let unix = unix?.ok_or(io::ErrorKind::NotFound)?;
            let address = unix.local_addr()?;
            let path = address.as_pathname().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "a Unix socket without a path")
            })?;
            (Spot::Unix(path.into()), OwnedFd::from(unix))
        }
    };
    match sockopt::socket_acceptconn(&socket)? {
        true => Ok((spot, socket)),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{spot}: it does not listen (Accept=no is needed)"),
        )),
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address.is_ipv4() {
        true => TcpSocket::new_v4(),
        false => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    // What is accepted inherits it.
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Nobody can connect before it has its mode and owner: it gets its name then.
async fn bind_unix(place: &UnixPlace) -> io::Result<UnixListener> {
    let path = &place.path;
    // One that is full of connections is alive.
    let is_alive = match UnixStream::connect(path).await {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    };
    if is_alive {
        let text = format!("another process listens on {}", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    let file = std::fs::symlink_metadata(path);
    if file.is_ok_and(|file| !file.file_type().is_socket()) {
        let text = format!("{} is there, and is no socket", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let (owner, group) = ids(place)?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    let named =
        admit(&temporary, place, owner, group).and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = named {
        let _ = std::fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(listener)
}

/// Gives a socket its mode and owner. The mode comes last: an owner that is not the wanted one must not have it.
fn admit(path: &Path, place: &UnixPlace, owner: Option<Uid>, group: Option<Gid>) -> io::Result<()> {
    let mode = std::fs::Permissions::from_mode;
    std::fs::set_permissions(path, mode(PRIVATE))?;
    if owner.is_some() || group.is_some() {
        chown(path, owner, group).map_err(|error| {
            let who = [place.owner.as_deref(), place.group.as_deref()];
            let who: Vec<_> = who.into_iter().flatten().collect();
            let text = format!(
                "the socket cannot be given to {}: {error}; only root can, or a member of the group",
                who.join(":")
            );
            io::Error::new(io::Error::from(error).kind(), text)
        })?;
    }
    std::fs::set_permissions(path, mode(place.mode))
}

/// Owner and group, by name.
fn ids(place: &UnixPlace) -> io::Result<(Option<Uid>, Option<Gid>)> {
    let unknown = |what: &str, name: &str| {
        let text = format!("this machine has no {what} {name:?}");
        io::Error::new(io::ErrorKind::NotFound, text)
    };
    let owner = match &place.owner {
        Some(name) => Some(
            User::from_name(name)?
                .ok_or_else(|| unknown("user", name))?
                .uid,
        ),
        None => None,
    };
    let group = match &place.group {
        Some(name) => Some(
            Group::from_name(name)?
                .ok_or_else(|| unknown("group", name))?
                .gid,
        ),
        None => None,
    };
    Ok((owner, group))
}
