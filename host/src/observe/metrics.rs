//! Numbers for Prometheus.
//!
//! Labels are bounded: tenants are those of the configuration, and the words that a module chooses
//! freely (connectors, reasons of its own) stand in the log, not here. What can happen is there as 0 before it does, as
//! far as it has no tenant: the rate of something that first appears as 1 would be 0.

mod process;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis::{Finding, POLICY_UNAVAILABLE, Verdict};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::config::TenantSeries;

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

/// What our own numbers begin with.
const PREFIX: &str = "portcullis";

/// What becomes of a sender or a recipient that is not taken.
const REFUSED: [&str; 10] = [
    "syntax",
    "relay-denied",
    "size",
    "extension",
    "routing",
    "too-many",
    "own-transaction",
    "policy",
    "next-hop",
    "partner",
];

/// What becomes of a server of a partner, or of a whole route.
const OUTBOUND: [&str; 12] = [
    "connected",
    "unreachable",
    "unprotected",
    "login",
    "require-tls",
    "loop",
    "not-public",
    "dns",
    "no-hosts",
    "impossible",
    "timeout",
    "busy",
];

/// Upper bounds of how long a policy takes to answer, in seconds.
const EVALUATION: [f64; 11] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 1e-3, 5e-3, 25e-3, 100e-3, 500e-3, 2.0,
];
/// The same of how long sessions last.
const SESSION: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    evaluator: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outbound {
    tenant: Arc<str>,
    outcome: &'static str,
}

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

/// What is known of the server as a whole when numbers are asked for.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// Whether mail may come.
    pub is_ready: bool,
    /// How many tenants there are.
    pub tenants: usize,
    /// When the first of the signed statements in force ends, in seconds since 1970.
    pub policy_expires: Option<i64>,
    /// How many sessions there may be at a time.
    pub sessions_limit: usize,
    /// How many instances of policies there are.
    pub instances: usize,
    /// How many there may be.
    pub instances_limit: usize,
}

/// Tenants of which something is so, and how many they are.
#[derive(Default)]
struct Those {
    names: Mutex<HashSet<Arc<str>>>,
    number: Gauge,
    each: Family<OfTenant, Gauge>,
}

impl Those {
    fn set(&self, series: TenantSeries, tenant: &Arc<str>, is_so: bool) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match is_so {
            true => names.insert(tenant.clone()),
            false => names.remove(tenant),
        };
        self.number
            .set(i64::try_from(names.len()).unwrap_or(i64::MAX));
        let label = OfTenant {
            tenant: tenant.clone(),
        };
        match (series, is_so) {
            (TenantSeries::All, _) | (TenantSeries::Failing, true) => {
                self.each.get_or_create(&label).set(i64::from(is_so));
            }
            (TenantSeries::Failing, false) => drop(self.each.remove(&label)),
            (TenantSeries::None, _) => {}
        }
    }

    fn forget(&self, tenant: &Arc<str>) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(tenant);
        self.number
            .set(i64::try_from(names.len()).unwrap_or(i64::MAX));
        self.each.remove(&OfTenant {
            tenant: tenant.clone(),
        });
    }
}

