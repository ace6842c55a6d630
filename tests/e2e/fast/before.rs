//! `[policy] before`: the operator's policy is asked about the mail of all tenants, and can only refuse.

use portcullis_tests::admin::{ADMIN, Api, token};
use portcullis_tests::modules::Module;
use portcullis_tests::{Client, Config, Listener, NO_RULES, TestBed, front_door, run};
use serde_json::{Value, json};

use crate::front_doors::http::curl;

const OPERATOR: &str = r#"{"connectors": [
    {"name": "Known relays", "direction": "inbound", "from": {"sender-domains": ["evil.test"]},
     "require": {"source-ips": ["192.0.2.0/24"]}},
    {"name": "Trial", "direction": "inbound", "mode": "audit", "from": {"sender-domains": ["*"]},
     "require": {"tls": true}},
    {"name": "Route", "direction": "outbound", "to": {"recipient-domains": ["evil.test"]},
     "route": {"smart-hosts": ["relay.test"]}}
]}"#;

const TENANT: &str = r#"{"connectors": [
    {"name": "Bank", "direction": "inbound", "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}}
]}"#;

/// By the From header.
const HEADER: &str = r#"{"connectors": [
    {"name": "Header", "direction": "inbound", "from": {"sender-domains": ["evil.test"]}, "match-header-from": true,
     "require": {"source-ips": ["192.0.2.0/24"]}}
]}"#;

/// Two tenants without the operator's policy.
fn alone() -> Config {
    Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", TENANT)
        .tenant("fabrikam.com", NO_RULES)
}

/// The same with this policy in front of theirs.
fn with_operator(rules: &str) -> Config {
    alone()
        .file("operator.json", rules)
        .with("[policy]\nbefore = \"operator.json\"")
}

fn rcpt(bed: &TestBed, from: &str, to: &str) -> u16 {
    Client::recipient(bed.address(), from, to)
}

#[test]
fn it_refuses_for_all_and_leaves_the_rest_to_each() {
    let bed = TestBed::start(with_operator(OPERATOR));
    bed.wait_for_log("policy loaded tenant=operator");
    for to in ["a@contoso.com", "a@fabrikam.com"] {
        assert_eq!(rcpt(&bed, "eve@evil.test", to), 550);
    }
    bed.wait_for_log(
        "verdict=\"reject\" tenant=fabrikam connector=\"operator: Known relays\" failed=\"source-ip\"",
    );
    // The tenant's own policy decides what the operator's does not, with what that one found in audit mode.
    assert_eq!(rcpt(&bed, "a@bank.test", "a@contoso.com"), 550);
    bed.wait_for_log(
        "tenant=contoso connector=\"Bank\" failed=\"tls\" audit=\"operator: Trial (tls)\"",
    );
    assert_eq!(rcpt(&bed, "a@bank.test", "a@fabrikam.com"), 250);
    bed.wait_for_log("verdict=\"accept\" tenant=fabrikam connector=\"\" failed=\"\" audit=\"operator: Trial (tls)\"");
}

#[test]
fn it_is_replaced_while_mail_flows_and_by_good_ones_only() {
    let mut bed = TestBed::start(with_operator(OPERATOR));
    let evil = |bed: &TestBed| rcpt(bed, "eve@evil.test", "a@contoso.com");
    bed.wait_for_log("policy loaded tenant=operator");
    assert_eq!(evil(&bed), 550);
    bed.replace("operator.json", b"{");
    bed.wait_for_log("new policy rejected; previous version remains active");
    assert_eq!(evil(&bed), 550);
    bed.replace("operator.json", NO_RULES.as_bytes());
    bed.wait_for_log_times("policy loaded tenant=operator", 2);
    assert_eq!(evil(&bed), 250);
    bed.replace("operator.json", OPERATOR.as_bytes());
    bed.wait_for_log_times("policy loaded tenant=operator", 3);
    assert_eq!(evil(&bed), 550);
    // It goes, and comes back.
    bed.reconfigure(alone());
    bed.wait_for_log("[policy] before is no longer asked");
    assert_eq!(evil(&bed), 250);
    bed.reconfigure(with_operator(OPERATOR));
    bed.wait_for_log_times("policy loaded tenant=operator", 4);
    assert_eq!(evil(&bed), 550);
}

#[test]
fn a_session_that_is_open_hears_of_another_one() {
    let bed = TestBed::start(with_operator(OPERATOR));
    bed.wait_for_log("policy loaded tenant=operator");
    let mut client = Client::greeted(bed.address());
    client.expect("EHLO client.example", 250);
    assert_eq!(client.envelope("eve@evil.test", "a@contoso.com").code, 550);
    bed.replace("operator.json", NO_RULES.as_bytes());
    bed.wait_for_log_times("policy loaded tenant=operator", 2);
    client.expect("RSET", 250);
    assert_eq!(client.envelope("eve@evil.test", "a@contoso.com").code, 250);
}

