//! Whole sessions over real sockets, from the client's octets to those that the next hop gets.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::time::Duration;

use portcullis::Compiler;
use portcullis_server::config::Config;
use portcullis_server::daemon::{Begin, Daemon, Purpose};
use portcullis_server::socket::Sockets;
use portcullis_tests::Pki;

/// Nothing takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the next hop says when it has a message.
const TAKEN: &str = "250 2.0.0 taken";

const RULES: &str = r#"{"connectors": [
    {"name": "bank", "direction": "inbound", "match-header-from": true,
     "from": {"sender-domains": ["bank.test"]}, "require": {"tls": true}},
    {"name": "near", "direction": "inbound", "from": {"sender-domains": ["near.test"]},
     "require": {"source-ips": ["127.0.0.0/8"]}}]}"#;

struct Servers {
    address: SocketAddr,
    sink: Arc<Mutex<Sink>>,
    _folder: tempfile::TempDir,
}

static SERVERS: LazyLock<Servers> = LazyLock::new(start);

/// Any octets, cut anywhere, end in a session that ends: each line that we say is a reply, each message
/// that we confirm has arrived once, and no other.
pub fn session(input: &[u8]) {
    // How many cuts, the lengths of the pieces before each, and the octets.
    let Some((count, rest)) = input.split_first() else {
        return;
    };
    let (cuts, octets) = rest.split_at(usize::from(*count).min(rest.len()));
    let servers = &*SERVERS;
    let said = talk(servers.address, octets, cuts);
    let said = String::from_utf8(said).expect("replies are ASCII");
    // What follows STARTTLS is not SMTP.
    let clear = said
        .split_inclusive('\n')
        .take_while(|line| !line.starts_with("220 2.0.0"));
    for line in clear {
        assert!(line.ends_with("\r\n") && line.len() <= 512, "{line:?}");
        assert!(
            line.as_bytes()[..3].iter().all(u8::is_ascii_digit),
            "{line:?}"
        );
    }
    let arrived = std::mem::take(&mut *servers.sink.lock().expect("no panic"));
    assert_eq!(arrived.wrong, Vec::<String>::new());
    assert_eq!(arrived.taken, said.matches(TAKEN).count(), "{said}");
}

/// Sends the octets in pieces, and gives all that is said.
fn talk(to: SocketAddr, octets: &[u8], cuts: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.set_nodelay(true).expect("no delay");
    let mut reading = stream.try_clone().expect("the same connection");
    let listener = std::thread::spawn(move || {
        let mut said = Vec::new();
        match reading.read_to_end(&mut said) {
            Ok(_) => {}
            // It has closed while octets were on their way to it.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the session does not end: {error}"),
        }
        said
    });
    let mut rest = octets;
    for cut in cuts.iter().map(|cut| usize::from(*cut)) {
        let (piece, more) = rest.split_at(cut.min(rest.len()));
        rest = more;
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    // It may have had enough of us.
    let _ = stream.write_all(rest);
    let _ = stream.shutdown(Shutdown::Write);
    listener.join().expect("the session ends")
}

fn start() -> Servers {
    let folder = tempfile::tempdir().expect("a folder");
    let sink = Arc::<Mutex<Sink>>::default();
    let address = free_address();
    let config = config(folder.path(), address, listen(sink.clone()));
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        crate::runtime().block_on(async {
            let daemon = Daemon::new(config, None, Compiler::InProcess, Purpose::Run)
                .await
                .expect("a daemon");
            let ready = move || ready.send(()).expect("somebody waits");
            daemon
                .run(Sockets::default(), Begin::Anew, Box::new(ready))
                .await
                .expect("it runs");
        });
    });
    is_ready.recv().expect("it listens");
    Servers {
        address,
        sink,
        _folder: folder,
    }
}

fn config(folder: &Path, address: SocketAddr, sink: SocketAddr) -> Config {
    std::fs::write(folder.join("rules.json"), RULES).expect("a file");
    let identity = Pki::new().trusted(&["mx.dest.test"]);
    identity.write(folder, "mx.dest.test");
    let text = format!(
        r#"hostname = "mx.dest.test"
[[listener]]
address = "{address}"
certificate = "mx.dest.test.pem"
key = "mx.dest.test.key"
next-hop = {{ smtp = "{sink}" }}
[[tenant]]
name = "dest"
domains = ["dest.test", "*.dest.test"]
policy = "rules.json"
[limits]
sessions-per-address = 2000
message-size = "64KiB"
[sandbox]
cache-directory = "cache"
"#
    );
    Config::parse(&text, folder).expect("the configuration is right")
}

fn free_address() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("an address");
    socket.local_addr().expect("an address")
}

/// What has come to a server that believes in RFC 5321 to the letter.
#[derive(Default)]
struct Sink {
    /// Messages.
    taken: usize,
    /// Lines that it does not understand.
    wrong: Vec<String>,
}

fn listen(sink: Arc<Mutex<Sink>>) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = socket.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in socket.incoming() {
            let (stream, sink) = (stream.expect("a connection"), sink.clone());
            // It ends when the connection does.
            std::thread::spawn(move || receive(stream, &sink).ok());
        }
    });
    address
}

fn receive(mut stream: TcpStream, sink: &Mutex<Sink>) -> std::io::Result<()> {
    // A small reply would wait for the acknowledgement of the one before it.
    stream.set_nodelay(true)?;
    let sink = || sink.lock().expect("no panic");
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut in_message = false;
    let mut say = |reply: &str| stream.write_all(format!("{reply}\r\n").as_bytes());
    say("220 sink.test")?;
    loop {
        let mut line = Vec::new();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let end = line.strip_suffix(b"\r\n").unwrap_or(&line);
        let said = String::from_utf8_lossy(end).into_owned();
        if end.contains(&b'\r') || end.contains(&b'\n') || end.contains(&0) {
            sink().wrong.push(said.clone());
        }
        if in_message {
            if end == b"." {
                in_message = false;
                sink().taken += 1;
                say(TAKEN)?;
            }
            continue;
        }
        match said.split([' ', ':']).next() {
            Some("EHLO") => say("250-sink.test\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250 8BITMIME")?,
            Some("DATA") => {
                in_message = true;
                say("354 go on")?;
            }
            Some("MAIL" | "RCPT" | "RSET" | "NOOP") => say("250 2.0.0 ok")?,
            Some("QUIT") => return say("221 2.0.0 bye"),
            _ => sink().wrong.push(said),
        }
    }
}
