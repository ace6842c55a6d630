//! DANE for SMTP (RFC 7672): what TLSA records demand of a server, and whether its certificate is what
//! they say.

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::egress::partner::dns::{Dns, DnsError, Tlsa};
use crate::egress::partner::failure::{ProtectionError, ResultType};
use portcullis::tls::{Anchors, Purpose, certificate, is_provable};
use portcullis::{Dane, Trust};

/// What a server's TLSA records demand.
#[derive(Clone, Debug, Default)]
pub enum Demand {
    /// There are none that count.
    #[default]
    None,
    /// There are some, but none that SMTP uses: TLS, with any certificate (RFC 7672 §2.2).
    Encrypted,
    /// The certificate satisfies one of them.
    Records {
        /// The records.
        records: Vec<Tlsa>,
        /// The TLSA base domain: the name that they stand below, which is the server's (RFC 7672 §3.2.2).
        base: String,
    },
}

impl Demand {
    /// Looks up what a server demands. `host` is its name, and `bases` are the names below which its records may
    /// stand, of those whose way DNSSEC has proven; the first that has some counts.
    ///
    /// # Errors
    /// If DANE is mandatory and there is none, or if the records cannot be had: then the server must
    /// not be used (RFC 7672 §2.1.2).
    pub async fn of(
        dns: &Dns,
        mode: Dane,
        host: &str,
        bases: &[&str],
        port: u16,
    ) -> Result<Demand, ProtectionError> {
        if mode == Dane::None {
            return Ok(Demand::None);
        }
        let mut demand = Demand::None;
        for base in bases {
            demand = Demand::at(dns, base, port).await?;
            if !matches!(demand, Demand::None) {
                break;
            }
        }
        if mode == Dane::Mandatory && !matches!(demand, Demand::Records { .. }) {
            let detail = match (bases.is_empty(), &demand) {
                (true, _) => {
                    format!("DNSSEC does not prove the way to {host}, and DANE is mandatory")
                }
                (false, Demand::Encrypted) => {
                    format!("{host} has no TLSA records that SMTP uses, and DANE is mandatory")
                }
                _ => format!("{host} has no TLSA records, and DANE is mandatory"),
            };
            return Err(ProtectionError::new(ResultType::DaneRequired, detail));
        }
        Ok(demand)
    }

    async fn at(dns: &Dns, host: &str, port: u16) -> Result<Demand, ProtectionError> {
        let answer = match dns.tlsa(&format!("_{port}._tcp.{host}")).await {
            Ok(answer) => answer,
            Err(DnsError::NoSuchName(_)) => return Ok(Demand::None),
            Err(error @ DnsError::Bogus(_)) => {
                return Err(ProtectionError::new(
                    ResultType::DnssecInvalid,
                    error.to_string(),
                ));
            }
            Err(error) => {
                return Err(ProtectionError::new(
                    ResultType::TlsaInvalid,
                    error.to_string(),
                ));
            }
        };
        if answer.records.is_empty() || !answer.secure {
            return Ok(Demand::None);
        }
        Ok(Demand::from_records(answer.records, host))
    }

    /// What these records below a name demand; there is at least one of them.
    pub fn from_records(records: Vec<Tlsa>, base: &str) -> Demand {
        let records: Vec<Tlsa> = records.into_iter().filter(is_usable).collect();
        match records.is_empty() {
            true => Demand::Encrypted,
            false => Demand::Records {
                records,
                base: base.to_owned(),
            },
        }
    }

    /// The name that the server has for TLS, SNI included (RFC 7672 §8.1), where its records say so.
    pub fn base(&self) -> Option<&str> {
        match self {
            Demand::Records { base, .. } => Some(base),
            _ => None,
        }
    }

    /// Whether the server must encrypt.
    pub fn needs_tls(&self) -> bool {
        !matches!(self, Demand::None)
    }

    /// Holds a server's certificates against the demand. `identities` are names that it may have beside the TLSA base
    /// domain.
    ///
    /// # Errors
    /// If there are records, and the certificates satisfy none of them.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        identities: &[&str],
    ) -> Result<(), ProtectionError> {
        let Demand::Records { records, base } = self else {
            return Ok(());
        };
        let identities = [&[base.as_str()], identities].concat();
        if records
            .iter()
            .any(|record| satisfies(record, chain, &identities))
        {
            return Ok(());
        }
        let detail = "the certificate is none that the TLSA records allow";
        Err(ProtectionError::new(ResultType::TlsaInvalid, detail))
    }
}

/// Certificate usages, selectors and matching types (RFC 6698 §7, RFC 7218).
const DANE_TA: u8 = 2;
const DANE_EE: u8 = 3;
const CERT: u8 = 0;
const SPKI: u8 = 1;
const FULL: u8 = 0;
const SHA2_256: u8 = 1;
const SHA2_512: u8 = 2;

/// RFC 7672 §3.1: DANE-TA and DANE-EE only, with selectors and matching types that are known.
fn is_usable(record: &Tlsa) -> bool {
    let length = match record.matching {
        FULL => !record.data.is_empty(),
        SHA2_256 => record.data.len() == 32,
        SHA2_512 => record.data.len() == 64,
        _ => false,
    };
    length && matches!(record.usage, DANE_TA | DANE_EE) && matches!(record.selector, CERT | SPKI)
}

fn satisfies(record: &Tlsa, chain: &[CertificateDer<'_>], identities: &[&str]) -> bool {
    let Some((own, above)) = chain.split_first() else {
        return false;
    };
    if !is_provable(own) {
        return false;
    }
    match record.usage {
        // §3.1.1: neither names nor dates matter, the record says all.
        DANE_EE => matches(record, own),
        DANE_TA => above
            .iter()
            .filter(|authority| matches(record, authority))
            .any(|authority| is_issued_by(chain, authority, identities)),
        _ => false,
    }
}

fn matches(record: &Tlsa, certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return false;
    };
    let selected: &[u8] = match record.selector {
        CERT => certificate,
        SPKI => parsed.public_key().raw,
        _ => return false,
    };
    match record.matching {
        FULL => selected == record.data,
        SHA2_256 => digest(&SHA256, selected).as_ref() == record.data,
        SHA2_512 => digest(&SHA512, selected).as_ref() == record.data,
        _ => false,
    }
}

/// §3.1.2: the chain leads to the authority, and the certificate has a name of the server.
fn is_issued_by(
    chain: &[CertificateDer<'_>],
    authority: &CertificateDer<'_>,
    identities: &[&str],
) -> bool {
    let Ok(anchors) = Anchors::new(std::slice::from_ref(authority), Vec::new()) else {
        return false;
    };
    if anchors.verify(chain, Purpose::Server).trust != Trust::Trusted {
        return false;
    }
    let own = chain.first().map(|own| X509Certificate::from_der(own));
    let carried = match own {
        Some(Ok((_, own))) => certificate::dns_names(&own),
        _ => Vec::new(),
    };
    carried.iter().any(|name| {
        identities
            .iter()
            .any(|own| portcullis::satisfies(name, own))
    })
}
