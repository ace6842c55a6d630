//! Processes that take over from each other while mail flows. No client notices: each message is taken at the first
//! attempt, and arrives once. `PORTCULLIS_UPGRADES` says how often; `make upgrades` does so a thousand times by each way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portcullis_tests::daemon::{TIMEOUT, binary};
use portcullis_tests::load::HONEST;
use portcullis_tests::machine::free_address;
use portcullis_tests::{
    Behaviour, Client, Config, Listener, Load, MockServer, NO_RULES, Pki, TestBed, machine,
};

/// Attempts that are made between one change and the next.
const BETWEEN: usize = 20;

fn times() -> usize {
    let times = std::env::var("PORTCULLIS_UPGRADES");
    times.map_or(20, |times| times.parse().expect("a number"))
}

fn config(pki: &Pki, hop: &MockServer) -> Config {
    Config::new()
        .hostname("mx.dest.test")
        .certificate(pki)
        .listener(Listener::smtp(hop.address).proxied().starttls())
        .tenant("dest.test", NO_RULES)
        .with("[limits]\nsessions-per-address = 100")
}

/// Whether each message of a load was taken at once, and came once.
fn assert_unnoticed(load: &Load, hop: &MockServer, change: impl FnOnce(&Load)) {
    let account = load.run(change);
    let totals = account.reconcile(&hop.forget());
    assert_eq!(totals.attempts, totals.messages, "{totals}");
    assert_eq!(totals.confirmed, totals.messages, "{totals}");
    assert_eq!(totals.doubled, 0, "{totals}");
    eprintln!("{totals}");
}

#[test]
fn nobody_notices_that_a_new_process_takes_over() {
    let _shared = machine::shared();
    let (pki, hop) = (Pki::new(), MockServer::start(Behaviour::default()));
    let mut bed = TestBed::start(config(&pki, &hop));
    let load = Load::new(bed.address(), "upgrade", Duration::ZERO);
    assert_unnoticed(&load, &hop, |load| {
        for _ in 0..times() {
            let mut old = bed.upgrade();
            load.wait(BETWEEN);
            assert!(old.wait().expect("it ends").success());
        }
    });
}

#[test]
fn nobody_notices_a_reload() {
    let _shared = machine::shared();
    let (pki, hop) = (Pki::new(), MockServer::start(Behaviour::default()));
    let bed = TestBed::start(config(&pki, &hop));
    let load = Load::new(bed.address(), "reload", Duration::ZERO);
    assert_unnoticed(&load, &hop, |load| {
        for number in 1..=times() {
            bed.signal("HUP");
            bed.wait_for_log_times("configuration reloaded", number);
            load.wait(BETWEEN);
        }
    });
}

/// A process with the socket of a supervisor.
fn activated(socket: &TcpListener, folder: &Path) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg("LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" run --config \"$1\" 3<&0 0</dev/null")
        .arg(binary())
        .arg(folder.join("portcullis.toml"))
        .env("XDG_STATE_HOME", folder.join("state"))
        .stdin(OwnedFd::from(socket.try_clone().expect("a socket")))
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}

/// Sessions of a process that is told to end get 421 between two transactions, and come again. No connection is refused
/// or lost, and nothing comes twice.
#[test]
fn a_restart_by_a_supervisor_that_keeps_the_socket_loses_nothing() {
    let _shared = machine::shared();
    let (pki, hop) = (Pki::new(), MockServer::start(Behaviour::default()));
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let folder = tempfile::tempdir().expect("a folder");
    config(&pki, &hop).at(&[address]).write(folder.path());
    let mut process = activated(&socket, folder.path());
    let load = Load::new(address, "restart", Duration::ZERO);
    let account = load.run(|load| {
        for _ in 0..times() {
            load.wait(BETWEEN);
            let told = Command::new("kill").arg(process.id().to_string()).status();
            assert!(told.expect("kill can be run").success());
            assert!(process.wait().expect("it ends").success());
            process = activated(&socket, folder.path());
        }
    });
    process.kill().expect("it is killed");
    process.wait().expect("it ends");
    let totals = account.reconcile(&hop.forget());
    assert_eq!(totals.confirmed, totals.messages, "{totals}");
    assert_eq!(totals.doubled, 0, "{totals}");
    eprintln!("{totals}");
}

/// Whether the process that was to be replaced goes on: it answers one process after another, so what came before is
/// decided then.
fn offers_sockets(bed: &TestBed) -> bool {
    let mut answer = [0];
    let asked = UnixStream::connect(bed.upgrade_socket()).and_then(|mut stream| {
        stream.write_all(b"{}\n")?;
        stream.read_exact(&mut answer)
    });
    asked.is_ok()
}

/// Whichever of two processes is killed while one takes over, at whatever moment, the other one takes mail. Only one that
/// is killed after it has taken over leaves nobody: its supervisor starts another.
#[test]
fn whichever_is_killed_meanwhile_the_other_one_goes_on() {
    let _shared = machine::shared();
    let (pki, hop) = (Pki::new(), MockServer::start(Behaviour::default()));
    let config = config(&pki, &hop).at(&[free_address()]);
    let mut bed = TestBed::start(config);
    let address = bed.address();
    let takes_mail = || {
        Client::connect_as(address, HONEST)
            .try_command("NOOP")
            .is_ok()
    };
    let (mut killed_old, mut killed_new) = (0, 0);
    for round in 0..times() {
        let mut old = bed.upgrade();
        // Not all moments are met in each run, and other ones in the next.
        thread::sleep(Duration::from_millis(round as u64 * 37 % 160));
        if round % 2 == 0 {
            old.kill().expect("it is killed");
            old.wait().expect("it ends");
            killed_old += 1;
        } else {
            bed.signal("KILL");
            bed.wait();
            match offers_sockets(&bed) {
                true => bed.keep(old),
                false => {
                    old.wait().expect("it ends");
                    drop(bed.upgrade());
                }
            }
            killed_new += 1;
        }
        let deadline = Instant::now() + TIMEOUT;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nobody serves, round {round}");
            thread::yield_now();
        }
        assert!(takes_mail(), "round {round}");
        hop.forget();
    }
    eprintln!("{killed_old} old and {killed_new} new processes killed");
}
