//! Very many servers at a front door, and such that only ask.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portcullis_tests::front_door::{self, Asking};
use portcullis_tests::{Config, TestBed, machine};

const RULES: &str = r#"{"connectors": [{"name": "Encrypted", "direction": "inbound",
    "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}}]}"#;

const SERVERS: usize = 1000;

fn daemon() -> TestBed {
    let daemon = TestBed::start(Config::new().tenant("contoso.com", RULES).with(
        &front_door::table(&format!("connections = {}", SERVERS + 10)),
    ));
    daemon.wait_for_log("listening for mail servers");
    daemon
}

fn ask(asking: &mut Asking, from: &str, instance: &str) -> String {
    asking.policy(&[
        ("protocol_state", "RCPT"),
        ("instance", instance),
        ("client_address", "192.0.2.1"),
        ("encryption_protocol", ""),
        ("sender", from),
        ("recipient", "b@contoso.com"),
    ])
}

/// Slots of the sandbox that keep their memory for the next instance although nobody uses them (wasmtime's
/// `max_unused_warm_slots`).
const WARM: u64 = 100;

/// KiB of memory that the daemon may take more than before: 128 for each connection and for each warm slot, most of it
/// an instance of the policy.
const MORE: u64 = 128 * (SERVERS as u64 + WARM);

#[test]
fn a_thousand_servers_are_answered() {
    let _alone = machine::alone();
    let daemon = daemon();
    let before = daemon.resident();
    let mut servers: Vec<Asking> = (0..SERVERS)
        .map(|_| Asking::connect(daemon.folder()))
        .collect();
    for round in 0..3 {
        for (number, server) in servers.iter_mut().enumerate() {
            let instance = format!("{number}.{round}");
            match number % 2 {
                0 => assert!(ask(server, "a@bank.test", &instance).starts_with("550 5.7.1 ")),
                _ => assert_eq!(ask(server, "a@example.org", &instance), "DUNNO"),
            }
        }
    }
    let now = daemon.resident();
    assert!(now < before + MORE, "{before} KiB, then {now} KiB");
    // Their connections are free for others once they have left.
    drop(servers);
    daemon.wait_for_log_times("a mail server has left", SERVERS);
    let mut server = Asking::connect(daemon.folder());
    assert_eq!(ask(&mut server, "a@example.org", "last"), "DUNNO");
}

/// Octets that are taken from a server that reads no answers: what sockets hold, and what is read at once.
const TAKEN: usize = 2 << 20;

#[test]
fn who_reads_no_answers_holds_nobody_up() {
    let _alone = machine::alone();
    let daemon = daemon();
    let before = daemon.resident();
    let request = "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.1\n\
        sender=a@bank.test\nrecipient=b@contoso.com\n\n"
        .repeat(100);
    let mut server = Asking::connect(daemon.folder());
    let deaf: Vec<UnixStream> = (0..100)
        .map(|number| {
            let mut stream = UnixStream::connect(daemon.folder().join("ask")).expect("a door");
            let pause = Some(Duration::from_millis(200));
            stream.set_write_timeout(pause).expect("it is set");
            let mut taken = 0;
            // Until nothing has been taken for a while.
            while let Ok(length) = stream.write(request.as_bytes()) {
                taken += length;
                assert!(taken < TAKEN, "answers pile up");
            }
            assert!(ask(&mut server, "a@bank.test", &number.to_string()).starts_with("550 "));
            stream
        })
        .collect();
    let now = daemon.resident();
    assert!(now < before + MORE / 4, "{before} KiB, then {now} KiB");
    drop(deaf);
}
