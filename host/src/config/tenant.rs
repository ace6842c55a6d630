//! Tenants, and the files of their policies.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::ConfigError;
use super::next_hop::{NextHop, RawNextHop};
use super::problem::Key::{Name, Number};
use super::problem::{Outcome, Problem, Wrong, wrong};
use portcullis::statement::{Envelope, TenantStatement};
use portcullis::{TenantSource, normal_domain};

/// The name of `[policy] before` in logs, metrics and verdicts.
pub const OPERATOR: &str = "operator";

/// What is asked beside the tenants' own policies.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Policy {
    /// The rules document (.json) or component (.wasm) that is asked about the mail of all tenants, before each one's
    /// own policy. It can only refuse.
    pub before: Option<PathBuf>,
}

impl Policy {
    /// What is asked first, like a tenant without domains.
    pub fn check(self) -> Option<Tenant> {
        let tenant = |policy| Tenant {
            name: OPERATOR.into(),
            domains: Vec::new(),
            policy,
            tests: None,
            next_hop: None,
            file: None,
            given: None,
        };
        self.before.map(tenant)
    }
}

/// An organization, as it is written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawTenant {
    /// The name, for logs and metrics.
    pub name: String,
    /// The recipient domains, exact or `*.domain` for the domain and all below it.
    pub domains: Vec<String>,
    /// The rules document (.json) or component (.wasm).
    pub policy: PathBuf,
    /// Cases that it must pass before it is taken, as those of a rules document's `tests`.
    pub tests: Option<PathBuf>,
    /// Where its accepted mail goes, if not where the listener says.
    pub next_hop: Option<RawNextHop>,
}

impl RawTenant {
    /// Makes relative paths start at a folder.
    pub fn resolve(&mut self, folder: &Path) {
        self.policy = folder.join(&self.policy);
        self.tests
            .iter_mut()
            .for_each(|path| *path = folder.join(&*path));
        self.next_hop.iter_mut().for_each(|hop| hop.resolve(folder));
    }

    pub fn check(self) -> Result<Tenant, Wrong> {
        let next_hop = self.next_hop.map(RawNextHop::check).transpose();
        Ok(Tenant {
            name: self.name,
            domains: self.domains,
            policy: self.policy,
            tests: self.tests,
            next_hop: next_hop.map_err(|wrong| wrong.below(&[Name("next-hop")]))?,
            file: None,
            given: None,
        })
    }
}

/// An organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The name, for logs and metrics.
    pub name: String,
    /// The recipient domains, exact or `*.domain` for the domain and all below it.
    pub domains: Vec<String>,
    /// The rules document (.json) or component (.wasm).
    pub policy: PathBuf,
    /// Cases that it must pass before it is taken, as those of a rules document's `tests`.
    pub tests: Option<PathBuf>,
    /// Where its accepted mail goes, if not where the listener says.
    pub next_hop: Option<NextHop>,
    /// The file that it is in, if that is not the configuration itself.
    pub file: Option<PathBuf>,
    /// What is said of it, if it comes of the fleet.
    pub given: Option<Given>,
}

/// What is said of a tenant of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// What the operators say about it.
    pub about: Arc<TenantStatement>,
    /// The statement about its policy.
    pub policy: Arc<Envelope>,
}

impl From<&Tenant> for TenantSource {
    fn from(tenant: &Tenant) -> Self {
        TenantSource {
            name: tenant.name.clone(),
            domains: tenant.domains.clone(),
            policy: tenant.policy.clone(),
            tests: tenant.tests.clone(),
            signed: None,
            before_all: false,
        }
    }
}

/// A tenant in a file of its own.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TenantFile {
    /// The file's name without its end, if it is left out.
    name: Option<String>,
    domains: Vec<String>,
    policy: PathBuf,
    tests: Option<PathBuf>,
    next_hop: Option<RawNextHop>,
}

/// Names and domains belong to one tenant each, and none has the name of what is asked before all.
pub(super) fn validate(tenants: &[Tenant], before: Option<&Tenant>) -> Result<Taken, Wrong> {
    let mut taken = Taken {
        before: before.map(|before| before.name.clone()),
        ..Taken::default()
    };
    for (number, tenant) in tenants.iter().enumerate() {
        let below = [Name("tenant"), Number(number)];
        taken.take(tenant).map_err(|wrong| wrong.below(&below))?;
    }
    Ok(taken)
}

/// Names and domains that tenants have.
#[derive(Default)]
pub(super) struct Taken {
    before: Option<String>,
    names: HashSet<String>,
    domains: HashMap<String, String>,
}

