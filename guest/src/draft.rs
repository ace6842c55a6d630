//! Connectors as they are read from a document, and how they are packed.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use crate::connector::{Connector, Sha256, USUAL, bits, level, required};
use crate::index::Index;
use crate::ip::{self, Prefix};
use crate::names::{self, Pattern};
use crate::pack::{At, Writer};
use crate::reads::Reads;
use crate::rules::{MARK, Rules};
use crate::{
    Dane, Host, IpAddress, Mode, MtaSts, NamedAuthority, Protection, Route, SmartHost, TlsLevel,
};

/// A connector as it was read from the document.
pub struct Draft {
    /// The name, unique in the document.
    pub name: String,
    /// The comment.
    pub comment: Option<String>,
    /// How it treats mail that does not comply.
    pub mode: Mode,
    /// Which mail it is for: `from` of an inbound connector, `to` of an outbound one.
    pub selectors: Lists,
    /// Which mail of that it is not for.
    pub except: Lists,
    /// What belongs to one direction only.
    pub kind: DraftKind,
}

/// What belongs to one direction only.
pub enum DraftKind {
    /// Mail from a partner.
    Inbound(DraftInbound),
    /// Mail to a partner.
    Outbound(DraftOutbound),
}

/// Lists of patterns: any within a list, all lists that are not empty.
#[derive(Default)]
pub struct Lists {
    /// Of the envelope sender, and of the From header where the connector says so.
    pub sender_domains: Vec<Pattern>,
    /// Of the client.
    pub sender_ips: Vec<Prefix>,
    /// Of the client's trusted certificate.
    pub certificate_names: Vec<Pattern>,
    /// Of the envelope recipient.
    pub recipient_domains: Vec<Pattern>,
}

/// The inbound part of a connector.
pub struct DraftInbound {
    /// Whether `sender-domains` are held against the From header too.
    pub match_header_from: bool,
    /// What the mail must satisfy.
    pub require: DraftRequirements,
    /// The refusal of mail that does not, where it is not the usual one.
    pub reply: DraftReply,
}

/// What inbound mail must satisfy.
#[derive(Default)]
pub struct DraftRequirements {
    /// The session is encrypted.
    pub tls: bool,
    /// With at least this version, as TLS writes it; 0 is any.
    pub min_version: u16,
    /// The certificate carries one of these names.
    pub certificate_names: Vec<Pattern>,
    /// The certificate is one of these.
    pub fingerprints: Vec<Sha256>,
    /// The certificate has one of these public keys.
    pub keys: Vec<Sha256>,
    /// The trusted chain ends at one of these authorities.
    pub authorities: Vec<String>,
    /// The client's address is in one of these ranges.
    pub source_ips: Vec<Prefix>,
}

/// The reply of a refusal.
pub struct DraftReply {
    /// 5yz.
    pub code: u16,
    /// Of class 5.
    pub enhanced: String,
    /// Put behind the connector and the requirement; empty if there is none.
    pub text: String,
}

/// The outbound part of a connector.
pub struct DraftOutbound {
    /// Where the mail goes.
    pub route: Route,
    /// What the next hop must satisfy.
    pub protection: Protection,
}

/// Rules that are being packed.
#[derive(Default)]
pub struct RulesWriter {
    writer: Writer,
    organization: String,
    accepted_domains: Vec<Pattern>,
    connectors: Vec<At>,
    authorities: Vec<NamedAuthority>,
    named: BTreeSet<String>,
}

impl RulesWriter {
    /// Sets the organization's name.
    pub fn organization(&mut self, name: String) {
        self.organization = name;
    }

    /// Sets the domains that the organization receives mail for.
    pub fn accepted_domains(&mut self, patterns: Vec<Pattern>) {
        self.accepted_domains = patterns;
    }

    /// Adds a connector.
    pub fn connector(&mut self, draft: &Draft) {
        if self.connectors.is_empty() {
            // No connector stands at 0, so that 0 can stand for none.
            self.writer.bytes(MARK);
        }
        self.connectors.push(self.writer.at());
        write_connector(&mut self.writer, draft);
        if draft.mode != Mode::Disabled {
            self.name_authorities(draft);
        }
    }

