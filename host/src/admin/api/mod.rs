//! What the API does. Each part is what a command does as well, by the same code.

mod changes;
mod looks;
mod publisher;
mod streams;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use hyper::StatusCode;
use moka::sync::Cache;
use portcullis::statement::Format;
use portcullis::store::{Store, Tenant, TenantSource};
use portcullis::{Connector, DocumentError, Policy};
use rustix::fs::{Access as FileAccess, access};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

pub use self::publisher::Publisher;
use super::access::Access;
use super::answer::{Answer, Refusal, json};
use super::tokens::{Scope, Token, Tokens, default_place};
use crate::config::{self, Config};
use crate::decisions::{Decisions, Recorder, moment};
use crate::edit::replace::folder_of;
use crate::edit::{EditError, Editor};
use crate::fleet::Status;
use crate::frontend::smtp::listener::Server;

/// Policies that are kept at hand for those who ask for their connectors.
const MAX_POLICIES: u64 = 64;
/// Connectors that are tried out at a time.
const MAX_VALIDATIONS: usize = 4;
/// Those at a time who may use much of a processor.
const MAX_TURNS: usize = 1;
/// The largest policy that is sent here, in octets, whatever else policies may have.
const LARGEST: usize = 64 << 20;
/// KiB of all bodies at a time.
const MAX_BODIES: usize = 128 << 10;
/// How long a change may take to be in force before it is said that it is not yet.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked meanwhile why it is not.
const LOOK: Duration = Duration::from_millis(500);

/// Who asks.
#[derive(Clone)]
pub struct Caller {
    /// The token.
    pub token: Token,
    /// From where.
    pub peer: String,
}

/// The API of a server.
pub struct Admin {
    server: Arc<Server>,
    config: ArcSwap<Config>,
    access: Access,
    /// By the tenant's name.
    policies: Cache<String, Arc<Loaded>>,
    /// Told each time policies have been looked at.
    updated: watch::Receiver<()>,
    validations: Arc<Semaphore>,
    /// KiB of bodies that may be read at a time.
    bodies: Arc<Semaphore>,
    /// Turns of what takes much of a processor.
    turns: Semaphore,
    /// One component is replaced at a time.
    components: tokio::sync::Mutex<()>,
    fleet: OfFleet,
}

/// What there is of a fleet.
#[derive(Default)]
pub struct OfFleet {
    /// What this host says of itself.
    pub status: Option<Arc<ArcSwap<Status>>>,
    /// Who publishes changes of the fleet's tenants; without, those are read-only.
    pub publisher: Option<Publisher>,
}

/// The policy in a tenant's file.
struct Loaded {
    digest: String,
    policy: Policy,
    connectors: Vec<Connector>,
}

/// What is known of a tenant.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct TenantState {
    name: String,
    domains: Vec<String>,
    /// `rules` or `component`.
    kind: &'static str,
    policy: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<Force>,
    /// Why the file as it is now was not taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<String>,
    /// Why it cannot be changed here.
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only: Option<String>,
}

/// A policy that is in force.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Force {
    digest: String,
    since: String,
    /// Of the statement that it was taken by.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// The names of the keys that have signed that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signed_by: Vec<String>,
}

impl Admin {
    /// The API of a server by what is configured. `updated` is told each time policies have been looked at.
    pub fn new(
        server: Arc<Server>,
        config: Config,
        updated: watch::Receiver<()>,
        fleet: OfFleet,
    ) -> Self {
        let admin = config.admin.clone().unwrap_or_default();
        let folder = config.delivery.state_folder();
        let tokens = admin.tokens.clone();
        let tokens = tokens.or_else(|| folder.as_deref().map(default_place));
        // Without a folder there are none.
        let tokens = Tokens::new(tokens.unwrap_or_default());
        Admin {
            access: Access::new(&admin, tokens),
            server,
            config: ArcSwap::from_pointee(config),
            policies: Cache::new(MAX_POLICIES),
            updated,
            validations: Arc::new(Semaphore::new(MAX_VALIDATIONS)),
            bodies: Arc::new(Semaphore::new(MAX_BODIES)),
            turns: Semaphore::new(MAX_TURNS),
            components: tokio::sync::Mutex::default(),
            fleet,
        }
    }

    /// Goes by another configuration from now on.
    pub fn exchange(&self, config: Config) {
        self.config.store(Arc::new(config));
    }

    /// Who is let in.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The largest policy, in octets.
    pub fn largest_policy(&self) -> usize {
        self.store().engine().limits().policy_size.min(LARGEST)
    }

