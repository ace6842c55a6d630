//! Changes of policies: checked, saved with a version, and in force when it is answered.

use std::sync::Arc;

use hyper::StatusCode;
use portcullis::statement::Format;
use portcullis::store::{InForce, Tenant};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::publisher::Publisher;
use super::{Admin, Caller, LOOK, PATIENCE, apart, is_component, moment, unprocessable};
use crate::admin::answer::{Answer, Refusal, json_with, tagged};
use crate::admin::routes::Asked;
use crate::config;
use crate::edit::replace::replace;
use crate::edit::text::{self, TextError};
use crate::edit::{Note, Version, digest_of};

/// What is known of a change before it is made.
struct Begun {
    tenant: config::Tenant,
    /// The version that it is made to.
    base: Option<String>,
    comment: String,
}

/// What may be said of a change.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Why {
    /// Why, for the history.
    #[serde(default)]
    comment: String,
}

impl Admin {
    /// Puts a policy in the place of the one in the tenant's file.
    pub async fn put_policy(&self, caller: &Caller, asked: Asked) -> Result<Answer, Refusal> {
        let begun = self.begin(&asked)?;
        match (is_component(&begun.tenant.policy), asked.is_component) {
            (true, true) => self.put_component(caller, &begun.tenant, asked).await,
            (false, false) => {
                let text = asked.text()?;
                self.save(caller, begun, "put rules", |_| Ok(text)).await
            }
            (true, false) => Err(Refusal::new(
                StatusCode::CONFLICT,
                "this tenant's policy is a component (Content-Type: application/wasm)",
            )),
            (false, true) => Err(Refusal::new(
                StatusCode::CONFLICT,
                "this tenant's policy is a rules document (Content-Type: application/json)",
            )),
        }
    }

    /// Adds a connector to the tenant's rules.
    pub async fn add_connector(&self, caller: &Caller, asked: Asked) -> Result<Answer, Refusal> {
        let begun = self.begin(&asked)?;
        let connector: Map<String, Value> = asked.json()?;
        let name = connector.get("name").and_then(Value::as_str);
        let action = format!("add {:?}", name.unwrap_or_default());
        let change = |document: &str| text::add(document, &connector);
        self.save(caller, begun, &action, change).await
    }

    /// Changes a connector where it stands.
    pub async fn put_connector(&self, caller: &Caller, asked: Asked) -> Result<Answer, Refusal> {
        let begun = self.begin(&asked)?;
        let connector: Map<String, Value> = asked.json()?;
        let name = asked.name().to_owned();
        let action = format!("edit {name:?}");
        let change = |document: &str| text::update(document, &name, &connector);
        self.save(caller, begun, &action, change).await
    }

    /// Removes a connector.
    pub async fn remove_connector(&self, caller: &Caller, asked: Asked) -> Result<Answer, Refusal> {
        let begun = self.begin(&asked)?;
        let name = asked.name().to_owned();
        let action = format!("remove {name:?}");
        let change = |document: &str| text::remove(document, &name);
        self.save(caller, begun, &action, change).await
    }

    /// Brings a version back.
    pub async fn restore(&self, caller: &Caller, asked: Asked) -> Result<Answer, Refusal> {
        let begun = self.begin(&asked)?;
        let version: u64 = asked
            .name()
            .parse()
            .map_err(|_| Refusal::not_found("there is no such version"))?;
        let (format, content) = self.content(&begun.tenant, version).await?;
        let action = format!("restore version {version}");
        if let (Format::Wasm, Some(publisher)) = (format, self.publisher_of(&begun.tenant)) {
            let base = needed(begun.base)?;
            let note = Note {
                author: caller.token.name.clone(),
                action,
                comment: begun.comment,
            };
            let tried = Admin::source(&begun.tenant);
            let tried = self.store().try_policy(&tried, content.clone()).await;
            tried.map_err(|error| unprocessable(&error))?;
            let of = (caller, &begun.tenant);
            let policy = (format, content);
            return self.publish(of, publisher, policy, (&base, note)).await;
        }
        let content = String::from_utf8(content)
            .map_err(|_| unprocessable(&"this version is no rules document"))?;
        self.save(caller, begun, &action, |_| Ok(content)).await
    }

    /// A change of a tenant whose policy may be changed.
    fn begin(&self, asked: &Asked) -> Result<Begun, Refusal> {
        let tenant = self.tenant(asked.tenant())?;
        if let Some(why) = self.read_only(&tenant) {
            return Err(Refusal::new(StatusCode::FORBIDDEN, why));
        }
        let why: Why = asked.parameters()?;
        Ok(Begun {
            tenant,
            base: asked.if_match.clone(),
            comment: why.comment,
        })
    }

