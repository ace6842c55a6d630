//! What the hosts of a fleet say of themselves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::store::StoreArgs;
use crate::cli::output::{self, Format};
use crate::cli::paint::printable;
use crate::config::Ring;
use crate::fleet::{Entry, Exception, Found, Key, Nats, Status};
use portcullis::statement::PolicyStatement;

/// Say what is in force on which hosts
///
/// Exits with 0 if all hosts have what they should, with 1 otherwise.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis fleet status --config portcullis.toml
  portcullis fleet status contoso --config portcullis.toml")]
pub(super) struct ShowStatus {
    /// Only of this tenant
    tenant: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
    /// How to write it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Wait until hosts have what is in the store now
///
/// Exits with 0 once they have, with 1 if one of them refuses it or the time is over.
#[derive(Args)]
#[command(
    after_help = "Example:\n  portcullis fleet wait contoso --hosts 100 --timeout 60s --config portcullis.toml"
)]
pub(super) struct Wait {
    /// Only for this tenant
    tenant: Option<String>,
    /// For at least so many hosts
    #[arg(long, default_value_t = 1)]
    hosts: usize,
    /// How long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    store: StoreArgs,
}

/// What is in the store for a host.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Wanted {
    sequence: u64,
    revision: u64,
}

/// What is in the store, by tenant and ring.
struct InStore {
    tenants: BTreeMap<String, BTreeMap<Ring, Wanted>>,
    revision: u64,
    created: String,
}

impl InStore {
    async fn read(nats: &Nats, tenant: Option<&str>) -> anyhow::Result<Self> {
        let stream = nats.stream().await?;
        let mut all = InStore {
            tenants: BTreeMap::new(),
            revision: stream.last,
            created: stream.created,
        };
        let found = match tenant {
            None => nats.all().await?,
            Some(tenant) => {
                let mut found = Vec::new();
                for ring in [Ring::All, Ring::Canary] {
                    found.extend(nats.get(&Key::Tenant(ring, tenant.into())).await?);
                }
                found
            }
        };
        for Found {
            key,
            value,
            revision,
        } in found
        {
            let entry = value.as_deref().map(Entry::read);
            if let (Some(Key::Tenant(ring, name)), Some(Ok(Entry::Policy { statement, .. }))) =
                (Key::read(&key), entry)
            {
                let statement = statement.statement::<PolicyStatement>();
                let sequence = statement.map_or(0, |it| it.sequence);
                let of_tenant = all.tenants.entry(name).or_default();
                of_tenant.insert(ring, Wanted { sequence, revision });
            }
        }
        if let Some(tenant) = tenant.filter(|it| !all.tenants.contains_key(*it)) {
            bail!(
                "there is no policy of tenant {} in the store",
                printable(tenant)
            );
        }
        Ok(all)
    }

    /// What a tenant should have on a host of a ring.
    fn wanted(&self, tenant: &str, ring: Ring) -> Option<Wanted> {
        let of_tenant = self.tenants.get(tenant)?;
        let of_rings = of_tenant.iter().filter(|(of, _)| **of >= ring);
        of_rings
            .map(|(_, wanted)| *wanted)
            .max_by_key(|it| it.sequence)
    }
}

/// What a host has of what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
enum Has {
    /// All of it.
    All,
    /// It has not seen all yet.
    Behind {
        /// What it has seen.
        revision: u64,
    },
    /// Of some it refuses something.
    Exceptions {
        /// These, and further ones.
        exceptions: Vec<Exception>,
        /// How many further ones.
        further: usize,
    },
}

fn has(status: &Status, store: &InStore, tenant: Option<&str>) -> Has {
    let wanted = match tenant {
        None => store.revision,
        Some(tenant) => store
            .wanted(tenant, status.ring)
            .map_or(0, |it| it.revision),
    };
    let concerns = |it: &&Exception| tenant.is_none_or(|tenant| it.tenant == tenant);
    let exceptions: Vec<Exception> = status.exceptions.iter().filter(concerns).cloned().collect();
    if status.revision < wanted || status.store != store.created {
        return Has::Behind {
            revision: status.revision,
        };
    }
    match (exceptions.is_empty(), status.further_exceptions) {
        (true, 0) => Has::All,
        // Of further ones nobody knows whose they are.
        (_, further) => Has::Exceptions {
            exceptions,
            further,
        },
    }
}

impl ShowStatus {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let (nats, _) = self.store.open().await?;
        let tenant = self.tenant.as_deref();
        let store = InStore::read(&nats, tenant).await?;
        let mut hosts = nats.said().await?;
        hosts.sort_by(|a, b| a.host.cmp(&b.host));
        let all: Vec<(Status, Has)> = hosts
            .into_iter()
            .map(|status| {
                let has = has(&status, &store, tenant);
                (status, has)
            })
            .collect();
        match self.format {
            Format::Text => output::result(&told(&store, &all, tenant))?,
            Format::Json => output::json(&report(&store, &all, tenant))?,
        }
        let is_good = !all.is_empty()
            && all
                .iter()
                .all(|(status, has)| *has == Has::All && status.alarms.is_empty());
        Ok(match is_good {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(1),
        })
    }
}

