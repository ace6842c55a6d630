//! From a fact to the few connectors that it can concern.
//!
//! Each connector stands under the patterns of one of its lists, the one that it shares least with
//! others, in one hash table for all kinds of facts. What is found there is held against all of the
//! facts anyway, so the table need not tell what it is that hashes so: it has eight bytes a pattern,
//! and a look-up reads one cache line. The cost of a decision is that of the connectors that nearly
//! match, not of all.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::Mode;
use crate::connector::{Connector, Kind, Selectors};
use crate::facts::{Facts, Identity, Known};
use crate::ip::Prefix;
use crate::names::{CertificateName, Pattern, PatternSet, parent};
use crate::order::sort_by;
use crate::pack::{At, Reader, Writer};
use crate::truth::Truth;

/// What a key is a hash of.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Key {
    /// The sender's domain.
    Sender,
    /// The sender's domain, or one above it.
    SenderBelow,
    /// The recipient's domain.
    Recipient,
    /// The recipient's domain, or one above it.
    RecipientBelow,
    /// A name of the certificate.
    Certificate,
    /// A name of the certificate, or one above it.
    CertificateBelow,
    /// What a wildcard of the certificate stands below.
    CertificateWildcard,
    /// The client's address, cut to a prefix length.
    Address,
}

/// The lists that a connector can stand under, the one that is worth most first.
#[derive(Clone, Copy)]
enum List {
    Senders,
    Certificates,
    Addresses,
    Recipients,
}

const LISTS: [List; 4] = [
    List::Senders,
    List::Certificates,
    List::Addresses,
    List::Recipients,
];

impl List {
    /// Whether looking there narrows anything down: the list is there, and lets not everything through.
    fn is_usable(self, selectors: &Selectors) -> bool {
        let names = |set: PatternSet| !set.is_empty() && !set.has_any();
        match self {
            List::Senders => names(selectors.sender_domains),
            List::Certificates => names(selectors.certificate_names),
            List::Addresses => !selectors.sender_ips.is_empty(),
            List::Recipients => names(selectors.recipient_domains),
        }
    }

    /// The keys of its patterns, one each.
    fn keys(self, selectors: &Selectors, mut each: impl FnMut(Key, u64)) {
        let mut names = |set: PatternSet, exact, below| {
            for pattern in set.iter() {
                match pattern {
                    Pattern::Any => {}
                    Pattern::Exact(name) => each(exact, of_name(exact, name)),
                    Pattern::Subtree(name) => each(below, of_name(below, name)),
                }
            }
        };
        match self {
            List::Senders => names(selectors.sender_domains, Key::Sender, Key::SenderBelow),
            List::Recipients => names(
                selectors.recipient_domains,
                Key::Recipient,
                Key::RecipientBelow,
            ),
            List::Certificates => names(
                selectors.certificate_names,
                Key::Certificate,
                Key::CertificateBelow,
            ),
            List::Addresses => selectors
                .sender_ips
                .iter()
                .for_each(|prefix| each(Key::Address, of_prefix(&prefix))),
        }
    }
}

/// The keys under which wildcards of certificates find a connector.
fn wildcard_keys(names: PatternSet, mut each: impl FnMut(Key, u64)) {
    for pattern in names.iter() {
        if let Pattern::Exact(name) = pattern
            && let Some(parent) = parent(name)
        {
            each(
                Key::CertificateWildcard,
                of_name(Key::CertificateWildcard, parent),
            );
        }
    }
}

/// The look-up tables of all enabled connectors, packed behind the connectors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Index {
    /// Slots of eight bytes, as many as a power of two: [`Slot`].
    slots: At,
    mask: u32,
    /// Connectors of inbound mail that stand under no list.
    always: At,
    /// Connectors of outbound mail to any domain.
    anybody: At,
    /// The prefix lengths under which connectors stand, of IPv4 and of IPv6: two runs.
    lengths: At,
    /// Which keys there are, a bit each.
    kinds: u32,
    /// Inbound connectors that no look-up finds where the fact is unknown that they stand under: the certificate's
    /// names, the client's address, the From header.
    by_certificate: At,
    by_address: At,
    by_header: At,
}

