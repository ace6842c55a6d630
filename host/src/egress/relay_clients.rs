//! Who may send to partners: the organization's own servers.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config;
use portcullis::store::{Snapshot, Tenant};
use portcullis::tls::PUBLIC;
use portcullis::{Certificate, Trust, any_satisfies, normal_domain};

/// Who may send to partners: the organization's own servers.
pub struct RelayClients {
    config: config::Outbound,
}

impl RelayClients {
    /// As configured.
    pub fn new(config: &config::Outbound) -> Self {
        RelayClients {
            config: config.clone(),
        }
    }

    /// Whether a client is one of the organization's own servers.
    pub fn permits(&self, client: IpAddr, certificate: Option<&Certificate>) -> bool {
        if self.config.clients.iter().any(|net| net.contains(&client)) {
            return true;
        }
        let Some(certificate) = certificate else {
            return false;
        };
        let is_public = |anchors: &Vec<String>| anchors.iter().any(|anchor| anchor == PUBLIC);
        certificate
            .sha256
            .is_some_and(|own| self.config.certificate_fingerprints.contains(&own))
            || certificate.trust == Some(Trust::Trusted)
                && certificate.anchors.as_ref().is_some_and(is_public)
                && any_satisfies(
                    certificate.dns_names.as_deref().unwrap_or_default(),
                    &self.config.certificate_names,
                )
    }

    /// The tenant whose policy decides about a sender's mail.
    pub fn tenant<'a>(
        &self,
        policies: &'a Snapshot,
        sender: Option<&str>,
    ) -> Option<&'a Arc<Tenant>> {
        let own = sender
            .and_then(normal_domain)
            .and_then(|domain| policies.tenant(&domain));
        own.or_else(|| match &self.config.tenant {
            Some(name) => policies.named(name),
            None => policies.first(),
        })
    }
}
