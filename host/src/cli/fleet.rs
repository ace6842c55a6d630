//! `portcullis fleet`: policies for many hosts.

mod report;
mod store;

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use self::report::{ShowStatus, Wait};
use self::store::StoreArgs;
use super::output;
use super::paint::printable;
use super::policy::{self, Kind, extension, read};
use super::sign::end;
use super::signed::{Nothing, read_statement, statement_in};
use crate::config::Ring;
use crate::fleet::{Entry, Found, Key, MAX_BODY, Nats};
use crate::trust::{private_key, read_roots};
use portcullis::statement::{
    Envelope, Format, Payload, PolicyStatement, Retirement, Root, Roots, TenantStatement, Time,
    digest_of,
};
use portcullis::store::{statement_beside, tenant_statement_beside};

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
        let content = self.content().await?;
        let place = statement_beside(&self.file);
        let statement = read_statement(&place)?;
        let said: PolicyStatement = statement_in(&place, &statement)?;
        let key = Key::Tenant(self.ring, said.tenant.clone());
        let before = Before::of(&nats, &key).await?;
        let about = self.about(&nats, &before, &said.tenant).await?;
        let about_said: TenantStatement = about.statement()?;
        let now = Time::now();
        let tenant = roots.tenant(&about, &said.tenant, &Nothing, now);
        tenant
            .with_context(|| format!("the statement about tenant {}", printable(&said.tenant)))?;
        let verified = roots.policy(&statement, &said.tenant, Some(&about_said), &Nothing, now);
        let verified = verified.with_context(|| place.display().to_string())?;
        let format = Format::of(&self.file).context("a policy is a .json or a .wasm file")?;
        let is_of = verified.is_of(format, content.len(), digest_of(&content));
        is_of.with_context(|| self.file.display().to_string())?;
        before.is_followed_by(said.sequence)?;
        // All entries are read for it, so not each time.
        if before.about() != Some(&about) {
            has_domains_alone(&nats, &about_said).await?;
        }
        let is_large = content.len() > MAX_BODY;
        if is_large {
            nats.put_body(said.sha256, &content).await?;
        }
        let entry = Entry::Policy {
            about,
            statement,
            body: (!is_large).then_some(content),
        };
        put(&nats, &key, &entry, before.revision, said.sequence).await
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
            let before = Before::of(&nats, &key).await?;
            if before.entry.as_ref() != Some(&Entry::Root(root.clone())) {
                put(&nats, &key, &Entry::Root(root), before.revision, version).await?;
            }
        }
        Ok(())
    }

    /// The policy, which can be used.
    async fn content(&self) -> anyhow::Result<Vec<u8>> {
        let engine = policy::engine(policy::limits())?;
        let content = read(&self.file)?;
        match extension(&self.file)? {
            Kind::Document => drop(policy::read_rules(&self.file, &engine).await?),
            Kind::Component => {
                let name = self.file.display().to_string();
                engine.load_component(&name, content.clone()).await?;
            }
        }
        Ok(content)
    }

    /// What the operators say about the tenant: in the file beside, or as it is in the store.
    async fn about(&self, nats: &Nats, before: &Before, tenant: &str) -> anyhow::Result<Envelope> {
        let place = tenant_statement_beside(&self.file);
        if place.exists() {
            return read_statement(&place);
        }
        let all = Key::Tenant(Ring::All, tenant.into());
        let of_all = Before::of(nats, &all).await?;
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
        let Some(entry) = Before::of(&nats, &canary).await?.entry else {
            bail!(
                "tenant {} has nothing in the ring canary",
                printable(&self.tenant)
            );
        };
        let sequence = verify(&roots, &self.tenant, &entry)?;
        let all = Key::Tenant(Ring::All, self.tenant.clone());
        let before = Before::of(&nats, &all).await?;
        before.is_followed_by(sequence)?;
        put(&nats, &all, &entry, before.revision, sequence).await
    }
}

impl Rollback {
    async fn run(self) -> anyhow::Result<()> {
        let (nats, roots) = self.store.open_to_publish().await?;
        let key = Key::Tenant(self.ring, self.tenant.clone());
        let before = Before::of(&nats, &key).await?;
        let Some(Entry::Policy { about, .. }) = &before.entry else {
            bail!(
                "there is no policy of tenant {} in the store",
                printable(&self.tenant)
            );
        };
        let (old, body) = self.old(&nats, (&roots, about), &key).await?;
        let others = [Ring::All, Ring::Canary].map(|ring| Key::Tenant(ring, self.tenant.clone()));
        let mut highest = 0;
        for key in others {
            highest = highest.max(Before::of(&nats, &key).await?.sequence());
        }
        let statement = PolicyStatement {
            sequence: highest + 1,
            created: Time::now(),
            not_before: None,
            expires: self.expires.map(end).transpose()?,
            note: Some(format!("back to {}", self.to)),
            ..old
        };
        let mut envelope = Envelope::of(&statement)?;
        for key in &self.keys {
            envelope.sign(&private_key(key)?);
        }
        let entry = Entry::Policy {
            about: about.clone(),
            statement: envelope,
            body,
        };
        let sequence = verify(&roots, &self.tenant, &entry)?;
        put(&nats, &key, &entry, before.revision, sequence).await
    }

