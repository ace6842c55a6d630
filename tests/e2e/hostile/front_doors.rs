//! Very many servers at a front door, and such that only ask.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

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

/// KiB of memory that the daemon may take more than before: 128 for each of a thousand connections, most of it an
/// instance of the policy.
const MORE: u64 = 128 << 10;

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

#[test]
fn who_reads_no_answers_holds_nobody_up() {
    let _alone = machine::alone();
    let daemon = daemon();
    let before = daemon.resident();
    let request = "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.1\n\
        sender=a@bank.test\nrecipient=b@contoso.com\n\n"
        .repeat(100);
    let deaf: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = UnixStream::connect(daemon.folder().join("ask")).expect("a door");
            stream.set_nonblocking(true).expect("it is set");
            // Until no more is taken.
            loop {
                match stream.write(request.as_bytes()) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break stream,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .collect();
    let mut server = Asking::connect(daemon.folder());
    for number in 0..100 {
        assert!(ask(&mut server, "a@bank.test", &number.to_string()).starts_with("550 "));
    }
    let now = daemon.resident();
    assert!(now < before + MORE, "{before} KiB, then {now} KiB");
    drop(deaf);
}
