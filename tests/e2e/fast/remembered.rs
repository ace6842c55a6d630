//! What a server remembers of its mail: decisions one by one, what a change would have done, what is suggested.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::Output;

use portcullis_tests::admin::{ADMIN, Api, remembered};
use portcullis_tests::metrics::{self, METRICS};
use portcullis_tests::outbound::{LEVEL_RECORDS, LEVELS, Setting};
use portcullis_tests::{Behaviour, Client, Config, Listener, MockServer, Pki, TestBed};
use serde_json::{Value, json};

const RULES: &str = r#"{"accepted-domains": ["contoso.com"], "connectors": [
    {"name": "Bank", "direction": "inbound", "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}},
    {"name": "Trial", "direction": "inbound", "mode": "audit", "from": {"sender-domains": ["trial.test"]},
     "require": {"tls": true}}]}"#;

fn config() -> Config {
    Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", RULES)
}

/// Sends a message; gives the code and text of the last reply.
fn send(bed: &TestBed, from: &str) -> String {
    let mut client = Client::greeted(bed.address());
    client.hello(false, None);
    let reply = match client.envelope(from, "bob@contoso.com") {
        rcpt if rcpt.code == 250 => client.data("Subject: x\r\n\r\nx"),
        rcpt => rcpt,
    };
    client.quit();
    format!("{} {}", reply.code, reply.text())
}

