//! Why mail could not be handed to a partner's server, for the log and for our own client.

use std::fmt;
use std::sync::Arc;

use crate::egress::client::{ClientError, LoginError};
use crate::egress::partner::dns::DnsError;
use crate::smtp::reply::Reply;

/// What went wrong with the protection, by the names of RFC 8460 §4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultType {
    /// The server offers no STARTTLS.
    StarttlsNotSupported,
    /// The certificate is for another name.
    CertificateHostMismatch,
    /// A certificate of the chain has expired.
    CertificateExpired,
    /// The chain ends at no trusted root.
    CertificateNotTrusted,
    /// Anything else.
    ValidationFailure,
    /// TLSA records are there, and the certificate satisfies none of them.
    TlsaInvalid,
    /// DNSSEC says that an answer is forged or broken.
    DnssecInvalid,
    /// DANE is mandatory, and there are no usable TLSA records.
    DaneRequired,
    /// The MTA-STS policy cannot be fetched.
    StsPolicyFetchError,
    /// The MTA-STS policy cannot be read.
    StsPolicyInvalid,
    /// The MTA-STS policy's own server has no valid certificate.
    StsWebpkiInvalid,
}

impl ResultType {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            ResultType::StarttlsNotSupported => "starttls-not-supported",
            ResultType::CertificateHostMismatch => "certificate-host-mismatch",
            ResultType::CertificateExpired => "certificate-expired",
            ResultType::CertificateNotTrusted => "certificate-not-trusted",
            ResultType::ValidationFailure => "validation-failure",
            ResultType::TlsaInvalid => "tlsa-invalid",
            ResultType::DnssecInvalid => "dnssec-invalid",
            ResultType::DaneRequired => "dane-required",
            ResultType::StsPolicyFetchError => "sts-policy-fetch-error",
            ResultType::StsPolicyInvalid => "sts-policy-invalid",
            ResultType::StsWebpkiInvalid => "sts-webpki-invalid",
        }
    }
}

impl fmt::Display for ResultType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The protection that was asked for is not there.
#[derive(Clone, Debug)]
pub struct ProtectionError {
    /// What went wrong.
    pub result: ResultType,
    /// In words.
    pub detail: String,
    /// What to do about it, where that is not the same for all of the kind.
    pub remedy: Option<&'static str>,
}

impl ProtectionError {
    /// A failure in words.
    pub fn new(result: ResultType, detail: impl Into<String>) -> Self {
        ProtectionError {
            result,
            detail: detail.into(),
            remedy: None,
        }
    }

    /// With what to do about it.
    pub fn remedy(self, remedy: &'static str) -> Self {
        ProtectionError {
            remedy: Some(remedy),
            ..self
        }
    }
}

impl fmt::Display for ProtectionError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.result, self.detail)
    }
}

/// Why a server, or a whole route, was not used.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The server cannot be spoken with.
    Hop(ClientError),
    /// It does not show what it must.
    Unprotected {
        /// The server, or the domain.
        peer: Arc<str>,
        /// What is missing.
        why: ProtectionError,
    },
    /// It does not let us in.
    Login {
        /// The server.
        peer: Arc<str>,
        /// Why.
        why: LoginError,
    },
    /// The sender demands TLS all the way (RFC 8689), and nobody can promise that of it.
    NoRequireTls {
        /// The server.
        peer: Arc<str>,
        /// Why.
        why: &'static str,
    },
    /// The server is ourselves.
    Loop(Arc<str>),
    /// The server is at an address that only this machine or its link knows.
    NotPublic {
        /// The server.
        peer: Arc<str>,
        /// Whether the rules name it, or what it is an exchanger for.
        is_named_by_rules: bool,
    },
    /// The DNS does not say where the server is.
    Dns(DnsError),
    /// The name has neither mail exchangers nor addresses.
    NoHosts(String),
    /// The domain receives no mail (RFC 7505).
    NullMx(String),
    /// The route of the verdict is none that could ever be taken.
    Impossible(String),
    /// Not in time.
    TimedOut(String),
    /// Too many connections are in use already.
    Busy(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Hop(failure) => write!(f, "{failure}"),
            Failure::Unprotected { peer, why } => write!(f, "{peer}: {why}"),
            Failure::Login { peer, why } => write!(f, "{peer}: not logged in: {why}"),
            Failure::NoRequireTls { peer, why } => {
                write!(
                    f,
                    "{peer}: the message requires TLS all the way (REQUIRETLS): {why}"
                )
            }
            Failure::Loop(peer) => write!(f, "mail for {peer} would loop back to this server"),
            Failure::NotPublic { peer, .. } => write!(
                f,
                "{peer} is at no public address, so no mail is sent there ([delivery] private-networks allows some)"
            ),
            Failure::Dns(error) => write!(f, "{error}"),
            Failure::NoHosts(name) => {
                write!(
                    f,
                    "{name} has neither mail exchangers nor addresses in the DNS"
                )
            }
            Failure::NullMx(domain) => write!(f, "{domain} receives no mail (null MX)"),
            Failure::Impossible(reason) => f.write_str(reason),
            Failure::TimedOut(target) => write!(f, "no server of {target} was ready in time"),
            Failure::Busy(target) => write!(f, "too many connections to {target} are in use"),
        }
    }
}

