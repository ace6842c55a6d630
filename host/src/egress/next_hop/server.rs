//! A configured next hop: an SMTP or LMTP server that is near.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use proxy_header::{ProxiedAddress, ProxyHeader};
use rustls::pki_types::ServerName;

use super::client::{Client, ClientName};
use crate::config::{self, Login, ProxyVersion};
use crate::egress::client::{
    Audience, CONNECT, Cause, ClientConfig, ClientError, LoginError, SmtpClient,
};
use crate::egress::credentials::{Credentials, PasswordError, SUBMISSIONS};
use crate::egress::next_hop::address::Place;
use crate::egress::proof::may_have_password;
use crate::observe::redact::redact;
use crate::smtp::notify::encode_xtext;
use crate::smtp::sasl::Mechanism;
use crate::tls::ClientTls;
use portcullis::tls::Authorities;

/// A server, as configured.
pub struct Server {
    place: Place,
    name: Arc<str>,
    hostname: Arc<str>,
    protocol: Protocol,
    proxy_protocol: Option<ProxyVersion>,
    tls: Option<ClientTls>,
    /// Whether TLS begins with the first octet.
    implicit_tls: bool,
    login: Option<Login>,
    resources: ArcSwap<Resources>,
}

/// What a reload of the configuration exchanges.
#[derive(Clone)]
struct Resources {
    timeouts: Arc<config::Timeouts>,
    authorities: Authorities,
    /// What we log in with, if we do.
    credentials: Option<Result<Credentials, PasswordError>>,
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
        hop: &config::NextHopServer,
        protocol: Protocol,
        config: &config::Config,
        authorities: &Authorities,
    ) -> Self {
        let place = Place::parse(&hop.address, protocol.port());
        // The provider has the cipher suites of both versions.
        let tls = ClientTls::anonymous()
            .inspect_err(|error| tracing::error!(%error, "no TLS towards next hops"));
        let by_port = place.port() == Some(SUBMISSIONS);
        let implicit_tls = hop.implicit_tls.unwrap_or(by_port);
        let login = hop.login.clone();
        let wants_tls = hop.starttls || implicit_tls || login.is_some();
        Server {
            name: place.to_string().into(),
            place,
            hostname: config.hostname.as_str().into(),
            protocol,
            proxy_protocol: hop.proxy_protocol,
            tls: tls.ok().filter(|_| wants_tls),
            implicit_tls,
            resources: ArcSwap::from_pointee(Resources {
                timeouts: Arc::new(config.timeouts.clone()),
                authorities: authorities.clone(),
                credentials: login.as_ref().map(Credentials::read),
            }),
            login,
        }
    }

    /// Whether it speaks LMTP.
    pub fn is_lmtp(&self) -> bool {
        self.protocol == Protocol::Lmtp
    }

    fn uses_xclient(&self) -> bool {
        self.protocol == Protocol::Smtp { xclient: true }
    }

    /// From now on these times and authorities hold, and the password that is in its file now. Tells whether what a
    /// connection depends on is the same as before, and whether the password cannot be read, which stays what it was.
    pub fn exchange(
        &self,
        timeouts: &config::Timeouts,
        authorities: &Authorities,
    ) -> (bool, Result<(), PasswordError>) {
        let before = self.resources.load();
        let read = self.login.as_ref().map(Credentials::read);
        let (credentials, outcome) = match (read, &before.credentials) {
            (Some(Err(error)), Some(Ok(known))) => (Some(Ok(known.clone())), Err(error)),
            (Some(Err(error)), _) => (Some(Err(error.clone())), Err(error)),
            (read, _) => (read, Ok(())),
        };
        let is_same = credentials == before.credentials
            && (self.login.is_none() || *authorities == before.authorities);
        self.resources.store(Arc::new(Resources {
            timeouts: Arc::new(timeouts.clone()),
            authorities: authorities.clone(),
            credentials,
        }));
        (is_same, outcome)
    }

    /// The password cannot be read, if that is so.
    pub fn password_error(&self) -> Option<PasswordError> {
        let resources = self.resources.load();
        resources.credentials.as_ref()?.as_ref().err().cloned()
    }

    fn client_config(&self) -> ClientConfig {
        ClientConfig {
            hostname: self.hostname.clone(),
            lmtp: self.is_lmtp(),
            chunks: true,
            timeouts: self.resources.load().timeouts.clone(),
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
        let resources = self.resources.load_full();
        let credentials = resources.credentials.as_ref();
        let mut session = SmtpClient::new(stream, self.name.clone(), client_config.clone())
            .with_credentials(credentials.and_then(|read| read.as_ref().ok()));
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
        self.protect(&mut session).await?;
        if self.login.is_some() {
            self.log_in(&mut session, &resources).await?;
        }
        if let (true, Some(client)) = (self.uses_xclient(), client) {
            self.forward_client(&mut session, client).await?;
        }
        Ok(session)
    }

    /// Greets the server, and begins TLS where it is offered, or before anything is said.
    async fn protect(&self, session: &mut SmtpClient) -> Result<(), ClientError> {
        let (Some(tls), Place::Tcp(_)) = (&self.tls, &self.place) else {
            session.greet().await?;
            return Ok(());
        };
        let name = ServerName::try_from(self.place.host().to_owned()).map_err(|error| {
            let cause = std::io::Error::other(error);
            session
                .client_config()
                .failure(&self.name, "STARTTLS", cause)
        })?;
        if self.implicit_tls {
            session.shake_hands(tls.connector(), name).await?;
            session.greet().await?;
            return Ok(());
        }
        session.greet().await?;
        if session.capabilities().starttls {
            session.start_tls(tls.connector(), name).await?;
        }
        Ok(())
    }

    /// Logs in, once the server has proven to be the one that may have the password.
    async fn log_in(
        &self,
        session: &mut SmtpClient,
        resources: &Resources,
    ) -> Result<(), ClientError> {
        let is_ready = match (&self.login, &resources.credentials) {
            (Some(login), Some(Ok(_))) => self.is_proven(session, login, &resources.authorities),
            (_, Some(Err(error))) => Err(error.clone().into()),
            _ => return Ok(()),
        };
        let logged_in = match is_ready {
            Ok(()) => session.log_in().await,
            Err(error) => Err(error),
        };
        match logged_in {
            Ok(mechanism) => {
                let mechanism = mechanism.map(Mechanism::name);
                tracing::debug!(hop = %self.name, mechanism, "logged in");
                Ok(())
            }
            Err(LoginError::Lost(failure)) => Err(*failure),
            Err(error) => {
                session.quit().await;
                tracing::error!(hop = %self.name, "not logged in: {}", redact(&error.to_string()));
                let cause = std::io::Error::other(error);
                Err(session.client_config().failure(&self.name, "AUTH", cause))
            }
        }
    }

    fn is_proven(
        &self,
        session: &SmtpClient,
        login: &Login,
        authorities: &Authorities,
    ) -> Result<(), LoginError> {
        let tls = session.tls_session().ok_or(LoginError::NoTls)?;
        may_have_password(login, self.place.host(), &tls.chain(), authorities)
            .map_err(LoginError::Unproven)
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
            ClientName::Confirmed(name) => encode_xtext(name),
            ClientName::None => "[UNAVAILABLE]".to_owned(),
            ClientName::Unknown => "[TEMPUNAVAIL]".to_owned(),
        };
        let values = [
            ("ADDR", address),
            ("PORT", client.address.port().to_string()),
            ("NAME", name),
            ("HELO", encode_xtext(&client.helo)),
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
