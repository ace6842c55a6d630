//! What the DNS says, and whether DNSSEC has proven it. What no resolver on this machine has validated is validated
//! here, so the way to the name server need not be trusted.

pub mod answer;
mod error;
mod server;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use domain::base::Rtype;
use domain::base::iana::Rcode;
use domain::dnssec::validator::anchor::TrustAnchors;
use domain::resolv::stub::conf::ResolvConf;
use moka::Expiry;
use moka::sync::Cache;
use tokio::time::timeout;

use self::answer::{Data, MAX_ALIASES, Name};
pub use self::error::DnsError;
use self::error::text_of;
pub use self::server::stripping;
use self::server::{Ability, Server};
use crate::config;
use crate::egress::next_hop::client::ClientName;

/// Octets of answers that are kept, with what each takes beside them.
const CACHE: u64 = 8 << 20;
const OVERHEAD: usize = 500;
/// How long a client's name is looked for, and how many names of one address are looked at.
const NAMING: Duration = Duration::from_secs(5);
const MAX_NAMES: usize = 4;
/// Docker's own name server, which hands on what others on the network say, their AD bit included.
const DOCKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
/// Servers that may have fallen silent at once.
const MAX_SILENT: usize = 5;
/// How long it is remembered that there is nothing, and at most that there is something.
const NEGATIVE: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// The keys of the Internet's root (DS records), of 2017 and of 2024: <https://data.iana.org/root-anchors/root-anchors.xml>.
const ROOT: &str = "\
. IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D
. IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16
";

/// Whom to ask, and what to believe.
#[derive(PartialEq)]
pub struct Questions {
    config: config::Dns,
    /// The name servers, the system's if none are configured.
    servers: Vec<SocketAddr>,
    /// The root's keys (DNSKEY records), if they are not the Internet's.
    anchors: Option<String>,
}

impl Questions {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// If the system's name servers cannot be read, or the trust anchor.
    pub fn of(config: &config::Dns) -> Result<Self, SetupError> {
        let servers = match config.servers.is_empty() {
            true => system_servers()?,
            false => config.servers.clone(),
        };
        let path = config.trust_anchor.as_ref().filter(|_| config.dnssec);
        let anchors = path.map(|path| {
            let failed = |error| SetupError(format!("{}: {error}", path.display()));
            std::fs::read_to_string(path).map_err(failed)
        });
        Ok(Questions {
            config: config.clone(),
            servers,
            anchors: anchors.transpose()?,
        })
    }
}

/// The name servers of this machine, as resolv.conf(5) says.
fn system_servers() -> Result<Vec<SocketAddr>, SetupError> {
    let mut system = ResolvConf::new();
    let path = "/etc/resolv.conf";
    let parsed = system.parse_file(path);
    parsed.map_err(|error| SetupError(format!("{path}: {error}")))?;
    system.finalize();
    let mut servers: Vec<SocketAddr> = Vec::new();
    for server in &system.servers {
        if !servers.contains(&server.addr) {
            servers.push(server.addr);
        }
    }
    Ok(servers)
}

/// A resolver.
pub struct Dns {
    questions: Questions,
    servers: Arc<[Server]>,
    /// The server that has answered last, which is asked first.
    first: AtomicUsize,
    answers: Cache<(String, Rtype), Known>,
    /// For one question, repetitions included.
    limit: Duration,
}

/// An answer that is kept.
#[derive(Clone)]
struct Known {
    answer: Result<Arc<Found>, DnsError>,
    for_long: Duration,
}

struct Found {
    records: Vec<Data>,
    secure: bool,
    name: String,
    /// Whether the name that was asked for lies below a DNAME.
    is_renamed: bool,
    /// The size of the message, which its records keep.
    octets: usize,
}

impl Known {
    fn weight(&self) -> u32 {
        let found = self.answer.as_ref().map_or(0, |found| found.octets);
        u32::try_from(found + OVERHEAD).unwrap_or(u32::MAX)
    }
}

struct ByTtl;

impl Expiry<(String, Rtype), Known> for ByTtl {
    fn expire_after_create(
        &self,
        _: &(String, Rtype),
        known: &Known,
        _: Instant,
    ) -> Option<Duration> {
        Some(known.for_long)
    }

