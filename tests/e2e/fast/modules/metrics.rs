//! What whoever runs the host learns of modules by numbers.

use std::io::Write;
use std::net::TcpStream;

use portcullis_tests::TestBed;
use portcullis_tests::metrics::{self, METRICS};
use portcullis_tests::modules::Module;

use super::{accepting, assert_good_is_served, config};

#[test]
fn failures_are_counted() {
    let failing = Module::new("unreachable").component();
    let daemon = TestBed::start(config(&failing).with(METRICS));
    let mut client = daemon.client();
    client.expect("MAIL FROM:<alice@example.org>", 250);
    for _ in 0..3 {
        client.expect("RCPT TO:<bob@bad.test>", 451);
    }
    assert_good_is_served(&mut client);
    let metrics = metrics::read(&daemon);
    for line in [
        "portcullis_policy_failures_total{tenant=\"bad\",failure=\"trap\"} 3",
        "portcullis_decisions_total{tenant=\"bad\",verdict=\"defer\",failed=\"policy-unavailable\"} 3",
        "portcullis_decisions_total{tenant=\"good\",verdict=\"reject\",failed=\"tls\"} 1",
        "portcullis_policy_updates_total{tenant=\"good\",outcome=\"loaded\"} 1",
        "portcullis_sessions_open 1",
    ] {
        assert!(
            metrics.contains(&format!("\n{line}\n")),
            "{line} is not in:\n{metrics}"
        );
    }
}

#[test]
fn whoever_holds_on_to_the_metrics_takes_nothing_from_mail() {
    let daemon = TestBed::start(config(&accepting().component()).with(METRICS));
    let before = daemon.descriptors();
    let address = metrics::address(&daemon);
    let held: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(&address).expect("a connection");
            stream.write_all(b"GET /metr").expect("half a request");
            stream
        })
        .collect();
    let mut client = daemon.client();
    client.expect("MAIL FROM:<carol@example.org>", 250);
    assert_good_is_served(&mut client);
    let during = daemon.descriptors();
    assert!(during < before + 40, "{before}, then {during} descriptors");
    drop(held);
    assert!(metrics::read(&daemon).contains("portcullis_sessions_open 1"));
}

#[test]
fn a_module_that_keeps_failing_is_marked_until_it_answers() {
    let failing = Module::new("unreachable").component();
    let config = config(&failing).with(METRICS);
    let daemon = TestBed::start(config.with("[limits]\nerrors = 100"));
    let gauge = |value: u32| format!("\nportcullis_policy_failing{{tenant=\"bad\"}} {value}\n");
    let mut client = daemon.client();
    client.expect("MAIL FROM:<alice@example.org>", 250);
    for _ in 0..9 {
        client.expect("RCPT TO:<bob@bad.test>", 451);
    }
    assert!(metrics::read(&daemon).contains(&gauge(0)));
    client.expect("RCPT TO:<bob@bad.test>", 451);
    daemon.wait_for_log("policy keeps failing; all of its mail is deferred tenant=bad");
    assert!(metrics::read(&daemon).contains(&gauge(1)));
    assert_good_is_served(&mut client);
    daemon.replace("bad.wasm", &accepting().component());
    daemon.wait_for_log_times("policy loaded tenant=bad", 2);
    assert!(metrics::read(&daemon).contains(&gauge(0)));
}
