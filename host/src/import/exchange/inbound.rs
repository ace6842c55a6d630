//! `Get-InboundConnector`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::fields::{certificate_name, connector, domains, grouped, origin, tell_of_others};
use crate::import::record::Record;
use crate::import::{Connector, Import, Kind, Row, object};

/// A connector that restricts mail of a partner.
struct Partner {
    name: String,
    comment: String,
    is_enabled: bool,
    senders: Vec<String>,
    recipients: Vec<String>,
    /// Whether plaintext is refused.
    tls: bool,
    /// The addresses that mail must come from, or may be known by.
    addresses: Vec<String>,
    /// Whether mail from other addresses is refused.
    by_address: bool,
    /// Names in the partner's certificates.
    certificates: Vec<String>,
    /// Whether mail with another certificate is refused.
    by_certificate: bool,
    /// Names of which a certificate is enough, wherever its mail comes from.
    or_certificates: Vec<String>,
    row: Row,
}

/// Fields that have no counterpart, and grant nothing here.
const OTHERS: [(&str, &str); 8] = [
    (
        "CloudServicesMailEnabled",
        "headers are trusted by nobody here",
    ),
    ("TreatMessagesAsInternal", "no mail counts as internal here"),
    (
        "EFSkipLastIP",
        "connectors judge the address that connects; behind a gateway, use PROXY or XCLIENT",
    ),
    (
        "EFSkipIPs",
        "connectors judge the address that connects; behind a gateway, use PROXY or XCLIENT",
    ),
    (
        "EFSkipMailGateway",
        "connectors judge the address that connects; behind a gateway, use PROXY or XCLIENT",
    ),
    ("EFUsers", "enhanced filtering has no counterpart"),
    ("EFTestMode", "enhanced filtering has no counterpart"),
    ("ScanAndDropRecipients", "it has no counterpart"),
];

/// Adds what the records become.
pub fn import(records: &[&Record], import: &mut Import) {
    let mut partners = Vec::new();
    for record in records {
        let name = record
            .text("Name")
            .or(record.text("Identity"))
            .unwrap_or_default();
        let mut row = Row::new(format!("inbound {name:?}"));
        tell_of_others(record, &OTHERS, &mut row);
        match partner(record, name, &mut row) {
            Ok(Some(partner)) => partners.push(Partner { row, ..partner }),
            Ok(None) => import.rows.push(row),
            Err(reason) => {
                row.tell(Kind::NotImported, reason);
                import.rows.push(row);
            }
        }
    }
    let partners = merged(partners);
    let restricting: Vec<Restricting> = partners.iter().filter_map(Restricting::of).collect();
    for partner in partners {
        add(partner, &restricting, import);
    }
}

/// Reads a record; `None` if it restricts nobody.
fn partner(record: &Record, name: &str, row: &mut Row) -> Result<Option<Partner>, String> {
    if name.is_empty() {
        return Err("it has no name".into());
    }
    let kind = record.word("ConnectorType")?;
    match kind {
        Some("Partner") => {}
        Some("OnPremises") => {
            let names = record
                .text("TlsSenderCertificateName")
                .and_then(certificate_name);
            let clients = match names {
                Some(name) => format!("certificate-names = [{name:?}]"),
                None => "clients = […]".into(),
            };
            row.tell(
                Kind::NotImported,
                format!("it lets your own servers send, and restricts nobody; if they are to send through Portcullis: [[listener]] outbound = {{ {clients}, tenant = … }}"),
            );
            return Ok(None);
        }
        other => {
            return Err(format!(
                "ConnectorType is {:?}, and neither Partner nor OnPremises",
                other.unwrap_or_default()
            ));
        }
    }
    for field in ["TrustedOrganizations", "ClientHostNames"] {
        let list = record.list(field)?;
        if !list.is_empty() {
            return Err(format!("{field} has no counterpart: {}", list.join(", ")));
        }
    }
    let is_enabled = record
        .flag("Enabled")?
        .ok_or("it does not say whether it is enabled (Enabled)")?;
    let senders = domains(record, "SenderDomains", row)?;
    if senders.is_empty() {
        return Err("it has no SenderDomains".into());
    }
    let tls = record.flag("RequireTls")?.unwrap_or_else(|| {
        row.tell(
            Kind::Differs,
            "RequireTls is not given: taken as true, which is the default",
        );
        true
    });
    let addresses = addresses(record, row)?;
    let by_address = record
        .flag("RestrictDomainsToIPAddresses")?
        .unwrap_or(false);
    if by_address && addresses.is_empty() {
        return Err(
            "RestrictDomainsToIPAddresses is true, and there are no SenderIPAddresses".into(),
        );
    }
    let by_certificate = record
        .flag("RestrictDomainsToCertificate")?
        .unwrap_or(false);
    let certificate = match record.word("TlsSenderCertificateName")? {
        Some(text) => Some(
            certificate_name(text)
                .ok_or_else(|| format!("TlsSenderCertificateName has no name in it: {text:?}"))?,
        ),
        None if by_certificate => {
            return Err(
                "RestrictDomainsToCertificate is true, and there is no TlsSenderCertificateName"
                    .into(),
            );
        }
        None => None,
    };
    if certificate.is_some() && by_certificate {
        row.tell(
            Kind::Note,
            "only the subjectAltNames of a certificate count (RFC 9525), and not its common name",
        );
        if !tls {
            row.tell(
                Kind::Differs,
                "a certificate takes an encrypted session, though RequireTls is false",
            );
        }
    }
    if by_address && by_certificate {
        row.tell(
            Kind::Differs,
            "both the addresses and the certificate are required; Exchange may take either",
        );
    }
    let strip = |text: String| match text.rsplit_once('/') {
        Some((_, domain)) => domain.to_owned(),
        None => text,
    };
    let recipients: Vec<String> = domains(record, "AssociatedAcceptedDomains", row)?
        .into_iter()
        .map(strip)
        .collect();
    if !recipients.is_empty() {
        row.tell(
            Kind::Note,
            "AssociatedAcceptedDomains are taken as recipients' domains, as Exchange does",
        );
    }
    Ok(Some(Partner {
        name: name.into(),
        comment: origin(record),
        is_enabled,
        senders,
        recipients,
        tls,
        addresses,
        by_address,
        certificates: certificate.into_iter().collect(),
        by_certificate,
        or_certificates: Vec::new(),
        row: Row::new(String::new()),
    }))
}

