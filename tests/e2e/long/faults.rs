//! Faults of every kind while mail flows, and an account of every message. `PORTCULLIS_FAULTS` says how many
//! faults there are.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use portcullis_tests::daemon::run;
use portcullis_tests::fan_out::{LATER, copies, lmtp, mailboxes_in, send_what_is_taken};
use portcullis_tests::outbound::{SHORT_TIMEOUTS, Setting};
use portcullis_tests::programs::{assert_may_mount, faketime};
use portcullis_tests::{
    Behaviour, Config, Daemon, Fault, FaultInjector, Listener, Load, MockServer, NO_RULES, Pki,
    Step, TestBed, machine,
};

/// Attempts that are made between one fault and the next.
const BETWEEN: usize = 25;

#[test]
fn every_message_is_accounted_for() {
    let _shared = machine::shared();
    let faults = std::env::var("PORTCULLIS_FAULTS");
    let faults = faults.map_or(4 * Fault::KINDS, |count| count.parse().expect("a number"));
    let mut faulty = FaultInjector::new();
    let load = Load::new(faulty.bed.address(), "faults", Duration::ZERO);
    let account = load.run(|load| {
        for fault in Fault::sequence().take(faults) {
            faulty.inject(fault);
            load.wait(BETWEEN);
            faulty.repair();
            load.wait(BETWEEN);
        }
    });
    let totals = account.reconcile(&faulty.hop.forget());
    assert!(
        totals.confirmed > totals.messages / 2,
        "mail flows meanwhile"
    );
    eprintln!("{faults} faults: {totals}");
}

const PARTNERS: &str = r#"{"connectors": [{"name": "to all", "direction": "outbound",
    "to": {"recipient-domains": ["*"]}, "tls": {"level": "verify"}}]}"#;

/// A server that all partners' domains share, and the domains.
fn partners() -> String {
    let domains = (0..9).map(|number| format!("d{number}.test. MX 10 mx.partner.test.\n"));
    domains.collect::<String>() + "mx.partner.test. A 127.0.0.2\n"
}

#[test]
fn mail_for_partners_waits_while_the_dns_is_gone() {
    let _shared = machine::shared();
    let setting = Setting::start(Pki::new(), PARTNERS, &[&partners()], SHORT_TIMEOUTS);
    let identity = setting.pki.trusted(&["mx.partner.test"]);
    let partner = MockServer::start_at(setting.address(2), Behaviour::with(&identity));
    let to = |number: usize| format!("a@d{number}.test");
    for number in 0..3 {
        let outcome = setting.send(&to(number));
        assert!(outcome.is_delivered(), "{}", outcome.text());
    }
    setting.dns.answer(false);
    let send = |number| setting.send(&to(number));
    let outcomes: Vec<_> = thread::scope(|scope| {
        let sending: Vec<_> = (3..9)
            .map(|number| scope.spawn(move || send(number)))
            .collect();
        let ended = sending.into_iter().map(|sending| sending.join());
        ended.map(|outcome| outcome.expect("a sender")).collect()
    });
    for outcome in outcomes {
        assert!(
            outcome.text().starts_with("451 4.4.3"),
            "{}",
            outcome.text()
        );
    }
    // What is known already is still known.
    assert!(setting.send(&to(0)).is_delivered());
    setting.dns.answer(true);
    for number in 3..9 {
        let outcome = setting.send(&to(number));
        assert!(outcome.is_delivered(), "{}", outcome.text());
    }
    assert_eq!(partner.taken().len(), 10);
}

#[test]
fn mail_flows_while_the_clock_is_set() {
    let _shared = machine::shared();
    let folder = tempfile::tempdir().expect("a folder");
    let offset = folder.path().join("offset");
    let set = |by: &str| {
        let new = folder.path().join("new");
        fs::write(&new, by).expect("a file");
        fs::rename(&new, &offset).expect("renamed");
    };
    set("+0");
    let mut faulty = FaultInjector::with(&[
        ("LD_PRELOAD", faketime().as_str()),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().expect("a path")),
        // What is waited for is measured by a clock that nobody sets.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_NO_CACHE", "1"),
    ]);
    let load = Load::new(faulty.bed.address(), "clock", Duration::ZERO);
    let account = load.run(|load| {
        for by in ["+1d", "-1d", "+400d", "-400d", "+0"] {
            set(by);
            load.wait(BETWEEN);
            faulty.inject(Fault::Reload);
            load.wait(BETWEEN);
        }
    });
    let log = faulty.bed.log();
    let year = |number: u32| log.iter().any(|line| line.starts_with(&number.to_string()));
    let years = (2020..2100).filter(|number| year(*number)).count();
    assert!(years >= 3, "the clock was not set");
    let totals = account.reconcile(&faulty.hop.forget());
    assert_eq!(totals.confirmed, totals.messages, "{totals}");
    eprintln!("the clock is set: {totals}");
}

/// A daemon that keeps mail on a small file system of its own. It takes the right to mount one.
fn on_a_small_disk() -> (TestBed, SmallDisk) {
    let (folder, disk) = small_disk_at("mail", "1m");
    let config = Config::new()
        .hostname("mx.dest.test")
        .listener(Listener::maildir())
        .tenant("dest.test", NO_RULES);
    (TestBed::start_in(folder, config), disk)
}

