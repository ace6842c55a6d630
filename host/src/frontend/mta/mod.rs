//! Where other mail servers ask the policies: Postfix, Sendmail, Exim and whoever speaks their protocols.
//!
//! One socket serves all protocols, which are told apart by the first octet. Each makes a context of what its server
//! tells, asks, and writes the decision in its own words. What a server does not tell is unknown, not absent.

pub mod attributes;
pub mod certificates;
mod delivery;
mod door;
mod envelope;
pub mod facts;
mod http;
pub mod milter;
mod policy;
mod sessions;
pub mod socketmap;
mod way_out;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

pub use self::door::{ConversationError, Frontend};

use self::door::IDLE;
use crate::config::Protocol;
use crate::frontend::ids::new_id;
use crate::observe::redact;
use crate::smtp::connection::{Connection, Stream};
use crate::socket::Bound;

/// How long to wait where no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// Accepts connections until no more are accepted. Whoever wants more of them than there may be waits before one is
/// accepted, and so takes no descriptor that others need.
pub async fn serve(bound: Bound, frontend: Arc<Frontend>) {
    let mut closed = frontend.server.closed.subscribe();
    let permits = Arc::new(Semaphore::new(frontend.config.connections));
    // Told once, not ten times a second.
    let mut is_failing = false;
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let accepting = async {
            match &bound {
                Bound::Unix(listener, _) => {
                    let (stream, _) = listener.accept().await?;
                    Ok((Stream::Unix(stream), None))
                }
                Bound::Tcp(listener, _) => {
                    let (stream, address) = listener.accept().await?;
                    Ok((told_when_lost(stream)?, Some(address)))
                }
            }
        };
        let accepted: io::Result<_> = tokio::select! {
            accepted = accepting => accepted,
            _ = closed.wait_for(|closed| *closed) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                is_failing = false;
                let frontend = frontend.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    converse(&frontend, Connection::new(stream), peer).await;
                });
            }
            Err(error) => {
                // Descriptors have run out, most likely.
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::error!(%error, "a connection of a mail server cannot be accepted");
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// A server that is gone without a word must not hold its connection for an hour.
fn told_when_lost(stream: TcpStream) -> io::Result<Stream> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    Ok(Stream::Tcp(stream))
}

/// Speaks with a server to the end.
async fn converse(frontend: &Arc<Frontend>, mut connection: Connection, peer: Option<SocketAddr>) {
    let session = new_id();
    let from = peer.map(|peer| redact::client(peer.ip()).to_string());
    let from = from.as_deref().unwrap_or("unix");
    let mut stopping = frontend.server.stopping.subscribe();
    let _open = frontend.server.asking.metrics.conversation();
    let talking = async {
        match timeout(IDLE, connection.fill()).await {
            Ok(Ok(0)) | Err(_) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
        }
        let protocol = protocol_of(connection.input[0]);
        match protocol.filter(|protocol| frontend.config.protocols.contains(protocol)) {
            Some(Protocol::Policy) => policy::serve(frontend, &mut connection, &session).await,
            Some(Protocol::Milter) => milter::serve(frontend, &mut connection, &session).await,
            Some(Protocol::Socketmap) => {
                socketmap::serve(frontend, &mut connection, &session).await
            }
            Some(Protocol::Http) => {
                http::serve(frontend, &mut connection, &session, peer.is_none()).await
            }
            None => Err(ConversationError::malformed(match protocol {
                Some(protocol) => format!("{} is not among its protocols", protocol.name()),
                None => "no protocol begins so".into(),
            })),
        }
    };
    tracing::debug!(session, server = from, "a mail server asks");
    let ended: Result<(), ConversationError> = tokio::select! {
        ended = talking => ended,
        _ = stopping.wait_for(|stopping| *stopping) => Ok(()),
    };
    match ended {
        Ok(()) => tracing::debug!(session, server = from, "a mail server has left"),
        Err(ConversationError::Lost(error)) => {
            tracing::debug!(session, server = from, %error, "a mail server is lost");
        }
        Err(error) => {
            let error = redact::redact(&error.to_string()).into_owned();
            frontend.tell_of_failure(&session, from, &error);
        }
    }
}

/// The protocol that a conversation begins with.
fn protocol_of(first: u8) -> Option<Protocol> {
    match first {
        // The length of a packet, of which the first octet counts 16 MiB.
        0 => Some(Protocol::Milter),
        b'a'..=b'z' | b'_' => Some(Protocol::Policy),
        b'A'..=b'Z' => Some(Protocol::Http),
        // The length of a netstring.
        b'0'..=b'9' => Some(Protocol::Socketmap),
        _ => None,
    }
}
