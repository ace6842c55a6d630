//! The corpus of verdicts through each front door: each case whose facts it can tell has the reply of our own session.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{fs, thread};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use portcullis_tests::front_door::{self, Asking};
use portcullis_tests::{Config, Listener, TestBed};
use serde_json::Value;

use super::http::curl;
use super::started;
use crate::corpus::{File, corpus, recipient_domains};

/// A way of asking: what it makes of a case, or the fact that it cannot tell.
type Way = fn(&mut Asking, &Value) -> Result<Option<String>, &'static str>;

/// The facts of a case in the words of a server.
struct Told {
    client: String,
    helo: String,
    version: Option<String>,
    certificate: Option<Value>,
}

impl Told {
    fn of(context: &Value) -> Result<Told, &'static str> {
        let client = match &context["client-ip"] {
            Value::String(text) if text == "unknown" => return Err("an address that is unknown"),
            Value::String(text) => text.clone(),
            _ => return Err("a client without an address"),
        };
        let tls = &context["tls"];
        if tls == "unknown" {
            return Err("whether there is TLS");
        }
        let certificate = tls.get("certificate").cloned();
        if certificate.as_ref().is_some_and(|it| it == "unknown") {
            return Err("whether there is a certificate");
        }
        let version = tls.is_object().then(|| match tls["version"].as_str() {
            Some(version) => version.to_owned(),
            None => "TLS".into(),
        });
        Ok(Told {
            client,
            helo: context["helo"].as_str().unwrap_or("client.example").into(),
            version,
            certificate,
        })
    }
}

fn text<'a>(context: &'a Value, field: &str) -> &'a str {
    context[field].as_str().unwrap_or_default()
}

/// As Exim asks, which tells all of a certificate that it trusts.
fn by_exim(asking: &mut Asking, context: &Value) -> Result<Option<String>, &'static str> {
    let told = Told::of(context)?;
    let certificate = match &told.certificate {
        None => no_certificate(),
        Some(certificate) => certificate_attributes(context, certificate)?,
    };
    if certificate
        .iter()
        .any(|(name, _)| *name == "ccert_pubkey_fingerprint")
    {
        return Err("the digest of a certificate's key");
    }
    let header = match &context["header-from"] {
        Value::Null => None,
        Value::Array(addresses) if !addresses.is_empty() => {
            let addresses: Vec<&str> = addresses.iter().filter_map(Value::as_str).collect();
            Some(format!("From: {}\n", addresses.join(", ")))
        }
        _ => return Err("a From header without an address"),
    };
    let mut attributes = attributes_of(context, told, certificate);
    attributes.push(("message_header_follows", "yes".into()));
    let action = ask(asking, &attributes);
    let (Some(header), true) = (header, action.ends_with("\nmessage_header=needed")) else {
        return Ok(refused(action));
    };
    attributes.pop();
    attributes.retain(|(name, _)| *name != "protocol_state");
    attributes.push(("protocol_state", "DATA".into()));
    attributes.push(("message_header", BASE64_STANDARD.encode(header)));
    Ok(refused(ask(asking, &attributes)))
}

/// As Postfix asks, which tells the CN of a certificate that it trusts.
fn by_postfix(asking: &mut Asking, context: &Value) -> Result<Option<String>, &'static str> {
    let told = Told::of(context)?;
    let mut attributes = match &told.certificate {
        None => no_certificate(),
        Some(certificate) => certificate_attributes(context, certificate)?,
    };
    if attributes
        .iter()
        .any(|(name, _)| *name == "ccert_dns_names")
    {
        return Err("all names of a certificate");
    }
    for (name, value) in &mut attributes {
        if *name == "ccert_verified" {
            *name = "ccert_issuer";
            *value = if value == "1" {
                "CA".into()
            } else {
                String::new()
            };
        }
    }
    Ok(refused(ask(
        asking,
        &attributes_of(context, told, attributes),
    )))
}

fn no_certificate() -> Vec<(&'static str, String)> {
    vec![("ccert_fingerprint", String::new())]
}

