//! What the DNS says, and whether DNSSEC has proven it. Answers are validated here, so the way to the
//! name server need not be trusted.

use std::net::{IpAddr, SocketAddr};
use std::path;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as Semantic, NetError, NoRecords};
use hickory_resolver::proto::dnssec::rdata::DNSSECRData;
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::TLSA;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::time::timeout;

use crate::config;

/// Answers that are kept.
const CACHE: u64 = 4096;
/// The UDP payload that is not fragmented (DNS flag day 2020).
const PAYLOAD: u16 = 1232;
/// Aliases of aliases that are followed.
const MOST_ALIASES: usize = 8;
/// How long it is remembered that there is nothing; validated denials come without a time of their own.
const NEGATIVE: Duration = Duration::from_secs(60);

/// A resolver.
pub struct Dns {
    resolver: TokioResolver,
    validates: bool,
    /// For one question, repetitions included.
    limit: Duration,
}

/// Records of one kind; none if the name has other kinds only.
#[derive(Debug)]
pub struct Answer<T> {
    /// The records.
    pub records: Vec<T>,
    /// Whether DNSSEC has proven them.
    pub secure: bool,
    /// The name at which they stand: another than was asked for, if that is an alias.
    pub name: String,
}

/// A question has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist.
    #[error("{0} does not exist in the DNS")]
    NoSuchName(String),
    /// DNSSEC says that the answer is forged, or is itself broken.
    #[error("the DNS answer for {0} is not what its zone has signed")]
    Bogus(String),
    /// There was no usable answer.
    #[error("the DNS has no answer for {name}: {reason}")]
    Failed {
        /// What was asked for.
        name: String,
        /// Why.
        reason: String,
    },
}

/// The DNS cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(String);

impl Dns {
    /// A resolver with the configured name servers, or the system's.
    ///
    /// # Errors
    /// If the system's cannot be read, or the trust anchor.
    pub fn new(config: &config::Dns) -> Result<Self, SetupError> {
        let (resolver, mut options) = if config.servers.is_empty() {
            hickory_resolver::system_conf::read_system_conf()
                .map_err(|error| SetupError(format!("/etc/resolv.conf: {error}")))?
        } else {
            let servers = config.servers.iter().map(name_server).collect();
            let resolver = ResolverConfig::from_parts(None, Vec::new(), servers);
            (resolver, ResolverOpts::default())
        };
        // Names in mail are complete: nothing is searched for, and /etc/hosts is no DNS.
        options.ndots = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = config.timeout;
        options.attempts = 2;
        options.cache_size = CACHE;
        options.negative_min_ttl = Some(NEGATIVE);
        options.negative_max_ttl = Some(NEGATIVE);
        options.validate = config.dnssec;
        options.edns0 = true;
        options.edns_payload_len = PAYLOAD;
        let mut builder =
            TokioResolver::builder_with_config(resolver, TokioRuntimeProvider::default())
                .with_options(options);
        if let (true, Some(path)) = (config.dnssec, &config.trust_anchor) {
            builder = builder.with_trust_anchor(Arc::new(trust_anchors(path)?));
        }
        let resolver = builder
            .build()
            .map_err(|error| SetupError(error.to_string()))?;
        Ok(Dns {
            resolver,
            validates: config.dnssec,
            // Each attempt may ask once more over TCP, and a chain of signatures takes several.
            limit: config.timeout * 4,
        })
    }

    /// The mail exchangers of a domain with their preferences.
    pub async fn mx(&self, domain: &str) -> Result<Answer<(u16, String)>, DnsError> {
        self.ask(domain, RecordType::MX, |data| match data {
            RData::MX(mx) => Some((mx.preference, text_of(&mx.exchange))),
            _ => None,
        })
        .await
    }

