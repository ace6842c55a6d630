//! Logging in: Portcullis at a Postfix and an Exim, and clients that are not ours at Portcullis.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use portcullis_tests::dovecot::Dovecot;
use portcullis_tests::exim::Exim;
use portcullis_tests::outbound::{Outcome, send};
use portcullis_tests::pki::Identity;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::validate;
use portcullis_tests::{Behaviour, Config, Dns, Listener, MockServer, Pki, TestBed};

mod bound;
mod clients;

/// With characters that SCRAM has to write otherwise.
const USER: &str = "app=1,x@contoso.com";
const PASSWORD: &str = "spring,rain=7 days";
const WRONG: &str = "autumn,rain=8 days";
const MECHANISMS: [&str; 3] = ["SCRAM-SHA-256", "PLAIN", "LOGIN"];

/// A host of this machine at which nobody else listens.
fn own_host() -> Ipv4Addr {
    static LAST: AtomicU8 = AtomicU8::new(0);
    let number = LAST.fetch_add(1, Ordering::SeqCst) + 1;
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + high % 64, low, number)
}

/// Of its doors, the first. It is below the ports that others are given.
const FIRST_PORT: u16 = 2525;

/// A port of a server at which only this mechanism is offered.
struct Door {
    mechanisms: &'static str,
    implicit_tls: bool,
    address: SocketAddr,
}

impl Door {
    fn new(mechanisms: &'static str, implicit_tls: bool) -> Door {
        Door {
            mechanisms,
            implicit_tls,
            // Until there is a server.
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    }

    fn for_each_mechanism() -> Vec<Door> {
        let modes = [false, true].into_iter();
        modes
            .flat_map(|implicit_tls| MECHANISMS.map(|mechanism| Door::new(mechanism, implicit_tls)))
            .collect()
    }
}

/// A server that only takes mail from who has logged in.
enum Server {
    Postfix(Postfix, Vec<Dovecot>),
    Exim(Exim, Vec<Dovecot>),
}

/// What Exim's authenticator for a mechanism is called.
fn authenticator(mechanism: &str) -> String {
    mechanism.to_lowercase().replace('-', "_")
}

/// Which server it is.
#[derive(Clone, Copy)]
enum Kind {
    Postfix,
    Exim,
}

impl Server {
    /// Starts one with these doors and the certificate `mx` of a folder, which sends all mail on.
    fn start(kind: Kind, doors: &[Door], folder: &Path, behind: SocketAddr) -> Server {
        match kind {
            Kind::Postfix => Server::postfix(doors, folder, behind),
            Kind::Exim => Server::exim(doors, folder, behind),
        }
    }

    fn postfix(doors: &[Door], folder: &Path, behind: SocketAddr) -> Server {
        let mut dovecots = Vec::new();
        let mut services = String::new();
        for door in doors {
            let dovecot = Dovecot::start(&door.mechanisms.to_lowercase(), &[(USER, PASSWORD)]);
            let wrapped = if door.implicit_tls { "yes" } else { "no" };
            services += &format!(
                "{} inet n - n - - smtpd -o smtpd_sasl_path={} -o smtpd_tls_wrappermode={wrapped}\n",
                door.address,
                dovecot.socket.display()
            );
            dovecots.push(dovecot);
        }
        let settings = format!(
            "myhostname = mx.test
relayhost = [{ip}]:{port}
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_security_options = noanonymous
smtpd_tls_auth_only = yes
smtpd_tls_security_level = may
smtpd_tls_chain_files = {folder}/mx.key, {folder}/mx.pem
smtpd_relay_restrictions = permit_sasl_authenticated, reject",
            ip = behind.ip(),
            port = behind.port(),
            folder = folder.display()
        );
        Server::Postfix(Postfix::start_with(&settings, &services), dovecots)
    }

