//! `portcullis explain`: a verdict and why.

use std::fmt::Write;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, Args};

use super::paint::{self, Painter, printable};
use super::{
    output::{self, Format},
    policy::{self, PolicyArgs},
};
use crate::frontend::mta::attributes::Attributes;
use crate::frontend::mta::certificates::Told;
use portcullis::{
    Certificate, ClientAddress, Consideration, Context, Dane, Decision, Direction, Explanation,
    HeaderFrom, Mode, MtaSts, Outcome, PeerCertificate, Protection, Refusal, Route, Security,
    Sha256, SmartHost, Tls, TlsLevel, Trust, Verdict, mailbox, normal_domain, tls_version,
    tls_version_name,
};

/// For an explanation, which looks at every connector while a person waits, in milliseconds.
const EXPLAINING: u64 = 10_000;

/// Tell what would become of a message, and why
///
/// The message is given by --context, or by the other options; what is left out is absent:
/// without --tls the session is in plaintext.
#[derive(Args)]
#[command(after_help = "Examples:
  portcullis explain rules.json --from alice@contosobank.com --to bob@contoso.com --ip 203.0.113.7
  portcullis explain rules.json --from alice@contosobank.com --to bob@contoso.com \\
      --ip 203.0.113.7 --tls --cert-name mail.contosobank.com
  portcullis explain rules.json --from bob@contoso.com --to alice@contosobank.com
  portcullis explain rules.json --as postfix - < attributes

Mail from one of the policy's accepted domains to another domain is mail that the organization sends.
The exit code is 0 whatever the verdict is: scripts read it from --format json.")]
pub struct Explain {
    #[command(flatten)]
    policy: PolicyArgs,
    /// A context as JSON; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to", "ip", "tls", "certificate", "outbound", "inbound"])]
    context: Option<PathBuf>,
    /// What another server tells: that it is Postfix, and the attributes of a request of its policy delegation, a line
    /// each, as they are sent or as `smtpd -v` logs them; `-` for standard input
    #[arg(long = "as", value_names = ["WAY", "ATTRIBUTES"], num_args = 2, conflicts_with_all = ["context", "from", "to", "ip", "tls", "certificate", "outbound", "inbound", "header_from"])]
    told: Vec<String>,
    /// With --as: the server asks all clients for a certificate, so that none told is none shown
    #[arg(long, requires = "told")]
    certificates_requested: bool,
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
    #[command(flatten)]
    certificate: CertificateArgs,
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

/// The client's certificate; none without these.
#[derive(Args)]
#[group(id = "certificate", multiple = true)]
#[command(group = ArgGroup::new("identity").multiple(true).args(["cert_name", "cert_sha256", "cert_key_sha256"]))]
struct CertificateArgs {
    /// A name in the client's certificate; may be repeated
    #[arg(long, value_name = "NAME")]
    cert_name: Vec<String>,
    /// The SHA-256 of the client's certificate
    #[arg(long, value_name = "HEX")]
    cert_sha256: Option<String>,
    /// The SHA-256 of its public key
    #[arg(long, value_name = "HEX")]
    cert_key_sha256: Option<String>,
    /// What the certificate's chain is worth [default: trusted]
    #[arg(long, value_name = "OUTCOME", requires = "identity", value_parser = outcomes())]
    cert_trust: Option<Trust>,
    /// A certificate authority that the chain leads to; may be repeated [default: public, if it is trusted]
    #[arg(long, value_name = "AUTHORITY", requires = "identity")]
    cert_authority: Vec<String>,
}

/// The words for what a chain is worth.
fn outcomes() -> impl TypedValueParser<Value = Trust> {
    let words = Trust::ALL.iter().map(|outcome| outcome.name());
    PossibleValuesParser::new(words)
        .try_map(|word| Trust::from_name(&word).ok_or("it is no such outcome"))
}

impl CertificateArgs {
    fn is_presented(&self) -> bool {
        !self.cert_name.is_empty() || self.cert_sha256.is_some() || self.cert_key_sha256.is_some()
    }

