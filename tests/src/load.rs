//! Mail that flows from several senders, and an account of every message.
//!
//! Each message has an id, and its sender tries again as mail servers do. What was confirmed has arrived;
//! what was not has not, unless a connection was lost when the message was already on its way.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Client;
use crate::client::Handshake;
use crate::daemon::TIMEOUT;
use crate::mock_server::Taken;

/// The address that honest senders come from.
pub const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// How many messages are under way at a time.
pub const SENDERS: usize = 8;

/// How often a sender tries the same message.
const ATTEMPTS: usize = 20;

/// What a client knows of one attempt to send a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// 250 to the message.
    Confirmed,
    /// It was told no, or it had not sent the message yet.
    Refused,
    /// It was told to come again, or nothing, after it had sent the message.
    Unsure,
}

/// Senders that have begun, or will.
pub struct Load {
    address: SocketAddr,
    /// What the ids of this load begin with.
    name: String,
    /// From the beginning of a sender's message to that of its next.
    pause: Duration,
    attempts: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    /// A load on a listener that expects the PROXY protocol; half of the senders use STARTTLS. Its name tells its messages from those of
    /// other loads; each sender waits `pause` from one message's beginning to the next one's, or only for
    /// the reply if that takes longer.
    pub fn new(address: SocketAddr, name: &str, pause: Duration) -> Load {
        Load {
            address,
            name: name.to_owned(),
            pause,
            attempts: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Lets the senders send while something else is done; gives the account when the last has ended.
    pub fn run(&self, meanwhile: impl FnOnce(&Load)) -> Account {
        thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS)
                .map(|sender| scope.spawn(move || self.send(sender)))
                .collect();
            {
                // Also if that panics, or the senders would never end.
                let _stop = Stop(&self.stop);
                meanwhile(self);
            }
            let mut account = Account::default();
            for sender in senders {
                account.add(sender.join().expect("a sender"));
            }
            account
        })
    }

    /// Waits until so many more attempts have been made.
    pub fn wait(&self, more: usize) {
        let enough = self.attempts.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + TIMEOUT;
        while self.attempts.load(Ordering::Relaxed) < enough {
            assert!(Instant::now() < deadline, "mail does not flow any more");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// One message after another until told to stop.
    fn send(&self, sender: usize) -> Account {
        let mut account = Account::default();
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let id = format!("id-{}-{sender}-{}.", self.name, account.attempts.len());
            let mut outcomes = Vec::new();
            while outcomes.len() < ATTEMPTS {
                let begun = Instant::now();
                let outcome = self.attempt(&id, sender % 2 == 1);
                self.attempts.fetch_add(1, Ordering::Relaxed);
                outcomes.push(outcome);
                if outcome == Outcome::Confirmed {
                    account.times.push(begun.elapsed());
                    break;
                }
                if self.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            account.attempts.insert(id, outcomes);
            due = (due + self.pause).max(Instant::now() - self.pause);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        account
    }

    fn attempt(&self, id: &str, encrypted: bool) -> Outcome {
        let Ok(mut client) = self.envelope(encrypted) else {
            // Nobody may be there at all, while the daemon is started anew.
            thread::yield_now();
            return Outcome::Refused;
        };
        let message = format!("Subject: {id}\r\n\r\n{id}\r\n.\r\n");
        let sent = client.try_send(message.as_bytes());
        match sent.and_then(|()| client.try_reply()) {
            Ok(reply) if reply.code == 250 => Outcome::Confirmed,
            Ok(reply) if reply.code >= 500 => Outcome::Refused,
            _ => Outcome::Unsure,
        }
    }

    /// A session that has come to the point where the message may be sent.
    fn envelope(&self, encrypted: bool) -> io::Result<Client> {
        let mut client = Client::try_connect_as(self.address, HONEST)?;
        expect(&mut client, "EHLO client.example", 250)?;
        if encrypted {
            expect(&mut client, "STARTTLS", 220)?;
            client.handshake(&Handshake::default())?;
            expect(&mut client, "EHLO client.example", 250)?;
        }
        for (line, code) in [
            ("MAIL FROM:<a@example.org>", 250),
            ("RCPT TO:<b@dest.test>", 250),
            ("DATA", 354),
        ] {
            expect(&mut client, line, code)?;
        }
        Ok(client)
    }
}

/// Sets a flag when it is dropped, so also where a test fails.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn expect(client: &mut Client, line: &str, code: u16) -> io::Result<()> {
    let reply = client.try_command(line)?;
    if reply.code != code {
        return Err(io::Error::other(format!("{line}: {reply:?}")));
    }
    Ok(())
}

/// What the senders know.
#[derive(Default)]
pub struct Account {
    /// The attempts of each message, by its id.
    attempts: HashMap<String, Vec<Outcome>>,
    /// How long each confirmed message took, from the connection to the reply.
    pub times: Vec<Duration>,
}

/// What an account comes to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Messages that somebody tried to send.
    pub messages: usize,
    /// Attempts to send them.
    pub attempts: usize,
    /// Attempts that were confirmed.
    pub confirmed: usize,
    /// Messages that arrived again because the reply to the first time was lost.
    pub doubled: usize,
}

impl Totals {
    /// With others.
    pub fn and(self, other: Totals) -> Totals {
        Totals {
            messages: self.messages + other.messages,
            attempts: self.attempts + other.attempts,
            confirmed: self.confirmed + other.confirmed,
            doubled: self.doubled + other.doubled,
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{} messages, {} attempts, {} confirmed, 0 lost, {} doubled where the reply was lost",
            self.messages, self.attempts, self.confirmed, self.doubled
        )
    }
}

impl Account {
    /// With the messages of another load.
    pub fn add(&mut self, other: Account) {
        self.attempts.extend(other.attempts);
        self.times.extend(other.times);
    }

    /// Holds what the clients were told against what has arrived. Of what has arrived, only messages with
    /// an id are looked at.
    ///
    /// # Panics
    /// If a confirmed message has not arrived, one has arrived more often than somebody may have been
    /// unsure of, or one that nobody sent.
    pub fn reconcile(&self, taken: &[Taken]) -> Totals {
        let mut arrived: HashMap<&str, usize> = HashMap::new();
        for message in taken {
            let id = message.content.trim_end().rsplit('\n').next();
            let id = id.filter(|id| id.starts_with("id-"));
            if let Some(id) = id {
                *arrived.entry(id).or_default() += 1;
            }
        }
        let mut totals = Totals {
            messages: self.attempts.len(),
            ..Totals::default()
        };
        for (id, outcomes) in &self.attempts {
            let count = |outcome| outcomes.iter().filter(|it| **it == outcome).count();
            let (confirmed, unsure) = (count(Outcome::Confirmed), count(Outcome::Unsure));
            let arrived = arrived.remove(id.as_str()).unwrap_or(0);
            assert!(arrived >= confirmed, "{id} is lost: {outcomes:?}");
            assert!(
                arrived <= confirmed + unsure,
                "{id} came {arrived} times: {outcomes:?}"
            );
            totals.attempts += outcomes.len();
            totals.confirmed += confirmed;
            totals.doubled += arrived.saturating_sub(1);
        }
        assert!(arrived.is_empty(), "nobody sent {arrived:?}");
        totals
    }
}
