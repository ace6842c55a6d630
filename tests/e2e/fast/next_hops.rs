//! Next hops that are not ours: their reply is our reply, and nothing is confirmed before it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use portcullis_tests::machine::free_address;
use portcullis_tests::{
    Action, Behaviour, Client, Config, Daemon, Listener, MockServer, NO_RULES, Pki, SmtpSink, Step,
    TestBed,
};

/// Nobody knows what clients are called.
const SETTINGS: &str = "
    [dns]
    servers = [\"127.0.0.1:9\"]
    dnssec = false
    [timeouts]
    reply = \"5s\"
    final-reply = \"5s\"
";

fn start(next_hop: &str) -> TestBed {
    let config = Config::new()
        .listener(Listener::next_hop(next_hop).starttls().proxied())
        .certificate(&Pki::new())
        .tenant("contoso.com", NO_RULES)
        .with(SETTINGS);
    TestBed::start(config)
}

fn start_before(sink: &SmtpSink) -> TestBed {
    start(&format!("smtp = \"{}\"", sink.address))
}

fn greeted(daemon: &Daemon) -> Client {
    daemon.client_from("192.0.2.7")
}

#[test]
fn a_message_arrives_at_smtp_sink_as_it_was_sent() {
    let sink = SmtpSink::start(&[]);
    let daemon = start_before(&sink);
    let mut client = greeted(&daemon);
    client.starttls(None);
    client.expect("EHLO client.example", 250);
    for number in 1..=2 {
        client.expect("MAIL FROM:<a@example.org>", 250);
        client.expect("RCPT TO:<b@contoso.com>", 250);
        client.expect("RCPT TO:<c@contoso.com>", 250);
        let reply = client.data(&format!(
            "Subject: number {number}\r\n\r\n.dot\r\n\r\n..\r\nend"
        ));
        assert_eq!(reply.code, 250);
        assert!(reply.text().ends_with(&format!(".{number}]")), "{reply:?}");
    }
    client.quit();
    let messages = sink.messages();
    assert_eq!(messages.len(), 2);
    for message in messages {
        assert!(
            message.contains("X-Mail-Args: <a@example.org>"),
            "{message}"
        );
        assert!(
            message.contains("X-Rcpt-Args: <b@contoso.com>\nX-Rcpt-Args: <c@contoso.com>\n"),
            "{message}"
        );
        assert!(
            message.contains(
                "\nReceived: from client.example ([192.0.2.7])\n\t(using TLSv1.3 with cipher TLS13_"
            ),
            "{message}"
        );
        assert!(
            message.contains("\tby mx.contoso.com with ESMTPS id "),
            "{message}"
        );
        assert!(
            message.trim_end().ends_with("\n\n.dot\n\n..\nend"),
            "{message:?}"
        );
    }
}

#[test]
fn what_smtp_sink_refuses_the_client_is_refused() {
    for (options, at_rcpt, at_end) in [
        (["-f", "mail"], Some(500), None),
        (["-r", "mail"], Some(450), None),
        (["-f", "rcpt"], Some(500), None),
        (["-r", "rcpt"], Some(450), None),
        (["-f", "data"], None, Some(500)),
        (["-r", "data"], None, Some(450)),
        (["-f", "."], None, Some(500)),
        (["-r", "."], None, Some(450)),
        (["-q", "mail"], Some(451), None),
        (["-q", "rcpt"], Some(451), None),
        (["-q", "data"], None, Some(451)),
        (["-q", "."], None, Some(451)),
        (["-q", "ehlo"], Some(451), None),
        (["-f", "connect"], Some(451), None),
    ] {
        let sink = SmtpSink::start(&options);
        let daemon = start_before(&sink);
        let mut client = greeted(&daemon);
        let reply = client.envelope("a@example.org", "b@contoso.com");
        assert_eq!(reply.code, at_rcpt.unwrap_or(250), "{options:?}: {reply:?}");
        if let Some(code) = at_end {
            let reply = client.data("Subject: x\r\n\r\nx");
            assert_eq!(reply.code, code, "{options:?}: {reply:?}");
        }
        // The session goes on.
        client.expect("RSET", 250);
        client.expect("NOOP", 250);
    }
}

/// A client that has believed in 8BITMIME is not refused for good; in its next session it is not offered.
#[test]
fn a_next_hop_that_takes_seven_bits_all_at_once() {
    let server = MockServer::start(Behaviour::default());
    let daemon = start(&format!("smtp = \"{}\"", server.address));
    // It has been asked what it takes.
    server.wait_for_command("QUIT");
    let mut client = greeted(&daemon);
    let offered = client.expect("EHLO client.example", 250).text();
    assert!(offered.contains("8BITMIME"), "{offered}");
    let seven_bits = Action::Say("250 mx.partner.test\r\n");
    server.behave(Behaviour::default().but(Step::Ehlo, seven_bits));
    server.hang_up();
    let header = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
                  Content-Transfer-Encoding: 8bit\r\n";
    let mut send = |header: &str| {
        client.expect("MAIL FROM:<a@example.org> BODY=8BITMIME", 250);
        client.expect("RCPT TO:<b@contoso.com>", 250);
        client.data(&format!("{header}\r\n\u{e4}\r\n"))
    };
    let reply = send(&format!("DKIM-Signature: v=1; a=rsa-sha256\r\n{header}"));
    assert_eq!(reply.code, 451, "{reply:?}");
    assert!(reply.text().starts_with("4.6.3 "), "{reply:?}");
    assert_eq!(send(header).code, 250);
    let taken = server.taken();
    assert_eq!(taken.len(), 1);
    assert!(taken[0].content.contains("\r\n\r\n=C3=A4\r\n"), "{taken:?}");
    let offered = greeted(&daemon).expect("EHLO client.example", 250).text();
    assert!(!offered.contains("8BITMIME"), "{offered}");
}

/// RFC 8689: it is announced over TLS if the next hop announces it over TLS, and goes on.
#[test]
fn a_next_hop_is_told_that_tls_is_required() {
    let identity = Pki::new().trusted(&["mx.partner.test"]);
    let offer = Action::Say("250-mx.partner.test\r\n250 REQUIRETLS\r\n");
    let server = MockServer::start(Behaviour::with(&identity).but(Step::EhloTls, offer));
    let daemon = start(&format!("smtp = \"{}\"", server.address));
    server.wait_for_command("TLS QUIT");
    let mut client = greeted(&daemon);
    let offered = client.expect("EHLO client.example", 250).text();
    assert!(!offered.contains("REQUIRETLS"), "{offered}");
    client.expect("MAIL FROM:<a@example.org> REQUIRETLS", 530);
    client.starttls(None);
    let offered = client.expect("EHLO client.example", 250).text();
    assert!(offered.contains("REQUIRETLS"), "{offered}");
    client.expect("MAIL FROM:<a@example.org> REQUIRETLS", 250);
    client.expect("RCPT TO:<b@contoso.com>", 250);
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    server.wait_for_command("TLS MAIL FROM:<a@example.org> REQUIRETLS");
    // One that cannot promise it any more does not get the message.
    server.behave(Behaviour::with(&identity));
    server.hang_up();
    client.expect("MAIL FROM:<a@example.org> REQUIRETLS", 250);
    let reply = client.expect("RCPT TO:<b@contoso.com>", 550);
    assert!(reply.text().starts_with("5.7.30 "), "{reply:?}");
    assert_eq!(server.taken().len(), 1);
}

#[test]
fn a_next_hop_that_is_down_defers() {
    let address = free_address();
    let daemon = start(&format!("smtp = \"{address}\""));
    let mut client = greeted(&daemon);
    let announced = client.expect("EHLO client.example", 250).text();
    assert!(
        !announced.contains("8BITMIME") && !announced.contains("SMTPUTF8"),
        "{announced}"
    );
    let reply = client.envelope("a@example.org", "b@contoso.com");
    assert_eq!(reply.code, 451);
    assert!(
        reply
            .text()
            .starts_with("4.4.1 the next hop does not answer"),
        "{reply:?}"
    );
    client.quit();
}

/// A server that says what it is told to, and tells what it was sent.
struct Script {
    address: SocketAddr,
    lines: Receiver<String>,
}

/// Answers each line by the first entry whose beginning fits; `None` closes.
fn script(
    greeting: &'static str,
    answers: &'static [(&'static str, Option<&'static str>)],
) -> Script {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("its address");
    let (sender, lines) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || {
                // Whoever asked may be gone.
                let _ = play(stream, greeting, answers, &|line| drop(sender.send(line)));
            });
        }
    });
    Script { address, lines }
}

