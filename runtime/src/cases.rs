//! Cases that a policy has to pass before it is taken, in the form of a rules document's `tests`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portcullis_types::{VERDICT_FIELDS, Verdict, is_part_of, write_defaults};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::context::Context;
use crate::failure::EvaluationError;
use crate::sandbox::loader::Loader;
use crate::sandbox::policy::LoadedPolicy;
use crate::sandbox::timeout::rest;

/// Cases of a policy.
const MOST_CASES: usize = 1000;
/// How often a question is asked that the machine had no time for, and how long it rests between.
const ATTEMPTS: usize = 3;
const REST: Duration = Duration::from_secs(1);
/// Characters of a value that are told.
const MOST_TOLD: usize = 200;
/// Cases are not as they must be, or a policy does not pass one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
    #[error("{}:{}: {failed}", path.display(), failed.line)]
    Fails {
        /// The file.
        path: PathBuf,
        /// The case.
        failed: FailedCase,
    },
    /// The policy answers nobody.
    #[error("it answers no question: {0}")]
    Mute(EvaluationError),
}

/// A case that a policy does not pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("the test {name:?} fails: {what}")]
#[non_exhaustive]
pub struct FailedCase {
    /// The case.
    pub name: String,
    /// The line of its context in the file.
    pub line: usize,
    /// What it is instead, or why there is no verdict.
    pub what: String,
}

/// A file of cases that policies can be held against.
pub struct Cases {
    path: PathBuf,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    line: usize,
    context: Context,
    expect: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    name: String,
    #[serde(borrow)]
    context: &'a RawValue,
    expect: Map<String, Value>,
}

/// Where the cases of a component stand if nothing else is said: `NAME.tests.json` beside `NAME.wasm`. The tests of a
/// rules document are in it.
pub fn cases_beside(policy: &Path) -> Option<PathBuf> {
    let is_component = policy.extension().is_some_and(|it| it == "wasm");
    is_component.then(|| policy.with_extension("tests.json"))
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
        let text = std::str::from_utf8(bytes)
            .map_err(|error| malformed(format!("these are no tests: {error}")))?;
        let written: Vec<Written> = serde_json::from_str(text)
            .map_err(|error| malformed(format!("these are no tests: {error}")))?;
        if written.len() > MOST_CASES {
            return Err(malformed(format!("there are more than {MOST_CASES} tests")));
        }
        let cases = written.into_iter().map(|written| {
            let (name, line) = (written.name.clone(), line_of(text, written.context.get()));
            let wrong = |reason| malformed(format!("line {line}: the test {name:?}: {reason}"));
            Case::of(written, line).map_err(wrong)
        });
        Ok(Cases {
            path: path.to_owned(),
            cases: cases.collect::<Result<_, _>>()?,
        })
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// Holds a policy against the cases.
    ///
    /// # Errors
    /// Names the first that it does not pass.
    pub(crate) async fn run(
        &self,
        loader: &Loader,
        policy: &Arc<LoadedPolicy>,
    ) -> Result<(), CasesError> {
        for case in &self.cases {
            let tried = case.run(loader, policy, true).await;
            tried.map_err(|failed| CasesError::Fails {
                path: self.path.clone(),
                failed,
            })?;
        }
        Ok(())
    }

    /// Holds a policy against the cases, and gives all that it does not pass.
    pub(crate) async fn run_all(
        &self,
        loader: &Loader,
        policy: &Arc<LoadedPolicy>,
    ) -> Vec<FailedCase> {
        let mut failed = Vec::new();
        for case in &self.cases {
            failed.extend(case.run(loader, policy, false).await.err());
        }
        failed
    }
}

/// The line on which a part of a text begins.
fn line_of(text: &str, part: &str) -> usize {
    let offset = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    memchr::memchr_iter(b'\n', before).count() + 1
}

