//! The whole configuration as it is written: each value is well-formed, and what they say together is not looked at
//! yet.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::admin::{Admin, Alerts, Validation};
use super::egress::{Connections, Dns, RawDelivery};
use super::fleet::Fleet;
use super::frontend::RawFrontend;
use super::limits::{Limits, Sandbox, Timeouts};
use super::listener::RawListener;
use super::log::{Decisions, Log, Metrics};
use super::problem::Problem;
use super::tenant::{Policy, RawTenant};
use super::trust::Trust;

/// A configuration file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawConfig {
    /// The name that this host gives in its greeting, to next hops and in Received fields.
    pub hostname: String,
    /// Where to listen.
    #[serde(rename = "listener", default)]
    pub listeners: Vec<RawListener>,
    /// Where other mail servers ask.
    #[serde(rename = "frontend", default)]
    pub frontends: Vec<RawFrontend>,
    /// Whose mail is taken.
    #[serde(rename = "tenant", default)]
    pub tenants: Vec<RawTenant>,
    /// Files of further tenants, one in each: `tenants.d/*.toml`.
    #[serde(rename = "tenants", skip_serializing_if = "Option::is_none")]
    pub tenant_files: Option<PathBuf>,
    /// What one session, one client and all may use.
    #[serde(default)]
    pub limits: Limits,
    /// How long to wait.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// What is asked beside the tenants' own policies.
    #[serde(default)]
    pub policy: Policy,
    /// What a policy may use.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// Whose certificates are trusted.
    #[serde(default)]
    pub trust: Trust,
    /// How mail leaves for partners.
    #[serde(default)]
    pub delivery: RawDelivery,
    /// Whom to ask where a domain's servers are.
    #[serde(default)]
    pub dns: Dns,
    /// How long connections to next hops and partners are kept for further messages.
    #[serde(default)]
    pub connections: Connections,
    /// Where numbers are shown.
    pub metrics: Option<Metrics>,
    /// What the log tells of people.
    #[serde(default)]
    pub log: Log,
    /// What is remembered of decisions.
    #[serde(default)]
    pub decisions: Decisions,
    /// Where alerts go.
    #[serde(default)]
    pub alerts: Alerts,
    /// When connectors are tried out.
    #[serde(default)]
    pub validation: Validation,
    /// The API and the page.
    pub admin: Option<Admin>,
    /// The store from which policies come, for many hosts.
    pub fleet: Option<Fleet>,
}

impl RawConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// The first value that is not well-formed.
    pub fn read(text: &str) -> Result<Self, Box<Problem>> {
        toml::from_str(text).map_err(|error| Box::new(Problem::of_reader(text, &error)))
    }

    /// Makes relative paths start at a folder.
    pub fn resolve(&mut self, folder: &Path) {
        let absolute = |path: &mut PathBuf| *path = folder.join(&*path);
        for listener in &mut self.listeners {
            listener.certificate.iter_mut().for_each(absolute);
            listener.key.iter_mut().for_each(absolute);
            if let Some(hop) = &mut listener.next_hop {
                hop.resolve(folder);
            }
            if let Some(outbound) = &mut listener.outbound {
                outbound.password_file.iter_mut().for_each(absolute);
            }
        }
        self.delivery.certificate.iter_mut().for_each(absolute);
        self.delivery.key.iter_mut().for_each(absolute);
        self.delivery.state_directory.iter_mut().for_each(absolute);
        self.dns.trust_anchor.iter_mut().for_each(absolute);
        self.delivery.tlsrpt_socket.iter_mut().for_each(absolute);
        for host in &mut self.delivery.smart_hosts {
            host.resolve(folder);
        }
        for tenant in &mut self.tenants {
            tenant.resolve(folder);
        }
        self.tenant_files.iter_mut().for_each(absolute);
        self.policy.before.iter_mut().for_each(absolute);
        let trust = &mut self.trust;
        trust
            .roots
            .iter_mut()
            .for_each(|paths| paths.iter_mut().for_each(absolute));
        trust.additional_roots.iter_mut().for_each(absolute);
        let roots = trust
            .authority
            .iter_mut()
            .flat_map(|it| it.roots.iter_mut());
        roots.for_each(absolute);
        trust.crls.iter_mut().for_each(absolute);
        trust.policy_root.iter_mut().for_each(absolute);
        self.sandbox.cache_directory.iter_mut().for_each(absolute);
        for frontend in &mut self.frontends {
            frontend.resolve(folder);
        }
        if let Some(fleet) = &mut self.fleet {
            fleet.resolve(folder);
        }
        if let Some(admin) = &mut self.admin {
            admin.resolve(folder);
        }
    }
}
