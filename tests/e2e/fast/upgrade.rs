//! From one process to the next without a connection lost: sockets that a supervisor gives, sockets that a new process
//! takes over, and what a supervisor is told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::process::{Child, Command, Stdio};

use portcullis_tests::daemon::{TIMEOUT, binary};
use portcullis_tests::metrics::{self, METRICS};
use portcullis_tests::{Client, Config, Listener, NO_RULES, TestBed};

fn config() -> Config {
    Config::new()
        .listener(Listener::maildir())
        .tenant_with("contoso", &["contoso.com"], "rules.json")
        .file("rules.json", NO_RULES)
}

fn takes_mail(address: std::net::SocketAddr) {
    assert_eq!(
        Client::recipient(address, "a@example.org", "bob@contoso.com"),
        250
    );
}

#[test]
fn a_new_process_takes_over_and_sessions_end_with_the_old_one() {
    let mut bed = TestBed::start(config());
    let mut begun = bed.client();
    begun.expect("MAIL FROM:<a@example.org>", 250);
    let mut old = bed.upgrade();
    bed.wait_for_log("the sockets of the old process are taken over");
    bed.wait_for_log("another process has taken over");
    // The message that was begun arrives.
    begun.expect("RCPT TO:<bob@contoso.com>", 250);
    begun.expect("DATA", 354);
    begun.send(b"Subject: begun\r\n\r\nhello\r\n.\r\n");
    assert_eq!(begun.reply().code, 250);
    assert_eq!(bed.maildir("mail").len(), 1);
    takes_mail(bed.address());
    begun.expect("QUIT", 221);
    assert!(old.wait().expect("it ends").success());
    takes_mail(bed.address());
    // And once more.
    let mut old = bed.upgrade();
    assert!(old.wait().expect("it ends").success());
    takes_mail(bed.address());
    bed.signal("TERM");
    assert_eq!(bed.wait(), Some(0));
    assert!(TcpStream::connect(bed.address()).is_err());
}

/// The process that is asked to starts the program as it is on the disk.
#[test]
fn a_signal_replaces_the_process() {
    let mut bed = TestBed::start(config());
    bed.signal("USR2");
    bed.wait_for_log("another process has taken over");
    assert_eq!(bed.wait(), Some(0));
    takes_mail(bed.address());
    let line = bed.wait_for_log("another process has taken over");
    let (_, new) = line.rsplit_once("process=").expect("a number");
    let ended = Command::new("kill").arg(new.trim()).status();
    assert!(ended.expect("kill can be run").success());
    bed.wait_for_log("INFO stopping");
}

#[test]
fn what_does_not_start_changes_nothing() {
    let mut bed = TestBed::start(config());
    let good = std::fs::read(bed.folder().join("portcullis.toml")).expect("a file");
    let broken: [(&[u8], &str); 2] = [
        (b"hostname = 7", "hostname"),
        // Another process has this port.
        (&[&good[..], &taken_port()].concat(), "cannot listen on"),
    ];
    for (number, (config, why)) in broken.into_iter().enumerate() {
        std::fs::write(bed.folder().join("portcullis.toml"), config).expect("a file");
        bed.signal("USR2");
        let line = bed.wait_for_log_times(
            "the upgrade has come to nothing; the old process goes on status",
            number + 1,
        );
        assert!(line.contains("exit status: 2"), "{line}");
        assert!(
            bed.log().iter().any(|line| line.contains(why)),
            "{why}: {:?}",
            bed.log()
        );
        takes_mail(bed.address());
    }
    std::fs::write(bed.folder().join("portcullis.toml"), good).expect("a file");
    let mut old = bed.upgrade();
    assert!(old.wait().expect("it ends").success());
    takes_mail(bed.address());
}

/// A front door on a port that is taken, and stays so.
fn taken_port() -> Vec<u8> {
    let taken = Box::leak(Box::new(TcpListener::bind("127.0.0.1:0").expect("a port")));
    let address = taken.local_addr().expect("an address");
    format!("\n[[frontend]]\naddress = \"{address}\"\n").into_bytes()
}

