//! What is answered bit by bit: validation, decisions as they are made, and what is remembered of the mail.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::{Admin, Caller, Refusal, unprocessable};
use crate::admin::answer::{Answer, lines};
use crate::admin::routes::Asked;
use crate::smtp::address::Address;
use crate::validate::{EgressProbe, connector_for};
use portcullis::Direction;

/// So often something is said to somebody who watches, so that it is noticed when he is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Flows of an answer, if nothing is said.
const USUAL_FLOWS: u32 = 5000;
const MAX_FLOWS: u32 = 100_000;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Try {
    /// Whom a test message is sent to.
    to: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Limit {
    limit: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Nothing {}

impl Admin {
    /// Tries an outbound connector out, and tells each step.
    pub async fn validate(&self, caller: &Caller, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let Try { to } = asked.json()?;
        let tenant = self.tenant(asked.tenant())?;
        let loaded = self.loaded(&tenant).await?;
        let connector = loaded.connectors.iter().find(|it| it.name == asked.name());
        let Some(connector) = connector.cloned() else {
            return Err(Refusal::not_found("there is no such connector"));
        };
        if connector.direction != Direction::Outbound {
            return Err(unprocessable(
                &"mail to us cannot be tried out from here: explain tells what it would need",
            ));
        }
        let to = to.as_deref().map(Address::parse).transpose();
        let to = to.map_err(|error| unprocessable(&format!("to: {error}")))?;
        if let Some(to) = &to {
            let chosen = connector_for(&loaded.policy, to, None).await;
            let chosen = chosen.map_err(|error| unprocessable(&format!("{error:#}")))?;
            if chosen != connector.name {
                let text = format!("mail to {to} goes by the connector {chosen:?}");
                return Err(unprocessable(&text));
            }
        }
        let Ok(permit) = self.validations.clone().try_acquire_owned() else {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many connectors are being tried out; ask again",
            ));
        };
        let mut config = crate::config::Config::clone(&self.config.load());
        let is_free = config
            .admin
            .as_ref()
            .is_some_and(|admin| admin.validate_private_networks);
        // Whoever administers rules may not look around in our networks by them.
        config.delivery.public_only = !is_free && !caller.is_operator();
        let authorities = self.server.settings.load().authorities.clone();
        let (recorder, name) = (self.recorder().clone(), tenant.name.clone());
        let (sender, receiver) = unbounded_channel();
        tokio::spawn(async move {
            let _permit = permit;
            let mut probe = EgressProbe::new(&config, &authorities, Some(&name));
            let steps = sender.clone();
            let progress = |step: &str| {
                // Whoever asked may be gone.
                let _ = steps.send(json!({ "step": step }));
            };
            let following = probe.follow(&connector, to.as_ref(), None, progress);
            // Nobody waits for it any more.
            let followed = tokio::select! {
                followed = following => followed,
                () = sender.closed() => return,
            };
            let told = match followed {
                Ok(followed) => {
                    if let Some(valid) = followed.valid {
                        let report = serde_json::to_string(&followed).unwrap_or_default();
                        recorder.validated(&name.as_str().into(), &connector.name, valid, report);
                    }
                    json!({ "outcome": followed })
                }
                Err(error) => json!({ "error": format!("{error:#}") }),
            };
            let _ = sender.send(told);
        });
        Ok(lines(values(receiver)))
    }

    /// Decisions as they are made.
    pub fn live(self: &Arc<Self>, caller: &Caller, asked: &Asked) -> Result<Answer, Refusal> {
        let Nothing {} = asked.parameters()?;
        let tenant = self.tenant(asked.tenant())?.name;
        let watching = self.recorder().watch();
        tracing::debug!(tenant, "watching decisions");
        let (admin, token) = (self.clone(), caller.token.clone());
        let begun = (watching, tenant, admin, token);
        let decisions = stream::unfold(begun, |(mut watching, tenant, admin, token)| async move {
            loop {
                let heard = timeout(HEARTBEAT, watching.recv()).await;
                // It may have expired, or been revoked, or the tenant is gone.
                if !admin.access().holds(&token) || admin.tenant(&tenant).is_err() {
                    return None;
                }
                let line = match heard {
                    Err(_) => Vec::new(),
                    Ok(Err(RecvError::Closed)) => return None,
                    // What was missed is in the list.
                    Ok(Err(RecvError::Lagged(missed))) => line(&json!({ "missed": missed })),
                    Ok(Ok(live)) if *live.tenant == *tenant => line(&json!(*live.decision)),
                    Ok(Ok(_)) => continue,
                };
                return Some((line, (watching, tenant, admin, token)));
            }
        });
        Ok(lines(decisions))
    }

    /// The mail that is remembered: what is known of it, what was decided, and how often.
    pub async fn flows(&self, asked: &Asked) -> Result<Answer, Refusal> {
        let Limit { limit } = asked.parameters()?;
        let name = self.tenant(asked.tenant())?.name;
        let limit = limit.unwrap_or(USUAL_FLOWS).min(MAX_FLOWS);
        let reading = self.remembered(move |decisions| {
            let since = decisions.complete_since(&name)?;
            decisions.flows(&name, since, limit)
        });
        let flows = reading.await?;
        let told = flows.into_iter().map(|flow| {
            let parse = |text: &str| -> Value { serde_json::from_str(text).unwrap_or_default() };
            line(&json!({
                "context": parse(&flow.context),
                "verdict": parse(&flow.verdict),
                "first": super::moment(flow.first),
                "last": super::moment(flow.last),
                "count": flow.count,
            }))
        });
        Ok(lines(stream::iter(told)))
    }
}

fn values(receiver: UnboundedReceiver<Value>) -> impl Stream<Item = Vec<u8>> + Send {
    stream::unfold(receiver, |mut receiver| async move {
        let value = receiver.recv().await?;
        Some((line(&value), receiver))
    })
}

fn line(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
