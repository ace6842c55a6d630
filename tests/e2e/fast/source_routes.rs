//! Addresses that a server behind us could read as another address, a route, a file or a program: who may
//! write to one tenant does not reach another one, nor anybody else, by such a road.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portcullis_tests::exim::Exim;
use portcullis_tests::outbound::{SHORT_TIMEOUTS, Setting};
use portcullis_tests::postfix::Postfix;
use portcullis_tests::sendmail::Sendmail;
use portcullis_tests::sink::free_address;
use portcullis_tests::{
    Action, Behaviour, Client, Config, Listener, MockServer, NO_RULES, Pki, Reply, Step, TestBed,
};

/// Local parts that are refused at any tenant.
const ROUTES: &[&str] = &[
    // Percent hack.
    "bob%fabrikam.test",
    "bob%fabrikam.test%contoso.test",
    "bob%other.test",
    "\"bob%fabrikam.test\"",
    "\"bob%[127.0.0.8]\"",
    "\"bob\\%fabrikam.test\"",
    // Bang path.
    "fabrikam.test!bob",
    "contoso.test!fabrikam.test!bob",
    "other.test!fabrikam.test!bob",
    "other.test!bob",
    "\"fabrikam.test!bob\"",
    "fabrikam.test!bob%other.test",
    // Quoted at.
    "\"bob@fabrikam.test\"",
    "\"bob\\@fabrikam.test\"",
    "\"bob@other.test\"",
    "\"bob@[127.0.0.8]\"",
    "\"bob@[IPv6:::1]\"",
    "\"bob%other.test@fabrikam.test\"",
    "\"<bob@fabrikam.test>\"",
    "\"bob@fabrikam.test@contoso.test\"",
    // Quoted route.
    "\"@fabrikam.test:bob\"",
    "\"@contoso.test:bob@fabrikam.test\"",
    "\"@contoso.test,@fabrikam.test:bob@other.test\"",
    "\"<@contoso.test:bob@fabrikam.test>\"",
    // Specials.
    "\"fabrikam.test:bob\"",
    "\"fabrikam.test::bob\"",
    "\"bob;fabrikam.test\"",
    "\"bob,bob@fabrikam.test\"",
    "\"bob, carol\"",
    "\"bob (fabrikam.test)\"",
    "\"all: bob;\"",
    "\"bo\\\\b\"",
    "\"bo\\\"b\"",
    "\"[bob]\"",
    // Files, programs, options.
    "|/bin/true",
    "\"|/bin/true\"",
    "\"| /bin/true\"",
    "bob|true",
    "/etc/passwd",
    "\"/etc/passwd\"",
    "\":include:/etc/passwd\"",
    "\":fail: no\"",
    "\":blackhole:\"",
    "-fbob",
    "\"-oQ/tmp\"",
    "\".bob\"",
    "~bob",
    "~/bob",
    "${run{/bin/true}}",
    "\"${run{/bin/true}}\"",
];

/// Those of other scripts, which a server may take for the same after it has made them uniform.
const WIDE_ROUTES: &[&str] = &[
    "bob\u{ff05}fabrikam.test",
    "bob\u{fe6a}fabrikam.test",
    "bob\u{ff20}fabrikam.test",
    "bob\u{fe6b}fabrikam.test",
    "fabrikam.test\u{ff01}bob",
    "fabrikam.test\u{fe57}bob",
    "\u{ff5c}true",
    "\u{ff0f}etc\u{ff0f}passwd",
    "\"\u{ff20}fabrikam.test\u{ff1a}bob\"",
];

/// Whether they are refused is no matter; that they go nowhere else is.
const ODD: &[&str] = &[
    "bob=fabrikam.test",
    "bob^fabrikam.test",
    "fabrikam.test^bob",
    "bob~fabrikam.test",
    "bob#fabrikam.test",
    "bob+fabrikam.test",
    "bob--fabrikam.test",
    "bob?fabrikam.test",
    "`id`",
    "$bob",
    "$HOME",
    "{bob}",
    "*",
    "bob*fabrikam.test",
    "owner-bob",
    "SRS0=abcd=xy=fabrikam.test=bob",
    "prvs=0123456789=bob",
    "\"\"",
    "\" \"",
    "\"bob\t\"",
    "\"b\\ob\"",
    // Not as RFC 5321 has it.
    "bob%[127.0.0.8]",
    "../bob",
    "bob/../carol",
    "bob\\@fabrikam.test",
    "bob@fabrikam.test",
    "@fabrikam.test:bob",
    "bob:fabrikam.test",
    "fabrikam.test::bob",
    "bob;fabrikam.test",
    "bob,carol",
    "bob(fabrikam.test)",
    ".bob",
    "bob.",
    "bo..b",
    ":include:/etc/passwd",
];

