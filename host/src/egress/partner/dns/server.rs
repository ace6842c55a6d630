//! One recursive name server: what it is good for, and what its answers prove.
//!
//! A resolver on loopback that validates is trusted to do so, as Postfix does; any other answer is validated here.
//! Three things are put right around the validator in use, with its public interface:
//! [signatures of other zones](Answered::guarded); denials without SOA below an unsigned delegation, which it holds
//! for forged; and answers of a resolver that has failed, which are no denials.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::base::iana::{Class, Rcode};
use domain::base::name::ToName;
use domain::base::{Message, MessageBuilder, Rtype, Ttl};
use domain::dnssec::validator::anchor::TrustAnchors;
use domain::dnssec::validator::context::{Config, ValidationContext, ValidationState};
use domain::net::client::protocol::{TcpConnect, UdpConnect};
use domain::net::client::request::{ComposeRequest, RequestMessage, SendRequest};
use domain::net::client::{dgram, dgram_stream, multi_stream, stream};
use domain::rdata::A;
use futures_util::FutureExt;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::error::{DnsError, text_of};
use crate::egress::partner::dns::answer::{
    Answered, MAX_ALIASES, Malformed, Name, finished, malformed,
};

/// The UDP payload that is not fragmented (DNS flag day 2020).
const PAYLOAD: u16 = 1232;
/// Zones whose keys the validator knows at a time.
const ZONES: u64 = 4096;
/// After which time it is asked again what a server is good for: once it has answered, and until then.
const KNOWN_FOR: Duration = Duration::from_secs(600);
const SILENT_FOR: Duration = Duration::from_secs(5);

/// What a resolver is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// It validates, and may be trusted to: its AD bit counts.
    Trusted,
    /// It hands on what is needed to validate here.
    Passes,
    /// It withholds signatures or denials, or EDNS altogether: nothing can be proven through it.
    Strips,
    /// The same, and it refuses whatever has EDNS (RFC 6891).
    Plain,
    /// It does not answer.
    Silent,
}

/// The name servers in use that strip DNSSEC, and how many resolvers use each.
static STRIPPING: LazyLock<std::sync::Mutex<HashMap<SocketAddr, usize>>> =
    LazyLock::new(std::sync::Mutex::default);
static STRIPPING_GAUGE: LazyLock<Gauge> = LazyLock::new(Gauge::default);

/// The metric of name servers in use that strip DNSSEC.
pub fn stripping() -> Gauge {
    STRIPPING_GAUGE.clone()
}

/// Notes whether a resolver's server strips DNSSEC now, and did before.
fn count_stripping(server: SocketAddr, before: bool, now: bool) {
    let mut stripping = STRIPPING.lock().unwrap_or_else(PoisonError::into_inner);
    let users = stripping.entry(server).or_default();
    *users += usize::from(now);
    *users = users.saturating_sub(usize::from(before));
    stripping.retain(|_, users| *users > 0);
    STRIPPING_GAUGE.set(i64::try_from(stripping.len()).unwrap_or(i64::MAX));
}

impl Ability {
    /// Whether nothing can be proven through it.
    pub fn strips(self) -> bool {
        matches!(self, Ability::Strips | Ability::Plain)
    }
}

type Client = dgram_stream::Connection<UdpConnect, RequestMessage<Bytes>>;

/// A recursive name server.
pub struct Server {
    address: SocketAddr,
    /// Whether its AD bit may be believed: nobody is on the way to it, or the configuration says so.
    may_trust: bool,
    client: Client,
    /// Without EDNS.
    plain: Client,
    /// `None` if nothing is to be validated.
    validator: Option<ValidationContext<Client>>,
    transports: [JoinHandle<()>; 2],
    known: Mutex<Option<(Ability, Instant)>>,
    /// Whether a question had no answer since that was found out.
    has_failed: AtomicBool,
    is_looking: AtomicBool,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.transports.iter().for_each(JoinHandle::abort);
        let strips = self.known_ability().is_some_and(Ability::strips);
        if strips && self.validator.is_some() {
            count_stripping(self.address, true, false);
        }
    }
}

