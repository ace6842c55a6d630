//! `portcullis export`: outbound connectors in the words of a server that asks nobody.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use super::output;
use super::paint::printable;
use super::policy::{self, PolicyArgs};
use crate::config;
use crate::edit::replace::replace;
use crate::egress::partner::Published;
use crate::postfix::tables::{ALL, Line, Tables};
use portcullis::{Connector, Context, Direction, Mode, PolicySession, Verdict, normal_domain};

/// Write outbound connectors as tables of another mail server
///
/// For Postfix: `transport` and `tls_policy`, which need no running Portcullis. Mail of a connector that they cannot
/// express is deferred, which a note says; the command exits with 1 then.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  portcullis export postfix rules.json\n  portcullis export postfix rules.json -o /etc/postfix/portcullis"
)]
pub struct ExportCommand {
    /// The server
    #[arg(value_enum)]
    server: Server,
    #[command(flatten)]
    policy: PolicyArgs,
    /// The folder for the tables; by default they are printed
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Take partners to publish neither TLSA records nor an MTA-STS policy, which tables cannot look up
    #[arg(long)]
    assume_nothing_published: bool,
}

/// A server that has tables.
#[derive(Clone, Copy, ValueEnum)]
enum Server {
    /// Postfix
    Postfix,
}

impl ExportCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// If the policy does not answer, or a table cannot be written.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Server::Postfix = self.server;
        let policy = self.policy.open(policy::EVALUATION_MS).await?;
        if !policy.is_built_in() {
            bail!(
                "tables are by domain, and only rules decide by domain: this policy is of its own making"
            );
        }
        let connectors = policy.connectors().await?;
        let own = policy.description().accepted_domains.clone();
        let mut keys = keys(&connectors, &own);
        let exceptions = self.exceptions()?;
        keys.extend(exceptions.iter().flat_map(|pattern| keys_of(pattern)));
        // With smtputf8_enable, Postfix looks for a domain as it was written.
        let written: Vec<String> = keys.iter().filter_map(|key| in_unicode(key)).collect();
        keys.extend(written);
        let mut session = policy.session();
        for key in keys.iter().filter(|_| !self.has_document()) {
            if has_exceptions(&mut session, &domain_of(key)).await? {
                bail!(
                    "connectors of this policy except domains, and it does not say which: export the rules document"
                );
            }
        }
        let mut lines = Vec::new();
        let mut left_alone = Vec::new();
        for key in keys {
            match line(&mut session, &key).await? {
                Some(line) => lines.push(line),
                None => left_alone.push(key),
            }
        }
        // Our own domains below a partner's are our own, and what is excepted goes as usual.
        left_alone.extend(own.iter().filter(|own| !own.contains('*')).cloned());
        left_alone.retain(|key| is_below(key, &lines));
        let published = self.assume_nothing_published.then_some(Published::NOTHING);
        let mut tables = Tables::of(&lines, published.as_ref(), config::Delivery::default().port);
        for key in left_alone {
            // Nothing is changed for these.
            tables.transport += &format!("{key} :\n");
        }
        self.write(&tables)?;
        for note in &tables.notes {
            output::tell(&format!("note: {}\n", printable(note)));
        }
        Ok(match tables.defers {
            true => ExitCode::from(1),
            false => ExitCode::SUCCESS,
        })
    }

    /// The domains that outbound connectors of a document except. What a policy says of itself is without them.
    fn exceptions(&self) -> anyhow::Result<Vec<String>> {
        if !self.has_document() {
            return Ok(Vec::new());
        }
        let document = policy::read_document(&self.policy.policy)?;
        let document: serde_json::Value = serde_json::from_str(&document)?;
        let connectors = document["connectors"].as_array().into_iter().flatten();
        let outbound = connectors.filter(|it| it["direction"] == "outbound");
        let domains = outbound.filter_map(|it| it["except"]["recipient-domains"].as_array());
        let domains = domains.flatten().filter_map(serde_json::Value::as_str);
        Ok(domains.filter_map(normal_domain).collect())
    }

    fn has_document(&self) -> bool {
        self.policy
            .policy
            .extension()
            .is_some_and(|it| it == "json")
    }

    fn write(&self, tables: &Tables) -> anyhow::Result<()> {
        let folder = self.output.as_deref();
        let transport = self.text(tables, "transport", "transport_maps", &tables.transport);
        let tls_policy = self.text(
            tables,
            "tls_policy",
            "smtp_tls_policy_maps",
            &tables.tls_policy,
        );
        let Some(folder) = folder else {
            return output::result(&format!("{transport}\n{tls_policy}"));
        };
        std::fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
        for (name, text) in [("transport", transport), ("tls_policy", tls_policy)] {
            let path = folder.join(name);
            replace(&path, text.as_bytes())
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(())
    }

    /// A table with what belongs into `main.cf`.
    fn text(&self, tables: &Tables, name: &str, setting: &str, lines: &str) -> String {
        let folder = self.output.as_deref().map(std::path::absolute);
        let folder = folder.and_then(Result::ok);
        let folder = folder
            .as_deref()
            .unwrap_or(Path::new("/etc/postfix/portcullis"));
        let mut text = format!(
            "# Made of {} by portcullis export postfix. In main.cf:\n#   {setting} = texthash:{}\n",
            printable(&self.policy.policy.display().to_string()),
            folder.join(name).display()
        );
        for setting in &tables.settings {
            text += &format!("#   {}\n", printable(setting));
        }
        text + lines
    }
}

