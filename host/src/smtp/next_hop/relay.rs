//! Relaying in line to an SMTP or LMTP (RFC 2033) server.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use proxy_header::{ProxiedAddress, ProxyHeader};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::Place;
use super::{Client, Sender};
use crate::config;
use crate::smtp::address::Address;
use crate::smtp::command::Body;
use crate::smtp::connection::Connection;
use crate::smtp::data::DataEncoder;
use crate::smtp::reply::{Capabilities, Reply, SizeLimit};

/// Content that is gathered before it is written.
const WRITE_SIZE: usize = 32 << 10;

/// A server, as configured.
pub struct Server {
    place: Arc<Place>,
    /// Whether it speaks LMTP.
    pub lmtp: bool,
    xclient: bool,
    proxy_protocol: Option<u8>,
    tls: Option<TlsConnector>,
    hostname: Arc<str>,
    timeouts: config::Timeouts,
}

/// The next hop cannot be spoken with: the cause is for the log, the reply for the client.
#[derive(Debug)]
pub struct HopFailure {
    place: Arc<Place>,
    step: &'static str,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Io(io::Error),
    Closed,
    TimedOut,
    Refused(Reply),
}

impl fmt::Display for HopFailure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "next hop {}: {}: ", self.place, self.step)?;
        match &self.cause {
            Cause::Io(error) => write!(f, "{error}"),
            Cause::Closed => f.write_str("the connection was closed"),
            Cause::TimedOut => f.write_str("no answer in time"),
            Cause::Refused(reply) => write!(f, "{} {}", reply.code(), reply.text()),
        }
    }
}

impl HopFailure {
    /// What the client is told. It is always a reason to try again: the mail was not refused.
    pub fn reply(&self) -> Reply {
        tracing::warn!("{self}");
        match &self.cause {
            Cause::Io(_) if self.step == "connect" => Reply::new(
                451,
                (4, 4, 1),
                "the next hop does not answer, try again later",
            ),
            Cause::TimedOut => Reply::new(
                451,
                (4, 4, 2),
                "the next hop did not answer in time, try again later",
            ),
            _ => Reply::new(
                451,
                (4, 4, 2),
                "the connection to the next hop failed, try again later",
            ),
        }
    }
}

impl Server {
    /// A server; nothing is connected yet.
    pub fn new(config: &config::NextHop, hostname: &str, timeouts: &config::Timeouts) -> Self {
        let (text, lmtp) = match (&config.smtp, &config.lmtp) {
            (_, Some(lmtp)) => (lmtp.as_str(), true),
            (smtp, None) => (smtp.as_deref().unwrap_or_default(), false),
        };
        Server {
            place: Arc::new(Place::parse(text, if lmtp { 24 } else { 25 })),
            lmtp,
            xclient: config.xclient,
            proxy_protocol: config.proxy_protocol,
            tls: config.starttls.then(opportunistic).flatten(),
            hostname: hostname.into(),
            timeouts: timeouts.clone(),
        }
    }

