//! What a partner publishes about the servers of a path, for those who deliver themselves.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::dane::Demand;
use super::failure::Failure;
use super::mta_sts;
use super::outbound::Outbound;
use super::route::PartnerPath;
use super::servers::Servers;

/// A mail server that asks waits for the answer: Postfix 100 s.
const LONGEST: Duration = Duration::from_secs(30);

/// Servers that are looked at: more than any mail server tries.
const MOST: usize = 100;

/// TLSA records of a partner's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// No server has any that count.
    None,
    /// Some have records, but none that SMTP uses.
    Unusable,
    /// Some servers have them, others do not.
    Some,
    /// All servers have them.
    All,
}

/// What a partner publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// TLSA records.
    pub records: Records,
    /// An MTA-STS policy in mode enforce.
    pub enforced: Option<EnforcedPolicy>,
}

/// An MTA-STS policy in mode enforce (RFC 8461).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnforcedPolicy {
    /// Whose it is.
    pub domain: String,
    /// How long it may be kept.
    pub max_age: Duration,
    /// The servers that it allows: names, or `*.` for one label.
    pub patterns: Vec<String>,
    /// Those of the domain's servers that it allows.
    pub servers: Vec<String>,
}

impl Published {
    /// A partner that publishes nothing.
    pub const NOTHING: Published = Published {
        records: Records::None,
        enforced: None,
    };
}

impl Outbound {
    /// Whether a smart host's name has mail exchangers, or is a server itself.
    ///
    /// # Errors
    /// If it cannot be told.
    pub async fn has_exchangers(&self, name: &str) -> Result<bool, Failure> {
        let resources = self.resources();
        let found = timeout_at(Instant::now() + LONGEST, resources.dns.mx(name)).await;
        let found = found.map_err(|_| Failure::TimedOut(name.to_owned()))??;
        Ok(!found.records.is_empty())
    }

    /// Looks up what is published about the servers of a path. Nothing is connected to.
    ///
    /// # Errors
    /// If it cannot be told of one of them: whoever delivers there may find what was not found here.
    pub async fn published(&self, path: &PartnerPath) -> Result<Published, Failure> {
        let resources = self.resources();
        let deadline = Instant::now() + resources.timeouts.route.min(LONGEST);
        let looking = async {
            let host = &self.this_host;
            let mut servers = Servers::new(host, &resources, path, deadline, MOST).await?;
            let demands = servers.demands().await?;
            let policy = servers.policy();
            let enforced = policy.filter(|policy| policy.mode == mta_sts::Mode::Enforce);
            Ok(Published {
                records: records(demands.iter().map(|(_, demand)| demand)),
                enforced: enforced.map(|policy| EnforcedPolicy {
                    domain: path.target.to_string(),
                    max_age: policy.max_age,
                    patterns: policy.mx.clone(),
                    servers: demands
                        .iter()
                        .filter_map(|(name, _)| name.clone())
                        .filter(|name| policy.allows(name))
                        .collect(),
                }),
            })
        };
        let slow = || Err(Failure::TimedOut(path.target.to_string()));
        timeout_at(deadline, looking)
            .await
            .unwrap_or_else(|_| slow())
    }
}

fn records<'a>(demands: impl Iterator<Item = &'a Demand> + Clone) -> Records {
    let has_records = |demand: &Demand| matches!(demand, Demand::Records { .. });
    let number = demands.clone().filter(|demand| has_records(demand)).count();
    match demands.clone().count() {
        all if number == all && all > 0 => Records::All,
        _ if number > 0 => Records::Some,
        _ if demands.clone().any(Demand::needs_tls) => Records::Unusable,
        _ => Records::None,
    }
}
