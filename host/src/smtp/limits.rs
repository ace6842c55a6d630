//! How many sessions there may be, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::config::client_key;

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
}
