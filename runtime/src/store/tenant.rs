//! Tenants, and the policies that are in force for them at one moment.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_types::{Description, Explanation, Fact, Sha256};

use super::before;
use super::error::{Cause, PolicyError};
use super::statements::{By, Signed};
use crate::context::Context;
use crate::decision::Decision;
use crate::domain::normal_domain;
use crate::failure::EvaluationError;
use crate::file::FileVersion;
use crate::sandbox::policy::LoadedPolicy;
use crate::session::Session;
use crate::statement::{PolicyStatement, Verified};

/// An organization, and the files that its policy is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSource {
    /// The name, for logs and metrics.
    pub name: String,
    /// The domains that it receives mail for; `*.` before a name stands for all below it.
    pub domains: Vec<String>,
    /// The policy: a `.json` or `.wasm` file.
    pub policy: PathBuf,
    /// Cases that a policy has to pass before it is taken.
    pub tests: Option<PathBuf>,
    /// By whom the policy must be signed; `None` if it need not be.
    pub signed: Option<Signed>,
    /// Whether it is asked about the mail of all tenants, before each one's own policy, and only to refuse: mail that
    /// it accepts, or would deliver, is decided by the tenant's policy. One of all can be.
    pub before_all: bool,
}

/// Which policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InForce {
    /// The digest of its file.
    pub digest: Sha256,
    /// Since when.
    pub since: SystemTime,
    /// The sequence of its statement; `None` if it need not be signed.
    pub sequence: Option<u64>,
}

/// An organization and its policy.
#[derive(Clone)]
pub struct Tenant {
    /// The name, for logs and metrics.
    pub name: Arc<str>,
    /// Which policy is in force; `None` if none is.
    pub in_force: Option<InForce>,
    /// Why the file as it is now was not taken.
    pub rejected: Option<Arc<str>>,
    /// The policy loaded; `None` if it has not loaded yet, which defers the tenant's mail.
    pub(crate) policy: Option<Arc<LoadedPolicy>>,
    /// Where it was taken from; `None` if the file as it is now was not taken.
    pub(super) source: Option<Source>,
    /// The statement about the policy in force.
    pub(super) statement: Option<Arc<Verified<PolicyStatement>>>,
    /// When the reading of that file was begun, as they are counted.
    pub(super) order: u64,
    /// Whose policy is asked first.
    pub(super) before: Option<Arc<Tenant>>,
}

/// The files that a policy was taken from, as they were then.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) tests: Option<PathBuf>,
    pub(super) by: By,
    pub(super) versions: Versions,
    pub(super) digest: Sha256,
    /// Of the cases that it has passed.
    pub(super) passed: Option<Sha256>,
    /// What those say who have signed it.
    pub(super) verified: Option<Arc<Verified<PolicyStatement>>>,
}

/// What the file system tells of a policy, of its cases and of the statements about it.
#[derive(Clone, PartialEq)]
pub(super) struct Versions {
    pub(super) policy: FileVersion,
    pub(super) tests: Option<FileVersion>,
    pub(super) statement: Option<FileVersion>,
    pub(super) about: Option<FileVersion>,
}

impl Versions {
    fn all(&self) -> [Option<&FileVersion>; 4] {
        [
            Some(&self.policy),
            self.tests.as_ref(),
            self.statement.as_ref(),
            self.about.as_ref(),
        ]
    }

    /// Whether they are of the same files, as far as can be told.
    pub(super) fn look_like(&self, other: &Versions) -> bool {
        let mut both = self.all().into_iter().zip(other.all());
        both.all(|both| match both {
            (Some(one), Some(other)) => one.looks_like(other),
            (one, other) => one.is_none() && other.is_none(),
        })
    }

    /// Whether a further change of any would have another stamp.
    pub(super) fn are_settled(&self) -> bool {
        let mut there = self.all().into_iter().flatten();
        there.all(FileVersion::is_settled)
    }
}

impl Tenant {
    /// Whether its policy can be asked, as far as can be seen.
    pub(super) fn is_at_hand(&self) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.code.is_available())
    }

    /// The statement about the policy in force; `None` if it need not be signed.
    pub fn statement(&self) -> Option<&Verified<PolicyStatement>> {
        self.statement.as_deref()
    }

    /// Whether it has a policy.
    pub fn has_policy(&self) -> bool {
        self.policy.is_some()
    }

    /// What its policy consists of, without its connectors; `None` if it has no policy.
    pub fn description(&self) -> Option<&Description> {
        self.policy.as_ref().map(|policy| &policy.description)
    }

    /// Whose policy is asked before this tenant's own.
    pub fn before(&self) -> Option<&Tenant> {
        self.before.as_deref()
    }

    /// Whether all recipients of a domain are decided about alike, as rules do.
    pub fn decides_by_domain(&self) -> bool {
        let by_domain = |it: &Tenant| it.policy.as_ref().is_some_and(|policy| policy.is_built_in);
        by_domain(self) && self.before().is_none_or(by_domain)
    }

    /// Whether the verdict can depend on the From header.
    pub fn reads_header(&self) -> bool {
        let reads = |it: &Tenant| {
            let description = it.description();
            description.is_some_and(|it| it.reads.contains(&Fact::HeaderFrom))
        };
        reads(self) || self.before().is_some_and(reads)
    }
}

