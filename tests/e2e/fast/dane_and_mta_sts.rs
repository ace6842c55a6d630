//! DANE (RFC 7672) and MTA-STS (RFC 8461): what a partner's own domain asks for.

use portcullis_tests::outbound::{ONCE, SHORT_TIMEOUTS, Setting};
use portcullis_tests::pki::{Identity, sha256};
use portcullis_tests::{Behaviour, Dns, Https, MockServer, Pki};
use x509_parser::prelude::{FromDer, X509Certificate};

const RULES: &str = r#"{"connectors": [
    {"name": "mandatory", "direction": "outbound", "dane": "mandatory",
     "to": {"recipient-domains": ["mandatory.test", "mandatory.unsigned"]}},
    {"name": "never", "direction": "outbound", "to": {"recipient-domains": ["never.test"]},
     "dane": "none", "mta-sts": "none"},
    {"name": "verified", "direction": "outbound", "to": {"recipient-domains": ["verified.test"]},
     "tls": {"level": "verify"}},
    {"name": "alone", "direction": "outbound", "to": {"recipient-domains": ["audited.test"]},
     "mode": "audit", "dane": "mandatory"},
    {"name": "now", "direction": "outbound", "to": {"recipient-domains": ["stricter.test"]},
     "dane": "none", "mta-sts": "none"},
    {"name": "next", "direction": "outbound", "to": {"recipient-domains": ["stricter.test"]},
     "mode": "audit", "dane": "mandatory"}
]}"#;

/// The SHA-256 of a certificate's key.
fn key_digest(certificate: &[u8]) -> String {
    let (_, parsed) = X509Certificate::from_der(certificate).expect("a certificate");
    sha256(parsed.public_key().raw)
}

struct World {
    setting: Setting,
    partner: MockServer,
    identity: Identity,
}

/// A partner at mx.partner.test and mx.partner.unsigned, with a certificate that nobody vouches for.
fn world(tlsa: &[String]) -> World {
    world_with(tlsa, Pki::self_signed(&["mx.partner.test"]))
}

fn world_with(tlsa: &[String], identity: Identity) -> World {
    let mut records = String::from(
        "opportunistic.test. MX 10 mx.partner.test.
         mandatory.test. MX 10 mx.partner.test.
         never.test. MX 10 mx.partner.test.
         verified.test. MX 10 mx.partner.test.
         audited.test. MX 10 mx.partner.test.
         stricter.test. MX 10 mx.partner.test.
         mx.partner.test. A 127.0.0.2
         half.test. MX 10 mx.partner.unsigned.
         mandatory.unsigned. MX 10 mx.partner.test.
         mx.partner.unsigned. A 127.0.0.2
         _{port}._tcp.mx.partner.unsigned. TLSA 3 1 1 0000000000000000000000000000000000000000000000000000000000000000\n",
    );
    for data in tlsa {
        records.push_str(&format!("_{{port}}._tcp.mx.partner.test. TLSA {data}\n"));
    }
    let more = format!("{SHORT_TIMEOUTS}{ONCE}");
    let setting = Setting::start(Pki::new(), RULES, &[&records], &more);
    let partner = MockServer::start_at(setting.address(2), Behaviour::with(&identity));
    World {
        setting,
        partner,
        identity,
    }
}

impl World {
    fn expect(&self, domain: &str, expected: &str) {
        let outcome = self.setting.send(&format!("bob@{domain}"));
        let text = outcome.text();
        assert!(text.contains(expected), "{domain}: {text}");
        assert_eq!(
            outcome.is_delivered(),
            expected.starts_with("250"),
            "{text}"
        );
    }
}

#[test]
fn a_certificate_that_the_records_allow() {
    let identity = Pki::self_signed(&["mx.partner.test"]);
    let wrong = "3 1 1 ".to_owned() + &"ab".repeat(32);
    let records = [wrong, format!("3 1 1 {}", key_digest(&identity.chain[0]))];
    let world = world_with(&records, identity);
    world.expect("opportunistic.test", "250 2.0.0 taken");
    world.expect("mandatory.test", "250 2.0.0 taken");
    // What the connector asks for is asked for as well.
    world.expect("verified.test", "certificate-not-trusted");
    assert!(world.partner.taken().iter().all(|taken| taken.tls));
    world.partner.behave(Behaviour::default());
    world.expect("opportunistic.test", "starttls-not-supported");
    world.expect("mandatory.test", "starttls-not-supported");
    world.expect("never.test", "250 2.0.0 taken");
}

