//! Outbound: mail of the organization, on its way to partners while its own server waits.
//!
//! The verdict says by which route and how protected. Servers are tried in order; whoever does not
//! show what it must is left, and nobody is ever given mail with less protection than was asked for.

pub mod dane;
pub mod dns;
mod failure;
pub mod mta_sts;
pub mod probe;
mod reachable;
mod route;
mod verify;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::config;
use crate::egress::client::{
    Audience, CONNECT, Cause, ClientConfig, ClientError, HANDSHAKE, MailError, Sender, SmtpClient,
    StartTls,
};
use crate::egress::dial;
use crate::egress::pool::{Permit, Pool, PooledConnection};
use crate::smtp::connection::Stream;
use crate::smtp::reply::Reply;
use crate::tls::{ClientTls, Pair, TlsError};
pub use dns::{Dns, SetupError};
pub use failure::{Failure, ProtectionError, ResultType};
use portcullis::tls::Authorities;
use portcullis::{Dane, MtaSts, Protection, tls_version_name};
pub use route::{Candidate, PartnerPath, Target};
use verify::Requirements;

/// What a server that did not get ready in its time was doing.
const READY: &str = "getting ready";
/// How long a connection that is not free is waited for while other partners wait already.
const HURRY: Duration = Duration::from_secs(1);

/// The way out, shared by all outbound listeners.
pub struct Outbound {
    hostname: Arc<str>,
    /// Where we listen ourselves, once we do.
    own: OnceLock<Vec<SocketAddr>>,
    resources: ArcSwap<OutboundResources>,
    pool: Arc<Pool>,
}

/// What a reload of the configuration exchanges.
pub struct OutboundResources {
    /// How mail leaves.
    pub config: Arc<config::Delivery>,
    timeouts: Arc<config::Timeouts>,
    dns: Arc<Dns>,
    authorities: Authorities,
    tls: ClientTls,
    mta_sts: Arc<mta_sts::PolicyCache>,
}

