//! Where accepted mail goes, while the client waits: an SMTP or LMTP server, or a Maildir.
//!
//! Nothing is queued here: the next hop's reply is our reply, and `250` is never said before it.

mod address;
mod maildir;
mod relay;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::address::{Address, ReversePath};
use super::command::MailParameters;
use super::reply::{Capabilities, Reply, SizeLimit};
use crate::config;
use maildir::{Delivery, Maildir};
use relay::{Relay, Server};

/// Who the client is, for a next hop that is told.
pub struct Client {
    /// The client's address and port.
    pub address: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The argument of EHLO or HELO.
    pub helo: String,
    /// Whether it was EHLO.
    pub esmtp: bool,
}

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

/// A next hop, as configured.
pub struct NextHop {
    kind: Kind,
    offer: ArcSwap<Offer>,
    recipients: usize,
}

enum Kind {
    Relay(Server),
    Maildir(Maildir),
}

impl NextHop {
    /// A next hop; nothing is connected or made yet.
    pub fn new(config: &config::NextHop, hostname: &str, timeouts: &config::Timeouts) -> Self {
        let (kind, offer, recipients) = match &config.maildir {
            Some(folder) => {
                let offer = Offer {
                    eight_bit_mime: true,
                    smtputf8: true,
                    size: None,
                };
                (
                    Kind::Maildir(Maildir::new(folder, hostname)),
                    offer,
                    usize::MAX,
                )
            }
            None => {
                let server = Server::new(config, hostname, timeouts);
                let recipients = if server.lmtp { 1 } else { usize::MAX };
                (Kind::Relay(server), Offer::default(), recipients)
            }
        };
        NextHop {
            kind,
            offer: ArcSwap::from_pointee(offer),
            recipients: config.recipients.unwrap_or(recipients),
        }
    }

    /// What EHLO may announce. Until the next hop has been seen, that is next to nothing.
    pub fn offer(&self) -> Offer {
        **self.offer.load()
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
            Kind::Relay(server) => {
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

    /// A way to hand messages over, for one session.
    pub async fn open(self: &Arc<Self>, client: &Client) -> Result<Handover, Reply> {
        match &self.kind {
            Kind::Maildir(maildir) => Ok(Handover::Maildir(Box::new(maildir.delivery()))),
            Kind::Relay(server) => {
                let relay = server
                    .connect(Some(client))
                    .await
                    .map_err(|failure| failure.reply())?;
                self.learn(&relay);
                Ok(Handover::Relay(Box::new(relay)))
            }
        }
    }

    fn learn(&self, relay: &Relay) {
        let offer = Offer::from(relay.capabilities());
        if **self.offer.load() != offer {
            self.offer.store(Arc::new(offer));
        }
    }
}

/// The envelope's sender side.
pub struct Sender<'a> {
    /// The reverse path.
    pub from: &'a ReversePath,
    /// Its parameters.
    pub parameters: &'a MailParameters,
}

/// One message after another, handed over. A refusal is the reply that the client gets.
pub enum Handover {
    /// To a server.
    Relay(Box<Relay>),
    /// To a Maildir.
    Maildir(Box<Delivery>),
}

impl Handover {
    /// Whether another message can be handed over.
    pub fn is_usable(&self) -> bool {
        match self {
            Handover::Relay(relay) => relay.is_usable(),
            Handover::Maildir(_) => true,
        }
    }

    /// Begins a transaction.
    pub async fn mail(&mut self, sender: Sender<'_>) -> Result<(), Reply> {
        match self {
            Handover::Relay(relay) => relay.mail(sender).await,
            Handover::Maildir(delivery) => {
                delivery.mail(sender.from);
                Ok(())
            }
        }
    }

    /// Adds a recipient.
    pub async fn rcpt(&mut self, to: &Address) -> Reply {
        match self {
            Handover::Relay(relay) => relay.rcpt(to).await,
            Handover::Maildir(delivery) => delivery.rcpt(to),
        }
    }

    /// Begins the message.
    pub async fn data(&mut self) -> Result<(), Reply> {
        match self {
            Handover::Relay(relay) => relay.data().await,
            Handover::Maildir(delivery) => delivery.data().await,
        }
    }

    /// A part of the message, with CRLF line ends and nothing else that ends a line.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        match self {
            Handover::Relay(relay) => relay.write(content).await,
            Handover::Maildir(delivery) => delivery.write(content).await,
        }
    }

    /// Ends the message. A positive reply means that the next hop, or the disk, has it.
    pub async fn finish(&mut self) -> Reply {
        match self {
            Handover::Relay(relay) => relay.finish().await,
            Handover::Maildir(delivery) => delivery.finish().await,
        }
    }

    /// Gives the transaction up, whatever its state; the next hop keeps nothing of it.
    pub async fn reset(&mut self) {
        match self {
            Handover::Relay(relay) => relay.reset().await,
            Handover::Maildir(delivery) => delivery.reset(),
        }
    }

    /// Ends the session with the next hop.
    pub async fn quit(&mut self) {
        if let Handover::Relay(relay) = self {
            relay.quit().await;
        }
    }
}