/// Before a connector is enforced, its audit tells what it would refuse, whatever is asked for until then.
#[test]
fn what_dane_would_refuse_is_told_in_audit_mode() {
    let right = Pki::self_signed(&["mx.partner.test"]);
    let record = |key: &str| vec![format!("3 1 1 {key}")];
    for (records, said) in [
        (Vec::new(), "audit=\"dane-required: "),
        (record(&"ab".repeat(32)), "audit=\"tlsa-invalid: "),
        (record(&key_digest(&right.chain[0])), "audit=\"satisfied\""),
    ] {
        let world = world_with(&records, right.clone());
        world.expect("stricter.test", "250 2.0.0 taken");
        let line = world.setting.daemon.wait_for_log("INFO connected");
        assert!(line.contains(said), "{line}");
        assert!(line.contains("audit_connector=\"next\""), "{line}");
    }
    // In audit mode alone the server's records count all the same, as they do without a connector.
    let world = world(&[]);
    world.expect("audited.test", "250 2.0.0 taken");
    let line = world.setting.daemon.wait_for_log("INFO connected");
    assert!(line.contains("audit=\"dane-required: "), "{line}");
    assert!(line.contains("audit_connector=\"alone\""), "{line}");
}

/// A name server that does not answer defers no mail of a connector that is only tried.
#[test]
fn what_is_only_audited_does_not_wait_for_a_silent_name_server() {
    let world = world(&[]);
    let port = world.setting.port;
    let name = format!("_{port}._tcp.mx.partner.test.");
    world.setting.dns.silence(&name);
    world.expect("stricter.test", "250 2.0.0 taken");
    let line = world.setting.daemon.wait_for_log("INFO connected");
    assert!(
        line.contains("audit=\"dane-required: ") || line.contains("audit=\"tlsa-invalid: "),
        "{line}"
    );
    // What counts is not sent without an answer.
    world.expect("mandatory.test", "451");
}

#[test]
fn a_certificate_that_no_record_allows() {
    let other = Pki::self_signed(&["mx.partner.test"]);
    let world = world(&[format!("3 0 1 {}", sha256(&other.chain[0]))]);
    world.expect("opportunistic.test", "tlsa-invalid");
    world.expect("mandatory.test", "tlsa-invalid");
    world.expect("verified.test", "tlsa-invalid");
    world.expect("never.test", "250 2.0.0 taken");
    assert_eq!(world.partner.taken().len(), 1);
    assert_eq!(world.identity.chain.len(), 1);
}

#[test]
fn records_that_are_missing_or_not_proven() {
    let world = world(&[]);
    world.expect("opportunistic.test", "250 2.0.0 taken");
    world.expect("mandatory.test", "dane-required");
    // Nothing proves the exchanger's name, or the way to it, so its records do not count.
    world.expect("half.test", "250 2.0.0 taken");
    world.expect("mandatory.unsigned", "dane-required");
    let record = format!("_{}._tcp.mx.partner.test.", world.setting.port);
    world.setting.dns.break_signatures(&record);
    assert_eq!(world.partner.taken().len(), 2);
}

#[test]
fn records_that_cannot_be_had_close_the_door() {
    let allowed = |identity: &Identity| vec![format!("3 1 1 {}", key_digest(&identity.chain[0]))];
    let identity = Pki::self_signed(&["mx.partner.test"]);
    let world = world_with(&allowed(&identity), identity.clone());
    let record = format!("_{}._tcp.mx.partner.test.", world.setting.port);
    world.setting.dns.fail(&record);
    world.expect("opportunistic.test", "tlsa-invalid");
    let world = world_with(&allowed(&identity), identity.clone());
    let record = format!("_{}._tcp.mx.partner.test.", world.setting.port);
    world.setting.dns.break_signatures(&record);
    world.expect("opportunistic.test", "dnssec-invalid");
    let world = world_with(&allowed(&identity), identity.clone());
    let record = format!("_{}._tcp.mx.partner.test.", world.setting.port);
    world.setting.dns.forge_denial(&record);
    world.expect("opportunistic.test", "dnssec-invalid");
    let world = world_with(&allowed(&identity), identity);
    world.setting.dns.break_signatures("mx.partner.test.");
    world.expect("opportunistic.test", "dnssec-invalid");
    assert!(world.partner.commands().is_empty());
}

