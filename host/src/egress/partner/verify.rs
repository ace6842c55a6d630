//! What a partner's server must show, and whether it does.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::egress::partner::dane;
use crate::egress::partner::failure::{ResultType, Unprotected};
use crate::tls::{Roots, certificate, names};
use portcullis::sandbox::interface::{TlsLevel, Trust};

/// All that a server must show before it is given mail; every part of it must hold.
pub struct Demands<'a> {
    /// The connector's level.
    pub level: &'a TlsLevel,
    /// The server's own TLSA records.
    pub dane: &'a dane::Demand,
    /// Whether an MTA-STS policy in mode enforce applies (RFC 8461 §5).
    pub mta_sts: bool,
    /// The server's name, unless it is known by address only.
    pub host: Option<&'a str>,
    /// The names of the domain that the mail is for, or of the smart host, where DNSSEC has proven the way from it to
    /// the server.
    pub domains: &'a [String],
}

impl Demands<'_> {
    /// Whether plaintext is out of the question.
    pub fn need_tls(&self) -> bool {
        !matches!(self.level, TlsLevel::Opportunistic) || self.mta_sts || self.dane.needs_tls()
    }

    /// The names that the server may have beside that of its TLSA records.
    pub fn identities(&self) -> Vec<&str> {
        let domains = self.domains.iter().map(String::as_str);
        self.host.into_iter().chain(domains).collect()
    }

    /// Holds the certificates that a server showed against the demands, its own first.
    ///
    /// # Errors
    /// What it does not satisfy.
    pub fn judge(&self, chain: &[CertificateDer<'_>], roots: &Roots) -> Result<(), Unprotected> {
        self.dane.judge(chain, &self.identities())?;
        let by_name = match self.level {
            TlsLevel::Opportunistic | TlsLevel::Encrypt => None,
            TlsLevel::Verify => Some(None),
            TlsLevel::Name(wanted) => Some(Some(wanted)),
        };
        if by_name.is_some() || self.mta_sts {
            is_trusted(chain, roots)?;
        }
        if let Some(Some(wanted)) = by_name {
            carries(chain, wanted)?;
        }
        if self.mta_sts {
            let host = self.host.unwrap_or_default().to_owned();
            carries(chain, &[host])?;
        }
        Ok(())
    }
}

fn is_trusted(chain: &[CertificateDer<'_>], roots: &Roots) -> Result<(), Unprotected> {
    let (result, detail) = match certificate::trust_of_server(chain, roots) {
        Trust::Trusted => return Ok(()),
        Trust::Expired => (
            ResultType::CertificateExpired,
            "the server's certificate has expired",
        ),
        Trust::UnknownIssuer => (
            ResultType::CertificateNotTrusted,
            "no trusted authority stands behind the server's certificate",
        ),
        Trust::Revoked => (
            ResultType::CertificateNotTrusted,
            "the server's certificate was revoked",
        ),
        Trust::NotYetValid => (
            ResultType::ValidationFailure,
            "the server's certificate is not valid yet",
        ),
        Trust::Invalid => (
            ResultType::ValidationFailure,
            "the server's certificate is not one for a server, or broken",
        ),
    };
    Err(Unprotected::new(result, detail))
}

/// RFC 9525 §2: only the subject's alternative names count.
fn carries(chain: &[CertificateDer<'_>], wanted: &[String]) -> Result<(), Unprotected> {
    let parsed = chain
        .first()
        .and_then(|own| X509Certificate::from_der(own).ok());
    let carried = parsed.map_or_else(Vec::new, |(_, own)| certificate::dns_names(&own));
    if names::any_satisfies(&carried, wanted) {
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
    Err(Unprotected::new(
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