fn told(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// The decisions that are remembered once there are so many of them.
fn decisions(bed: &TestBed, options: &[&str], number: usize) -> Vec<Value> {
    let until = std::time::Instant::now() + portcullis_tests::daemon::TIMEOUT;
    loop {
        let output = remembered(bed, &[&["decisions", "--format", "json"], options].concat());
        let text = told(&output);
        let found: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        if found.len() >= number || std::time::Instant::now() > until {
            assert_eq!(found.len(), number, "{text}");
            return found;
        }
        // They are kept a second later, and nobody tells of that.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn database(bed: &TestBed) -> PathBuf {
    let folder = bed.folder().join("state/portcullis");
    let files = fs::read_dir(&folder).expect("the state folder");
    let mut found = files.filter_map(|file| {
        let path = file.ok()?.path();
        path.extension()
            .is_some_and(|it| it == "sqlite")
            .then_some(path)
    });
    found.next().expect("a file of decisions")
}

#[test]
fn decisions_are_found_again_by_what_the_sender_was_told() {
    let mut bed = TestBed::start(config());
    let refused = send(&bed, "alice@bank.test");
    assert!(refused.starts_with("550"), "{refused}");
    send(&bed, "alice@trial.test");
    send(&bed, "carol@other.test");
    let all = decisions(&bed, &[], 3);
    let verdicts: Vec<&str> = all
        .iter()
        .filter_map(|it| it["verdict"]["verdict"].as_str())
        .collect();
    assert_eq!(verdicts, ["reject", "accept", "accept"]);
    // The id in the reply finds it, also after a power cut.
    let id = all[0]["transaction"].as_str().expect("an id").to_owned();
    assert!(refused.contains(&id), "{refused}: {id}");
    bed.restart();
    let found = decisions(&bed, &["--search", &id], 1);
    assert_eq!(found[0]["context"]["mail-from"], "alice@bank.test");
    assert_eq!(found[0]["context"]["client-ip"], "127.0.0.1");
    assert_eq!(found[0]["verdict"]["connector"], "Bank");
    for (options, number) in [
        (&["--connector", "Bank"][..], 1),
        (&["--connector", "Trial"], 1),
        (&["--verdict", "audit"], 1),
        (&["--verdict", "accept"], 2),
        (&["--verdict", "accept", "--limit", "1"], 1),
        (&["--search", "OTHER.test"], 1),
        (&["--connector", "nobody's"], 0),
    ] {
        decisions(&bed, options, number);
    }
    let text = told(&remembered(&bed, &["decisions", "--connector", "Bank"]));
    assert!(
        text.contains("reject   <alice@bank.test> to <bob@contoso.com>  127.0.0.1  Bank (tls)"),
        "{text}"
    );
}

#[test]
fn no_more_is_remembered_of_people_than_the_log_tells() {
    let config = config().with("[log]\nmailboxes = \"domain\"\nclients = \"network\"");
    let bed = TestBed::start(config);
    send(&bed, "alice@trial.test");
    let found = decisions(&bed, &[], 1);
    assert_eq!(found[0]["context"]["mail-from"], "*@trial.test");
    assert_eq!(found[0]["client"], "127.0.0.0/24");
    let text = bed.log().join("\n");
    assert!(!text.contains("alice"), "{text}");
    drop(found);
    let kept = ["", "-wal"].map(|end| {
        let mut path = database(&bed).into_os_string();
        path.push(end);
        fs::read(path).unwrap_or_default()
    });
    for bytes in kept {
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!has(b"alice") && !has(b"127.0.0.1"));
    }
}

#[test]
fn a_change_is_tried_on_the_mail_that_came() {
    let bed = TestBed::start(config());
    for _ in 0..3 {
        assert!(send(&bed, "alice@trial.test").starts_with("250"));
    }
    send(&bed, "carol@other.test");
    decisions(&bed, &[], 4);
    let rules = bed.folder().join("contoso.json");
    let rules = rules.to_string_lossy();
    let output = remembered(&bed, &["enforce", &rules, "Trial", "--yes"]);
    told(&output);
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(shown.contains("3 of 4 decisions since 20"), "{shown}");
    assert!(shown.contains("would be refused, and were accepted:\n  <alice@trial.test> to <bob@contoso.com>: Trial (tls)"), "{shown}");
}

#[test]
fn partners_that_encrypt_are_suggested_and_connectors_that_refuse_nothing() {
    let pki = Pki::new();
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .certificate(&pki)
        .trust(&pki)
        .tenant("contoso.com", RULES);
    let bed = TestBed::start(config);
    let identity = pki.trusted(&["mail.partner.test"]);
    for from in ["a@partner.test", "a@trial.test"] {
        for _ in 0..2 {
            let mut client = Client::greeted(bed.address());
            client.hello(true, Some(&identity));
            assert_eq!(client.envelope(from, "bob@contoso.com").code, 250);
            client.data("Subject: x\r\n\r\nx");
            client.quit();
        }
    }
    decisions(&bed, &[], 4);
    let few = &["suggest", "--messages", "2", "--days", "0"];
    let text = told(&remembered(&bed, few));
    assert!(
        text.contains(
            "Trial could be enforced: it would have refused nothing, and 2 messages since 20"
        ),
        "{text}"
    );
    let command = "portcullis add ";
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with(command));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(
        line.contains("--certificate-name 'mail.partner.test'")
            || line.contains("--certificate-name mail.partner.test"),
        "{line}"
    );
    assert!(line.contains("--mode audit"), "{line}");
    // By itself, it needs more mail than that.
    let text = told(&remembered(&bed, &["suggest"]));
    assert_eq!(text, "nothing needs attention, and nothing is suggested\n");
}

#[test]
fn mail_flows_whatever_becomes_of_the_file() {
    let mut bed = TestBed::start(config().with(METRICS));
    send(&bed, "carol@other.test");
    decisions(&bed, &[], 1);
    // A file that is damaged is put aside.
    let path = database(&bed);
    let folder = path.parent().expect("a folder").to_owned();
    bed.signal("KILL");
    bed.wait();
    fs::write(
        &path,
        "this is no database, and has not been one for a long time".repeat(100),
    )
    .expect("a file");
    for end in ["-wal", "-shm"] {
        let mut other = path.clone().into_os_string();
        other.push(end);
        let _ = fs::remove_file(other);
    }
    bed.restart();
    bed.wait_for_log("remembered decisions cannot be read; they are put aside");
    assert!(send(&bed, "carol@other.test").starts_with("250"));
    decisions(&bed, &[], 1);
    assert!(
        fs::read_dir(&folder)
            .expect("a folder")
            .filter_map(Result::ok)
            .any(|file| { file.file_name().to_string_lossy().ends_with(".damaged") })
    );
    assert_eq!(
        metrics::value(&bed, "portcullis_decisions_lost_total "),
        Some(0)
    );
}

