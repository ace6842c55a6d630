//! A transaction with a partner's server that has met what the path requires.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::endpoint::Endpoint;
use super::failure::{Failure, ProtectionError, ResultType};
use super::resources::OutboundResources;
use super::route::{MAX_HOSTS, PartnerPath};
use super::servers::Servers;
use super::this_host::ThisHost;
use super::tls_report::Reports;
use super::verify::Requirements;
use crate::config;
use crate::decisions::{Connected, Recorder, digest_of_protection};
use crate::egress::client::{
    Cause, ClientError, HANDSHAKE, LoginError, MailError, START_TLS, Sender, SmtpClient, StartTls,
};
use crate::egress::dial;
use crate::egress::pool::{Permit, Pool, PooledConnection, Reuse};
use crate::egress::proof::may_have_password;
use crate::observe::metrics::Metrics;
use crate::observe::redact;
use crate::smtp::connection::Stream;
use crate::smtp::reply::Reply;
use crate::smtp::sasl::Mechanism;
use crate::smtp::tls::TlsSession;
use portcullis::Host;
use portcullis::tls::certificate;
use portcullis::tls_version_name;

/// What a server that did not get ready in its time was doing.
const READY: &str = "getting ready";
/// How long a connection that is not free is waited for while other partners wait already.
const HURRY: Duration = Duration::from_secs(1);

/// What a connector in audit mode says to a server that it would let have the mail.
const SATISFIED: &str = "satisfied";

/// The way out, shared by all outbound listeners.
pub struct Outbound {
    pub(super) this_host: ThisHost,
    resources: ArcSwap<OutboundResources>,
    pool: Arc<Pool>,
    metrics: Arc<Metrics>,
    recorder: Arc<Recorder>,
    pub(super) reports: Reports,
}

/// What became of the protection that was asked for.
#[derive(Clone, Debug)]
pub struct TlsOutcome {
    /// The TLS version, if there is TLS.
    pub version: Option<rustls::ProtocolVersion>,
    /// What the server lacks of what an audited connector asks for.
    pub audit: Option<ProtectionError>,
}

impl TlsOutcome {
    /// The TLS version, for the log.
    fn tls(&self) -> &'static str {
        match self.version {
            None => "none",
            Some(version) => tls_version_name(version.into()).unwrap_or("unknown"),
        }
    }
}

impl Outbound {
    /// The way out; nothing is connected yet. Of what partners show, the recorder keeps what mail sees.
    pub fn new(
        config: &config::Config,
        resources: OutboundResources,
        metrics: Arc<Metrics>,
        recorder: Arc<Recorder>,
    ) -> Self {
        let limits = config.connections.clone();
        let at_a_time = limits.per_route;
        Outbound {
            this_host: ThisHost::new(&config.hostname),
            resources: ArcSwap::from_pointee(resources),
            pool: Pool::new(limits, Some(at_a_time)),
            reports: Reports::new(metrics.clone()),
            metrics,
            recorder,
        }
    }

    /// Takes over what has changed. Connections that were made by what held before are let go.
    pub fn exchange(&self, resources: OutboundResources) {
        let is_same = self.resources.load().is_same(&resources);
        self.resources.store(Arc::new(resources));
        if !is_same {
            self.pool.clear();
            tracing::info!("the way out has changed");
        }
    }

    /// What it does its work with now.
    pub fn resources(&self) -> Arc<OutboundResources> {
        self.resources.load_full()
    }

    /// Removes what is kept of domains and is over.
    pub async fn tidy(&self) {
        let mta_sts = self.resources.load().mta_sts.clone();
        mta_sts.tidy().await;
    }

    /// Notes where we listen ourselves, so that no mail is sent there.
    pub fn listens_on(&self, addresses: Vec<SocketAddr>) {
        self.this_host.listens_on(addresses);
    }