    /// Connects, greets, and begins TLS where it is offered.
    pub async fn connect(&self, client: Option<&Client>) -> Result<Relay, HopFailure> {
        let connecting = timeout(self.timeouts.connect, self.place.connect()).await;
        let stream = match connecting {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.failure("connect", Cause::Io(error))),
            Err(_) => return Err(self.failure("connect", Cause::TimedOut)),
        };
        let mut relay = Relay {
            connection: Connection::new(stream),
            place: self.place.clone(),
            lmtp: self.lmtp,
            timeouts: self.timeouts.clone(),
            capabilities: Capabilities::default(),
            usable: true,
            recipients: Vec::new(),
            encoder: None,
        };
        if let (Some(version), Some(client)) = (self.proxy_protocol, client) {
            let header =
                ProxyHeader::with_address(ProxiedAddress::stream(client.address, client.local));
            let output = relay.connection.output();
            let written = if version == 1 {
                header.encode_v1(output)
            } else {
                header.encode_v2(output)
            };
            written.map_err(|error| self.failure("PROXY", Cause::Io(io::Error::other(error))))?;
        }
        relay.expect("greeting", relay.timeouts.reply).await?;
        self.hello(&mut relay).await?;
        if let Some(connector) = &self.tls
            && relay.capabilities.starttls
        {
            self.start_tls(&mut relay, connector).await?;
        }
        if let (true, Some(client)) = (self.xclient, client) {
            self.forward_client(&mut relay, client).await?;
        }
        Ok(relay)
    }

    async fn hello(&self, relay: &mut Relay) -> Result<(), HopFailure> {
        let verb = if self.lmtp { "LHLO" } else { "EHLO" };
        let reply = relay.command(&format!("{verb} {}", self.hostname)).await?;
        if reply.is_positive() {
            relay.capabilities = Capabilities::from_ehlo(&reply);
            return Ok(());
        }
        if self.lmtp || !reply.is_permanent() {
            return Err(self.failure("EHLO", Cause::Refused(reply)));
        }
        // RFC 5321 §4.1.4: a server that does not know EHLO knows HELO.
        relay.capabilities = Capabilities::default();
        let reply = relay.command(&format!("HELO {}", self.hostname)).await?;
        if reply.is_positive() {
            Ok(())
        } else {
            Err(self.failure("HELO", Cause::Refused(reply)))
        }
    }

    async fn start_tls(
        &self,
        relay: &mut Relay,
        connector: &TlsConnector,
    ) -> Result<(), HopFailure> {
        let reply = relay.command("STARTTLS").await?;
        if !reply.is_positive() {
            return Ok(());
        }
        if !relay.connection.input.is_empty() {
            let error = io::Error::other("plaintext stands behind the reply to STARTTLS");
            return Err(self.failure("STARTTLS", Cause::Io(error)));
        }
        let name = ServerName::try_from(self.place.host().to_owned())
            .map_err(|error| self.failure("STARTTLS", Cause::Io(io::Error::other(error))))?;
        let handshake = relay.connection.connect_tls(connector, name);
        match timeout(self.timeouts.handshake, handshake).await {
            Ok(Ok(())) => self.hello(relay).await,
            Ok(Err(error)) => Err(self.failure("TLS handshake", Cause::Io(error))),
            Err(_) => Err(self.failure("TLS handshake", Cause::TimedOut)),
        }
    }

    /// Postfix's XCLIENT: only what the server says that it takes is told.
    async fn forward_client(&self, relay: &mut Relay, client: &Client) -> Result<(), HopFailure> {
        let address = match client.address.ip().to_canonical() {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("IPV6:{ip}"),
        };
        let values = [
            ("ADDR", address),
            ("PORT", client.address.port().to_string()),
            ("NAME", "[UNAVAILABLE]".to_owned()),
            ("HELO", xtext(&client.helo)),
            (
                "PROTO",
                if client.esmtp { "ESMTP" } else { "SMTP" }.to_owned(),
            ),
        ];
        let known = |name: &str| {
            relay
                .capabilities
                .xclient
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
        };
        let told: Vec<String> = values
            .iter()
            .filter(|(name, _)| known(name))
            .map(|(name, value)| format!(" {name}={value}"))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        let reply = relay.command(&format!("XCLIENT{}", told.concat())).await?;
        if !reply.is_positive() {
            return Err(self.failure("XCLIENT", Cause::Refused(reply)));
        }
        // The session begins anew, as after the greeting.
        self.hello(relay).await
    }

    fn failure(&self, step: &'static str, cause: Cause) -> HopFailure {
        HopFailure {
            place: self.place.clone(),
            step,
            cause,
        }
    }
}

/// RFC 3461 §4.
fn xtext(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' | 0..=32 | 127.. => encoded.push_str(&format!("+{byte:02X}")),
            _ => encoded.push(byte.into()),
        }
    }
    encoded
}

/// A session with the server.
pub struct Relay {
    connection: Connection,
    place: Arc<Place>,
    lmtp: bool,
    timeouts: config::Timeouts,
    capabilities: Capabilities,
    usable: bool,
    /// Those that the server has taken; LMTP answers for each.
    recipients: Vec<String>,
    encoder: Option<DataEncoder>,
}