#[test]
fn records_of_other_names_do_not_count() {
    let theirs = Pki::self_signed(&["mx.partner.test"]);
    let right = Pki::self_signed(&["mx.partner.test"]);
    let allowed = vec![format!("3 1 1 {}", key_digest(&right.chain[0]))];
    // Somebody who stands between, with a key and a signed zone of their own.
    let between = |name: &str, how: fn(&Dns, &str, &str)| {
        let world = world_with(&allowed, theirs.clone());
        let port = world.setting.port;
        let key = key_digest(&theirs.chain[0]);
        world.setting.dns.add(&format!(
            "_{port}._tcp.mx.evil.test. TLSA 3 1 1 {key}
             evil.test. MX 0 mx.evil.test.
             unsigned. MX 0 mx.evil.test.
             mx.evil.test. A 127.0.0.2"
        ));
        let place = |name: &str| name.replace("{port}", &port.to_string());
        let (name, other) = name.split_once(' ').expect("two names");
        how(&world.setting.dns, &place(name), &place(other));
        world
    };
    let record = "_{port}._tcp.mx.partner.test. _{port}._tcp.mx.evil.test.";
    let world = between(record, Dns::add_foreign);
    world.expect("mandatory.test", "tlsa-invalid");
    world.expect("opportunistic.test", "tlsa-invalid");
    let world = between(record, Dns::put_foreign);
    world.expect("mandatory.test", "dnssec-invalid");
    world.expect("opportunistic.test", "dnssec-invalid");
    for exchanger in ["evil.test.", "unsigned."] {
        let names = format!("mandatory.test. {exchanger}");
        let world = between(&names, Dns::add_foreign);
        world.expect("mandatory.test", "tlsa-invalid");
        let world = between(&names, Dns::put_foreign);
        world.expect("mandatory.test", "dnssec-invalid");
    }
}

#[test]
fn records_that_are_not_for_smtp_ask_for_encryption() {
    let world = world(&["1 1 1 ".to_owned() + &"ab".repeat(32)]);
    world.expect("opportunistic.test", "250 2.0.0 taken");
    world.expect("mandatory.test", "dane-required");
    world.partner.behave(Behaviour::default());
    world.expect("opportunistic.test", "starttls-not-supported");
}

#[test]
fn an_authority_that_the_records_name() {
    let pki = Pki::new();
    let through = pki.through_intermediate(&["mx.partner.test"]);
    let authority =
        |usage: &str, identity: &Identity| vec![format!("{usage} {}", sha256(&identity.chain[1]))];
    let right = world_with(&authority("2 0 1", &through), through.clone());
    right.expect("opportunistic.test", "250 2.0.0 taken");
    right.expect("mandatory.test", "250 2.0.0 taken");
    let by_key = vec![format!("2 1 1 {}", key_digest(&through.chain[1]))];
    world_with(&by_key, through.clone()).expect("mandatory.test", "250 2.0.0 taken");
    // RFC 7672 section 3.2.2: the domain's own name will do as well.
    let for_domain = pki.through_intermediate(&["mandatory.test"]);
    let world = world_with(&authority("2 0 1", &for_domain), for_domain);
    world.expect("mandatory.test", "250 2.0.0 taken");
    world.expect("opportunistic.test", "tlsa-invalid");
    // The authority's own certificate has to be shown.
    let alone = Identity {
        chain: through.chain[..1].to_vec(),
        ..through.clone()
    };
    world_with(&authority("2 0 1", &through), alone).expect("mandatory.test", "tlsa-invalid");
}

const STS_RECORDS: &str = "
    sts.test. MX 10 mx.partner.test.
    sts.test. MX 20 mx.attacker.test.
    mx.partner.test. A 127.0.0.2
    mx.attacker.test. A 127.0.0.3
    mta-sts.sts.test. A 127.0.0.1
    never.test. MX 10 mx.attacker.test.
";

fn policy(mode: &str, mx: &str, max_age: u32) -> String {
    format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n")
}

/// A partner with an MTA-STS policy, and somebody else at the second exchanger.
struct StsWorld {
    setting: Setting,
    https: Https,
    partner: MockServer,
    attacker: MockServer,
}

impl StsWorld {
    fn start(text: &str) -> StsWorld {
        StsWorld::start_with(Pki::new(), text, |pki| pki.trusted(&["mta-sts.sts.test"]))
    }

    fn start_with(pki: Pki, text: &str, host: impl Fn(&Pki) -> Identity) -> StsWorld {
        let https = Https::start(&host(&pki), text);
        let more = format!(
            "{SHORT_TIMEOUTS}{ONCE}\n[delivery]\nmta-sts-port = {}\n",
            https.address.port()
        );
        let id = "_mta-sts.sts.test. 1 TXT \"v=STSv1; id=1;\"";
        let setting = Setting::start(pki, RULES, &[STS_RECORDS, id], &more);
        let right = setting.pki.trusted(&["mx.partner.test"]);
        let partner = MockServer::start_at(setting.address(2), Behaviour::with(&right));
        let attacker = MockServer::start_at(setting.address(3), Behaviour::default());
        StsWorld {
            setting,
            https,
            partner,
            attacker,
        }
    }

