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
    CONNECT, Cause, HANDSHAKE, HopFailure, Manner, NotBegun, Relay, Sender, StartTls, Told,
};
use crate::egress::dial;
use crate::egress::pool::{Lease, Pool, Turn};
use crate::smtp::connection::Stream;
use crate::smtp::reply::Reply;
use crate::tls::{ClientTls, Pair, TlsError};
pub use dns::{Dns, SetupError};
pub use failure::{Failure, ResultType, Unprotected};
use portcullis::tls::Authorities;
use portcullis::{Dane, MtaSts, Protection, tls_version_name};
pub use route::{Candidate, Lane, Target};
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
    means: ArcSwap<Means>,
    pool: Arc<Pool>,
}

/// What a reload of the configuration exchanges.
pub struct Means {
    /// How mail leaves.
    pub config: Arc<config::Delivery>,
    timeouts: Arc<config::Timeouts>,
    dns: Arc<Dns>,
    authorities: Authorities,
    tls: ClientTls,
    mta_sts: Arc<mta_sts::Policies>,
}

/// The way out cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum MeansError {
    /// The DNS cannot be asked.
    #[error("dns: {0}")]
    Dns(#[from] SetupError),
    /// The certificate for partners cannot be used.
    #[error("delivery: {0}")]
    Tls(#[from] TlsError),
}

impl Means {
    /// Reads what the configuration names. What is the same as before is taken over with all that it has learned; so is
    /// what cannot be read now, which the errors tell.
    ///
    /// # Errors
    /// If the DNS cannot be asked, or the certificate cannot be used, and there is nothing from before.
    pub fn new(
        config: &config::Config,
        authorities: Authorities,
        before: Option<&Means>,
    ) -> Result<(Self, Vec<MeansError>), MeansError> {
        let delivery = &config.delivery;
        let mut errors = Vec::new();
        let mut known = |error: MeansError| match before {
            Some(before) => {
                errors.push(error);
                Ok(before)
            }
            None => Err(error),
        };
        let tls = match &delivery.identity {
            Some(files) => ClientTls::from_files(files),
            None => ClientTls::anonymous().map_err(TlsError::Provider),
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
            None => Arc::new(mta_sts::Policies::new(folder, port)),
        };
        let means = Means {
            config: Arc::new(delivery.clone()),
            timeouts: Arc::new(config.timeouts.clone()),
            dns,
            authorities,
            tls,
            mta_sts,
        };
        Ok((means, errors))
    }

    /// What holds for a domain by its MTA-STS policy.
    async fn mta_sts_of(&self, domain: &str) -> mta_sts::Standing {
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
    fn is_same(&self, other: &Means) -> bool {
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
pub struct Reached {
    /// The TLS version, if there is TLS.
    pub version: Option<rustls::ProtocolVersion>,
    /// What the server lacks of what an audited connector asks for.
    pub audit: Option<Unprotected>,
}

impl Outbound {
    /// The way out; nothing is connected yet.
    pub fn new(config: &config::Config, means: Means) -> Self {
        let limits = config.connections.clone();
        let at_a_time = limits.per_route;
        Outbound {
            hostname: config.hostname.as_str().into(),
            own: OnceLock::new(),
            means: ArcSwap::from_pointee(means),
            pool: Pool::new(limits, Some(at_a_time)),
        }
    }

    /// Takes over what has changed. Connections that were made by what held before are let go.
    pub fn exchange(&self, means: Means) {
        let is_same = self.means.load().is_same(&means);
        self.means.store(Arc::new(means));
        if !is_same {
            self.pool.clear();
            tracing::info!("the way out has changed");
        }
    }

    /// What it does its work with now.
    pub fn means(&self) -> Arc<Means> {
        self.means.load_full()
    }

    /// Removes what is kept of domains and is over.
    pub async fn tidy(&self) {
        let mta_sts = self.means.load().mta_sts.clone();
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

    /// Begins a transaction with a server of the lane. Whoever is in a hurry, because other partners wait already,
    /// does not queue up for a connection.
    ///
    /// # Errors
    /// What our client is told.
    pub async fn begin(
        &self,
        lane: &Lane,
        sender: Sender<'_>,
        is_in_a_hurry: bool,
    ) -> Result<Lease, Reply> {
        let means = self.means.load_full();
        let deadline = Instant::now() + means.timeouts.route;
        let patience = match is_in_a_hurry {
            true => HURRY,
            false => means.timeouts.route / 2,
        };
        let Some(turn) = self.pool.turn(lane.key(), patience).await else {
            return Err(Failure::Busy(lane.target.to_string()).reply());
        };
        let connecting = self.begin_on(turn, &means, lane, sender, deadline);
        match timeout_at(deadline, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::TimedOut(lane.target.to_string()).reply()),
        }
    }

    async fn begin_on(
        &self,
        turn: Turn,
        means: &Means,
        lane: &Lane,
        sender: Sender<'_>,
        deadline: Instant,
    ) -> Result<Lease, Reply> {
        let turn = match turn.reuse(sender).await {
            Ok(outcome) => return outcome,
            Err(turn) => turn,
        };
        let mut trouble = None;
        let mut servers = Servers::new(self, means, lane, deadline)
            .await
            .map_err(|failure| failure.reply())?;
        while let Some(server) = servers.next().await {
            let failure = match server {
                Ok(server) => match self.begin_with(means, lane, &server, sender).await {
                    Ok(relay) => return Ok(turn.lease(relay)),
                    Err(Begun::Refused(relay, reply)) => {
                        turn.lease(*relay).release();
                        return Err(reply);
                    }
                    Err(Begun::Failed(failure)) => failure,
                },
                Err(failure) => failure,
            };
            tracing::info!(
                connector = lane.connector,
                "server skipped: {}",
                crate::observe::redact::words(&failure.to_string())
            );
            trouble = Some(failure.or(trouble));
        }
        let nowhere = || Failure::NoHosts(lane.target.to_string());
        Err(trouble.unwrap_or_else(nowhere).reply())
    }

    /// Begins a transaction with a server, in the time that it has.
    async fn begin_with(
        &self,
        means: &Means,
        lane: &Lane,
        server: &Approach,
        sender: Sender<'_>,
    ) -> Result<Relay, Begun> {
        let beginning = async {
            let mut relay = self.ready(means, lane, server).await?;
            match relay.mail(sender).await {
                Ok(()) => Ok(relay),
                Err(NotBegun::Refused(reply)) => Err(Begun::Refused(Box::new(relay), reply)),
                Err(NotBegun::Lost(failure)) => Err(Begun::Failed(failure.into())),
            }
        };
        let slow = || {
            self.manner(means)
                .failure(&server.place, READY, Cause::TimedOut)
        };
        timeout_at(server.deadline, beginning)
            .await
            .unwrap_or_else(|_| Err(Begun::Failed(slow().into())))
    }

    fn manner(&self, means: &Means) -> Manner {
        Manner {
            hostname: self.hostname.clone(),
            lmtp: false,
            timeouts: means.timeouts.clone(),
            told: Told::Own,
        }
    }

    /// Gets a server ready for mail: connected, greeted, and as protected as it must be.
    async fn ready(&self, means: &Means, lane: &Lane, server: &Approach) -> Result<Relay, Failure> {
        let (relay, reached) = self.protect(means, server, lane.audit.as_ref()).await?;
        let audit = match (&lane.audit, &reached.audit) {
            (None, _) => String::new(),
            (Some(_), None) => "satisfied".into(),
            (Some(_), Some(why)) => why.to_string(),
        };
        tracing::info!(
            hop = %relay.place(),
            connector = lane.connector,
            level = lane.protection.level.name(),
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
        means: &Means,
        server: &Approach,
        audit: Option<&Protection>,
    ) -> Result<(Relay, Reached), Failure> {
        let requirements = server.requirements();
        match self.try_tls(means, server, &requirements, audit).await {
            Err(Failure::Unprotected { why, .. })
                if !requirements.need_tls() && why.result == ResultType::ValidationFailure =>
            {
                let told = why.to_string();
                tracing::warn!(hop = %server.place, why = &*crate::observe::redact::words(&told), "STARTTLS failed; continuing in plaintext (opportunistic)");
                let relay = self.greeted(means, server).await?;
                let reached = Reached {
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
        means: &Means,
        server: &Approach,
        requirements: &Requirements<'_>,
        audit: Option<&Protection>,
    ) -> Result<(Relay, Reached), Failure> {
        let mut relay = self.greeted(means, server).await?;
        let unprotected = |why| Failure::Unprotected {
            place: server.place.clone(),
            why,
        };
        if let Err(why) = self.start_tls(means, server, &mut relay).await? {
            if requirements.need_tls() || why.result != ResultType::StarttlsNotSupported {
                relay.quit().await;
                return Err(unprotected(why));
            }
            let audit = audit
                .filter(|audited| server.audited(audited).need_tls())
                .map(|_| why);
            let reached = Reached {
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
        let judge = |requirements: &Requirements| {
            requirements.verify(chain, version.map(u16::from), &means.authorities)
        };
        let reached = Reached {
            version,
            audit: audit.and_then(|audited| judge(&server.audited(audited)).err()),
        };
        if let Err(why) = judge(requirements) {
            relay.quit().await;
            return Err(unprotected(why));
        }
        Ok((relay, reached))
    }

    /// Begins TLS. The inner error says why there is none; what else goes wrong is no matter of TLS.
    async fn start_tls(
        &self,
        means: &Means,
        server: &Approach,
        relay: &mut Relay,
    ) -> Result<Result<(), Unprotected>, Failure> {
        if !relay.capabilities().starttls {
            let detail = "the server does not offer STARTTLS";
            return Ok(Err(Unprotected::new(
                ResultType::StarttlsNotSupported,
                detail,
            )));
        }
        let broken = |detail: String| Unprotected::new(ResultType::ValidationFailure, detail);
        // RFC 7672 §8.1: where there are TLSA records, the name that they stand below.
        let name = server.dane.base().or(server.candidate.name.as_deref());
        let name = match name.map(|name| ServerName::try_from(name.to_owned())) {
            Some(Ok(name)) => name,
            // The server is there; only its name cannot be told to it.
            Some(Err(_)) | None => ServerName::from(server.address.ip()),
        };
        match relay.start_tls(means.tls.connector(), name).await {
            Ok(StartTls::Encrypted) => Ok(Ok(())),
            Ok(StartTls::Declined(reply)) => {
                let detail = format!(
                    "the server declines STARTTLS: {} {}",
                    reply.code(),
                    reply.one_line()
                );
                Ok(Err(Unprotected::new(
                    ResultType::StarttlsNotSupported,
                    detail,
                )))
            }
            Err(failure) => {
                let HopFailure { step, cause, .. } = &failure;
                let detail = match *step {
                    HANDSHAKE => format!("the TLS handshake failed: {cause}"),
                    step => format!("{step}: {cause}"),
                };
                Ok(Err(broken(detail)))
            }
        }
    }

    /// A session that has been greeted, in plaintext.
    async fn greeted(&self, means: &Means, server: &Approach) -> Result<Relay, Failure> {
        let stream = match server.connected.lock().await.take() {
            Some(stream) => stream,
            // It was used already: plaintext needs a connection of its own.
            None => self.connect_again(means, server).await?,
        };
        let mut relay = Relay::new(
            Stream::Tcp(stream),
            server.place.clone(),
            self.manner(means),
        );
        let name = relay.greet().await?;
        if name.eq_ignore_ascii_case(&self.hostname) {
            return Err(Failure::Loop(server.place.clone()));
        }
        Ok(relay)
    }

    async fn connect_again(&self, means: &Means, server: &Approach) -> Result<TcpStream, Failure> {
        let limit = means.timeouts.connect;
        let sources = &means.config.source_addresses;
        let (connected, failed) = dial::connect(&[server.address], sources, limit).await;
        match (connected, failed.into_iter().next()) {
            (Some((_, stream)), _) => Ok(stream),
            (None, failed) => Err(self.unanswered(means, &server.place, failed)),
        }
    }

    fn unanswered(
        &self,
        means: &Means,
        place: &Arc<str>,
        failed: Option<dial::Unanswered>,
    ) -> Failure {
        let cause = failed
            .and_then(|failed| failed.error)
            .map_or(Cause::TimedOut, Cause::from);
        self.manner(means).failure(place, CONNECT, cause).into()
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
    Refused(Box<Relay>, Reply),
    /// Another one may do better.
    Failed(Failure),
}

impl From<Failure> for Begun {
    fn from(failure: Failure) -> Self {
        Begun::Failed(failure)
    }
}

/// A server at one of its addresses, with all that it must show.
pub struct Approach {
    /// The server.
    pub candidate: Arc<Candidate>,
    /// The address.
    pub address: SocketAddr,
    /// Both, for the log.
    pub place: Arc<str>,
    /// The connection to it, until it is used.
    connected: Mutex<Option<TcpStream>>,
    /// When it must be ready, so that the others have their time as well.
    deadline: Instant,
    protection: Protection,
    dane: Arc<dane::Demand>,
    mta_sts: bool,
    domains: Arc<[String]>,
}

impl Approach {
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

/// The servers of a lane, one address after another, each with its share of the time.
struct Servers<'a> {
    outbound: &'a Outbound,
    means: &'a Means,
    lane: &'a Lane,
    deadline: Instant,
    policy: Option<mta_sts::Policy>,
    stops: VecDeque<route::Stop>,
    at: Option<Untried>,
    /// Addresses that did not answer, of which nothing was said yet.
    failures: VecDeque<Failure>,
}

impl<'a> Servers<'a> {
    async fn new(
        outbound: &'a Outbound,
        means: &'a Means,
        lane: &'a Lane,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let port = means.config.port;
        let stops = route::stops(&means.dns, &lane.target, port, &outbound.hostname).await?;
        let policy = match (&lane.target, lane.protection.mta_sts) {
            (Target::Mx(domain), MtaSts::Opportunistic) => {
                let standing = means.mta_sts_of(domain).await;
                match standing.trouble {
                    Some(why) if standing.is_undecided => {
                        let place = domain.as_str().into();
                        return Err(Failure::Unprotected { place, why });
                    }
                    _ => standing.policy,
                }
            }
            _ => None,
        };
        Ok(Servers {
            outbound,
            means,
            lane,
            deadline,
            policy,
            stops: stops.into(),
            at: None,
            failures: VecDeque::new(),
        })
    }

    /// The next server, connected, or why it is not one; `None` after the last.
    async fn next(&mut self) -> Option<Result<Approach, Failure>> {
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
                        let is_better = |stop: &route::Stop| stop.preference() < Some(own);
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
    async fn connect(&mut self, mut untried: Untried) -> Option<Approach> {
        let deadline = self.share(untried.addresses.len());
        let limit = deadline.saturating_duration_since(Instant::now());
        let limit = limit.min(self.means.timeouts.connect);
        let sources = &self.means.config.source_addresses;
        let (connected, failed) = dial::connect(&untried.addresses, sources, limit).await;
        let mut gone: Vec<usize> = failed.iter().map(|failed| failed.number).collect();
        for failed in failed {
            if let Some(address) = untried.addresses.get(failed.number) {
                let place = untried.candidate.place(*address).into();
                let failure = self.outbound.unanswered(self.means, &place, Some(failed));
                self.failures.push_back(failure);
            }
        }
        let (number, stream) = connected?;
        let address = *untried.addresses.get(number)?;
        gone.push(number);
        let approach = Approach {
            candidate: untried.candidate.clone(),
            address,
            place: untried.candidate.place(address).into(),
            connected: Mutex::new(Some(stream)),
            deadline,
            protection: self.lane.protection.clone(),
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

    async fn look_up(&self, stop: &route::Stop) -> Result<Untried, Failure> {
        let mta_sts = self.mta_sts(stop)?;
        let family = self.means.config.address_family;
        let candidate = stop.resolve(&self.means.dns, family).await?;
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
        stop: &route::Stop,
        candidate: &Candidate,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let all = &candidate.addresses;
        if let Some(own) = all.iter().find(|address| self.outbound.is_own(**address)) {
            return Err(Failure::Loop(candidate.place(*own).into()));
        }
        let allowed: Vec<SocketAddr> = all
            .iter()
            .copied()
            .filter(|address| self.means.may_connect(address.ip()))
            .collect();
        match (allowed.is_empty(), all.first()) {
            (true, Some(address)) => Err(Failure::NotPublic {
                place: candidate.place(*address).into(),
                is_named_by_rules: stop.is_named_by_rules(),
            }),
            _ => Ok(allowed),
        }
    }

    /// Whether the domain's MTA-STS policy binds us with this server.
    fn mta_sts(&self, stop: &route::Stop) -> Result<bool, Failure> {
        let Some(policy) = &self.policy else {
            return Ok(false);
        };
        let allowed = stop.name().is_some_and(|name| policy.allows(name));
        let not_allowed = || {
            let domain = &self.lane.target;
            let detail = format!("the MTA-STS policy of {domain} does not name this server");
            Unprotected::new(ResultType::ValidationFailure, detail)
        };
        let place = || stop.name().unwrap_or("a server without a name");
        match policy.mode {
            mta_sts::Mode::None => Ok(false),
            mta_sts::Mode::Testing => {
                if !allowed {
                    tracing::warn!(hop = place(), "MTA-STS in testing mode: {}", not_allowed());
                }
                Ok(false)
            }
            mta_sts::Mode::Enforce if allowed => Ok(true),
            mta_sts::Mode::Enforce => Err(Failure::Unprotected {
                place: place().into(),
                why: not_allowed(),
            }),
        }
    }

    async fn dane(&self, candidate: &Candidate) -> Result<dane::Demand, Failure> {
        let mode = self.lane.protection.dane;
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
        let dns = &self.means.dns;
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
            place: name.as_str().into(),
            why,
        })
    }
}
