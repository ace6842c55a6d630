//! What is shown of a change before it is saved, and the question whether it is to be.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use portcullis::{Connector, Context, Direction, Mode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::questions::ask;
use crate::cli::output;
use crate::cli::paint::{self, Painter, printable, printable_lines};
use crate::cli::remembered::Remembered;
use crate::cli::{policy, report};
use crate::decisions;
use crate::edit::effect::{Comparison, Effect, difference};
use crate::edit::{Checked, Content, EditError, Editor, Note};

/// What is said where there is nothing to compare with.
const UNTOLD: &str =
    "what it changes for known messages cannot be told: the rules before are not valid\n";

/// The longest line of a log, in octets.
const LONGEST: u64 = 1 << 20;

/// How a change is saved.
#[derive(Args)]
pub struct Save {
    /// Ask nothing, and save what has no errors
    #[arg(long, short)]
    yes: bool,
    /// Why, for the history
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// Who, for the history [default: the user]
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
    /// Messages of before, to show the effect on: a context as JSON in each line, or a line with a field "context"
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The configuration of a server that has these rules, to show the effect on the mail that it remembers
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What somebody says to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is to be saved.
    Yes,
    /// It is to be forgotten.
    No,
    /// The questions are to be asked again.
    Edit,
}

impl Save {
    /// Whether questions are asked.
    pub fn asks(&self) -> bool {
        !self.yes
    }

    /// Shows what a change means, and asks whether it is to be saved. `names` are the connectors that it is about.
    ///
    /// # Errors
    /// If it cannot be shown.
    pub async fn review(
        &self,
        editor: &Editor,
        before: &Content,
        checked: &Checked,
        names: &[String],
        can_edit: bool,
    ) -> anyhow::Result<Answer> {
        let rules = &checked.rules;
        let policy = editor.engine().load_rules("rules", rules).await?;
        let connectors = policy.connectors().await?;
        for connector in connectors
            .iter()
            .filter(|connector| names.contains(&connector.name))
        {
            output::tell(&format!("{}\n", printable(&meaning(connector))));
        }
        if !rules.summary.warnings.is_empty() {
            show_problems(editor.path(), checked.text(), &rules.summary.warnings);
        }
        let painter = Painter(paint::wanted(&std::io::stderr()));
        let difference = difference(&before.text, checked.text(), ("before", "after"));
        output::tell(&coloured(&difference, painter));
        if let Some(log) = &self.log {
            output::tell(&self.effect(editor, before, checked, log).await?);
        }
        if let Some(config) = &self.config {
            let effect = self.effect_on_remembered(editor, before, checked, config);
            output::tell(&effect.await?);
        }
        if rules.summary.tests > 0 {
            output::tell(&format!(
                "{} tests of the document pass\n",
                rules.summary.tests
            ));
        }
        if self.yes {
            return Ok(Answer::Yes);
        }
        let choices = match can_edit {
            true => "Save it? yes, no, or edit (ask again)",
            false => "Save it? yes or no",
        };
        Ok(match ask(choices, "no")?.to_lowercase().as_str() {
            "y" | "yes" => Answer::Yes,
            "e" | "edit" if can_edit => Answer::Edit,
            _ => Answer::No,
        })
    }

    async fn effect(
        &self,
        editor: &Editor,
        before: &Content,
        checked: &Checked,
        log: &Path,
    ) -> anyhow::Result<String> {
        let cannot = || format!("cannot read {}", log.display());
        let before = match editor.check(before.text.clone()).await {
            Ok(before) => before,
            Err(EditError::Rejected { .. }) => {
                return Ok(UNTOLD.into());
            }
            Err(error) => return Err(error.into()),
        };
        let mut comparison =
            Comparison::new(editor.engine(), &before.rules, &checked.rules).await?;
        let mut input = BufReader::new(File::open(log).with_context(cannot)?);
        let mut others = 0_u64;
        loop {
            let mut line = Vec::new();
            let mut part = std::io::Read::take(&mut input, LONGEST);
            if part.read_until(b'\n', &mut line).with_context(cannot)? == 0 {
                break;
            }
            match context_of(&line) {
                Some(context) => comparison.messages(&context, 1).await?,
                None if line.trim_ascii().is_empty() => {}
                None => others += 1,
            }
        }
        Ok(told(&comparison.end(), others, None))
    }

    /// What the change would have meant for the mail that a server remembers.
    async fn effect_on_remembered(
        &self,
        editor: &Editor,
        before: &Content,
        checked: &Checked,
        config: &Path,
    ) -> anyhow::Result<String> {
        let remembered = Remembered::of_policy(config, editor.path())?;
        let before = match editor.check(before.text.clone()).await {
            Ok(before) => before,
            Err(EditError::Rejected { .. }) => return Ok(UNTOLD.into()),
            Err(error) => return Err(error.into()),
        };
        let mut comparison =
            Comparison::new(editor.engine(), &before.rules, &checked.rules).await?;
        let mut first = i64::MAX;
        for flow in remembered.flows()? {
            if let Ok(context) = Context::from_json(&flow.context) {
                comparison.messages(&context, flow.count).await?;
                first = first.min(flow.first);
            }
        }
        let since = (first < i64::MAX).then(|| decisions::moment(first));
        Ok(told(&comparison.end(), 0, since.as_deref()))
    }

    /// The note of a change.
    pub fn note(&self, action: String) -> Note {
        let note = note(action);
        Note {
            author: self.author.clone().unwrap_or(note.author),
            comment: self.message.clone().unwrap_or_default(),
            action: note.action,
        }
    }
}