#[test]
fn without_an_answer_of_it_all_mail_is_deferred() {
    let bed = TestBed::start(with_operator("{"));
    bed.wait_for_log("there is no previous version, so all mail is deferred");
    assert_eq!(rcpt(&bed, "a@b.test", "a@fabrikam.com"), 451);
    bed.wait_for_log(
        "verdict=\"defer\" tenant=fabrikam connector=\"operator\" failed=\"policy-unavailable\"",
    );
    bed.replace("operator.json", NO_RULES.as_bytes());
    bed.wait_for_log("policy loaded tenant=operator");
    assert_eq!(rcpt(&bed, "a@b.test", "a@fabrikam.com"), 250);

    let trapping = alone()
        .file("operator.wasm", Module::new("unreachable").component())
        .with("[policy]\nbefore = \"operator.wasm\"");
    let bed = TestBed::start(trapping);
    bed.wait_for_log("policy loaded tenant=operator");
    assert_eq!(rcpt(&bed, "a@b.test", "a@fabrikam.com"), 451);
    bed.wait_for_log("ERROR policy failed tenant=fabrikam");
}

#[test]
fn it_may_read_the_header_that_the_tenant_does_not() {
    let bed = TestBed::start(with_operator(HEADER));
    bed.wait_for_log("policy loaded tenant=operator");
    let mut client = Client::greeted(bed.address());
    client.expect("EHLO client.example", 250);
    assert_eq!(client.envelope("a@b.test", "a@fabrikam.com").code, 250);
    let refused = client.data("From: eve@evil.test\r\n\r\nHello.");
    assert_eq!(refused.code, 550, "{refused:?}");
    assert_eq!(client.envelope("a@b.test", "a@fabrikam.com").code, 250);
    assert_eq!(client.data("From: a@b.test\r\n\r\nHello.").code, 250);
}

#[test]
fn its_routes_are_not_used_and_reasons_have_its_name() {
    let bed =
        TestBed::start(with_operator(OPERATOR).with(&front_door::table("protocols = [\"http\"]")));
    bed.wait_for_log("listening for mail servers");
    bed.wait_for_log("policy loaded tenant=operator");
    let ask = |path: &str, direction: &str, from: &str, to: &str| -> Value {
        let context = json!({"direction": direction, "client-ip": "203.0.113.7", "mail-from": from, "rcpt-to": to});
        let (status, body) = curl(&bed, path, &["--data", &context.to_string()]);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    };
    let routed = ask("/v1/evaluate", "outbound", "a@contoso.com", "eve@evil.test");
    assert_eq!(
        (&routed["verdict"], &routed["route"]),
        (&json!("deliver"), &json!("mx"))
    );
    let explained = ask("/v1/explain", "inbound", "eve@evil.test", "a@contoso.com");
    assert_eq!(explained["verdict"]["connector"], "operator: Known relays");
    assert_eq!(
        explained["considered"][0]["connector"],
        "operator: Known relays"
    );
    let explained = ask("/v1/explain", "inbound", "a@bank.test", "a@contoso.com");
    assert_eq!(explained["verdict"]["connector"], "Bank");
    let considered = explained["considered"].as_array().expect("a list");
    let names: Vec<&Value> = considered.iter().map(|it| &it["connector"]).collect();
    assert_eq!(names, ["operator: Trial", "operator: Known relays", "Bank"]);
}

/// Its name is no tenant's: it is asked before a tenant's policy, and never instead.
#[test]
fn nobody_can_ask_it_alone() {
    let bed =
        TestBed::start(with_operator(OPERATOR).with(&front_door::table("protocols = [\"http\"]")));
    bed.wait_for_log("listening for mail servers");
    bed.wait_for_log("policy loaded tenant=operator");
    let context =
        json!({"direction": "outbound", "mail-from": "a@contoso.com", "rcpt-to": "eve@evil.test"});
    let options = ["--data", &context.to_string()];
    let (status, told) = curl(&bed, "/v1/evaluate?tenant=operator", &options);
    assert_eq!(status, 404, "{told}");

    let bed = TestBed::start(with_operator(NO_RULES).with(&front_door::table("")));
    bed.wait_for_log("listening for mail servers");
    bed.wait_for_log("policy loaded tenant=operator");
    let mut asking = front_door::Asking::connect(bed.folder());
    let mut ask = |context: &str, to: &str| {
        asking.policy(&[
            ("protocol_state", "RCPT"),
            ("client_address", "203.0.113.7"),
            ("sender", "a@b.test"),
            ("recipient", to),
            ("policy_context", context),
        ])
    };
    let nobodys = ask("", "x@nobody.test");
    assert_eq!(ask("operator", "x@nobody.test"), nobodys);
    assert!(ask("", "x@contoso.com").starts_with("DUNNO"));
}

