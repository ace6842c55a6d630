//! A partner's mail server, honest or not: it does what its behaviour says, and keeps what it is told.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::daemon::TIMEOUT;
use crate::pki::Identity;

/// Where in a session something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Before anything is said.
    Greeting,
    /// At EHLO in plaintext.
    Ehlo,
    /// At STARTTLS.
    StartTls,
    /// At EHLO under TLS.
    EhloTls,
    /// At AUTH, which takes any initial response.
    Auth,
    /// At MAIL.
    Mail,
    /// At RCPT.
    Rcpt,
    /// At DATA.
    Data,
    /// At BDAT, but for the last.
    Chunk,
    /// At the end of the message.
    End,
}

/// What happens instead of the usual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// These octets are sent; the session goes on.
    Say(&'static str),
    /// The connection is cut.
    Cut,
    /// Nothing is sent until the client goes.
    Silence,
    /// The message is taken, and the connection cut before the reply.
    TakeAndCut,
}

/// How a server behaves. The default is honest, without TLS.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// The certificate chain; STARTTLS is offered with it.
    pub identity: Option<Identity>,
    /// Whether EHLO keeps quiet about STARTTLS.
    pub hides_starttls: bool,
    /// Answers a ClientHello as a server does that knows TLS 1.1 at most.
    pub old_tls: bool,
    /// Reads the ClientHello and says nothing.
    pub stalls_handshake: bool,
    /// Offers TLS 1.2 only.
    pub tls12: bool,
    /// Asks for a client certificate of this authority (PEM), and demands it.
    pub demands_client: Option<String>,
    /// What is unusual.
    pub unusual: Vec<(Step, Action)>,
    /// The name in the greeting.
    pub name: Option<&'static str>,
    /// Offers AUTH PLAIN under TLS.
    pub offers_login: bool,
    /// Further extensions that it offers, of CHUNKING and PIPELINING.
    pub offers: &'static [&'static str],
    /// Speaks LMTP, and answers at the end for each recipient.
    pub lmtp: bool,
    /// What recipients whose address contains this are told: at RCPT, or at the end in LMTP.
    pub told: Vec<(&'static str, Step, &'static str)>,
}

impl Behaviour {
    /// Honest, with STARTTLS.
    pub fn with(identity: &Identity) -> Self {
        Behaviour {
            identity: Some(identity.clone()),
            ..Behaviour::default()
        }
    }

    /// With something unusual.
    pub fn but(mut self, step: Step, action: Action) -> Self {
        self.unusual.push((step, action));
        self
    }

    /// With something that recipients are told whose address contains this.
    pub fn tells(mut self, recipient: &'static str, step: Step, text: &'static str) -> Self {
        self.told.push((recipient, step, text));
        self
    }

    fn tells_recipient(&self, recipient: &str, step: Step) -> Option<&'static str> {
        let mut told = self.told.iter();
        let told = told.find(|(part, at, _)| *at == step && recipient.contains(part))?;
        Some(told.2)
    }
}

/// A message as it was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether it came under TLS.
    pub tls: bool,
    /// Its recipients.
    pub recipients: Vec<String>,
    /// Its content.
    pub content: String,
}

#[derive(Default)]
struct Ledger {
    commands: Mutex<Vec<String>>,
    said: Condvar,
    taken: Mutex<Vec<Taken>>,
    more: Condvar,
    connections: AtomicUsize,
    peers: Mutex<Vec<IpAddr>>,
    open: Mutex<Vec<TcpStream>>,
    resumed: AtomicUsize,
    stop: AtomicBool,
}