/// The evaluations of one SMTP session, by the policies of any tenants.
pub struct TenantSession(pub(super) Session);

impl TenantSession {
    /// Drops what belongs to policies that are no longer active.
    pub fn retain_active(&mut self, tenants: &Snapshot) {
        self.0.retain_active(|tenant, policy| {
            let active = tenants.named(tenant).into_iter().chain(tenants.before());
            let mut active = active.filter_map(|tenant| tenant.policy.as_ref());
            active.any(|active| Arc::ptr_eq(active, policy))
        });
    }

    /// Decides by the policy of a tenant, unless the one before it refuses. If one gives no answer, the decision defers
    /// the mail, and the observer hears why.
    pub async fn decide(&mut self, tenant: &Tenant, context: &Context) -> Decision {
        let Some(before) = tenant.before() else {
            return self.decide_alone(tenant, context).await;
        };
        let mut first = self.object(before, tenant, context).await;
        before::name_connectors(&before.name, first.verdict_mut());
        if !before::passes(first.verdict()) {
            return first.made_before();
        }
        let mut own = self.decide_alone(tenant, context).await;
        before::keep_apart(&before.name, &tenant.name, own.verdict_mut());
        before::add_findings(own.verdict_mut(), first.verdict_mut());
        own
    }

    async fn decide_alone(&mut self, tenant: &Tenant, context: &Context) -> Decision {
        let policy = tenant.policy.as_ref();
        let session = &mut self.0;
        session
            .decide(&tenant.name, policy, (context, &tenant.name), Decision::new)
            .await
    }

    /// The refusal by the one before all. What it would do otherwise is not carried out, so it may be anything.
    async fn object(&mut self, before: &Tenant, tenant: &Tenant, context: &Context) -> Decision {
        let policy = before.policy.as_ref();
        let session = &mut self.0;
        session
            .decide(
                &before.name,
                policy,
                (context, &tenant.name),
                Decision::objection,
            )
            .await
    }

    /// Decides by the policy of a tenant, unless the one before it refuses, and gives the reasons.
    ///
    /// # Errors
    /// If one does not answer, or there is none.
    pub async fn explain(
        &mut self,
        tenant: &Tenant,
        context: &Context,
    ) -> Result<Explanation, EvaluationError> {
        let Some(before) = tenant.before() else {
            return self.0.explain(tenant.policy.as_ref(), context).await;
        };
        let mut first = self.0.explain(before.policy.as_ref(), context).await?;
        before::name_considered(&before.name, &mut first);
        if !before::passes(&first.verdict) {
            return Ok(first);
        }
        let own = self.0.explain(tenant.policy.as_ref(), context).await?;
        Ok(before::explained(&before.name, &tenant.name, first, own))
    }
}

/// The tenants at one moment. A transaction holds on to the one that it began with.
#[derive(Clone, Default)]
pub struct Snapshot {
    by_domain: HashMap<Arc<str>, Arc<Tenant>>,
    /// Of `*.name`, by the name.
    below: HashMap<Arc<str>, Arc<Tenant>>,
    by_name: HashMap<Arc<str>, Arc<Tenant>>,
    first: Option<Arc<Tenant>>,
    /// The one that is asked before all others. It is none of the tenants, but has a name.
    before: Option<Arc<Tenant>>,
}

impl Snapshot {
    /// The tenant of a domain in normal form: by its name, then by `*.` of the nearest name above it.
    pub fn tenant(&self, domain: &str) -> Option<&Arc<Tenant>> {
        if let Some(tenant) = self.by_domain.get(domain) {
            return Some(tenant);
        }
        let mut name = domain;
        loop {
            if let Some(tenant) = self.below.get(name) {
                return Some(tenant);
            }
            name = name.split_once('.')?.1;
        }
    }