    fn expire_after_update(
        &self,
        _: &(String, Rtype),
        known: &Known,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(known.for_long)
    }
}

/// A TLSA record (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlsa {
    /// The certificate usage.
    pub usage: u8,
    /// What of the certificate is matched.
    pub selector: u8,
    /// How it is matched.
    pub matching: u8,
    /// What it is matched with.
    pub data: Vec<u8>,
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
    /// Whether it is an alias because a DNAME stands above it: then it has no records of its own.
    pub is_renamed: bool,
}

/// The DNS cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(String);

impl Dns {
    /// A resolver, on the runtime that this is called on.
    ///
    /// # Errors
    /// If the trust anchor cannot be read.
    pub fn new(questions: Questions) -> Result<Self, SetupError> {
        let config = &questions.config;
        let anchors = || match (config.dnssec, &config.trust_anchor, &questions.anchors) {
            (false, _, _) => Ok(None),
            (true, Some(path), Some(text)) => trust_anchors(path, text).map(Some),
            (true, _, _) => trust_anchors(Path::new("the root's keys"), ROOT).map(Some),
        };
        let server = |address: &SocketAddr| {
            let trusted = config.trust_ad.contains(&address.ip())
                || address.ip().is_loopback() && address.ip() != DOCKER;
            Ok(Server::new(*address, trusted, anchors()?, config.timeout))
        };
        let servers: Result<Arc<[Server]>, SetupError> =
            questions.servers.iter().map(server).collect();
        let servers = servers?;
        if config.dnssec {
            // What it is good for is said before the first mail.
            let servers = servers.clone();
            tokio::spawn(async move {
                futures_util::future::join_all(servers.iter().map(Server::ability)).await;
            });
        }
        Ok(Dns {
            servers,
            first: AtomicUsize::new(0),
            answers: Cache::builder()
                .max_capacity(CACHE)
                .weigher(|_, known: &Known| known.weight())
                .expire_after(ByTtl)
                .build(),
            // A server that has fallen silent is asked twice, and a chain of signatures takes several questions.
            limit: config.timeout * (2 + 2 * questions.servers.len().min(MAX_SILENT) as u32),
            questions,
        })
    }

    /// Whether it asks as it would if it were made anew.
    pub fn asks(&self, questions: &Questions) -> bool {
        self.questions == *questions
    }

    /// The name servers through which nothing can be proven, if there is none through which it can.
    pub fn strips(&self) -> Vec<SocketAddr> {
        let able = |server: &&Server| {
            matches!(
                server.known_ability(),
                None | Some(Ability::Trusted | Ability::Passes)
            )
        };
        if self.servers.iter().any(|server| able(&server)) {
            return Vec::new();
        }
        let strips = |server: &&Server| server.known_ability().is_some_and(Ability::strips);
        let servers = self.servers.iter().filter(strips);
        servers.map(Server::address).collect()
    }

