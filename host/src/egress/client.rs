//! The client side of SMTP (RFC 5321) and LMTP (RFC 2033): one session with a server, a method a step.
//!
//! It is strict where leniency could lose or double mail: a message is confirmed only by the reply to
//! its end, and a session in which anything was out of step is not used again.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::timeout;

use crate::config;
use crate::egress::credentials::{Credentials, PasswordError};
use crate::smtp::address::{Address, ReversePath};
use crate::smtp::command::{Body, MailParameters, RcptParameters};
use crate::smtp::connection::{Connection, Stream};
use crate::smtp::data::DataEncoder;
use crate::smtp::reply::{Capabilities, Reply, SizeLimit};
use crate::smtp::sasl::{self, Exchange, Mechanism, SaslError};
use crate::smtp::timer::Timer;
use crate::smtp::tls::{Connector, TlsSession};

/// Chunks that a server with PIPELINING may have to answer for at a time: their replies fit into any window.
const MAX_OPEN_CHUNKS: u32 = 16;
/// Content that is gathered before it is written.
const WRITE_SIZE: usize = 32 << 10;
/// How long a good-bye may take. Nobody waits for the answer to it.
const PARTING: Duration = Duration::from_secs(1);

/// The envelope's sender side.
#[derive(Clone, Copy)]
pub struct Sender<'a> {
    /// The reverse path.
    pub from: &'a ReversePath,
    /// Its parameters.
    pub parameters: &'a MailParameters,
    /// The recipient that will be added first: where the server takes commands ahead of its replies
    /// (RFC 2920), both go in one packet.
    pub first: Recipient<'a>,
}

/// A recipient of the envelope.
#[derive(Clone, Copy)]
pub struct Recipient<'a> {
    /// The forward path.
    pub to: &'a Address,
    /// Its parameters.
    pub parameters: &'a RcptParameters,
}

/// The server cannot be spoken with.
#[derive(Clone, Debug)]
pub struct ClientError {
    peer: Arc<str>,
    /// What was being done.
    pub step: &'static str,
    /// What went wrong.
    pub cause: Cause,
    audience: Audience,
}

/// What went wrong with a server.
#[derive(Clone, Debug)]
pub enum Cause {
    /// The connection failed.
    Io(Arc<io::Error>),
    /// The server closed the connection.
    Closed,
    /// It did not answer.
    TimedOut,
    /// It spoke before it was asked.
    Unasked,
    /// It answered, but not as it had to.
    Refused(Reply),
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Cause::Io(Arc::new(error))
    }
}

/// Who the client is, which decides what it is told of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A stranger, whom our inner servers do not concern.
    External,
    /// One of our own, who has to know what failed where.
    Internal,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Cause::Io(error) => write!(f, "{error}"),
            Cause::Closed => f.write_str("the connection was closed"),
            Cause::Unasked => f.write_str("the server said something before it was asked"),
            Cause::TimedOut => f.write_str("no answer in time"),
            Cause::Refused(reply) => {
                write!(f, "{} {}", reply.code(), reply.one_line())
            }
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}: {}", self.peer, self.step, self.cause)
    }
}

impl ClientError {
    /// Whether the server has said so itself.
    pub fn is_refusal(&self) -> bool {
        matches!(self.cause, Cause::Refused(_))
    }

    /// What the client is told of a message: what the server has said to it, if it has.
    fn answer(&self) -> Reply {
        match &self.cause {
            Cause::Refused(reply) => map_reply(reply),
            _ => self.reply(),
        }
    }

    /// What the client is told. It is always a reason to try again: the mail was not refused.
    pub fn reply(&self) -> Reply {
        let enhanced = match &self.cause {
            Cause::Io(_) if self.step == CONNECT => (4, 4, 1),
            _ => (4, 4, 2),
        };
        let text = match (self.audience, &self.cause) {
            (Audience::Internal, _) => self.to_string(),
            (Audience::External, Cause::Io(_)) if self.step == CONNECT => {
                "the next hop does not answer, try again later".into()
            }
            (Audience::External, Cause::TimedOut) => {
                "the next hop did not answer in time, try again later".into()
            }
            _ => "the connection to the next hop failed, try again later".into(),
        };
        Reply::new(451, enhanced, text).because(self.to_string())
    }
}

