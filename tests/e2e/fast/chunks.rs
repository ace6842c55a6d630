//! Next hops that take messages in chunks (RFC 3030) get them so: a round trip less for each message.

use portcullis_tests::{
    Action, Behaviour, Client, Config, Listener, MockServer, NO_RULES, Step, TestBed,
};

const CHUNKING: &[&str] = &["CHUNKING"];
const BOTH: &[&str] = &["CHUNKING", "PIPELINING"];

fn start(server: &MockServer, protocol: &str) -> TestBed {
    let next_hop = format!("{protocol} = \"{}\"", server.address);
    let config = Config::new()
        .listener(Listener::next_hop(&next_hop))
        .tenant("contoso.com", NO_RULES);
    TestBed::start(config)
}

fn offering(offers: &'static [&'static str]) -> Behaviour {
    Behaviour {
        offers,
        ..Behaviour::default()
    }
}

fn begin(bed: &TestBed) -> Client {
    let mut client = Client::greeted(bed.address());
    client.expect("EHLO client.example", 250);
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    client
}

/// What the server was told of the message.
fn told(server: &MockServer) -> Vec<String> {
    let commands = server.commands().into_iter();
    { commands }
        .filter(|line| line.starts_with("BDAT") || line.starts_with("DATA"))
        .collect()
}

#[test]
fn a_message_goes_in_one_chunk_as_it_came() {
    let server = MockServer::start(offering(CHUNKING));
    let bed = start(&server, "smtp");
    let mut client = begin(&bed);
    let reply = client.data("Subject: x\r\n\r\n.dot\r\n..\r\n.\u{20}\r\nend");
    assert_eq!(reply.code, 250, "{reply:?}");
    assert!(reply.text().contains("taken as 4711"), "{reply:?}");
    let taken = server.wait_for(1);
    let content = &taken[0].content;
    assert!(
        content.ends_with("\r\n\r\n.dot\r\n..\r\n. \r\nend\r\n"),
        "{content:?}"
    );
    assert_eq!(told(&server), [format!("BDAT {} LAST", content.len())]);
    // By BDAT it may come without the end of the last line.
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    client.send(b"BDAT 17 LAST\r\nSubject: x\r\n\r\nend");
    assert_eq!(client.reply().code, 250);
    assert!(server.wait_for(2)[1].content.ends_with("\r\n\r\nend\r\n"));
}

#[test]
fn a_large_message_goes_in_several_chunks() {
    for offers in [CHUNKING, BOTH] {
        let server = MockServer::start(offering(offers));
        let bed = start(&server, "smtp");
        let mut client = begin(&bed);
        let lines: String = (0..20_000)
            .map(|number| format!("line {number}\r\n"))
            .collect();
        let reply = client.data(&format!("Subject: x\r\n\r\n{}", lines.trim_end()));
        assert_eq!(reply.code, 250, "{reply:?}");
        let taken = server.wait_for(1);
        assert!(
            taken[0].content.ends_with(&format!("\r\n\r\n{lines}")),
            "{offers:?}"
        );
        let told = told(&server);
        assert!(told.len() > 3, "{told:?}");
        let last = told.iter().filter(|line| line.ends_with(" LAST")).count();
        assert_eq!(
            (
                last,
                told.last().is_some_and(|line| line.ends_with(" LAST"))
            ),
            (1, true)
        );
    }
}

#[test]
fn what_becomes_of_a_chunk_becomes_of_the_message() {
    let large = "x".repeat(70) + "\r\n";
    let large = large.repeat(3_000);
    for (offers, step, action, content, code) in [
        (
            CHUNKING,
            Step::Chunk,
            Action::Say("552 5.3.4 too large\r\n"),
            &*large,
            552,
        ),
        (
            BOTH,
            Step::Chunk,
            Action::Say("452 4.3.1 no room\r\n"),
            &*large,
            452,
        ),
        (
            BOTH,
            Step::Chunk,
            Action::Say("354 go on\r\n"),
            &*large,
            451,
        ),
        (BOTH, Step::Chunk, Action::Cut, &*large, 451),
        (BOTH, Step::End, Action::Say("554 5.6.0 no\r\n"), "x", 554),
        (BOTH, Step::End, Action::Say("354 go on\r\n"), "x", 451),
        (BOTH, Step::End, Action::Cut, "x", 451),
    ] {
        let server = MockServer::start(offering(offers).but(step, action.clone()));
        let bed = start(&server, "smtp");
        let mut client = begin(&bed);
        let reply = client.data(&format!("Subject: x\r\n\r\n{content}"));
        assert_eq!(reply.code, code, "{step:?} {action:?}: {reply:?}");
        assert!(server.taken().is_empty(), "{step:?} {action:?}");
        // The session goes on.
        client.expect("NOOP", 250);
    }
}

#[test]
fn a_client_that_leaves_ends_nothing_for_the_server() {
    let server = MockServer::start(offering(BOTH));
    let bed = start(&server, "smtp");
    let mut client = begin(&bed);
    client.expect("DATA", 354);
    client.send(b"Subject: x\r\n\r\nx\r\n");
    drop(client);
    // The server has none of it yet, so its connection serves the next client.
    server.wait_for_command("RSET");
    let mut client = begin(&bed);
    assert_eq!(client.data("Subject: y\r\n\r\ny").code, 250);
    assert_eq!(
        server.connections(),
        2,
        "one that asks what it can do, and one for mail"
    );
    // Now it has some.
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    client.expect("DATA", 354);
    let lines = "x\r\n".repeat(30_000);
    client.send(format!("Subject: z\r\n\r\n{lines}").as_bytes());
    drop(client);
    let mut client = begin(&bed);
    assert_eq!(client.data("Subject: y\r\n\r\ny").code, 250);
    let taken = server.wait_for(2);
    assert!(
        taken.iter().all(|it| it.content.contains("Subject: y")),
        "{taken:?}"
    );
}

#[test]
fn lmtp_answers_for_each_recipient_at_the_last_chunk() {
    let behaviour = Behaviour {
        lmtp: true,
        ..offering(BOTH)
    };
    let full = behaviour.tells("full@", Step::End, "452 4.2.2 full\r\n");
    let server = MockServer::start(full);
    let bed = start(&server, "lmtp");
    let mut client = begin(&bed);
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    assert_eq!(
        client.envelope("a@example.org", "full@contoso.com").code,
        250
    );
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 452);
    assert_eq!(server.taken().len(), 1);
    assert!(told(&server).iter().all(|line| line.ends_with(" LAST")));
}
