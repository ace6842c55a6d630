//! `Get-OutboundConnector`, and `Get-SendConnector` of Exchange Server.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::fields::{connector, domain, domains, origin, tell_of_others};
use crate::import::record::Record;
use crate::import::{Import, Kind, Row, object};

/// A connector to a partner.
struct Outbound {
    /// Its place in the source.
    number: usize,
    name: String,
    comment: String,
    is_enabled: bool,
    recipients: Vec<String>,
    smart_hosts: Vec<String>,
    level: Level,
    names: Vec<String>,
    dane: Option<String>,
    mta_sts: Option<String>,
    row: Row,
}

/// TLS towards a partner, the strictest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Opportunistic,
    Encrypt,
    Verify,
    Name,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Opportunistic => "opportunistic",
            Level::Encrypt => "encrypt",
            Level::Verify => "verify",
            Level::Name => "name",
        }
    }

    fn of(text: Option<&str>) -> Result<Level, String> {
        match text {
            None | Some("None") => Ok(Level::Opportunistic),
            Some("EncryptionOnly") => Ok(Level::Encrypt),
            Some("CertificateValidation") => Ok(Level::Verify),
            Some("DomainValidation") => Ok(Level::Name),
            Some(other) => Err(format!(
                "TlsSettings is {other:?}, which is none of EncryptionOnly, CertificateValidation and DomainValidation"
            )),
        }
    }
}

/// Fields that have no counterpart.
const OTHERS: [(&str, &str); 2] = [
    ("CloudServicesMailEnabled", "headers are left as they are"),
    ("SenderRewritingEnabled", "senders are not rewritten"),
];

/// Adds what the records become.
pub fn import(records: &[&Record], rules: &[&Record], import: &mut Import) {
    let mut all: Vec<Outbound> = Vec::new();
    // What is for all accepted domains gets those that no other one has.
    let is_last =
        |(_, record): &(usize, &Record)| record.flag("AllAcceptedDomains") == Ok(Some(true));
    let numbered = records.iter().copied().enumerate();
    let (last, first): (Vec<_>, Vec<_>) = numbered.partition(is_last);
    for (number, record) in first.into_iter().chain(last) {
        let enabled = all.iter().filter(|outbound| outbound.is_enabled);
        let exact = enabled.flat_map(|outbound| outbound.recipients.iter().cloned());
        let exact: BTreeSet<String> = exact.collect();
        let name = record
            .text("Name")
            .or(record.text("Identity"))
            .unwrap_or_default();
        let mut row = Row::new(format!("outbound {name:?}"));
        tell_of_others(record, &OTHERS, &mut row);
        let scope = Scope {
            rules,
            accepted: &import.accepted_domains,
            exact: &exact,
        };
        match outbound(record, name, &scope, &mut row) {
            Ok(made) => {
                let own = std::iter::repeat_with(|| row.clone());
                all.extend(made.into_iter().zip(own).map(|(it, row)| Outbound {
                    number,
                    row,
                    ..it
                }));
            }
            Err(reason) => {
                row.tell(Kind::NotImported, reason);
                import.rows.push(row);
            }
        }
    }
    all.sort_by_key(|outbound| outbound.number);
    settle_claims(&mut all);
    if all
        .iter()
        .any(|outbound| outbound.is_enabled && outbound.level >= Level::Verify)
    {
        import.notes.push("Exchange asks whether a partner's certificate is revoked; Portcullis knows that from [trust] crls only".into());
    }
    for outbound in all {
        add(outbound, import);
    }
}

/// What a connector's recipients may depend on.
struct Scope<'a> {
    rules: &'a [&'a Record],
    accepted: &'a [String],
    /// Domains that other connectors, which are in force, name.
    exact: &'a BTreeSet<String>,
}