/// The name of the step of shaking hands for TLS.
pub const HANDSHAKE: &str = "TLS handshake";
/// The name of the step of asking for TLS, which is its command as well.
pub const START_TLS: &str = "STARTTLS";
/// The name of the step of logging in.
const AUTH: &str = "AUTH";
/// The name of the step of saying hello.
const EHLO: &str = "EHLO";
/// What stands for a text that has our password in it.
const CONCEALED: &str = "(the text repeats the password)";
/// The name of the step of sending a part of a message.
const BDAT: &str = "BDAT";
/// The name of the step of ending a message.
const END_OF_DATA: &str = "end of data";
/// The name of the step of connecting.
pub const CONNECT: &str = "connect";

/// What sessions with a server have in common.
#[derive(Clone)]
pub struct ClientConfig {
    /// Our name.
    pub hostname: Arc<str>,
    /// Whether the server speaks LMTP.
    pub lmtp: bool,
    /// Whether messages go in chunks where the server takes them (RFC 3030).
    pub chunks: bool,
    /// How long to wait.
    pub timeouts: Arc<config::Timeouts>,
    /// Who the client is.
    pub audience: Audience,
}

impl ClientConfig {
    /// A failure of a server.
    pub fn failure(
        &self,
        peer: &Arc<str>,
        step: &'static str,
        cause: impl Into<Cause>,
    ) -> ClientError {
        ClientError {
            peer: peer.clone(),
            step,
            cause: cause.into(),
            audience: self.audience,
        }
    }
}

/// Why a transaction has not begun.
#[derive(Debug)]
pub enum MailError {
    /// The server said so, and the session can go on.
    Refused(Reply),
    /// The session is over; nothing was sent on it.
    Lost(ClientError),
}

impl MailError {
    /// What the client is told.
    pub fn reply(&self) -> Reply {
        match self {
            MailError::Refused(reply) => reply.clone(),
            MailError::Lost(failure) => failure.reply(),
        }
    }
}

/// What a server says to the end of a message.
pub enum Finished {
    /// SMTP: the same for all recipients.
    All(Reply),
    /// LMTP: to each of those that it has taken, in their order.
    Each(Vec<Reply>),
}

impl Finished {
    /// What was said to a recipient.
    pub fn of(&self, number: usize) -> Reply {
        match self {
            Finished::All(reply) => reply.clone(),
            Finished::Each(replies) => replies.get(number).cloned().unwrap_or_else(|| {
                Reply::new(
                    451,
                    (4, 3, 0),
                    "the next hop has not answered for this recipient",
                )
            }),
        }
    }
}

/// Why we are not let in at a server.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoginError {
    /// Nobody who listens may hear the password.
    #[error("there is no TLS, without which no password is sent")]
    NoTls,
    /// The password cannot be had.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The server is not proven to be the one that may have the password.
    #[error("no password is sent to it: {0}")]
    Unproven(String),
    /// The server offers nothing that we know.
    #[error("it offers none of SCRAM-SHA-256-PLUS, SCRAM-SHA-256, PLAIN and LOGIN, but {}", offer(.0))]
    NoMechanism(Vec<String>),
    /// The server says no. Its text is without what we have sent.
    #[error("it refuses the name or the password ({mechanism}): {code} {text}", mechanism = .0.name(), code = .1, text = .2)]
    Refused(Mechanism, u16, String),
    /// A server has refused them a moment ago, and would lock the account.
    #[error("name or password were refused a moment ago; they are tried again after a minute")]
    Pause,
    /// What the server says makes no sense.
    #[error("{mechanism}: {0}", mechanism = .1.name())]
    Sasl(SaslError, Mechanism),
    /// The connection failed.
    #[error("{0}")]
    Lost(Box<ClientError>),
}