fn play(
    mut stream: TcpStream,
    greeting: &str,
    answers: &[(&str, Option<&str>)],
    tell: &dyn Fn(String),
) -> std::io::Result<()> {
    stream.write_all(greeting.as_bytes())?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut in_data = false;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let text = std::mem::take(&mut line);
        if in_data && text != ".\r\n" {
            continue;
        }
        tell(text.trim_end().to_owned());
        let answer = answers.iter().find(|(begin, _)| text.starts_with(begin));
        match answer.and_then(|(_, answer)| *answer) {
            Some(answer) => stream.write_all(answer.as_bytes())?,
            None => return Ok(()),
        }
        in_data =
            answer.is_some_and(|(_, answer)| answer.is_some_and(|text| text.starts_with("354")));
    }
    Ok(())
}

impl Script {
    /// Waits for a line that begins so.
    fn wait_for(&self, begin: &str) -> String {
        let next = || {
            self.lines
                .recv_timeout(portcullis_tests::daemon::TIMEOUT)
                .expect("the line comes")
        };
        std::iter::repeat_with(next)
            .find(|line| line.starts_with(begin))
            .expect("the line comes")
    }
}

const OK: Option<&str> = Some("250 2.0.0 ok\r\n");

#[test]
fn lmtp_answers_for_one_recipient_at_a_time_where_that_is_wanted() {
    let server = script(
        "220 lmtp\r\n",
        &[
            (
                "LHLO",
                Some("250-lmtp\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"),
            ),
            ("MAIL", OK),
            ("RCPT", OK),
            ("DATA", Some("354 go\r\n")),
            (".", Some("250 2.1.5 stored\r\n")),
            ("QUIT", None),
        ],
    );
    let daemon = start(&format!("lmtp = \"{}\", recipients = 1", server.address));
    let mut client = greeted(&daemon);
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    let second = client.expect("RCPT TO:<c@contoso.com>", 452);
    assert!(second.text().starts_with("4.5.3"), "{second:?}");
    let reply = client.data("Subject: x\r\n\r\nx");
    assert!(
        reply.code == 250 && reply.text().starts_with("2.1.5 stored ["),
        "{reply:?}"
    );
}

