//! The wizard: plain lines, which work over a serial console and for screen readers. Each answer is checked by the
//! evaluator before the next question.

use std::io::{self, BufRead};

use anyhow::{Context as _, bail};
use portcullis::{Direction, Problem, Severity};
use serde_json::Value;

use super::fields::{Connector, Field, Given, field};
use crate::cli::output;
use crate::cli::paint::printable;
use crate::edit::{EditError, Editor, text};

/// The longest answer, in octets.
const LONGEST: u64 = 64 << 10;

/// A field that is asked for.
struct Question {
    option: &'static str,
    text: &'static str,
    /// What a blank answer is.
    default: &'static str,
    is_asked: fn(&Asked) -> bool,
}

/// What has been answered so far.
struct Asked<'a> {
    connector: &'a Connector,
    direction: Direction,
}

impl Asked<'_> {
    fn has(&self, option: &str) -> bool {
        self.is(option, |values| !values.is_empty())
    }

    fn is(&self, option: &str, test: impl Fn(&[String]) -> bool) -> bool {
        field(option).is_some_and(|field| test(&field.get(self.connector, self.direction)))
    }

    fn level(&self, levels: &[&str]) -> bool {
        self.is("level", |values| {
            values.iter().any(|value| levels.contains(&value.as_str()))
        })
    }
}

const fn question(
    option: &'static str,
    text: &'static str,
    default: &'static str,
    is_asked: fn(&Asked) -> bool,
) -> Question {
    Question {
        option,
        text,
        default,
        is_asked,
    }
}

/// In the order of Exchange's wizard.
const INBOUND: &[Question] = &[
    question("name", "Name of the connector", "", |_| true),
    question("comment", "A remark, if any", "", |_| true),
    question(
        "mode",
        "enforce, audit (reports, and refuses nothing) or disabled",
        "audit",
        |_| true,
    ),
    question(
        "from",
        "Senders' domains, such as *.contosobank.com (none: it is for addresses or certificates)",
        "",
        |_| true,
    ),
    question(
        "from-ip",
        "Addresses of the partner's servers, such as 203.0.113.0/24",
        "",
        |asked| !asked.has("from"),
    ),
    question(
        "from-certificate",
        "Names in the certificates of the partner's servers",
        "",
        |asked| !asked.has("from") && !asked.has("from-ip"),
    ),
    question(
        "to",
        "Only for these recipients' domains (none: all)",
        "",
        |_| true,
    ),
    question(
        "tls",
        "Refuse mail that is not encrypted? yes or no",
        "yes",
        |_| true,
    ),
    question(
        "min-version",
        "The least TLS version, such as TLSv1.3 (none: any)",
        "",
        |asked| asked.has("tls"),
    ),
    question(
        "certificate-name",
        "Refuse mail without a trusted certificate with one of these names (none: no certificate)",
        "",
        |asked| !asked.has("from-certificate"),
    ),
    question(
        "source-ip",
        "Refuse mail that is not from these addresses (none: any)",
        "",
        |asked| !asked.has("from-ip"),
    ),
    question(
        "reply",
        "Text for refused senders, such as whom to ask",
        "",
        |_| true,
    ),
];

const OUTBOUND: &[Question] = &[
    question("name", "Name of the connector", "", |_| true),
    question("comment", "A remark, if any", "", |_| true),
    question(
        "mode",
        "enforce, audit (delivers as without it, and reports) or disabled",
        "audit",
        |_| true,
    ),
    question(
        "to",
        "Recipients' domains, such as *.contosobank.com",
        "",
        |_| true,
    ),
    question(
        "smart-host",
        "Hosts to deliver to, such as mx.fabrikam.com (none: the MX of the domain)",
        "",
        |_| true,
    ),
    question(
        "level",
        "TLS: opportunistic (if offered), encrypt (always), verify (a trusted certificate) or name (with a certain name)",
        "encrypt",
        |_| true,
    ),
    question(
        "server-name",
        "Names that the server's certificate must have one of",
        "",
        |asked| asked.level(&["name"]),
    ),
    question(
        "min-version",
        "The least TLS version, such as TLSv1.3 (none: any)",
        "",
        |asked| asked.level(&["encrypt", "verify", "name"]),
    ),
    question(
        "dane",
        "DANE: opportunistic (if there are records), mandatory or none",
        "opportunistic",
        |_| true,
    ),
    question(
        "mta-sts",
        "MTA-STS: opportunistic (if there is a policy) or none",
        "opportunistic",
        |_| true,
    ),
];