    /// Changes the text of a tenant's rules, saves it, and waits until it is in force.
    async fn save(
        &self,
        caller: &Caller,
        begun: Begun,
        action: &str,
        change: impl FnOnce(&str) -> Result<String, TextError>,
    ) -> Result<Answer, Refusal> {
        let tenant = &begun.tenant;
        let base = needed(begun.base)?;
        let editor = Arc::new(self.editor(tenant).await?);
        let reader = editor.clone();
        let before = apart(move || reader.read()).await?;
        if before.digest != base {
            return Err(Refusal::stale(&before.digest));
        }
        let after = editor
            .change(change(&before.text))
            .map_err(super::not_edited)?;
        let checked = editor.check(after).await.map_err(super::not_edited)?;
        let source = Admin::source(tenant);
        let tried = self
            .store()
            .try_policy(&source, checked.text().into())
            .await;
        tried.map_err(|error| unprocessable(&error))?;
        let digest = digest_of(checked.text().as_bytes());
        let note = Note {
            author: caller.token.name.clone(),
            action: action.into(),
            comment: begun.comment,
        };
        if let Some(publisher) = self.publisher_of(tenant) {
            let policy = (Format::Json, checked.text().as_bytes().to_vec());
            return self
                .publish((caller, tenant), publisher, policy, (&base, note))
                .await;
        }
        let known = self.known(&tenant.name);
        let saved = editor.save(checked, &base, note).await;
        let version = saved.map_err(super::not_edited)?;
        told(caller, tenant, action, &base, &digest);
        self.answer_when_in_force(tenant, &digest, known, Some(&version))
            .await
    }

    /// Signs a policy of the fleet, publishes it, and waits until it is in force here.
    async fn publish(
        &self,
        (caller, tenant): (&Caller, &config::Tenant),
        publisher: &Publisher,
        (format, content): (Format, Vec<u8>),
        (base, note): (&str, Note),
    ) -> Result<Answer, Refusal> {
        let digest = digest_of(&content);
        let known = self.known(&tenant.name);
        if digest == base {
            return self
                .answer_when_in_force(tenant, &digest, known, None)
                .await;
        }
        let action = note.action.clone();
        let in_force = known.as_ref().and_then(|it| it.in_force?.sequence);
        let follows = (base, in_force.unwrap_or(0));
        let publishing = publisher.publish(&tenant.name, (format, content), follows, note);
        let version = publishing.await?;
        told(caller, tenant, &action, base, &digest);
        self.answer_when_in_force(tenant, &digest, known, Some(&version))
            .await
    }

    async fn put_component(
        &self,
        caller: &Caller,
        tenant: &config::Tenant,
        asked: Asked,
    ) -> Result<Answer, Refusal> {
        let base = needed(asked.if_match)?;
        // Nobody else replaces it between the look at it and the end.
        let _alone = self.components.lock().await;
        let (path, most) = (tenant.policy.clone(), self.largest_policy());
        let current = move || portcullis::read_file(&path, (most, "the size of a policy"));
        let current = tokio::task::spawn_blocking(current).await;
        let current = current.map_err(Refusal::failed)?;
        let current = current.map_or_else(|_| String::new(), |bytes| digest_of(&bytes));
        if current != base {
            return Err(Refusal::stale(&current));
        }
        let source = Admin::source(tenant);
        let bytes = asked.body;
        let tried = self.store().try_policy(&source, bytes.to_vec()).await;
        tried.map_err(|error| unprocessable(&error))?;
        if let Some(publisher) = self.publisher_of(tenant) {
            let note = Note {
                author: caller.token.name.clone(),
                action: "put a component".into(),
                comment: String::new(),
            };
            let policy = (Format::Wasm, bytes.to_vec());
            return self
                .publish((caller, tenant), publisher, policy, (&base, note))
                .await;
        }
        let digest = digest_of(&bytes);
        let known = self.known(&tenant.name);
        let path = tenant.policy.clone();
        let replaced = tokio::task::spawn_blocking(move || replace(&path, &bytes)).await;
        replaced
            .map_err(Refusal::failed)?
            .map_err(|error| Refusal::failed(format!("the file is as it was: {error}")))?;
        told(caller, tenant, "put a component", &base, &digest);
        self.answer_when_in_force(tenant, &digest, known, None)
            .await
    }

    fn known(&self, tenant: &str) -> Option<Arc<Tenant>> {
        self.store().snapshot().named(tenant).cloned()
    }

