//! What mail to partners leaves with: DNS, trusted authorities, our own certificate, MTA-STS policies.

use std::net::IpAddr;
use std::sync::Arc;

use super::dns::{self, Dns, SetupError};
use super::endpoint::Endpoint;
use super::route::Target;
use super::{mta_sts, reachable};
use crate::config;
use crate::egress::credentials::{Credentials, PasswordError};
use crate::smtp::tls::Connector;
use crate::tls::{ClientTls, Pair, TlsError};
use portcullis::tls::Authorities;
use portcullis::{Host, SmartHost};

/// What a reload of the configuration exchanges.
pub struct OutboundResources {
    /// How mail leaves.
    pub config: Arc<config::Delivery>,
    pub(super) timeouts: Arc<config::Timeouts>,
    pub(super) dns: Arc<Dns>,
    pub(super) authorities: Authorities,
    pub(super) tls: ClientTls,
    pub(super) mta_sts: Arc<mta_sts::PolicyCache>,
    /// What we log in with at smart hosts, in the order of the configuration.
    credentials: Vec<Option<Result<Credentials, PasswordError>>>,
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
    /// A password for a smart host cannot be read. Only mail by that smart host waits.
    #[error("delivery: {0}")]
    Password(#[from] PasswordError),
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
        let tls = match &delivery.identity {
            Some(files) => ClientTls::from_files(files),
            None => ClientTls::anonymous(),
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
        let mut credentials = Vec::new();
        for host in &delivery.smart_hosts {
            let read = host.login.as_ref().map(Credentials::read);
            let read = match read {
                Some(Err(error)) => {
                    errors.push(error.clone().into());
                    let known = before.and_then(|before| before.known_credentials(host));
                    Some(known.ok_or(error))
                }
                read => read,
            };
            credentials.push(read);
        }
        let resources = OutboundResources {
            config: Arc::new(delivery.clone()),
            timeouts: Arc::new(config.timeouts.clone()),
            dns,
            authorities,
            tls,
            mta_sts,
            credentials,
        };
        Ok((resources, errors))
    }

    /// How a smart host is spoken with for a tenant: as it is configured for it, and with what we log in there.
    pub(super) fn smart_host(
        &self,
        named: &SmartHost,
        tenant: Option<&Arc<str>>,
    ) -> Option<(
        &config::SmartHost,
        Option<&Result<Credentials, PasswordError>>,
    )> {
        let hosts = self.config.smart_hosts.iter().zip(&self.credentials);
        let port = |host: &SmartHost| host.port.unwrap_or(self.config.port);
        let is_it = |host: &config::SmartHost| {
            host.address.host == named.host
                && port(&host.address) == port(named)
                && host.tenants.as_ref().is_none_or(|tenants| {
                    tenant.is_some_and(|tenant| tenants.iter().any(|name| **name == **tenant))
                })
        };
        hosts
            .filter(|(host, _)| is_it(host))
            .map(|(host, credentials)| (host, credentials.as_ref()))
            .next()
    }

    /// What we have logged in with where a smart host is configured like that.
    fn known_credentials(&self, host: &config::SmartHost) -> Option<Credentials> {
        let hosts = self.config.smart_hosts.iter().zip(&self.credentials);
        let mut same = hosts.filter(|(known, _)| *known == host);
        same.find_map(|(_, credentials)| credentials.as_ref()?.as_ref().ok().cloned())
    }

    /// What holds for a domain by its MTA-STS policy.
    pub(super) async fn mta_sts_of(&self, domain: &str) -> mta_sts::PolicyState {
        let sources = mta_sts::Sources {
            dns: self.dns.clone(),
            roots: self.authorities.public().clone(),
            delivery: self.config.clone(),
        };
        self.mta_sts.of(&sources, domain).await
    }

    /// What a handshake with a server is done with.
    pub(super) fn connector(&self, server: &Endpoint) -> &Connector {
        match server.is_legacy {
            true => self.tls.legacy(),
            false => self.tls.connector(),
        }
    }

    /// Whether old cipher suites are allowed towards a route: one of its domain or smart hosts is listed.
    pub(super) fn is_legacy(&self, target: &Target) -> bool {
        let listed = &self.config.legacy_ciphers;
        let is_listed = |name: &str| listed.iter().any(|it| it.eq_ignore_ascii_case(name));
        match target {
            Target::Mx(domain) => is_listed(domain),
            Target::Literal(ip) => is_listed(&ip.to_string()),
            Target::SmartHosts(_) => false,
        }
    }

    /// The same of a smart host.
    pub(super) fn is_legacy_host(&self, host: &SmartHost) -> bool {
        let name = match &host.host {
            Host::Name(name) => name.clone(),
            Host::Address(ip) => ip.to_string(),
        };
        let listed = &self.config.legacy_ciphers;
        listed.iter().any(|it| it.eq_ignore_ascii_case(&name))
    }

    /// The certificate that is shown to partners, with its key.
    pub fn identity(&self) -> Option<&Pair> {
        self.tls.identity()
    }

    /// Whether nothing has changed that a connection depends on.
    pub(super) fn is_same(&self, other: &OutboundResources) -> bool {
        self.config == other.config
            && Arc::ptr_eq(&self.dns, &other.dns)
            && self.authorities == other.authorities
            && self.tls == other.tls
            && self.credentials == other.credentials
    }

    /// Whether mail may be sent to an address.
    pub(super) fn may_connect(&self, ip: IpAddr) -> bool {
        reachable::may_connect(&self.config, ip)
    }
}