fn outbound(
    record: &Record,
    name: &str,
    scope: &Scope,
    row: &mut Row,
) -> Result<Vec<Outbound>, String> {
    if name.is_empty() {
        return Err("it has no name".into());
    }
    if record.kind() == Some("SendConnector") {
        return send_connector(record, name, row);
    }
    let mut is_enabled = record
        .flag("Enabled")?
        .ok_or("it does not say whether it is enabled (Enabled)")?;
    if record.flag("TestMode")? == Some(true) {
        row.tell(Kind::Uncertain, "it is in test mode: imported disabled");
        is_enabled = false;
    }
    if record.text("LastValidationTimestamp").is_none()
        && record.flag("IsValidated")? == Some(false)
    {
        row.tell(
            Kind::Note,
            "it was never validated in Exchange: portcullis validate tries it",
        );
    }
    let recipients = recipients(record, name, scope, row)?;
    let uses_mx = record.flag("UseMXRecord")?.unwrap_or(true);
    let all_on_premises = record.flag("RouteAllMessagesViaOnPremises")? == Some(true);
    let smart_hosts = match uses_mx {
        true if all_on_premises => {
            return Err("RouteAllMessagesViaOnPremises without smart hosts".into());
        }
        true => Vec::new(),
        false => smart_hosts(record, &mut is_enabled, row)?,
    };
    if uses_mx && !record.list("SmartHosts")?.is_empty() {
        row.tell(
            Kind::Note,
            "SmartHosts are not used while UseMXRecord is true",
        );
    }
    if record.field("TlsSettings").is_none() {
        return Err("it does not say which TLS it asks for (TlsSettings)".into());
    }
    let mut level = Level::of(record.word("TlsSettings")?)?;
    if rule_wants_tls(name, scope.rules)? && level < Level::Encrypt {
        row.tell(Kind::Note, "the transport rule asks for TLS");
        level = Level::Encrypt;
    }
    let names = names(record, level)?;
    let dane = published(record, "SmtpDaneMode", &["Mandatory", "None"], row)?;
    if dane.as_deref() == Some("mandatory") && smart_hosts.iter().any(|host| host.starts_with('['))
    {
        return Err("DANE is mandatory, and a smart host that is an address has no records".into());
    }
    let mta_sts = published(record, "MtaStsMode", &["None"], row)?;
    Ok(vec![Outbound {
        number: 0,
        name: name.into(),
        comment: origin(record),
        is_enabled,
        recipients,
        smart_hosts,
        level,
        names,
        dane,
        mta_sts,
        row: Row::new(String::new()),
    }])
}

/// How what a partner publishes is used, if not opportunistically: in one of these words.
fn published(
    record: &Record,
    field: &str,
    words: &[&str],
    row: &mut Row,
) -> Result<Option<String>, String> {
    match record.word(field)? {
        Some("Opportunistic") => Ok(None),
        None => {
            row.tell(Kind::Note, format!("{field} is not given: opportunistic"));
            Ok(None)
        }
        Some(word) if words.contains(&word) => Ok(Some(word.to_lowercase())),
        Some(other) => Err(format!(
            "{field} is {other:?}, which is neither Opportunistic nor {}",
            words.join(" nor ")
        )),
    }
}

