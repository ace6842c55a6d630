//! `portcullis setup`: what another server needs so that it asks.

mod exim;
mod haraka;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;
use time::OffsetDateTime;

use super::paint::printable;
use super::{output, policy};
use crate::config::{Config, Frontend, Protocol};
use crate::egress::partner::Published;
use crate::frontend::ways::Way;
use crate::postfix::next_hops::of_host;
use crate::postfix::{NextHop, NotInPostfix, TlsPolicy};
use crate::socket::Place;
use portcullis::{Mode, Route};

/// Show what another mail server needs so that it asks the policies
///
/// Looks at the server's version and settings, and prints the lines to add and what this way cannot tell. Nothing is
/// changed without --apply.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  portcullis setup postfix --config /etc/portcullis/portcullis.toml\n  portcullis setup postfix --config /etc/portcullis/portcullis.toml --apply\n  portcullis setup postfix --outbound --config /etc/portcullis/portcullis.toml"
)]
pub struct SetupCommand {
    /// The server
    #[arg(value_enum)]
    way: Way,
    /// The configuration of Portcullis
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The folder of the server's configuration, if it is not the usual one (Postfix); Haraka's folder
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// For mail to partners, not for mail from them (Postfix)
    #[arg(long)]
    outbound: bool,
    /// Change the server's configuration (Postfix); the old one is kept beside it
    #[arg(long)]
    apply: bool,
}

impl SetupCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// If the server cannot be asked for its settings, or the configuration has no front door for it.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::load(&self.config)?;
        if self.outbound && self.way != Way::Postfix {
            bail!(
                "--outbound is for Postfix: {} asks about mail from partners",
                self.way
            );
        }
        if self.apply && !matches!(self.way, Way::Postfix | Way::Milter) {
            bail!("only Postfix's settings can be changed from here: add the lines yourself");
        }
        let protocol = match self.way {
            Way::Haraka => {
                let text = haraka::lines(self.directory.as_deref(), &config);
                output::result(&text)?;
                return Ok(ExitCode::SUCCESS);
            }
            Way::Postfix if self.outbound => Protocol::Socketmap,
            Way::Postfix | Way::Exim | Way::Opensmtpd => Protocol::Policy,
            Way::Milter | Way::Sendmail => Protocol::Milter,
            Way::Stalwart => Protocol::Http,
        };
        let frontend = config
            .frontends
            .iter()
            .filter(|frontend| frontend.protocols.contains(&protocol))
            // Those that ask over TCP only do not see a socket.
            .min_by_key(|frontend| {
                self.way.asks_over_tcp() && !matches!(frontend.place, Place::Tcp(_))
            });
        let Some(frontend) = frontend else {
            bail!(
                "{} has no [[frontend]] that speaks {}: add one, such as\n\n{}",
                self.config.display(),
                protocol.name(),
                suggested(self.way)
            );
        };
        let mut text = String::new();
        match self.way {
            Way::Postfix | Way::Milter => {
                let postfix = Postfix::new(self.directory.clone())?;
                let settings = match self.outbound {
                    true => postfix.outbound_settings(frontend)?,
                    false => postfix.settings(self.way, frontend)?,
                };
                text.push_str(&postfix.told(&settings));
                if self.apply {
                    text.push_str(&postfix.apply(&settings)?);
                }
            }
            Way::Exim | Way::Sendmail | Way::Stalwart | Way::Opensmtpd | Way::Haraka => {
                if self.way == Way::Exim {
                    text.push_str(&exim::found());
                }
                text.push_str(&lines(self.way, &frontend.place)?);
            }
        }
        text.push_str(&match self.outbound {
            true => self.how_to_see(&config, frontend).await,
            false => untold(self.way),
        });
        output::result(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    /// How to see that Postfix's maps are answered: with a destination of the rules, if they name one.
    async fn how_to_see(&self, config: &Config, frontend: &Frontend) -> String {
        let map = match &frontend.place {
            Place::Tcp(address) => format!("socketmap:inet:{address}:tls"),
            Place::Unix(unix) => format!("socketmap:unix:{}:tls", unix.path.display()),
        };
        let (domain, answer) = match example(config, frontend).await {
            Some((domain, Ok(policy))) => (
                domain,
                format!(
                    "prints \"{policy}\" if the partner publishes no TLSA records and no MTA-STS policy"
                ),
            ),
            Some((domain, Err(why))) => (domain, format!("defers: {why}")),
            None => (
                "bank.example".into(),
                "prints nothing, because no connector is about it".into(),
            ),
        };
        let directory = match &self.directory {
            Some(directory) => format!("-c {} ", directory.display()),
            None => String::new(),
        };
        format!(
            "\nTo see it work:\n\n  postmap {directory}-q '{domain}' {map}\n\n{answer}.\nWhat Postfix cannot carry out: portcullis check RULES.json --for postfix\n"
        )
    }
}

