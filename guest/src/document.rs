//! Reading the rules document: JSON to [`Rules`], with every mistake noted where it stands.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use portcullis_types::{Sha256 as Digest, TLS_VERSIONS};

use crate::connector::Sha256;
use crate::draft::{
    Draft, DraftInbound, DraftKind, DraftOutbound, DraftReply, DraftRequirements, Lists,
    RulesWriter,
};
use crate::fields::{self, Field, Fields};
use crate::ip::Prefix;
use crate::json::{Node, Span};
use crate::names::{self, Pattern};
use crate::problems::{Path, Problems};
use crate::reader::{Object, choice, elements, field_names, list, string, wrong_type};
use crate::suffixes::is_public_suffix;
use crate::text::shorten;
use crate::{Dane, Direction, Host, Mode, MtaSts, Protection, Route, SmartHost, TlsLevel};

/// RFC 5321 §4.5.3.1.5 leaves 512 bytes for a reply line; name and text share it.
pub const MAX_NAME: usize = 100;
/// Bytes of the text of a reply.
pub const MAX_TEXT: usize = 250;

/// The words for directions.
pub const DIRECTIONS: [(&str, Direction); 2] = [
    ("inbound", Direction::Inbound),
    ("outbound", Direction::Outbound),
];
/// The words for modes.
pub const MODES: [(&str, Mode); 2] = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
/// The words for levels.
pub const LEVELS: [(&str, Level); 4] = [
    ("opportunistic", Level::Opportunistic),
    ("encrypt", Level::Encrypt),
    ("verify", Level::Verify),
    ("name", Level::Name),
];
/// The words for the use of TLSA records.
pub const DANE_MODES: [(&str, Dane); 3] = [
    ("opportunistic", Dane::Opportunistic),
    ("mandatory", Dane::Mandatory),
    ("none", Dane::None),
];
/// The words for the use of MTA-STS policies.
pub const MTA_STS_MODES: [(&str, MtaSts); 2] = [
    ("opportunistic", MtaSts::Opportunistic),
    ("none", MtaSts::None),
];
/// The route by the mail exchangers of a domain.
pub const MX: &str = "mx";

/// Where the parts of a connector stand, for checks that compare connectors.
pub struct ConnectorSpans {
    /// The whole.
    pub whole: Span,
    /// The value of `name`.
    pub name: Span,
    /// The value of `from` or `to`.
    pub selectors: Span,
    /// The value of `except`; empty if absent.
    pub except: Span,
}

/// A document as read.
pub struct Document<'a> {
    /// The rules; those parts that are wrong are left out.
    pub rules: RulesWriter,
    /// One for each connector of the rules.
    pub spans: Vec<ConnectorSpans>,
    /// The cases under `tests`, unread.
    pub tests: Vec<Node<'a>>,
}

/// Reads a document.
pub fn read<'a>(problems: &mut Problems<'a>) -> Document<'a> {
    let mut document = Document {
        rules: RulesWriter::default(),
        spans: Vec::new(),
        tests: Vec::new(),
    };
    match Node::parse(problems.document()) {
        Ok(root) => read_root(root, &mut document, problems),
        Err(error) => problems.error(
            "not-json",
            Path::Root,
            error.span,
            format!("this is not JSON: {}", error.message),
            error.hint.map(Into::into),
        ),
    }
    document
}

fn read_root<'a>(root: Node<'a>, document: &mut Document<'a>, problems: &mut Problems<'a>) {
    let Some(object) = Object::read(root, &Path::Root, &[fields::DOCUMENT], problems) else {
        return;
    };
    // It is for editors only.
    if let Some((node, path)) = object.optional("$schema") {
        string(node, &path, problems);
    }
    let rules = &mut document.rules;
    if let Some((node, path)) = object.optional("organization") {
        let name = string(node, &path, problems).unwrap_or_default();
        rules.organization(name.into());
    }
    if let Some((node, path)) = object.optional("accepted-domains") {
        rules.accepted_domains(list(node, &path, problems, accepted_domain));
    }
    if let Some((node, path)) = object.required("connectors", problems) {
        for (index, node) in elements(node, &path, problems).into_iter().enumerate() {
            if let Some((connector, spans)) = connector(node, &path.element(index), problems) {
                document.rules.connector(&connector);
                document.spans.push(spans);
            }
        }
    }
    if let Some((node, path)) = object.optional("tests") {
        document.tests = elements(node, &path, problems);
    }
}

