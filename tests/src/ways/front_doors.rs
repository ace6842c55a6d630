//! The protocols by which other mail servers ask.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::smtp::put;
use super::{Answer, Loaded, Way, no_session, said};
use crate::front_door::{self, Asking};
use crate::{Config, Listener, TestBed};

/// A way of asking: the reply by which it is refused, if it is, or the fact that it cannot tell.
type Ask = fn(&mut Asking, &Value) -> Result<Option<String>, &'static str>;

/// A front door, and a server behind it.
pub struct FrontDoor {
    name: &'static str,
    protocol: &'static str,
    tells_header: bool,
    /// `None` for HTTP, whose answers are verdicts.
    ask: Option<Ask>,
    server: Option<(TestBed, Asking)>,
    reads_header: bool,
}

/// The front door as the server of that name uses it.
pub fn named(name: &str) -> Option<FrontDoor> {
    let (name, protocol, tells_header, ask) = match name {
        "postfix" => ("Postfix", "policy", false, Some(by_postfix as Ask)),
        "exim" => ("Exim", "policy", true, Some(by_exim as Ask)),
        "milter" => ("milter (Sendmail)", "milter", true, Some(by_milter as Ask)),
        "http" => ("HTTP", "http", true, None),
        _ => return None,
    };
    Some(FrontDoor {
        name,
        protocol,
        tells_header,
        ask,
        server: None,
        reads_header: false,
    })
}

impl Way for FrontDoor {
    fn name(&self) -> &'static str {
        self.name
    }

    fn load(&mut self, policy: &Loaded<'_>) -> Result<(), String> {
        self.server = None;
        self.reads_header = policy.rules.to_string().contains("match-header-from");
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config::new()
            .listener(Listener::maildir())
            .tenant_with("cases", &policy.domains, put(&folder, policy))
            .with(&front_door::table(&format!(
                "protocols = [{:?}]\ncertificates-requested = true",
                self.protocol
            )));
        let server = TestBed::start_in(folder, config);
        server.wait_for_log("listening for mail servers");
        let mut asking = Asking::connect(server.folder());
        if self.protocol == "milter" {
            asking.negotiate();
        }
        self.server = Some((server, asking));
        Ok(())
    }

    fn ask(&mut self, context: &Value) -> Answer {
        let (server, asking) = self.server.as_mut().expect("a policy is loaded first");
        let Some(ask) = self.ask else {
            return by_http(server, context);
        };
        if let Some(reason) = no_session(context) {
            return Answer::Skip(reason);
        }
        if !text(context, "rcpt-to").contains('@') {
            return Answer::Skip(NO_ADDRESS);
        }
        if self.reads_header && !self.tells_header {
            return Answer::Skip("the From header");
        }
        match ask(asking, context) {
            Err(fact) => Answer::Skip(fact),
            Ok(None) => Answer::Reply(json!({ "code": 250 })),
            Ok(Some(reply)) if reply.starts_with("451 4.1.") => Answer::Skip(NO_ADDRESS),
            Ok(Some(reply)) => {
                let (code, text) = reply.split_once(' ').unwrap_or((&reply, ""));
                let mut said = said(code.parse().expect("a code"), text);
                if let (Value::Object(said), false) = (&mut said, context["header-from"].is_null())
                {
                    // At RCPT TO the header is not there: another connector may refuse than with it.
                    said.remove("connector");
                }
                Answer::Reply(said)
            }
        }
    }
}

const NO_ADDRESS: &str = "an address that SMTP does not have";

/// By HTTP, whose contexts can say everything.
fn by_http(server: &TestBed, context: &Value) -> Answer {
    let body = context.to_string();
    let mut stream = UnixStream::connect(server.folder().join("ask")).expect("a connection");
    write!(
        stream,
        "POST /v1/evaluate?tenant=cases HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("a request is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    match head.starts_with("HTTP/1.1 200 ") {
        true => Answer::Verdict(body),
        false => Answer::Error(body["error"].to_string()),
    }
}

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
