//! Faults of every kind while mail flows, and an account of every message.
//!
//! Each message has an id, and its sender tries again as mail servers do. What was confirmed has arrived;
//! what was not has not, unless a connection was lost when the message was already on its way.
//! `PORTCULLIS_FAULTS` says how many faults there are.

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use portcullis_tests::daemon::PATIENCE;
use portcullis_tests::{Action, Behaviour, Client, Daemon, Partner, Pki, Step};

const SENDERS: usize = 8;
/// Attempts that are made between one fault and the next.
const BETWEEN: usize = 25;
/// How often a sender tries the same message.
const ATTEMPTS: usize = 20;

const RULES: &str = r#"{"connectors": [{"name": "closed", "direction": "inbound",
    "from": {"recipient-domains": ["closed.dest.test"]}, "require": {"tls": true}}]}"#;

/// What a client knows of one attempt to send a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// 250 to the message.
    Confirmed,
    /// It was told no before it had sent the message.
    Refused,
    /// It was told to come again, or nothing, after it had sent the message.
    Unsure,
}

/// All attempts, by the message's id.
type Account = HashMap<String, Vec<Outcome>>;

/// What the senders share.
struct Load {
    address: SocketAddr,
    attempts: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    /// One message after another until told to stop.
    fn send(&self, sender: usize) -> Account {
        let mut account = Account::new();
        while !self.stop.load(Ordering::Relaxed) {
            let id = format!("id-{sender}-{}.", account.len());
            let outcomes = account.entry(id.clone()).or_default();
            for _ in 0..ATTEMPTS {
                let outcome = self.attempt(&id);
                self.attempts.fetch_add(1, Ordering::Relaxed);
                outcomes.push(outcome);
                if outcome == Outcome::Confirmed || self.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        account
    }

    fn attempt(&self, id: &str) -> Outcome {
        let Ok(mut client) = Client::try_greeted(self.address) else {
            // Nobody is there while the daemon is started anew.
            thread::yield_now();
            return Outcome::Refused;
        };
        for (line, code) in [
            ("EHLO client.example", 250),
            ("MAIL FROM:<a@example.org>", 250),
            ("RCPT TO:<b@dest.test>", 250),
            ("DATA", 354),
        ] {
            let sent = client.try_send(format!("{line}\r\n").as_bytes());
            match sent.and_then(|()| client.try_reply()) {
                Ok(reply) if reply.code == code => {}
                _ => return Outcome::Refused,
            }
        }
        let message = format!("Subject: {id}\r\n\r\n{id}\r\n.\r\n");
        let sent = client.try_send(message.as_bytes());
        match sent.and_then(|()| client.try_reply()) {
            Ok(reply) if reply.code == 250 => Outcome::Confirmed,
            Ok(reply) if reply.code >= 500 => Outcome::Refused,
            _ => Outcome::Unsure,
        }
    }

    /// Waits until so many more attempts have been made.
    fn wait(&self, more: usize) {
        let enough = self.attempts.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + PATIENCE;
        while self.attempts.load(Ordering::Relaxed) < enough {
            assert!(Instant::now() < deadline, "mail does not flow any more");
            thread::yield_now();
        }
    }
}

/// The servers, and what may happen to them.
struct Stage {
    daemon: Option<Daemon>,
    config: String,
    hop: Partner,
    certificate: String,
}

impl Stage {
    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.daemon().folder().join(name)
    }

    /// Something goes wrong; what it was is put right again by `mend`.
    fn fault(&mut self, number: usize) {
        let step = [
            Step::Greeting,
            Step::Ehlo,
            Step::Mail,
            Step::Rcpt,
            Step::Data,
            Step::End,
        ];
        let step = step[number / KINDS % step.len()];
        let odd = |action| Behaviour::default().but(step, action);
        match number % KINDS {
            0 => self.hop.behave(odd(Action::Cut)),
            1 => self.hop.behave(odd(Action::Silence)),
            2 => self.hop.behave(odd(Action::Say("451 4.3.0 not now\r\n"))),
            3 => self.hop.behave(odd(Action::Say("550 5.7.1 never\r\n"))),
            4 => self.hop.behave(odd(Action::Say("what?\r\n"))),
            5 => self
                .hop
                .behave(Behaviour::default().but(Step::End, Action::TakeAndCut)),
            6 => self.hop.hang_up(),
            7 => self.restart(),
            8 => self.daemon().signal("HUP"),
            9 => fs::write(self.path("rules.json"), &RULES[..RULES.len() / 2]).expect("a file"),
            10 => {
                fs::remove_file(self.path("rules.json")).expect("removed");
                fs::create_dir(self.path("rules.json")).expect("a folder");
            }
            11 => fs::write(self.path("mx.pem"), &self.certificate[..100]).expect("a file"),
            _ => self.allow_files(24),
        }
    }

    fn mend(&mut self) {
        self.hop.behave(Behaviour::default());
        // It is one of the two.
        let _ = fs::remove_dir(self.path("rules.json"));
        fs::write(self.path("rules.json"), RULES).expect("a file");
        fs::write(self.path("mx.pem"), &self.certificate).expect("a file");
        self.allow_files(1024);
    }

    /// Killed as by a power cut, and started again.
    fn restart(&mut self) {
        let folder = self.daemon.take().expect("it runs").kill();
        self.daemon = Some(Daemon::start_in(folder, &self.config));
    }

    fn allow_files(&self, count: usize) {
        let limited = Command::new("prlimit")
            .args(["--pid", &self.daemon().pid().to_string()])
            .arg(format!("--nofile={count}:"))
            .status();
        assert!(limited.expect("prlimit can be run").success());
    }
}

const KINDS: usize = 13;

fn stage() -> Stage {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = Pki::new().trusted(&["mx.dest.test"]);
    identity.write(folder.path(), "mx");
    fs::write(folder.path().join("rules.json"), RULES).expect("a file");
    let hop = Partner::start(Behaviour::default());
    let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let config = config(address.expect("an address"), hop.address);
    Stage {
        daemon: Some(Daemon::start_in(folder, &config)),
        config,
        hop,
        certificate: identity.certificate_pem,
    }
}

fn config(address: SocketAddr, hop: SocketAddr) -> String {
    format!(
        r#"
hostname = "mx.dest.test"
[[listener]]
address = "{address}"
certificate = "mx.pem"
key = "mx.key"
next-hop = {{ smtp = "{hop}" }}
[[tenant]]
name = "dest"
domains = ["dest.test", "*.dest.test"]
policy = "rules.json"
[timeouts]
connect = "500ms"
reply = "500ms"
final-reply = "500ms"
"#
    )
}

#[test]
fn every_message_is_accounted_for() {
    let faults = std::env::var("PORTCULLIS_FAULTS");
    let faults = faults.map_or(4 * KINDS, |count| count.parse().expect("a number"));
    let mut stage = stage();
    let load = Load {
        address: stage.daemon().address(),
        attempts: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
    };
    let accounts: Vec<Account> = thread::scope(|scope| {
        let load = &load;
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| scope.spawn(move || load.send(sender)))
            .collect();
        for number in 0..faults {
            stage.fault(number);
            load.wait(BETWEEN);
            stage.mend();
            load.wait(BETWEEN);
        }
        load.stop.store(true, Ordering::Relaxed);
        let ended = senders.into_iter().map(|sender| sender.join());
        ended.map(|account| account.expect("a sender")).collect()
    });
    settle(&stage, accounts.into_iter().flatten().collect());
}

