//! Alerts and dashboard: promtool agrees with them, and a real Prometheus that reads a running daemon answers what they
//! ask for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::fleet::Fleet;
use portcullis_tests::metrics::{self, METRICS};
use portcullis_tests::office::rules;
use portcullis_tests::prometheus::{Prometheus, promtool};
use portcullis_tests::{Client, Config, Listener, Pki, TestBed};
use serde_json::Value;

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(monitoring().join(name)).expect("a file")
}

fn dashboard() -> Value {
    serde_json::from_str(&read("portcullis.json")).expect("JSON")
}

/// The panels that show something.
fn panels(dashboard: &Value) -> Vec<Value> {
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    panels.filter(|it| it["type"] != "row").cloned().collect()
}

/// What the dashboard asks for, as Grafana would send it.
fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    let targets = panels
        .iter()
        .flat_map(|it| it["targets"].as_array().expect("targets"));
    let expressions = targets.map(|it| it["expr"].as_str().expect("an expression"));
    let filled = expressions.map(|it| {
        let it = it.replace("$__rate_interval", "1m");
        it.replace("$job", "portcullis").replace("$instance", ".+")
    });
    filled.collect()
}

/// The names of our numbers in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let words = text.split(|it| !is_part(it));
    let ours = words.filter(|it| it.starts_with("portcullis_") || it.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// What has not happened here has no numbers: nothing was in audit mode, no policy failed, no partner was written to.
const HAS_NOT_HAPPENED: [&str; 4] = [
    "portcullis_audit_findings_total",
    "portcullis_audit_connections_total",
    "portcullis_policy_failures_total",
    "portcullis_outbound_connections_total",
];

/// A host of a fleet with everything that has numbers.
fn host(fleet: &Fleet, pki: &Pki) -> TestBed {
    let config: Config = fleet.config("h1", METRICS);
    let config = config
        .listener(Listener::maildir().starttls())
        .certificate(pki)
        .with("[[frontend]]\naddress = \"127.0.0.1:0\"");
    TestBed::start(config)
}

#[test]
fn alerts_do_what_their_tests_say() {
    let told = promtool(&["check", "rules", "alerts.yml"], &monitoring());
    assert!(told.contains("rules found"), "{told}");
    promtool(&["test", "rules", "alerts_test.yml"], &monitoring());
    // Each is tested to fire, and is explained.
    let alerts = read("alerts.yml");
    let all = alerts
        .lines()
        .filter_map(|it| it.trim().strip_prefix("- alert: "));
    let manual = include_str!("../../../docs/monitoring.md");
    for alert in all {
        assert!(
            manual.contains(&format!("`{alert}`")),
            "docs/monitoring.md has no {alert}"
        );
    }
}

#[test]
fn the_dashboard_is_that_of_its_script_and_complete() {
    let made = Command::new("python3")
        .arg(monitoring().join("dashboard.py"))
        .output();
    let made = made.expect("Python runs");
    assert!(made.status.success(), "{made:?}");
    assert_eq!(
        String::from_utf8_lossy(&made.stdout),
        read("portcullis.json")
    );
    let dashboard = dashboard();
    assert_eq!(dashboard["editable"], false);
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a title");
        assert!(
            panel["description"]
                .as_str()
                .is_some_and(|it| it.ends_with('.')),
            "{title}"
        );
        assert!(
            panel["fieldConfig"]["defaults"]["unit"].is_string(),
            "{title}"
        );
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            for variable in ["job=~\"$job\"", "instance=~\"$instance\""] {
                assert!(expression.contains(variable), "{title}: {expression}");
            }
            assert!(!expression.contains("rate(") || expression.contains("$__rate_interval"));
        }
    }
    // Prometheus' own parser reads each.
    let rules = queries().into_iter().enumerate().map(|(number, query)| {
        format!(
            "  - {{record: \"r:{number}\", expr: {}}}\n",
            Value::from(query)
        )
    });
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!(
        "groups:\n- name: dashboard\n  rules:\n{}",
        rules.collect::<String>()
    );
    std::fs::write(folder.path().join("rules.yml"), text).expect("a file");
    promtool(&["check", "rules", "rules.yml"], folder.path());
}

#[test]
fn a_real_prometheus_answers_what_alerts_and_dashboard_ask_for() {
    let pki = Pki::new();
    let fleet = Fleet::new();
    fleet.sign("contoso", &rules("one.test"), &["--expires", "30d"]);
    fleet.run(&["put", "contoso.json"]);
    let host = host(&fleet, &pki);
    fleet.run(&["wait", "--hosts", "1"]);
    let prometheus = Prometheus::start(&metrics::address(&host), &monitoring().join("alerts.yml"));
    prometheus.wait_for("portcullis_ready == 1");
    let address = host.address();
    let mail = || {
        assert_eq!(
            Client::recipient(address, "a@one.test", "bob@contoso.com"),
            550
        );
        let mut client = host.client();
        client.expect("MAIL FROM:<a@example.org>", 250);
        client.expect("RCPT TO:<bob@contoso.com>", 250);
        assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    };
    mail();
    prometheus.wait_for("portcullis_messages_total{outcome=\"accepted\"} == 1");
    mail();
    prometheus.wait_for("portcullis_messages_total{outcome=\"accepted\"} == 2");
    let text = metrics::read(&host);
    // Each name is one that the daemon has.
    let described = text.lines().filter_map(|it| it.strip_prefix("# TYPE "));
    let described: BTreeSet<&str> = described.filter_map(|it| it.split(' ').next()).collect();
    let asked = queries().join("\n");
    let names = &names(&asked) | &names(&read("alerts.yml"));
    assert!(names.len() > 20, "{names:?}");
    for name in &names {
        let family = name.strip_suffix("_bucket").unwrap_or(name);
        let is_there = described.contains(family) || HAS_NOT_HAPPENED.contains(&family);
        assert!(is_there, "the daemon has no {name}");
    }
    for query in queries() {
        match HAS_NOT_HAPPENED.iter().any(|it| query.contains(it)) {
            true => drop(prometheus.query(&query)),
            false => drop(prometheus.wait_for(&query)),
        }
    }
    // Nothing is wrong, but for a certificate of the tests that ends soon.
    let alerts = prometheus.query("ALERTS{severity=\"page\"}");
    assert!(alerts.is_empty(), "{alerts:?}");
}
