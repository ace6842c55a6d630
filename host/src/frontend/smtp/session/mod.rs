//! One SMTP session: a state machine, a method a verb.
//!
//! The order of things (RFC 5321 §4.1.4): EHLO or HELO, STARTTLS once, then transactions of MAIL,
//! RCPT and DATA or BDAT. Each recipient is decided on at RCPT by its own organization's policy, as
//! it stood when the transaction began.

mod branches;
mod envelope;
mod login;
mod message;
mod notify;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use futures_util::FutureExt;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::egress::next_hop::{ClientName, Delivery, Extensions};
use crate::egress::partial::{Body, Digest, Group};
use crate::egress::path::EgressPath;
use crate::frontend::ask::Asker;
use crate::frontend::ids::new_id;
use crate::frontend::mta::certificates::Told;
use crate::frontend::mta::facts::Protection;
use crate::frontend::smtp::listener::{Listener, Server, Settings};
use crate::frontend::smtp::receiver::MessageReceiver;
use crate::frontend::smtp::spool::Spool;
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::{Command, CommandError, MailParameters, RcptParameters};
use crate::smtp::connection::{Connection, Line};
use crate::smtp::proxy_protocol::EndedTls;
use crate::smtp::reply::Reply;
use crate::smtp::seven_bit::Survey;
use crate::smtp::timer::Timer;
use branches::Branch;
use envelope::{Reason, Rejection};
use portcullis::store::{Snapshot, Tenant};
use portcullis::{ClientAddress, Context, Direction, HeaderFrom, PeerCertificate, Security};

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

/// How far a transaction is.
enum State {
    /// There is none.
    Idle,
    /// The client has sent MAIL.
    Envelope(Box<Transaction>),
    /// The message comes in chunks (RFC 3030), and this is another part of it.
    Chunks(Box<Transaction>, Box<MessageReceiver>),
}

impl State {
    fn transaction(&self) -> Option<&Transaction> {
        match self {
            State::Idle => None,
            State::Envelope(transaction) | State::Chunks(transaction, _) => Some(transaction),
        }
    }
}

/// What EHLO has announced that may change while the session lasts: nobody is refused for having believed it.
#[derive(Clone, Copy, Default)]
struct Announced {
    extensions: Extensions,
    login: bool,
}

/// A transaction, from MAIL to the end of the message.
struct Transaction {
    /// Session and number; it stands in replies, in the log and in the Received field.
    id: String,
    policies: Arc<Snapshot>,
    from: ReversePath,
    parameters: MailParameters,
    recipients: Vec<Recipient>,
    /// One for each path of its recipients.
    branches: Vec<Branch>,
    /// The paths that could not be used, and what the client was told.
    failed_paths: Vec<(Arc<str>, Reply)>,
    /// Whose turn it is, where recipients of an earlier message wait to be told what became of it.
    turn: Option<(Digest, Group)>,
    /// The message, once its header is there, if its recipients may end differently.
    message: Option<Digest>,
    /// Its header, if its sender may have to be notified.
    header: Option<Vec<u8>>,
    /// Its body as far as it has come, if it matters whether it is the same as before.
    body: Option<Body>,
    /// The message, where it is kept until it is whole.
    held: Option<Spool>,
    /// What is found in it meanwhile, where a server takes seven bits only.
    survey: Option<Survey>,
    /// What became of recipients whose branch has ended before the message has.
    outcomes: Vec<(usize, Reply)>,
}

