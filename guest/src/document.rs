//! Reading the rules document: JSON to [`Rules`], with every mistake noted where it stands.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::ip::Prefix;
use crate::json::{Member, Node, Span};
use crate::names::{self, Pattern};
use crate::problems::{Path, Problems, nearest, shorten};
use crate::rules::{
    Draft, DraftInbound, DraftKind, DraftOutbound, DraftReply, DraftRequirements, Fingerprint,
    Lists, RulesWriter,
};
use crate::suffixes::is_public_suffix;
use crate::{Dane, Direction, Mode, MtaSts, Protection, Route, TlsLevel};

/// RFC 5321 §4.5.3.1.5 leaves 512 bytes for a reply line; name and text share it.
const LONGEST_NAME: usize = 100;
const LONGEST_TEXT: usize = 250;

const A_LIST: &str = "a list";

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
    let known = ["organization", "accepted-domains", "connectors", "tests"];
    let Some(object) = Object::read(root, &Path::Root, &known, problems) else {
        return;
    };
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

/// An object with its fields.
pub struct Object<'a, 'p> {
    node: Node<'a>,
    path: &'p Path<'p>,
    members: Vec<Member<'a>>,
}

impl<'a, 'p> Object<'a, 'p> {
    /// The object, after noting fields that are not known or stand twice.
    pub fn read(
        node: Node<'a>,
        path: &'p Path<'p>,
        known: &[&str],
        problems: &mut Problems,
    ) -> Option<Self> {
        let Some(members) = node.members() else {
            wrong_type(node, path, "an object", problems);
            return None;
        };
        let mut seen = alloc::vec![false; known.len()];
        for member in &members {
            let path = path.field(&member.key);
            match known.iter().position(|name| *name == member.key) {
                None => unknown_field(member, path, known, problems),
                Some(number) if seen[number] => {
                    let message = format!("\"{}\" stands here a second time", member.key);
                    problems.error("duplicate-field", path, member.key_span, message, None);
                }
                Some(number) => seen[number] = true,
            }
        }
        Some(Object {
            node,
            path,
            members,
        })
    }

    /// The value of a field, if it is there.
    pub fn optional(&self, name: &'p str) -> Option<(Node<'a>, Path<'p>)> {
        let member = self.members.iter().find(|member| member.key == name)?;
        Some((member.value, self.path.field(name)))
    }

    /// The value of a field; its absence is noted.
    pub fn required(&self, name: &'p str, problems: &mut Problems) -> Option<(Node<'a>, Path<'p>)> {
        let found = self.optional(name);
        if found.is_none() {
            let Span { start, .. } = self.node.span();
            let span = Span { start, len: 1 };
            let message = format!("the field \"{name}\" is missing");
            problems.error("missing-field", *self.path, span, message, None);
        }
        found
    }

    /// The string in a field that must be there.
    pub fn required_string(&self, name: &'p str, problems: &mut Problems) -> Option<Cow<'a, str>> {
        let (node, path) = self.required(name, problems)?;
        string(node, &path, problems)
    }

    fn optional_boolean(&self, name: &'p str, problems: &mut Problems) -> Option<bool> {
        let (node, path) = self.optional(name)?;
        let value = node.boolean();
        if value.is_none() {
            wrong_type(node, &path, "true or false", problems);
        }
        value
    }
}

fn unknown_field(member: &Member, path: Path, known: &[&str], problems: &mut Problems) {
    let shown = shorten(&member.key);
    // To look for a near name takes time, and nobody reads that many hints.
    let near = if problems.is_full() {
        None
    } else {
        nearest(&member.key, known)
    };
    let hint = match near {
        Some(name) => format!("did you mean \"{name}\"?"),
        None => format!("known here: {}", known.join(", ")),
    };
    let message = format!("unknown field \"{shown}\"");
    problems.error("unknown-field", path, member.key_span, message, Some(hint));
}

/// Notes that a value is of another type.
pub fn wrong_type(node: Node, path: &Path, wanted: &str, problems: &mut Problems) {
    let message = format!("expected {wanted}, found {}", node.kind());
    let text = node.string().filter(|_| wanted == A_LIST);
    let hint = text.map(|text| format!("write [\"{}\"]", shorten(&text)));
    problems.error("wrong-type", *path, node.span(), message, hint);
}

/// The string, or a note that it is none.
pub fn string<'a>(node: Node<'a>, path: &Path, problems: &mut Problems) -> Option<Cow<'a, str>> {
    let text = node.string();
    if text.is_none() && node.kind() == "a string" {
        let message = "the string has an escape in it that is no character".into();
        problems.error("wrong-type", *path, node.span(), message, None);
    } else if text.is_none() {
        wrong_type(node, path, "a string", problems);
    }
    text
}

/// The elements, or a note that it is no list.
pub fn elements<'a>(node: Node<'a>, path: &Path, problems: &mut Problems) -> Vec<Node<'a>> {
    node.elements().unwrap_or_else(|| {
        wrong_type(node, path, A_LIST, problems);
        Vec::new()
    })
}