#[test]
fn lmtp_recipients_that_differ_are_told_apart() {
    for (answers, code, text) in [
        ("250 2.1.5 one\r\n250 2.1.5 two\r\n", 250, "2.1.5 one; two"),
        (
            "550 5.1.1 unknown\r\n550 5.1.1 unknown\r\n",
            550,
            "5.1.1 unknown",
        ),
        // Each is told by itself, when it comes again.
        (
            "450 4.2.2 full\r\n550 5.1.1 unknown\r\n",
            451,
            "4.5.0 delivered to 0 of 2 recipients; send again for all",
        ),
        (
            "250 2.1.5 one\r\n450 4.2.2 full\r\n",
            451,
            "4.5.0 delivered to 1 of 2 recipients; send again for all",
        ),
    ] {
        let all: &'static [(&'static str, Option<&'static str>)] = Box::leak(Box::new([
            ("LHLO", OK),
            ("MAIL", OK),
            ("RCPT", OK),
            ("DATA", Some("354 go\r\n")),
            (".", Some(answers)),
        ]));
        let server = script("220 lmtp\r\n", all);
        let daemon = start(&format!("lmtp = \"{}\"", server.address));
        let mut client = greeted(&daemon);
        assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
        client.expect("RCPT TO:<c@contoso.com>", 250);
        let reply = client.data(&format!("Subject: {code} {text}\r\n\r\nx"));
        assert_eq!(reply.code, code, "{reply:?}");
        assert!(reply.text().starts_with(text), "{reply:?}");
    }
}