/// The keys of the enabled outbound connectors, each once, without our own domains.
fn keys(connectors: &[Connector], own: &[String]) -> BTreeSet<String> {
    let enabled = connectors
        .iter()
        .filter(|it| it.direction == Direction::Outbound && it.mode != Mode::Disabled);
    let patterns = enabled.flat_map(|connector| &connector.selects.recipient_domains);
    let keys = patterns.flat_map(|pattern| keys_of(pattern));
    keys.filter(|key| !own.contains(key)).collect()
}

/// `*.bank.test` is bank.test and what is below.
fn keys_of(pattern: &str) -> Vec<String> {
    match pattern.strip_prefix("*.") {
        Some(base) => vec![base.to_owned(), format!(".{base}")],
        None => vec![pattern.to_owned()],
    }
}

/// A key with A-labels in Unicode.
fn in_unicode(key: &str) -> Option<String> {
    let (text, outcome) = idna::domain_to_unicode(key);
    (outcome.is_ok() && text != key).then_some(text)
}

/// Whether a line is about the domains that a key is among.
fn is_below(key: &str, lines: &[Line]) -> bool {
    let mut keys = lines.iter().filter(|line| line.key.starts_with('.'));
    keys.any(|line| key.ends_with(&line.key))
}

/// A domain of a key: that itself, one that no rule names, or one below.
fn domain_of(key: &str) -> String {
    const OTHER: &str = "portcullis-export";
    match key {
        ALL => format!("{OTHER}.invalid"),
        key if key.starts_with('.') => format!("{OTHER}{key}"),
        key => key.to_owned(),
    }
}

/// What is decided about mail to a domain, to one below, or to any other.
async fn line(session: &mut PolicySession, key: &str) -> anyhow::Result<Option<Line>> {
    let domain = domain_of(key);
    let context = Context::outbound("", format!("postmaster@{domain}"));
    let decision = session.try_decide(&context).await?;
    match decision.into_verdict() {
        Verdict::Deliver(delivery) if delivery.connector.is_some() => {
            let key = key.to_owned();
            Ok(Some(Line { key, delivery }))
        }
        Verdict::Deliver(_) => Ok(None),
        _ => bail!("the policy does not say how mail to {domain} is delivered"),
    }
}

/// Whether a connector that could be about a domain excepts others, of which a built policy says nothing but this.
async fn has_exceptions(session: &mut PolicySession, domain: &str) -> anyhow::Result<bool> {
    let context = Context::outbound("", format!("postmaster@{domain}"));
    let explanation = session.explain(&context).await?;
    let mut selectors = explanation.considered.iter().flat_map(|it| &it.selectors);
    Ok(selectors.any(|it| it.selector.starts_with("except.")))
}
