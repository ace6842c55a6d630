//! An SMTP client that does just what it is told, right or wrong.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};

use crate::daemon::TIMEOUT;
use crate::pki::Identity;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The code.
    pub code: u16,
    /// The lines without the code.
    pub lines: Vec<String>,
}

impl Reply {
    /// The lines as one text.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// Whether it refuses an address that another server could read as a route.
    pub fn is_refused_as_a_route(&self) -> bool {
        let text = self.text();
        self.code == 550
            && text.starts_with("5.1.3 ")
            && text.ends_with(".1]")
            && text.contains(" [")
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Closed,
}

/// A session with a server.
pub struct Client {
    stream: Stream,
    input: Vec<u8>,
}

/// How to do a handshake.
#[derive(Default)]
pub struct Handshake<'a> {
    /// The certificate to show.
    pub identity: Option<&'a Identity>,
    /// The only version to offer; all if absent.
    pub version: Option<&'static SupportedProtocolVersion>,
}

impl Client {
    /// Connects; the greeting is not read yet.
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).expect("the server accepts connections")
    }

    fn try_connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Client {
            stream: Stream::Plain(stream),
            input: Vec::new(),
        })
    }

    /// Connects through the PROXY protocol, version 1, as a client with that address; reads the
    /// greeting.
    pub fn connect_as(address: SocketAddr, client: IpAddr) -> Client {
        Client::try_connect_as(address, client).expect("the client is let in")
    }

    /// The same; the server may be full.
    pub fn try_connect_as(address: SocketAddr, client: IpAddr) -> io::Result<Client> {
        let mut connection = Client::try_connect(address)?;
        let (family, local) = match client {
            IpAddr::V4(_) => ("TCP4", "127.0.0.1"),
            IpAddr::V6(_) => ("TCP6", "::1"),
        };
        let header = format!("PROXY {family} {client} {local} 40000 25\r\n");
        connection.try_send(header.as_bytes())?;
        connection.greeting()
    }

    /// Connects and reads the greeting.
    pub fn greeted(address: SocketAddr) -> Client {
        let mut client = Client::connect(address);
        assert_eq!(client.reply().code, 220);
        client
    }

    /// The code of the reply to a recipient, in a session of its own.
    pub fn recipient(address: SocketAddr, from: &str, to: &str) -> u16 {
        let mut client = Client::greeted(address);
        client.hello(false, None);
        let code = client.envelope(from, to).code;
        client.quit();
        code
    }

    /// Connects and reads the greeting; the server may be gone, or full.
    pub fn try_greeted(address: SocketAddr) -> io::Result<Client> {
        Client::try_connect(address)?.greeting()
    }

    fn greeting(mut self) -> io::Result<Client> {
        match self.try_reply()?.code {
            220 => Ok(self),
            code => Err(io::Error::other(format!("greeted with {code}"))),
        }
    }

    /// Writes octets as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server reads");
    }

    /// Writes octets as they are; the server may be gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
            Stream::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sends a line, and reads the reply.
    pub fn command(&mut self, line: &str) -> Reply {
        self.try_command(line).expect("the server answers")
    }

    /// Sends a line, and reads the reply; the server may be gone.
    pub fn try_command(&mut self, line: &str) -> io::Result<Reply> {
        self.try_send(format!("{line}\r\n").as_bytes())?;
        self.try_reply()
    }

    /// Sends a line whose reply must have this code.
    pub fn expect(&mut self, line: &str, code: u16) -> Reply {
        let reply = self.command(line);
        assert_eq!(reply.code, code, "{line}: {reply:?}");
        reply
    }

    /// Reads a reply.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().expect("the server answers")
    }

    /// Reads a reply; the server may be gone.
    pub fn try_reply(&mut self) -> io::Result<Reply> {
        let mut reply = Reply {
            code: 0,
            lines: Vec::new(),
        };
        loop {
            let line = self.line()?;
            let malformed = || io::Error::other(format!("not a reply: {line:?}"));
            reply.code = line
                .get(..3)
                .and_then(|code| code.parse().ok())
                .ok_or_else(malformed)?;
            reply
                .lines
                .push(line.get(4..).unwrap_or_default().to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(reply);
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                let rest = self.input.split_off(at + 2);
                let line = std::mem::replace(&mut self.input, rest);
                return String::from_utf8(line[..at].to_vec()).map_err(io::Error::other);
            }
            let mut buffer = [0; 4096];
            let read = match &mut self.stream {
                Stream::Plain(stream) => stream.read(&mut buffer),
                Stream::Tls(stream) => stream.read(&mut buffer),
                Stream::Closed => Ok(0),
            };
            let read = match read {
                // With a time limit it ends so where the whole machine was stopped for a moment (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&buffer[..read]);
        }
    }

    /// Whether the server has closed the connection, once all replies are read.
    pub fn is_closed(&mut self) -> bool {
        self.line().is_err()
    }

    /// Says that no more is to come; replies can still be read.
    pub fn end(&mut self) {
        if let Stream::Plain(stream) = &self.stream {
            // The server may be gone already.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// STARTTLS and the handshake.
    pub fn starttls(&mut self, identity: Option<&Identity>) {
        self.expect("STARTTLS", 220);
        self.handshake(&Handshake {
            identity,
            version: None,
        })
        .expect("the handshake is done");
    }

    /// The handshake alone.
    pub fn handshake(&mut self, how: &Handshake) -> io::Result<()> {
        let Stream::Plain(mut stream) = std::mem::replace(&mut self.stream, Stream::Closed) else {
            return Err(io::Error::other("TLS has begun already"));
        };
        let name = ServerName::try_from("localhost").expect("a name");
        let mut session = ClientConnection::new(config(how), name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        self.stream = Stream::Tls(Box::new(StreamOwned::new(session, stream)));
        Ok(())
    }

    /// The certificate that the server showed (DER).
    pub fn server_certificate(&self) -> Vec<u8> {
        let Stream::Tls(stream) = &self.stream else {
            panic!("the session is not encrypted");
        };
        let chain = stream
            .conn
            .peer_certificates()
            .expect("a server shows a certificate");
        chain[0].to_vec()
    }

    /// EHLO, and STARTTLS with EHLO again if `tls` is set.
    pub fn hello(&mut self, tls: bool, identity: Option<&Identity>) {
        self.expect("EHLO client.example", 250);
        if tls {
            self.starttls(identity);
            self.expect("EHLO client.example", 250);
        }
    }

    /// MAIL and RCPT; the reply is that of RCPT.
    pub fn envelope(&mut self, from: &str, to: &str) -> Reply {
        self.expect(&format!("MAIL FROM:<{from}>"), 250);
        self.command(&format!("RCPT TO:<{to}>"))
    }

    /// DATA with this content, which is dot-stuffed; the reply is that of the end of the message.
    pub fn data(&mut self, content: &str) -> Reply {
        self.expect("DATA", 354);
        let stuffed = content.replace("\r\n.", "\r\n..");
        self.send(format!("{stuffed}\r\n.\r\n").as_bytes());
        self.reply()
    }

    /// QUIT.
    pub fn quit(mut self) {
        self.expect("QUIT", 221);
    }
}

fn config(how: &Handshake) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = match how.version {
        Some(version) => vec![version],
        None => vec![&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .expect("the versions are known")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let config = match how.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = identity
                .chain
                .iter()
                .map(|der| CertificateDer::from(der.clone()))
                .collect();
            let key = PrivateKeyDer::try_from(identity.key_der.clone()).expect("a key");
            builder
                .with_client_auth_cert(chain, key)
                .expect("the key fits")
        }
    };
    Arc::new(config)
}

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