fn report(store: &InStore, all: &[(Status, Has)], tenant: Option<&str>) -> serde_json::Value {
    let host = |(status, has): &(Status, Has)| {
        let wanted = tenant.and_then(|tenant| store.wanted(tenant, status.ring));
        serde_json::json!({
            "host": status.host, "ring": status.ring, "version": status.version, "time": status.time,
            "revision": status.revision, "root": status.root, "tenants": status.tenants,
            "wanted": wanted.map(|it| it.sequence), "has": has, "alarms": status.alarms,
        })
    };
    serde_json::json!({
        "store": store.created, "revision": store.revision, "tenants": store.tenants.len(),
        "hosts": all.iter().map(host).collect::<Vec<_>>(),
    })
}

fn told(store: &InStore, all: &[(Status, Has)], tenant: Option<&str>) -> String {
    let mut text = String::new();
    let good = all.iter().filter(|(_, has)| *has == Has::All).count();
    let of = all.len();
    // Writing to a string cannot fail.
    let _ = match tenant {
        None => writeln!(
            text,
            "{} tenants, revision {} of the store of {}\nall of it is in force on {good} of {of} hosts",
            store.tenants.len(),
            store.revision,
            store.created
        ),
        Some(tenant) => {
            let name = printable(tenant);
            for ring in [Ring::All, Ring::Canary] {
                let in_ring = all.iter().filter(|(status, _)| status.ring == ring);
                let (good, of) = in_ring.fold((0, 0), |(good, of), (_, has)| {
                    (good + usize::from(*has == Has::All), of + 1)
                });
                let _ = match store.wanted(tenant, ring) {
                    Some(wanted) if of > 0 => writeln!(
                        text,
                        "{name}: sequence {} in force on {good} of {of} (ring {})",
                        wanted.sequence,
                        ring.name()
                    ),
                    None if of > 0 => writeln!(
                        text,
                        "{name}: nothing in the store for ring {}",
                        ring.name()
                    ),
                    _ => Ok(()),
                };
            }
            Ok(())
        }
    };
    for (status, has) in all {
        let host = printable(&status.host);
        match has {
            Has::All => {}
            Has::Behind { revision } => {
                let _ = writeln!(
                    text,
                    "{host}: has seen revision {revision} so far ({})",
                    status.time
                );
            }
            Has::Exceptions {
                exceptions,
                further,
            } => {
                for it in exceptions {
                    let stays = it
                        .in_force
                        .map_or("nothing is in force".into(), |sequence| {
                            format!("{sequence} stays in force")
                        });
                    let _ = writeln!(
                        text,
                        "{host}: {} sequence {} is not taken, {stays}: {}",
                        printable(&it.tenant),
                        it.sequence,
                        printable(&it.reason)
                    );
                }
                if *further > 0 {
                    let _ = writeln!(text, "{host}: and {further} further ones");
                }
            }
        }
        for alarm in &status.alarms {
            let _ = writeln!(text, "{host}: {}", printable(alarm));
        }
    }
    if all.is_empty() {
        text.push_str("no host has said anything for 90 seconds\n");
    }
    text
}

impl Wait {
    /// Runs the command.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let (nats, _) = self.store.open().await?;
        let deadline = Instant::now() + self.timeout;
        let tenant = self.tenant.as_deref();
        let store = InStore::read(&nats, tenant).await?;
        let mut said = nats.watch_status().await?;
        let mut hosts: BTreeMap<String, Status> = BTreeMap::new();
        loop {
            let next = timeout_at(deadline, said.next()).await;
            let Ok(next) = next else {
                output::tell(&told(&store, &judged(hosts, &store, tenant), tenant));
                output::tell("the time is over\n");
                return Ok(ExitCode::from(1));
            };
            let (status, is_current) = next.context("nobody says anything any more")?;
            hosts.extend(status.map(|status| (status.host.clone(), status)));
            if !is_current || hosts.len() < self.hosts {
                continue;
            }
            let all = judged(hosts.clone(), &store, tenant);
            let is_refused = |(_, has): &(Status, Has)| match has {
                Has::Exceptions { exceptions, .. } => exceptions.iter().any(|it| !it.is_pending),
                _ => false,
            };
            if all.iter().any(is_refused) {
                output::tell(&told(&store, &all, tenant));
                return Ok(ExitCode::from(1));
            }
            if all.iter().all(|(_, has)| *has == Has::All) {
                output::result(&told(&store, &all, tenant))?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

fn judged(
    hosts: BTreeMap<String, Status>,
    store: &InStore,
    tenant: Option<&str>,
) -> Vec<(Status, Has)> {
    let judged = hosts.into_values().map(|status| {
        let has = has(&status, store, tenant);
        (status, has)
    });
    judged.collect()
}
