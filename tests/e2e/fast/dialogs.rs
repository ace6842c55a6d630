//! SMTP dialogs as data: a new case is a new file in `dialogs/`.
//!
//! A file has a line each of
//! - `C: text` what the client sends, with CRLF; `\r`, `\n`, `\0`, `\\` and `\xHH` are escapes
//! - `C| text` the same without CRLF, and `C* N text` the text N times
//! - `S: text` the beginning of the next reply; of a reply with several lines, the beginning of any
//!   line, so that several `S:` lines in a row hold against one reply only if they begin with the same
//!   code and `-`
//! - `S! text` no line of the last reply begins so
//! - `TLS` the handshake, after the reply to STARTTLS
//! - `CLOSED` the server closes
//! - `MAIL N` the Maildir has N messages, and `MAIL: text` the last of them has the text in it
//! - `# text` a remark

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use portcullis_tests::client::Handshake;
use portcullis_tests::{Client, Config, Daemon, Listener, Pki, Reply, TestBed};

const LIMITS: &str = "
    [limits]
    message-size = \"100KiB\"
    recipients = 5
    errors = 12
";

const CONTOSO: &str = r#"{"connectors": [{"name": "Bank", "direction": "inbound",
    "from": {"sender-domains": ["contosobank.com"]}, "require": {"tls": true}}]}"#;

/// The policy of the other organization reads the header.
const FABRIKAM: &str = r#"{"connectors": [{"name": "Header", "direction": "inbound", "match-header-from": true,
    "from": {"sender-domains": ["contosobank.com"]}, "require": {"tls": true}}]}"#;

fn start() -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir().starttls().proxied())
        .certificate(&Pki::new())
        .tenant("contoso.com", CONTOSO)
        .tenant("fabrikam.com", FABRIKAM)
        .with(LIMITS);
    TestBed::start(config)
}

struct Dialog<'a> {
    name: String,
    daemon: &'a Daemon,
    client: Client,
    reply: Option<Reply>,
    /// Lines of the last reply that no `S:` has asked for yet.
    open: bool,
}

impl Dialog<'_> {
    /// Begins one with a Maildir that has nothing of the dialogs before.
    fn start<'a>(path: &Path, daemon: &'a Daemon) -> Dialog<'a> {
        let kept = fs::read_dir(daemon.folder().join("mail/new")).expect("a folder");
        for message in kept {
            fs::remove_file(message.expect("an entry").path()).expect("it is removed");
        }
        let ip: IpAddr = "192.0.2.1".parse().expect("an address");
        Dialog {
            name: path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned(),
            daemon,
            client: Client::connect_as(daemon.address(), ip),
            reply: None,
            open: false,
        }
    }

    fn play(&mut self, number: usize, line: &str) {
        let at = format!("{}:{number}: {line}", self.name);
        let (verb, text) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "C:" => self.send(&[unescape(text), b"\r\n".to_vec()].concat()),
            "C|" => self.send(&unescape(text)),
            "C*" => {
                let (times, text) = text.split_once(' ').expect("a number and a text");
                self.send(&unescape(text).repeat(times.parse().expect("a number")));
            }
            "S:" => self.expect(text, &at),
            "S!" => {
                let reply = self.reply.as_ref().expect("a reply came before");
                assert!(!has_line(reply, text), "{at}: {reply:?}");
            }
            "TLS" => self.client.handshake(&Handshake::default()).expect(&at),
            "CLOSED" => assert!(self.client.is_closed(), "{at}"),
            "MAIL" => assert_eq!(self.daemon.maildir("mail").len().to_string(), text, "{at}"),
            "MAIL:" => {
                let text = String::from_utf8_lossy(&unescape(text)).into_owned();
                let mail = self.daemon.maildir("mail");
                assert!(
                    mail.iter().any(|message| message.contains(&text)),
                    "{at}: {mail:?}"
                );
            }
            _ => panic!("{at}: not a line of a dialog"),
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.open = false;
        self.client.send(bytes);
    }

    fn expect(&mut self, text: &str, at: &str) {
        let same = self.open
            && self
                .reply
                .as_ref()
                .is_some_and(|reply| has_line(reply, text));
        if !same {
            self.reply = Some(
                self.client
                    .try_reply()
                    .unwrap_or_else(|error| panic!("{at}: {error}")),
            );
        }
        let reply = self.reply.as_ref().expect("just read");
        assert!(has_line(reply, text), "{at}: {reply:?}");
        self.open = reply.lines.len() > 1;
    }
}

/// Whether a line of the reply begins with the text, as it stood on the wire.
fn has_line(reply: &Reply, text: &str) -> bool {
    let last = reply.lines.len() - 1;
    reply.lines.iter().enumerate().any(|(number, line)| {
        let separator = if number == last { ' ' } else { '-' };
        format!("{}{separator}{line}", reply.code).starts_with(text)
    })
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, more)) = rest.split_first() {
        rest = more;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let (kind, more) = rest.split_first().expect("something is escaped");
        rest = more;
        bytes.push(match kind {
            b'r' => b'\r',
            b'n' => b'\n',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).expect("hex digits");
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).expect("hex digits")
            }
            other => panic!("no such escape: {}", char::from(*other)),
        });
    }
    bytes
}

#[test]
fn every_dialog_goes_as_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dialogs");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the dialogs")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 10);
    let daemon = start();
    for (ended, path) in paths.iter().enumerate() {
        if ended > 0 {
            // Whatever a session keeps, it keeps before it ends.
            daemon.wait_for_log_times("session ends", ended);
        }
        let text = fs::read_to_string(path).expect("a dialog");
        let mut dialog = Dialog::start(path, &daemon);
        for (number, line) in text.lines().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                dialog.play(number + 1, line);
            }
        }
    }
}
