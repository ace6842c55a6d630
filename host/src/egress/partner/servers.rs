//! The servers of a path, in the order in which they are tried.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::endpoint::{Audited, Endpoint, Login};
use super::failure::{Failure, ProtectionError, ResultType};
use super::resources::OutboundResources;
use super::route::{self, Candidate, PartnerPath, Target};
use super::this_host::ThisHost;
use super::{dane, mta_sts};
use crate::config::AddressFamily;
use crate::egress::credentials::SUBMISSIONS;
use crate::egress::dial;
use portcullis::tls::Authorities;
use portcullis::{Dane, MtaSts, Protection};

/// What a server is called that is known by its address only.
const NAMELESS: &str = "a server without a name";

/// A server with those of its addresses that were not tried yet.
struct Untried {
    candidate: Arc<Candidate>,
    addresses: Vec<SocketAddr>,
    dane: Arc<dane::Demand>,
    mta_sts: bool,
    domains: Arc<[String]>,
    implicit_tls: bool,
    is_legacy: bool,
    login: Option<Login>,
    audited: Option<Arc<Audited>>,
}

/// The servers of a path, one address after another, each with its share of the time.
pub(super) struct Servers<'a> {
    this_host: &'a ThisHost,
    resources: &'a OutboundResources,
    path: &'a PartnerPath,
    deadline: Instant,
    authorities: Authorities,
    policy: Option<mta_sts::Policy>,
    /// Why the newest policy could not be had.
    policy_error: Option<ProtectionError>,
    /// The policy for a connector in audit mode.
    audited_policy: Result<Option<mta_sts::Policy>, ProtectionError>,
    pub(super) stops: VecDeque<route::MxHost>,
    at: Option<Untried>,
    /// Addresses that did not answer, of which nothing was said yet.
    failures: VecDeque<Failure>,
}

impl<'a> Servers<'a> {
    pub(super) async fn new(
        this_host: &'a ThisHost,
        resources: &'a OutboundResources,
        path: &'a PartnerPath,
        deadline: Instant,
        most: usize,
    ) -> Result<Self, Failure> {
        let port = resources.config.port;
        let mut stops = route::stops(&resources.dns, &path.target, port, &this_host.name).await?;
        stops.truncate(most);
        let asked = path.protection.mta_sts;
        let (policy, policy_error) = match policy_of(resources, &path.target, asked).await {
            Ok(found) => found,
            Err(why) => {
                let peer = path.target.to_string().into();
                return Err(Failure::Unprotected { peer, why });
            }
        };
        let audited_policy = match &path.audit {
            Some(audit) if audit.mta_sts == asked => Ok(policy.clone()),
            Some(audit) => {
                let policy = policy_of(resources, &path.target, audit.mta_sts);
                let policy = timeout_at(half_way_to(deadline), policy).await;
                let policy = policy.map(|found| found.map(|(policy, _)| policy));
                policy.unwrap_or_else(|_| Err(slow_audit(ResultType::StsPolicyFetchError)))
            }
            None => Ok(None),
        };
        Ok(Servers {
            this_host,
            resources,
            path,
            deadline,
            authorities: path.authorities(&resources.authorities),
            policy,
            policy_error,
            audited_policy,
            stops: stops.into(),
            at: None,
            failures: VecDeque::new(),
        })
    }

    /// The next server, connected, or why it is not one; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Result<Endpoint, Failure>> {
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

    /// The names of all servers, with what their TLSA records demand. Servers that are not there are left out.
    ///
    /// # Errors
    /// If it cannot be told of one of them.
    pub(super) async fn demands(&mut self) -> Result<Vec<(Option<String>, dane::Demand)>, Failure> {
        let mut demands = Vec::new();
        while let Some(stop) = self.stops.pop_front() {
            // Whoever delivers may use others than we.
            let family = AddressFamily::Any;
            let candidate = match stop.resolve(&self.resources.dns, family).await {
                Ok(candidate) => candidate,
                Err(Failure::NoHosts(_)) => continue,
                Err(failure) => return Err(failure),
            };
            // Whether there must be some is for whoever delivers.
            let mode = match self.path.protection.dane {
                Dane::None => Dane::None,
                Dane::Opportunistic | Dane::Mandatory => Dane::Opportunistic,
            };
            let demand = self.dane(&candidate, mode).await?;
            demands.push((candidate.name, demand));
        }
        Ok(demands)
    }

