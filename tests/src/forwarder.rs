//! Name servers of our own that others would not be: one that stands between a resolver and who asks it, and one with
//! zones that are served against the rules.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hickory_resolver::proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::txt::Parser;

use crate::daemon::TIMEOUT;

/// The UDP payload that resolvers ask for.
const PAYLOAD: u16 = 1232;

/// A name server, for UDP and TCP. Dropping it stops it.
pub struct Forwarder {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Forwarder {
    /// Starts one on a free port of 127.0.0.1 that answers so, or not at all.
    pub fn start(
        answer: impl Fn(&Message) -> Option<Message> + Send + Sync + 'static,
    ) -> Forwarder {
        let (udp, tcp) = bind();
        let address = udp.local_addr().expect("local address");
        let stop = Arc::<AtomicBool>::default();
        let reply = Arc::new(move |request: &[u8], is_udp: bool| {
            let request = Message::from_vec(request).ok()?;
            let mut answer = answer(&request)?;
            answer.metadata.id = request.metadata.id;
            let bytes = answer.to_vec().expect("encode answer");
            if is_udp && bytes.len() > usize::from(request.max_payload()) {
                return Some(answer.truncate().to_vec().expect("encode answer"));
            }
            Some(bytes)
        });
        let (for_udp, ended) = (reply.clone(), stop.clone());
        thread::spawn(move || {
            let udp = Arc::new(udp);
            let mut buffer = [0; 4096];
            loop {
                let received = udp.recv_from(&mut buffer);
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                // An error only tells that an earlier answer came too late for somebody.
                let Ok((length, peer)) = received else {
                    continue;
                };
                let (request, reply, udp) =
                    (buffer[..length].to_vec(), for_udp.clone(), udp.clone());
                thread::spawn(move || {
                    reply(&request, true).map(|answer| udp.send_to(&answer, peer))
                });
            }
        });
        let ended = stop.clone();
        thread::spawn(move || {
            for stream in tcp.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (mut stream, reply) = (stream.expect("accept"), reply.clone());
                thread::spawn(move || {
                    while let Some(request) = framed(&mut stream) {
                        let Some(answer) = reply(&request, false) else {
                            return;
                        };
                        if stream.write_all(&with_length(&answer)).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Forwarder { address, stop }
    }

    /// Starts one that stands before a resolver. `change` is given the question, what the resolver says to it, and
    /// whom to ask further.
    pub fn between(
        resolver: SocketAddr,
        change: impl Fn(&Query, &mut Message, &Upstream) + Send + Sync + 'static,
    ) -> Forwarder {
        Forwarder::start(move |request| {
            let upstream = Upstream(resolver);
            let query = request.queries.first()?;
            let mut answer = upstream.exchange(request)?;
            change(query, &mut answer, &upstream);
            Some(answer)
        })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Both threads sleep until something arrives.
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|waker| waker.send_to(&[], self.address));
        let _ = TcpStream::connect(self.address);
    }
}

/// A resolver to ask.
pub struct Upstream(pub SocketAddr);

impl Upstream {
    /// What it says to a question, DNSSEC included.
    pub fn ask(&self, name: &str, kind: RecordType) -> Message {
        let mut request = Message::query();
        request.metadata.recursion_desired = true;
        request.metadata.checking_disabled = true;
        request.add_query(Query::query(parse_name(name), kind));
        let mut edns = Edns::new();
        edns.set_dnssec_ok(true).set_max_payload(PAYLOAD);
        request.set_edns(edns);
        self.exchange(&request).expect("the resolver answers")
    }

    /// What it says to a message.
    pub fn exchange(&self, request: &Message) -> Option<Message> {
        let request = request.to_vec().expect("encode request");
        let udp = UdpSocket::bind("127.0.0.1:0").ok()?;
        udp.set_read_timeout(Some(TIMEOUT)).ok()?;
        udp.connect(self.0).ok()?;
        udp.send(&request).ok()?;
        let mut buffer = [0; 4096];
        let length = udp.recv(&mut buffer).ok()?;
        let answer = Message::from_vec(&buffer[..length]).ok()?;
        if !answer.metadata.truncation {
            return Some(answer);
        }
        let mut tcp = TcpStream::connect(self.0).ok()?;
        tcp.write_all(&with_length(&request)).ok()?;
        Message::from_vec(&framed(&mut tcp)?).ok()
    }
}

/// Unsigned zones that are served as some do: each of `apex.test`, `nosoa.test` and `noans.test` has zones below it,
/// down to `l.deep.child.`, and all are on one server. What a parent should say of the DS of such a zone, the zone
/// itself says. In `nosoa.test` no denial has an SOA either. In `noans.test` questions for DS, DNSKEY and TLSA are
/// refused, and there are no NS below.
pub const ODD: [&str; 3] = ["apex.test.", "nosoa.test.", "noans.test."];

/// The zones at and below one of [`ODD`].
pub fn odd_cuts(tree: &str) -> [String; 4] {
    ["", "child.", "deep.child.", "l.deep.child."].map(|below| format!("{below}{tree}"))
}

/// Starts the server of [`ODD`], with these records in each zone; `@` is the zone.
pub fn odd_server(records: &str) -> Forwarder {
    let mut all: BTreeMap<Name, Vec<Record>> = BTreeMap::new();
    for zone in ODD.iter().flat_map(|tree| odd_cuts(tree)) {
        let apex = format!(
            "@ SOA ns.{zone} h.test. 1 3600 600 86400 60\n@ NS ns.servers.test.\n{records}"
        );
        for record in parse(&apex, &zone) {
            all.entry(record.name.clone()).or_default().push(record);
        }
    }
    Forwarder::start(move |request| odd_answer(&all, request))
}

fn odd_answer(all: &BTreeMap<Name, Vec<Record>>, request: &Message) -> Option<Message> {
    let query = request.queries.first()?;
    let (mut name, kind) = (query.name().clone(), query.query_type());
    let mut answer = Message::response(request.metadata.id, OpCode::Query);
    answer.metadata.authoritative = true;
    answer.add_query(query.clone());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        answer.set_edns(edns);
    }
    let is_below = |zone: &str| parse_name(zone).zone_of(&name);
    let Some(tree) = ODD.iter().find(|tree| is_below(tree)) else {
        answer.metadata.response_code = ResponseCode::Refused;
        return Some(answer);
    };
    let cuts = odd_cuts(tree);
    let cuts = cuts.iter().filter(|zone| is_below(zone));
    let zone = cuts.max_by_key(|zone| zone.len()).expect("the tree itself");
    if *tree == "noans.test." {
        if matches!(kind, RecordType::DS | RecordType::DNSKEY | RecordType::TLSA) {
            answer.metadata.response_code = ResponseCode::Refused;
            return Some(answer);
        }
        if kind == RecordType::NS && zone != tree {
            return Some(answer);
        }
    }
    let at = |name: &Name, kind: RecordType| -> Vec<Record> {
        let own = all.get(name).into_iter().flatten();
        own.filter(|record| record.record_type() == kind)
            .cloned()
            .collect()
    };
    if kind != RecordType::CNAME {
        let alias = at(&name, RecordType::CNAME);
        if let Some(RData::CNAME(target)) = alias.first().map(|record| &record.data) {
            name = target.0.clone();
            answer.add_answers(alias);
        }
    }
    let found = at(&name, kind);
    if !found.is_empty() {
        answer.add_answers(found);
        return Some(answer);
    }
    // A name exists also if only names below it have records.
    if !all.keys().any(|other| name.zone_of(other)) {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    if *tree != "nosoa.test." {
        answer.add_authorities(at(&parse_name(zone), RecordType::SOA));
    }
    Some(answer)
}

/// Records as lines of a zone file.
pub fn parse(text: &str, origin: &str) -> Vec<Record> {
    let lines = ["$TTL 300"].into_iter().chain(text.lines());
    let text: String = lines.map(|line| format!("{}\n", line.trim())).collect();
    let parser = Parser::new(text, None, Some(parse_name(origin)));
    let (_origin, rrsets) = parser.parse().expect("records");
    let records = rrsets.into_values().flatten();
    records.collect()
}

/// A name that is whole.
pub fn parse_name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("domain name");
    name.set_fqdn(true);
    name
}

/// Two sockets with the same port. Somebody may hold its other half, hence the attempts.
fn bind() -> (UdpSocket, TcpListener) {
    let attempts = (0..100).find_map(|_| {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bind UDP");
        let tcp = TcpListener::bind(udp.local_addr().expect("local address"));
        Some((udp, tcp.ok()?))
    });
    attempts.expect("a port that is free for both UDP and TCP")
}

/// A message over TCP; `None` at the end of the connection.
fn framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

fn with_length(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("a message of DNS");
    [&length.to_be_bytes()[..], message].concat()
}
