//! Addresses that a server behind us could read as another address, a route, a file or a program: who may
//! write to one tenant does not reach another one, nor anybody else, by such a road.

mod addresses;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portcullis_tests::exim::Exim;
use portcullis_tests::machine::free_address;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::sendmail::Sendmail;
use portcullis_tests::{
    Action, Behaviour, Client, Config, Listener, MockServer, NO_RULES, Reply, Step, TestBed,
};

use addresses::{FOLLOWED, ODD, ORDINARY, ROUTES, WIDE_ROUTES};

/// Nothing from these clients, which have no TLS.
const CLOSED: &str = r#"{"connectors": [{"name": "closed", "direction": "inbound",
    "from": {"recipient-domains": ["fabrikam.test"]}, "require": {"tls": true}}]}"#;

/// Where mail ends up behind the server that is behind us.
struct World {
    port: u16,
    ends: Vec<(&'static str, MockServer)>,
}

impl World {
    fn new() -> World {
        let port = free_address().port();
        let end = |name, host| {
            let address = SocketAddr::from(([127, 0, 0, host], port));
            let hello = "250-here\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n";
            let behaviour = Behaviour::default().but(Step::Ehlo, Action::Say(hello));
            (name, MockServer::start_at(address, behaviour))
        };
        let ends = vec![
            end("contoso", 7),
            end("fabrikam", 8),
            // All other domains.
            end("elsewhere", 9),
        ];
        World { port, ends }
    }

    /// What was sent with which subject, bounces aside: where to, and for whom there.
    fn arrived(&self) -> BTreeMap<String, Vec<(&'static str, String)>> {
        let mut arrived: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, end) in &self.ends {
            for taken in end.taken() {
                // A bounce has it farther down.
                let (header, _) = taken.content.split_once("\r\n\r\n").expect("a header");
                let subject = header
                    .lines()
                    .find_map(|line| line.strip_prefix("Subject: #"));
                let Some(subject) = subject else { continue };
                let whom = taken.recipients.join(" ");
                arrived
                    .entry(subject.to_owned())
                    .or_default()
                    .push((*name, whom));
            }
        }
        arrived
    }
}

/// Sends a message to a local part at a domain; the reply is the one that decided.
fn send(server: SocketAddr, number: &str, local: &str, domain: &str) -> Reply {
    let mut client = Client::greeted(server);
    let announced = client.expect("EHLO client.example", 250).text();
    let wide = !local.is_ascii();
    let utf8 = if wide && announced.contains("SMTPUTF8") {
        " SMTPUTF8"
    } else {
        ""
    };
    client.expect(&format!("MAIL FROM:<sender@example.org>{utf8}"), 250);
    let reply = client.command(&format!("RCPT TO:<{local}@{domain}>"));
    if reply.code != 250 {
        return reply;
    }
    client.data(&format!("Subject: #{number}\r\n\r\nx"))
}

fn start(listener: Listener) -> TestBed {
    let config = Config::new()
        .hostname("mx.contoso.test")
        .listener(listener)
        .tenant("contoso.test", NO_RULES)
        .tenant("fabrikam.test", CLOSED);
    TestBed::start(config)
}

