//! Cases that a policy has to pass before it is taken, in the form of a rules document's `tests`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::time::sleep;

use crate::json::{self, VerdictJson};
use crate::sandbox::interface::{Context, Direction, Verdict};
use crate::sandbox::{EvaluationError, Module, Sandbox};

/// Cases of a policy.
const MOST_CASES: usize = 1000;
/// How often a question is asked that the machine had no time for, and how long it rests between.
const ATTEMPTS: usize = 3;
const REST: Duration = Duration::from_secs(1);
/// Characters of a value that are told.
const MOST_TOLD: usize = 200;
/// The fields of a verdict's JSON form.
const FIELDS: [&str; 13] = [
    "verdict",
    "connector",
    "connectors",
    "failed",
    "code",
    "enhanced",
    "text",
    "route",
    "tls",
    "dane",
    "mta-sts",
    "audit-tls",
    "audit",
];

/// Cases are not as they must be, or a policy does not pass one.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    /// The file is none of cases.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A case has another outcome, or none.
    #[error("{}: the test {name:?} fails: {what}", path.display())]
    Fails {
        /// The file.
        path: PathBuf,
        /// The case.
        name: String,
        /// What it is instead.
        what: String,
    },
    /// The policy answers nobody.
    #[error("it answers no question: {0}")]
    Mute(EvaluationError),
}

/// A file of cases.
pub struct Cases {
    path: PathBuf,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    context: Arc<Context>,
    expect: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    context: Box<RawValue>,
    expect: Map<String, Value>,
}

impl Cases {
    /// Reads a list of cases: `[{"name": …, "context": {…}, "expect": {"verdict": …}}]`.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(path: &Path, bytes: &[u8]) -> Result<Cases, CasesError> {
        let malformed = |reason: String| CasesError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let written: Vec<Written> = serde_json::from_slice(bytes)
            .map_err(|error| malformed(format!("these are no tests: {error}")))?;
        if written.len() > MOST_CASES {
            return Err(malformed(format!("there are more than {MOST_CASES} tests")));
        }
        let case = |written: Written| {
            let Written {
                name,
                context,
                expect,
            } = written;
            let wrong = |reason: String| malformed(format!("the test {name:?}: {reason}"));
            let context = json::parse_context(context.get())
                .map_err(|error| wrong(format!("context: {error}")))?;
            if let Some(unknown) = expect.keys().find(|key| !FIELDS.contains(&key.as_str())) {
                return Err(wrong(format!("no verdict has a field {unknown:?}")));
            }
            if !expect.contains_key("verdict") {
                return Err(wrong("expect names no verdict".into()));
            }
            Ok(Case {
                context: Arc::new(context),
                name,
                expect,
            })
        };
        let cases = written.into_iter().map(case);
        Ok(Cases {
            path: path.to_owned(),
            cases: cases.collect::<Result<_, _>>()?,
        })
    }

    /// Holds a policy against the cases.
    ///
    /// # Errors
    /// Names the first that it does not pass.
    pub async fn run(&self, sandbox: &Sandbox, policy: &Arc<Module>) -> Result<(), CasesError> {
        for case in &self.cases {
            let fails = |what: String| CasesError::Fails {
                path: self.path.clone(),
                name: case.name.clone(),
                what,
            };
            let verdict = ask(sandbox, policy, &case.context, true).await;
            let verdict = verdict.map_err(|error| fails(error.to_string()))?;
            let mut verdict = serde_json::to_value(VerdictJson::from(&verdict)).unwrap_or_default();
            complete(&mut verdict);
            for (field, expected) in &case.expect {
                let found = verdict.get(field).unwrap_or(&Value::Null);
                if !is_part_of(expected, found) {
                    let told = |value: &Value| -> String {
                        value.to_string().chars().take(MOST_TOLD).collect()
                    };
                    let (found, expected) = (told(found), told(expected));
                    return Err(fails(format!("{field} is {found}, not {expected}")));
                }
            }
        }
        Ok(())
    }
}