/// The word for one of Exchange's TlsAuthLevel (Set-OutboundConnector).
fn in_exchange(word: &str) -> Option<&'static str> {
    let words = [
        ("EncryptionOnly", "encrypt"),
        ("CertificateValidation", "verify"),
        ("DomainValidation", "name"),
    ];
    let found = words
        .into_iter()
        .find(|(own, _)| own.eq_ignore_ascii_case(word));
    found.map(|(_, word)| word)
}

/// One of a few words, or a note which there are.
pub fn choice<T: Copy>(
    node: Node,
    path: &Path,
    choices: &[(&str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let text = string(node, path, problems)?;
    let found = choices.iter().find(|(word, _)| *word == text);
    if found.is_none() {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let message = format!("\"{}\" is not one of: {}", shorten(&text), words.join(", "));
        let hint = in_exchange(&text)
            .filter(|word| words.contains(word))
            .map(|word| format!("what Exchange calls {} is \"{word}\" here", shorten(&text)))
            .or_else(|| nearest(&text, &words).map(|word| format!("did you mean \"{word}\"?")));
        problems.error("unknown-value", *path, node.span(), message, hint);
    }
    found.map(|(_, value)| *value)
}

/// The strings of a list that must not be empty, each through `read`.
fn list<T>(
    node: Node,
    path: &Path,
    problems: &mut Problems,
    read: fn(&str, Node, &Path, &mut Problems) -> Option<T>,
) -> Vec<T> {
    let nodes = elements(node, path, problems);
    if nodes.is_empty() && node.elements().is_some() {
        problems.error(
            "empty-selector",
            *path,
            node.span(),
            "the list is empty, so nothing could ever match it".into(),
            Some("leave the field out, or name at least one".into()),
        );
    }
    let read_one = |(index, node): (usize, Node)| {
        let path = path.element(index);
        let text = string(node, &path, problems)?;
        read(&text, node, &path, problems)
    };
    nodes.into_iter().enumerate().filter_map(read_one).collect()
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
    const COMMON: [&str; 6] = ["name", "direction", "enabled", "mode", "comment", "except"];
    const INBOUND: [&str; 4] = ["from", "match-header-from", "require", "reply"];
    const OUTBOUND: [&str; 5] = ["to", "route", "tls", "dane", "mta-sts"];
    // The direction decides which fields are known.
    let members = node.members().unwrap_or_default();
    let direction = members
        .iter()
        .find(|m| m.key == "direction")
        .and_then(|m| m.value.string());
    let known: Vec<&str> = match direction.as_deref() {
        Some("inbound") => COMMON.into_iter().chain(INBOUND).collect(),
        Some("outbound") => COMMON.into_iter().chain(OUTBOUND).collect(),
        _ => COMMON.into_iter().chain(INBOUND).chain(OUTBOUND).collect(),
    };
    let object = Object::read(node, path, &known, problems)?;

    let name = name(&object, problems);
    let comment = object
        .optional("comment")
        .and_then(|(node, path)| string(node, &path, problems))
        .map(String::from);
    let mode = mode(&object, problems);
    let said = object
        .required("direction", problems)
        .and_then(|(node, path)| {
            let directions = [
                ("inbound", Direction::Inbound),
                ("outbound", Direction::Outbound),
            ];
            choice(node, &path, &directions, problems)
        });
    // What else is wrong is told at once: the other fields show which direction is meant.
    let has = |name: &&str| object.optional(name).is_some();
    let direction = match said {
        Some(direction) => direction,
        None if INBOUND.iter().any(has) => Direction::Inbound,
        None if OUTBOUND.iter().any(has) => Direction::Outbound,
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
    } else if name.chars().count() > LONGEST_NAME {
        format!("the name has more than {LONGEST_NAME} characters")
    } else {
        return Some((name.into(), node.span()));
    };
    problems.error("malformed-name", path, node.span(), wrong, None);
    None
}

fn mode(object: &Object, problems: &mut Problems) -> Mode {
    let mode = object.optional("mode").and_then(|(node, path)| {
        choice(
            node,
            &path,
            &[("enforce", Mode::Enforce), ("audit", Mode::Audit)],
            problems,
        )
    });
    match object.optional_boolean("enabled", problems) {
        Some(false) => Mode::Disabled,
        _ => mode.unwrap_or(Mode::Enforce),
    }
}

fn selectors(node: Node, path: &Path, direction: Direction, problems: &mut Problems) -> Lists {
    let known: &[&str] = match direction {
        Direction::Inbound => &[
            "sender-domains",
            "sender-ips",
            "certificate-names",
            "recipient-domains",
        ],
        Direction::Outbound => &["recipient-domains"],
    };
    let mut selectors = Lists::default();
    let Some(object) = Object::read(node, path, known, problems) else {
        return selectors;
    };
    if object.members.is_empty() {
        let message = "no selector is given, so it is not said which mail this is for".into();
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
    let known = [
        "tls",
        "certificate-names",
        "certificate-fingerprints",
        "source-ips",
    ];
    let mut require = DraftRequirements::default();
    let Some(object) = Object::read(node, path, &known, problems) else {
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
    if let Some((node, path)) = object.optional("source-ips") {
        require.source_ips = list(node, &path, problems, prefix);
    }
    require
}

/// TLS versions by name, as TLS writes them.
pub const TLS_VERSIONS: [(&str, u16); 5] = [
    ("TLSv1", 0x0301),
    ("TLSv1.0", 0x0301),
    ("TLSv1.1", 0x0302),
    ("TLSv1.2", 0x0303),
    ("TLSv1.3", 0x0304),
];

fn min_version(node: Node, path: &Path, problems: &mut Problems) -> Option<u16> {
    if node.members().is_none() {
        wrong_type(node, path, "true, false or {\"min-version\": …}", problems);
        return None;
    }
    let object = Object::read(node, path, &["min-version"], problems)?;
    let (node, path) = object.required("min-version", problems)?;
    choice(node, &path, &TLS_VERSIONS, problems)
}

fn fingerprint(
    text: &str,
    node: Node,
    path: &Path,
    problems: &mut Problems,
) -> Option<Fingerprint> {
    let fingerprint = parse_fingerprint(text);
    if fingerprint.is_none() {
        let message = format!("\"{}\" is not a SHA-256 fingerprint", shorten(text));
        let hint =
            Some("64 hex digits, colons allowed: openssl x509 -noout -fingerprint -sha256".into());
        problems.error("malformed-fingerprint", *path, node.span(), message, hint);
    }
    fingerprint
}

/// Reads 64 hex digits; colons between them are allowed.
pub fn parse_fingerprint(text: &str) -> Option<Fingerprint> {
    let digits: Vec<u64> = text
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).map(u64::from))
        .collect::<Option<_>>()?;
    let word = |at: usize| {
        digits[16 * at..16 * (at + 1)]
            .iter()
            .fold(0, |word, d| word << 4 | d)
    };
    (digits.len() == 64).then(|| (word(0), word(1), word(2), word(3)))
}

fn reply(node: Node, path: &Path, problems: &mut Problems) -> DraftReply {
    let mut reply = DraftReply::default();
    let Some(object) = Object::read(node, path, &["code", "enhanced", "text"], problems) else {
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
        let fits = |text: &str| !text.chars().any(char::is_control) && text.len() <= LONGEST_TEXT;
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
    let level = object.optional("tls");
    let level = level
        .and_then(|(node, path)| self::level(node, &path, problems))
        .unwrap_or(TlsLevel::Opportunistic);
    let mta_sts = object.optional("mta-sts").and_then(|(node, path)| {
        let modes = [
            ("opportunistic", MtaSts::Opportunistic),
            ("none", MtaSts::None),
        ];
        choice(node, &path, &modes, problems)
    });
    DraftOutbound {
        protection: Protection {
            level,
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
    let modes = [
        ("opportunistic", Dane::Opportunistic),
        ("mandatory", Dane::Mandatory),
        ("none", Dane::None),
    ];
    let dane = choice(node, &path, &modes, problems).unwrap_or(Dane::Opportunistic);
    if let (Dane::Mandatory, Route::SmartHosts(hosts)) = (dane, route)
        && let Some(address) = hosts.iter().find(|host| host.starts_with('['))
    {
        let message =
            format!("mandatory DANE can never be met by {address}: TLSA records belong to a name");
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
            choice(node, path, &[("mx", ())], problems);
        }
        return Route::Mx;
    }
    Object::read(node, path, &["smart-hosts"], problems)
        .and_then(|object| object.required("smart-hosts", problems))
        .map_or(Route::Mx, |(node, path)| {
            Route::SmartHosts(list(node, &path, problems, smart_host))
        })
}

fn smart_host(text: &str, node: Node, path: &Path, problems: &mut Problems) -> Option<String> {
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

/// The normal form of a smart host.
fn parse_smart_host(text: &str) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, rest) = rest.split_once(']')?;
            let ip: IpAddr = ip.parse().ok()?;
            (format!("[{ip}]"), rest)
        }
        None => {
            let (name, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (names::parse_domain(name).ok()?, port)
        }
    };
    if port.is_empty() {
        return Some(host);
    }
    let digits = port.strip_prefix(':')?;
    let port: u16 = digits
        .parse()
        .ok()
        .filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
    (port != 0).then(|| format!("{host}:{port}"))
}

fn level(node: Node, path: &Path, problems: &mut Problems) -> Option<TlsLevel> {
    let object = Object::read(node, path, &["level", "names"], problems)?;
    let levels = [
        ("opportunistic", Level::Opportunistic),
        ("encrypt", Level::Encrypt),
        ("verify", Level::Verify),
        ("name", Level::Name),
    ];
    let (level_node, level_path) = object.required("level", problems)?;
    let level = choice(level_node, &level_path, &levels, problems)?;
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

#[derive(Clone, Copy)]
enum Level {
    Opportunistic,
    Encrypt,
    Verify,
    Name,
}
