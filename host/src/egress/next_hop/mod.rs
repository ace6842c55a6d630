//! Where accepted mail goes, while the client waits: an SMTP or LMTP server, or a Maildir.
//!
//! Nothing is queued here: the next hop's reply is our reply, and `250` is never said before it.

mod address;
mod client;
mod maildir;
mod server;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::config;
use crate::egress::client::{Finished, NotBegun, Relay, Sender};
use crate::egress::pool::{Lease, Pool};
use crate::smtp::address::Address;
use crate::smtp::reply::{Capabilities, Reply, SizeLimit};
pub use client::{Client, ClientName};
use maildir::{Delivery, Maildir};
use server::{Protocol, Server};

/// What EHLO may announce: what the next hop can keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// 8BITMIME.
    pub eight_bit_mime: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// The largest message, if the next hop says.
    pub size: Option<u64>,
}

impl Offer {
    /// Everything.
    pub const ALL: Offer = Offer {
        eight_bit_mime: true,
        smtputf8: true,
        size: None,
    };
}

impl From<&Capabilities> for Offer {
    fn from(capabilities: &Capabilities) -> Self {
        Offer {
            eight_bit_mime: capabilities.eight_bit_mime,
            // RFC 6531 §3.1: SMTPUTF8 needs 8BITMIME.
            smtputf8: capabilities.smtputf8 && capabilities.eight_bit_mime,
            size: match capabilities.size {
                SizeLimit::Octets(octets) => Some(octets),
                _ => None,
            },
        }
    }
}

/// Nobody waits where there is no limit.
const NO_WAIT: Duration = Duration::from_secs(1);

/// A next hop, as configured.
pub struct NextHop {
    kind: Kind,
    /// Absent until the next hop has been seen.
    offer: ArcSwapOption<Offer>,
    recipients: usize,
}

enum Kind {
    Relay(Server, Arc<Pool>),
    Maildir(Maildir),
}

impl NextHop {
    /// A next hop; nothing is connected or made yet.
    pub fn new(hop: &config::NextHop, config: &config::Config) -> Self {
        let relay = |server, protocol| {
            let server = Server::new(server, protocol, &config.hostname, &config.timeouts);
            let pool = Pool::new(config.connections.clone(), None);
            (Kind::Relay(server, pool), None)
        };
        let (kind, offer) = match hop {
            config::NextHop::Smtp { server, xclient } => {
                relay(server, Protocol::Smtp { xclient: *xclient })
            }
            config::NextHop::Lmtp { server } => relay(server, Protocol::Lmtp),
            config::NextHop::Maildir { folder, .. } => (
                Kind::Maildir(Maildir::new(folder, &config.hostname)),
                Some(Offer::ALL),
            ),
        };
        NextHop {
            kind,
            offer: ArcSwapOption::from_pointee(offer),
            recipients: hop.recipients(),
        }
    }

    /// From now on these times hold.
    pub fn exchange(&self, timeouts: &config::Timeouts) {
        if let Kind::Relay(server, _) = &self.kind {
            server.exchange(timeouts);
        }
    }

    /// Whether it answers for each recipient.
    pub fn answers_for_each(&self) -> bool {
        match &self.kind {
            Kind::Relay(server, _) => server.is_lmtp(),
            Kind::Maildir(_) => false,
        }
    }

    /// What EHLO may announce. Until the next hop has been seen, that is next to nothing.
    pub fn offer(&self) -> Offer {
        self.offer.load().as_deref().copied().unwrap_or_default()
    }

    /// Whether the next hop has been seen.
    pub fn is_known(&self) -> bool {
        self.offer.load().is_some()
    }

    /// Whether it is told the client's address.
    pub fn tells_client(&self) -> bool {
        match &self.kind {
            Kind::Relay(server, _) => server.tells_client(),
            Kind::Maildir(_) => false,
        }
    }

    /// How many recipients one transaction may have.
    pub fn recipients(&self) -> usize {
        self.recipients
    }

    /// Gets ready: a Maildir is made, a server is asked what it can keep.
    ///
    /// # Errors
    /// Why it is not usable now. Sessions try again on their own.
    pub async fn prepare(&self) -> Result<(), String> {
        match &self.kind {
            Kind::Maildir(maildir) => maildir.prepare().await.map_err(|error| error.to_string()),
            Kind::Relay(server, _) => {
                let mut relay = server
                    .connect(None)
                    .await
                    .map_err(|failure| failure.to_string())?;
                self.learn(&relay);
                relay.quit().await;
                Ok(())
            }
        }
    }

