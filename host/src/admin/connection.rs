//! The socket of the API and its page.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::access::Peer;
use super::answer::Answer;
use super::api::Admin;
use super::routes;
use crate::socket::Bound;

/// How many may be connected at a time.
const MAX_CLIENTS: usize = 128;
/// How many of one address, which anybody may have who reaches it.
const MAX_OF_ADDRESS: usize = 32;
/// How many of one user, whom the socket's mode has let in: a hosting panel is one user with many clients.
const MAX_OF_USER: usize = 112;
/// How many that are too many are told so at a time, and how long that may take.
const MAX_TURNED_AWAY: usize = 16;
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a connection may last, whatever it does.
const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// How long a request's header may take.
const HEADER: Duration = Duration::from_secs(10);
/// How long to wait where no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the API. Whoever wants more connections than there may be waits before one is accepted, and so takes no
/// descriptor that mail needs.
pub async fn serve(bound: Bound, admin: Arc<Admin>) {
    let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
    let turned_away = Arc::new(Semaphore::new(MAX_TURNED_AWAY));
    let inside: Arc<Mutex<HashMap<Peer, usize>>> = Arc::default();
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let accepted = match &bound {
            Bound::Unix(listener, _) => listener.accept().await.and_then(|(stream, _)| {
                let user = stream.peer_cred()?.uid();
                Ok((Stream::Unix(stream), Peer::User(user)))
            }),
            Bound::Tcp(listener, _) => listener.accept().await.map(|(stream, address)| {
                let ip = address.ip().to_canonical();
                (Stream::Tcp(stream), Peer::Address(ip))
            }),
        };
        let Ok((stream, peer)) = accepted else {
            // Descriptors have run out, most likely.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Some(place) = Place::of(&inside, &peer) else {
            // Those that cannot even be told are closed.
            if let Ok(told) = turned_away.clone().try_acquire_owned() {
                drop(permit);
                tokio::spawn(async move {
                    let _told = told;
                    let _ = timeout(FAREWELL, converse(stream, routes::turn_away)).await;
                });
            }
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let (_permit, _place) = (permit, place);
            let conversation = converse(stream, |request| {
                routes::answer(admin.clone(), peer.clone(), request)
            });
            // Whoever never reads holds no place for ever; a page that watches comes again.
            let _ = timeout(LIFETIME, conversation).await;
        });
    }
}

/// One of the places of a peer, which is free again when this is dropped.
struct Place {
    inside: Arc<Mutex<HashMap<Peer, usize>>>,
    peer: Peer,
}

impl Place {
    fn of(inside: &Arc<Mutex<HashMap<Peer, usize>>>, peer: &Peer) -> Option<Place> {
        let mut all = inside.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(peer.clone()).or_default();
        let most = match peer {
            Peer::User(_) => MAX_OF_USER,
            Peer::Address(_) => MAX_OF_ADDRESS,
        };
        if *own >= most {
            return None;
        }
        *own += 1;
        Some(Place {
            inside: inside.clone(),
            peer: peer.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.peer) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.peer);
            }
        }
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(tokio::net::TcpStream),
}

async fn converse<F>(stream: Stream, answer: impl Fn(Request<Incoming>) -> F)
where
    F: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_buf_size(64 << 10);
    // Whoever is slower, or gone, has no answer.
    let _ = match stream {
        Stream::Unix(stream) => http.serve_connection(TokioIo::new(stream), service).await,
        Stream::Tcp(stream) => http.serve_connection(TokioIo::new(stream), service).await,
    };
}