/// A running server.
pub struct MockServer {
    /// Where it listens.
    pub address: SocketAddr,
    ledger: Arc<Ledger>,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl MockServer {
    /// Starts one on a port of its own.
    pub fn start(behaviour: Behaviour) -> MockServer {
        MockServer::start_at("127.0.0.1:0".parse().expect("an address"), behaviour)
    }

    /// Starts one at an address.
    pub fn start_at(address: SocketAddr, behaviour: Behaviour) -> MockServer {
        let listener = TcpListener::bind(address).expect("the address is free");
        let address = listener.local_addr().expect("an address");
        let ledger = Arc::new(Ledger::default());
        let behaviour = Arc::new(Mutex::new(behaviour));
        let (of_server, how) = (ledger.clone(), behaviour.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if of_server.stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                stream.set_nodelay(true).expect("TCP_NODELAY can be set");
                of_server.connections.fetch_add(1, Ordering::SeqCst);
                let peer = stream.peer_addr().expect("a peer").ip();
                of_server.peers.lock().unwrap().push(peer);
                let other = stream.try_clone().expect("a second handle");
                of_server.open.lock().unwrap().push(other);
                let ledger = of_server.clone();
                let behaviour = how.lock().unwrap().clone();
                std::thread::spawn(move || {
                    // A client that goes away is no concern of ours.
                    let _ = Session::new(stream, behaviour, ledger).run();
                });
            }
        });
        MockServer {
            address,
            ledger,
            behaviour,
        }
    }

    /// Behaves otherwise from the next connection on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// Cuts all connections that stand.
    pub fn hang_up(&self) {
        for stream in self.ledger.open.lock().unwrap().drain(..) {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Says no more on any connection that stands, and listens on.
    pub fn fall_silent(&self) {
        for stream in self.ledger.open.lock().unwrap().iter() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// What it has taken so far.
    pub fn taken(&self) -> Vec<Taken> {
        self.ledger.taken.lock().unwrap().clone()
    }

    /// What it has taken, of which it then knows no more, nor of anything else that has been so far.
    pub fn forget(&self) -> Vec<Taken> {
        self.ledger.commands.lock().unwrap().clear();
        self.ledger.peers.lock().unwrap().clear();
        std::mem::take(&mut self.ledger.taken.lock().unwrap())
    }

    /// Waits until it has taken that many messages.
    pub fn wait_for(&self, messages: usize) -> Vec<Taken> {
        let deadline = Instant::now() + TIMEOUT;
        let mut taken = self.ledger.taken.lock().unwrap();
        while taken.len() < messages {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "only {} messages came", taken.len());
            taken = self.ledger.more.wait_timeout(taken, left).unwrap().0;
        }
        taken.clone()
    }

    /// The commands that it was given, those under TLS with `TLS ` in front.
    pub fn commands(&self) -> Vec<String> {
        self.ledger.commands.lock().unwrap().clone()
    }

    /// Waits until it has been given that command line.
    pub fn wait_for_command(&self, wanted: &str) {
        let deadline = Instant::now() + TIMEOUT;
        let mut commands = self.ledger.commands.lock().unwrap();
        while !commands.iter().any(|line| line == wanted) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {wanted} among {commands:?}");
            commands = self.ledger.said.wait_timeout(commands, left).unwrap().0;
        }
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.ledger.connections.load(Ordering::SeqCst)
    }

    /// The addresses that connections came from.
    pub fn peers(&self) -> Vec<IpAddr> {
        self.ledger.peers.lock().unwrap().clone()
    }

    /// How many handshakes resumed an earlier session.
    pub fn resumed(&self) -> usize {
        self.ledger.resumed.load(Ordering::SeqCst)
    }
}

impl Drop for MockServer {
    fn drop(&mut self) {
        self.ledger.stop.store(true, Ordering::SeqCst);
        // It wakes up for one more connection.
        let _ = TcpStream::connect(self.address);
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

struct Session {
    stream: Option<Stream>,
    behaviour: Behaviour,
    ledger: Arc<Ledger>,
    input: Vec<u8>,
    recipients: Vec<String>,
    /// What has come of a message in chunks.
    chunks: Vec<u8>,
}

/// The session is over.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Over
    }
}

impl Session {
    fn new(stream: TcpStream, behaviour: Behaviour, ledger: Arc<Ledger>) -> Self {
        Session {
            stream: Some(Stream::Plain(stream)),
            behaviour,
            ledger,
            input: Vec::new(),
            recipients: Vec::new(),
            chunks: Vec::new(),
        }
    }