    /// The connections to partners.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Begins a transaction with a server of the path. Whoever is in a hurry, because other partners wait already,
    /// does not queue up for a connection.
    ///
    /// # Errors
    /// What our client is told.
    pub async fn begin(
        &self,
        path: &PartnerPath,
        sender: Sender<'_>,
        is_in_a_hurry: bool,
    ) -> Result<PooledConnection, Reply> {
        let resources = self.resources.load_full();
        let deadline = Instant::now() + resources.timeouts.route;
        let patience = match is_in_a_hurry {
            true => HURRY,
            false => resources.timeouts.route / 2,
        };
        let Some(permit) = self.pool.permit(path.key(), patience).await else {
            return Err(Failure::Busy(path.target.to_string()).reply());
        };
        // Loaded with the permit in hand: what is connected by older resources is of an older generation of the pool,
        // which keeps none of it.
        let resources = self.resources.load_full();
        let connecting = self.begin_on(permit, &resources, path, sender, deadline);
        match timeout_at(deadline, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::TimedOut(path.target.to_string()).reply()),
        }
    }

    async fn begin_on(
        &self,
        permit: Permit,
        resources: &OutboundResources,
        path: &PartnerPath,
        sender: Sender<'_>,
        deadline: Instant,
    ) -> Result<PooledConnection, Reply> {
        let permit = match permit.reuse(sender).await {
            Reuse::Begun(connection) => return Ok(*connection),
            Reuse::Refused(reply) => return Err(reply),
            Reuse::NotConnected(permit) => permit,
        };
        let mut last_error = None;
        let servers = Servers::new(&self.this_host, resources, path, deadline, MAX_HOSTS).await;
        let mut servers = servers.map_err(|failure| {
            self.metrics.outbound(path.tenant(), failure.name());
            failure.reply()
        })?;
        while let Some(server) = servers.next().await {
            let failure = match server {
                Ok(server) => match self.begin_with(resources, path, &server, sender).await {
                    Ok(client) => return Ok(permit.used_by(client)),
                    Err(Begun::Refused(client, reply)) => {
                        permit.used_by(*client).release();
                        return Err(reply);
                    }
                    Err(Begun::Failed(failure)) => {
                        self.metrics.outbound(path.tenant(), failure.name());
                        self.record_failure(path, &server.peer, &failure);
                        failure
                    }
                },
                Err(failure) => {
                    self.metrics.outbound(path.tenant(), failure.name());
                    self.record_failure(path, "", &failure);
                    self.reports
                        .unreached(resources, path, servers.policy(), &failure);
                    failure
                }
            };
            tracing::info!(
                connector = path.connector,
                "server skipped: {}",
                redact::redact(&failure.to_string())
            );
            last_error = Some(failure.or(last_error));
        }
        let nowhere = || Failure::NoHosts(path.target.to_string());
        Err(last_error.unwrap_or_else(nowhere).reply())
    }

    /// Begins a transaction with a server, in the time that it has.
    async fn begin_with(
        &self,
        resources: &OutboundResources,
        path: &PartnerPath,
        server: &Endpoint,
        sender: Sender<'_>,
    ) -> Result<SmtpClient, Begun> {
        let beginning = async {
            let mut client = self.ready(resources, path, server).await?;
            match client.mail(sender).await {
                Ok(()) => Ok(client),
                Err(MailError::Refused(reply)) => Err(Begun::Refused(Box::new(client), reply)),
                Err(MailError::Lost(failure)) => Err(Begun::Failed(failure.into())),
            }
        };
        let slow = || {
            self.this_host.client_config(&resources.timeouts).failure(
                &server.peer,
                READY,
                Cause::TimedOut,
            )
        };
        timeout_at(server.deadline, beginning)
            .await
            .unwrap_or_else(|_| Err(Begun::Failed(slow().into())))
    }

    /// Gets a server ready for mail: connected, greeted, and as protected as it must be.
    async fn ready(
        &self,
        resources: &OutboundResources,
        path: &PartnerPath,
        server: &Endpoint,
    ) -> Result<SmtpClient, Failure> {
        let (mut client, reached) = self.protect(resources, path, server).await?;
        match self.log_in(server, &mut client).await {
            Ok(_) => {}
            Err(LoginError::Lost(failure)) => return Err((*failure).into()),
            Err(why) => {
                client.quit().await;
                let peer = server.peer.clone();
                return Err(Failure::Login { peer, why });
            }
        }
        if path.requires_tls {
            self.supports_require_tls(server, &mut client).await?;
        }
        let audit = match (&path.audit, &reached.audit) {
            (None, _) => String::new(),
            (Some(_), None) => {
                self.metrics.audit_connection(SATISFIED);
                SATISFIED.into()
            }
            (Some(_), Some(why)) => {
                self.metrics.audit_connection(why.result.name());
                why.to_string()
            }
        };
        tracing::info!(
            hop = %client.peer(),
            connector = path.connector,
            level = path.protection.level.name(),
            tls = reached.tls(),
            dane = server.dane.needs_tls(),
            mta_sts = server.mta_sts,
            audit,
            audit_connector = path.audited,
            "connected"
        );
        self.metrics.outbound(path.tenant(), "connected");
        self.record(path, server, &client, &reached);
        Ok(client)
    }

    /// RFC 8689 §4.2.1: the server says that it supports REQUIRETLS, and has proven to be the one that it should be.
    async fn supports_require_tls(
        &self,
        server: &Endpoint,
        client: &mut SmtpClient,
    ) -> Result<(), Failure> {
        let why = if !client.capabilities().require_tls {
            "it does not support REQUIRETLS"
        } else if let (false, Some(why)) =
            (server.requirements().prove_identity(), &server.policy_error)
        {
            // What cannot be had now may prove it later.
            client.quit().await;
            return Err(Failure::Unprotected {
                peer: server.peer.clone(),
                why: why.clone(),
            });
        } else if !server.requirements().prove_identity() {
            "nothing proves that it is the right server: neither the connector (level \"name\"), nor DANE, nor MTA-STS"
        } else {
            return Ok(());
        };
        client.quit().await;
        let peer = server.peer.clone();
        Err(Failure::NoRequireTls { peer, why })
    }

    fn record(
        &self,
        path: &PartnerPath,
        server: &Endpoint,
        client: &SmtpClient,
        reached: &TlsOutcome,
    ) {
        let Some(tenant) = path.tenant() else { return };
        self.recorder.connected(|| {
            let chain = client.tls_session().map(|session| session.chain());
            Connected {
                tenant: tenant.clone(),
                connector: path.connector.clone(),
                target: path.target.to_string(),
                server: server.peer.to_string(),
                tls: reached.version.map(|_| reached.tls()),
                certificate: chain
                    .filter(|chain| !chain.is_empty())
                    .map(|chain| certificate::facts(&chain, &server.authorities)),
                failure: None,
                audit_connector: path.audited.clone(),
                audit_requires: path.audit.as_ref().map(digest_of_protection),
                audit: reached.audit.as_ref().map(ToString::to_string),
            }
        });
    }

    fn record_failure(&self, path: &PartnerPath, server: &str, failure: &Failure) {
        let Some(tenant) = path.tenant() else { return };
        self.recorder.connected(|| Connected {
            tenant: tenant.clone(),
            connector: path.connector.clone(),
            target: path.target.to_string(),
            server: server.into(),
            tls: None,
            certificate: None,
            failure: Some(redact::redact(&failure.to_string()).into_owned()),
            audit_connector: None,
            audit_requires: None,
            audit: None,
        });
    }

    /// Speaks with a server until it has shown what it must. Where nothing is asked for, and TLS is
    /// offered but does not work, plaintext is what opportunistic means.
    async fn protect(
        &self,
        resources: &OutboundResources,
        path: &PartnerPath,
        server: &Endpoint,
    ) -> Result<(SmtpClient, TlsOutcome), Failure> {
        let requirements = server.requirements();
        match self.try_tls(resources, path, server, &requirements).await {
            Err(Failure::Unprotected { why, .. })
                if !requirements.need_tls()
                    && !server.implicit_tls
                    && why.result == ResultType::ValidationFailure =>
            {
                let told = why.to_string();
                tracing::warn!(hop = %server.peer, why = &*redact::redact(&told), "STARTTLS failed; continuing in plaintext (opportunistic)");
                let client = self.greeted(resources, server).await?;
                let reached = TlsOutcome {
                    version: None,
                    audit: server.audited.is_some().then_some(why),
                };
                Ok((client, reached))
            }
            outcome => outcome,
        }
    }

    async fn try_tls(
        &self,
        resources: &OutboundResources,
        path: &PartnerPath,
        server: &Endpoint,
        requirements: &Requirements<'_>,
    ) -> Result<(SmtpClient, TlsOutcome), Failure> {
        let (mut client, begun) = self.begin_tls(resources, server).await?;
        self.reports
            .handshake(resources, path, server, &client, &begun);
        let unprotected = |why| Failure::Unprotected {
            peer: server.peer.clone(),
            why,
        };
        if let Err(why) = begun {
            if path.requires_tls && client.is_usable() && !client.capabilities().starttls {
                client.quit().await;
                return Err(Failure::NoRequireTls {
                    peer: server.peer.clone(),
                    why: "it does not offer TLS",
                });
            }
            if requirements.need_tls() || why.result != ResultType::StarttlsNotSupported {
                client.quit().await;
                return Err(unprotected(why));
            }
            let audit = match server.audited() {
                Some(Ok(audited)) => audited.need_tls().then_some(why),
                Some(Err(why)) => Some(why),
                None => None,
            };
            let reached = TlsOutcome {
                version: None,
                audit,
            };
            return Ok((client, reached));
        }
        let session = client.tls_session();
        let chain = session.as_ref().map(TlsSession::chain).unwrap_or_default();
        let version = session.as_ref().and_then(TlsSession::version);
        let verify = |requirements: &Requirements| {
            requirements.verify(&chain, version.map(u16::from), &server.authorities)
        };
        let reached = TlsOutcome {
            version,
            audit: server
                .audited()
                .and_then(|audited| audited.and_then(|audited| verify(&audited)).err()),
        };
        if let Err(why) = verify(requirements) {
            client.quit().await;
            return Err(unprotected(why));
        }
        Ok((client, reached))
    }

    /// A session with a server that has been greeted, over TLS if that can be had, or why it is not.
    pub(super) async fn begin_tls(
        &self,
        resources: &OutboundResources,
        server: &Endpoint,
    ) -> Result<(SmtpClient, Result<(), ProtectionError>), Failure> {
        let mut client = self.connected(resources, server).await?;
        if !server.implicit_tls {
            self.greet(&mut client).await?;
            let begun = self.start_tls(resources, server, &mut client).await?;
            return Ok((client, begun));
        }
        let connector = resources.connector(server);
        let shaken = client.shake_hands(connector, name_for(server)).await;
        if let Err(failure) = shaken {
            return Ok((client, Err(handshake_failed(failure))));
        }
        self.greet(&mut client).await?;
        Ok((client, Ok(())))
    }

    /// Begins TLS by STARTTLS, or says why there is none.
    ///
    /// # Errors
    /// If the server says over TLS that it wants nothing of us.
    async fn start_tls(
        &self,
        resources: &OutboundResources,
        server: &Endpoint,
        client: &mut SmtpClient,
    ) -> Result<Result<(), ProtectionError>, Failure> {
        let not_supported =
            |detail: &str| ProtectionError::new(ResultType::StarttlsNotSupported, detail);
        if !client.capabilities().starttls {
            return Ok(Err(not_supported("the server does not offer STARTTLS")));
        }
        let connector = resources.connector(server);
        match client.start_tls(connector, name_for(server)).await {
            Ok(StartTls::Encrypted) => Ok(Ok(())),
            Ok(StartTls::Declined(reply)) => {
                let (code, text) = (reply.code(), reply.one_line());
                let detail = format!("the server declines STARTTLS: {code} {text}");
                Ok(Err(not_supported(&detail)))
            }
            // TLS works. An error of the connection may be the alert that ends a handshake of TLS 1.3.
            Err(failure) if failure.step != START_TLS && failure.is_refusal() => {
                Err(failure.into())
            }
            Err(failure) => Ok(Err(handshake_failed(failure))),
        }
    }

    /// Logs in, where that is configured, once the server has proven to be the one that may have the password.
    pub(super) async fn log_in(
        &self,
        server: &Endpoint,
        client: &mut SmtpClient,
    ) -> Result<Option<Mechanism>, LoginError> {
        let Some(login) = &server.login else {
            return Ok(None);
        };
        if let Err(error) = &login.credentials {
            return Err(error.clone().into());
        }
        let session = client.tls_session().ok_or(LoginError::NoTls)?;
        let chain = session.chain();
        // Rules may say whom they take for the server, and not who may have a password of the operator's.
        let name = match &login.host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        };
        may_have_password(&login.how, &name, &chain, &server.authorities)
            .map_err(LoginError::Unproven)?;
        client.log_in().await
    }

    /// A session that has been greeted, in plaintext.
    async fn greeted(
        &self,
        resources: &OutboundResources,
        server: &Endpoint,
    ) -> Result<SmtpClient, Failure> {
        let mut client = self.connected(resources, server).await?;
        self.greet(&mut client).await?;
        Ok(client)
    }

    async fn greet(&self, client: &mut SmtpClient) -> Result<(), Failure> {
        let name = client.greet().await?;
        if name.eq_ignore_ascii_case(&self.this_host.name) {
            return Err(Failure::Loop(client.peer().clone()));
        }
        Ok(())
    }

    /// A session on a connection that stands; nothing has been said.
    async fn connected(
        &self,
        resources: &OutboundResources,
        server: &Endpoint,
    ) -> Result<SmtpClient, Failure> {
        let stream = match server.connected.lock().await.take() {
            Some(stream) => stream,
            // It was used already: plaintext needs a connection of its own.
            None => self.connect_again(resources, server).await?,
        };
        let client_config = self.this_host.client_config(&resources.timeouts);
        let login = server.login.as_ref();
        let credentials = login.and_then(|login| login.credentials.as_ref().ok());
        let client = SmtpClient::new(Stream::Tcp(stream), server.peer.clone(), client_config);
        Ok(client.with_credentials(credentials))
    }

    async fn connect_again(
        &self,
        resources: &OutboundResources,
        server: &Endpoint,
    ) -> Result<TcpStream, Failure> {
        let limit = resources.timeouts.connect;
        let sources = &resources.config.source_addresses;
        let (connected, failed) = dial::connect(&[server.address], sources, limit).await;
        match (connected, failed.into_iter().next()) {
            (Some((_, stream)), _) => Ok(stream),
            (None, failed) => {
                Err(self
                    .this_host
                    .unanswered(&resources.timeouts, &server.peer, failed))
            }
        }
    }
}

/// The name that a server is asked for in the handshake.
fn name_for(server: &Endpoint) -> ServerName<'static> {
    // RFC 7672 §8.1: where there are TLSA records, the name that they stand below.
    let name = server.dane.base().or(server.candidate.name.as_deref());
    match name.map(|name| ServerName::try_from(name.to_owned())) {
        Some(Ok(name)) => name,
        // The server is there; only its name cannot be told to it.
        Some(Err(_)) | None => ServerName::from(server.address.ip()),
    }
}

fn handshake_failed(failure: ClientError) -> ProtectionError {
    let ClientError { step, cause, .. } = failure;
    let detail = match step {
        HANDSHAKE => format!("the TLS handshake failed: {cause}"),
        step => format!("{step}: {cause}"),
    };
    ProtectionError::new(ResultType::ValidationFailure, detail)
}

/// Why a transaction has not begun with a server.
enum Begun {
    /// The server said so, and its word counts.
    Refused(Box<SmtpClient>, Reply),
    /// Another one may do better.
    Failed(Failure),
}

impl From<Failure> for Begun {
    fn from(failure: Failure) -> Self {
        Begun::Failed(failure)
    }
}
