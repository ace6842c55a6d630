//! What a server remembers of a tenant's mail.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::config::{self, Config};
use crate::decisions::{self, Decisions, Flow};

/// Flows that a change of the rules is tried on.
const MAX_FLOWS: u32 = 100_000;

/// Which server, and whose mail.
#[derive(Args)]
pub struct RememberedArgs {
    /// The configuration of the server
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The tenant [default: the only one]
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

impl RememberedArgs {
    /// Opens what the server remembers.
    ///
    /// # Errors
    /// If there is no such tenant, or nothing is remembered.
    pub fn open(&self) -> anyhow::Result<Remembered> {
        let config = Config::load_after(&self.config, None)?.0;
        let tenant = match (&self.tenant, &config.tenants[..]) {
            (Some(name), tenants) => tenants.iter().find(|tenant| tenant.name == *name),
            (None, [tenant]) => Some(tenant),
            (None, _) => None,
        };
        let Some(tenant) = tenant.cloned() else {
            let names: Vec<&str> = config.tenants.iter().map(|it| &*it.name).take(20).collect();
            bail!("say which tenant with --tenant: {}", names.join(", "));
        };
        Remembered::open(&config, tenant)
    }
}

/// What a server remembers of a tenant's mail.
pub struct Remembered {
    /// The tenant.
    pub tenant: config::Tenant,
    /// What is remembered.
    pub decisions: Decisions,
}

impl Remembered {
    /// Of the tenant that has this policy.
    ///
    /// # Errors
    /// If there is none.
    pub fn of_policy(config: &Path, policy: &Path) -> anyhow::Result<Self> {
        let path = config;
        let config = Config::load_after(path, None)?.0;
        let policy = policy.canonicalize()?;
        let has = |tenant: &&config::Tenant| {
            let own = tenant.policy.canonicalize();
            own.is_ok_and(|own| own == policy)
        };
        let tenant = config.tenants.iter().find(has).cloned();
        let tenant = tenant.with_context(|| {
            let (path, policy) = (path.display(), policy.display());
            format!("{path}: no tenant has the policy {policy}")
        })?;
        Remembered::open(&config, tenant)
    }

    fn open(config: &Config, tenant: config::Tenant) -> anyhow::Result<Self> {
        let folder = config.delivery.state_folder();
        let folder = folder.context(
            "there is no folder in which decisions could be kept; set [delivery] state-directory",
        )?;
        let place = decisions::place(&folder, &config.path);
        if !place.exists() {
            bail!(
                "{}: nothing is remembered yet; a server with this configuration keeps decisions there, unless [decisions] keep is 0. Run the command as the server's user, and with its state-directory",
                place.display()
            );
        }
        Ok(Remembered {
            decisions: Decisions::open(&place)?,
            tenant,
        })
    }

    /// The flows of which nothing has been forgotten.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn flows(&self) -> anyhow::Result<Vec<Flow>> {
        let since = self.decisions.complete_since(&self.tenant.name)?;
        Ok(self.decisions.flows(&self.tenant.name, since, MAX_FLOWS)?)
    }
}
