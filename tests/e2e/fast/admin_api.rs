//! The API of `[admin]`: who is let in, and what a change does.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::Command;
use std::thread;

use portcullis_tests::admin::{ADMIN, Api, token, url};
use portcullis_tests::outbound::{LEVEL_RECORDS, LEVELS, Setting};
use portcullis_tests::{Behaviour, Client, Config, Listener, MockServer, Pki, TestBed, programs};
use serde_json::{Value, json};

const RULES: &str = r#"{
  "accepted-domains": ["contoso.com"],
  "connectors": [
    {
      "name": "Bank",
      "direction": "inbound",
      "from": { "sender-domains": ["bank.test"] },
      "require": { "tls": true }
    }
  ]
}
"#;
const POLICY: &str = "/api/tenants/contoso/policy";
const CONNECTORS: &str = "/api/tenants/contoso/connectors";

fn tenants() -> Config {
    Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", RULES)
        .tenant("fabrikam.com", RULES)
}

fn config() -> Config {
    tenants().with(ADMIN)
}

fn if_match(api: &Api) -> String {
    let answer = api.get(POLICY);
    assert_eq!(answer.status, 200, "{answer:?}");
    format!("If-Match: {}", answer.header("ETag").expect("an ETag"))
}

/// The code of the reply to a recipient.
fn rcpt(bed: &TestBed, from: &str) -> u16 {
    Client::recipient(bed.address(), from, "bob@contoso.com")
}

#[test]
fn nobody_is_let_in_without_a_token_that_holds() {
    let bed = TestBed::start(config());
    let api = Api::nobody(&bed);
    let answer = api.get("/api/state");
    assert_eq!(
        (answer.status, answer.header("WWW-Authenticate")),
        (401, Some("Bearer"))
    );
    assert!(answer.error().contains("portcullis admin token"));
    assert_eq!(Api::new(&bed, "portcullis_0").get("/api/state").status, 401);
    let expired = token(&bed, &["--name", "old", "--expires", "1ms"]);
    let answer = Api::new(&bed, &expired).get("/api/state");
    assert_eq!(answer.status, 401);
    assert!(answer.error().contains("has expired"));
    let held = token(&bed, &["--name", "alice"]);
    let api = Api::new(&bed, &held);
    let state = api.get("/api/state");
    assert_eq!(
        (state.status, &state.json()["user"]),
        (200, &json!("alice"))
    );
    // What is kept lets nobody in.
    let kept = fs::read_to_string(bed.folder().join("state/portcullis/admin-tokens.json"))
        .expect("tokens");
    assert!(!kept.contains(&held));
    let digest = serde_json::from_str::<Value>(&kept).expect("JSON")["tokens"][0]["sha256"].clone();
    assert_eq!(
        Api::new(&bed, digest.as_str().expect("a digest"))
            .get("/api/state")
            .status,
        401
    );
}

#[test]
fn a_revoked_token_lets_nobody_in() {
    let bed = TestBed::start(config());
    let api = Api::operator(&bed);
    assert_eq!(api.get("/api/state").status, 200);
    let list = portcullis_tests::admin::remembered(&bed, &["admin", "list", "--format", "json"]);
    let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    let id = list[0]["id"].as_str().expect("an id");
    let revoked = portcullis_tests::admin::remembered(&bed, &["admin", "revoke", id]);
    assert!(revoked.status.success());
    assert_eq!(api.get("/api/state").status, 401);
}

#[test]
fn whoever_guesses_is_held_up() {
    let bed = TestBed::start(config());
    let guessed = Api::new(&bed, "portcullis_00");
    let statuses: Vec<u16> = (0..11).map(|_| guessed.get("/api/state").status).collect();
    assert_eq!(statuses, [&[401; 10][..], &[429]].concat());
}

