//! One SMTP session: a state machine, a method a verb.
//!
//! The order of things (RFC 5321 §4.1.4): EHLO or HELO, STARTTLS once, then transactions of MAIL,
//! RCPT and DATA or BDAT. Each recipient is decided on at RCPT by its own organization's policy, as
//! it stood when the transaction began.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Buf;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout, timeout_at};

use super::address::{Address, ReversePath};
use super::command::{Command, CommandError, MailParameters};
use super::connection::{Connection, Line};
use super::data::DataDecoder;
use super::decision::{self, Instances};
use super::header;
use super::incoming::{Incoming, Progress};
use super::listener::{Listener, Server, Settings};
use super::next_hop::{Client, Handover, Sender};
use super::received::Trace;
use super::reply::Reply;
use crate::json::ip_address;
use crate::policies::{Table, Tenant};
use crate::sandbox::interface::{Context, Direction};

/// RFC 5321 §4.5.3.1.4 says 512; extensions add to MAIL and RCPT, and nobody needs more than this.
const COMMAND_LINE: usize = 2048;

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client said QUIT.
    Quit,
    /// The client went away.
    Gone,
    /// We had enough of it, or have to go ourselves.
    Closed,
}

/// What a verb leads to.
enum Next {
    /// Say this, and go on.
    Say(Reply),
    /// Say this, and close.
    Last(Reply, End),
    /// All is said.
    Said,
    /// The connection is not usable.
    Lost(End),
}

impl From<Reply> for Next {
    fn from(reply: Reply) -> Self {
        Next::Say(reply)
    }
}

/// A transaction, from MAIL to the end of the message.
struct Transaction {
    /// Session and number; it stands in replies, in the log and in the Received field.
    id: String,
    policies: Arc<Table>,
    from: ReversePath,
    parameters: MailParameters,
    recipients: Vec<Recipient>,
    /// What came of offering the transaction to the next hop.
    offered: Option<Result<(), Reply>>,
    /// A message that comes in chunks.
    chunks: Option<Incoming>,
}

struct Recipient {
    address: Address,
    tenant: Arc<Tenant>,
}

/// A session.
pub struct Session {
    server: Arc<Server>,
    listener: Arc<Listener>,
    settings: Arc<Settings>,
    connection: Connection,
    client: SocketAddr,
    local: SocketAddr,
    id: String,
    transactions: u32,
    errors: u32,
    esmtp: bool,
    context: Context,
    instances: Instances,
    transaction: Option<Transaction>,
    handover: Option<Handover>,
}

impl Session {
    /// A session with a client whose connection stands; for implicit TLS, after the handshake.
    pub fn new(
        server: Arc<Server>,
        listener: Arc<Listener>,
        settings: Arc<Settings>,
        connection: Connection,
        client: SocketAddr,
        local: SocketAddr,
    ) -> Self {
        let instances = Instances::new(server.policies.sandbox().clone(), server.metrics.clone());
        let context = Context {
            direction: Direction::Inbound,
            client_ip: Some(ip_address(client.ip())),
            helo: None,
            tls: None,
            mail_from: String::new(),
            rcpt_to: String::new(),
            header_from: None,
            attributes: Vec::new(),
        };
        let mut session = Session {
            id: new_id(),
            server,
            listener,
            settings,
            connection,
            client,
            local,
            transactions: 0,
            errors: 0,
            esmtp: false,
            context,
            instances,
            transaction: None,
            handover: None,
        };
        session.note_tls();
        session
    }

    /// The session's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Speaks with the client to the end.
    pub async fn run(mut self) -> End {
        let greeting = format!("{} ESMTP Portcullis", self.server.hostname);
        self.connection.queue(&Reply::plain(220, greeting));
        let end = loop {
            let line = match self.next_line().await {
                Ok(line) => line,
                Err(end) => break end,
            };
            let next = match line {
                Line::Whole(line) => self.command(&line).await,
                Line::TooLong => Reply::new(
                    500,
                    (5, 5, 2),
                    format!("a command line has at most {COMMAND_LINE} octets"),
                )
                .into(),
                Line::BareLineFeed => Reply::new(
                    500,
                    (5, 5, 2),
                    "a command line ends in CRLF (RFC 5321 section 2.3.8)",
                )
                .into(),
                Line::Closed => break End::Gone,
            };
            match next {
                Next::Said => {}
                Next::Lost(end) => break end,
                Next::Last(reply, end) => {
                    self.connection.queue(&reply);
                    break end;
                }
                Next::Say(reply) => {
                    self.connection.queue(&reply);
                    if self.has_too_many_errors(&reply) {
                        self.connection.queue(&Reply::new(
                            421,
                            (4, 7, 0),
                            "too many errors, closing",
                        ));
                        break End::Closed;
                    }
                }
            }
        };
        if let Some(handover) = &mut self.handover {
            handover.quit().await;
        }
        // A client that does not read its last reply must not keep us.
        let _ = timeout(self.settings.timeouts.handshake, self.connection.close()).await;
        end
    }

