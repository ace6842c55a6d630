//! Where accepted mail goes, while the client waits: an SMTP or LMTP server, or a Maildir.
//!
//! Nothing is queued here: the next hop's reply is our reply, and `250` is never said before it.

mod address;
pub(crate) mod client;
pub mod connections;
mod maildir;
pub mod server;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::config;
use crate::egress::client::{Finished, MailError, Recipient, Sender, SmtpClient};
use crate::egress::credentials::PasswordError;
use crate::egress::pool::{Pool, PooledConnection, Reuse};
use crate::smtp::reply::{Capabilities, Reply, SizeLimit};
pub use client::{Client, ClientName};
use maildir::{Maildir, MaildirDelivery};
use portcullis::tls::Authorities;
use server::{Protocol, Server};

/// What EHLO may announce: what the next hop can keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// 8BITMIME.
    pub eight_bit_mime: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// DSN.
    pub dsn: bool,
    /// REQUIRETLS, to clients that are there over TLS.
    pub require_tls: bool,
    /// The largest message, if the next hop says.
    pub size: Option<u64>,
}

impl Extensions {
    /// Everything.
    pub const ALL: Extensions = Extensions {
        eight_bit_mime: true,
        smtputf8: true,
        dsn: true,
        require_tls: true,
        size: None,
    };

    /// What a Maildir can keep: it is the end of the way, and sends no notifications.
    const OF_MAILDIR: Extensions = Extensions {
        dsn: false,
        ..Extensions::ALL
    };

    /// What both can keep. A message may be too large for one of them, which says so itself.
    pub fn and(self, other: Extensions) -> Extensions {
        Extensions {
            eight_bit_mime: self.eight_bit_mime && other.eight_bit_mime,
            smtputf8: self.smtputf8 && other.smtputf8,
            dsn: self.dsn && other.dsn,
            require_tls: self.require_tls && other.require_tls,
            size: self.size.zip(other.size).map(|(own, other)| own.max(other)),
        }
    }
}

