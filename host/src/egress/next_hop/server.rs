//! A configured next hop: an SMTP or LMTP server that is near.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use proxy_header::{ProxiedAddress, ProxyHeader};
use rustls::pki_types::ServerName;

use super::client::{Client, ClientName};
use crate::config::{self, ProxyVersion};
use crate::egress::client::{Audience, CONNECT, Cause, ClientConfig, ClientError, SmtpClient};
use crate::egress::next_hop::address::Place;
use crate::tls::ClientTls;

/// A server, as configured.
pub struct Server {
    place: Place,
    name: Arc<str>,
    hostname: Arc<str>,
    protocol: Protocol,
    timeouts: ArcSwap<config::Timeouts>,
    proxy_protocol: Option<ProxyVersion>,
    tls: Option<ClientTls>,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SMTP.
    Smtp {
        /// Whether it is told the client by XCLIENT.
        xclient: bool,
    },
    /// LMTP (RFC 2033).
    Lmtp,
}

impl Protocol {
    /// The port of an address that names none.
    fn port(self) -> u16 {
        match self {
            Protocol::Smtp { .. } => 25,
            Protocol::Lmtp => 24,
        }
    }
}

impl Server {
    /// A server; nothing is connected yet.
    pub fn new(
        config: &config::NextHopServer,
        protocol: Protocol,
        hostname: &str,
        timeouts: &config::Timeouts,
    ) -> Self {
        let place = Place::parse(&config.address, protocol.port());
        // The provider has the cipher suites of both versions.
        let tls = ClientTls::anonymous()
            .inspect_err(|error| tracing::error!(%error, "no TLS towards next hops"));
        Server {
            name: place.to_string().into(),
            place,
            hostname: hostname.into(),
            protocol,
            timeouts: ArcSwap::from_pointee(timeouts.clone()),
            proxy_protocol: config.proxy_protocol,
            tls: tls.ok().filter(|_| config.starttls),
        }
    }

    /// Whether it speaks LMTP.
    pub fn is_lmtp(&self) -> bool {
        self.protocol == Protocol::Lmtp
    }

    fn uses_xclient(&self) -> bool {
        self.protocol == Protocol::Smtp { xclient: true }
    }

    /// From now on these times hold.
    pub fn exchange(&self, timeouts: &config::Timeouts) {
        self.timeouts.store(Arc::new(timeouts.clone()));
    }

    fn client_config(&self) -> ClientConfig {
        ClientConfig {
            hostname: self.hostname.clone(),
            lmtp: self.is_lmtp(),
            timeouts: self.timeouts.load_full(),
            audience: Audience::External,
        }
    }

    /// Whether a connection belongs to the client that it was made for.
    pub fn forwards_client(&self) -> bool {
        self.uses_xclient() || self.proxy_protocol.is_some()
    }

    /// Connects, greets, and begins TLS where it is offered: it was configured by its address, so any
    /// certificate will do.
    pub async fn connect(&self, client: Option<&Client>) -> Result<SmtpClient, ClientError> {
        let client_config = self.client_config();
        let failure = |step, cause: Cause| client_config.failure(&self.name, step, cause);
        let connecting = self.place.connect(client_config.timeouts.connect).await;
        let stream = connecting.map_err(|cause| failure(CONNECT, cause))?;
        let mut session = SmtpClient::new(stream, self.name.clone(), client_config.clone());
        if let Some(version) = self.proxy_protocol {
            // A server that demands a header demands it of those who ask for nobody, too.
            let header = client.map_or_else(ProxyHeader::with_local, |client| {
                ProxyHeader::with_address(ProxiedAddress::stream(client.address, client.local))
            });
            let output = session.preamble();
            let written = match version {
                ProxyVersion::V1 => header.encode_v1(output),
                ProxyVersion::V2 => header.encode_v2(output),
            };
            written.map_err(|error| failure("PROXY", std::io::Error::other(error).into()))?;
        }
        session.greet().await?;
        if let (Some(tls), Place::Tcp(_)) = (&self.tls, &self.place)
            && session.capabilities().starttls
        {
            let name = ServerName::try_from(self.place.host().to_owned())
                .map_err(|error| failure("STARTTLS", std::io::Error::other(error).into()))?;
            session.start_tls(tls.connector(), name).await?;
        }
        if let (true, Some(client)) = (self.uses_xclient(), client) {
            self.forward_client(&mut session, client).await?;
        }
        Ok(session)
    }

    /// Postfix's XCLIENT: only what the server says that it takes is told. One that takes nothing would see all mail
    /// come from us, whom it may well trust.
    async fn forward_client(
        &self,
        session: &mut SmtpClient,
        client: &Client,
    ) -> Result<(), ClientError> {
        let address = match client.address.ip().to_canonical() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("IPV6:{ip}"),
        };
        let name = match &client.name {
            ClientName::Confirmed(name) => xtext(name),
            ClientName::None => "[UNAVAILABLE]".to_owned(),
            ClientName::Unknown => "[TEMPUNAVAIL]".to_owned(),
        };
        let values = [
            ("ADDR", address),
            ("PORT", client.address.port().to_string()),
            ("NAME", name),
            ("HELO", xtext(&client.helo)),
            (
                "PROTO",
                if client.esmtp { "ESMTP" } else { "SMTP" }.to_owned(),
            ),
        ];
        let known = &session.capabilities().xclient;
        let knows = |wanted: &str| known.iter().any(|known| known.eq_ignore_ascii_case(wanted));
        if !knows("ADDR") {
            let text = "it does not let us use XCLIENT (in Postfix: smtpd_authorized_xclient_hosts has our address)";
            tracing::error!(hop = %self.name, "{text}");
            let cause = std::io::Error::other(text);
            return Err(session
                .client_config()
                .failure(&self.name, "XCLIENT", cause));
        }
        let told: Vec<String> = values
            .iter()
            .filter(|(name, _)| knows(name))
            .map(|(name, value)| format!(" {name}={value}"))
            .collect();
        let line = format!("XCLIENT{}", told.concat());
        let reply = session.command("XCLIENT", &line).await?;
        if !reply.is_positive() {
            let cause = Cause::Refused(reply);
            return Err(session
                .client_config()
                .failure(&self.name, "XCLIENT", cause));
        }
        // The session begins anew, as after the greeting, and in the client's name: what is said now is what the
        // server holds against its rules.
        let sayable = |helo: &&str| !helo.is_empty() && helo.is_ascii();
        let helo = Some(client.helo.as_str()).filter(sayable);
        session.hello_as(helo).await
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