fn accepted_domain(
    text: &str,
    node: Node,
    path: &Path,
    problems: &mut Problems,
) -> Option<Pattern> {
    let pattern = domain(text, node, path, problems)?;
    if pattern == Pattern::Any {
        let message = "`*` is not a domain of one's own".into();
        problems.error("malformed-domain", *path, node.span(), message, None);
        return None;
    }
    Some(pattern)
}

fn domain(text: &str, node: Node, path: &Path, problems: &mut Problems) -> Option<Pattern> {
    match Pattern::parse(text) {
        Ok(pattern) => {
            if let Pattern::Subtree(name) = &pattern
                && is_public_suffix(name)
            {
                let message = format!(
                    "\"{pattern}\" covers everyone below {name}, where anybody can register a domain"
                );
                let hint = Some("name the partner's own domain".into());
                problems.warning("public-suffix", *path, node.span(), message, hint);
            }
            Some(pattern)
        }
        Err(message) => {
            let hint = domain_hint(text);
            problems.error("malformed-domain", *path, node.span(), message, hint);
            None
        }
    }
}

fn domain_hint(text: &str) -> Option<String> {
    if Prefix::parse(text.trim_matches(['[', ']'])).is_ok() {
        return Some("addresses and ranges belong into \"sender-ips\"".into());
    }
    let bare = text.trim_start_matches(['*', '.']);
    let fitting = text.starts_with('.') || text.starts_with('*');
    (fitting && names::parse_domain(bare).is_ok())
        .then(|| format!("\"*.{bare}\" is the domain and everything below it"))
}

fn certificate_name(
    text: &str,
    node: Node,
    path: &Path,
    problems: &mut Problems,
) -> Option<Pattern> {
    let pattern = domain(text, node, path, problems)?;
    if pattern == Pattern::Any {
        let message = "`*` names no certificate in particular".into();
        let hint = Some("name the partner's certificate, such as \"*.contosobank.com\"".into());
        problems.error("malformed-domain", *path, node.span(), message, hint);
        return None;
    }
    Some(pattern)
}

fn prefix(text: &str, node: Node, path: &Path, problems: &mut Problems) -> Option<Prefix> {
    match Prefix::parse(text) {
        Ok(parsed) => {
            if parsed.host_bits {
                let message =
                    format!("\"{text}\" has bits set behind its prefix length; they are ignored");
                let hint = Some(format!("write \"{}\"", parsed.prefix));
                problems.warning("host-bits", *path, node.span(), message, hint);
            }
            Some(parsed.prefix)
        }
        Err(message) => {
            let hint = Some(
                "for example \"203.0.113.7\", \"203.0.113.0/24\" or \"2001:db8:7::/48\"".into(),
            );
            problems.error("malformed-address", *path, node.span(), message, hint);
            None
        }
    }
}

fn connector(node: Node, path: &Path, problems: &mut Problems) -> Option<(Draft, ConnectorSpans)> {
    // The direction decides which fields are known.
    let members = node.members().unwrap_or_default();
    let direction = members
        .iter()
        .find(|m| m.key == "direction")
        .and_then(|m| m.value.string());
    let known: &[&Fields] = match direction.as_deref() {
        Some("inbound") => &[fields::CONNECTOR, fields::INBOUND],
        Some("outbound") => &[fields::CONNECTOR, fields::OUTBOUND],
        _ => &[fields::CONNECTOR, fields::INBOUND, fields::OUTBOUND],
    };
    let object = Object::read(node, path, known, problems)?;

    let name = name(&object, problems);
    let comment = object
        .optional("comment")
        .and_then(|(node, path)| string(node, &path, problems))
        .map(String::from);
    let mode = mode(&object, problems);
    let said = object
        .required("direction", problems)
        .and_then(|(node, path)| choice(node, &path, &DIRECTIONS, problems));
    // What else is wrong is told at once: the other fields show which direction is meant.
    let has = |field: &Field| object.optional(field.name).is_some();
    let direction = match said {
        Some(direction) => direction,
        None if fields::INBOUND.iter().any(has) => Direction::Inbound,
        None if fields::OUTBOUND.iter().any(has) => Direction::Outbound,
        None => return None,
    };
    let selectors_field = match direction {
        Direction::Inbound => "from",
        Direction::Outbound => "to",
    };
    let selectors_at = object.required(selectors_field, problems);
    let selectors = selectors_at.map(|(node, path)| selectors(node, &path, direction, problems));
    let except_at = object.optional("except");
    let except = except_at.map(|(node, path)| self::selectors(node, &path, direction, problems));
    let kind = match direction {
        Direction::Inbound => DraftKind::Inbound(inbound(&object, problems)),
        Direction::Outbound => DraftKind::Outbound(outbound(&object, problems)),
    };

    said?;
    let (name, name_span) = name?;
    let spans = ConnectorSpans {
        whole: node.span(),
        name: name_span,
        selectors: selectors_at.map_or_else(Span::default, |(node, _)| node.span()),
        except: except_at.map_or_else(Span::default, |(node, _)| node.span()),
    };
    let connector = Draft {
        name,
        comment,
        mode,
        selectors: selectors?,
        except: except.unwrap_or_default(),
        kind,
    };
    Some((connector, spans))
}

