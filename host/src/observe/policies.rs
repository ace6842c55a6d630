//! What happens to policies, in the log and the numbers.

use std::path::Path;
use std::sync::Arc;

use portcullis::{Observer, Problem, one_line};

use super::metrics::Metrics;

/// Logs and counts.
pub struct Observing(pub Arc<Metrics>);

impl Observer for Observing {
    fn failing(&self, tenant: &Arc<str>) {
        self.0.policy_failing(tenant, true);
        tracing::error!(%tenant, "policy keeps failing; all of its mail is deferred");
    }

    fn recovered(&self, tenant: &Arc<str>) {
        self.0.policy_failing(tenant, false);
        tracing::info!(%tenant, "policy recovered");
    }

    fn warned(&self, policy: &str, warnings: &[Problem]) {
        for Problem {
            line,
            column,
            message,
            ..
        } in warnings
        {
            tracing::warn!("{policy}:{line}:{column}: {}", one_line(message));
        }
    }

    fn mute(&self, policy: &str, error: &str) {
        tracing::error!(policy, "{error}");
    }

    fn printed(&self, policy: &str, text: &str) {
        tracing::debug!(policy, output = text, "the policy printed");
    }

    fn fewer_instances(&self, wanted: u32, instances: u32) {
        tracing::warn!(
            wanted,
            instances,
            "fewer instances of policies at a time: each takes 24 GiB of address space, which is limited here (ulimit -v, or the processor)"
        );
    }

    fn cache_failed(&self, path: &Path, what: &str) {
        tracing::warn!(path = %path.display(), "{what}");
    }
}
