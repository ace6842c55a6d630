//! TLS under SMTP: by rustls, or by OpenSSL where old suites are allowed, which rustls does not have.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use openssl::ssl::{Ssl, SslContext, SslRef, SslVersion};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CommonState, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::smtp::sasl::ChannelBinding;

/// The label of RFC 9266.
const BINDING: &str = "EXPORTER-Channel-Binding";

/// What a server does handshakes with.
#[derive(Clone)]
pub enum Acceptor {
    /// rustls.
    Rustls(TlsAcceptor),
    /// OpenSSL, with suites that are no good ones any more.
    Legacy(SslContext),
}

/// What a client does handshakes with.
#[derive(Clone)]
pub enum Connector {
    /// rustls.
    Rustls(TlsConnector),
    /// OpenSSL, with suites that are no good ones any more.
    Legacy(SslContext),
}

/// TLS over TCP.
pub enum Tls {
    /// rustls.
    Rustls(Box<TlsStream<TcpStream>>),
    /// OpenSSL.
    OpenSsl(Pin<Box<SslStream<TcpStream>>>),
}

impl Acceptor {
    /// Shakes hands as the server.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Tls> {
        match self {
            Acceptor::Rustls(acceptor) => {
                let stream = acceptor.accept(stream).await?;
                Ok(Tls::Rustls(Box::new(stream.into())))
            }
            Acceptor::Legacy(context) => {
                let mut stream = Box::pin(SslStream::new(Ssl::new(context)?, stream)?);
                stream.as_mut().accept().await.map_err(io::Error::other)?;
                Ok(Tls::OpenSsl(stream))
            }
        }
    }
}

impl Connector {
    /// Shakes hands as the client, with the server of that name.
    pub async fn connect(&self, stream: TcpStream, name: ServerName<'static>) -> io::Result<Tls> {
        match self {
            Connector::Rustls(connector) => {
                let stream = connector.connect(name, stream).await?;
                Ok(Tls::Rustls(Box::new(stream.into())))
            }
            Connector::Legacy(context) => {
                let mut ssl = Ssl::new(context)?;
                if let ServerName::DnsName(name) = &name {
                    ssl.set_hostname(name.as_ref())?;
                }
                let mut stream = Box::pin(SslStream::new(ssl, stream)?);
                stream.as_mut().connect().await.map_err(io::Error::other)?;
                Ok(Tls::OpenSsl(stream))
            }
        }
    }
}

impl Tls {
    /// The connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Tls::Rustls(stream) => stream.get_ref().0,
            Tls::OpenSsl(stream) => stream.get_ref(),
        }
    }

    /// Our own address.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// What the handshake has come to.
    pub fn session(&self) -> TlsSession<'_> {
        match self {
            Tls::Rustls(stream) => match &**stream {
                TlsStream::Client(stream) => {
                    let session = stream.get_ref().1;
                    let exported = session
                        .export_keying_material(
                            ChannelBinding::default(),
                            BINDING.as_bytes(),
                            Some(&[]),
                        )
                        .ok();
                    TlsSession::Rustls(session, exported)
                }
                TlsStream::Server(stream) => TlsSession::Rustls(stream.get_ref().1, None),
            },
            Tls::OpenSsl(stream) => TlsSession::OpenSsl(stream.ssl()),
        }
    }
}

macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Tls::Rustls(stream) => {
                let $stream = Pin::new(&mut **stream);
                $call
            }
            Tls::OpenSsl(stream) => {
                let $stream = stream.as_mut();
                $call
            }
        }
    };
}

impl AsyncRead for Tls {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => stream.poll_write(context, octets))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => stream.poll_shutdown(context))
    }
}

/// What a handshake has come to.
pub enum TlsSession<'a> {
    /// By rustls, and what binds a login to it.
    Rustls(&'a CommonState, Option<ChannelBinding>),
    /// By OpenSSL.
    OpenSsl(&'a SslRef),
}

impl<'a> TlsSession<'a> {
    /// The version.
    pub fn version(&self) -> Option<ProtocolVersion> {
        match self {
            TlsSession::Rustls(session, _) => session.protocol_version(),
            TlsSession::OpenSsl(session) => match session.version2()? {
                SslVersion::TLS1_2 => Some(ProtocolVersion::TLSv1_2),
                SslVersion::TLS1_3 => Some(ProtocolVersion::TLSv1_3),
                _ => None,
            },
        }
    }

    /// The cipher suite, by its name in RFCs.
    pub fn cipher(&self) -> &'a str {
        let name = match self {
            TlsSession::Rustls(session, _) => session
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str()),
            TlsSession::OpenSsl(session) => session
                .current_cipher()
                .and_then(|cipher| cipher.standard_name()),
        };
        name.unwrap_or("unknown")
    }

    /// The certificates that the peer has shown, its own first.
    pub fn chain(&self) -> Cow<'a, [CertificateDer<'static>]> {
        match self {
            TlsSession::Rustls(session, _) => {
                session.peer_certificates().unwrap_or_default().into()
            }
            TlsSession::OpenSsl(session) => {
                let own = session.peer_certificate();
                let own = own.and_then(|own| own.to_der().ok());
                let mut chain: Vec<CertificateDer<'static>> =
                    own.into_iter().map(CertificateDer::from).collect();
                // What a server sees does not begin with the client's own one, and what a client sees does.
                for other in session.peer_cert_chain().into_iter().flatten() {
                    let other = other.to_der().map(CertificateDer::from);
                    if let Ok(other) = other
                        && Some(&other) != chain.first()
                    {
                        chain.push(other);
                    }
                }
                chain.into()
            }
        }
    }

    /// What binds a login to this session (RFC 9266), where all agree on what that is: TLS 1.3.
    pub fn channel_binding(&self) -> Option<ChannelBinding> {
        if self.version() != Some(ProtocolVersion::TLSv1_3) {
            return None;
        }
        match self {
            TlsSession::Rustls(_, exported) => *exported,
            TlsSession::OpenSsl(session) => {
                let mut binding = ChannelBinding::default();
                let exported = session.export_keying_material(&mut binding, BINDING, Some(&[]));
                exported.ok().map(|()| binding)
            }
        }
    }
}
