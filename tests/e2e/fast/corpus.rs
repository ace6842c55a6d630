//! One corpus of verdicts, three ways: natively, through the component, and over SMTP. A new case is
//! a new entry in a file of `conformance/cases/`.

use std::fs;
use std::path::PathBuf;

use portcullis_evaluator::Policy;
use portcullis_tests::client::Handshake;
use portcullis_tests::pki::Identity;
use portcullis_tests::{Client, Daemon, Pki, Reply, run};
use serde_json::{Value, json};

pub(crate) struct File {
    pub name: String,
    pub rules: Value,
    pub cases: Vec<Value>,
}

pub(crate) fn corpus() -> Vec<File> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a file");
        let mut file: Value = serde_json::from_str(&text).expect("JSON");
        File {
            name: path
                .file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned(),
            rules: file["rules"].take(),
            cases: file["cases"].as_array().expect("cases").clone(),
        }
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn natively() {
    for file in corpus() {
        let tests = file.cases.iter().map(|case| {
            json!({"name": case["name"], "context": case["context"], "expect": case["verdict"]})
        });
        let mut document = file.rules.clone();
        document["tests"] = tests.collect();
        let result = Policy::configure(&document.to_string());
        let (_, summary) = result.unwrap_or_else(|problems| {
            let messages: Vec<_> = problems.into_iter().map(|p| (p.message, p.hint)).collect();
            panic!("{}: {messages:#?}", file.name)
        });
        assert_eq!(summary.tests as usize, file.cases.len());
    }
}

#[test]
fn through_the_component() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for file in corpus() {
        fs::write(path("rules.json"), file.rules.to_string()).expect("a file");
        let built = run(
            &["build", &path("rules.json"), "-o", &path("policy.wasm")],
            b"",
        );
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        let contexts: Vec<String> = file
            .cases
            .iter()
            .map(|case| case["context"].to_string())
            .collect();
        for policy in ["rules.json", "policy.wasm"] {
            let output = run(&["evaluate", &path(policy)], contexts.join("\n").as_bytes());
            let verdicts = String::from_utf8(output.stdout).expect("UTF-8");
            assert_eq!(verdicts.lines().count(), file.cases.len());
            for (case, line) in file.cases.iter().zip(verdicts.lines()) {
                let mut verdict: Value = serde_json::from_str(line).expect("JSON");
                verdict.as_object_mut().expect("an object").remove("text");
                assert_eq!(
                    verdict, case["verdict"],
                    "{}, {policy}: {}",
                    file.name, case["name"]
                );
            }
        }
    }
}

const CONFIG: &str = r#"
hostname = "mx.contoso.com"
[[listener]]
address = "127.0.0.1:0"
certificate = "server.pem"
key = "server.key"
proxy-protocol = ["127.0.0.0/8"]
next-hop = { maildir = "mail" }
[[tenant]]
name = "corpus"
domains = DOMAINS
policy = "rules.json"
[trust]
roots = "ca.pem"
[limits]
sessions-per-address = 1000
"#;

#[test]
fn over_smtp() {
    let pki = Pki::new();
    let server = pki.trusted(&["mx.contoso.com"]);
    let mut asked = 0;
    for file in corpus() {
        let cases: Vec<&Value> = file.cases.iter().filter(|case| is_for_smtp(case)).collect();
        if cases.is_empty() {
            continue;
        }
        let config = CONFIG.replace("DOMAINS", &recipient_domains(&cases));
        let rules = file.rules.to_string();
        let files = [
            ("rules.json", rules.as_str()),
            ("ca.pem", &pki.root_pem),
            ("server.pem", &server.certificate_pem),
            ("server.key", &server.key_pem),
        ];
        let daemon = Daemon::start(&config, &files);
        for case in cases {
            asked += 1;
            ask(
                &daemon,
                &pki,
                case,
                &format!("{}: {}", file.name, case["name"]),
            );
        }
    }
    // A case that is left out has to say so itself.
    assert!(asked > 300, "only {asked} cases were asked");
}

fn is_for_smtp(case: &Value) -> bool {
    case["smtp"] != json!(false) && case["context"]["direction"] == "inbound"
}

/// The recipients' domains as they stand in the cases, without repetition.
pub(crate) fn recipient_domains(cases: &[&Value]) -> String {
    let domain = |case: &&Value| {
        let to = case["context"]["rcpt-to"].as_str().expect("a recipient");
        to.rsplit_once('@')
            .expect("a domain")
            .1
            .trim_end_matches('.')
            .to_lowercase()
    };
    let mut domains: Vec<String> = cases.iter().map(domain).collect();
    domains.sort();
    domains.dedup();
    format!("{domains:?}")
}

/// Plays one case, and holds the replies against its verdict.
fn ask(daemon: &Daemon, pki: &Pki, case: &Value, name: &str) {
    let context = &case["context"];
    let text = |field: &str| context[field].as_str().expect("a string").to_owned();
    let client_ip = text("client-ip").parse().expect("an address");
    let mut client = Client::connect_as(daemon.address(), client_ip);
    client.expect("EHLO client.example", 250);
    if context["tls"].is_object() {
        client.expect("STARTTLS", 220);
        let identity = identity(pki, &context["tls"]["certificate"]);
        let handshake = Handshake {
            identity: identity.as_ref(),
            version: None,
        };
        client.handshake(&handshake).expect("a handshake");
        client.expect("EHLO client.example", 250);
    }
    let at_rcpt = client.envelope(&text("mail-from"), &text("rcpt-to"));
    let last = match context["header-from"].as_array() {
        Some(addresses) if at_rcpt.code == 250 && !addresses.is_empty() => {
            let addresses: Vec<&str> = addresses.iter().filter_map(Value::as_str).collect();
            client.data(&format!(
                "From: {}\r\nSubject: test\r\n\r\nHello.",
                addresses.join(", ")
            ))
        }
        _ => at_rcpt,
    };
    hold_against(&last, &case["verdict"], name);
}

fn hold_against(reply: &Reply, verdict: &Value, name: &str) {
    if verdict["verdict"] == "accept" {
        assert_eq!(reply.code, 250, "{name}: {reply:?}");
        return;
    }
    assert_eq!(
        Some(u64::from(reply.code)),
        verdict["code"].as_u64(),
        "{name}: {reply:?}"
    );
    let word = |field: &str| verdict[field].as_str().expect("a string").to_owned();
    let begin = format!(
        "{} refused by connector \"{}\" ({})",
        word("enhanced"),
        word("connector"),
        word("failed")
    );
    assert!(
        reply
            .text()
            .starts_with(&begin.replace(|c: char| !c.is_ascii(), "?")),
        "{name}: {reply:?}"
    );
}

/// A certificate with the names and the worth that a case asks for.
fn identity(pki: &Pki, certificate: &Value) -> Option<Identity> {
    let names: Vec<&str> = certificate
        .get("dns-names")?
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    Some(match certificate["trust"].as_str()? {
        "trusted" => pki.trusted(&names),
        "expired" => pki.expired(&names),
        "not-yet-valid" => pki.not_yet_valid(&names),
        "unknown-issuer" => Pki::self_signed(&names),
        other => panic!("no certificate can be made that is {other}"),
    })
}
