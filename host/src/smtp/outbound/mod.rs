//! Outbound: mail of the organization, on its way to partners while its own server waits.
//!
//! The verdict says by which route and how protected. Servers are tried in order; whoever does not
//! show what it must is left, and nobody is ever given mail with less protection than was asked for.

pub mod dane;
pub mod dns;
mod failure;
mod judge;
pub mod mta_sts;
pub mod probe;
mod route;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::Stream;
use super::pool::{Lease, Pool};
use super::relay::{
    CONNECT, Cause, HANDSHAKE, HopFailure, Manner, NotBegun, Relay, Sender, StartTls, Told,
};
use super::reply::Reply;
use crate::config;
use crate::log;
use crate::sandbox::interface::{Dane, MtaSts, Protection};
use crate::tls::{ClientTls, Roots, TlsError};
pub use dns::{Dns, SetupError};
pub use failure::{Failure, ResultType, Unprotected};
use judge::Demands;
pub use route::{Candidate, Lane, Target};

/// The way out, shared by all outbound listeners.
pub struct Outbound {
    manner: Manner,
    /// Where we listen ourselves, once we do.
    own: OnceLock<Vec<SocketAddr>>,
    means: ArcSwap<Means>,
    pool: Arc<Pool>,
    mta_sts: mta_sts::Policies,
}

/// What a reload of the configuration exchanges.
pub struct Means {
    /// How mail leaves.
    pub config: config::Delivery,
    dns_config: config::Dns,
    dns: Arc<Dns>,
    roots: Roots,
    tls: ClientTls,
    provider: Arc<CryptoProvider>,
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
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// If the DNS cannot be asked, or the certificate cannot be used.
    pub fn new(config: &config::Config, roots: Roots) -> Result<Self, MeansError> {
        let delivery = &config.delivery;
        let tls = match (&delivery.certificate, &delivery.key) {
            (Some(certificate), Some(key)) => ClientTls::from_files(certificate, key)?,
            _ => ClientTls::anonymous().map_err(TlsError::Provider)?,
        };
        Ok(Means {
            config: delivery.clone(),
            dns_config: config.dns.clone(),
            dns: Arc::new(Dns::new(&config.dns)?),
            roots,
            tls,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        })
    }

    /// Whether nothing has changed that a connection depends on.
    fn is_same(&self, other: &Means) -> bool {
        self.config == other.config
            && self.dns_config == other.dns_config
            && self.roots == other.roots
            && self.tls == other.tls
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
        let manner = Manner {
            hostname: config.hostname.as_str().into(),
            lmtp: false,
            timeouts: Arc::new(config.timeouts.clone()),
            told: Told::Own,
        };
        let limits = config.connections.clone();
        let at_a_time = limits.per_route;
        Outbound {
            manner,
            own: OnceLock::new(),
            mta_sts: mta_sts::Policies::new(
                config.delivery.state_folder(),
                config.delivery.mta_sts_port,
            ),
            means: ArcSwap::from_pointee(means),
            pool: Pool::new(limits, Some(at_a_time)),
        }
    }

    /// Takes over what has changed. Connections that were made by what held before are let go.
    pub fn exchange(&self, means: Means) {
        if !self.means.load().is_same(&means) {
            self.means.store(Arc::new(means));
            self.pool.clear();
            tracing::info!("the way out has changed");
        }
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

    /// Begins a transaction with a server of the lane.
    ///
    /// # Errors
    /// What our client is told.
    pub async fn begin(&self, lane: &Lane, sender: Sender<'_>) -> Result<Lease, Reply> {
        let deadline = Instant::now() + self.manner.timeouts.route;
        match timeout_at(deadline, self.begin_in_time(lane, sender)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::TimedOut(lane.target.to_string()).reply()),
        }
    }

