//! Senders and recipients as other servers tell them. What a policy is asked about must be what the server delivers to.

use std::sync::Arc;

use super::door::Frontend;
use crate::frontend::ask::tenant_of;
use crate::frontend::header;
use crate::smtp::address::Address;
use crate::smtp::reply::Reply;
use portcullis::normal_domain;
use portcullis::store::{Snapshot, Tenant};

/// Who decides about a recipient.
pub enum Whose {
    /// The policy of a tenant.
    Of(Arc<Tenant>, Address),
    /// Nobody: its domain is no tenant's.
    Nobody,
    /// It cannot be told.
    Unclear(Reply),
}

impl Whose {
    /// The policy and the recipient's domain.
    pub fn policy(&self) -> Option<(&Tenant, Option<&str>)> {
        match self {
            Whose::Of(tenant, address) => Some((tenant, address.domain())),
            Whose::Nobody | Whose::Unclear(_) => None,
        }
    }
}

/// Whether two recipients, each with its policy and its domain, may be told the same of the header.
pub fn may_share(
    one: Option<(&Tenant, Option<&str>)>,
    other: Option<(&Tenant, Option<&str>)>,
) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => header::may_share(one, other),
        (None, None) => true,
        (Some((tenant, _)), None) | (None, Some((tenant, _))) => !tenant.reads_header(),
    }
}

/// The reply to a recipient that may not. It is not 452: clients that pipeline, such as Exim, hold the reply after the
/// header to be that of recipients with 452 as well.
pub fn own_transaction() -> Reply {
    let text =
        "send again for this recipient: what its policy makes of the header is told by itself";
    Reply::new(451, (4, 5, 3), text)
}

/// A sender, or why no policy can decide about it. The null sender is empty.
///
/// # Errors
/// The reply that defers its mail.
pub fn sender(text: &str) -> Result<String, Reply> {
    if text.is_empty() {
        return Ok(String::new());
    }
    match Address::parse(text) {
        Ok(address) => Ok(address.as_str().to_owned()),
        // The server may read it as an address that a connector is about.
        Err(error) => Err(Reply::new(
            451,
            (4, 1, 7),
            format!("no policy can decide about this sender: {error}"),
        )),
    }
}

fn unclear(why: impl std::fmt::Display) -> Whose {
    let text = format!("no policy can decide about this recipient: {why}");
    Whose::Unclear(Reply::new(451, (4, 1, 3), text))
}

impl Frontend {
    /// Whose policy decides about a recipient: that of its domain, else that of the `named` tenant, else of the
    /// configured one.
    pub fn whose(&self, policies: &Snapshot, recipient: &str, named: Option<&str>) -> Whose {
        let address = match Address::parse_recipient(recipient) {
            Ok(address) => address,
            Err(error) => return unclear(error),
        };
        let other = || {
            let configured = self.config.tenant.as_deref();
            let names = [named, configured].into_iter().flatten();
            names.filter_map(|name| policies.named(name)).next()
        };
        let is_literal = address
            .domain()
            .is_some_and(|domain| domain.starts_with('['));
        let is_unclear = |domain: &str| !is_literal && normal_domain(domain).is_none();
        if address.domain().is_some_and(is_unclear) {
            // The server may take it for one of a tenant's.
            return unclear("its domain cannot be read");
        }
        let tenant = match is_literal {
            true => None,
            false => tenant_of(policies, address.domain()),
        };
        match tenant.or_else(other) {
            Some(tenant) => match address.hidden_route(true) {
                None => Whose::Of(tenant.clone(), address),
                Some(sign) => unclear(format!(
                    "{sign:?} in the local part could make another address of it"
                )),
            },
            None if self.settings().may_lack_tenants() => {
                let text = "it cannot be told whose domain this is, try again later";
                Whose::Unclear(Reply::new(451, (4, 3, 5), text))
            }
            // The server may read it as one of a tenant's.
            None if is_literal => unclear("it names an address and no domain"),
            None => match address.hidden_route(false) {
                None => Whose::Nobody,
                Some(sign) => unclear(format!(
                    "{sign:?} in the local part could make another address of it"
                )),
            },
        }
    }
}
