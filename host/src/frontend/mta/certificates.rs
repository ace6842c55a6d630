//! What other servers tell of clients' certificates.

use std::sync::atomic::Ordering;

use super::door::Frontend;
use portcullis::{Certificate, PeerCertificate, Sha256, Trust};

/// What a server tells of a client's certificate.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The digest of the certificate, whichever it is.
    pub digest: Option<Vec<u8>>,
    /// The SHA-256 of its public key.
    pub key: Option<Vec<u8>>,
    /// The subject's CN; empty if it is not told.
    pub common_name: String,
    /// The issuer's CN; empty if it is not told.
    pub issuer: String,
    /// All its names, if the server knows them.
    pub names: Option<Vec<String>>,
    /// Whether the server trusts it, if it says so.
    pub trusted: Option<bool>,
    /// The end of its validity, in seconds since 1970.
    pub not_after: Option<i64>,
}

impl Told {
    /// What is known of the certificate by that alone. Of its names a server may know one, which comes beside.
    pub fn certificate(self) -> (PeerCertificate, Option<String>) {
        // What a server does not trust may be trusted here: OpenSSL takes a certificate for servers for none of a
        // client, and public authorities issue no others any more.
        let trust = self.trusted.unwrap_or(false).then_some(Trust::Trusted);
        let whole = |common_name: &str| match common_name {
            "" => String::new(),
            name => format!("CN={name}"),
        };
        // Without a SAN the CN is the name; and whether there is one at all, who tells neither does not know.
        let names =
            self.names.and_then(
                |names| match (names.is_empty(), self.common_name.is_empty()) {
                    (false, _) => Some(names),
                    (true, false) => Some(vec![self.common_name.clone()]),
                    (true, true) => None,
                },
            );
        let common_name = match names {
            None if !self.common_name.is_empty() => Some(self.common_name.clone()),
            _ => None,
        };
        let certificate = Certificate {
            dns_names: names,
            subject: whole(&self.common_name),
            issuer: whole(&self.issuer),
            sha256: self.digest.as_deref().and_then(sha256),
            key_sha256: self.key.as_deref().and_then(sha256),
            not_after: self.not_after,
            trust,
            anchors: Certificate::usual_anchors(trust),
        };
        (PeerCertificate::Presented(certificate), common_name)
    }
}

impl Frontend {
    /// What is known of the certificate of which a server tells so much: all of it, if it is one of a partner that is
    /// known beforehand.
    pub fn certificate(&self, told: Told) -> (PeerCertificate, Option<String>) {
        let digest = told.digest.as_deref().and_then(sha256);
        if let (Some(other), None) = (&told.digest, &digest)
            && !self.has_told_digest.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                octets = other.len(),
                "a mail server tells digests of certificates that are no SHA-256, so fingerprints and known certificates are of no use (in Postfix: smtpd_tls_fingerprint_digest = sha256)"
            );
        }
        let settings = self.settings();
        let known = digest.as_ref().and_then(|digest| {
            let known = settings.known.get(&self.number)?;
            known.facts(digest, &settings.authorities)
        });
        if let Some(known) = known {
            return (PeerCertificate::Presented(known), None);
        }
        told.certificate()
    }

    /// A client of which no certificate is told. Only who says that clients are asked for one knows that it has none.
    pub fn no_certificate(&self) -> PeerCertificate {
        match self.config.certificates_requested {
            true => PeerCertificate::None,
            false => PeerCertificate::Unknown,
        }
    }
}

fn sha256(octets: &[u8]) -> Option<Sha256> {
    Some(Sha256::from_octets(octets.try_into().ok()?))
}