/// The way out cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum ResourcesError {
    /// The DNS cannot be asked.
    #[error("dns: {0}")]
    Dns(#[from] SetupError),
    /// The certificate for partners cannot be used.
    #[error("delivery: {0}")]
    Tls(#[from] TlsError),
}

impl OutboundResources {
    /// Reads what the configuration names. What is the same as before is taken over with all that it has learned; so is
    /// what cannot be read now, which the errors tell.
    ///
    /// # Errors
    /// If the DNS cannot be asked, or the certificate cannot be used, and there is nothing from before.
    pub fn new(
        config: &config::Config,
        authorities: Authorities,
        before: Option<&OutboundResources>,
    ) -> Result<(Self, Vec<ResourcesError>), ResourcesError> {
        let delivery = &config.delivery;
        let mut errors = Vec::new();
        let mut known = |error: ResourcesError| match before {
            Some(before) => {
                errors.push(error);
                Ok(before)
            }
            None => Err(error),
        };
        let tls = match (&delivery.certificate, &delivery.key) {
            (Some(certificate), Some(key)) => ClientTls::from_files(certificate, key),
            _ => ClientTls::anonymous().map_err(TlsError::Provider),
        };
        let tls = match tls {
            Ok(tls) => tls,
            Err(error) => known(error.into())?.tls.clone(),
        };
        let dns = dns::Questions::of(&config.dns).and_then(|questions| {
            let known = before.map(|before| &before.dns);
            match known.filter(|known| known.asks(&questions)) {
                Some(known) => Ok(known.clone()),
                None => Dns::new(questions).map(Arc::new),
            }
        });
        let dns = match dns {
            Ok(dns) => dns,
            Err(error) => known(error.into())?.dns.clone(),
        };
        let folder = delivery.state_folder().map(|folder| folder.join("mta-sts"));
        let port = delivery.mta_sts_port;
        let mta_sts = before.map(|before| &before.mta_sts);
        let mta_sts = match mta_sts.filter(|them| them.are_of(folder.as_deref(), port)) {
            Some(mta_sts) => mta_sts.clone(),
            None => Arc::new(mta_sts::PolicyCache::new(folder, port)),
        };
        let resources = OutboundResources {
            config: Arc::new(delivery.clone()),
            timeouts: Arc::new(config.timeouts.clone()),
            dns,
            authorities,
            tls,
            mta_sts,
        };
        Ok((resources, errors))
    }

    /// What holds for a domain by its MTA-STS policy.
    async fn mta_sts_of(&self, domain: &str) -> mta_sts::PolicyState {
        let reach = mta_sts::Reach {
            dns: self.dns.clone(),
            roots: self.authorities.public().clone(),
            delivery: self.config.clone(),
        };
        self.mta_sts.of(&reach, domain).await
    }

    /// The certificate that is shown to partners, with its key.
    pub fn identity(&self) -> Option<&Pair> {
        self.tls.identity()
    }

    /// Whether nothing has changed that a connection depends on.
    fn is_same(&self, other: &OutboundResources) -> bool {
        self.config == other.config
            && Arc::ptr_eq(&self.dns, &other.dns)
            && self.authorities == other.authorities
            && self.tls == other.tls
    }

    /// Whether mail may be sent to an address.
    fn may_connect(&self, ip: IpAddr) -> bool {
        reachable::may_connect(&self.config, ip)
    }
}

/// What became of the protection that was asked for.
#[derive(Clone, Debug)]
pub struct TlsOutcome {
    /// The TLS version, if there is TLS.
    pub version: Option<rustls::ProtocolVersion>,
    /// What the server lacks of what an audited connector asks for.
    pub audit: Option<ProtectionError>,
}

impl Outbound {
    /// The way out; nothing is connected yet.
    pub fn new(config: &config::Config, resources: OutboundResources) -> Self {
        let limits = config.connections.clone();
        let at_a_time = limits.per_route;
        Outbound {
            hostname: config.hostname.as_str().into(),
            own: OnceLock::new(),
            resources: ArcSwap::from_pointee(resources),
            pool: Pool::new(limits, Some(at_a_time)),
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
        // It is said once, when the sockets are bound.
        let _ = self.own.set(addresses);
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
            Ok(outcome) => return outcome,
            Err(permit) => permit,
        };
        let mut last_error = None;
        let mut servers = Servers::new(self, resources, path, deadline)
            .await
            .map_err(|failure| failure.reply())?;
        while let Some(server) = servers.next().await {
            let failure = match server {
                Ok(server) => match self.begin_with(resources, path, &server, sender).await {
                    Ok(relay) => return Ok(permit.used_by(relay)),
                    Err(Begun::Refused(relay, reply)) => {
                        permit.used_by(*relay).release();
                        return Err(reply);
                    }
                    Err(Begun::Failed(failure)) => failure,
                },
                Err(failure) => failure,
            };
            tracing::info!(
                connector = path.connector,
                "server skipped: {}",
                crate::observe::redact::redact(&failure.to_string())
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
            let mut relay = self.ready(resources, path, server).await?;
            match relay.mail(sender).await {
                Ok(()) => Ok(relay),
                Err(MailError::Refused(reply)) => Err(Begun::Refused(Box::new(relay), reply)),
                Err(MailError::Lost(failure)) => Err(Begun::Failed(failure.into())),
            }
        };
        let slow = || {
            self.client_config(resources)
                .failure(&server.peer, READY, Cause::TimedOut)
        };
        timeout_at(server.deadline, beginning)
            .await
            .unwrap_or_else(|_| Err(Begun::Failed(slow().into())))
    }

    fn client_config(&self, resources: &OutboundResources) -> ClientConfig {
        ClientConfig {
            hostname: self.hostname.clone(),
            lmtp: false,
            timeouts: resources.timeouts.clone(),
            audience: Audience::Internal,
        }
    }

    /// Gets a server ready for mail: connected, greeted, and as protected as it must be.
    async fn ready(
        &self,
        resources: &OutboundResources,
        path: &PartnerPath,
        server: &Endpoint,
    ) -> Result<SmtpClient, Failure> {
        let (relay, reached) = self.protect(resources, server, path.audit.as_ref()).await?;
        let audit = match (&path.audit, &reached.audit) {
            (None, _) => String::new(),
            (Some(_), None) => "satisfied".into(),
            (Some(_), Some(why)) => why.to_string(),
        };
        tracing::info!(
            hop = %relay.peer(),
            connector = path.connector,
            level = path.protection.level.name(),
            tls = reached.version.map(u16::from).and_then(tls_version_name).unwrap_or("unknown"),
            dane = server.dane.needs_tls(),
            mta_sts = server.mta_sts,
            audit,
            "connected"
        );
        Ok(relay)
    }

    /// Speaks with a server until it has shown what it must. Where nothing is asked for, and TLS is
    /// offered but does not work, plaintext is what opportunistic means.
    async fn protect(
        &self,
        resources: &OutboundResources,
        server: &Endpoint,
        audit: Option<&Protection>,
    ) -> Result<(SmtpClient, TlsOutcome), Failure> {
        let requirements = server.requirements();
        match self.try_tls(resources, server, &requirements, audit).await {
            Err(Failure::Unprotected { why, .. })
                if !requirements.need_tls() && why.result == ResultType::ValidationFailure =>
            {
                let told = why.to_string();
                tracing::warn!(hop = %server.peer, why = &*crate::observe::redact::redact(&told), "STARTTLS failed; continuing in plaintext (opportunistic)");
                let relay = self.greeted(resources, server).await?;
                let reached = TlsOutcome {
                    version: None,
                    audit: audit.map(|_| why),
                };
                Ok((relay, reached))
            }
            outcome => outcome,
        }
    }

    async fn try_tls(
        &self,
        resources: &OutboundResources,
        server: &Endpoint,
        requirements: &Requirements<'_>,
        audit: Option<&Protection>,
    ) -> Result<(SmtpClient, TlsOutcome), Failure> {
        let mut relay = self.greeted(resources, server).await?;
        let unprotected = |why| Failure::Unprotected {
            peer: server.peer.clone(),
            why,
        };
        if let Err(why) = self.start_tls(resources, server, &mut relay).await? {
            if requirements.need_tls() || why.result != ResultType::StarttlsNotSupported {
                relay.quit().await;
                return Err(unprotected(why));
            }
            let audit = audit
                .filter(|audited| server.audited(audited).need_tls())
                .map(|_| why);
            let reached = TlsOutcome {
                version: None,
                audit,
            };
            return Ok((relay, reached));
        }
        let session = relay.tls_session();
        let chain = session
            .and_then(|session| session.peer_certificates())
            .unwrap_or_default();
        let version = session.and_then(|session| session.protocol_version());
        let verify = |requirements: &Requirements| {
            requirements.verify(chain, version.map(u16::from), &resources.authorities)
        };
        let reached = TlsOutcome {
            version,
            audit: audit.and_then(|audited| verify(&server.audited(audited)).err()),
        };
        if let Err(why) = verify(requirements) {
            relay.quit().await;
            return Err(unprotected(why));
        }
        Ok((relay, reached))
    }

    /// Begins TLS. The inner error says why there is none; what else goes wrong is no matter of TLS.
    async fn start_tls(
        &self,
        resources: &OutboundResources,
        server: &Endpoint,
        relay: &mut SmtpClient,
    ) -> Result<Result<(), ProtectionError>, Failure> {
        if !relay.capabilities().starttls {
            let detail = "the server does not offer STARTTLS";
            return Ok(Err(ProtectionError::new(
                ResultType::StarttlsNotSupported,
                detail,
            )));
        }
        let broken = |detail: String| ProtectionError::new(ResultType::ValidationFailure, detail);
        // RFC 7672 §8.1: where there are TLSA records, the name that they stand below.
        let name = server.dane.base().or(server.candidate.name.as_deref());
        let name = match name.map(|name| ServerName::try_from(name.to_owned())) {
            Some(Ok(name)) => name,
            // The server is there; only its name cannot be told to it.
            Some(Err(_)) | None => ServerName::from(server.address.ip()),
        };
        match relay.start_tls(resources.tls.connector(), name).await {
            Ok(StartTls::Encrypted) => Ok(Ok(())),
            Ok(StartTls::Declined(reply)) => {
                let detail = format!(
                    "the server declines STARTTLS: {} {}",
                    reply.code(),
                    reply.one_line()
                );
                Ok(Err(ProtectionError::new(
                    ResultType::StarttlsNotSupported,
                    detail,
                )))
            }
            Err(failure) => {
                let ClientError { step, cause, .. } = &failure;
                let detail = match *step {
                    HANDSHAKE => format!("the TLS handshake failed: {cause}"),
                    step => format!("{step}: {cause}"),
                };
                Ok(Err(broken(detail)))
            }
        }
    }

    /// A session that has been greeted, in plaintext.
    async fn greeted(
        &self,
        resources: &OutboundResources,
        server: &Endpoint,
    ) -> Result<SmtpClient, Failure> {
        let stream = match server.connected.lock().await.take() {
            Some(stream) => stream,
            // It was used already: plaintext needs a connection of its own.
            None => self.connect_again(resources, server).await?,
        };
        let mut relay = SmtpClient::new(
            Stream::Tcp(stream),
            server.peer.clone(),
            self.client_config(resources),
        );
        let name = relay.greet().await?;
        if name.eq_ignore_ascii_case(&self.hostname) {
            return Err(Failure::Loop(server.peer.clone()));
        }
        Ok(relay)
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
            (None, failed) => Err(self.unanswered(resources, &server.peer, failed)),
        }
    }

    fn unanswered(
        &self,
        resources: &OutboundResources,
        peer: &Arc<str>,
        failed: Option<dial::Unanswered>,
    ) -> Failure {
        let cause = failed
            .and_then(|failed| failed.error)
            .map_or(Cause::TimedOut, Cause::from);
        self.client_config(resources)
            .failure(peer, CONNECT, cause)
            .into()
    }

    /// Whether an address is one on which we listen ourselves.
    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.get().into_iter().flatten().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip()
                    || own.ip().is_unspecified() && reachable::is_local(address.ip()))
        })
    }
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

