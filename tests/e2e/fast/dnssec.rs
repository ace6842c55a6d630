//! DNSSEC as the servers of others serve it: zones signed by BIND's tools on Knot, behind Unbound, which validates, or
//! passes DNSSEC on, or whose answers somebody strips or forges on the way.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hickory_resolver::proto::dnssec::Algorithm;
use hickory_resolver::proto::dnssec::rdata::sig::SigInput;
use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, RRSIG};
use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType, SerialNumber};
use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::forwarder::{
    Forwarder, ODD, Upstream, odd_cuts, odd_server, parse, parse_name,
};
use portcullis_tests::outbound::{ONCE, SHORT_TIMEOUTS};
use portcullis_tests::pki::{Identity, sha256};
use portcullis_tests::resolver::{Authority, Damage, Ds, Signing, Unbound, Zone};
use portcullis_tests::{
    Behaviour, Client, Config, Https, Listener, MockServer, NO_RULES, Pki, TestBed, sink,
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// A name server that is good for something, as the log says it.
const TRUSTED: &str = "the name server validates DNSSEC, and is trusted to";
const PASSES: &str = "DNSSEC is validated here";
const STRIPS: &str = "withholds DNSSEC signatures";

/// What DNSSEC says of the way to a domain's exchanger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is proven, and so are TLSA records.
    Proven,
    /// It is proven not to be signed, or there are no TLSA records.
    Unproven,
    /// Either, as the resolver sees it.
    Either,
    /// It is proven that the domain does not exist.
    Nowhere,
    /// It is not what its zone has signed.
    Forged,
}

/// The domains of the world, and the way to each where everything is validated.
type Cases = Vec<(String, Way)>;