fn attributes_of(
    context: &Value,
    told: Told,
    certificate: Vec<(&'static str, String)>,
) -> Vec<(&'static str, String)> {
    let mut attributes = vec![
        ("protocol_state", "RCPT".to_owned()),
        ("client_address", told.client),
        ("client_port", "40000".into()),
        ("helo_name", told.helo),
        ("sender", text(context, "mail-from").to_owned()),
        ("recipient", text(context, "rcpt-to").to_owned()),
        ("encryption_protocol", told.version.unwrap_or_default()),
    ];
    attributes.extend(certificate);
    attributes
}

fn ask(asking: &mut Asking, attributes: &[(&str, String)]) -> String {
    let attributes: Vec<(&str, &str)> = attributes
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    asking.policy(&attributes)
}

/// The action, if it is a refusal.
fn refused(action: String) -> Option<String> {
    let is_taken = action.starts_with("DUNNO") || action.starts_with("WARN ");
    (!is_taken).then_some(action)
}

fn certificate_attributes(
    context: &Value,
    certificate: &Value,
) -> Result<Vec<(&'static str, String)>, &'static str> {
    let is_usual = certificate["anchor"].is_null() || certificate["anchor"] == "public";
    if !is_usual {
        return Err("which authority has issued the certificate");
    }
    let unknown = certificate["unknown"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let is_unknown = |fact: &str| unknown.iter().any(|it| it == fact);
    let is_trusted = certificate["trust"] == "trusted";
    let is_told = !certificate["anchor"].is_null();
    if is_trusted && is_unknown("anchor") || !is_trusted && is_told {
        return Err("which authority has issued the certificate");
    }
    let mut attributes = Vec::new();
    match certificate["trust"].as_str() {
        Some("trusted") => attributes.push(("ccert_verified", "1".to_owned())),
        None if is_unknown("trust") => attributes.push(("ccert_verified", "0".into())),
        _ => return Err("why a certificate is not trusted"),
    }
    if !is_unknown("dns-names") {
        let names = certificate["dns-names"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        if names.is_empty() {
            return Err("that a certificate has no names");
        }
        attributes.push(("ccert_dns_names", names.join(",")));
    } else if let Some(name) = context["certificate-common-name"].as_str() {
        attributes.push(("ccert_subject", name.to_owned()));
    }
    let known = |fact: &str| certificate[fact].as_str().filter(|_| !is_unknown(fact));
    // Without one it is a digest of another kind.
    let digest = known("sha256").map_or_else(|| "00".repeat(16), str::to_owned);
    attributes.push(("ccert_fingerprint", digest));
    if let Some(key) = known("key-sha256") {
        attributes.push(("ccert_pubkey_fingerprint", key.to_owned()));
    }
    Ok(attributes)
}

/// As Sendmail asks, which tells the CN and the digest of a certificate.
fn by_milter(asking: &mut Asking, context: &Value) -> Result<Option<String>, &'static str> {
    let told = Told::of(context)?;
    let mut macros = Vec::new();
    if let Some(version) = &told.version {
        macros.push(("tls_version", version.clone()));
        match &told.certificate {
            None => macros.push(("verify", "NO".into())),
            Some(certificate) => macros.extend(certificate_macros(context, certificate)?),
        }
    }
    let macros: Vec<(&str, &str)> = macros
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let fields = match &context["header-from"] {
        Value::Null => None,
        Value::Array(addresses) if !addresses.is_empty() => {
            let addresses: Vec<&str> = addresses.iter().filter_map(Value::as_str).collect();
            Some(addresses.join(", "))
        }
        _ => return Err("a From header without an address"),
    };
    asking.packet(b'K', b"");
    asking.client(&told.client, 40000, &macros);
    asking.mail(text(context, "mail-from"));
    let at_rcpt = asking.rcpt(text(context, "rcpt-to"));
    Ok(match (at_rcpt, fields) {
        (None, Some(from)) => asking.header(&[("From", &from)]),
        (reply, _) => reply,
    })
}

fn certificate_macros(
    context: &Value,
    certificate: &Value,
) -> Result<Vec<(&'static str, String)>, &'static str> {
    let attributes = certificate_attributes(context, certificate)?;
    let mut macros = Vec::new();
    for (name, value) in attributes {
        macros.push(match name {
            "ccert_verified" if value == "1" => ("verify", "OK".to_owned()),
            "ccert_verified" => ("verify", "FAIL".into()),
            "ccert_subject" => ("cn_subject", value),
            "ccert_fingerprint" => ("cert_fp", value),
            "ccert_dns_names" => return Err("all names of a certificate"),
            _ => return Err("the digest of a certificate's key"),
        });
    }
    Ok(macros)
}

/// What came of the corpus by one way: how many cases were asked, and for each fact that cannot be told how many were not.
#[derive(Default)]
struct Played {
    asked: usize,
    untold: BTreeMap<&'static str, usize>,
}

impl Played {
    fn untold(&mut self, fact: &'static str) {
        *self.untold.entry(fact).or_default() += 1;
    }
}

fn play(way: Way, protocol: &str, is_told_header: bool) -> Played {
    let mut played = Played::default();
    for file in with_recipients() {
        let daemon = daemon_of(&file, protocol);
        let mut asking = Asking::connect(daemon.folder());
        if protocol == "milter" {
            asking.negotiate();
        }
        let reads_header = file.rules.to_string().contains("match-header-from");
        for case in &file.cases {
            if reads_header && !is_told_header {
                played.untold("the From header");
                continue;
            }
            let reply = match way(&mut asking, &case["context"]) {
                Ok(reply) => reply,
                Err(fact) => {
                    played.untold(fact);
                    continue;
                }
            };
            let is_no_address = |reply: &String| reply.starts_with("451 4.1.");
            if case["smtp"] == false && reply.as_ref().is_some_and(is_no_address) {
                played.untold("an address that SMTP does not have");
                continue;
            }
            played.asked += 1;
            let name = format!("{}: {}", file.name, case["name"]);
            hold_against(reply.as_deref(), &case["verdict"], &name);
        }
    }
    played
}

/// The corpus, with the cases of mail to a recipient.
fn with_recipients() -> impl Iterator<Item = File> {
    corpus().into_iter().filter_map(|mut file| {
        file.cases.retain(has_recipient);
        (!file.cases.is_empty()).then_some(file)
    })
}

fn has_recipient(case: &Value) -> bool {
    let recipient = case["context"]["rcpt-to"].as_str().unwrap_or_default();
    case["context"]["direction"] == "inbound" && (case["smtp"].is_null() || recipient.contains('@'))
}

/// A daemon with the rules of a file, whose front door speaks this protocol.
fn daemon_of(file: &File, protocol: &str) -> TestBed {
    let domains = recipient_domains(&file.cases.iter().collect::<Vec<_>>());
    started(
        Config::new()
            .listener(Listener::maildir())
            .file("rules.json", file.rules.to_string())
            .with(&format!(
                "[[tenant]]\nname = \"corpus\"\ndomains = {domains}\npolicy = \"rules.json\""
            ))
            .with(&front_door::table(&format!(
                "protocols = [{protocol:?}]\ncertificates-requested = true"
            ))),
    )
}

/// By HTTP, whose contexts can say everything.
fn play_by_http() -> Played {
    let mut played = Played::default();
    for file in with_recipients() {
        let daemon = daemon_of(&file, "http");
        let contexts: String = file
            .cases
            .iter()
            .map(|case| format!("{}\n", case["context"]))
            .collect();
        let kind = "Content-Type: application/x-ndjson";
        let options = ["--data-binary", &contexts, "--header", kind];
        let (status, verdicts) = curl(&daemon, "/v1/evaluate?tenant=corpus", &options);
        assert_eq!(status, 200, "{verdicts}");
        assert_eq!(verdicts.lines().count(), file.cases.len());
        for (case, line) in file.cases.iter().zip(verdicts.lines()) {
            let mut verdict: Value = serde_json::from_str(line).expect("JSON");
            verdict.as_object_mut().expect("an object").remove("text");
            assert_eq!(verdict, case["verdict"], "{}: {}", file.name, case["name"]);
            played.asked += 1;
        }
    }
    played
}

fn hold_against(reply: Option<&str>, verdict: &Value, name: &str) {
    if verdict["verdict"] == "accept" {
        assert_eq!(reply, None, "{name}");
        return;
    }
    let reply = reply.unwrap_or_else(|| panic!("{name}: it is taken"));
    let word = |field: &str| verdict[field].as_str().unwrap_or_default();
    let begin = format!("{} {} ", verdict["code"], word("enhanced"));
    assert!(reply.starts_with(&begin), "{name}: {reply}, not {verdict}");
    assert!(
        reply.contains(&format!("({})", word("failed"))),
        "{name}: {reply}"
    );
}

const BEGIN: &str = "<!-- what a test has asked by each way -->\n";
const END: &str = "<!-- end -->\n";

/// The table of the documentation says how many cases of the corpus each way can tell, and what it cannot.
/// `UPDATE_GOLDEN=1` writes it.
#[test]
fn each_way_has_the_replies_of_a_session() {
    let ways = thread::scope(|scope| {
        let players = [
            ("Postfix", scope.spawn(|| play(by_postfix, "policy", false))),
            ("Exim", scope.spawn(|| play(by_exim, "policy", true))),
            (
                "milter (Sendmail)",
                scope.spawn(|| play(by_milter, "milter", true)),
            ),
            ("HTTP", scope.spawn(play_by_http)),
        ];
        players.map(|(name, player)| (name, player.join().expect("a player")))
    });
    let expected = table(&ways);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/integrations/README.md");
    let text = fs::read_to_string(&path).expect("the page");
    let (before, rest) = text.split_once(BEGIN).expect("the beginning of the table");
    let (found, after) = rest.split_once(END).expect("the end of the table");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).expect("it is written");
        return;
    }
    assert_eq!(
        found, expected,
        "docs/integrations/README.md tells of other cases than were asked; UPDATE_GOLDEN=1 writes it"
    );
}

fn table(ways: &[(&str, Played)]) -> String {
    let facts: BTreeSet<&str> = ways
        .iter()
        .flat_map(|(_, it)| it.untold.keys().copied())
        .collect();
    let row = |name: &str, value: &dyn Fn(&Played) -> usize| {
        let cells: String = ways
            .iter()
            .map(|(_, played)| match value(played) {
                0 => " |".to_owned(),
                count => format!(" {count} |"),
            })
            .collect();
        format!("| {name} |{cells}\n")
    };
    let names: String = ways.iter().map(|(name, _)| format!(" {name} |")).collect();
    let mut table = format!("| |{names}\n|---|{}\n", "---|".repeat(ways.len()));
    table += &row("same verdict as in the corpus", &|played| played.asked);
    for fact in facts {
        table += &row(&format!("not told: {fact}"), &|played| {
            played.untold.get(fact).copied().unwrap_or_default()
        });
    }
    table
}