    /// PLAIN and LOGIN are its own; for others it asks Dovecot.
    fn exim(doors: &[Door], folder: &Path, behind: SocketAddr) -> Server {
        let mut dovecots = Vec::new();
        let mut authenticators = String::new();
        let ports = |chosen: &dyn Fn(&Door) -> bool| {
            let doors = doors.iter().filter(|door| chosen(door));
            let ports = doors.map(|door| door.address.port().to_string());
            ports.collect::<Vec<_>>().join(" : ")
        };
        let right = |user: &str, password: &str| {
            format!("${{if and{{{{eq{{{user}}}{{{USER}}}}}{{eq{{{password}}}{{{PASSWORD}}}}}}}}}")
        };
        for name in MECHANISMS {
            let driver = match name {
                "PLAIN" => format!(
                    "driver = plaintext\n  server_prompts = :\n  server_condition = {}\n  server_set_id = $auth2",
                    right("$auth2", "$auth3")
                ),
                "LOGIN" => format!(
                    "driver = plaintext\n  server_prompts = <| Username: | Password:\n  server_condition = {}\n  server_set_id = $auth1",
                    right("$auth1", "$auth2")
                ),
                name => {
                    let dovecot = Dovecot::start(&name.to_lowercase(), &[(USER, PASSWORD)]);
                    let socket = dovecot.socket.display().to_string();
                    dovecots.push(dovecot);
                    format!(
                        "driver = dovecot\n  server_socket = {socket}\n  server_set_id = $auth1"
                    )
                }
            };
            // No two may have the same name.
            authenticators += &format!(
                "{}:\n  {driver}\n  public_name = {name}\n  server_advertise_condition = ${{if and{{{{def:tls_in_cipher}}{{inlist{{$received_port}}{{{}}}}}}}}}\n",
                authenticator(name),
                ports(&|door| door.mechanisms == name)
            );
        }
        let options = format!(
            "daemon_smtp_ports = {all}
tls_on_connect_ports = {implicit}
local_interfaces = {host}
tls_advertise_hosts = *
tls_certificate = {folder}/mx.pem
tls_privatekey = {folder}/mx.key
acl_smtp_auth = auth
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
acl_smtp_quit = quit
begin acl
auth:
  accept logwrite = somebody logs in
quit:
  accept logwrite = somebody says QUIT
rcpt:
  accept authenticated = *
  deny message = log in first",
            host = doors[0].address.ip(),
            all = ports(&|_| true),
            implicit = ports(&|door| door.implicit_tls),
            folder = folder.display()
        );
        let routers = format!(
            "all:\n  driver = manualroute\n  transport = remote\n  route_list = * {}::{} byname\n  self = send\n",
            behind.ip(),
            behind.port()
        );
        let transports = format!(
            "remote:\n  driver = smtp\n  allow_localhost\n  hosts_avoid_tls = *\nbegin authenticators\n{authenticators}"
        );
        let exim = Exim::start_at(doors[0].address, &options, &routers, &transports);
        Server::Exim(exim, dovecots)
    }

    fn log(&self) -> String {
        let (log, dovecots) = match self {
            Server::Postfix(postfix, dovecots) => (postfix.log(), dovecots),
            Server::Exim(exim, dovecots) => (exim.log(), dovecots),
        };
        let logs = dovecots.iter().map(Dovecot::log);
        log + &logs.collect::<String>()
    }

    /// How many messages came from who had logged in by a mechanism.
    fn let_in(&self, mechanism: &str) -> usize {
        let log = self.log();
        let (has, by) = match self {
            Server::Postfix(..) => (
                "client=",
                format!("sasl_method={mechanism}, sasl_username={USER}"),
            ),
            Server::Exim(..) => (" <= ", format!("A={}:{USER}", authenticator(mechanism))),
        };
        let lines = log.lines();
        lines
            .filter(|line| line.contains(has) && line.contains(&by))
            .count()
    }

    /// What it writes down at the end of a session, and what if somebody has tried to log in.
    fn marks(&self) -> (&'static str, &'static str) {
        match self {
            Server::Postfix(..) => ("disconnect from", " auth="),
            Server::Exim(..) => ("somebody says QUIT", "somebody logs in"),
        }
    }

    /// Waits until so many sessions have come to an end, in none of which somebody has tried to log in.
    fn wait_for_sessions_without_login(&self, sessions: usize) {
        let (end, login) = self.marks();
        let deadline = std::time::Instant::now() + portcullis_tests::daemon::TIMEOUT;
        let mut log = self.log();
        while log.matches(end).count() < sessions {
            assert!(std::time::Instant::now() < deadline, "{log}");
            // It tells nobody when its log grows.
            std::thread::sleep(std::time::Duration::from_millis(50));
            log = self.log();
        }
        assert!(!log.contains(login), "{log}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}", self.log());
        }
    }
}