fn name(object: &Object, problems: &mut Problems) -> Option<(String, Span)> {
    let (node, path) = object.required("name", problems)?;
    let name = string(node, &path, problems)?;
    let wrong = if name.trim().is_empty() {
        "the name is empty".into()
    } else if name.chars().any(char::is_control) {
        "the name has a control character in it".into()
    } else if name.chars().count() > MAX_NAME {
        format!("the name has more than {MAX_NAME} characters")
    } else {
        return Some((name.into(), node.span()));
    };
    problems.error("malformed-name", path, node.span(), wrong, None);
    None
}

fn mode(object: &Object, problems: &mut Problems) -> Mode {
    let mode = object
        .optional("mode")
        .and_then(|(node, path)| choice(node, &path, &MODES, problems));
    match object.optional_boolean("enabled", problems) {
        Some(false) => Mode::Disabled,
        _ => mode.unwrap_or(Mode::Enforce),
    }
}

fn selectors(node: Node, path: &Path, direction: Direction, problems: &mut Problems) -> Lists {
    let known = match direction {
        Direction::Inbound => fields::SELECTORS,
        Direction::Outbound => fields::OUTBOUND_SELECTORS,
    };
    let mut selectors = Lists::default();
    let Some(object) = Object::read(node, path, &[known], problems) else {
        return selectors;
    };
    if object.is_empty() {
        let message = "no selector is given, so it is not said which mail this is for".into();
        let known: Vec<&str> = field_names(&[known]).collect();
        let hint = Some(format!("give at least one of: {}", known.join(", ")));
        problems.error("empty-selector", *path, node.span(), message, hint);
    }
    if let Some((node, path)) = object.optional("sender-domains") {
        selectors.sender_domains = list(node, &path, problems, domain);
    }
    if let Some((node, path)) = object.optional("recipient-domains") {
        selectors.recipient_domains = list(node, &path, problems, domain);
    }
    if let Some((node, path)) = object.optional("sender-ips") {
        selectors.sender_ips = list(node, &path, problems, prefix);
    }
    if let Some((node, path)) = object.optional("certificate-names") {
        selectors.certificate_names = list(node, &path, problems, certificate_name);
    }
    selectors
}

fn inbound(object: &Object, problems: &mut Problems) -> DraftInbound {
    let require = object.optional("require");
    let reply = object.optional("reply");
    DraftInbound {
        match_header_from: object
            .optional_boolean("match-header-from", problems)
            .unwrap_or(false),
        require: require
            .map(|(node, path)| requirements(node, &path, problems))
            .unwrap_or_default(),
        reply: reply
            .map(|(node, path)| self::reply(node, &path, problems))
            .unwrap_or_default(),
    }
}