/// The zones with all that some resolvers take for forged. `key` is the digest of the partner's key.
fn zones(port: u16, key: &str) -> Vec<Zone> {
    let tlsa = format!("_{port}._tcp");
    let good = format!("TLSA 3 1 1 {key}");
    // More than a datagram takes.
    let many: String = (0..80)
        .map(|number| format!("big MX 20 exchanger-{number}\n"))
        .collect();
    let signed = |name: &str, other: &str, signing: Signing| {
        let body = format!(
            "@ MX 10 mail
             mail A 127.0.0.2
             {tlsa}.mail {good}
             v4 A 127.0.0.2
             bare MX 10 v4
             *.wmx MX 10 mail
             viaw MX 10 x.w
             *.w A 127.0.0.2
             *.w {good}
             exact.w A 127.0.0.2
             *.cw CNAME mail
             viacw MX 10 x.cw
             *.cd CNAME {name}
             *.cwu CNAME host.u.test.
             viacwu MX 10 x.cwu
             *.t {good}
             tc A 127.0.0.2
             {tlsa}.tc CNAME x.t
             viatc MX 10 tc
             wt A 127.0.0.2
             *._tcp.wt {good}
             viawt MX 10 wt
             target MX 10 mail
             a.target A 127.0.0.2
             a.target MX 10 a.target
             {tlsa}.a.target {good}
             viatarget MX 10 a.target
             *.target2 A 127.0.0.2
             *.target2 {good}
             dn DNAME target
             viadn MX 10 a.dn
             dno DNAME target.{other}
             viadno MX 10 a.dno
             dnu DNAME u.test.
             viadnu MX 10 host.dnu
             dnw DNAME target2
             viadnw MX 10 x.dnw
             alias CNAME mail
             viaalias MX 10 alias
             alias2 CNAME alias.{other}
             viaalias2 MX 10 alias2
             tou CNAME host.u.test.
             viatou MX 10 tou
             two CNAME a1.u.test.
             viatwo MX 10 two
             three CNAME two.{other}
             viathree MX 10 three
             toapex CNAME host.deep.child.apex.test.
             viatoapex MX 10 toapex
             tonosoa CNAME host.deep.child.nosoa.test.
             viatonosoa MX 10 tonosoa
             a.b.ent MX 10 mail
             big MX 10 mail
             {many}
             sts MX 10 v4
             mta-sts.sts CNAME p1.u.test.
             _mta-sts.sts CNAME t1.u.test."
        );
        Zone::new(name, &body).signed(signing)
    };
    let unsigned = |name: &str| {
        let body = format!(
            "@ MX 10 host
             host A 127.0.0.2
             {tlsa}.host {good}
             viaa1 MX 10 a1
             a1 CNAME a2
             a2 A 127.0.0.2
             *.w MX 10 host
             tosec CNAME mail.n.test.
             viatosec MX 10 tosec
             evil A 127.0.0.3
             p1 CNAME p2
             p2 A 127.0.0.1
             t1 CNAME t2
             t2 TXT \"v=STSv1; id=1;\""
        );
        Zone::new(name, &body)
    };
    let odd: String = ODD
        .iter()
        .map(|tree| format!("{tree} NS ns.servers.test.\n"))
        .collect();
    let damaged = format!(
        "fine MX 10 ok
         ok A 127.0.0.2
         {tlsa}.ok {good}
         @ MX 10 broken
         broken A 127.0.0.2
         {tlsa}.broken {good}
         unsigned-a MX 10 stripped
         stripped A 127.0.0.2
         broken-mx MX 10 ok
         stripped-mx MX 10 ok
         broken-tlsa MX 10 bt
         bt A 127.0.0.2
         {tlsa}.bt {good}
         stripped-tlsa MX 10 st
         st A 127.0.0.2
         {tlsa}.st {good}
         viabroken MX 10 alias
         alias CNAME ok"
    );
    let broken_tlsa = format!("{tlsa}.bt");
    let stripped_tlsa = format!("{tlsa}.st");
    let damaged = Zone::new("damaged.test.", &damaged)
        .signed(Signing::Nsec)
        .damaged("broken", "A", Damage::Broken)
        .damaged("stripped", "A", Damage::Stripped)
        .damaged("broken-mx", "MX", Damage::Broken)
        .damaged("stripped-mx", "MX", Damage::Stripped)
        .damaged(&broken_tlsa, "TLSA", Damage::Broken)
        .damaged(&stripped_tlsa, "TLSA", Damage::Stripped)
        .damaged("alias", "CNAME", Damage::Broken);
    vec![
        Zone::new(".", "").signed(Signing::Nsec),
        Zone::new("test.", &odd).signed(Signing::OptOut),
        Zone::new("tst2.", "").signed(Signing::Nsec),
        Zone::new("servers.test.", "ns A 127.0.0.1").signed(Signing::Nsec),
        signed("n.test.", "n3.test.", Signing::Nsec),
        signed("n3.test.", "n.test.", Signing::Nsec3),
        signed("n3o.test.", "n3.test.", Signing::OptOut),
        signed("rsa.test.", "n.test.", Signing::Rsa),
        signed("n.tst2.", "n3.test.", Signing::Nsec),
        signed("n2.test.", "n.test.", Signing::Nsec),
        signed("ed.test.", "n.test.", Signing::Ed25519),
        signed("ed448.test.", "n.test.", Signing::Ed448),
        signed("nods.test.", "n.test.", Signing::Nsec).ds(Ds::Missing),
        signed("island.u.test.", "n.test.", Signing::Nsec).ds(Ds::Missing),
        signed("dsbad.test.", "n.test.", Signing::Nsec).ds(Ds::Wrong),
        signed("expired.test.", "n.test.", Signing::Expired),
        damaged,
        unsigned("u.test."),
        unsigned("u2.test."),
        unsigned("u.tst2."),
        unsigned("sub.u.test."),
        unsigned("deep.sub.u.test."),
        unsigned("u.n.test."),
        unsigned("u.n3.test."),
        unsigned("u.n3o.test."),
    ]
}

const ODD_RECORDS: &str = "@ MX 10 host
    host A 127.0.0.2
    bare A 127.0.0.2
    alias CNAME host
    viaalias MX 10 alias";

