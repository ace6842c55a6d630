//! Looking: at policies, what they would do, and what has happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use hyper::StatusCode;
use portcullis::statement::Format;
use portcullis::{Context, DocumentError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, apart, is_component, milliseconds, not_edited, unprocessable};
use crate::admin::answer::{Answer, Refusal, json, tagged, whole};
use crate::admin::routes::Asked;
use crate::advice::{Mail, Notice, Thresholds, advice};
use crate::decisions::{Connection, DAY, Filter, Flow, domain, moment};
use crate::edit::effect::difference;
use crate::edit::effect::{Comparison, Effect};
use crate::import;

/// Days that connectors are counted for.
const COUNTED_DAYS: i64 = 7;
/// Days in which certificates are looked for.
const CERTIFICATE_DAYS: i64 = 30;
/// Flows that a change is tried on.
const MAX_FLOWS: u32 = 100_000;
/// Connectors of one answer.
const MAX_CONNECTORS: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Page {
    first: usize,
    limit: usize,
    /// Those with this text in their name, or in what they are for.
    text: String,
}

impl Default for Page {
    fn default() -> Self {
        Page {
            first: 0,
            limit: MAX_CONNECTORS,
            text: String::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Least {
    messages: u64,
    days: i64,
}

impl Default for Least {
    fn default() -> Self {
        let Thresholds { messages, days } = Thresholds::default();
        Least { messages, days }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Source {
    kind: Kind,
    /// The domains that Postfix's lists of clients are for, separated by commas.
    #[serde(default)]
    from: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Exchange,
    Postfix,
    List,
}

impl Admin {
    /// The policy in a tenant's file.
    pub async fn policy(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?;
        let (path, most) = (tenant.policy.clone(), self.largest_policy());
        let reading = move || portcullis::read_file(&path, (most, "the size of a policy"));
        let read = tokio::task::spawn_blocking(reading).await;
        let bytes = read.map_err(Refusal::failed)?.map_err(|error| {
            Refusal::not_found(&format!("{}: {error}", tenant.policy.display()))
        })?;
        let kind = match is_component(&tenant.policy) {
            true => "application/wasm",
            false => "application/json",
        };
        let digest = crate::edit::digest_of(&bytes);
        Ok(tagged(whole(StatusCode::OK, kind, bytes), &digest))
    }

    /// What is wrong with a document.
    pub async fn check(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        self.tenant(asked.tenant())?;
        match self.store().engine().check(asked.text()?).await {
            Ok(summary) => Ok(json(&json!({
                "accepted": true,
                "connectors": summary.connectors,
                "tests": summary.tests,
                "problems": summary.warnings,
            }))),
            Err(DocumentError::Rejected(problems)) => Ok(json(&json!({
                "accepted": false, "connectors": 0, "tests": 0, "problems": problems,
            }))),
            Err(error) => Err(unprocessable(&error)),
        }
    }

    /// How a document differs from the tenant's rules.
    pub async fn diff(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?;
        let editor = self.editor(&tenant).await?;
        let text = asked.text()?;
        let before = apart(move || editor.read()).await?;
        let compared = move || difference(&before.text, &text, ("before", "after"));
        let difference = tokio::task::spawn_blocking(compared).await;
        Ok(json(
            &json!({ "diff": difference.map_err(Refusal::failed)? }),
        ))
    }

    /// What a document would have done to the mail that is remembered.
    pub async fn effect(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?;
        let editor = self.editor(&tenant).await?;
        let after = editor.check(asked.text()?).await.map_err(not_edited)?;
        let editor = Arc::new(editor);
        let reader = editor.clone();
        let before = apart(move || reader.read()).await?;
        let _turn = self.turn().await?;
        let before = editor.check(before.text).await.map_err(not_edited)?;
        let name = tenant.name.clone();
        let flows = self.remembered(move |decisions| {
            let since = decisions.complete_since(&name)?;
            decisions.flows(&name, since, MAX_FLOWS)
        });
        let flows = flows.await?;
        let comparison = Comparison::new(editor.engine(), &before.rules, &after.rules).await;
        let mut comparison = comparison.map_err(Refusal::failed)?;
        let since = flows.iter().map(|flow| flow.first).min();
        for flow in &flows {
            if let Ok(context) = Context::from_json(&flow.context) {
                let compared = comparison.messages(&context, flow.count).await;
                compared.map_err(Refusal::failed)?;
            }
        }
        Ok(json(&effect_json(&comparison.end(), since)))
    }

    /// What the tenant's policy says to a message, and why.
    pub async fn explain(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?;
        let context = Context::from_json(&asked.text()?).map_err(|it| unprocessable(&it))?;
        let loaded = self.loaded(&tenant).await?;
        let explained = loaded.policy.session().explain(&context).await;
        Ok(json(&explained.map_err(Refusal::failed)?))
    }

    /// The tenant's connectors, with what they did lately.
    pub async fn connectors(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let page: Page = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?;
        let loaded = self.loaded(&tenant).await?;
        let (counters, validations) = match self.recorder().keeps() {
            false => (BTreeMap::new(), BTreeMap::new()),
            true => {
                let name = tenant.name.clone();
                let now = milliseconds(SystemTime::now());
                let reading = self.remembered(move |decisions| {
                    let counters = decisions.counters(&name, now, COUNTED_DAYS)?;
                    Ok((counters, decisions.validations(&name)?))
                });
                reading.await?
            }
        };
        let text = page.text.to_lowercase();
        let has_text = |it: &&portcullis::Connector| {
            text.is_empty()
                || it.name.to_lowercase().contains(&text)
                || it.applies_to.to_lowercase().contains(&text)
        };
        let found: Vec<_> = loaded.connectors.iter().filter(has_text).collect();
        let total = found.len();
        let page = found.into_iter().skip(page.first);
        let shown: Vec<Value> = page
            .take(page_limit(asked)?)
            .map(|connector| {
                let mut shown = json!(connector);
                if let Some(counters) = counters.get(&connector.name) {
                    shown["last-days"] = json!(counters);
                }
                if let Some(validated) = validations.get(&connector.name) {
                    shown["validated"] = json!(validated);
                }
                shown
            })
            .collect();
        let answer = json(&json!({
            "total": total,
            "days": COUNTED_DAYS,
            "organization": loaded.policy.description().organization,
            "accepted-domains": loaded.policy.description().accepted_domains,
            "connectors": shown,
        }));
        Ok(tagged(answer, &loaded.digest))
    }

    /// One connector, as it is written.
    pub async fn connector(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?;
        let editor = self.editor(&tenant).await?;
        let name = asked.name().to_owned();
        let reading = move || {
            let content = editor.read()?;
            let found = editor.change(crate::edit::text::connector(&content.text, &name))?;
            Ok((found, content.digest))
        };
        let read = apart(reading).await;
        let (connector, digest) = read.map_err(|refusal| match refusal.status {
            StatusCode::UNPROCESSABLE_ENTITY => Refusal::not_found(&refusal.error),
            _ => refusal,
        })?;
        Ok(tagged(json(&connector), &digest))
    }

    /// The tenant's decisions, the last ones first.
    pub async fn decisions(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let filter: Filter = asked.parameters()?;
        let name = self.tenant(asked.tenant())?.name;
        let reading = self.remembered(move |decisions| decisions.last(&name, &filter));
        Ok(json(&json!({ "decisions": reading.await? })))
    }

    /// What the tenant's mail advises.
    pub async fn advice(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Least { messages, days } = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?;
        let editor = self.editor(&tenant).await?;
        let least = Thresholds { messages, days };
        let now = milliseconds(SystemTime::now());
        let name = tenant.name.clone();
        let mail = self.remembered(move |decisions| Mail::read(&name, decisions, now));
        let mail = Arc::new(mail.await?);
        let editor = Arc::new(editor);
        let reader = editor.clone();
        let content = apart(move || reader.read()).await?;
        let _turn = self.turn().await?;
        let given = advice(mail, &editor, &content.text, least, now).await;
        let mut given = given.map_err(|error| unprocessable(&format!("{error:#}")))?;
        let snapshot = self.store().snapshot();
        if let Some(why) = snapshot
            .named(&tenant.name)
            .and_then(|it| it.rejected.as_ref())
        {
            given
                .notices
                .insert(0, Notice::rejected(&tenant.policy, why));
        }
        Ok(json(&given))
    }

    /// The certificates of partners, and our own.
    pub async fn certificates(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let name = self.tenant(asked.tenant())?.name;
        let since = milliseconds(SystemTime::now()) - CERTIFICATE_DAYS * DAY * 1000;
        let _turn = self.turn().await?;
        let seen = self.remembered(move |decisions| {
            let flows = decisions.flows(&name, since, MAX_FLOWS)?;
            let connections = decisions.connections(&name, since)?;
            Ok(certificates(&flows, &connections))
        });
        Ok(json(
            &json!({ "days": CERTIFICATE_DAYS, "certificates": seen.await? }),
        ))
    }

    /// The versions of the tenant's rules, the oldest first.
    pub async fn versions(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?;
        let versions = match self.publisher_of(&tenant) {
            Some(publisher) => publisher.versions(&tenant.name).await?,
            None => {
                let editor = self.editor(&tenant).await?;
                apart(move || editor.versions()).await?
            }
        };
        Ok(json(&json!({ "versions": versions })))
    }

    /// The content of a version.
    pub async fn version(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?;
        let version = asked.name().parse();
        let version: u64 = version.map_err(|_| Refusal::not_found("there is no such version"))?;
        let (format, content) = self.content(&tenant, version).await?;
        let kind = match format {
            Format::Json => "application/json",
            Format::Wasm => "application/wasm",
        };
        Ok(whole(StatusCode::OK, kind, content))
    }

    /// What an export of another product becomes. Nothing is written.
    pub async fn import(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Source { kind, from } = asked.parameters()?;
        let bytes = asked.body.to_vec();
        let text = || asked.text();
        let imported = match kind {
            Kind::Exchange => {
                let reading = move || import::read(&bytes).map(|it| import::exchange::import(&it));
                let read = tokio::task::spawn_blocking(reading).await;
                read.map_err(Refusal::failed)?
                    .map_err(|error| unprocessable(&error))?
            }
            Kind::Postfix => {
                let (text, from) = (text()?, from);
                let from: Vec<String> = from
                    .split(',')
                    .filter(|it| !it.is_empty())
                    .map(ToOwned::to_owned)
                    .collect();
                let reading = move || import::postfix::import("the table", &text, &from);
                let read = tokio::task::spawn_blocking(reading).await;
                read.map_err(Refusal::failed)?
            }
            Kind::List => {
                let domains = import::list::domains(&bytes);
                let domains = domains.map_err(|error| unprocessable(&error))?;
                return Ok(json(&json!({ "domains": domains })));
            }
        };
        Ok(json(&json!({
            "rules": imported.document(),
            "rows": imported.rows,
            "notes": imported.notes,
            "same": imported.is_same(),
        })))
    }
}

/// The certificates that partners have shown, each once.
fn certificates(flows: &[Flow], connections: &[Connection]) -> Vec<Value> {
    let mut seen: BTreeMap<String, Value> = BTreeMap::new();
    let mut add = |partner: &str, way: &str, certificate: &Value, last: i64, count: u64| {
        let Some(digest) = certificate["sha256"].as_str() else {
            return;
        };
        let key = format!("{way}\0{partner}\0{digest}");
        let entry = seen.entry(key).or_insert_with(|| {
            json!({ "partner": partner, "direction": way, "certificate": certificate,
                    "last": moment(last), "count": 0 })
        });
        entry["count"] = json!(entry["count"].as_u64().unwrap_or(0) + count);
    };
    for flow in flows {
        let context: Value = serde_json::from_str(&flow.context).unwrap_or_default();
        let sender = context["mail-from"].as_str().unwrap_or_default();
        let certificate = &context["tls"]["certificate"];
        add(
            domain(sender),
            "inbound",
            certificate,
            flow.last,
            flow.count,
        );
    }
    for it in connections {
        let target = it.facts["target"].as_str().unwrap_or_default();
        add(
            target,
            "outbound",
            &it.facts["certificate"],
            it.last,
            it.count,
        );
    }
    seen.into_values().collect()
}

fn page_limit(asked: &Asked) -> Result<usize, Refusal> {
    let page: Page = asked.parameters()?;
    Ok(page.limit.min(MAX_CONNECTORS))
}

fn effect_json(effect: &Effect, since: Option<i64>) -> Value {
    let changed: Vec<Value> = effect
        .changed
        .iter()
        .map(|((was, is), changed)| {
            let examples = changed.examples.iter().map(|(from, to, connector)| {
                json!({ "mail-from": from, "rcpt-to": to, "connector": connector })
            });
            json!({ "was": was, "is": is, "messages": changed.messages,
                    "examples": examples.collect::<Vec<_>>() })
        })
        .collect();
    json!({ "messages": effect.messages, "undecided": effect.undecided, "since": since.map(moment), "changed": changed })
}