    /// Enters a tenant. A domain that is another one's stays that one's; tells what is wrong with the domains.
    pub(super) fn enter(
        &mut self,
        mut tenant: Tenant,
        configured: &TenantSource,
    ) -> Vec<PolicyError> {
        if configured.before_all {
            self.put_before_all(Arc::new(tenant));
            return Vec::new();
        }
        tenant.before = self.before.clone();
        let tenant = Arc::new(tenant);
        let mut wrong = Vec::new();
        for domain in &configured.domains {
            let Some(normal) = normal_domain(domain) else {
                wrong.push(Cause::Domain(domain.clone()));
                continue;
            };
            let entry = match normal.strip_prefix("*.") {
                Some(name) => self.below.entry(name.into()),
                None => self.by_domain.entry(normal.as_str().into()),
            };
            match entry {
                Entry::Occupied(known) if known.get().name != tenant.name => {
                    wrong.push(Cause::DomainTaken {
                        domain: normal.clone(),
                        owner: known.get().name.clone(),
                    });
                }
                Entry::Occupied(mut known) => {
                    known.insert(tenant.clone());
                }
                Entry::Vacant(place) => {
                    place.insert(tenant.clone());
                }
            }
        }
        let is_first = |first: &Arc<Tenant>| first.name == tenant.name;
        if self.first.as_ref().is_none_or(is_first) {
            self.first = Some(tenant.clone());
        }
        self.by_name.insert(tenant.name.clone(), tenant);
        let of_tenant = |cause| PolicyError {
            tenant: configured.name.clone(),
            cause,
        };
        wrong.into_iter().map(of_tenant).collect()
    }

    /// Takes away what tenants of these names have of domains.
    pub(super) fn leave(&mut self, names: &HashSet<&str>) {
        let stays = |tenant: &Arc<Tenant>| !names.contains(&*tenant.name);
        self.by_domain.retain(|_, tenant| stays(tenant));
        self.below.retain(|_, tenant| stays(tenant));
    }

    /// Takes tenants away, and gives them.
    pub(super) fn remove(&mut self, names: &HashSet<&str>) -> Vec<Arc<Tenant>> {
        self.leave(names);
        let removed = names.iter().filter_map(|name| self.by_name.remove(*name));
        let removed: Vec<Arc<Tenant>> = removed.collect();
        if self
            .first
            .as_ref()
            .is_some_and(|first| names.contains(&*first.name))
        {
            // Any other knows its postmaster as well.
            self.first = self
                .by_name
                .values()
                .min_by_key(|it| it.name.clone())
                .cloned();
        }
        removed
    }

    /// Has all tenants' mail decided by this one's policy first.
    fn put_before_all(&mut self, before: Arc<Tenant>) {
        self.before = Some(before.clone());
        for tenant in self.by_name.values_mut() {
            *tenant = Arc::new(Tenant {
                before: Some(before.clone()),
                ..Tenant::clone(tenant)
            });
        }
        let of_domains = self.by_domain.values_mut().chain(self.below.values_mut());
        for tenant in of_domains.chain(&mut self.first) {
            if let Some(same) = self.by_name.get(&tenant.name) {
                *tenant = same.clone();
            }
        }
    }

    /// Whether the policy of each tenant is the one in its file.
    pub fn is_complete(&self) -> bool {
        let mut all = self.tenants().chain(&self.before);
        all.all(|tenant| tenant.source.is_some())
    }

    /// All tenants, in no particular order.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_name.values()
    }

    /// The tenant of that name.
    pub fn named(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.by_name.get(name)
    }

    /// The one whose policy is asked before those of all tenants. Nobody can ask it alone by its name.
    pub fn before(&self) -> Option<&Arc<Tenant>> {
        self.before.as_ref()
    }

    /// What is known of a source, which is a tenant or the one before all.
    pub(super) fn known(&self, source: &TenantSource) -> Option<&Arc<Tenant>> {
        match source.before_all {
            false => self.named(&source.name),
            true => self.before().filter(|it| *it.name == *source.name),
        }
    }

    /// The first tenant: the one of the bare `Postmaster`, whom every server must know (RFC 5321
    /// §4.5.1).
    pub fn first(&self) -> Option<&Arc<Tenant>> {
        self.first.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_domain_decides() {
        let tenant = |name: &str| {
            Arc::new(Tenant {
                name: name.into(),
                in_force: None,
                rejected: None,
                policy: None,
                source: None,
                statement: None,
                order: 0,
                before: None,
            })
        };
        let snapshot = Snapshot {
            by_domain: [("a.test".into(), tenant("exact"))].into(),
            below: [("a.test", "below"), ("b.a.test", "further below")]
                .map(|(domain, name)| (domain.into(), tenant(name)))
                .into(),
            ..Snapshot::default()
        };
        for (domain, name) in [
            ("a.test", Some("exact")),
            ("x.a.test", Some("below")),
            ("b.a.test", Some("further below")),
            ("x.y.b.a.test", Some("further below")),
            ("test", None),
            ("aa.test", None),
        ] {
            assert_eq!(
                snapshot.tenant(domain).map(|tenant| &*tenant.name),
                name,
                "{domain}"
            );
        }
    }
}
