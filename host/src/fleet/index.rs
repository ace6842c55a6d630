//! The index of a store that consists of files: which entries there are, and by which digest each is found.
//!
//! `index.json` names 256 shards by their digests, and each shard the entries whose keys have a SHA-256 that begins with
//! its number. A change of one entry makes another shard and another index, so that hosts read three small files for it.
//! All files but `index.json` are named by their own digest and never change.

use portcullis::Sha256;
use portcullis::statement::digest_of;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::entry::{Key, MAX_ENTRY};

/// The version of the format.
pub const VERSION: u32 = 1;
/// How many shards there are.
pub const SHARDS: usize = 256;
/// The largest index, in octets.
pub const MAX_INDEX: usize = 64 << 10;
/// The largest shard, in octets.
pub const MAX_SHARD: usize = 4 << 20;
/// The most entries of a shard: two million tenants in all.
const MAX_ENTRIES: usize = 8192;
/// The longest name of a store, in octets.
const MAX_STORE: usize = 200;

/// An index that nobody should have made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// It is too large.
    #[error("it has more than {0} octets")]
    Size(usize),
    /// It is not the JSON that it must be.
    #[error("it is no index: {0}")]
    Json(String),
    /// It is of a version that is not known.
    #[error("its version is {0}; this Portcullis knows {VERSION}")]
    Version(u32),
    /// It has not as many shards as it must have.
    #[error("it has {0} shards; there are {SHARDS}")]
    Shards(usize),
    /// The name of the store is too long.
    #[error("the name of the store has more than {MAX_STORE} octets")]
    Store,
    /// A file of it is larger than one may be.
    #[error("{name} has {size} octets; {most} are allowed")]
    Object {
        /// Which.
        name: String,
        /// Its size, in octets.
        size: u64,
        /// The largest.
        most: usize,
    },
    /// It has too many entries.
    #[error("it has {0} entries; {MAX_ENTRIES} are allowed")]
    Entries(usize),
    /// A key is none.
    #[error("{0:?} is no key")]
    Key(String),
    /// A key is in a shard that is not its own.
    #[error("{0} does not belong into this shard")]
    Place(Key),
    /// Keys are not in order, or one is there twice.
    #[error("{0} is there twice, or not in its order")]
    Order(Key),
}

/// A file that is named by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// The SHA-256 of it.
    #[serde(deserialize_with = "digest")]
    pub sha256: Sha256,
    /// Its size, in octets.
    pub size: u64,
}

fn digest<'de, D: Deserializer<'de>>(from: D) -> Result<Sha256, D::Error> {
    let text = <&str>::deserialize(from)?;
    Sha256::parse(text).ok_or_else(|| D::Error::custom(format!("{text:?} is no SHA-256")))
}

impl Object {
    /// The file of this content.
    pub fn of(content: &[u8]) -> Self {
        Object {
            sha256: digest_of(content),
            size: content.len() as u64,
        }
    }

    /// Where it is, from where the index is.
    pub fn path(&self) -> String {
        object_path(self.sha256)
    }
}

/// Where the file with a digest is, from where the index is.
pub fn object_path(sha256: Sha256) -> String {
    let digest = sha256.to_string();
    format!("sha256/{}/{digest}", &digest[..2])
}

/// Which files there are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Index {
    version: u32,
    /// What tells this store from others: when it was made (RFC 3339).
    pub store: String,
    /// Higher with each change.
    pub revision: u64,
    /// The shards; `None` for those without an entry.
    pub shards: Vec<Option<Object>>,
}

impl Index {
    /// An index of these shards.
    pub fn of(store: String, revision: u64, shards: Vec<Option<Object>>) -> Self {
        Index {
            version: VERSION,
            store,
            revision,
            shards,
        }
    }

    /// Reads an index.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(json: &[u8]) -> Result<Self, IndexError> {
        if json.len() > MAX_INDEX {
            return Err(IndexError::Size(MAX_INDEX));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let wrong = |error: serde_json::Error| IndexError::Json(error.to_string());
        let Versioned { version } = serde_json::from_slice(json).map_err(wrong)?;
        if version != VERSION {
            return Err(IndexError::Version(version));
        }
        let index: Index = serde_json::from_slice(json).map_err(wrong)?;
        if index.shards.len() != SHARDS {
            return Err(IndexError::Shards(index.shards.len()));
        }
        if index.store.len() > MAX_STORE {
            return Err(IndexError::Store);
        }
        let mut shards = index.shards.iter().enumerate();
        let large = shards.find(|(_, it)| it.is_some_and(|it| it.size > MAX_SHARD as u64));
        if let Some((number, Some(shard))) = large {
            return Err(IndexError::Object {
                name: format!("shard {number}"),
                size: shard.size,
                most: MAX_SHARD,
            });
        }
        Ok(index)
    }