    /// The addresses of a host, of both families or one. It is secure if all of them are.
    pub async fn addresses(
        &self,
        host: &str,
        family: config::AddressFamily,
    ) -> Result<Answer<IpAddr>, DnsError> {
        let v4 = self.ask(host, RecordType::A, |data| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            _ => None,
        });
        let v6 = self.ask(host, RecordType::AAAA, |data| match data {
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        });
        match family {
            config::AddressFamily::Ipv4 => v4.await,
            config::AddressFamily::Ipv6 => v6.await,
            config::AddressFamily::Any => {
                let (v4, v6) = tokio::join!(v4, v6);
                match (v4, v6) {
                    (Ok(mut v4), Ok(v6)) => {
                        v4.secure = (v4.secure || v4.records.is_empty())
                            && (v6.secure || v6.records.is_empty())
                            && !(v4.records.is_empty() && v6.records.is_empty());
                        v4.records.extend(v6.records);
                        Ok(v4)
                    }
                    // What is forged is not made good by its other half.
                    (Err(error @ DnsError::Bogus(_)), _) | (_, Err(error @ DnsError::Bogus(_))) => {
                        Err(error)
                    }
                    (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.records.is_empty() => {
                        Ok(found)
                    }
                    (Err(error), _) | (_, Err(error)) => Err(error),
                }
            }
        }
    }

    /// The TLSA records of a service (RFC 6698).
    pub async fn tlsa(&self, name: &str) -> Result<Answer<TLSA>, DnsError> {
        self.ask(name, RecordType::TLSA, |data| match data {
            RData::TLSA(tlsa) => Some(tlsa.clone()),
            _ => None,
        })
        .await
    }

    /// The texts of a name, each joined from its strings.
    pub async fn txt(&self, name: &str) -> Result<Answer<String>, DnsError> {
        self.ask(name, RecordType::TXT, |data| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        })
        .await
    }

    async fn ask<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<Answer<T>, DnsError> {
        let failed = |reason: String| DnsError::Failed {
            name: name.to_owned(),
            reason,
        };
        let mut asked = Name::from_ascii(name).map_err(|error| failed(error.to_string()))?;
        asked.set_fqdn(true);
        timeout(self.limit, self.follow(asked, kind, read))
            .await
            .unwrap_or_else(|_| Err(failed("no answer in time".into())))
    }

    /// Asks, and follows an alias where the answer cannot be validated as a whole: the validator holds
    /// the denial of an alias's target against the alias's own name, and takes it for forged. Step by
    /// step each part is validated.
    async fn follow<T>(
        &self,
        asked: Name,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<Answer<T>, DnsError> {
        let mut name = asked;
        let mut secure = true;
        for _ in 0..MOST_ALIASES {
            let error = match self.resolver.lookup(name.clone(), kind).await {
                Ok(lookup) => {
                    let path = Path::of(lookup.answers(), kind, &name);
                    self.see_to_proof(&path)?;
                    secure &= path.aliases.iter().all(is_proven);
                    if !path.records.is_empty() {
                        return Ok(Answer {
                            secure: secure && path.records.iter().all(is_proven),
                            name: text_of(&path.end),
                            records: path
                                .records
                                .iter()
                                .filter_map(|it| read(&it.data))
                                .collect(),
                        });
                    }
                    name = path.end;
                    continue;
                }
                Err(error) => error,
            };
            let nothing = nothing(&text_of(&name), self.validates, error);
            if !matches!(nothing, Err(DnsError::Bogus(_))) {
                return nothing;
            }
            let Ok(alias) = self.resolver.lookup(name.clone(), RecordType::CNAME).await else {
                return nothing;
            };
            let path = Path::of(alias.answers(), kind, &name);
            if path.aliases.is_empty() {
                return nothing;
            }
            self.see_to_proof(&path)?;
            secure &= path.aliases.iter().all(is_proven);
            name = path.end;
        }
        Err(DnsError::Failed {
            name: text_of(&name),
            reason: "too many aliases".into(),
        })
    }

    /// An answer has to be one, and what it says must have been proven, or proven to be unsigned.
    fn see_to_proof(&self, path: &Path) -> Result<(), DnsError> {
        let name = text_of(&path.end);
        let is_judged = |record: &&Record| matches!(record.proof, Proof::Secure | Proof::Insecure);
        let mut all = path.aliases.iter().chain(&path.records).peekable();
        if all.peek().is_none() {
            let reason = "the answer is about another name".into();
            return Err(match self.validates {
                true => DnsError::Bogus(name),
                false => DnsError::Failed { name, reason },
            });
        }
        match self.validates && !all.all(is_judged) {
            true => Err(DnsError::Bogus(name)),
            false => Ok(()),
        }
    }
}

fn is_proven(record: &&Record) -> bool {
    record.proof == Proof::Secure
}

