//! Clients that want all there is: others are served beside them, memory stays where it was, and they are
//! sent away.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use portcullis_tests::{Client, Daemon, Pki};

const CONFIG: &str = r#"
hostname = "mx.dest.test"
[[listener]]
address = "127.0.0.1:0"
certificate = "mx.pem"
key = "mx.key"
next-hop = { maildir = "mail" }
proxy-protocol = ["127.0.0.1/32"]
[[tenant]]
name = "dest"
domains = ["dest.test"]
policy = "rules.json"
[limits]
sessions-per-address = 40
[timeouts]
command = "2s"
data-block = "2s"
handshake = "2s"
"#;

const HONEST: &str = "192.0.2.1";
/// Of each, as many come as there may be, and some more.
const ATTACKERS: u8 = 10;
const OF_EACH: usize = 45;

fn start() -> Daemon {
    let folder = tempfile::tempdir().expect("a folder");
    Pki::new()
        .trusted(&["mx.dest.test"])
        .write(folder.path(), "mx");
    fs::write(folder.path().join("rules.json"), r#"{"connectors": []}"#).expect("a file");
    Daemon::start_in(folder, CONFIG)
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

/// Resident memory, in KiB.
fn resident(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let amount = line.and_then(|line| line.trim().strip_suffix(" kB"));
    amount.expect("an amount").trim().parse().expect("a number")
}

/// A client that stays in one of the states of a session and does no more.
fn idler(daemon: &Daemon, from: IpAddr, state: usize) -> Option<Client> {
    let mut client = Client::try_connect_as(daemon.address(), from).ok()?;
    let lines: &[(&str, u16)] = match state % 5 {
        0 => &[],
        1 => &[("EHLO a.test", 250)],
        2 => &[("EHLO a.test", 250), ("STARTTLS", 220)],
        3 => &[("EHLO a.test", 250), ("MAIL FROM:<a@a.test>", 250)],
        _ => &[
            ("EHLO a.test", 250),
            ("MAIL FROM:<a@a.test>", 250),
            ("RCPT TO:<b@dest.test>", 250),
            ("DATA", 354),
        ],
    };
    for (line, code) in lines {
        client.expect(line, *code);
    }
    // The beginning of a handshake, of a line, of a message.
    client.send(if state % 5 == 2 {
        b"\x16\x03\x01"
    } else {
        b"x"
    });
    Some(client)
}

#[test]
fn honest_clients_are_served_beside_those_that_hold_on() {
    let daemon = start();
    let alone = slowest(&daemon);
    let before = resident(&daemon);
    let mut held = Vec::new();
    let mut turned_away = 0;
    for attacker in 1..=ATTACKERS {
        for number in 0..OF_EACH {
            match idler(&daemon, ip(&format!("198.51.100.{attacker}")), number) {
                Some(client) => held.push(client),
                None => turned_away += 1,
            }
        }
    }
    let beside = slowest(&daemon);
    let during = resident(&daemon);
    assert_eq!(held.len(), usize::from(ATTACKERS) * 40);
    assert_eq!(turned_away, usize::from(ATTACKERS) * 5);
    assert_eq!(
        daemon.count_log("turned away client=198.51.100."),
        turned_away
    );
    for mut client in held {
        while !client.is_closed() {}
    }
    eprintln!(
        "slowest message: {alone:?} alone, {beside:?} beside {} sessions; resident: {before} KiB before, {during} during, {} after",
        usize::from(ATTACKERS) * 40,
        resident(&daemon)
    );
    // Far more than they need, and far less than what could hurt.
    assert!(
        during < before + 64 * 1024,
        "{before} KiB, then {during} KiB"
    );
    send(&daemon);
}

#[test]
fn who_talks_and_never_listens_is_not_listened_to() {
    let daemon = start();
    let before = resident(&daemon);
    let mut client = Client::connect_as(daemon.address(), ip("198.51.100.1"));
    let noops = "NOOP\r\n".repeat(10_000);
    let mut sent = 0;
    // Its replies are not read: the window closes, and then the session.
    while client.try_send(noops.as_bytes()).is_ok() {
        sent += noops.len();
        assert!(sent < 256 << 20, "it takes whatever comes");
    }
    let after = resident(&daemon);
    assert!(after < before + 32 * 1024, "{before} KiB, then {after} KiB");
    send(&daemon);
}
