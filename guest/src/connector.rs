//! A connector, read where it is packed.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ip::PrefixSet;
use crate::names::PatternSet;
use crate::pack::{At, Reader};
use crate::{
    Dane, Direction, Host, IpAddress, Mode, MtaSts, Protection, Route, SmartHost, TlsLevel,
};

/// A SHA-256 digest in the interface's form.
pub type Sha256 = (u64, u64, u64, u64);

/// The authority that stands for the host's ordinary roots.
pub const PUBLIC: &str = "public";

/// Bits of a connector's first byte.
pub mod bits {
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
    /// With at least this version on the wire; 0 is any.
    pub min_version: u16,
    /// The certificate has one of these names.
    pub certificate_names: PatternSet<'a>,
    /// The certificate is one of these.
    pub fingerprints: Digests<'a>,
    /// The certificate has one of these public keys.
    pub keys: Digests<'a>,
    /// The trusted chain ends at one of these authorities.
    pub authorities: Texts<'a>,
    /// The client's address is in one of these ranges.
    pub source_ips: PrefixSet<'a>,
}

/// Bits that say which requirements are packed.
pub mod required {
    pub const MIN_VERSION: u8 = 1;
    pub const NAMES: u8 = 2;
    pub const FINGERPRINTS: u8 = 4;
    pub const SOURCE_IPS: u8 = 8;
    pub const KEYS: u8 = 16;
    pub const AUTHORITIES: u8 = 32;
}

impl<'a> Requirements<'a> {
    fn read(tls: bool, reader: &mut Reader<'a>) -> Self {
        let present = reader.byte();
        let has = |bit| present & bit != 0;
        let mut require = Requirements {
            tls,
            ..Requirements::default()
        };
        if has(required::MIN_VERSION) {
            require.min_version = reader.number() as u16;
        }
        if has(required::NAMES) {
            require.certificate_names = PatternSet::read(reader);
        }
        if has(required::FINGERPRINTS) {
            require.fingerprints = Digests::read(reader);
        }
        if has(required::KEYS) {
            require.keys = Digests::read(reader);
        }
        if has(required::AUTHORITIES) {
            require.authorities = Texts::read(reader);
        }
        if has(required::SOURCE_IPS) {
            require.source_ips = PrefixSet::read(reader);
        }
        require
    }

    /// Whether any mail satisfies them.
    pub fn is_empty(&self) -> bool {
        !self.tls && !self.needs_certificate() && self.source_ips.is_empty()
    }

    /// Whether certificates or their keys are pinned.
    pub fn pins(&self) -> bool {
        !self.fingerprints.is_empty() || !self.keys.is_empty()
    }

    /// Whether the chain must be trusted. That of a pinned certificate need not, unless authorities are named.
    pub fn needs_trust(&self) -> bool {
        !self.authorities.is_empty() || !self.certificate_names.is_empty() && !self.pins()
    }

    /// Whether the client must present a certificate.
    pub fn needs_certificate(&self) -> bool {
        !self.certificate_names.is_empty() || self.pins() || !self.authorities.is_empty()
    }

    /// Whether the session must be encrypted.
    pub fn needs_tls(&self) -> bool {
        self.tls || self.needs_certificate()
    }
}

/// A list of digests, where it is packed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Digests<'a>(&'a [u8]);

impl<'a> Digests<'a> {
    fn read(reader: &mut Reader<'a>) -> Self {
        let count = reader.number() as usize;
        Digests(reader.bytes(32 * count))
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.0.len() / 32
    }

    /// The digests.
    pub fn iter(self) -> impl Iterator<Item = Sha256> + Clone + use<'a> {
        self.0.chunks_exact(32).map(|bytes| {
            let word = |at: usize| {
                let bytes = bytes
                    .get(8 * at..8 * at + 8)
                    .and_then(|b| b.try_into().ok());
                bytes.map_or(0, u64::from_be_bytes)
            };
            (word(0), word(1), word(2), word(3))
        })
    }
}

/// A list of texts, where it is packed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts<'a> {
    count: u32,
    packed: Reader<'a>,
}

impl<'a> Texts<'a> {
    fn read(reader: &mut Reader<'a>) -> Self {
        let count = reader.number();
        let packed = *reader;
        for _ in 0..count {
            reader.run();
        }
        Texts { count, packed }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.count as usize
    }

    /// The texts.
    pub fn iter(self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut packed = self.packed;
        (0..self.count).map(move |_| packed.text())
    }

    fn to_vec(self) -> Vec<String> {
        self.iter().map(String::from).collect()
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
pub const USUAL: Reply = Reply {
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
    packed: Reader<'a>,
}

/// The words of TLS levels, as they are packed.
pub mod level {
    pub const OPPORTUNISTIC: u8 = 0;
    pub const ENCRYPT: u8 = 1;
    pub const VERIFY: u8 = 2;
    pub const NAME: u8 = 3;
}

impl<'a> Outbound<'a> {
    /// Nothing that is read stands behind it but the comment, which the connector's flags announce and which is
    /// behind a length of its own.
    fn read(reader: &mut Reader<'a>) -> Self {
        Outbound {
            packed: Reader::new(reader.run()),
        }
    }

    /// Where the mail goes.
    pub fn route(mut self) -> Route {
        read_route(&mut self.packed)
    }

    /// What the next hop must satisfy.
    pub fn protection(mut self) -> Protection {
        let reader = &mut self.packed;
        read_route(reader);
        let level = match reader.byte() {
            level::OPPORTUNISTIC => TlsLevel::Opportunistic,
            level::ENCRYPT => TlsLevel::Encrypt,
            level::VERIFY => TlsLevel::Verify,
            _ => TlsLevel::Name(Texts::read(reader).to_vec()),
        };
        let dane = match reader.byte() {
            0 => Dane::Opportunistic,
            1 => Dane::Mandatory,
            _ => Dane::None,
        };
        let mta_sts = match reader.byte() {
            0 => MtaSts::Opportunistic,
            _ => MtaSts::None,
        };
        let min_version = reader.number() as u16;
        Protection {
            level,
            min_version: (min_version > 0).then_some(min_version),
            fingerprints: Digests::read(reader).iter().collect(),
            keys: Digests::read(reader).iter().collect(),
            authorities: Texts::read(reader).to_vec(),
            dane,
            mta_sts,
        }
    }
}

fn read_route(reader: &mut Reader) -> Route {
    let count = reader.number();
    if count == 0 {
        return Route::Mx;
    }
    Route::SmartHosts((0..count).map(|_| read_smart_host(reader)).collect())
}

fn read_smart_host(reader: &mut Reader) -> SmartHost {
    let host = match reader.byte() {
        4 => Host::Address(IpAddress::Ipv4(reader.word())),
        6 => {
            let [a, b, c, d] = core::array::from_fn(|_| u64::from(reader.word()));
            Host::Address(IpAddress::Ipv6((a << 32 | b, c << 32 | d)))
        }
        _ => Host::Name(reader.text().into()),
    };
    let port = reader.number() as u16;
    SmartHost {
        host,
        port: (port > 0).then_some(port),
    }
}