impl Relay {
    /// What the server can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Whether the session can go on.
    pub fn is_usable(&self) -> bool {
        self.usable
    }

    /// Begins a transaction.
    pub async fn mail(&mut self, sender: Sender<'_>) -> Result<(), Reply> {
        self.recipients.clear();
        let mut line = format!("MAIL FROM:<{}>", sender.from.as_str());
        let parameters = sender.parameters;
        if parameters.body == Body::EightBitMime {
            if !self.capabilities.eight_bit_mime {
                // RFC 6152 §3: what cannot be passed on as it is must be refused.
                return Err(Reply::new(
                    554,
                    (5, 6, 3),
                    "the next hop does not take 8-bit messages",
                ));
            }
            line.push_str(" BODY=8BITMIME");
        }
        if parameters.smtputf8 {
            if !self.capabilities.smtputf8 {
                return Err(Reply::new(
                    550,
                    (5, 6, 7),
                    "the next hop does not take internationalized messages",
                ));
            }
            line.push_str(" SMTPUTF8");
        }
        if let Some(size) = parameters.size
            && self.capabilities.size != SizeLimit::NotOffered
        {
            line.push_str(&format!(" SIZE={size}"));
        }
        let reply = self
            .command(&line)
            .await
            .map_err(|failure| failure.reply())?;
        if reply.is_positive() {
            Ok(())
        } else {
            Err(passed_on(&reply))
        }
    }

    /// Adds a recipient.
    pub async fn rcpt(&mut self, to: &Address) -> Reply {
        match self.command(&format!("RCPT TO:<{to}>")).await {
            Ok(reply) => {
                if reply.is_positive() {
                    self.recipients.push(to.as_str().into());
                }
                passed_on(&reply)
            }
            Err(failure) => failure.reply(),
        }
    }

    /// Begins the message.
    pub async fn data(&mut self) -> Result<(), Reply> {
        let reply = self
            .command("DATA")
            .await
            .map_err(|failure| failure.reply())?;
        if reply.is_transient() || reply.is_permanent() {
            return Err(passed_on(&reply));
        }
        if reply.code() != 354 {
            // It has not seen the message, so nothing that it says can confirm it.
            return Err(self.broken("DATA", Cause::Refused(reply)).reply());
        }
        self.encoder = Some(DataEncoder::new());
        Ok(())
    }

