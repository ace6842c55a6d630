//! The rules in the form in which they are decided on: packed, and read where they stand.
//!
//! [`crate::document`] has checked what is packed here.

use alloc::string::String;
use alloc::vec::Vec;

use crate::facts::Facts;
use crate::index::Index;
use crate::ip::{self, Prefix, PrefixSet};
use crate::names::{self, Pattern, PatternSet};
use crate::pack::{At, Reader, Writer, word_of};
use crate::{Dane, Direction, Mode, MtaSts, Protection, Route, TlsLevel};

/// What packed rules end with: tells one layout from another.
const MARK: &[u8; 8] = b"PRTCLS\x00\x01";

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
    pub fingerprints: Vec<Fingerprint>,
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
    /// What the next hop must show.
    pub protection: Protection,
}

/// A SHA-256 in the interface's form.
pub type Fingerprint = (u64, u64, u64, u64);

/// Rules that are being packed.
#[derive(Default)]
pub struct RulesWriter {
    writer: Writer,
    organization: String,
    accepted_domains: Vec<Pattern>,
    connectors: Vec<At>,
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
        let index = Index::write(&mut writer, &self.connectors);
        for word in [organization, connectors, self.connectors.len() as u32] {
            writer.word(word);
        }
        index.write_head(&mut writer);
        writer.bytes(MARK);
        Rules {
            organization,
            connectors,
            total: self.connectors.len() as u32,
            index,
            bytes: writer.finish(),
        }
    }
}

/// Bytes at the end of packed rules.
const HEAD: usize = 3 * 4 + Index::HEAD + MARK.len();

/// Packed rules.
#[derive(Debug)]
pub struct Rules {
    bytes: Vec<u8>,
    organization: At,
    connectors: At,
    total: u32,
    index: Index,
}

impl Rules {
    /// The rules that [`Rules::packed`] gave; `None` if these are none, or of another version.
    pub fn adopt(bytes: Vec<u8>) -> Option<Self> {
        let head = bytes.len().checked_sub(HEAD)?;
        let mut reader = Reader::new(&bytes[head..]);
        let [organization, connectors, total] = core::array::from_fn(|_| reader.word());
        let index = Index::read_head(&mut reader);
        (reader.rest() == MARK).then_some(())?;
        Some(Rules {
            organization,
            connectors,
            total,
            index,
            bytes,
        })
    }

    /// The rules as they can be adopted.
    pub fn packed(&self) -> &[u8] {
        &self.bytes
    }

    fn reader(&self) -> Reader<'_> {
        Reader::new(&self.bytes)
    }

    /// Whether an enabled connector looks at the From header.
    pub fn reads_header_from(&self) -> bool {
        self.index.reads_header_from
    }

    /// The inbound connectors that can match.
    pub fn inbound<'a>(&'a self, facts: &Facts) -> impl Iterator<Item = Connector<'a>> + use<'a> {
        let places = self.index.inbound(self.reader(), facts);
        places.into_iter().map(|at| self.at(at))
    }

    /// The outbound connectors that can claim the recipient's domain.
    pub fn outbound<'a>(&'a self, facts: &Facts) -> impl Iterator<Item = Connector<'a>> + use<'a> {
        let places = self.index.outbound(self.reader(), facts);
        places.into_iter().map(|at| self.at(at))
    }

    /// The organization's name.
    pub fn organization(&self) -> &str {
        self.reader().from(self.organization).text()
    }

    /// The domains that the organization receives mail for; empty if not told.
    pub fn accepted_domains(&self) -> PatternSet<'_> {
        let mut reader = self.reader().from(self.organization);
        reader.run();
        PatternSet::read(&mut reader)
    }

    /// How many connectors there are.
    pub fn len(&self) -> usize {
        self.total as usize
    }

    fn at(&self, at: At) -> Connector<'_> {
        Connector::read(at, self.reader().from(at))
    }

    /// The connector with a number in the document, from 0.
    pub fn connector(&self, number: usize) -> Option<Connector<'_>> {
        let table = self.reader().from(self.connectors).bytes(4 * self.len());
        Some(self.at(word_of(table, number)?))
    }

    /// The connectors in the order of the document.
    pub fn connectors(&self) -> impl Iterator<Item = Connector<'_>> {
        (0..self.len()).filter_map(|number| self.connector(number))
    }
}