fn requirements(node: Node, path: &Path, problems: &mut Problems) -> DraftRequirements {
    let mut require = DraftRequirements::default();
    let Some(object) = Object::read(node, path, &[fields::REQUIRE], problems) else {
        return require;
    };
    if let Some((node, path)) = object.optional("tls") {
        match node.boolean() {
            Some(tls) => require.tls = tls,
            None => {
                require.tls = true;
                require.min_version = min_version(node, &path, problems).unwrap_or_default();
            }
        }
    }
    if let Some((node, path)) = object.optional("certificate-names") {
        require.certificate_names = list(node, &path, problems, certificate_name);
    }
    if let Some((node, path)) = object.optional("certificate-fingerprints") {
        require.fingerprints = list(node, &path, problems, fingerprint);
    }
    if let Some((node, path)) = object.optional("certificate-keys") {
        require.keys = list(node, &path, problems, key);
    }
    if let Some((node, path)) = object.optional("certificate-authorities") {
        require.authorities = list(node, &path, problems, authority);
    }
    if let Some((node, path)) = object.optional("source-ips") {
        require.source_ips = list(node, &path, problems, prefix);
    }
    require
}

fn min_version(node: Node, path: &Path, problems: &mut Problems) -> Option<u16> {
    if node.members().is_none() {
        wrong_type(node, path, "true, false or {\"min-version\": …}", problems);
        return None;
    }
    let object = Object::read(node, path, &[fields::REQUIRE_TLS], problems)?;
    let (node, path) = object.required("min-version", problems)?;
    choice(node, &path, &TLS_VERSIONS, problems)
}

fn fingerprint(text: &str, node: Node, path: &Path, problems: &mut Problems) -> Option<Sha256> {
    let hint = "64 hex digits, colons allowed: openssl x509 -noout -fingerprint -sha256";
    digest(
        text,
        ("malformed-fingerprint", "fingerprint", hint),
        node,
        path,
        problems,
    )
}

fn key(text: &str, node: Node, path: &Path, problems: &mut Problems) -> Option<Sha256> {
    let hint =
        "64 hex digits: openssl x509 -noout -pubkey | openssl pkey -pubin -outform DER | sha256sum";
    digest(
        text,
        ("malformed-key", "digest of a public key", hint),
        node,
        path,
        problems,
    )
}

