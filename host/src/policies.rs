//! Which policy decides about whose mail: tenants, their policies in force, and their exchange while
//! mail flows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::Mutex;

use crate::config;
use crate::sandbox::interface::{Refusal, Verdict};
use crate::sandbox::{BuildError, Builder, LoadError, Module, Problem, Sandbox, Severity};

/// The stable name of the failure that stands in a verdict where no policy could be asked.
pub const POLICY_UNAVAILABLE: &str = "policy-unavailable";

/// The verdict where no policy could be asked: fail closed, softly.
pub fn unavailable() -> Verdict {
    Verdict::Defer(Refusal {
        connector: None,
        failed: POLICY_UNAVAILABLE.into(),
        code: 451,
        enhanced: "4.3.0".into(),
        text: "the policy for this recipient is not available now, try again later".into(),
        audit: Vec::new(),
    })
}

/// An organization and its policy.
#[derive(Clone)]
pub struct Tenant {
    /// The name, for logs and metrics.
    pub name: Arc<str>,
    /// The policy in force; `None` if it has not loaded yet, which defers the tenant's mail.
    pub policy: Option<Arc<Module>>,
    path: PathBuf,
    /// Of the file that the policy was made of.
    digest: Option<[u8; 32]>,
}

impl Tenant {
    /// Whether the policy's verdict can depend on the From header.
    pub fn reads_header(&self) -> bool {
        let policy = self.policy.as_ref();
        policy.is_some_and(|policy| policy.description.reads_header_from)
    }
}

/// The tenants at one moment. A transaction holds on to the one that it began with.
#[derive(Clone, Default)]
pub struct Table {
    by_domain: HashMap<Box<str>, Arc<Tenant>>,
    by_name: HashMap<Arc<str>, Arc<Tenant>>,
    first: Option<Arc<Tenant>>,
}

impl Table {
    /// The tenant of a domain in normal form: by its name, then by `*.` of the nearest name above it.
    pub fn tenant(&self, domain: &str) -> Option<&Arc<Tenant>> {
        if let Some(tenant) = self.by_domain.get(domain) {
            return Some(tenant);
        }
        let mut name = domain;
        loop {
            if let Some(tenant) = self.by_domain.get(format!("*.{name}").as_str()) {
                return Some(tenant);
            }
            name = name.split_once('.')?.1;
        }
    }

    /// The tenant of that name.
    pub fn named(&self, name: &str) -> Option<&Arc<Tenant>> {
        self.by_name.get(name)
    }

    /// The first tenant: the one of the bare `Postmaster`, whom every server must know (RFC 5321
    /// §4.5.1).
    pub fn first(&self) -> Option<&Arc<Tenant>> {
        self.first.as_ref()
    }
}

/// A tenant's policy file was not taken.
#[derive(Debug, thiserror::Error)]
#[error("tenant {tenant}: {cause}")]
pub struct PolicyError {
    /// The tenant.
    pub tenant: String,
    /// Why.
    pub cause: Cause,
}

/// Why a policy file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is neither a `.json` nor a `.wasm` file, or not UTF-8.
    #[error("{}: {reason}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// The document has errors.
    #[error("{}", rejected(path, problems))]
    Rejected {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
    /// The document could not be built.
    #[error("{}: {source}", path.display())]
    Build {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BuildError,
    },
    /// The component was not loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

fn rejected(path: &Path, problems: &[Problem]) -> String {
    let mut errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error);
    let Some(first) = errors.next() else {
        return format!("{}: rejected", path.display());
    };
    let more = match errors.count() {
        0 => String::new(),
        more => format!(" (and {more} more errors)"),
    };
    let Problem {
        line,
        column,
        message,
        ..
    } = first;
    format!("{}:{line}:{column}: {message}{more}", path.display())
}

/// What an update did.
#[derive(Default)]
pub struct Update {
    /// The tenants that have another policy now.
    pub changed: Vec<Arc<str>>,
    /// The tenants that keep what they had.
    pub errors: Vec<PolicyError>,
}

/// The policies of all tenants.
pub struct Policies {
    current: ArcSwap<Table>,
    sandbox: Sandbox,
    builder: Builder,
    /// Updates go one after another.
    updating: Mutex<()>,
}

