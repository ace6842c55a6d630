//! Answers that somebody forges on the way.

use std::collections::BTreeMap;

use hickory_resolver::proto::dnssec::Algorithm;
use hickory_resolver::proto::dnssec::rdata::sig::SigInput;
use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, RRSIG};
use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType, SerialNumber};
use portcullis_tests::forwarder::{Forwarder, Upstream, parse, parse_name};

use super::{Cases, PASSES, Way, World};

/// What somebody on the way does to an answer.
type Forgery = fn(&mut Message, &Upstream);

/// Forgeries, each of answers for a name and kind; `{tlsa}` is the service.
const FORGERIES: &[(&str, &str, &str, RecordType, Forgery)] = &[
    // (what is done, the domain that is sent to, the name, the kind, how)
    (
        "an unsigned MX record",
        "x.wmx.n.test",
        "x.wmx.n.test.",
        RecordType::MX,
        |answer, _| answer.answers = unsigned("x.wmx.n.test. MX 0 evil.u.test."),
    ),
    (
        "another MX record below the signature",
        "n3.test",
        "n3.test.",
        RecordType::MX,
        |answer, _| put(answer, "n3.test. MX 0 evil.u.test."),
    ),
    (
        "an alias at a name that has MX records",
        "x.wmx.rsa.test",
        "x.wmx.rsa.test.",
        RecordType::MX,
        |answer, _| {
            answer.answers = unsigned("x.wmx.rsa.test. CNAME u.test.\nu.test. MX 0 evil.u.test.");
            answer.authorities.clear();
        },
    ),
    (
        "MX records denied with nothing",
        "x.wmx.n3.test",
        "x.wmx.n3.test.",
        RecordType::MX,
        |answer, _| deny(answer, ResponseCode::NoError),
    ),
    (
        "an alias that its DNAME does not make",
        "host.dno.n.test",
        "host.dno.n.test.",
        RecordType::MX,
        |answer, _| {
            answer
                .answers
                .retain(|record| record.name == parse_name("dno.n.test."));
            answer.answers.extend(unsigned(
                "host.dno.n.test. CNAME u.test.\nu.test. MX 0 evil.u.test.",
            ));
        },
    ),
    (
        "an alias for a name that its DNAME leads elsewhere",
        "foo.dn.n.test",
        "foo.dn.n.test.",
        RecordType::MX,
        |answer, upstream| {
            deny(answer, ResponseCode::NoError);
            let genuine = upstream.ask("a.dn.n.test.", RecordType::MX).answers;
            let is_dname = |record: &Record| record.name == parse_name("dn.n.test.");
            answer.answers = genuine.into_iter().filter(is_dname).collect();
            answer.answers.extend(unsigned(
                "foo.dn.n.test. CNAME u.test.\nu.test. MX 0 evil.u.test.",
            ));
        },
    ),
    (
        "a wildcard over a name that exists",
        "exact.w.n.test",
        "exact.w.n.test.",
        RecordType::A,
        |answer, upstream| play_wildcard(answer, upstream, "exact.w.n.test.", "zz9.w.n.test."),
    ),
    (
        "a wildcard over a name that exists, with NSEC3",
        "exact.w.n3.test",
        "exact.w.n3.test.",
        RecordType::A,
        |answer, upstream| play_wildcard(answer, upstream, "exact.w.n3.test.", "zz9.w.n3.test."),
    ),
    (
        "a wildcard without its proof",
        "zz8.w.n.test",
        "zz8.w.n.test.",
        RecordType::A,
        |answer, _| answer.authorities.clear(),
    ),
    (
        "a wildcard without its proof, with NSEC3",
        "zz8.w.n3.test",
        "zz8.w.n3.test.",
        RecordType::A,
        |answer, _| answer.authorities.clear(),
    ),
    (
        "an unsigned alias into an unsigned zone",
        "bare.n.test",
        "v4.n.test.",
        RecordType::A,
        |answer, _| {
            deny(answer, ResponseCode::NoError);
            answer.answers = unsigned("v4.n.test. CNAME evil.u.test.\nevil.u.test. A 127.0.0.3");
        },
    ),
    (
        "an unsigned address",
        "bare.n3.test",
        "v4.n3.test.",
        RecordType::A,
        |answer, _| answer.answers = unsigned("v4.n3.test. A 127.0.0.3"),
    ),
    (
        "another address below the signature",
        "bare.rsa.test",
        "v4.rsa.test.",
        RecordType::A,
        |answer, _| put(answer, "v4.rsa.test. A 127.0.0.3"),
    ),
    (
        "an address signed by an unsigned zone",
        "bare.n.tst2",
        "v4.n.tst2.",
        RecordType::A,
        |answer, _| {
            answer.answers = unsigned("v4.n.tst2. A 127.0.0.3");
            answer
                .answers
                .push(signature("v4.n.tst2.", RecordType::A, "u.test."));
        },
    ),
    (
        "an alias into an unsigned zone without its signature",
        "viatou.n.test",
        "tou.n.test.",
        RecordType::A,
        |answer, _| {
            let owner = parse_name("tou.n.test.");
            answer
                .answers
                .retain(|record| record.record_type() != RecordType::RRSIG || record.name != owner);
        },
    ),
    (
        "an alias to records without signatures",
        "viaalias2.n.test",
        "alias2.n.test.",
        RecordType::A,
        |answer, _| {
            let owner = parse_name("alias2.n.test.");
            answer.answers.retain(|record| record.name == owner);
            answer.answers.extend(unsigned(
                "alias.n3.test. CNAME mail.n3.test.\nmail.n3.test. A 127.0.0.3",
            ));
        },
    ),
    (
        "a DNAME without its signature",
        "viadn.n.test",
        "a.dn.n.test.",
        RecordType::A,
        |answer, _| {
            answer
                .answers
                .retain(|record| covered(record) != Some(RecordType::DNAME))
        },
    ),
    (
        "SERVFAIL for an address",
        "viawt.n3o.test",
        "wt.n3o.test.",
        RecordType::A,
        |answer, _| deny(answer, ResponseCode::ServFail),
    ),
    (
        "TLSA denied in the name of an unsigned zone",
        "n.test",
        "{tlsa}.mail.n.test.",
        RecordType::TLSA,
        |answer, _| {
            deny(answer, ResponseCode::NoError);
            answer.authorities = soa("u.test.");
        },
    ),
    (
        "TLSA denied by another signed zone",
        "viaalias.n3.test",
        "{tlsa}.mail.n3.test.",
        RecordType::TLSA,
        |answer, upstream| {
            let other = upstream.ask("_x._tcp.v4.n.test.", RecordType::TLSA);
            deny(answer, ResponseCode::NXDomain);
            answer.authorities = other.authorities;
        },
    ),
    (
        "TLSA denied with nothing",
        "n3o.test",
        "{tlsa}.mail.n3o.test.",
        RecordType::TLSA,
        |answer, _| deny(answer, ResponseCode::NoError),
    ),
    (
        "TLSA denied with the zone's SOA, unsigned",
        "rsa.test",
        "{tlsa}.mail.rsa.test.",
        RecordType::TLSA,
        |answer, _| {
            deny(answer, ResponseCode::NXDomain);
            answer.authorities = soa("rsa.test.");
        },
    ),
    (
        "TLSA denied by the parent, with what it has of another zone",
        "n.tst2",
        "{tlsa}.mail.n.tst2.",
        RecordType::TLSA,
        |answer, upstream| {
            let other = upstream.ask("u.tst2.", RecordType::DS);
            deny(answer, ResponseCode::NXDomain);
            answer.authorities = other.authorities;
        },
    ),
    (
        "TLSA denied with an SOA signed by an unsigned zone",
        "viatarget.n3.test",
        "{tlsa}.a.target.n3.test.",
        RecordType::TLSA,
        |answer, _| {
            deny(answer, ResponseCode::NoError);
            answer.authorities = soa("n3.test.");
            answer
                .authorities
                .push(signature("n3.test.", RecordType::SOA, "u.test."));
        },
    ),
    (
        "TLSA signatures without the records",
        "viatarget.n.test",
        "{tlsa}.a.target.n.test.",
        RecordType::TLSA,
        |answer, _| answer.answers.retain(|record| covered(record).is_some()),
    ),
    (
        "TLSA without signatures",
        "viatc.n.test",
        "{tlsa}.tc.n.test.",
        RecordType::TLSA,
        |answer, _| answer.answers.retain(|record| covered(record).is_none()),
    ),
    (
        "TLSA failed",
        "viawt.rsa.test",
        "{tlsa}.wt.rsa.test.",
        RecordType::TLSA,
        |answer, _| deny(answer, ResponseCode::ServFail),
    ),
    (
        "no proof that a delegation has no DS",
        "u2.test",
        "u2.test.",
        RecordType::DS,
        |answer, _| {
            answer.authorities.retain(|record| {
                record.record_type() == RecordType::SOA || covered(record) == Some(RecordType::SOA)
            });
        },
    ),
    (
        "DS denied with the proof of another delegation",
        "n2.test",
        "n2.test.",
        RecordType::DS,
        |answer, upstream| {
            let other = upstream.ask("u.test.", RecordType::DS);
            deny(answer, ResponseCode::NoError);
            answer.authorities = other.authorities;
        },
    ),
];