/// All counters of the daemon.
pub struct Metrics {
    registry: Registry,
    series: TenantSeries,
    /// In the place of a tenant where none is told.
    nobody: Arc<str>,
    ready: Gauge,
    tenants: Gauge,
    sessions_limit: Gauge,
    instances: Gauge,
    instances_limit: Gauge,
    /// Absent as long as nothing is signed.
    policy_expires: Family<[(String, String); 0], Gauge>,
    process: process::Process,
    evaluation: Histogram,
    session_seconds: Histogram,
    outbound: Family<Outbound, Counter>,
    conversations_open: Gauge,
    conversations_limit: Gauge,
    decisions: Family<Decision, Counter>,
    audited: Family<Audited, Counter>,
    audit_connections: Family<AuditConnection, Counter>,
    policy_failures: Family<PolicyFailure, Counter>,
    policy_failing: Those,
    policy_stale: Those,
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

impl Metrics {
    /// All of them at 0. Not all need tell tenants apart.
    pub fn new(series: TenantSeries) -> Self {
        let mut metrics = Metrics {
            registry: Registry::default(),
            series,
            nobody: "".into(),
            ready: Gauge::default(),
            tenants: Gauge::default(),
            sessions_limit: Gauge::default(),
            instances: Gauge::default(),
            instances_limit: Gauge::default(),
            policy_expires: Family::default(),
            process: process::Process::default(),
            evaluation: Histogram::new(EVALUATION),
            session_seconds: Histogram::new(SESSION),
            outbound: Family::default(),
            conversations_open: Gauge::default(),
            conversations_limit: Gauge::default(),
            decisions: Family::default(),
            audited: Family::default(),
            audit_connections: Family::default(),
            policy_failures: Family::default(),
            policy_failing: Those::default(),
            policy_stale: Those::default(),
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
        metrics.begin_at_zero();
        metrics
    }

    /// What can happen is there before it does.
    fn begin_at_zero(&self) {
        for outcome in ["accepted", "deferred", "refused"] {
            drop(self.messages.get_or_create(&Outcome { outcome }));
        }
        for reason in REFUSED {
            drop(self.not_taken.get_or_create(&NotTaken { reason }));
        }
        for outcome in ["sessions", "sessions-per-address"] {
            drop(self.connection_rejected.get_or_create(&Outcome { outcome }));
        }
        for outcome in ["accepted", "refused", "limited", "unavailable"] {
            drop(self.logins.get_or_create(&Outcome { outcome }));
        }
        for outcome in ["told", "lost"] {
            drop(self.tls_reports.get_or_create(&Outcome { outcome }));
        }
    }

    fn register(&mut self) {
        self.process.register(&mut self.registry);
        let registry = self.registry.sub_registry_with_prefix(PREFIX);
        let build = Family::<Build, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        let evaluator = portcullis::evaluator_digest().to_string();
        build.get_or_create(&Build { version, evaluator }).set(1);
        registry.register("build_info", "Version, and digest of the evaluator", build);
        let help = "Whether mail may come";
        registry.register("ready", help, self.ready.clone());
        let help = "Tenants";
        registry.register("tenants", help, self.tenants.clone());
        let help = "Tenants whose policy has failed many times in a row";
        let number = self.policy_failing.number.clone();
        registry.register("tenants_failing", help, number);
        let help = "Tenants whose newest policy was rejected";
        let number = self.policy_stale.number.clone();
        registry.register("tenants_stale", help, number);
        let help = "Whether the newest policy was rejected";
        let stale = self.policy_stale.each.clone();
        registry.register("policy_stale", help, stale);
        let help = "End of the first of the signed policies in force, as a Unix time";
        let expires = self.policy_expires.clone();
        registry.register("policy_expires_timestamp_seconds", help, expires);
        let help = "How long policies take to answer";
        let evaluation = self.evaluation.clone();
        registry.register("evaluation_seconds", help, evaluation);
        let help = "How long SMTP sessions last";
        let session = self.session_seconds.clone();
        registry.register("session_seconds", help, session);
        let help = "Connections to partners, and servers or whole routes that were skipped";
        registry.register("outbound_connections", help, self.outbound.clone());
        let help = "SMTP sessions that there may be at a time";
        registry.register("sessions_limit", help, self.sessions_limit.clone());
        let help = "Instances of policies now";
        registry.register("sandbox_instances", help, self.instances.clone());
        let help = "Instances of policies that there may be at a time";
        let limit = self.instances_limit.clone();
        registry.register("sandbox_instances_limit", help, limit);
        let help = "Conversations with mail servers now";
        let open = self.conversations_open.clone();
        registry.register("frontend_conversations_open", help, open);
        let help = "Conversations with mail servers that there may be at a time";
        let limit = self.conversations_limit.clone();
        registry.register("frontend_conversations_limit", help, limit);
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
        let failing = self.policy_failing.each.clone();
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
        let help =
            "End of the validity of certificates in use and of trusted roots, as a Unix time";
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
    pub fn register_number(&mut self, name: &str, help: &str, number: impl Metric) {
        let registry = self.registry.sub_registry_with_prefix(PREFIX);
        registry.register(name, help, number);
    }

    /// The tenant, if all are told apart.
    fn shown<'a>(&'a self, tenant: &'a Arc<str>) -> &'a Arc<str> {
        match self.series {
            TenantSeries::All => tenant,
            TenantSeries::Failing | TenantSeries::None => &self.nobody,
        }
    }

    /// The tenant, if those are told with which something is wrong.
    fn shown_failing<'a>(&'a self, tenant: &'a Arc<str>) -> &'a Arc<str> {
        match self.series {
            TenantSeries::All | TenantSeries::Failing => tenant,
            TenantSeries::None => &self.nobody,
        }
    }

    /// A policy has answered, or failed to.
    pub fn evaluated(&self, took: Duration) {
        self.evaluation.observe(took.as_secs_f64());
    }

    /// A server of a partner was connected, or was skipped, or a whole route was.
    pub fn outbound(&self, tenant: Option<&Arc<str>>, outcome: &'static str) {
        let tenant = self.shown(tenant.unwrap_or(&self.nobody)).clone();
        self.outbound
            .get_or_create(&Outbound { tenant, outcome })
            .inc();
    }

    /// How many conversations with mail servers there may be at a time.
    pub fn conversations_limit(&self, limit: usize) {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.conversations_limit.set(limit);
    }

    /// A conversation with a mail server begins; it ends when what this gives is dropped.
    pub fn conversation(&self) -> OpenConversation {
        self.conversations_open.inc();
        OpenConversation(self.conversations_open.clone())
    }

    /// Takes over how things are, for whoever asks next.
    pub fn set(&self, now: &Now) {
        self.ready.set(i64::from(now.is_ready));
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.tenants.set(number(now.tenants));
        self.sessions_limit.set(number(now.sessions_limit));
        self.instances.set(number(now.instances));
        self.instances_limit.set(number(now.instances_limit));
        match now.policy_expires {
            Some(expires) => drop(self.policy_expires.get_or_create(&[]).set(expires)),
            None => self.policy_expires.clear(),
        }
        self.process.look();
    }

    /// A recipient was decided on.
    pub fn decided(&self, tenant: &Arc<str>, verdict: &Verdict) {
        let tenant = self.shown(tenant);
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
            tenant: self.shown_failing(tenant).clone(),
            failure,
        };
        self.policy_failures.get_or_create(&failure).inc();
    }

    /// A policy fails again and again, or does so no longer.
    pub fn policy_failing(&self, tenant: &Arc<str>, failing: bool) {
        self.policy_failing.set(self.series, tenant, failing);
    }

    /// A policy file was taken, or not.
    pub fn policy_updated(&self, tenant: &Arc<str>, taken: bool) {
        self.policy_stale.set(self.series, tenant, !taken);
        let update = PolicyUpdate {
            tenant: match taken {
                true => self.shown(tenant).clone(),
                false => self.shown_failing(tenant).clone(),
            },
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
        let registry = self.registry.sub_registry_with_prefix(PREFIX);
        let help = "Whether the fleet's store can be reached";
        registry.register("fleet_connected", help, connected);
        let help = "When the fleet's store was heard of last, as a Unix time";
        let name = "fleet_last_contact_timestamp_seconds";
        registry.register(name, help, last_contact);
        let help = "The revision of the fleet's store up to which all has been looked at";
        registry.register("fleet_revision", help, revision);
        let help = "Tenants of the fleet that have not what they should";
        registry.register("fleet_exceptions", help, exceptions);
        let help = "Decisions that could not be sent to the fleet's subject";
        registry.register("decisions_unsent", help, unsent);
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
        for outcome in OUTBOUND {
            self.outbound.remove(&Outbound {
                tenant: tenant.clone(),
                outcome,
            });
        }
        for outcome in ["loaded", "rejected"] {
            self.policy_updates.remove(&PolicyUpdate {
                tenant: tenant.clone(),
                outcome,
            });
        }
        self.policy_failing.forget(&tenant);
        self.policy_stale.forget(&tenant);
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
        OpenSession {
            open: self.sessions_open.clone(),
            seconds: self.session_seconds.clone(),
            begun: Instant::now(),
        }
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
pub struct OpenSession {
    open: Gauge,
    seconds: Histogram,
    begun: Instant,
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.open.dec();
        self.seconds.observe(self.begun.elapsed().as_secs_f64());
    }
}

/// A conversation that is counted as open.
pub struct OpenConversation(Gauge);

impl Drop for OpenConversation {
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