    /// The index in JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Texts and numbers can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The number of the shard in which a key is.
pub fn shard_of(key: &Key) -> usize {
    (digest_of(key.to_string().as_bytes()).0[0] >> 56) as usize
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    key: String,
    #[serde(deserialize_with = "digest")]
    sha256: Sha256,
    size: u64,
}

/// Reads the shard with this number: its keys, and where their entries are.
///
/// # Errors
/// What is wrong with it.
pub fn read_shard(json: &[u8], number: usize) -> Result<Vec<(Key, Object)>, IndexError> {
    if json.len() > MAX_SHARD {
        return Err(IndexError::Size(MAX_SHARD));
    }
    let written: Vec<Written> =
        serde_json::from_slice(json).map_err(|error| IndexError::Json(error.to_string()))?;
    if written.len() > MAX_ENTRIES {
        return Err(IndexError::Entries(written.len()));
    }
    let mut all: Vec<(Key, Object)> = Vec::with_capacity(written.len());
    for Written { key, sha256, size } in written {
        let key = Key::read(&key).ok_or(IndexError::Key(key))?;
        if shard_of(&key) != number {
            return Err(IndexError::Place(key));
        }
        if all.last().is_some_and(|(before, _)| *before >= key) {
            return Err(IndexError::Order(key));
        }
        if size > MAX_ENTRY as u64 {
            return Err(IndexError::Object {
                name: key.to_string(),
                size,
                most: MAX_ENTRY,
            });
        }
        all.push((key, Object { sha256, size }));
    }
    Ok(all)
}

/// A shard in JSON. Keys come in their order.
pub fn shard_to_json<'a>(entries: impl Iterator<Item = (&'a Key, &'a Object)>) -> Vec<u8> {
    let written = entries.map(|(key, object)| Written {
        key: key.to_string(),
        sha256: object.sha256,
        size: object.size,
    });
    // Texts and numbers can always be written.
    serde_json::to_vec(&written.collect::<Vec<_>>()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Ring;
    use proptest::prelude::*;

    fn key(name: &str) -> Key {
        Key::Tenant(Ring::All, name.into())
    }

    #[test]
    fn what_is_no_index_is_told() {
        let good = Index::of("x".into(), 7, vec![None; SHARDS]);
        assert_eq!(Index::read(&good.to_json()), Ok(good.clone()));
        let text = String::from_utf8(good.to_json()).unwrap();
        let large = Object {
            sha256: digest_of(b""),
            size: 1 << 40,
        };
        let mut of_large = good.clone();
        of_large.shards[9] = Some(large);
        for (json, told) in [
            (String::new(), "EOF"),
            ("[]".into(), "invalid"),
            (
                text.replace("\"version\":1", "\"version\":2"),
                "its version is 2",
            ),
            (
                text.replace("\"revision\"", "\"revision\":1,\"revision\""),
                "duplicate field",
            ),
            (
                text.replace("\"revision\"", "\"x\":1,\"revision\""),
                "unknown field",
            ),
            (text.replace("[null,", "["), "it has 255 shards"),
            (
                text.replace("[null,", "[{\"sha256\":\"00\",\"size\":1},"),
                "it is no index",
            ),
            (
                text.replace("\"x\"", &format!("{:?}", "x".repeat(201))),
                "more than 200",
            ),
            (
                String::from_utf8(of_large.to_json()).unwrap(),
                "shard 9 has 1099511627776",
            ),
            (" ".repeat(MAX_INDEX + 1), "more than 65536"),
        ] {
            let error = Index::read(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    #[test]
    fn what_is_no_shard_is_told() {
        let object = Object::of(b"x");
        let number = shard_of(&key("a"));
        let json = |keys: &[&Key]| shard_to_json(keys.iter().map(|key| (*key, &object)));
        let a = key("a");
        assert_eq!(
            read_shard(&json(&[&a]), number),
            Ok(vec![(a.clone(), object)])
        );
        let text = String::from_utf8(json(&[&a])).unwrap();
        for (json, told) in [
            (String::new(), "EOF"),
            ("{}".into(), "invalid type"),
            (
                String::from_utf8(json(&[&a, &a])).unwrap(),
                "all.a is there twice",
            ),
            (text.replace("all.a", "x"), "\"x\" is no key"),
            (text.replace("all.a", "all.b"), "all.b does not belong"),
            (
                text.replace("\"size\":1", "\"size\":9999999"),
                "all.a has 9999999 octets",
            ),
            (text.replace("\"size\":1", "\"size\":-1"), "it is no index"),
            (
                text.replace("\"size\":1", "\"size\":1,\"size\":1"),
                "duplicate field",
            ),
        ] {
            let error = read_shard(json.as_bytes(), number).unwrap_err().to_string();
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_shard_is_read_as_it_is_written(names in proptest::collection::btree_set("\\PC{1,20}", 0..50)) {
            let keys = names.iter().map(|name| key(name));
            let mut all: Vec<(Key, Object)> = keys.map(|key| (key.clone(), Object::of(key.to_string().as_bytes()))).collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            for number in 0..SHARDS {
                let of_shard: Vec<_> = all.iter().filter(|(key, _)| shard_of(key) == number).cloned().collect();
                let json = shard_to_json(of_shard.iter().map(|(key, object)| (key, object)));
                prop_assert_eq!(read_shard(&json, number), Ok(of_shard));
            }
        }
    }
}
