//! `portcullis add`, `edit`, `enforce`, `audit` and `remove`: connectors are changed where they stand.

mod fields;
mod questions;
mod review;
mod versions;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use portcullis::Direction;
use serde_json::Value;

pub use self::fields::quoted;
use self::fields::{Connector, FIELDS, Given, options};
use self::questions::{Wizard, ask_direction, direction_of};
use self::review::{Answer, Save, checked, not_saved, save, save_text};
pub use self::review::{editor, note};
pub use self::versions::{Diff, History, Restore};
use super::output;
use crate::edit::{Checked, Content, Editor, text};

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    Inbound,
    Outbound,
}

impl From<Way> for Direction {
    fn from(way: Way) -> Self {
        match way {
            Way::Inbound => Direction::Inbound,
            Way::Outbound => Direction::Outbound,
        }
    }
}

/// Add a connector to a rules document
///
/// Asks for what the options do not say, and shows the change before it is saved.
#[derive(Args)]
#[command(after_help = "Example:
  portcullis add rules.json
  portcullis add rules.json --name 'Contoso Bank' --from '*.contosobank.com' --tls --mode audit --yes")]
pub struct Add {
    /// The rules document
    rules: PathBuf,
    /// Mail from a partner, or to one
    #[arg(long, value_enum)]
    direction: Option<Way>,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    save: Save,
}

impl Add {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let editor = editor(&self.rules)?;
        let before = editor.read()?;
        // What is wrong already is mended first.
        if checked(&editor, before.text.clone()).await?.is_none() {
            return Ok(ExitCode::from(1));
        }
        let direction = match (self.direction, self.given.direction()?) {
            (Some(way), _) => way.into(),
            (None, Some(direction)) => direction,
            (None, None) if self.save.asks() => ask_direction()?,
            (None, None) => bail!("say which it is: --direction inbound, or outbound"),
        };
        let mut connector = Connector::new();
        connector.insert("direction".into(), Value::from(direction.name()));
        self.given.apply(&mut connector, direction)?;
        let mut draft = Draft {
            editor: &editor,
            before: &before,
            changed: None,
            connector,
            direction,
        };
        let asked = self.save.asks().then(|| self.given.clone());
        let checked = match draft.settle(&self.save, asked).await? {
            Ok(checked) => checked,
            Err(code) => return Ok(code),
        };
        if self.save.asks() {
            let rules = quoted(&self.rules.display().to_string());
            output::tell(&add_command(&rules, &draft.connector));
        }
        let action = format!("add {:?}", draft.name());
        save(&editor, &self.save, &before, checked, action).await
    }
}

/// The command that adds a connector to a document, whose name is quoted.
pub fn add_command(rules: &str, connector: &Connector) -> String {
    let direction = direction_of(connector);
    let options = options(connector, direction);
    format!("portcullis add {rules} --direction {direction}{options} --yes\n")
}

/// Change a connector of a rules document
///
/// Without options that say what, asks for each field.
#[derive(Args)]
#[command(after_help = "Example:
  portcullis edit rules.json 'Contoso Bank' --certificate-name '*.contosobank.com' --yes
An empty value takes a field away: --comment ''")]
pub struct Edit {
    /// The rules document
    rules: PathBuf,
    /// The connector's name
    connector: String,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    save: Save,
}

impl Edit {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let editor = editor(&self.rules)?;
        let before = editor.read()?;
        let old = editor.change(text::connector(&before.text, &self.connector))?;
        let direction = direction_of(&old);
        let mut connector = old.clone();
        self.given.apply(&mut connector, direction)?;
        let asks = self.given.is_empty();
        if asks && !self.save.asks() {
            bail!("say what is to be changed, such as --mode audit");
        }
        let mut draft = Draft {
            editor: &editor,
            before: &before,
            changed: Some(&self.connector),
            connector,
            direction,
        };
        let asked = asks.then(Given::default);
        let checked = match draft.settle(&self.save, asked).await? {
            Ok(checked) => checked,
            Err(code) => return Ok(code),
        };
        if self.save.asks() {
            output::tell(&self.command(&old, &draft.connector, direction));
        }
        let action = format!("edit {:?}", self.connector);
        save(&editor, &self.save, &before, checked, action).await
    }

    /// The command that would have done it.
    fn command(&self, old: &Connector, new: &Connector, direction: Direction) -> String {
        let rules = quoted(&self.rules.display().to_string());
        let mut line = format!("portcullis edit {rules} {}", quoted(&self.connector));
        for field in FIELDS.iter().filter(|field| field.is_of(direction)) {
            let (was, is) = (field.get(old, direction), field.get(new, direction));
            if was == is {
                continue;
            }
            match (field.is_flag(), is.is_empty()) {
                (true, true) => line.push_str(&format!(" --{}=no", field.option)),
                (true, false) => line.push_str(&format!(" --{}", field.option)),
                (false, true) => line.push_str(&format!(" --{} ''", field.option)),
                (false, false) => {
                    for value in is {
                        line.push_str(&format!(" --{} {}", field.option, quoted(&value)));
                    }
                }
            }
        }
        format!("{line} --yes\n")
    }
}

