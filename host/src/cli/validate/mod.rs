//! `portcullis validate`: whether a connector would work, tried out before it is relied on.

mod inbound;
mod letter;
mod partner;
mod show;

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;

use super::output::{self, Format};
use super::paint::{self, Painter};
use super::policy::{self, PolicyArgs};
use crate::config::{self, Config};
use crate::smtp::address::Address;
use crate::validate::{self, EgressProbe, Route};
use portcullis::{Connector, Direction, Mode, Policy};

/// Try connectors out before they are relied on
///
/// An outbound connector is followed as mail would be: its servers are looked up, connected to and
/// asked for TLS, and their certificates judged; with --to a test message is sent. For an inbound
/// connector it is told what a partner needs to satisfy it, or, with --ip, --tls, --client-cert or
/// --from, whether that partner would pass.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis validate rules.json
  portcullis validate rules.json \"To Contoso Bank\" --to postmaster@contosobank.com
  portcullis validate rules.json \"Contoso Bank\" --ip 203.0.113.7 --client-cert partner.pem
  portcullis validate rules.json \"Contoso Bank\" --letter

Exit status: 0 if all would work, 1 if not, 2 if it could not be tried.")]
pub struct Validate {
    #[command(flatten)]
    policy: PolicyArgs,
    /// The connectors; all enabled ones if none is named
    connectors: Vec<String>,
    /// Send a test message to this address, by the connector that is for it
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// The sender: of the test message, or of the partner's mail; `<>` is the null sender
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// The address that the partner's mail comes from
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    /// The partner encrypts, with this version
    #[arg(long, value_name = "VERSION", num_args = 0..=1, default_missing_value = "TLSv1.3")]
    tls: Option<String>,
    /// The certificate chain that the partner shows (PEM)
    #[arg(long, value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// The configuration of `run`, for its name, DNS, trusted roots and client certificate
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what to write to the partner, and try nothing
    #[arg(long, conflicts_with_all = ["format", "ip", "tls", "client_cert"])]
    letter: bool,
    /// How to write the outcome
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The outcome of one connector.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Outcome {
    connector: String,
    direction: Direction,
    mode: Mode,
    /// Whether it would work; absent where there is nothing to try.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid: Option<bool>,
    applies_to: String,
    requires: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partner: Option<inbound::Partner>,
    /// Why nothing was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

impl Outcome {
    fn new(connector: &Connector) -> Self {
        Outcome {
            connector: connector.name.clone(),
            direction: connector.direction,
            mode: connector.mode,
            valid: None,
            applies_to: connector.applies_to.clone(),
            requires: connector.requires.clone(),
            routes: Vec::new(),
            partner: None,
            note: None,
        }
    }
}

pub use self::partner::Partner;

impl Validate {
    /// What to write to the partner of a connector.
    fn letter(policy: PolicyArgs, connector: String, config: Option<PathBuf>) -> Self {
        Validate {
            policy,
            connectors: vec![connector],
            to: None,
            from: None,
            ip: None,
            tls: None,
            client_cert: None,
            config,
            letter: true,
            format: Format::Text,
        }
    }

    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let outcomes = self.outcomes().await?;
        self.tell(&outcomes)
    }

    async fn outcomes(&self) -> anyhow::Result<Vec<Outcome>> {
        let to = self.to.as_deref().map(Address::parse).transpose();
        let to = to.with_context(|| format!("--to {}", self.to.as_deref().unwrap_or_default()))?;
        let config = self.config()?;
        let policy = self.policy.open(policy::EVALUATION_MS).await?;
        let connectors = self.chosen(&policy, to.as_ref()).await?;
        if connectors.is_empty() {
            bail!("there is no enabled connector to validate");
        }
        let (authorities, _) = crate::tls::read_authorities(&config.trust, None)?;
        let tenant = self.tenant(&config);
        let mut way_out = EgressProbe::new(&config, &authorities, tenant);
        let authorities = match tenant {
            Some(tenant) => authorities.for_tenant(tenant),
            None => authorities.clone(),
        };
        let mut outcomes = Vec::new();
        for connector in &connectors {
            let mut outcome = Outcome::new(connector);
            match connector.direction {
                Direction::Inbound => {
                    self.try_inbound(&policy, connector, &authorities, &mut outcome)
                        .await?;
                }
                Direction::Outbound if self.letter => {}
                Direction::Outbound => {
                    let progress = self.progress(&connector.name);
                    let followed = way_out
                        .follow(connector, to.as_ref(), self.sender(), progress)
                        .await?;
                    outcome.valid = followed.valid;
                    outcome.routes = followed.routes;
                    outcome.note = followed.note;
                }
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    fn config(&self) -> anyhow::Result<Config> {
        Ok(match &self.config {
            Some(path) => Config::load_after(path, None)?.0,
            None => validate::default_config(),
        })
    }

    /// The tenant of the configuration that has this policy.
    fn tenant<'a>(&self, config: &'a Config) -> Option<&'a str> {
        let policy = self.policy.policy.canonicalize().ok()?;
        let is_its_policy =
            |tenant: &&config::Tenant| tenant.policy.canonicalize().is_ok_and(|it| it == policy);
        let tenant = config.tenants.iter().find(is_its_policy)?;
        Some(&tenant.name)
    }

    fn sender(&self) -> Option<&str> {
        let sender = self.from.as_deref()?;
        Some(sender.trim_start_matches('<').trim_end_matches('>'))
    }

    /// The connectors that are named; else the one for --to; else all that are enabled.
    async fn chosen(
        &self,
        policy: &Policy,
        to: Option<&Address>,
    ) -> anyhow::Result<Vec<Connector>> {
        let mut all = policy.connectors().await?;
        for name in &self.connectors {
            if !all.iter().any(|connector| connector.name == *name) {
                bail!("there is no connector {name:?}; `portcullis list` names them");
            }
        }
        if !self.connectors.is_empty() {
            all.retain(|connector| self.connectors.contains(&connector.name));
        } else if let Some(to) = to {
            let name = validate::connector_for(policy, to, self.sender()).await?;
            all.retain(|connector| connector.name == name);
        } else {
            all.retain(|connector| connector.mode != Mode::Disabled);
        }
        Ok(all)
    }

    /// Progress on standard error, where a person looks on.
    fn progress(&self, connector: &str) -> impl FnMut(&str) + use<> {
        let shown = std::io::stderr().is_terminal();
        let connector = paint::printable(connector);
        move |step: &str| {
            if shown {
                output::tell(&format!("{connector}: {step} …\n"));
            }
        }
    }

    fn tell(&self, outcomes: &[Outcome]) -> anyhow::Result<ExitCode> {
        match self.format {
            _ if self.letter => output::result(&letter::text(outcomes))?,
            Format::Json => output::json(outcomes)?,
            Format::Text => {
                let paint = Painter(paint::wanted(&std::io::stdout()));
                output::result(&show::text(outcomes, paint))?;
            }
        }
        let failed = outcomes.iter().any(|outcome| outcome.valid == Some(false));
        Ok(ExitCode::from(u8::from(failed)))
    }
}