/// Portcullis, and a server with its doors: each is the next hop of a listener, and the smart host for a domain.
struct World {
    daemon: TestBed,
    server: Server,
    doors: Vec<Door>,
    behind: MockServer,
    _dns: Dns,
    _folder: tempfile::TempDir,
}

/// The domain whose smart host is a door.
fn domain(door: usize) -> String {
    format!("d{door}.test")
}

impl World {
    /// With this password, and a server that is told by its name, `hub.test`.
    fn new(kind: Kind, doors: Vec<Door>, password: &str) -> World {
        let named = "certificate-name = \"hub.test\"";
        World::with(
            kind,
            doors,
            password,
            |pki| pki.trusted(&["hub.test"]),
            |_| (named.into(), String::new()),
        )
    }

    /// With a server that has this certificate, and this in the tables of next hops and smart hosts beside the name and the password.
    fn with(
        kind: Kind,
        mut doors: Vec<Door>,
        password: &str,
        certificate: impl FnOnce(&Pki) -> Identity,
        proof: impl FnOnce(&Identity) -> (String, String),
    ) -> World {
        let host = own_host();
        for (door, port) in doors.iter_mut().zip(FIRST_PORT..) {
            door.address = SocketAddr::from((host, port));
        }
        let pki = Pki::new();
        let identity = certificate(&pki);
        let folder = tempfile::tempdir().expect("a folder");
        identity.write(folder.path(), "mx");
        for (name, mode) in [("", 0o755), ("mx.key", 0o644)] {
            let open = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(folder.path().join(name), open).expect("it is opened");
        }
        let behind = MockServer::start(Behaviour::default());
        let server = Server::start(kind, &doors, folder.path(), behind.address);
        let dns = Dns::start(&[&format!("hub.test. A {host}")]);
        let (of_hop, of_host) = proof(&identity);
        let login = [
            format!("username = {USER:?}"),
            "password-file = \"secret\"".into(),
        ];
        let outbound = Listener::outbound("clients = [\"127.0.0.1\"], tenant = \"contoso\"");
        let mut config = Config::new().listener(outbound);
        let mut connectors = Vec::new();
        for (number, door) in doors.iter().enumerate() {
            let (address, implicit_tls) = (door.address, door.implicit_tls);
            config = config
                .listener(Listener::next_hop(&format!(
                    "smtp = \"{address}\", implicit-tls = {implicit_tls}, {}, {of_hop}",
                    login.join(", ")
                )))
                .with(&format!(
                    "[[delivery.smart-host]]\naddress = \"hub.test:{}\"\nimplicit-tls = {implicit_tls}\n{}\n{of_host}",
                    address.port(),
                    login.join("\n")
                ));
            connectors.push(format!(
                r#"{{"name": "To {number}", "direction": "outbound", "to": {{"recipient-domains": ["{}"]}},
                    "route": {{"smart-hosts": ["hub.test:{}"]}}}}"#,
                domain(number),
                address.port()
            ));
        }
        let rules = format!(r#"{{"connectors": [{}]}}"#, connectors.join(","));
        let config = config
            .tenant_with("contoso", &["contoso.com"], "rules.json")
            .file("rules.json", rules)
            .file("secret", format!("{password}\n"))
            .trust(&pki)
            .dns(&dns)
            .partners_here(25);
        World {
            daemon: TestBed::start(config),
            server,
            doors,
            behind,
            _dns: dns,
            _folder: folder,
        }
    }

    /// Sends a message by the door as the next hop.
    fn to_next_hop(&self, door: usize) -> Outcome {
        let mut client = self.daemon.client_of(door + 1);
        portcullis_tests::outbound::send_from(&mut client, "partner@bank.test", "bob@contoso.com")
    }

    /// Sends a message by the door as a smart host.
    fn to_smart_host(&self, door: usize) -> Outcome {
        send(&mut self.daemon.client(), &format!("b@{}", domain(door)))
    }

    /// Both ways, with their names.
    fn both_ways(&self, door: usize) -> [(&'static str, Outcome); 2] {
        [
            ("next hop", self.to_next_hop(door)),
            ("smart host", self.to_smart_host(door)),
        ]
    }

    /// A message was deferred, and why is told: to the organization's own servers in the reply, and about a next hop, of
    /// which partners are told nothing, in the log.
    fn deferred(&self, way: &str, door: usize, outcome: &Outcome, enhanced: &str, why: &str) {
        let text = outcome.text();
        let port = format!(":{}", self.doors[door].address.port());
        let is_told = match way {
            "next hop" => text.starts_with("451 4.") && !text.contains(&port),
            _ => text.starts_with(&format!("451 {enhanced}")) && text.contains(why),
        };
        assert!(
            is_told,
            "{way}, {} with {why:?}: {text}",
            self.doors[door].mechanisms
        );
        // The reply may be there first.
        let words = ["recipient refused", &port, why];
        self.daemon.wait_for_log_with(&words, 1);
    }

    /// What `portcullis validate` says of a door.
    fn validate(&self, door: usize) -> (i32, String) {
        let to = format!("To {door}");
        validate::output(&self.daemon, &[&to])
    }
}

