//! Faults of every kind while mail flows, and an account of every message. `PORTCULLIS_FAULTS` says how many
//! faults there are.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portcullis_tests::{Client, Daemon, Fault, Load, Stage};

/// Attempts that are made between one fault and the next.
const BETWEEN: usize = 25;

#[test]
fn every_message_is_accounted_for() {
    let faults = std::env::var("PORTCULLIS_FAULTS");
    let faults = faults.map_or(4 * Fault::KINDS, |count| count.parse().expect("a number"));
    let mut stage = Stage::new();
    let load = Load::new(stage.daemon().address(), "faults", Duration::ZERO);
    let account = load.run(|load| {
        for fault in Fault::sequence().take(faults) {
            stage.fault(fault);
            load.wait(BETWEEN);
            stage.mend();
            load.wait(BETWEEN);
        }
    });
    let totals = account.settle(&stage.hop.forget());
    assert!(
        totals.confirmed > totals.messages / 2,
        "mail flows meanwhile"
    );
    eprintln!("{faults} faults: {totals}");
}

/// A file system without room for another message. It takes the right to mount one.
#[test]
fn a_full_disk_confirms_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.json"), r#"{"connectors": []}"#).expect("a file");
    let mail = folder.path().join("mail");
    fs::create_dir(&mail).expect("a folder");
    let Some(_small) = SmallDisk::mount(&mail) else {
        eprintln!("not tried: it takes the right to mount");
        return;
    };
    let config = r#"
hostname = "mx.dest.test"
[[listener]]
address = "127.0.0.1:0"
next-hop = { maildir = "mail" }
[[tenant]]
name = "dest"
domains = ["dest.test"]
policy = "rules.json"
"#;
    let daemon = Daemon::start_in(folder, config);
    let content = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(4000));
    let mut replies = Vec::new();
    let mut client = Client::greeted(daemon.address());
    client.expect("EHLO client.example", 250);
    for _ in 0..30 {
        client.expect("MAIL FROM:<a@example.org>", 250);
        client.expect("RCPT TO:<b@dest.test>", 250);
        replies.push(client.data(&content).code);
    }
    let confirmed = replies.iter().filter(|code| **code == 250).count();
    assert!(confirmed > 0 && confirmed < 30, "{replies:?}");
    assert!(
        replies.iter().all(|code| [250, 452].contains(code)),
        "{replies:?}"
    );
    assert_eq!(daemon.maildir("mail").len(), confirmed);
}

/// A file system of one MiB.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    fn mount(at: &Path) -> Option<SmallDisk<'_>> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(at)
            .status();
        let mounted = mounted.expect("mount can be run").success();
        mounted.then_some(SmallDisk(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: the daemon may still be there.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
