//! DNSSEC as the servers of others serve it: zones signed by BIND's tools on Knot, behind Unbound, which validates, or
//! passes DNSSEC on, or whose answers somebody strips or forges on the way.

mod forgeries;
mod resolvers;
mod zones;

use std::net::{Ipv4Addr, SocketAddr};

use portcullis_tests::forwarder::{Forwarder, ODD, odd_cuts, odd_server};
use portcullis_tests::outbound::{ONCE, SHORT_TIMEOUTS};
use portcullis_tests::pki::{Identity, sha256};
use portcullis_tests::resolver::{Authority, Unbound};
use portcullis_tests::{Behaviour, Config, Listener, MockServer, NO_RULES, Pki, TestBed, machine};
use x509_parser::prelude::{FromDer, X509Certificate};

use zones::{ODD_RECORDS, zones};

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
        let port = machine::free_address().port();
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
        let mut client = self.daemon.client_of(usize::from(is_strict));
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