    fn run(mut self) -> Result<(), Over> {
        let name = self.behaviour.name.unwrap_or("mx.partner.test");
        self.act(Step::Greeting, &format!("220 {name} ESMTP\r\n"))?;
        loop {
            let line = self.line()?;
            let tls = self.is_tls();
            let mark = if tls { "TLS " } else { "" };
            self.ledger
                .commands
                .lock()
                .unwrap()
                .push(format!("{mark}{line}"));
            self.ledger.said.notify_all();
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" | "LHLO" | "HELO" => {
                    let offered =
                        self.behaviour.identity.is_some() && !self.behaviour.hides_starttls && !tls;
                    let starttls = if offered { "250-STARTTLS\r\n" } else { "" };
                    let login = match tls && self.behaviour.offers_login {
                        true => "250-AUTH PLAIN\r\n",
                        false => "",
                    };
                    let offers = self.behaviour.offers.iter();
                    let offers: String = offers.map(|it| format!("250-{it}\r\n")).collect();
                    let step = if tls { Step::EhloTls } else { Step::Ehlo };
                    self.act(
                        step,
                        &format!(
                            "250-{name}\r\n{starttls}{login}{offers}250-8BITMIME\r\n250 SIZE 1000000\r\n"
                        ),
                    )?;
                }
                "STARTTLS" => {
                    self.act(Step::StartTls, "220 go ahead\r\n")?;
                    let usual = !self
                        .behaviour
                        .unusual
                        .iter()
                        .any(|(step, _)| *step == Step::StartTls);
                    if usual {
                        self.handshake()?;
                    }
                }
                "AUTH" => {
                    self.act(Step::Auth, "235 2.7.0 welcome\r\n")?;
                }
                "MAIL" => {
                    self.chunks.clear();
                    self.recipients.clear();
                    self.act(Step::Mail, "250 2.1.0 sender ok\r\n")?;
                }
                "RCPT" => {
                    let recipient = line[8..].to_owned();
                    if let Some(text) = self.behaviour.tells_recipient(&recipient, Step::Rcpt) {
                        self.send(text.as_bytes())?;
                        continue;
                    }
                    self.recipients.push(recipient);
                    if self.refuses(Step::Rcpt) {
                        self.recipients.pop();
                    }
                    self.act(Step::Rcpt, "250 2.1.5 recipient ok\r\n")?;
                }
                "DATA" => {
                    if self.act(Step::Data, "354 go on\r\n")? {
                        self.message()?;
                    }
                }
                "BDAT" => self.chunk(&line)?,
                "RSET" => self.send(b"250 2.0.0 reset\r\n")?,
                "QUIT" => {
                    self.send(b"221 2.0.0 bye\r\n")?;
                    return Err(Over);
                }
                _ => self.send(b"500 5.5.1 what?\r\n")?,
            }
        }
    }

    /// Does what is usual, and says whether it did.
    fn act(&mut self, step: Step, usual: &str) -> Result<bool, Over> {
        let unusual = self.behaviour.unusual.iter().find(|(at, _)| *at == step);
        match unusual.map(|(_, action)| action.clone()) {
            None => {
                self.send(usual.as_bytes())?;
                Ok(true)
            }
            Some(Action::Say(text)) => {
                self.send(text.as_bytes())?;
                Ok(false)
            }
            Some(Action::Cut | Action::TakeAndCut) => {
                self.cut();
                Err(Over)
            }
            Some(Action::Silence) => {
                while self.fill()? > 0 {}
                Err(Over)
            }
        }
    }

    /// Whether it says no there.
    fn refuses(&self, step: Step) -> bool {
        let mut unusual = self.behaviour.unusual.iter();
        unusual.any(|(at, action)| match action {
            Action::Say(text) => *at == step && text.starts_with(['4', '5']),
            _ => false,
        })
    }

    fn message(&mut self) -> Result<(), Over> {
        let end = b"\r\n.\r\n";
        let at = loop {
            if let Some(at) = self.input.windows(end.len()).position(|found| found == end) {
                break at;
            }
            if self.fill()? == 0 {
                return Err(Over);
            }
        };
        let rest = self.input.split_off(at + end.len());
        let content = std::mem::replace(&mut self.input, rest);
        self.take(&content[..at])
    }

    /// A part of a message (RFC 3030).
    fn chunk(&mut self, line: &str) -> Result<(), Over> {
        let mut words = line.split(' ').skip(1);
        let size: usize = words.next().and_then(|it| it.parse().ok()).expect("a size");
        while self.input.len() < size {
            if self.fill()? == 0 {
                return Err(Over);
            }
        }
        self.chunks.extend(self.input.drain(..size));
        if words.next() != Some("LAST") {
            self.act(Step::Chunk, "250 2.0.0 a part\r\n")?;
            return Ok(());
        }
        let content = std::mem::take(&mut self.chunks);
        self.take(&content)
    }

    /// A whole message.
    fn take(&mut self, content: &[u8]) -> Result<(), Over> {
        let refused = self
            .behaviour
            .unusual
            .iter()
            .find(|(step, _)| *step == Step::End)
            .is_some_and(|(_, action)| *action != Action::TakeAndCut);
        let usual = "250 2.0.0 taken as 4711\r\n";
        let mut recipients = std::mem::take(&mut self.recipients);
        let answers: String = if self.behaviour.lmtp {
            let told = |recipient: &String| self.behaviour.tells_recipient(recipient, Step::End);
            let answers = recipients.iter().map(|each| told(each).unwrap_or(usual));
            let answers = answers.collect();
            recipients.retain(|each| told(each).is_none());
            answers
        } else {
            usual.to_owned()
        };
        let nobody = self.behaviour.lmtp && recipients.is_empty();
        if !refused && !nobody {
            self.ledger.taken.lock().unwrap().push(Taken {
                tls: self.is_tls(),
                recipients,
                content: String::from_utf8_lossy(content).into_owned(),
            });
            self.ledger.more.notify_all();
        }
        self.act(Step::End, &answers)?;
        Ok(())
    }

    fn handshake(&mut self) -> Result<(), Over> {
        let Some(Stream::Plain(mut stream)) = self.stream.take() else {
            return Err(Over);
        };
        if self.behaviour.old_tls || self.behaviour.stalls_handshake {
            let mut hello = [0; 4096];
            if stream.read(&mut hello)? == 0 {
                return Err(Over);
            }
            if self.behaviour.stalls_handshake {
                while stream.read(&mut hello)? > 0 {}
            }
            // A fatal alert in a record of TLS 1.1: protocol_version (RFC 5246 §7.2).
            stream.write_all(&[21, 3, 2, 0, 2, 2, 70])?;
            return Err(Over);
        }
        let mut session = ServerConnection::new(config(&self.behaviour)).map_err(|_| Over)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            self.ledger.resumed.fetch_add(1, Ordering::SeqCst);
        }
        self.stream = Some(Stream::Tls(Box::new(StreamOwned::new(session, stream))));
        Ok(())
    }

    fn is_tls(&self) -> bool {
        matches!(self.stream, Some(Stream::Tls(_)))
    }

    fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(at) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let rest = self.input.split_off(at + 2);
                let line = std::mem::replace(&mut self.input, rest);
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.fill()? == 0 {
                return Err(Over);
            }
        }
    }

    fn fill(&mut self) -> Result<usize, Over> {
        let mut buffer = [0; 4096];
        let read = match &mut self.stream {
            Some(Stream::Plain(stream)) => stream.read(&mut buffer)?,
            Some(Stream::Tls(stream)) => stream.read(&mut buffer)?,
            None => 0,
        };
        self.input.extend_from_slice(&buffer[..read]);
        Ok(read)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Over> {
        match &mut self.stream {
            Some(Stream::Plain(stream)) => stream.write_all(bytes)?,
            Some(Stream::Tls(stream)) => {
                stream.write_all(bytes)?;
                stream.flush()?;
            }
            None => return Err(Over),
        }
        Ok(())
    }

    /// Closes without a word, not even of TLS.
    fn cut(&mut self) {
        let stream = match &self.stream {
            Some(Stream::Plain(stream)) => stream,
            Some(Stream::Tls(stream)) => &stream.sock,
            None => return,
        };
        // It may be closed already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

/// What a configuration was made of, and the configuration.
type Known = (Vec<Vec<u8>>, bool, bool, Arc<ServerConfig>);

fn config(behaviour: &Behaviour) -> Arc<ServerConfig> {
    // Sessions resume across connections only if these share a configuration.
    static CONFIGS: Mutex<Vec<Known>> = Mutex::new(Vec::new());
    let identity = behaviour.identity.as_ref().expect("a certificate");
    let mut configs = CONFIGS.lock().unwrap();
    let demands = behaviour.demands_client.is_some();
    let known = configs.iter().find(|(key, tls12, client, _)| {
        *key == identity.chain && *tls12 == behaviour.tls12 && *client == demands
    });
    if let Some((.., config)) = known {
        return config.clone();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = if behaviour.tls12 {
        vec![&rustls::version::TLS12]
    } else {
        vec![&rustls::version::TLS13, &rustls::version::TLS12]
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .expect("the versions are known");
    let builder = match &behaviour.demands_client {
        None => builder.with_no_client_auth(),
        Some(root) => {
            use rustls::pki_types::pem::PemObject;
            let mut roots = RootCertStore::empty();
            let root = CertificateDer::from_pem_slice(root.as_bytes()).expect("a certificate");
            roots.add(root).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .expect("a verifier");
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = identity
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    let key = PrivateKeyDer::try_from(identity.key_der.clone()).expect("a key");
    let config = Arc::new(builder.with_single_cert(chain, key).expect("the key fits"));
    configs.push((
        identity.chain.clone(),
        behaviour.tls12,
        demands,
        config.clone(),
    ));
    config
}