/// Whether a text has a password in it, in the clear or as it is sent.
fn shows(text: &str, password: &str) -> bool {
    let sent = |octets: String| BASE64_STANDARD.encode(octets);
    let forms = [
        password.to_owned(),
        sent(password.into()),
        sent(format!("\0{USER}\0{password}")),
    ];
    forms.iter().any(|form| text.contains(form.as_str()))
}

fn lets_us_in(kind: Kind) {
    let world = World::new(kind, Door::for_each_mechanism(), PASSWORD);
    for (number, door) in world.doors.iter().enumerate() {
        let what = format!("{} (implicit TLS: {})", door.mechanisms, door.implicit_tls);
        for (way, outcome) in world.both_ways(number) {
            assert!(
                outcome.is_delivered(),
                "{way}, {what}: {}\n{}",
                outcome.text(),
                world.server.log()
            );
        }
        let (code, told) = world.validate(number);
        assert_eq!(code, 0, "{what}: {told}");
        let login = format!("logged in by {}", door.mechanisms);
        assert!(told.contains(&login), "{what}: {told}");
        assert!(!shows(&told, PASSWORD), "{told}");
        let taken = world.behind.wait_for(2 * number + 2);
        let recipients: Vec<_> = taken.iter().flat_map(|it| it.recipients.clone()).collect();
        for to in ["bob@contoso.com", &format!("b@{}", domain(number))] {
            assert!(
                recipients.contains(&format!("<{to}>")),
                "{what}: {recipients:?}"
            );
        }
    }
    for mechanism in MECHANISMS {
        let log = world.server.log();
        assert_eq!(world.server.let_in(mechanism), 4, "{mechanism}: {log}");
    }
    let log = world.daemon.log().join("\n");
    assert!(!shows(&log, PASSWORD), "{log}");
}

#[test]
fn postfix_lets_us_in() {
    lets_us_in(Kind::Postfix);
}

#[test]
fn exim_lets_us_in() {
    lets_us_in(Kind::Exim);
}

fn a_wrong_password_defers(kind: Kind) {
    let doors = MECHANISMS
        .map(|mechanism| Door::new(mechanism, false))
        .into();
    let world = World::new(kind, doors, WRONG);
    let shown = |text: &str| shows(text, WRONG) || shows(text, PASSWORD);
    for (number, door) in world.doors.iter().enumerate() {
        let mechanism = door.mechanisms;
        for (way, outcome) in world.both_ways(number) {
            let text = outcome.text();
            world.deferred(way, number, &outcome, "4.7.8", &format!("({mechanism})"));
            assert!(!shown(&text), "{text}");
        }
        let (code, told) = world.validate(number);
        assert_eq!(code, 1, "{mechanism}: {told}");
        assert!(
            told.contains("refuses the name or the password") && told.contains(mechanism),
            "{told}"
        );
        assert!(!shown(&told), "{told}");
    }
    let named = "refuses the name or the password";
    world.daemon.wait_for_log_times(named, 6);
    let log = world.daemon.log().join("\n");
    assert!(!shown(&log), "{log}");
    assert!(world.behind.taken().is_empty());
    world
        .daemon
        .change(|daemon| daemon.replace("secret", format!("{PASSWORD}\n").as_bytes()));
    for number in 0..world.doors.len() {
        for (way, outcome) in world.both_ways(number) {
            assert!(outcome.is_delivered(), "{way}: {}", outcome.text());
        }
    }
    assert_eq!(world.behind.wait_for(6).len(), 6);
    let log = world.daemon.log().join("\n");
    assert!(!shown(&log), "{log}");
}

#[test]
fn a_wrong_password_at_postfix_defers_until_it_is_changed() {
    a_wrong_password_defers(Kind::Postfix);
}