#[test]
fn what_browsers_are_made_to_send_is_refused() {
    let bed = TestBed::start(config());
    let api = Api::operator(&bed);
    for (headers, status) in [
        (&["Host: evil.test"][..], 421),
        (&["Host: localhost", "Origin: http://evil.test"], 403),
        (&["Origin: null"], 403),
        (&["Sec-Fetch-Site: cross-site"], 403),
        (&["X-Forwarded-For: 127.0.0.1"], 403),
        (&["Remote-User: admin"], 403),
        (&["Upgrade: websocket", "Connection: upgrade"], 400),
        (&["Sec-Fetch-Site: same-origin"], 200),
        (&["Origin: http://localhost"], 200),
    ] {
        let answer = api.send("POST", "/api/tenants/contoso/check", headers, RULES);
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.head);
        assert_eq!(answer.header("Access-Control-Allow-Origin"), None);
    }
    let preflight = api.ask(
        "OPTIONS",
        POLICY,
        &[
            "--header",
            "Access-Control-Request-Method: PUT",
            "--header",
            "Origin: http://evil.test",
        ],
        None,
    );
    assert_eq!(preflight.status, 403);
    let answer = api.get("/api/state");
    for (name, value) in [
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    assert_eq!(answer.header("Set-Cookie"), None);
    assert!(
        answer
            .header("Content-Security-Policy")
            .is_some_and(|it| it.contains("default-src 'none'"))
    );
}

#[test]
fn only_what_it_should_be_is_read() {
    let bed = TestBed::start(config());
    let api = Api::operator(&bed);
    let plain = ["--header", "Content-Type: text/plain"];
    let answer = api.ask("POST", "/api/tenants/contoso/check", &plain, Some(b"{}"));
    assert_eq!(answer.status, 415);
    let large = format!("{{\"x\": \"{}\"}}", "x".repeat(2 << 20));
    assert_eq!(
        api.send("POST", "/api/tenants/contoso/explain", &[], &large)
            .status,
        413
    );
    assert_eq!(
        api.send("POST", "/api/tenants/contoso/explain", &[], "{")
            .status,
        422
    );
    assert_eq!(
        api.get("/api/tenants/contoso/decisions?limit=x").status,
        400
    );
    assert_eq!(
        api.get("/api/tenants/contoso/decisions?colour=red").status,
        400
    );
    assert_eq!(api.get("/api/nothing").status, 404);
    let answer = api.ask("DELETE", "/api/state", &[], None);
    assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET")));
}

#[test]
fn tenants_do_not_see_each_other_and_readers_change_nothing() {
    let bed = TestBed::start(config());
    let own = Api::new(
        &bed,
        &token(
            &bed,
            &["--name", "c", "--scope", "tenant", "--tenant", "contoso"],
        ),
    );
    let state = own.get("/api/state").json();
    let tenants = state["tenants"].as_array().expect("tenants");
    assert_eq!(tenants.len(), 1);
    assert_eq!(tenants[0]["name"], "contoso");
    let foreign = own.get("/api/tenants/fabrikam/policy");
    let nobodys = own.get("/api/tenants/nobody/policy");
    assert_eq!((foreign.status, foreign.error()), (404, nobodys.error()));
    assert_eq!(own.get(POLICY).status, 200);
    let reader = Api::new(&bed, &token(&bed, &["--name", "r", "--scope", "read"]));
    assert_eq!(reader.get("/api/tenants/fabrikam/policy").status, 200);
    let refused = reader.send("PUT", POLICY, &[&if_match(&reader)], RULES);
    assert_eq!(refused.status, 403);
    assert_eq!(
        reader
            .send("POST", "/api/tenants/contoso/check", &[], RULES)
            .status,
        200
    );
}