/// A server at one of its addresses, with all that it must show.
pub struct Endpoint {
    /// The server.
    pub candidate: Arc<Candidate>,
    /// The address.
    pub address: SocketAddr,
    /// Both, for the log.
    pub peer: Arc<str>,
    /// The connection to it, until it is used.
    connected: Mutex<Option<TcpStream>>,
    /// When it must be ready, so that the others have their time as well.
    deadline: Instant,
    protection: Protection,
    dane: Arc<dane::Demand>,
    mta_sts: bool,
    domains: Arc<[String]>,
}

impl Endpoint {
    fn requirements(&self) -> Requirements<'_> {
        self.requirements_at(&self.protection)
    }

    /// What an audited connector would ask for.
    fn audited<'a>(&'a self, audited: &'a Protection) -> Requirements<'a> {
        self.requirements_at(audited)
    }

    fn requirements_at<'a>(&'a self, protection: &'a Protection) -> Requirements<'a> {
        Requirements {
            protection,
            dane: &self.dane,
            mta_sts: self.mta_sts,
            host: self.candidate.name.as_deref(),
            domains: &self.domains,
        }
    }
}

/// A server with those of its addresses that were not tried yet.
struct Untried {
    candidate: Arc<Candidate>,
    addresses: Vec<SocketAddr>,
    dane: Arc<dane::Demand>,
    mta_sts: bool,
    domains: Arc<[String]>,
}

