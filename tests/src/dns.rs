//! A DNS server for tests of programs that validate DNSSEC themselves.
//!
//! It answers as a recursive resolver would, but makes up the whole world behind it:
//! a signed root zone that holds all records, and the zone `unsigned.`, which the root
//! delegates without DS, so everything at and below it is provably insecure.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use hickory_resolver::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_resolver::proto::dnssec::rdata::sig::SigInput;
use hickory_resolver::proto::dnssec::rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG};
use hickory_resolver::proto::dnssec::{SigningKey, TBS};
use hickory_resolver::proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};
use hickory_resolver::proto::serialize::txt::Parser;

/// TTL of records whose line names none, and of denials.
const TTL: u32 = 300;

/// When all signatures begin and end to be valid, in 2020 and 2086. As this is constant, and
/// Ed25519 is deterministic, equal answers are equal to the bit, and resolvers may keep their
/// verdicts.
const VALIDITY: (u32, u32) = (1_577_836_800, 3_660_681_600);

/// What makes the two zones zones.
const APEXES: &str = ". SOA ns.root. hostmaster.root. 1 3600 600 86400 300
    . NS ns.root.
    unsigned. SOA ns.unsigned. hostmaster.unsigned. 1 3600 600 86400 300
    unsigned. NS ns.unsigned.";

/// A running server. Dropping it stops it.
pub struct Dns {
    address: SocketAddr,
    world: Arc<Mutex<World>>,
}

impl Dns {
    /// Starts a server on a free port of 127.0.0.1, for UDP and TCP.
    ///
    /// Records are lines of a zone file, for example `bank.test. MX 10 mx.bank.test.` or
    /// `_mta-sts.bank.test. 60 TXT "v=STSv1; id=1"`; one string may hold several lines.
    pub fn start(records: &[&str]) -> Dns {
        let (udp, tcp) = bind();
        let address = udp.local_addr().expect("local address");
        let world = Arc::new(Mutex::new(World::new(records)));
        let (for_udp, for_tcp) = (world.clone(), world.clone());
        thread::spawn(move || serve_udp(&udp, &for_udp));
        thread::spawn(move || serve_tcp(&tcp, &for_tcp));
        Dns { address, world }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces all records and heals all names that were broken, failing or silent.
    /// The key stays, so running resolvers keep their trust; the log stays too.
    pub fn set(&self, records: &[&str]) {
        lock(&self.world).set(records);
    }

    /// Adds records.
    pub fn add(&self, records: &str) {
        lock(&self.world).add(records);
    }

    /// From now on the signatures in answers for this name, also in denials, are bogus.
    pub fn break_signatures(&self, name: &str) {
        self.fault(name, Fault::Bogus);
    }

    /// From now on questions for this name are answered with SERVFAIL.
    pub fn fail(&self, name: &str) {
        self.fault(name, Fault::Failure);
    }

    /// From now on somebody on the way says that this name does not exist, in the name of a zone that
    /// has nothing to do with it and is not signed.
    pub fn forge_denial(&self, name: &str) {
        self.fault(name, Fault::Forgery);
    }

    /// From now on somebody on the way adds to answers for this name what another name has of the kind, with
    /// good signatures.
    pub fn add_foreign(&self, name: &str, other: &str) {
        self.fault(name, Fault::Foreign(parse_name(other)));
    }

    /// The same, in place of what the name has.
    pub fn put_foreign(&self, name: &str, other: &str) {
        self.fault(name, Fault::OnlyForeign(parse_name(other)));
    }

    /// From now on questions for this name get no answer.
    pub fn silence(&self, name: &str) {
        self.fault(name, Fault::Silence);
    }

    /// Whether it answers at all.
    pub fn answer(&self, answers: bool) {
        lock(&self.world).silent = !answers;
    }

    fn fault(&self, name: &str, fault: Fault) {
        lock(&self.world).faults.insert(parse_name(name), fault);
    }

    /// All questions so far, as (name in lower case with final dot, type). A repetition
    /// with the same message id counts as the same question, lest a slow machine look like
    /// a resolver without cache.
    pub fn queries(&self) -> Vec<(String, String)> {
        let world = lock(&self.world);
        let asked = world.log.iter().map(|(_id, query)| {
            let name = query.name().to_lowercase().to_ascii();
            (name, query.query_type().to_string())
        });
        asked.collect()
    }

    /// The root key as the content of a trust anchor file.
    pub fn trust_anchor(&self) -> String {
        format!("{}\n", lock(&self.world).dnskey_record())
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        // No `expect` here: a second panic would hide the first.
        if let Ok(mut world) = self.world.lock() {
            world.ended = true;
        }
        // Both threads sleep until something arrives.
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|waker| waker.send_to(&[], self.address));
        let _ = TcpStream::connect(self.address);
    }
}

#[derive(Clone, PartialEq)]
enum Fault {
    Bogus,
    Failure,
    Forgery,
    Foreign(Name),
    OnlyForeign(Name),
    Silence,
}