    /// The connections to the server, if it is one.
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        match &self.kind {
            Kind::Maildir(_) => None,
            Kind::Relay(_, pool) => Some(pool),
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn begin(&self, client: &Client, sender: Sender<'_>) -> Result<Handover, Reply> {
        let (server, pool) = match &self.kind {
            Kind::Relay(server, pool) => (server, pool),
            Kind::Maildir(maildir) => {
                let mut delivery = maildir.delivery();
                delivery.mail(sender.from);
                return Ok(Handover::Maildir(Box::new(delivery)));
            }
        };
        if server.tells_client() {
            let mut relay = self.connect(server, client).await?;
            relay.mail(sender).await.map_err(|begun| begun.reply())?;
            return Ok(Handover::Relay(Box::new(relay)));
        }
        // Without a limit of its own nobody waits for a turn.
        let Some(turn) = pool.turn(&"".into(), NO_WAIT).await else {
            return Err(Reply::new(451, (4, 3, 2), "too many messages at a time"));
        };
        let turn = match turn.reuse(sender).await {
            Ok(outcome) => return outcome.map(Handover::pooled),
            Err(turn) => turn,
        };
        let mut lease = turn.lease(self.connect(server, client).await?);
        match lease.relay().mail(sender).await {
            Ok(()) => Ok(Handover::pooled(lease)),
            Err(begun) => {
                lease.release();
                Err(begun.reply())
            }
        }
    }

    async fn connect(&self, server: &Server, client: &Client) -> Result<Relay, Reply> {
        let connected = server.connect(Some(client)).await;
        let relay = connected.map_err(|failure| failure.reply())?;
        self.learn(&relay);
        Ok(relay)
    }

    fn learn(&self, relay: &Relay) {
        let offer = Offer::from(relay.capabilities());
        if self.offer.load().as_deref() != Some(&offer) {
            self.offer.store(Some(Arc::new(offer)));
        }
    }
}

/// One message after another, handed over. A refusal is the reply that the client gets.
pub enum Handover {
    /// To a server, over a connection that belongs to this client.
    Relay(Box<Relay>),
    /// To a server, over one that anybody's mail may use.
    Pooled(Box<Lease>),
    /// To a Maildir.
    Maildir(Box<Delivery>),
}

impl Handover {
    /// Over a connection of a pool.
    pub fn pooled(lease: Lease) -> Self {
        Handover::Pooled(Box::new(lease))
    }

    fn relay(&mut self) -> Result<&mut Relay, &mut Delivery> {
        match self {
            Handover::Relay(relay) => Ok(relay),
            Handover::Pooled(lease) => Ok(lease.relay()),
            Handover::Maildir(delivery) => Err(delivery),
        }
    }

    /// Where the mail goes, for the log.
    pub fn place(&self) -> String {
        match self {
            Handover::Relay(relay) => relay.place().to_string(),
            Handover::Pooled(lease) => lease.place().to_string(),
            Handover::Maildir(_) => "maildir".into(),
        }
    }

    /// Whether another message can be handed over.
    pub fn is_usable(&self) -> bool {
        match self {
            Handover::Relay(relay) => relay.is_usable(),
            Handover::Pooled(lease) => lease.is_usable(),
            Handover::Maildir(_) => true,
        }
    }

    /// Begins another transaction.
    pub async fn mail(&mut self, sender: Sender<'_>) -> Result<(), NotBegun> {
        match self.relay() {
            Ok(relay) => relay.mail(sender).await,
            Err(delivery) => {
                delivery.mail(sender.from);
                Ok(())
            }
        }
    }

    /// Adds a recipient.
    pub async fn rcpt(&mut self, to: &Address) -> Reply {
        match self.relay() {
            Ok(relay) => relay.rcpt(to).await,
            Err(delivery) => delivery.rcpt(to),
        }
    }

    /// Begins the message, with less `patience` than elsewhere if others wait.
    pub async fn data(&mut self, patience: Option<Duration>) -> Result<(), NotBegun> {
        match self.relay() {
            Ok(relay) => relay.data(patience).await,
            Err(delivery) => delivery.data().await.map_err(NotBegun::Refused),
        }
    }

    /// A part of the message, with CRLF line ends and nothing else that ends a line.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        match self.relay() {
            Ok(relay) => relay.write(content).await,
            Err(delivery) => delivery.write(content).await,
        }
    }

    /// Ends the message. A positive reply means that the next hop, or the disk, has it. Where each recipient has a
    /// reply of its own, it is noted when it comes.
    pub async fn finish(&mut self, note: &mut (dyn FnMut(usize, &Reply) + Send)) -> Finished {
        match self.relay() {
            Ok(relay) => relay.finish(note).await,
            Err(delivery) => Finished::All(delivery.finish().await),
        }
    }

    /// Gives the transaction up, whatever its state; nobody keeps anything of it.
    pub async fn reset(&mut self) {
        match self.relay() {
            Ok(relay) => relay.reset().await,
            Err(delivery) => delivery.reset(),
        }
    }

    /// After a transaction: gives back what is not this client's alone, and keeps the rest.
    pub fn let_go(self) -> Option<Self> {
        match self {
            Handover::Pooled(lease) => {
                lease.release();
                None
            }
            own => Some(own),
        }
    }

    /// Ends the session with the next hop.
    pub async fn quit(&mut self) {
        if let Ok(relay) = self.relay() {
            relay.quit().await;
        }
    }
}
