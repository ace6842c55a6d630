//! Where a listener's mail leaves: to the organization's own next hop, or to partners.

use std::borrow::Cow;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::egress::client::Sender;
use crate::egress::next_hop::{Client, Delivery, Extensions, NextHop};
use crate::egress::next_hops::NextHops;
use crate::egress::partner::{Outbound, PartnerPath};
use crate::egress::relay_clients::RelayClients;
use crate::smtp::address::Address;
use crate::smtp::reply::Reply;
use portcullis::{Direction, Verdict};

/// Where the mail of a listener leaves.
pub enum Egress {
    /// Mail from partners goes to the next hop.
    NextHop {
        /// That of tenants which have none of their own.
        default: Arc<NextHop>,
        /// Those that tenants have of their own.
        of_tenants: Arc<NextHops>,
    },
    /// Mail from the organization goes to partners.
    Partners {
        /// Who may send. A reload of the configuration replaces it.
        relay_clients: ArcSwap<RelayClients>,
        /// How it goes there.
        outbound: Arc<Outbound>,
    },
}

/// Where one recipient's mail goes. Recipients with the same path share a transaction.
pub enum EgressPath {
    /// The next hop.
    NextHop(Arc<NextHop>),
    /// A partner's servers.
    Partner(Arc<Outbound>, Box<PartnerPath>),
}

/// Why there is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPath {
    /// No mail can go to such a domain.
    Domain,
    /// The verdict is about mail of the other direction.
    Direction,
}

impl EgressPath {
    /// What two paths of one listener have in common if and only if they are the same.
    pub fn key(&self) -> &str {
        match self {
            EgressPath::NextHop(next_hop) => next_hop.key(),
            EgressPath::Partner(_, path) => path.key(),
        }
    }

    /// What recipients have in common if and only if they get the same reply to the end of the message. An LMTP server
    /// answers for each (RFC 2033 §4.2).
    pub fn outcome_key(&self, to: &Address) -> Cow<'_, str> {
        match self {
            EgressPath::NextHop(next_hop) if next_hop.answers_for_each() => {
                format!("{}\0{to}", self.key()).into()
            }
            _ => self.key().into(),
        }
    }

    /// How many recipients one transaction may have that go this way.
    pub fn recipients(&self) -> usize {
        match self {
            EgressPath::NextHop(next_hop) => next_hop.recipients(),
            EgressPath::Partner(..) => usize::MAX,
        }
    }

    /// Begins a transaction. Whoever is in a hurry, because others wait already, does not queue up for a connection.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn begin(
        &self,
        client: &Client,
        sender: Sender<'_>,
        is_in_a_hurry: bool,
    ) -> Result<Delivery, Reply> {
        match self {
            EgressPath::NextHop(next_hop) => next_hop.begin(client, sender).await,
            EgressPath::Partner(outbound, path) => {
                // Boxed: the future is large, and sessions that take mail in never need it.
                let begun = Box::pin(outbound.begin(path, sender, is_in_a_hurry));
                begun.await.map(Delivery::pooled)
            }
        }
    }
}

impl Egress {
    /// The direction of the mail, as policies see it.
    pub fn direction(&self) -> Direction {
        match self {
            Egress::NextHop { .. } => Direction::Inbound,
            Egress::Partners { .. } => Direction::Outbound,
        }
    }

    /// The path that a verdict of a tenant's policy demands for a recipient's mail; `requires_tls` is what its sender
    /// demands beside (RFC 8689).
    ///
    /// # Errors
    /// Why there is none.
    pub fn path(
        &self,
        verdict: Verdict,
        tenant: &Arc<str>,
        to: &Address,
        requires_tls: bool,
    ) -> Result<EgressPath, NoPath> {
        match (self, verdict) {
            (
                Egress::NextHop {
                    default,
                    of_tenants,
                },
                Verdict::Accept(_),
            ) => {
                let own = of_tenants.of(tenant);
                Ok(EgressPath::NextHop(own.unwrap_or_else(|| default.clone())))
            }
            (Egress::Partners { outbound, .. }, Verdict::Deliver(delivery)) => {
                let path = to.domain().and_then(|to| PartnerPath::new(delivery, to));
                let path = path.ok_or(NoPath::Domain)?;
                let path = Box::new(path.of_tenant(tenant).requiring_tls(requires_tls));
                Ok(EgressPath::Partner(outbound.clone(), path))
            }
            _ => Err(NoPath::Direction),
        }
    }

    /// What EHLO may announce. What a partner does not support is refused once the partner is known, which is not
    /// before RCPT.
    pub fn extensions(&self) -> Extensions {
        match self {
            Egress::NextHop {
                default,
                of_tenants,
            } => of_tenants.extensions(default),
            Egress::Partners { .. } => Extensions::ALL,
        }
    }

    /// Whether the server that gets the mail is told the client's address and ours.
    pub fn forwards_client(&self) -> bool {
        match self {
            Egress::NextHop {
                default,
                of_tenants,
            } => {
                let forwards = |hop: &Arc<NextHop>| hop.forwards_client();
                forwards(default) || of_tenants.all().iter().any(forwards)
            }
            Egress::Partners { .. } => false,
        }
    }
}
