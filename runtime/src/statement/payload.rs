//! What statements say.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::StatementError;
use super::fields::{Format, MAX_KEYS, MAX_NAME, MAX_SEQUENCE, Time};
use super::key::PublicKey;
use crate::Sha256;
use crate::text::is_control_or_bidi;

/// A statement.
pub trait Payload: Serialize + DeserializeOwned {
    /// Its type in envelopes, which keeps a signature from standing for another kind of statement.
    const TYPE: &'static str;
    /// What it is, for people.
    const KIND: &'static str;

    /// Whether it says what can be.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self) -> Result<(), StatementError>;
}

/// A key, and what people call it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NamedKey {
    /// What people call it.
    pub name: String,
    /// The key: SubjectPublicKeyInfo in Base64.
    pub key: PublicKey,
}

/// Keys, so many of which must sign.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KeySet {
    /// The keys.
    pub keys: Vec<NamedKey>,
    /// How many of them must sign.
    pub threshold: usize,
}

impl KeySet {
    /// Whether a key is one of them.
    pub fn has(&self, key: PublicKey) -> bool {
        self.keys.iter().any(|named| named.key == key)
    }

    fn check(&self) -> Result<(), StatementError> {
        let (keys, threshold) = (self.keys.len(), self.threshold);
        if keys > MAX_KEYS || threshold == 0 || threshold > keys {
            return Err(StatementError::Keys { keys, threshold });
        }
        let (mut names, mut known) = (HashSet::new(), HashSet::new());
        for named in &self.keys {
            if named.name.trim().is_empty() {
                return Err(StatementError::Empty("the name of a key"));
            }
            // Two votes of one key would count as one, and nobody would know why.
            if !names.insert(&named.name) || !known.insert(named.key) {
                return Err(StatementError::KeyTwice(named.name.clone()));
            }
        }
        Ok(())
    }
}

/// Who the operators are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Root {
    /// Each root has the next number.
    pub version: u64,
    /// When it was made.
    pub created: Time,
    /// From then on nothing new is taken.
    pub expires: Time,
    /// The operators' keys.
    pub operators: KeySet,
}

impl Payload for Root {
    const TYPE: &'static str = "application/vnd.portcullis.root.v1+json";
    const KIND: &'static str = "root statement";

    fn check(&self) -> Result<(), StatementError> {
        check_sequence(self.version)?;
        self.operators.check()
    }
}

/// A tenant: its domains, and who signs its policies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TenantStatement {
    /// Its name.
    pub tenant: String,
    /// Each statement about a tenant has a higher one than those before.
    pub sequence: u64,
    /// When it was made.
    pub created: Time,
    /// From then on it is not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// The domains that it receives mail for, exact or `*.domain` for the domain and all below it.
    pub domains: Vec<String>,
    /// Whose keys sign its policies.
    pub policies: KeySet,
    /// Sequences of policies begin again here, whatever was accepted under earlier statements: so whoever has had a key
    /// of the tenant, and has used up high numbers, does not keep others from publishing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policies_from: Option<u64>,
}

impl Payload for TenantStatement {
    const TYPE: &'static str = "application/vnd.portcullis.tenant.v1+json";
    const KIND: &'static str = "tenant statement";

    fn check(&self) -> Result<(), StatementError> {
        check_name(&self.tenant)?;
        check_sequence(self.sequence)?;
        self.policies_from.map_or(Ok(()), check_sequence)?;
        self.policies.check()
    }
}

/// Which policy a tenant has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PolicyStatement {
    /// The tenant's name.
    pub tenant: String,
    /// Each policy of a tenant has a higher one than those before.
    pub sequence: u64,
    /// When it was made.
    pub created: Time,
    /// Before then it is not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// From then on it is not taken; where it is in force, it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// What the policy is written in.
    pub format: Format,
    /// The digest of the policy.
    #[serde(with = "digest")]
    pub sha256: Sha256,
    /// Its size, in octets.
    pub size: u64,
    /// What people should know about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Payload for PolicyStatement {
    const TYPE: &'static str = "application/vnd.portcullis.policy.v1+json";
    const KIND: &'static str = "policy statement";

    fn check(&self) -> Result<(), StatementError> {
        check_name(&self.tenant)?;
        check_sequence(self.sequence)
    }
}

/// A tenant is taken away.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Retirement {
    /// The tenant's name.
    pub tenant: String,
    /// Higher than that of the statement about the tenant.
    pub sequence: u64,
    /// When it was made.
    pub created: Time,
}

impl Payload for Retirement {
    const TYPE: &'static str = "application/vnd.portcullis.retire.v1+json";
    const KIND: &'static str = "retire statement";

    fn check(&self) -> Result<(), StatementError> {
        check_name(&self.tenant)?;
        check_sequence(self.sequence)
    }
}

fn check_sequence(sequence: u64) -> Result<(), StatementError> {
    match (1..=MAX_SEQUENCE).contains(&sequence) {
        true => Ok(()),
        false => Err(StatementError::Sequence(sequence)),
    }
}

fn check_name(name: &str) -> Result<(), StatementError> {
    if name.trim().is_empty() {
        return Err(StatementError::Empty("the name of the tenant"));
    }
    match name.len() > MAX_NAME || name.chars().any(is_control_or_bidi) {
        true => Err(StatementError::Name),
        false => Ok(()),
    }
}

mod digest {
    use std::borrow::Cow;

    use serde::{Deserialize, Deserializer, Serializer};

    use crate::Sha256;

    pub fn serialize<S: Serializer>(digest: &Sha256, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Sha256, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format_args!("{text:?} is no SHA-256 digest"));
        Sha256::parse(&text).ok_or_else(wrong)
    }
}