/// The ranges that a partner's servers are in.
fn addresses(record: &Record, row: &mut Row) -> Result<Vec<String>, String> {
    let mut ranges = Vec::new();
    for text in record.list("SenderIPAddresses")? {
        let range = text
            .parse::<IpNet>()
            .or_else(|_| text.parse().map(IpAddr::into));
        let range = range
            .map_err(|_| format!("SenderIPAddresses has no address and no range: {text:?}"))?;
        let plain = range.trunc();
        if plain != range {
            row.tell(
                Kind::Note,
                format!("{text:?} has bits behind its prefix: it is {plain}"),
            );
        }
        ranges.push(match plain.prefix_len() == plain.max_prefix_len() {
            true => plain.addr().to_string(),
            false => plain.to_string(),
        });
    }
    ranges.sort();
    ranges.dedup();
    Ok(ranges)
}

/// Those for the same mail become one: in Exchange each of them is enough.
fn merged(partners: Vec<Partner>) -> Vec<Partner> {
    let key = |partner: &Partner| {
        let mut senders = partner.senders.clone();
        let mut recipients = partner.recipients.clone();
        senders.sort();
        recipients.sort();
        // Known by their addresses, they are for other mail.
        let by = (partner.is_known_by_address()).then(|| partner.addresses.clone());
        (partner.is_enabled, senders, recipients, by)
    };
    let groups = grouped(partners.iter().map(key));
    let mut heads: Vec<(usize, Vec<usize>)> = groups
        .into_values()
        .filter_map(|group| {
            let (first, rest) = group.split_first()?;
            Some((*first, rest.to_vec()))
        })
        .collect();
    heads.sort_unstable();
    let mut all: Vec<Option<Partner>> = partners.into_iter().map(Some).collect();
    let mut take = |number: usize| all.get_mut(number).and_then(Option::take);
    let mut merged = Vec::new();
    for (first, rest) in heads {
        let Some(mut head) = take(first) else {
            continue;
        };
        for number in rest {
            if let Some(other) = take(number) {
                head.merge(other);
            }
        }
        for list in [
            &mut head.addresses,
            &mut head.certificates,
            &mut head.or_certificates,
        ] {
            list.sort();
            list.dedup();
        }
        merged.push(head);
    }
    merged
}

impl Partner {
    /// Whether it is for mail from its addresses, from whatever domain. One that asks all mail for a certificate is not.
    fn is_known_by_address(&self) -> bool {
        !self.addresses.is_empty()
            && !self.by_address
            && !self.by_certificate
            && self.senders == ["*"]
    }