/// The mechanisms that a server offers, as far as they are worth reading.
fn offer(mechanisms: &[String]) -> String {
    if mechanisms.is_empty() {
        return "no AUTH at all".into();
    }
    let shown = mechanisms.iter().take(10);
    let shown: Vec<String> = shown.map(|it| it.chars().take(30).collect()).collect();
    shown.join(" ")
}

/// A message on its way to the server.
enum Content {
    /// By DATA.
    Data(DataEncoder),
    /// By BDAT.
    Chunks(Chunks),
}

/// A message in chunks (RFC 3030 §2).
#[derive(Default)]
struct Chunks {
    /// What the next chunk will have.
    waiting: Vec<u8>,
    /// Whether the server has a part of it.
    is_begun: bool,
    /// Chunks whose replies have not been read.
    open: u32,
    /// Whether what the server has ends in a line end.
    ends_line: bool,
}

impl Chunks {
    /// Appends the last chunk to `output`, with the CRLF that the last line may lack.
    fn finish(mut self, output: &mut Vec<u8>) {
        if !self.ends_line() {
            self.waiting.extend_from_slice(b"\r\n");
        }
        output.extend_from_slice(format!("BDAT {} LAST\r\n", self.waiting.len()).as_bytes());
        output.append(&mut self.waiting);
    }

    /// Whether all that there is ends in a line end; nothing at all does.
    fn ends_line(&self) -> bool {
        match self.waiting.last() {
            Some(last) => *last == b'\n',
            None => self.ends_line || !self.is_begun,
        }
    }
}

/// What came of asking for TLS.
pub enum StartTls {
    /// The session is encrypted.
    Encrypted,
    /// The server declined.
    Declined(Reply),
}

/// A session with the server.
pub struct SmtpClient {
    connection: Connection,
    timer: Timer,
    peer: Arc<str>,
    client_config: ClientConfig,
    capabilities: Capabilities,
    usable: bool,
    /// Those that the server has taken; LMTP answers for each.
    recipients: Vec<String>,
    /// The recipient that was named together with the sender; the reply to it has not been read.
    pipelined: Option<String>,
    /// The message that is under way.
    content: Option<Content>,
    /// What we log in with, if we do. Nobody reads the password, wherever the server repeats it.
    credentials: Option<Credentials>,
}

impl SmtpClient {
    /// A session on a connection that stands; nothing is said yet. The name of the peer is for the log.
    pub fn new(stream: Stream, peer: Arc<str>, client_config: ClientConfig) -> Self {
        SmtpClient {
            connection: Connection::new(stream),
            timer: Timer::default(),
            peer,
            client_config,
            capabilities: Capabilities::default(),
            usable: true,
            recipients: Vec::new(),
            pipelined: None,
            content: None,
            credentials: None,
        }
    }

    /// The same with what we log in with there. It is not told to the server before [`SmtpClient::log_in`].
    pub fn with_credentials(mut self, credentials: Option<&Credentials>) -> Self {
        self.credentials = credentials.cloned();
        self
    }

    /// What goes out before the greeting is awaited, such as a PROXY header.
    pub fn preamble(&mut self) -> &mut Vec<u8> {
        self.connection.output()
    }

    /// Awaits the greeting, and says hello. Gives the name by which the server calls itself.
    pub async fn greet(&mut self) -> Result<String, ClientError> {
        let greeting = self
            .expect("greeting", self.client_config.timeouts.reply)
            .await?;
        self.hello().await?;
        let name = greeting.text().split_ascii_whitespace().next();
        Ok(name.unwrap_or_default().to_owned())
    }

    /// How it speaks with the server.
    pub fn client_config(&self) -> &ClientConfig {
        &self.client_config
    }

    /// Says EHLO or LHLO, and learns what the server can do.
    pub async fn hello(&mut self) -> Result<(), ClientError> {
        self.hello_as(None).await
    }

