//! What becomes of policies whose files have changed, and what the log is told of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Daemon, files_of_tenant, supervisor, whose};
use crate::frontend::ways::Way;
use crate::observe::redact;
use crate::watch::Files;
use portcullis::store::{LoadResult, Update};

/// Authorities that are not defined and are named in the log, of one tenant: its policy may name thousands.
const MOST_AUTHORITIES: usize = 10;
/// Tenants of which the log is told at a time what servers cannot tell them.
const MOST_TENANTS: usize = 10;
/// How long the next policy may take to be read before mail is taken without it.
const READING_PATIENCE: Duration = Duration::from_secs(30);

impl Daemon {
    /// Waits until the policies have been read. One that takes very long holds up no others: its mail is deferred.
    pub(super) async fn read_policies(&mut self) {
        while self.missing > 0 {
            supervisor::starting(&format!("reading policies, {} to come", self.missing));
            let Ok(Some(outcome)) = timeout(READING_PATIENCE, self.late.recv()).await else {
                tracing::warn!(
                    files = self.missing,
                    "policies are still being read; their mail is deferred meanwhile"
                );
                return;
            };
            self.enter(outcome).await;
        }
    }

    pub(super) async fn reload_policies(&mut self, numbers: &BTreeSet<usize>) {
        let tenants = numbers.iter().filter_map(|number| {
            let tenant = self.config.askable().nth(*number)?;
            Some(files_of_tenant(*number, tenant, self.trust.is_some()))
        });
        let files = Files {
            files: tenants.flatten().collect(),
            folders: Vec::new(),
        };
        self.watch.add(files).await;
        self.update_policies(Some(numbers)).await;
    }

    /// Looks at the policies of these tenants, or of all.
    pub(super) async fn update_policies(&mut self, only: Option<&BTreeSet<usize>>) {
        let policies = self.server.asking.policies.clone();
        let update = policies.update(&self.sources, only).await;
        self.missing += update.late;
        if update.late > 0 {
            tracing::warn!(
                files = update.late,
                "policies are still being read; meanwhile those in force stay"
            );
        }
        // The authorities may have changed, too.
        match only {
            None => self.warn_of_unknown_authorities(self.sources.iter().map(|it| &*it.name)),
            Some(_) => self.warn_of_unknown_authorities(update.changed.iter().map(|it| &**it)),
        }
        self.note(update);
    }

    /// Takes what came of a file that took long to read.
    pub(super) async fn enter(&mut self, outcome: LoadResult) {
        self.missing = self.missing.saturating_sub(1);
        let policies = self.server.asking.policies.clone();
        let update = policies.enter(&self.sources, outcome).await;
        self.warn_of_unknown_authorities(update.changed.iter().map(|it| &**it));
        self.note(update);
    }

    /// Says which authorities the rules of these tenants name that the configuration has not, or not for them.
    pub(super) fn warn_of_unknown_authorities<'a>(&self, tenants: impl Iterator<Item = &'a str>) {
        let policies = self.server.asking.policies.snapshot();
        let settings = self.server.settings.load();
        for tenant in tenants.filter_map(|name| whose(&policies, name)) {
            let named = tenant.description().map(|it| &it.authorities[..]);
            let named = named.unwrap_or_default().iter();
            let mut unknown = named.filter(|it| !settings.authorities.has(&it.name, &tenant.name));
            for named in unknown.by_ref().take(MOST_AUTHORITIES) {
                tracing::warn!(
                    tenant = %tenant.name,
                    connector = &*redact::redact(&named.connector),
                    authority = &*redact::redact(&named.name),
                    "the rules name an authority that [[trust.authority]] does not define for this tenant; no certificate is issued by it"
                );
            }
            let more = unknown.count();
            if more > 0 {
                tracing::warn!(tenant = %tenant.name, more, "the rules name further authorities that are not defined");
            }
        }
    }

    /// What servers that ask cannot tell, and the rules read: such mail is deferred.
    fn warn_of_lacking_facts(&self, tenants: &[Arc<str>]) {
        let policies = self.server.asking.policies.snapshot();
        let frontends = &self.config.frontends;
        for named in tenants.iter().take(MOST_TENANTS) {
            let Some(description) = whose(&policies, named).and_then(|tenant| tenant.description())
            else {
                continue;
            };
            let protocols = frontends.iter().flat_map(|it| &it.protocols);
            for way in protocols.filter_map(|protocol| Way::of(*protocol)) {
                let lacks = way.lacks().iter();
                let read = lacks.filter(|lack| description.reads.contains(&lack.fact));
                let facts: Vec<&str> = read.map(|lack| lack.fact.name()).collect();
                if !facts.is_empty() {
                    let facts = facts.join(" ");
                    tracing::info!(tenant = %named, %way, facts, "the rules read facts that servers which ask this way do not tell wholly; portcullis check --for names the connectors");
                }
            }
        }
    }

    pub(super) fn note(&self, update: Update) {
        self.warn_of_lacking_facts(&update.changed);
        let policies = self.server.asking.policies.snapshot();
        for tenant in &update.changed {
            self.server.asking.metrics.policy_updated(tenant, true);
            self.server.asking.metrics.policy_failing(tenant, false);
            let known = whose(&policies, tenant);
            let statement = known.and_then(|known| known.statement());
            let sequence = statement.map(|it| it.statement.sequence);
            let signed_by = statement.map(|it| it.signed_by.join(", "));
            tracing::info!(%tenant, sequence, signed_by, "policy loaded");
        }
        for error in &update.errors {
            self.server
                .asking
                .metrics
                .policy_updated(&error.tenant.as_str().into(), false);
            let tenant = whose(&policies, &error.tenant);
            let stays = tenant.is_some_and(|tenant| tenant.has_policy());
            let cause = error.cause.to_string();
            let before = self.config.before.as_ref();
            let is_before = before.is_some_and(|before| before.name == error.tenant);
            tracing::error!(
                tenant = error.tenant,
                "new policy rejected; {}: {}",
                match (stays, is_before) {
                    (true, _) => "previous version remains active",
                    (false, true) => "there is no previous version, so all mail is deferred",
                    (false, false) => "there is no previous version, so its mail is deferred",
                },
                redact::redact(&cause)
            );
        }
        // Fails only where nobody waits.
        let _ = self.updated.send(());
    }
}
