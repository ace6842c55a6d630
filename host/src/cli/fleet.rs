//! `portcullis fleet`: policies for many hosts.

mod export;
mod ready;
mod report;
mod store;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use self::export::Export;
use self::ready::{Owners, Ready, tenant_of};
use self::report::{ShowStatus, Wait};
use self::store::StoreArgs;
use super::output;
use super::paint::printable;
use super::policy::{self, read};
use super::sign::end;
use super::signed::{read_statement, statement_in};
use crate::config::Ring;
use crate::fleet::{Draft, Entry, Key, Nats, Newest, Published, history, publish, verify};
use crate::trust::{NoLedger, private_key, read_roots};
use portcullis::statement::{
    Envelope, Payload, PolicyStatement, Retirement, Root, Roots, TenantStatement, Time,
};
use portcullis::store::tenant_statement_beside;

/// The largest file of root statements.
const MOST_ROOTS: usize = 4 << 20;

/// Publish signed policies to many hosts, and see what these have
///
/// docs/fleet.md has the way from the first key to a policy that is in force on all hosts.
#[derive(Args)]
pub struct FleetCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Init(Init),
    Put(Put),
    Promote(Promote),
    Rollback(Rollback),
    Retire(Retire),
    Status(ShowStatus),
    Wait(Wait),
    Export(Export),
}

/// Make the buckets of a fleet in NATS JetStream
#[derive(Args)]
#[command(
    after_help = "Example:\n  portcullis fleet init --server nats://nats1.example --replicas 3"
)]
struct Init {
    #[command(flatten)]
    store: StoreArgs,
    /// How many servers keep each entry
    #[arg(long, default_value_t = 1)]
    replicas: usize,
}

/// Publish a signed policy, or new root statements
///
/// NAME.dsse.json stands beside the policy, and NAME.tenant.dsse.json, unless the tenant is in the store already.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  portcullis fleet put contoso.json --config portcullis.toml --ring canary\n  portcullis fleet put root.json --config portcullis.toml"
)]
struct Put {
    /// The policy, or the root statements
    file: PathBuf,
    /// The hosts that get it
    #[arg(long, value_enum, default_value_t)]
    ring: Ring,
    #[command(flatten)]
    store: StoreArgs,
}

/// Give all hosts the policy that is tried out
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis fleet promote contoso --config portcullis.toml")]
struct Promote {
    /// The tenant
    tenant: String,
    #[command(flatten)]
    store: StoreArgs,
}

/// Go back to an earlier policy: it is signed with a new sequence
#[derive(Args)]
#[command(
    after_help = "Example:\n  portcullis fleet rollback contoso --to 41 --key contoso.pem --config portcullis.toml"
)]
struct Rollback {
    /// The tenant
    tenant: String,
    /// The sequence that the policy had
    #[arg(long, value_name = "N")]
    to: u64,
    /// A key that signs the tenant's policies; may be given several times
    #[arg(long = "key", value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// After so much time it is no longer taken; where it is in force, it stays
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// The hosts that get it
    #[arg(long, value_enum, default_value_t)]
    ring: Ring,
    #[command(flatten)]
    store: StoreArgs,
}

