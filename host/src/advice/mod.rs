//! What the mail of a tenant says to whoever looks after its rules: what needs attention, which connectors in audit mode
//! could be enforced, and which partners have none yet.

mod mail;
mod notices;
mod suggest;

use std::sync::Arc;

use portcullis::{Connector, Context, Direction, Mode};
use serde::Serialize;
use serde_json::Value;

pub use self::mail::Mail;
pub use self::notices::{Notice, notices};
pub use self::suggest::{Suggestion, Thresholds, suggestions};
use crate::decisions::{Connection, DAY, Flow, digest_of_protection, moment};
use crate::edit::Editor;
use crate::edit::effect::Comparison;

/// What is advised.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Advice {
    /// What somebody should know.
    pub notices: Vec<Notice>,
    /// Connectors in audit mode that could be enforced.
    pub promotions: Vec<Promotion>,
    /// Connectors that do not exist yet.
    pub suggestions: Vec<Suggestion>,
}

/// A connector in audit mode that would have refused nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Promotion {
    /// The connector.
    pub connector: String,
    /// How many messages or, of an outbound one, connections satisfied it.
    pub messages: u64,
    /// Since when: RFC 3339, in UTC.
    pub since: String,
}

/// What a tenant's mail advises for its rules document.
///
/// # Errors
/// If the document or what is kept cannot be read, or the evaluator does not answer.
pub async fn advice(
    mail: Arc<Mail>,
    editor: &Editor,
    document: &str,
    least: Thresholds,
    now: i64,
) -> anyhow::Result<Advice> {
    let rules = editor.check(document.to_owned()).await?.rules;
    let policy = editor.engine().load_rules("rules", &rules).await?;
    let connectors = policy.connectors().await?;
    let audited = |direction| {
        let audited = connectors
            .iter()
            .filter(move |it| it.mode == Mode::Audit && it.direction == direction);
        audited.cloned().collect::<Vec<Connector>>()
    };
    let inbound = audited(Direction::Inbound);
    let inbound: Vec<String> = inbound.into_iter().map(|it| it.name).collect();
    let mut promotions = inbound_promotions(editor, document, &inbound, &mail.flows, least).await?;
    let outbound = audited(Direction::Outbound);
    let promoted = outbound
        .iter()
        .filter_map(|connector| outbound_promotion(connector, &mail.connections, least));
    promotions.extend(promoted);
    let own = policy.description().accepted_domains.clone();
    // There may be very much of it to be looked at.
    let looking = move || {
        let notices = notices(&mail, &connectors, now);
        let suggestions = suggestions(&mail.flows, &mail.connections, &own, least);
        (notices, suggestions)
    };
    let (notices, suggestions) = tokio::task::spawn_blocking(looking).await?;
    Ok(Advice {
        notices,
        promotions,
        suggestions,
    })
}

/// An outbound connector whose requirements all servers have met.
fn outbound_promotion(
    connector: &Connector,
    connections: &[Connection],
    least: Thresholds,
) -> Option<Promotion> {
    let asked = connector
        .delivery
        .as_ref()
        .map(|it| digest_of_protection(&it.tls))?;
    // What was judged by other requirements says nothing about these.
    let is_of_it = |it: &&Connection| {
        it.facts["audit-connector"] == *connector.name && it.facts["audit-requires"] == *asked
    };
    let of_it: Vec<&Connection> = connections.iter().filter(is_of_it).collect();
    let is_clean = of_it.iter().all(|it| it.facts["audit"].is_null());
    let messages: u64 = of_it.iter().map(|it| it.count).sum();
    let since = of_it.iter().map(|it| it.first).min()?;
    let last = of_it.iter().map(|it| it.last).max()?;
    let is_enough = messages >= least.messages && last - since >= least.days * DAY * 1000;
    (is_clean && is_enough).then(|| Promotion {
        connector: connector.name.clone(),
        messages,
        since: moment(since),
    })
}

/// Those that found nothing although enough mail came.
async fn inbound_promotions(
    editor: &Editor,
    document: &str,
    audited: &[String],
    flows: &[Flow],
    least: Thresholds,
) -> anyhow::Result<Vec<Promotion>> {
    let (Some(first), Some(last)) = (
        flows.iter().map(|flow| flow.first).min(),
        flows.iter().map(|flow| flow.last).max(),
    ) else {
        return Ok(Vec::new());
    };
    if audited.is_empty() || last - first < least.days * DAY * 1000 {
        return Ok(Vec::new());
    }
    let before = editor.check(document.to_owned()).await?;
    // All at once; where one has an enforced twin, that one would have to go.
    let Some(enforced) = enforced(document, audited) else {
        return Ok(Vec::new());
    };
    let Ok(after) = editor.check(enforced).await else {
        return Ok(Vec::new());
    };
    let mut comparison = Comparison::new(editor.engine(), &before.rules, &after.rules).await?;
    for flow in flows {
        if let Ok(context) = Context::from_json(&flow.context) {
            comparison.messages(&context, flow.count).await?;
        }
    }
    let effect = comparison.end();
    let promotions = audited.iter().filter_map(|name| {
        let messages = *effect.satisfied.get(name)?;
        let is_clean = !effect.findings.contains_key(name);
        (is_clean && messages >= least.messages).then(|| Promotion {
            connector: name.clone(),
            messages,
            since: moment(first),
        })
    });
    Ok(promotions.collect())
}

/// The document with these connectors enforced, without its tests, which may expect something else.
fn enforced(document: &str, names: &[String]) -> Option<String> {
    let mut document: Value = serde_json::from_str(document).ok()?;
    document.as_object_mut()?.remove("tests");
    for connector in document["connectors"].as_array_mut()? {
        let is_named = connector["name"]
            .as_str()
            .is_some_and(|name| names.iter().any(|it| it == name));
        if is_named {
            connector.as_object_mut()?.remove("mode");
        }
    }
    serde_json::to_string(&document).ok()
}