/// Everything the answers depend on.
struct World {
    key: Ed25519SigningKey,
    records: BTreeMap<Name, Vec<Record>>,
    /// Owners of NSEC records. `Name` sorts in canonical order.
    chain: BTreeSet<Name>,
    faults: BTreeMap<Name, Fault>,
    /// Message ids and questions.
    log: Vec<(u16, Query)>,
    /// Nobody gets an answer.
    silent: bool,
    /// The server is gone.
    ended: bool,
}

impl World {
    fn new(records: &[&str]) -> World {
        let der = Ed25519SigningKey::generate_pkcs8().expect("generate key");
        let mut world = World {
            key: Ed25519SigningKey::from_pkcs8(&der).expect("load key"),
            records: BTreeMap::new(),
            chain: BTreeSet::new(),
            faults: BTreeMap::new(),
            log: Vec::new(),
            silent: false,
            ended: false,
        };
        world.set(records);
        world
    }

    fn set(&mut self, records: &[&str]) {
        self.records.clear();
        self.faults.clear();
        let dnskey = self.dnskey_record();
        self.records.insert(dnskey.name.clone(), vec![dnskey]);
        let texts = [APEXES].into_iter().chain(records.iter().copied());
        self.add(&texts.collect::<Vec<_>>().join("\n"));
    }

    fn add(&mut self, records: &str) {
        let lines = ["$TTL 300"].into_iter().chain(records.lines());
        let text: String = lines.map(|line| format!("{}\n", line.trim())).collect();
        let parser = Parser::new(text, None, Some(Name::root()));
        let (_origin, rrsets) = parser.parse().expect("records");
        for record in rrsets.into_values().flatten() {
            let owned = self.records.entry(record.name.clone()).or_default();
            owned.push(record);
        }
        let signed = |name: &&Name| is_signed(name, RecordType::NSEC);
        self.chain = self.records.keys().filter(signed).cloned().collect();
    }

    /// The answer to a message, `None` if it shall get none.
    fn answer(&mut self, request: &[u8], udp: bool) -> Option<Vec<u8>> {
        let request = Message::from_vec(request).ok()?;
        let query = request.queries.first()?;
        let asked = (request.metadata.id, query.clone());
        if !self.log.contains(&asked) {
            self.log.push(asked);
        }
        if self.silent {
            return None;
        }

        let mut response = Message::response(request.metadata.id, OpCode::Query);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.add_query(query.clone());
        match self.faults.get(query.name()) {
            Some(Fault::Silence) => return None,
            Some(Fault::Failure) => response.metadata.response_code = ResponseCode::ServFail,
            Some(Fault::Foreign(other)) => {
                self.resolve(query, false, &mut response);
                response.add_answers(self.signed(other, query.query_type()));
            }
            Some(Fault::OnlyForeign(other)) => {
                response.add_answers(self.signed(other, query.query_type()));
            }
            fault => self.resolve(query, fault.is_some(), &mut response),
        }
        let edns = request.edns.as_ref();
        let wants_dnssec = edns.is_some_and(|edns| edns.flags().dnssec_ok);
        response = response.maybe_strip_dnssec_records(wants_dnssec);
        if edns.is_some() {
            response.set_edns(Edns::new().set_dnssec_ok(wants_dnssec).clone());
        }

        let bytes = response.to_vec().expect("encode response");
        if udp && bytes.len() > usize::from(request.max_payload()) {
            return Some(response.truncate().to_vec().expect("encode response"));
        }
        Some(bytes)
    }

    fn resolve(&self, query: &Query, bogus: bool, response: &mut Message) {
        let mut name = query.name().clone();
        for _hop in 0..8 {
            let found = self.rrset(&name, query.query_type());
            if !found.is_empty() {
                response.add_answers(self.sign(found, bogus));
                return;
            }
            let alias = self.rrset(&name, RecordType::CNAME);
            let Some(RData::CNAME(target)) = alias.first().map(|record| &record.data) else {
                self.deny(&name, query.query_type(), bogus, response);
                return;
            };
            name = target.0.clone();
            response.add_answers(self.sign(alias, bogus));
        }
        response.metadata.response_code = ResponseCode::ServFail;
    }

    /// Says that there are no such records, with the proof of it.
    fn deny(&self, name: &Name, kind: RecordType, bogus: bool, response: &mut Message) {
        // A name exists also if only names below it have records.
        let exists = |name: &Name| self.records.keys().any(|other| name.zone_of(other));
        let signed = is_signed(name, kind);
        let apex = if signed { Name::root() } else { unsigned() };
        let soa = self.rrset(&apex, RecordType::SOA);
        response.add_authorities(self.sign(soa, bogus));
        let mut denied = vec![name.clone()];
        if !exists(name) {
            response.metadata.response_code = ResponseCode::NXDomain;
            let mut encloser = name.base_name();
            while !exists(&encloser) {
                encloser = encloser.base_name();
            }
            denied.push(encloser.prepend_label("*").expect("wildcard name"));
        }
        if signed {
            let mut proofs: Vec<Record> = denied.iter().map(|name| self.nsec(name)).collect();
            proofs.dedup();
            for proof in proofs {
                response.add_authorities(self.sign(vec![proof], bogus));
            }
        }
    }

