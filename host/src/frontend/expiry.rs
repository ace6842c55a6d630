//! Certificates of partners that are about to run out: after that day their mail is refused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moka::sync::Cache;

use crate::tls::EXPIRY_WARNING;
use portcullis::store::Tenant;
use portcullis::{Certificate, Context, Sha256, Trust, Verdict};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Certificates of which it is known that they were told of today.
const MOST: u64 = 10_000;

/// The certificates that were told of in the last day, by their SHA-256.
pub struct Expiring(Cache<Sha256, ()>);

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
        let is_trusted = |it: &&Certificate| it.trust == Some(Trust::Trusted);
        let Some(certificate) = context.certificate().filter(is_trusted) else {
            return;
        };
        let Some(digest) = certificate.sha256 else {
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
        if days >= EXPIRY_WARNING || self.0.contains_key(&digest) {
            return;
        }
        self.0.insert(digest, ());
        let names = certificate
            .dns_names
            .as_ref()
            .and_then(|names| names.first());
        tracing::warn!(
            tenant = %tenant.name,
            connector,
            name = names.map_or("", String::as_str),
            days,
            "a partner's certificate expires soon; its mail will be refused then"
        );
    }
}
