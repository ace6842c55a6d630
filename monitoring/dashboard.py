#!/usr/bin/env python3
"""Writes portcullis.json, the dashboard for Grafana: dashboard.py > portcullis.json

Panels are listed here, by rows; what all of them have in common is said once.
"""

import json

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
ALL = 'job=~"$job", instance=~"$instance"'


def target(expression: str, legend: str) -> dict:
    return {
        "datasource": DATASOURCE,
        "expr": expression.replace("ALL", ALL),
        "legendFormat": legend,
        "refId": "",
    }


def panel(title: str, description: str, unit: str, *targets: tuple[str, str], kind: str = "timeseries") -> dict:
    made = [target(*it) for it in targets]
    for number, it in enumerate(made):
        it["refId"] = chr(ord("A") + number)
        if kind != "timeseries":
            it["instant"] = True
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": made,
    }


def rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{ALL{more}}}[$__rate_interval]))"


def quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{ALL}}[$__rate_interval])))"


ROWS = {
    "Mail": [
        panel("Ready", "Whether mail may come: 1, or 0. See the alert PortcullisNotReady.", "bool_yes_no",
              ("portcullis_ready{ALL}", "{{instance}}"), kind="stat"),
        panel("Version", "Version of the program and digest of the evaluator.", "short",
              ("count by (version, evaluator) (portcullis_build_info{ALL})", "{{version}} {{evaluator}}"), kind="stat"),
        panel("Decisions", "What policies say of recipients, a second.", "reqps",
              (rate("portcullis_decisions_total", "verdict"), "{{verdict}}")),
        panel("Messages", "Replies to messages, a second.", "reqps",
              (rate("portcullis_messages_total", "outcome"), "{{outcome}}")),
        panel("Refusals by requirement", "What refused mail did not satisfy, a second.", "reqps",
              (rate("portcullis_decisions_total", "failed", ', verdict=~"reject|defer"'), "{{failed}}")),
        panel("Refused before a policy was asked", "Senders and recipients that were not taken, a second.", "reqps",
              (rate("portcullis_recipients_refused_total", "reason"), "{{reason}}")),
        panel("Held back by audit mode", "What connectors in audit mode would have refused, a second.", "reqps",
              (rate("portcullis_audit_findings_total", "failed"), "{{failed}}")),
        panel("Tenants with most refusals", "Refused recipients a second, of the ten tenants with most.", "reqps",
              ("topk(10, " + rate("portcullis_decisions_total", "tenant", ', verdict="reject"') + ")", "{{tenant}}")),
    ],
    "Policies": [
        panel("Tenants", "Tenants, those whose policy fails, and those whose newest policy was rejected.", "short",
              ("sum(portcullis_tenants{ALL})", "all"),
              ("sum(portcullis_tenants_failing{ALL})", "failing"),
              ("sum(portcullis_tenants_stale{ALL})", "newest rejected")),
        panel("Time of an answer", "How long policies take to answer.", "s",
              (quantile(0.5, "portcullis_evaluation_seconds"), "median"),
              (quantile(0.99, "portcullis_evaluation_seconds"), "99 %")),
        panel("Policies without an answer", "Evaluations that failed, which defers mail, a second.", "reqps",
              (rate("portcullis_policy_failures_total", "tenant, failure"), "{{tenant}} {{failure}}")),
        panel("Policies loaded and rejected", "Files that were taken, or were not, a second.", "reqps",
              (rate("portcullis_policy_updates_total", "outcome"), "{{outcome}}")),
        panel("Signed policies end", "When the first signed policy in force ends.", "dateTimeFromNow",
              ("min(portcullis_policy_expires_timestamp_seconds{ALL}) * 1000", "first"), kind="stat"),
    ],
    "Connections": [
        panel("Sessions", "SMTP sessions, and how many there may be.", "short",
              ("sum by (instance) (portcullis_sessions_open{ALL})", "{{instance}}"),
              ("sum by (instance) (portcullis_sessions_limit{ALL})", "{{instance}}, limit")),
        panel("Length of sessions", "How long SMTP sessions last.", "s",
              (quantile(0.5, "portcullis_session_seconds"), "median"),
              (quantile(0.99, "portcullis_session_seconds"), "99 %")),
        panel("Rejected connections", "Connections over a limit, a second.", "reqps",
              (rate("portcullis_connections_rejected_total", "outcome"), "{{outcome}}")),
        panel("Next hops", "Connections to next hops, a second.", "reqps",
              (rate("portcullis_next_hop_connections_total", "outcome"), "{{outcome}}")),
        panel("Partners", "Connections to partners' servers, and those that were skipped, a second.", "reqps",
              (rate("portcullis_outbound_connections_total", "outcome"), "{{outcome}}")),
        panel("Partners in audit mode", "What connectors in audit mode would say to partners' servers, a second.", "reqps",
              (rate("portcullis_audit_connections_total", "result"), "{{result}}")),
        panel("Instances of policies", "Instances of policies, and how many there may be.", "short",
              ("sum by (instance) (portcullis_sandbox_instances{ALL})", "{{instance}}"),
              ("sum by (instance) (portcullis_sandbox_instances_limit{ALL})", "{{instance}}, limit")),
        panel("Mail servers that ask", "Conversations with mail servers, and how many there may be.", "short",
              ("sum by (instance) (portcullis_frontend_conversations_open{ALL})", "{{instance}}"),
              ("sum by (instance) (portcullis_frontend_conversations_limit{ALL})", "{{instance}}, limit")),
        panel("Attempts to log in", "Attempts of clients to log in, a second.", "reqps",
              (rate("portcullis_logins_total", "outcome"), "{{outcome}}")),
        panel("Certificates end", "When certificates in use end.", "dateTimeFromNow",
              ("sort(min by (file) (portcullis_certificate_expires_timestamp_seconds{ALL}) * 1000)", "{{file}}"), kind="stat"),
    ],
    "Machine": [
        panel("Memory", "Resident memory.", "bytes",
              ("process_resident_memory_bytes{ALL}", "{{instance}}")),
        panel("File descriptors", "Open file descriptors, and how many there may be.", "short",
              ("process_open_fds{ALL}", "{{instance}}"),
              ("process_max_fds{ALL}", "{{instance}}, limit")),
        panel("Lost records", "Log lines and decisions that could not be written, a second.", "reqps",
              (rate("portcullis_log_lines_lost_total", "instance"), "{{instance}} log"),
              (rate("portcullis_decisions_lost_total", "instance"), "{{instance}} decisions")),
    ],
    "Fleet": [
        panel("Revision", "Up to which revision of the fleet's store each host has looked.", "short",
              ("portcullis_fleet_revision{ALL}", "{{instance}}")),
        panel("Silence", "How long hosts have not heard of the fleet's store.", "s",
              ("time() - portcullis_fleet_last_contact_timestamp_seconds{ALL}", "{{instance}}")),
        panel("Exceptions", "Tenants that have not what they should.", "short",
              ("portcullis_fleet_exceptions{ALL}", "{{instance}}")),
        panel("Hosts in contact", "Hosts that can reach the fleet's store.", "short",
              ("sum(portcullis_fleet_connected{ALL})", "hosts"), kind="stat"),
    ],
}


