//! Clients that want all there is: others are served beside them, memory stays where it was, and they are
//! sent away.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use portcullis_tests::{Client, Daemon, Pki, attack};

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

#[test]
fn honest_clients_are_served_beside_those_that_hold_on() {
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
    assert_eq!(
        daemon.count_log("turned away client=198.51.100."),
        turned_away
    );
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

#[test]
fn who_talks_and_never_listens_is_not_listened_to() {
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