    fn send(&self) -> String {
        self.setting.send("bob@sts.test").text()
    }
}

#[test]
fn an_enforced_policy_is_kept() {
    let world = StsWorld::start(&policy("enforce", "mx.partner.test", 86400));
    assert!(world.send().starts_with("250 "));
    assert!(world.send().starts_with("250 "));
    assert_eq!(world.https.requests(), 1, "the policy is kept");
    assert_eq!(world.partner.taken().len(), 2);
    let pki = &world.setting.pki;
    for (behaviour, result) in [
        (Behaviour::default(), "starttls-not-supported"),
        (
            Behaviour::with(&Pki::self_signed(&["mx.partner.test"])),
            "certificate-not-trusted",
        ),
        (
            Behaviour::with(&pki.expired(&["mx.partner.test"])),
            "certificate-expired",
        ),
        (
            Behaviour::with(&pki.trusted(&["mx.other.test"])),
            "certificate-host-mismatch",
        ),
    ] {
        world.partner.behave(behaviour);
        let text = world.send();
        // The second exchanger is none of the policy's, which is told if it came last.
        assert!(text.starts_with("451 4.7."), "{text}");
        world.setting.daemon.wait_for_log(result);
    }
    assert!(world.attacker.commands().is_empty());
    assert_eq!(world.partner.taken().len(), 2);
    assert!(world.setting.send("bob@never.test").is_delivered());
}

#[test]
fn a_policy_outlives_its_record_its_server_and_the_daemon() {
    let world = StsWorld::start(&policy("enforce", "mx.partner.test", 86400));
    assert!(world.send().starts_with("250 "));
    let state = world
        .setting
        .daemon
        .folder()
        .join("state/mta-sts/sts.test.json");
    assert!(state.exists());
    world.partner.behave(Behaviour::default());
    world.setting.dns.set(&[STS_RECORDS]);
    assert!(world.send().starts_with("451 4.7."), "without its record");
    world
        .https
        .respond("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    world
        .setting
        .dns
        .set(&[STS_RECORDS, "_mta-sts.sts.test. 1 TXT \"v=STSv1; id=2\""]);
    assert!(world.send().starts_with("451 4.7."), "without its server");
    let asked = world.https.requests();
    assert!(world.send().starts_with("451 4.7."));
    assert_eq!(
        world.https.requests(),
        asked,
        "a failure is not repeated at once"
    );
}

#[test]
fn a_new_id_brings_a_new_policy() {
    let world = StsWorld::start(&policy("enforce", "mx.elsewhere.test", 86400));
    let text = world.send();
    assert!(
        text.contains("the MTA-STS policy of sts.test does not name this server"),
        "{text}"
    );
    world.https.say(&policy("enforce", "*.partner.test", 86400));
    world
        .setting
        .dns
        .set(&[STS_RECORDS, "_mta-sts.sts.test. 1 TXT \"v=STSv1; id=2\""]);
    // The old record may be remembered for the second that it allows.
    world
        .setting
        .wait_until(|setting| setting.send("bob@sts.test").is_delivered());
    assert_eq!(world.https.requests(), 2);
}

#[test]
fn policies_that_do_not_bind() {
    for mode in ["testing", "none"] {
        let world = StsWorld::start(&policy(mode, "mx.elsewhere.test", 86400));
        world.partner.behave(Behaviour::default());
        assert!(world.send().starts_with("250 "), "{mode}");
        assert_eq!(world.https.requests(), 1);
    }
}

#[test]
fn policies_that_cannot_be_had() {
    let text = policy("enforce", "mx.elsewhere.test", 86400);
    let broken = |world: StsWorld, result: &str| {
        assert!(world.send().starts_with("250 "), "{result}");
        world.setting.daemon.wait_for_log(result);
    };
    broken(StsWorld::start("version: STSv1\r\n"), "there is no mode");
    let unknown = |_: &Pki| Pki::self_signed(&["mta-sts.sts.test"]);
    broken(
        StsWorld::start_with(Pki::new(), &text, unknown),
        "sts-webpki-invalid",
    );
    let other = |pki: &Pki| pki.trusted(&["www.sts.test"]);
    broken(
        StsWorld::start_with(Pki::new(), &text, other),
        "sts-webpki-invalid",
    );
    for response in [
        "HTTP/1.1 301 Moved\r\nLocation: https://mta-sts.sts.test/x\r\nContent-Length: 0\r\n\r\n"
            .to_owned(),
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        ),
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 70000\r\n\r\n{}",
            "a".repeat(70_000)
        ),
    ] {
        let world = StsWorld::start(&text);
        world.https.respond(&response);
        broken(world, "sts-policy-fetch-error");
    }
}