impl Index {
    /// Bytes of [`Index::write_head`].
    pub const HEAD: usize = 9 * 4;

    /// Packs the tables of connectors that are packed already.
    pub fn write(writer: &mut Writer, connectors: &[At]) -> Self {
        let mut index = Index::default();
        let mut places = Places::default();
        let packed = writer.written();
        let read = |at: &At| Connector::read(*at, packed.from(*at));
        let enabled = || {
            connectors
                .iter()
                .map(read)
                .filter(|c| c.mode != Mode::Disabled)
        };
        let sharing = Sharing::of(enabled);
        for connector in enabled() {
            match connector.kind {
                Kind::Outbound(_) => places.outbound(&connector),
                Kind::Inbound(inbound) => {
                    let list = sharing.least_shared(&connector.selectors);
                    places.inbound(&connector, list, inbound.match_header_from);
                }
            }
        }
        index.kinds = places.kinds;
        index.always = write_list(writer, &places.always);
        index.anybody = write_list(writer, &places.anybody);
        index.by_certificate = write_list(writer, &places.by_certificate);
        index.by_address = write_list(writer, &places.by_address);
        index.by_header = write_list(writer, &places.by_header);
        index.lengths = writer.at();
        for lengths in &mut places.lengths {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            writer.run(lengths);
        }
        index.write_slots(writer, places.entries);
        index
    }

    fn write_slots(&mut self, writer: &mut Writer, mut entries: Vec<(u64, At)>) {
        entries.sort_unstable();
        entries.dedup();
        let groups = || entries.chunk_by(|a, b| a.0 == b.0);
        let count = groups().count();
        // At least one slot is empty, where a search ends.
        let count = (count + count / 2 + 1).next_power_of_two();
        let mut slots = alloc::vec![Slot::EMPTY; count];
        self.mask = count as u32 - 1;
        for group in groups() {
            let slot = match group {
                [(key, at)] => Slot::new(*key, *at, false),
                several => {
                    let places: Vec<At> = several.iter().map(|(_, at)| *at).collect();
                    Slot::new(several[0].0, write_list(writer, &places), true)
                }
            };
            let mut number = group[0].0 as u32 & self.mask;
            while slots[number as usize].at != 0 {
                number = (number + 1) & self.mask;
            }
            slots[number as usize] = slot;
        }
        self.slots = writer.at();
        for slot in slots {
            writer.word(slot.tag);
            writer.word(slot.at);
        }
    }

    /// Packs what [`Index::read_head`] reads.
    pub fn write_head(&self, writer: &mut Writer) {
        for word in [
            self.slots,
            self.mask,
            self.always,
            self.anybody,
            self.lengths,
            self.kinds,
            self.by_certificate,
            self.by_address,
            self.by_header,
        ] {
            writer.word(word);
        }
    }

    /// The index of packed rules.
    pub fn read_head(reader: &mut Reader) -> Self {
        Index {
            slots: reader.word(),
            mask: reader.word(),
            always: reader.word(),
            anybody: reader.word(),
            lengths: reader.word(),
            kinds: reader.word(),
            by_certificate: reader.word(),
            by_address: reader.word(),
            by_header: reader.word(),
        }
    }

    /// The places of the inbound connectors that can match, ascending, each once.
    pub fn inbound(&self, packed: Reader, facts: &Facts) -> Vec<At> {
        let mut found = Found::new(*self, packed);
        found.list(self.always);
        for identity in facts.identities() {
            match identity {
                Identity::Domain(Some(domain)) => {
                    found.names(domain, Key::Sender, Key::SenderBelow);
                }
                Identity::Domain(None) => {}
                Identity::Unknown => found.list(self.by_header),
            }
        }
        if let Some(domain) = &facts.recipient {
            found.names(domain, Key::Recipient, Key::RecipientBelow);
        }
        // A certificate that is not trusted identifies nobody.
        if facts.is_trusted().is_possible() {
            // Whether it may have names that are not known.
            match facts.has_name(|_| false) {
                Truth::Unknown => found.list(self.by_certificate),
                Truth::Yes | Truth::No => found.certificate_names(facts),
            }
        }
        match facts.client_ip {
            Known::Is(ip) => found.address(ip),
            Known::Absent => {}
            Known::Unknown => found.list(self.by_address),
        }
        found.finish()
    }