#[derive(Clone)]
struct Recipient {
    address: Address,
    parameters: RcptParameters,
    tenant: Arc<Tenant>,
    path: Arc<EgressPath>,
    /// What it shares with those who get the same reply.
    egress: Digest,
    digest: Digest,
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
    /// Since the last message that was taken.
    commands: u32,
    esmtp: bool,
    /// Whether the client has sent commands before it had read our replies (RFC 2920).
    pipelines: bool,
    /// Whether it has said SMTPUTF8 at the last MAIL.
    smtputf8: bool,
    context: Context,
    asker: Asker,
    state: State,
    /// What the last EHLO has announced; nothing after HELO.
    announced: Announced,
    /// The name by which the client has logged in.
    user: Option<String>,
    /// Connections to next hops that are this client's alone, between two transactions, each with what tells its path
    /// from others.
    kept: Vec<(String, Delivery)>,
    /// What the client's address is called, and the look-up until that is known.
    client_name: ClientName,
    looking_up: Option<JoinHandle<ClientName>>,
    timer: Timer,
    /// Ready once the daemon stops. Asked at each wait, it need not be made each time.
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The two ends of a client's connection.
pub struct Ends {
    /// The client's address.
    pub client: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// TLS that ended at a balancer before us.
    pub ended_tls: Option<EndedTls>,
}

impl Session {
    /// A session with a client whose connection stands; for implicit TLS, after the handshake.
    pub fn new(
        server: Arc<Server>,
        listener: Arc<Listener>,
        settings: Arc<Settings>,
        connection: Connection,
        ends: Ends,
    ) -> Self {
        let Ends {
            client,
            local,
            ended_tls,
        } = ends;
        let asker = Asker::new(server.asking.clone());
        let context = match listener.egress.direction() {
            Direction::Inbound => Context::inbound(client.ip(), "", ""),
            Direction::Outbound => {
                Context::outbound("", "").client_address(ClientAddress::Known(client.ip()))
            }
        };
        let mut stopping = server.stopping.subscribe();
        let stopping = async move {
            // The sender lives as long as the server, which the session holds.
            let _ = stopping.wait_for(|stopping| *stopping).await;
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
            commands: 0,
            esmtp: false,
            pipelines: false,
            smtputf8: false,
            context,
            asker,
            state: State::Idle,
            announced: Announced::default(),
            user: None,
            kept: Vec::new(),
            client_name: ClientName::Unknown,
            looking_up: None,
            timer: Timer::default(),
            stopping: Box::pin(stopping.fuse()),
        };
        session.look_up_client();
        match ended_tls {
            Some(ended) if session.connection.tls_session().is_none() => {
                session.note_ended_tls(ended);
            }
            _ => session.note_tls(),
        }
        session
    }

    /// The session's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Looks for the client's name while it speaks, if anybody wants to know.
    fn look_up_client(&mut self) {
        if let (true, Some(dns)) = (
            self.listener.config.wants_client_names(),
            &self.settings.names,
        ) {
            let (dns, ip) = (dns.clone(), self.client.ip());
            self.looking_up = Some(tokio::spawn(async move { dns.name_of(ip).await }));
        }
    }

    /// Speaks with the client to the end.
    pub async fn run(mut self) -> End {
        let greeting = format!("{} ESMTP Portcullis", self.server.hostname);
        self.connection.queue(&Reply::plain(220, greeting));
        let end = loop {
            let next = match self.next_line().await {
                Ok(line) => self.dispatch(line).await,
                Err(next) => next,
            };
            match next {
                Next::Said => {}
                Next::Lost(end) => break end,
                Next::Last(reply, end) => break self.last(reply, end),
                Next::Say(reply) => {
                    let reply = if self.smtputf8 {
                        reply.in_utf8()
                    } else {
                        reply
                    };
                    self.connection.queue(&reply);
                    if self.has_too_many_errors(&reply) {
                        let reply = Reply::new(421, (4, 7, 0), "too many errors, closing");
                        break self.last(reply, End::Closed);
                    }
                }
            }
        };
        if let State::Envelope(transaction) | State::Chunks(transaction, _) = &mut self.state {
            transaction.quit().await;
        }
        for (_, kept) in &mut self.kept {
            kept.quit().await;
        }
        // A client that does not read its last reply must not keep us.
        let limit = self.settings.timeouts.handshake;
        let _ = match end {
            // All that it had to say was read.
            End::Quit if !self.connection.has_unread() => {
                timeout(limit, self.connection.close()).await
            }
            _ => timeout(limit, self.connection.close_gently()).await,
        };
        end
    }

    /// Says the last word. Where it is ours, it is logged too.
    fn last(&mut self, reply: Reply, end: End) -> End {
        self.connection.queue(&reply);
        if end == End::Closed {
            tracing::info!(
                session = self.id,
                client = %crate::observe::redact::client(self.client.ip()),
                reason = reply.text(),
                "session closed"
            );
        }
        end
    }

    fn has_too_many_errors(&mut self, reply: &Reply) -> bool {
        self.errors += u32::from(reply.is_permanent());
        self.errors >= self.settings.limits.errors
    }

    /// The next command, unless the client is silent too long or the daemon stops.
    async fn next_line(&mut self) -> Result<Line, Next> {
        self.line_of_at_most(COMMAND_LINE).await
    }

    /// Whether this client's lines may end in LF.
    fn normalizes(&self) -> bool {
        let normalize = &self.listener.config.normalize;
        normalize.iter().any(|net| net.contains(&self.client.ip()))
    }

