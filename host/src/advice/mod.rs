//! What the mail of a tenant says to whoever looks after its rules: what needs attention, which connectors in audit mode
//! could be enforced, and which partners have none yet.

mod notices;
mod suggest;

use std::collections::BTreeMap;

use portcullis::{Context, Direction, Mode};
use serde::Serialize;
use serde_json::Value;

pub use self::notices::{Notice, notices};
pub use self::suggest::{Suggestion, Thresholds, suggestions};
use crate::decisions::{
    Connection, Counters, DAY, DatabaseError, Decisions, Flow, Validated, moment,
};
use crate::edit::Editor;
use crate::edit::effect::Comparison;

/// Mail of so long is looked at, and so much of it.
const LOOK_BACK: i64 = 180 * DAY * 1000;
const MAX_FLOWS: u32 = 100_000;

/// What is remembered of a tenant's mail.
pub struct Mail {
    flows: Vec<Flow>,
    connections: Vec<Connection>,
    counters: BTreeMap<String, Counters>,
    validations: BTreeMap<String, Validated>,
    /// Since when connectors are counted, in milliseconds since 1970.
    counted_since: Option<i64>,
}

impl Mail {
    /// Reads it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(tenant: &str, decisions: &Decisions, now: i64) -> Result<Self, DatabaseError> {
        Ok(Mail {
            flows: decisions.flows(tenant, now - LOOK_BACK, MAX_FLOWS)?,
            connections: decisions.connections(tenant, now - LOOK_BACK)?,
            counters: decisions.counters(tenant, now, notices::IDLE_DAYS)?,
            validations: decisions.validations(tenant)?,
            counted_since: decisions.counted_since(tenant)?,
        })
    }
}

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
    mail: &Mail,
    editor: &Editor,
    least: Thresholds,
    now: i64,
) -> anyhow::Result<Advice> {
    let content = editor.read()?;
    let rules = editor.check(content.text.clone()).await?.rules;
    let policy = editor.engine().load_rules("rules", &rules).await?;
    let connectors = policy.connectors().await?;
    let Mail {
        flows, connections, ..
    } = mail;
    let names = |direction| {
        let audited = connectors
            .iter()
            .filter(move |it| it.mode == Mode::Audit && it.direction == direction);
        audited.map(|it| it.name.clone()).collect::<Vec<_>>()
    };
    let mut promotions = inbound_promotions(
        editor,
        &content.text,
        &names(Direction::Inbound),
        flows,
        least,
    )
    .await?;
    for name in names(Direction::Outbound) {
        let of_it: Vec<_> = connections
            .iter()
            .filter(|it| it.facts["audit-connector"] == *name)
            .collect();
        let is_clean = of_it.iter().all(|it| it.facts["audit"].is_null());
        let messages = of_it.iter().map(|it| it.count).sum();
        let since = of_it.iter().map(|it| it.first).min();
        let last = of_it.iter().map(|it| it.last).max();
        if let (true, Some(since), Some(last)) = (is_clean, since, last)
            && last - since >= least.days * DAY * 1000
        {
            promotions.push(Promotion {
                connector: name,
                messages,
                since: moment(since),
            });
        }
    }
    Ok(Advice {
        notices: notices(mail, &connectors, now),
        promotions,
        suggestions: suggestions(
            flows,
            connections,
            &policy.description().accepted_domains,
            least,
        ),
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