#[test]
fn a_change_is_in_force_when_it_is_answered_and_comes_back() {
    let bed = TestBed::start(config());
    let api = Api::operator(&bed);
    assert_eq!(rcpt(&bed, "a@new.test"), 250);
    let before = if_match(&api);
    let connector = r#"{"name": "New", "direction": "inbound", "from": {"sender-domains": ["new.test"]}, "require": {"tls": true}}"#;
    let added = api.send(
        "POST",
        &format!("{CONNECTORS}?comment=by%20phone"),
        &[&before],
        connector,
    );
    assert_eq!(added.status, 200, "{added:?}");
    assert_eq!(added.json()["version"]["author"], "alice");
    assert_eq!(added.json()["version"]["comment"], "by phone");
    assert_eq!(rcpt(&bed, "a@new.test"), 550);
    bed.wait_for_log("policy changed");
    // Somebody who has not seen that changes nothing.
    let stale = api.send("PUT", &format!("{CONNECTORS}/New"), &[&before], connector);
    assert_eq!(stale.status, 412);
    assert_eq!(stale.json()["current"]["digest"], added.json()["digest"]);
    assert_eq!(
        api.send("DELETE", &format!("{CONNECTORS}/New"), &[], "")
            .status,
        428
    );
    // What is not valid is told with its place, and changes nothing.
    let wrong = api.send(
        "PUT",
        POLICY,
        &[&if_match(&api)],
        "{\n  \"connectors\": [ { \"nam\": 1 } ]\n}",
    );
    assert_eq!(wrong.status, 422);
    assert_eq!(wrong.json()["problems"][0]["line"], 2);
    assert_eq!(rcpt(&bed, "a@new.test"), 550);
    let changed = connector.replace("new.test", "newer.test");
    let changed = api.send(
        "PUT",
        &format!("{CONNECTORS}/New"),
        &[&if_match(&api)],
        &changed,
    );
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!(
        [rcpt(&bed, "a@new.test"), rcpt(&bed, "a@newer.test")],
        [250, 550]
    );
    let removed = api.send(
        "DELETE",
        &format!("{CONNECTORS}/New"),
        &[&if_match(&api)],
        "",
    );
    assert_eq!(removed.status, 200);
    assert_eq!(rcpt(&bed, "a@newer.test"), 250);
    let text = String::from_utf8(api.get(POLICY).body).expect("UTF-8");
    assert_eq!(text, RULES, "others stay as they were");
    let versions = api.get("/api/tenants/contoso/versions").json();
    let actions: Vec<&str> = versions["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .filter_map(|it| it["action"].as_str())
        .collect();
    assert_eq!(
        actions,
        [
            "as it was found",
            "add \"New\"",
            "edit \"New\"",
            "remove \"New\""
        ]
    );
    let restored = api.send(
        "POST",
        "/api/tenants/contoso/versions/2/restore",
        &[&if_match(&api)],
        "",
    );
    assert_eq!(restored.status, 200);
    assert_eq!(rcpt(&bed, "a@new.test"), 550);
    assert_eq!(api.get("/api/tenants/contoso/versions/99").status, 404);
}

#[test]
fn a_component_is_taken_if_it_passes_its_cases() {
    let cases = r#"[{"name": "plaintext is refused", "context": {"direction": "inbound", "mail-from": "a@bank.test",
        "rcpt-to": "b@contoso.com"}, "expect": {"verdict": "reject"}}]"#;
    let folder = tempfile::tempdir().expect("a folder");
    let built = |name: &str, rules: &str| {
        let path = folder.path().join(name);
        fs::write(path.with_extension("json"), rules).expect("a file");
        let (from, to) = (path.with_extension("json"), path.with_extension("wasm"));
        let output = portcullis_tests::run(
            &[
                "build",
                &from.to_string_lossy(),
                "-o",
                &to.to_string_lossy(),
            ],
            b"",
        );
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::read(to).expect("a component")
    };
    let good = built("good", RULES);
    let better = built(
        "better",
        &RULES.replace("bank.test\"]", "bank.test\", \"other.test\"]"),
    );
    let lax = built("lax", r#"{"connectors": []}"#);
    let config = Config::new()
        .listener(Listener::maildir())
        .with("[[tenant]]\nname = \"contoso\"\ndomains = [\"contoso.com\"]\npolicy = \"contoso.wasm\"\ntests = \"cases.json\"")
        .file("contoso.wasm", &good)
        .file("cases.json", cases)
        .with(ADMIN);
    let bed = TestBed::start(config);
    bed.wait_for_log("policy loaded");
    let api = Api::operator(&bed);
    let put = |bytes: &[u8]| {
        let etag = if_match(&api);
        let options = [
            "--header",
            "Content-Type: application/wasm",
            "--header",
            &etag,
        ];
        api.ask("PUT", POLICY, &options, Some(bytes))
    };
    let refused = put(&lax);
    assert_eq!(refused.status, 422);
    assert!(
        refused.error().contains("plaintext is refused"),
        "{}",
        refused.error()
    );
    assert_eq!(
        fs::read(bed.folder().join("contoso.wasm")).expect("the policy"),
        good
    );
    assert_eq!(put(b"not wasm").status, 422);
    let taken = put(&better);
    assert_eq!(taken.status, 200, "{taken:?}");
    assert_eq!(rcpt(&bed, "a@other.test"), 550);
    let rules = api.send("PUT", POLICY, &[&if_match(&api)], RULES);
    assert_eq!(rules.status, 409);
}