/// Holds what the clients were told against what has arrived.
fn settle(stage: &Stage, account: Account) {
    let mut arrived: HashMap<&str, usize> = HashMap::new();
    let taken = stage.hop.taken();
    for message in &taken {
        let id = message.content.trim_end().rsplit('\n').next();
        *arrived.entry(id.expect("a last line")).or_default() += 1;
    }
    let mut doubled = 0;
    let mut confirmed_in_all = 0;
    for (id, outcomes) in &account {
        let count = |outcome| outcomes.iter().filter(|it| **it == outcome).count();
        let (confirmed, unsure) = (count(Outcome::Confirmed), count(Outcome::Unsure));
        let arrived = arrived.remove(id.as_str()).unwrap_or(0);
        assert!(arrived >= confirmed, "{id} is lost: {outcomes:?}");
        assert!(
            arrived <= confirmed + unsure,
            "{id} came {arrived} times: {outcomes:?}"
        );
        doubled += arrived.saturating_sub(1);
        confirmed_in_all += confirmed;
    }
    assert!(arrived.is_empty(), "nobody sent {arrived:?}");
    assert!(confirmed_in_all > account.len() / 2, "mail flows meanwhile");
    eprintln!(
        "{} messages, {} attempts, {confirmed_in_all} confirmed, 0 lost, {doubled} doubled where the reply was lost",
        account.len(),
        account.values().map(Vec::len).sum::<usize>()
    );
}

/// A file system without room for another message. It takes the right to mount one.
#[test]
fn a_full_disk_confirms_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rules.json"), RULES).expect("a file");
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
