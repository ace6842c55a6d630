//! How many sessions there may be, in all and from one address, and what they may keep of messages.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::config::client_key;

/// What the header of each message may take without asking: most have a few KiB.
const FREE: usize = 16 << 10;
/// What the headers of all sessions may take beyond that.
const ROOM: usize = 64 << 20;
/// It is taken in pieces.
const PIECE: usize = 16 << 10;

/// The memory for long headers, which are kept until they are whole: whoever sends them slowly must not have all of it.
pub struct Room(Arc<Semaphore>);

/// What a header takes of it.
pub struct Held {
    room: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Default for Room {
    fn default() -> Self {
        Room(Arc::new(Semaphore::new(ROOM / PIECE)))
    }
}

impl Room {
    /// Nothing yet.
    pub fn none(&self) -> Held {
        Held {
            room: self.0.clone(),
            taken: None,
        }
    }
}

impl Held {
    /// Takes what a header of that many octets needs. Tells whether there was enough.
    pub fn reach(&mut self, octets: usize) -> bool {
        let needed = octets.saturating_sub(FREE).div_ceil(PIECE);
        let has = self
            .taken
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let Some(missing) = needed.checked_sub(has).filter(|missing| *missing > 0) else {
            return true;
        };
        let Ok(missing) = u32::try_from(missing) else {
            return false;
        };
        match (
            self.room.clone().try_acquire_many_owned(missing),
            &mut self.taken,
        ) {
            (Ok(more), Some(taken)) => taken.merge(more),
            (Ok(more), taken) => *taken = Some(more),
            (Err(_), _) => return false,
        }
        true
    }

    /// Gives all of it back.
    pub fn release(&mut self) {
        self.taken = None;
    }
}

/// The doors of the server: who is inside.
#[derive(Default)]
pub struct Doors {
    inside: Mutex<Inside>,
    left: Notify,
}

#[derive(Default)]
struct Inside {
    total: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are too many sessions.
    House,
    /// There are too many sessions from that address.
    Client,
}

impl Full {
    /// The stable name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Full::House => "sessions",
            Full::Client => "sessions-per-address",
        }
    }
}

/// A session that is inside, until this is dropped.
pub struct Inmate {
    doors: Arc<Doors>,
    client: IpAddr,
}

impl Doors {
    /// Lets a client in.
    pub fn enter(
        self: &Arc<Self>,
        ip: IpAddr,
        total: usize,
        per_client: usize,
    ) -> Result<Inmate, Full> {
        let client = client_key(ip);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.total >= total {
            return Err(Full::House);
        }
        let of_client = inside.by_client.entry(client).or_default();
        if *of_client >= per_client {
            return Err(Full::Client);
        }
        *of_client += 1;
        inside.total += 1;
        Ok(Inmate {
            doors: self.clone(),
            client,
        })
    }
}

impl Doors {
    /// Waits until nobody is inside.
    pub async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self
                .inside
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

impl Drop for Inmate {
    fn drop(&mut self) {
        let mut inside = self
            .doors
            .inside
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inside.total -= 1;
        if let Some(of_client) = inside.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                inside.by_client.remove(&self.client);
            }
        }
        self.doors.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_while_they_are_inside() {
        let doors = Arc::new(Doors::default());
        let enter = |ip: &str| doors.enter(ip.parse().unwrap(), 3, 2);
        let first = enter("2001:db8::1").unwrap();
        let _second = enter("2001:db8::2").unwrap();
        assert_eq!(enter("2001:db8::3").err(), Some(Full::Client));
        let third = enter("192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.2").err(), Some(Full::House));
        drop(third);
        drop(first);
        assert!(enter("2001:db8::3").is_ok());
    }

    #[test]
    fn long_headers_share_what_there_is() {
        let room = Room::default();
        let mut long = Vec::new();
        loop {
            let mut held = room.none();
            if !held.reach(128 << 10) || !held.reach(256 << 10) {
                break;
            }
            long.push(held);
        }
        assert!(!long.is_empty() && long.len() * (240 << 10) <= ROOM);
        assert!(room.none().reach(FREE), "most have enough without");
        long.pop();
        assert!(room.none().reach(256 << 10));
    }
}