/// The domains, where Unbound's validator judges if `by_unbound`.
fn cases(by_unbound: bool) -> Cases {
    use Way::{Either, Forged, Nowhere, Proven, Unproven};
    let mut cases = Cases::new();
    let signed = [
        ("", Proven),
        ("bare.", Unproven),
        ("x.wmx.", Proven),
        ("x.cd.", Proven),
        ("viaw.", Proven),
        ("viacw.", Proven),
        ("viacwu.", Unproven),
        ("viatc.", Proven),
        ("viawt.", Proven),
        ("a.dn.", Proven),
        ("a.dno.", Proven),
        ("host.dnu.", Unproven),
        ("viadn.", Proven),
        ("viadno.", Proven),
        ("viadnu.", Unproven),
        ("viadnw.", Proven),
        ("viaalias.", Proven),
        ("viaalias2.", Proven),
        ("viatou.", Unproven),
        ("viatwo.", Unproven),
        ("two.", Unproven),
        ("viathree.", Unproven),
        ("viatoapex.", Unproven),
        ("viatonosoa.", Unproven),
        ("a.b.ent.", Proven),
        ("big.", Proven),
        ("v4.", Unproven),
        ("nx.", Nowhere),
        ("nx.dn.", Nowhere),
    ];
    for zone in [
        "n.test",
        "n3.test",
        "n3o.test",
        "rsa.test",
        "n.tst2",
        "ed.test",
        "ed448.test",
    ] {
        for (below, way) in signed {
            // A span that opts out never proves that no closer name exists (RFC 5155 section 9.2).
            let by_wildcard = [
                "x.wmx.", "x.cd.", "viaw.", "viacw.", "viatc.", "viawt.", "viadnw.",
            ];
            let way = match (zone, way) {
                ("n3o.test", Proven) if by_wildcard.contains(&below) => Either,
                // Not all that validate know these algorithms.
                ("ed448.test", Proven) => Either,
                ("ed.test", Proven) if !by_unbound => Unproven,
                _ => way,
            };
            cases.push((format!("{below}{zone}"), way));
        }
    }
    for zone in ["nods.test", "island.u.test"] {
        for (below, way) in signed {
            let way = if way == Proven { Unproven } else { way };
            cases.push((format!("{below}{zone}"), way));
        }
    }
    for zone in [
        "u.test",
        "u2.test",
        "u.tst2",
        "sub.u.test",
        "deep.sub.u.test",
        "u.n.test",
        "u.n3.test",
        "u.n3o.test",
    ] {
        for below in ["", "viaa1.", "x.w.", "viatosec.", "a1."] {
            cases.push((format!("{below}{zone}"), Unproven));
        }
        cases.push((format!("nx.{zone}"), Nowhere));
    }
    for zone in ODD.iter().flat_map(|tree| odd_cuts(tree)) {
        let zone = zone.trim_end_matches('.');
        for below in ["", "bare.", "viaalias."] {
            cases.push((format!("{below}{zone}"), Unproven));
        }
        cases.push((format!("nx.{zone}"), Nowhere));
    }
    for zone in ["dsbad.test", "expired.test"] {
        for below in ["", "viaw.", "viadn.", "nx."] {
            cases.push((format!("{below}{zone}"), Forged));
        }
    }
    cases.push(("fine.damaged.test".to_owned(), Proven));
    for below in [
        "",
        "unsigned-a.",
        "broken-mx.",
        "stripped-mx.",
        "broken-tlsa.",
        "stripped-tlsa.",
        "viabroken.",
    ] {
        cases.push((format!("{below}damaged.test"), Forged));
    }
    cases
}

/// Other domains are sent to with DANE if there is any, those of the second tenant with DANE in any case.
const STRICT: &str = r#"{"connectors": [
    {"name": "strict", "direction": "outbound", "dane": "mandatory", "to": {"recipient-domains": ["*"]}}
]}"#;

/// The servers that a resolver asks, and the certificates of the partners that are found.
struct World {
    pki: Pki,
    identity: Identity,
    port: u16,
    authority: Authority,
    odd: Forwarder,
}

/// A daemon that asks a resolver, and the partners that it finds.
struct Relay {
    daemon: TestBed,
    partner: MockServer,
    attacker: MockServer,
}

impl World {
    fn new() -> World {
        let pki = Pki::new();
        let identity = pki.trusted(&["v4.n.test", "v4.n3.test"]);
        let (_, parsed) = X509Certificate::from_der(&identity.chain[0]).expect("a certificate");
        let key = sha256(parsed.public_key().raw);
        let port = sink::free_address().port();
        World {
            authority: Authority::start(&zones(port, &key)),
            odd: odd_server(ODD_RECORDS),
            pki,
            identity,
            port,
        }
    }

