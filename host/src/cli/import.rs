//! `portcullis import`: rules made of what other products export, and a table of what differs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use portcullis::DocumentError;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::output::{self, Format};
use super::paint::{self, Painter, printable};
use super::{policy, report};
use crate::edit::replace::replace;
use crate::edit::{Editor, digest_of, text};
use crate::import::{Import, Kind, Record, Row, exchange, list, postfix, read};

/// Make rules of what another product exports
///
/// Nothing becomes weaker than it was: what is uncertain becomes a connector in audit mode, and what cannot be said is
/// not imported. Exits with 0 if all means the same, with 1 if something differs, with 2 if nothing is imported.
#[derive(Args)]
#[command(after_help = "Example:
  portcullis import exchange exchange.json -o rules.json")]
pub struct ImportCommand {
    #[command(subcommand)]
    source: Source,
}

#[derive(Subcommand)]
enum Source {
    Exchange(Exchange),
    Postfix(Postfix),
    List(List),
}

/// Where rules are written, and how the table is.
#[derive(Args)]
struct Target {
    /// The rules document to write; standard output if left out
    #[arg(short, long, value_name = "RULES.json")]
    output: Option<PathBuf>,
    /// Replace a document that is there, though something differs
    #[arg(long)]
    accept_differences: bool,
    /// How to write the table: as text on standard error, or with the rules as JSON on standard output
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Connectors of Exchange: JSON, CLIXML, CSV, or a configuration of Microsoft365DSC
#[derive(Args)]
#[command(after_help = "Example:
  portcullis import exchange exchange.json -o rules.json
In PowerShell, this exports all that is needed:
    @{ InboundConnector  = @(Get-InboundConnector -ResultSize Unlimited)
       OutboundConnector = @(Get-OutboundConnector) + @(Get-OutboundConnector -IsTransportRuleScoped $true) +
                           @(Get-OutboundConnector -IncludeTestModeConnectors $true)
       AcceptedDomain    = @(Get-AcceptedDomain)
       TransportRule     = @(Get-TransportRule | ? RouteMessageOutboundConnector)
     } | ConvertTo-Json -Depth 6 | Set-Content -Encoding utf8 exchange.json")]
struct Exchange {
    /// The exports
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// Tables of Postfix: smtp_tls_policy_maps, check_ccert_access, or a cidr table of clients
#[derive(Args)]
#[command(after_help = "Example:
  portcullis import postfix /etc/postfix/tls_policy -o rules.json")]
struct Postfix {
    /// The tables, as text
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The senders' domain that a table of certificates or addresses is for; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    from: Vec<String>,
    #[command(flatten)]
    target: Target,
}

/// TLS that is asked of the domains in a list.
#[derive(Clone, Copy, ValueEnum)]
enum Asked {
    /// Outbound: TLS with any certificate
    Encrypt,
    /// Outbound: TLS with a trusted certificate
    Verify,
    /// Inbound: an encrypted session
    Inbound,
}

/// A list of domains that somebody else maintains: one connector, which the next run brings up to date
#[derive(Args)]
#[command(after_help = "Example:
  portcullis import list banks.csv --name Banks --level encrypt -o rules.json")]
struct List {
    /// The list: a domain a line, or a table with a column of domains
    file: PathBuf,
    /// The connector's name
    #[arg(long)]
    name: String,
    /// What is asked of the domains
    #[arg(long, value_enum, default_value = "encrypt")]
    level: Asked,
    /// The rules document: the connector in it is brought up to date, or added
    #[arg(short, long, value_name = "RULES.json")]
    output: Option<PathBuf>,
}

impl ImportCommand {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self.source {
            Source::Exchange(exchange) => exchange.run().await,
            Source::Postfix(postfix) => postfix.run().await,
            Source::List(list) => list.run().await,
        }
    }
}

impl Exchange {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let mut records: Vec<Record> = Vec::new();
        for path in &self.files {
            let bytes = policy::read(path)?;
            let read = read(&bytes).with_context(|| path.display().to_string())?;
            for record in read {
                // Each of Exchange's three lists of outbound connectors may have one again.
                if !records.contains(&record) {
                    records.push(record);
                }
            }
        }
        finish(&exchange::import(&records), &self.target).await
    }
}

impl Postfix {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let mut all = Import::default();
        for path in &self.files {
            let text = policy::read_document(path)?;
            let name = path.display().to_string();
            all.join(postfix::import(&name, &text, &self.from));
        }
        finish(&all, &self.target).await
    }
}

/// What is written with `--format json`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Told<'a> {
    rules: &'a Value,
    rows: &'a [Row],
    notes: &'a [String],
}

