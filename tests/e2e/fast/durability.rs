//! The daemon is killed at any moment: what was confirmed is kept whole, and nothing is kept in half.

use std::path::Path;
use std::thread;

use portcullis_tests::daemon::messages;
use portcullis_tests::{Client, Config, Listener, NO_RULES, TestBed};

const SENDERS: usize = 8;

fn start() -> TestBed {
    let config = Config::new()
        .listener(Listener::maildir())
        .tenant("contoso.com", NO_RULES);
    TestBed::start(config)
}

/// A message whose first and last line tell its id; its length differs from that of others.
fn message(id: &str, number: usize) -> String {
    let filler = "0123456789abcdef\r\n".repeat(1 + number * 7919 % 9000);
    format!("Subject: {id}\r\n\r\n{filler}end of {id}\r\n")
}

/// Sends messages until the daemon is gone; gives the ids of those that were confirmed.
fn send_until_the_end(mut client: Client, sender: usize) -> Vec<String> {
    let mut confirmed = Vec::new();
    for number in 0.. {
        let id = format!("id-{sender}-{number}");
        let sent = transaction(&mut client, &id, &message(&id, number * SENDERS + sender));
        match sent {
            Ok(true) => confirmed.push(id),
            Ok(false) => panic!("a healthy daemon takes the message"),
            Err(_) => break,
        }
    }
    confirmed
}

fn transaction(client: &mut Client, id: &str, content: &str) -> std::io::Result<bool> {
    for line in [
        "MAIL FROM:<a@example.org>",
        "RCPT TO:<b@contoso.com>",
        "DATA",
    ] {
        client.try_send(format!("{line}\r\n").as_bytes())?;
        let reply = client.try_reply()?;
        assert!(matches!(reply.code, 250 | 354), "{id}: {reply:?}");
    }
    // In pieces, so that the end can come between any two of them.
    for piece in content.as_bytes().chunks(4096) {
        client.try_send(piece)?;
    }
    client.try_send(b".\r\n")?;
    Ok(client.try_reply()?.code == 250)
}

/// Whether a message is kept whole, by what stands in its first and last line.
fn id_of_whole(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("Subject: ")?;
    let (id, _) = rest.split_once('\n')?;
    message.ends_with(&format!("end of {id}\n")).then_some(id)
}

fn assert_kept(maildir: &Path, confirmed: &[String]) {
    let kept = messages(maildir);
    let ids: Vec<&str> = kept
        .iter()
        .map(|message| {
            id_of_whole(message).unwrap_or_else(|| panic!("half a message: {message:.200}"))
        })
        .collect();
    for id in confirmed {
        assert_eq!(
            ids.iter().filter(|kept| *kept == id).count(),
            1,
            "{id} was confirmed"
        );
    }
}

#[test]
fn killed_at_any_moment_it_has_what_it_confirmed() {
    let mut confirmed_in_all = 0;
    for round in 0..30_usize {
        let daemon = start();
        let clients: Vec<Client> = (0..SENDERS).map(|_| daemon.client()).collect();
        let (folder, confirmed) = thread::scope(|scope| {
            let senders: Vec<_> = clients
                .into_iter()
                .enumerate()
                .map(|(sender, client)| scope.spawn(move || send_until_the_end(client, sender)))
                .collect();
            // The moment is chosen by how many messages have begun, not by the clock.
            daemon.wait_for_log_times("decision", 1 + round * 3);
            let folder = daemon.kill();
            let confirmed: Vec<String> = senders
                .into_iter()
                .flat_map(|sender| sender.join().expect("a sender ends"))
                .collect();
            (folder, confirmed)
        });
        assert_kept(&folder.path().join("mail"), &confirmed);
        confirmed_in_all += confirmed.len();
    }
    assert!(
        confirmed_in_all > 100,
        "only {confirmed_in_all} messages were confirmed"
    );
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let daemon = start();
    for end in ["", "half a line", "a line\r\n", "a line\r\n."] {
        let mut client = daemon.client();
        assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
        client.expect("DATA", 354);
        client.send(format!("Subject: x\r\n\r\n{}{end}", "line\r\n".repeat(30_000)).as_bytes());
        drop(client);
    }
    // Sessions that ended have cleaned up behind them.
    daemon.wait_for_log_times("session ends", 4);
    assert_eq!(daemon.maildir("mail"), Vec::<String>::new());
    let unfinished = std::fs::read_dir(daemon.folder().join("mail/tmp")).expect("a folder");
    assert_eq!(unfinished.count(), 0);
}

#[test]
fn what_cannot_be_kept_is_not_confirmed() {
    let daemon = start();
    let mut client = daemon.client();
    for folder in ["mail/new", "mail/tmp"] {
        std::fs::remove_dir(daemon.folder().join(folder)).expect("the folder is removed");
        assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
        let reply = client.data("Subject: x\r\n\r\nx");
        assert_eq!(reply.code, 451, "{reply:?}");
        assert!(
            reply
                .text()
                .starts_with("4.3.0 the message cannot be kept now"),
            "{reply:?}"
        );
        std::fs::create_dir(daemon.folder().join(folder)).expect("the folder is back");
    }
    assert_eq!(client.envelope("a@example.org", "b@contoso.com").code, 250);
    assert_eq!(client.data("Subject: x\r\n\r\nx").code, 250);
    assert_eq!(daemon.maildir("mail").len(), 1);
}
