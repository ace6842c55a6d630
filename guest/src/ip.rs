//! IP addresses, CIDR ranges and the tries that find every range an address lies in.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::IpAddress;
use crate::problems::shorten;

impl IpAddress {
    /// The address in the interface's form; an IPv4-mapped IPv6 address becomes IPv4.
    pub fn from_ip(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => IpAddress::Ipv4(ip.to_bits()),
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                IpAddress::Ipv6(((bits >> 64) as u64, bits as u64))
            }
        }
    }

    /// The address in the standard library's form; an IPv4-mapped IPv6 address becomes IPv4.
    pub fn to_ip(self) -> IpAddr {
        match self {
            IpAddress::Ipv4(bits) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
            IpAddress::Ipv6((high, low)) => {
                let bits = u128::from(high) << 64 | u128::from(low);
                IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical()
            }
        }
    }
}

/// A range of addresses: those that share the first `len` bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix(IpNet);

/// What [`Prefix::parse`] read.
pub struct ParsedPrefix {
    /// The range.
    pub prefix: Prefix,
    /// Whether the text had bits set behind the prefix length, which were cleared.
    pub host_bits: bool,
}

impl Prefix {
    /// Reads an address or a CIDR range; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<ParsedPrefix, String> {
        let wrong = || {
            let shown = shorten(text);
            format!("\"{shown}\" is not an IP address or a CIDR range")
        };
        let net = match text.split_once('/') {
            None => IpNet::from(text.parse::<IpAddr>().map_err(|_| wrong())?),
            Some((address, len)) => {
                let address: IpAddr = address.parse().map_err(|_| wrong())?;
                let most = if address.is_ipv4() { 32 } else { 128 };
                let digits =
                    !len.is_empty() && len.len() <= 3 && len.bytes().all(|b| b.is_ascii_digit());
                let len: u8 = digits
                    .then(|| len.parse().ok())
                    .flatten()
                    .ok_or_else(wrong)?;
                IpNet::new(address, len)
                    .map_err(|_| format!("\"{text}\" has a prefix length over {most}"))?
            }
        };
        let prefix = net.trunc();
        Ok(ParsedPrefix {
            prefix: Prefix(unmap(prefix)),
            host_bits: prefix != net,
        })
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }

    /// Whether the other range lies wholly in this one.
    pub fn covers(&self, other: &Prefix) -> bool {
        self.0.contains(&other.0)
    }

    /// The first address of the range.
    pub fn first(&self) -> IpAddr {
        self.0.network()
    }

    fn len(&self) -> u8 {
        self.0.prefix_len()
    }
}

impl core::fmt::Display for Prefix {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() {
            write!(f, "{}", self.0.addr())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// A range of IPv4-mapped IPv6 addresses is the range of IPv4 addresses.
fn unmap(net: IpNet) -> IpNet {
    match (net.addr().to_canonical(), net.prefix_len()) {
        (IpAddr::V4(ip), len @ 96..) if net.addr().is_ipv6() => {
            IpNet::new(IpAddr::V4(ip), len - 96).unwrap_or(net)
        }
        _ => net,
    }
}

/// The ranges of one list, laid out for look-up.
#[derive(Clone, Debug, Default)]
pub struct PrefixSet {
    /// Sorted by family, address and length.
    sorted: Vec<Prefix>,
    /// The lengths that occur, longest first.
    lengths: Vec<u8>,
}

impl PrefixSet {
    /// The set of these ranges.
    pub fn new(prefixes: &[Prefix]) -> Self {
        let mut sorted = prefixes.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut lengths: Vec<u8> = sorted.iter().map(Prefix::len).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        PrefixSet { sorted, lengths }
    }

    /// Whether there is no range in it.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = &Prefix> {
        self.sorted.iter()
    }

    /// The longest range that the address lies in.
    pub fn longest(&self, ip: IpAddr) -> Option<Prefix> {
        self.lengths.iter().find_map(|&len| {
            let prefix = Prefix(IpNet::new(ip, len).ok()?.trunc());
            self.sorted.binary_search(&prefix).ok().map(|_| prefix)
        })
    }

