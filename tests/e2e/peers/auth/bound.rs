//! SCRAM-SHA-256-PLUS at a server by GNU SASL, with OpenSSL's octets of the TLS session: neither is ours. The Postfix, Exim
//! and Dovecot of the tests have none.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use portcullis_tests::outbound::{Outcome, send};
use portcullis_tests::programs::{installed, listens};
use portcullis_tests::{Config, Dns, Listener, Pki, TestBed, validate};

use super::{FIRST_PORT, PASSWORD, USER, WRONG, own_host, shows};

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/peers/auth/bound.py");
const BEST: &str = "SCRAM-SHA-256-PLUS";
const ALL: &str = "LOGIN PLAIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS";

/// A running server.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(address: SocketAddr, pki: &Pki, how: &How) -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        pki.trusted(&["hub.test"]).write(folder.path(), "mx");
        let file = |name: &str| fs::File::create(folder.path().join(name)).expect("a file");
        // That of the system has Debian's python3-openssl.
        let child = Command::new(installed("Python", "/usr/bin/python3"))
            .arg(Path::new(SERVER))
            .args([address.ip().to_string(), address.port().to_string()])
            .args(["mx.pem", "mx.key", USER, PASSWORD])
            .args([how.tls, how.mechanisms, how.bound])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(file("log"))
            .stderr(file("stderr"))
            .spawn()
            .expect("Python starts");
        let mut server = Server { child, folder };
        let listens = listens(&mut server.child, address);
        assert!(listens, "{}", server.log());
        server
    }

    fn log(&self) -> String {
        let names = ["log", "stderr"];
        let read = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        names.map(read).concat()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends only when it is told to.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log());
        }
    }
}

/// What a server is like.
struct How {
    tls: &'static str,
    mechanisms: &'static str,
    bound: &'static str,
    password: &'static str,
}

struct World {
    daemon: TestBed,
    server: Server,
    _dns: Dns,
}

impl World {
    fn new(how: &How) -> World {
        let pki = Pki::new();
        let host = own_host();
        let address = SocketAddr::from((host, FIRST_PORT));
        let server = Server::start(address, &pki, how);
        let dns = Dns::start(&[&format!("hub.test. A {host}")]);
        let hub = format!("hub.test:{}", address.port());
        let rules = format!(
            r#"{{"connectors": [{{"name": "Hub", "direction": "outbound", "to": {{"recipient-domains": ["*"]}},
                "route": {{"smart-hosts": ["{hub}"]}}}}]}}"#
        );
        let login = format!("username = {USER:?}\npassword-file = \"secret\"");
        let config = Config::new()
            .listener(Listener::outbound(
                "clients = [\"127.0.0.1\"], tenant = \"contoso\"",
            ))
            .tenant_with("contoso", &["contoso.com"], "rules.json")
            .file("rules.json", rules)
            .file("secret", format!("{}\n", how.password))
            .trust(&pki)
            .dns(&dns)
            .partners_here(25)
            .with(&format!(
                "[[delivery.smart-host]]\naddress = \"{hub}\"\n{login}"
            ));
        World {
            daemon: TestBed::start(config),
            server,
            _dns: dns,
        }
    }

    fn send(&self) -> Outcome {
        let outcome = send(&mut self.daemon.client(), "b@bank.test");
        let log = self.daemon.log().join("\n");
        assert!(!shows(&log, PASSWORD) && !shows(&log, WRONG), "{log}");
        outcome
    }
}

/// The session is bound where that is possible. Where TLS is too old for it, and where the server cannot, it is not.
#[test]
fn scram_is_bound_to_the_session() {
    for (how, mechanism, begins) in [
        (
            How {
                tls: "1.3",
                mechanisms: ALL,
                bound: "session",
                password: PASSWORD,
            },
            BEST,
            "p=tls-exporter",
        ),
        (
            How {
                tls: "1.2",
                mechanisms: ALL,
                bound: "session",
                password: PASSWORD,
            },
            "SCRAM-SHA-256",
            "n",
        ),
        (
            How {
                tls: "1.3",
                mechanisms: "PLAIN SCRAM-SHA-256",
                bound: "nothing",
                password: PASSWORD,
            },
            "SCRAM-SHA-256",
            "y",
        ),
    ] {
        let world = World::new(&how);
        let outcome = world.send();
        let log = world.server.log();
        assert!(outcome.is_delivered(), "{}", outcome.text());
        assert!(
            log.contains(&format!("{mechanism} begins with {begins}\n")),
            "{log}"
        );
        assert!(log.contains(&format!("{mechanism} ends well\n")), "{log}");
        let (code, told) = validate::output(&world.daemon, &["Hub"]);
        assert_eq!(code, 0, "{told}");
        assert!(
            told.contains(&format!("logged in by {mechanism}\n")),
            "{told}"
        );
    }
}

/// Whoever stands in between has another session with us than with the server; and whoever hides that the server could
/// bind the session is found out by it.
#[test]
fn who_stands_in_between_is_found_out() {
    for (how, mechanism) in [
        (
            How {
                tls: "1.3",
                mechanisms: ALL,
                bound: "other",
                password: PASSWORD,
            },
            BEST,
        ),
        (
            How {
                tls: "1.3",
                mechanisms: "PLAIN SCRAM-SHA-256",
                bound: "session",
                password: PASSWORD,
            },
            "SCRAM-SHA-256",
        ),
        (
            How {
                tls: "1.3",
                mechanisms: ALL,
                bound: "session",
                password: WRONG,
            },
            BEST,
        ),
    ] {
        let world = World::new(&how);
        let text = world.send().text();
        let log = world.server.log();
        assert!(
            text.starts_with("451 4.7.8 ") && text.contains(mechanism),
            "{text}\n{log}"
        );
        assert!(
            log.contains(&format!("{mechanism} ends with error ")),
            "{log}"
        );
        // Nor is the password told by another mechanism then.
        assert!(
            !log.contains("ends well") && !log.contains("PLAIN begins"),
            "{log}"
        );
        let (code, told) = validate::output(&world.daemon, &["Hub"]);
        assert_eq!(code, 1, "{told}");
        assert!(!shows(&told, PASSWORD) && !shows(&told, WRONG), "{told}");
    }
}
