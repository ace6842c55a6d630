//! From a connection to a session: PROXY header, connection limits, implicit TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::limits::LimitExceeded;
use super::listener::{Listener, Server, Settings};
use super::session::{Ends, Session};
use crate::config::TlsMode;
use crate::observe::redact;
use crate::smtp::connection::{Connection, Stream};
use crate::smtp::proxy_protocol;
use crate::smtp::reply::Reply;

/// How long to wait where no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a client that is turned away may take to read why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Accepts connections until no more are accepted.
pub async fn serve(listener: Arc<Listener>, server: Arc<Server>, socket: TcpListener) {
    let mut closed = server.closed.subscribe();
    // Told once, not ten times a second.
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = closed.wait_for(|closed| *closed) => return,
        };
        match accepted {
            Ok((stream, address)) => {
                is_failing = false;
                let (listener, server) = (listener.clone(), server.clone());
                tokio::spawn(async move {
                    if let Err(error) = handle(listener, server, stream, address).await {
                        let client = redact::client(address.ip());
                        tracing::debug!(%client, %error, "connection lost before its session");
                    }
                });
            }
            Err(error) => {
                // Descriptors have run out, most likely; sessions that end give some back.
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::error!(%error, "a connection cannot be accepted");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn handle(
    listener: Arc<Listener>,
    server: Arc<Server>,
    mut stream: TcpStream,
    address: SocketAddr,
) -> io::Result<()> {
    let settings = server.settings.load_full();
    let ends = ends(&listener, &settings, &mut stream, address).await?;
    let client = ends.client;
    let mut connection = Connection::new(Stream::Tcp(stream));
    let limits = &settings.limits;
    let entered =
        server
            .connections
            .enter(client.ip(), limits.sessions, limits.sessions_per_address);
    let inmate = match entered {
        Ok(guard) => guard,
        Err(full) => {
            server.asking.metrics.connection_rejected(full.name());
            return reject(connection, client, full).await;
        }
    };
    if listener.config.tls == TlsMode::Implicit {
        let tls = settings.tls(&listener);
        let tls = tls.ok_or_else(|| io::Error::other("no certificate"))?;
        let acceptor = tls.acceptor(listener.is_legacy(client.ip()));
        let handshake = connection.accept_tls(&acceptor);
        timeout(settings.timeouts.handshake, handshake).await??;
    }
    let open = server.asking.metrics.session();
    let session = Session::new(server, listener, settings, connection, ends);
    let id = session.id().to_owned();
    let client = redact::client(client.ip());
    tracing::debug!(session = id, %client, "session begins");
    let end = session.run().await;
    // Who reads that it has ended finds its place free.
    drop((open, inmate));
    tracing::debug!(session = id, %client, ?end, "session ends");
    Ok(())
}

/// The client's address and ours, as a balancer in between tells them, and the TLS that ended there.
async fn ends(
    listener: &Listener,
    settings: &Settings,
    stream: &mut TcpStream,
    address: SocketAddr,
) -> io::Result<Ends> {
    let client = canonical(address);
    let balancers = &listener.config.proxy_protocol;
    if balancers.iter().any(|net| net.contains(&client.ip())) {
        let header = timeout(settings.timeouts.handshake, proxy_protocol::read(stream)).await??;
        // LOCAL, or UNKNOWN: the balancer speaks for itself.
        if let Some(told) = header {
            return Ok(Ends {
                client: canonical(told.source),
                local: canonical(told.destination),
                ended_tls: told.tls,
            });
        }
    }
    let local = match listener.egress.forwards_client() {
        true => canonical(stream.local_addr()?),
        false => listener.config.address,
    };
    Ok(Ends {
        client,
        local,
        ended_tls: None,
    })
}

/// An IPv4 client of an IPv6 socket is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

async fn reject(
    mut connection: Connection,
    client: SocketAddr,
    full: LimitExceeded,
) -> io::Result<()> {
    let text = match full {
        LimitExceeded::Total => "too many connections, try again later",
        LimitExceeded::PerClient => "too many connections from your address, try again later",
    };
    tracing::warn!(client = %redact::client(client.ip()), reason = text, "connection rejected");
    connection.queue(&Reply::new(421, (4, 7, 0), text));
    timeout(LAST_WORD, connection.close_gently()).await?;
    Ok(())
}
