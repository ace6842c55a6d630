//! How values are written: files, digests, networks, times, sizes.

use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The key under which sessions of one client are counted: an IPv4 address, or an IPv6 /64, which is
/// what one customer has.
pub fn client_key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

/// The mode of a file, in octal digits.
pub(super) fn mode(text: &str) -> Option<u32> {
    let mode = u32::from_str_radix(text, 8).ok()?;
    (mode <= 0o777).then_some(mode)
}

/// Whether everybody on this machine can read a file.
pub fn is_public(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o004 != 0)
}

/// A file, or a list of files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(Vec<PathBuf>);

impl std::ops::Deref for Paths {
    type Target = Vec<PathBuf>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for Paths {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Serialize for Paths {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [only] => only.serialize(to),
            several => several.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Files;
        impl<'de> Visitor<'de> for Files {
            type Value = Paths;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a file such as \"mx.pem\", or a list of files")
            }

            fn visit_str<E>(self, text: &str) -> Result<Paths, E> {
                Ok(Paths(vec![text.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Paths, A::Error> {
                let mut paths = Vec::new();
                while let Some(path) = list.next_element()? {
                    paths.push(path);
                }
                Ok(Paths(paths))
            }
        }
        deserializer.deserialize_any(Files)
    }
}

/// A certificate chain and its key, as files (PEM).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the own certificate first.
    pub certificate: PathBuf,
    /// The key of the own certificate.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// Both files.
    pub fn both(&self) -> [&Path; 2] {
        [&self.certificate, &self.key]
    }
}

/// A text; what it should be is said where there is something else.
struct Text(&'static str);

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// Addresses and CIDR ranges.
pub mod networks {
    use super::*;

    /// Writes them.
    pub fn serialize<S: Serializer>(networks: &[IpNet], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(networks.iter().map(IpNet::to_string))
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let network = |text: &String| {
            let network = text.parse::<IpNet>().ok();
            network
                .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
                .map(canonical)
                .ok_or_else(|| {
                    Error::custom(format!(
                        "{text:?} is not an address or a range such as \"10.0.0.0/8\""
                    ))
                })
        };
        texts.iter().map(network).collect()
    }
}

/// A range of IPv4-mapped addresses is one of IPv4 addresses (RFC 4291 §2.5.5.2): so clients are known by them.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let mapped = match network {
        IpNet::V6(network) if network.prefix_len() >= MAPPED => network.addr().to_ipv4_mapped(),
        _ => None,
    };
    mapped
        .and_then(|ip| IpNet::new(ip.into(), network.prefix_len() - MAPPED).ok())
        .unwrap_or(network)
}

/// A longer time than any that makes sense, and a shorter one than any that overflows.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Times: "50ms".
pub mod duration {
    use super::*;

    /// Writes one.
    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*duration))
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = from.deserialize_str(Text("a time such as \"50ms\" or \"5m\""))?;
        let duration = humantime::parse_duration(&text).map_err(|_| {
            Error::custom(format!("{text:?} is not a time such as \"50ms\" or \"5m\""))
        })?;
        match duration {
            Duration::ZERO => Err(Error::custom(format!("{text:?} is no time at all"))),
            longer if longer > LONGEST => {
                Err(Error::custom(format!("{text:?} is longer than a year")))
            }
            duration => Ok(duration),
        }
    }
}

/// The same where there need not be one.
pub mod optional_duration {
    use super::*;

    /// Writes one, if there is one.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration::serialize(duration, to),
            None => to.serialize_none(),
        }
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(from).map(Some)
    }
}

/// Sizes: "25MiB".
pub mod size {
    use super::*;

    /// Writes one, exactly.
    pub fn serialize<S: Serializer>(size: &ByteSize, to: S) -> Result<S::Ok, S::Error> {
        let octets = size.as_u64();
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units
            .into_iter()
            .find(|(bits, _)| octets > 0 && octets.trailing_zeros() >= *bits);
        match unit {
            Some((bits, name)) => to.collect_str(&format_args!("{}{name}", octets >> bits)),
            None => to.collect_str(&format_args!("{octets}B")),
        }
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ByteSize, D::Error> {
        let text = from.deserialize_str(Text("a size such as \"25MiB\""))?;
        let wrong = |_| Error::custom(format!("{text:?} is not a size such as \"25MiB\""));
        text.parse().map_err(wrong)
    }
}

/// The same where there need not be one.
pub mod optional_size {
    use super::*;

    /// Writes one, if there is one.
    pub fn serialize<S: Serializer>(size: &Option<ByteSize>, to: S) -> Result<S::Ok, S::Error> {
        match size {
            Some(size) => super::size::serialize(size, to),
            None => to.serialize_none(),
        }
    }

    /// Reads one.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ByteSize>, D::Error> {
        super::size::deserialize(from).map(Some)
    }
}
