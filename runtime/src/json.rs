//! The JSON forms of contexts, verdicts and explanations (`docs/spec.md`, sections 2 and 4).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::sandbox::interface::{
    self, Certificate, Context, Dane, Direction, Explanation, Finding, Mode, MtaSts, Protection,
    Route, Tls, TlsLevel, Trust, Verdict,
};
use crate::sandbox::{Problem, Severity};

/// TLS versions by name, as TLS writes them; the first name of a version is the one that is shown.
const TLS_VERSIONS: [(&str, u16); 5] = [
    ("TLSv1", 0x0301),
    ("TLSv1.0", 0x0301),
    ("TLSv1.1", 0x0302),
    ("TLSv1.2", 0x0303),
    ("TLSv1.3", 0x0304),
];

const TRUSTS: [(&str, Trust); 6] = [
    ("trusted", Trust::Trusted),
    ("expired", Trust::Expired),
    ("unknown-issuer", Trust::UnknownIssuer),
    ("not-yet-valid", Trust::NotYetValid),
    ("revoked", Trust::Revoked),
    ("invalid", Trust::Invalid),
];

/// The version that a name stands for.
pub fn tls_version(name: &str) -> Option<u16> {
    TLS_VERSIONS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, version)| *version)
}

/// The name of a version.
pub fn tls_version_name(version: u16) -> &'static str {
    TLS_VERSIONS
        .iter()
        .find(|(_, known)| *known == version)
        .map_or("unknown", |(name, _)| name)
}

/// The outcome of a chain that a word stands for.
pub fn trust(name: &str) -> Option<Trust> {
    TRUSTS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, trust)| *trust)
}

/// The word for the outcome of a chain.
pub fn trust_name(trust: Trust) -> &'static str {
    TRUSTS
        .iter()
        .find(|(_, known)| *known == trust)
        .map_or("invalid", |(name, _)| name)
}

/// The interface's form of an address; an IPv4-mapped IPv6 address becomes IPv4.
pub fn ip_address(ip: IpAddr) -> interface::IpAddress {
    match ip.to_canonical() {
        IpAddr::V4(ip) => interface::IpAddress::Ipv4(ip.to_bits()),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            interface::IpAddress::Ipv6(((bits >> 64) as u64, bits as u64))
        }
    }
}

/// The interface's form of a SHA-256 in hex digits; colons are allowed between them.
pub fn sha256(text: &str) -> Option<(u64, u64, u64, u64)> {
    let digits: String = text.chars().filter(|c| *c != ':').collect();
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let word = |at: usize| u64::from_str_radix(&digits[16 * at..16 * (at + 1)], 16).ok();
    Some((word(0)?, word(1)?, word(2)?, word(3)?))
}

/// Reads a context.
///
/// # Errors
/// Says what is wrong and where in the line.
pub fn parse_context(text: &str) -> Result<Context, String> {
    // Some editors begin a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    let context: ContextJson = serde_json::from_str(text).map_err(|error| error.to_string())?;
    context.try_into()
}