impl Failure {
    /// The stable name of its kind, for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Failure::Hop(_) => "unreachable",
            Failure::Unprotected { .. } => "unprotected",
            Failure::Login { .. } => "login",
            Failure::NoRequireTls { .. } => "require-tls",
            Failure::Loop(_) => "loop",
            Failure::NotPublic { .. } => "not-public",
            Failure::Dns(_) => "dns",
            Failure::NoHosts(_) | Failure::NullMx(_) => "no-hosts",
            Failure::Impossible(_) => "impossible",
            Failure::TimedOut(_) => "timeout",
            Failure::Busy(_) => "busy",
        }
    }

    /// How telling the failure is, where several servers were tried.
    fn weight(&self) -> u8 {
        match self {
            Failure::Unprotected { .. } | Failure::Login { .. } => 3,
            Failure::Hop(_) => 2,
            Failure::Dns(_) => 1,
            // It is for good, and counts only if it is so of all servers.
            _ => 0,
        }
    }

    /// The more telling of two failures, the earlier one if both tell as much: the better server is tried first.
    pub fn or(self, earlier: Option<Failure>) -> Failure {
        match earlier {
            Some(earlier) if earlier.weight() >= self.weight() => earlier,
            _ => self,
        }
    }

    /// What our own client is told: to try again, unless that can never help.
    pub fn reply(&self) -> Reply {
        tracing::warn!(
            "not delivered: {}",
            crate::observe::redact::redact(&self.to_string())
        );
        let (code, enhanced) = match self {
            Failure::Hop(failure) => return failure.reply(),
            Failure::Unprotected { why, .. } => match why.result {
                // RFC 3463 §3.8: security features not supported, and cryptographic failure.
                ResultType::StarttlsNotSupported | ResultType::DaneRequired => (451, (4, 7, 4)),
                _ => (451, (4, 7, 5)),
            },
            // RFC 4954 §6, for now: what we log in with can be mended.
            Failure::Login { why, .. } => match why {
                LoginError::Refused(..) | LoginError::Pause => (451, (4, 7, 8)),
                _ => (451, (4, 7, 0)),
            },
            Failure::NoRequireTls { .. } => (550, (5, 7, 30)),
            Failure::Loop(_) => (554, (5, 4, 6)),
            // RFC 3463 §3.5: unable to route. What the administrator has named can be allowed.
            Failure::NotPublic {
                is_named_by_rules, ..
            } => match is_named_by_rules {
                true => (451, (4, 4, 4)),
                false => (550, (5, 4, 4)),
            },
            Failure::Dns(DnsError::NoSuchName(_)) | Failure::NoHosts(_) => (550, (5, 1, 2)),
            Failure::Dns(_) => (451, (4, 4, 3)),
            // RFC 7505 §4.2.
            Failure::NullMx(_) => (556, (5, 1, 10)),
            Failure::Impossible(_) => (554, (5, 3, 5)),
            Failure::TimedOut(_) => (451, (4, 4, 2)),
            Failure::Busy(_) => (451, (4, 4, 5)),
        };
        let told = self.to_string();
        Reply::new(code, enhanced, told.clone()).because(told)
    }
}

impl From<ClientError> for Failure {
    fn from(failure: ClientError) -> Self {
        Failure::Hop(failure)
    }
}

impl From<DnsError> for Failure {
    fn from(error: DnsError) -> Self {
        match error {
            DnsError::Bogus(name) => Failure::Unprotected {
                peer: name.as_str().into(),
                why: ProtectionError::new(
                    ResultType::DnssecInvalid,
                    DnsError::Bogus(name).to_string(),
                ),
            },
            error => Failure::Dns(error),
        }
    }
}