    /// Takes another one for the same mail in.
    fn merge(&mut self, other: Partner) {
        let name = other.name.clone();
        let how = self.take(other.restrictions());
        let Partner {
            addresses,
            certificates,
            tls,
            row,
            ..
        } = other;
        match how {
            Merge::Lists => {
                self.addresses.extend(addresses);
                self.certificates.extend(certificates);
                self.tls |= tls;
            }
            Merge::Other => {
                self.addresses = addresses;
                self.certificates = certificates;
                self.by_address = other.by_address;
                self.by_certificate = other.by_certificate;
                self.tls |= tls;
            }
            Merge::Own => self.tls |= tls,
            // Whoever shows the certificate has an encrypted session.
            Merge::OrCertificates => self.or_certificates.extend(certificates),
            Merge::OrAddresses => {
                self.or_certificates = std::mem::take(&mut self.certificates);
                self.addresses = addresses;
                self.by_address = true;
                self.by_certificate = false;
                self.tls = tls;
            }
        }
        self.row.there.push_str(&format!(", {name:?}"));
        self.row.differences.extend(row.differences);
        let stricter = match how {
            Merge::Own if self.restrictions() == (true, true) => {
                ", which asks for what the stricter of them does"
            }
            _ => "",
        };
        self.row.tell(
            Kind::Differs,
            format!(
                "{:?} and {name:?} are for the same mail, and become one connector{stricter}",
                self.name
            ),
        );
    }

    /// By address, and by certificate.
    fn restrictions(&self) -> (bool, bool) {
        (self.by_address, self.by_certificate)
    }

    /// How one with these restrictions is taken in: in Exchange, either is enough.
    fn take(&self, other: (bool, bool)) -> Merge {
        match (self.restrictions(), other) {
            ((true, true), (true, true)) => Merge::Own,
            (own, other) if own == other => Merge::Lists,
            (_, (false, false)) | ((true, true), _) => Merge::Own,
            ((false, false), _) | (_, (true, true)) => Merge::Other,
            ((true, _), _) => Merge::OrCertificates,
            ((false, _), _) => Merge::OrAddresses,
        }
    }
}

/// How two connectors for the same mail become one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Merge {
    /// Their lists become one: any entry is enough.
    Lists,
    /// What the first asks for stays.
    Own,
    /// What the other asks for is taken.
    Other,
    /// The other's certificates are enough, too.
    OrCertificates,
    /// The first one's certificates are enough, or the other's addresses.
    OrAddresses,
}

/// What a connector restricts by itself, so that a wider one may leave it alone.
struct Restricting {
    name: String,
    senders: Vec<String>,
    recipients: Vec<String>,
    tls: bool,
}

impl Restricting {
    fn of(partner: &Partner) -> Option<Restricting> {
        let restricts = partner.by_address || partner.by_certificate;
        let is_wide = partner.senders.iter().any(|domain| domain == "*");
        (partner.is_enabled && restricts && !is_wide).then(|| Restricting {
            name: partner.name.clone(),
            senders: partner.senders.clone(),
            recipients: partner.recipients.clone(),
            tls: partner.tls || partner.by_certificate,
        })
    }

    /// Whether it restricts all mail of its senders that a wider one would.
    fn covers(&self, wide: &Partner) -> bool {
        self.recipients.is_empty()
            || !wide.recipients.is_empty()
                && wide
                    .recipients
                    .iter()
                    .all(|domain| self.recipients.contains(domain))
    }
}

fn add(mut partner: Partner, restricting: &[Restricting], import: &mut Import) {
    let mut except: Vec<String> = Vec::new();
    let is_wide = partner.senders.iter().any(|domain| domain == "*");
    if (partner.by_address || partner.by_certificate) && is_wide {
        let excepted: Vec<&Restricting> = restricting
            .iter()
            .filter(|narrow| narrow.covers(&partner))
            .collect();
        for narrow in excepted {
            except.extend(narrow.senders.iter().cloned());
            partner.row.tell(
                Kind::Differs,
                format!(
                    "it excepts the senders of {:?}, which restricts them itself",
                    narrow.name
                ),
            );
            if partner.tls && !narrow.tls {
                partner.row.tell(
                    Kind::Differs,
                    format!(
                        "so mail of {:?} need not be encrypted, as that one says",
                        narrow.name
                    ),
                );
            }
        }
    }
    tell_of_overlaps(&mut partner, restricting);
    except.sort();
    except.dedup();
    let is_by_address = partner.is_known_by_address();
    let from = match is_by_address {
        true => object([
            ("sender-ips", partner.addresses.clone()),
            ("recipient-domains", partner.recipients.clone()),
        ]),
        false => object([
            ("sender-domains", partner.senders.clone()),
            ("recipient-domains", partner.recipients.clone()),
        ]),
    };
    let mut require = serde_json::Map::new();
    if partner.tls {
        require.insert("tls".into(), true.into());
    }
    if partner.by_certificate {
        require.insert("certificate-names".into(), json!(partner.certificates));
    }
    if partner.by_address {
        require.insert("source-ips".into(), json!(partner.addresses));
    }
    let name = import.unique(&partner.name, "");
    let mut main = connector(name.clone(), partner.comment.clone(), "inbound");
    if !partner.is_enabled {
        main.insert("enabled".into(), false.into());
    }
    main.insert("from".into(), from.clone());
    let certificates = std::mem::take(&mut partner.or_certificates);
    match (certificates.is_empty(), except.is_empty()) {
        // An exception has all of its lists.
        (false, false) => partner.row.tell(
            Kind::Differs,
            "the certificates that are enough elsewhere are not taken here, beside the excepted senders",
        ),
        (false, true) => {
            main.insert(
                "except".into(),
                object([("certificate-names", certificates)]),
            );
        }
        (true, false) => {
            main.insert("except".into(), object([("sender-domains", except)]));
        }
        (true, true) => {}
    }
    main.insert("require".into(), Value::Object(require));
    import.connectors.push(main);
    partner.row.here.push(name);
    if partner.is_enabled {
        add_companions(&mut partner, &from, is_by_address, import);
    }
    import.rows.push(partner.row);
}