    fn name_authorities(&mut self, draft: &Draft) {
        let names = match &draft.kind {
            DraftKind::Inbound(inbound) => &inbound.require.authorities,
            DraftKind::Outbound(outbound) => &outbound.protection.authorities,
        };
        for name in names {
            if self.named.insert(name.clone()) {
                self.authorities.push(NamedAuthority {
                    name: name.clone(),
                    connector: draft.name.clone(),
                });
            }
        }
    }

    /// The rules, with their index.
    pub fn finish(self) -> Rules {
        let mut writer = self.writer;
        let organization = writer.at();
        writer.text(&self.organization);
        names::write_domains(&mut writer, &self.accepted_domains);
        let connectors = writer.at();
        for at in &self.connectors {
            writer.word(*at);
        }
        let authorities = writer.at();
        writer.word(self.authorities.len() as u32);
        for named in &self.authorities {
            writer.text(&named.name);
            writer.text(&named.connector);
        }
        let packed = writer.written();
        let read = |at: &At| Connector::read(*at, packed.from(*at));
        let enabled = self.connectors.iter().map(read);
        let enabled = enabled.filter(|connector| connector.mode != Mode::Disabled);
        let reads = enabled.fold(Reads::default(), |all, it| all.with(Reads::of(&it)));
        let index = Index::write(&mut writer, &self.connectors);
        for word in [
            organization,
            connectors,
            self.connectors.len() as u32,
            reads.to_word(),
            authorities,
        ] {
            writer.word(word);
        }
        index.write_head(&mut writer);
        writer.bytes(MARK);
        Rules::load(writer.finish().into()).unwrap_or_default()
    }
}

fn write_connector(writer: &mut Writer, draft: &Draft) {
    let mut flags = match draft.mode {
        Mode::Enforce => 0,
        Mode::Audit => bits::AUDIT,
        Mode::Disabled => bits::DISABLED,
    };
    let mut set = |bit, on| flags |= if on { bit } else { 0 };
    set(bits::COMMENT, draft.comment.is_some());
    set(bits::EXCEPT, !draft.except.is_empty());
    match &draft.kind {
        DraftKind::Inbound(inbound) => {
            set(bits::MATCH_HEADER_FROM, inbound.match_header_from);
            set(bits::TLS, inbound.require.tls);
            set(bits::REPLY, !inbound.reply.is_usual());
        }
        DraftKind::Outbound(_) => set(bits::OUTBOUND, true),
    }
    writer.byte(flags);
    writer.text(&draft.name);
    draft.selectors.write(writer);
    if flags & bits::EXCEPT != 0 {
        draft.except.write(writer);
    }
    match &draft.kind {
        DraftKind::Inbound(inbound) => inbound.write(writer),
        DraftKind::Outbound(outbound) => outbound.write(writer),
    }
    if let Some(comment) = &draft.comment {
        writer.text(comment);
    }
}

impl Lists {
    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.sender_domains.is_empty()
            && self.sender_ips.is_empty()
            && self.certificate_names.is_empty()
            && self.recipient_domains.is_empty()
    }

    /// One byte that says which lists there are, and those.
    fn write(&self, writer: &mut Writer) {
        let present = [
            !self.sender_domains.is_empty(),
            !self.sender_ips.is_empty(),
            !self.certificate_names.is_empty(),
            !self.recipient_domains.is_empty(),
        ];
        writer.byte(mask(present));
        if present[0] {
            names::write_domains(writer, &self.sender_domains);
        }
        if present[1] {
            ip::write_prefixes(writer, &self.sender_ips);
        }
        if present[2] {
            names::write_certificate_names(writer, &self.certificate_names);
        }
        if present[3] {
            names::write_domains(writer, &self.recipient_domains);
        }
    }
}

fn mask<const N: usize>(present: [bool; N]) -> u8 {
    (0..)
        .zip(present)
        .fold(0, |mask, (bit, is_there)| mask | u8::from(is_there) << bit)
}