/// A SHA-256 in hex digits; what is wrong has a code, a name for it and a hint.
fn digest(
    text: &str,
    (code, what, hint): (&'static str, &str, &str),
    node: Node,
    path: &Path,
    problems: &mut Problems,
) -> Option<Sha256> {
    let message = match Digest::parse(text) {
        // Hosts have written zeros for a digest that they did not know.
        Some(digest) if digest == Digest::default() => {
            format!("a {what} of zeros only belongs to nobody")
        }
        Some(digest) => return Some(digest.into()),
        None => format!("\"{}\" is not a SHA-256 {what}", shorten(text)),
    };
    problems.error(code, *path, node.span(), message, Some(hint.into()));
    None
}

/// The name of an authority in the host's configuration.
fn authority(text: &str, node: Node, path: &Path, problems: &mut Problems) -> Option<String> {
    let fits = !text.trim().is_empty()
        && !text.chars().any(char::is_control)
        && text.chars().count() <= MAX_NAME;
    if !fits {
        let message = format!("\"{}\" is not the name of an authority", shorten(text));
        let hint =
            Some("\"public\", or a name under [[trust.authority]] in the configuration".into());
        problems.error("malformed-authority", *path, node.span(), message, hint);
    }
    fits.then(|| text.into())
}

fn reply(node: Node, path: &Path, problems: &mut Problems) -> DraftReply {
    let mut reply = DraftReply::default();
    let Some(object) = Object::read(node, path, &[fields::REPLY], problems) else {
        return reply;
    };
    let mut wrong = |node: Node, path: Path, message: &str| {
        problems.error("malformed-reply", path, node.span(), message.into(), None);
    };
    if let Some((node, path)) = object.optional("code") {
        match node.integer() {
            Some(code @ 500..=559) => reply.code = code as u16,
            _ => wrong(
                node,
                path,
                "the code of a refusal is a number from 500 to 559",
            ),
        }
    }
    if let Some((node, path)) = object.optional("enhanced") {
        match node.string().filter(|text| is_enhanced_code(text)) {
            Some(text) => reply.enhanced = text.into(),
            None => wrong(
                node,
                path,
                "the enhanced code of a refusal is like \"5.7.1\", and begins with 5",
            ),
        }
    }
    if let Some((node, path)) = object.optional("text") {
        let fits = |text: &str| !text.chars().any(char::is_control) && text.len() <= MAX_TEXT;
        match node.string().filter(|text| fits(text)) {
            Some(text) => reply.text = text.into(),
            None => wrong(
                node,
                path,
                "the text is one line of at most 250 bytes without control characters",
            ),
        }
    }
    reply
}

/// RFC 3463 §2, class 5.
fn is_enhanced_code(text: &str) -> bool {
    let number = |part: &str| {
        (1..=3).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() == 3 && parts[0] == "5" && number(parts[1]) && number(parts[2])
}

fn outbound(object: &Object, problems: &mut Problems) -> DraftOutbound {
    let route = object.optional("route");
    let route = route.map_or(Route::Mx, |(node, path)| self::route(node, &path, problems));
    let tls = object.optional("tls");
    let tls = tls
        .map(|(node, path)| self::tls(node, &path, problems))
        .unwrap_or_default();
    let mta_sts = object
        .optional("mta-sts")
        .and_then(|(node, path)| choice(node, &path, &MTA_STS_MODES, problems));
    DraftOutbound {
        protection: Protection {
            level: tls.level.unwrap_or(TlsLevel::Opportunistic),
            min_version: tls.min_version,
            fingerprints: tls.fingerprints,
            keys: tls.keys,
            authorities: tls.authorities,
            dane: dane(object, &route, problems),
            mta_sts: mta_sts.unwrap_or(MtaSts::Opportunistic),
        },
        route,
    }
}

fn dane(object: &Object, route: &Route, problems: &mut Problems) -> Dane {
    let Some((node, path)) = object.optional("dane") else {
        return Dane::Opportunistic;
    };
    let dane = choice(node, &path, &DANE_MODES, problems).unwrap_or(Dane::Opportunistic);
    if let (Dane::Mandatory, Route::SmartHosts(hosts)) = (dane, route)
        && let Some(host) = hosts
            .iter()
            .find(|host| matches!(host.host, Host::Address(_)))
    {
        let host = portcullis_types::SmartHost::from(host.clone());
        let message =
            format!("mandatory DANE can never be met by {host}: TLSA records belong to a name");
        let hint = Some("name the smart host, or set \"dane\" to \"opportunistic\"".into());
        problems.error("dane-without-name", path, node.span(), message, hint);
    }
    dane
}

fn route(node: Node, path: &Path, problems: &mut Problems) -> Route {
    if node.members().is_none() {
        if node.string().is_none() {
            wrong_type(node, path, "\"mx\" or {\"smart-hosts\": […]}", problems);
        } else {
            choice(node, path, &[(MX, ())], problems);
        }
        return Route::Mx;
    }
    Object::read(node, path, &[fields::ROUTE], problems)
        .and_then(|object| object.required("smart-hosts", problems))
        .map_or(Route::Mx, |(node, path)| {
            Route::SmartHosts(list(node, &path, problems, smart_host))
        })
}

fn smart_host(text: &str, node: Node, path: &Path, problems: &mut Problems) -> Option<SmartHost> {
    let parsed = parse_smart_host(text);
    if parsed.is_none() {
        let message = format!("\"{}\" is not a host", shorten(text));
        let hint = Some(match bracketed(text) {
            Some(literal) => format!("write \"{literal}\": an address stands in brackets"),
            None => "name, name:port, [address] or [address]:port".into(),
        });
        problems.error("malformed-host", *path, node.span(), message, hint);
    }
    parsed
}

/// An address that stands there without its brackets, with them.
fn bracketed(text: &str) -> Option<String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(format!("[{ip}]"));
    }
    let (ip, port) = text.rsplit_once(':')?;
    let ip: IpAddr = ip.parse().ok()?;
    Some(format!("[{ip}]:{port}"))
}

fn parse_smart_host(text: &str) -> Option<SmartHost> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, rest) = rest.split_once(']')?;
            let ip: IpAddr = ip.parse().ok()?;
            (Host::Address(ip.into()), rest)
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (Host::Name(names::parse_domain(name).ok()?), port)
        }
    };
    if port.is_empty() {
        return Some(SmartHost { host, port: None });
    }
    let digits = port.strip_prefix(':')?;
    let port: u16 = digits
        .parse()
        .ok()
        .filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
    (port != 0).then_some(SmartHost {
        host,
        port: Some(port),
    })
}

