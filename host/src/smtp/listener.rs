//! Listening sockets, and what all sessions share.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::connection::{Connection, Stream};
use super::exit::Exit;
use super::expiry::Expiring;
use super::limits::{Doors, Full, Room};
use super::outbound::Dns;
use super::partial::Partial;
use super::proxy_protocol;
use super::reply::Reply;
use super::session::Session;
use crate::config::{self, TlsMode};
use crate::metrics::Metrics;
use crate::tls::ServerTls;
use portcullis::store::Policies;

const BACKLOG: u32 = 1024;

/// What all sessions share.
pub struct Server {
    /// Our name.
    pub hostname: Arc<str>,
    /// Who decides.
    pub policies: Arc<Policies>,
    /// What a reload of the configuration exchanges; a session keeps what it began with.
    pub settings: ArcSwap<Settings>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What became of messages whose recipients ended differently.
    pub partial: Partial,
    /// Who is inside.
    pub doors: Arc<Doors>,
    /// The memory for long headers.
    pub headers: Room,
    /// Whose certificates are about to run out.
    pub expiring: Expiring,
    /// Whether sessions are to end.
    pub stopping: watch::Sender<bool>,
}

/// What a reload of the configuration exchanges.
pub struct Settings {
    /// Whose certificates are trusted.
    pub roots: crate::tls::Roots,
    /// What a session may use.
    pub limits: config::Limits,
    /// How long to wait.
    pub timeouts: config::Timeouts,
    /// The certificates, by the listener's number.
    pub tls: HashMap<usize, ServerTls>,
    /// Whom to ask what clients' addresses are called, if anybody wants to know.
    pub names: Option<Arc<Dns>>,
}

impl Settings {
    /// What a listener does handshakes with, if it does.
    pub fn tls(&self, listener: &Listener) -> Option<ServerTls> {
        self.tls.get(&listener.number).cloned()
    }
}

/// A listening socket, as configured.
pub struct Listener {
    /// Its place in the configuration.
    pub number: usize,
    /// The configuration.
    pub config: config::Listener,
    /// Where accepted mail goes.
    pub exit: Exit,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

impl Listener {
    /// Binds the socket.
    ///
    /// # Errors
    /// If the address is taken, or not ours.
    pub fn bind(&self) -> Result<TcpListener, ListenError> {
        let address = self.config.address;
        let bind = || {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }?;
            socket.set_reuseaddr(true)?;
            // What is accepted inherits it.
            socket.set_nodelay(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        bind().map_err(|source| ListenError { address, source })
    }

    /// Takes clients in until the server stops.
    pub async fn serve(self: Arc<Self>, server: Arc<Server>, socket: TcpListener) {
        let mut stopping = server.stopping.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let (listener, server) = (self.clone(), server.clone());
                    tokio::spawn(async move {
                        if let Err(error) = listener.welcome(&server, stream, address).await {
                            tracing::debug!(client = %crate::log::client(address.ip()), %error, "connection lost before its session");
                        }
                    });
                }
                Err(error) => {
                    // Descriptors have run out, most likely; sessions that end give some back.
                    tracing::error!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// From a connection to a session.
    async fn welcome(
        self: Arc<Self>,
        server: &Arc<Server>,
        mut stream: TcpStream,
        address: SocketAddr,
    ) -> io::Result<()> {
        let settings = server.settings.load_full();
        let mut local = match self.exit.tells_client() {
            true => canonical(stream.local_addr()?),
            false => self.config.address,
        };
        let mut client = canonical(address);
        if self
            .config
            .proxy_protocol
            .iter()
            .any(|net| net.contains(&client.ip()))
        {
            let header = timeout(
                settings.timeouts.handshake,
                proxy_protocol::read(&mut stream),
            )
            .await??;
            // LOCAL, or UNKNOWN: the balancer speaks for itself.
            if let Some((source, destination)) = header {
                client = canonical(source);
                local = canonical(destination);
            }
        }
        let mut connection = Connection::new(Stream::Tcp(stream));
        let limits = &settings.limits;
        let _inmate =
            match server
                .doors
                .enter(client.ip(), limits.sessions, limits.sessions_per_address)
            {
                Ok(inmate) => inmate,
                Err(full) => {
                    server.metrics.turned_away(full.name());
                    return turn_away(connection, client, full).await;
                }
            };
        if self.config.tls == TlsMode::Implicit {
            let tls = settings
                .tls(&self)
                .ok_or_else(|| io::Error::other("no certificate"))?;
            timeout(
                settings.timeouts.handshake,
                connection.accept_tls(&tls.acceptor()),
            )
            .await??;
        }
        let session = Session::new(server.clone(), self, settings, connection, client, local);
        let id = session.id().to_owned();
        tracing::debug!(session = id, client = %crate::log::client(client.ip()), "session begins");
        let _open = server.metrics.session();
        let end = session.run().await;
        tracing::debug!(session = id, client = %crate::log::client(client.ip()), ?end, "session ends");
        Ok(())
    }
}

/// An IPv4 client of an IPv6 socket is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn turn_away(mut connection: Connection, client: SocketAddr, full: Full) -> io::Result<()> {
    let text = match full {
        Full::House => "too many sessions, come again later",
        Full::Client => "too many sessions from your address, come again later",
    };
    tracing::warn!(client = %crate::log::client(client.ip()), reason = text, "turned away");
    connection.queue(&Reply::new(421, (4, 7, 0), text));
    timeout(Duration::from_secs(1), connection.close_gently()).await?;
    Ok(())
}
