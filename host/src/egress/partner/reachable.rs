//! Which addresses mail may be sent to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::LazyLock;

use crate::config;

/// Whether we may be led to an address by others: not to this machine, nor to what only this machine or its link knows,
/// unless the administrator wants that.
pub fn may_connect(config: &config::Delivery, ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    if config.public_only {
        return is_public(ip) && !is_private(ip) && !is_local(ip);
    }
    let networks = &config.private_networks;
    networks.iter().any(|network| network.contains(&ip)) || is_public(ip) && !is_local(ip)
}

/// Whether an address belongs to this machine: a socket can be bound to it. Where any address can be bound
/// (ip_nonlocal_bind, ip(7)), the kernel speaks to its own from that address itself.
pub fn is_local(ip: IpAddr) -> bool {
    static ANY: LazyLock<bool> = LazyLock::new(|| {
        // TEST-NET-1 (RFC 5737) is nobody's.
        UdpSocket::bind((Ipv4Addr::new(192, 0, 2, 1), 0)).is_ok()
    });
    if !*ANY {
        return UdpSocket::bind((ip, 0)).is_ok();
    }
    let from: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let own = UdpSocket::bind((from, 0)).and_then(|socket| {
        // Nothing is sent.
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    own.is_ok_and(|own| own.ip() == ip)
}

/// Whether an address is of a network that is an organization's own (RFC 1918, RFC 6598, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64,
        IpAddr::V6(ip) => {
            ip.is_unique_local()
                || embedded(ip).is_some_and(|v4| !is_public(v4.into()) || is_private(v4.into()))
        }
    }
}

/// The IPv4 address that a translator finds in an IPv6 address: NAT64 (RFC 6052, RFC 8215) and 6to4 (RFC 3056).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = ip.octets();
    let at = |from: usize| {
        let part = octets.get(from..from + 4)?;
        Some(Ipv4Addr::new(part[0], part[1], part[2], part[3]))
    };
    match ip.segments() {
        [0x64, 0xff9b, ..] => at(12),
        [0x2002, ..] => at(2),
        [0, 0, 0, 0, 0, 0, _, _] => at(12),
        _ => None,
    }
}

/// Whether an address can be another server's at all (RFC 6890).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // 0.0.0.0/8 is "this network", and Linux takes 0.0.0.0 for this machine.
            !(ip.octets()[0] == 0
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast())
        }
        IpAddr::V6(ip) => {
            !(ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast())
        }
    }
}