/// Codes of problems that an answer cannot have caused: there are further questions.
const UNFINISHED: [&str; 2] = ["missing-field", "failed-test"];

/// Stands for what has not been answered yet (RFC 2606 section 2).
const PLACEHOLDER: &str = "not-answered-yet.invalid";

/// Asks for what no option has given.
pub struct Wizard<'a> {
    editor: &'a Editor,
    /// The document without the connector, or with it as it is.
    document: &'a str,
    /// The connector that is changed, unless it is a new one.
    changed: Option<&'a str>,
}

impl<'a> Wizard<'a> {
    /// For a document in which a connector is changed, or a new one is added.
    pub fn new(editor: &'a Editor, document: &'a str, changed: Option<&'a str>) -> Self {
        Wizard {
            editor,
            document,
            changed,
        }
    }

    /// Asks for the fields of a connector. What it has already is the default, but the first time for a new one.
    ///
    /// # Errors
    /// If the input ends, or the evaluator does not answer.
    pub async fn fields(
        &self,
        connector: &mut Connector,
        direction: Direction,
        given: &Given,
        is_first: bool,
    ) -> anyhow::Result<()> {
        let is_new = is_first && self.changed.is_none();
        let questions = match direction {
            Direction::Inbound => INBOUND,
            Direction::Outbound => OUTBOUND,
        };
        for question in questions {
            let Some(field) = field(question.option) else {
                continue;
            };
            let asked = Asked {
                connector,
                direction,
            };
            if given.has(question.option) || !(question.is_asked)(&asked) {
                continue;
            }
            let default = match is_new {
                true => question.default.into(),
                false if field.is_flag() && !asked.has(question.option) => "no".into(),
                false => field.get(connector, direction).join(", "),
            };
            self.field(connector, direction, (question.text, &default), field)
                .await?;
        }
        Ok(())
    }

    async fn field(
        &self,
        connector: &mut Connector,
        direction: Direction,
        (question, default): (&str, &str),
        field: &Field,
    ) -> anyhow::Result<()> {
        loop {
            let answer = ask(question, default)?;
            let values = values(&answer, field);
            if field.is_flag() && values.iter().any(|value| value != "yes") {
                output::tell("  yes or no?\n");
                continue;
            }
            let mut changed = connector.clone();
            field.set(&mut changed, direction, &values);
            let problems = self.problems(&changed, direction, field).await?;
            if problems.is_empty() {
                *connector = changed;
                return Ok(());
            }
            for problem in problems {
                let hint = problem
                    .hint
                    .map(|hint| format!("; {hint}"))
                    .unwrap_or_default();
                output::tell(&format!(
                    "  {}{}\n",
                    printable(&problem.message),
                    printable(&hint)
                ));
            }
        }
    }