    /// The NSEC record that matches or covers the name.
    fn nsec(&self, name: &Name) -> Record {
        let owner = self.chain.range(..=name).next_back();
        let owner = owner.expect("the root precedes every name");
        let next = self.chain.iter().find(|next| *next > owner);
        let next = next.cloned().unwrap_or_else(Name::root);
        let types = if *owner == unsigned() {
            vec![RecordType::NS] // all else belongs to the zone beyond the cut
        } else {
            let owned = self.records[owner].iter();
            owned.map(Record::record_type).collect()
        };
        let nsec = DNSSECRData::NSEC(NSEC::new_cover_self(next, types));
        Record::from_rdata(owner.clone(), TTL, RData::DNSSEC(nsec))
    }

    fn dnskey(&self) -> DNSKEY {
        DNSKEY::from_key(&self.key.to_public_key().expect("public key"))
    }

    fn dnskey_record(&self) -> Record {
        let dnskey = DNSSECRData::DNSKEY(self.dnskey());
        Record::from_rdata(Name::root(), TTL, RData::DNSSEC(dnskey))
    }

    fn rrset(&self, name: &Name, kind: RecordType) -> Vec<Record> {
        let owned = self.records.get(name).into_iter().flatten();
        let matching = owned.filter(|record| record.record_type() == kind);
        matching.cloned().collect()
    }

    /// The records of a name with their signature, if there are any.
    fn signed(&self, name: &Name, kind: RecordType) -> Vec<Record> {
        match self.rrset(name, kind) {
            none if none.is_empty() => none,
            found => self.sign(found, false),
        }
    }

    /// Adds the signature to the records of one name and type, if they are in the root zone.
    fn sign(&self, mut rrset: Vec<Record>, bogus: bool) -> Vec<Record> {
        let (name, ttl, kind) = (rrset[0].name.clone(), rrset[0].ttl, rrset[0].record_type());
        if !is_signed(&name, kind) {
            return rrset;
        }
        let input = SigInput {
            type_covered: kind,
            algorithm: self.key.algorithm(),
            num_labels: name.num_labels(),
            original_ttl: ttl,
            sig_expiration: SerialNumber::new(VALIDITY.1),
            sig_inception: SerialNumber::new(VALIDITY.0),
            key_tag: self.dnskey().calculate_key_tag().expect("key tag"),
            signer_name: Name::root(),
        };
        let content = TBS::from_input(&name, DNSClass::IN, &input, rrset.iter());
        let content = content.expect("encode records");
        let mut signature = self.key.sign(&content).expect("sign");
        if bogus || self.faults.get(&name) == Some(&Fault::Bogus) {
            signature[0] ^= 0xff;
        }
        let rrsig = DNSSECRData::RRSIG(RRSIG::from_sig(input, signature));
        rrset.push(Record::from_rdata(name, ttl, RData::DNSSEC(rrsig)));
        rrset
    }
}

fn unsigned() -> Name {
    parse_name("unsigned.")
}

/// Whether such records belong to the root zone. At the cut only the DS record does, which
/// does not exist, and the NSEC record, which proves that.
fn is_signed(name: &Name, kind: RecordType) -> bool {
    let parental = matches!(kind, RecordType::DS | RecordType::NSEC);
    !unsigned().zone_of(name) || (parental && *name == unsigned())
}

fn parse_name(text: &str) -> Name {
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

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().expect("world")
}

fn serve_udp(socket: &UdpSocket, world: &Mutex<World>) {
    let mut buffer = [0; 4096];
    loop {
        let received = socket.recv_from(&mut buffer);
        let mut world = lock(world);
        if world.ended {
            return;
        }
        // An error only tells that an earlier answer came too late for somebody.
        if let Ok((length, peer)) = received
            && let Some(answer) = world.answer(&buffer[..length], true)
        {
            let _ = socket.send_to(&answer, peer);
        }
    }
}

fn serve_tcp(listener: &TcpListener, world: &Arc<Mutex<World>>) {
    for stream in listener.incoming() {
        if lock(world).ended {
            return;
        }
        let (mut stream, world) = (stream.expect("accept"), world.clone());
        thread::spawn(move || while exchange(&mut stream, &world).is_some() {});
    }
}

/// One question and its answer over TCP; `None` at the end of the connection.
fn exchange(stream: &mut TcpStream, world: &Mutex<World>) -> Option<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut request = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut request).ok()?;
    let mut world = lock(world);
    if world.ended {
        return None;
    }
    if let Some(answer) = world.answer(&request, false) {
        let length = (answer.len() as u16).to_be_bytes();
        stream.write_all(&[&length[..], &answer].concat()).ok()?;
    }
    Some(())
}