    /// KiB of bodies that may be read at a time.
    pub fn bodies(&self) -> Arc<Semaphore> {
        self.bodies.clone()
    }

    fn store(&self) -> &Arc<Store> {
        &self.server.asking.policies
    }

    fn recorder(&self) -> &Arc<Recorder> {
        &self.server.asking.recorder
    }

    fn tenant(&self, name: &str) -> Result<config::Tenant, Refusal> {
        let config = self.config.load();
        let tenant = config.tenants.iter().find(|tenant| tenant.name == name);
        let tenant = tenant.cloned();
        tenant.ok_or_else(|| Refusal::not_found("there is no such tenant"))
    }

    /// The editor of a tenant's rules.
    async fn editor(&self, tenant: &config::Tenant) -> Result<Editor, Refusal> {
        if is_component(&tenant.policy) {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "this tenant's policy is a component, which has no rules to look at",
            ));
        }
        let (engine, path) = (self.store().engine().clone(), tenant.policy.clone());
        apart(move || Editor::new(engine, &path)).await
    }

    /// Does something with what is remembered.
    async fn remembered<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Decisions) -> Result<T, crate::decisions::DatabaseError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let Some(path) = self.recorder().path().map(Path::to_owned) else {
            return Err(Refusal::not_found(
                "nothing is remembered here: [decisions] keep is 0, or there is no state-directory",
            ));
        };
        let reading = move || read(&Decisions::open(&path)?);
        let read = tokio::task::spawn_blocking(reading).await;
        read.map_err(Refusal::failed)?.map_err(Refusal::failed)
    }

    /// The policy in a tenant's file, which may not be in force.
    async fn loaded(&self, tenant: &config::Tenant) -> Result<Arc<Loaded>, Refusal> {
        let most = self.largest_policy();
        let path = tenant.policy.clone();
        let reading = move || portcullis::read_file(&path, (most, "the size of a policy"));
        let read = tokio::task::spawn_blocking(reading).await;
        let bytes = read.map_err(Refusal::failed)?.map_err(|error| {
            Refusal::not_found(&format!("{}: {error}", tenant.policy.display()))
        })?;
        let digest = crate::edit::digest_of(&bytes);
        if let Some(known) = self.policies.get(&tenant.name)
            && known.digest == digest
        {
            return Ok(known);
        }
        let engine = self.store().engine();
        let name = tenant.policy.display().to_string();
        let policy = match is_component(&tenant.policy) {
            true => engine
                .load_component(&name, bytes)
                .await
                .map_err(|error| unprocessable(&error))?,
            false => {
                let text = String::from_utf8(bytes)
                    .map_err(|_| unprocessable(&"the rules are not UTF-8"))?;
                let rules = engine.read(text).await.map_err(rejected)?;
                engine
                    .load_rules(&name, &rules)
                    .await
                    .map_err(|error| unprocessable(&error))?
            }
        };
        let connectors = policy.connectors().await.map_err(Refusal::failed)?;
        let loaded = Arc::new(Loaded {
            digest,
            policy,
            connectors,
        });
        self.policies.insert(tenant.name.clone(), loaded.clone());
        Ok(loaded)
    }

    /// A turn of what takes much of a processor, which mail needs as well.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.turns.acquire().await.map_err(Refusal::failed)
    }

    /// What there is, for whoever asks.
    pub async fn state(self: &Arc<Self>, caller: &Caller) -> Result<Answer, Refusal> {
        let (admin, caller) = (self.clone(), caller.clone());
        // It looks at folders.
        let told = tokio::task::spawn_blocking(move || admin.tell_state(&caller)).await;
        told.map_err(Refusal::failed)
    }

    fn tell_state(&self, caller: &Caller) -> Answer {
        let config = self.config.load();
        let own = config
            .tenants
            .iter()
            .filter(|tenant| caller.token.is_for(&tenant.name));
        let snapshot = self.store().snapshot();
        let tenants: Vec<TenantState> = own
            .map(|tenant| self.tenant_state(tenant, snapshot.named(&tenant.name)))
            .collect();
        let before = config.before.as_ref().filter(|_| caller.is_operator());
        let before = before.map(|before| self.tenant_state(before, snapshot.before()));
        let mut state = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "hostname": config.hostname,
            "user": caller.token.name,
            "scope": caller.token.scope,
            "expires": caller.token.expires,
            "remembers": self.recorder().keeps(),
            "tenants": tenants,
        });
        if let Some(before) = before {
            state["before"] = json!(before);
        }
        let status = self.fleet.status.as_ref().filter(|_| caller.is_operator());
        if let Some(status) = status {
            state["fleet"] = json!(**status.load());
        }
        json(&state)
    }

    fn tenant_state(&self, tenant: &config::Tenant, known: Option<&Arc<Tenant>>) -> TenantState {
        let in_force = known.and_then(|known| {
            let force = known.in_force?;
            let statement = known.statement();
            Some(Force {
                digest: force.digest.to_string(),
                since: moment(milliseconds(force.since)),
                sequence: force.sequence,
                signed_by: statement.map(|it| it.signed_by.clone()).unwrap_or_default(),
            })
        });
        TenantState {
            name: tenant.name.clone(),
            domains: tenant.domains.clone(),
            kind: match is_component(&tenant.policy) {
                true => "component",
                false => "rules",
            },
            policy: tenant.policy.clone(),
            in_force,
            rejected: known
                .and_then(|known| known.rejected.as_ref())
                .map(ToString::to_string),
            read_only: self.read_only(tenant),
        }
    }

    /// Why a tenant's policy cannot be changed here.
    fn read_only(&self, tenant: &config::Tenant) -> Option<String> {
        let config = self.config.load();
        if !config.admin.as_ref().is_some_and(|admin| admin.edit) {
            return Some("[admin] edit is false".into());
        }
        if tenant.given.is_some() {
            return match self.fleet.publisher {
                Some(_) => None,
                None => Some("policies of the fleet are published (portcullis fleet put); with [admin] signing-keys, changes are signed and published here".into()),
            };
        }
        if config.trust.policies == config::Policies::Signed {
            return Some(
                "policies are signed here: sign the new one (portcullis sign policy), and put it in place with its statement"
                    .into(),
            );
        }
        let target = tenant.policy.canonicalize();
        let folder = folder_of(target.as_deref().unwrap_or(&tenant.policy));
        let error = access(folder, FileAccess::WRITE_OK).err()?;
        let error = std::io::Error::from(error);
        Some(format!(
            "the server may not write to {}: {error}; keep policies in its state directory",
            folder.display()
        ))
    }

    /// Who publishes changes of a tenant, if it is the fleet's.
    fn publisher_of(&self, tenant: &config::Tenant) -> Option<&Publisher> {
        let publisher = self.fleet.publisher.as_ref();
        publisher.filter(|_| tenant.given.is_some())
    }

    /// The content of a version.
    async fn content(
        &self,
        tenant: &config::Tenant,
        version: u64,
    ) -> Result<(Format, Vec<u8>), Refusal> {
        if let Some(publisher) = self.publisher_of(tenant) {
            return publisher.content(&tenant.name, version).await;
        }
        let editor = self.editor(tenant).await?;
        let content = apart(move || editor.content(version)).await?;
        Ok((Format::Json, content.into()))
    }

    fn source(tenant: &config::Tenant) -> TenantSource {
        TenantSource::from(tenant)
    }
}

