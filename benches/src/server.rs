//! The servers of the benchmark: a sink, and a relay that does no more than it must.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result};
use clap::Args;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use crate::tls;
use crate::wire::{EndOfData, Wire};

/// A server that discards all mail.
#[derive(Args)]
pub struct Sink {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Refuse every recipient instead
    #[arg(long)]
    refuse: bool,
}

/// A relay without any policy: what every proxy has to do.
#[derive(Args)]
pub struct Proxy {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where all mail goes, each message over a connection of its own
    #[arg(long)]
    next: SocketAddr,
    /// Certificate chain; without it there is no STARTTLS
    #[arg(long, value_name = "PEM", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of the certificate
    #[arg(long, value_name = "PEM", requires = "cert")]
    key: Option<PathBuf>,
}

impl Sink {
    /// Runs it, for ever.
    pub async fn run(self) -> Result<()> {
        let server = Server {
            next_hop: None,
            tls: None,
            refuses: self.refuse,
        };
        serve(self.listen, server).await
    }
}

impl Proxy {
    /// Runs it, for ever.
    pub async fn run(self) -> Result<()> {
        let tls = match (&self.cert, &self.key) {
            (Some(certificate), Some(key)) => Some(tls::acceptor(certificate, key)?),
            _ => None,
        };
        let next_hop = Some(self.next);
        let server = Server {
            next_hop,
            tls,
            refuses: false,
        };
        serve(self.listen, server).await
    }
}

struct Server {
    next_hop: Option<SocketAddr>,
    tls: Option<TlsAcceptor>,
    refuses: bool,
}

async fn serve(address: SocketAddr, server: Server) -> Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address}"))?;
    let server = Rc::new(server);
    LocalSet::new()
        .run_until(async {
            loop {
                let (stream, _) = listener.accept().await?;
                tokio::task::spawn_local(serve_one(server.clone(), stream));
            }
        })
        .await
}

async fn serve_one(server: Rc<Server>, stream: TcpStream) {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    if let Err(error) = server.session(stream).await
        && !matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
    {
        eprintln!("session-bench: {error}");
    }
}

const GREETING: &[u8] = b"220 relay.example ESMTP\r\n";
const FEATURES: &[u8] =
    b"250-relay.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 52428800\r\n";
const FEATURES_AND_STARTTLS: &[u8] =
    b"250-relay.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-STARTTLS\r\n250 SIZE 52428800\r\n";
const OK: &[u8] = b"250 2.0.0 ok\r\n";
const REFUSED: &[u8] = b"550 5.7.1 not here\r\n";
const GO_ON: &[u8] = b"354 go on\r\n";
const OUT_OF_ORDER: &[u8] = b"503 5.5.1 MAIL comes first\r\n";

impl Server {
    async fn session(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut client = Wire::new(stream);
        client.put(GREETING);
        let mut tls = self.tls.as_ref();
        let mut next = None;
        loop {
            let line = client.line().await?;
            match &verb(line) {
                b"EHLO" | b"HELO" if tls.is_some() => client.put(FEATURES_AND_STARTTLS),
                b"EHLO" | b"HELO" => client.put(FEATURES),
                b"STAR" if let Some(acceptor) = tls.take() => {
                    client.send(b"220 2.0.0 go on\r\n").await?;
                    client = Wire::new(acceptor.accept(client.into_stream()).await?);
                    next = None;
                }
                b"MAIL" => {
                    if let Some(address) = self.next_hop {
                        next = Some(connect(address).await?);
                    }
                    let reply = ask(&mut next, line, OK).await?;
                    client.put(reply);
                }
                b"RCPT" | b"DATA" if self.next_hop.is_some() && next.is_none() => {
                    client.put(OUT_OF_ORDER);
                }
                b"RCPT" if self.refuses => client.put(REFUSED),
                b"RCPT" => {
                    let reply = ask(&mut next, line, OK).await?;
                    client.put(reply);
                }
                b"DATA" => {
                    let reply = ask(&mut next, line, GO_ON).await?;
                    client.put(reply);
                    if reply.starts_with(b"354") {
                        relay_message(&mut client, next.take()).await?;
                    }
                }
                b"RSET" => {
                    next = None;
                    client.put(OK);
                }
                b"NOOP" => client.put(OK),
                b"QUIT" => return client.send(b"221 2.0.0 bye\r\n").await,
                _ => client.put(b"500 5.5.1 what?\r\n"),
            }
        }
    }
}

fn verb(line: &[u8]) -> [u8; 4] {
    let mut verb = [b' '; 4];
    for (to, from) in verb.iter_mut().zip(line) {
        *to = from.to_ascii_uppercase();
    }
    verb
}

async fn connect(address: SocketAddr) -> io::Result<Wire> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut next = Wire::new(stream);
    next.reply().await?;
    next.put(b"EHLO relay.example\r\n");
    next.reply().await?;
    Ok(next)
}

/// The next hop's reply to a command, or our own where there is none.
async fn ask<'a>(
    next: &'a mut Option<Wire>,
    line: &[u8],
    own: &'static [u8],
) -> io::Result<&'a [u8]> {
    let Some(next) = next else { return Ok(own) };
    next.put(line);
    next.reply().await
}

/// The message goes on as it comes: its dots are stuffed alike on both sides.
async fn relay_message(client: &mut Wire, mut next: Option<Wire>) -> io::Result<()> {
    let mut data = EndOfData::new();
    loop {
        let octets = client.received();
        let end = data.find(octets);
        let length = end.unwrap_or(octets.len());
        if let Some(next) = &mut next {
            next.send(&octets[..length]).await?;
        }
        client.consume(length);
        if end.is_some() {
            break;
        }
        client.fill().await?;
    }
    let Some(mut next) = next else {
        client.put(OK);
        return Ok(());
    };
    client.put(next.reply().await?);
    client.flush().await?;
    next.send(b"QUIT\r\n").await
}