/// By each protocol of other servers.
#[test]
fn other_servers_hear_of_it() {
    let bed =
        TestBed::start(with_operator(HEADER).with(&front_door::table("protocols = [\"milter\"]")));
    bed.wait_for_log("listening for mail servers");
    bed.wait_for_log("policy loaded tenant=operator");
    let mut asking = front_door::Asking::connect(bed.folder());
    asking.negotiate();
    asking.client("203.0.113.7", 40000, &[]);
    asking.mail("a@b.test");
    assert_eq!(asking.rcpt("x@fabrikam.com"), None);
    let refused = asking.header(&[("From", "eve@evil.test")]);
    assert!(refused.is_some_and(|reply| reply.starts_with("550 5.7.1 ")));

    let bed = TestBed::start(with_operator(OPERATOR).with(&front_door::table("")));
    bed.wait_for_log("listening for mail servers");
    bed.wait_for_log("policy loaded tenant=operator");
    let mut asking = front_door::Asking::connect(bed.folder());
    let refused = asking.policy(&[
        ("protocol_state", "RCPT"),
        ("client_address", "203.0.113.7"),
        ("sender", "eve@evil.test"),
        ("recipient", "x@fabrikam.com"),
    ]);
    assert!(refused.starts_with("550 5.7.1 "), "{refused}");
}

/// What it does beside refusing is nobody's business: a verdict of the other direction passes the mail.
#[test]
fn whatever_it_accepts_passes() {
    let config = alone()
        .file("operator.wasm", Module::new("(i32.const 0)").component())
        .with("[policy]\nbefore = \"operator.wasm\"")
        .with(&front_door::table("protocols = [\"http\"]"));
    let bed = TestBed::start(config);
    bed.wait_for_log("listening for mail servers");
    bed.wait_for_log("policy loaded tenant=operator");
    let context =
        json!({"direction": "outbound", "mail-from": "a@contoso.com", "rcpt-to": "x@y.test"});
    let options = ["--data", &context.to_string()];
    let (_, told) = curl(&bed, "/v1/evaluate", &options);
    assert!(told.contains("\"deliver\""), "{told}");
}

/// A policy does not pass from one to a tenant that gets its name, nor back.
#[test]
fn a_tenant_of_its_name_is_another_one() {
    let mut bed = TestBed::start(with_operator(NO_RULES));
    bed.wait_for_log("policy loaded tenant=operator");
    let named = alone()
        .tenant_with("operator", &["named.test"], "broken.json")
        .file("broken.json", "{");
    bed.reconfigure(named);
    bed.wait_for_log("there is no previous version, so its mail is deferred");
    assert_eq!(rcpt(&bed, "a@b.test", "x@named.test"), 451);
    assert_eq!(rcpt(&bed, "a@b.test", "x@fabrikam.com"), 250);
}

/// Operators see what is in force, and why a new file is not; tenants do not.
#[test]
fn the_api_tells_operators_of_it() {
    let bed = TestBed::start(with_operator(OPERATOR).with(ADMIN));
    bed.wait_for_log("policy loaded tenant=operator");
    let operator = Api::operator(&bed);
    let state = operator.get("/api/state").json();
    assert!(state["before"]["in-force"]["digest"].is_string(), "{state}");
    assert_eq!(state["tenants"].as_array().map(Vec::len), Some(2));
    bed.replace("operator.json", b"{");
    bed.wait_for_log("new policy rejected; previous version remains active");
    let state = operator.get("/api/state").json();
    assert!(state["before"]["rejected"].is_string(), "{state}");
    let options = ["--name", "c", "--scope", "tenant", "--tenant", "contoso"];
    let tenant = Api::new(&bed, &token(&bed, &options));
    let state = tenant.get("/api/state").json();
    assert!(
        state["before"].is_null() && state["tenants"][0]["name"] == "contoso",
        "{state}"
    );
    assert_eq!(operator.get("/api/tenants/operator/policy").status, 404);
}

/// A tenant cannot speak in its name.
#[test]
fn a_connector_of_its_name_is_the_tenants() {
    let rules = TENANT.replace("\"Bank\"", "\"operator: Known relays\"");
    let bed = TestBed::start(
        Config::new()
            .listener(Listener::maildir())
            .tenant("contoso.com", &rules)
            .file("operator.json", NO_RULES)
            .with("[policy]\nbefore = \"operator.json\""),
    );
    bed.wait_for_log("policy loaded tenant=operator");
    assert_eq!(rcpt(&bed, "a@bank.test", "a@contoso.com"), 550);
    bed.wait_for_log("connector=\"contoso: operator: Known relays\"");
}

#[test]
fn a_configuration_with_it_is_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = with_operator("{");
    config.write_files(folder.path());
    let path = folder.path().join("portcullis.toml");
    std::fs::write(&path, config.to_string()).expect("a file");
    let output = run(
        &["run", "--check-config", "--config", &path.to_string_lossy()],
        b"",
    );
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("operator.json"), "{told}");
}