/// Checks what was made, shows what differs, and writes it.
async fn finish(import: &Import, target: &Target) -> anyhow::Result<ExitCode> {
    let document = import.document();
    let text = text::written_document(&document);
    if target.format == Format::Text {
        output::tell(&table(import));
    }
    if import.connectors.is_empty() {
        if target.format == Format::Json {
            told(&document, import)?;
        }
        output::tell("nothing is imported\n");
        return Ok(ExitCode::from(2));
    }
    let engine = policy::engine(policy::limits())?;
    let name = match &target.output {
        Some(path) => path.display().to_string(),
        None => "the imported rules".into(),
    };
    match engine.check(text.clone()).await {
        Ok(summary) if summary.warnings.is_empty() => {}
        Ok(summary) => show(&name, &text, &summary.warnings),
        Err(DocumentError::Rejected(problems)) => {
            show(&name, &text, &problems);
            bail!("what was made of it is not valid, so nothing is written");
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(path) = &target.output {
        if path.exists() && !import.is_same() && !target.accept_differences {
            bail!(
                "{} is there, and what is imported differs: name another file, or --accept-differences",
                path.display()
            );
        }
        write(path, &text, "import rules").await?;
    }
    match (target.format, &target.output) {
        (Format::Json, _) => told(&document, import)?,
        (Format::Text, None) => output::result(&text)?,
        (Format::Text, Some(path)) => {
            output::tell(&format!(
                "{}: {} connectors\n",
                printable(&path.display().to_string()),
                import.connectors.len()
            ));
        }
    }
    Ok(match import.is_same() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

fn told(rules: &Value, import: &Import) -> anyhow::Result<()> {
    output::json(&Told {
        rules,
        rows: &import.rows,
        notes: &import.notes,
    })
}

fn show(name: &str, text: &str, problems: &[portcullis::Problem]) {
    let colour = paint::wanted(&std::io::stderr());
    output::tell(&report::problems(name, text, problems, colour));
}

/// What each part became, and how it differs.
fn table(import: &Import) -> String {
    let painter = Painter(paint::wanted(&std::io::stderr()));
    let mut table = String::new();
    for row in &import.rows {
        let here = match row.here.as_slice() {
            [] => "not imported".into(),
            names => names
                .iter()
                .map(|name| printable(name))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let there = printable(&row.there);
        table.push_str(&format!("{} → {here}\n", painter.strong(there)));
        for difference in &row.differences {
            let text = printable(&difference.text);
            let line = match difference.kind {
                Kind::Note => format!("  note: {text}"),
                Kind::Differs => format!("  differs: {text}"),
                Kind::Uncertain => format!("  uncertain: {text}"),
                Kind::NotImported => format!("  {}: {text}", painter.bad("not imported")),
            };
            table.push_str(&line);
            table.push('\n');
        }
    }
    for note in &import.notes {
        table.push_str(&format!("note: {}\n", printable(note)));
    }
    table
}

impl List {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let bytes = policy::read(&self.file)?;
        let domains = list::domains(&bytes).with_context(|| self.file.display().to_string())?;
        let there = match &self.output {
            Some(path) if path.exists() => policy::read_document(path)?,
            _ => text::written_document(&json!({"connectors": []})),
        };
        let names = text::names(&there)?;
        let is_there = names.contains(&self.name);
        let mut connector = match is_there {
            true => text::connector(&there, &self.name)?,
            false => self.new_connector(),
        };
        let selectors = match connector.get("direction").and_then(Value::as_str) {
            Some("inbound") => ("from", "sender-domains"),
            _ => ("to", "recipient-domains"),
        };
        let old = domains_of(&connector, selectors);
        let came: Vec<&String> = domains.difference(&old).collect();
        let went: Vec<&String> = old.difference(&domains).collect();
        for (what, list) in [("came", &came), ("went", &went)] {
            for domain in list {
                output::tell(&format!("{what}: {}\n", printable(domain)));
            }
        }
        output::tell(&format!(
            "{}: {} domains, {} came, {} went\n",
            printable(&self.name),
            domains.len(),
            came.len(),
            went.len()
        ));
        let (group, field) = selectors;
        let selectors = connector
            .entry(group)
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(selectors) = selectors {
            selectors.insert(field.into(), json!(domains));
        }
        let changed = match is_there {
            true => text::update(&there, &self.name, &connector)?,
            false => text::add(&there, &connector)?,
        };
        self.write(&there, changed).await
    }

    fn new_connector(&self) -> Map<String, Value> {
        let mut connector = Map::new();
        connector.insert("name".into(), self.name.as_str().into());
        let file = self.file.file_name().unwrap_or_default().to_string_lossy();
        connector.insert("comment".into(), format!("the domains of {file}").into());
        let (direction, field, asked) = match self.level {
            Asked::Inbound => ("inbound", "require", json!({"tls": true})),
            Asked::Encrypt => ("outbound", "tls", json!({"level": "encrypt"})),
            Asked::Verify => ("outbound", "tls", json!({"level": "verify"})),
        };
        connector.insert("direction".into(), direction.into());
        connector.insert(field.into(), asked);
        connector
    }

    async fn write(&self, before: &str, text: String) -> anyhow::Result<ExitCode> {
        let engine = policy::engine(policy::limits())?;
        let name = self.output.as_ref().map_or_else(
            || "the imported rules".into(),
            |path| path.display().to_string(),
        );
        match engine.check(text.clone()).await {
            Ok(_) => {}
            Err(DocumentError::Rejected(problems)) => {
                show(&name, &text, &problems);
                return Ok(ExitCode::from(2));
            }
            Err(error) => return Err(error.into()),
        }
        let action = format!("import the list {:?}", self.name);
        match &self.output {
            None => output::result(&text)?,
            Some(path) if path.exists() => {
                let editor = super::edit::editor(path)?;
                let base = digest_of(before.as_bytes());
                write_over(&editor, &base, &text, &action).await?;
            }
            Some(path) => write(path, &text, &action).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn domains_of(connector: &Map<String, Value>, (group, field): (&str, &str)) -> BTreeSet<String> {
    let list = connector
        .get(group)
        .and_then(|group| group.get(field))
        .and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// Writes a document. One that is there keeps its versions.
async fn write(path: &Path, text: &str, action: &str) -> anyhow::Result<()> {
    if !path.exists() {
        return replace(path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()));
    }
    let editor = super::edit::editor(path)?;
    let before = editor.read()?;
    write_over(&editor, &before.digest, text, action).await
}

async fn write_over(editor: &Editor, base: &str, text: &str, action: &str) -> anyhow::Result<()> {
    let checked = editor.check(text.into()).await?;
    let note = super::edit::note(action.into());
    editor.save(checked, base, note).await?;
    Ok(())
}
