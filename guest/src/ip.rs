//! IP addresses and CIDR ranges.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::pack::{Reader, Writer};
use crate::text::shorten;

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

    /// How many bits the addresses share.
    pub fn len(&self) -> u8 {
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

/// Bytes of a packed range: the address and the prefix length.
const V4: usize = 4 + 1;
const V6: usize = 16 + 1;

/// Packs a list of ranges: for each family their number, their lengths and the ranges in order.
pub fn write_prefixes(writer: &mut Writer, prefixes: &[Prefix]) {
    let mut sorted = prefixes.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut set = Writer::default();
    let (v4, v6): (Vec<Prefix>, Vec<Prefix>) = sorted
        .into_iter()
        .partition(|prefix| prefix.0.network().is_ipv4());
    for prefixes in [v4, v6] {
        set.run(&lengths(prefixes.iter()));
        set.number(prefixes.len() as u32);
        prefixes.iter().for_each(|prefix| prefix.write(&mut set));
    }
    writer.run(&set.finish());
}

/// The prefix lengths that occur, longest first.
pub fn lengths<'a>(prefixes: impl Iterator<Item = &'a Prefix>) -> Vec<u8> {
    let mut lengths: Vec<u8> = prefixes.map(Prefix::len).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.dedup();
    lengths
}

impl Prefix {
    /// The range of that length around an address; `None` if addresses are not that long.
    pub fn around(ip: IpAddr, len: u8) -> Option<Self> {
        let first = match ip {
            IpAddr::V4(ip) => {
                let behind = u32::MAX.checked_shr(len.into()).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & !behind))
            }
            IpAddr::V6(ip) => {
                let behind = u128::MAX.checked_shr(len.into()).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !behind))
            }
        };
        Some(Prefix(IpNet::new(first, len).ok()?))
    }

    fn write(&self, writer: &mut Writer) {
        match self.first() {
            IpAddr::V4(ip) => writer.bytes(&ip.octets()),
            IpAddr::V6(ip) => writer.bytes(&ip.octets()),
        }
        writer.byte(self.len());
    }

    fn read(packed: &[u8]) -> Option<Self> {
        let (len, address) = packed.split_last()?;
        let ip = match address.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
            _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
        };
        Prefix::around(ip, *len)
    }
}

/// The ranges of one list, where they are packed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrefixSet<'a> {
    packed: Reader<'a>,
}

/// Those of one family.
#[derive(Clone, Copy)]
struct Family<'a> {
    lengths: &'a [u8],
    sorted: &'a [u8],
    size: usize,
}

impl<'a> PrefixSet<'a> {
    /// Reads over a packed set.
    pub fn read(reader: &mut Reader<'a>) -> Self {
        PrefixSet {
            packed: Reader::new(reader.run()),
        }
    }

    /// Whether there is no range in it.
    pub fn is_empty(&self) -> bool {
        self.packed.rest().is_empty()
    }

    fn families(&self) -> [Family<'a>; 2] {
        let mut packed = self.packed;
        [V4, V6].map(|size| {
            let lengths = packed.run();
            let count = packed.number() as usize;
            let sorted = packed.bytes(size * count);
            Family {
                lengths,
                sorted,
                size,
            }
        })
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = Prefix> + use<'a> {
        let families = self.families().into_iter();
        families
            .flat_map(|family| family.sorted.chunks_exact(family.size))
            .filter_map(Prefix::read)
    }

    /// The prefix lengths that occur, longest first: of IPv4 and of IPv6.
    pub fn lengths(&self) -> [&'a [u8]; 2] {
        self.families().map(|family| family.lengths)
    }

    /// The longest range that the address lies in.
    pub fn longest(&self, ip: IpAddr) -> Option<Prefix> {
        let [v4, v6] = self.families();
        let family = if ip.is_ipv4() { v4 } else { v6 };
        family.lengths.iter().find_map(|&len| {
            let prefix = Prefix::around(ip, len)?;
            family.contains(&prefix).then_some(prefix)
        })
    }

    /// How closely the closest range fits the address: its length plus one, or 0.
    pub fn specificity(&self, ip: IpAddr) -> u16 {
        self.longest(ip)
            .map_or(0, |prefix| u16::from(prefix.len()) + 1)
    }
}

impl Family<'_> {
    fn contains(self, prefix: &Prefix) -> bool {
        let mut wanted = [0; V6];
        let address = self.size - 1;
        match prefix.first() {
            IpAddr::V4(ip) => wanted[..address].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => wanted[..address].copy_from_slice(&ip.octets()),
        }
        wanted[address] = prefix.len();
        let wanted = &wanted[..self.size];
        let (mut from, mut to) = (0, self.sorted.len() / self.size);
        while from < to {
            let middle = from.midpoint(to);
            let at = middle * self.size;
            match self.sorted[at..at + self.size].cmp(wanted) {
                Ordering::Less => from = middle + 1,
                Ordering::Equal => return true,
                Ordering::Greater => to = middle,
            }
        }
        false
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
        fn sets_agree_with_a_scan(
            prefixes in proptest::collection::vec(any_prefix(), 1..60),
            probe in any_prefix(),
        ) {
            let ip = probe.first();
            let longest = prefixes.iter().filter(|p| p.0.contains(&ip)).max_by_key(|p| p.len());
            let packed = packed(&prefixes);
            let set = PrefixSet::read(&mut Reader::new(&packed));
            prop_assert_eq!(set.longest(ip), longest.copied());
            let mut sorted = prefixes.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), sorted);
        }
    }

    fn packed(prefixes: &[Prefix]) -> Vec<u8> {
        let mut writer = Writer::default();
        write_prefixes(&mut writer, prefixes);
        writer.finish()
    }

    #[test]
    fn ranges_are_found_again() {
        let packed = packed(&[prefix("10.0.0.0/8"), prefix("10.1.0.0/16"), prefix("::/0")]);
        let set = PrefixSet::read(&mut Reader::new(&packed));
        assert_eq!(
            set.longest("10.1.2.3".parse().unwrap()),
            Some(prefix("10.1.0.0/16"))
        );
        assert_eq!(set.specificity("11.0.0.1".parse().unwrap()), 0);
        assert_eq!(set.specificity("fe80::1".parse().unwrap()), 1);
    }
}