    async fn line_of_at_most(&mut self, limit: usize) -> Result<Line, Next> {
        let mut deadline = Instant::now() + self.settings.timeouts.command;
        if let State::Chunks(_, receiver) = &self.state {
            // The message's own deadline holds between two chunks too.
            deadline = deadline.min(receiver.deadline);
        }
        let is_idle = matches!(self.state, State::Idle);
        let outcome = {
            let mut reading = pin!(self.connection.line(limit));
            let line_or_stop = poll_fn(|context| match reading.as_mut().poll(context) {
                Poll::Ready(line) => Poll::Ready(Some(line)),
                // A transaction that has begun may end; a session between two is asked to come again.
                Poll::Pending if is_idle => self.stopping.as_mut().poll(context).map(|()| None),
                Poll::Pending => Poll::Pending,
            });
            self.timer.until(deadline, line_or_stop).await
        };
        match outcome {
            None => Err(out_of_time("no command for too long, closing")),
            Some(None) => {
                let text = "the server is going down, come again";
                Err(Next::Last(Reply::new(421, (4, 3, 2), text), End::Closed))
            }
            // RFC 5321 §2.3.8 has no other line ends; some old senders do.
            Some(Some(Ok(Line::BareLineFeed(mut line)))) if self.normalizes() => {
                line.truncate(line.len() - 1);
                Ok(Line::Whole(line))
            }
            Some(Some(Ok(line))) => Ok(line),
            Some(Some(Err(_))) => Err(Next::Lost(End::Gone)),
        }
    }

    async fn dispatch(&mut self, line: Line) -> Next {
        // However many commands come at once, other sessions have their turn meanwhile.
        tokio::task::consume_budget().await;
        self.commands += 1;
        if self.commands > self.settings.limits.commands {
            let text = "too many commands without a message, closing";
            return Next::Last(Reply::new(421, (4, 7, 0), text), End::Closed);
        }
        match line {
            Line::Whole(line) => self.command(&line).await,
            // How many octets follow is not known here either; see below.
            Line::TooLong(line) | Line::BareLineFeed(line) if is_bdat(&line) => {
                Next::Last(CommandError::BdatSize.reply(), End::Closed)
            }
            Line::TooLong(_) => {
                let text = format!("a command line has at most {COMMAND_LINE} octets");
                Reply::new(500, (5, 5, 2), text).into()
            }
            Line::BareLineFeed(_) => {
                let text = "a command line ends in CRLF (RFC 5321 section 2.3.8)";
                Reply::new(500, (5, 5, 2), text).into()
            }
            Line::Closed => Next::Lost(End::Gone),
        }
    }

    async fn command(&mut self, line: &[u8]) -> Next {
        let command = match Command::parse(line) {
            Ok(command) => command,
            // How many octets follow is not known, so nothing that comes can be taken for a command.
            Err(error @ CommandError::BdatSize) => return Next::Last(error.reply(), End::Closed),
            Err(error) if error.is_of_envelope() => return self.refuse_malformed(&error).into(),
            Err(error) => return error.reply().into(),
        };
        match command {
            Command::Ehlo(name) => self.ehlo(name).await.into(),
            Command::Helo(name) => self.helo(name).await.into(),
            Command::StartTls => self.starttls().await,
            Command::Mail { from, parameters } => self.mail(from, parameters).await.into(),
            // Boxed: these futures are large, and a session that waits for a command needs none of them.
            Command::Rcpt { to, parameters } => Box::pin(self.rcpt(to, parameters)).await.into(),
            Command::Auth { mechanism, initial } => Box::pin(self.auth(&mechanism, initial)).await,
            Command::Data => Box::pin(self.data()).await,
            Command::Bdat { size, last } => {
                if size > 0 {
                    // It brings some of a message, which has limits of its own.
                    self.commands = self.commands.saturating_sub(1);
                }
                Box::pin(self.bdat(size, last)).await
            }
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
                "EHLO HELO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT (RFC 5321)",
            )
            .into(),
            Command::Quit => Next::Last(Reply::new(221, (2, 0, 0), "bye"), End::Quit),
        }
    }

    /// Refuses a sender or a recipient that is none.
    fn refuse_malformed(&self, error: &CommandError) -> Reply {
        let rejection = Rejection {
            reply: error.reply(),
            reason: Reason::Syntax,
        };
        match self.state.transaction() {
            Some(transaction) => {
                let from = transaction.from.as_str();
                self.refuse(rejection, Some(transaction), from, Some(""), None)
            }
            None => self.refuse(rejection, None, "", None, None),
        }
    }

