//! Whose certificates are trusted.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::problem::Key::{Name, Number};
use super::problem::{Outcome, wrong};
use super::tenant::Tenant;
use super::values::Paths;
use portcullis::tls::PUBLIC;

/// Whose certificates are trusted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Trust {
    /// Root certificates (PEM) in place of the system's.
    pub roots: Option<Paths>,
    /// Root certificates (PEM) beside those.
    pub additional_roots: Paths,
    /// Whether policies must be signed.
    pub policies: Policies,
    /// The operators' root statements, oldest first: who may sign. The first is trusted because it stands there.
    pub policy_root: Option<PathBuf>,
    /// Folder of revocation lists (PEM or DER).
    pub crls: Option<PathBuf>,
    /// Authorities that connectors name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authority: Vec<Authority>,
}

/// Whether policies must be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Policies {
    /// Whoever can write the file decides.
    #[default]
    Any,
    /// A policy needs a statement beside it (`NAME.dsse.json`) by a key that the operators name.
    Signed,
}

/// An authority that is trusted where a connector names it (`certificate-authorities`).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Authority {
    /// Its name in rules.
    pub name: String,
    /// Its root certificates (PEM).
    pub roots: Paths,
    /// The tenants whose rules may name it; all, if absent.
    pub tenants: Option<Vec<String>>,
}

impl Trust {
    /// The files of root certificates.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let roots = self.roots.iter().flat_map(|roots| roots.iter());
        let named = self.authority.iter().flat_map(|it| it.roots.iter());
        let all = roots.chain(self.additional_roots.iter()).chain(named);
        all.map(PathBuf::as_path)
    }

    /// Authorities have names of their own, and are for tenants that there are.
    pub(super) fn validate(&self, tenants: &[Tenant], has_files: bool) -> Outcome {
        if self.policies == Policies::Signed && self.policy_root.is_none() {
            let text =
                "policies that must be signed need policy-root, the operators' root statements";
            return wrong([Name("trust"), Name("policies")], text);
        }
        let mut names = HashSet::new();
        for (number, authority) in self.authority.iter().enumerate() {
            let at = |key| [Name("trust"), Name("authority"), Number(number), Name(key)];
            let name = &authority.name;
            if name.trim().is_empty() || name.chars().any(char::is_control) {
                return wrong(at("name"), format!("{name:?} is not a name"));
            }
            if name == PUBLIC {
                let text = "\"public\" is the name of the ordinary roots (trust.roots)";
                return wrong(at("name"), text);
            }
            if !names.insert(name) {
                return wrong(
                    at("name"),
                    format!("there is an authority {name:?} already"),
                );
            }
            if authority.roots.is_empty() {
                return wrong(at("roots"), "an authority needs root certificates");
            }
            let mut named = authority.tenants.iter().flatten();
            let is_unknown = |name: &&String| tenants.iter().all(|it| it.name != **name);
            if !has_files && let Some(tenant) = named.find(is_unknown) {
                return wrong(at("tenants"), format!("there is no tenant {tenant:?}"));
            }
        }
        Ok(())
    }
}