/// What stands under `tls` of an outbound connector.
#[derive(Default)]
struct OutboundTls {
    level: Option<TlsLevel>,
    min_version: Option<u16>,
    fingerprints: Vec<Sha256>,
    keys: Vec<Sha256>,
    authorities: Vec<String>,
}

fn tls(node: Node, path: &Path, problems: &mut Problems) -> OutboundTls {
    let mut tls = OutboundTls::default();
    let Some(object) = Object::read(node, path, &[fields::TLS], problems) else {
        return tls;
    };
    tls.level = level(&object, (node, path), problems);
    if let Some((node, path)) = object.optional("min-version") {
        tls.min_version = choice(node, &path, &TLS_VERSIONS, problems);
    }
    if let Some((node, path)) = object.optional("certificate-fingerprints") {
        tls.fingerprints = list(node, &path, problems, fingerprint);
    }
    if let Some((node, path)) = object.optional("certificate-keys") {
        tls.keys = list(node, &path, problems, key);
    }
    if let Some((node, path)) = object.optional("certificate-authorities") {
        tls.authorities = list(node, &path, problems, authority);
    }
    // Where TLS is used only if it is offered, there is nothing that these could be required of.
    if let Some(TlsLevel::Opportunistic) = tls.level {
        for field in field_names(&[fields::TLS]).skip_while(|name| *name != "min-version") {
            if let Some((node, path)) = object.optional(field) {
                let message = format!("\"{field}\" needs a level that requires TLS");
                let hint = Some("set \"level\" to \"encrypt\", \"verify\" or \"name\"".into());
                problems.error(
                    "requirement-without-level",
                    path,
                    node.span(),
                    message,
                    hint,
                );
            }
        }
    }
    tls
}

fn level(
    object: &Object,
    (node, path): (Node, &Path),
    problems: &mut Problems,
) -> Option<TlsLevel> {
    let (level_node, level_path) = object.required("level", problems)?;
    let level = choice(level_node, &level_path, &LEVELS, problems)?;
    let names_at = object.optional("names");
    let names = names_at.map(|(node, path)| list(node, &path, problems, certificate_name));
    Some(match (level, names, names_at) {
        (Level::Name, Some(names), _) => {
            TlsLevel::Name(names.iter().map(Pattern::to_string).collect())
        }
        (Level::Name, None, _) => {
            let message =
                "the level \"name\" needs \"names\" to hold the certificate against".into();
            problems.error("level-without-names", *path, node.span(), message, None);
            TlsLevel::Name(Vec::new())
        }
        (_, Some(_), Some((node, path))) => {
            let message = "\"names\" are only looked at with the level \"name\"".into();
            let hint = Some("set \"level\" to \"name\", or drop \"names\"".into());
            problems.error("names-without-level", path, node.span(), message, hint);
            TlsLevel::Verify
        }
        (Level::Opportunistic, ..) => TlsLevel::Opportunistic,
        (Level::Encrypt, ..) => TlsLevel::Encrypt,
        (Level::Verify, ..) => TlsLevel::Verify,
    })
}

/// A level without what it asks for.
#[derive(Clone, Copy)]
pub enum Level {
    /// TLS if offered.
    Opportunistic,
    /// TLS.
    Encrypt,
    /// A trusted certificate.
    Verify,
    /// A trusted certificate for a name.
    Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smart_hosts_are_read() {
        for (text, expected) in [
            ("mx1.contosobank.com", Some("mx1.contosobank.com")),
            (
                "MX1.contosobank.com.:2525",
                Some("mx1.contosobank.com:2525"),
            ),
            ("[203.0.113.9]:2525", Some("[203.0.113.9]:2525")),
            ("[2001:db8::1]", Some("[2001:db8::1]")),
            ("[nothing]", None),
            ("[203.0.113.9]2525", None),
            ("mx:0", None),
            ("mx:99999", None),
            ("*.x.com", None),
            ("a b", None),
            ("", None),
        ] {
            let parsed = parse_smart_host(text).map(portcullis_types::SmartHost::from);
            let parsed = parsed.map(|host| host.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }
}