    async fn ehlo(&mut self, name: String) -> Reply {
        self.reset().await;
        self.greet(name, true);
        let offer = self.listener.egress.extensions();
        let mut text = format!(
            "{}\nPIPELINING\nSIZE {}\nENHANCEDSTATUSCODES\nCHUNKING",
            self.server.hostname,
            self.message_size()
        );
        if offer.eight_bit_mime {
            text.push_str("\n8BITMIME");
        }
        if offer.smtputf8 {
            text.push_str("\nSMTPUTF8");
        }
        if offer.dsn {
            text.push_str("\nDSN");
        }
        if self.context.session_tls().is_some() {
            // RFC 8689 §3: to those who are there over TLS.
            if offer.require_tls {
                text.push_str("\nREQUIRETLS");
            }
        } else if self.settings.tls(&self.listener).is_some() {
            text.push_str("\nSTARTTLS");
        }
        self.announced = Announced {
            extensions: offer,
            login: self.offers_login(),
        };
        if self.announced.login {
            text.push('\n');
            text.push_str(login::OFFER);
        }
        Reply::plain(250, text)
    }

    async fn helo(&mut self, name: String) -> Reply {
        self.reset().await;
        self.greet(name, false);
        self.announced = Announced::default();
        Reply::plain(250, self.server.hostname.to_string())
    }

    fn greet(&mut self, name: String, esmtp: bool) {
        // A next hop that was told the client's name has to be told anew.
        self.kept.clear();
        self.context.set_helo(name);
        self.esmtp = esmtp;
    }

    /// The largest message that both we and the next hop take.
    fn message_size(&self) -> u64 {
        let own = self.settings.limits.message_size.as_u64();
        self.listener
            .egress
            .extensions()
            .size
            .map_or(own, |size| own.min(size))
    }

    async fn starttls(&mut self) -> Next {
        let Some(tls) = self.settings.tls(&self.listener) else {
            return Reply::new(502, (5, 5, 1), "TLS is not offered here").into();
        };
        if self.context.session_tls().is_some() {
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
                tracing::info!(session = self.id, client = %crate::observe::redact::client(self.client.ip()), %error, "TLS handshake failed");
                Next::Lost(End::Gone)
            }
        }
    }

    async fn handshake(&mut self, tls: &crate::tls::ServerTls) -> io::Result<()> {
        let limit = self.settings.timeouts.handshake;
        timeout(limit, self.connection.flush()).await??;
        let acceptor = tls.acceptor(self.listener.is_legacy(self.client.ip()));
        // Boxed: the future is large, and serves once at most.
        timeout(limit, Box::pin(self.connection.accept_tls(&acceptor))).await??;
        // RFC 3207 §4.2: what was said before is forgotten.
        self.context.set_helo(None);
        self.announced = Announced::default();
        self.esmtp = false;
        self.note_tls();
        Ok(())
    }

    fn note_tls(&mut self) {
        let session = self.connection.tls_session();
        let facts = session
            .zip(self.settings.tls(&self.listener))
            .map(|(session, tls)| tls.facts(&session));
        self.context
            .set_security(facts.map_or(Security::Plaintext, Security::Encrypted));
    }

    /// A balancer tells one name of a certificate at most, and nothing that proves which one it was.
    fn note_ended_tls(&mut self, ended: EndedTls) {
        let told = match ended.certificate {
            // Whether it asks for one, it does not tell.
            None => (PeerCertificate::Unknown, None),
            Some(shown) => Told {
                common_name: shown.common_name,
                trusted: Some(shown.is_verified),
                ..Told::default()
            }
            .certificate(),
        };
        let protection = Protection::tls(&ended.version, &ended.cipher, told);
        self.context = protection.add_to(self.context.clone());
    }

    async fn rset(&mut self) -> Reply {
        self.reset().await;
        Reply::new(250, (2, 0, 0), "ok")
    }

    /// Gives up the transaction, if there is one.
    async fn reset(&mut self) {
        if let State::Envelope(transaction) | State::Chunks(transaction, _) =
            std::mem::replace(&mut self.state, State::Idle)
        {
            self.give_up(transaction).await;
        }
    }

    /// Gives up a transaction, here and with the servers.
    async fn give_up(&mut self, transaction: Box<Transaction>) {
        for branch in transaction.branches {
            self.abort(branch).await;
        }
        self.context.set_header_from(HeaderFrom::Pending);
    }
}

fn out_of_time(text: &'static str) -> Next {
    Next::Last(Reply::new(421, (4, 4, 2), text), End::Closed)
}

fn is_bdat(line: &[u8]) -> bool {
    line.get(..4)
        .is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"))
}