/// Those are taken, and delivered.
const ORDINARY: &[&str] = &[
    "bob",
    "first.last+tag=x",
    "O'Brien",
    "\"john smith\"",
    "a-b_c",
    "bob~x",
    "x#y",
    "caf\u{e9}",
];

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

fn is_refused_as_a_route(reply: &Reply) -> bool {
    let text = reply.text();
    reply.code == 550 && text.starts_with("5.1.3 ") && text.ends_with(".1]") && text.contains(" [")
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
            if !is_refused_as_a_route(&reply) {
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

/// Where we let everything through, the server follows these roads: the judge sees what goes astray.
fn is_dangerous(world: &World, server: SocketAddr, wait: impl Fn(), dangerous: &[(&str, &str)]) {
    // The check is off.
    let open = Listener::smtp(server).with("allow-untrusted-routing = true");
    let daemon = start(open);
    let outcomes = outcomes(world, daemon.address(), wait);
    for (local, outcome) in &outcomes {
        eprintln!("{local:50} {outcome}");
    }
    for (local, outcome) in dangerous {
        assert_eq!(outcomes[*local], *outcome, "{local}");
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
    let dangerous = [
        (
            "\"@contoso.test,@fabrikam.test:bob@other.test\"",
            "elsewhere: <bob@other.test>",
        ),
        (
            "\"@contoso.test:bob@fabrikam.test\"",
            "fabrikam: <bob@fabrikam.test>",
        ),
        ("\"bob%[127.0.0.8]\"", "elsewhere: <bob@[127.0.0.8]>"),
        ("\"bob%fabrikam.test\"", "fabrikam: <bob@fabrikam.test>"),
        (
            "\"bob%other.test@fabrikam.test\"",
            "fabrikam: <bob%other.test@fabrikam.test>",
        ),
        (
            "\"bob,bob@fabrikam.test\"",
            "fabrikam: <\"bob,bob\"@fabrikam.test>",
        ),
        ("\"bob@[127.0.0.8]\"", "elsewhere: <bob@[127.0.0.8]>"),
        ("\"bob@[IPv6:::1]\"", "elsewhere: <bob@[IPv6:::1]>"),
        ("\"bob@fabrikam.test\"", "fabrikam: <bob@fabrikam.test>"),
        (
            "\"bob@fabrikam.test@contoso.test\"",
            "fabrikam: <bob@fabrikam.test>",
        ),
        ("\"bob@other.test\"", "elsewhere: <bob@other.test>"),
        ("\"bob\\%fabrikam.test\"", "fabrikam: <bob@fabrikam.test>"),
        ("\"bob\\@fabrikam.test\"", "fabrikam: <bob@fabrikam.test>"),
        ("\"fabrikam.test!bob\"", "fabrikam: <bob@fabrikam.test>"),
        ("bob%fabrikam.test", "fabrikam: <bob@fabrikam.test>"),
        (
            "bob%fabrikam.test%contoso.test",
            "fabrikam: <bob@fabrikam.test>",
        ),
        ("bob%other.test", "elsewhere: <bob@other.test>"),
        (
            "contoso.test!fabrikam.test!bob",
            "fabrikam: <bob@fabrikam.test>",
        ),
        ("fabrikam.test!bob", "fabrikam: <bob@fabrikam.test>"),
        (
            "fabrikam.test!bob%other.test",
            "fabrikam: <bob%other.test@fabrikam.test>",
        ),
        ("other.test!bob", "elsewhere: <bob@other.test>"),
        (
            "other.test!fabrikam.test!bob",
            "elsewhere: <fabrikam.test!bob@other.test>",
        ),
    ];
    is_dangerous(&world, address, || wait_for_postfix(&postfix), &dangerous);
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
    let dangerous = [
        ("\"bob%[127.0.0.8]\"", "elsewhere: <bob@[127.0.0.8]>"),
        ("\"bob%fabrikam.test\"", "fabrikam: <bob@fabrikam.test>"),
        (
            "\"bob%other.test@fabrikam.test\"",
            "elsewhere: <bob@other.test@fabrikam.test>",
        ),
        ("\"bob\\%fabrikam.test\"", "fabrikam: <bob@fabrikam.test>"),
        ("bob%fabrikam.test", "fabrikam: <bob@fabrikam.test>"),
        (
            "bob%fabrikam.test%contoso.test",
            "fabrikam: <bob@fabrikam.test>",
        ),
        ("bob%other.test", "elsewhere: <bob@other.test>"),
        (
            "fabrikam.test!bob%other.test",
            "elsewhere: <fabrikam.test!bob@other.test>",
        ),
    ];
    is_dangerous(&world, exim.address, || exim.wait_until_idle(), &dangerous);
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
    let dangerous = [
        ("\"<bob@fabrikam.test>\"", "fabrikam: <bob@fabrikam.test>"),
        (
            "\"@contoso.test,@fabrikam.test:bob@other.test\"",
            "elsewhere: <bob@other.test>",
        ),
        (
            "\"@contoso.test:bob@fabrikam.test\"",
            "fabrikam: <bob@fabrikam.test>",
        ),
        ("\"bob%[127.0.0.8]\"", "elsewhere: <bob@[127.0.0.8]>"),
        ("\"bob%fabrikam.test\"", "fabrikam: <bob@fabrikam.test>"),
        (
            "\"bob%other.test@fabrikam.test\"",
            "fabrikam: <bob%other.test@fabrikam.test>",
        ),
        ("\"bob@[127.0.0.8]\"", "elsewhere: <bob@[127.0.0.8]>"),
        ("\"bob@[IPv6:::1]\"", "elsewhere: <bob@[IPv6:::1]>"),
        ("\"bob@fabrikam.test\"", "fabrikam: <bob@fabrikam.test>"),
        ("\"bob@other.test\"", "elsewhere: <bob@other.test>"),
        ("\"fabrikam.test!bob\"", "fabrikam: <bob@fabrikam.test>"),
        ("bob%fabrikam.test", "fabrikam: <bob@fabrikam.test>"),
        (
            "bob%fabrikam.test%contoso.test",
            "fabrikam: <bob@fabrikam.test>",
        ),
        ("bob%other.test", "elsewhere: <bob@other.test>"),
        (
            "contoso.test!fabrikam.test!bob",
            "fabrikam: <bob@fabrikam.test>",
        ),
        ("fabrikam.test!bob", "fabrikam: <bob@fabrikam.test>"),
        (
            "fabrikam.test!bob%other.test",
            "fabrikam: <bob%other.test@fabrikam.test>",
        ),
        ("other.test!bob", "elsewhere: <bob@other.test>"),
        (
            "other.test!fabrikam.test!bob",
            "elsewhere: <fabrikam.test!bob@other.test>",
        ),
    ];
    is_dangerous(
        &world,
        sendmail.address,
        || sendmail.wait_until_idle(),
        &dangerous,
    );
}

const PRIVATE: &str = "[delivery]\nprivate-networks = [\"127.0.0.0/8\"]\n";

#[test]
fn partners_get_no_routes_either() {
    let records = "bank.test. MX 10 mx.bank.test.\nmx.bank.test. A 127.0.0.2";
    let more = format!("{SHORT_TIMEOUTS}{PRIVATE}");
    let setting = Setting::start(Pki::new(), NO_RULES, &[records], &more);
    let bank = MockServer::start_at(setting.address(2), Behaviour::default());
    for local in [
        "bob%other.test",
        "other.test!bob",
        "\"bob@other.test\"",
        "\"@other.test:bob\"",
        "\"bob%other.test\"",
        "\"bob;x\"",
        "\".bob\"",
        "-fbob",
        "\"${run{/bin/true}}\"",
    ] {
        let mut client = setting.client();
        let reply = client.envelope("alice@contoso.com", &format!("{local}@bank.test"));
        assert!(is_refused_as_a_route(&reply), "{local}: {reply:?}");
    }
    assert!(bank.commands().is_empty(), "{:?}", bank.commands());
    for local in ["first.last+tag=x", "O'Brien", "\"john smith\"", "bob/sales"] {
        let outcome = setting.send(&format!("{local}@bank.test"));
        assert!(outcome.is_delivered(), "{local}: {}", outcome.text());
        let taken = bank.forget();
        assert_eq!(taken[0].recipients, [format!("<{local}@bank.test>")]);
    }
}