    /// The places of the outbound connectors that can claim the recipient's domain, ascending, each
    /// once.
    pub fn outbound(&self, packed: Reader, facts: &Facts) -> Vec<At> {
        let mut found = Found::new(*self, packed);
        found.list(self.anybody);
        if let Some(domain) = &facts.recipient {
            found.names(domain, Key::Recipient, Key::RecipientBelow);
        }
        found.finish()
    }
}

/// A list of places.
fn write_list(writer: &mut Writer, places: &[At]) -> At {
    let at = writer.at();
    writer.number(places.len() as u32);
    places.iter().for_each(|place| writer.word(*place));
    at
}

/// One slot of the table.
#[derive(Clone, Copy)]
struct Slot {
    /// The upper 31 bits of the key, and whether a list stands there.
    tag: u32,
    /// Where the connector or the list stands; 0 where there is none.
    at: At,
}

impl Slot {
    const EMPTY: Slot = Slot { tag: 0, at: 0 };

    fn new(key: u64, at: At, is_list: bool) -> Self {
        Slot {
            tag: Slot::tag(key) | u32::from(is_list),
            at,
        }
    }

    fn tag(key: u64) -> u32 {
        (key >> 32) as u32 & !1
    }
}

/// Which connector stands where in the index.
#[derive(Default)]
struct Places {
    entries: Vec<(u64, At)>,
    always: Vec<At>,
    anybody: Vec<At>,
    by_certificate: Vec<At>,
    by_address: Vec<At>,
    by_header: Vec<At>,
    lengths: [Vec<u8>; 2],
    kinds: u32,
}

impl Places {
    fn inbound(&mut self, connector: &Connector, list: Option<List>, reads_header_from: bool) {
        match list {
            Some(List::Certificates) => self.by_certificate.push(connector.at),
            Some(List::Addresses) => self.by_address.push(connector.at),
            Some(List::Senders) if reads_header_from => self.by_header.push(connector.at),
            Some(List::Senders | List::Recipients) | None => {}
        }
        match list {
            Some(list) => self.put(connector, list),
            None => self.always.push(connector.at),
        }
    }

    /// Outbound connectors stand under each of their patterns.
    fn outbound(&mut self, connector: &Connector) {
        if connector.selectors.recipient_domains.has_any() {
            self.anybody.push(connector.at);
        }
        self.put(connector, List::Recipients);
    }

    fn put(&mut self, connector: &Connector, list: List) {
        let mut enter = |key: Key, hash| {
            self.kinds |= 1 << key as u8;
            self.entries.push((hash, connector.at));
        };
        list.keys(&connector.selectors, &mut enter);
        match list {
            List::Certificates => wildcard_keys(connector.selectors.certificate_names, enter),
            List::Addresses => {
                let found = connector.selectors.sender_ips.lengths();
                for (lengths, found) in self.lengths.iter_mut().zip(found) {
                    for len in found {
                        if !lengths.contains(len) {
                            lengths.push(*len);
                        }
                    }
                }
            }
            List::Senders | List::Recipients => {}
        }
    }
}

/// Places that look-ups have found.
struct Found<'a> {
    index: Index,
    packed: Reader<'a>,
    slots: Reader<'a>,
    places: Vec<At>,
}

impl<'a> Found<'a> {
    fn new(index: Index, packed: Reader<'a>) -> Self {
        Found {
            index,
            packed,
            slots: packed.from(index.slots),
            places: Vec::with_capacity(8),
        }
    }

    fn finish(mut self) -> Vec<At> {
        sort_by(&mut self.places, u32::cmp);
        self.places.dedup();
        self.places
    }

    fn has(&self, key: Key) -> bool {
        self.index.kinds & 1 << key as u8 != 0
    }

    fn list(&mut self, at: At) {
        let mut list = self.packed.from(at);
        let count = list.number();
        self.places.extend((0..count).map(|_| list.word()));
    }

