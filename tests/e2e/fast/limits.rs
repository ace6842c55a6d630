//! Limits and time-outs, told to the client before the connection ends.

use portcullis_tests::{Client, Config, Daemon, Listener, NO_RULES, TestBed};

fn start(more: &str) -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir().proxied())
        .tenant("contoso.com", NO_RULES)
        .with(more);
    TestBed::start(config)
}

fn connect(daemon: &Daemon, ip: &str) -> Client {
    let mut client = Client::connect(daemon.address());
    let family = if ip.contains(':') { "TCP6" } else { "TCP4" };
    let own = if ip.contains(':') { "::1" } else { "127.0.0.1" };
    client.send(format!("PROXY {family} {ip} {own} 40000 25\r\n").as_bytes());
    client
}

#[test]
fn sessions_are_limited_by_address_and_in_all() {
    let daemon = start("[limits]\nsessions = 3\nsessions-per-address = 2\n");
    let mut inside: Vec<Client> = ["2001:db8::1", "2001:db8::2"]
        .map(|ip| connect(&daemon, ip))
        .into();
    inside
        .iter_mut()
        .for_each(|client| assert_eq!(client.reply().code, 220));
    // A /64 is one client.
    let mut turned_away = connect(&daemon, "2001:db8::3");
    let reply = turned_away.reply();
    assert_eq!(
        (reply.code, reply.text()),
        (
            421,
            "4.7.0 too many connections from your address, try again later".into()
        )
    );
    assert!(turned_away.is_closed());
    let mut other = connect(&daemon, "192.0.2.1");
    assert_eq!(other.reply().code, 220);
    let reply = connect(&daemon, "192.0.2.2").reply();
    assert_eq!(
        (reply.code, reply.text()),
        (421, "4.7.0 too many connections, try again later".into())
    );
    // Whoever leaves makes room.
    other.quit();
    daemon.wait_for_log("session ends");
    assert_eq!(connect(&daemon, "192.0.2.2").reply().code, 220);
}

#[test]
fn a_client_that_is_silent_is_sent_away() {
    let daemon = start("[timeouts]\ncommand = \"1s\"\ndata-block = \"1s\"\n");
    let mut client = Client::connect_as(daemon.address(), "192.0.2.1".parse().expect("an address"));
    let reply = client.reply();
    assert_eq!(
        (reply.code, reply.text()),
        (421, "4.4.2 no command for too long, closing".into())
    );
    assert!(client.is_closed());
    // In the middle of a message too, and nothing is kept of it.
    let mut client = daemon.client_from("192.0.2.1");
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    client.expect("DATA", 354);
    client.send(b"Subject: x\r\n\r\nx\r\n.\r");
    let reply = client.reply();
    assert_eq!(
        (reply.code, reply.text()),
        (421, "4.4.2 the message did not end in time, closing".into())
    );
    assert!(client.is_closed());
    assert_eq!(daemon.maildir("mail").len(), 0);
}

#[test]
fn a_message_in_chunks_has_one_time_limit() {
    let daemon = start("[timeouts]\nmessage = \"1s\"\n");
    let mut client = daemon.client_from("192.0.2.1");
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    // A fast client would otherwise reach the limit of a header's size first.
    client.send(b"BDAT 14\r\nSubject: x\r\n\r\n");
    assert_eq!(client.reply().code, 250);
    // Whatever it is doing then.
    let last = loop {
        client.send(b"BDAT 3\r\nx\r\n");
        let reply = client.reply();
        if reply.code != 250 {
            break reply;
        }
        std::thread::yield_now();
    };
    assert_eq!(last.code, 421, "{last:?}");
    assert_eq!(daemon.maildir("mail").len(), 0);
    let mut client = daemon.client_from("192.0.2.1");
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    client.send(b"BDAT 3\r\nx\r\n");
    assert_eq!(client.reply().code, 250);
    assert_eq!(client.reply().code, 421);
}

#[test]
fn a_client_that_drips_does_not_outwait_the_limit() {
    let daemon = start("[timeouts]\ncommand = \"1s\"\n");
    let mut client = Client::connect_as(daemon.address(), "192.0.2.1".parse().expect("an address"));
    // Octets without a line: the time is that of the whole line.
    while client.try_send(b"N").is_ok() {
        std::thread::yield_now();
        if daemon.count_log("session ends") > 0 {
            break;
        }
    }
    daemon.wait_for_log("session ends");
}

#[test]
fn lines_are_limited() {
    let daemon = start("[limits]\ntext-line = 1000\n");
    let mut client = daemon.client_from("192.0.2.1");
    for (length, code) in [(998, 250), (999, 554)] {
        assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
        let reply = client.data(&format!("Subject: x\r\n\r\n{}", "x".repeat(length)));
        assert_eq!(reply.code, code, "{reply:?}");
    }
    assert_eq!(daemon.maildir("mail").len(), 1);
}

#[test]
fn commands_that_bring_no_message_are_limited() {
    let daemon = start("[limits]\ncommands = 8\n");
    let mut client = daemon.client_from("192.0.2.1");
    for _ in 0..3 {
        for _ in 0..4 {
            client.expect("NOOP", 250);
        }
        assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
        assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    }
    for _ in 0..8 {
        client.expect("RSET", 250);
    }
    let reply = client.expect("RSET", 421);
    let text = "4.7.0 too many commands without a message, closing";
    assert_eq!(reply.text(), text);
    assert!(client.is_closed());
    let line = daemon.wait_for_log("session closed");
    assert!(
        line.contains("client=192.0.2.1") && line.contains(text.split_at(6).1),
        "{line}"
    );
}

#[test]
fn told_to_stop_it_lets_transactions_end() {
    let mut daemon = start("");
    let mut idle = daemon.client_from("192.0.2.1");
    let mut busy = daemon.client_from("192.0.2.1");
    assert_eq!(busy.envelope("a@example.org", "b@contoso.com").code, 250);
    daemon.signal("TERM");
    let reply = idle.reply();
    assert_eq!(
        (reply.code, reply.text()),
        (421, "4.3.2 the server is going down, come again".into())
    );
    assert!(idle.is_closed());
    assert_eq!(busy.data("Subject: x\r\n\r\nx").code, 250);
    assert_eq!(busy.reply().code, 421);
    assert_eq!(daemon.wait(), Some(0));
    assert_eq!(daemon.maildir("mail").len(), 1);
}

#[test]
fn listed_balancers_must_speak_the_proxy_protocol() {
    let daemon = start("");
    let mut client = Client::connect(daemon.address());
    client.send(b"EHLO client.example\r\n");
    assert!(client.is_closed());
    // Version 2, and the balancer's own health check.
    let mut client = Client::connect(daemon.address());
    client.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\x01\x9c\x40\0\x19EHLO client.example\r\n");
    assert_eq!(client.reply().code, 220);
    assert_eq!(client.reply().code, 250);
    let mut client = Client::connect(daemon.address());
    client.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    assert_eq!(client.reply().code, 220);
    let mut client = Client::connect(daemon.address());
    client.send(b"PROXY UNKNOWN\r\n");
    assert_eq!(client.reply().code, 220);
}