    fn presented(&self) -> anyhow::Result<PeerCertificate> {
        if !self.is_presented() {
            return Ok(PeerCertificate::None);
        }
        let digest = |option: &str, text: &Option<String>| {
            let parsed = text.as_ref().map(|text| {
                Sha256::parse(text).ok_or_else(|| anyhow!("{option} {text}: not 64 hex digits"))
            });
            parsed.transpose()
        };
        let trust = self.cert_trust.unwrap_or(Trust::Trusted);
        let first = self.cert_name.first();
        Ok(PeerCertificate::Presented(Certificate {
            dns_names: Some(self.cert_name.clone()),
            subject: first.map(|name| format!("CN={name}")).unwrap_or_default(),
            sha256: digest("--cert-sha256", &self.cert_sha256)?,
            key_sha256: digest("--cert-key-sha256", &self.cert_key_sha256)?,
            trust: Some(trust),
            anchors: match self.cert_authority.is_empty() {
                true => Certificate::usual_anchors(Some(trust)),
                false => Some(self.cert_authority.clone()),
            },
            ..Certificate::default()
        }))
    }
}

impl Explain {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        // What is wrong with the options is told before the policy is built.
        let context = match (&self.context, &self.told[..]) {
            (Some(path), _) => Some(read_context(path)?),
            (None, [way, attributes]) => Some(self.told_context(way, attributes)?),
            (None, _) => {
                self.context_of_options(self.direction(&[]))?;
                None
            }
        };
        let policy = self.policy.open(EXPLAINING).await?;
        let accepted = &policy.description().accepted_domains;
        let context = match context {
            Some(context) => context,
            None => self.context_of_options(self.direction(accepted))?,
        };
        let explanation = policy.session().explain(&context).await;
        let mut explanation = explanation.map_err(|mut error| {
            // It was shown when it was written.
            error.wrote.clear();
            error
        })?;
        let verdict = explanation.verdict.clone();
        if let Err(reason) = Decision::new(verdict, context.direction()) {
            output::tell(&format!(
                "{}: {}; mail is deferred for that\n",
                self.policy.policy.display(),
                printable(&reason)
            ));
            explanation.verdict = Decision::unavailable(None).into_verdict();
        }
        match self.format {
            Format::Json => output::json(&explanation)?,
            Format::Text => {
                let paint = Painter(paint::wanted(&std::io::stdout()));
                let lists = policy.description().total > 0 || policy.is_built_in();
                output::result(&text(&context, &explanation, lists, paint))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What a front door would make of a request, without known certificates and without a milter beside.
    fn told_context(&self, way: &str, attributes: &str) -> anyhow::Result<Context> {
        if way != "postfix" {
            bail!("--as {way}: only postfix has such attributes");
        }
        let attributes = match attributes {
            "-" => read_input("the attributes")?,
            text => text.to_owned(),
        };
        let wrong = |error| anyhow!("--as postfix: {error}");
        let attributes = Attributes::parse_dump(&attributes).map_err(wrong)?;
        let sender = mailbox(attributes.get("sender"));
        let sender = sender.ok_or_else(|| wrong("the sender is no address".into()))?;
        if attributes.get("recipient").is_empty() {
            return Err(wrong("there is no recipient".into()));
        }
        let no_certificate = match self.certificates_requested {
            true => PeerCertificate::None,
            false => PeerCertificate::Unknown,
        };
        let protection = attributes.protection(no_certificate, Told::certificate);
        Ok(attributes.context(sender, protection, HeaderFrom::Unknown))
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
            mailbox(text).map(str::to_owned).ok_or_else(|| {
                anyhow!("{option}: {text:?} is not an address such as \"alice@contosobank.com\"")
            })
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
        let to = address("--to", &to)?;
        let context = match (direction, self.ip) {
            (Direction::Inbound, ip) => Context::inbound(ip, from, to),
            (Direction::Outbound, None) => Context::outbound(from, to),
            (Direction::Outbound, Some(ip)) => {
                Context::outbound(from, to).client_address(ClientAddress::Known(ip))
            }
        };
        Ok(context
            .security(self.session()?)
            .header_from(match header_from.is_empty() {
                true => HeaderFrom::Pending,
                false => HeaderFrom::Addresses(header_from),
            }))
    }

    fn session(&self) -> anyhow::Result<Security> {
        let version = match &self.tls {
            Some(version) => version.as_str(),
            // A certificate is shown in TLS only.
            None if self.certificate.is_presented() => "TLSv1.3",
            None => return Ok(Security::Plaintext),
        };
        let name = if version.starts_with("TLS") {
            version.to_owned()
        } else {
            format!("TLSv{version}")
        };
        let number = tls_version(&name)
            .ok_or_else(|| anyhow!("--tls {version}: not a version such as 1.2 or TLSv1.3"))?;
        Ok(Security::Encrypted(Tls {
            version: Some(number),
            cipher: "any cipher".into(),
            certificate: self.certificate.presented()?,
        }))
    }
}

fn read_input(what: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {what} from standard input"))?;
    Ok(text)
}

fn read_context(path: &Path) -> anyhow::Result<Context> {
    let text = match path.as_os_str() == "-" {
        true => read_input("the context")?,
        false => policy::read_document(path)?,
    };
    Context::from_json(&text).map_err(|error| anyhow!("{}: {error}", path.display()))
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
fn text(context: &Context, explanation: &Explanation, lists: bool, paint: Painter) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", message_line(context));
    let _ = writeln!(text, "{}", verdict_line(&explanation.verdict, lists, paint));
    for finding in explanation.verdict.audit() {
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
        let direction = context.direction();
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
    let (from, to) = (printable(context.mail_from()), printable(context.rcpt_to()));
    match context.direction() {
        Direction::Outbound if from.is_empty() => format!("Mail to <{to}>"),
        Direction::Outbound => format!("Mail from <{from}> to <{to}>, on its way out"),
        Direction::Inbound => format!(
            "Mail from <{from}> to <{to}>, client {}, {}",
            client(context.client_ip()),
            session(context.session_security())
        ),
    }
}

fn client(address: ClientAddress) -> String {
    match address {
        ClientAddress::Known(ip) => ip.to_string(),
        ClientAddress::None => "without an address".into(),
        ClientAddress::Unknown => "unknown".into(),
    }
}

fn session(security: &Security) -> String {
    let tls = match security {
        Security::Plaintext => return "not encrypted".into(),
        Security::Unknown => return "encrypted or not".into(),
        Security::Encrypted(tls) => tls,
    };
    let version = tls.version.map_or("TLS", |version| {
        tls_version_name(version).unwrap_or("unknown")
    });
    match &tls.certificate {
        PeerCertificate::None => format!("{version}, no client certificate"),
        PeerCertificate::Unknown => format!("{version}, with or without a client certificate"),
        PeerCertificate::Presented(certificate) => format!(
            "{version}, client certificate {} ({})",
            match &certificate.dns_names {
                Some(names) => printable(&names.join(", ")),
                None => "for unknown names".into(),
            },
            certificate.trust.map_or("unknown", |trust| trust.name())
        ),
    }
}

fn verdict_line(verdict: &Verdict, lists: bool, paint: Painter) -> String {
    let refused = |word: &str, refusal: &Refusal| {
        // A policy of its own may say there, and nowhere else, what has happened.
        let failed = match refusal.text.contains(&refusal.failed) {
            true => String::new(),
            false => format!(" (failed: {})", refusal.failed),
        };
        format!(
            "{} {} {} {}{failed}",
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
                Route::SmartHosts(hosts) => {
                    let hosts: Vec<String> = hosts.iter().map(SmartHost::to_string).collect();
                    format!("by {}", hosts.join(", then "))
                }
            };
            let audited = delivery
                .audit_tls
                .as_ref()
                .map_or_else(String::new, |protection| {
                    let by = delivery.audit_connector.as_ref();
                    let by =
                        by.map_or_else(String::new, |name| format!(" by connector \"{name}\""));
                    format!("; in audit only{by}: {}", protection_text(protection))
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
    let mut more = String::new();
    if let Some(name) = protection.min_version.and_then(tls_version_name) {
        more.push_str(&format!(", at least {name}"));
    }
    if !protection.fingerprints.is_empty() {
        more.push_str(", a pinned certificate");
    }
    if !protection.keys.is_empty() {
        more.push_str(", a pinned key");
    }
    if !protection.authorities.is_empty() {
        let names = protection.authorities.join(" or ");
        more.push_str(&format!(", a certificate by {names}"));
    }
    format!("{level}{more}{dane}{mta_sts}")
}

fn consideration(text: &mut String, considered: &Consideration, paint: Painter) {
    let state = match (considered.matched, considered.mode) {
        (_, Mode::Disabled) => "is disabled",
        (Outcome::Yes, Mode::Audit) => "is for this mail, in audit only",
        (Outcome::Yes, _) => "is for this mail",
        (Outcome::Unknown, _) => "may be for this mail",
        (Outcome::No, _) => "is not for this mail",
    };
    let _ = writeln!(
        text,
        "Connector \"{}\" {state}",
        paint.strong(&considered.connector)
    );
    for outcome in &considered.selectors {
        let (mark, verb) = match outcome.matched {
            Outcome::Yes => ("=", "fits"),
            Outcome::No => ("≠", "does not fit"),
            Outcome::Unknown => ("?", "may fit"),
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
        let mark = match outcome.satisfied {
            Outcome::Yes => paint.good("✓").to_string(),
            Outcome::No => paint.bad("✗").to_string(),
            Outcome::Unknown => paint.dim("?").to_string(),
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

    #[test]
    fn the_null_sender_is_shown_as_such() {
        let context = Context::inbound(None, "", "b@contoso.com").tls(Tls {
            version: Some(0x0303),
            cipher: String::new(),
            certificate: PeerCertificate::Presented(Certificate {
                dns_names: Some(vec!["a.example".into()]),
                trust: Some(Trust::Expired),
                ..Certificate::default()
            }),
        });
        assert_eq!(
            message_line(&context),
            "Mail from <> to <b@contoso.com>, client without an address, TLSv1.2, client certificate a.example (expired)"
        );
    }
}
