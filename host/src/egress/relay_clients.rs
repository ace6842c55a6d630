//! Who may send to partners: the organization's own servers.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config;
use crate::egress::users::{Users, UsersError};
use crate::smtp::sasl::Claim;
use portcullis::store::{Snapshot, Tenant};
use portcullis::tls::PUBLIC;
use portcullis::{Certificate, Trust, any_satisfies, normal_domain};

/// Who may send to partners: the organization's own servers.
pub struct RelayClients {
    config: config::Outbound,
    /// Who may log in, if anybody may.
    users: Option<Result<Arc<Users>, UsersError>>,
}

impl RelayClients {
    /// As configured. A file of passwords that cannot be read now stays what it was `before`, which the error tells.
    pub fn new(
        config: &config::Outbound,
        before: Option<&RelayClients>,
    ) -> (Self, Option<UsersError>) {
        let read = config.password_file.as_deref().map(Users::read);
        let before = before.filter(|it| it.config.password_file == config.password_file);
        let known = before.and_then(|it| it.users.as_ref()?.as_ref().ok());
        let (users, error) = match (read, known) {
            (None, _) => (None, None),
            (Some(Ok(users)), _) => (Some(Ok(Arc::new(users))), None),
            (Some(Err(error)), Some(known)) => (Some(Ok(known.clone())), Some(error)),
            (Some(Err(error)), None) => (Some(Err(error.clone())), Some(error)),
        };
        let config = config.clone();
        (RelayClients { config, users }, error)
    }

    /// Whether clients may log in.
    pub fn lets_log_in(&self) -> bool {
        self.users.is_some()
    }

    /// Whether passwords can be verified, if clients may log in.
    pub fn can_verify(&self) -> bool {
        !matches!(self.users, Some(Err(_)))
    }

    /// Whether a claim is true, which takes a while; absent if that cannot be told now.
    pub fn verify(&self, claim: &Claim) -> Option<bool> {
        let users = self.users.as_ref()?.as_ref().ok()?;
        Some(users.verify(claim))
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