    /// How closely the closest range fits the address: its length plus one, or 0.
    pub fn specificity(&self, ip: Option<IpAddr>) -> u16 {
        ip.and_then(|ip| self.longest(ip))
            .map_or(0, |prefix| u16::from(prefix.len()) + 1)
    }
}

/// From address to every connector one of whose ranges it lies in.
#[derive(Debug, Default)]
pub struct PrefixIndex {
    v4: Trie<u32>,
    v6: Trie<u128>,
}

impl PrefixIndex {
    /// The index of these ranges, each with the number of its connector.
    pub fn new(entries: &[(Prefix, u32)]) -> Self {
        let mut index = PrefixIndex::default();
        for (Prefix(net), connector) in entries {
            match net.network() {
                IpAddr::V4(ip) => index.v4.insert(ip.to_bits(), net.prefix_len(), *connector),
                IpAddr::V6(ip) => index.v6.insert(ip.to_bits(), net.prefix_len(), *connector),
            }
        }
        index
    }

    /// Calls `found` with each connector that has a range with the address in it.
    pub fn look_up(&self, ip: IpAddr, found: impl FnMut(u32)) {
        match ip {
            IpAddr::V4(ip) => self.v4.look_up(ip.to_bits(), found),
            IpAddr::V6(ip) => self.v6.look_up(ip.to_bits(), found),
        }
    }
}

/// The bits of an address.
trait Bits: Copy + Eq {
    const ZERO: Self;
    /// Bit `at`, counted from the most significant; `at` is less than the width.
    fn bit(self, at: u8) -> usize;
    /// How many leading bits are the same.
    fn common(self, other: Self) -> u8;
    /// The first `len` bits, the others cleared.
    fn truncate(self, len: u8) -> Self;
}

macro_rules! bits {
    ($t:ty) => {
        impl Bits for $t {
            const ZERO: Self = 0;
            fn bit(self, at: u8) -> usize {
                (self >> (<$t>::BITS - 1 - u32::from(at)) & 1) as usize
            }
            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }
            fn truncate(self, len: u8) -> Self {
                match len {
                    0 => 0,
                    len => self & <$t>::MAX << (<$t>::BITS - u32::from(len)),
                }
            }
        }
    };
}
bits!(u32);
bits!(u128);

/// No node, or no connector.
const NONE: u32 = u32::MAX;

/// A path-compressed binary trie. Depth is bounded by the width of an address, whatever the number
/// of ranges.
#[derive(Debug)]
struct Trie<K> {
    nodes: Vec<Node<K>>,
    /// Connectors in linked lists, one for each node: (connector, next).
    lists: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Node<K> {
    key: K,
    len: u8,
    children: [u32; 2],
    list: u32,
}

impl<K: Bits> Default for Trie<K> {
    fn default() -> Self {
        Trie {
            nodes: Vec::from([Node::new(K::ZERO, 0)]),
            lists: Vec::new(),
        }
    }
}

impl<K> Node<K> {
    fn new(key: K, len: u8) -> Self {
        Node {
            key,
            len,
            children: [NONE; 2],
            list: NONE,
        }
    }
}

impl<K: Bits> Trie<K> {
    fn insert(&mut self, key: K, len: u8, connector: u32) {
        let at = self.place(key, len);
        let list = &mut self.nodes[at].list;
        self.lists.push((connector, *list));
        *list = (self.lists.len() - 1) as u32;
    }

    /// The node of a range, made if there is none yet.
    fn place(&mut self, key: K, len: u8) -> usize {
        let mut at = 0;
        while self.nodes[at].len != len {
            let side = key.bit(self.nodes[at].len);
            let child = self.nodes[at].children[side];
            if child == NONE {
                let leaf = self.push(Node::new(key, len));
                self.nodes[at].children[side] = leaf;
                return leaf as usize;
            }
            let Node {
                key: old,
                len: old_len,
                ..
            } = self.nodes[child as usize];
            let common = key.common(old).min(len).min(old_len);
            if common == old_len {
                at = child as usize;
                continue;
            }
            let mut fork = Node::new(key.truncate(common), common);
            fork.children[old.bit(common)] = child;
            let fork = self.push(fork);
            self.nodes[at].children[side] = fork;
            at = fork as usize;
        }
        at
    }

