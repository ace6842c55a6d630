//! One message to many: partners and mailboxes that answer each in its own way.

use std::net::SocketAddr;

use tempfile::TempDir;

use crate::outbound::Setting;
use crate::{Behaviour, Client, Config, Listener, MockServer, NO_RULES, TestBed};

/// Partners are on loopback, those who say nothing do not hold a test up, and who behaves otherwise does so
/// from the next message on.
pub const MORE: &str = "
    [timeouts]
    connect = \"2s\"
    reply = \"2s\"
    final-reply = \"2s\"
    route = \"20s\"
    [connections]
    messages = 1
    [delivery]
    private-networks = [\"127.0.0.0/8\"]
";

/// Who sends.
pub const SENDER: &str = "alice@contoso.com";

/// What a server says that is not ready.
pub const LATER: &str = "450 4.2.0 later\r\n";
/// What a server says that refuses.
pub const NEVER: &str = "550 5.2.1 never\r\n";

/// A partner at 127.0.0.`host`.
pub fn partner(setting: &Setting, host: u8, behaviour: Behaviour) -> MockServer {
    MockServer::start_at(setting.address(host), behaviour)
}

/// The records of so many domains, `d0.test` and so on, whose exchangers are at 127.0.0.10 and so on.
pub fn records(count: u8) -> String {
    let lines = (0..count).map(|number| {
        let host = 10 + number;
        format!("d{number}.test. MX 10 mx.d{number}.test.\nmx.d{number}.test. A 127.0.0.{host}\n")
    });
    lines.collect()
}

/// How often a recipient has got the message.
pub fn copies(server: &MockServer, recipient: &str) -> usize {
    let wanted = format!("<{recipient}>");
    let taken = server.taken();
    let all = taken.iter().flat_map(|message| &message.recipients);
    all.filter(|recipient| **recipient == wanted).count()
}

/// Sends a message to those of the recipients that are taken together, and gives them with the reply.
pub fn send_what_is_taken<'a>(
    mut client: Client,
    to: &[&'a str],
    text: &str,
) -> (Vec<&'a str>, u16) {
    client.expect(&format!("MAIL FROM:<{SENDER}>"), 250);
    let mut taken = to.to_vec();
    taken.retain(|to| {
        let reply = client.command(&format!("RCPT TO:<{to}>"));
        assert!(reply.code == 250 || reply.code / 100 == 4, "{reply:?}");
        reply.code == 250
    });
    (taken, client.data(text).code)
}

/// In front of a server that speaks LMTP; the folder has what is remembered.
pub fn mailboxes(server: SocketAddr) -> TestBed {
    mailboxes_in(tempfile::tempdir().expect("a temporary folder"), server)
}

/// The same in a folder in which `state` gets what is remembered.
pub fn mailboxes_in(folder: TempDir, server: SocketAddr) -> TestBed {
    let config = Config::new()
        .hostname("mx.dest.test")
        .listener(Listener::lmtp(server))
        .tenant("dest.test", NO_RULES)
        .with(
            "[delivery]
            state-directory = \"state\"
            private-networks = [\"127.0.0.0/8\"]
            [connections]
            messages = 1
            [timeouts]
            reply = \"2s\"
            final-reply = \"2s\"",
        );
    TestBed::start_in(folder, config)
}

/// A server that speaks LMTP.
pub fn lmtp() -> Behaviour {
    Behaviour {
        lmtp: true,
        ..Behaviour::default()
    }
}