    /// The policy that had the sequence. Whoever can write to the store can put anything there, so it must have been
    /// signed then by those who may sign now.
    async fn old(
        &self,
        nats: &Nats,
        (roots, about): (&Roots, &Envelope),
        key: &Key,
    ) -> anyhow::Result<(PolicyStatement, Option<Vec<u8>>)> {
        let about: TenantStatement = about.statement()?;
        let (mut kept, mut refused) = (BTreeSet::new(), None);
        for found in nats.history(key).await? {
            let entry = found.value.as_deref().map(Entry::read);
            let Some(Ok(Entry::Policy {
                statement, body, ..
            })) = entry
            else {
                continue;
            };
            let Ok(said) = statement.statement::<PolicyStatement>() else {
                continue;
            };
            kept.insert(said.sequence);
            if said.sequence != self.to {
                continue;
            }
            // It may have expired since.
            let then = said.created;
            let verified = roots.policy(&statement, &self.tenant, Some(&about), &Nothing, then);
            let verified = verified.and_then(|verified| {
                if let Some(body) = &body {
                    verified.is_of(said.format, body.len(), digest_of(body))?;
                }
                Ok(verified.statement)
            });
            match verified {
                Ok(old) => return Ok((old, body)),
                Err(error) => refused = Some(error),
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
        let verified = roots.retirement(&envelope, &said.tenant, &Nothing, Time::now());
        verified.with_context(|| self.statement.display().to_string())?;
        for ring in [Ring::Canary, Ring::All] {
            let key = Key::Tenant(ring, said.tenant.clone());
            let before = Before::of(&nats, &key).await?;
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

/// What is in the store before something is put.
struct Before {
    entry: Option<Entry>,
    revision: u64,
}

impl Before {
    async fn of(nats: &Nats, key: &Key) -> anyhow::Result<Self> {
        let found = nats.get(key).await?;
        let revision = found.as_ref().map_or(0, |found| found.revision);
        // One that nobody can read is replaced.
        let entry = found.and_then(|Found { value, .. }| Entry::read(&value?).ok());
        Ok(Before { entry, revision })
    }

    /// What the operators say about the tenant.
    fn about(&self) -> Option<&Envelope> {
        match &self.entry {
            Some(Entry::Policy { about, .. }) => Some(about),
            _ => None,
        }
    }

    /// The sequence of the policy; 0 without one.
    fn sequence(&self) -> u64 {
        match &self.entry {
            Some(Entry::Policy { statement, .. }) => {
                let statement = statement.statement::<PolicyStatement>();
                statement.map_or(0, |it| it.sequence)
            }
            _ => 0,
        }
    }

    fn is_followed_by(&self, sequence: u64) -> anyhow::Result<()> {
        match self.sequence() {
            known if known < sequence => Ok(()),
            known => bail!(
                "sequence {known} is in the store already, and hosts take no lower one than they have; sign it with a higher one than {known}, not {sequence}"
            ),
        }
    }
}

/// Whether no other tenant has a domain of this one.
async fn has_domains_alone(nats: &Nats, about: &TenantStatement) -> anyhow::Result<()> {
    let normal = |about: &TenantStatement| {
        let domains = about.domains.iter();
        domains
            .filter_map(|it| portcullis::normal_domain(it))
            .collect::<HashSet<String>>()
    };
    let own = normal(about);
    for found in nats.all().await? {
        let entry = found.value.as_deref().map(Entry::read);
        let Some(Ok(Entry::Policy { about: other, .. })) = entry else {
            continue;
        };
        let Ok(other) = other.statement::<TenantStatement>() else {
            continue;
        };
        let shared = normal(&other).intersection(&own).next().cloned();
        if let Some(domain) = shared.filter(|_| other.tenant != about.tenant) {
            bail!(
                "{domain} is a domain of tenant {} in the store; a domain is one tenant's",
                printable(&other.tenant)
            );
        }
    }
    Ok(())
}

/// Whether hosts would take an entry; gives its sequence.
fn verify(roots: &Roots, tenant: &str, entry: &Entry) -> anyhow::Result<u64> {
    let Entry::Policy {
        about, statement, ..
    } = entry
    else {
        bail!("tenant {} is retired", printable(tenant));
    };
    let now = Time::now();
    let about = roots.tenant(about, tenant, &Nothing, now)?.statement;
    let verified = roots.policy(statement, tenant, Some(&about), &Nothing, now)?;
    Ok(verified.statement.sequence)
}

async fn put(
    nats: &Nats,
    key: &Key,
    entry: &Entry,
    after: u64,
    sequence: u64,
) -> anyhow::Result<()> {
    let revision = nats.put(key, entry.to_json(), after).await?;
    output::result(&format!(
        "{key}: sequence {sequence}, revision {revision} of the store\n"
    ))
}