/// Take a tenant away from all hosts, by a statement of the operators
#[derive(Args)]
#[command(
    after_help = "Example:\n  portcullis fleet retire contoso.retire.dsse.json --config portcullis.toml"
)]
struct Retire {
    /// The statement, which `portcullis sign retire` makes
    statement: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

impl FleetCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Init(command) => {
                let (nats, _) = command.store.open().await?;
                nats.init(command.replicas).await?;
                output::result("the buckets are there\n")?;
            }
            What::Put(command) => command.run().await?,
            What::Promote(command) => command.run().await?,
            What::Rollback(command) => command.run().await?,
            What::Retire(command) => command.run().await?,
            What::Status(command) => return command.run().await,
            What::Wait(command) => return command.run().await,
            What::Export(command) => command.run().await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Put {
    async fn run(self) -> anyhow::Result<()> {
        if let Some(roots) = self.roots()? {
            return self.put_roots(roots).await;
        }
        let (nats, roots) = self.store.open_to_publish().await?;
        let tenant = tenant_of(&self.file)?;
        let key = Key::Tenant(self.ring, tenant.clone());
        let before = Newest::of(&nats, &key).await?;
        let about = self.about(&nats, &before, &tenant).await?;
        let engine = policy::engine(policy::limits())?;
        let ready = Ready::read(&self.file, about, (&engine, &roots)).await?;
        is_followed_by(&before, (&roots, &tenant), ready.sequence)?;
        // All entries are read for it, so not each time.
        if before.about() != ready.entry.about() {
            has_domains_alone(&nats, &ready.about).await?;
        }
        if let Some((sha256, body)) = &ready.large {
            nats.put_body(*sha256, body).await?;
        }
        put(&nats, &key, &ready.entry, before.revision, ready.sequence).await
    }

    /// The root statements in the file, if they are.
    fn roots(&self) -> anyhow::Result<Option<Vec<Envelope>>> {
        let content = read(&self.file)?;
        if content.len() > MOST_ROOTS {
            return Ok(None);
        }
        let all = Envelope::read_all(&content).unwrap_or_default();
        let is_root = all.first().is_some_and(|it| it.payload_type == Root::TYPE);
        if is_root {
            read_roots(&self.file)?;
        }
        Ok(is_root.then_some(all))
    }

    async fn put_roots(self, roots: Vec<Envelope>) -> anyhow::Result<()> {
        let (nats, _) = self.store.open().await?;
        for root in roots {
            let version = root.statement::<Root>()?.version;
            let key = Key::Root(version);
            let before = Newest::of(&nats, &key).await?;
            if before.entry.as_ref() != Some(&Entry::Root(root.clone())) {
                put(&nats, &key, &Entry::Root(root), before.revision, version).await?;
            }
        }
        Ok(())
    }

    /// What the operators say about the tenant: in the file beside, or as it is in the store.
    async fn about(&self, nats: &Nats, before: &Newest, tenant: &str) -> anyhow::Result<Envelope> {
        let place = tenant_statement_beside(&self.file);
        if place.exists() {
            return read_statement(&place);
        }
        let all = Key::Tenant(Ring::All, tenant.into());
        let of_all = Newest::of(nats, &all).await?;
        for entry in [&before.entry, &of_all.entry] {
            if let Some(Entry::Policy { about, .. }) = entry {
                return Ok(about.clone());
            }
        }
        bail!(
            "the tenant is new, and there is no {}; `portcullis sign tenant` makes it",
            place.display()
        )
    }
}

impl Promote {
    async fn run(self) -> anyhow::Result<()> {
        let (nats, roots) = self.store.open_to_publish().await?;
        let canary = Key::Tenant(Ring::Canary, self.tenant.clone());
        let Some(entry) = Newest::of(&nats, &canary).await?.entry else {
            bail!(
                "tenant {} has nothing in the ring canary",
                printable(&self.tenant)
            );
        };
        let sequence = verify(&roots, &self.tenant, &entry)?;
        let all = Key::Tenant(Ring::All, self.tenant.clone());
        let before = Newest::of(&nats, &all).await?;
        is_followed_by(&before, (&roots, &self.tenant), sequence)?;
        put(&nats, &all, &entry, before.revision, sequence).await
    }
}

impl Rollback {
    async fn run(self) -> anyhow::Result<()> {
        let (nats, roots) = self.store.open_to_publish().await?;
        let keys: Result<Vec<_>, _> = self.keys.iter().map(|it| private_key(it)).collect();
        let keys = keys?;
        let (old, content) = self.old(&nats, &roots).await?;
        let draft = Draft {
            tenant: self.tenant.clone(),
            ring: self.ring,
            format: old.format,
            content,
            base: None,
            known: 0,
            expires: self.expires.map(end).transpose()?,
            note: Some(format!("back to {}", self.to)),
        };
        let published = publish(&nats, &roots, &keys, draft).await?;
        told(&Key::Tenant(self.ring, self.tenant), published)
    }