    /// A part of the message.
    pub async fn write(&mut self, content: &[u8]) -> Result<(), Reply> {
        let Some(encoder) = &mut self.encoder else {
            return Err(Reply::new(451, (4, 3, 0), "the message was given up"));
        };
        encoder.encode(content, self.connection.output());
        if self.connection.output().len() < WRITE_SIZE {
            return Ok(());
        }
        match timeout(self.timeouts.data_block, self.connection.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broken("DATA", Cause::Io(error)).reply()),
            Err(_) => Err(self.broken("DATA", Cause::TimedOut).reply()),
        }
    }

    /// Ends the message, and waits for the server to have it.
    pub async fn finish(&mut self) -> Reply {
        let Some(encoder) = self.encoder.take() else {
            return Reply::new(451, (4, 3, 0), "the message was given up");
        };
        encoder.finish(self.connection.output());
        if !self.lmtp {
            let reply = self
                .expect_reply("end of data", self.timeouts.final_reply)
                .await;
            return reply.map_or_else(|failure| failure.reply(), |reply| passed_on(&reply));
        }
        let mut replies = Vec::new();
        for recipient in std::mem::take(&mut self.recipients) {
            match self
                .expect_reply("end of data", self.timeouts.final_reply)
                .await
            {
                Ok(reply) => replies.push((recipient, passed_on(&reply))),
                Err(failure) => replies.push((recipient, failure.reply())),
            }
        }
        joint(&replies)
    }

    /// Gives the transaction up. In the middle of a message only the end of the connection does that:
    /// a server must not keep what has no end (RFC 5321 §4.1.1.4).
    pub async fn reset(&mut self) {
        self.recipients.clear();
        if self.encoder.take().is_some() {
            self.usable = false;
        }
        if self.usable {
            // An error has made it unusable, which is all there is to know.
            let _ = self.command("RSET").await;
        }
    }

    /// Ends the session politely, if it has not ended yet.
    pub async fn quit(&mut self) {
        if self.usable {
            self.usable = false;
            self.connection.output().extend_from_slice(b"QUIT\r\n");
            // Nobody waits for the answer.
            let _ = timeout(Duration::from_secs(1), self.connection.close()).await;
        }
    }

    async fn command(&mut self, line: &str) -> Result<Reply, HopFailure> {
        let output = self.connection.output();
        output.extend_from_slice(line.as_bytes());
        output.extend_from_slice(b"\r\n");
        self.expect_reply("reply", self.timeouts.reply).await
    }

    /// A reply that must be positive.
    async fn expect(&mut self, step: &'static str, limit: Duration) -> Result<(), HopFailure> {
        let reply = self.expect_reply(step, limit).await?;
        if reply.is_positive() {
            return Ok(());
        }
        Err(self.broken(step, Cause::Refused(reply)))
    }

    async fn expect_reply(
        &mut self,
        step: &'static str,
        limit: Duration,
    ) -> Result<Reply, HopFailure> {
        if !self.usable {
            return Err(self.broken(step, Cause::Closed));
        }
        let cause = match timeout(limit, self.connection.reply()).await {
            Ok(Ok(Some(reply))) => {
                // 421: the server closes (RFC 5321 §3.8).
                self.usable &= reply.code() != 421;
                return Ok(reply);
            }
            Ok(Ok(None)) => Cause::Closed,
            Ok(Err(error)) => Cause::Io(error),
            Err(_) => Cause::TimedOut,
        };
        Err(self.broken(step, cause))
    }

    fn broken(&mut self, step: &'static str, cause: Cause) -> HopFailure {
        self.usable = false;
        self.encoder = None;
        HopFailure {
            place: self.place.clone(),
            step,
            cause,
        }
    }
}

/// The server's reply as our own. 421 would end our session too, and 3yz belongs to no one.
fn passed_on(reply: &Reply) -> Reply {
    let code = match reply.code() {
        421 | 300..=399 => 451,
        code => code,
    };
    let class = (code / 100) as u8;
    match reply.enhanced() {
        Some(enhanced) => Reply::new(code, enhanced, reply.text()),
        None => Reply::new(code, (class, 0, 0), reply.text()),
    }
}

/// The one reply that SMTP has for the many of LMTP. Where they differ, the client is told who did
/// not get the message: as a temporary failure only if nobody got it, since trying again would
/// double it for the others.
fn joint(replies: &[(String, Reply)]) -> Reply {
    let failed: Vec<&(String, Reply)> = replies
        .iter()
        .filter(|(_, reply)| !reply.is_positive())
        .collect();
    let Some((_, first)) = failed.first() else {
        return replies.first().map_or_else(
            || Reply::new(451, (4, 3, 0), "the next hop took no recipient"),
            |(_, reply)| reply.clone(),
        );
    };
    if failed.len() == replies.len() {
        let transient = failed.iter().find(|(_, reply)| reply.is_transient());
        return transient.map_or_else(|| first.clone(), |(_, reply)| reply.clone());
    }
    let names: Vec<String> = failed
        .iter()
        .map(|(recipient, reply)| format!("<{recipient}>: {} {}", reply.code(), reply.text()))
        .collect();
    Reply::new(
        554,
        (5, 0, 0),
        format!("delivered, but not to {}", names.join("; ")),
    )
}

/// TLS where it is offered, to a next hop that was configured by its address: any certificate will do.
fn opportunistic() -> Option<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyServer(provider.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        // The provider has the cipher suites of both versions.
        .inspect_err(|error| tracing::error!(%error, "no TLS towards next hops"))
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Some(TlsConnector::from(Arc::new(config)))
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
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
