//! The requirements of a connector, each with the stable name of its failure.

use alloc::format;
use alloc::string::String;

use portcullis_types::tls_version_name;

use crate::Fact;
use crate::connector::Requirements;
use crate::facts::{Facts, Known};
use crate::text::some_of;
use crate::truth::Truth;

/// A requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The session is encrypted.
    Tls,
    /// Its version is high enough.
    TlsVersion,
    /// The client presented a certificate.
    CertificateMissing,
    /// The certificate is one of those that are pinned.
    CertificateFingerprint,
    /// The certificate has one of the public keys that are pinned.
    CertificateKey,
    /// The certificate's chain is trusted.
    CertificateUntrusted,
    /// The chain ends at one of the authorities.
    CertificateAuthority,
    /// The certificate has one of the names.
    CertificateName,
    /// The client's address is in one of the ranges.
    SourceIp,
}

/// What comes of checking all requirements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// All are satisfied.
    Satisfied,
    /// This one is the first that is not.
    Failed(Requirement),
    /// None is violated for certain, and this one is the first of which a fact is unknown.
    Undecided(Requirement),
}

impl Requirement {
    /// All, in the order in which they are checked.
    pub const ALL: [Requirement; 9] = [
        Requirement::Tls,
        Requirement::TlsVersion,
        Requirement::CertificateMissing,
        Requirement::CertificateFingerprint,
        Requirement::CertificateKey,
        Requirement::CertificateUntrusted,
        Requirement::CertificateAuthority,
        Requirement::CertificateName,
        Requirement::SourceIp,
    ];

    /// The stable name of the failure.
    pub fn name(self) -> &'static str {
        match self {
            Requirement::Tls => "tls",
            Requirement::TlsVersion => "tls-version",
            Requirement::CertificateMissing => "certificate-missing",
            Requirement::CertificateFingerprint => "certificate-fingerprint",
            Requirement::CertificateKey => "certificate-key",
            Requirement::CertificateUntrusted => "certificate-untrusted",
            Requirement::CertificateAuthority => "certificate-authority",
            Requirement::CertificateName => "certificate-name",
            Requirement::SourceIp => "source-ip",
        }
    }

    /// The fact that it reads.
    pub fn fact(self) -> Fact {
        match self {
            Requirement::Tls => Fact::Tls,
            Requirement::TlsVersion => Fact::TlsVersion,
            Requirement::CertificateMissing => Fact::Certificate,
            Requirement::CertificateFingerprint => Fact::CertificateSha256,
            Requirement::CertificateKey => Fact::CertificateKey,
            Requirement::CertificateUntrusted => Fact::CertificateTrust,
            Requirement::CertificateAuthority => Fact::CertificateAnchors,
            Requirement::CertificateName => Fact::CertificateNames,
            Requirement::SourceIp => Fact::ClientIp,
        }
    }

    /// Whether the rules ask for it.
    pub fn is_asked(self, require: &Requirements) -> bool {
        match self {
            Requirement::Tls => require.needs_tls(),
            Requirement::TlsVersion => require.min_version > 0,
            Requirement::CertificateMissing => require.needs_certificate(),
            Requirement::CertificateFingerprint => !require.fingerprints.is_empty(),
            Requirement::CertificateKey => !require.keys.is_empty(),
            Requirement::CertificateUntrusted | Requirement::CertificateAuthority => {
                require.needs_trust()
            }
            Requirement::CertificateName => !require.certificate_names.is_empty(),
            Requirement::SourceIp => !require.source_ips.is_empty(),
        }
    }

    /// Whether a message that is asked for it satisfies it.
    pub fn is_satisfied(self, require: &Requirements, facts: &Facts) -> Truth {
        let certificate = facts.certificate();
        match self {
            Requirement::Tls => facts.tls().is_there(),
            Requirement::TlsVersion => facts
                .version()
                .satisfies(|version| (version >= require.min_version).into()),
            Requirement::CertificateMissing => certificate.is_there(),
            Requirement::CertificateFingerprint => {
                certificate.satisfies(|certificate| match certificate.sha256 {
                    Some(own) => require.fingerprints.iter().any(|pin| pin == own).into(),
                    None => Truth::Unknown,
                })
            }
            Requirement::CertificateKey => {
                certificate.satisfies(|certificate| match certificate.key_sha256 {
                    Some(own) => require.keys.iter().any(|pin| pin == own).into(),
                    None => Truth::Unknown,
                })
            }
            Requirement::CertificateUntrusted => facts.is_trusted(),
            Requirement::CertificateAuthority => facts.is_anchored(require.authorities),
            Requirement::CertificateName => {
                facts.has_name(|name| require.certificate_names.certificate_specificity(name) > 0)
            }
            Requirement::SourceIp => facts
                .client_ip
                .satisfies(|ip| (require.source_ips.specificity(ip) > 0).into()),
        }
    }

    /// Checks all requirements.
    pub fn check(require: &Requirements, facts: &Facts) -> Checked {
        let mut undecided = None;
        for requirement in Requirement::ALL {
            if !requirement.is_asked(require) {
                continue;
            }
            match requirement.is_satisfied(require, facts) {
                Truth::Yes => {}
                Truth::No => return Checked::Failed(requirement),
                Truth::Unknown => {
                    undecided.get_or_insert(requirement);
                }
            }
        }
        undecided.map_or(Checked::Satisfied, Checked::Undecided)
    }

    /// What the sender is told.
    pub fn message(self, require: &Requirements, facts: &Facts) -> String {
        match self {
            Requirement::Tls => "the session is not encrypted".into(),
            Requirement::TlsVersion => {
                let version = match facts.version() {
                    Known::Is(version) => version_name(version),
                    Known::Absent | Known::Unknown => "not encrypted",
                };
                let least = version_name(require.min_version);
                format!("the session is {version}, at least {least} is required")
            }
            Requirement::CertificateMissing => "no client certificate was shown".into(),
            Requirement::CertificateFingerprint => {
                "the client certificate is not one that was agreed on".into()
            }
            Requirement::CertificateKey => {
                "the client certificate has another key than those that were agreed on".into()
            }
            Requirement::CertificateUntrusted => {
                let trust = facts.presented().and_then(|certificate| certificate.trust);
                format!(
                    "the client certificate is not trusted: {}",
                    trust.map_or("missing", |trust| trust.name())
                )
            }
            Requirement::CertificateAuthority => {
                "the client certificate comes from another authority than agreed".into()
            }
            Requirement::CertificateName => {
                let (carried, wanted) = (facts.certificate_names(), require.certificate_names);
                format!(
                    "the client certificate carries another name: it is for {}, not for {}",
                    match carried {
                        [] => "no name".into(),
                        carried => some_of(carried.iter(), carried.len()),
                    },
                    some_of(wanted.iter(), wanted.len())
                )
            }
            Requirement::SourceIp => match facts.client_ip {
                Known::Is(ip) => format!("{ip} is not an agreed address"),
                Known::Absent | Known::Unknown => "the client's address is not known".into(),
            },
        }
    }
}

/// A TLS version's name.
pub fn version_name(version: u16) -> &'static str {
    tls_version_name(version).unwrap_or("an unknown version")
}
