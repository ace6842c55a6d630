//! Enumerations and their words.

use core::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The word.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }

            /// What a word stands for.
            pub fn from_name(word: &str) -> Option<Self> {
                match word {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.pad(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let word = alloc::borrow::Cow::<'de, str>::deserialize(from)?;
                $name::from_name(&word).ok_or_else(|| D::Error::unknown_variant(&word, &[$($word,)+]))
            }
        }
    };
}

macro_rules! serialized_as_word {
    ($($name:ident),+) => {
        $(impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.name())
            }
        })+
    };
}

words! {
    /// The direction of mail, seen from the organization that owns the policy.
    Direction {
        /// Mail that arrives for one of the organization's recipients.
        Inbound = "inbound",
        /// Mail that the organization sends.
        Outbound = "outbound",
    }
}

words! {
    /// The result of verifying a certificate's chain.
    Trust {
        /// The chain ends at a trusted root.
        Trusted = "trusted",
        /// A certificate in the chain has expired.
        Expired = "expired",
        /// The chain does not end at a trusted root.
        UnknownIssuer = "unknown-issuer",
        /// A certificate in the chain is not valid yet.
        NotYetValid = "not-yet-valid",
        /// A certificate in the chain has been revoked.
        Revoked = "revoked",
        /// Any other failure.
        Invalid = "invalid",
    }
}

words! {
    /// How a connector treats mail that does not comply.
    Mode {
        /// The mail is refused.
        Enforce = "enforce",
        /// The mail is reported, and passes.
        Audit = "audit",
        /// The connector is switched off.
        Disabled = "disabled",
    }
}

words! {
    /// The use of TLSA records (RFC 7672).
    Dane {
        /// If there are any, they must be satisfied.
        Opportunistic = "opportunistic",
        /// There must be some, and they must be satisfied.
        Mandatory = "mandatory",
        /// They are not looked up.
        None = "none",
    }
}

words! {
    /// The use of an MTA-STS policy (RFC 8461).
    MtaSts {
        /// If there is one in mode enforce, it must be satisfied.
        Opportunistic = "opportunistic",
        /// It is not looked up.
        None = "none",
    }
}

words! {
    /// The severity of a problem.
    Severity {
        /// The document is not accepted.
        Error = "error",
        /// The document is accepted, but probably does not do what its author meant.
        Warning = "warning",
    }
}

words! {
    /// The result of comparing something with the facts. In JSON: `true`, `false` or `"unknown"`.
    Outcome {
        /// It holds.
        Yes = "yes",
        /// It does not hold.
        No = "no",
        /// A fact is unknown.
        Unknown = "unknown",
    }
}

words! {
    /// A fact that a connector reads.
    Fact {
        /// The client's address.
        ClientIp = "client-ip",
        /// The envelope sender.
        MailFrom = "mail-from",
        /// The envelope recipient.
        RcptTo = "rcpt-to",
        /// The From header.
        HeaderFrom = "header-from",
        /// Whether the session is encrypted.
        Tls = "tls",
        /// The TLS version.
        TlsVersion = "tls-version",
        /// Whether the peer presented a certificate.
        Certificate = "certificate",
        /// The names in the certificate.
        CertificateNames = "certificate-names",
        /// The digest of the certificate.
        CertificateSha256 = "certificate-sha256",
        /// The digest of the certificate's public key.
        CertificateKey = "certificate-key",
        /// Whether the certificate's chain is trusted.
        CertificateTrust = "certificate-trust",
        /// The authorities that the chain ends at.
        CertificateAnchors = "certificate-anchors",
    }
}

serialized_as_word!(Direction, Trust, Mode, Dane, MtaSts, Severity, Fact);

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Outcome::Yes => to.serialize_bool(true),
            Outcome::No => to.serialize_bool(false),
            Outcome::Unknown => to.serialize_str(self.name()),
        }
    }
}

/// TLS versions by name, with their number on the wire. The first name of a version is the one that is written.
pub const TLS_VERSIONS: [(&str, u16); 5] = [
    ("TLSv1", 0x0301),
    ("TLSv1.0", 0x0301),
    ("TLSv1.1", 0x0302),
    ("TLSv1.2", 0x0303),
    ("TLSv1.3", 0x0304),
];

/// The version that a name stands for.
pub fn tls_version(name: &str) -> Option<u16> {
    let mut versions = TLS_VERSIONS.iter();
    versions
        .find(|(known, _)| *known == name)
        .map(|(_, version)| *version)
}

/// The name of a version, if it has one.
pub fn tls_version_name(version: u16) -> Option<&'static str> {
    let mut versions = TLS_VERSIONS.iter();
    versions
        .find(|(_, known)| *known == version)
        .map(|(name, _)| *name)
}
