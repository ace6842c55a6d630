//! The corpus of verdicts through each front door: each case whose facts it can tell has the reply of our own session.

use std::collections::BTreeMap;

use portcullis_tests::front_door::{self, Asking};
use portcullis_tests::{Config, Listener};
use serde_json::Value;

use super::started;
use crate::corpus::{corpus, recipient_domains};

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
fn by_policy(asking: &mut Asking, context: &Value) -> Result<Option<String>, &'static str> {
    let told = Told::of(context)?;
    let mut attributes = vec![
        ("protocol_state", "RCPT".to_owned()),
        ("client_address", told.client),
        ("client_port", "40000".into()),
        ("helo_name", told.helo),
        ("sender", text(context, "mail-from").to_owned()),
        ("recipient", text(context, "rcpt-to").to_owned()),
        ("encryption_protocol", told.version.unwrap_or_default()),
    ];
    match &told.certificate {
        None => attributes.push(("ccert_fingerprint", String::new())),
        Some(certificate) => attributes.extend(certificate_attributes(context, certificate)?),
    }
    let attributes: Vec<(&str, &str)> = attributes
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let action = asking.policy(&attributes);
    let is_taken = action == "DUNNO" || action.starts_with("WARN ");
    Ok((!is_taken).then_some(action))
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

/// Plays the corpus; gives how many cases were asked, and for each fact that cannot be told how many were not.
fn play(way: Way, protocol: &str) -> (usize, BTreeMap<&'static str, usize>) {
    let (mut asked, mut untold) = (0, BTreeMap::new());
    for file in corpus() {
        let cases: Vec<&Value> = file.cases.iter().collect();
        let cases: Vec<&Value> = cases
            .into_iter()
            .filter(|case| case["context"]["direction"] == "inbound")
            .filter(|case| {
                case["smtp"].is_null()
                    || case["context"]["rcpt-to"]
                        .as_str()
                        .is_some_and(|to| to.contains('@'))
            })
            .collect();
        if cases.is_empty() {
            continue;
        }
        let domains = recipient_domains(&cases);
        let config = Config::new()
            .listener(Listener::maildir())
            .file("rules.json", file.rules.to_string())
            .with(&format!(
                "[[tenant]]\nname = \"corpus\"\ndomains = {domains}\npolicy = \"rules.json\""
            ))
            .with(&front_door::table(&format!(
                "protocols = [{protocol:?}]\ncertificates-requested = true"
            )));
        let daemon = started(config);
        let mut asking = Asking::connect(daemon.folder());
        if protocol == "milter" {
            asking.negotiate();
        }
        let reads_header = file.rules.to_string().contains("match-header-from");
        for case in cases {
            if reads_header && protocol == "policy" {
                *untold.entry("the From header").or_default() += 1;
                continue;
            }
            let reply = match way(&mut asking, &case["context"]) {
                Ok(reply) => reply,
                Err(fact) => {
                    *untold.entry(fact).or_default() += 1;
                    continue;
                }
            };
            let is_no_address = |reply: &String| reply.starts_with("451 4.1.");
            if case["smtp"] == false && reply.as_ref().is_some_and(is_no_address) {
                *untold
                    .entry("an address that SMTP does not have")
                    .or_default() += 1;
                continue;
            }
            asked += 1;
            let name = format!("{}: {}", file.name, case["name"]);
            hold_against(reply.as_deref(), &case["verdict"], &name);
        }
    }
    (asked, untold)
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

#[test]
fn by_policy_delegation() {
    let (asked, untold) = play(by_policy, "policy");
    eprintln!("{asked} cases were asked; not {untold:#?}");
    // A case that is left out has to say so itself.
    assert!(asked > 250, "only {asked} cases were asked");
}

#[test]
fn by_milters() {
    let (asked, untold) = play(by_milter, "milter");
    eprintln!("{asked} cases were asked; not {untold:#?}");
    assert!(asked > 200, "only {asked} cases were asked");
}