#[test]
fn whoever_speaks_otherwise_at_the_upgrade_socket_gets_nothing() {
    let bed = TestBed::start(config());
    let path = bed.upgrade_socket();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&path).expect("a socket").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    for (number, words) in [
        "GET / HTTP/1.1\r\n\r\n",
        "{\"portcullis\":\"9\",\"protocol\":2}\n",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = UnixStream::connect(&path).expect("it listens");
        stream.write_all(words.as_bytes()).expect("it is written");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("it is closed");
        let mut answer = String::new();
        // What was not read is a reason to reset the connection.
        let _ = stream.read_to_string(&mut answer);
        assert!(!answer.contains("127.0.0.1"), "{answer}");
        bed.wait_for_log_times("the upgrade has come to nothing", number + 1);
    }
    // One that takes the sockets and goes has changed nothing, whatever it has said before.
    for (number, words) in ["", "ready\n", "ready\nstay\n"].into_iter().enumerate() {
        let mut stream = UnixStream::connect(&path).expect("it listens");
        let hello = format!("{{\"portcullis\":\"0\",\"protocol\":1}}\n{words}");
        stream.write_all(hello.as_bytes()).expect("it is written");
        let mut octet = [0];
        stream.read_exact(&mut octet).expect("an answer");
        drop(stream);
        bed.wait_for_log_times("the upgrade has come to nothing", number + 4);
    }
    takes_mail(bed.address());
}

/// A daemon that has its socket from a supervisor, as descriptor 3.
fn activated(config: &str, listener: TcpListener, folder: &std::path::Path) -> Child {
    let path = folder.join("portcullis.toml");
    std::fs::write(&path, config).expect("a file");
    Command::new("sh")
        .arg("-c")
        .arg("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" run --config \"$1\" 3<&0 0</dev/null")
        .arg(binary())
        .arg(path)
        .env("XDG_STATE_HOME", folder.join("state"))
        .env("NO_COLOR", "1")
        .stdin(OwnedFd::from(listener))
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell")
}

/// The lines that a process writes until there is one with these words.
fn wait_for(child: &mut Child, words: &str) -> String {
    let stderr = child.stderr.take().expect("it is piped");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let found = lines.find_map(|line| line.ok().filter(|line| line.contains(words)));
    std::thread::spawn(move || lines.for_each(drop));
    found.unwrap_or_else(|| panic!("it has ended without {words:?}"))
}

#[test]
fn a_supervisors_socket_is_served_and_outlives_the_process() {
    let bed = TestBed::start(config());
    let text = std::fs::read_to_string(bed.folder().join("portcullis.toml")).expect("a file");
    let folder = bed.kill();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let text = text.replacen("127.0.0.1:0", &address.to_string(), 1);
    for _ in 0..2 {
        // Whoever comes before it runs waits for it.
        let mut early = TcpStream::connect(address).expect("somebody listens");
        early.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut child = activated(&text, socket.try_clone().expect("a socket"), folder.path());
        let mut greeting = [0; 4];
        early.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(&greeting, b"220 ");
        drop(early);
        takes_mail(address);
        let pid = child.id().to_string();
        let ended = Command::new("kill").arg(pid).status();
        assert!(ended.expect("kill can be run").success());
        wait_for(&mut child, "stopping");
        assert!(child.wait().expect("it ends").success());
    }
}

#[test]
fn a_supervisor_is_told_of_sockets_that_are_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new("sh")
        .arg("-c")
        .arg("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" run 3</dev/null")
        .arg(binary())
        .current_dir(folder.path())
        .output()
        .expect("a shell");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("socket 0 of LISTEN_FDS"), "{told}");
}

#[test]
fn what_a_supervisor_gives_in_other_words_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    for (number, why) in [("many", "LISTEN_FDS is"), ("1000000000", "LISTEN_FDS is")] {
        let output = Command::new("sh")
            .arg("-c")
            .arg("LISTEN_PID=$$ LISTEN_FDS=\"$1\" exec \"$0\" run")
            .arg(binary())
            .arg(number)
            .current_dir(folder.path())
            .output()
            .expect("a shell");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains(why), "{told}");
    }
    let bed = TestBed::start(config());
    let text = std::fs::read_to_string(bed.folder().join("portcullis.toml")).expect("a file");
    let folder = bed.kill();
    let socket = TcpListener::bind("[::]:0").expect("a port");
    let port = socket.local_addr().expect("an address").port();
    let text = text.replacen("127.0.0.1:0", &format!("0.0.0.0:{port}"), 1);
    let child = activated(&text, socket, folder.path());
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains(&format!("was given a socket at [::]:{port}")),
        "{told}"
    );
}

/// The messages that a supervisor has got, as far as there is one that contains this.
fn told(supervisor: &UnixDatagram, words: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let length = supervisor.recv(&mut buffer).expect(words);
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if message.contains(words) {
            return message;
        }
    }
}

