//! `portcullis explain`: a verdict and why.

use std::fmt::Write;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;

use super::paint::{self, Paint, printable};
use super::{Format, PolicyArgs, output, policy};
use crate::frontend::ask;
use portcullis::domain::normal_domain;
use portcullis::json::{self, ExplanationJson};
use portcullis::sandbox::interface::{
    Certificate, Consideration, Context, Dane, Direction, Explanation, Finding, Mode, MtaSts,
    Protection, Refusal, Route, Tls, TlsLevel, Verdict,
};
use portcullis::store::unavailable;

/// For an explanation, which looks at every connector while a person waits, in milliseconds.
const EXPLAINING: u64 = 10_000;

/// Tell what would become of a message, and why
///
/// The message is given by --context, or by the other options; what is left out is not known.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis explain rules.json --from alice@contosobank.com --to bob@contoso.com --ip 203.0.113.7
  portcullis explain rules.json --from alice@contosobank.com --to bob@contoso.com \\
      --ip 203.0.113.7 --tls --cert-name mail.contosobank.com
  portcullis explain rules.json --from bob@contoso.com --to alice@contosobank.com

Mail from one of the policy's accepted domains to another domain is mail that the organization sends.
The exit code is 0 whatever the verdict is: scripts read it from --format json.")]
pub struct Explain {
    #[command(flatten)]
    policy: PolicyArgs,
    /// A context as JSON; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "ip", "tls", "cert_name", "outbound", "inbound"])]
    context: Option<PathBuf>,
    /// The envelope sender; `<>` for the null sender
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// The envelope recipient
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// The client's address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    /// The session is encrypted, with this version
    #[arg(long, value_name = "VERSION", num_args = 0..=1, default_missing_value = "TLSv1.3")]
    tls: Option<String>,
    /// A name in the client's certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    cert_name: Vec<String>,
    /// What the certificate's chain is worth: trusted, expired, unknown-issuer, …
    #[arg(
        long,
        value_name = "OUTCOME",
        default_value = "trusted",
        requires = "cert_name"
    )]
    cert_trust: String,
    /// The SHA-256 of the client's certificate
    #[arg(long, value_name = "HEX", requires = "cert_name")]
    cert_sha256: Option<String>,
    /// An address in the From header; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    header_from: Vec<String>,
    /// Mail that the organization sends
    #[arg(long)]
    outbound: bool,
    /// Mail that the organization receives
    #[arg(long, conflicts_with = "outbound")]
    inbound: bool,
    /// How to write the explanation
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Explain {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        // What is wrong with the options is told before the policy is built.
        let context = match &self.context {
            Some(path) => Some(read_context(path)?),
            None => {
                self.context_of_options(self.direction(&[]))?;
                None
            }
        };
        let open = self.policy.open(EXPLAINING).await?;
        let accepted = &open.module.description.accepted_domains;
        let context = match context {
            Some(context) => context,
            None => self.context_of_options(self.direction(accepted))?,
        };
        let context = Arc::new(context);
        let mut explanation = open.instance().await?.explain(&context).await?;
        if let Err(reason) = ask::check(&explanation.verdict, context.direction) {
            output::tell(&format!(
                "{}: {}; mail is deferred for that\n",
                self.policy.policy.display(),
                printable(&reason)
            ));
            explanation.verdict = unavailable();
        }
        match self.format {
            Format::Json => output::json(&ExplanationJson::from(&explanation))?,
            Format::Text => {
                let paint = Paint(paint::wanted(&std::io::stdout()));
                let lists = open.module.description.total > 0 || open.module.is_of_rules();
                let explanation = cleaned(explanation);
                output::result(&text(&context, &explanation, lists, paint))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Mail goes out where its sender is one of our own and its recipient is not, unless the options say otherwise.
    fn direction(&self, accepted: &[String]) -> Direction {
        let is_own = |address: &Option<String>| {
            let domain = address.as_deref()?.rsplit_once('@')?.1;
            let domain = normal_domain(domain.trim_end_matches('>'))?;
            Some(accepted.iter().any(|own| covers(own, &domain)))
        };
        let goes_out = is_own(&self.from) == Some(true) && is_own(&self.to) == Some(false);
        match self.outbound || goes_out && !self.inbound {
            true => Direction::Outbound,
            false => Direction::Inbound,
        }
    }

    fn context_of_options(&self, direction: Direction) -> anyhow::Result<Context> {
        let to = self
            .to
            .clone()
            .ok_or_else(|| anyhow!("say who the mail is to: --to ADDRESS, or --context FILE"))?;
        let address = |option: &'static str, text: &str| {
            json::mailbox(text).map_err(|error| anyhow!("{option}: {error}"))
        };
        let header_from: anyhow::Result<Vec<String>> = self
            .header_from
            .iter()
            .map(|text| address("--header-from", text))
            .collect();
        let header_from = header_from?;
        let from = match (&self.from, direction) {
            (Some(from), _) => address("--from", from)?,
            (None, Direction::Outbound) => String::new(),
            (None, Direction::Inbound) => {
                bail!(
                    "say who the mail is from: --from ADDRESS (<> is the null sender); or --outbound for mail that you send"
                )
            }
        };
        Ok(Context {
            direction,
            client_ip: self.ip.map(json::ip_address),
            helo: None,
            tls: self.session()?,
            mail_from: from,
            rcpt_to: address("--to", &to)?,
            header_from: (!header_from.is_empty()).then_some(header_from),
            attributes: Vec::new(),
        })
    }

    fn session(&self) -> anyhow::Result<Option<Tls>> {
        let version = match &self.tls {
            Some(version) => version.as_str(),
            // A certificate is shown in TLS only.
            None if !self.cert_name.is_empty() => "TLSv1.3",
            None => return Ok(None),
        };
        let name = if version.starts_with("TLS") {
            version.to_owned()
        } else {
            format!("TLSv{version}")
        };
        let number = json::tls_version(&name)
            .ok_or_else(|| anyhow!("--tls {version}: not a version such as 1.2 or TLSv1.3"))?;
        Ok(Some(Tls {
            version: number,
            cipher: "any cipher".into(),
            certificate: self.certificate()?,
        }))
    }

    fn certificate(&self) -> anyhow::Result<Option<Certificate>> {
        let Some(first) = self.cert_name.first() else {
            return Ok(None);
        };
        let fingerprint = |text: &String| {
            json::sha256(text).ok_or_else(|| anyhow!("--cert-sha256 {text}: not 64 hex digits"))
        };
        Ok(Some(Certificate {
            dns_names: self.cert_name.clone(),
            subject: format!("CN={first}"),
            issuer: String::new(),
            sha256: self
                .cert_sha256
                .as_ref()
                .map(fingerprint)
                .transpose()?
                .unwrap_or_default(),
            not_after: None,
            trust: json::trust(&self.cert_trust)
                .ok_or_else(|| anyhow!("--cert-trust {}: not a known outcome", self.cert_trust))?,
        }))
    }
}

fn read_context(path: &Path) -> anyhow::Result<Context> {
    let text = if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read the context from standard input")?;
        text
    } else {
        policy::read_document(path)?
    };
    json::parse_context(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// The explanation without what a terminal would obey.
fn cleaned(mut explanation: Explanation) -> Explanation {
    let clean = |text: &mut String| *text = printable(text);
    let findings = |audit: &mut Vec<Finding>| {
        for Finding { connector, failed } in audit {
            clean(connector);
            clean(failed);
        }
    };
    match &mut explanation.verdict {
        Verdict::Accept(acceptance) => {
            acceptance.connectors.iter_mut().for_each(clean);
            findings(&mut acceptance.audit);
        }
        Verdict::Reject(refusal) | Verdict::Defer(refusal) => {
            [&mut refusal.enhanced, &mut refusal.text]
                .into_iter()
                .for_each(clean);
            findings(&mut refusal.audit);
        }
        Verdict::Deliver(delivery) => {
            if let Route::SmartHosts(hosts) = &mut delivery.route {
                hosts.iter_mut().for_each(clean);
            }
            for protection in [Some(&mut delivery.tls), delivery.audit_tls.as_mut()]
                .into_iter()
                .flatten()
            {
                if let TlsLevel::Name(names) = &mut protection.level {
                    names.iter_mut().for_each(clean);
                }
            }
            findings(&mut delivery.audit);
        }
    }
    for considered in &mut explanation.considered {
        clean(&mut considered.connector);
        for outcome in &mut considered.selectors {
            [
                &mut outcome.selector,
                &mut outcome.pattern,
                &mut outcome.fact,
            ]
            .into_iter()
            .for_each(clean);
        }
        for outcome in &mut considered.requirements {
            [
                &mut outcome.requirement,
                &mut outcome.expected,
                &mut outcome.fact,
            ]
            .into_iter()
            .for_each(clean);
        }
    }
    explanation
}

/// Whether an accepted domain, `*.domain` for all below as well, covers a domain in normal form.
fn covers(accepted: &str, domain: &str) -> bool {
    let Some(base) = accepted.strip_prefix("*.") else {
        return accepted == domain;
    };
    let below = domain.strip_suffix(base);
    below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
}

/// The explanation for a person who knows mail and not this program. A policy that others have written need not list
/// connectors.
fn text(context: &Context, explanation: &Explanation, lists: bool, paint: Paint) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", message_line(context));
    let _ = writeln!(text, "{}", verdict_line(&explanation.verdict, lists, paint));
    for finding in audit(&explanation.verdict) {
        let _ = writeln!(
            text,
            "  in audit only: connector \"{}\" would have refused it ({})",
            finding.connector, finding.failed
        );
    }
    for considered in &explanation.considered {
        text.push('\n');
        consideration(&mut text, considered, paint);
    }
    if explanation.considered.is_empty() {
        let direction = json::direction_name(context.direction);
        let _ = match lists {
            true => writeln!(text, "\nThe policy has no connectors for {direction} mail."),
            false => writeln!(
                text,
                "\nThe policy is of its own making: it lists no connectors."
            ),
        };
    }
    if explanation.others > 0 {
        let _ = writeln!(
            text,
            "\n{} more connectors have nothing to do with this mail.",
            explanation.others
        );
    }
    text
}

fn message_line(context: &Context) -> String {
    let session = match &context.tls {
        None => "not encrypted".to_owned(),
        Some(tls) => match &tls.certificate {
            None => format!(
                "{}, no client certificate",
                json::tls_version_name(tls.version)
            ),
            Some(certificate) => format!(
                "{}, client certificate {} ({})",
                json::tls_version_name(tls.version),
                certificate.dns_names.join(", "),
                json::trust_name(certificate.trust)
            ),
        },
    };
    match context.direction {
        Direction::Outbound if context.mail_from.is_empty() => {
            format!("Mail to <{}>", context.rcpt_to)
        }
        Direction::Outbound => {
            format!(
                "Mail from <{}> to <{}>, on its way out",
                context.mail_from, context.rcpt_to
            )
        }
        Direction::Inbound => format!(
            "Mail from <{}> to <{}>, client {}, {session}",
            context.mail_from,
            context.rcpt_to,
            client(context)
        ),
    }
}

fn client(context: &Context) -> String {
    use portcullis::sandbox::interface::IpAddress;
    match context.client_ip {
        None => "not known".into(),
        Some(IpAddress::Ipv4(bits)) => std::net::Ipv4Addr::from_bits(bits).to_string(),
        Some(IpAddress::Ipv6((high, low))) => {
            std::net::Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).to_string()
        }
    }
}

