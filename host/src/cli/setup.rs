//! `portcullis setup`: what another server needs so that it asks.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;
use time::OffsetDateTime;

use super::output;
use super::paint::printable;
use crate::config::{Config, Frontend, Protocol};
use crate::frontend::ways::Way;
use crate::socket::Place;

/// Show what another mail server needs so that it asks the policies
///
/// Looks at the server's version and settings, and prints the lines to add and what this way cannot tell. Nothing is
/// changed without --apply.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  portcullis setup postfix --config /etc/portcullis/portcullis.toml\n  portcullis setup postfix --config /etc/portcullis/portcullis.toml --apply"
)]
pub struct SetupCommand {
    /// The server
    #[arg(value_enum)]
    way: Way,
    /// The configuration of Portcullis
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The folder of the server's configuration, if it is not the usual one (Postfix)
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Change the server's configuration (Postfix); the old one is kept beside it
    #[arg(long)]
    apply: bool,
}

impl SetupCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// If the server cannot be asked for its settings, or the configuration has no front door for it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.config)?;
        let protocol = match self.way {
            Way::Postfix | Way::Exim => Protocol::Policy,
            Way::Milter | Way::Sendmail => Protocol::Milter,
            Way::Stalwart => Protocol::Http,
        };
        let frontend = config
            .frontends
            .iter()
            .find(|frontend| frontend.protocols.contains(&protocol));
        let Some(frontend) = frontend else {
            bail!(
                "{} has no [[frontend]] that speaks {}: add one, such as\n\n{}",
                self.config.display(),
                protocol.name(),
                suggested(self.way)
            );
        };
        if self.apply && !matches!(self.way, Way::Postfix | Way::Milter) {
            bail!("only Postfix's settings can be changed from here: add the lines yourself");
        }
        let mut text = String::new();
        match self.way {
            Way::Postfix | Way::Milter => {
                let postfix = Postfix::new(self.directory.clone())?;
                let settings = postfix.settings(self.way, frontend)?;
                text.push_str(&postfix.told(&settings));
                if self.apply {
                    text.push_str(&postfix.apply(&settings)?);
                }
            }
            Way::Exim | Way::Sendmail | Way::Stalwart => {
                text.push_str(&lines(self.way, &frontend.place)?);
            }
        }
        text.push_str(&untold(self.way));
        output::result(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn suggested(way: Way) -> &'static str {
    match way {
        Way::Postfix | Way::Milter => {
            "[[frontend]]\naddress = \"/var/spool/postfix/portcullis/ask\"\ngroup = \"postfix\""
        }
        Way::Exim | Way::Sendmail => "[[frontend]]\naddress = \"127.0.0.1:8460\"",
        Way::Stalwart => {
            "[[frontend]]\naddress = \"127.0.0.1:8460\"\ntoken = \"/etc/portcullis/frontend.token\""
        }
    }
}

/// What a way cannot tell.
fn untold(way: Way) -> String {
    let mut text = format!("\nWhat {way} cannot tell, so that rules that read it defer:\n");
    for lack in way.lacks() {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {}: {}; {}",
            lack.fact.name(),
            lack.known,
            lack.hint
        );
    }
    let _ = writeln!(
        text,
        "\nWhich connectors do: portcullis check RULES.json --for {way}"
    );
    text
}

/// The lines for servers whose settings are not looked at.
fn lines(way: Way, place: &Place) -> anyhow::Result<String> {
    let Place::Tcp(address) = place else {
        bail!("{way} asks over TCP: give the [[frontend]] an address such as \"127.0.0.1:8460\"");
    };
    Ok(match way {
        Way::Exim => format!(
            "Copy examples/exim/portcullis-acl.conf to /etc/exim4, with the address {address}. In the main section:\n\n  tls_try_verify_hosts = *\n\nBelow \"begin acl\":\n\n  .include /etc/exim4/portcullis-acl.conf\n\nIn the ACL of RCPT, behind what permits your own users:\n\n  require acl = portcullis_rcpt\n"
        ),
        Way::Sendmail => format!(
            "In sendmail.mc:\n\n  INPUT_MAIL_FILTER(`portcullis', `S={}:{}@{}, F=T, T=S:10s;R:10s')dnl\n  define(`confCERT_FINGERPRINT_ALGORITHM', `sha256')dnl\n",
            if address.is_ipv4() { "inet" } else { "inet6" },
            address.port(),
            address.ip()
        ),
        _ => format!(
            "Let it send its MTA hooks to http://{address}/v1/stalwart with the token, at the stages rcpt and data.\n"
        ),
    })
}

/// A Postfix that is installed.
struct Postfix {
    directory: Option<PathBuf>,
    version: String,
}

/// A setting to change, and what it is now.
struct Setting {
    name: &'static str,
    now: String,
    wanted: String,
}

impl Postfix {
    fn new(directory: Option<PathBuf>) -> anyhow::Result<Postfix> {
        let mut postfix = Postfix {
            directory,
            version: String::new(),
        };
        postfix.version = postfix.get("mail_version")?;
        Ok(postfix)
    }

