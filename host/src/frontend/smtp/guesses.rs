//! Passwords that did not fit, by the address that tried them and by the name: whoever guesses has to wait.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::client_key;

/// How long a wrong password counts.
const WINDOW: Duration = Duration::from_secs(15 * 60);
/// How long an address is known for a name that has logged in from there.
const KNOWN: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The longest wait for the reply to a wrong password.
const LONGEST: Duration = Duration::from_secs(8);
/// What is remembered of each kind. Beyond that what is over is forgotten, and then every other one.
const MOST: usize = 50_000;
/// Characters of a name that count: a client may send long ones.
const OF_NAME: usize = 64;

/// Passwords that did not fit.
#[derive(Default)]
pub struct Guesses {
    state: Mutex<State>,
    /// By addresses and by names: who tries at once is heard one after the other, so that no more tries are made than
    /// are counted.
    turns: [Turns; 2],
}

/// The right to try, one at a time for what falls to the same place.
struct Turns([tokio::sync::Mutex<()>; PLACES], RandomState);

/// Tries that are made at a time, whoever makes them.
const PLACES: usize = 64;

impl Default for Turns {
    fn default() -> Self {
        Turns(
            std::array::from_fn(|_| tokio::sync::Mutex::default()),
            RandomState::new(),
        )
    }
}

impl Turns {
    async fn of(&self, key: impl std::hash::Hash) -> tokio::sync::MutexGuard<'_, ()> {
        let place = self.1.hash_one(key) as usize % PLACES;
        self.0[place].lock().await
    }
}

/// One's turn to try a password.
pub struct Turn<'a> {
    _turns: [tokio::sync::MutexGuard<'a, ()>; 2],
}

#[derive(Default)]
struct State {
    by_address: HashMap<IpAddr, Wrong>,
    by_name: HashMap<String, Wrong>,
    /// Where names have logged in from. Whoever guesses a name elsewhere does not lock its owner out.
    known: HashMap<(IpAddr, String), Instant>,
}

struct Wrong {
    count: u32,
    last: Instant,
}

impl Wrong {
    fn counts(&self, now: Instant) -> bool {
        now.duration_since(self.last) < WINDOW
    }
}

impl Guesses {
    /// Waits until nobody else tries from the same address, or the same name.
    pub async fn turn(&self, client: IpAddr, name: &str) -> Turn<'_> {
        let [addresses, names] = &self.turns;
        // Always in this order, so that no two wait for each other.
        let address = addresses.of(client_key(client)).await;
        Turn {
            _turns: [address, names.of(shorten(name)).await],
        }
    }

    /// Whether a client may try a name's password, where so many wrong ones are allowed.
    pub fn may_try(&self, client: IpAddr, name: &str, most: u32) -> bool {
        let (address, name, now) = (client_key(client), shorten(name), Instant::now());
        let state = self.lock();
        let has_room = |wrong: Option<&Wrong>| {
            wrong.is_none_or(|wrong| wrong.count < most || !wrong.counts(now))
        };
        let known = state.known.get(&(address, name.clone()));
        let is_known = known.is_some_and(|at| now.duration_since(*at) < KNOWN);
        has_room(state.by_address.get(&address)) && (is_known || has_room(state.by_name.get(&name)))
    }

    /// A password was wrong. Gives how long the client waits to be told.
    pub fn wrong(&self, client: IpAddr, name: &str) -> Duration {
        let (address, name, now) = (client_key(client), shorten(name), Instant::now());
        let mut state = self.lock();
        let of_address = count(&mut state.by_address, address, now);
        let of_name = count(&mut state.by_name, name, now);
        let exponent = of_address.max(of_name).saturating_sub(1).min(10);
        LONGEST.min(Duration::from_secs(1 << exponent))
    }

    /// A password was right.
    pub fn right(&self, client: IpAddr, name: &str) {
        let (address, name, now) = (client_key(client), shorten(name), Instant::now());
        let mut state = self.lock();
        let State { known, .. } = &mut *state;
        make_room(known, |at| now.duration_since(*at) < KNOWN);
        known.insert((address, name), now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shorten(name: &str) -> String {
    name.chars().take(OF_NAME).collect()
}

fn count<K: Eq + std::hash::Hash>(all: &mut HashMap<K, Wrong>, key: K, now: Instant) -> u32 {
    make_room(all, |wrong| wrong.counts(now));
    let wrong = all.entry(key).or_insert(Wrong {
        count: 0,
        last: now,
    });
    if !wrong.counts(now) {
        wrong.count = 0;
    }
    wrong.count += 1;
    wrong.last = now;
    wrong.count
}

/// Forgets what counts no longer once there is too much, and every other one if that is not enough.
fn make_room<K: Eq + std::hash::Hash, V>(all: &mut HashMap<K, V>, counts: impl Fn(&V) -> bool) {
    if all.len() < MOST {
        return;
    }
    all.retain(|_, it| counts(it));
    if all.len() >= MOST {
        let mut is_kept = false;
        all.retain(|_, _| {
            is_kept = !is_kept;
            is_kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn whoever_guesses_waits_longer_each_time_and_then_is_not_heard() {
        let guesses = Guesses::default();
        let waits: Vec<u64> = (0..6).map(|_| guesses.wrong(A, "bob").as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 8, 8]);
        assert!(guesses.may_try(A, "alice", 7));
        assert!(!guesses.may_try(A, "alice", 6));
        assert!(!guesses.may_try(B, "bob", 6));
        assert!(guesses.may_try(B, "alice", 6));
    }

    #[test]
    fn nobody_is_locked_out_where_he_has_logged_in() {
        let guesses = Guesses::default();
        guesses.right(B, "bob");
        for _ in 0..6 {
            guesses.wrong(A, "bob");
        }
        assert!(guesses.may_try(B, "bob", 6));
        assert!(!guesses.may_try("192.0.2.3".parse().unwrap(), "bob", 6));
        // Who has one password does not try those of others without end.
        for _ in 0..6 {
            guesses.wrong(B, "alice");
            guesses.right(B, "bob");
        }
        assert!(!guesses.may_try(B, "carol", 6));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let guesses = Guesses::default();
        for number in 0..MOST as u32 + 10 {
            guesses.wrong(IpAddr::V4(number.into()), &number.to_string());
            guesses.right(IpAddr::V4(number.into()), &number.to_string());
        }
        let state = guesses.lock();
        assert!(state.by_name.len() <= MOST && state.known.len() <= MOST);
    }
}