#[test]
fn nothing_is_remembered_where_that_is_said() {
    let bed = TestBed::start(config().with("[decisions]\nkeep = 0"));
    assert!(send(&bed, "carol@other.test").starts_with("250"));
    let output = remembered(&bed, &["decisions"]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("nothing is remembered"), "{errors}");
}

/// Somebody who is told of alerts by HTTP.
struct Hook {
    address: std::net::SocketAddr,
    told: std::sync::mpsc::Receiver<Value>,
}

impl Hook {
    fn start() -> Hook {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream);
                let mut length = 0;
                for line in reader.by_ref().lines().map_while(Result::ok) {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                        length = value.trim().parse().expect("a number");
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).expect("a body");
                let body = serde_json::from_slice(&body).expect("JSON");
                let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
                reader.get_mut().write_all(answer).expect("an answer");
                if sender.send(body).is_err() {
                    return;
                }
            }
        });
        Hook { address, told }
    }

    fn next(&self) -> Value {
        self.told
            .recv_timeout(portcullis_tests::daemon::TIMEOUT)
            .expect("an alert")
    }
}

#[test]
fn alerts_are_sent_once_by_webhook_and_mail() {
    let hook = Hook::start();
    let server = MockServer::start(Behaviour::default());
    let alerts = format!(
        "[alerts]\nevery = \"1s\"\nwebhook = \"http://{}/alerts?x=1\"\nmail-to = [\"postmaster@contoso.com\"]\nmail-server = \"{}\"",
        hook.address, server.address
    );
    let bed = TestBed::start(config().tenant("fabrikam.com", RULES).with(&alerts));
    bed.replace("contoso.json", b"{");
    let told = hook.next();
    assert_eq!(told["hostname"], "mx.contoso.com");
    let alerts = told["alerts"].as_array().expect("alerts");
    assert_eq!(alerts.len(), 1);
    assert_eq!(
        (&alerts[0]["tenant"], &alerts[0]["kind"]),
        (&json!("contoso"), &json!("policy-rejected"))
    );
    assert!(
        alerts[0]["text"]
            .as_str()
            .expect("a text")
            .contains("contoso.json")
    );
    let mail = server.wait_for(1);
    let content = mail[0].content.clone();
    assert!(
        content.contains("Subject: Portcullis on mx.contoso.com: 1 things need attention"),
        "{content}"
    );
    assert!(content.contains("Auto-Submitted: auto-generated"));
    // It is told once: the next one is about the other tenant alone.
    bed.replace("fabrikam.json", b"{");
    let told = hook.next();
    let alerts = told["alerts"].as_array().expect("alerts");
    let tenants: Vec<&Value> = alerts.iter().map(|alert| &alert["tenant"]).collect();
    assert_eq!(tenants, ["fabrikam"]);
    assert_eq!(server.wait_for(2).len(), 2);
}

#[test]
fn connectors_are_tried_out_from_time_to_time() {
    let more = format!("{ADMIN}\n[validation]\nevery = \"1s\"");
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], &more);
    let _server = MockServer::start_at(setting.address(2), Behaviour::default());
    setting
        .daemon
        .wait_for_log("the connector was tried out, and would not work");
    let api = Api::operator(&setting.daemon);
    let validated = |setting: &Setting| {
        let _ = setting;
        let found = api.get("/api/tenants/contoso/connectors").json();
        let connectors = found["connectors"].as_array().expect("connectors").clone();
        connectors
            .iter()
            .all(|it| it["validated"]["passed"] == false)
    };
    setting.wait_until(validated);
    let advice = api.get("/api/tenants/contoso/advice").json();
    assert_eq!(
        advice["notices"][0]["kind"], "validation-failed",
        "{advice}"
    );
}