/// A connector that is being made or changed.
struct Draft<'a> {
    editor: &'a Editor,
    before: &'a Content,
    /// The connector that is changed, unless it is a new one.
    changed: Option<&'a str>,
    connector: Connector,
    direction: Direction,
}

impl Draft<'_> {
    fn name(&self) -> &str {
        let name = self.connector.get("name").and_then(Value::as_str);
        name.unwrap_or_default()
    }

    fn text(&self) -> Result<String, text::TextError> {
        match self.changed {
            Some(name) => text::update(&self.before.text, name, &self.connector),
            None => text::add(&self.before.text, &self.connector),
        }
    }

    /// Asks for what is not given, if anything is asked, and shows what comes of it, until it is to be saved; else gives
    /// the command's exit code.
    async fn settle(
        &mut self,
        save: &Save,
        mut asked: Option<Given>,
    ) -> anyhow::Result<Result<Checked, ExitCode>> {
        let wizard = Wizard::new(self.editor, &self.before.text, self.changed);
        let mut is_first = true;
        loop {
            if let Some(given) = &asked {
                wizard
                    .fields(&mut self.connector, self.direction, given, is_first)
                    .await?;
                is_first = false;
            }
            let text = self.editor.change(self.text())?;
            let Some(checked) = checked(self.editor, text).await? else {
                if asked.is_none() {
                    return Ok(Err(ExitCode::from(1)));
                }
                asked = Some(Given::default());
                continue;
            };
            let names = [self.name().to_owned()];
            let answer = save
                .review(self.editor, self.before, &checked, &names, true)
                .await?;
            match answer {
                Answer::Yes => return Ok(Ok(checked)),
                Answer::No => return Ok(Err(not_saved())),
                Answer::Edit => asked = Some(Given::default()),
            }
        }
    }
}

/// Connectors that are told what to do by name.
#[derive(Args)]
struct Named {
    /// The rules document
    rules: PathBuf,
    /// The connectors' names
    #[arg(required = true)]
    connectors: Vec<String>,
    #[command(flatten)]
    save: Save,
}

impl Named {
    async fn change(
        self,
        verb: &str,
        change: impl Fn(&str, &str) -> Result<String, text::TextError>,
    ) -> anyhow::Result<ExitCode> {
        let editor = editor(&self.rules)?;
        let before = editor.read()?;
        let mut after = before.text.clone();
        for name in &self.connectors {
            after = editor.change(change(&after, name))?;
        }
        let names: Vec<String> = self
            .connectors
            .iter()
            .map(|name| format!("{name:?}"))
            .collect();
        let action = format!("{verb} {}", names.join(", "));
        save_text(&editor, &self.save, before, after, action, &self.connectors).await
    }

    async fn set_mode(self, verb: &str) -> anyhow::Result<ExitCode> {
        let mode = [verb.to_owned()];
        self.change(verb, |document, name| {
            let mut connector = text::connector(document, name)?;
            let direction = direction_of(&connector);
            if let Some(field) = fields::field("mode") {
                field.set(&mut connector, direction, &mode);
            }
            text::update(document, name, &connector)
        })
        .await
    }
}

/// Have connectors refuse what does not comply
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis enforce rules.json 'Contoso Bank'")]
pub struct Enforce {
    #[command(flatten)]
    named: Named,
}

/// Have connectors report what does not comply, and refuse nothing
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis audit rules.json 'Contoso Bank'")]
pub struct Audit {
    #[command(flatten)]
    named: Named,
}

/// Remove connectors from a rules document
#[derive(Args)]
#[command(after_help = "Example:\n  portcullis remove rules.json 'Contoso Bank'")]
pub struct Remove {
    #[command(flatten)]
    named: Named,
}

impl Enforce {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.named.set_mode("enforce").await
    }
}

impl Audit {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.named.set_mode("audit").await
    }
}

impl Remove {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        self.named.change("remove", text::remove).await
    }
}