fn suggested(way: Way) -> &'static str {
    match way {
        Way::Postfix | Way::Milter => {
            "[[frontend]]\naddress = \"/var/spool/postfix/portcullis/ask\"\ngroup = \"postfix\""
        }
        Way::Exim | Way::Sendmail => "[[frontend]]\naddress = \"127.0.0.1:8460\"",
        Way::Opensmtpd => "[[frontend]]\naddress = \"/run/portcullis/ask\"\ngroup = \"_smtpd\"",
        Way::Stalwart | Way::Haraka => {
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

/// A destination of an outbound connector, and what Postfix is told of it.
async fn example(
    config: &Config,
    frontend: &Frontend,
) -> Option<(String, Result<TlsPolicy, NotInPostfix>)> {
    let named = frontend.tenant.as_deref();
    let tenant = config
        .tenants
        .iter()
        .find(|tenant| named.is_none_or(|name| name == tenant.name))?;
    let engine = policy::engine(policy::limits()).ok()?;
    let policy = engine.load_file(&tenant.policy).await.ok()?;
    let connectors = policy.connectors().await.ok()?;
    connectors.iter().find_map(|connector| {
        let is_asked = connector.mode == Mode::Enforce;
        let delivery = connector.delivery.as_ref().filter(|_| is_asked)?;
        let (key, asked) = match &delivery.route {
            Route::Mx => {
                let mut domains = connector.selects.recipient_domains.iter();
                let domain = domains.find(|domain| !domain.contains('*'))?;
                (domain.clone(), delivery.tls.clone())
            }
            // Postfix asks about the next hop.
            Route::SmartHosts(hosts) => {
                let first = hosts.first()?;
                let next_hop = NextHop::of(first, config.delivery.port);
                (next_hop.to_string(), of_host(&delivery.tls, &first.host))
            }
        };
        Some((key, TlsPolicy::of(&asked, Some(&Published::NOTHING))))
    })
}

/// The lines for servers whose settings are not looked at.
fn lines(way: Way, place: &Place) -> anyhow::Result<String> {
    if way == Way::Opensmtpd {
        let socket = match place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(unix) => unix.path.display().to_string(),
        };
        return Ok(format!(
            "In smtpd.conf, and then \"filter portcullis\" at each listener that takes mail of others:\n\n  filter portcullis proc-exec \"portcullis filter opensmtpd --frontend {socket}\"\n"
        ));
    }
    let Place::Tcp(address) = place else {
        bail!("{way} asks over TCP: give the [[frontend]] an address such as \"127.0.0.1:8460\"");
    };
    Ok(match way {
        Way::Exim => format!(
            "Copy examples/exim/portcullis-acl.conf to /etc/exim4, with the address {address}. In the main section:\n\n  tls_try_verify_hosts = *\n\nBelow \"begin acl\":\n\n  .include /etc/exim4/portcullis-acl.conf\n\nIn the ACL of RCPT, behind what permits your own users:\n\n  require acl = portcullis_rcpt\n\nFor rules with match-header-from also, in the main section:\n\n  PORTCULLIS_HEADER = yes\n\nAnd first in the ACL of DATA, before anything that accepts:\n\n  require acl = portcullis_data\n"
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
            is_plain("smtpd_milters", &now, &service)?;
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
        is_plain(name, &now, &service)?;
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

    /// What is to be changed for mail to partners. Maps that are there are asked for what ours say nothing about.
    fn outbound_settings(&self, frontend: &Frontend) -> anyhow::Result<Vec<Setting>> {
        if !self.is_at_least((3, 5)) {
            bail!(
                "Postfix {} is too old: routes have several servers from 3.5 on",
                self.version
            );
        }
        let fallback = self.postconf(&["-x", "-h", "smtp_fallback_relay"])?;
        if !fallback.is_empty() {
            bail!(
                "smtp_fallback_relay is {:?}: mail that a partner's servers do not take as its connector asks would go there; empty it first",
                printable(&fallback)
            );
        }
        let service = self.service(&frontend.place)?;
        let has_reports = self.is_at_least((3, 10));
        let tls = match has_reports {
            true => "tlsrpt",
            false => "tls",
        };
        let mut settings = Vec::new();
        for (name, map) in [("smtp_tls_policy_maps", tls), ("transport_maps", "route")] {
            let now = self.get(name)?;
            let own = format!("socketmap:{service}:{map}");
            // A map before ours would hide it.
            let others = now.split([',', ' ', '\t', '\n']);
            let others = others.filter(|map| !map.is_empty() && *map != own);
            let all: Vec<&str> = std::iter::once(&*own).chain(others).collect();
            let wanted = match now.starts_with(&own) {
                true => now.clone(),
                false => all.join(", "),
            };
            settings.push(Setting { name, now, wanted });
        }
        for (name, wanted) in [
            ("smtp_dns_support_level", "dnssec"),
            ("smtp_tls_fingerprint_digest", "sha256"),
        ] {
            let now = self.get(name)?;
            let wanted = wanted.into();
            settings.push(Setting { name, now, wanted });
        }
        let now = self.get("smtp_tls_security_level")?;
        if now.is_empty() || now == "none" {
            let (name, wanted) = ("smtp_tls_security_level", "may".into());
            settings.push(Setting { name, now, wanted });
        }
        let now = self.get("smtp_tls_CAfile")?;
        if now.is_empty() && self.get("smtp_tls_CApath")?.is_empty() {
            let (name, wanted) = ("smtp_tls_CAfile", AUTHORITIES.into());
            settings.push(Setting { name, now, wanted });
        }
        if has_reports {
            // A sender's `TLS-Required: No` would lower what connectors ask for (RFC 8689 section 5).
            let name = "tls_required_enable";
            let (now, wanted) = (self.get(name)?, "no".into());
            settings.push(Setting { name, now, wanted });
        }
        settings.retain(|it| it.now != it.wanted);
        Ok(settings)
    }

    fn told(&self, settings: &[Setting]) -> String {
        let mut text = format!("Postfix {}\n\n", printable(&self.version));
        if settings.is_empty() {
            text.push_str("All settings are as they should be.\n");
            return text;
        }
        for Setting { name, now, wanted } in settings {
            let quoted = printable(wanted).replace('\'', r"'\''");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# {name} is \"{}\"", printable(now));
            let _ = writeln!(text, "postconf -e '{name} = {quoted}'");
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

/// Where Debian and others have the authorities that browsers trust.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What stands before the check where nothing does: Postfix's own users and relaying are decided on before.
const PERMITTED: &str = "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination";

/// Whether it can be told where a check belongs into a list, and whether the one that is there works.
fn is_plain(name: &str, now: &str, service: &str) -> anyhow::Result<()> {
    let separates = |sign: char| sign.is_whitespace() || matches!(sign, ',' | '{' | '}');
    let words: Vec<&str> = now
        .split(separates)
        .filter(|word| !word.is_empty())
        .collect();
    let lenient = [
        "default_action=dunno",
        "default_action=ok",
        "default_action=accept",
        "default_action=permit",
    ];
    let own = words.iter().position(|word| *word == service);
    let has_permit_before = |end: usize| words.iter().take(end).any(|word| *word == "permit");
    let last = words.len().saturating_sub(1);
    let why = if now.contains('$') {
        "names other settings"
    } else if words.contains(&"warn_if_reject") {
        "has warn_if_reject, behind which refusals are warnings"
    } else if words
        .iter()
        .any(|word| lenient.contains(&&*word.to_lowercase()))
    {
        "has a default_action that lets mail pass while nobody answers"
    } else if has_permit_before(own.unwrap_or(last)) {
        "has permit, behind which nothing is asked"
    } else {
        return Ok(());
    };
    bail!(
        "{name} {why}: see to the check yourself, as docs/integrations/postfix.md says; it is {:?}",
        printable(now)
    )
}

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
    fn lists_in_which_a_check_would_not_work_are_left_alone() {
        let plain = |now| is_plain("x", now, "unix:ask").is_ok();
        assert!(plain(
            "permit_mynetworks, reject_unauth_destination, permit"
        ));
        assert!(plain(
            "check_policy_service { unix:ask, default_action=DEFER_IF_PERMIT }, permit"
        ));
        for now in [
            "$my_restrictions",
            "permit_mynetworks, warn_if_reject reject",
            "permit, reject_unauth_destination",
            "permit, check_policy_service unix:ask",
            "check_policy_service { unix:ask, default_action=DUNNO }",
            "{ unix:ask, default_action=accept }",
        ] {
            assert!(!plain(now), "{now}");
        }
    }

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
