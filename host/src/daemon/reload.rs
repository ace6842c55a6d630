//! What a reload takes over of the configuration and of the files that it names.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Daemon, Read, apart, begin_with, sources, tell_of_tenant};
use crate::config::{self, Config, Destination};
use crate::egress::partner::OutboundResources;
use crate::egress::path::Egress;
use crate::egress::relay_clients::RelayClients;
use crate::fleet::Own;
use crate::frontend::smtp::listener::Settings;
use crate::observe::redact;
use crate::trust::{self, DiskLedger};

impl Daemon {
    /// Takes over what has changed in the configuration and in the files that it names. A file system that does not
    /// answer holds up this, and not the end of the program.
    pub(super) async fn reload(&mut self) -> anyhow::Result<()> {
        let mut refused = 0;
        let operator = self.config.before.clone();
        if let Some(path) = self.path.clone() {
            let before = self.config.clone();
            let trust = self.trust.clone();
            let reading = move || {
                let (config, errors) = Config::load_after(&path, Some(&before))?;
                let trust = trust::open(&config, trust.as_ref(), DiskLedger::open)?;
                anyhow::Ok((config, errors, trust))
            };
            match apart(reading).await? {
                Ok((config, errors, trust)) => {
                    errors.iter().for_each(tell_of_tenant);
                    refused += errors.len();
                    self.trust = trust;
                    self.take(config);
                }
                Err(error) => {
                    refused += 1;
                    tracing::error!(%error, "new configuration rejected; previous version remains active");
                }
            }
        }
        if let Some(admin) = &self.admin {
            admin.exchange(self.config.clone());
        }
        self.watch().await;
        let (config, before) = (self.config.clone(), self.server.settings.load_full());
        match apart(move || Read::new(&config, Some(&before))).await? {
            Ok(Read {
                mut settings,
                errors,
            }) => {
                settings.awaits_tenants = self.awaits_tenants.clone();
                for error in &errors {
                    tracing::error!(%error, "not reloaded; previous version remains active");
                }
                refused += errors.len() + self.exchange_way_out(&settings).await?;
                refused += self.exchange_next_hops(&settings).await?;
                refused += self.exchange_relay_clients().await?;
                self.server.settings.store(Arc::new(settings));
                self.tell_of_certificates();
                self.tell_of_passwords();
            }
            Err(error) => {
                refused += 1;
                tracing::error!(%error, "settings not reloaded; previous version remains active");
            }
        }
        match refused {
            0 => tracing::info!("configuration reloaded"),
            refused => tracing::warn!(refused, "configuration reloaded in part"),
        }
        self.update_policies(None).await;
        if let (Some(operator), None) = (operator, &self.config.before) {
            tracing::info!("[policy] before is no longer asked");
            self.server.asking.metrics.forget(&operator.name);
        }
        Ok(())
    }

    /// Takes over a configuration, but for what needs a restart.
    fn take(&mut self, mut config: Config) {
        // Those of the fleet come and go by what is said there.
        self.own.store(Arc::new(Own::of(&config)));
        let of_fleet = self.config.tenants.iter().filter(|it| it.given.is_some());
        let names: HashSet<String> = config.askable().map(|it| it.name.clone()).collect();
        let of_fleet = of_fleet.filter(|it| !names.contains(&it.name));
        config.tenants.extend(of_fleet.cloned());
        let fixed = |config: &Config| {
            let mut listeners = config.listeners.clone();
            for listener in &mut listeners {
                if let Destination::Outbound(outbound) = &mut listener.destination {
                    *outbound = config::Outbound::default();
                }
            }
            (listeners, config.hostname.clone())
        };
        let is_same = fixed(&config) == fixed(&self.config);
        if !is_same {
            tracing::warn!("listeners, next hops and the hostname change with a restart only");
        }
        let old = &self.config;
        for (section, is_same) in [
            ("[[frontend]]", config.frontends == old.frontends),
            ("[sandbox]", config.sandbox == old.sandbox),
            ("[connections]", config.connections == old.connections),
            ("[metrics]", config.metrics == old.metrics),
            ("[decisions]", config.decisions == old.decisions),
            ("[admin]", config.admin == old.admin),
            ("[alerts] every", config.alerts.every == old.alerts.every),
            ("[validation]", config.validation == old.validation),
            ("[fleet]", config.fleet == old.fleet),
        ] {
            if !is_same {
                tracing::warn!("{section} changes with a restart only");
            }
        }
        redact::tell(&config.log);
        let names = |config: &Config| -> HashSet<String> {
            config.tenants.iter().map(|it| it.name.clone()).collect()
        };
        let (before, after) = (names(&self.config), names(&config));
        for tenant in &config.tenants {
            if !before.contains(&tenant.name) {
                tracing::info!(tenant = tenant.name, "tenant added");
            }
        }
        for tenant in &self.config.tenants {
            if !after.contains(&tenant.name) {
                tracing::info!(tenant = tenant.name, "tenant removed");
                self.server.asking.metrics.forget(&tenant.name);
            }
        }
        let listeners = match is_same {
            true => config.listeners.clone(),
            false => self.config.listeners.clone(),
        };
        self.of_fleet = config.numbers_of_fleet();
        self.sources = sources(&config, self.trust.as_ref());
        self.config = Config {
            listeners,
            hostname: self.config.hostname.clone(),
            sandbox: self.config.sandbox.clone(),
            connections: self.config.connections.clone(),
            metrics: self.config.metrics.clone(),
            decisions: self.config.decisions.clone(),
            admin: self.config.admin.clone(),
            validation: self.config.validation.clone(),
            fleet: self.config.fleet.clone(),
            alerts: config::Alerts {
                every: self.config.alerts.every,
                ..config.alerts
            },
            ..config
        };
    }

