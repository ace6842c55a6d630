//! The next hop of each tenant: its own, or the listener's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::egress::next_hop::{Extensions, NextHop};
use portcullis::tls::Authorities;

/// The next hops that tenants have of their own, the same for all listeners. Tenants with the same one share it.
#[derive(Default)]
pub struct NextHops(ArcSwap<Known>);

#[derive(Default)]
struct Known {
    /// By the tenant's name.
    of_tenants: HashMap<String, Arc<NextHop>>,
    /// Each of them once, by its key.
    all: BTreeMap<String, Arc<NextHop>>,
}

impl NextHops {
    /// Takes over those of a configuration; those that are known already stay. Gives the new ones.
    pub fn take(&self, config: &Config, authorities: &Authorities) -> Vec<Arc<NextHop>> {
        let before = self.0.load();
        let mut known = Known::default();
        let mut new = Vec::new();
        for tenant in &config.tenants {
            let Some(hop) = &tenant.next_hop else {
                continue;
            };
            let key = format!("{hop:?}");
            let of_tenant = known.all.entry(key).or_insert_with_key(|key| {
                let kept = before.all.get(key).filter(|kept| kept.is_of(hop));
                kept.cloned().unwrap_or_else(|| {
                    let made = Arc::new(NextHop::new(hop, key, config, authorities));
                    new.push(made.clone());
                    made
                })
            });
            known
                .of_tenants
                .insert(tenant.name.clone(), of_tenant.clone());
        }
        self.0.store(Arc::new(known));
        new
    }

    /// That of a tenant, if it has one of its own.
    pub fn of(&self, tenant: &str) -> Option<Arc<NextHop>> {
        self.0.load().of_tenants.get(tenant).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<NextHop>> {
        self.0.load().all.values().cloned().collect()
    }

    /// What EHLO may announce, whosever mail it is, where `of_listener` is the next hop of the others. Those that have
    /// not been seen yet take nothing from the rest.
    pub fn extensions(&self, of_listener: &NextHop) -> Extensions {
        let known = self.0.load();
        if known.all.is_empty() {
            return of_listener.extensions();
        }
        let all = known.all.values().map(Arc::as_ref);
        let seen = all.chain([of_listener]).filter(|hop| hop.is_known());
        let common = seen.map(NextHop::extensions).reduce(Extensions::and);
        common.unwrap_or_default()
    }
}