impl Server {
    /// A server that is asked from now on, on the runtime that this is called on. It has `limit` for an answer.
    pub fn new(
        address: SocketAddr,
        may_trust: bool,
        anchors: Option<TrustAnchors>,
        limit: Duration,
    ) -> Self {
        let client = |payload| {
            let mut udp = dgram::Config::new();
            udp.set_read_timeout(limit);
            udp.set_max_retries(1);
            udp.set_udp_payload_size(payload);
            let mut tcp = stream::Config::new();
            tcp.set_response_timeout(limit);
            let config = dgram_stream::Config::from_parts(udp, multi_stream::Config::from(tcp));
            let (client, transport) = dgram_stream::Connection::with_config(
                UdpConnect::new(address),
                TcpConnect::new(address),
                config,
            );
            (client, tokio::spawn(transport.run()))
        };
        let (plain, of_plain) = client(None);
        let (client, of_client) = client(Some(PAYLOAD));
        let validator = anchors.map(|anchors| {
            let mut config = Config::new();
            // Both set the same field, and the last one wins.
            config.set_max_nsec3_cache(ZONES);
            config.set_max_node_cache(ZONES);
            ValidationContext::with_config(anchors, client.clone(), config)
        });
        Server {
            address,
            may_trust,
            client,
            validator,
            plain,
            transports: [of_client, of_plain],
            known: Mutex::new(None),
            has_failed: AtomicBool::new(false),
            is_looking: AtomicBool::new(false),
        }
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it is good for, as far as that is known now.
    pub fn known_ability(&self) -> Option<Ability> {
        let known = self.known.try_lock().ok()?;
        known.map(|(ability, _)| ability)
    }

    /// What it is good for. It is asked if that is not known at all.
    pub async fn ability(&self) -> Ability {
        let mut known = self.known.lock().await;
        if let Some((ability, _)) = *known {
            return ability;
        }
        let ability = self.detect().await;
        self.learn(&mut known, ability);
        ability
    }

    /// Whether what is known of it may not be so any longer: it is old, or there was no answer.
    pub fn is_doubtful(&self) -> bool {
        let Ok(known) = self.known.try_lock() else {
            return false;
        };
        let is_old = |(ability, since): (Ability, Instant)| {
            since.elapsed()
                > match ability {
                    Ability::Silent => SILENT_FOR,
                    _ => KNOWN_FOR,
                }
        };
        self.has_failed.load(Ordering::Relaxed) && known.is_some() || known.is_some_and(is_old)
    }

    /// Asks once more what it is good for. Meanwhile the old holds.
    pub async fn look_again(&self) {
        if self.is_looking.swap(true, Ordering::Relaxed) {
            return;
        }
        self.has_failed.store(false, Ordering::Relaxed);
        let ability = self.detect().await;
        let mut known = self.known.lock().await;
        self.learn(&mut known, ability);
        self.is_looking.store(false, Ordering::Relaxed);
    }

    fn learn(&self, known: &mut Option<(Ability, Instant)>, ability: Ability) {
        let before = known.map(|(before, _)| before);
        if ability.strips() && matches!(before, Some(Ability::Trusted | Ability::Passes)) {
            // Whoever is on the way could make it look so, to switch DANE off.
            tracing::error!(
                server = %self.address,
                "the name server has passed DNSSEC on, and no longer does: what cannot be proven is deferred until it \
                 does again, or portcullis is restarted"
            );
            *known = before.map(|before| (before, Instant::now()));
            return;
        }
        *known = Some((ability, Instant::now()));
        if before != Some(ability) && self.validator.is_some() {
            self.tell(ability);
            let before = before.is_some_and(Ability::strips);
            count_stripping(self.address, before, ability.strips());
        }
    }

    fn tell(&self, ability: Ability) {
        let server = self.address;
        match ability {
            Ability::Trusted => {
                tracing::info!(%server, "the name server validates DNSSEC, and is trusted to");
            }
            Ability::Passes => tracing::info!(%server, "DNSSEC is validated here"),
            Ability::Strips | Ability::Plain => tracing::error!(
                %server,
                "the name server withholds DNSSEC signatures, or nothing that comes by it is signed as the trust anchor \
                 says: opportunistic DANE is off, and mail that must have DANE is deferred; use a validating resolver on \
                 this machine, or set [dns] dnssec = false"
            ),
            Ability::Silent => tracing::warn!(%server, "the name server does not answer"),
        }
    }

    /// Asks for the root's keys, and for something that the root does not have.
    async fn detect(&self) -> Ability {
        let root = Name::root();
        if self.validator.is_none() {
            return match self.exchange(&self.plain, &root, Rtype::NS, false).await {
                Ok(_) => Ability::Passes,
                Err(_) => Ability::Silent,
            };
        }
        let mut is_authentic = true;
        for kind in [Rtype::DNSKEY, Rtype::TXT] {
            let Ok(answer) = self.exchange(&self.client, &root, kind, false).await else {
                return Ability::Silent;
            };
            if !matches!(answer.code(), Rcode::NOERROR | Rcode::NXDOMAIN) {
                return self.detect_plain(&root).await;
            }
            is_authentic &= answer.is_authentic();
            let proven = match answer.guarded() {
                Ok(guarded) if answer.code() == Rcode::NOERROR => self.state(guarded).await,
                _ => return Ability::Strips,
            };
            if !matches!(proven, Ok(ValidationState::Secure)) {
                return Ability::Strips;
            }
        }
        match is_authentic && self.may_trust {
            true => Ability::Trusted,
            false => Ability::Passes,
        }
    }

    /// What it is good for, if it refuses questions with EDNS.
    async fn detect_plain(&self, root: &Name) -> Ability {
        match self.exchange(&self.plain, root, Rtype::NS, false).await {
            Ok(answer) if answer.code() == Rcode::NOERROR => Ability::Plain,
            Ok(_) => Ability::Strips,
            Err(_) => Ability::Silent,
        }
    }

    /// Asks a question. Gives the answer, and whether it is proven.
    ///
    /// # Errors
    /// If there is no answer, or it is not what its zone has signed.
    pub async fn ask(&self, name: &Name, kind: Rtype) -> Result<(Answered, bool), DnsError> {
        let ability = self.ability().await;
        let validates = self.validator.is_some() && ability == Ability::Passes;
        let failed = |reason| DnsError::Failed {
            name: text_of(name),
            reason,
        };
        if ability == Ability::Silent {
            return Err(failed(format!("{} does not answer", self.address)));
        }
        let client = match ability {
            Ability::Plain => &self.plain,
            _ => &self.client,
        };
        let answer = self.exchange(client, name, kind, validates).await;
        let answer = answer.map_err(|reason| {
            // It may be this name only that takes the resolver so long.
            self.has_failed.store(true, Ordering::Relaxed);
            failed(reason)
        })?;
        if !matches!(answer.code(), Rcode::NOERROR | Rcode::NXDOMAIN) {
            return Err(failed(format!("{} says {}", self.address, answer.code())));
        }
        if !validates {
            let is_proven = ability == Ability::Trusted && answer.is_authentic();
            return Ok((answer, is_proven));
        }
        match self.verify(&answer, name, kind).await.map_err(failed)? {
            ValidationState::Secure => Ok((answer, true)),
            ValidationState::Insecure => Ok((answer, false)),
            _ => Err(DnsError::Bogus(text_of(&answer.path(name, kind).end))),
        }
    }

    async fn verify(
        &self,
        answer: &Answered,
        name: &Name,
        kind: Rtype,
    ) -> Result<ValidationState, String> {
        let guarded = answer.guarded().map_err(|error| error.to_string())?;
        let state = self.state(guarded).await?;
        let path = answer.path(name, kind);
        let denies = path.records.is_empty() && !answer.has_soa();
        if state != ValidationState::Bogus || !denies || !self.is_insecure(&path.end).await? {
            return Ok(state);
        }
        // A denial without SOA, below an unsigned delegation. The aliases that lead there have to hold by themselves.
        let mut at = name.clone();
        for _ in 0..MAX_ALIASES {
            let Some((next, _)) = answer.next(&at) else {
                return Ok(ValidationState::Insecure);
            };
            let link = answer.link(&at).and_then(Answered::read);
            let link = link.and_then(|link| link.guarded());
            if self.state(link.map_err(|error| error.to_string())?).await? == ValidationState::Bogus
            {
                return Ok(ValidationState::Bogus);
            }
            at = next;
        }
        Ok(ValidationState::Bogus)
    }

    /// Whether a name is proven to lie below an unsigned delegation: the validator walks down from the root to verify
    /// an invented record there that is not signed.
    async fn is_insecure(&self, name: &Name) -> Result<bool, String> {
        let invented = || -> Result<Message<Bytes>, Malformed> {
            let mut message = MessageBuilder::new_vec().question();
            message.push((name, Rtype::A)).map_err(malformed)?;
            let mut message = message.answer();
            let nowhere = A::from_octets(0, 0, 0, 0);
            message
                .push((name, Class::IN, Ttl::ZERO, nowhere))
                .map_err(malformed)?;
            finished(message.additional())
        };
        let invented = invented().map_err(|error| error.to_string())?;
        Ok(self.state(invented).await? == ValidationState::Insecure)
    }

    /// What the validator holds of a message. What comes from outside may have found a fault in it.
    async fn state(&self, mut message: Message<Bytes>) -> Result<ValidationState, String> {
        let Some(validator) = &self.validator else {
            return Ok(ValidationState::Insecure);
        };
        // Its type is too long to be part of those of all that wait for it.
        let validating = validator.validate_msg::<Bytes, Bytes>(&mut message).boxed();
        match AssertUnwindSafe(validating).catch_unwind().await {
            Ok(Ok((state, _))) => Ok(state),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the answer cannot be validated".to_owned()),
        }
    }

    /// One question. With `cd` the resolver hands on what it holds for forged, for us to verify (RFC 4035 §3.2.2).
    async fn exchange(
        &self,
        client: &Client,
        name: &Name,
        kind: Rtype,
        cd: bool,
    ) -> Result<Answered, String> {
        let has_dnssec = self.validator.is_some() && !std::ptr::eq(client, &self.plain);
        let request = || -> Result<RequestMessage<Bytes>, Malformed> {
            let mut query = MessageBuilder::new_vec();
            query.header_mut().set_rd(true);
            query.header_mut().set_cd(cd);
            // RFC 6840 §5.7: it may say in AD what it has validated.
            query.header_mut().set_ad(has_dnssec);
            let mut query = query.question();
            query
                .push((name.to_name::<Bytes>(), kind))
                .map_err(malformed)?;
            let mut request =
                RequestMessage::new(finished(query.additional())?).map_err(malformed)?;
            if has_dnssec {
                // Saying no here would say it by EDNS.
                request.set_dnssec_ok(true);
            }
            Ok(request)
        };
        let request = request().map_err(|error| error.to_string())?;
        let answer = client.send_request(request).get_response().await;
        let answer = answer.map_err(|error| format!("{}: {error}", self.address))?;
        Answered::read(answer).map_err(|error| error.to_string())
    }
}