    fn has_too_many_errors(&mut self, reply: &Reply) -> bool {
        self.errors += u32::from(reply.is_permanent());
        self.errors >= self.settings.limits.errors
    }

    /// The next line, unless the client is silent too long or the daemon stops.
    async fn next_line(&mut self) -> Result<Line, End> {
        let mut stopping = self.server.stopping.subscribe();
        let reading = timeout(
            self.settings.timeouts.command,
            self.connection.line(COMMAND_LINE),
        );
        let outcome = tokio::select! {
            biased;
            line = reading => line,
            // A transaction that has begun may end; a session between two is asked to come again.
            _ = stopping.wait_for(|stopping| *stopping), if self.transaction.is_none() => {
                self.connection.queue(&Reply::new(421, (4, 3, 2), "the server is going down, come again"));
                return Err(End::Closed);
            }
        };
        match outcome {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                self.connection.queue(&Reply::new(
                    421,
                    (4, 4, 2),
                    "no command for too long, closing",
                ));
                Err(End::Closed)
            }
        }
    }

    async fn command(&mut self, line: &[u8]) -> Next {
        let command = match Command::parse(line) {
            Ok(command) => command,
            // How many octets follow is not known, so nothing that comes can be taken for a command.
            Err(error @ CommandError::BdatSize) => return Next::Last(error.reply(), End::Closed),
            Err(error) => return error.reply().into(),
        };
        match command {
            Command::Ehlo(name) => self.ehlo(name).await.into(),
            Command::Helo(name) => self.helo(name).await.into(),
            Command::StartTls => self.starttls().await,
            Command::Mail { from, parameters } => self.mail(from, parameters).await.into(),
            Command::Rcpt { to } => self.rcpt(to).await.into(),
            Command::Data => self.data().await,
            Command::Bdat { size, last } => self.bdat(size, last).await,
            Command::Rset => self.rset().await.into(),
            Command::Noop => Reply::new(250, (2, 0, 0), "ok").into(),
            // RFC 5321 §3.5.3: a server that does not verify says 252.
            Command::Vrfy(_) => {
                Reply::new(252, (2, 5, 0), "cannot verify, send the mail and see").into()
            }
            Command::Expn => Reply::new(502, (5, 5, 1), "not offered").into(),
            Command::Help => Reply::new(
                214,
                (2, 0, 0),
                "EHLO HELO STARTTLS MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT (RFC 5321)",
            )
            .into(),
            Command::Quit => Next::Last(Reply::new(221, (2, 0, 0), "bye"), End::Quit),
        }
    }

    async fn ehlo(&mut self, name: String) -> Reply {
        self.reset().await;
        self.greet(name, true);
        let offer = self.listener.next_hop.offer();
        let mut lines = vec![
            self.server.hostname.to_string(),
            "PIPELINING".into(),
            format!("SIZE {}", self.message_size()),
            "ENHANCEDSTATUSCODES".into(),
            "CHUNKING".into(),
        ];
        if offer.eight_bit_mime {
            lines.push("8BITMIME".into());
        }
        if offer.smtputf8 {
            lines.push("SMTPUTF8".into());
        }
        if self.context.tls.is_none() && self.settings.tls(&self.listener).is_some() {
            lines.push("STARTTLS".into());
        }
        Reply::plain(250, lines.join("\n"))
    }

    async fn helo(&mut self, name: String) -> Reply {
        self.reset().await;
        self.greet(name, false);
        Reply::plain(250, self.server.hostname.to_string())
    }

    fn greet(&mut self, name: String, esmtp: bool) {
        // A next hop that was told the client's name has to be told anew.
        self.handover = None;
        self.context.helo = Some(name);
        self.esmtp = esmtp;
    }

    /// The largest message that both we and the next hop take.
    fn message_size(&self) -> u64 {
        let own = self.settings.limits.message_size.as_u64();
        self.listener
            .next_hop
            .offer()
            .size
            .map_or(own, |size| own.min(size))
    }

    async fn starttls(&mut self) -> Next {
        let Some(tls) = self.settings.tls(&self.listener) else {
            return Reply::new(502, (5, 5, 1), "TLS is not offered here").into();
        };
        if self.context.tls.is_some() {
            return Reply::new(503, (5, 5, 1), "the session is encrypted already").into();
        }
        if !self.connection.input.is_empty() {
            // What stands behind STARTTLS in plaintext could have been put there by anybody; the session
            // is not to be trusted any more (CVE-2011-0411).
            self.connection.input.clear();
            return Next::Last(
                Reply::new(
                    554,
                    (5, 5, 1),
                    "something was sent behind STARTTLS before TLS began, closing",
                ),
                End::Closed,
            );
        }
        self.reset().await;
        self.connection
            .queue(&Reply::new(220, (2, 0, 0), "ready for TLS"));
        match self.handshake(&tls).await {
            Ok(()) => Next::Said,
            Err(error) => {
                tracing::info!(session = self.id, client = %self.client.ip(), %error, "TLS handshake failed");
                Next::Lost(End::Gone)
            }
        }
    }

    async fn handshake(&mut self, tls: &crate::tls::ServerTls) -> io::Result<()> {
        let limit = self.settings.timeouts.handshake;
        timeout(limit, self.connection.flush()).await??;
        timeout(limit, self.connection.accept_tls(&tls.acceptor())).await??;
        // RFC 3207 §4.2: what was said before is forgotten.
        self.context.helo = None;
        self.esmtp = false;
        self.note_tls();
        Ok(())
    }

    fn note_tls(&mut self) {
        let session = self.connection.tls_session();
        self.context.tls = session
            .zip(self.settings.tls(&self.listener))
            .map(|(session, tls)| tls.facts(session));
    }

    async fn mail(&mut self, from: ReversePath, parameters: MailParameters) -> Reply {
        if self.context.helo.is_none() {
            return Reply::new(503, (5, 5, 1), "say EHLO first");
        }
        if self.transaction.is_some() {
            return Reply::new(503, (5, 5, 1), "a transaction is under way; RSET ends it");
        }
        let offer = self.listener.next_hop.offer();
        if parameters
            .size
            .is_some_and(|size| size > self.message_size())
        {
            return Reply::new(
                552,
                (5, 3, 4),
                format!("a message has at most {} octets", self.message_size()),
            );
        }
        if parameters.smtputf8 && !offer.smtputf8 {
            return Reply::new(555, (5, 5, 4), "SMTPUTF8 is not offered");
        }
        let policies = self.server.policies.snapshot();
        self.instances.retain_in_force(&policies);
        self.transactions += 1;
        self.context.mail_from = from.as_str().into();
        self.context.header_from = None;
        self.transaction = Some(Transaction {
            id: format!("{}.{}", self.id, self.transactions),
            policies,
            from,
            parameters,
            recipients: Vec::new(),
            offered: None,
            chunks: None,
        });
        Reply::new(250, (2, 1, 0), "sender ok")
    }

    async fn rcpt(&mut self, to: Address) -> Reply {
        let Some(transaction) = &mut self.transaction else {
            return Reply::new(503, (5, 5, 1), "say MAIL first");
        };
        if transaction.chunks.is_some() {
            return Reply::new(503, (5, 5, 1), "the message has begun");
        }
        if !to.is_ascii() && !transaction.parameters.smtputf8 {
            return Reply::new(553, (5, 6, 7), "this recipient needs SMTPUTF8");
        }
        let most = self
            .settings
            .limits
            .recipients
            .min(self.listener.next_hop.recipients());
        if transaction.recipients.len() >= most {
            // RFC 5321 §4.5.3.1.10.
            return Reply::new(
                452,
                (4, 5, 3),
                "too many recipients, send again for this one",
            );
        }
        let Some(tenant) = responsible(&transaction.policies, &to).cloned() else {
            let reply = Reply::new(
                550,
                (5, 7, 1),
                "relay denied: nobody here receives mail for this domain",
            );
            return decision::with_id(&reply, &transaction.id);
        };
        // SMTP has one reply after the header, so those who decide on it share a transaction only with
        // their own.
        let reads_header = |tenant: &Tenant| {
            tenant
                .policy
                .as_ref()
                .is_some_and(|p| p.description.reads_header_from)
        };
        let alone = transaction.recipients.iter().any(|other| {
            other.tenant.name != tenant.name
                && (reads_header(&tenant) || reads_header(&other.tenant))
        });
        if alone {
            return Reply::new(
                452,
                (4, 5, 3),
                "send again for this recipient: another organization's policy reads the header",
            );
        }
        self.context.rcpt_to = to.as_str().into();
        let verdict = self
            .instances
            .decide(&tenant, &self.context, &transaction.id)
            .await;
        decision::log(
            &tenant,
            &self.context,
            self.client.ip(),
            &verdict,
            &transaction.id,
        );
        if let Some(reply) = decision::refusal(&verdict, &transaction.id) {
            return reply;
        }
        self.offer_recipient(to, tenant).await
    }

    /// Offers a recipient that the policy lets pass to the next hop, whose answer counts.
    async fn offer_recipient(&mut self, to: Address, tenant: Arc<Tenant>) -> Reply {
        if let Err(reply) = self.offer_transaction().await {
            return reply;
        }
        let (Some(handover), Some(transaction)) = (&mut self.handover, &mut self.transaction)
        else {
            return Reply::new(451, (4, 3, 0), "the transaction was lost, try again later");
        };
        let reply = handover.rcpt(&to).await;
        if reply.is_positive() {
            transaction.recipients.push(Recipient {
                address: to,
                tenant,
            });
        }
        reply
    }

    /// Offers the sender to the next hop, once a transaction.
    async fn offer_transaction(&mut self) -> Result<(), Reply> {
        let Some(transaction) = &mut self.transaction else {
            return Err(Reply::new(503, (5, 5, 1), "say MAIL first"));
        };
        if let Some(offered) = &transaction.offered {
            return offered.clone();
        }
        if self
            .handover
            .as_ref()
            .is_none_or(|handover| !handover.is_usable())
        {
            let client = Client {
                address: self.client,
                local: self.local,
                helo: self.context.helo.clone().unwrap_or_default(),
                esmtp: self.esmtp,
            };
            self.handover = match self.listener.next_hop.open(&client).await {
                Ok(handover) => Some(handover),
                Err(reply) => {
                    transaction.offered = Some(Err(reply.clone()));
                    return Err(reply);
                }
            };
        }
        let sender = Sender {
            from: &transaction.from,
            parameters: &transaction.parameters,
        };
        let offered = match &mut self.handover {
            Some(handover) => handover.mail(sender).await,
            None => Ok(()),
        };
        transaction.offered = Some(offered.clone());
        offered
    }

    async fn data(&mut self) -> Next {
        let Some(transaction) = &self.transaction else {
            return Reply::new(503, (5, 5, 1), "say MAIL and RCPT first").into();
        };
        if transaction.chunks.is_some() {
            return Reply::new(
                503,
                (5, 5, 1),
                "a message that began with BDAT ends with BDAT (RFC 3030)",
            )
            .into();
        }
        if transaction.recipients.is_empty() {
            return Reply::new(554, (5, 5, 1), "no valid recipients").into();
        }
        self.connection
            .queue(&Reply::plain(354, "end with <CRLF>.<CRLF>"));
        let line_limit = self.settings.limits.text_line;
        let mut incoming = Incoming::new(self.message_size(), line_limit);
        let mut decoder = DataDecoder::with_line_limit(line_limit);
        let mut content = Vec::new();
        let deadline = Instant::now() + self.settings.timeouts.message;
        loop {
            if self.connection.input.is_empty()
                && let Err(end) = self.more(deadline).await
            {
                return self.abandon(end).await;
            }
            let progress = decoder.decode(&self.connection.input, &mut content);
            self.connection.input.advance(progress.consumed);
            if let Some(error) = decoder.error() {
                incoming.refuse(error.reply());
            }
            self.pass_on(&mut incoming, &content).await;
            content.clear();
            if progress.finished {
                return self.finish(incoming).await.into();
            }
        }
    }

    async fn bdat(&mut self, size: u64, last: bool) -> Next {
        let limit = self.message_size();
        let line_limit = self.settings.limits.text_line;
        let chunks = match &mut self.transaction {
            Some(transaction) if !transaction.recipients.is_empty() => transaction.chunks.take(),
            _ => {
                // The octets come whether they are welcome or not, and none of them is a command.
                let reply = Reply::new(503, (5, 5, 1), "say MAIL and RCPT first");
                return match self.chunk(None, size).await {
                    Ok(()) => reply.into(),
                    Err(end) => self.abandon(end).await,
                };
            }
        };
        let mut incoming = chunks.unwrap_or_else(|| Incoming::new(limit, line_limit));
        if let Err(end) = self.chunk(Some(&mut incoming), size).await {
            return self.abandon(end).await;
        }
        if last {
            if let Err(error) = incoming.lines.finish() {
                incoming.refuse(error.reply());
            }
            return self.finish(incoming).await.into();
        }
        let reply = match incoming.refused() {
            Some(refused) => refused.clone(),
            None => Reply::new(250, (2, 0, 0), format!("{size} octets received")),
        };
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks = Some(incoming);
        }
        reply.into()
    }

    /// Reads the `size` octets of a chunk: into a message, or to throw them away.
    async fn chunk(&mut self, mut incoming: Option<&mut Incoming>, size: u64) -> Result<(), End> {
        let deadline = Instant::now() + self.settings.timeouts.message;
        let mut missing = size;
        while missing > 0 {
            if self.connection.input.is_empty() {
                self.more(deadline).await?;
            }
            let available = self.connection.input.len();
            let available = available.min(usize::try_from(missing).unwrap_or(available));
            let content = self.connection.input.split_to(available);
            missing -= available as u64;
            if let Some(incoming) = &mut incoming {
                if let Err(error) = incoming.lines.check(&content) {
                    incoming.refuse(error.reply());
                }
                self.pass_on(incoming, &content).await;
            }
        }
        Ok(())
    }

    /// Waits for more of a message.
    async fn more(&mut self, deadline: Instant) -> Result<(), End> {
        let deadline = deadline.min(Instant::now() + self.settings.timeouts.data_block);
        match timeout_at(deadline, self.connection.fill()).await {
            Ok(Ok(0)) | Ok(Err(_)) => Err(End::Gone),
            Ok(Ok(_)) => Ok(()),
            Err(_) => Err(End::Closed),
        }
    }

    /// The client did not end its message: nobody may keep any of it.
    async fn abandon(&mut self, end: End) -> Next {
        self.reset().await;
        match end {
            End::Closed => Next::Last(
                Reply::new(421, (4, 4, 2), "the message did not end in time, closing"),
                end,
            ),
            _ => Next::Lost(end),
        }
    }

    /// Hands over what has come of a message.
    async fn pass_on(&mut self, incoming: &mut Incoming, content: &[u8]) {
        let body = match incoming.take(content) {
            Progress::Wait => return,
            Progress::Body(body) => body,
            Progress::Header(body) => {
                self.pass_header_on(incoming).await;
                body
            }
        };
        self.write(incoming, body).await;
    }

    /// Decides on the header, and hands it over with our own trace in front.
    async fn pass_header_on(&mut self, incoming: &mut Incoming) {
        if header::received_count(incoming.header()) > self.settings.limits.hops {
            // RFC 5321 §6.3.
            incoming.refuse(Reply::new(
                554,
                (5, 4, 6),
                "too many Received fields: the message is in a loop",
            ));
            return;
        }
        if let Err(reply) = self.decide_on_header(incoming.header()).await {
            incoming.refuse(reply);
            return;
        }
        let begun = match &mut self.handover {
            Some(handover) => handover.data().await,
            None => Err(Reply::new(
                451,
                (4, 3, 0),
                "the transaction was lost, try again later",
            )),
        };
        if let Err(reply) = begun {
            incoming.refuse(reply);
            return;
        }
        let mut content = self.trace().into_bytes();
        content.extend_from_slice(incoming.header());
        self.write(incoming, &content).await;
    }

    /// Asks those policies again that read the From header.
    async fn decide_on_header(&mut self, fields: &[u8]) -> Result<(), Reply> {
        let Some(transaction) = &self.transaction else {
            return Ok(());
        };
        let asked = transaction.recipients.iter().filter(|recipient| {
            recipient
                .tenant
                .policy
                .as_ref()
                .is_some_and(|policy| policy.description.reads_header_from)
        });
        let asked: Vec<&Recipient> = asked.collect();
        if asked.is_empty() {
            return Ok(());
        }
        // Fail closed: what cannot be read cannot be held against the rules.
        let addresses = header::from_addresses(fields).map_err(|error| {
            let text = format!("the recipient's policy reads the From field, and {error}");
            decision::with_id(&Reply::new(550, (5, 7, 1), text), &transaction.id)
        })?;
        self.context.header_from = Some(addresses);
        for recipient in asked {
            self.context.rcpt_to = recipient.address.as_str().into();
            let verdict = self
                .instances
                .decide(&recipient.tenant, &self.context, &transaction.id)
                .await;
            decision::log(
                &recipient.tenant,
                &self.context,
                self.client.ip(),
                &verdict,
                &transaction.id,
            );
            if let Some(reply) = decision::refusal(&verdict, &transaction.id) {
                return Err(reply);
            }
        }
        Ok(())
    }

    fn trace(&self) -> String {
        let Some(transaction) = &self.transaction else {
            return String::new();
        };
        let recipient = match &transaction.recipients[..] {
            [only] => Some(only.address.as_str()),
            _ => None,
        };
        let trace = Trace {
            client: self.client.ip(),
            helo: self.context.helo.as_deref().unwrap_or_default(),
            esmtp: self.esmtp,
            tls: self.context.tls.as_ref(),
            smtputf8: transaction.parameters.smtputf8,
            hostname: &self.server.hostname,
            id: &transaction.id,
            recipient,
        };
        trace.field(OffsetDateTime::now_utc())
    }

    async fn write(&mut self, incoming: &mut Incoming, content: &[u8]) {
        if content.is_empty() || incoming.refused().is_some() {
            return;
        }
        if let Some(handover) = &mut self.handover
            && let Err(reply) = handover.write(content).await
        {
            incoming.refuse(reply);
        }
    }

    /// The end of the message: only the next hop's word makes it ours to confirm.
    async fn finish(&mut self, mut incoming: Incoming) -> Reply {
        if !incoming.is_decided() && incoming.refused().is_none() {
            // A message without a body.
            self.pass_header_on(&mut incoming).await;
        }
        let reply = match (incoming.refused(), &mut self.handover) {
            (Some(refused), _) => refused.clone(),
            (None, Some(handover)) => handover.finish().await,
            (None, None) => Reply::new(451, (4, 3, 0), "the transaction was lost, try again later"),
        };
        let Some(transaction) = &self.transaction else {
            return reply;
        };
        tracing::info!(
            code = reply.code(),
            size = incoming.size(),
            recipients = transaction.recipients.len(),
            client = %self.client.ip(),
            session = self.id,
            transaction = transaction.id,
            reply = reply.text(),
            "message"
        );
        self.server.metrics.message(reply.code());
        let reply = decision::with_id(&reply, &transaction.id);
        let refused = incoming.refused().is_some();
        if refused {
            self.reset().await;
        } else {
            self.transaction = None;
        }
        reply
    }

    async fn rset(&mut self) -> Reply {
        self.reset().await;
        Reply::new(250, (2, 0, 0), "ok")
    }

    /// Gives up the transaction, here and at the next hop.
    async fn reset(&mut self) {
        if self
            .transaction
            .take()
            .is_some_and(|transaction| transaction.offered.is_some())
            && let Some(handover) = &mut self.handover
        {
            handover.reset().await;
        }
        self.context.header_from = None;
    }
}

/// The tenant of a recipient.
fn responsible<'a>(policies: &'a Table, to: &Address) -> Option<&'a Arc<Tenant>> {
    match to.domain() {
        None => policies.postmaster(),
        Some(domain) => policies.tenant(&crate::config::normal_domain(domain)?),
    }
}

/// A name for a session, unique enough to be found in a log of years.
fn new_id() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0; 10];
    // Without random numbers there would be no TLS either; a fixed name is the least of it.
    let _ = aws_lc_rs::rand::fill(&mut random);
    random
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect()
}