/// Bits of a connector's first byte.
mod bits {
    pub const OUTBOUND: u8 = 1;
    pub const AUDIT: u8 = 2;
    pub const DISABLED: u8 = 4;
    pub const COMMENT: u8 = 8;
    pub const EXCEPT: u8 = 16;
    /// Inbound only.
    pub const MATCH_HEADER_FROM: u8 = 32;
    /// Inbound only.
    pub const TLS: u8 = 64;
    /// Inbound only.
    pub const REPLY: u8 = 128;
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
        let present = [
            require.min_version > 0,
            !require.certificate_names.is_empty(),
            !require.fingerprints.is_empty(),
            !require.source_ips.is_empty(),
        ];
        writer.byte(mask(present));
        if present[0] {
            writer.number(require.min_version.into());
        }
        if present[1] {
            names::write_certificate_names(writer, &require.certificate_names);
        }
        if present[2] {
            writer.number(require.fingerprints.len() as u32);
            for (a, b, c, d) in &require.fingerprints {
                for word in [a, b, c, d] {
                    writer.bytes(&word.to_be_bytes());
                }
            }
        }
        if present[3] {
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
        match &self.route {
            Route::Mx => writer.number(0),
            Route::SmartHosts(hosts) => write_texts(writer, hosts),
        }
        let Protection {
            level,
            dane,
            mta_sts,
        } = &self.protection;
        writer.byte(match level {
            TlsLevel::Opportunistic => 0,
            TlsLevel::Encrypt => 1,
            TlsLevel::Verify => 2,
            TlsLevel::Name(_) => 3,
        });
        if let TlsLevel::Name(names) = level {
            write_texts(writer, names);
        }
        writer.byte(match dane {
            Dane::Opportunistic => 0,
            Dane::Mandatory => 1,
            Dane::None => 2,
        });
        writer.byte(match mta_sts {
            MtaSts::Opportunistic => 0,
            MtaSts::None => 1,
        });
    }
}

fn write_texts(writer: &mut Writer, texts: &[String]) {
    writer.number(texts.len() as u32);
    for text in texts {
        writer.text(text);
    }
}

fn read_texts(reader: &mut Reader) -> Vec<String> {
    let count = reader.number();
    (0..count).map(|_| reader.text().into()).collect()
}

/// A connector, where it stands.
#[derive(Clone, Copy, Debug)]
pub struct Connector<'a> {
    /// Its place: no two have the same.
    pub at: At,
    /// The name, unique in the document.
    pub name: &'a str,
    /// The comment.
    pub comment: Option<&'a str>,
    /// How it treats mail that does not comply.
    pub mode: Mode,
    /// Which mail it is for: `from` of an inbound connector, `to` of an outbound one.
    pub selectors: Selectors<'a>,
    /// Which mail of that it is not for.
    pub except: Selectors<'a>,
    /// The bytes of both: those of other connectors are the same if they are for the same mail.
    pub selection: &'a [u8],
    /// What belongs to one direction only.
    pub kind: Kind<'a>,
}

/// What belongs to one direction only.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// Mail from a partner.
    Inbound(Inbound<'a>),
    /// Mail to a partner.
    Outbound(Outbound<'a>),
}

impl<'a> Connector<'a> {
    /// The connector that stands at a place.
    pub fn read(at: At, mut reader: Reader<'a>) -> Self {
        let flags = reader.byte();
        let has = |bit| flags & bit != 0;
        let name = reader.text();
        let before = reader;
        let selectors = Selectors::read(&mut reader);
        let except = match has(bits::EXCEPT) {
            true => Selectors::read(&mut reader),
            false => Selectors::default(),
        };
        let length = before.rest().len() - reader.rest().len();
        let kind = match has(bits::OUTBOUND) {
            true => Kind::Outbound(Outbound::read(&mut reader)),
            false => Kind::Inbound(Inbound::read(flags, &mut reader)),
        };
        Connector {
            at,
            name,
            comment: has(bits::COMMENT).then(|| reader.text()),
            mode: match (has(bits::DISABLED), has(bits::AUDIT)) {
                (true, _) => Mode::Disabled,
                (_, true) => Mode::Audit,
                _ => Mode::Enforce,
            },
            selectors,
            except,
            selection: before.rest().get(..length).unwrap_or_default(),
            kind,
        }
    }

    /// The direction of the mail that the connector is for.
    pub fn direction(&self) -> Direction {
        match self.kind {
            Kind::Inbound(_) => Direction::Inbound,
            Kind::Outbound(_) => Direction::Outbound,
        }
    }
}

/// Lists of patterns: any within a list, all lists that are not empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selectors<'a> {
    /// Of the envelope sender, and of the From header where the connector says so.
    pub sender_domains: PatternSet<'a>,
    /// Of the client.
    pub sender_ips: PrefixSet<'a>,
    /// Of the client's trusted certificate.
    pub certificate_names: PatternSet<'a>,
    /// Of the envelope recipient.
    pub recipient_domains: PatternSet<'a>,
}

impl<'a> Selectors<'a> {
    fn read(reader: &mut Reader<'a>) -> Self {
        let present = reader.byte();
        let mut selectors = Selectors::default();
        if present & 1 != 0 {
            selectors.sender_domains = PatternSet::read(reader);
        }
        if present & 2 != 0 {
            selectors.sender_ips = PrefixSet::read(reader);
        }
        if present & 4 != 0 {
            selectors.certificate_names = PatternSet::read(reader);
        }
        if present & 8 != 0 {
            selectors.recipient_domains = PatternSet::read(reader);
        }
        selectors
    }

    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.sender_domains.is_empty()
            && self.sender_ips.is_empty()
            && self.certificate_names.is_empty()
            && self.recipient_domains.is_empty()
    }
}

