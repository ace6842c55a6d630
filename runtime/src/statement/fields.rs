//! Values in statements.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::Sha256;

/// The largest envelope, in octets.
pub const MAX_ENVELOPE: usize = 128 << 10;
/// The largest payload, in octets.
pub const MAX_PAYLOAD: usize = 64 << 10;
/// How many signatures an envelope may have.
pub const MAX_SIGNATURES: usize = 16;
/// How many keys may sign something.
pub const MAX_KEYS: usize = 16;
/// How many octets the name of a tenant may have.
pub const MAX_NAME: usize = 200;
/// The highest sequence: the highest number that every JSON reader keeps (RFC 8259 §6).
pub const MAX_SEQUENCE: u64 = (1 << 53) - 1;

/// What a policy is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Rules.
    Json,
    /// A component.
    Wasm,
}

impl Format {
    /// The end of the name of a file of it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Wasm => "wasm",
        }
    }

    /// What a file of that name is.
    pub fn of(path: &std::path::Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Format::Json),
            "wasm" => Some(Format::Wasm),
            _ => None,
        }
    }
}

/// The SHA-256 digest of octets.
pub fn digest_of(octets: &[u8]) -> Sha256 {
    let mut found = [0; 32];
    found.copy_from_slice(digest(&SHA256, octets).as_ref());
    Sha256::from_octets(&found)
}

/// A moment (RFC 3339), to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(OffsetDateTime);

impl Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// This moment.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Reads one of RFC 3339, such as `2026-11-27T20:00:00Z`.
    pub fn parse(text: &str) -> Option<Self> {
        let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Some(Time(time.replace_nanosecond(0).ok()?))
    }

    /// The moment so much later; `None` if there is none.
    pub fn after(self, duration: Duration) -> Option<Self> {
        let duration = duration.try_into().ok()?;
        self.0.checked_add(duration).map(Time)
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Self {
        let time = OffsetDateTime::from(time);
        Time(time.replace_nanosecond(0).unwrap_or(time))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format_args!("{text:?} is no time of RFC 3339"));
        Time::parse(&text).ok_or_else(wrong)
    }
}
