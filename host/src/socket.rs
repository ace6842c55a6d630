//! Listening sockets that are TCP or Unix.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, chown};
use tokio::net::{TcpListener, UnixListener, UnixStream};

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

/// Binds it. A socket that a dead process has left is replaced.
///
/// # Errors
/// If the address is taken, or not ours.
pub async fn bind(place: &Place) -> io::Result<Bound> {
    match place {
        Place::Tcp(address) => {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Bound::Tcp(listener, address))
        }
        Place::Unix(unix) => {
            let listener = bind_unix(unix).await?;
            Ok(Bound::Unix(listener, unix.path.clone()))
        }
    }
}

/// Nobody can connect before it has its mode and owner: it gets its name then.
async fn bind_unix(place: &UnixPlace) -> io::Result<UnixListener> {
    let path = &place.path;
    if UnixStream::connect(path).await.is_ok() {
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