/// The note of a change that the user of this process makes.
pub fn note(action: String) -> Note {
    let names = ["SUDO_USER", "USER", "LOGNAME"];
    let known = names.iter().find_map(|name| std::env::var(name).ok());
    Note {
        author: known.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw())),
        action,
        comment: String::new(),
    }
}

#[derive(Deserialize)]
struct Logged<'a> {
    #[serde(borrow)]
    context: &'a RawValue,
}

fn context_of(line: &[u8]) -> Option<Context> {
    let line = std::str::from_utf8(line).ok()?;
    let logged: Option<Logged> = serde_json::from_str(line).ok();
    Context::from_json(logged.map_or(line, |logged| logged.context.get())).ok()
}

fn told(effect: &Effect, others: u64, since: Option<&str>) -> String {
    // A server decides about each recipient.
    let unit = if since.is_some() {
        "decisions"
    } else {
        "messages"
    };
    let since = since.map_or_else(String::new, |since| format!(" since {since}"));
    let mut text = String::new();
    for ((was, is), changed) in &effect.changed {
        let count = match (*was, *is) {
            ("delivered", "delivered") => "would be delivered another way".into(),
            (was, is) => format!("would be {is}, and were {was}"),
        };
        text.push_str(&format!(
            "{} of {} {unit}{since} {count}:\n",
            changed.messages, effect.messages
        ));
        for (from, to, connector) in &changed.examples {
            let connector = match connector.as_str() {
                "" => String::new(),
                connector => format!(": {}", printable(connector)),
            };
            text.push_str(&format!(
                "  <{}> to <{}>{connector}\n",
                printable(from),
                printable(to)
            ));
        }
    }
    if effect.changed.is_empty() {
        text.push_str(&format!(
            "of {} {unit}{since}, none would have another outcome\n",
            effect.messages
        ));
    }
    if effect.undecided > 0 {
        text.push_str(&format!(
            "of {} it cannot be told: not all facts are known of them ([log] clients)\n",
            effect.undecided
        ));
    }
    if others > 0 {
        text.push_str(&format!("{others} lines of the log have no context\n"));
    }
    text
}

/// What a connector does, in a sentence.
fn meaning(connector: &Connector) -> String {
    let Connector {
        name,
        applies_to,
        requires,
        ..
    } = connector;
    match (connector.direction, connector.mode) {
        (_, Mode::Disabled) => format!("{name} is switched off and does nothing."),
        (Direction::Inbound, Mode::Enforce) => {
            format!("{name} refuses mail {applies_to} unless it has: {requires}.")
        }
        (Direction::Inbound, Mode::Audit) => {
            format!(
                "{name} reports mail {applies_to} unless it has: {requires}. It refuses nothing."
            )
        }
        (Direction::Outbound, Mode::Enforce) => {
            format!("{name} delivers mail {applies_to}: {requires}.")
        }
        (Direction::Outbound, Mode::Audit) => {
            format!("{name} reports which mail {applies_to} could not be delivered: {requires}.")
        }
    }
}

/// A text that the evaluator takes; otherwise it is shown what is wrong with it.
///
/// # Errors
/// If the evaluator does not answer.
pub async fn checked(editor: &Editor, text: String) -> anyhow::Result<Option<Checked>> {
    match editor.check(text).await {
        Ok(checked) => Ok(Some(checked)),
        Err(EditError::Rejected {
            path,
            text,
            problems,
        }) => {
            show_problems(&path, &text, &problems);
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn show_problems(path: &Path, text: &str, problems: &[portcullis::Problem]) {
    let colour = paint::wanted(&std::io::stderr());
    output::tell(&report::problems(
        &path.display().to_string(),
        text,
        problems,
        colour,
    ));
}

fn coloured(difference: &str, painter: Painter) -> String {
    let line = |line: &str| {
        let text = printable_lines(line);
        match line.as_bytes().first() {
            Some(b'+') => format!("{}\n", painter.good(text)),
            Some(b'-') => format!("{}\n", painter.bad(text)),
            _ => format!("{text}\n"),
        }
    };
    difference.lines().map(line).collect()
}

/// Saves what was reviewed.
///
/// # Errors
/// If the file has changed meanwhile, or cannot be written.
pub async fn save(
    editor: &Editor,
    save: &Save,
    before: &Content,
    checked: Checked,
    action: String,
) -> anyhow::Result<ExitCode> {
    let saved = editor
        .save(checked, &before.digest, save.note(action))
        .await?;
    output::result(&format!(
        "{}: version {} is saved; a server that watches the file takes it now\n",
        printable(&editor.path().display().to_string()),
        saved.version
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Shows a change that is made, and saves it if it may be.
pub async fn save_text(
    editor: &Editor,
    how: &Save,
    before: Content,
    after: String,
    action: String,
    names: &[String],
) -> anyhow::Result<ExitCode> {
    if after == before.text {
        let path = printable(&editor.path().display().to_string());
        output::tell(&format!("{path}: nothing changes\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let Some(checked) = checked(editor, after).await? else {
        return Ok(ExitCode::from(1));
    };
    match how.review(editor, &before, &checked, names, false).await? {
        Answer::Yes => save(editor, how, &before, checked, action).await,
        _ => Ok(not_saved()),
    }
}

/// The exit code of a change that is not to be.
pub fn not_saved() -> ExitCode {
    output::tell("nothing is changed\n");
    ExitCode::from(1)
}

/// An editor of a document, for one command.
pub fn editor(path: &Path) -> anyhow::Result<Editor> {
    if path.extension().is_none_or(|extension| extension != "json") {
        bail!(
            "{}: only a rules document (.json) can be changed",
            path.display()
        );
    }
    Ok(Editor::new(policy::engine(policy::limits())?, path)?)
}