/// Sends everything through us, and looks where it has come out; the server knows SMTPUTF8 or not.
fn nothing_goes_astray(world: &World, server: SocketAddr, utf8: bool, wait: impl Fn()) {
    let daemon = start(Listener::smtp(server));
    let ordinary = ORDINARY.iter().filter(|local| utf8 || local.is_ascii());
    let mut wrong = Vec::new();
    // After the first one we know what the server can do.
    for (number, local) in ordinary.clone().enumerate() {
        let number = format!("ordinary{number}");
        let reply = send(daemon.address(), &number, local, "contoso.test");
        if reply.code != 250 {
            wrong.push(format!("{local}: {} {}", reply.code, reply.text()));
        }
    }
    let announced = Client::greeted(daemon.address()).expect("EHLO client.example", 250);
    assert_eq!(announced.text().contains("SMTPUTF8"), utf8, "{announced:?}");
    let wide = WIDE_ROUTES.iter().filter(|_| utf8);
    for (number, local) in ROUTES.iter().chain(wide).enumerate() {
        for domain in ["contoso.test", "fabrikam.test", "CONTOSO.test."] {
            let reply = send(daemon.address(), &format!("route{number}"), local, domain);
            if !reply.is_refused_as_a_route() {
                wrong.push(format!(
                    "route{number}, {local}@{domain}: {} {}",
                    reply.code,
                    reply.text()
                ));
            }
        }
    }
    for (number, local) in ODD.iter().enumerate() {
        let number = format!("odd{number}");
        send(daemon.address(), &number, local, "contoso.test");
    }
    // That the other tenant wants no mail from here holds for plain addresses too.
    let reply = send(daemon.address(), "closed", "bob", "fabrikam.test");
    assert!(
        reply.code == 550 && reply.text().starts_with("5.7.1 "),
        "{reply:?}"
    );
    wait();
    let arrived = world.arrived();
    for (number, ways) in &arrived {
        for (end, whom) in ways {
            if *end != "contoso" {
                wrong.push(format!("{number} has come to {whom} at {end}"));
            }
        }
    }
    for (number, local) in ordinary.enumerate() {
        if !arrived.contains_key(&format!("ordinary{number}")) {
            wrong.push(format!("{local} has not come"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Sends everything to a server, and tells what has become of it.
fn outcomes(world: &World, server: SocketAddr, wait: impl Fn()) -> BTreeMap<String, String> {
    let all: Vec<_> = [ROUTES, WIDE_ROUTES, ODD].concat();
    let replies: Vec<_> = all
        .iter()
        .enumerate()
        .map(|(number, local)| send(server, &number.to_string(), local, "contoso.test"))
        .collect();
    wait();
    let arrived = world.arrived();
    let tell = |(number, local): (usize, &&str)| {
        let outcome = match arrived.get(&number.to_string()) {
            Some(ways) => ways
                .iter()
                .map(|(end, whom)| format!("{end}: {whom}"))
                .collect::<Vec<_>>()
                .join(", "),
            None => format!("{} {}", replies[number].code, replies[number].text()),
        };
        ((*local).to_owned(), outcome)
    };
    all.iter().enumerate().map(tell).collect()
}

/// The columns of [`FOLLOWED`].
#[derive(Clone, Copy)]
enum Server {
    Postfix,
    Exim,
    Sendmail,
}

/// Where we let everything through, the server follows these roads: the judge sees what goes astray.
fn is_dangerous(world: &World, server: SocketAddr, wait: impl Fn(), which: Server) {
    // The check is off.
    let open = Listener::smtp(server).with("allow-untrusted-routing = true");
    let daemon = start(open);
    let outcomes = outcomes(world, daemon.address(), wait);
    for (local, outcome) in &outcomes {
        eprintln!("{local:50} {outcome}");
    }
    let ends = FOLLOWED
        .iter()
        .map(|(local, ends)| (local, ends[which as usize]));
    for (local, end) in ends.filter(|(_, end)| !end.is_empty()) {
        assert_eq!(outcomes[*local], end, "{local}");
    }
}

fn postfix(world: &World) -> (Postfix, SocketAddr) {
    let address = free_address();
    let port = world.port;
    let settings = format!(
        "myhostname = mx.contoso.test
mynetworks = 127.0.0.0/8
mydestination = contoso.test
mailbox_transport = smtp:[127.0.0.7]:{port}
relay_domains = fabrikam.test
transport_maps = inline:{{ fabrikam.test=smtp:[127.0.0.8]:{port} }}
relayhost = [127.0.0.9]:{port}
smtpd_client_connection_count_limit = 0
in_flow_delay = 0"
    );
    (Postfix::start(&settings, Some(address)), address)
}

fn wait_for_postfix(postfix: &Postfix) {
    postfix.wait_for_queue(|queue| queue.contains("Mail queue is empty"));
}

/// With the percent hack, as its configuration was once written.
fn exim(world: &World) -> Exim {
    let options = "percent_hack_domains = contoso.test";
    let routers = "to_contoso:
  driver = manualroute
  domains = contoso.test
  transport = remote
  route_list = * 127.0.0.7 byname
  self = send
to_fabrikam:
  driver = manualroute
  domains = fabrikam.test
  transport = remote
  route_list = * 127.0.0.8 byname
  self = send
elsewhere:
  driver = manualroute
  transport = remote
  route_list = * 127.0.0.9 byname
  self = send
";
    let transports = format!(
        "remote:
  driver = smtp
  port = {}
  allow_localhost
",
        world.port
    );
    Exim::start_with(options, routers, &transports)
}

fn sendmail(world: &World) -> Sendmail {
    let settings = format!(
        "define(`SMTP_MAILER_ARGS', `TCP $h {port}')dnl
define(`ESMTP_MAILER_ARGS', `TCP $h {port}')dnl
define(`RELAY_MAILER_ARGS', `TCP $h {port}')dnl
define(`SMART_HOST', `esmtp:[127.0.0.9]')dnl
define(`LUSER_RELAY', `esmtp:[127.0.0.7]')dnl
LOCAL_DOMAIN(`contoso.test')dnl
RELAY_DOMAIN(`fabrikam.test 127.0.0')dnl",
        port = world.port
    );
    let ways = "fabrikam.test\tesmtp:[127.0.0.8]\n";
    Sendmail::start(&settings, ways)
}

#[test]
fn postfix_gets_no_routes() {
    let world = World::new();
    let (postfix, address) = postfix(&world);
    nothing_goes_astray(&world, address, true, || wait_for_postfix(&postfix));
}

#[test]
fn postfix_would_follow_routes() {
    let world = World::new();
    let (postfix, address) = postfix(&world);
    is_dangerous(
        &world,
        address,
        || wait_for_postfix(&postfix),
        Server::Postfix,
    );
}

#[test]
fn exim_gets_no_routes() {
    let world = World::new();
    let exim = exim(&world);
    nothing_goes_astray(&world, exim.address, true, || exim.wait_until_idle());
}

#[test]
fn exim_would_follow_routes() {
    let world = World::new();
    let exim = exim(&world);
    is_dangerous(
        &world,
        exim.address,
        || exim.wait_until_idle(),
        Server::Exim,
    );
}

#[test]
fn sendmail_gets_no_routes() {
    let world = World::new();
    let sendmail = sendmail(&world);
    nothing_goes_astray(&world, sendmail.address, false, || {
        sendmail.wait_until_idle()
    });
}

#[test]
fn sendmail_would_follow_routes() {
    let world = World::new();
    let sendmail = sendmail(&world);
    is_dangerous(
        &world,
        sendmail.address,
        || sendmail.wait_until_idle(),
        Server::Sendmail,
    );
}