/// The address in a text that people write for one: alone, in angle brackets, or behind a name. The null sender is
/// empty.
///
/// # Errors
/// If it could be read as an address of another domain, or is none.
pub fn mailbox(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not an address such as \"alice@contosobank.com\"");
    let trimmed = text.trim();
    let inside = match trimmed.strip_suffix('>') {
        Some(front) => {
            let (before, inside) = front.rsplit_once('<').ok_or_else(wrong)?;
            if before.contains(['<', '>']) {
                return Err(wrong());
            }
            inside
        }
        None => trimmed,
    };
    let (local, domain) = inside.rsplit_once('@').unwrap_or(("", inside));
    let is_foreign = |character: char| {
        character.is_whitespace()
            || character.is_control()
            || matches!(character, '<' | '>' | ',' | ';' | '"' | '(' | ')')
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{feff}')
    };
    // Within quotes a local part may hold all of them (RFC 5321 §4.1.2).
    let is_bare = !local.starts_with('"');
    let is_wrong = domain.contains(is_foreign)
        || is_bare && (local.contains(is_foreign) || local.contains('@'));
    match is_wrong {
        true => Err(wrong()),
        false => Ok(inside.to_owned()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ContextJson {
    direction: DirectionJson,
    client_ip: Option<IpAddr>,
    helo: Option<String>,
    tls: Option<TlsJson>,
    mail_from: Option<String>,
    rcpt_to: String,
    header_from: Option<Vec<String>>,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum DirectionJson {
    Inbound,
    Outbound,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct TlsJson {
    version: String,
    #[serde(default)]
    cipher: String,
    certificate: Option<CertificateJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct CertificateJson {
    #[serde(default)]
    dns_names: Vec<String>,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    issuer: String,
    sha256: Option<String>,
    not_after: Option<String>,
    trust: String,
}

impl TryFrom<ContextJson> for Context {
    type Error = String;

    fn try_from(json: ContextJson) -> Result<Self, String> {
        let direction = match json.direction {
            DirectionJson::Inbound => Direction::Inbound,
            DirectionJson::Outbound => Direction::Outbound,
        };
        let mail_from = match (json.mail_from, direction) {
            (Some(mail_from), _) => mail_from,
            // Outbound connectors go by the recipient.
            (None, Direction::Outbound) => String::new(),
            (None, Direction::Inbound) => return Err("missing field `mail-from`".into()),
        };
        Ok(Context {
            direction,
            client_ip: json.client_ip.map(ip_address),
            helo: json.helo,
            tls: json.tls.map(Tls::try_from).transpose()?,
            mail_from: mailbox(&mail_from).map_err(|error| format!("mail-from: {error}"))?,
            rcpt_to: mailbox(&json.rcpt_to).map_err(|error| format!("rcpt-to: {error}"))?,
            header_from: json.header_from.map(mailboxes).transpose()?,
            attributes: Vec::new(),
        })
    }
}

fn mailboxes(texts: Vec<String>) -> Result<Vec<String>, String> {
    let read = |(number, text): (usize, &String)| {
        mailbox(text).map_err(|error| format!("header-from[{number}]: {error}"))
    };
    texts.iter().enumerate().map(read).collect()
}

impl TryFrom<TlsJson> for Tls {
    type Error = String;

    fn try_from(json: TlsJson) -> Result<Self, String> {
        let version = tls_version(&json.version)
            .ok_or_else(|| format!("tls.version: {:?} is not TLSv1.2 or TLSv1.3", json.version))?;
        Ok(Tls {
            version,
            cipher: json.cipher,
            certificate: json.certificate.map(Certificate::try_from).transpose()?,
        })
    }
}

impl TryFrom<CertificateJson> for Certificate {
    type Error = String;

    fn try_from(json: CertificateJson) -> Result<Self, String> {
        let fingerprint = |text: String| {
            sha256(&text)
                .ok_or_else(|| format!("certificate.sha256: {text:?} is not 64 hex digits"))
        };
        let moment = |text: String| {
            OffsetDateTime::parse(&text, &Rfc3339)
                .map(OffsetDateTime::unix_timestamp)
                .map_err(|_| {
                    format!(
                        "certificate.not-after: {text:?} is not a time like 2027-01-01T00:00:00Z"
                    )
                })
        };
        Ok(Certificate {
            dns_names: json.dns_names,
            subject: json.subject,
            issuer: json.issuer,
            sha256: json
                .sha256
                .map(fingerprint)
                .transpose()?
                .unwrap_or_default(),
            not_after: json.not_after.map(moment).transpose()?,
            trust: trust(&json.trust).ok_or_else(|| {
                format!("certificate.trust: {:?} is not a known outcome", json.trust)
            })?,
        })
    }
}

/// The JSON form of a verdict.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum VerdictJson<'a> {
    #[doc(hidden)]
    Accept {
        connectors: &'a [String],
        audit: Vec<FindingJson<'a>>,
    },
    #[doc(hidden)]
    Reject(RefusalJson<'a>),
    #[doc(hidden)]
    Defer(RefusalJson<'a>),
    #[doc(hidden)]
    #[serde(rename_all = "kebab-case")]
    Deliver {
        #[serde(skip_serializing_if = "Option::is_none")]
        connector: Option<&'a str>,
        route: RouteJson<'a>,
        tls: LevelJson<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        dane: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        mta_sts: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        audit_tls: Option<ProtectionJson<'a>>,
        audit: Vec<FindingJson<'a>>,
    },
}

/// The JSON form of a refusal.
#[derive(Serialize)]
pub struct RefusalJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    connector: Option<&'a str>,
    failed: &'a str,
    code: u16,
    enhanced: &'a str,
    text: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audit: Vec<FindingJson<'a>>,
}

/// The JSON form of a finding.
#[derive(Serialize)]
pub struct FindingJson<'a> {
    connector: &'a str,
    failed: &'a str,
}

/// The JSON form of a route.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteJson<'a> {
    #[doc(hidden)]
    Mx,
    #[doc(hidden)]
    SmartHosts(&'a [String]),
}

/// The JSON form of a level.
#[derive(Serialize)]
pub struct LevelJson<'a> {
    level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<&'a [String]>,
}

impl<'a> From<&'a Verdict> for VerdictJson<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        match verdict {
            Verdict::Accept(acceptance) => VerdictJson::Accept {
                connectors: &acceptance.connectors,
                audit: findings(&acceptance.audit),
            },
            Verdict::Reject(refusal) => VerdictJson::Reject(refusal.into()),
            Verdict::Defer(refusal) => VerdictJson::Defer(refusal.into()),
            Verdict::Deliver(delivery) => VerdictJson::Deliver {
                connector: delivery.connector.as_deref(),
                route: match &delivery.route {
                    Route::Mx => RouteJson::Mx,
                    Route::SmartHosts(hosts) => RouteJson::SmartHosts(hosts),
                },
                tls: (&delivery.tls.level).into(),
                dane: dane(&delivery.tls),
                mta_sts: mta_sts(&delivery.tls),
                audit_tls: delivery.audit_tls.as_ref().map(ProtectionJson::from),
                audit: findings(&delivery.audit),
            },
        }
    }
}

impl<'a> From<&'a interface::Refusal> for RefusalJson<'a> {
    fn from(refusal: &'a interface::Refusal) -> Self {
        RefusalJson {
            connector: refusal.connector.as_deref(),
            failed: &refusal.failed,
            code: refusal.code,
            enhanced: &refusal.enhanced,
            text: &refusal.text,
            audit: findings(&refusal.audit),
        }
    }
}