/// Records that nobody has signed.
fn unsigned(text: &str) -> Vec<Record> {
    parse(text, ".")
}

fn soa(zone: &str) -> Vec<Record> {
    unsigned(&format!(
        "{zone} SOA ns.servers.test. h.test. 1 3600 600 86400 60"
    ))
}

/// A signature of a zone that has no keys.
fn signature(owner: &str, kind: RecordType, signer: &str) -> Record {
    let owner = parse_name(owner);
    let input = SigInput {
        type_covered: kind,
        algorithm: Algorithm::ECDSAP256SHA256,
        num_labels: owner.num_labels(),
        original_ttl: 300,
        sig_expiration: SerialNumber::new(3_660_681_600),
        sig_inception: SerialNumber::new(1_577_836_800),
        key_tag: 28689,
        signer_name: parse_name(signer),
    };
    let signature = RRSIG::from_sig(input, vec![0xab; 64]);
    Record::from_rdata(owner, 300, RData::DNSSEC(DNSSECRData::RRSIG(signature)))
}

/// What a signature covers.
fn covered(record: &Record) -> Option<RecordType> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => Some(signature.input().type_covered),
        _ => None,
    }
}

/// Nothing but a code.
fn deny(answer: &mut Message, code: ResponseCode) {
    answer.answers.clear();
    answer.authorities.clear();
    answer.metadata.response_code = code;
}

