//! Connecting to one of several addresses.
//!
//! The addresses are tried in their order, the next one beside those that have not answered yet (RFC 8305 §5): one
//! that does not answer takes nothing from the others.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How much later than the one before it an address is tried (RFC 8305 §8).
const STAGGER: Duration = Duration::from_millis(250);

/// An address did not answer.
pub struct Unanswered {
    /// Its place among those that were given.
    pub number: usize,
    /// Why; absent if it took too long.
    pub error: Option<io::Error>,
}

/// Connects to the first of these addresses that answers; each of them has `limit` for it. Connections come from
/// one of the `sources` of the same family, if there is one. Gives the place of the address among them, too, and
/// those before it that have failed.
///
/// # Errors
/// If none answers.
pub async fn connect(
    addresses: &[SocketAddr],
    sources: &[IpAddr],
    limit: Duration,
) -> (Option<(usize, TcpStream)>, Vec<Unanswered>) {
    let mut unanswered = Vec::new();
    if let [only] = addresses {
        return match to_one(0, *only, source_for(*only, sources), limit).await {
            Ok(stream) => (Some((0, stream)), unanswered),
            Err(error) => (None, vec![error]),
        };
    }
    let mut attempts = JoinSet::new();
    let mut rest = addresses.iter().enumerate();
    loop {
        if let Some((number, address)) = rest.next() {
            attempts.spawn(to_one(
                number,
                *address,
                source_for(*address, sources),
                limit,
            ));
        }
        let is_last = rest.len() == 0;
        let ended = tokio::select! {
            ended = attempts.join_next() => ended,
            () = sleep(STAGGER), if !is_last => continue,
        };
        match ended {
            Some(Ok(Ok(stream))) => {
                let peer = stream.peer_addr().ok();
                let number = addresses.iter().position(|address| Some(*address) == peer);
                return (Some((number.unwrap_or(0), stream)), unanswered);
            }
            Some(Ok(Err(failed))) => unanswered.push(failed),
            // It was not aborted, and does not panic.
            Some(Err(_)) => {}
            None if is_last => return (None, unanswered),
            None => {}
        }
    }
}

fn source_for(address: SocketAddr, sources: &[IpAddr]) -> Option<IpAddr> {
    let same = |source: &&IpAddr| source.is_ipv4() == address.is_ipv4();
    sources.iter().find(same).copied()
}

async fn to_one(
    number: usize,
    address: SocketAddr,
    source: Option<IpAddr>,
    limit: Duration,
) -> Result<TcpStream, Unanswered> {
    let connecting = async {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    };
    match timeout(limit, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Unanswered {
            number,
            error: Some(error),
        }),
        Err(_) => Err(Unanswered {
            number,
            error: None,
        }),
    }
}

/// IPv6 and IPv4 by turns (RFC 8305 §4), each family in its order.
pub fn interleaved<T>(items: Vec<T>, is_ipv6: impl Fn(&T) -> bool) -> Vec<T> {
    let (v6, v4): (Vec<T>, Vec<T>) = items.into_iter().partition(is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [v6.next(), v4.next()];
        if pair.iter().all(Option::is_none) {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Where connections are neither taken nor refused: the backlog of a listener that nobody serves is full.
    async fn mute() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        let mut fills = true;
        while fills {
            let one = timeout(Duration::from_millis(200), TcpStream::connect(address)).await;
            fills = one.is_ok();
            waiting.extend(one.into_iter().flatten());
        }
        (listener, waiting)
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_takes_nothing_from_the_next() {
        let (first, _waiting) = mute().await;
        let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = refused.local_addr().unwrap();
        drop(refused);
        let addresses = [
            first.local_addr().unwrap(),
            refusing,
            second.local_addr().unwrap(),
        ];
        // Were the first one waited for, this would never end.
        let (found, unanswered) = connect(&addresses, &[], Duration::from_secs(24 * 60 * 60)).await;
        assert_eq!(found.map(|(number, _)| number), Some(2));
        let failed: Vec<usize> = unanswered.iter().map(|failed| failed.number).collect();
        assert_eq!(failed, [1]);
        let (found, unanswered) = connect(&addresses[..2], &[], Duration::from_millis(300)).await;
        assert!(found.is_none());
        assert_eq!(unanswered.len(), 2);
    }

    #[test]
    fn families_take_turns() {
        let order = interleaved(vec![4, 4, 6, 4], |family| *family == 6);
        assert_eq!(order, [6, 4, 4, 4]);
    }
}