impl<'a> From<&'a TlsLevel> for LevelJson<'a> {
    fn from(level: &'a TlsLevel) -> Self {
        let names = match level {
            TlsLevel::Name(names) => Some(&names[..]),
            _ => None,
        };
        LevelJson {
            level: level_name(level),
            names,
        }
    }
}

/// The word for a level.
pub fn level_name(level: &TlsLevel) -> &'static str {
    match level {
        TlsLevel::Opportunistic => "opportunistic",
        TlsLevel::Encrypt => "encrypt",
        TlsLevel::Verify => "verify",
        TlsLevel::Name(_) => "name",
    }
}

/// The JSON form of a protection.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProtectionJson<'a> {
    #[serde(flatten)]
    level: LevelJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dane: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mta_sts: Option<&'static str>,
}

impl<'a> From<&'a Protection> for ProtectionJson<'a> {
    fn from(protection: &'a Protection) -> Self {
        ProtectionJson {
            level: (&protection.level).into(),
            dane: dane(protection),
            mta_sts: mta_sts(protection),
        }
    }
}

/// The word for what TLSA records count for, unless it is the default.
fn dane(protection: &Protection) -> Option<&'static str> {
    match protection.dane {
        Dane::Opportunistic => None,
        Dane::Mandatory => Some("mandatory"),
        Dane::None => Some("none"),
    }
}

/// The word for what an MTA-STS policy counts for, unless it is the default.
fn mta_sts(protection: &Protection) -> Option<&'static str> {
    match protection.mta_sts {
        MtaSts::Opportunistic => None,
        MtaSts::None => Some("none"),
    }
}

fn findings(findings: &[Finding]) -> Vec<FindingJson<'_>> {
    findings
        .iter()
        .map(|finding| FindingJson {
            connector: &finding.connector,
            failed: &finding.failed,
        })
        .collect()
}

/// The JSON form of an explanation.
#[derive(Serialize)]
pub struct ExplanationJson<'a> {
    verdict: VerdictJson<'a>,
    considered: Vec<ConsiderationJson<'a>>,
    others: u32,
}

