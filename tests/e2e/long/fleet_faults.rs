//! A fleet whose disk, network, clock or store does what it should not. In each case mail flows by the policy that was in
//! force, the status tells, and all is as it should be once that is over.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use portcullis_tests::fleet::{Fleet, reply, wait_for_reply};
use portcullis_tests::office::rules;
use portcullis_tests::partition::Partition;
use portcullis_tests::programs::faketime;
use portcullis_tests::{TestBed, portcullis};

use crate::faults::small_disk_at;

/// A disk that is full takes nothing new.
#[test]
fn a_full_disk_keeps_what_is_in_force() {
    let fleet = Fleet::new();
    let (folder, disk) = small_disk_at("state", "2m");
    fleet.put("contoso", "one.test", &[]);
    let host = TestBed::start_in(folder, fleet.config("h1", ""));
    fleet.run(&["wait", "--hosts", "1"]);
    disk.fill();
    fleet.put("contoso", "two.test", &[]);
    fleet.wait_for_exception(&host, "it cannot be kept on the disk");
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    assert_eq!(reply(&host, "two.test", "contoso"), 250);
    disk.free();
    host.wait_for_log("policy loaded tenant=contoso sequence=2");
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
    assert_eq!(reply(&host, "one.test", "contoso"), 250);
    let deadline = std::time::Instant::now() + portcullis_tests::daemon::TIMEOUT;
    while !fleet
        .office
        .run(&["fleet", "status", "--server", &fleet.nats.url()])
        .status
        .success()
    {
        assert!(
            std::time::Instant::now() < deadline,
            "the status goes on to tell of it"
        );
    }
}

/// A host that hears nothing knows that, says so once it is heard again, and has all that was published meanwhile.
#[test]
fn a_partition_ends() {
    let fleet = Fleet::new();
    fleet.put("contoso", "one.test", &[]);
    let network = Partition::before(fleet.nats.address);
    let config = fleet.config("h1", &format!("servers = [\"nats://{}\"]", network.address));
    let host = TestBed::start(config);
    fleet.run(&["wait", "--hosts", "1"]);
    wait_for_reply(&host, "one.test", "unknown", 550);
    network.cut();
    fleet.put("contoso", "two.test", &[]);
    host.wait_for_log("the fleet's store is not followed; policies stay as they are");
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    assert_eq!(reply(&host, "two.test", "contoso"), 250);
    assert_eq!(reply(&host, "one.test", "unknown"), 451);
    let told = fleet.fail(&["status", "contoso"]);
    assert!(told.contains("h1: has seen revision 1 so far"), "{told}");
    network.heal();
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
    wait_for_reply(&host, "one.test", "unknown", 550);
}

/// Two processes keep what they accept at one place, as when one takes over from the other, and one of them is killed.
#[test]
fn two_processes_share_a_state_directory() {
    let fleet = Fleet::new();
    fleet.put("contoso", "n1.test", &[]);
    let host = fleet.host("h1");
    fleet.run(&["wait", "--hosts", "1"]);
    let mut second = portcullis(&["run", "--config"])
        .arg(host.folder().join("portcullis.toml"))
        .env("XDG_STATE_HOME", host.folder().join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(second.stderr.take().expect("a pipe")).lines();
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| told.send(line))
    });
    let wait_for = |sequence: usize| {
        let wanted = format!("policy loaded tenant=contoso sequence={sequence} ");
        loop {
            let line = heard.recv_timeout(portcullis_tests::daemon::TIMEOUT);
            let line = line.unwrap_or_else(|_| panic!("{wanted} is not told"));
            assert!(!line.contains("ERROR"), "{line}");
            if line.contains(&wanted) {
                return;
            }
        }
    };
    wait_for(1);
    for sequence in 2..10 {
        fleet.put("contoso", &format!("n{sequence}.test"), &[]);
        wait_for(sequence);
        host.wait_for_log(&format!(
            "policy loaded tenant=contoso sequence={sequence} "
        ));
    }
    second.kill().expect("it runs");
    second.wait().expect("it ends");
    fleet.put("contoso", "last.test", &[]);
    fleet.run(&["wait", "contoso", "--hosts", "1"]);
    assert_eq!(reply(&host, "last.test", "contoso"), 550);
    assert_eq!(host.count_log("ERROR"), 0);
}

