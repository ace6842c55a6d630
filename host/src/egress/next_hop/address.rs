//! Addresses of next hops: `host:port`, `[ip]:port` or `unix:/path`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{UnixStream, lookup_host};
use tokio::time::timeout;

use crate::egress::client::Cause;
use crate::egress::dial;
use crate::smtp::connection::Stream;

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Place {
    /// `host:port`; a name is resolved at each connection.
    Tcp(String),
    /// A socket of this machine.
    Unix(PathBuf),
}

impl Place {
    /// Reads a configured address; `port` where it names none.
    pub fn parse(text: &str, port: u16) -> Self {
        if let Some(path) = text.strip_prefix("unix:") {
            return Place::Unix(path.into());
        }
        let has_port = match text.rsplit_once(':') {
            Some((host, port)) => {
                port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
            }
            None => false,
        };
        Place::Tcp(if has_port {
            text.into()
        } else {
            format!("{text}:{port}")
        })
    }

    /// Connects to whichever of its addresses answers first; each has so much time for it.
    pub async fn connect(&self, limit: Duration) -> Result<Stream, Cause> {
        let connected = match self {
            Place::Tcp(address) => return to_host(address, limit).await,
            Place::Unix(path) => timeout(limit, UnixStream::connect(path)).await,
        };
        match connected {
            Ok(stream) => Ok(Stream::Unix(stream?)),
            Err(_) => Err(Cause::TimedOut),
        }
    }

    /// The port, if there is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Place::Tcp(address) => address.rsplit_once(':')?.1.parse().ok(),
            Place::Unix(_) => None,
        }
    }

    /// The name that a certificate could be for.
    pub fn host(&self) -> &str {
        match self {
            Place::Tcp(address) => address
                .rsplit_once(':')
                .map_or(&**address, |(host, _)| host)
                .trim_matches(['[', ']']),
            Place::Unix(_) => "localhost",
        }
    }
}

async fn to_host(address: &str, limit: Duration) -> Result<Stream, Cause> {
    let found = timeout(limit, lookup_host(address)).await;
    let found = found.map_err(|_| Cause::TimedOut)??;
    let addresses = dial::interleaved(found.collect(), SocketAddr::is_ipv6);
    let (connected, failed) = dial::connect(&addresses, &[], limit).await;
    if let Some((_, stream)) = connected {
        return Ok(Stream::Tcp(stream));
    }
    let error = failed.into_iter().find_map(|failed| failed.error);
    Err(error.map_or(Cause::TimedOut, Cause::from))
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Place::Tcp(address) => f.write_str(address),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
