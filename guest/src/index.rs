//! The rules laid out for look-up: from a fact to the few connectors that it can concern.
//!
//! Each connector stands under the patterns of one of its lists, the one that it shares least with
//! others; whoever looks it up holds the remaining lists against the facts. So the cost of a
//! decision is that of the connectors that nearly match, not of all.

use alloc::string::String;
use alloc::vec::Vec;

use crate::Mode;
use crate::facts::Facts;
use crate::hash::hash;
use crate::ip::{Prefix, PrefixIndex};
use crate::names::{CertificateName, Pattern, PatternSet, ancestry, parent};
use crate::rules::{Connector, Kind, Rules, Selectors};

/// The look-up tables of all enabled connectors, by their number in the rules.
#[derive(Debug, Default)]
pub struct Index {
    senders: NameIndex,
    recipients: NameIndex,
    certificates: NameIndex,
    addresses: PrefixIndex,
    always: Vec<u32>,
    outbound: NameIndex,
    /// Whether an enabled connector looks at the From header.
    pub reads_header_from: bool,
}

impl Index {
    /// The index of these rules.
    pub fn new(rules: &Rules) -> Self {
        let mut index = Index::default();
        let mut addresses = Vec::new();
        let enabled = || {
            (0u32..)
                .zip(&rules.connectors)
                .filter(|(_, c)| c.mode != Mode::Disabled)
        };
        let sharing = Sharing::of(enabled().map(|(_, connector)| connector));
        for (number, connector) in enabled() {
            match &connector.kind {
                Kind::Outbound(_) => {
                    index
                        .outbound
                        .insert_all(&connector.selectors.recipient_domains, number);
                }
                Kind::Inbound(inbound) => {
                    index.reads_header_from |= inbound.match_header_from;
                    let selectors = &connector.selectors;
                    match sharing.least_shared(selectors) {
                        Some(List::Senders) => {
                            index.senders.insert_all(&selectors.sender_domains, number)
                        }
                        Some(List::Recipients) => index
                            .recipients
                            .insert_all(&selectors.recipient_domains, number),
                        Some(List::Certificates) => index
                            .certificates
                            .insert_all(&selectors.certificate_names, number),
                        Some(List::Addresses) => {
                            addresses.extend(selectors.sender_ips.iter().map(|p| (*p, number)))
                        }
                        None => index.always.push(number),
                    }
                }
            }
        }
        index.addresses = PrefixIndex::new(&addresses);
        index
    }

    /// The numbers of the inbound connectors that can match, ascending, each once.
    pub fn inbound(&self, facts: &Facts) -> Vec<u32> {
        let mut found = self.always.clone();
        for domain in facts.identities().flatten() {
            self.senders
                .look_up(domain, false, |number| found.push(number));
        }
        if let Some(domain) = &facts.recipient {
            self.recipients
                .look_up(domain, false, |number| found.push(number));
        }
        for CertificateName { name, wildcard } in facts.trusted_names() {
            self.certificates
                .look_up(name, *wildcard, |number| found.push(number));
        }
        if let Some(ip) = facts.client_ip {
            self.addresses.look_up(ip, |number| found.push(number));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The numbers of the outbound connectors that claim the recipient's domain.
    pub fn outbound(&self, facts: &Facts) -> Vec<u32> {
        let mut found = Vec::new();
        if let Some(domain) = &facts.recipient {
            self.outbound
                .look_up(domain, false, |number| found.push(number));
        }
        found.extend(&self.outbound.any);
        found
    }
}

/// The lists that a connector can stand under.
#[derive(Clone, Copy)]
enum List {
    Senders,
    Recipients,
    Certificates,
    Addresses,
}

/// How many connectors use a pattern, estimated: patterns that fall on one counter are counted
/// together, which at worst makes a less fortunate choice.
struct Sharing {
    counters: Vec<u32>,
}

impl Sharing {
    fn of<'a>(connectors: impl Iterator<Item = &'a Connector> + Clone) -> Self {
        let patterns: usize = connectors.clone().map(|c| patterns_of(&c.selectors)).sum();
        let mut sharing = Sharing {
            counters: alloc::vec![0; (2 * patterns).next_power_of_two()],
        };
        for connector in connectors {
            for list in lists(&connector.selectors) {
                for_each_key(&connector.selectors, list, |key| {
                    let at = sharing.at(key);
                    sharing.counters[at] += 1;
                });
            }
        }
        sharing
    }

    /// The list to stand under; `None` where every list lets everything through.
    fn least_shared(&self, selectors: &Selectors) -> Option<List> {
        let most_shared = |list: &List| {
            let mut most = 0;
            for_each_key(selectors, *list, |key| {
                most = most.max(self.counters[self.at(key)])
            });
            most
        };
        lists(selectors).min_by_key(most_shared)
    }

    fn at(&self, key: u32) -> usize {
        key as usize & (self.counters.len() - 1)
    }
}

/// The lists that are not empty and do not let everything through.
fn lists(selectors: &Selectors) -> impl Iterator<Item = List> {
    let names = |set: &PatternSet| !set.is_empty() && !set.has_any();
    [
        (List::Senders, names(&selectors.sender_domains)),
        (List::Certificates, names(&selectors.certificate_names)),
        (List::Addresses, !selectors.sender_ips.is_empty()),
        (List::Recipients, names(&selectors.recipient_domains)),
    ]
    .into_iter()
    .filter_map(|(list, usable)| usable.then_some(list))
}

fn patterns_of(selectors: &Selectors) -> usize {
    selectors.sender_domains.len()
        + selectors.certificate_names.len()
        + selectors.recipient_domains.len()
        + selectors.sender_ips.iter().count()
}

fn for_each_key(selectors: &Selectors, list: List, mut each: impl FnMut(u32)) {
    let mut names = |set: &PatternSet| {
        for pattern in set.iter() {
            each(hash(pattern.name().as_bytes()) ^ list as u32);
        }
    };
    match list {
        List::Senders => names(&selectors.sender_domains),
        List::Recipients => names(&selectors.recipient_domains),
        List::Certificates => names(&selectors.certificate_names),
        List::Addresses => selectors
            .sender_ips
            .iter()
            .for_each(|prefix| each(prefix.key())),
    }
}

/// From a name to the connectors one of whose patterns it fits: a hash table of names, asked for the
/// name and for each name above it.
#[derive(Debug, Default)]
struct NameIndex {
    /// Numbers of names, at their hash or the next free place behind it; a power of two many.
    slots: Vec<u32>,
    names: Vec<Name>,
    entries: Vec<Entry>,
    any: Vec<u32>,
}

#[derive(Debug)]
struct Name {
    name: String,
    /// The first of its entries.
    first: u32,
}

/// One pattern of one connector; linked to the next with the same name.
#[derive(Debug)]
struct Entry {
    connector: u32,
    fits: Fits,
    next: u32,
}

/// What an entry's pattern fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fits {
    /// The name.
    Name,
    /// The name and all below it.
    Subtree,
    /// A name right below it: what a wildcard in a certificate can stand for.
    Child,
}

