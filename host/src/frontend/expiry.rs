//! Certificates of partners that are about to run out: after that day their mail is refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moka::sync::Cache;

use crate::tls::SOON;
use portcullis::sandbox::interface::{Context, Trust, Verdict};
use portcullis::store::Tenant;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates of which it is known that they were told of today.
const MOST: u64 = 10_000;

/// The certificates that were told of in the last day, by their SHA-256.
pub struct Expiring(Cache<(u64, u64, u64, u64), ()>);

impl Default for Expiring {
    fn default() -> Self {
        let told = Cache::builder().max_capacity(MOST).time_to_live(DAY);
        Expiring(told.build())
    }
}

impl Expiring {
    /// Tells of a certificate that mail was accepted with, once a day.
    pub fn look(&self, tenant: &Tenant, context: &Context, verdict: &Verdict) {
        let Verdict::Accept(acceptance) = verdict else {
            return;
        };
        let tls = context.tls.as_ref();
        let certificate = tls.and_then(|tls| tls.certificate.as_ref());
        let Some(certificate) = certificate.filter(|it| it.trust == Trust::Trusted) else {
            return;
        };
        let Some(connector) = acceptance.connectors.first() else {
            return;
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs() as i64);
        let day = DAY.as_secs() as i64;
        let days = match certificate.not_after {
            Some(end) => (end - now).div_euclid(day),
            None => return,
        };
        if days >= SOON || self.0.contains_key(&certificate.sha256) {
            return;
        }
        self.0.insert(certificate.sha256, ());
        let names = certificate.dns_names.first();
        tracing::warn!(
            tenant = %tenant.name,
            connector,
            name = names.map_or("", String::as_str),
            days,
            "a partner's certificate expires soon; its mail will be refused then"
        );
    }
}
