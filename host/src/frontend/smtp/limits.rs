//! How many sessions there may be, in all and from one address, and what they may keep of messages.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::config::client_key;

/// What the header of each message may take without asking: most have a few KiB.
const FREE: usize = 16 << 10;
/// What the headers of all sessions may take beyond that.
const ROOM: usize = 64 << 20;

/// What those of one client may have of it.
const OF_CLIENT: usize = ROOM / 16;

/// The memory for long headers, which are kept until they are whole: whoever sends them slowly must not have all of it.
#[derive(Default)]
pub struct Room(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// What a header takes of it.
pub struct Held {
    room: Arc<Mutex<Taken>>,
    client: IpAddr,
    octets: usize,
}

impl Room {
    /// Nothing yet, of a client.
    pub fn none(&self, client: IpAddr) -> Held {
        Held {
            room: self.0.clone(),
            client: client_key(client),
            octets: 0,
        }
    }
}

impl Held {
    /// Takes what a header of that many octets needs. Tells whether there was enough.
    pub fn reach(&mut self, octets: usize) -> bool {
        let more = octets.saturating_sub(FREE).saturating_sub(self.octets);
        if more == 0 {
            return true;
        }
        let mut taken = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let of_client = taken.by_client.get(&self.client).copied().unwrap_or(0);
        if taken.total + more > ROOM || of_client + more > OF_CLIENT {
            return false;
        }
        taken.total += more;
        taken.by_client.insert(self.client, of_client + more);
        self.octets += more;
        true
    }

    /// Gives all of it back.
    pub fn release(&mut self) {
        if self.octets == 0 {
            return;
        }
        let mut taken = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= self.octets;
        if let Some(of_client) = taken.by_client.get_mut(&self.client) {
            *of_client -= self.octets;
            if *of_client == 0 {
                taken.by_client.remove(&self.client);
            }
        }
        self.octets = 0;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

/// How many connections the server has.
#[derive(Default)]
pub struct ConnectionLimits {
    counts: Mutex<Counts>,
    left: Notify,
}

#[derive(Default)]
struct Counts {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitExceeded {
    /// There are too many sessions.
    Total,
    /// There are too many sessions from that address.
    PerClient,
}

impl LimitExceeded {
    /// The stable name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            LimitExceeded::Total => "sessions",
            LimitExceeded::PerClient => "sessions-per-address",
        }
    }
}

/// A session that is counted, until this is dropped.
pub struct ConnectionGuard {
    connections: Arc<ConnectionLimits>,
    client: IpAddr,
}

impl ConnectionLimits {
    /// Lets a client in.
    pub fn enter(
        self: &Arc<Self>,
        ip: IpAddr,
        total: usize,
        per_client: usize,
    ) -> Result<ConnectionGuard, LimitExceeded> {
        let client = client_key(ip);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= total {
            return Err(LimitExceeded::Total);
        }
        let of_client = counts.by_client.entry(client).or_default();
        if *of_client >= per_client {
            return Err(LimitExceeded::PerClient);
        }
        *of_client += 1;
        counts.total += 1;
        Ok(ConnectionGuard {
            connections: self.clone(),
            client,
        })
    }
}

impl ConnectionLimits {
    /// Waits until there is none.
    pub async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self
                .counts
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .total
                == 0
            {
                return;
            }
            left.await;
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut counts = self
            .connections
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(of_client) = counts.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                counts.by_client.remove(&self.client);
            }
        }
        self.connections.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_while_they_are_inside() {
        let connections = Arc::new(ConnectionLimits::default());
        let enter = |ip: &str| connections.enter(ip.parse().unwrap(), 3, 2);
        let first = enter("2001:db8::1").unwrap();
        let _second = enter("2001:db8::2").unwrap();
        assert_eq!(enter("2001:db8::3").err(), Some(LimitExceeded::PerClient));
        let third = enter("192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.2").err(), Some(LimitExceeded::Total));
        drop(third);
        drop(first);
        assert!(enter("2001:db8::3").is_ok());
    }

    #[test]
    fn long_headers_share_what_there_is() {
        let room = Room::default();
        let none = |client: u8| room.none(IpAddr::from([192, 0, 2, client]));
        let fill = |client| {
            let mut long = Vec::new();
            loop {
                let mut held = none(client);
                if !held.reach(128 << 10) || !held.reach(256 << 10) {
                    return long;
                }
                long.push(held);
            }
        };
        let mut all: Vec<_> = (0..20).map(fill).collect();
        assert!(!all[0].is_empty() && all[0].len() * (240 << 10) <= OF_CLIENT);
        assert!(
            !all[14].is_empty() && all[19].is_empty(),
            "there is no more"
        );
        assert!(
            none(0).reach(FREE) && none(99).reach(FREE),
            "most have enough"
        );
        all[0].clear();
        assert!(none(99).reach(256 << 10));
        drop(all);
        assert!(room.0.lock().unwrap().by_client.is_empty());
    }
}