#[test]
fn what_happens_is_seen_while_it_happens() {
    let bed = TestBed::start(config());
    let api = Api::operator(&bed);
    let mut live = api.stream("/api/tenants/contoso/decisions/live");
    let mut lines = BufReader::new(live.stdout.take().expect("a pipe")).lines();
    // It is watched once curl has been answered.
    bed.wait_for_log("watching decisions");
    assert_eq!(rcpt(&bed, "mallory@bank.test"), 550);
    let mut seen: Value =
        serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!(seen["context"]["mail-from"], "mallory@bank.test");
    assert_eq!(seen["verdict"]["connector"], "Bank");
    // In the list stands what decisions have in common.
    seen["context"]
        .as_object_mut()
        .expect("a context")
        .remove("helo");
    live.kill().expect("curl ends");
    live.wait().expect("curl ends");
    let listed = api.get("/api/tenants/contoso/decisions").json();
    assert_eq!(listed["decisions"], json!([seen]));
    let connectors = api.get(CONNECTORS).json();
    assert_eq!(connectors["connectors"][0]["last-days"]["refused"], 1);
    let stricter = RULES
        .replace("bank.test\"]", "bank.test\", \"a.test\"]")
        .replace("\"require\": { \"tls\": true }", "\"require\": { }");
    let effect = api
        .send("POST", "/api/tenants/contoso/effect", &[], &stricter)
        .json();
    assert_eq!(effect["messages"], 1);
    assert_eq!(effect["changed"][0]["is"], "accepted");
    let diff = api
        .send("POST", "/api/tenants/contoso/diff", &[], &stricter)
        .json();
    assert!(
        diff["diff"]
            .as_str()
            .expect("a diff")
            .contains("+      \"require\": { }")
    );
    let context =
        json!({"direction": "inbound", "mail-from": "a@bank.test", "rcpt-to": "b@contoso.com"});
    let explained = api
        .send(
            "POST",
            "/api/tenants/contoso/explain",
            &[],
            &context.to_string(),
        )
        .json();
    assert_eq!(explained["verdict"]["failed"], "tls");
    for path in ["advice", "certificates", "flows"] {
        assert_eq!(
            api.get(&format!("/api/tenants/contoso/{path}")).status,
            200,
            "{path}"
        );
    }
}

#[test]
fn an_import_is_looked_at_and_nothing_is_written() {
    let bed = TestBed::start(config());
    let api = Api::operator(&bed);
    let export = json!([{"Name": "Bank", "Enabled": true, "ConnectorType": "Partner", "SenderDomains": ["smtp:bank.test;1"], "RequireTls": true}]);
    let answer = api.ask(
        "POST",
        "/api/import?kind=exchange",
        &[],
        Some(export.to_string().as_bytes()),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.json()["rules"]["connectors"][0]["require"]["tls"],
        true
    );
    assert_eq!(
        api.ask("POST", "/api/import?kind=exchange", &[], Some(b"nothing"))
            .status,
        422
    );
    assert_eq!(
        api.ask("POST", "/api/import?kind=other", &[], Some(b""))
            .status,
        400
    );
}