    /// The domain's MTA-STS policy, if it is asked for.
    pub(super) fn policy(&self) -> Option<&mta_sts::Policy> {
        self.policy.as_ref()
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
                let failure =
                    self.this_host
                        .unanswered(&self.resources.timeouts, &peer, Some(failed));
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
            authorities: self.authorities.clone(),
            dane: untried.dane.clone(),
            mta_sts: untried.mta_sts,
            policy: self.policy.clone(),
            policy_error: self.policy_error.clone(),
            domains: untried.domains.clone(),
            implicit_tls: untried.implicit_tls,
            is_legacy: untried.is_legacy,
            login: untried.login.clone(),
            requires_tls: self.path.requires_tls,
            audited: untried.audited.clone(),
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
        let mta_sts = self.mta_sts(stop, self.policy.as_ref());
        let mta_sts = mta_sts.map_err(|why| Failure::Unprotected {
            peer: stop.name().unwrap_or(NAMELESS).into(),
            why,
        })?;
        let family = self.resources.config.address_family;
        let candidate = stop.resolve(&self.resources.dns, family).await?;
        let addresses = self.allowed(stop, &candidate)?;
        let dane = self.dane(&candidate, self.path.protection.dane).await?;
        let audited = match &self.path.audit {
            Some(audit) => Some(Arc::new(self.audited(stop, &candidate, audit).await)),
            None => None,
        };
        let domains = match candidate.secure {
            true => stop.domains().into(),
            false => Arc::default(),
        };
        let port = candidate.addresses.first().map(SocketAddr::port);
        let by_port = stop.smart_host().is_some() && port == Some(SUBMISSIONS);
        let (implicit_tls, login) = self.smart_host(stop);
        Ok(Untried {
            implicit_tls: implicit_tls.unwrap_or(by_port),
            is_legacy: match stop.smart_host() {
                Some(host) => self.resources.is_legacy_host(host),
                None => self.resources.is_legacy(&self.path.target),
            },
            login,
            candidate: Arc::new(candidate),
            addresses,
            dane: Arc::new(dane),
            mta_sts,
            domains,
            audited,
        })
    }

    /// Whether TLS begins with the first octet, if that is configured, and where we log in.
    fn smart_host(&self, stop: &route::MxHost) -> (Option<bool>, Option<Login>) {
        let Some(named) = stop.smart_host() else {
            return (None, None);
        };
        let Some((configured, credentials)) = self.resources.smart_host(named, self.path.tenant())
        else {
            return (None, None);
        };
        let login = configured.login.as_ref().zip(credentials);
        let login = login.map(|(how, credentials)| Login {
            host: named.host.clone(),
            how: how.clone(),
            credentials: credentials.clone(),
        });
        (configured.implicit_tls, login)
    }

    /// What a connector in audit mode would ask of a server. Mail does not fail for that.
    async fn audited(
        &self,
        stop: &route::MxHost,
        candidate: &Candidate,
        audit: &Protection,
    ) -> Audited {
        let dane = timeout_at(half_way_to(self.share(1)), self.dane(candidate, audit.dane));
        let dane = match dane.await {
            Ok(Ok(demand)) => Ok(demand),
            Ok(Err(Failure::Unprotected { why, .. })) => Err(why),
            Ok(Err(failure)) => Err(ProtectionError::new(
                ResultType::DaneRequired,
                failure.to_string(),
            )),
            Err(_) => Err(slow_audit(ResultType::TlsaInvalid)),
        };
        let mta_sts = match &self.audited_policy {
            Ok(policy) => self.mta_sts(stop, policy.as_ref()),
            Err(why) => Err(why.clone()),
        };
        Audited {
            protection: audit.clone(),
            dane,
            mta_sts,
        }
    }

    /// Those addresses of a server that mail may be sent to.
    fn allowed(
        &self,
        stop: &route::MxHost,
        candidate: &Candidate,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let all = &candidate.addresses;
        if let Some(own) = all.iter().find(|address| self.this_host.is_at(**address)) {
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
    fn mta_sts(
        &self,
        stop: &route::MxHost,
        policy: Option<&mta_sts::Policy>,
    ) -> Result<bool, ProtectionError> {
        let Some(policy) = policy else {
            return Ok(false);
        };
        let allowed = stop.name().is_some_and(|name| policy.allows(name));
        let not_allowed = || not_named(&self.path.target.to_string());
        match policy.mode {
            mta_sts::Mode::None => Ok(false),
            mta_sts::Mode::Testing => {
                if !allowed {
                    let hop = stop.name().unwrap_or(NAMELESS);
                    tracing::warn!(hop, "MTA-STS in testing mode: {}", not_allowed());
                }
                Ok(false)
            }
            mta_sts::Mode::Enforce if allowed => Ok(true),
            mta_sts::Mode::Enforce => Err(not_allowed()),
        }
    }

    async fn dane(&self, candidate: &Candidate, mode: Dane) -> Result<dane::Demand, Failure> {
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

/// A domain's MTA-STS policy does not allow a server.
pub(super) fn not_named(domain: &str) -> ProtectionError {
    let detail = format!("the MTA-STS policy of {domain} does not name this server");
    ProtectionError::new(ResultType::ValidationFailure, detail)
}

/// Until when something may be looked up that only a connector in audit mode asks for: the mail needs time too.
fn half_way_to(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

fn slow_audit(result: ResultType) -> ProtectionError {
    ProtectionError::new(result, "it could not be looked up in time")
}

/// The domain's MTA-STS policy, if it is asked for and there is one, and why the newest could not be had.
///
/// # Errors
/// If it cannot be told whether there is one.
async fn policy_of(
    resources: &OutboundResources,
    target: &Target,
    asked: MtaSts,
) -> Result<(Option<mta_sts::Policy>, Option<ProtectionError>), ProtectionError> {
    let (Target::Mx(domain), MtaSts::Opportunistic) = (target, asked) else {
        return Ok((None, None));
    };
    let state = resources.mta_sts_of(domain).await;
    match state.last_error {
        Some(why) if state.is_undecided => Err(why),
        error => Ok((state.policy, error)),
    }
}
