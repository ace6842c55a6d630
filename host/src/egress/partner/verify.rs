//! What a partner's server must show, and whether it does.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::egress::partner::dane;
use crate::egress::partner::failure::{ProtectionError, ResultType};
use portcullis::tls::{Authorities, PUBLIC, Purpose, certificate, is_provable};
use portcullis::{Protection, Sha256, TlsLevel, Trust, any_satisfies, tls_version_name};

/// All that a server must satisfy before mail is sent to it; every part of it must hold.
pub struct Requirements<'a> {
    /// The connector's protection.
    pub protection: &'a Protection,
    /// The server's own TLSA records.
    pub dane: &'a dane::Demand,
    /// Whether an MTA-STS policy in mode enforce applies (RFC 8461 §5).
    pub mta_sts: bool,
    /// The server's name, unless it is known by address only.
    pub host: Option<&'a str>,
    /// The names of the domain that the mail is for, or of the smart host, where DNSSEC has proven the way from it to
    /// the server.
    pub domains: &'a [String],
    /// Whether there is something that nobody else may have: a message whose sender says so (RFC 8689), or a password.
    pub requires_tls: bool,
}

impl Requirements<'_> {
    /// Whether plaintext is out of the question.
    pub fn need_tls(&self) -> bool {
        let protection = self.protection;
        let opportunistic = matches!(protection.level, TlsLevel::Opportunistic)
            && protection.min_version.is_none()
            && !self.pins()
            && protection.authorities.is_empty();
        !opportunistic || self.mta_sts || self.dane.needs_tls() || self.requires_tls
    }

    /// Whether who satisfies them has proven to be who he should be: by a name that somebody trusted vouches for, or a
    /// key that was agreed on.
    pub fn prove_identity(&self) -> bool {
        let by_name = matches!(self.protection.level, TlsLevel::Name(_));
        by_name || self.pins() || self.mta_sts || matches!(self.dane, dane::Demand::Records { .. })
    }

    /// The names that the server may have beside that of its TLSA records.
    pub fn identities(&self) -> Vec<&str> {
        let domains = self.domains.iter().map(String::as_str);
        self.host.into_iter().chain(domains).collect()
    }

    fn pins(&self) -> bool {
        !self.protection.fingerprints.is_empty() || !self.protection.keys.is_empty()
    }

    /// Verifies the certificates that a server presented, its own first, and the TLS version.
    ///
    /// # Errors
    /// What it does not satisfy.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        version: Option<u16>,
        authorities: &Authorities,
    ) -> Result<(), ProtectionError> {
        self.dane.verify(chain, &self.identities())?;
        self.verify_version(version)?;
        self.verify_pins(chain)?;
        self.verify_trust(chain, authorities)?;
        if let TlsLevel::Name(wanted) = &self.protection.level {
            has_name(chain, wanted)?;
        }
        if self.mta_sts {
            server_is(chain, self.host.unwrap_or_default(), authorities)?;
        }
        Ok(())
    }

    fn verify_version(&self, version: Option<u16>) -> Result<(), ProtectionError> {
        let Some(least) = self.protection.min_version else {
            return Ok(());
        };
        if version.is_some_and(|version| version >= least) {
            return Ok(());
        }
        let name = |version| tls_version_name(version).unwrap_or("an unknown version");
        let detail = format!(
            "the session is {}, at least {} is required",
            version.map_or("not encrypted", name),
            name(least)
        );
        Err(ProtectionError::new(ResultType::ValidationFailure, detail)
            .remedy("the partner's server is too old, or set to old versions of TLS"))
    }

    fn verify_pins(&self, chain: &[CertificateDer<'_>]) -> Result<(), ProtectionError> {
        let Protection {
            fingerprints, keys, ..
        } = self.protection;
        // A key that nobody here knows proves nothing.
        let own = chain.first().filter(|own| is_provable(own));
        let fits = |pins: &[Sha256], digest: Option<Sha256>| {
            pins.is_empty() || digest.is_some_and(|digest| pins.contains(&digest))
        };
        let (detail, remedy) = if !fits(fingerprints, own.map(|own| certificate::sha256(own))) {
            (
                "the server's certificate is not one that was agreed on",
                "if the partner confirms that it has another certificate now, agree on its SHA-256 anew",
            )
        } else if !fits(keys, own.and_then(certificate::key_sha256)) {
            (
                "the server's certificate has another key than those that were agreed on",
                "if the partner confirms that it has another key now, agree on its SHA-256 anew",
            )
        } else {
            return Ok(());
        };
        Err(ProtectionError::new(ResultType::ValidationFailure, detail).remedy(remedy))
    }

    /// The chain of a pinned certificate need not be trusted, unless authorities are named.
    fn verify_trust(
        &self,
        chain: &[CertificateDer<'_>],
        authorities: &Authorities,
    ) -> Result<(), ProtectionError> {
        let wanted = &self.protection.authorities;
        let by_level = matches!(self.protection.level, TlsLevel::Verify | TlsLevel::Name(_));
        if !wanted.is_empty() {
            return is_anchored(chain, authorities, wanted);
        }
        if by_level && !self.pins() {
            is_trusted(certificate::trust_of_server(chain, authorities.public()))?;
        }
        Ok(())
    }
}

/// Whether the chain is trusted by the ordinary roots, and for this name.
///
/// # Errors
/// What is wrong with it.
pub fn server_is(
    chain: &[CertificateDer<'_>],
    name: &str,
    authorities: &Authorities,
) -> Result<(), ProtectionError> {
    is_trusted(certificate::trust_of_server(chain, authorities.public()))?;
    has_name(chain, &[name.to_owned()])
}

/// Whether the chain ends at one of these authorities.
fn is_anchored(
    chain: &[CertificateDer<'_>],
    authorities: &Authorities,
    wanted: &[String],
) -> Result<(), ProtectionError> {
    let verification = authorities.verify(chain, Purpose::Server);
    if verification
        .anchors
        .iter()
        .any(|anchor| wanted.contains(anchor))
    {
        return Ok(());
    }
    let is_defined =
        |name: &String| name == PUBLIC || authorities.named().iter().any(|it| *it.name == **name);
    let is_open = matches!(verification.trust, Trust::Trusted | Trust::UnknownIssuer);
    if is_open && !wanted.iter().any(is_defined) {
        let detail = format!("no authority is defined that is called {}", shorten(wanted));
        return Err(
            ProtectionError::new(ResultType::CertificateNotTrusted, detail)
                .remedy("define it as a [[trust.authority]], for this tenant too"),
        );
    }
    is_trusted(verification.trust)?;
    let detail = format!(
        "the server's certificate comes from {}, not from {}",
        shorten(&verification.anchors),
        shorten(wanted)
    );
    Err(
        ProtectionError::new(ResultType::CertificateNotTrusted, detail)
            .remedy("the partner's certificate comes from another authority than agreed: agree on the authority"),
    )
}

fn is_trusted(trust: Trust) -> Result<(), ProtectionError> {
    let (result, detail) = match trust {
        Trust::Trusted => return Ok(()),
        Trust::Expired => (
            ResultType::CertificateExpired,
            "the server's certificate has expired",
        ),
        Trust::UnknownIssuer => (
            ResultType::CertificateNotTrusted,
            "no trusted authority stands behind the server's certificate",
        ),
        Trust::Revoked => {
            let detail = "the server's certificate was revoked";
            return Err(
                ProtectionError::new(ResultType::CertificateNotTrusted, detail)
                    .remedy("the partner has to replace its certificate"),
            );
        }
        Trust::NotYetValid => (
            ResultType::ValidationFailure,
            "the server's certificate is not valid yet",
        ),
        Trust::Invalid => (
            ResultType::ValidationFailure,
            "the server's certificate is not one for a server, or broken",
        ),
    };
    Err(ProtectionError::new(result, detail))
}

/// RFC 9525 §2: only the subject's alternative names count.
fn has_name(chain: &[CertificateDer<'_>], wanted: &[String]) -> Result<(), ProtectionError> {
    let parsed = chain
        .first()
        .and_then(|own| X509Certificate::from_der(own).ok());
    let carried = parsed.map_or_else(Vec::new, |(_, own)| certificate::dns_names(&own));
    if any_satisfies(&carried, wanted) {
        return Ok(());
    }
    let shown = match &carried[..] {
        [] => "no name".to_owned(),
        names => shorten(names),
    };
    let detail = format!(
        "the server's certificate is for {shown}, not for {}",
        shorten(wanted)
    );
    Err(ProtectionError::new(
        ResultType::CertificateHostMismatch,
        detail,
    ))
}

/// A few names of a list that can be long.
fn shorten(names: &[String]) -> String {
    const MOST: usize = 4;
    let shown = names
        .iter()
        .take(MOST)
        .map(|name| name.chars().take(80).filter(|c| !c.is_control()).collect())
        .collect::<Vec<String>>()
        .join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
