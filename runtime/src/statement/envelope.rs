//! DSSE envelopes: <https://github.com/secure-systems-lab/dsse/blob/v1.0.0/envelope.md>.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

use super::error::StatementError;
use super::fields::{MAX_ENVELOPE, MAX_PAYLOAD, MAX_SIGNATURES};
use super::key::SigningKey;
use super::payload::Payload;

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const ORDINARY: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// What is signed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What the payload is.
    pub payload_type: String,
    /// Exactly the octets that were signed.
    pub payload: Vec<u8>,
    /// Those who have signed.
    pub signatures: Vec<Signature>,
}

/// A signature, and the name of its key, which is a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Which key it is by.
    pub key_id: Option<String>,
    /// The signature.
    pub octets: Vec<u8>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<WrittenSignature>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenSignature {
    #[serde(skip_serializing_if = "Option::is_none")]
    keyid: Option<String>,
    sig: String,
}

impl Envelope {
    /// A statement that nobody has signed yet.
    ///
    /// # Errors
    /// If it says what cannot be.
    pub fn of<P: Payload>(statement: &P) -> Result<Self, StatementError> {
        statement.check()?;
        let payload = serde_json::to_vec(statement).map_err(|error| StatementError::Payload {
            kind: P::KIND,
            reason: error.to_string(),
        })?;
        if payload.len() > MAX_PAYLOAD {
            return Err(StatementError::PayloadSize);
        }
        Ok(Envelope {
            payload_type: P::TYPE.into(),
            payload,
            signatures: Vec::new(),
        })
    }

    /// Reads an envelope in JSON.
    ///
    /// # Errors
    /// Says where and what is wrong.
    pub fn read(json: &[u8]) -> Result<Self, StatementError> {
        if json.len() > MAX_ENVELOPE {
            return Err(StatementError::EnvelopeSize);
        }
        let written = serde_json::from_slice::<Written>(json);
        written
            .map_err(|error| StatementError::Envelope(error.to_string()))?
            .try_into()
    }

    /// Reads envelopes that follow each other.
    ///
    /// # Errors
    /// Says where and what is wrong.
    pub fn read_all(json: &[u8]) -> Result<Vec<Self>, StatementError> {
        let all = serde_json::Deserializer::from_slice(json).into_iter::<Written>();
        all.map(|written| {
            written
                .map_err(|error| StatementError::Envelope(error.to_string()))?
                .try_into()
        })
        .collect()
    }

    /// The envelope in JSON, in one line.
    pub fn to_json(&self) -> String {
        // Texts and lists can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The octets that are signed: DSSE's pre-authentication encoding.
    pub fn signed_octets(&self) -> Vec<u8> {
        let head = format!(
            "DSSEv1 {} {} {} ",
            self.payload_type.len(),
            self.payload_type,
            self.payload.len()
        );
        [head.as_bytes(), &self.payload].concat()
    }

    /// Signs it too. Whoever has signed it signs anew.
    pub fn sign(&mut self, key: &SigningKey) {
        self.add(Signature {
            key_id: Some(key.public().id()),
            octets: key.sign(&self.signed_octets()),
        });
    }

    /// Adds a signature that was made elsewhere, in place of an older one of the same key.
    pub fn add(&mut self, signature: Signature) {
        let id = &signature.key_id;
        self.signatures
            .retain(|other| other.key_id.is_none() || other.key_id != *id);
        self.signatures.push(signature);
    }

    /// The statement in it, whoever has signed it.
    ///
    /// # Errors
    /// If it is another one, or says what cannot be.
    pub fn statement<P: Payload>(&self) -> Result<P, StatementError> {
        if self.payload_type != P::TYPE {
            return Err(wrong_type::<P>(&self.payload_type));
        }
        let mut reader = serde_json::Deserializer::from_slice(&self.payload);
        let wrong = |reason: String| StatementError::Payload {
            kind: P::KIND,
            reason,
        };
        let statement: P = serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| wrong(error.to_string()))?;
        reader.end().map_err(|error| wrong(error.to_string()))?;
        statement.check()?;
        Ok(statement)
    }
}

/// As JSON within other JSON.
impl Serialize for Envelope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Envelope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        written.try_into().map_err(serde::de::Error::custom)
    }
}

fn wrong_type<P: Payload>(found: &str) -> StatementError {
    let stem = P::TYPE.strip_suffix(".v1+json").unwrap_or(P::TYPE);
    let version = found.strip_prefix(stem);
    match version.is_some_and(|version| version.starts_with(".v")) {
        true => StatementError::Version(found.into()),
        false => StatementError::Type {
            found: found.into(),
            wanted: P::TYPE,
        },
    }
}

impl From<&Envelope> for Written {
    fn from(envelope: &Envelope) -> Self {
        let signature = |it: &Signature| WrittenSignature {
            keyid: it.key_id.clone(),
            sig: STANDARD.encode(&it.octets),
        };
        Written {
            payload_type: envelope.payload_type.clone(),
            payload: STANDARD.encode(&envelope.payload),
            signatures: envelope.signatures.iter().map(signature).collect(),
        }
    }
}

impl TryFrom<Written> for Envelope {
    type Error = StatementError;

    fn try_from(written: Written) -> Result<Self, StatementError> {
        if written.signatures.len() > MAX_SIGNATURES {
            return Err(StatementError::Signatures(written.signatures.len()));
        }
        let payload = decode(&written.payload).ok_or(StatementError::Base64("payload"))?;
        if payload.len() > MAX_PAYLOAD {
            return Err(StatementError::PayloadSize);
        }
        let signature = |it: WrittenSignature| {
            let octets = decode(&it.sig).ok_or(StatementError::Base64("sig"))?;
            Ok(Signature {
                key_id: it.keyid,
                octets,
            })
        };
        let signatures = written.signatures.into_iter().map(signature);
        Ok(Envelope {
            payload_type: written.payload_type,
            payload,
            signatures: signatures.collect::<Result<_, _>>()?,
        })
    }
}

/// Either alphabet is allowed.
fn decode(text: &str) -> Option<Vec<u8>> {
    let engine = match text.contains(['-', '_']) {
        true => URL_SAFE,
        false => ORDINARY,
    };
    engine.decode(text).ok()
}
