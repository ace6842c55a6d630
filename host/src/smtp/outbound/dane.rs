//! DANE for SMTP (RFC 7672): what TLSA records demand of a server, and whether its certificate is what
//! they say.

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use hickory_resolver::proto::rr::rdata::TLSA;
use hickory_resolver::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::dns::{Dns, DnsError};
use super::failure::{ResultType, Unprotected};
use crate::sandbox::interface::Dane;
use crate::tls::names;

/// What a server's TLSA records demand.
#[derive(Clone, Debug, Default)]
pub enum Demand {
    /// There are none that count.
    #[default]
    None,
    /// There are some, but none that SMTP uses: TLS, with any certificate (RFC 7672 §2.2).
    Encrypted,
    /// The certificate satisfies one of them.
    Records(Vec<TLSA>),
}

impl Demand {
    /// Looks up what a server demands. `host` is its name, `canonical` the one that aliases lead to, and
    /// `secure` tells whether DNSSEC has proven both the way to that name and its addresses.
    ///
    /// # Errors
    /// If DANE is mandatory and there is none, or if the records cannot be had: then the server must
    /// not be used (RFC 7672 §2.1.2).
    pub async fn of(
        dns: &Dns,
        mode: Dane,
        host: &str,
        canonical: &str,
        port: u16,
        secure: bool,
    ) -> Result<Demand, Unprotected> {
        if mode == Dane::None {
            return Ok(Demand::None);
        }
        let mut demand = Demand::None;
        if secure {
            // RFC 7672 §2.2.2: the name at the end of the aliases first.
            for base in [canonical, host] {
                demand = Demand::at(dns, base, port).await?;
                if !matches!(demand, Demand::None) || canonical == host {
                    break;
                }
            }
        }
        if mode == Dane::Mandatory && !matches!(demand, Demand::Records(_)) {
            let detail = match (secure, &demand) {
                (false, _) => {
                    format!("DNSSEC does not prove the way to {host}, and DANE is mandatory")
                }
                (true, Demand::Encrypted) => {
                    format!("{host} has no TLSA records that SMTP uses, and DANE is mandatory")
                }
                _ => format!("{host} has no TLSA records, and DANE is mandatory"),
            };
            return Err(Unprotected::new(ResultType::DaneRequired, detail));
        }
        Ok(demand)
    }

    async fn at(dns: &Dns, host: &str, port: u16) -> Result<Demand, Unprotected> {
        let answer = match dns.tlsa(&format!("_{port}._tcp.{host}")).await {
            Ok(answer) => answer,
            Err(DnsError::NoSuchName(_)) => return Ok(Demand::None),
            Err(error @ DnsError::Bogus(_)) => {
                return Err(Unprotected::new(
                    ResultType::DnssecInvalid,
                    error.to_string(),
                ));
            }
            Err(error) => {
                return Err(Unprotected::new(ResultType::TlsaInvalid, error.to_string()));
            }
        };
        if answer.records.is_empty() || !answer.secure {
            return Ok(Demand::None);
        }
        Ok(Demand::from_records(answer.records))
    }

    /// What these records demand; there is at least one of them.
    pub fn from_records(records: Vec<TLSA>) -> Demand {
        let usable: Vec<TLSA> = records.into_iter().filter(is_usable).collect();
        match usable.is_empty() {
            true => Demand::Encrypted,
            false => Demand::Records(usable),
        }
    }

    /// Whether the server must encrypt.
    pub fn needs_tls(&self) -> bool {
        !matches!(self, Demand::None)
    }

    /// Holds a server's certificates against the demand. `identities` are the names that it may have.
    ///
    /// # Errors
    /// If there are records, and the certificates satisfy none of them.
    pub fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        identities: &[&str],
        provider: &CryptoProvider,
    ) -> Result<(), Unprotected> {
        let Demand::Records(records) = self else {
            return Ok(());
        };
        if records
            .iter()
            .any(|record| satisfies(record, chain, identities, provider))
        {
            return Ok(());
        }
        let detail = "the certificate is none that the TLSA records allow";
        Err(Unprotected::new(ResultType::TlsaInvalid, detail))
    }
}

/// RFC 7672 §3.1: DANE-TA and DANE-EE only, with selectors and matching types that are known.
fn is_usable(record: &TLSA) -> bool {
    let length = match record.matching {
        Matching::Raw => !record.cert_data.is_empty(),
        Matching::Sha256 => record.cert_data.len() == 32,
        Matching::Sha512 => record.cert_data.len() == 64,
        _ => false,
    };
    length
        && matches!(record.cert_usage, CertUsage::DaneTa | CertUsage::DaneEe)
        && matches!(record.selector, Selector::Full | Selector::Spki)
}

fn satisfies(
    record: &TLSA,
    chain: &[CertificateDer<'_>],
    identities: &[&str],
    provider: &CryptoProvider,
) -> bool {
    let Some((own, above)) = chain.split_first() else {
        return false;
    };
    match record.cert_usage {
        // §3.1.1: neither names nor dates matter, the record says all.
        CertUsage::DaneEe => matches(record, own),
        CertUsage::DaneTa => above
            .iter()
            .filter(|authority| matches(record, authority))
            .any(|authority| is_issued_by(own, above, authority, identities, provider)),
        _ => false,
    }
}

fn matches(record: &TLSA, certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let selected: &[u8] = match record.selector {
        Selector::Full => certificate,
        Selector::Spki => parsed.public_key().raw,
        _ => return false,
    };
    match record.matching {
        Matching::Raw => selected == record.cert_data,
        Matching::Sha256 => digest(&SHA256, selected).as_ref() == record.cert_data,
        Matching::Sha512 => digest(&SHA512, selected).as_ref() == record.cert_data,
        _ => false,
    }
}

/// §3.1.2: the chain leads to the authority, and the certificate carries a name of the server.
fn is_issued_by(
    own: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    authority: &CertificateDer<'_>,
    identities: &[&str],
    provider: &CryptoProvider,
) -> bool {
    let (Ok(anchor), Ok(entity)) = (
        webpki::anchor_from_trusted_cert(authority),
        EndEntityCert::try_from(own),
    ) else {
        return false;
    };
    let anchors = [anchor];
    let path = entity.verify_for_usage(
        provider.signature_verification_algorithms.all,
        &anchors,
        intermediates,
        UnixTime::now(),
        KeyUsage::server_auth(),
        None,
        None,
    );
    let carried = X509Certificate::from_der(own)
        .map(|(_, parsed)| crate::tls::certificate::dns_names(&parsed))
        .unwrap_or_default();
    path.is_ok()
        && carried
            .iter()
            .any(|name| identities.iter().any(|own| names::satisfies(name, own)))
}
