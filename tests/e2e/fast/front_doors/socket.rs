//! The socket of a front door: who may open it, and what becomes of those who say nothing that is understood.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use portcullis_tests::Pki;
use portcullis_tests::front_door::Asking;

use super::{config, daemon};
use portcullis_tests::run;

#[test]
fn it_has_the_owner_and_mode_that_the_other_server_needs() {
    let lines = "mode = \"0620\"\nowner = \"nobody\"\ngroup = \"daemon\"";
    let daemon = daemon(&Pki::new(), lines);
    let socket = fs::metadata(daemon.folder().join("ask")).expect("a socket");
    assert_eq!(socket.permissions().mode() & 0o777, 0o620);
    assert!(socket.uid() != 0 && socket.gid() != 0);
}

#[test]
fn an_owner_that_is_not_there_is_told_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    config(&Pki::new(), "owner = \"nosuchuser\"").write(folder.path());
    let path = folder.path().join("portcullis.toml");
    let output = run(&["run", "--config", &path.to_string_lossy()], b"");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        text.contains("this machine has no user \"nosuchuser\""),
        "{text}"
    );
}

#[test]
fn what_is_not_understood_ends_that_connection_alone() {
    let daemon = daemon(&Pki::new(), "protocols = [\"policy\"]");
    let mut fine = Asking::connect(daemon.folder());
    let asked = |asking: &mut Asking| {
        asking.policy(&[
            ("protocol_state", "RCPT"),
            ("sender", "a@example.org"),
            ("recipient", "b@contoso.com"),
        ])
    };
    assert_eq!(asked(&mut fine), "DUNNO");
    let long = vec![b'a'; 140_000];
    for (octets, why) in [
        (&b"\xff\xfe\xfd"[..], "no protocol begins so"),
        (b"\0\0\0\x0dO", "milter is not among its protocols"),
        (b"GET / HTTP/1.1\r\n\r\n", "http is not among its protocols"),
        (b"no equals sign\n\n", "a line without"),
        (
            b"request=junk_policy\n\n",
            "is no request that is answered here",
        ),
        (&long, "a request of more than"),
    ] {
        let before = daemon.count_log(why);
        let mut asking = Asking::connect(daemon.folder());
        asking.send(octets);
        daemon.wait_for_log_times(why, before + 1);
        assert!(asking.is_closed(), "{why}");
    }
    assert_eq!(asked(&mut fine), "DUNNO");
}

#[test]
fn packets_that_make_no_sense_end_a_milters_connection() {
    let daemon = daemon(&Pki::new(), "protocols = [\"milter\"]");
    for (octets, why) in [
        (&b"\0\xff\xff\xffO"[..], "a packet of 16777215 octets"),
        (b"\0\0\0\0", "a packet of 0 octets"),
        (b"\0\0\0\x02O\0", "a malformed negotiation"),
        (b"\0\0\0\x01Z", "a packet of kind 'Z'"),
        (b"\0\0\0\x05R<a>\0", "a recipient before a sender"),
    ] {
        let mut asking = Asking::connect(daemon.folder());
        asking.send(octets);
        daemon.wait_for_log(why);
        assert!(asking.is_closed(), "{why}");
    }
}