fn verdict_line(verdict: &Verdict, lists: bool, paint: Paint) -> String {
    let refused = |word: &str, refusal: &Refusal| {
        format!(
            "{} {} {} {}",
            paint.bad(word),
            refusal.code,
            refusal.enhanced,
            refusal.text
        )
    };
    match verdict {
        Verdict::Accept(acceptance) if !lists => {
            let named = match &acceptance.connectors[..] {
                [] => String::new(),
                names => format!(", naming {}", names.join(", ")),
            };
            format!("{}{named}", paint.good("accepted"))
        }
        Verdict::Accept(acceptance) if acceptance.connectors.is_empty() => {
            format!(
                "{}: no connector is for this mail, so it flows as usual",
                paint.good("accepted")
            )
        }
        Verdict::Accept(acceptance) => format!(
            "{}: it satisfies every connector that is for it: {}",
            paint.good("accepted"),
            acceptance.connectors.join(", ")
        ),
        Verdict::Reject(refusal) => refused("rejected:", refusal),
        Verdict::Defer(refusal) => refused("deferred:", refusal),
        Verdict::Deliver(delivery) => {
            let route = match &delivery.route {
                Route::Mx => "by MX".to_owned(),
                Route::SmartHosts(hosts) => format!("by {}", hosts.join(", then ")),
            };
            let audited = delivery
                .audit_tls
                .as_ref()
                .map_or_else(String::new, |protection| {
                    format!("; in audit only: {}", protection_text(protection))
                });
            format!(
                "{} {route}, {}{audited}",
                paint.good("delivered"),
                protection_text(&delivery.tls)
            )
        }
    }
}