/// A connector of Exchange Server, which becomes several where each domain's servers are to have a name of it.
fn send_connector(record: &Record, name: &str, row: &mut Row) -> Result<Vec<Outbound>, String> {
    let mut is_enabled = record
        .flag("Enabled")?
        .ok_or("it does not say whether it is enabled (Enabled)")?;
    let mut recipients = Vec::new();
    for space in record.list("AddressSpaces")? {
        let (domain, is_usual) = domain(&space)?;
        if !is_usual {
            row.tell(
                Kind::Note,
                format!("the cost in {space:?} has no counterpart"),
            );
        }
        recipients.push(domain);
    }
    if recipients.is_empty() {
        return Err("it has no AddressSpaces".into());
    }
    let uses_dns = record.flag("DNSRoutingEnabled")?.unwrap_or(true);
    let smart_hosts = match uses_dns {
        true => Vec::new(),
        false => smart_hosts(record, &mut is_enabled, row)?,
    };
    let require = record.flag("RequireTLS")?.unwrap_or(false);
    let least = match require {
        true => Level::Encrypt,
        false => Level::Opportunistic,
    };
    let level = Level::of(record.word("TlsAuthLevel")?)?.max(least);
    let by_domain = level == Level::Name && record.word("TlsDomain")?.is_none();
    if by_domain && recipients.iter().any(|domain| domain.contains('*')) {
        return Err("DomainValidation without TlsDomain asks for a certificate of each recipient's own domain, which no pattern says: name the domains, or TlsDomain".into());
    }
    if record.flag("DomainSecureEnabled")? == Some(true) {
        row.tell(
            Kind::Differs,
            "DomainSecureEnabled has no counterpart: say with tls what the partner must show",
        );
    }
    if record.flag("IgnoreSTARTTLS")? == Some(true) {
        row.tell(
            Kind::Differs,
            "IgnoreSTARTTLS has no counterpart: TLS is used where it is offered",
        );
    }
    if let Some(port) = record
        .field("Port")
        .filter(|port| **port != 25 && **port != "25")
    {
        return Err(format!(
            "Port is {port}: name it in the smart hosts, host:port"
        ));
    }
    let made = |recipients: Vec<String>, names| Outbound {
        number: 0,
        name: name.into(),
        comment: origin(record),
        is_enabled,
        recipients,
        smart_hosts: smart_hosts.clone(),
        level,
        names,
        dane: None,
        mta_sts: None,
        row: Row::new(String::new()),
    };
    if !by_domain {
        return Ok(vec![made(recipients, names(record, level)?)]);
    }
    row.tell(
        Kind::Note,
        "DomainValidation without TlsDomain: a certificate of the recipient's own domain is asked for",
    );
    let each = recipients.into_iter();
    Ok(each
        .map(|domain| made(vec![domain.clone()], vec![domain]))
        .collect())
}

fn names(record: &Record, level: Level) -> Result<Vec<String>, String> {
    match (level, record.word("TlsDomain")?) {
        (Level::Name, Some(name)) => Ok(vec![name.to_lowercase()]),
        (Level::Name, None) => {
            Err("DomainValidation needs TlsDomain, the name in the certificate".into())
        }
        _ => Ok(Vec::new()),
    }
}

fn recipients(
    record: &Record,
    name: &str,
    scope: &Scope,
    row: &mut Row,
) -> Result<Vec<String>, String> {
    if record.flag("IsTransportRuleScoped")? == Some(true) {
        return of_transport_rule(name, scope.rules, row);
    }
    if record.flag("RouteAllMessagesViaOnPremises")? == Some(true) {
        row.tell(
            Kind::Differs,
            "all mail goes by this connector (RouteAllMessagesViaOnPremises)",
        );
        return Ok(vec!["*".into()]);
    }
    if record.flag("AllAcceptedDomains")? == Some(true) {
        if scope.accepted.is_empty() {
            return Err(
                "it is for all accepted domains, which are not in the file: Get-AcceptedDomain"
                    .into(),
            );
        }
        // Exchange takes the exact name first, then the accepted domains, then patterns.
        let is_left = |domain: &&String| !scope.exact.contains(*domain);
        let left: Vec<String> = scope.accepted.iter().filter(is_left).cloned().collect();
        return match left.is_empty() {
            true => Err("each accepted domain has a connector of its own".into()),
            false => Ok(left),
        };
    }
    let domains = domains(record, "RecipientDomains", row)?;
    if domains.is_empty() {
        return Err("it has no RecipientDomains".into());
    }
    Ok(domains)
}