    fn postconf(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("postconf");
        if let Some(directory) = &self.directory {
            command.arg("-c").arg(directory);
        }
        let output = command.args(arguments).output();
        let output = output.context("postconf cannot be run: is Postfix installed?")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!(
                "postconf {}: {}",
                arguments.join(" "),
                printable(said.trim())
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn get(&self, name: &str) -> anyhow::Result<String> {
        self.postconf(&["-h", name])
    }

    fn is_at_least(&self, wanted: (u32, u32)) -> bool {
        let mut parts = self.version.split(['.', '-']);
        let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        (number(), number()) >= wanted
    }

    /// How Postfix names the socket. What is below its queue folder is named from there, because its programs may run in
    /// a chroot.
    fn service(&self, place: &Place) -> anyhow::Result<String> {
        Ok(match place {
            Place::Tcp(address) => format!("inet:{address}"),
            Place::Unix(unix) => {
                let queue = self.get("queue_directory")?;
                let path = unix.path.strip_prefix(&queue).unwrap_or(&unix.path);
                format!("unix:{}", path.display())
            }
        })
    }

    /// What is to be changed.
    fn settings(&self, way: Way, frontend: &Frontend) -> anyhow::Result<Vec<Setting>> {
        let service = self.service(&frontend.place)?;
        let mut settings = Vec::new();
        let mut want = |name: &'static str, now: String, wanted: String| {
            if now != wanted {
                settings.push(Setting { name, now, wanted });
            }
        };
        if way == Way::Milter {
            let now = self.get("smtpd_milters")?;
            let own = format!("{{ {service}, default_action=tempfail }}");
            let wanted = added(&now, &service, &own);
            want("smtpd_milters", now, wanted);
            return Ok(settings);
        }
        if !self.is_at_least((3, 0)) {
            bail!(
                "Postfix {} is too old: check_policy_service takes options from 3.0 on",
                self.version
            );
        }
        if !frontend.certificates_requested {
            // Told, and not changed: it is another file.
            output::tell(
                "set certificates-requested = true in that [[frontend]]: with the settings below Postfix asks clients for certificates\n",
            );
        }
        for (name, wanted) in [
            ("smtpd_tls_ask_ccert", "yes"),
            ("smtpd_tls_fingerprint_digest", "sha256"),
        ] {
            want(name, self.get(name)?, wanted.into());
        }
        if self.is_at_least((3, 12)) {
            let name = "tls_trust_server_ccerts";
            want(name, self.get(name)?, "yes".into());
        }
        let name = "smtpd_recipient_restrictions";
        let now = self.get(name)?;
        let own = format!(
            "check_policy_service {{ {service}, timeout=10s, default_action=DEFER_IF_PERMIT }}"
        );
        let wanted = match now.is_empty() {
            true => format!("{PERMITTED}, {own}"),
            false => added(&now, &service, &own),
        };
        want(name, now, wanted);
        Ok(settings)
    }

    fn told(&self, settings: &[Setting]) -> String {
        let mut text = format!("Postfix {}\n\n", printable(&self.version));
        if settings.is_empty() {
            text.push_str("All settings are as they should be.\n");
            return text;
        }
        for Setting { name, now, wanted } in settings {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# {name} is \"{}\"", printable(now));
            let _ = writeln!(text, "postconf -e '{name} = {}'", printable(wanted));
        }
        let _ = writeln!(text, "postfix reload");
        let relay = "Mail that something before the check permits, such as that of your own users, is not asked about.";
        if settings
            .iter()
            .any(|it| it.name == "smtpd_recipient_restrictions")
        {
            let _ = writeln!(text, "\n{relay}");
        }
        text
    }

    /// Changes the settings, and keeps a copy of the file.
    fn apply(&self, settings: &[Setting]) -> anyhow::Result<String> {
        if settings.is_empty() {
            return Ok(String::new());
        }
        let directory = self.get("config_directory")?;
        let file = Path::new(&directory).join("main.cf");
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let copy = file.with_file_name(format!("main.cf.{now}"));
        std::fs::copy(&file, &copy)
            .with_context(|| format!("{} cannot be copied; nothing is changed", file.display()))?;
        for Setting { name, wanted, .. } in settings {
            self.postconf(&["-e", &format!("{name}={wanted}")])?;
        }
        Ok(format!(
            "\n{} is changed; {} is as it was. Now: postfix reload\n",
            file.display(),
            copy.display()
        ))
    }
}

/// What stands before the check where nothing does: Postfix's own users and relaying are decided on before.
const PERMITTED: &str = "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination";

/// A list with one more item, if none of it names the service. Behind `permit` or `reject` nothing is looked at.
fn added(now: &str, service: &str, own: &str) -> String {
    let separates = |sign: char| sign.is_whitespace() || matches!(sign, ',' | '{' | '}');
    if now.split(separates).any(|word| word == service) {
        return now.to_owned();
    }
    let last = now.trim_end_matches(separates);
    let before = ["permit", "reject", "defer"].iter().find_map(|end| {
        let before = last.strip_suffix(end)?;
        let is_word = before.is_empty() || before.ends_with(separates);
        is_word.then_some((before.trim_end_matches(separates), *end))
    });
    match before {
        Some(("", end)) => format!("{own}, {end}"),
        Some((before, end)) => format!("{before}, {own}, {end}"),
        None if last.is_empty() => own.to_owned(),
        None => format!("{now}, {own}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gets_what_it_does_not_have() {
        let add = |now| added(now, "unix:ask", "check { unix:ask }");
        assert_eq!(add(""), "check { unix:ask }");
        assert_eq!(
            add("permit_mynetworks"),
            "permit_mynetworks, check { unix:ask }"
        );
        assert_eq!(
            add("permit_mynetworks, permit"),
            "permit_mynetworks, check { unix:ask }, permit"
        );
        assert_eq!(add("reject"), "check { unix:ask }, reject");
        assert_eq!(
            add("check { unix:ask2 }"),
            "check { unix:ask2 }, check { unix:ask }"
        );
        assert_eq!(
            add("check { unix:ask, timeout=1s }"),
            "check { unix:ask, timeout=1s }"
        );
    }
}