    /// The same in another one's name.
    pub async fn hello_as(&mut self, name: Option<&str>) -> Result<(), ClientError> {
        let lmtp = self.client_config.lmtp;
        let verb = if lmtp { "LHLO" } else { "EHLO" };
        let name = name.unwrap_or(&self.client_config.hostname).to_owned();
        let reply = self.command(EHLO, &format!("{verb} {name}")).await?;
        if reply.is_positive() {
            self.capabilities = Capabilities::from_ehlo(&reply);
            return Ok(());
        }
        if lmtp || !reply.is_permanent() {
            return Err(self.broken(EHLO, Cause::Refused(reply)));
        }
        // RFC 5321 §4.1.4: a server that does not know EHLO knows HELO.
        self.capabilities = Capabilities::default();
        let reply = self.command("HELO", &format!("HELO {name}")).await?;
        if reply.is_positive() {
            Ok(())
        } else {
            Err(self.broken("HELO", Cause::Refused(reply)))
        }
    }

    /// Begins TLS, and says hello anew. After a failure the session is not usable.
    pub async fn start_tls(
        &mut self,
        connector: &Connector,
        name: ServerName<'static>,
    ) -> Result<StartTls, ClientError> {
        let reply = self.command(START_TLS, START_TLS).await?;
        if !reply.is_positive() {
            return Ok(StartTls::Declined(reply));
        }
        if !self.connection.input.is_empty() {
            // It could have been put there by anybody, and would be taken for what came under TLS.
            let error = io::Error::other("plaintext stands behind the reply to STARTTLS");
            return Err(self.broken(START_TLS, error));
        }
        self.shake_hands(connector, name).await?;
        self.hello().await?;
        Ok(StartTls::Encrypted)
    }