impl Policies {
    /// No tenants yet.
    pub fn new(sandbox: Sandbox, builder: Builder) -> Self {
        Policies {
            current: ArcSwap::default(),
            sandbox,
            builder,
            updating: Mutex::new(()),
        }
    }

    /// The tenants now.
    pub fn snapshot(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// Where the policies run.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Brings the tenants in line with the configuration and the files. Each file that has changed is
    /// loaded, checked and tested; then all are exchanged in one step. A file that is not taken leaves
    /// its tenant with the policy that it had.
    pub async fn update(&self, tenants: &[config::Tenant]) -> Update {
        let _one_at_a_time = self.updating.lock().await;
        let before = self.snapshot();
        let mut update = Update::default();
        let mut table = Table::default();
        for configured in tenants {
            let old = before.named(&configured.name);
            let tenant = Arc::new(self.tenant(configured, old, &mut update).await);
            table.by_name.insert(tenant.name.clone(), tenant.clone());
            for domain in &configured.domains {
                if let Some(domain) = config::normal_domain(domain.get_ref()) {
                    table.by_domain.insert(domain.into(), tenant.clone());
                }
            }
            table.first.get_or_insert(tenant);
        }
        self.current.store(Arc::new(table));
        update
    }

    async fn tenant(
        &self,
        configured: &config::Tenant,
        old: Option<&Arc<Tenant>>,
        update: &mut Update,
    ) -> Tenant {
        let mut tenant = Tenant {
            name: configured.name.as_str().into(),
            policy: old.and_then(|old| old.policy.clone()),
            path: configured.policy.clone(),
            digest: old
                .filter(|old| old.path == configured.policy)
                .and_then(|old| old.digest),
        };
        match self.load(&tenant).await {
            Ok(None) => {}
            Ok(Some((module, digest))) => {
                tenant.policy = Some(module);
                tenant.digest = Some(digest);
                update.changed.push(tenant.name.clone());
            }
            Err(cause) => update.errors.push(PolicyError {
                tenant: configured.name.clone(),
                cause,
            }),
        }
        tenant
    }

    /// The policy in the tenant's file, unless it is the one in force.
    async fn load(&self, tenant: &Tenant) -> Result<Option<(Arc<Module>, [u8; 32])>, Cause> {
        let path = tenant.path.clone();
        let bytes = tokio::fs::read(&path).await.map_err(|source| Cause::Read {
            path: path.clone(),
            source,
        })?;
        let mut found = [0; 32];
        found.copy_from_slice(digest(&SHA256, &bytes).as_ref());
        if tenant.digest == Some(found) {
            return Ok(None);
        }
        let module = match path.extension().and_then(|extension| extension.to_str()) {
            Some("wasm") => {
                let name = path.display().to_string();
                self.sandbox.load(&name, bytes).await?
            }
            Some("json") => self.load_document(&path, bytes).await?,
            _ => {
                let reason = "a policy is a .json or a .wasm file";
                return Err(Cause::Kind { path, reason });
            }
        };
        Ok(Some((module, found)))
    }

    async fn load_document(&self, path: &Path, bytes: Vec<u8>) -> Result<Arc<Module>, Cause> {
        let name = path.display().to_string();
        let path = path.to_owned();
        let Ok(document) = String::from_utf8(bytes) else {
            let reason = "the rules are not UTF-8";
            return Err(Cause::Kind { path, reason });
        };
        match self.builder.read(document).await {
            Ok(rules) => {
                for warning in &rules.summary.warnings {
                    let Problem {
                        line,
                        column,
                        message,
                        ..
                    } = warning;
                    tracing::warn!("{}:{line}:{column}: {message}", path.display());
                }
                Ok(self
                    .builder
                    .load(&self.sandbox, &name, rules.packed)
                    .await?)
            }
            Err(BuildError::Rejected(problems)) => Err(Cause::Rejected { path, problems }),
            Err(source) => Err(Cause::Build { path, source }),
        }
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
                policy: None,
                path: PathBuf::new(),
                digest: None,
            })
        };
        let table = Table {
            by_domain: [
                ("a.test", "exact"),
                ("*.a.test", "below"),
                ("*.b.a.test", "further below"),
            ]
            .map(|(domain, name)| (domain.into(), tenant(name)))
            .into(),
            ..Table::default()
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
                table.tenant(domain).map(|tenant| &*tenant.name),
                name,
                "{domain}"
            );
        }
    }
}