#[test]
fn a_log_is_evaluated_by_other_rules() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config().with("[log]\ncontexts = true");
    config.write(folder.path());
    let mut server = portcullis_tests::portcullis(&["run", "--log-format", "json", "--config"])
        .arg(folder.path().join("portcullis.toml"))
        .env("XDG_STATE_HOME", folder.path().join("state"))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the daemon starts");
    let mut lines = BufReader::new(server.stderr.take().expect("a pipe"))
        .lines()
        .map_while(Result::ok);
    let mut log = String::new();
    let mut wait = |message: &str, log: &mut String| -> Value {
        loop {
            let line = lines.next().expect("the log goes on");
            log.push_str(&line);
            log.push('\n');
            let line: Value = serde_json::from_str(&line).expect("JSON");
            if line["message"] == message {
                return line;
            }
        }
    };
    let listening = wait("listening", &mut log);
    let address = listening["address"]
        .as_str()
        .expect("an address")
        .parse()
        .expect("an address");
    for (from, code) in [("a@trial.test", 250), ("a@bank.test", 550)] {
        let mut client = Client::greeted(address);
        client.hello(false, None);
        assert_eq!(client.envelope(from, "bob@contoso.com").code, code);
        wait("decision", &mut log);
    }
    server.kill().expect("the daemon ends");
    server.wait().expect("the daemon ends");
    let (path, new) = (
        folder.path().join("mail.log"),
        folder.path().join("new.json"),
    );
    fs::write(&path, &log).expect("a file");
    fs::write(&new, RULES.replace("\"mode\": \"audit\", ", "")).expect("a file");
    let evaluate = |rules: &str| {
        let rules = folder.path().join(rules);
        let output = portcullis_tests::run(
            &[
                "evaluate",
                &rules.to_string_lossy(),
                "--log",
                &path.to_string_lossy(),
                "--diff",
            ],
            b"",
        );
        (
            output.status.code(),
            String::from_utf8(output.stdout).expect("UTF-8"),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, told, errors) = evaluate("contoso.json");
    assert_eq!((code, told.as_str()), (Some(0), ""), "{errors}");
    assert!(
        errors.contains("0 of 2 decisions would be others"),
        "{errors}"
    );
    let (code, told, errors) = evaluate("new.json");
    assert_eq!(code, Some(1), "{errors}");
    let different: Value = serde_json::from_str(&told).expect("one line");
    assert_eq!(different["was"], json!({"verdict": "accept"}));
    assert_eq!(
        different["is"],
        json!({"verdict": "reject", "connector": "Trial", "failed": "tls"})
    );
    assert_eq!(different["mail-from"], "a@trial.test");
}

#[test]
fn a_partner_gets_a_sheet() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules.json");
    let name = "Bank <b> & \\\"Co\\\"";
    let text = format!(
        r#"{{"organization": "Contoso", "accepted-domains": ["contoso.com"], "connectors": [{{"name": "{name}", "direction": "inbound",
        "from": {{"sender-domains": ["bank.test"]}}, "require": {{"tls": true, "certificate-names": ["*.bank.test"]}}}}]}}"#
    );
    fs::write(&rules, text).expect("a file");
    let rules = rules.to_string_lossy();
    let name = "Bank <b> & \"Co\"";
    let sheet = told(&portcullis_tests::run(&["partner", &rules, name], b""));
    for line in [
        "- uses STARTTLS",
        "- has a certificate for *.bank.test",
        "To try it, send a message to postmaster@contoso.com.",
        "Questions: postmaster@contoso.com",
    ] {
        assert!(sheet.contains(line), "{sheet}");
    }
    let page = told(&portcullis_tests::run(
        &[
            "partner",
            &rules,
            name,
            "--format",
            "html",
            "--contact",
            "<ask>@contoso.com",
        ],
        b"",
    ));
    assert!(
        page.contains("<li>has a certificate for *.bank.test</li>"),
        "{page}"
    );
    assert!(
        page.contains("Secure mail with Contoso")
            && page.contains("&lt;ask&gt;@contoso.com")
            && !page.contains("<ask>"),
        "{page}"
    );
}