    /// Begins TLS before anything is said (RFC 8314 §3.3), or after the server has said that it may begin.
    pub async fn shake_hands(
        &mut self,
        connector: &Connector,
        name: ServerName<'static>,
    ) -> Result<(), ClientError> {
        let flushing = self.connection.flush();
        if let Err(error) = flushing.await {
            return Err(self.broken(HANDSHAKE, error));
        }
        let handshake = self.connection.connect_tls(connector, name);
        match timeout(self.client_config.timeouts.handshake, handshake).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broken(HANDSHAKE, error)),
            Err(_) => Err(self.broken(HANDSHAKE, Cause::TimedOut)),
        }
    }

    /// Logs in (RFC 4954), if it has credentials. Who may have the password is for the caller to know.
    ///
    /// # Errors
    /// Why we are not let in; the session is not usable then.
    pub async fn log_in(&mut self) -> Result<Option<Mechanism>, LoginError> {
        let Some(credentials) = self.credentials.clone() else {
            return Ok(None);
        };
        if credentials.were_refused() {
            self.usable = false;
            return Err(LoginError::Pause);
        }
        let logged_in = self.try_log_in(&credentials).await;
        if let Err(LoginError::Refused(_, 500.., _)) = &logged_in {
            credentials.note_refusal();
        }
        self.usable &= logged_in.is_ok();
        logged_in.map(Some)
    }

    async fn try_log_in(&mut self, credentials: &Credentials) -> Result<Mechanism, LoginError> {
        let (mechanism, mut exchange) = self.begin_exchange(credentials)?;
        let sasl = |error| LoginError::Sasl(error, mechanism);
        let mut line = format!("AUTH {}", mechanism.name());
        if let Some(initial) = exchange.initial() {
            line.push(' ');
            line.push_str(&sasl::encode_initial(&initial));
        }
        loop {
            let reply = self.command(AUTH, &line).await;
            let reply = reply.map_err(|failure| LoginError::Lost(Box::new(failure)))?;
            if reply.is_positive() {
                exchange.finish().map_err(sasl)?;
                return Ok(mechanism);
            }
            if reply.code() != 334 {
                let text = match reply.enhanced() {
                    Some(enhanced) => format!("{enhanced} {}", reply.one_line()),
                    None => reply.one_line(),
                };
                return Err(LoginError::Refused(mechanism, reply.code(), text));
            }
            let challenge = sasl::decode(reply.text().trim()).unwrap_or_default();
            let answer;
            (exchange, answer) = apart(exchange, challenge).await.map_err(sasl)?;
            line = sasl::encode(&answer);
        }
    }

    /// The best mechanism that the server offers, and an exchange by it.
    fn begin_exchange(
        &self,
        credentials: &Credentials,
    ) -> Result<(Mechanism, Exchange), LoginError> {
        let session = self.tls_session().ok_or(LoginError::NoTls)?;
        let binding = session.channel_binding();
        let offered = &self.capabilities.auth;
        let Some(mechanism) = Mechanism::best_of(offered, binding.is_some()) else {
            let shown = offered.iter().filter(|name| !credentials.are_in(name));
            return Err(LoginError::NoMechanism(shown.cloned().collect()));
        };
        let password = credentials.password.reveal();
        Exchange::new(mechanism, &credentials.username, password, binding.as_ref())
            .map(|exchange| (mechanism, exchange))
            .map_err(|error| LoginError::Sasl(error, mechanism))
    }

    /// The TLS session, once there is one.
    pub fn tls_session(&self) -> Option<TlsSession<'_>> {
        self.connection.tls_session()
    }

    /// Our own address of the connection.
    pub fn local_address(&self) -> Option<IpAddr> {
        self.connection.local_address()
    }

    /// The server, for the log.
    pub fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    /// What the server can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the session can go on.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Whether the session can go on, and all that was said on either side has been heard: what is left
    /// would be taken for an answer to the next transaction.
    pub fn is_in_step(&mut self) -> bool {
        self.usable && self.connection.output().is_empty() && !self.connection.has_read_more()
    }

    /// Nobody waits for the server for some time. A timer that was set would wake whoever waited last.
    pub fn rest(&mut self) {
        self.timer = Timer::default();
    }

    /// Begins a transaction.
    pub async fn mail(&mut self, sender: Sender<'_>) -> Result<(), MailError> {
        self.recipients.clear();
        let mut line = format!("MAIL FROM:<{}>", sender.from.as_str());
        let parameters = sender.parameters;
        // RFC 6152 §3: whoever sends the message sees to it that it has seven bits where the server wants them.
        if parameters.body == Body::EightBitMime && self.capabilities.eight_bit_mime {
            line.push_str(" BODY=8BITMIME");
        }
        if parameters.smtputf8 {
            if !self.capabilities.smtputf8 {
                let text = "the next hop does not take internationalized messages";
                return Err(MailError::Refused(Reply::new(550, (5, 6, 7), text)));
            }
            line.push_str(" SMTPUTF8");
        }
        if parameters.require_tls {
            // RFC 8689 §4.2.1.
            if !self.capabilities.require_tls || self.tls_session().is_none() {
                let text = "the message requires TLS all the way (REQUIRETLS), and the next server does not support that";
                return Err(MailError::Refused(Reply::new(550, (5, 7, 30), text)));
            }
            line.push_str(" REQUIRETLS");
        }
        if self.capabilities.dsn {
            if let Some(ret) = parameters.ret {
                line.push_str(&format!(" RET={ret}"));
            }
            if let Some(id) = &parameters.envelope_id {
                line.push_str(&format!(" ENVID={id}"));
            }
        }
        if let Some(size) = parameters.size
            && self.capabilities.size != SizeLimit::NotOffered
        {
            line.push_str(&format!(" SIZE={size}"));
        }
        if self.capabilities.pipelining {
            line.push_str("\r\n");
            line.push_str(&self.rcpt_line(sender.first));
            self.pipelined = Some(sender.first.to.as_str().into());
        }
        let reply = self.command("MAIL", &line).await.map_err(MailError::Lost)?;
        if reply.is_positive() {
            return Ok(());
        }
        // Without a sender there is no recipient, whatever is said of it.
        self.drain_pipelined().await;
        if self.usable {
            Err(MailError::Refused(map_reply(&reply)))
        } else {
            Err(MailError::Lost(self.broken("MAIL", Cause::Refused(reply))))
        }
    }

    /// Adds a recipient.
    pub async fn rcpt(&mut self, recipient: Recipient<'_>) -> Reply {
        let to = recipient.to;
        let reply = match self.pipelined.take() {
            Some(named) if named == to.as_str() => {
                self.expect_reply("RCPT", self.client_config.timeouts.reply)
                    .await
            }
            Some(_) => {
                // It may have been taken, and would get the message.
                let cause = io::Error::other("another recipient was named ahead");
                Err(self.broken("RCPT", cause))
            }
            None => self.command("RCPT", &self.rcpt_line(recipient)).await,
        };
        match reply {
            Ok(reply) => {
                if reply.is_positive() {
                    self.recipients.push(to.as_str().into());
                }
                map_reply(&reply)
            }
            Err(failure) => failure.reply(),
        }
    }

    /// Begins the message, with less `patience` than elsewhere if others wait.
    pub async fn data(&mut self, patience: Option<Duration>) -> Result<(), MailError> {
        if self.client_config.chunks && self.capabilities.chunking {
            // RFC 3030 §2: the server is not asked first, which saves a round trip.
            self.ensure_in_sync(BDAT).await.map_err(MailError::Lost)?;
            self.content = Some(Content::Chunks(Chunks::default()));
            return Ok(());
        }
        let limit = self.client_config.timeouts.reply;
        let limit = patience.map_or(limit, |patience| patience.min(limit));
        let reply = self.command_within("DATA", "DATA", limit).await;
        let reply = reply.map_err(MailError::Lost)?;
        if reply.is_transient() || reply.is_permanent() {
            return Err(MailError::Refused(map_reply(&reply)));
        }
        if reply.code() != 354 {
            // It has not seen the message, so nothing that it says can confirm it.
            return Err(MailError::Refused(
                self.broken("DATA", Cause::Refused(reply)).reply(),
            ));
        }
        self.content = Some(Content::Data(DataEncoder::new()));
        Ok(())
    }

    /// A part of the message.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        match &mut self.content {
            None => Err(Reply::new(451, (4, 3, 0), "the message was given up")),
            Some(Content::Data(encoder)) => {
                encoder.encode(content, self.connection.output());
                if self.connection.output().len() < WRITE_SIZE {
                    return Ok(());
                }
                self.flush("DATA").await.map_err(|failure| failure.reply())
            }
            Some(Content::Chunks(chunks)) => {
                chunks.waiting.extend_from_slice(content);
                if chunks.waiting.len() < WRITE_SIZE {
                    return Ok(());
                }
                self.send_chunk().await.map_err(|failure| failure.answer())
            }
        }
    }

    async fn flush(&mut self, step: &'static str) -> Result<(), ClientError> {
        let limit = self.client_config.timeouts.data_block;
        match self.timer.within(limit, self.connection.flush()).await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(self.broken(step, error)),
            None => Err(self.broken(step, Cause::TimedOut)),
        }
    }

    /// Sends what waits as a chunk that others follow. Replies to earlier ones are read first, as far as no more may be
    /// open: without PIPELINING one has to wait for each.
    async fn send_chunk(&mut self) -> Result<(), ClientError> {
        let most = match self.capabilities.pipelining {
            true => MAX_OPEN_CHUNKS,
            false => 0,
        };
        self.await_chunks(most).await?;
        let Some(Content::Chunks(chunks)) = &mut self.content else {
            return Ok(());
        };
        let output = self.connection.output();
        chunks.ends_line = chunks.ends_line();
        output.extend_from_slice(format!("BDAT {}\r\n", chunks.waiting.len()).as_bytes());
        output.append(&mut chunks.waiting);
        chunks.open += 1;
        chunks.is_begun = true;
        self.flush(BDAT).await
    }

    /// Reads replies to chunks until no more than so many are open.
    async fn await_chunks(&mut self, most: u32) -> Result<(), ClientError> {
        loop {
            match &mut self.content {
                Some(Content::Chunks(chunks)) if chunks.open > most => chunks.open -= 1,
                _ => return Ok(()),
            }
            self.expect(BDAT, self.client_config.timeouts.reply).await?;
        }
    }

    /// Ends the message, and waits for the server to have it. LMTP's replies are noted one by one, by the recipients'
    /// numbers.
    pub async fn finish(&mut self, note: &mut (dyn FnMut(usize, &Reply) + Send)) -> Finished {
        if let Err(failure) = self.await_chunks(0).await {
            return Finished::All(failure.answer());
        }
        let Some(content) = self.content.take() else {
            return Finished::All(Reply::new(451, (4, 3, 0), "the message was given up"));
        };
        if let Err(failure) = self.ensure_in_sync(END_OF_DATA).await {
            // It will not have the message. Nor can it, without the end.
            return Finished::All(failure.answer());
        }
        match content {
            Content::Data(encoder) => encoder.finish(self.connection.output()),
            Content::Chunks(chunks) => chunks.finish(self.connection.output()),
        }
        if !self.client_config.lmtp {
            let reply = self
                .expect_reply(END_OF_DATA, self.client_config.timeouts.final_reply)
                .await;
            let reply = reply.map_or_else(|failure| failure.reply(), |reply| map_reply(&reply));
            return Finished::All(reply);
        }
        let mut replies = Vec::new();
        let mut is_closing = false;
        for number in 0..std::mem::take(&mut self.recipients).len() {
            // Who says 421 for one recipient may have answered for the others all the same.
            self.usable |= is_closing;
            let reply = self
                .expect_reply(END_OF_DATA, self.client_config.timeouts.final_reply)
                .await;
            is_closing = reply
                .as_ref()
                .is_ok_and(|reply| is_closing || reply.code() == 421);
            let reply = reply.map_or_else(|failure| failure.reply(), |reply| map_reply(&reply));
            note(number, &reply);
            replies.push(reply);
        }
        self.usable &= !is_closing;
        Finished::Each(replies)
    }

    /// Gives the transaction up. In the middle of a message only the end of the connection does that:
    /// a server must not keep what has no end (RFC 5321 §4.1.1.4).
    pub async fn reset(&mut self) {
        self.recipients.clear();
        self.drain_pipelined().await;
        self.break_off();
        if self.usable {
            // An error has made it unusable, which is all there is to know.
            let _ = self.command("RSET", "RSET").await;
        }
    }

    /// Ends the session politely, if it has not ended yet. In the middle of a message anything that is said would
    /// be part of it.
    pub async fn quit(&mut self) {
        self.break_off();
        if self.usable {
            self.usable = false;
            self.connection.output().extend_from_slice(b"QUIT\r\n");
            // A server that does not take it is not waited for.
            let _ = timeout(PARTING, self.connection.close()).await;
        }
    }

    /// Ends a message that is under way. What the server has of it has no end.
    fn break_off(&mut self) {
        self.usable &= match self.content.take() {
            None => true,
            Some(Content::Data(_)) => false,
            Some(Content::Chunks(chunks)) => !chunks.is_begun,
        };
    }

    /// Reads the reply to a recipient that was named ahead, to no effect.
    async fn drain_pipelined(&mut self) {
        if self.pipelined.take().is_some() && self.usable {
            // A failure has made the session unusable, which is all there is to know.
            let _ = self
                .expect_reply("RCPT", self.client_config.timeouts.reply)
                .await;
        }
    }

    /// A recipient with those parameters that the server knows.
    fn rcpt_line(&self, recipient: Recipient<'_>) -> String {
        let mut line = format!("RCPT TO:<{}>", recipient.to);
        if self.capabilities.dsn {
            if let Some(notify) = recipient.parameters.notify {
                line.push_str(&format!(" NOTIFY={notify}"));
            }
            if let Some(original) = &recipient.parameters.original_recipient {
                line.push_str(&format!(" ORCPT={original}"));
            }
        }
        line
    }

    /// Says a command line, and gives the reply.
    pub async fn command(&mut self, step: &'static str, line: &str) -> Result<Reply, ClientError> {
        self.command_within(step, line, self.client_config.timeouts.reply)
            .await
    }

    async fn command_within(
        &mut self,
        step: &'static str,
        line: &str,
        limit: Duration,
    ) -> Result<Reply, ClientError> {
        self.ensure_in_sync(step).await?;
        let output = self.connection.output();
        output.extend_from_slice(line.as_bytes());
        output.extend_from_slice(b"\r\n");
        self.expect_reply(step, limit).await
    }

    /// A server has to wait for what it answers. One that does not, or somebody in its place, would have
    /// its words taken for the answer to something else from then on. The kernel is asked where that would be taken for
    /// more than it is: before TLS, and before a message ends. Elsewhere what comes ahead puts all that follows out of
    /// step, and no 354 is the answer to DATA.
    async fn ensure_in_sync(&mut self, step: &'static str) -> Result<(), ClientError> {
        if !self.usable {
            return Err(self.broken(step, Cause::Closed));
        }
        let has_more = match step {
            START_TLS | END_OF_DATA => self.connection.has_more().await,
            _ => self.connection.has_read_more(),
        };
        if !has_more {
            return Ok(());
        }
        let cause = match Reply::parse(&self.connection.input) {
            // Most likely it gives up: it has waited too long, or is going down (RFC 5321 §3.8).
            Ok(Some((reply, _))) if reply.is_transient() || reply.is_permanent() => {
                Cause::Refused(self.concealing(step, reply))
            }
            _ if self.connection.input.is_empty() => Cause::Closed,
            _ => Cause::Unasked,
        };
        Err(self.broken(step, cause))
    }

    /// A reply that must be positive.
    async fn expect(&mut self, step: &'static str, limit: Duration) -> Result<Reply, ClientError> {
        let reply = self.expect_reply(step, limit).await?;
        if reply.is_positive() {
            return Ok(reply);
        }
        Err(self.broken(step, Cause::Refused(reply)))
    }

    async fn expect_reply(
        &mut self,
        step: &'static str,
        limit: Duration,
    ) -> Result<Reply, ClientError> {
        if !self.usable {
            return Err(self.broken(step, Cause::Closed));
        }
        let cause = match self.timer.within(limit, self.connection.reply()).await {
            Some(Ok(Some(reply))) => {
                // 421: the server closes (RFC 5321 §3.8).
                self.usable &= reply.code() != 421;
                return Ok(self.concealing(step, reply));
            }
            Some(Ok(None)) => Cause::Closed,
            Some(Err(error)) => error.into(),
            None => Cause::TimedOut,
        };
        Err(self.broken(step, cause))
    }

    /// A reply that may be shown: one that repeats the password loses its text. What is read by us alone stays as it is:
    /// what the server can do, and its challenges.
    fn concealing(&self, step: &'static str, reply: Reply) -> Reply {
        let is_ours = match step {
            EHLO => reply.is_positive(),
            AUTH => reply.code() == 334,
            _ => false,
        };
        let repeats = |credentials: &Credentials| credentials.are_in(reply.text());
        match !is_ours && self.credentials.as_ref().is_some_and(repeats) {
            true => reply.with_text(CONCEALED),
            false => reply,
        }
    }

    fn broken(&mut self, step: &'static str, cause: impl Into<Cause>) -> ClientError {
        self.usable = false;
        self.content = None;
        self.client_config.failure(&self.peer, step, cause)
    }
}

/// Answers a challenge on a thread of its own: a server may have the password hashed for a second.
async fn apart(
    mut exchange: Exchange,
    challenge: Vec<u8>,
) -> Result<(Exchange, Vec<u8>), SaslError> {
    let answering = tokio::task::spawn_blocking(move || {
        let answer = exchange.respond(&challenge)?;
        Ok((exchange, answer))
    });
    answering.await.unwrap_or(Err(SaslError::Challenge))
}

/// The server's reply as our own. 421 would end our session too, and 3yz belongs to no one.
fn map_reply(reply: &Reply) -> Reply {
    let code = match reply.code() {
        421 | 300..=399 => 451,
        code => code,
    };
    let class = (code / 100) as u8;
    match reply.enhanced() {
        Some(enhanced) => Reply::new(code, enhanced, reply.text().to_owned()),
        None => Reply::new(code, (class, 0, 0), reply.text().to_owned()),
    }
}
