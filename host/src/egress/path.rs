//! Where a listener's mail leaves: to the organization's own next hop, or to partners.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config;
use crate::egress::client::Sender;
use crate::egress::next_hop::{Client, Handover, NextHop, Offer};
use crate::egress::partner::{Lane, Outbound};
use crate::smtp::reply::Reply;
use portcullis::normal_domain;
use portcullis::store::{Table, Tenant};
use portcullis::tls::PUBLIC;
use portcullis::{Certificate, Direction, Trust, any_satisfies};

/// The way out of a listener.
pub enum Exit {
    /// Mail from partners goes to the next hop.
    NextHop(Arc<NextHop>),
    /// Mail from the organization goes to partners.
    Partners {
        /// Who may send. A reload of the configuration exchanges it.
        admission: ArcSwap<Admission>,
        /// The way out.
        outbound: Arc<Outbound>,
    },
}

/// Where one recipient's mail goes. Recipients with the same way share a transaction.
pub enum Way {
    /// The next hop.
    NextHop,
    /// A partner's servers.
    Lane(Box<Lane>),
}

impl Way {
    /// What two ways have in common if and only if they are the same.
    pub fn key(&self) -> &str {
        match self {
            Way::NextHop => "",
            Way::Lane(lane) => lane.key(),
        }
    }
}

impl Exit {
    /// The direction of the mail, as policies see it.
    pub fn direction(&self) -> Direction {
        match self {
            Exit::NextHop(_) => Direction::Inbound,
            Exit::Partners { .. } => Direction::Outbound,
        }
    }

    /// What EHLO may announce. What a partner cannot take is refused when its turn comes, because before
    /// RCPT nobody knows the partner.
    pub fn offer(&self) -> Offer {
        match self {
            Exit::NextHop(next_hop) => next_hop.offer(),
            Exit::Partners { .. } => Offer::ALL,
        }
    }

    /// Whether whoever takes the mail is told the client's address and ours.
    pub fn tells_client(&self) -> bool {
        match self {
            Exit::NextHop(next_hop) => next_hop.tells_client(),
            Exit::Partners { .. } => false,
        }
    }

    /// How many recipients one transaction may have.
    pub fn recipients(&self) -> usize {
        match self {
            Exit::NextHop(next_hop) => next_hop.recipients(),
            Exit::Partners { .. } => usize::MAX,
        }
    }

    /// Begins a transaction that way.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn begin(
        &self,
        way: &Way,
        client: &Client,
        sender: Sender<'_>,
        is_in_a_hurry: bool,
    ) -> Result<Handover, Reply> {
        match (self, way) {
            (Exit::NextHop(next_hop), Way::NextHop) => next_hop.begin(client, sender).await,
            (Exit::Partners { outbound, .. }, Way::Lane(lane)) => {
                let begun = outbound.begin(lane, sender, is_in_a_hurry).await;
                begun.map(Handover::pooled)
            }
            // A listener has one kind of exit, and makes ways for it only.
            _ => Err(Reply::new(451, (4, 3, 5), "no way out of this listener")),
        }
    }
}

/// Who may send to partners: the organization's own servers.
pub struct Admission {
    config: config::Outbound,
}

impl Admission {
    /// As configured.
    pub fn new(config: &config::Outbound) -> Self {
        Admission {
            config: config.clone(),
        }
    }

    /// Whether a client is one of the organization's own servers.
    pub fn admits(&self, client: std::net::IpAddr, certificate: Option<&Certificate>) -> bool {
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
    pub fn tenant<'a>(&self, policies: &'a Table, sender: Option<&str>) -> Option<&'a Arc<Tenant>> {
        let own = sender
            .and_then(normal_domain)
            .and_then(|domain| policies.tenant(&domain));
        own.or_else(|| match &self.config.tenant {
            Some(name) => policies.named(name),
            None => policies.first(),
        })
    }
}
