//! What the fleet's store holds of a tenant, and by which key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis::statement::{
    Envelope, Payload, PolicyStatement, Retirement, Root, StatementError, TenantStatement,
};
use serde::{Deserialize, Serialize};

use crate::config::Ring;

/// The largest policy that is in the entry itself, in octets; larger ones are objects.
pub const MAX_BODY: usize = 512 << 10;
/// The largest entry, in octets: with a policy in Base64, and two envelopes.
pub const MAX_ENTRY: usize = 1 << 20;
/// An entry that nobody should have put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// It is too large.
    #[error("the entry is larger than {MAX_ENTRY} octets")]
    Size,
    /// It is not the JSON that it must be.
    #[error("it is no entry: {0}")]
    Json(String),
    /// It is of a tenant and retires one.
    #[error("it is no entry: it has a policy and retires the tenant, or neither")]
    Both,
    /// The policy in it is no Base64.
    #[error("the policy in it is not Base64")]
    Base64,
    /// A statement in it cannot be read.
    #[error("{name}: {source}")]
    Statement {
        /// Which.
        name: &'static str,
        /// Why.
        source: StatementError,
    },
}

/// What is said of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It has this policy.
    Policy {
        /// What the operators say about the tenant.
        about: Envelope,
        /// The statement about the policy.
        statement: Envelope,
        /// The policy, unless it is an object.
        body: Option<Vec<u8>>,
    },
    /// It is taken away.
    Retired(Envelope),
    /// The next root statement.
    Root(Envelope),
}

#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<Envelope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<Envelope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retire: Option<Envelope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root: Option<Envelope>,
}

impl Entry {
    /// Reads an entry.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(json: &[u8]) -> Result<Self, EntryError> {
        if json.len() > MAX_ENTRY {
            return Err(EntryError::Size);
        }
        let written: Written =
            serde_json::from_slice(json).map_err(|error| EntryError::Json(error.to_string()))?;
        match written {
            Written {
                tenant: Some(about),
                policy: Some(statement),
                body,
                retire: None,
                root: None,
            } => {
                let body = body.map(|body| STANDARD.decode(body)).transpose();
                Ok(Entry::Policy {
                    about,
                    statement,
                    body: body.map_err(|_| EntryError::Base64)?,
                })
            }
            Written {
                tenant: None,
                policy: None,
                body: None,
                retire: Some(retire),
                root: None,
            } => Ok(Entry::Retired(retire)),
            Written {
                tenant: None,
                policy: None,
                body: None,
                retire: None,
                root: Some(root),
            } => Ok(Entry::Root(root)),
            _ => Err(EntryError::Both),
        }
    }

    /// The entry in JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let written = match self.clone() {
            Entry::Policy {
                about,
                statement,
                body,
            } => Written {
                tenant: Some(about),
                policy: Some(statement),
                body: body.map(|body| STANDARD.encode(body)),
                ..Written::default()
            },
            Entry::Retired(retire) => Written {
                retire: Some(retire),
                ..Written::default()
            },
            Entry::Root(root) => Written {
                root: Some(root),
                ..Written::default()
            },
        };
        // Texts can always be written.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// What the operators say about the tenant, if it has a policy.
    pub fn about(&self) -> Option<&Envelope> {
        match self {
            Entry::Policy { about, .. } => Some(about),
            Entry::Retired(_) | Entry::Root(_) => None,
        }
    }

    /// The sequence that its statement gives, whoever has signed that; 0 if it cannot be told.
    pub fn sequence(&self) -> u64 {
        match self {
            Entry::Policy { statement, .. } => {
                let statement = statement.statement::<PolicyStatement>();
                statement.map_or(0, |it| it.sequence)
            }
            Entry::Retired(retire) => retire.statement::<Retirement>().map_or(0, |it| it.sequence),
            Entry::Root(root) => root_version(root).unwrap_or(0),
        }
    }

    /// The tenant that the operators speak of, whoever has signed that.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn tenant(&self) -> Result<String, EntryError> {
        let wrong = |name| move |source| EntryError::Statement { name, source };
        match self {
            Entry::Policy { about, .. } => {
                let about = about.statement::<TenantStatement>();
                Ok(about.map_err(wrong("tenant"))?.tenant)
            }
            Entry::Retired(retire) => {
                let retire = retire.statement::<Retirement>();
                Ok(retire.map_err(wrong("retire"))?.tenant)
            }
            Entry::Root(_) => Err(EntryError::Both),
        }
    }
}