/// The inbound part of a connector.
#[derive(Clone, Copy, Debug)]
pub struct Inbound<'a> {
    /// Whether `sender-domains` are held against the From header too.
    pub match_header_from: bool,
    /// What the mail must satisfy.
    pub require: Requirements<'a>,
    /// The refusal of mail that does not.
    pub reply: Reply<'a>,
}

impl<'a> Inbound<'a> {
    fn read(flags: u8, reader: &mut Reader<'a>) -> Self {
        Inbound {
            match_header_from: flags & bits::MATCH_HEADER_FROM != 0,
            require: Requirements::read(flags & bits::TLS != 0, reader),
            reply: match flags & bits::REPLY != 0 {
                true => Reply::read(reader),
                false => USUAL,
            },
        }
    }
}

/// What inbound mail must satisfy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requirements<'a> {
    /// The session is encrypted.
    pub tls: bool,
    /// With at least this version, as TLS writes it; 0 is any.
    pub min_version: u16,
    /// The certificate carries one of these names.
    pub certificate_names: PatternSet<'a>,
    fingerprints: &'a [u8],
    /// The client's address is in one of these ranges.
    pub source_ips: PrefixSet<'a>,
}

impl<'a> Requirements<'a> {
    fn read(tls: bool, reader: &mut Reader<'a>) -> Self {
        let present = reader.byte();
        let mut require = Requirements {
            tls,
            ..Requirements::default()
        };
        if present & 1 != 0 {
            require.min_version = reader.number() as u16;
        }
        if present & 2 != 0 {
            require.certificate_names = PatternSet::read(reader);
        }
        if present & 4 != 0 {
            let count = reader.number() as usize;
            require.fingerprints = reader.bytes(32 * count);
        }
        if present & 8 != 0 {
            require.source_ips = PrefixSet::read(reader);
        }
        require
    }

    /// The certificate is one of these.
    pub fn fingerprints(&self) -> impl Iterator<Item = Fingerprint> + Clone {
        self.fingerprints.chunks_exact(32).map(|bytes| {
            let word = |at: usize| {
                let bytes = bytes
                    .get(8 * at..8 * at + 8)
                    .and_then(|b| b.try_into().ok());
                bytes.map_or(0, u64::from_be_bytes)
            };
            (word(0), word(1), word(2), word(3))
        })
    }

    /// Whether any mail satisfies them.
    pub fn is_empty(&self) -> bool {
        !self.tls && !self.needs_certificate() && self.source_ips.is_empty()
    }

    /// Whether certificates are pinned.
    pub fn pins(&self) -> bool {
        !self.fingerprints.is_empty()
    }

    /// Whether the client must show a certificate.
    pub fn needs_certificate(&self) -> bool {
        !self.certificate_names.is_empty() || self.pins()
    }

    /// Whether the session must be encrypted.
    pub fn needs_tls(&self) -> bool {
        self.tls || self.needs_certificate()
    }
}

/// The reply of a refusal.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// 5yz.
    pub code: u16,
    /// Of class 5.
    pub enhanced: &'a str,
    /// Put behind the connector and the requirement; empty if there is none.
    pub text: &'a str,
}

/// The refusal where the connector says nothing else.
const USUAL: Reply = Reply {
    code: 550,
    enhanced: "5.7.1",
    text: "",
};

impl<'a> Reply<'a> {
    fn read(reader: &mut Reader<'a>) -> Self {
        Reply {
            code: reader.number() as u16,
            enhanced: reader.text(),
            text: reader.text(),
        }
    }
}

/// The outbound part of a connector.
#[derive(Clone, Copy, Debug)]
pub struct Outbound<'a> {
    route: Reader<'a>,
    protection: Reader<'a>,
}

impl<'a> Outbound<'a> {
    fn read(reader: &mut Reader<'a>) -> Self {
        let route = *reader;
        read_past_texts(reader);
        let protection = *reader;
        if reader.byte() == 3 {
            read_past_texts(reader);
        }
        reader.bytes(2);
        Outbound { route, protection }
    }

    /// Where the mail goes.
    pub fn route(mut self) -> Route {
        match read_texts(&mut self.route) {
            hosts if hosts.is_empty() => Route::Mx,
            hosts => Route::SmartHosts(hosts),
        }
    }

    /// What the next hop must show.
    pub fn protection(mut self) -> Protection {
        let reader = &mut self.protection;
        Protection {
            level: match reader.byte() {
                0 => TlsLevel::Opportunistic,
                1 => TlsLevel::Encrypt,
                2 => TlsLevel::Verify,
                _ => TlsLevel::Name(read_texts(reader)),
            },
            dane: match reader.byte() {
                0 => Dane::Opportunistic,
                1 => Dane::Mandatory,
                _ => Dane::None,
            },
            mta_sts: match reader.byte() {
                0 => MtaSts::Opportunistic,
                _ => MtaSts::None,
            },
        }
    }
}

fn read_past_texts(reader: &mut Reader) {
    let count = reader.number();
    for _ in 0..count {
        reader.run();
    }
}