    /// A name under one key, and it and those above it under another.
    fn names(&mut self, name: &str, whole: Key, below: Key) {
        let (has_whole, has_below) = (self.has(whole), self.has(below));
        if !has_whole && !has_below {
            return;
        }
        let mut suffix = Suffix::default();
        for byte in name.bytes().rev() {
            if byte == b'.' && has_below {
                self.key(suffix.key(below));
            }
            suffix.extend(byte);
        }
        if has_below {
            self.key(suffix.key(below));
        }
        if has_whole {
            self.key(suffix.key(whole));
        }
    }

    fn certificate_names(&mut self, facts: &Facts) {
        for CertificateName { name, wildcard } in facts.certificate_names() {
            let whole = match wildcard {
                true => Key::CertificateWildcard,
                false => Key::Certificate,
            };
            self.names(name, whole, Key::CertificateBelow);
        }
    }

    fn address(&mut self, ip: IpAddr) {
        if !self.has(Key::Address) {
            return;
        }
        let mut lengths = self.packed.from(self.index.lengths);
        let v4 = lengths.run();
        let lengths = if ip.is_ipv4() { v4 } else { lengths.run() };
        for prefix in lengths.iter().filter_map(|len| Prefix::around(ip, *len)) {
            self.key(of_prefix(&prefix));
        }
    }

    fn key(&mut self, key: u64) {
        let mut number = key as u32 & self.index.mask;
        loop {
            let mut slot = self.slots.from(8 * number);
            let (tag, at) = (slot.word(), slot.word());
            if at == 0 {
                return;
            }
            if tag & !1 == Slot::tag(key) {
                match tag & 1 {
                    0 => self.places.push(at),
                    _ => self.list(at),
                }
            }
            number = (number + 1) & self.index.mask;
        }
    }
}

/// The hash of a name, from its last byte on: one pass gives the hashes of the name and of all names
/// above it. FNV-1a, but for the order.
struct Suffix(u64);

impl Default for Suffix {
    fn default() -> Self {
        Suffix(0xcbf2_9ce4_8422_2325)
    }
}

impl Suffix {
    fn extend(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }

    fn key(&self, key: Key) -> u64 {
        mix(self.0 ^ (key as u64 + 1) << 56)
    }
}

fn of_name(key: Key, name: &str) -> u64 {
    let mut suffix = Suffix::default();
    name.bytes().rev().for_each(|byte| suffix.extend(byte));
    suffix.key(key)
}

fn of_prefix(prefix: &Prefix) -> u64 {
    let (bits, family) = match prefix.first() {
        IpAddr::V4(ip) => (ip.to_bits().into(), 4),
        IpAddr::V6(ip) => (ip.to_bits(), 6),
    };
    let length = u64::from(prefix.len()) << 8 | family;
    mix(mix(bits as u64 ^ length << 40) ^ (bits >> 64) as u64)
}

/// The finalizer of MurmurHash3: every bit of the result depends on every bit that came in.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ bits >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ bits >> 33
}

/// How many connectors use a pattern, estimated: patterns that fall on one counter are counted
/// together, which at worst makes a less fortunate choice.
struct Sharing {
    counters: Vec<u32>,
}

impl Sharing {
    fn of<'a, I: Iterator<Item = Connector<'a>>>(connectors: impl Fn() -> I) -> Self {
        let mut patterns = 0usize;
        let each = |then: &mut dyn FnMut(u64)| {
            for connector in connectors() {
                for list in usable(&connector.selectors) {
                    list.keys(&connector.selectors, |_, key| then(key));
                }
            }
        };
        each(&mut |_| patterns += 1);
        let mut counters = alloc::vec![0; (2 * patterns).next_power_of_two()];
        let mask = counters.len() - 1;
        each(&mut |key| counters[key as usize & mask] += 1);
        Sharing { counters }
    }

    /// The list to stand under; `None` where every list lets everything through.
    fn least_shared(&self, selectors: &Selectors) -> Option<List> {
        let most_shared = |list: &List| {
            let mut most = 0;
            list.keys(selectors, |_, key| {
                most = most.max(self.counters[key as usize & (self.counters.len() - 1)])
            });
            most
        };
        usable(selectors).min_by_key(most_shared)
    }
}

/// The lists of a connector that narrow its mail down.
fn usable(selectors: &Selectors) -> impl Iterator<Item = List> {
    LISTS.into_iter().filter(|list| list.is_usable(selectors))
}