const NONE: u32 = u32::MAX;

impl NameIndex {
    fn insert_all(&mut self, set: &PatternSet, connector: u32) {
        for pattern in set.iter() {
            match pattern {
                Pattern::Any => self.any.push(connector),
                Pattern::Subtree(name) => self.insert(&name, Fits::Subtree, connector),
                Pattern::Exact(name) => {
                    if let Some(parent) = parent(&name) {
                        self.insert(parent, Fits::Child, connector);
                    }
                    self.insert(&name, Fits::Name, connector);
                }
            }
        }
    }

    fn insert(&mut self, name: &str, fits: Fits, connector: u32) {
        let number = match self.find(name) {
            Some(number) => number,
            None => self.add(name),
        };
        let next = self.names[number].first;
        self.names[number].first = self.entries.len() as u32;
        self.entries.push(Entry {
            connector,
            fits,
            next,
        });
    }

    fn add(&mut self, name: &str) -> usize {
        self.names.push(Name {
            name: name.into(),
            first: NONE,
        });
        if 2 * self.names.len() > self.slots.len() {
            self.slots = alloc::vec![NONE; (4 * self.names.len()).next_power_of_two()];
            (0..self.names.len()).for_each(|number| self.enter(number));
        } else {
            self.enter(self.names.len() - 1);
        }
        self.names.len() - 1
    }

    fn enter(&mut self, number: usize) {
        let mask = self.slots.len() - 1;
        let mut slot = hash(self.names[number].name.as_bytes()) as usize & mask;
        while self.slots[slot] != NONE {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = number as u32;
    }

    fn find(&self, name: &str) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = hash(name.as_bytes()) as usize & mask;
        while self.slots[slot] != NONE {
            let number = self.slots[slot] as usize;
            if self.names[number].name == name {
                return Some(number);
            }
            slot = (slot + 1) & mask;
        }
        None
    }

    /// Calls `found` for each entry that fits. With `wildcard`, the name is what
    /// stands behind the `*.` of a certificate's name.
    fn look_up(&self, name: &str, wildcard: bool, mut found: impl FnMut(u32)) {
        if self.names.is_empty() {
            return;
        }
        for (above, name) in ancestry(name).enumerate() {
            let Some(number) = self.find(name) else {
                continue;
            };
            let mut next = self.names[number].first;
            while let Some(entry) = self.entries.get(next as usize) {
                let fits = match entry.fits {
                    Fits::Subtree => true,
                    Fits::Name => above == 0 && !wildcard,
                    Fits::Child => above == 0 && wildcard,
                };
                if fits {
                    found(entry.connector);
                }
                next = entry.next;
            }
        }
    }
}

impl Prefix {
    fn key(&self) -> u32 {
        match self.first() {
            core::net::IpAddr::V4(ip) => hash(&ip.octets()),
            core::net::IpAddr::V6(ip) => hash(&ip.octets()),
        }
    }
}