/// Other records in place of those that are signed.
fn put(answer: &mut Message, text: &str) {
    answer.answers.retain(|record| covered(record).is_some());
    answer.answers.extend(unsigned(text));
}

/// What the wildcard has for another name.
fn play_wildcard(answer: &mut Message, upstream: &Upstream, name: &str, other: &str) {
    let genuine = upstream.ask(other, RecordType::A);
    answer.authorities = genuine.authorities;
    answer.answers = genuine.answers;
    for record in &mut answer.answers {
        record.name = parse_name(name);
    }
}

#[test]
fn forged_answers_defer_mail_and_never_lead_it_astray() {
    let world = World::new();
    let unbound = world.unbound(false);
    let tlsa = format!("_{}._tcp", world.port);
    let mut forgeries: BTreeMap<(String, RecordType), Forgery> = BTreeMap::new();
    for (_, _, name, kind, how) in FORGERIES {
        let name = name.replace("{tlsa}", &tlsa);
        let before = forgeries.insert((name, *kind), *how);
        assert!(before.is_none(), "each name is forged in one way");
    }
    let between = Forwarder::between(
        unbound.address,
        move |query: &Query, answer: &mut Message, upstream: &Upstream| {
            let name = query.name().to_lowercase().to_ascii();
            if let Some(forge) = forgeries.get(&(name.clone(), query.query_type())) {
                forge(answer, upstream);
            } else if name.ends_with(".n2.test.") || name == "n2.test." {
                // Who denies that the zone is signed leaves its signatures out.
                answer.answers.retain(|record| covered(record).is_none());
                *answer = answer.clone().maybe_strip_dnssec_records(false);
            }
        },
    );
    let relay = world.relay(&[between.address], "");
    relay.daemon.wait_for_log(PASSES);
    let cases = FORGERIES
        .iter()
        .map(|(_, domain, ..)| ((*domain).to_owned(), Way::Forged));
    relay.expect(&cases.collect::<Cases>());
    assert!(relay.attacker.peers().is_empty());
    // Nobody has touched these.
    relay.expect(&[
        ("fine.damaged.test".to_owned(), Way::Proven),
        ("viadn.n3o.test".to_owned(), Way::Proven),
        ("host.dnu.n3.test".to_owned(), Way::Unproven),
        ("nx.n.test".to_owned(), Way::Nowhere),
    ]);
}
