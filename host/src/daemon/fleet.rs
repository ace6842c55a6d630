//! What comes of the fleet's store.

use std::collections::{BTreeSet, HashSet};

use anyhow::Context as _;

use super::{Daemon, FLEET_PATIENCE, apart, source, sources};
use crate::admin::{OfFleet, Publisher};
use crate::config;
use crate::fleet::{Change, Follower};
use crate::trust::private_key;

impl Daemon {
    /// What the API has to do with the fleet.
    pub(super) async fn fleet_for_admin(&self, admin: &config::Admin) -> anyhow::Result<OfFleet> {
        let status = self.follower.as_ref().map(Follower::said);
        let (Some(fleet), Some(trusted)) = (&self.config.fleet, &self.trust) else {
            return Ok(OfFleet::default());
        };
        let paths = admin.signing_keys.clone();
        let read = move || paths.iter().map(|path| private_key(path)).collect();
        let keys: Result<Vec<_>, _> = apart(read).await?;
        let keys = keys.context("[admin] signing-keys")?;
        let publisher =
            (!keys.is_empty()).then(|| Publisher::new(fleet.clone(), trusted.trust.clone(), keys));
        Ok(OfFleet { status, publisher })
    }

    /// Carries out what has come of the fleet's store.
    pub(super) async fn take_change(&mut self, change: Change) {
        let Change {
            tenants,
            retired,
            done,
        } = change;
        let policies = self.server.asking.policies.clone();
        if !retired.is_empty() {
            // One of the configuration stays, whatever it is called.
            let retired = retired.iter().map(|name| &**name);
            let retired = retired.filter(|name| self.of_fleet.contains_key(*name));
            let retired: HashSet<&str> = retired.collect();
            self.config
                .tenants
                .retain(|it| it.given.is_none() || !retired.contains(&*it.name));
            self.of_fleet = self.config.numbers_of_fleet();
            self.sources = sources(&self.config, self.trust.as_ref());
            policies.remove(&retired).await;
            for tenant in retired {
                tracing::info!(tenant, "tenant removed");
                self.server.asking.metrics.forget(tenant);
            }
        }
        let numbers = self.enter_tenants(tenants);
        if let Some(admin) = &self.admin {
            admin.exchange(self.config.clone());
        }
        let only = Some(&numbers);
        let updating = policies.update_within(FLEET_PATIENCE, &self.sources, only);
        let update = updating.await;
        self.missing += update.late;
        self.warn_of_unknown_authorities(update.changed.iter().map(|it| &**it));
        self.note(update);
        // Whoever follows the store may have ended.
        let _ = done.send(());
    }

    /// Enters tenants of the fleet; gives their numbers.
    fn enter_tenants(&mut self, tenants: Vec<config::Tenant>) -> BTreeSet<usize> {
        let first = self.config.before.iter().count();
        let own = self.own.load();
        let mut numbers = BTreeSet::new();
        for tenant in tenants {
            if own.has(&tenant.name) {
                tracing::error!(
                    tenant = tenant.name,
                    "a tenant of this name is in the configuration, and stays"
                );
                continue;
            }
            let source = source(&tenant, self.trust.as_ref());
            let new = self.config.tenants.len();
            let known = self.of_fleet.entry(tenant.name.clone());
            let at = *known.or_insert_with(|| {
                tracing::info!(tenant = tenant.name, "tenant added");
                new
            });
            match (
                self.config.tenants.get_mut(at),
                self.sources.get_mut(first + at),
            ) {
                (Some(old), Some(old_source)) => {
                    *old = tenant;
                    *old_source = source;
                }
                _ => {
                    self.config.tenants.push(tenant);
                    self.sources.push(source);
                }
            }
            numbers.insert(first + at);
        }
        numbers
    }
}