    /// What the evaluator says to a field of a connector that is not finished.
    async fn problems(
        &self,
        connector: &Connector,
        direction: Direction,
        field: &Field,
    ) -> anyhow::Result<Vec<Problem>> {
        let (text, number) = self.with(&complete(connector, direction))?;
        let problems = match self.editor.check(text).await {
            Ok(_) => return Ok(Vec::new()),
            Err(EditError::Rejected { problems, .. }) => problems,
            Err(error) => return Err(error.into()),
        };
        let own = format!("connectors[{number}]");
        let path = format!("{own}.{}", field.problem_path(direction));
        let is_about = |problem: &Problem| {
            let below = problem.path.strip_prefix(&path);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                || problem.path == own && problem.code.starts_with("duplicate-")
        };
        let counts = |problem: &Problem| {
            problem.severity == Severity::Error && !UNFINISHED.contains(&problem.code.as_str())
        };
        Ok(problems
            .into_iter()
            .filter(|problem| counts(problem) && is_about(problem))
            .collect())
    }

    /// The document with the connector, and the connector's number in it.
    fn with(&self, connector: &Connector) -> anyhow::Result<(String, usize)> {
        let names = text::names(self.document)?;
        Ok(match self.changed {
            Some(name) => {
                let number = names.iter().position(|known| known == name);
                (
                    text::update(self.document, name, connector)?,
                    number.unwrap_or_default(),
                )
            }
            None => (text::add(self.document, connector)?, names.len()),
        })
    }
}

/// A connector with all that it must have: only then is it held against the others.
fn complete(connector: &Connector, direction: Direction) -> Connector {
    let mut complete = connector.clone();
    let selectors = match direction {
        Direction::Inbound => "from",
        Direction::Outbound => "to",
    };
    let mut fill = |option: &str| {
        if let Some(field) = field(option) {
            field.set(&mut complete, direction, &[PLACEHOLDER.into()]);
        }
    };
    if !connector.contains_key(selectors) {
        fill(selectors);
    }
    let asked = Asked {
        connector,
        direction,
    };
    if asked.level(&["name"]) && !asked.has("server-name") {
        fill("server-name");
    }
    complete
}

fn values(answer: &str, field: &Field) -> Vec<String> {
    let trimmed = answer.trim();
    if matches!(trimmed, "" | "-") {
        return Vec::new();
    }
    match field.is_list() {
        true => trimmed
            .split([',', ' ', ';'])
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect(),
        false if field.is_flag() => match trimmed.to_lowercase().as_str() {
            "n" | "no" => Vec::new(),
            "y" | "yes" => vec!["yes".into()],
            // Neither, which is told.
            _ => vec![trimmed.into()],
        },
        false => vec![trimmed.into()],
    }
}

/// Asks a question; a blank answer is the default, and `-` is none.
///
/// # Errors
/// If there is no further answer.
pub fn ask(question: &str, default: &str) -> anyhow::Result<String> {
    let shown = match default {
        "" => String::new(),
        default => format!(" [{}]", printable(default)),
    };
    output::tell(&format!("{question}{shown}: "));
    let mut line = String::new();
    let input = io::stdin().lock();
    let read = io::Read::take(input, LONGEST)
        .read_line(&mut line)
        .context("cannot read the answer")?;
    if read == 0 {
        output::tell("\n");
        bail!("there is no answer, so nothing is changed; --yes asks nothing");
    }
    let answer = line.trim();
    Ok(match answer {
        "" => default.into(),
        answer => answer.into(),
    })
}

/// Asks which direction a new connector is of.
///
/// # Errors
/// If the input ends.
pub fn ask_direction() -> anyhow::Result<Direction> {
    loop {
        let answer = ask(
            "Mail from a partner (inbound) or to a partner (outbound)?",
            "inbound",
        )?;
        match answer.as_str() {
            "inbound" | "in" | "i" => return Ok(Direction::Inbound),
            "outbound" | "out" | "o" => return Ok(Direction::Outbound),
            other => output::tell(&format!(
                "{}: it is neither inbound nor outbound\n",
                printable(other)
            )),
        }
    }
}

/// The value of `direction` in a document.
pub fn direction_of(connector: &Connector) -> Direction {
    match connector.get("direction").and_then(Value::as_str) {
        Some("outbound") => Direction::Outbound,
        _ => Direction::Inbound,
    }
}