def variable(name: str, label: str) -> dict:
    query = f"label_values(portcullis_build_info, {name})" if name == "job" else \
        f'label_values(portcullis_build_info{{job=~"$job"}}, {name})'
    return {
        "type": "query", "name": name, "label": label, "datasource": DATASOURCE, "definition": query,
        "query": {"query": query, "refId": "A"}, "includeAll": True, "multi": True, "allValue": ".+",
        "current": {"text": "All", "value": "$__all"}, "refresh": 2, "sort": 1,
    }


def main() -> None:
    panels, number, y = [], 0, 0
    for row, content in ROWS.items():
        number += 1
        panels.append({"type": "row", "title": row, "id": number, "collapsed": False, "panels": [],
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}})
        y += 1
        for place, it in enumerate(content):
            number += 1
            it["id"] = number
            it["gridPos"] = {"h": 8, "w": 8, "x": place % 3 * 8, "y": y + place // 3 * 8}
            panels.append(it)
        y += (len(content) + 2) // 3 * 8
    dashboard = {
        "title": "Portcullis", "uid": "portcullis", "tags": ["mail"], "schemaVersion": 39, "version": 1,
        "editable": False, "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [
            {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus",
             "current": {}, "refresh": 1},
            variable("job", "Job"), variable("instance", "Instance"),
        ]},
        "annotations": {"list": []}, "panels": panels,
    }
    print(json.dumps(dashboard, indent=2))


main()
