//! Numbers for Prometheus.
//!
//! Labels are bounded: tenants are those of the configuration, and the words that a module chooses
//! freely (connectors, reasons of its own) stand in the log, not here.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use portcullis::{Finding, POLICY_UNAVAILABLE, Verdict};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The reasons that the specification names.
const FAILED: [&str; 11] = [
    "tls",
    "tls-version",
    "certificate-missing",
    "certificate-untrusted",
    "certificate-name",
    "certificate-fingerprint",
    "certificate-key",
    "certificate-authority",
    "source-ip",
    "fact-unavailable",
    POLICY_UNAVAILABLE,
];

/// Why a policy gave no answer.
const POLICY_FAILURES: [&str; 8] = [
    "trap",
    "timeout",
    "out-of-memory",
    "stack-overflow",
    "not-loaded",
    "throttled",
    "pool-exhausted",
    "invalid",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Decision {
    tenant: Arc<str>,
    verdict: &'static str,
    failed: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Audited {
    tenant: Arc<str>,
    failed: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyFailure {
    tenant: Arc<str>,
    failure: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTenant {
    tenant: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyUpdate {
    tenant: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct File {
    file: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotTaken {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditConnection {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What is known of the fleet's store. Cheap to clone.
#[derive(Clone, Default)]
pub struct FleetMetrics {
    /// Whether it can be reached: 1 or 0.
    pub connected: Gauge,
    /// When it was heard of last, in seconds since 1970.
    pub last_contact: Gauge,
    /// All up to this revision has been looked at.
    pub revision: Gauge,
    /// Tenants that have not what they should.
    pub exceptions: Gauge,
    /// Decisions that could not be published.
    pub unsent: Counter,
}

/// All counters of the daemon.
pub struct Metrics {
    registry: Registry,
    decisions: Family<Decision, Counter>,
    audited: Family<Audited, Counter>,
    audit_connections: Family<AuditConnection, Counter>,
    policy_failures: Family<PolicyFailure, Counter>,
    policy_failing: Family<OfTenant, Gauge>,
    policy_updates: Family<PolicyUpdate, Counter>,
    messages: Family<Outcome, Counter>,
    not_taken: Family<NotTaken, Counter>,
    certificates: Family<File, Gauge>,
    lost_decisions: Counter,
    fleet: FleetMetrics,
    sessions: Counter,
    sessions_open: Gauge,
    connection_rejected: Family<Outcome, Counter>,
    frontend_failures: Counter,
    logins: Family<Outcome, Counter>,
    tls_reports: Family<Outcome, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("portcullis"),
            decisions: Family::default(),
            audited: Family::default(),
            audit_connections: Family::default(),
            policy_failures: Family::default(),
            policy_failing: Family::default(),
            policy_updates: Family::default(),
            messages: Family::default(),
            not_taken: Family::default(),
            certificates: Family::default(),
            lost_decisions: Counter::default(),
            fleet: FleetMetrics::default(),
            frontend_failures: Counter::default(),
            sessions: Counter::default(),
            sessions_open: Gauge::default(),
            connection_rejected: Family::default(),
            logins: Family::default(),
            tls_reports: Family::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        let decisions = self.decisions.clone();
        registry.register("decisions", "Decisions about a recipient", decisions);
        let audited = self.audited.clone();
        registry.register(
            "audit_findings",
            "Refusals that audit mode held back",
            audited,
        );
        let audit_connections = self.audit_connections.clone();
        let help = "Connections to partners, by what a connector in audit mode would say to them";
        registry.register("audit_connections", help, audit_connections);
        let failures = self.policy_failures.clone();
        let help = "Evaluations without an answer, which defer mail";
        registry.register("policy_failures", help, failures);
        let failing = self.policy_failing.clone();
        let help = "Whether a policy has failed many times in a row";
        registry.register("policy_failing", help, failing);
        let updates = self.policy_updates.clone();
        registry.register("policy_updates", "Policy files loaded or rejected", updates);
        let messages = self.messages.clone();
        registry.register(
            "messages",
            "Messages by the class of their final reply",
            messages,
        );
        let lost = self.lost_decisions.clone();
        let help = "Decisions that could not be remembered";
        registry.register("decisions_lost", help, lost);
        let not_taken = self.not_taken.clone();
        let help = "Senders and recipients that were not taken";
        registry.register("recipients_refused", help, not_taken);
        let certificates = self.certificates.clone();
        let help = "End of the validity of the certificates in use, as a Unix time";
        registry.register("certificate_expires_timestamp_seconds", help, certificates);
        registry.register("sessions", "SMTP sessions", self.sessions.clone());
        let open = self.sessions_open.clone();
        registry.register("sessions_open", "SMTP sessions now", open);
        let away = self.connection_rejected.clone();
        registry.register("connections_rejected", "Connections over a limit", away);
        let failures = self.frontend_failures.clone();
        let help = "Conversations with mail servers that ended in an error";
        registry.register("frontend_failures", help, failures);
        let help = "Attempts of clients to log in";
        registry.register("logins", help, self.logins.clone());
        let help =
            "Reports of what became of TLS towards a domain, by whether the collector took them";
        registry.register("tls_reports", help, self.tls_reports.clone());
        let lost = super::writer::lost_lines();
        registry.register("log_lines_lost", "Log lines that were not written", lost);
    }

    /// Shows a number that is kept elsewhere.
    pub fn register_gauge(&mut self, name: &str, help: &str, gauge: Gauge) {
        self.registry.register(name, help, gauge);
    }

    /// A recipient was decided on.
    pub fn decided(&self, tenant: &Arc<str>, verdict: &Verdict) {
        let (verdict, failed, audit) = match verdict {
            Verdict::Accept(acceptance) => ("accept", "", &acceptance.audit),
            Verdict::Deliver(delivery) => ("deliver", "", &delivery.audit),
            Verdict::Reject(refusal) => ("reject", known(&refusal.failed), &refusal.audit),
            Verdict::Defer(refusal) => ("defer", known(&refusal.failed), &refusal.audit),
        };
        let decision = Decision {
            tenant: tenant.clone(),
            verdict,
            failed,
        };
        self.decisions.get_or_create(&decision).inc();
        for Finding { failed, .. } in audit {
            let audited = Audited {
                tenant: tenant.clone(),
                failed: known(failed),
            };
            self.audited.get_or_create(&audited).inc();
        }
    }

    /// A partner's server was connected that a connector in audit mode is for: `satisfied`, or a result type of
    /// RFC 8460 §4.3.
    pub fn audit_connection(&self, result: &'static str) {
        let result = AuditConnection { result };
        self.audit_connections.get_or_create(&result).inc();
    }

    /// A policy did not answer.
    pub fn policy_failed(&self, tenant: &Arc<str>, failure: &'static str) {
        let failure = PolicyFailure {
            tenant: tenant.clone(),
            failure,
        };
        self.policy_failures.get_or_create(&failure).inc();
    }

    /// A policy fails again and again, or does so no longer.
    pub fn policy_failing(&self, tenant: &Arc<str>, failing: bool) {
        let tenant = OfTenant {
            tenant: tenant.clone(),
        };
        let gauge = self.policy_failing.get_or_create(&tenant);
        gauge.set(i64::from(failing));
    }

    /// A policy file was taken, or not.
    pub fn policy_updated(&self, tenant: &str, taken: bool) {
        let update = PolicyUpdate {
            tenant: tenant.into(),
            outcome: if taken { "loaded" } else { "rejected" },
        };
        self.policy_updates.get_or_create(&update).inc();
    }

    /// The certificates in use now, each with the end of its validity in seconds since 1970.
    pub fn certificates<'a>(&self, ends: impl IntoIterator<Item = (&'a Path, i64)>) {
        self.certificates.clear();
        for (file, end) in ends {
            let file = file.display().to_string();
            self.certificates.get_or_create(&File { file }).set(end);
        }
    }

    /// Counts decisions that could not be remembered.
    pub fn lost_decisions(&self) -> Counter {
        self.lost_decisions.clone()
    }

    /// Shows what is known of the fleet's store.
    pub fn register_fleet(&mut self) {
        let FleetMetrics {
            connected,
            last_contact,
            revision,
            exceptions,
            unsent,
        } = self.fleet.clone();
        let help = "Whether the fleet's store can be reached";
        self.registry.register("fleet_connected", help, connected);
        let help = "When the fleet's store was heard of last, as a Unix time";
        let name = "fleet_last_contact_timestamp_seconds";
        self.registry.register(name, help, last_contact);
        let help = "The revision of the fleet's store up to which all has been looked at";
        self.registry.register("fleet_revision", help, revision);
        let help = "Tenants of the fleet that have not what they should";
        self.registry.register("fleet_exceptions", help, exceptions);
        let help = "Decisions that could not be sent to the fleet's subject";
        self.registry.register("decisions_unsent", help, unsent);
    }

    /// What is known of the fleet's store.
    pub fn fleet(&self) -> FleetMetrics {
        self.fleet.clone()
    }

    /// Forgets a tenant that is gone.
    pub fn forget(&self, tenant: &str) {
        let tenant: Arc<str> = tenant.into();
        let failures = || FAILED.into_iter().chain(["", "other"]);
        for failed in failures() {
            for verdict in ["accept", "deliver", "reject", "defer"] {
                self.decisions.remove(&Decision {
                    tenant: tenant.clone(),
                    verdict,
                    failed,
                });
            }
            self.audited.remove(&Audited {
                tenant: tenant.clone(),
                failed,
            });
        }
        for failure in POLICY_FAILURES {
            self.policy_failures.remove(&PolicyFailure {
                tenant: tenant.clone(),
                failure,
            });
        }
        for outcome in ["loaded", "rejected"] {
            self.policy_updates.remove(&PolicyUpdate {
                tenant: tenant.clone(),
                outcome,
            });
        }
        self.policy_failing.remove(&OfTenant { tenant });
    }

    /// A sender or a recipient was not taken.
    pub fn refused(&self, reason: &'static str) {
        self.not_taken.get_or_create(&NotTaken { reason }).inc();
    }

    /// A message had its final reply.
    pub fn message(&self, code: u16) {
        let outcome = match code / 100 {
            2 => "accepted",
            4 => "deferred",
            _ => "refused",
        };
        self.messages.get_or_create(&Outcome { outcome }).inc();
    }

    /// A client was not let in.
    pub fn connection_rejected(&self, outcome: &'static str) {
        self.connection_rejected
            .get_or_create(&Outcome { outcome })
            .inc();
    }

    /// A client has tried to log in: `accepted`, `refused`, `limited` or `unavailable`.
    pub fn login(&self, outcome: &'static str) {
        self.logins.get_or_create(&Outcome { outcome }).inc();
    }

    /// What became of TLS towards a domain was told to the collector of reports (RFC 8460), or was not.
    pub fn tls_report(&self, is_told: bool) {
        let outcome = if is_told { "told" } else { "lost" };
        self.tls_reports.get_or_create(&Outcome { outcome }).inc();
    }

    /// A mail server that asks could not be answered.
    pub fn frontend_failed(&self) {
        self.frontend_failures.inc();
    }

    /// A session begins; it ends when what this gives is dropped.
    pub fn session(&self) -> OpenSession {
        self.sessions.inc();
        self.sessions_open.inc();
        OpenSession(self.sessions_open.clone())
    }

    /// All numbers in the text format of OpenMetrics.
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// All numbers in the text format of Prometheus.
    pub fn prometheus(&self) -> String {
        plain(&self.open_metrics())
    }
}

/// OpenMetrics in Prometheus' own text format, which knows counters by the names of their samples and has no end.
fn plain(open_metrics: &str) -> String {
    let mut counters = HashSet::new();
    for line in open_metrics.lines() {
        if let Some(name) = line
            .strip_prefix("# TYPE ")
            .and_then(|line| line.strip_suffix(" counter"))
        {
            counters.insert(name);
        }
    }
    let mut text = String::new();
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => {}
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(name) => {
                text.push_str(&format!("# {kind} {name}_total {rest}\n"));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// A session that is counted as open.
pub struct OpenSession(Gauge);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The reason, if it is one of the specification's.
fn known(failed: &str) -> &'static str {
    FAILED
        .into_iter()
        .find(|known| *known == failed)
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_format_names_counters_by_their_samples() {
        let open = "# HELP a_b Some.\n# TYPE a_b counter\na_b_total{c=\"d\"} 1\n# HELP g Other.\n# TYPE g gauge\ng 2\n# EOF\n";
        let expected = "# HELP a_b_total Some.\n# TYPE a_b_total counter\na_b_total{c=\"d\"} 1\n# HELP g Other.\n# TYPE g gauge\ng 2\n";
        assert_eq!(plain(open), expected);
    }
}