    fn unbound(&self, validates: bool) -> Unbound {
        let cuts: Vec<String> = ODD.iter().flat_map(|tree| odd_cuts(tree)).collect();
        let odd: Vec<(&str, SocketAddr)> = cuts
            .iter()
            .map(|zone| (zone.as_str(), self.odd.address))
            .collect();
        self.authority.resolver(validates, &odd)
    }

    /// A relay that asks these name servers, with more settings (TOML tables).
    fn relay(&self, servers: &[SocketAddr], more: &str) -> Relay {
        let port = self.port;
        let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
        let listener = |tenant: &str| {
            let description = format!("clients = [\"127.0.0.1\"], tenant = \"{tenant}\"");
            Listener::outbound(&description).starttls()
        };
        let config = Config::new()
            .hostname("relay.contoso.com")
            .listener(listener("contoso"))
            .listener(listener("strict"))
            .certificate(&self.pki)
            .tenant("contoso.com", NO_RULES)
            .tenant("strict.com", STRICT)
            .trust(&self.pki)
            .with(&format!(
                "[dns]\nservers = {servers:?}\ntrust-anchor = \"root.key\""
            ))
            .file("root.key", self.authority.trust_anchor())
            .with(SHORT_TIMEOUTS)
            .with(ONCE)
            .partners_here(port)
            .with(more);
        let daemon = TestBed::start(config);
        let at = |host| SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), port));
        Relay {
            daemon,
            partner: MockServer::start_at(at(2), Behaviour::with(&self.identity)),
            attacker: MockServer::start_at(at(3), Behaviour::default()),
        }
    }
}

impl Relay {
    /// Sends with DANE if there is any, or in any case; gives the reply that decided, on one line.
    fn send(&self, is_strict: bool, domain: &str) -> String {
        let tenant = if is_strict { "strict" } else { "contoso" };
        let mut client = Client::greeted(self.daemon.addresses[usize::from(is_strict)]);
        client.hello(false, None);
        let rcpt = client.envelope(&format!("alice@{tenant}.com"), &format!("bob@{domain}"));
        let last = match rcpt.code {
            250 => client.data(&format!("Subject: to {domain}\r\n\r\nHello.")),
            _ => rcpt,
        };
        format!("{} {}", last.code, last.lines.join(" "))
    }

    /// What is wrong with what becomes of mail on such a way.
    fn judge(&self, domain: &str, way: Way) -> Option<String> {
        let (plain, strict) = (self.send(false, domain), self.send(true, domain));
        let taken = self.partner.forget();
        let delivered = |reply: &str| reply.starts_with("250 ");
        let required = |reply: &str| reply.starts_with("451 ") && reply.contains("dane-required");
        let is_right = match way {
            Way::Proven => delivered(&plain) && delivered(&strict) && taken.len() == 2,
            Way::Unproven => delivered(&plain) && required(&strict) && taken.len() == 1,
            Way::Either => {
                delivered(&plain)
                    && (delivered(&strict) && taken.len() == 2
                        || required(&strict) && taken.len() == 1)
            }
            Way::Nowhere => {
                plain.starts_with("550 ") && strict.starts_with("550 ") && taken.is_empty()
            }
            Way::Forged => {
                plain.starts_with("451 ") && strict.starts_with("451 ") && taken.is_empty()
            }
        };
        let is_encrypted = taken.iter().all(|taken| taken.tls);
        (!is_right || !is_encrypted).then(|| {
            format!("{domain} should be {way:?}:\n  opportunistic: {plain}\n  mandatory: {strict}")
        })
    }

    /// All ways are as they should be; those that are not are told together.
    fn expect(&self, cases: &[(String, Way)]) {
        let wrong = cases
            .iter()
            .filter_map(|(domain, way)| self.judge(domain, *way));
        let wrong: Vec<String> = wrong.collect();
        assert!(
            wrong.is_empty(),
            "{} of {} are wrong:\n{}",
            wrong.len(),
            cases.len(),
            wrong.join("\n")
        );
        assert!(self.attacker.commands().is_empty());
    }

    /// Where the way is proven, mail never goes without the encryption that TLSA records ask for.
    fn expect_dane(&self) {
        self.partner.behave(Behaviour::default());
        for domain in ["n.test", "viawt.n3.test", "viadn.rsa.test"] {
            let reply = self.send(false, domain);
            assert!(
                reply.contains("starttls-not-supported"),
                "{domain}: {reply}"
            );
        }
        let other = Pki::self_signed(&["mail.n.test"]);
        self.partner.behave(Behaviour::with(&other));
        let reply = self.send(false, "x.wmx.n.test");
        assert!(reply.contains("tlsa-invalid"), "{reply}");
    }
}