impl Caller {
    /// Whether the caller may do everything.
    fn is_operator(&self) -> bool {
        self.token.scope == Scope::Operator
    }
}

fn is_component(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "wasm")
}

/// Milliseconds since 1970.
fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Does something with files on a thread that may wait for them.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EditError> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Refusal::failed)?.map_err(not_edited)
}

fn unprocessable(error: &impl std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
}

fn rejected(error: DocumentError) -> Refusal {
    match error {
        DocumentError::Rejected(problems) => Refusal {
            problems,
            ..unprocessable(&"the rules are not valid")
        },
        other => unprocessable(&other),
    }
}

/// What whoever edits is told.
fn not_edited(error: EditError) -> Refusal {
    let text = error.to_string();
    match error {
        EditError::Conflict { version, .. } => Refusal {
            more: Some(("current", json!(version))),
            ..Refusal::new(StatusCode::PRECONDITION_FAILED, text)
        },
        EditError::Rejected { problems, .. } => Refusal {
            problems,
            ..unprocessable(&"the rules are not valid")
        },
        EditError::Text { .. } => unprocessable(&text),
        EditError::NoVersion { .. } => Refusal::not_found(&text),
        EditError::Unchecked { .. } => unprocessable(&text),
        EditError::Read { .. } => Refusal::not_found(&text),
        EditError::Write { .. } | EditError::History { .. } => Refusal::failed(text),
    }
}
