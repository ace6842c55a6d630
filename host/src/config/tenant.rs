//! Tenants, and the files of their policies.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::problem::Key::{Name, Number};
use super::problem::{Outcome, wrong};
use portcullis::{TenantSource, normal_domain};

/// An organization.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tenant {
    /// The name, for logs and metrics.
    pub name: String,
    /// The recipient domains, exact or `*.domain` for the domain and all below it.
    pub domains: Vec<String>,
    /// The rules document (.json) or component (.wasm).
    pub policy: PathBuf,
    /// Cases that it must pass before it is taken, as those of a rules document's `tests`.
    pub tests: Option<PathBuf>,
}

impl From<&Tenant> for TenantSource {
    fn from(tenant: &Tenant) -> Self {
        TenantSource {
            name: tenant.name.clone(),
            domains: tenant.domains.clone(),
            policy: tenant.policy.clone(),
            tests: tenant.tests.clone(),
        }
    }
}

/// Names and domains belong to one tenant each.
pub(super) fn validate(tenants: &[Tenant]) -> Outcome {
    let mut names = HashSet::new();
    let mut domains = HashMap::new();
    for (number, tenant) in tenants.iter().enumerate() {
        let at = |key| [Name("tenant"), Number(number), Name(key)];
        if tenant.name.is_empty() {
            return wrong(at("name"), "the name is empty");
        }
        if !names.insert(&tenant.name) {
            let message = format!("the name {:?} is taken by another tenant", tenant.name);
            return wrong(at("name"), message);
        }
        for (place, domain) in tenant.domains.iter().enumerate() {
            let [list, tenants, own] = at("domains");
            let at = [list, tenants, own, Number(place)];
            let Some(name) = normal_domain(domain) else {
                return wrong(at, format!("{domain:?} is not a domain or *.domain"));
            };
            if let Some(other) = domains.insert(name, &tenant.name) {
                let message = format!("{domain:?} belongs to tenant {other:?} already");
                return wrong(at, message);
            }
        }
    }
    Ok(())
}