/// Whether a transport rule that uses a connector asks for TLS.
fn rule_wants_tls(name: &str, rules: &[&Record]) -> Result<bool, String> {
    for rule in rules {
        if rule.word("RouteMessageOutboundConnector")? == Some(name)
            && rule.flag("RouteMessageOutboundRequireTls")? == Some(true)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The domains of the only rule that uses a connector, if it asks for nothing else.
fn of_transport_rule(name: &str, rules: &[&Record], row: &mut Row) -> Result<Vec<String>, String> {
    let uses = |rule: &&&Record| rule.text("RouteMessageOutboundConnector") == Some(name);
    let mut using = rules.iter().filter(uses);
    let rule = match (using.next(), using.next()) {
        (Some(rule), None) => rule,
        (None, _) => {
            return Err(
                "it is used by transport rules, which are not in the file: Get-TransportRule"
                    .into(),
            );
        }
        _ => return Err("several transport rules use it".into()),
    };
    let rule_name = rule.text("Name").unwrap_or_default();
    let conditions = rule.list("Conditions")?;
    let is_only = |condition: &String| condition.ends_with("RecipientDomainIsPredicate");
    let has_exceptions = !rule.list("Exceptions")?.is_empty();
    let is_on = rule.word("State")?.is_none_or(|state| state == "Enabled")
        && rule.word("Mode")?.is_none_or(|mode| mode == "Enforce");
    for date in ["ActivationDate", "ExpiryDate"] {
        if rule
            .field(date)
            .is_some_and(|value| !value.is_null() && value != "")
        {
            return Err(format!(
                "the transport rule {rule_name:?} is for some time only ({date})"
            ));
        }
    }
    let domains = rule.list("RecipientDomainIs")?;
    if domains.is_empty()
        || has_exceptions
        || !is_on
        || !conditions.iter().all(is_only)
        || has_other_condition(rule)
    {
        return Err(format!(
            "the transport rule {rule_name:?} uses it under conditions that connectors do not have"
        ));
    }
    row.tell(
        Kind::Note,
        format!("it is for the recipients' domains of the transport rule {rule_name:?}"),
    );
    Ok(domains.iter().map(|domain| domain.to_lowercase()).collect())
}

/// Whether a rule has a condition or an exception beside the domains of recipients.
fn has_other_condition(rule: &Record) -> bool {
    const BEGINNINGS: [&str; 21] = [
        "AD",
        "Between",
        "Content",
        "HasNo",
        "HasSender",
        "Manager",
        "Message",
        "SCLOver",
        "WithImportance",
        "From",
        "SentTo",
        "AnyOf",
        "Subject",
        "HasClassification",
        "HeaderContains",
        "HeaderMatches",
        "Attachment",
        "MessageSize",
        "Sender",
        "Recipient",
        "ExceptIf",
    ];
    let counts = |name: &str, value: &Value| {
        let is_condition = BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
            && name != "RecipientDomainIs";
        // Where the sender's address is looked for is no condition.
        let is_set = match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => list.iter().any(|entry| !entry.is_null()),
            Value::String(text) => !text.is_empty() && name != "SenderAddressLocation",
            _ => true,
        };
        is_condition && is_set
    };
    rule.fields.iter().any(|(name, value)| counts(name, value))
}

fn smart_hosts(
    record: &Record,
    is_enabled: &mut bool,
    row: &mut Row,
) -> Result<Vec<String>, String> {
    let mut hosts = Vec::new();
    for host in record.list("SmartHosts")? {
        let bare = host.trim_matches(['[', ']']);
        if bare.contains('/') {
            row.tell(Kind::Uncertain, format!("the smart host {host:?} is a range, which has no counterpart: imported disabled"));
            *is_enabled = false;
            let first = bare.split('/').next().unwrap_or_default();
            hosts.push(format!("[{first}]"));
        } else if bare.parse::<IpAddr>().is_ok() {
            hosts.push(format!("[{bare}]"));
        } else {
            hosts.push(bare.to_lowercase());
        }
    }
    match hosts.is_empty() {
        true => Err("it has neither MX records nor smart hosts to deliver to".into()),
        false => Ok(hosts),
    }
}

/// Where several claim a domain, which Exchange does not define, the strictest has it, and the others have the rest.
fn settle_claims(all: &mut [Outbound]) {
    let strictness = |outbound: &Outbound| {
        (
            outbound.level,
            outbound.dane.as_deref() == Some("mandatory"),
        )
    };
    let mut order: Vec<usize> = (0..all.len()).collect();
    // Of those that ask for the same, the first has it.
    order.sort_by_key(|number| all.get(*number).map(strictness).map(Reverse));
    let mut owners: HashMap<String, (String, usize)> = HashMap::new();
    let mut wanting: Vec<(usize, String)> = Vec::new();
    for number in order {
        let Some(own) = all.get_mut(number).filter(|own| own.is_enabled) else {
            continue;
        };
        let (taken, left): (Vec<String>, Vec<String>) = own
            .recipients
            .iter()
            .cloned()
            .partition(|domain| owners.contains_key(domain));
        for domain in &taken {
            let owner = owners.get(domain).map_or("", |(name, _)| name.as_str());
            own.row.tell(
                Kind::Differs,
                format!("{domain} goes by {owner:?}, whose level is as high or higher"),
            );
        }
        if own.dane.as_deref() == Some("mandatory") {
            // What the owner does not ask for by itself, it does from now on.
            let owner = taken.iter().filter_map(|domain| owners.get(domain));
            wanting.extend(owner.map(|(_, number)| (*number, own.name.clone())));
        }
        if left.is_empty() {
            own.row
                .tell(Kind::Uncertain, "no domain is left: imported disabled");
            own.is_enabled = false;
            continue;
        }
        let name = own.name.clone();
        owners.extend(
            left.iter()
                .map(|domain| (domain.clone(), (name.clone(), number))),
        );
        own.recipients = left;
    }
    for (number, other) in wanting {
        if let Some(owner) = all.get_mut(number) {
            owner.take_dane(&other);
        }
    }
}

impl Outbound {
    /// Asks for DANE as another one did that had some of the same domains.
    fn take_dane(&mut self, other: &str) {
        if self.dane.as_deref() == Some("mandatory") {
            return;
        }
        if self.smart_hosts.iter().any(|host| host.starts_with('[')) {
            self.row.tell(
                Kind::Uncertain,
                format!("{other:?} asks for DANE for the same domains, which a smart host without a name cannot have: imported disabled"),
            );
            self.is_enabled = false;
            return;
        }
        self.dane = Some("mandatory".into());
        self.row.tell(
            Kind::Differs,
            format!("DANE is mandatory, as {other:?} asks for the same domains"),
        );
    }
}

fn add(mut outbound: Outbound, import: &mut Import) {
    let suffix = match import.names.contains(&outbound.name) {
        true => " (outbound)",
        false => "",
    };
    let name = import.unique(&outbound.name, suffix);
    if name != outbound.name {
        outbound.row.tell(
            Kind::Note,
            format!("names are unique: it is called {name:?}"),
        );
    }
    let mut made = connector(name.clone(), outbound.comment.clone(), "outbound");
    if !outbound.is_enabled {
        made.insert("enabled".into(), false.into());
    }
    made.insert(
        "to".into(),
        object([("recipient-domains", outbound.recipients.clone())]),
    );
    if !outbound.smart_hosts.is_empty() {
        made.insert("route".into(), json!({"smart-hosts": outbound.smart_hosts}));
    }
    if outbound.level != Level::Opportunistic {
        let mut tls = Map::new();
        tls.insert("level".into(), outbound.level.name().into());
        if outbound.level == Level::Name {
            tls.insert("names".into(), json!(outbound.names));
        }
        made.insert("tls".into(), Value::Object(tls));
    }
    for (field, value) in [("dane", outbound.dane), ("mta-sts", outbound.mta_sts)] {
        if let Some(value) = value {
            made.insert(field.into(), value.into());
        }
    }
    import.connectors.push(made);
    outbound.row.here.push(name);
    import.rows.push(outbound.row);
}
