//! A real HAProxy that ends TLS, by the settings of `docs/integrations/haproxy.md`.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use portcullis_tests::client::Handshake;
use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::haproxy::HaProxy;
use portcullis_tests::machine::free_address;
use portcullis_tests::pki::Identity;
use portcullis_tests::{Client, Config, Listener, Pki, TestBed, metrics};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use crate::front_doors::block;

const DOCUMENT: &str = include_str!("../../../docs/integrations/haproxy.md");

const RULES: &str = r#"{"connectors": [
    {"name": "Encrypted", "direction": "inbound", "from": {"sender-domains": ["bank.test"]},
     "require": {"tls": {"min-version": "TLSv1.3"}}},
    {"name": "Named", "direction": "inbound", "from": {"sender-domains": ["named.test"]},
     "require": {"certificate-names": ["mx.named.test"]}}
]}"#;

#[test]
fn haproxy_tells_of_the_tls_that_it_ends() {
    let pki = Pki::new();
    let daemon = TestBed::start(
        Config::new()
            .listener(Listener::maildir().proxied())
            .trust(&pki)
            .tenant("contoso.com", RULES),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let server = pki.trusted(&["mx.contoso.com"]);
    fs::write(
        file("mx.pem"),
        server.certificate_pem.clone() + &server.key_pem,
    )
    .expect("a file");
    fs::write(file("clients.pem"), &pki.root_pem).expect("a file");
    let address = free_address();
    let frontend = block(DOCUMENT, "bind :465")
        .replace(":465", &address.to_string())
        .replace("/etc/haproxy/mx.pem", &file("mx.pem"))
        .replace("/etc/haproxy/clients.pem", &file("clients.pem"));
    let backend = block(DOCUMENT, "send-proxy-v2-ssl-cn")
        .replace("127.0.0.1:2465", &daemon.address().to_string());
    let haproxy = HaProxy::start(&format!("{frontend}\n{backend}"), address);
    let reply = |identity: Option<&Identity>, version, from: &str| {
        let mut client = Client::connect(haproxy.address);
        let handshake = Handshake { identity, version };
        client.handshake(&handshake).expect("a handshake");
        assert_eq!(client.reply().code, 220, "{}", haproxy.said());
        client.expect("EHLO client.example", 250);
        let reply = client.envelope(from, "b@contoso.com");
        format!("{} {}", reply.code, reply.text())
    };
    assert!(reply(None, None, "a@bank.test").starts_with("250 "));
    let line = daemon.wait_for_log("from=\"a@bank.test\"");
    assert!(
        line.contains("tls=\"TLSv1.3\"") && line.contains("client=127.0.0.1"),
        "{line}"
    );
    let old = Some(&rustls::version::TLS12);
    let refused = reply(None, old, "a@bank.test");
    assert!(refused.contains("(tls-version)"), "{refused}");
    let of = |pki: &Pki, name: &str| pki.with_usages(&[name], &[ServerAuth, ClientAuth]);
    let taken = reply(Some(&of(&pki, "mx.named.test")), None, "a@named.test");
    assert!(taken.starts_with("250 "), "{taken}");
    // One name is told, and of a certificate that is not trusted, or of none, nothing. OpenSSL does not trust a client
    // with a certificate for servers.
    let stranger = Pki::named("Stranger");
    for identity in [
        Some(&of(&pki, "mx.other.test")),
        Some(&of(&stranger, "mx.named.test")),
        Some(&pki.trusted(&["mx.named.test"])),
        None,
    ] {
        let deferred = reply(identity, None, "a@named.test");
        assert!(deferred.starts_with("451 4.7.0 "), "{deferred}");
    }
}

/// Hosts come and go behind a balancer by the settings of `docs/fleet.md`, and no session fails.
#[test]
fn hosts_are_drained_and_added_while_mail_flows() {
    const FLEET: &str = include_str!("../../../docs/fleet.md");
    let config = || {
        Config::new()
            .listener(Listener::maildir().proxied())
            .tenant("contoso.com", RULES)
            .with("[metrics]\naddress = \"127.0.0.1:0\"\n[timeouts]\nshutdown-delay = \"2s\"")
    };
    let mut hosts = [TestBed::start(config()), TestBed::start(config())];
    let address = free_address();
    let frontend = block(FLEET, "bind :25").replace(":25", &address.to_string());
    let mut backend = block(FLEET, "option httpchk");
    // Where they are found when they come back.
    let places = hosts
        .each_ref()
        .map(|host| (host.address(), metrics::address(host)));
    for (number, (smtp, http)) in places.iter().enumerate() {
        let documented = format!("192.0.2.{}:25 send-proxy-v2 check port 9090", number + 1);
        let here = format!(
            "{smtp} send-proxy-v2 check addr 127.0.0.1 port {}",
            http.rsplit_once(':').expect("a port").1
        );
        assert!(backend.contains(&documented), "{backend}");
        backend = backend.replace(&documented, &here);
    }
    let haproxy = HaProxy::start(&format!("{frontend}\n{backend}"), address);
    let done = AtomicBool::new(false);
    let sessions = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut sessions = 0;
                    while !done.load(Ordering::Relaxed) {
                        let code =
                            Client::recipient(haproxy.address, "a@example.org", "b@contoso.com");
                        assert_eq!(code, 250, "{}", haproxy.said());
                        sessions += 1;
                    }
                    sessions
                })
            })
            .collect();
        let _done = Done(&done);
        for number in 0..2 {
            let (smtp, http) = &places[number];
            let is_ready = || ready(http).is_some_and(|status| status == 200);
            let deadline = Instant::now() + TIMEOUT;
            while !is_ready() {
                assert!(Instant::now() < deadline);
            }
            hosts[number].signal("TERM");
            hosts[number].wait_for_log("draining");
            assert_eq!(ready(http), Some(503));
            assert_eq!(hosts[number].wait(), Some(0));
            let metrics =
                format!("[metrics]\naddress = \"{http}\"\n[timeouts]\nshutdown-delay = \"2s\"");
            let back = Config::new()
                .listener(Listener::maildir().proxied())
                .tenant("contoso.com", RULES)
                .with(&metrics)
                .at(&[*smtp]);
            hosts[number] = TestBed::start(back);
        }
        let (_, http) = &places[1];
        let deadline = Instant::now() + TIMEOUT;
        while ready(http) != Some(200) {
            assert!(Instant::now() < deadline);
        }
        done.store(true, Ordering::Relaxed);
        let ended = clients
            .into_iter()
            .map(|client| client.join().expect("a client"));
        ended.sum::<usize>()
    });
    assert!(sessions > 100, "{sessions}");
}

/// Ends the clients also if something panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a host says of being ready; `None` if it does not answer.
fn ready(address: &str) -> Option<u16> {
    let output = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("http://{address}/ready"))
        .output()
        .expect("curl");
    let code = String::from_utf8_lossy(&output.stdout).parse().ok()?;
    (code != 0).then_some(code)
}