#[test]
fn each_of_many_changes_at_a_time_is_wholly_there() {
    let bed = TestBed::start(config());
    let secret = token(&bed, &["--name", "many"]);
    // A hosting panel is one user of the socket.
    let clients = 100;
    thread::scope(|scope| {
        for number in 0..clients {
            let (bed, secret) = (&bed, &secret);
            scope.spawn(move || {
                let api = Api::new(bed, secret);
                let connector = json!({"name": format!("c{number}"), "direction": "inbound",
                    "from": {"sender-domains": [format!("c{number}.test")]}, "require": {"tls": true}});
                loop {
                    let read = api.get(POLICY);
                    // The others have all places just now.
                    if read.status == 503 {
                        continue;
                    }
                    let etag = format!("If-Match: {}", read.header("ETag").expect("an ETag"));
                    let answer = api.send("POST", CONNECTORS, &[&etag], &connector.to_string());
                    match answer.status {
                        200 => return,
                        // Somebody was faster.
                        412 | 503 => {}
                        other => panic!("{other}: {answer:?}"),
                    }
                }
            });
        }
    });
    let api = Api::operator(&bed);
    let document: Value = api.get(POLICY).json();
    assert_eq!(
        document["connectors"].as_array().expect("connectors").len(),
        clients + 1
    );
    let versions = api.get("/api/tenants/contoso/versions").json();
    let versions = versions["versions"].as_array().expect("versions");
    let numbers: Vec<_> = versions.iter().map(|it| it["version"].as_u64()).collect();
    let expected: Vec<_> = (1..=clients as u64 + 1).map(Some).collect();
    assert_eq!(numbers, expected);
    assert_eq!(rcpt(&bed, "a@c7.test"), 550);
}

#[test]
fn an_address_that_holds_very_many_connections_keeps_nobody_else_out() {
    let bed = TestBed::start(tenants().with(&ADMIN.replace("admin.sock", "127.0.0.1:0")));
    let url = url(&bed);
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    // They wait for a request.
    let held: Vec<_> = (0..32)
        .map(|_| TcpStream::connect(host).expect("a connection"))
        .collect();
    let asked = |from: &str| {
        let curl = Command::new("curl")
            .args([
                "--silent",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
            ])
            .args(["--interface", from, &format!("{url}api/state")])
            .output()
            .unwrap_or_else(programs::missing("curl"));
        String::from_utf8_lossy(&curl.stdout).into_owned()
    };
    assert_eq!(asked("127.0.0.1"), "503");
    assert_eq!(asked("127.0.0.2"), "401");
    drop(held);
}

#[test]
fn a_partner_is_tried_out_step_by_step() {
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], ADMIN);
    let identity = setting.pki.trusted(&["mx.partner.test"]);
    let server = MockServer::start_at(setting.address(2), Behaviour::with(&identity));
    let bed = &setting.daemon;
    let validate = "/api/tenants/contoso/connectors/to%20name/validate";
    let tried = |api: &Api| -> Vec<Value> {
        let answer = api.send("POST", validate, &[], "{}");
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = String::from_utf8(answer.body).expect("UTF-8");
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("lines of JSON")
    };
    let api = Api::operator(bed);
    let steps = tried(&api);
    assert!(steps.len() > 2 && steps[0]["step"].is_string(), "{steps:?}");
    let outcome = &steps[steps.len() - 1]["outcome"];
    assert_eq!(outcome["valid"], true, "{outcome}");
    server.behave(Behaviour::default());
    let steps = tried(&api);
    assert_eq!(steps[steps.len() - 1]["outcome"]["valid"], false);
    // What came of it is kept.
    let kept = api.get(CONNECTORS).json();
    let connectors = kept["connectors"].as_array().expect("connectors").clone();
    let named = connectors
        .iter()
        .find(|it| it["name"] == "to name")
        .expect("it");
    assert_eq!(named["validated"]["passed"], false, "{named}");
    // Whoever administers a tenant only does not look around in our networks.
    let own = token(
        bed,
        &["--name", "c", "--scope", "tenant", "--tenant", "contoso"],
    );
    let connections = server.connections();
    let steps = tried(&Api::new(bed, &own));
    assert_eq!(steps[steps.len() - 1]["outcome"]["valid"], false);
    assert_eq!(server.connections(), connections, "nothing was connected");
    let reader = Api::new(bed, &token(bed, &["--name", "r", "--scope", "read"]));
    assert_eq!(reader.send("POST", validate, &[], "{}").status, 403);
}