impl Case {
    fn of(written: Written, line: usize) -> Result<Case, String> {
        let Written {
            name,
            context,
            expect,
        } = written;
        let context =
            Context::from_json(context.get()).map_err(|error| format!("context: {error}"))?;
        let mut fields = expect.keys();
        if let Some(unknown) = fields.find(|key| !VERDICT_FIELDS.contains(&key.as_str())) {
            return Err(format!("no verdict has a field {unknown:?}"));
        }
        if !expect.contains_key("verdict") {
            return Err("expect names no verdict".into());
        }
        Ok(Case {
            name,
            line,
            context,
            expect,
        })
    }

    async fn run(
        &self,
        loader: &Loader,
        policy: &Arc<LoadedPolicy>,
        patiently: bool,
    ) -> Result<(), FailedCase> {
        let fails = |what: String| FailedCase {
            name: self.name.clone(),
            line: self.line,
            what,
        };
        let verdict = ask(loader, policy, &self.context, patiently).await;
        let verdict = verdict.map_err(|error| fails(error.to_string()))?;
        let mut verdict = serde_json::to_value(&verdict).unwrap_or_default();
        write_defaults(&mut verdict);
        // Of another verdict the other fields say nothing.
        let first = self.expect.get_key_value("verdict");
        for (field, expected) in first.into_iter().chain(&self.expect) {
            let found = verdict.get(field).unwrap_or(&Value::Null);
            if !is_part_of(expected, found) {
                let told = |value: &Value| -> String {
                    value.to_string().chars().take(MOST_TOLD).collect()
                };
                let why = match (field.as_str(), verdict.get("failed")) {
                    ("verdict", Some(failed)) => format!(" (failed: {})", told(failed)),
                    _ => String::new(),
                };
                let (found, expected) = (told(found), told(expected));
                return Err(fails(format!("{field} is {found}{why}, not {expected}")));
            }
        }
        Ok(())
    }
}

/// Asks a policy; patiently, if an answer decides what is in force: where the machine has too much to do, it is asked
/// again.
async fn ask(
    loader: &Loader,
    policy: &Arc<LoadedPolicy>,
    context: &Context,
    patiently: bool,
) -> Result<Verdict, EvaluationError> {
    let mut attempt = 1;
    loop {
        let answer = loader.try_out(policy, context).await;
        match &answer {
            Err(error) if patiently && error.failure.is_transient() && attempt < ATTEMPTS => {}
            _ => return answer,
        }
        attempt += 1;
        rest(REST).await;
    }
}

/// Asks a policy that others have written about a message in either direction. One that knows one direction only may
/// fail in the other; one that fails in both is of no use.
///
/// # Errors
/// If it answers neither.
pub async fn probe(
    loader: &Loader,
    policy: &Arc<LoadedPolicy>,
    patiently: bool,
) -> Result<(), CasesError> {
    let (from, to) = ("alice@example.org", "bob@example.com");
    let localhost = std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST);
    let inbound = Context::inbound(localhost, from, to).helo("mail.example");
    let outbound = Context::outbound(from, to).helo("mail.example");
    let inbound = ask(loader, policy, &inbound, patiently).await;
    let Err(error) = inbound else {
        return Ok(());
    };
    let outbound = ask(loader, policy, &outbound, patiently).await;
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
                "cases.json: line 1: the test \"one\": expect names no verdict",
            ),
            (
                case(r#""expect": {"verdict": "accept", "verdcit": 1}"#),
                "cases.json: line 1: the test \"one\": no verdict has a field \"verdcit\"",
            ),
            (
                case(r#""expect": {"verdict": "accept"}"#).replace("inbound", "sideways"),
                "cases.json: line 1: the test \"one\": context: ",
            ),
        ] {
            let found = read(&text).err().unwrap_or_default();
            assert!(found.starts_with(error), "{found}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_told_about(text in "[\\[\\]{}\",:a-z0-9 ]{0,60}") {
            let _ = read(&text);
        }
    }
}
