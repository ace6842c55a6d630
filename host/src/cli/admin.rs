//! `portcullis admin`: who may use the API and the page.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::output::{self, Format};
use super::paint::printable;
use crate::admin::tokens::{self, Scope, Token, default_place};
use crate::config::Config;
use crate::egress::users;
use crate::socket;

/// Make and revoke tokens, which let people and programs use the API and the page; hash passwords of mail clients
#[derive(Args)]
pub struct AdminCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Token(NewToken),
    List(ListTokens),
    Revoke(Revoke),
    Password(NewPassword),
}

/// Make a token, and print it: only its digest is kept
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis admin token --config portcullis.toml --name alice
  portcullis admin token --config portcullis.toml --name 'panel of contoso' --scope tenant --tenant contoso --expires 365d")]
struct NewToken {
    #[command(flatten)]
    place: Place,
    /// Whose it is, for the history of rules and the log
    #[arg(long)]
    name: String,
    /// What it is for
    #[arg(long, value_enum, default_value = "operator")]
    scope: Scope,
    /// The tenant that it is for; may be given several times
    #[arg(long = "tenant", value_name = "NAME")]
    tenants: Vec<String>,
    /// When it expires
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = humantime::parse_duration)]
    expires: Duration,
}

/// List the tokens
#[derive(Args)]
struct ListTokens {
    #[command(flatten)]
    place: Place,
    /// How to write the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Revoke a token: it lets nobody in from now on
#[derive(Args)]
struct Revoke {
    #[command(flatten)]
    place: Place,
    /// Its id, as the list has it
    id: String,
}

/// Read a password from standard input, and print a line for the password-file of a listener: only its hash is kept
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis admin password app@contoso.com >> /etc/portcullis/users
  openssl rand -base64 18 | tee secret | portcullis admin password app@contoso.com")]
struct NewPassword {
    /// The name by which the client logs in
    name: String,
}

#[derive(Args)]
struct Place {
    /// The configuration of the server
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Place {
    fn open(&self) -> anyhow::Result<(Config, PathBuf)> {
        let config = Config::load_after(&self.config, None)?.0;
        let Some(admin) = &config.admin else {
            bail!(
                "{}: there is no [admin], so there is nothing to be let into",
                self.config.display()
            );
        };
        let folder = config.delivery.state_folder();
        let place = admin.tokens.clone();
        let place = place.or_else(|| folder.as_deref().map(default_place));
        let place = place.context(
            "there is no folder for tokens; set [admin] tokens or [delivery] state-directory",
        )?;
        Ok((config, place))
    }
}

impl AdminCommand {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.what {
            What::Token(command) => command.run(),
            What::List(command) => command.run(),
            What::Revoke(command) => command.run(),
            What::Password(command) => command.run(),
        }
    }
}

impl NewPassword {
    fn run(self) -> anyhow::Result<ExitCode> {
        if self.name.is_empty()
            || self.name.starts_with('#')
            || self.name.contains(char::is_control)
        {
            bail!("{:?} is no name to log in by", printable(&self.name));
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            output::tell("The password, and Enter (it is shown as you type): ");
        }
        let mut line = String::new();
        stdin
            .read_line(&mut line)
            .context("the password cannot be read")?;
        let password = line.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.contains('\0') {
            bail!("there is no password on the first line of standard input");
        }
        let hash = users::hash(password).map_err(anyhow::Error::msg)?;
        output::result(&format!("{}:{hash}\n", self.name))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl NewToken {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (config, place) = self.place.open()?;
        for tenant in &self.tenants {
            let is_there = config.tenants.iter().any(|it| it.name == *tenant);
            match (is_there, &config.fleet) {
                (true, _) => {}
                // Its tenants are known by the server alone.
                (false, Some(_)) => output::tell(&format!(
                    "the configuration has no tenant {tenant:?}, so the token is for one of the fleet\n"
                )),
                (false, None) => bail!("there is no tenant {tenant:?}"),
            }
        }
        match (self.scope, self.tenants.is_empty()) {
            (Scope::Tenant, true) => bail!("say which tenant: --tenant NAME"),
            (Scope::Operator, false) => bail!("an operator's token is for all tenants"),
            _ => {}
        }
        let made = tokens::create(&place, &self.name, self.scope, self.tenants, self.expires);
        let (token, secret) =
            made.with_context(|| format!("cannot keep it in {}", place.display()))?;
        output::result(&format!("{secret}\n"))?;
        output::tell(&format!(
            "it expires at {}; portcullis admin revoke {} takes it back. The page:\n{}\n",
            token.expires,
            token.id,
            link(&config, &secret)
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// How a person comes to the page.
fn link(config: &Config, secret: &str) -> String {
    let place = config.admin.as_ref().map(|admin| admin.place());
    match place {
        Some(socket::Place::Tcp(address)) => format!("  http://{address}/#token={secret}"),
        Some(socket::Place::Unix(unix)) => format!(
            "  ssh -L 8025:{} {}\n  http://localhost:8025/#token={secret}",
            unix.path.display(),
            config.hostname
        ),
        None => String::new(),
    }
}

impl ListTokens {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (_, place) = self.place.open()?;
        let tokens = tokens::list(&place)?;
        match self.format {
            Format::Json => output::json(&tokens)?,
            Format::Text => {
                let lines: Vec<String> = tokens.iter().map(line).collect();
                output::result(&lines.concat())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn line(token: &Token) -> String {
    let scope = match token.scope {
        Scope::Operator => "operator",
        Scope::Tenant => "tenant",
        Scope::Read => "read",
    };
    let tenants = match token.tenants.is_empty() {
        true => String::new(),
        false => format!("  {}", token.tenants.join(", ")),
    };
    printable(&format!(
        "{}  until {}  {scope}{tenants}  {}",
        token.id, token.expires, token.name
    )) + "\n"
}

impl Revoke {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (_, place) = self.place.open()?;
        match tokens::revoke(&place, &self.id)? {
            true => output::result(&format!("{} is revoked\n", printable(&self.id)))?,
            false => bail!(
                "there is no token {:?}; portcullis admin list has them",
                self.id
            ),
        }
        Ok(ExitCode::SUCCESS)
    }
}