#[test]
fn a_resolver_on_loopback_that_validates_is_trusted() {
    let world = World::new();
    let unbound = world.unbound(true);
    let relay = world.relay(&[unbound.address], "");
    relay.daemon.wait_for_log(TRUSTED);
    relay.expect(&cases(true));
    relay.expect_dane();
}

#[test]
fn what_a_resolver_passes_on_is_validated_here() {
    let world = World::new();
    let unbound = world.unbound(false);
    let relay = world.relay(&[unbound.address], "");
    relay.daemon.wait_for_log(PASSES);
    relay.expect(&cases(false));
    relay.expect_dane();
}

/// Somebody on the way who withholds DNSSEC.
fn stripping(how: &str, resolver: SocketAddr) -> Forwarder {
    let is_signature = |record: &Record| record.record_type() == RecordType::RRSIG;
    match how {
        "signatures are left out" => Forwarder::between(resolver, move |_, answer, _| {
            answer.answers.retain(|record| !is_signature(record));
            answer.authorities.retain(|record| !is_signature(record));
        }),
        "all of DNSSEC is left out" => Forwarder::between(resolver, |_, answer, _| {
            *answer = answer.clone().maybe_strip_dnssec_records(false);
            answer.edns = None;
        }),
        "DO is not passed on" => Forwarder::start(move |request| {
            let mut request = request.clone();
            if let Some(edns) = &mut request.edns {
                edns.set_dnssec_ok(false);
            }
            Upstream(resolver).exchange(&request)
        }),
        "signatures are left out, and all is said to be validated" => {
            Forwarder::between(resolver, move |_, answer, _| {
                answer.answers.retain(|record| !is_signature(record));
                answer.authorities.retain(|record| !is_signature(record));
                answer.metadata.authentic_data = true;
            })
        }
        "EDNS is refused" => Forwarder::start(move |request| {
            if request.edns.is_some() {
                let mut answer = request.clone().into_response();
                answer.edns = None;
                answer.metadata.response_code = ResponseCode::FormErr;
                return Some(answer);
            }
            Upstream(resolver).exchange(request)
        }),
        other => panic!("{other}"),
    }
}

/// Mail flows with these name servers, and there is no DANE.
const EDNS_REFUSED: &str = "EDNS is refused";

fn expect_no_dane(world: &World, how: &str) {
    let unbound = world.unbound(false);
    let between = stripping(how, unbound.address);
    let relay = world.relay(&[between.address], "");
    relay.daemon.wait_for_log(STRIPS);
    let zones = [
        "n.test",
        "n3o.test",
        "u.n3.test",
        "child.nosoa.test",
        "damaged.test",
        "dsbad.test",
    ];
    let cases = cases(false).into_iter();
    let cases = cases.filter(|(domain, _)| zones.iter().any(|zone| domain.ends_with(zone)));
    // What does not fit into a datagram is asked for by TCP, where the DNS client always uses EDNS.
    let fits = |domain: &str| how != EDNS_REFUSED || !domain.starts_with("big.");
    let cases = cases.filter(|(domain, _)| fits(domain));
    println!("{how}");
    let cases = cases.map(|(domain, _)| match domain.starts_with("nx.") {
        true => (domain, Way::Nowhere),
        false => (domain, Way::Unproven),
    });
    relay.expect(&cases.collect::<Cases>());
    // Nothing asks for encryption.
    relay.partner.behave(Behaviour::default());
    let reply = relay.send(false, "n.test");
    assert!(reply.starts_with("250 "), "{how}: {reply}");
    let reply = relay.send(true, "n.test");
    assert!(
        reply.starts_with("451 ") && reply.contains("dane-required"),
        "{how}: {reply}"
    );
}

#[test]
fn mail_flows_without_dane_where_dnssec_is_stripped() {
    let world = World::new();
    for how in [
        "signatures are left out",
        "signatures are left out, and all is said to be validated",
        "all of DNSSEC is left out",
        "DO is not passed on",
    ] {
        expect_no_dane(&world, how);
    }
}

