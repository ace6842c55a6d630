//! `portcullis import`: rules made of what other products export, and a table of what differs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use portcullis::{Context, Dane, Delivery, DocumentError, Engine, Route, TlsLevel, Verdict};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::output::{self, Format};
use super::paint::{self, Painter, printable};
use super::{policy, report};
use crate::edit::replace::create;
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
    /// Replace a document that is there, with all that is in it
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
    /// What is asked of the domains of a new connector [default: encrypt]
    #[arg(long, value_enum)]
    level: Option<Asked>,
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
    // What is there is what is replaced, whatever is written meanwhile.
    let before = match &target.output {
        Some(path) if path.exists() => Some(super::edit::editor(path)?.read()?),
        _ => None,
    };
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
        match &before {
            Some(before) if before.text == text => {}
            Some(_) if !target.accept_differences => bail!(
                "{} is there, and would be replaced with all that is in it: name another file, or --accept-differences",
                path.display()
            ),
            Some(before) => {
                let editor = super::edit::editor(path)?;
                write_over(&editor, &before.digest, &text, "import rules").await?;
            }
            None => create_new(path, &text)?,
        }
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
        let asked = self.new_connector();
        let is_asked = |field: &str| connector.get(field) == asked.get(field);
        if self.level.is_some() && !["direction", "tls", "require"].into_iter().all(is_asked) {
            bail!(
                "{:?} is there, and asks for something else than --level does: portcullis edit changes that",
                self.name
            );
        }
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
        let came: Vec<String> = came.into_iter().cloned().collect();
        self.write(&there, changed, &came).await
    }

    fn new_connector(&self) -> Map<String, Value> {
        let mut connector = Map::new();
        connector.insert("name".into(), self.name.as_str().into());
        let file = self.file.file_name().unwrap_or_default().to_string_lossy();
        connector.insert("comment".into(), format!("the domains of {file}").into());
        let (direction, field, asked) = match self.level.unwrap_or(Asked::Encrypt) {
            Asked::Inbound => ("inbound", "require", json!({"tls": true})),
            Asked::Encrypt => ("outbound", "tls", json!({"level": "encrypt"})),
            Asked::Verify => ("outbound", "tls", json!({"level": "verify"})),
        };
        connector.insert("direction".into(), direction.into());
        connector.insert(field.into(), asked);
        connector
    }

    async fn write(&self, before: &str, text: String, came: &[String]) -> anyhow::Result<ExitCode> {
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
        let weakened = weakened(&engine, before, &text, came).await?;
        if !weakened.is_empty() {
            for text in &weakened {
                output::tell(&format!("{}\n", printable(text)));
            }
            bail!(
                "mail to these domains would be protected less, so nothing is changed: except them from the list's connector, or ask the same of all"
            );
        }
        let action = format!("import the list {:?}", self.name);
        match &self.output {
            None => output::result(&text)?,
            Some(path) if path.exists() => {
                let editor = super::edit::editor(path)?;
                let base = digest_of(before.as_bytes());
                write_over(&editor, &base, &text, &action).await?;
            }
            Some(path) => create_new(path, &text)?,
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

/// The domains of which rules ask less than before, and what.
async fn weakened(
    engine: &Engine,
    before: &str,
    after: &str,
    domains: &[String],
) -> anyhow::Result<Vec<String>> {
    let Ok(before) = engine.read(before.to_owned()).await else {
        return Ok(Vec::new());
    };
    let after = engine.read(after.to_owned()).await?;
    let mut before = engine.load_rules("before", &before).await?.session();
    let mut after = engine.load_rules("after", &after).await?.session();
    let mut found = Vec::new();
    for domain in domains {
        let bare = domain.strip_prefix("*.").unwrap_or(domain);
        let context = Context::outbound("", format!("postmaster@{bare}"));
        let was = before.try_decide(&context).await?.into_verdict();
        let is = after.try_decide(&context).await?.into_verdict();
        if let (Verdict::Deliver(was), Verdict::Deliver(is)) = (was, is)
            && let Some(less) = asks_less(&was, &is)
        {
            let connector = was.connector.unwrap_or_default();
            found.push(format!("{domain}: {connector:?} asks for {less}"));
        }
    }
    Ok(found)
}

/// What a delivery no longer asks for.
fn asks_less(was: &Delivery, is: &Delivery) -> Option<&'static str> {
    let rank = |level: &TlsLevel| match level {
        TlsLevel::Opportunistic => 0,
        TlsLevel::Encrypt => 1,
        TlsLevel::Verify => 2,
        TlsLevel::Name(_) => 3,
    };
    let (old, new) = (&was.tls, &is.tls);
    let lost = |old: usize, new: usize| old > 0 && new == 0;
    if rank(&old.level) > rank(&new.level) {
        return Some("a higher level of TLS");
    }
    if lost(
        old.fingerprints.len() + old.keys.len(),
        new.fingerprints.len() + new.keys.len(),
    ) {
        return Some("a certificate that is pinned");
    }
    if lost(old.authorities.len(), new.authorities.len()) {
        return Some("an authority");
    }
    if old.min_version > new.min_version {
        return Some("a higher TLS version");
    }
    if old.dane == Dane::Mandatory && new.dane != Dane::Mandatory {
        return Some("DANE");
    }
    if matches!(was.route, Route::SmartHosts(_)) && was.route != is.route {
        return Some("a smart host");
    }
    None
}

/// Writes a document that is not there yet, and takes the place of none that comes meanwhile.
fn create_new(path: &Path, text: &str) -> anyhow::Result<()> {
    create(path, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

async fn write_over(editor: &Editor, base: &str, text: &str, action: &str) -> anyhow::Result<()> {
    let checked = editor.check(text.into()).await?;
    let note = super::edit::note(action.into());
    editor.save(checked, base, note).await?;
    Ok(())
}