/// With a clock that is two years off, what is in force stays, and nothing new is taken by statements that are over then.
#[test]
fn a_clock_is_two_years_off() {
    let library = faketime();
    for (offset, is_taken) in [("+730d", false), ("-730d", true)] {
        let fleet = Fleet::new();
        fleet.put("contoso", "one.test", &[]);
        let host = fleet.host("h1");
        fleet.run(&["wait", "--hosts", "1"]);
        let variables = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let config = fleet.config("h1", "");
        let host = TestBed::start_in_with(host.kill(), config.clone(), &variables);
        wait_for_reply(&host, "one.test", "contoso", 550);
        fleet.put("contoso", "two.test", &[]);
        match is_taken {
            true => {
                host.wait_for_log("policy loaded tenant=contoso sequence=2");
                assert_eq!(reply(&host, "two.test", "contoso"), 550);
            }
            false => {
                fleet.wait_for_exception(&host, "expired");
                assert_eq!(reply(&host, "one.test", "contoso"), 550);
                assert_eq!(reply(&host, "two.test", "contoso"), 250);
                let told = fleet.fail(&["status"]);
                assert!(told.contains("root 1 has expired"), "{told}");
            }
        }
        let host = TestBed::start_in(host.kill(), config);
        wait_for_reply(&host, "two.test", "contoso", 550);
    }
}

/// A bucket that somebody has set up so that it forgets: hosts forget nothing.
#[test]
fn a_bucket_that_forgets_takes_nothing_away() {
    let fleet = Fleet::new();
    let settings = r#"{"name":"KV_portcullis","subjects":["$KV.portcullis.>"],"retention":"limits","storage":"file",
        "discard":"new","max_msgs_per_subject":1,"max_age":1000000000,"duplicate_window":1000000000,"max_msgs":-1,
        "max_bytes":-1,"max_consumers":-1,"max_msg_size":-1,"num_replicas":1,"allow_rollup_hdrs":true,
        "deny_delete":true,"allow_direct":true}"#;
    let settings = settings.replace('\n', " ");
    let update = "$JS.API.STREAM.UPDATE.KV_portcullis";
    let answers = fleet.nats.request(update, settings.as_bytes());
    assert!(
        !String::from_utf8_lossy(&answers).contains("error"),
        "{}",
        String::from_utf8_lossy(&answers)
    );
    fleet.put("contoso", "one.test", &[]);
    let mut host = fleet.host("h1");
    host.wait_for_log("policy loaded tenant=contoso sequence=1");
    // The server looks every second or so.
    let deadline = std::time::Instant::now() + portcullis_tests::daemon::TIMEOUT;
    while String::from_utf8_lossy(&fleet.nats.request("$JS.API.STREAM.INFO.KV_portcullis", b""))
        .contains("\"messages\":1")
    {
        assert!(std::time::Instant::now() < deadline);
    }
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    host.restart();
    host.wait_for_log("1 tenants of this host are not in the store, and stay: contoso");
    assert_eq!(reply(&host, "one.test", "contoso"), 550);
    let told = fleet.fail(&["rollback", "contoso", "--to", "1", "--key", "contoso.pem"]);
    assert!(told.contains("there is no policy of tenant"), "{told}");
    // What is published anew is taken.
    fleet.sign("contoso", &rules("two.test"), &["--sequence", "2"]);
    fleet.run(&["put", "contoso.json"]);
    host.wait_for_log("policy loaded tenant=contoso sequence=2");
    assert_eq!(reply(&host, "two.test", "contoso"), 550);
}