/// The servers of a path, one address after another, each with its share of the time.
struct Servers<'a> {
    outbound: &'a Outbound,
    resources: &'a OutboundResources,
    path: &'a PartnerPath,
    deadline: Instant,
    policy: Option<mta_sts::Policy>,
    stops: VecDeque<route::MxHost>,
    at: Option<Untried>,
    /// Addresses that did not answer, of which nothing was said yet.
    failures: VecDeque<Failure>,
}

impl<'a> Servers<'a> {
    async fn new(
        outbound: &'a Outbound,
        resources: &'a OutboundResources,
        path: &'a PartnerPath,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let port = resources.config.port;
        let stops = route::stops(&resources.dns, &path.target, port, &outbound.hostname).await?;
        let policy = match (&path.target, path.protection.mta_sts) {
            (Target::Mx(domain), MtaSts::Opportunistic) => {
                let state = resources.mta_sts_of(domain).await;
                match state.last_error {
                    Some(why) if state.is_undecided => {
                        let peer = domain.as_str().into();
                        return Err(Failure::Unprotected { peer, why });
                    }
                    _ => state.policy,
                }
            }
            _ => None,
        };
        Ok(Servers {
            outbound,
            resources,
            path,
            deadline,
            policy,
            stops: stops.into(),
            at: None,
            failures: VecDeque::new(),
        })
    }

