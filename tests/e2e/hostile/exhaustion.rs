//! Clients that want all there is: others are served beside them, memory stays where it was, and they are
//! sent away.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::load::Stop;
use portcullis_tests::{Client, Config, Daemon, Listener, NO_RULES, Pki, TestBed, attack, machine};

const SETTINGS: &str = "
    [limits]
    sessions-per-address = 40
    [timeouts]
    command = \"2s\"
    data-block = \"2s\"
    handshake = \"2s\"
";

const HONEST: &str = "192.0.2.1";
/// Of each, as many come as there may be, and some more.
const ATTACKERS: u8 = 10;
const OF_EACH: usize = 45;

fn config() -> Config {
    Config::new()
        .hostname("mx.dest.test")
        .listener(Listener::maildir().starttls().proxied())
        .certificate(&Pki::new())
        .tenant("dest.test", NO_RULES)
        .with(SETTINGS)
}

fn start() -> TestBed {
    TestBed::start(config())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Sends a message as an honest client; gives the time that it took.
fn send(daemon: &Daemon) -> Duration {
    let begun = Instant::now();
    let mut client = Client::connect_as(daemon.address(), ip(HONEST));
    client.expect("EHLO client.example", 250);
    client.expect("MAIL FROM:<a@example.org>", 250);
    client.expect("RCPT TO:<b@dest.test>", 250);
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    client.quit();
    begun.elapsed()
}

/// The longest of some messages.
fn slowest(daemon: &Daemon) -> Duration {
    (0..20).map(|_| send(daemon)).max().expect("some")
}

#[test]
fn honest_clients_are_served_beside_those_that_hold_on() {
    let _alone = machine::alone();
    let daemon = start();
    let alone = slowest(&daemon);
    let before = daemon.resident();
    let mut held = Vec::new();
    let mut turned_away = 0;
    let mut curve = Vec::new();
    for attacker in 1..=ATTACKERS {
        for number in 0..OF_EACH {
            let from = ip(&format!("198.51.100.{attacker}"));
            match attack::hold(daemon.address(), from, number) {
                Ok(client) => held.push(client),
                Err(_) => turned_away += 1,
            }
        }
        curve.push(daemon.resident());
    }
    let beside = slowest(&daemon);
    let during = daemon.resident();
    assert_eq!(held.len(), usize::from(ATTACKERS) * 40);
    assert_eq!(turned_away, usize::from(ATTACKERS) * 5);
    daemon.wait_for_log_times("connection rejected client=198.51.100.", turned_away);
    for mut client in held {
        while !client.is_closed() {}
    }
    eprintln!("slowest message: {alone:?} alone, {beside:?} beside {ATTACKERS} x 40 sessions");
    eprintln!(
        "resident KiB: {before} before, {curve:?} with each 40 sessions more, {} after",
        daemon.resident()
    );
    // Far more than they need, and far less than what could hurt.
    assert!(
        during < before + 64 * 1024,
        "{before} KiB, then {during} KiB"
    );
    send(&daemon);
}

/// An attack that can be made again and again.
type Attack = fn(SocketAddr, IpAddr);

const FLOODS: [(&str, Attack); 5] = [
    ("connections that are dropped", |to, _| {
        let _ = attack::knock(to, 100);
    }),
    ("more sessions than there may be", |to, from| {
        let held = (0..OF_EACH).map(|state| attack::hold(to, from, state));
        drop(held.collect::<Vec<_>>());
    }),
    ("refused commands", |to, from| {
        let _ = attack::provoke(to, from);
    }),
    ("recipients without end", |to, from| {
        let _ = attack::name_recipients(to, from, 1500);
    }),
    ("octets one at a time", |to, from| {
        let lines = b"EHLO a.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@dest.test>\r\nQUIT\r\n";
        let _ = attack::say(to, from, lines, &[1; 80]);
    }),
];

/// Median and longest of some messages.
fn latency(daemon: &Daemon) -> (Duration, Duration) {
    let mut times: Vec<_> = (0..100).map(|_| send(daemon)).collect();
    times.sort_unstable();
    (times[50], times[99])
}

#[test]
fn honest_clients_are_served_beside_floods() {
    let _alone = machine::alone();
    let daemon = start();
    let before = daemon.resident();
    eprintln!("nobody else: {:?}", latency(&daemon));
    for (name, attack) in FLOODS {
        let (stop, attacks) = (AtomicBool::new(false), AtomicUsize::new(0));
        let times = thread::scope(|scope| {
            for attacker in 1..=4 {
                let (daemon, stop, attacks) = (&daemon, &stop, &attacks);
                scope.spawn(move || {
                    let from = ip(&format!("198.51.100.{attacker}"));
                    while !stop.load(Ordering::Relaxed) {
                        attack(daemon.address(), from);
                        attacks.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let _stop = Stop(&stop);
            latency(&daemon)
        });
        let attacks = attacks.load(Ordering::Relaxed);
        let resident = daemon.resident();
        eprintln!("{attacks} times {name}: {times:?}, {resident} KiB resident");
        assert!(
            resident < before + 64 * 1024,
            "{name}: {before} KiB, then {resident} KiB"
        );
    }
    for reason in ["too many errors, closing", "too many connections from your"] {
        daemon.wait_for_log(reason);
    }
}

#[test]
fn sessions_that_idle_keep_nobody_from_being_decided_on() {
    let _alone = machine::alone();
    let daemon = TestBed::start(config().with("[sandbox]\ninstances = 10"));
    let sessions: Vec<_> = (0..30)
        .map(|number| {
            let mut client = Client::connect_as(daemon.address(), ip(HONEST));
            client.expect("EHLO client.example", 250);
            let reply = client.envelope("a@example.org", "b@dest.test");
            assert_eq!(reply.code, 250, "session {number}: {reply:?}");
            client
        })
        .collect();
    send(&daemon);
    drop(sessions);
}

#[test]
fn who_talks_and_never_listens_is_not_listened_to() {
    let _alone = machine::alone();
    let daemon = start();
    let before = daemon.resident();
    let most = 256 << 20;
    // The window closes, and then the session.
    let sent = attack::never_listen(daemon.address(), ip("198.51.100.1"), most);
    assert!(
        sent.expect("it is let in") < most,
        "it takes whatever comes"
    );
    let after = daemon.resident();
    assert!(after < before + 32 * 1024, "{before} KiB, then {after} KiB");
    send(&daemon);
}

/// Connections that cannot be accepted are told of once, until one can be.
#[test]
fn a_lack_of_descriptors_does_not_fill_the_log() {
    const TOLD: &str = "a connection cannot be accepted";
    let daemon = TestBed::start(
        Config::new()
            .listener(Listener::maildir())
            .tenant("dest.test", NO_RULES),
    );
    let allow = |count: usize| {
        let limited = Command::new("prlimit")
            .args([
                "--pid",
                &daemon.pid().to_string(),
                &format!("--nofile={count}:"),
            ])
            .status();
        assert!(limited.expect("prlimit can be run").success());
    };
    // A greeting shows that what the start needs is there.
    assert_eq!(Client::connect(daemon.address()).reply().code, 220);
    daemon.wait_for_log("session ends");
    allow(3);
    let mut stream = TcpStream::connect(daemon.address()).expect("a connection");
    daemon.wait_for_log(TOLD);
    // As long as that, nobody answers.
    let patience = Some(Duration::from_millis(500));
    stream.set_read_timeout(patience).expect("a timeout");
    assert!(stream.read(&mut [0]).is_err());
    assert_eq!(daemon.count_log(TOLD), 1);
    allow(1000);
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    assert_eq!(stream.read(&mut [0]).expect("a greeting"), 1);
}
