//! Ed25519 keys (RFC 8032), and how they are written (RFC 8410).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A SubjectPublicKeyInfo of Ed25519 is this and the 32 octets of the key (RFC 8410 §4).
const SPKI: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// How many octets of a key's digest its name has.
const ID_OCTETS: usize = 16;

/// A key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It is no public key of Ed25519.
    #[error("it is not an Ed25519 public key (SubjectPublicKeyInfo)")]
    Public,
    /// It is no private key of Ed25519.
    #[error("it is not an Ed25519 private key (PKCS#8)")]
    Private,
    /// The operating system gives no random numbers.
    #[error("there are no random numbers to make a key of")]
    Random,
}

/// A public key of Ed25519.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// If it is none of Ed25519.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let key = der.strip_prefix(&SPKI).ok_or(KeyError::Public)?;
        let key = key.try_into().map_err(|_| KeyError::Public)?;
        Ok(PublicKey(key))
    }

    /// The SubjectPublicKeyInfo in DER.
    pub fn to_der(self) -> Vec<u8> {
        [&SPKI[..], &self.0[..]].concat()
    }

    /// What names the key in envelopes: `ed25519:` and the first 32 hex digits of the SHA-256 digest of its
    /// SubjectPublicKeyInfo.
    pub fn id(self) -> String {
        let digest = digest(&SHA256, &self.to_der());
        let octets = digest.as_ref().iter().take(ID_OCTETS);
        let hex: String = octets.map(|octet| format!("{octet:02x}")).collect();
        format!("ed25519:{hex}")
    }

    /// Whether a signature over these octets is by this key.
    pub fn has_signed(self, octets: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        key.verify(octets, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.id())
    }
}

/// As in a PEM file between the two lines.
impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.to_der()))
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let der = STANDARD.decode(&*text).map_err(|_| KeyError::Public);
        der.and_then(|der| PublicKey::from_der(&der))
            .map_err(serde::de::Error::custom)
    }
}

/// A private key of Ed25519.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Makes one.
    ///
    /// # Errors
    /// If there are no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?;
        Ok(SigningKey(pair))
    }

    /// Reads PKCS#8 in DER (RFC 8410 §7), with or without the public key in it.
    ///
    /// # Errors
    /// If it is no key of Ed25519.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(der)
            .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der));
        Ok(SigningKey(pair.map_err(|_| KeyError::Private)?))
    }

    /// PKCS#8 in DER, as OpenSSL writes it: without the public key.
    ///
    /// # Errors
    /// If it cannot be written, which does not happen.
    pub fn to_der(&self) -> Result<Vec<u8>, KeyError> {
        let der = self.0.to_pkcs8v1().map_err(|_| KeyError::Private)?;
        Ok(der.as_ref().to_vec())
    }

    /// The public key of it.
    pub fn public(&self) -> PublicKey {
        let mut octets = [0; 32];
        octets.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(octets)
    }

    /// Signs octets.
    pub fn sign(&self, octets: &[u8]) -> Vec<u8> {
        self.0.sign(octets).as_ref().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "private key of {}", self.public().id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_der(&key.to_der().unwrap()).unwrap();
        assert_eq!(again.public(), key.public());
        let public = PublicKey::from_der(&key.public().to_der()).unwrap();
        assert!(public.has_signed(b"text", &again.sign(b"text")));
        assert!(!public.has_signed(b"another", &again.sign(b"text")));
        assert!(!format!("{key:?}").contains(&STANDARD.encode(key.to_der().unwrap())));
    }

    /// The example of RFC 8410 §10.1 and §10.3.
    #[test]
    fn the_example_of_rfc_8410_is_read() {
        let private = STANDARD
            .decode("MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC")
            .unwrap();
        let with_public = STANDARD
            .decode("MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhCoB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=")
            .unwrap();
        let public = "\"MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\"";
        let public: PublicKey = serde_json::from_str(public).unwrap();
        for der in [private, with_public] {
            assert_eq!(SigningKey::from_der(&der).unwrap().public(), public);
        }
        assert_eq!(public.id(), "ed25519:a1e9156054e04fac899ae9f275132cdc");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(PublicKey::from_der(&[0; 44]).is_err());
        assert!(PublicKey::from_der(&SPKI).is_err());
        assert!(SigningKey::from_der(b"MC4C").is_err());
        assert!(serde_json::from_str::<PublicKey>("\"MCow\"").is_err());
    }
}