#[test]
fn the_client_is_told_by_xclient_and_in_the_next_hops_words() {
    let server = script(
        "220 smtp\r\n",
        &[
            (
                "EHLO",
                Some(
                    "250-smtp\r\n250-XCLIENT NAME ADDR HELO PROTO\r\n250-SMTPUTF8\r\n250-8BITMIME\r\n250 SIZE 5000\r\n",
                ),
            ),
            ("XCLIENT", Some("220 smtp\r\n")),
            ("MAIL", OK),
            ("RCPT TO:<b@", Some("250 2.1.5 hop likes b\r\n")),
            (
                "RCPT TO:<c@",
                Some("550-5.1.1 hop does not\r\n550 5.1.1 know c\r\n"),
            ),
            ("RCPT TO:<d@", Some("421 4.3.2 going down\r\n")),
            ("QUIT", None),
        ],
    );
    let daemon = start(&format!("smtp = \"{}\", xclient = true", server.address));
    server.wait_for("QUIT");
    let mut client = greeted(&daemon);
    let announced = client.expect("EHLO client.example", 250).text();
    assert!(
        announced.contains("SMTPUTF8")
            && announced.contains("8BITMIME")
            && announced.contains("SIZE 5000"),
        "{announced}"
    );
    client.expect("MAIL FROM:<a@example.org> SIZE=5001", 552);
    client.expect(
        "MAIL FROM:<a@example.org> SIZE=100 BODY=8BITMIME SMTPUTF8",
        250,
    );
    let reply = client.command("RCPT TO:<b@contoso.com>");
    assert!(reply.text().starts_with("2.1.5 hop likes b"), "{reply:?}");
    let xclient = server.wait_for("XCLIENT");
    assert_eq!(
        xclient,
        "XCLIENT ADDR=192.0.2.7 NAME=[TEMPUNAVAIL] HELO=client.example PROTO=ESMTP"
    );
    assert_eq!(
        server.wait_for("MAIL"),
        "MAIL FROM:<a@example.org> BODY=8BITMIME SMTPUTF8 SIZE=100"
    );
    let refused = client.expect("RCPT TO:<c@contoso.com>", 550);
    assert!(
        refused
            .text()
            .starts_with("5.1.1 hop does not\n5.1.1 know c ["),
        "{refused:?}"
    );
    // 421 would end our client's session too.
    let closing = client.expect("RCPT TO:<d@contoso.com>", 451);
    assert!(closing.text().contains("going down"), "{closing:?}");
    client.expect("NOOP", 250);
}

#[test]
fn the_client_is_told_by_the_proxy_protocol() {
    for (version, expected) in [
        (1, &b"PROXY TCP4 192.0.2.7 127.0.0.1 40000 25\r\n"[..]),
        (
            2,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x9c\x40\0\x19",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let daemon = start(&format!("smtp = \"{address}\", proxy-protocol = {version}"));
        // The first connection asks what the server can do, for nobody in particular.
        drop(listener.accept().expect("the daemon connects"));
        let mut client = greeted(&daemon);
        client.expect("MAIL FROM:<a@example.org>", 250);
        client.send(b"RCPT TO:<b@contoso.com>\r\n");
        let (mut stream, _) = listener.accept().expect("the daemon connects");
        let mut header = vec![0; expected.len()];
        stream
            .read_exact(&mut header)
            .expect("the header comes first");
        assert_eq!(header, expected);
    }
}

