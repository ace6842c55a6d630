//! The settings of docs/postfix.md, as they stand there, in servers that run. Only what cannot be the same
//! beside other tests is another: addresses, ports, and the folder of the certificate.

use std::net::SocketAddr;
use std::process::Command;

use portcullis_tests::exim::Exim;
use portcullis_tests::machine::free_address;
use portcullis_tests::mock_server::Taken;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::programs::missing;
use portcullis_tests::{Behaviour, Client, Daemon, Dns, MockServer, Pki};

const DOCUMENT: &str = include_str!("../../../docs/postfix.md");

// By what is in it and in no other, each block of the document is known.
const LISTENER_BEHIND: &str = "next-hop = ";
const SERVICE: &str = "-o smtpd_authorized_xclient_hosts=";
const WITHOUT_XCLIENT: &str = "-o mynetworks=";
const EXIM_BEHIND: &str = "hosts_proxy = ";
const LISTENER_BEFORE: &str = "outbound = ";
const POSTFIX_BEFORE: &str = "relayhost = ";
const EXIM_BEFORE: &str = "driver = manualroute";

/// All of them. Each is used in a test below.
const ALL: [&str; 7] = [
    LISTENER_BEHIND,
    SERVICE,
    WITHOUT_XCLIENT,
    EXIM_BEHIND,
    LISTENER_BEFORE,
    POSTFIX_BEFORE,
    EXIM_BEFORE,
];

/// The address of somebody on the Internet, who has a name there.
const STRANGER: &str = "127.0.0.7";
/// The address of a client that Postfix's `mynetworks` has.
const TRUSTED: &str = "127.0.0.1";

const RECORDS: &str = "
    7.0.0.127.in-addr.arpa. PTR mail.partner.test.
    mail.partner.test. A 127.0.0.7
    bank.test. MX 10 mx.bank.test.
    mx.bank.test. A 127.0.0.2
";

/// The indented blocks of the document, without their indentation.
fn blocks() -> Vec<String> {
    let paragraphs = DOCUMENT.split("\n\n");
    let blocks = paragraphs.filter(|paragraph| paragraph.starts_with("    "));
    let line = |line: &str| {
        let line = line.strip_prefix("    ").expect("an indented line");
        format!("{line}\n")
    };
    blocks
        .map(|block| block.lines().map(line).collect())
        .collect()
}

/// The block that has this in it.
fn block(mark: &str) -> String {
    let mut found = blocks();
    found.retain(|block| block.contains(mark));
    let [block] = &found[..] else {
        panic!("not one block with {mark:?}: {found:#?}");
    };
    block.clone()
}

/// A text with something else in the place of what is there.
fn instead(text: &str, there: &str, new: &str) -> String {
    assert!(text.contains(there), "no {there:?} in:\n{text}");
    text.replace(there, new)
}

/// The listener for mail from the Internet, with the server behind it.
fn listener_behind(server: SocketAddr) -> String {
    let listener = block(LISTENER_BEHIND);
    let listener = instead(&listener, "0.0.0.0:25", "127.0.0.1:0");
    let listener = instead(&listener, "/etc/portcullis/", "");
    instead(&listener, "127.0.0.1:10025", &server.to_string())
}

/// The listener for mail to partners: 10.0.0.25 for 10.0.0.0/24 is 127.0.0.25 for 127.0.0.0/24.
fn listener_before() -> String {
    let listener = instead(&block(LISTENER_BEFORE), "10.0.0.", "127.0.0.");
    instead(&listener, ":2525", ":0")
}