impl Taken {
    /// Takes a tenant's name and domains, or none of them.
    fn take(&mut self, tenant: &Tenant) -> Outcome {
        if tenant.name.is_empty() {
            return wrong([Name("name")], "the name is empty");
        }
        if self.before.as_ref() == Some(&tenant.name) {
            let message = format!("the name {:?} is that of [policy] before", tenant.name);
            return wrong([Name("name")], message);
        }
        if self.names.contains(&tenant.name) {
            let message = format!("the name {:?} is taken by another tenant", tenant.name);
            return wrong([Name("name")], message);
        }
        let mut own = HashMap::new();
        for (place, domain) in tenant.domains.iter().enumerate() {
            let at = [Name("domains"), Number(place)];
            let Some(name) = normal_domain(domain) else {
                return wrong(at, format!("{domain:?} is not a domain or *.domain"));
            };
            let other = self.domains.get(&name).or_else(|| own.get(&name));
            if let Some(other) = other {
                let message = format!("{domain:?} belongs to tenant {other:?} already");
                return wrong(at, message);
            }
            own.insert(name, tenant.name.clone());
        }
        self.names.insert(tenant.name.clone());
        self.domains.extend(own);
        Ok(())
    }
}

/// Tenants that have files of their own.
#[derive(Default)]
pub(super) struct Included {
    /// Those that can be used.
    pub tenants: Vec<Tenant>,
    /// What is wrong with files. Each concerns its own tenant, which stays what it was if it is known.
    pub errors: Vec<TenantError>,
}

/// Something is wrong with the file of a tenant.
#[derive(Debug)]
pub struct TenantError {
    /// What.
    pub error: ConfigError,
    /// Whether the tenant stays what it was before; otherwise there is no such tenant.
    pub stays: bool,
}

/// Reads the tenants in files like `tenants.d/*.toml`, in the order of their names. `before` are those of before.
///
/// # Errors
/// If the folder cannot be read.
pub(super) fn include(
    pattern: &Path,
    mut taken: Taken,
    before: &[Tenant],
) -> Result<Included, ConfigError> {
    let mut included = Included::default();
    let of_file = |path: &PathBuf| {
        let is_it = |tenant: &&Tenant| tenant.file.as_ref() == Some(path);
        before.iter().find(is_it)
    };
    let all = files(pattern)?.into_iter().map(|path| (read(&path), path));
    // Whoever has a name or a domain keeps it, whatever a new file says.
    let (kept, new): (Vec<_>, Vec<_>) = all.partition(|(read, path)| {
        let now = read.as_ref().ok().map(|(tenant, _)| tenant);
        now.is_none() || now == of_file(path)
    });
    for (read, path) in kept.into_iter().chain(new) {
        let tenant = read.and_then(|(tenant, text)| {
            let taking = taken.take(&tenant);
            let wrong = |wrong| ConfigError::Wrong {
                path: path.clone(),
                problem: Box::new(Problem::of_value(&text, wrong)),
            };
            taking.map(|()| tenant).map_err(wrong)
        });
        match tenant {
            Ok(tenant) => included.tenants.push(tenant),
            Err(error) => {
                let known = of_file(&path);
                let old = known.filter(|old| taken.take(old).is_ok());
                if known.is_some() && old.is_none() {
                    // The configuration itself takes away what a tenant has.
                    return Err(error);
                }
                included.tenants.extend(old.cloned());
                included.errors.push(TenantError {
                    error,
                    stays: old.is_some(),
                });
            }
        }
    }
    included.tenants.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(included)
}

/// The folder of a pattern, `*.toml` of which are meant.
pub(super) fn folder_of(pattern: &Path) -> Option<&Path> {
    let is_all = pattern.file_name().is_some_and(|name| name == "*.toml");
    pattern.parent().filter(|_| is_all)
}

fn files(pattern: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = folder_of(pattern).unwrap_or(pattern);
    let unreadable = |source| ConfigError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        // Editors and deployments keep others beside.
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<(Tenant, String), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let parsed = toml::from_str::<TenantFile>(&text).map_err(|error| ConfigError::Wrong {
        path: path.to_owned(),
        problem: Box::new(Problem::of_reader(&text, &error)),
    })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut tenant = RawTenant {
        name: parsed.name.unwrap_or_else(|| stem.into_owned()),
        domains: parsed.domains,
        policy: parsed.policy,
        tests: parsed.tests,
        next_hop: parsed.next_hop,
    };
    tenant.resolve(folder);
    let tenant = tenant.check().map_err(|wrong| ConfigError::Wrong {
        path: path.to_owned(),
        problem: Box::new(Problem::of_value(&text, wrong)),
    })?;
    let file = Some(path.to_owned());
    Ok((Tenant { file, ..tenant }, text))
}