    /// The next server, connected, or why it is not one; `None` after the last.
    async fn next(&mut self) -> Option<Result<Endpoint, Failure>> {
        loop {
            if let Some(failure) = self.failures.pop_front() {
                return Some(Err(failure));
            }
            if let Some(untried) = self.at.take() {
                if let Some(approach) = self.connect(untried).await {
                    return Some(Ok(approach));
                }
                continue;
            }
            let stop = self.stops.pop_front()?;
            let share = self.share(1);
            let slow = || Failure::TimedOut(stop.name().unwrap_or("a server").to_owned());
            let looked_up = timeout_at(share, self.look_up(&stop)).await;
            match looked_up.unwrap_or_else(|_| Err(slow())) {
                Ok(untried) => self.at = Some(untried),
                Err(failure) => {
                    if let (Failure::Loop(_), Some(own)) = (&failure, stop.preference()) {
                        // RFC 5321 §5.1: whoever is an exchanger passes mail on to better ones only.
                        let is_better = |stop: &route::MxHost| stop.preference() < Some(own);
                        self.stops.retain(is_better);
                    }
                    return Some(Err(failure));
                }
            }
        }
    }

    /// When an attempt must have ended, if so many may follow at the same server and one at each of the others.
    fn share(&self, attempts: usize) -> Instant {
        let attempts = u32::try_from(attempts + self.stops.len()).unwrap_or(u32::MAX);
        let now = Instant::now();
        now + self.deadline.saturating_duration_since(now) / attempts.max(1)
    }

    /// Connects to whichever address answers first. Those that have failed are not tried again.
    async fn connect(&mut self, mut untried: Untried) -> Option<Endpoint> {
        let deadline = self.share(untried.addresses.len());
        let limit = deadline.saturating_duration_since(Instant::now());
        let limit = limit.min(self.resources.timeouts.connect);
        let sources = &self.resources.config.source_addresses;
        let (connected, failed) = dial::connect(&untried.addresses, sources, limit).await;
        let mut gone: Vec<usize> = failed.iter().map(|failed| failed.number).collect();
        for failed in failed {
            if let Some(address) = untried.addresses.get(failed.number) {
                let peer = untried.candidate.place(*address).into();
                let failure = self
                    .outbound
                    .unanswered(self.resources, &peer, Some(failed));
                self.failures.push_back(failure);
            }
        }
        let (number, stream) = connected?;
        let address = *untried.addresses.get(number)?;
        gone.push(number);
        let approach = Endpoint {
            candidate: untried.candidate.clone(),
            address,
            peer: untried.candidate.place(address).into(),
            connected: Mutex::new(Some(stream)),
            deadline,
            protection: self.path.protection.clone(),
            dane: untried.dane.clone(),
            mta_sts: untried.mta_sts,
            domains: untried.domains.clone(),
        };
        let mut number = 0;
        untried.addresses.retain(|_| {
            number += 1;
            !gone.contains(&(number - 1))
        });
        self.at = (!untried.addresses.is_empty()).then_some(untried);
        Some(approach)
    }

