//! What clients say to the daemon.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use portcullis_tests::daemon::TIMEOUT;
use portcullis_tests::{Client, Config, Daemon, Listener, Pki, TestBed, machine};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{RULES, edit, edited, samples};

fn start() -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir().starttls())
        .listener(Listener::maildir().proxied())
        .listener(Listener::maildir().implicit_tls())
        .certificate(&Pki::new())
        .tenant("contoso.com", RULES)
        .with("[limits]\nsessions-per-address = 2000");
    TestBed::start(config)
}

/// Sends octets and no more; gives all that came back.
fn exchange(address: SocketAddr, input: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the server accepts connections");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a time-out");
    // The server may hang up in the middle, which a client sees as an error of either kind.
    let sent = stream.write_all(input);
    let _ = sent.and_then(|()| stream.shutdown(Shutdown::Write));
    let mut output = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return output,
            Ok(read) => output.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return output,
            Err(error) => panic!("the session does not end: {error}\n{input:?}"),
        }
    }
}

/// Holds that a server spoke SMTP: lines with a code, of a length that SMTP allows.
fn assert_replies(output: &[u8], input: &[u8]) {
    let shown = || String::from_utf8_lossy(input).into_owned();
    let text = std::str::from_utf8(output).unwrap_or_else(|_| panic!("not ASCII: {}", shown()));
    let Some(text) = text.strip_suffix("\r\n") else {
        panic!("{text:?} does not end a line: {}", shown())
    };
    for line in text.split("\r\n") {
        let code = line.get(..3).unwrap_or_default();
        let known = ["2", "3", "4", "5"]
            .iter()
            .any(|class| code.starts_with(class));
        let number = code.bytes().all(|byte| byte.is_ascii_digit());
        let separator = matches!(line.as_bytes().get(3), Some(b' ' | b'-'));
        assert!(known && number && separator, "{line:?}: {}", shown());
        let plain = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        assert!(plain && line.len() <= 510, "{line:?}: {}", shown());
    }
}

/// Lines that begin as SMTP and go on as anything.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let verb = prop::sample::select(vec![
        "EHLO ",
        "HELO ",
        "MAIL FROM:",
        "MAIL FROM:<",
        "RCPT TO:",
        "RCPT TO:<",
        "DATA",
        "BDAT ",
        "RSET",
        "NOOP ",
        "VRFY ",
        "EXPN ",
        "HELP ",
        "QUIT",
        "AUTH ",
        "XCLIENT ",
        "BDAT 3 LAST\r\n",
        "EHLO a.example\r\n",
        "EHLO a.example\r\nMAIL FROM:<a@b.example>\r\n",
        "MAIL FROM:<a@b.example> SIZE=",
        "EHLO a.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@contoso.com>\r\nDATA\r\n",
        "RCPT TO:<b@contoso.com>\r\n",
        "",
    ]);
    let noise = prop_oneof![
        vec(any::<u8>(), 0..60),
        "[ -~]{0,60}".prop_map(String::into_bytes),
        "(<[a-z@.\"\\\\<>\\[\\]:é]{0,30}>| SIZE=[0-9]{0,30}| BODY=[0-9A-Z]{0,9}){0,4}"
            .prop_map(String::into_bytes),
        (1_usize..5000).prop_map(|length| vec![b'x'; length]),
        Just(vec![b'.']),
    ];
    let end = prop::sample::select(vec![
        "\r\n",
        "\r\n",
        "\r\n",
        "\n",
        "\r",
        "",
        "\r\n.\r\n",
        "\0\r\n",
    ]);
    (verb, noise, end)
        .prop_map(|(verb, noise, end)| [verb.as_bytes(), &noise, end.as_bytes()].concat())
}

/// Holds that a daemon serves as if nothing had happened.
fn assert_unharmed(daemon: &Daemon) {
    let mut client = Client::greeted(daemon.address());
    client.hello(true, None);
    assert_eq!(
        client
            .envelope("alice@contosobank.com", "bob@contoso.com")
            .code,
        250
    );
    assert_eq!(client.data("Subject: still there\r\n\r\nHello.").code, 250);
    client.quit();
    // The log has a thread of its own; what came before this session is written when its decision is.
    daemon.wait_for_log("from=\"alice@contosobank.com\"");
    let mail = daemon.maildir("mail");
    assert!(
        mail.iter()
            .any(|message| message.contains("Subject: still there\n"))
    );
    for word in ["panicked", "ERROR"] {
        assert_eq!(daemon.count_log(word), 0, "{:#?}", daemon.log());
    }
}

#[test]
fn random_sessions_get_replies_and_do_no_harm() {
    let _shared = machine::shared();
    let daemon = start();
    let noise = samples(vec(any::<u8>(), 0..2000), 1000);
    let sessions = samples(vec(line(), 1..12), 2000)
        .into_iter()
        .map(|lines| lines.concat());
    for input in noise.into_iter().chain(sessions) {
        let output = exchange(daemon.address(), &input);
        assert_replies(&output, &input);
        assert!(
            output.starts_with(b"220"),
            "{:?}",
            String::from_utf8_lossy(&output)
        );
    }
    assert_unharmed(&daemon);
}

#[test]
fn lines_without_end_are_not_kept() {
    let _shared = machine::shared();
    let daemon = start();
    for input in [
        vec![b'x'; 20_000_000],
        vec![b'\r'; 1_000_000],
        b"\r\n".repeat(100_000),
    ] {
        let output = exchange(daemon.address(), &input);
        assert_replies(&output, &input[..60]);
    }
    assert_unharmed(&daemon);
}

#[test]
fn garbage_in_place_of_a_proxy_header_is_not_answered() {
    let _shared = machine::shared();
    let daemon = start();
    let v2 = b"\r\n\r\n\0\r\nQUIT\n";
    let v1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 25\r\n";
    for (number, noise) in samples(vec(any::<u8>(), 0..600), 600)
        .into_iter()
        .enumerate()
    {
        let input = match number % 3 {
            0 => noise,
            1 => [&v2[..], &noise].concat(),
            _ => edited(v1, &samples(vec(edit(), 1..4), number + 1)[number]),
        };
        let output = exchange(daemon.addresses[1], &input);
        // A change may leave a header that is one.
        assert!(
            output.is_empty() || number % 3 == 2 && output.starts_with(b"220 "),
            "{input:?}"
        );
    }
    let output = exchange(daemon.addresses[1], &[&v1[..], b"QUIT\r\n"].concat());
    assert!(output.starts_with(b"220 ") && output.ends_with(b"\r\n"));
    assert_unharmed(&daemon);
}

#[test]
fn garbage_in_place_of_a_handshake_is_not_smtp() {
    let _shared = machine::shared();
    let daemon = start();
    for noise in samples(vec(any::<u8>(), 0..600), 300) {
        let implicit = exchange(daemon.addresses[2], &noise);
        assert!(!implicit.starts_with(b"220"));
        let mut client = Client::greeted(daemon.address());
        client.expect("EHLO a.example", 250);
        client.expect("STARTTLS", 220);
        client.send(&[&noise[..], b"\r\nQUIT\r\n"].concat());
        drop(client);
    }
    assert_unharmed(&daemon);
}