    /// Says since when a policy is in force, or why it is not. `before` is the tenant before the file was changed.
    async fn answer_when_in_force(
        &self,
        tenant: &config::Tenant,
        digest: &str,
        before: Option<Arc<Tenant>>,
        version: Option<&Version>,
    ) -> Result<Answer, Refusal> {
        let waiting = self.in_force(tenant, digest, before, version);
        let outcome = timeout(PATIENCE, waiting).await.unwrap_or(Err(None));
        let mut body = json!({ "digest": digest });
        if let Some(version) = version {
            body["version"] = json!(version);
        }
        let status = match outcome {
            Ok(force) => {
                body["in-force"] = json!({
                    "digest": force.digest,
                    "since": moment(super::milliseconds(force.since)),
                });
                StatusCode::OK
            }
            Err(rejected) => {
                let why = rejected.as_deref().unwrap_or("it is still being read");
                body["not-in-force"] = why.into();
                StatusCode::ACCEPTED
            }
        };
        Ok(tagged(json_with(status, &body), digest))
    }

    /// Waits until a policy is in force, or a later version of it; else gives why the file is not taken.
    async fn in_force(
        &self,
        tenant: &config::Tenant,
        digest: &str,
        before: Option<Arc<Tenant>>,
        version: Option<&Version>,
    ) -> Result<InForce, Option<Arc<str>>> {
        let mut updated = self.updated.clone();
        let before_rejected = before.as_ref().and_then(|it| it.rejected.clone());
        let before = before.and_then(|it| it.in_force).map(|it| it.digest);
        let mut looked_at = before.filter(|it| it.to_string() != digest);
        loop {
            if let Some(known) = self.known(&tenant.name) {
                // What is put again is in force already, once what stood between is gone.
                let is_back = known.rejected.is_none();
                let known_force = known.in_force.filter(|_| is_back);
                if let Some(force) = known_force.filter(|it| Some(it.digest) != looked_at) {
                    let in_force = force.digest.to_string();
                    if in_force == digest || self.is_later(tenant, &force, version).await {
                        return Ok(force);
                    }
                    looked_at = Some(force.digest);
                }
                let is_new = |rejected: &Arc<str>| {
                    let old = before_rejected.as_ref();
                    old.is_none_or(|old| !Arc::ptr_eq(old, rejected))
                };
                if let Some(rejected) = known.rejected.clone().filter(is_new) {
                    return Err(Some(rejected));
                }
            }
            if let Some(reason) = version.and_then(|it| self.refused(tenant, it)) {
                return Err(Some(reason));
            }
            // What the fleet refuses is not told there.
            if let Ok(changed) = timeout(LOOK, updated.changed()).await {
                changed.map_err(|_| None)?;
            }
        }
    }

    /// Why this host does not take a version of the fleet.
    fn refused(&self, tenant: &config::Tenant, version: &Version) -> Option<Arc<str>> {
        let status = self.fleet.status.as_ref()?.load();
        let mut exceptions = status.exceptions.iter();
        let of_version = exceptions.find(|it| {
            it.tenant == tenant.name && it.sequence == version.version && !it.is_pending
        });
        of_version.map(|it| it.reason.as_str().into())
    }

    /// Whether what is in force has been saved after a version: others are quick, too.
    async fn is_later(
        &self,
        tenant: &config::Tenant,
        in_force: &InForce,
        version: Option<&Version>,
    ) -> bool {
        if let (Some(version), Some(sequence)) = (version, in_force.sequence) {
            return sequence > version.version;
        }
        let in_force = in_force.digest.to_string();
        let (Some(version), Ok(editor)) = (version, self.editor(tenant).await) else {
            return false;
        };
        let versions = apart(move || editor.versions()).await.unwrap_or_default();
        versions
            .iter()
            .any(|later| later.version > version.version && later.digest == in_force)
    }
}

/// What is changed must be known.
fn needed(base: Option<String>) -> Result<String, Refusal> {
    base.ok_or_else(|| {
        Refusal::new(
            StatusCode::PRECONDITION_REQUIRED,
            "If-Match is needed, with the ETag of the policy that is changed",
        )
    })
}

fn told(caller: &Caller, tenant: &config::Tenant, action: &str, before: &str, after: &str) {
    tracing::info!(
        tenant = tenant.name,
        by = &*portcullis::one_line(&caller.token.name),
        peer = caller.peer,
        action = &*portcullis::one_line(action),
        before,
        after,
        "policy changed"
    );
}