#[test]
fn a_supervisor_is_told_how_things_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).expect("a socket");
    supervisor
        .set_read_timeout(Some(TIMEOUT))
        .expect("a timeout");
    let path = path.to_str().expect("a path");
    let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "1000000")];
    let mut bed = TestBed::start_with(config(), &variables);
    let ready = told(&supervisor, "READY=1");
    assert!(ready.contains("STATUS=taking mail; tenants: 1"), "{ready}");
    told(&supervisor, "WATCHDOG=1");
    bed.signal("HUP");
    let reloading = told(&supervisor, "RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    told(&supervisor, "READY=1");
    bed.signal("USR2");
    let line = bed.wait_for_log("another process has taken over");
    let (_, new) = line.rsplit_once("process=").expect("a number");
    let new = new.trim();
    told(&supervisor, &format!("MAINPID={new}"));
    assert_eq!(bed.wait(), Some(0));
    let ended = Command::new("kill").arg(new).status();
    assert!(ended.expect("kill can be run").success());
    let stopping = told(&supervisor, "STOPPING=1");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC="), "{stopping}");
}

#[test]
fn a_supervisor_that_does_not_read_holds_nobody_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&path).expect("a socket");
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("a mode");
    while sender.send_to(b"X=1", &path).is_ok() {}
    let variables = [("NOTIFY_SOCKET", path.to_str().expect("a path"))];
    let mut bed = TestBed::start_with(config(), &variables);
    takes_mail(bed.address());
    bed.signal("HUP");
    bed.wait_for_log("configuration reloaded");
    bed.signal("TERM");
    assert_eq!(bed.wait(), Some(0));
    drop(supervisor);
}

#[test]
fn a_supervisor_without_a_path_is_told() {
    let name = format!("portcullis-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let supervisor = UnixDatagram::bind_addr(&address).expect("a socket");
    supervisor
        .set_read_timeout(Some(TIMEOUT))
        .expect("a timeout");
    let place = format!("@{name}");
    let _bed = TestBed::start_with(config(), &[("NOTIFY_SOCKET", &place)]);
    told(&supervisor, "READY=1");
}

#[test]
fn a_process_that_drains_is_taken_over_as_well() {
    let mut bed = TestBed::start(config().with("[timeouts]\nshutdown-delay = \"10m\""));
    bed.signal("TERM");
    bed.wait_for_log("INFO draining");
    let mut old = bed.upgrade();
    bed.wait_for_log("another process has taken over");
    assert!(old.wait().expect("it ends").success());
    takes_mail(bed.address());
    // Whoever is in a hurry says so twice.
    bed.signal("TERM");
    bed.wait_for_log_times("INFO draining", 2);
    bed.signal("TERM");
    assert_eq!(bed.wait(), Some(0));
}

#[test]
fn who_may_open_a_socket_is_as_the_new_process_has_it() {
    let path = |bed: &TestBed| bed.folder().join("door");
    let mode = |bed: &TestBed| {
        let metadata = std::fs::metadata(path(bed)).expect("a socket");
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777
    };
    let mut bed =
        TestBed::start(config().with("[[frontend]]\naddress = \"door\"\nmode = \"0666\""));
    assert_eq!(mode(&bed), 0o666);
    let file = bed.folder().join("portcullis.toml");
    let text = std::fs::read_to_string(&file).expect("a file");
    std::fs::write(&file, text.replace("0666", "0600")).expect("a file");
    assert!(bed.upgrade().wait().expect("it ends").success());
    assert_eq!(mode(&bed), 0o600);
    // One whose file was removed is made again.
    std::fs::remove_file(path(&bed)).expect("it is removed");
    assert!(bed.upgrade().wait().expect("it ends").success());
    UnixStream::connect(path(&bed)).expect("it listens");
}

/// Numbers are those of the process that takes mail.
#[test]
fn the_new_process_answers_for_the_numbers() {
    let mut bed = TestBed::start(config().with(METRICS));
    takes_mail(bed.address());
    let sessions = "portcullis_sessions_total";
    assert_eq!(metrics::value(&bed, sessions), Some(1));
    let mut begun = bed.client();
    let mut old = bed.upgrade();
    bed.wait_for_log("another process has taken over");
    assert!(metrics::get(&bed, "/ready").contains("200 OK"));
    assert_eq!(metrics::value(&bed, sessions), Some(0));
    begun.expect("QUIT", 221);
    assert!(old.wait().expect("it ends").success());
}