#[test]
fn a_next_hop_that_talks_nonsense_or_goes_away_is_no_confirmation() {
    for (answers, at_rcpt) in [
        (
            &[
                ("EHLO", OK),
                ("MAIL", OK),
                ("RCPT", Some("hello there\r\n")),
            ][..],
            451,
        ),
        (&[("EHLO", OK), ("MAIL", Some("999 what\r\n"))], 451),
        (&[("EHLO", Some("250-never\r\n260 ends\r\n"))], 451),
        (
            &[
                ("EHLO", OK),
                ("MAIL", OK),
                ("RCPT", OK),
                ("DATA", Some("250 2.0.0 already\r\n")),
            ],
            250,
        ),
        (
            &[
                ("EHLO", OK),
                ("MAIL", OK),
                ("RCPT", OK),
                ("DATA", Some("354 go\r\n")),
                (".", None),
            ],
            250,
        ),
        (
            &[
                ("EHLO", OK),
                ("MAIL", OK),
                ("RCPT", OK),
                ("DATA", Some("354 go\r\n")),
                (".", Some("354 more\r\n")),
            ],
            250,
        ),
        (
            &[
                ("EHLO", OK),
                ("MAIL", OK),
                ("RCPT", OK),
                ("DATA", Some("354 go\r\n")),
                (".", Some("25")),
            ],
            250,
        ),
    ] {
        let server = script("220 smtp\r\n", answers);
        let daemon = start(&format!("smtp = \"{}\"", server.address));
        let mut client = greeted(&daemon);
        let reply = client.envelope("a@example.org", "b@contoso.com");
        assert_eq!(reply.code, at_rcpt, "{answers:?}: {reply:?}");
        if at_rcpt == 250 {
            let reply = client.data("Subject: x\r\n\r\nx");
            assert_eq!(reply.code, 451, "{answers:?}: {reply:?}");
        }
        client.expect("RSET", 250);
        client.expect("NOOP", 250);
    }
}

/// A session that begins, and the reply to its message.
fn send(daemon: &Daemon, subject: &str) -> u16 {
    let mut client = greeted(daemon);
    let reply = client.envelope("a@example.org", "b@contoso.com");
    assert_eq!(reply.code, 250, "{reply:?}");
    let reply = client.data(&format!("Subject: {subject}\r\n\r\nx"));
    client.quit();
    reply.code
}

#[test]
fn what_a_next_hop_says_before_it_is_asked_counts_for_nothing() {
    for (step, said, code) in [
        (Step::Data, "354 go\r\n250 2.0.0 queued\r\n", 451),
        (Step::Data, "354 go\r\n451 4.3.2 busy\r\n", 451),
        // It does not want the message, of which it has not seen the end.
        (Step::Data, "354 go\r\n552 5.3.4 too large\r\n", 552),
        (Step::End, "250 2.0.0 ok\r\n554 5.7.1 spam\r\n", 250),
        (Step::End, "250 2.0.0 ok\r\n421 4.3.2 bye\r\n", 250),
    ] {
        let hop = MockServer::start(Behaviour::default().but(step, Action::Say(said)));
        let daemon = start(&format!("smtp = \"{}\"", hop.address));
        assert_eq!(send(&daemon, "one"), code, "{said}");
        hop.behave(Behaviour::default());
        // Nobody else gets it for an answer.
        assert_eq!(send(&daemon, "two"), 250, "{said}");
        let taken = hop.taken();
        assert!(
            taken
                .last()
                .is_some_and(|last| last.content.contains("two"))
        );
        assert_eq!(taken.len(), 1, "{said}: {taken:?}");
    }
}