    /// The mail exchangers of a domain with their preferences.
    pub async fn mx(&self, domain: &str) -> Result<Answer<(u16, String)>, DnsError> {
        self.ask(domain, Rtype::MX, |data| match data {
            Data::Mx(mx) => Some((mx.preference(), text_of(mx.exchange()))),
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
        let v4 = self.ask(host, Rtype::A, |data| match data {
            Data::A(a) => Some(IpAddr::V4(a.addr())),
            _ => None,
        });
        let v6 = self.ask(host, Rtype::AAAA, |data| match data {
            Data::Aaaa(aaaa) => Some(IpAddr::V6(aaaa.addr())),
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
                        if v4.records.is_empty() {
                            v4.name = v6.name;
                        }
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
    pub async fn tlsa(&self, name: &str) -> Result<Answer<Tlsa>, DnsError> {
        self.ask(name, Rtype::TLSA, |data| match data {
            Data::Tlsa(tlsa) => Some(Tlsa {
                usage: tlsa.usage().to_int(),
                selector: tlsa.selector().to_int(),
                matching: tlsa.matching_type().to_int(),
                data: tlsa.data().to_vec(),
            }),
            _ => None,
        })
        .await
    }

    /// Whether DNSSEC has proven that a name is an alias, wherever it leads to.
    ///
    /// # Errors
    /// If nobody knows.
    pub async fn is_proven_alias(&self, name: &str) -> Result<bool, DnsError> {
        let alias = self.ask(name, Rtype::CNAME, |data| match data {
            Data::Cname(_) => Some(()),
            _ => None,
        });
        match alias.await {
            Ok(alias) => Ok(alias.secure && !alias.records.is_empty()),
            Err(DnsError::NoSuchName(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The texts of a name, each joined from its strings.
    pub async fn txt(&self, name: &str) -> Result<Answer<String>, DnsError> {
        self.ask(name, Rtype::TXT, |data| match data {
            Data::Txt(txt) => {
                let text: Vec<u8> = txt.iter().flatten().copied().collect();
                Some(String::from_utf8_lossy(&text).into_owned())
            }
            _ => None,
        })
        .await
    }

    /// What an address is called: the name that its own zone gives it, if that leads back to it (RFC 8601 §2.7.3).
    pub async fn name_of(&self, ip: IpAddr) -> ClientName {
        match timeout(self.limit.min(NAMING), self.confirmed_name(ip)).await {
            Ok(name) => name,
            Err(_) => ClientName::Unknown,
        }
    }

    async fn confirmed_name(&self, ip: IpAddr) -> ClientName {
        let question = reverse_name(ip);
        let names = self.ask(&question, Rtype::PTR, |data| match data {
            Data::Ptr(name) => Some(text_of(name.ptrdname())),
            _ => None,
        });
        let names = match names.await {
            Ok(names) => names.records,
            Err(DnsError::NoSuchName(_)) => return ClientName::None,
            Err(_) => return ClientName::Unknown,
        };
        let family = match ip {
            IpAddr::V4(_) => config::AddressFamily::Ipv4,
            IpAddr::V6(_) => config::AddressFamily::Ipv6,
        };
        let mut outcome = ClientName::None;
        for name in names.into_iter().take(MAX_NAMES) {
            match self.addresses(&name, family).await {
                Ok(found) if found.records.contains(&ip) => {
                    return ClientName::Confirmed(name.into());
                }
                Ok(_) | Err(DnsError::NoSuchName(_)) => {}
                Err(_) => outcome = ClientName::Unknown,
            }
        }
        outcome
    }

    async fn ask<T>(
        &self,
        name: &str,
        kind: Rtype,
        read: impl Fn(&Data) -> Option<T>,
    ) -> Result<Answer<T>, DnsError> {
        let found = match self.answers.get(&(name.to_owned(), kind)) {
            Some(known) => known.answer,
            None => self.ask_servers(name, kind).await,
        }?;
        Ok(Answer {
            records: found.records.iter().filter_map(read).collect(),
            secure: found.secure,
            name: found.name.clone(),
            is_renamed: found.is_renamed,
        })
    }

    /// Asks, and keeps the answer.
    async fn ask_servers(&self, name: &str, kind: Rtype) -> Result<Arc<Found>, DnsError> {
        let failed = |reason: String| DnsError::Failed {
            name: name.to_owned(),
            reason,
        };
        let asked = Name::from_chars(name.chars()).map_err(|error| failed(error.to_string()))?;
        let following = timeout(self.limit, self.follow(asked, kind));
        let (answer, for_long) = match following.await {
            Ok(Ok((found, ttl))) => {
                let for_long = match found.records.is_empty() {
                    true => NEGATIVE,
                    false => Duration::from_secs(ttl.into()).min(LONGEST),
                };
                (Ok(Arc::new(found)), for_long)
            }
            Ok(Err(error @ DnsError::NoSuchName(_))) => (Err(error), NEGATIVE),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(failed("no answer in time".into())),
        };
        if !for_long.is_zero() {
            let known = Known {
                answer: answer.clone(),
                for_long,
            };
            self.answers.insert((name.to_owned(), kind), known);
        }
        answer
    }

    /// Asks, and asks on where an answer is an alias only, as those of some forwarders are.
    async fn follow(&self, asked: Name, kind: Rtype) -> Result<(Found, u32), DnsError> {
        let mut name = asked;
        let asked = name.clone();
        let (mut secure, mut ttl) = (true, u32::MAX);
        let mut is_renamed = false;
        for _ in 0..MAX_ALIASES {
            let (answer, is_proven) = self.ask_any(&name, kind).await?;
            let path = answer.path(&name, kind);
            is_renamed |= answer.is_renamed(&asked);
            secure &= is_proven;
            ttl = ttl.min(path.ttl);
            if answer.code() == Rcode::NXDOMAIN {
                return Err(DnsError::NoSuchName(text_of(&path.end)));
            }
            if !path.records.is_empty() || path.end == name || answer.has_soa() {
                let found = Found {
                    secure: secure && !path.records.is_empty(),
                    records: path.records.into_iter().cloned().collect(),
                    name: text_of(&path.end),
                    is_renamed,
                    octets: answer.octets(),
                };
                return Ok((found, ttl));
            }
            name = path.end;
        }
        Err(DnsError::Failed {
            name: text_of(&name),
            reason: "too many aliases".into(),
        })
    }

    /// Asks servers of which what is known may not hold any longer, while mail goes on.
    fn look_at_the_doubtful(&self) {
        if !self.servers.iter().any(Server::is_doubtful) {
            return;
        }
        let servers = self.servers.clone();
        tokio::spawn(async move {
            let doubtful = servers.iter().filter(|server| server.is_doubtful());
            futures_util::future::join_all(doubtful.map(Server::look_again)).await;
        });
    }

    /// Asks the servers one by one, until one has an answer. Those through which nothing can be proven are asked if
    /// there are no others.
    async fn ask_any(
        &self,
        name: &Name,
        kind: Rtype,
    ) -> Result<(answer::Answered, bool), DnsError> {
        if self.servers.len() > 1 {
            // Before it is known what they are good for, none can be preferred.
            let unknown = self
                .servers
                .iter()
                .filter(|it| it.known_ability().is_none());
            futures_util::future::join_all(unknown.map(Server::ability)).await;
        }
        let mut able = Vec::new();
        let mut strips = Vec::new();
        let mut silent = Vec::new();
        let first = self.first.load(Ordering::Relaxed);
        let (before, after) = self.servers.split_at(first.min(self.servers.len()));
        for server in after.iter().chain(before) {
            match server.known_ability() {
                Some(ability) if ability.strips() => strips.push(server),
                Some(Ability::Silent) => silent.push(server),
                _ => able.push(server),
            }
        }
        let mut failure = None;
        self.look_at_the_doubtful();
        let number = able.len();
        let servers = able.into_iter().chain(strips).chain(silent);
        for (place, server) in servers.enumerate() {
            // What is forged, or withheld, is not made good by one that cannot tell.
            if failure.is_some() && self.questions.config.dnssec && place >= number {
                break;
            }
            let mut outcome = server.ask(name, kind).await;
            if matches!(outcome, Err(DnsError::Bogus(_))) {
                // What it was held against may have been older than it.
                outcome = server.ask(name, kind).await;
            }
            match outcome {
                Ok(answer) => {
                    let same = |other: &Server| std::ptr::eq(other, server);
                    if let Some(place) = self.servers.iter().position(same) {
                        self.first.store(place, Ordering::Relaxed);
                    }
                    return Ok(answer);
                }
                Err(error) if matches!(failure, Some(DnsError::Bogus(_))) => drop(error),
                Err(error) => failure = Some(error),
            }
        }
        self.look_at_the_doubtful();
        Err(failure.unwrap_or_else(|| DnsError::Failed {
            name: text_of(name),
            reason: "there is no name server to ask".into(),
        }))
    }
}

fn trust_anchors(path: &Path, text: &str) -> Result<TrustAnchors, SetupError> {
    let wrong = |what: String| SetupError(format!("{}: {what}", path.display()));
    let is_key = |line: &str| line.contains("DNSKEY") || line.contains("DS");
    if !text
        .lines()
        .any(|line| !line.trim_start().starts_with(';') && is_key(line))
    {
        return Err(wrong("there is no DNSKEY record in it".into()));
    }
    TrustAnchors::from_u8(text.as_bytes()).map_err(|error| wrong(error.to_string()))
}

/// Where the names of an address stand (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse_name(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let digits = format!("{:032x}", ip.to_bits());
            let labels: Vec<String> = digits.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}