/// What the JSON form of a verdict leaves out, as a document's `tests` have it.
fn complete(verdict: &mut Value) {
    let is_delivery = verdict["verdict"] == "deliver";
    let Some(fields) = verdict.as_object_mut() else {
        return;
    };
    fields
        .entry("audit")
        .or_insert_with(|| Value::Array(Vec::new()));
    if !is_delivery {
        return;
    }
    let protection = |fields: &mut Map<String, Value>| {
        for key in ["dane", "mta-sts"] {
            fields.entry(key).or_insert_with(|| "opportunistic".into());
        }
    };
    protection(fields);
    if let Some(Value::Object(audited)) = fields.get_mut("audit-tls") {
        protection(audited);
    }
}

/// Whether what was expected is found; an object may have more fields than were expected.
fn is_part_of(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected
            .iter()
            .all(|(key, value)| found.get(key).is_some_and(|found| is_part_of(value, found))),
        _ => expected == found,
    }
}

/// Asks a policy; patiently, if an answer decides what is in force: where the machine has too much to do, it is asked
/// again.
async fn ask(
    sandbox: &Sandbox,
    policy: &Arc<Module>,
    context: &Arc<Context>,
    patiently: bool,
) -> Result<Verdict, EvaluationError> {
    let mut attempt = 1;
    loop {
        let answer = sandbox.try_out(policy, context).await;
        match &answer {
            Err(error) if patiently && error.failure.is_of_the_moment() && attempt < ATTEMPTS => {}
            _ => return answer,
        }
        attempt += 1;
        sleep(REST).await;
    }
}

/// Asks a policy that others have written about a message in either direction. One that knows one direction only may
/// fail in the other; one that fails in both is of no use.
///
/// # Errors
/// If it answers neither.
pub async fn probe(
    sandbox: &Sandbox,
    policy: &Arc<Module>,
    patiently: bool,
) -> Result<(), CasesError> {
    let context = |direction| {
        Arc::new(Context {
            direction,
            client_ip: Some(json::ip_address(std::net::Ipv4Addr::LOCALHOST.into())),
            helo: Some("mail.example".into()),
            tls: None,
            mail_from: "alice@example.org".into(),
            rcpt_to: "bob@example.com".into(),
            header_from: None,
            attributes: Vec::new(),
        })
    };
    let inbound = ask(sandbox, policy, &context(Direction::Inbound), patiently).await;
    let Err(error) = inbound else {
        return Ok(());
    };
    let outbound = ask(sandbox, policy, &context(Direction::Outbound), patiently).await;
    outbound.map(|_| ()).map_err(|_| CasesError::Mute(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Cases, String> {
        Cases::read(Path::new("cases.json"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_no_list_of_cases_is_told_with_its_place() {
        let context =
            r#""context": {"direction": "inbound", "mail-from": "", "rcpt-to": "a@b.test"}"#;
        let case = |rest: &str| format!("[{{\"name\": \"one\", {context}, {rest}}}]");
        assert!(read(&case(r#""expect": {"verdict": "accept"}"#)).is_ok());
        for (text, error) in [
            ("{}".to_owned(), "cases.json: these are no tests: "),
            (
                case(r#""expect": {}"#),
                "cases.json: the test \"one\": expect names no verdict",
            ),
            (
                case(r#""expect": {"verdict": "accept", "verdcit": 1}"#),
                "cases.json: the test \"one\": no verdict has a field \"verdcit\"",
            ),
            (
                case(r#""expect": {"verdict": "accept"}"#).replace("inbound", "sideways"),
                "cases.json: the test \"one\": context: ",
            ),
        ] {
            let found = read(&text).err().unwrap_or_default();
            assert!(found.starts_with(error), "{found}");
        }
    }

    #[test]
    fn what_is_left_out_can_be_expected() {
        let mut verdict = serde_json::json!({
            "verdict": "deliver", "route": "mx", "tls": {"level": "encrypt"}, "dane": "mandatory",
            "audit-tls": {"level": "verify"}
        });
        complete(&mut verdict);
        for (field, expected) in [
            ("dane", serde_json::json!("mandatory")),
            ("mta-sts", serde_json::json!("opportunistic")),
            ("audit-tls", serde_json::json!({"dane": "opportunistic"})),
            ("audit", serde_json::json!([])),
        ] {
            assert!(is_part_of(&expected, &verdict[field]), "{field}: {verdict}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_told_about(text in "[\\[\\]{}\",:a-z0-9 ]{0,60}") {
            let _ = read(&text);
        }
    }
}