#[derive(Serialize)]
struct ConsiderationJson<'a> {
    connector: &'a str,
    mode: &'static str,
    matched: bool,
    selectors: Vec<SelectorJson<'a>>,
    requirements: Vec<RequirementJson<'a>>,
}

#[derive(Serialize)]
struct SelectorJson<'a> {
    selector: &'a str,
    matched: bool,
    pattern: &'a str,
    fact: &'a str,
}

#[derive(Serialize)]
struct RequirementJson<'a> {
    requirement: &'a str,
    satisfied: bool,
    expected: &'a str,
    fact: &'a str,
}

impl<'a> From<&'a Explanation> for ExplanationJson<'a> {
    fn from(explanation: &'a Explanation) -> Self {
        let considered = explanation
            .considered
            .iter()
            .map(|considered| ConsiderationJson {
                connector: &considered.connector,
                mode: mode_name(considered.mode),
                matched: considered.matched,
                selectors: considered
                    .selectors
                    .iter()
                    .map(SelectorJson::from)
                    .collect(),
                requirements: considered
                    .requirements
                    .iter()
                    .map(RequirementJson::from)
                    .collect(),
            });
        ExplanationJson {
            verdict: (&explanation.verdict).into(),
            considered: considered.collect(),
            others: explanation.others,
        }
    }
}

impl<'a> From<&'a interface::SelectorOutcome> for SelectorJson<'a> {
    fn from(outcome: &'a interface::SelectorOutcome) -> Self {
        SelectorJson {
            selector: &outcome.selector,
            matched: outcome.matched,
            pattern: &outcome.pattern,
            fact: &outcome.fact,
        }
    }
}

impl<'a> From<&'a interface::RequirementOutcome> for RequirementJson<'a> {
    fn from(outcome: &'a interface::RequirementOutcome) -> Self {
        RequirementJson {
            requirement: &outcome.requirement,
            satisfied: outcome.satisfied,
            expected: &outcome.expected,
            fact: &outcome.fact,
        }
    }
}

/// The word for a mode.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
        Mode::Disabled => "disabled",
    }
}

/// The word for a direction.
pub fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

/// The JSON form of a problem.
#[derive(Serialize)]
pub struct ProblemJson<'a> {
    severity: &'static str,
    code: &'a str,
    path: &'a str,
    line: u32,
    column: u32,
    length: u32,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl<'a> From<&'a Problem> for ProblemJson<'a> {
    fn from(problem: &'a Problem) -> Self {
        ProblemJson {
            severity: match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            code: &problem.code,
            path: &problem.path,
            line: problem.line,
            column: problem.column,
            length: problem.length,
            message: &problem.message,
            hint: problem.hint.as_deref(),
        }
    }
}

/// The JSON form of a connector in a list.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ConnectorJson<'a> {
    name: &'a str,
    direction: &'static str,
    mode: &'static str,
    applies_to: &'a str,
    demands: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<&'a str>,
}

impl<'a> From<&'a interface::Connector> for ConnectorJson<'a> {
    fn from(connector: &'a interface::Connector) -> Self {
        ConnectorJson {
            name: &connector.name,
            direction: direction_name(connector.direction),
            mode: mode_name(connector.mode),
            applies_to: &connector.applies_to,
            demands: &connector.demands,
            comment: connector.comment.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mailbox;

    #[test]
    fn what_is_no_address_is_none() {
        for (text, read) in [
            ("a@bank.test", Some("a@bank.test")),
            (" a@bank.test ", Some("a@bank.test")),
            ("<a@bank.test>", Some("a@bank.test")),
            ("Alice, at home <a@bank.test>", Some("a@bank.test")),
            ("\"a b, c@d\"@bank.test", Some("\"a b, c@d\"@bank.test")),
            ("<>", Some("")),
            ("postmaster", Some("postmaster")),
            ("a@bank.test, b@other.test", None),
            ("<a@bank.test>, <b@other.test>", None),
            ("a@bank.test@other.test", None),
            ("a@bank.test>", None),
            ("Alice a@bank.test", None),
            ("a@bank.test (Alice)", None),
            ("a@bank.te\u{200b}st", None),
        ] {
            assert_eq!(mailbox(text).ok().as_deref(), read, "{text}");
        }
    }
}
