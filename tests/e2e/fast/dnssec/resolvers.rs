//! Name servers that validate DNSSEC, pass it on, withhold it, or fall silent.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Record, RecordType};
use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::forwarder::{Forwarder, Upstream};
use portcullis_tests::{Behaviour, Https, Pki, machine};

use super::zones::cases;
use super::{Cases, PASSES, STRIPS, TRUSTED, Way, World};

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
    let nobody = machine::free_address();
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
