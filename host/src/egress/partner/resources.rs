//! What mail to partners leaves with: DNS, trusted authorities, our own certificate, MTA-STS policies.

use std::net::IpAddr;
use std::sync::Arc;

use super::dns::{self, Dns, SetupError};
use super::{mta_sts, reachable};
use crate::config;
use crate::tls::{ClientTls, Pair, TlsError};
use portcullis::tls::Authorities;

/// What a reload of the configuration exchanges.
pub struct OutboundResources {
    /// How mail leaves.
    pub config: Arc<config::Delivery>,
    pub(super) timeouts: Arc<config::Timeouts>,
    pub(super) dns: Arc<Dns>,
    pub(super) authorities: Authorities,
    pub(super) tls: ClientTls,
    pub(super) mta_sts: Arc<mta_sts::PolicyCache>,
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
    pub(super) async fn mta_sts_of(&self, domain: &str) -> mta_sts::PolicyState {
        let sources = mta_sts::Sources {
            dns: self.dns.clone(),
            roots: self.authorities.public().clone(),
            delivery: self.config.clone(),
        };
        self.mta_sts.of(&sources, domain).await
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
    }

    /// Whether mail may be sent to an address.
    pub(super) fn may_connect(&self, ip: IpAddr) -> bool {
        reachable::may_connect(&self.config, ip)
    }
}
