//! What the log tells of people, as it is configured.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Instant;

use portcullis_tests::daemon::{TIMEOUT, messages as messages_in};
use portcullis_tests::machine::free_address;
use portcullis_tests::{
    Action, Behaviour, Client, Config, Daemon, Listener, MockServer, Step, TestBed, portcullis,
};
use tempfile::TempDir;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

const RULES: &str = r#"{"connectors": [{"name": "closed", "direction": "inbound",
    "from": {"recipient-domains": ["closed.dest.test"]}, "require": {"tls": true}}]}"#;

fn config(hop: &MockServer) -> Config {
    Config::new()
        .hostname("mx.dest.test")
        .listener(Listener::smtp(hop.address).proxied())
        .tenant_with("dest", &["dest.test", "*.dest.test"], "rules.json")
        .file("rules.json", RULES)
        .with("[limits]\nsessions-per-address = 1")
}

/// Does all that is logged with mailboxes and addresses; gives the log.
fn log_of_everything(daemon: &Daemon, hop: &MockServer) -> Vec<String> {
    daemon.take_log();
    let mut client = Client::connect_as(daemon.address(), CLIENT);
    client.expect("EHLO client.example", 250);
    for (step, said, code) in [
        (
            Step::End,
            "550 5.1.1 <bob@dest.test>: no such \"bob\"@dest.test\r\n",
            550,
        ),
        (Step::Data, "421 4.3.2 not for alice@sender.test\r\n", 451),
        (Step::End, "who is bob@dest.test?\r\n", 451),
    ] {
        hop.behave(Behaviour::default().but(step, Action::Say(said)));
        hop.hang_up();
        client.expect("MAIL FROM:<alice@sender.test>", 250);
        client.expect("RCPT TO:<\"bob b\"@closed.dest.test>", 550);
        client.expect("RCPT TO:<bob@dest.test>", 250);
        let reply = client.data("Subject: x\r\n\r\nx");
        assert_eq!(reply.code, code, "{said}: {reply:?}");
    }
    assert!(
        Client::try_connect_as(daemon.address(), CLIENT).is_err(),
        "one session at a time"
    );
    client.quit();
    daemon.wait_for_log("session ends");
    daemon.take_log()
}

#[test]
fn people_are_told_of_as_far_as_is_wanted() {
    let hop = MockServer::start(Behaviour::default());
    let discreet = config(&hop).with("[log]\nmailboxes = \"domain\"\nclients = \"network\"");
    let daemon = TestBed::start(discreet);
    let told = log_of_everything(&daemon, &hop);
    let is_told = |told: &[String], word| told.iter().any(|line| line.contains(word));
    for word in ["bob", "alice", "203.0.113.7"] {
        assert!(!is_told(&told, word), "{word} is told: {told:#?}");
    }
    for word in [
        r#"from="*@sender.test" to="*@closed.dest.test""#,
        "reply=\"<*@dest.test>: no such *@dest.test",
        "connection rejected client=203.0.113.0/24",
    ] {
        assert!(is_told(&told, word), "{word} is not told: {told:#?}");
    }
    daemon.replace("portcullis.toml", config(&hop).to_string().as_bytes());
    daemon.wait_for_log("configuration reloaded");
    let told = log_of_everything(&daemon, &hop);
    for word in [
        r#"from="alice@sender.test" to="\"bob b\"@closed.dest.test""#,
        "<bob@dest.test>: no such",
        "connection rejected client=203.0.113.7 ",
    ] {
        assert!(is_told(&told, word), "{word} is not told: {told:#?}");
    }
}

/// A daemon whose log goes somewhere else.
struct Unheard {
    child: Child,
    folder: TempDir,
    address: SocketAddr,
    metrics: SocketAddr,
}

impl Unheard {
    fn start(stderr: Stdio) -> Unheard {
        let folder = tempfile::tempdir().expect("a folder");
        let (address, metrics) = (free_address(), free_address());
        let config = Config::new()
            .hostname("mx.dest.test")
            .listener(Listener::maildir())
            .tenant("dest.test", RULES)
            .with(&format!("[metrics]\naddress = \"{metrics}\""))
            .at(&[address]);
        config.write(folder.path());
        let path = folder.path().join("portcullis.toml");
        let child = portcullis(&["run", "--log-level", "debug", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("the daemon starts");
        Unheard {
            child,
            folder,
            address,
            metrics,
        }
    }

    fn wait_until_it_listens(&self) {
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::yield_now();
        }
    }

    /// Sends messages, each in a session of its own; all must be taken.
    fn send(&self, messages: usize) {
        let before = messages_in(&self.folder.path().join("mail")).len();
        for _ in 0..messages {
            let mut client = Client::greeted(self.address);
            client.expect("EHLO client.example", 250);
            client.expect("MAIL FROM:<a@example.org>", 250);
            client.expect("RCPT TO:<x@elsewhere.test>", 550);
            client.expect("RCPT TO:<b@dest.test>", 250);
            assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
            client.quit();
        }
        let kept = messages_in(&self.folder.path().join("mail")).len();
        assert_eq!(kept - before, messages);
    }

    fn lost_lines(&self) -> u64 {
        let mut stream = TcpStream::connect(self.metrics).expect("the metrics");
        let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let name = "portcullis_log_lines_lost_total ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.expect("the metric").trim().parse().expect("a number")
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn mail_does_not_depend_on_the_reader_of_the_log() {
    // The reader goes.
    let mut daemon = Unheard::start(Stdio::piped());
    daemon.wait_until_it_listens();
    drop(daemon.child.stderr.take());
    daemon.send(20);
    assert!(daemon.lost_lines() > 20);
    // There is no room from the beginning.
    let full = fs::File::options().write(true).open("/dev/full");
    let daemon = Unheard::start(full.expect("a device").into());
    daemon.wait_until_it_listens();
    daemon.send(20);
    assert!(daemon.lost_lines() > 20);
}

#[test]
fn a_reader_of_the_log_that_stands_still_holds_nobody_up() {
    let mut daemon = Unheard::start(Stdio::piped());
    daemon.wait_until_it_listens();
    // More than a pipe holds.
    daemon.send(200);
    assert_eq!(daemon.lost_lines(), 0);
    let mut read = Vec::new();
    let mut log = daemon.child.stderr.take().expect("a pipe");
    terminate(&daemon.child);
    log.read_to_end(&mut read).expect("the log");
    assert!(read.len() > 64 << 10, "{}", read.len());
    let ended = daemon.child.wait().expect("the daemon ends");
    assert_eq!(ended.code(), Some(0));
}

/// Asks it to end, as an administrator would.
fn terminate(child: &Child) {
    let status = std::process::Command::new("kill")
        .args(["-s", "TERM", &child.id().to_string()])
        .status();
    assert!(status.expect("kill can be run").success());
}