    async fn begin_in_time(&self, lane: &Lane, sender: Sender<'_>) -> Result<Lease, Reply> {
        let patience = self.manner.timeouts.route / 2;
        let Some(turn) = self.pool.turn(lane.key(), patience).await else {
            return Err(Failure::Busy(lane.target.to_string()).reply());
        };
        let turn = match turn.reuse(sender).await {
            Ok(outcome) => return outcome,
            Err(turn) => turn,
        };
        let means = self.means.load_full();
        let mut trouble = None;
        let mut servers = Servers::new(self, &means, lane)
            .await
            .map_err(|failure| failure.reply())?;
        while let Some(server) = servers.next().await {
            let outcome = match server {
                Ok(server) => self.ready(&means, lane, &server).await,
                Err(failure) => Err(failure),
            };
            let failure = match outcome {
                Ok(mut relay) => match relay.mail(sender).await {
                    Ok(()) => return Ok(turn.lease(relay)),
                    Err(NotBegun::Refused(reply)) => {
                        turn.lease(relay).release();
                        return Err(reply);
                    }
                    Err(NotBegun::Lost(failure)) => failure.into(),
                },
                Err(failure) => failure,
            };
            tracing::info!(
                connector = lane.connector,
                "a server was left: {}",
                log::words(&failure.to_string())
            );
            trouble = Some(failure.or(trouble));
        }
        let nowhere = || Failure::NoHosts(lane.target.to_string());
        Err(trouble.unwrap_or_else(nowhere).reply())
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
            level = crate::json::level_name(&lane.protection.level),
            tls = crate::json::tls_version_name(reached.version.map_or(0, u16::from)),
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
        let demands = server.demands();
        match self.try_tls(means, server, &demands, audit).await {
            Err(Failure::Unprotected { why, .. })
                if !demands.need_tls() && why.result == ResultType::ValidationFailure =>
            {
                let told = why.to_string();
                tracing::warn!(hop = %server.place, why = &*log::words(&told), "TLS is offered and does not work, going on without");
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
        demands: &Demands<'_>,
        audit: Option<&Protection>,
    ) -> Result<(Relay, Reached), Failure> {
        let mut relay = self.greeted(means, server).await?;
        let unprotected = |why| Failure::Unprotected {
            place: server.place.clone(),
            why,
        };
        if let Err(why) = self.start_tls(means, server, &mut relay).await? {
            if demands.need_tls() || why.result != ResultType::StarttlsNotSupported {
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
        let judge = |demands: &Demands| demands.judge(chain, &means.roots, &means.provider);
        let reached = Reached {
            version: session.and_then(|session| session.protocol_version()),
            audit: audit.and_then(|audited| judge(&server.audited(audited)).err()),
        };
        if let Err(why) = judge(demands) {
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
        let name = match &server.candidate.name {
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|error| Failure::Impossible(format!("{name}: {error}")))?,
            None => ServerName::from(server.address.ip()),
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
        let failure = |cause: Cause| self.manner.failure(&server.place, CONNECT, cause);
        let connecting = connect(server.address, &means.config.source_addresses);
        let stream = match timeout(self.manner.timeouts.connect, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(failure(error.into()).into()),
            Err(_) => return Err(failure(Cause::TimedOut).into()),
        };
        let mut relay = Relay::new(
            Stream::Tcp(stream),
            server.place.clone(),
            self.manner.clone(),
        );
        let name = relay.greet().await?;
        if name.eq_ignore_ascii_case(&self.manner.hostname) {
            return Err(Failure::Loop(server.place.clone()));
        }
        Ok(relay)
    }

    /// Whether an address is one on which we listen ourselves.
    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.get().into_iter().flatten().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip() || own.ip().is_unspecified() && is_local(address.ip()))
        })
    }
}

/// Whether an address belongs to this machine: only then can a socket be bound to it.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

async fn connect(address: SocketAddr, sources: &[IpAddr]) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    if let Some(source) = sources
        .iter()
        .find(|source| source.is_ipv4() == address.is_ipv4())
    {
        socket.bind(SocketAddr::new(*source, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A server at one of its addresses, with all that it must show.
pub struct Approach {
    /// The server.
    pub candidate: Arc<Candidate>,
    /// The address.
    pub address: SocketAddr,
    /// Both, for the log.
    pub place: Arc<str>,
    protection: Protection,
    dane: Arc<dane::Demand>,
    mta_sts: bool,
    domain: Option<String>,
}

impl Approach {
    fn demands(&self) -> Demands<'_> {
        self.demands_at(&self.protection)
    }

    /// What an audited connector would ask for.
    fn audited<'a>(&'a self, audited: &'a Protection) -> Demands<'a> {
        self.demands_at(audited)
    }

    fn demands_at<'a>(&'a self, protection: &'a Protection) -> Demands<'a> {
        Demands {
            level: &protection.level,
            dane: &self.dane,
            mta_sts: self.mta_sts,
            host: self.candidate.name.as_deref(),
            domain: self.domain.as_deref(),
        }
    }
}

/// The servers of a lane, one address after another.
struct Servers<'a> {
    outbound: &'a Outbound,
    means: &'a Means,
    lane: &'a Lane,
    policy: Option<mta_sts::Policy>,
    stops: std::vec::IntoIter<route::Stop>,
    at: std::vec::IntoIter<Approach>,
}

impl<'a> Servers<'a> {
    async fn new(
        outbound: &'a Outbound,
        means: &'a Means,
        lane: &'a Lane,
    ) -> Result<Self, Failure> {
        let port = means.config.port;
        let stops = route::stops(&means.dns, &lane.target, port, &outbound.manner.hostname).await?;
        let policy = match (&lane.target, lane.protection.mta_sts) {
            (Target::Mx(domain), MtaSts::Opportunistic) => {
                let standing = outbound.mta_sts.of(&means.dns, &means.roots, domain).await;
                standing.policy
            }
            _ => None,
        };
        Ok(Servers {
            outbound,
            means,
            lane,
            policy,
            stops: stops.into_iter(),
            at: Vec::new().into_iter(),
        })
    }

    /// The next server, or why it is not one; `None` after the last.
    async fn next(&mut self) -> Option<Result<Approach, Failure>> {
        loop {
            if let Some(approach) = self.at.next() {
                if self.outbound.is_own(approach.address) {
                    return Some(Err(Failure::Loop(approach.place)));
                }
                return Some(Ok(approach));
            }
            let stop = self.stops.next()?;
            match self.approaches(&stop).await {
                Ok(approaches) => self.at = approaches.into_iter(),
                Err(failure) => return Some(Err(failure)),
            }
        }
    }

    async fn approaches(&self, stop: &route::Stop) -> Result<Vec<Approach>, Failure> {
        let mta_sts = self.mta_sts(stop)?;
        let family = self.means.config.address_family;
        let candidate = stop.resolve(&self.means.dns, family).await?;
        let dane = self.dane(&candidate).await?;
        let domain = match &self.lane.target {
            Target::Mx(domain) if candidate.secure => Some(domain.clone()),
            _ => None,
        };
        let candidate = Arc::new(candidate);
        let dane = Arc::new(dane);
        let approach = |address: &SocketAddr| Approach {
            candidate: candidate.clone(),
            address: *address,
            place: match &candidate.name {
                Some(name) => format!("{name}[{}]:{}", address.ip(), address.port()),
                None => format!("[{}]:{}", address.ip(), address.port()),
            }
            .into(),
            protection: self.lane.protection.clone(),
            dane: dane.clone(),
            mta_sts,
            domain: domain.clone(),
        };
        Ok(candidate.addresses.iter().map(approach).collect())
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
        let (Some(name), Some(canonical)) = (&candidate.name, &candidate.canonical) else {
            if mode == Dane::Mandatory {
                return Err(Failure::Impossible(format!(
                    "DANE is mandatory, and {} has no name that TLSA records could be at",
                    candidate.label()
                )));
            }
            return Ok(dane::Demand::None);
        };
        let demand = dane::Demand::of(
            &self.means.dns,
            mode,
            name,
            canonical,
            port,
            candidate.secure,
        );
        demand.await.map_err(|why| Failure::Unprotected {
            place: name.as_str().into(),
            why,
        })
    }
}