/// A daemon with a listener, and the port of all mail exchangers. To it foreign.test is a domain like
/// contoso.com, so that it is the server behind who must refuse to relay there.
fn start(listener: &str) -> (Daemon, Dns, u16) {
    let (pki, dns) = (Pki::new(), Dns::start(&[RECORDS]));
    let server = pki.trusted(&["mx.contoso.com"]);
    let port = free_address().port();
    let config = format!(
        r#"
hostname = "mx.contoso.com"
{listener}
[[tenant]]
name = "contoso"
domains = ["contoso.com", "foreign.test"]
policy = "rules.json"
[trust]
roots = "ca.pem"
[dns]
servers = ["{}"]
trust-anchor = "root.key"
[delivery]
port = {port}
state-directory = "state"
private-networks = ["127.0.0.0/8"]
"#,
        dns.address()
    );
    let files = [
        ("rules.json", r#"{"connectors": []}"#),
        ("mx.pem", &server.certificate_pem),
        ("mx.key", &server.key_pem),
        ("ca.pem", &pki.root_pem),
        ("root.key", &dns.trust_anchor()),
    ];
    (Daemon::start(&config, &files), dns, port)
}

/// Sends a message by swaks(1) from an address. It ends with 0, or with 24 if no recipient was accepted.
fn send(daemon: &Daemon, from: &str, to: &str) -> (i32, String) {
    let server = daemon.address().to_string();
    let output = Command::new("swaks")
        .args(["--server", &server, "--local-interface", from])
        .args(["--ehlo", "client.example", "--tls-optional"])
        .args(["--from", "carol@partner.test", "--to", to])
        .output()
        .unwrap_or_else(missing("swaks"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().expect("swaks ends"), said)
}

fn assert_taken(daemon: &Daemon, from: &str, to: &str) {
    let (code, said) = send(daemon, from, to);
    assert_eq!(code, 0, "{said}");
}

/// The server behind does not relay, which it says with this code and in its own words.
fn assert_not_relayed(daemon: &Daemon, from: &str, code: &str) {
    let (ended, said) = send(daemon, from, "bob@foreign.test");
    assert_eq!(ended, 24, "{said}");
    let refused = format!("{code} <bob@foreign.test>: Relay access denied");
    assert!(said.contains(&refused), "{said}");
}

/// The server behind has written into the message from whom it came.
fn assert_received(message: &Taken, client: &str, server: &str) {
    let content = &message.content;
    let received = format!("Received: {client}\r\n\tby {server}");
    assert!(content.starts_with(&received), "{content}");
}

/// The organization's Postfix, with this service for mail from the Internet. It has mailboxes of contoso.com
/// at `home`, and sends everybody else's mail there too.
fn postfix_behind(home: &MockServer, service: &str) -> (Postfix, SocketAddr) {
    let address = free_address();
    let service = instead(service, "127.0.0.1:10025", &address.to_string());
    let settings = format!(
        "myhostname = mta.contoso.com
mynetworks = {TRUSTED}
relay_domains = contoso.com
relay_recipient_maps = static:ok
relayhost = [{}]:{}",
        home.address.ip(),
        home.address.port()
    );
    (Postfix::start_with(&settings, &service), address)
}

#[test]
fn each_block_is_tried() {
    for block in blocks() {
        let marks = ALL.iter().filter(|mark| block.contains(**mark));
        assert_eq!(marks.count(), 1, "{block}");
    }
    for mark in ALL {
        block(mark);
    }
}

#[test]
fn postfix_behind_sees_each_client_by_xclient() {
    let home = MockServer::start(Behaviour::default());
    let (postfix, address) = postfix_behind(&home, &block(SERVICE));
    let (daemon, _dns, _) = start(&listener_behind(address));
    assert_taken(&daemon, STRANGER, "bob@contoso.com");
    let message = &home.wait_for(1)[0];
    assert_eq!(message.recipients, ["<bob@contoso.com>"]);
    let client = "from client.example (mail.partner.test [127.0.0.7])";
    assert_received(message, client, "mta.contoso.com (Postfix)");
    postfix.wait_for_log(": client=mail.partner.test[127.0.0.7]");
    // Its `mynetworks` has the one, not the other, whom it defers if nothing else is set.
    assert_not_relayed(&daemon, STRANGER, "454 4.7.1");
    assert_taken(&daemon, TRUSTED, "bob@foreign.test");
    assert_eq!(home.wait_for(2)[1].recipients, ["<bob@foreign.test>"]);
}

#[test]
fn postfix_behind_without_xclient_relays_for_nobody() {
    let home = MockServer::start(Behaviour::default());
    let service = block(SERVICE) + &block(WITHOUT_XCLIENT);
    let (_postfix, address) = postfix_behind(&home, &service);
    let listener = instead(&listener_behind(address), ", xclient = true", "");
    let (daemon, _dns, _) = start(&listener);
    for client in [STRANGER, TRUSTED] {
        assert_not_relayed(&daemon, client, "554 5.7.1");
    }
    assert_taken(&daemon, STRANGER, "bob@contoso.com");
    assert_eq!(home.wait_for(1)[0].recipients, ["<bob@contoso.com>"]);
}

#[test]
fn postfix_behind_without_xclient_and_without_those_lines_relays_for_the_world() {
    let home = MockServer::start(Behaviour::default());
    let (_postfix, address) = postfix_behind(&home, &block(SERVICE));
    let listener = instead(&listener_behind(address), ", xclient = true", "");
    let (daemon, _dns, _) = start(&listener);
    assert_taken(&daemon, STRANGER, "bob@foreign.test");
    assert_eq!(home.wait_for(1)[0].recipients, ["<bob@foreign.test>"]);
}

/// The listener of the block with the next hop that the text names for Exim.
fn listener_with_exim_behind(server: SocketAddr) -> String {
    let mut literals = DOCUMENT.split('`').skip(1).step_by(2);
    let next_hop = literals.find(|literal| literal.starts_with(LISTENER_BEHIND));
    let next_hop = next_hop.expect("a next hop in the text");
    let next_hop = instead(next_hop, "127.0.0.1:10025", &server.to_string());
    let listener = listener_behind(server);
    let lines = listener.lines().map(|line| {
        let is_other = line.starts_with(LISTENER_BEHIND);
        format!("{}\n", if is_other { &next_hop } else { line })
    });
    lines.collect()
}

/// An address with its port as Exim writes it.
fn for_exim(address: SocketAddr) -> String {
    format!("{}.{}", address.ip(), address.port())
}

#[test]
fn exim_behind_sees_each_client_by_the_proxy_protocol() {
    let home = MockServer::start(Behaviour::default());
    let (submission, behind) = (free_address(), free_address());
    let options = block(EXIM_BEHIND);
    let options = instead(&options, "0.0.0.0.587", &for_exim(submission));
    let options = instead(&options, "127.0.0.1.10025", &for_exim(behind));
    let options = instead(&options, "{10025}", &format!("{{{}}}", behind.port()));
    let router = format!(
        "home:\n  driver = manualroute\n  route_data = {}::{}\n  transport = remote_smtp\n  self = send\n",
        home.address.ip(),
        home.address.port()
    );
    let exim = Exim::start_at(behind, &options, &router, REMOTE_SMTP);
    let (daemon, _dns, _) = start(&listener_with_exim_behind(behind));
    assert_taken(&daemon, STRANGER, "bob@contoso.com");
    let message = &home.wait_for(1)[0];
    // What the client is called, and calls itself, is not told by that protocol.
    let client = "from [127.0.0.7] (helo=mx.contoso.com)";
    assert_received(message, client, "exim.test");
    let log = exim.log();
    let client = "<= carol@partner.test H=(mx.contoso.com) [127.0.0.7]";
    assert!(log.contains(client), "{log}");
    // Programs on the same machine submit mail as they did.
    let mut client = Client::greeted(submission);
    client.hello(false, None);
    let reply = client.envelope("alice@contoso.com", "bob@contoso.com");
    assert_eq!(reply.code, 250, "{reply:?}");
}

/// The transport that Debian's configuration has. On one machine it must be told that this is meant.
const REMOTE_SMTP: &str = "remote_smtp:\n  driver = smtp\n  allow_localhost\n";

/// A daemon for mail to partners, and a partner.
fn before() -> (Daemon, Dns, MockServer) {
    let (daemon, dns, port) = start(&listener_before());
    let bank = SocketAddr::from(([127, 0, 0, 2], port));
    let bank = MockServer::start_at(bank, Behaviour::default());
    (daemon, dns, bank)
}

/// What the document says to a sending server, with the daemon's address.
fn sending_to(daemon: &Daemon, mark: &str) -> String {
    let settings = instead(&block(mark), "10.0.0.25", "127.0.0.25");
    instead(&settings, "2525", &daemon.address().port().to_string())
}

const TEXT: &str = "Subject: x\n\nto the bank\n";

#[test]
fn postfix_before_sends_everything_through_it() {
    let (daemon, _dns, bank) = before();
    let settings = sending_to(&daemon, POSTFIX_BEFORE);
    let postfix = Postfix::start(&format!("myhostname = mta.contoso.com\n{settings}"), None);
    postfix.submit("alice@contoso.com", &["a@bank.test"], TEXT);
    assert_came(&daemon, &bank);
    postfix.wait_for_queue(|queue| queue.contains("Mail queue is empty"));
}

#[test]
fn exim_before_sends_all_but_its_own_mail_through_it() {
    let (daemon, _dns, bank) = before();
    // On one machine it must be told that this is meant.
    let router = sending_to(&daemon, EXIM_BEFORE) + "  self = send\n";
    let routers = format!("{router}own:\n  driver = redirect\n  data = :blackhole:\n");
    let options = "domainlist local_domains = contoso.com";
    let exim = Exim::start_with(options, &routers, REMOTE_SMTP);
    let to = ["a@bank.test", "bob@contoso.com"];
    exim.submit("alice@contoso.com", &to, TEXT);
    assert_came(&daemon, &bank);
    exim.wait_until_idle();
    let log = exim.log();
    assert!(
        log.contains("=> :blackhole: <bob@contoso.com> R=own"),
        "{log}"
    );
    assert_eq!(daemon.count_log("bob@contoso.com"), 0);
}

/// The partner has the message, for its own recipient, from the organization's server by the daemon.
fn assert_came(daemon: &Daemon, bank: &MockServer) {
    let taken = bank.wait_for(1);
    assert_eq!(taken[0].recipients, ["<a@bank.test>"]);
    let content = &taken[0].content;
    assert!(content.contains("to the bank"), "{content}");
    assert!(
        content.contains("by mx.contoso.com with ESMTP id"),
        "{content}"
    );
    daemon.wait_for_log("decision verdict=\"deliver\"");
}

#[test]
fn nobody_else_sends_through_it() {
    let (daemon, _dns, bank) = before();
    let (code, said) = send(&daemon, "127.0.1.25", "a@bank.test");
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("550 5.7.1"), "{said}");
    assert!(bank.taken().is_empty());
}