impl From<&Capabilities> for Extensions {
    fn from(capabilities: &Capabilities) -> Self {
        Extensions {
            eight_bit_mime: capabilities.eight_bit_mime,
            // RFC 6531 §3.1: SMTPUTF8 needs 8BITMIME.
            smtputf8: capabilities.smtputf8 && capabilities.eight_bit_mime,
            dsn: capabilities.dsn,
            require_tls: capabilities.require_tls,
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
    config: config::NextHop,
    /// What tells it from others.
    key: String,
    kind: Kind,
    /// Absent until the next hop has been seen.
    extensions: ArcSwapOption<Extensions>,
    recipients: usize,
}

enum Kind {
    Server(Box<Server>, Arc<Pool>),
    Maildir(Maildir),
}

impl NextHop {
    /// A next hop, told from others by its key; nothing is connected or made yet.
    pub fn new(
        hop: &config::NextHop,
        key: &str,
        config: &config::Config,
        authorities: &Authorities,
    ) -> Self {
        let server = |address, protocol| {
            let server = Server::new(address, protocol, config, authorities);
            let pool = Pool::new(config.connections.clone(), None);
            (Kind::Server(Box::new(server), pool), None)
        };
        let (kind, extensions) = match hop {
            config::NextHop::Smtp {
                server: address,
                xclient,
            } => server(address, Protocol::Smtp { xclient: *xclient }),
            config::NextHop::Lmtp { server: address } => server(address, Protocol::Lmtp),
            config::NextHop::Maildir { folder, .. } => (
                Kind::Maildir(Maildir::new(folder, &config.hostname)),
                Some(Extensions::OF_MAILDIR),
            ),
        };
        NextHop {
            config: hop.clone(),
            key: key.to_owned(),
            kind,
            extensions: ArcSwapOption::from_pointee(extensions),
            recipients: hop.recipients(),
        }
    }

    /// From now on these times and authorities hold, and the password that is in its file now. Connections that were
    /// made by what held before are let go.
    ///
    /// # Errors
    /// If the password cannot be read, which stays what it was.
    pub fn exchange(
        &self,
        timeouts: &config::Timeouts,
        authorities: &Authorities,
    ) -> Result<(), PasswordError> {
        let Kind::Server(server, pool) = &self.kind else {
            return Ok(());
        };
        let (is_same, outcome) = server.exchange(timeouts, authorities);
        if !is_same {
            pool.clear();
        }
        outcome
    }

    /// What tells it from others.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The password cannot be read, if that is so.
    pub fn password_error(&self) -> Option<PasswordError> {
        match &self.kind {
            Kind::Server(server, _) => server.password_error(),
            Kind::Maildir(_) => None,
        }
    }

    /// Whether it was configured like that.
    pub fn is_of(&self, hop: &config::NextHop) -> bool {
        self.config == *hop
    }

    /// Whether it answers for each recipient.
    pub fn answers_for_each(&self) -> bool {
        match &self.kind {
            Kind::Server(server, _) => server.is_lmtp(),
            Kind::Maildir(_) => false,
        }
    }

    /// What EHLO may announce. Until the next hop has been seen, that is next to nothing.
    pub fn extensions(&self) -> Extensions {
        self.extensions
            .load()
            .as_deref()
            .copied()
            .unwrap_or_default()
    }

    /// Whether the next hop has been seen.
    pub fn is_known(&self) -> bool {
        self.extensions.load().is_some()
    }

    /// Whether it is told the client's address.
    pub fn forwards_client(&self) -> bool {
        match &self.kind {
            Kind::Server(server, _) => server.forwards_client(),
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
            Kind::Server(server, _) => {
                let connected = server.connect(None).await;
                connections::count(&connected);
                let mut session = connected.map_err(|failure| failure.to_string())?;
                self.learn(&session);
                session.quit().await;
                Ok(())
            }
        }
    }

    /// The connections to the server, if it is one.
    pub fn pool(&self) -> Option<&Arc<Pool>> {
        match &self.kind {
            Kind::Maildir(_) => None,
            Kind::Server(_, pool) => Some(pool),
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn begin(&self, client: &Client, sender: Sender<'_>) -> Result<Delivery, Reply> {
        let (server, pool) = match &self.kind {
            Kind::Server(server, pool) => (server, pool),
            Kind::Maildir(maildir) => {
                let mut delivery = maildir.delivery();
                delivery.mail(sender.from);
                return Ok(Delivery::Maildir(Box::new(delivery)));
            }
        };
        if server.forwards_client() {
            let mut session = self.connect(server, client).await?;
            session.mail(sender).await.map_err(|begun| begun.reply())?;
            return Ok(Delivery::Dedicated(Box::new(session)));
        }
        // Without a limit of its own nobody waits for a permit.
        let Some(permit) = pool.permit(&"".into(), NO_WAIT).await else {
            return Err(Reply::new(451, (4, 3, 2), "too many messages at a time"));
        };
        let permit = match permit.reuse(sender).await {
            Reuse::Begun(connection) => return Ok(Delivery::Pooled(connection)),
            Reuse::Refused(reply) => return Err(reply),
            Reuse::NotConnected(permit) => permit,
        };
        let mut connection = permit.used_by(self.connect(server, client).await?);
        match connection.client().mail(sender).await {
            Ok(()) => Ok(Delivery::pooled(connection)),
            Err(begun) => {
                connection.release();
                Err(begun.reply())
            }
        }
    }

    async fn connect(&self, server: &Server, client: &Client) -> Result<SmtpClient, Reply> {
        // Boxed: the future is large, and most mail goes over a connection that is there.
        let connected = Box::pin(server.connect(Some(client))).await;
        connections::count(&connected);
        let session = connected.map_err(|failure| failure.reply())?;
        self.learn(&session);
        Ok(session)
    }

    fn learn(&self, session: &SmtpClient) {
        let mut extensions = Extensions::from(session.capabilities());
        // RFC 8689 §4.2.1: it counts over TLS only.
        extensions.require_tls &= session.tls_session().is_some();
        if self.extensions.load().as_deref() != Some(&extensions) {
            self.extensions.store(Some(Arc::new(extensions)));
        }
    }
}

/// One message after another, handed over. A refusal is the reply that the client gets.
pub enum Delivery {
    /// To a server, over a connection that belongs to this client.
    Dedicated(Box<SmtpClient>),
    /// To a server, over one that anybody's mail may use.
    Pooled(Box<PooledConnection>),
    /// To a Maildir.
    Maildir(Box<MaildirDelivery>),
}

impl Delivery {
    /// Over a connection of a pool.
    pub fn pooled(connection: PooledConnection) -> Self {
        Delivery::Pooled(Box::new(connection))
    }

    fn session(&mut self) -> Result<&mut SmtpClient, &mut MaildirDelivery> {
        match self {
            Delivery::Dedicated(session) => Ok(session),
            Delivery::Pooled(connection) => Ok(connection.client()),
            Delivery::Maildir(delivery) => Err(delivery),
        }
    }

    /// Where the mail goes, for the log.
    pub fn peer(&self) -> String {
        match self {
            Delivery::Dedicated(session) => session.peer().to_string(),
            Delivery::Pooled(connection) => connection.peer().to_string(),
            Delivery::Maildir(_) => "maildir".into(),
        }
    }

    /// Whether another message can be handed over.
    pub fn is_usable(&self) -> bool {
        match self {
            Delivery::Dedicated(session) => session.is_usable(),
            Delivery::Pooled(connection) => connection.is_usable(),
            Delivery::Maildir(_) => true,
        }
    }

    /// Begins another transaction.
    pub async fn mail(&mut self, sender: Sender<'_>) -> Result<(), MailError> {
        match self.session() {
            Ok(session) => session.mail(sender).await,
            Err(delivery) => {
                delivery.mail(sender.from);
                Ok(())
            }
        }
    }

    /// Adds a recipient.
    pub async fn rcpt(&mut self, recipient: Recipient<'_>) -> Reply {
        match self.session() {
            Ok(session) => session.rcpt(recipient).await,
            Err(delivery) => delivery.rcpt(recipient.to),
        }
    }

    /// What the server can keep of a message.
    pub fn extensions(&mut self) -> Extensions {
        match self.session() {
            Ok(session) => Extensions::from(session.capabilities()),
            Err(_) => Extensions::OF_MAILDIR,
        }
    }

    /// Begins the message, with less `patience` than elsewhere if others wait.
    pub async fn data(&mut self, patience: Option<Duration>) -> Result<(), MailError> {
        match self.session() {
            Ok(session) => session.data(patience).await,
            Err(delivery) => delivery.data().await.map_err(MailError::Refused),
        }
    }

    /// A part of the message, with CRLF line ends and nothing else that ends a line.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        match self.session() {
            Ok(session) => session.write(content).await,
            Err(delivery) => delivery.write(content).await,
        }
    }

    /// Ends the message. A positive reply means that the next hop, or the disk, has it. Where each recipient has a
    /// reply of its own, it is noted when it comes.
    pub async fn finish(&mut self, note: &mut (dyn FnMut(usize, &Reply) + Send)) -> Finished {
        match self.session() {
            Ok(session) => session.finish(note).await,
            Err(delivery) => Finished::All(delivery.finish().await),
        }
    }

    /// Gives the transaction up, whatever its state; nobody keeps anything of it.
    pub async fn reset(&mut self) {
        match self.session() {
            Ok(session) => session.reset().await,
            Err(delivery) => delivery.reset(),
        }
    }

    /// After a transaction: gives back what is not this client's alone, and keeps the rest.
    pub fn release(self) -> Option<Self> {
        match self {
            Delivery::Pooled(connection) => {
                connection.release();
                None
            }
            own => Some(own),
        }
    }

    /// Ends the session with the next hop.
    pub async fn quit(&mut self) {
        if let Ok(session) = self.session() {
            session.quit().await;
        }
    }
}