    /// Changes how mail leaves for partners, if it does, to what is configured now; gives how much of that was rejected.
    async fn exchange_way_out(&self, settings: &Settings) -> anyhow::Result<usize> {
        self.outbound
            .exchange(&self.config, settings.authorities.clone());
        let Some(outbound) = self.outbound.made() else {
            return Ok(0);
        };
        let (config, authorities, before) = (
            self.config.clone(),
            settings.authorities.clone(),
            outbound.resources(),
        );
        let errors =
            match apart(move || OutboundResources::new(&config, authorities, Some(&before))).await?
            {
                Ok((resources, errors)) => {
                    outbound.exchange(resources);
                    errors
                }
                Err(error) => vec![error],
            };
        for error in &errors {
            tracing::error!(%error, "not reloaded for delivery; previous version remains active");
        }
        Ok(errors.len())
    }

    /// Takes over the next hops of tenants that are configured now, and the passwords that are in their files; gives how
    /// many of them cannot be read.
    async fn exchange_next_hops(&self, settings: &Settings) -> anyhow::Result<usize> {
        let (next_hops, config, authorities) = (
            self.next_hops.clone(),
            self.config.clone(),
            settings.authorities.clone(),
        );
        let new = apart(move || next_hops.take(&config, &authorities)).await?;
        for next_hop in &new {
            if let Err(error) = begin_with(next_hop).await {
                tracing::error!(%error, "a tenant's next hop is not ready");
            }
        }
        let (all, timeouts, authorities) = (
            self.all_next_hops(),
            self.config.timeouts.clone(),
            settings.authorities.clone(),
        );
        let exchanging = move || {
            let exchanged = all.iter().map(|hop| hop.exchange(&timeouts, &authorities));
            exchanged.filter_map(Result::err).collect::<Vec<_>>()
        };
        let errors = apart(exchanging).await?;
        for error in &errors {
            tracing::error!(%error, "not reloaded; previous version remains active");
        }
        Ok(errors.len())
    }

    /// Takes over who may send to partners, and the passwords that are in files now; gives how many files cannot be read.
    async fn exchange_relay_clients(&self) -> anyhow::Result<usize> {
        let mut refused = 0;
        for listener in &self.listeners {
            let configured = self.config.listeners.get(listener.number);
            let (
                Egress::Partners { relay_clients, .. },
                Some(config::Listener {
                    destination: Destination::Outbound(outbound),
                    ..
                }),
            ) = (&listener.egress, configured)
            else {
                continue;
            };
            let (outbound, before) = (outbound.clone(), relay_clients.load_full());
            let (clients, error) =
                apart(move || RelayClients::new(&outbound, Some(&before))).await?;
            if let Some(error) = error {
                refused += 1;
                let state = match clients.can_verify() {
                    true => "not reloaded; previous version remains active",
                    false => "nobody can log in until it is mended",
                };
                tracing::error!(%error, "{state}");
            }
            relay_clients.store(Arc::new(clients));
        }
        Ok(refused)
    }
}
