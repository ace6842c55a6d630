//! A connection with its buffers, on either side of the proxy.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use memchr::memchr;
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::smtp::reply::Reply;
use crate::smtp::tls::{Acceptor, Connector, Tls, TlsSession};

/// Room for what is read of a message at a time.
const READ_SIZE: usize = 16 << 10;
/// Room for commands and replies: a session that waits for one holds no more than this, and the
/// allocator has it at hand.
const LINE_READ_SIZE: usize = 1000;
/// Replies that wait for the client to read; more would be a client that never does.
const MAX_OUTPUT: usize = 64 << 10;

/// How long, and for how many octets, a peer that is told its last words is listened to.
const LINGERING: Duration = Duration::from_secs(2);
const MAX_LINGERING: usize = 1 << 20;

/// A stream of octets.
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A socket of this machine.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Tls),
    /// Nothing: a handshake has failed on it.
    Closed,
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl Stream {
    /// Whether there is anything to be read from the kernel, or the end. What the runtime knows of that may be old.
    fn is_readable(&self) -> bool {
        let mut octet = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match self {
            Stream::Tcp(stream) => recv(stream, &mut octet, flags),
            Stream::Unix(stream) => recv(stream, &mut octet, flags),
            Stream::Tls(stream) => recv(stream.tcp(), &mut octet, flags),
            Stream::Closed => return true,
        };
        // Anything but "nothing yet" is something.
        !matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Waits until the runtime knows as well.
    async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.readable().await,
            Stream::Unix(stream) => stream.readable().await,
            Stream::Tls(stream) => stream.tcp().readable().await,
            Stream::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context,
        buffer: &mut ReadBuf,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}

/// A command line.
pub enum Line {
    /// The line without its CRLF.
    Whole(BytesMut),
    /// It had no end within the limit; it was skipped, but for its beginning.
    TooLong(BytesMut),
    /// It ended in a bare LF (RFC 5321 §2.3.8).
    BareLineFeed(BytesMut),
    /// The peer has closed.
    Closed,
}

/// A connection with its buffers. Whatever is written goes out before the next wait for input.
pub struct Connection {
    stream: Stream,
    /// What came and was not consumed.
    pub input: BytesMut,
    output: Vec<u8>,
}

impl Connection {
    /// A connection with empty buffers.
    pub fn new(stream: Stream) -> Self {
        Connection {
            stream,
            input: BytesMut::new(),
            output: Vec::new(),
        }
    }

    /// Takes the stream, and what came and was not consumed, for those who speak another protocol.
    pub fn take(&mut self) -> (Stream, BytesMut) {
        let stream = std::mem::replace(&mut self.stream, Stream::Closed);
        (stream, std::mem::take(&mut self.input))
    }

    /// Queues a reply. Replies to pipelined commands go out together (RFC 2920 §3.2).
    pub fn queue(&mut self, reply: &Reply) {
        reply.write(&mut self.output);
    }

    /// What is to be written next; see [`Connection::flush`].
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Writes what is queued. Given up in between, it goes on where it was: nothing is written twice.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let written = self.stream.write(&self.output).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.output.drain(..written);
        }
        self.output.shrink_to(READ_SIZE);
        self.stream.flush().await
    }

    /// Writes what is queued, and waits for more of a message. 0 is the end.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.fill_with(READ_SIZE).await
    }

    /// Writes what is queued, and waits for a line. 0 is the end.
    async fn fill_line(&mut self) -> io::Result<usize> {
        if self.input.is_empty() && self.input.capacity() > LINE_READ_SIZE {
            self.input = BytesMut::new();
        }
        self.fill_with(LINE_READ_SIZE).await
    }

    async fn fill_with(&mut self, room: usize) -> io::Result<usize> {
        self.flush().await?;
        self.input.reserve(room);
        self.stream.read_buf(&mut self.input).await
    }

    /// Reads a command line of at most `limit` octets, its end included.
    pub async fn line(&mut self, limit: usize) -> io::Result<Line> {
        let mut searched = 0;
        let mut too_long = None;
        loop {
            if let Some(at) = memchr(b'\n', &self.input[searched..]) {
                let mut line = self.input.split_to(searched + at + 1);
                if let Some(beginning) = too_long {
                    return Ok(Line::TooLong(beginning));
                }
                if line.len() > limit {
                    return Ok(Line::TooLong(line));
                }
                if !line.ends_with(b"\r\n") {
                    return Ok(Line::BareLineFeed(line));
                }
                line.truncate(line.len() - 2);
                return Ok(Line::Whole(line));
            }
            searched = self.input.len();
            if searched > limit {
                let skipped = self.input.split();
                too_long.get_or_insert(skipped);
                searched = 0;
            }
            if self.output.len() > MAX_OUTPUT {
                self.flush().await?;
            }
            if self.fill_line().await? == 0 {
                return Ok(Line::Closed);
            }
        }
    }

    /// Whether more has come with what was read last.
    pub fn has_unread(&self) -> bool {
        !self.input.is_empty()
    }

    /// Whether the peer has said something that was not read yet, or has closed, to all that the kernel knows. Nothing is
    /// waited for.
    pub async fn has_more(&mut self) -> bool {
        // Whatever else the task has done: an empty budget would read as silence.
        tokio::task::unconstrained(async {
            loop {
                if self.has_read_more() {
                    return true;
                }
                if !self.stream.is_readable() {
                    return false;
                }
                // The kernel has more than the runtime knows of. It need not be words: TLS has its own messages.
                if self.stream.readable().await.is_err() {
                    return true;
                }
            }
        })
        .await
    }

    /// The same to all that the runtime knows, which costs no call into the kernel and may be late.
    pub fn has_read_more(&mut self) -> bool {
        if !self.input.is_empty() {
            return true;
        }
        let mut room = [0; LINE_READ_SIZE];
        let mut buffer = ReadBuf::new(&mut room);
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.stream).poll_read(&mut context, &mut buffer);
        self.input.extend_from_slice(buffer.filled());
        read.is_ready()
    }

    /// Writes what is queued, and reads a reply, as a client. `None` if the server closed instead.
    pub async fn reply(&mut self) -> io::Result<Option<Reply>> {
        // A reply that has come already must not be taken for one to what has not gone out.
        if !self.output.is_empty() {
            self.flush().await?;
        }
        loop {
            let parsed = Reply::parse(&self.input).map_err(io::Error::other)?;
            if let Some((reply, consumed)) = parsed {
                self.input.advance(consumed);
                return Ok(Some(reply));
            }
            if self.fill_line().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Begins TLS as the server. The caller has seen to it that no plaintext is buffered.
    pub async fn accept_tls(&mut self, acceptor: &Acceptor) -> io::Result<()> {
        self.stream = Stream::Tls(acceptor.accept(self.take_tcp()?).await?);
        Ok(())
    }

    /// Begins TLS as the client.
    pub async fn connect_tls(
        &mut self,
        connector: &Connector,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        self.stream = Stream::Tls(connector.connect(self.take_tcp()?, name).await?);
        Ok(())
    }

    fn take_tcp(&mut self) -> io::Result<TcpStream> {
        match std::mem::replace(&mut self.stream, Stream::Closed) {
            Stream::Tcp(stream) => Ok(stream),
            _ => Err(io::Error::other("TLS over something that is not TCP")),
        }
    }

    /// The TLS session, once there is one.
    pub fn tls_session(&self) -> Option<TlsSession<'_>> {
        match &self.stream {
            Stream::Tls(stream) => Some(stream.session()),
            _ => None,
        }
    }

    /// Our own address, if there is one.
    pub fn local_address(&self) -> Option<IpAddr> {
        let address = match &self.stream {
            Stream::Tcp(stream) => stream.local_addr(),
            Stream::Tls(stream) => stream.local_address(),
            Stream::Unix(_) | Stream::Closed => return None,
        };
        address.ok().map(|address| address.ip().to_canonical())
    }

    /// Says good-bye to the transport (a TLS close_notify). A bare one ends when it is dropped.
    pub async fn close(&mut self) {
        // The peer may be gone already, and then there is nobody to tell.
        let _ = self.flush().await;
        if let Stream::Tls(stream) = &mut self.stream {
            let _ = stream.shutdown().await;
        }
    }

    /// Closes so that the peer sees what it was told last. The kernel resets a connection that is closed with
    /// input unread (RFC 9293 §3.10.4), and what was sent before may be lost with it: so the rest of the input is
    /// read, for a moment.
    pub async fn close_gently(&mut self) {
        if self.flush().await.is_err() || self.stream.shutdown().await.is_err() {
            return;
        }
        let mut rest = [0; LINE_READ_SIZE];
        let reading = async {
            let mut read = 0;
            while read < MAX_LINGERING {
                match self.stream.read(&mut rest).await {
                    Ok(0) | Err(_) => return,
                    Ok(octets) => read += octets,
                }
            }
        };
        let _ = timeout(LINGERING, reading).await;
    }
}