    /// The policy that had the sequence.
    async fn old(&self, nats: &Nats, roots: &Roots) -> anyhow::Result<(PolicyStatement, Vec<u8>)> {
        let all = history(nats, roots, &self.tenant, self.ring).await?;
        let all = all.releases;
        let kept: BTreeSet<u64> = all
            .iter()
            .map(|it| match it {
                Ok(release) => release.statement.sequence,
                Err((sequence, _)) => *sequence,
            })
            .collect();
        let mut refused = None;
        for release in all {
            match release {
                Ok(release) if release.statement.sequence == self.to => {
                    let statement = release.statement.clone();
                    return Ok((statement, release.content(nats).await?));
                }
                Err((sequence, error)) if sequence == self.to => refused = Some(error),
                _ => {}
            }
        }
        if let Some(error) = refused {
            let text = format!(
                "sequence {} in the store cannot be taken back; sign the policy anew (portcullis sign policy)",
                self.to
            );
            return Err(anyhow::Error::from(error).context(text));
        }
        let kept: Vec<String> = kept.iter().map(u64::to_string).collect();
        bail!(
            "the store has no sequence {} of tenant {}; it has {}",
            self.to,
            printable(&self.tenant),
            kept.join(", ")
        )
    }
}

impl Retire {
    async fn run(self) -> anyhow::Result<()> {
        let (nats, roots) = self.store.open_to_publish().await?;
        let envelope = read_statement(&self.statement)?;
        let said: Retirement = statement_in(&self.statement, &envelope)?;
        let verified = roots.retirement(&envelope, &said.tenant, &NoLedger, Time::now());
        verified.with_context(|| self.statement.display().to_string())?;
        for ring in [Ring::Canary, Ring::All] {
            let key = Key::Tenant(ring, said.tenant.clone());
            let before = Newest::of(&nats, &key).await?;
            if let Some(about) = before.about() {
                let about: TenantStatement = about.statement()?;
                if about.sequence >= said.sequence {
                    bail!(
                        "the statement about tenant {} has sequence {}; sign its retirement with a higher one",
                        printable(&said.tenant),
                        about.sequence
                    );
                }
            }
            // Also where somebody has put something else in its place.
            if ring == Ring::All || before.revision > 0 {
                let entry = Entry::Retired(envelope.clone());
                put(&nats, &key, &entry, before.revision, said.sequence).await?;
            }
        }
        Ok(())
    }
}

/// Whether hosts that have this take a policy with that sequence.
fn is_followed_by(
    newest: &Newest,
    (roots, tenant): (&Roots, &str),
    sequence: u64,
) -> anyhow::Result<()> {
    match newest.policy(roots, tenant).map_or(0, |it| it.sequence) {
        known if known < sequence => Ok(()),
        known => bail!(
            "sequence {known} is in the store already, and hosts take no lower one than they have; sign it with a higher one than {known}, not {sequence}"
        ),
    }
}

/// Whether no other tenant has a domain of this one.
async fn has_domains_alone(nats: &Nats, about: &TenantStatement) -> anyhow::Result<()> {
    let mut owners = Owners::default();
    owners.enter(about)?;
    for found in nats.all().await? {
        let entry = found.value.as_deref().map(Entry::read);
        let Some(Ok(Entry::Policy { about: other, .. })) = entry else {
            continue;
        };
        match other.statement::<TenantStatement>() {
            Ok(other) if other.tenant != about.tenant => owners.compare(&other)?,
            _ => {}
        }
    }
    Ok(())
}

async fn put(
    nats: &Nats,
    key: &Key,
    entry: &Entry,
    after: u64,
    sequence: u64,
) -> anyhow::Result<()> {
    let revision = nats.put(key, entry.to_json(), after).await?;
    told(key, Published { sequence, revision })
}

fn told(key: &Key, Published { sequence, revision }: Published) -> anyhow::Result<()> {
    output::result(&format!(
        "{key}: sequence {sequence}, revision {revision} of the store\n"
    ))
}