/// Sends so many messages of these lines; gives the replies' codes.
fn send(daemon: &Daemon, count: usize, lines: usize) -> Vec<u16> {
    let content = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(lines));
    let mut client = daemon.client();
    let replies = (0..count).map(|_| {
        let recipient = client.envelope("a@example.org", "b@dest.test");
        assert_eq!(recipient.code, 250, "{recipient:?}");
        client.data(&content).code
    });
    replies.collect()
}

#[test]
fn a_disk_that_becomes_read_only_confirms_nothing() {
    let _shared = machine::shared();
    let (daemon, disk) = on_a_small_disk();
    assert_eq!(send(&daemon, 2, 10), [250, 250]);
    disk.remount("ro");
    assert_eq!(send(&daemon, 2, 10), [451, 451]);
    assert_eq!(daemon.maildir("mail").len(), 2);
    disk.remount("rw");
    assert_eq!(send(&daemon, 1, 10), [250]);
    assert_eq!(daemon.maildir("mail").len(), 3);
}

#[test]
fn a_full_disk_confirms_nothing() {
    let _shared = machine::shared();
    let (daemon, _disk) = on_a_small_disk();
    let replies = send(&daemon, 30, 4000);
    let confirmed = replies.iter().filter(|code| **code == 250).count();
    assert!(confirmed > 0 && confirmed < 30, "{replies:?}");
    assert!(
        replies.iter().all(|code| [250, 452].contains(code)),
        "{replies:?}"
    );
    assert_eq!(daemon.maildir("mail").len(), confirmed);
}

/// What a message's recipients were told stays known on a disk that fills up between RCPT and the reply, and to the
/// process after that.
#[test]
fn a_disk_that_fills_up_doubles_nothing() {
    let _shared = machine::shared();
    let server = MockServer::start(lmtp().tells("<b@", Step::End, LATER));
    let (folder, disk) = small_disk_at("state", "8m");
    let mut daemon = mailboxes_in(folder, server.address);
    let text = "Message-ID: <1@contoso.com>\r\nSubject: x\r\n\r\nto both";
    let to = ["a@dest.test", "b@dest.test"];
    let mut client = daemon.client();
    for line in [
        "MAIL FROM:<alice@contoso.com>",
        "RCPT TO:<a@dest.test>",
        "RCPT TO:<b@dest.test>",
    ] {
        client.expect(line, 250);
    }
    disk.fill();
    assert_eq!(client.data(text).code, 451);
    assert_eq!(to.map(|to| copies(&server, to)), [1, 0]);
    daemon.restart();
    server.behave(lmtp());
    // What may be a second copy is deferred until there is room to compare it.
    let (taken, code) = send_what_is_taken(daemon.client(), &to, text);
    assert_eq!((taken, code), (vec!["a@dest.test"], 452));
    disk.free();
    let mut left = to.to_vec();
    for _ in to {
        let (taken, code) = send_what_is_taken(daemon.client(), &left, text);
        assert_eq!(code, 250);
        left.retain(|to| !taken.contains(to));
    }
    assert_eq!(left, [""; 0], "both were told");
    assert_eq!(to.map(|to| copies(&server, to)), [1, 1]);
}

/// A change of rules that cannot be kept is not made.
#[test]
fn a_full_disk_leaves_rules_as_they_were() {
    let (folder, disk) = small_disk_at("rules", "1m");
    let rules = folder.path().join("rules/rules.json");
    let text = "{\n  \"connectors\": []\n}\n";
    fs::write(&rules, text).expect("a file");
    let add = || {
        let rules = rules.to_string_lossy();
        let connector = ["--name", "a", "--from", "a.test", "--tls", "--yes"];
        run(&[&["add", &rules][..], &connector].concat(), b"")
    };
    disk.fill();
    let output = add();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(fs::read_to_string(&rules).expect("the rules"), text);
    disk.free();
    disk.remount("ro");
    let output = add();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Read-only file system"));
    disk.remount("rw");
    assert_eq!(add().status.code(), Some(0));
    assert_ne!(fs::read_to_string(&rules).expect("the rules"), text);
}

/// Where nothing could be remembered, each recipient has a transaction of its own.
#[test]
fn a_disk_without_room_for_a_journal_splits_no_message() {
    let _shared = machine::shared();
    let server = MockServer::start(lmtp());
    let (folder, _disk) = small_disk_at("state", "1m");
    let daemon = mailboxes_in(folder, server.address);
    let to = ["a@dest.test", "b@dest.test"];
    let (taken, code) = send_what_is_taken(daemon.client(), &to, "Subject: x\r\n\r\nto both");
    assert_eq!((taken, code), (vec!["a@dest.test"], 250));
}

/// A folder, and a small file system below it.
pub fn small_disk_at(name: &str, size: &str) -> (TempDir, SmallDisk) {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join(name);
    fs::create_dir(&at).expect("a folder");
    (folder, SmallDisk::mount(at, size))
}

/// A small file system.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> SmallDisk {
        assert_may_mount();
        let size = format!("size={size}");
        let arguments = ["-t", "tmpfs", "-o", &size, "tmpfs"];
        let mounted = Command::new("mount").args(arguments).arg(&at).status();
        assert!(mounted.expect("mount can be run").success());
        SmallDisk(at)
    }

    /// Takes all that is left of it.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).expect("a file");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.0.join("filler")).expect("the file");
    }

    fn remount(&self, how: &str) {
        let option = format!("remount,{how}");
        let remounted = Command::new("mount")
            .args(["-o", &option])
            .arg(&self.0)
            .status();
        assert!(remounted.expect("mount can be run").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
