//! Addresses of next hops: `host:port`, `[ip]:port` or `unix:/path`.

use std::io;
use std::path::PathBuf;

use tokio::net::{TcpStream, UnixStream};

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

    /// Connects.
    pub async fn connect(&self) -> io::Result<Stream> {
        Ok(match self {
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Place::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        })
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

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Place::Tcp(address) => f.write_str(address),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