/// What an answer says of a name: the aliases that lead on from it, and the records at their end.
///
/// What the answer says of other names is passed over. Their own zones may have signed it, so it may be
/// proven, and still anybody on the way can have put it there.
pub struct Path<'a> {
    aliases: Vec<&'a Record>,
    records: Vec<&'a Record>,
    end: Name,
}

impl<'a> Path<'a> {
    /// The path through these records to those of one kind.
    pub fn of(answer: &'a [Record], kind: RecordType, asked: &Name) -> Self {
        let mut path = Path {
            aliases: Vec::new(),
            records: Vec::new(),
            end: asked.clone(),
        };
        loop {
            let own = |record: &&Record| record.name == path.end;
            let of_kind = |record: &&Record| record.record_type() == kind;
            path.records = answer.iter().filter(own).filter(of_kind).collect();
            if !path.records.is_empty() || path.aliases.len() == MOST_ALIASES {
                return path;
            }
            let alias = answer
                .iter()
                .filter(own)
                .find_map(|record| match &record.data {
                    RData::CNAME(target) => Some((record, &target.0)),
                    _ => None,
                });
            let Some((record, target)) = alias else {
                return path;
            };
            path.aliases.push(record);
            path.end = target.clone();
        }
    }
}

/// What an error says about the records: that there are none, or that nobody knows.
fn nothing<T>(name: &str, validates: bool, error: NetError) -> Result<Answer<T>, DnsError> {
    let code = match &error {
        NetError::Dns(Semantic::NoRecordsFound(none)) if validates && !is_denied(none) => {
            return Err(DnsError::Bogus(name.to_owned()));
        }
        NetError::Dns(Semantic::NoRecordsFound(none)) => none.response_code,
        NetError::Dns(Semantic::Nsec {
            proof, response, ..
        }) if *proof != Proof::Bogus => response.response_code,
        NetError::Dns(Semantic::Nsec { .. } | Semantic::DnssecBogus) => {
            return Err(DnsError::Bogus(name.to_owned()));
        }
        NetError::Timeout => {
            return Err(DnsError::Failed {
                name: name.to_owned(),
                reason: "no answer in time".into(),
            });
        }
        _ => {
            return Err(DnsError::Failed {
                name: name.to_owned(),
                reason: error.to_string(),
            });
        }
    };
    match code {
        ResponseCode::NoError => Ok(Answer {
            records: Vec::new(),
            secure: false,
            name: name.to_owned(),
        }),
        ResponseCode::NXDomain => Err(DnsError::NoSuchName(name.to_owned())),
        code => Err(DnsError::Failed {
            name: name.to_owned(),
            reason: code.to_string(),
        }),
    }
}

/// Whether a denial comes from the zone that the name belongs to: signed by it, or from one that is
/// provably unsigned. The validator lets pass what any other zone has to say as well, with which
/// anybody on the way could make TLSA records disappear.
fn is_denied(none: &NoRecords) -> bool {
    let name = none.query.name();
    let Some(authorities) = none.authorities.as_deref() else {
        // Names that are never asked for, such as those below "invalid." (RFC 6761).
        return true;
    };
    let proves = |record: &Record| {
        matches!(record.record_type(), RecordType::NSEC | RecordType::NSEC3)
            && record.proof == Proof::Secure
    };
    if authorities.iter().any(proves) {
        return authorities.iter().all(|record| match &record.data {
            RData::DNSSEC(DNSSECRData::RRSIG(signature)) if record.proof == Proof::Secure => {
                signature.input().signer_name.zone_of(name)
            }
            _ => true,
        });
    }
    authorities
        .iter()
        .any(|record| record.proof == Proof::Insecure && record.name.zone_of(name))
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn trust_anchors(path: &path::Path) -> Result<TrustAnchors, SetupError> {
    let anchors = TrustAnchors::from_file(path)
        .map_err(|error| SetupError(format!("{}: {error}", path.display())))?;
    if anchors.is_empty() {
        let text = format!("{}: there is no DNSKEY record in it", path.display());
        return Err(SetupError(text));
    }
    Ok(anchors)
}

/// A name without its final dot.
fn text_of(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    if text.len() > 1 && text.ends_with('.') {
        text.pop();
    }
    text
}
