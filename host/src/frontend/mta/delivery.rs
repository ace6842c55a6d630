//! How Exim is to deliver: it asks in the form of policy delegation, once for the route, and once for the certificate of
//! each server.

use std::sync::Arc;

use super::attributes::{Attributes, names};
use super::door::Frontend;
use super::facts;
use super::way_out::{Decided, Mail, decide, published};
use crate::egress::partner::Published;
use crate::exim::{self, Demands, Shown};
use crate::frontend::ask::{Asker, tenant_of};
use crate::smtp::reply::Reply;
use portcullis::store::{Snapshot, Tenant};
use portcullis::{Delivery, Host, Route, Sha256};

/// Asks for the route.
pub const ROUTE: &str = "portcullis_delivery";
/// Asks about a server's certificate.
pub const CERTIFICATE: &str = "portcullis_certificate";

/// One request.
pub struct Question<'a> {
    /// Where it is asked.
    pub frontend: &'a Arc<Frontend>,
    /// Its attributes.
    pub attributes: &'a Attributes,
    /// The id of the conversation.
    pub session: &'a str,
    /// The id of the request.
    pub transaction: &'a str,
}

impl Question<'_> {
    /// The action: `DELIVER` with what is demanded and the hosts, `DUNNO` to a certificate that may have the mail, else
    /// a reply that refuses or defers.
    pub async fn answer(&self, asker: &mut Asker) -> String {
        let is_route = self.attributes.get("request") == ROUTE;
        match self.decide(asker, is_route).await {
            Ok(action) => action,
            Err(why) => {
                tracing::warn!(
                    session = self.session,
                    transaction = self.transaction,
                    why = &*crate::observe::redact::redact(&why),
                    "Exim is told to try again later"
                );
                let reply = Reply::new(451, (4, 7, 5), why);
                reply.with_id(self.transaction).to_line()
            }
        }
    }

    async fn decide(&self, asker: &mut Asker, is_route: bool) -> Result<String, String> {
        let policies = self.frontend.server.asking.policies.snapshot();
        asker.begin();
        let tenant = self.tenant(&policies)?;
        let mail = Mail {
            tenant: &tenant,
            sender: self.attributes.get("sender"),
            recipient: self.attributes.get("recipient"),
            is_mail: is_route,
            session: self.session,
            transaction: self.transaction,
        };
        let delivery = match decide(self.frontend, asker, &mail).await? {
            Decided::Refused(reply) => return Ok(reply.to_line()),
            Decided::Delivered(delivery) => delivery,
        };
        match is_route {
            true => self.route(&tenant, &delivery).await,
            false => self.certificate(&tenant, &delivery).await,
        }
    }

    async fn route(&self, tenant: &Tenant, delivery: &Delivery) -> Result<String, String> {
        let demands = self.demands(tenant, delivery).await?.0;
        let outbound = self.frontend.outbound()?;
        let mut exchanged = Vec::new();
        for name in names_of(&delivery.route) {
            let has_exchangers = outbound.has_exchangers(name).await;
            if has_exchangers.map_err(|failure| failure.to_string())? {
                exchanged.push(name);
            }
        }
        let port = outbound.resources().config.port;
        let hosts = exim::hosts(&delivery.route, port, |name| exchanged.contains(&name));
        // Whoever reads half of it must not take it for the whole.
        Ok(format!("DELIVER {demands} hosts={hosts} end"))
    }

    async fn certificate(&self, tenant: &Tenant, delivery: &Delivery) -> Result<String, String> {
        let (demands, published) = self.demands(tenant, delivery).await?;
        let told = self.attributes;
        // What Exim demands by itself and what it asks about must be of the same rules.
        if told.get("demands") != demands.to_string() {
            return Err("what is asked for has changed since the route was asked for".into());
        }
        let digest = facts::digest(told.get("scert_fingerprint"));
        let digest = digest.and_then(|digest| <[u8; 32]>::try_from(digest).ok());
        let shown = Shown {
            server: told.get("server_name"),
            names: &names(told.get("scert_dns_names")).unwrap_or_default(),
            digest: digest.map(|digest| Sha256::from_octets(&digest)),
        };
        exim::judge(&delivery.tls, &published, &shown)?;
        Ok("DUNNO".into())
    }

    async fn demands(
        &self,
        tenant: &Tenant,
        delivery: &Delivery,
    ) -> Result<(Demands, Published), String> {
        let published = self.published(tenant, delivery).await?;
        let demands = Demands::of(&delivery.tls, &published).map_err(|why| {
            let connector = delivery.connector.as_deref().unwrap_or_default();
            format!("connector {connector:?}: {why}")
        })?;
        Ok((demands, published))
    }

    async fn published(&self, tenant: &Tenant, delivery: &Delivery) -> Result<Published, String> {
        let (_, domain) = self
            .attributes
            .get("recipient")
            .rsplit_once('@')
            .ok_or("the recipient has no domain")?;
        let mut protection = delivery.tls.clone();
        if let Route::SmartHosts(_) = delivery.route {
            protection.mta_sts = portcullis::MtaSts::None;
        }
        let route = delivery.route.clone();
        published(self.frontend, tenant, &protection, route, domain).await
    }

    /// Whose mail it is: of the sender's domain, else of the tenant that is named, or configured, else of the only one.
    fn tenant(&self, policies: &Snapshot) -> Result<Arc<Tenant>, String> {
        let sender = self.attributes.get("sender").rsplit_once('@');
        if let Some(own) = sender.and_then(|(_, domain)| tenant_of(policies, Some(domain))) {
            return Ok(own.clone());
        }
        let told = self
            .attributes
            .told("policy_context")
            .filter(|name| !name.is_empty());
        if let Some(name) = told.or(self.frontend.config.tenant.as_deref()) {
            let named = policies.named(name).cloned();
            return named.ok_or_else(|| format!("there is no tenant {name:?}"));
        }
        let mut all = policies.tenants();
        match (all.next(), all.next()) {
            (Some(only), None) => Ok(only.clone()),
            _ => Err(
                "it cannot be told whose mail this is: the [[frontend]] needs \"tenant\"".into(),
            ),
        }
    }
}

/// The names among the smart hosts of a route.
fn names_of(route: &Route) -> impl Iterator<Item = &str> {
    let hosts = match route {
        Route::Mx => &[],
        Route::SmartHosts(hosts) => &hosts[..],
    };
    hosts.iter().filter_map(|host| match &host.host {
        Host::Name(name) => Some(name.as_str()),
        Host::Address(_) => None,
    })
}