/// In Exchange, one of several connectors for the same mail is enough; here, those that are not for the same mail but
/// for some of it must all be satisfied.
fn tell_of_overlaps(partner: &mut Partner, restricting: &[Restricting]) {
    let Some(own) = Restricting::of(partner) else {
        return;
    };
    let others = restricting.iter().filter(|other| other.name != own.name);
    for other in others {
        let overlap = own.senders.iter().any(|one| {
            let covered = |two: &String| covers(one, two) || covers(two, one);
            other.senders.iter().any(covered)
        });
        if overlap {
            partner.row.tell(
                Kind::Differs,
                format!(
                    "mail that {:?} is for as well must satisfy both; in Exchange one is enough",
                    other.name
                ),
            );
        }
    }
}

/// Whether a pattern covers all that another one does.
fn covers(pattern: &str, other: &str) -> bool {
    let bare = other.strip_prefix("*.").unwrap_or(other);
    match pattern.strip_prefix("*.") {
        Some(base) => bare == base || bare.strip_suffix(base).is_some_and(|it| it.ends_with('.')),
        None => pattern == other,
    }
}

/// What Exchange's texts and its pages say differently is tried in audit mode.
fn add_companions(partner: &mut Partner, from: &Value, is_by_address: bool, import: &mut Import) {
    let mut companion = |suffix: &str, from: Value, require: Value, row: &mut Row, reason: &str| {
        row.tell(Kind::Uncertain, reason);
        // There may be one for the same mail, which then reports both.
        let is_same = |known: &&mut Connector| {
            known.get("mode").is_some() && known.get("from") == Some(&from)
        };
        if let Some(known) = import.connectors.iter_mut().find(is_same) {
            if let (Some(Value::Object(asked)), Value::Object(more)) =
                (known.get_mut("require"), require)
            {
                asked.extend(more);
            }
            let name = known.get("name").and_then(Value::as_str);
            row.here.extend(name.map(str::to_owned));
            return;
        }
        let name = import.unique(&partner.name, suffix);
        let mut audited = connector(name.clone(), partner.comment.clone(), "inbound");
        audited.insert("mode".into(), "audit".into());
        audited.insert("from".into(), from);
        audited.insert("require".into(), require);
        import.connectors.push(audited);
        row.here.push(name);
    };
    let row = &mut partner.row;
    if is_by_address && partner.tls {
        companion(
            " (all senders)",
            object([
                ("sender-domains", partner.senders.clone()),
                ("recipient-domains", partner.recipients.clone()),
            ]),
            json!({"tls": true}),
            row,
            "SenderIPAddresses without RestrictDomainsToIPAddresses: Exchange's pages say that they identify the partner, its documentation that they have no effect, and that all mail must be encrypted then; that in audit mode",
        );
    }
    let is_mute = is_by_address || !partner.tls;
    if !partner.addresses.is_empty() && !partner.by_address && !is_mute {
        companion(
            " (by address)",
            object([
                ("sender-ips", partner.addresses.clone()),
                ("recipient-domains", partner.recipients.clone()),
            ]),
            json!({"tls": true}),
            row,
            "SenderIPAddresses without RestrictDomainsToIPAddresses: Exchange's documentation says that they have no effect, its pages that they identify the partner; so in audit mode",
        );
    }
    if !partner.certificates.is_empty() && !partner.by_certificate {
        companion(
            " (certificate)",
            from.clone(),
            json!({"certificate-names": partner.certificates}),
            row,
            "TlsSenderCertificateName without RestrictDomainsToCertificate has no effect in Exchange; here it is tried in audit mode",
        );
    }
}