    fn push(&mut self, node: Node<K>) -> u32 {
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }

    fn look_up(&self, key: K, mut found: impl FnMut(u32)) {
        let mut at = 0;
        loop {
            let node = &self.nodes[at as usize];
            if node.key.common(key) < node.len {
                return;
            }
            let mut list = node.list;
            while let Some((connector, next)) = self.lists.get(list as usize) {
                found(*connector);
                list = *next;
            }
            if usize::from(node.len) == 8 * size_of::<K>() {
                return;
            }
            at = node.children[key.bit(node.len)];
            if at == NONE {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::parse(text).unwrap().prefix
    }

    #[test]
    fn ranges_have_one_form() {
        for (text, shown, host_bits) in [
            ("203.0.113.0/24", "203.0.113.0/24", false),
            ("203.0.113.7/24", "203.0.113.0/24", true),
            ("203.0.113.7", "203.0.113.7", false),
            ("0.0.0.0/0", "0.0.0.0/0", false),
            ("2001:db8:7::/48", "2001:db8:7::/48", false),
            ("::ffff:203.0.113.7", "203.0.113.7", false),
            ("::ffff:203.0.113.0/120", "203.0.113.0/24", false),
            ("::/0", "::/0", false),
        ] {
            let parsed = Prefix::parse(text).unwrap();
            assert_eq!(parsed.prefix.to_string(), shown);
            assert_eq!(parsed.host_bits, host_bits, "{text}");
        }
        for wrong in [
            "",
            "/",
            "1.2.3",
            "1.2.3.4/33",
            "::/129",
            "1.2.3.4/",
            "1.2.3.4/-1",
            "1.2.3.4/+8",
            "01.2.3.4",
            "1.2.3.4/255.255.255.0",
            "fe80::1%eth0",
            "a",
            "1.2.3.4/08888",
        ] {
            assert!(Prefix::parse(wrong).is_err(), "{wrong}");
        }
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| {
            // Few distinct bits, so that ranges nest and repeat.
            (IpAddr::V4(Ipv4Addr::from_bits(bits & 0xC0C0_0303)), len)
        });
        let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, len)| {
            (
                IpAddr::V6(Ipv6Addr::from_bits(
                    bits & 0xC000_0000_0000_0303_0000_0000_0000_0003,
                )),
                len,
            )
        });
        prop_oneof![v4, v6].prop_map(|(ip, len)| Prefix(IpNet::new(ip, len).unwrap().trunc()))
    }

    proptest! {
        #[test]
        fn tries_and_sets_agree_with_a_scan(
            prefixes in proptest::collection::vec(any_prefix(), 0..60),
            probe in any_prefix(),
        ) {
            let ip = probe.first();
            let entries: Vec<_> = prefixes.iter().copied().zip(0..).collect();
            let mut found = Vec::new();
            PrefixIndex::new(&entries).look_up(ip, |n| found.push(n));
            found.sort_unstable();
            let scanned: Vec<u32> =
                entries.iter().filter(|(p, _)| p.0.contains(&ip)).map(|(_, n)| *n).collect();
            prop_assert_eq!(found, scanned);
            let longest = prefixes.iter().filter(|p| p.0.contains(&ip)).max_by_key(|p| p.len());
            prop_assert_eq!(PrefixSet::new(&prefixes).longest(ip), longest.copied());
        }
    }

    #[test]
    fn ranges_are_found_again() {
        let set = PrefixSet::new(&[prefix("10.0.0.0/8"), prefix("10.1.0.0/16"), prefix("::/0")]);
        assert_eq!(
            set.longest("10.1.2.3".parse().unwrap()),
            Some(prefix("10.1.0.0/16"))
        );
        assert_eq!(set.specificity(Some("11.0.0.1".parse().unwrap())), 0);
        assert_eq!(set.specificity(Some("fe80::1".parse().unwrap())), 1);
        assert_eq!(set.specificity(None), 0);
    }
}