impl DraftInbound {
    fn write(&self, writer: &mut Writer) {
        let require = &self.require;
        let mut present = 0;
        for (bit, is_there) in [
            (required::MIN_VERSION, require.min_version > 0),
            (required::NAMES, !require.certificate_names.is_empty()),
            (required::FINGERPRINTS, !require.fingerprints.is_empty()),
            (required::KEYS, !require.keys.is_empty()),
            (required::AUTHORITIES, !require.authorities.is_empty()),
            (required::SOURCE_IPS, !require.source_ips.is_empty()),
        ] {
            present |= if is_there { bit } else { 0 };
        }
        writer.byte(present);
        if require.min_version > 0 {
            writer.number(require.min_version.into());
        }
        if !require.certificate_names.is_empty() {
            names::write_certificate_names(writer, &require.certificate_names);
        }
        for digests in [&require.fingerprints, &require.keys] {
            if !digests.is_empty() {
                write_digests(writer, digests);
            }
        }
        if !require.authorities.is_empty() {
            write_texts(writer, &require.authorities);
        }
        if !require.source_ips.is_empty() {
            ip::write_prefixes(writer, &require.source_ips);
        }
        if !self.reply.is_usual() {
            writer.number(self.reply.code.into());
            writer.text(&self.reply.enhanced);
            writer.text(&self.reply.text);
        }
    }
}

impl Default for DraftReply {
    fn default() -> Self {
        DraftReply {
            code: USUAL.code,
            enhanced: USUAL.enhanced.into(),
            text: USUAL.text.into(),
        }
    }
}

impl DraftReply {
    fn is_usual(&self) -> bool {
        (self.code, &*self.enhanced, &*self.text) == (USUAL.code, USUAL.enhanced, USUAL.text)
    }
}

impl DraftOutbound {
    fn write(&self, writer: &mut Writer) {
        let mut packed = Writer::default();
        match &self.route {
            Route::Mx => packed.number(0),
            Route::SmartHosts(hosts) => {
                packed.number(hosts.len() as u32);
                hosts
                    .iter()
                    .for_each(|host| write_smart_host(&mut packed, host));
            }
        }
        write_protection(&mut packed, &self.protection);
        writer.run(&packed.finish());
    }
}

fn write_smart_host(writer: &mut Writer, SmartHost { host, port }: &SmartHost) {
    match host {
        Host::Name(name) => {
            writer.byte(0);
            writer.text(name);
        }
        Host::Address(IpAddress::Ipv4(bits)) => {
            writer.byte(4);
            writer.word(*bits);
        }
        Host::Address(IpAddress::Ipv6((high, low))) => {
            writer.byte(6);
            for word in [high >> 32, *high, low >> 32, *low] {
                writer.word(word as u32);
            }
        }
    }
    writer.number(port.unwrap_or(0).into());
}

fn write_protection(writer: &mut Writer, protection: &Protection) {
    match &protection.level {
        TlsLevel::Opportunistic => writer.byte(level::OPPORTUNISTIC),
        TlsLevel::Encrypt => writer.byte(level::ENCRYPT),
        TlsLevel::Verify => writer.byte(level::VERIFY),
        TlsLevel::Name(names) => {
            writer.byte(level::NAME);
            write_texts(writer, names);
        }
    }
    writer.byte(match protection.dane {
        Dane::Opportunistic => 0,
        Dane::Mandatory => 1,
        Dane::None => 2,
    });
    writer.byte(match protection.mta_sts {
        MtaSts::Opportunistic => 0,
        MtaSts::None => 1,
    });
    writer.number(protection.min_version.unwrap_or(0).into());
    write_digests(writer, &protection.fingerprints);
    write_digests(writer, &protection.keys);
    write_texts(writer, &protection.authorities);
}

fn write_digests(writer: &mut Writer, digests: &[Sha256]) {
    writer.number(digests.len() as u32);
    for (a, b, c, d) in digests {
        for word in [a, b, c, d] {
            writer.bytes(&word.to_be_bytes());
        }
    }
}

fn write_texts(writer: &mut Writer, texts: &[String]) {
    writer.number(texts.len() as u32);
    for text in texts {
        writer.text(text);
    }
}