#[test]
fn mail_flows_without_dane_where_edns_is_refused() {
    expect_no_dane(&World::new(), EDNS_REFUSED);
}

#[test]
fn of_several_name_servers_the_able_one_is_asked() {
    let world = World::new();
    let unbound = world.unbound(false);
    let strips = stripping("all of DNSSEC is left out", unbound.address);
    let nobody = sink::free_address();
    for (others, is_told) in [(strips.address, STRIPS), (nobody, "does not answer")] {
        for servers in [[others, unbound.address], [unbound.address, others]] {
            let relay = world.relay(&servers, "[dns]\ntimeout = \"1s\"");
            relay.daemon.wait_for_log(PASSES);
            relay.daemon.wait_for_log(is_told);
            relay.expect(&[
                ("n.test".to_owned(), Way::Proven),
                ("u.n3.test".to_owned(), Way::Unproven),
                ("nx.n3.test".to_owned(), Way::Nowhere),
                // What is forged does not pass by those who cannot tell.
                ("damaged.test".to_owned(), Way::Forged),
                ("broken-mx.damaged.test".to_owned(), Way::Forged),
                ("broken-tlsa.damaged.test".to_owned(), Way::Forged),
                ("dsbad.test".to_owned(), Way::Forged),
            ]);
        }
    }
}

#[test]
fn a_policy_behind_two_aliases_into_an_unsigned_zone_is_applied() {
    let world = World::new();
    for validates in [true, false] {
        let unbound = world.unbound(validates);
        for domain in ["sts.n.test", "sts.n3.test"] {
            let mx = domain.replace("sts", "v4");
            let text = format!("version: STSv1\r\nmode: enforce\r\nmx: {mx}\r\nmax_age: 86400\r\n");
            let host = world.pki.trusted(&[&format!("mta-sts.{domain}")]);
            let https = Https::start(&host, &text);
            let more = format!("[delivery]\nmta-sts-port = {}", https.address.port());
            let relay = world.relay(&[unbound.address], &more);
            let reply = relay.send(false, domain);
            assert!(reply.starts_with("250 "), "{domain}: {reply}");
            assert_eq!(https.requests(), 1, "the policy was asked for");
            for behaviour in [
                Behaviour::default(),
                Behaviour::with(&Pki::self_signed(&[&mx])),
            ] {
                relay.partner.behave(behaviour);
                let reply = relay.send(false, domain);
                assert!(reply.starts_with("451 4.7."), "{domain}: {reply}");
            }
            assert_eq!(relay.partner.taken().len(), 1);
        }
    }
}

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

#[test]
fn a_name_server_elsewhere_is_trusted_only_if_the_configuration_says_so() {
    let world = World::new();
    let unbound = world.unbound(true);
    // Linux takes this address for this machine's; to the daemon it is not one on loopback.
    let server = SocketAddr::from((Ipv4Addr::UNSPECIFIED, unbound.address.port()));
    for (more, ability) in [("", PASSES), ("[dns]\ntrust-ad = [\"0.0.0.0\"]", TRUSTED)] {
        let relay = world.relay(&[server], more);
        relay.daemon.wait_for_log(ability);
        relay.expect(&[
            ("n.test".to_owned(), Way::Proven),
            ("u.n3.test".to_owned(), Way::Unproven),
            ("dsbad.test".to_owned(), Way::Forged),
        ]);
    }
}

#[test]
fn name_servers_that_fall_silent_are_passed_over() {
    let world = World::new();
    let unbound = world.unbound(false);
    let is_up = Arc::new(AtomicBool::new(true));
    let mortal = || {
        let (is_up, resolver) = (is_up.clone(), Upstream(unbound.address));
        Forwarder::start(move |request| {
            let answer = resolver.exchange(request);
            answer.filter(|_| is_up.load(Ordering::SeqCst))
        })
    };
    let (first, second) = (mortal(), mortal());
    let servers = [first.address, second.address, unbound.address];
    let relay = world.relay(&servers, "[dns]\ntimeout = \"1s\"");
    assert!(relay.send(false, "n.test").starts_with("250 "));
    is_up.store(false, Ordering::SeqCst);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let reply = relay.send(false, "u.n3.test");
        if reply.starts_with("250 ") {
            return;
        }
        assert!(Instant::now() < deadline, "it never came: {reply}");
    }
}