/// What the next hop must show, for people.
pub fn protection_text(protection: &Protection) -> String {
    let level: String = match &protection.level {
        TlsLevel::Opportunistic => "with TLS if it is offered".into(),
        TlsLevel::Encrypt => "with TLS only, any certificate".into(),
        TlsLevel::Verify => "with TLS only, and a trusted certificate".into(),
        TlsLevel::Name(names) => {
            format!(
                "with TLS only, and a trusted certificate for {}",
                names.join(" or ")
            )
        }
    };
    let dane = match protection.dane {
        Dane::Opportunistic => "",
        Dane::Mandatory => ", DANE is mandatory",
        Dane::None => ", DANE is not looked at",
    };
    let mta_sts = match protection.mta_sts {
        MtaSts::Opportunistic => "",
        MtaSts::None => ", MTA-STS is not looked at",
    };
    format!("{level}{dane}{mta_sts}")
}

fn audit(verdict: &Verdict) -> &[Finding] {
    match verdict {
        Verdict::Accept(acceptance) => &acceptance.audit,
        Verdict::Reject(refusal) | Verdict::Defer(refusal) => &refusal.audit,
        Verdict::Deliver(delivery) => &delivery.audit,
    }
}

fn consideration(text: &mut String, considered: &Consideration, paint: Paint) {
    let state = match (considered.matched, considered.mode) {
        (_, Mode::Disabled) => "is disabled",
        (true, Mode::Audit) => "is for this mail, in audit only",
        (true, _) => "is for this mail",
        (false, _) => "is not for this mail",
    };
    let _ = writeln!(
        text,
        "Connector \"{}\" {state}",
        paint.strong(&considered.connector)
    );
    for outcome in &considered.selectors {
        let (mark, verb) = if outcome.matched {
            ("=", "fits")
        } else {
            ("≠", "does not fit")
        };
        let _ = writeln!(
            text,
            "  {} {}: {} {verb} {}",
            paint.dim(mark),
            outcome.selector,
            outcome.pattern,
            outcome.fact
        );
    }
    for outcome in &considered.requirements {
        let mark = if outcome.satisfied {
            paint.good("✓").to_string()
        } else {
            paint.bad("✗").to_string()
        };
        let _ = writeln!(
            text,
            "  {mark} requires {} ({}); this mail: {}",
            outcome.expected, outcome.requirement, outcome.fact
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis::sandbox::interface::Trust;

    #[test]
    fn the_null_sender_is_shown_as_such() {
        let context = Context {
            direction: Direction::Inbound,
            client_ip: None,
            helo: None,
            tls: Some(Tls {
                version: 0x0303,
                cipher: String::new(),
                certificate: Some(Certificate {
                    dns_names: vec!["a.example".into()],
                    subject: String::new(),
                    issuer: String::new(),
                    sha256: (0, 0, 0, 0),
                    not_after: None,
                    trust: Trust::Expired,
                }),
            }),
            mail_from: String::new(),
            rcpt_to: "b@contoso.com".into(),
            header_from: None,
            attributes: Vec::new(),
        };
        assert_eq!(
            message_line(&context),
            "Mail from <> to <b@contoso.com>, client not known, TLSv1.2, client certificate a.example (expired)"
        );
    }
}
