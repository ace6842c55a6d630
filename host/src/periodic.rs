//! What is done from time to time while mail flows: looking at what partners show, and trying connectors out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis::{Connector, Direction, Engine, Mode};

use crate::advice::{Mail, Notice, notices};
use crate::alerts::{self, Alert};
use crate::config::{Config, OPERATOR, Tenant};
use crate::decisions::{DatabaseError, Decisions, Recorder, milliseconds};
use crate::frontend::smtp::listener::Server;
use crate::validate::EgressProbe;

/// Something that stays as it is is told of again after so long.
const AGAIN: Duration = Duration::from_secs(7 * 24 * 60 * 60 - 60 * 60);

/// Looks at each tenant, and tells what is new.
pub async fn look(config: Config, server: Arc<Server>) {
    let recorder = &server.asking.recorder;
    let authorities = server.settings.load().authorities.clone();
    let mut alerts = Vec::new();
    let mut told = Vec::new();
    for tenant in config.askable() {
        let name: Arc<str> = tenant.name.as_str().into();
        let notices = match tenant.name == OPERATOR && config.before.is_some() {
            // No mail is its own.
            true => rejected(server.asking.policies.snapshot().before(), tenant),
            false => of_tenant(tenant, &server, recorder).await,
        };
        let keys: Vec<String> = notices.iter().map(Notice::key).collect();
        let untold = recorder.untold(&name, keys.clone(), AGAIN).await;
        let new = notices.into_iter().zip(keys).zip(untold);
        let (notices, keys): (Vec<Notice>, Vec<String>) = new
            .filter(|(_, is_new)| *is_new)
            .map(|(new, _)| new)
            .unzip();
        told.push((name, keys));
        alerts.extend(notices.into_iter().map(|notice| Alert {
            tenant: tenant.name.clone(),
            notice,
        }));
    }
    // What nobody has got is tried again.
    if alerts::send(&config, authorities.public(), &alerts).await {
        for (name, keys) in told {
            recorder.told(&name, keys);
        }
    }
}

/// That the policy's file as it is now was not taken.
fn rejected(known: Option<&Arc<portcullis::Tenant>>, tenant: &Tenant) -> Vec<Notice> {
    let why = known.and_then(|known| known.rejected.as_ref());
    let notice = why.map(|why| Notice::rejected(&tenant.policy, why));
    notice.into_iter().collect()
}

async fn of_tenant(tenant: &Tenant, server: &Server, recorder: &Recorder) -> Vec<Notice> {
    let policies = &server.asking.policies;
    let mut found = rejected(policies.snapshot().named(&tenant.name), tenant);
    let Some(place) = recorder.path().map(ToOwned::to_owned) else {
        return found;
    };
    let Some(connectors) = connectors(policies.engine(), tenant).await else {
        return found;
    };
    let name = tenant.name.clone();
    let reading = move || -> Result<Vec<Notice>, DatabaseError> {
        let now = milliseconds(SystemTime::now());
        let mail = Mail::read(&name, &Decisions::open(&place)?, now)?;
        Ok(notices(&mail, &connectors, now))
    };
    match tokio::task::spawn_blocking(reading).await {
        Ok(Ok(notices)) => found.extend(notices),
        Ok(Err(error)) => tracing::warn!(%error, "remembered decisions cannot be read"),
        Err(error) => tracing::error!(%error, "remembered decisions cannot be read"),
    }
    found
}

/// The connectors in a tenant's file; `None` if they cannot be told, of which the log has heard.
async fn connectors(engine: &Engine, tenant: &Tenant) -> Option<Vec<Connector>> {
    let policy = engine.load_file(&tenant.policy).await.ok()?;
    policy.connectors().await.ok()
}

/// Tries each enabled outbound connector out, and keeps what comes of it.
pub async fn validate(mut config: Config, server: Arc<Server>) {
    // What comes of it is seen by whoever administers a tenant.
    let is_seen = config
        .admin
        .as_ref()
        .is_some_and(|admin| !admin.validate_private_networks);
    config.delivery.public_only = is_seen;
    let recorder = &server.asking.recorder;
    let authorities = server.settings.load().authorities.clone();
    for tenant in &config.tenants {
        let Some(connectors) = connectors(server.asking.policies.engine(), tenant).await else {
            continue;
        };
        let mut probe = EgressProbe::new(&config, &authorities, Some(&tenant.name));
        let outbound = connectors
            .iter()
            .filter(|it| it.direction == Direction::Outbound && it.mode != Mode::Disabled);
        for connector in outbound {
            validate_one(&mut probe, tenant, connector, recorder).await;
        }
    }
}

async fn validate_one(
    probe: &mut EgressProbe<'_>,
    tenant: &Tenant,
    connector: &Connector,
    recorder: &Recorder,
) {
    let followed = match probe.follow(connector, None, None, |_| {}).await {
        Ok(followed) => followed,
        Err(error) => {
            tracing::warn!(
                tenant = tenant.name,
                connector = &*portcullis::one_line(&connector.name),
                "the connector was not tried out: {error:#}"
            );
            return;
        }
    };
    let Some(valid) = followed.valid else {
        return;
    };
    if !valid {
        tracing::warn!(
            tenant = tenant.name,
            connector = &*portcullis::one_line(&connector.name),
            "the connector was tried out, and would not work; portcullis validate tells why"
        );
    }
    let report = serde_json::to_string(&followed).unwrap_or_default();
    recorder.validated(&tenant.name.as_str().into(), &connector.name, valid, report);
}