#[test]
fn a_wrong_password_at_exim_defers_until_it_is_changed() {
    a_wrong_password_defers(Kind::Exim);
}

/// Who is not proven to be the server is not told the password.
fn a_stranger_gets_no_password(kind: Kind, certificate: fn(&Pki) -> Identity, proof: &str) {
    let doors = vec![Door::new("PLAIN", false), Door::new("PLAIN", true)];
    let proof = |_: &Identity| (proof.to_owned(), proof.to_owned());
    let world = World::with(kind, doors, PASSWORD, certificate, proof);
    for number in 0..world.doors.len() {
        for (way, outcome) in world.both_ways(number) {
            world.deferred(way, number, &outcome, "4.7.", "no password is sent to it");
        }
        let (code, told) = world.validate(number);
        assert_eq!(code, 1, "{told}");
        assert!(told.contains("no password is sent to it"), "{told}");
    }
    world.server.wait_for_sessions_without_login(6);
    assert!(world.behind.taken().is_empty());
}

const NAMED: &str = "certificate-name = \"hub.test\"";

#[test]
fn a_certificate_for_another_name_gets_no_password() {
    a_stranger_gets_no_password(Kind::Postfix, |pki| pki.trusted(&["other.test"]), NAMED);
    a_stranger_gets_no_password(Kind::Exim, |pki| pki.trusted(&["other.test"]), NAMED);
}

#[test]
fn a_certificate_that_nobody_vouches_for_gets_no_password() {
    a_stranger_gets_no_password(Kind::Postfix, |_| Pki::self_signed(&["hub.test"]), NAMED);
}

#[test]
fn a_certificate_that_is_over_gets_no_password() {
    a_stranger_gets_no_password(Kind::Postfix, |pki| pki.expired(&["hub.test"]), NAMED);
}

/// A trusted one for the right name is not the one that is pinned.
#[test]
fn a_certificate_with_another_digest_gets_no_password() {
    let pin = format!(
        "certificate-fingerprints = [\"{}\"]",
        Pki::self_signed(&["hub.test"]).sha256()
    );
    a_stranger_gets_no_password(Kind::Postfix, |pki| pki.trusted(&["hub.test"]), &pin);
}

#[test]
fn a_certificate_with_the_right_digest_gets_the_password() {
    let doors = vec![Door::new("SCRAM-SHA-256", false), Door::new("PLAIN", true)];
    let pinned = |identity: &Identity| {
        let pin = format!("certificate-fingerprints = [\"{}\"]", identity.sha256());
        (pin.clone(), pin)
    };
    let certificate = |_: &Pki| Pki::self_signed(&["anything.test"]);
    let world = World::with(Kind::Postfix, doors, PASSWORD, certificate, pinned);
    for number in 0..world.doors.len() {
        for (way, outcome) in world.both_ways(number) {
            assert!(outcome.is_delivered(), "{way}: {}", outcome.text());
        }
    }
}

/// The best is taken of what a server offers, and a server that offers nothing we know is named.
#[test]
fn what_a_server_offers_decides() {
    let doors = vec![
        Door::new("CRAM-MD5 DIGEST-MD5", false),
        Door::new("LOGIN PLAIN SCRAM-SHA-1 SCRAM-SHA-256", false),
        Door::new("CRAM-MD5 LOGIN PLAIN", false),
    ];
    let world = World::new(Kind::Postfix, doors, PASSWORD);
    for (way, outcome) in world.both_ways(0) {
        world.deferred(way, 0, &outcome, "4.7.", "it offers none of");
        world.deferred(way, 0, &outcome, "4.7.", "CRAM-MD5");
    }
    let (code, told) = world.validate(0);
    assert_eq!(code, 1, "{told}");
    for word in [
        "it offers none of",
        "CRAM-MD5",
        "DIGEST-MD5",
        "ask the provider",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    for (door, best) in [(1, "SCRAM-SHA-256"), (2, "PLAIN")] {
        for (way, outcome) in world.both_ways(door) {
            assert!(outcome.is_delivered(), "{way}: {}", outcome.text());
        }
        let (code, told) = world.validate(door);
        assert_eq!(code, 0, "{told}");
        assert!(told.contains(&format!("logged in by {best}\n")), "{told}");
        let log = world.server.log();
        let by = format!("sasl_method={best}, ");
        assert_eq!(log.matches(&by).count(), 2, "{best}: {log}");
    }
}