/// A key of the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// Of a tenant, for the hosts of a ring.
    Tenant(Ring, String),
    /// Of the root statement with this version.
    Root(u64),
}

impl Key {
    /// Reads a key; `None` if it is somebody else's.
    pub fn read(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once('.')?;
        match kind {
            "root" => Some(Key::Root(rest.parse().ok()?)),
            "all" => Some(Key::Tenant(Ring::All, decode(rest)?)),
            "canary" => Some(Key::Tenant(Ring::Canary, decode(rest)?)),
            _ => None,
        }
    }
}

/// Letters, digits, `-` and `_` stand for themselves, and other octets for `=` and two hex digits: so that any name is
/// one word of a NATS subject.
impl std::fmt::Display for Key {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ring, name) = match self {
            Key::Root(version) => return write!(to, "root.{version}"),
            Key::Tenant(ring, name) => (ring, name),
        };
        write!(to, "{}.", ring.name())?;
        for octet in name.bytes() {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => {
                    write!(to, "{}", octet as char)?;
                }
                other => write!(to, "={other:02X}")?,
            }
        }
        Ok(())
    }
}

fn decode(text: &str) -> Option<String> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'=' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    let name = String::from_utf8(octets).ok()?;
    let key = |name: &str| Key::Tenant(Ring::All, name.into()).to_string();
    // A name has one key.
    (!name.is_empty() && key(&name).strip_prefix("all.") == Some(text)).then_some(name)
}

/// The version of a root statement.
///
/// # Errors
/// If it cannot be read.
pub fn root_version(envelope: &Envelope) -> Result<u64, EntryError> {
    let root = envelope.statement::<Root>();
    let wrong = |source| EntryError::Statement {
        name: Root::KIND,
        source,
    };
    Ok(root.map_err(wrong)?.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tenant_has_one_key() {
        for (name, key) in [
            ("contoso", "all.contoso"),
            ("contoso.com", "all.contoso=2Ecom"),
            ("a b", "all.a=20b"),
            ("é", "all.=C3=A9"),
        ] {
            let of = Key::Tenant(Ring::All, name.into());
            assert_eq!(of.to_string(), key);
            assert_eq!(Key::read(key), Some(of));
        }
        for key in [
            "all.", "all.a=2", "all.=61", "all.=2e", "all.a.b", "x.a", "root.x", "all.=FF",
        ] {
            assert_eq!(Key::read(key), None, "{key}");
        }
        assert_eq!(Key::read("root.3"), Some(Key::Root(3)));
    }

    #[test]
    fn what_is_no_entry_is_told() {
        let envelope = r#"{"payloadType":"x","payload":"","signatures":[]}"#;
        for (json, told) in [
            ("", "EOF"),
            ("{}", "neither"),
            (&format!(r#"{{"tenant":{envelope}}}"#), "neither"),
            (
                &format!(r#"{{"retire":{envelope},"retire":{envelope}}}"#),
                "duplicate field",
            ),
            (&format!(r#"{{"retire":{envelope},"body":""}}"#), "neither"),
            (
                &format!(r#"{{"tenant":{envelope},"policy":{envelope},"body":"!"}}"#),
                "not Base64",
            ),
            (
                &format!(r#"{{"retire":{envelope},"x":1}}"#),
                "unknown field `x`",
            ),
            (r#"{"retire":{"payloadType":"x"}}"#, "missing field"),
            (&" ".repeat(MAX_ENTRY + 1), "larger than"),
        ] {
            let error = Entry::read(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(told), "{told}: {error}");
        }
        let entry = Entry::read(format!(r#"{{"retire":{envelope}}}"#).as_bytes()).unwrap();
        assert!(
            entry
                .tenant()
                .unwrap_err()
                .to_string()
                .contains("payloadType")
        );
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_is_written(name in "\\PC{1,40}") {
            let key = Key::Tenant(Ring::Canary, name);
            prop_assert_eq!(Key::read(&key.to_string()), Some(key));
        }

        #[test]
        fn an_entry_is_read_as_it_is_written(body in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200))) {
            let envelope = Envelope { payload_type: "x".into(), payload: vec![1, 2], signatures: Vec::new() };
            let entry = Entry::Policy { about: envelope.clone(), statement: envelope, body };
            prop_assert_eq!(Entry::read(&entry.to_json()), Ok(entry));
        }
    }
}