    async fn look_up(&self, stop: &route::MxHost) -> Result<Untried, Failure> {
        let mta_sts = self.mta_sts(stop)?;
        let family = self.resources.config.address_family;
        let candidate = stop.resolve(&self.resources.dns, family).await?;
        let addresses = self.allowed(stop, &candidate)?;
        let dane = self.dane(&candidate).await?;
        let domains = match candidate.secure {
            true => stop.domains().into(),
            false => Arc::default(),
        };
        Ok(Untried {
            candidate: Arc::new(candidate),
            addresses,
            dane: Arc::new(dane),
            mta_sts,
            domains,
        })
    }

    /// Those addresses of a server that mail may be sent to.
    fn allowed(
        &self,
        stop: &route::MxHost,
        candidate: &Candidate,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let all = &candidate.addresses;
        if let Some(own) = all.iter().find(|address| self.outbound.is_own(**address)) {
            return Err(Failure::Loop(candidate.place(*own).into()));
        }
        let allowed: Vec<SocketAddr> = all
            .iter()
            .copied()
            .filter(|address| self.resources.may_connect(address.ip()))
            .collect();
        match (allowed.is_empty(), all.first()) {
            (true, Some(address)) => Err(Failure::NotPublic {
                peer: candidate.place(*address).into(),
                is_named_by_rules: stop.is_named_by_rules(),
            }),
            _ => Ok(allowed),
        }
    }

    /// Whether the domain's MTA-STS policy binds us with this server.
    fn mta_sts(&self, stop: &route::MxHost) -> Result<bool, Failure> {
        let Some(policy) = &self.policy else {
            return Ok(false);
        };
        let allowed = stop.name().is_some_and(|name| policy.allows(name));
        let not_allowed = || {
            let domain = &self.path.target;
            let detail = format!("the MTA-STS policy of {domain} does not name this server");
            ProtectionError::new(ResultType::ValidationFailure, detail)
        };
        let peer = || stop.name().unwrap_or("a server without a name");
        match policy.mode {
            mta_sts::Mode::None => Ok(false),
            mta_sts::Mode::Testing => {
                if !allowed {
                    tracing::warn!(hop = peer(), "MTA-STS in testing mode: {}", not_allowed());
                }
                Ok(false)
            }
            mta_sts::Mode::Enforce if allowed => Ok(true),
            mta_sts::Mode::Enforce => Err(Failure::Unprotected {
                peer: peer().into(),
                why: not_allowed(),
            }),
        }
    }

    async fn dane(&self, candidate: &Candidate) -> Result<dane::Demand, Failure> {
        let mode = self.path.protection.dane;
        let port = candidate.addresses.first().map_or(25, SocketAddr::port);
        let (Some(name), Some(end)) = (&candidate.name, &candidate.canonical) else {
            if mode == Dane::Mandatory {
                return Err(Failure::Impossible(format!(
                    "DANE is mandatory, and {} has no name that TLSA records could be at",
                    candidate.label()
                )));
            }
            return Ok(dane::Demand::None);
        };
        let dns = &self.resources.dns;
        let is_looked_at = mode != Dane::None;
        // RFC 7672 §2.2.2: the name at the end of the aliases first. Where the zone of that is not signed, the alias is
        // what its owner vouches for.
        let bases = match candidate.secure {
            true => &[end.as_str(), name][usize::from(end == name)..],
            false if is_looked_at && candidate.leads_out && dns.is_proven_alias(name).await? => {
                &[name.as_str()]
            }
            false => &[],
        };
        let demand = dane::Demand::of(dns, mode, name, bases, port);
        demand.await.map_err(|why| Failure::Unprotected {
            peer: name.as_str().into(),
            why,
        })
    }
}
