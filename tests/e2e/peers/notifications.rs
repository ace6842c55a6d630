//! Delivery status notifications (RFC 3461) and REQUIRETLS (RFC 8689), between real Postfixes and servers that lack them.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_tests::daemon::{TIMEOUT, messages};
use portcullis_tests::machine::free_address;
use portcullis_tests::outbound::{LEVEL_RECORDS, LEVELS, ONCE, SHORT_TIMEOUTS, Setting, send};
use portcullis_tests::pki::Identity;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::programs::missing;
use portcullis_tests::{
    Action, Behaviour, Client, Config, Https, Listener, MockServer, NO_RULES, Pki, Reply, Step,
    TestBed,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const RECORDS: &str = "
    bank.test. MX 10 mx.bank.test.
    mx.bank.test. A 127.0.0.2
    shop.test. MX 10 mx.shop.test.
    mx.shop.test. A 127.0.0.3
    contoso.com. MX 10 mx.contoso.test.
    mx.contoso.test. A 127.0.0.4
";

/// What EHLO says of a server that has DSN.
const DSN: Action = Action::Say("250-mx.partner.test\r\n250-8BITMIME\r\n250 DSN\r\n");

/// A Postfix with mailboxes.
struct Office {
    postfix: Postfix,
    mailboxes: TempDir,
}

impl Office {
    /// Starts one that has mailboxes for some of a domain, and listens at an address.
    fn start(domain: &str, names: &[&str], listen: SocketAddr, settings: &str) -> Office {
        let mailboxes = tempfile::tempdir().expect("a temporary folder");
        // What delivers is not root.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(mailboxes.path(), open).expect("the folder is opened");
        let known: Vec<String> = names
            .iter()
            .map(|name| format!("{name}@{domain}={name}/"))
            .collect();
        let settings = format!(
            "myhostname = mx.{domain}
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {}
virtual_mailbox_maps = inline:{{ {} }}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtp_tls_security_level = may
{settings}",
            mailboxes.path().display(),
            known.join(", ")
        );
        let services = format!("{listen} inet n - n - - smtpd\nvirtual unix - n n - - virtual\n");
        Office {
            postfix: Postfix::start_with(&settings, &services),
            mailboxes,
        }
    }

    /// The messages in a mailbox.
    fn mailbox(&self, name: &str) -> Vec<String> {
        messages(&self.mailboxes.path().join(name))
    }

    /// Waits until that many messages are in a mailbox.
    fn wait_for_mail(&self, name: &str, count: usize) -> Vec<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let mail = self.mailbox(name);
            if mail.len() >= count {
                assert_eq!(mail.len(), count, "{mail:#?}");
                return mail;
            }
            assert!(
                Instant::now() < deadline,
                "{mail:#?}\n{}",
                self.postfix.log()
            );
            // It tells nobody when mail comes.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn wait_until_empty(&self) {
        self.postfix
            .wait_for_queue(|queue| queue.contains("Mail queue is empty"));
    }
}

/// The organization's own server, which sends all mail by Portcullis.
fn own(relay: SocketAddr, listen: SocketAddr) -> Office {
    let settings = format!("relayhost = [{}]:{}", relay.ip(), relay.port());
    Office::start("contoso.com", &["alice"], listen, &settings)
}

/// A partner's server, which sends mail to contoso.com there.
fn bank(setting: &Setting, home: SocketAddr, settings: &str) -> Office {
    let transport = format!("{{contoso.com = smtp:[{}]:{}}}", home.ip(), home.port());
    bank_with(setting, &transport, settings)
}

/// The same with these transports.
fn bank_with(setting: &Setting, transports: &str, settings: &str) -> Office {
    let settings = format!("transport_maps = inline:{{ {transports} }}\n{settings}");
    Office::start("bank.test", &["bob", "late"], setting.address(2), &settings)
}

/// A client that has said EHLO, and MAIL with these parameters.
fn began(server: SocketAddr, parameters: &str) -> Client {
    let mut client = Client::greeted(server);
    client.hello(false, None);
    client.expect(&format!("MAIL FROM:<alice@contoso.com> {parameters}"), 250);
    client
}

/// Sends a message to one, with these parameters of MAIL and RCPT.
fn submit(server: SocketAddr, mail: &str, to: &str, rcpt: &str) -> Reply {
    let mut client = began(server, mail);
    client.expect(&format!("RCPT TO:<{to}> {rcpt}"), 250);
    let reply = client.data("From: alice@contoso.com\r\nSubject: lunch\r\n\r\nAt noon?");
    client.quit();
    reply
}

/// Reads a notification as somebody else's program does.
const READ: &str = "
import email, email.policy, json, sys
message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
fields = lambda block: {name.lower(): str(value) for name, value in block.items()}
text, status, returned = message.get_payload()
print(json.dumps({
    'type': message.get_content_type(), 'report': message.get_param('report-type'),
    'to': str(message['To']), 'automatic': str(message['Auto-Submitted']),
    'defects': [str(defect) for part in message.walk() for defect in part.defects],
    'text': text.get_content(), 'status-type': status.get_content_type(),
    'message': fields(status.get_payload()[0]), 'recipients': [fields(block) for block in status.get_payload()[1:]],
    'returned-type': returned.get_content_type(), 'returned': returned.as_string(),
}))
";

fn parse(notification: &str) -> Value {
    let mut child = Command::new("python3")
        .args(["-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(missing("Python"));
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(notification.as_bytes()).expect("a message");
    drop(input);
    let output = child.wait_with_output().expect("Python ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{notification}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The fields of the only recipient of a notification.
fn only_recipient(notification: &Value) -> &Value {
    let recipients = notification["recipients"].as_array().expect("a list");
    assert_eq!(recipients.len(), 1, "{notification:#}");
    &recipients[0]
}

/// The address in a field of a recipient, whose type is before it.
fn address_of(recipient: &Value, field: &str) -> String {
    let text = recipient[field].as_str().unwrap_or_default();
    let (kind, address) = text.split_once(';').expect("a type and an address");
    assert_eq!(kind.to_ascii_lowercase(), "rfc822", "{recipient}");
    address.trim().to_owned()
}

#[test]
fn a_success_is_told_by_who_delivered() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], SHORT_TIMEOUTS);
    let home = free_address();
    let own = own(setting.daemon.address(), home);
    let bank = bank(&setting, home, "");
    let reply = submit(
        home,
        "RET=HDRS ENVID=order+2B4711",
        "bob@bank.test",
        "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bob+2Bsales@bank.test",
    );
    assert_eq!(reply.code, 250);
    assert!(bank.wait_for_mail("bob", 1)[0].contains("At noon?"));
    let mail = own.wait_for_mail("alice", 1);
    let notification = parse(&mail[0]);
    assert_eq!(notification["report"], "delivery-status");
    let message = &notification["message"];
    assert_eq!(message["reporting-mta"], "dns; mx.bank.test", "{message}");
    assert_eq!(message["original-envelope-id"], "order+4711", "{message}");
    let recipient = only_recipient(&notification);
    assert_eq!(recipient["action"], "delivered", "{recipient}");
    assert_eq!(
        address_of(recipient, "original-recipient"),
        "bob+sales@bank.test"
    );
    assert_eq!(address_of(recipient, "final-recipient"), "bob@bank.test");
    assert!(
        !mail[0].contains("At noon?"),
        "only the header was asked for"
    );

    // The same as mail programs ask for it.
    let configuration = own.postfix.configuration();
    let mut child = Command::new("/usr/sbin/sendmail")
        .arg("-C")
        .arg(&configuration)
        .args(["-i", "-f", "alice@contoso.com", "-N", "success,failure"])
        .args(["-V", "order-4712", "-R", "full", "bob@bank.test"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(missing("sendmail"));
    let mut input = child.stdin.take().expect("a pipe");
    input
        .write_all(b"Subject: dinner\n\nAt eight?\n")
        .expect("a message");
    drop(input);
    assert!(child.wait().expect("sendmail ends").success());
    let mail = own.wait_for_mail("alice", 2);
    let second = mail.iter().map(|text| parse(text));
    let second = second.filter(|it| it["message"]["original-envelope-id"] == "order-4712");
    let second: Vec<Value> = second.collect();
    assert_eq!(second.len(), 1, "{mail:#?}");
    assert_eq!(only_recipient(&second[0])["action"], "delivered");
    // Portcullis adds none of its own.
    own.wait_until_empty();
    bank.wait_until_empty();
    assert_eq!(own.mailbox("alice").len(), 2);
}

#[test]
fn a_failure_is_told_where_it_was_asked_for() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], SHORT_TIMEOUTS);
    let home = free_address();
    let own = own(setting.daemon.address(), home);
    // What `late` gets is taken, and is then returned.
    let closed = Behaviour::default().tells("late", Step::Rcpt, "550 5.2.1 closed\r\n");
    let closed = MockServer::start(closed);
    let transports = format!(
        "{{contoso.com = smtp:[127.0.0.1]:{}}}, {{late@bank.test = smtp:[127.0.0.1]:{}}}",
        home.port(),
        closed.address.port()
    );
    let bank = bank_with(&setting, &transports, "");
    let asked = |parameters: &str, to: &str| {
        let id = to.split('@').next().expect("a name");
        let reply = submit(home, &format!("ENVID={id}"), to, parameters);
        assert_eq!(reply.code, 250);
        own.postfix.wait_for_log(&format!("to=<{to}>"));
        own.wait_until_empty();
        bank.wait_until_empty();
    };
    asked("NOTIFY=NEVER", "nobody@bank.test");
    asked("NOTIFY=NEVER", "late@bank.test");
    asked("NOTIFY=SUCCESS", "stranger@bank.test");
    asked("NOTIFY=FAILURE", "bob@bank.test");
    assert_eq!(bank.wait_for_mail("bob", 1).len(), 1);
    // The partner refuses one at once, which our own server tells of, and returns one later.
    asked("NOTIFY=FAILURE", "unknown@bank.test");
    asked(
        "NOTIFY=FAILURE ORCPT=rfc822;latest@bank.test",
        "late@bank.test",
    );
    let mail = own.wait_for_mail("alice", 2);
    let mut notifications: Vec<Value> = mail.iter().map(|text| parse(text)).collect();
    notifications.sort_by_key(|it| it["message"]["original-envelope-id"].to_string());
    let [late, unknown] = &notifications[..] else {
        panic!("{mail:#?}");
    };
    for (notification, id, reporter, status) in [
        (late, "late", "dns; mx.bank.test", "5.2.1"),
        (unknown, "unknown", "dns; mx.contoso.com", "5.1.1"),
    ] {
        let message = &notification["message"];
        assert_eq!(message["original-envelope-id"], id, "{message}");
        assert_eq!(message["reporting-mta"], reporter, "{message}");
        let recipient = only_recipient(notification);
        assert_eq!(recipient["action"], "failed", "{recipient}");
        assert_eq!(recipient["status"], status, "{recipient}");
    }
    let original = address_of(only_recipient(late), "original-recipient");
    assert_eq!(original, "latest@bank.test");
}

/// What Portcullis says where nobody else will.
fn assert_relayed(text: &str, server: &str) {
    let notification = parse(text);
    assert_eq!(notification["type"], "multipart/report", "{text}");
    assert_eq!(notification["report"], "delivery-status");
    assert_eq!(notification["status-type"], "message/delivery-status");
    assert_eq!(notification["returned-type"], "text/rfc822-headers");
    assert_eq!(notification["defects"], json!([]), "{text}");
    assert_eq!(notification["to"], "alice@contoso.com");
    assert_eq!(notification["automatic"], "auto-replied");
    let message = &notification["message"];
    assert_eq!(
        message["reporting-mta"], "dns; relay.contoso.com",
        "{message}"
    );
    assert_eq!(message["original-envelope-id"], "order+4711", "{message}");
    let recipient = only_recipient(&notification);
    assert_eq!(recipient["action"], "relayed", "{recipient}");
    assert_eq!(recipient["status"], "2.1.9", "{recipient}");
    assert_eq!(
        address_of(recipient, "original-recipient"),
        "bob+sales@bank.test"
    );
    assert_eq!(address_of(recipient, "final-recipient"), "bob@bank.test");
    let remote = recipient["remote-mta"].as_str().unwrap_or_default();
    assert!(remote.starts_with(&format!("dns; {server}")), "{recipient}");
    let returned = notification["returned"].as_str().expect("a header");
    assert!(returned.contains("Subject: lunch"), "{returned}");
    assert!(!text.contains("At noon?"), "{text}");
}

/// Sends to the partner without DSN, and asks for all that there is.
fn ask_for_all(server: SocketAddr) {
    let reply = submit(
        server,
        "RET=HDRS ENVID=order+2B4711",
        "bob@bank.test",
        "NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;bob+2Bsales@bank.test",
    );
    assert_eq!(reply.code, 250, "{reply:?}");
}

#[test]
fn a_notification_goes_to_the_own_server() {
    let home = free_address();
    let inbound = format!(
        "{SHORT_TIMEOUTS}
         [[listener]]
         address = \"127.0.0.1:0\"
         next-hop = {{ smtp = \"{home}\" }}"
    );
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], &inbound);
    let own = own(setting.daemon.address(), home);
    // Postfix refuses parameters of what it does not announce.
    let bank = bank(&setting, home, "smtpd_discard_ehlo_keywords = dsn");
    ask_for_all(home);
    assert_eq!(bank.wait_for_mail("bob", 1).len(), 1);
    let mail = own.wait_for_mail("alice", 1);
    assert!(mail[0].starts_with("Return-Path: <>\n"), "{}", mail[0]);
    assert_relayed(&mail[0], "mx.bank.test");
    // Who asks for nothing, or for no success, hears nothing.
    submit(home, "", "bob@bank.test", "");
    submit(home, "", "bob@bank.test", "NOTIFY=FAILURE");
    submit(home, "", "bob@bank.test", "NOTIFY=NEVER");
    assert_eq!(bank.wait_for_mail("bob", 4).len(), 4);
    own.wait_until_empty();
    ask_for_all(home);
    own.wait_for_mail("alice", 2);
    let sent = "INFO notification sent";
    setting.daemon.wait_for_log_times(sent, 2);
    assert_eq!(setting.daemon.count_log(sent), 2);
}

#[test]
fn a_notification_goes_to_the_exchangers_of_the_sender() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], SHORT_TIMEOUTS);
    let bank = MockServer::start_at(setting.address(2), Behaviour::default());
    let exchanger = Office::start("contoso.com", &["alice"], setting.address(4), "");
    ask_for_all(setting.daemon.address());
    assert_eq!(bank.wait_for(1)[0].recipients, ["<bob@bank.test>"]);
    let commands = bank.commands();
    let said = |line: &str| commands.iter().any(|command| command == line);
    assert!(said("MAIL FROM:<alice@contoso.com>"), "{commands:?}");
    assert!(said("RCPT TO:<bob@bank.test>"), "{commands:?}");
    let mail = exchanger.wait_for_mail("alice", 1);
    assert!(mail[0].starts_with("Return-Path: <>\n"), "{}", mail[0]);
    assert_relayed(&mail[0], "mx.bank.test");
    // What is not taken is not relayed.
    let full = Action::Say("552 5.2.2 full\r\n");
    bank.behave(Behaviour::default().but(Step::End, full));
    bank.hang_up();
    let reply = submit(
        setting.daemon.address(),
        "",
        "bob@bank.test",
        "NOTIFY=SUCCESS",
    );
    assert_eq!(reply.code, 552, "{reply:?}");
    bank.behave(Behaviour::default());
    bank.hang_up();
    ask_for_all(setting.daemon.address());
    exchanger.wait_for_mail("alice", 2);
    let sent = "INFO notification sent";
    setting.daemon.wait_for_log_times(sent, 2);
    assert_eq!(setting.daemon.count_log(sent), 2);
}

/// Only mail to its own tenants goes to the next hop of the organization.
#[test]
fn a_notification_to_somebody_else_goes_to_his_exchangers() {
    let inbound = format!(
        "{SHORT_TIMEOUTS}
         [[listener]]
         address = \"127.0.0.1:0\"
         next-hop = {{ maildir = \"mail\" }}"
    );
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], &inbound);
    let _bank = MockServer::start_at(setting.address(2), Behaviour::default());
    let shop = MockServer::start_at(setting.address(3), Behaviour::default());
    let exchanger = MockServer::start_at(setting.address(4), Behaviour::default());
    let address = setting.daemon.address();
    for from in ["carol@shop.test", "alice@contoso.com"] {
        let mut client = Client::greeted(address);
        client.hello(false, None);
        client.expect(&format!("MAIL FROM:<{from}> ENVID=order+2B4711"), 250);
        client.expect(
            "RCPT TO:<bob@bank.test> NOTIFY=SUCCESS ORCPT=rfc822;bob+2Bsales@bank.test",
            250,
        );
        assert_eq!(client.data("Subject: lunch\r\n\r\nAt noon?").code, 250);
        client.quit();
    }
    assert_eq!(shop.wait_for(1)[0].recipients, ["<carol@shop.test>"]);
    setting
        .daemon
        .wait_for_log_times("INFO notification sent", 2);
    let mail = setting.daemon.maildir("mail");
    assert_eq!(mail.len(), 1, "{mail:#?}");
    assert_relayed(&mail[0], "mx.bank.test");
    // Nobody else hears of it, and a notification brings no notification.
    assert!(exchanger.taken().is_empty());
    assert_eq!(shop.taken().len(), 1);
}

/// A server that sends again for some does not bring a second notification about the others.
#[test]
fn a_second_attempt_brings_no_second_notification() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], SHORT_TIMEOUTS);
    let bank = MockServer::start_at(setting.address(2), Behaviour::default());
    let later = Behaviour::default().but(Step::End, Action::Say("450 4.2.0 later\r\n"));
    let shop = MockServer::start_at(setting.address(3), later);
    let exchanger = MockServer::start_at(setting.address(4), Behaviour::default());
    let attempt = |to: &mut Vec<&str>| {
        let mut client = began(setting.daemon.address(), "ENVID=order+2B4711");
        to.retain(|to| {
            let original = to.replace('@', "+2Bsales@");
            let reply = client.command(&format!(
                "RCPT TO:<{to}> NOTIFY=SUCCESS ORCPT=rfc822;{original}"
            ));
            assert!(matches!(reply.code, 250 | 452), "{reply:?}");
            reply.code == 250
        });
        let text = "Message-ID: <1@contoso.com>\r\nSubject: lunch\r\n\r\nAt noon?";
        client.data(text).code
    };
    let mut left = vec!["bob@bank.test", "carol@shop.test"];
    assert_eq!(attempt(&mut left.clone()), 451);
    assert_relayed(&exchanger.wait_for(1)[0].content, "mx.bank.test");
    shop.behave(Behaviour::default());
    shop.hang_up();
    while !left.is_empty() {
        let mut taken = left.clone();
        assert_eq!(attempt(&mut taken), 250);
        left.retain(|to| !taken.contains(to));
    }
    let told = exchanger.wait_for(2);
    assert_eq!(told.len(), 2);
    let second = parse(&told[1].content);
    assert_eq!(
        address_of(only_recipient(&second), "final-recipient"),
        "carol@shop.test"
    );
    assert_eq!(bank.taken().len(), 1);
}

/// Of two servers, only one tells of what it delivers.
#[test]
fn a_notification_is_about_those_whose_server_has_none() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], SHORT_TIMEOUTS);
    let bank = MockServer::start_at(setting.address(2), Behaviour::default());
    let shop = Behaviour::default().but(Step::Ehlo, DSN);
    let shop = MockServer::start_at(setting.address(3), shop);
    let exchanger = MockServer::start_at(setting.address(4), Behaviour::default());
    let mut client = began(setting.daemon.address(), "RET=HDRS ENVID=order+2B4711");
    for to in ["bob@bank.test", "carol@shop.test"] {
        let name = to.replace('@', "+2Bsales@");
        client.expect(
            &format!("RCPT TO:<{to}> NOTIFY=SUCCESS ORCPT=rfc822;{name}"),
            250,
        );
    }
    // One who does not want to hear.
    client.expect("RCPT TO:<dan@bank.test> NOTIFY=FAILURE", 250);
    let reply = client.data("From: alice@contoso.com\r\nSubject: lunch\r\n\r\nAt noon?");
    assert_eq!(reply.code, 250, "{reply:?}");
    assert_eq!(bank.wait_for(1)[0].recipients.len(), 2);
    shop.wait_for(1);
    let commands = shop.commands();
    for line in [
        "MAIL FROM:<alice@contoso.com> RET=HDRS ENVID=order+2B4711",
        "RCPT TO:<carol@shop.test> NOTIFY=SUCCESS ORCPT=rfc822;carol+2Bsales@shop.test",
    ] {
        assert!(
            commands.iter().any(|command| command == line),
            "{commands:?}"
        );
    }
    let told = &exchanger.wait_for(1)[0];
    assert_eq!(told.recipients, ["<alice@contoso.com>"]);
    assert!(
        exchanger
            .commands()
            .iter()
            .any(|line| line == "MAIL FROM:<>")
    );
    assert_relayed(&told.content, "mx.bank.test");
    let sent = "INFO notification sent";
    setting.daemon.wait_for_log_times(sent, 1);
    assert_eq!(setting.daemon.count_log(sent), 1);
}

/// What EHLO says of a server that takes any octets and any address, and has no DSN.
const ANY_OCTETS: Action = Action::Say("250-mx.partner.test\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n");

/// RFC 3464 section 2.3.5: what has the type `dns` is a domain name, or an address as a domain literal.
#[test]
fn a_notification_names_the_server_by_its_name() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], SHORT_TIMEOUTS);
    let _bank = MockServer::start_at(setting.address(2), Behaviour::default());
    let exchanger = MockServer::start_at(setting.address(4), Behaviour::default());
    ask_for_all(setting.daemon.address());
    let notification = parse(&exchanger.wait_for(1)[0].content);
    let recipient = only_recipient(&notification);
    assert_eq!(recipient["remote-mta"], "dns; mx.bank.test");
}

/// Octets beyond ASCII in the header of the message come back only to servers that take them, and are announced.
#[test]
fn a_notification_of_a_header_that_is_not_ascii() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], SHORT_TIMEOUTS);
    let any = Behaviour::default().but(Step::Ehlo, ANY_OCTETS);
    let _bank = MockServer::start_at(setting.address(2), any.clone());
    let exchanger = MockServer::start_at(setting.address(4), any);
    let send = || {
        let mut client = began(setting.daemon.address(), "BODY=8BITMIME");
        client.expect("RCPT TO:<bob@bank.test> NOTIFY=SUCCESS", 250);
        let reply = client.data("Subject: caf\u{e9}\r\n\r\nAt noon?");
        assert_eq!(reply.code, 250, "{reply:?}");
    };
    send();
    let content = &exchanger.wait_for(1)[0].content;
    let commands = exchanger.commands();
    let is_announced = commands
        .iter()
        .any(|line| line == "MAIL FROM:<> BODY=8BITMIME");
    assert!(
        content.is_ascii() || is_announced,
        "{commands:?}\n{content}"
    );
    let seven_bit = Action::Say("250-mx.partner.test\r\n250 SIZE 1000000\r\n");
    exchanger.behave(Behaviour::default().but(Step::Ehlo, seven_bit));
    exchanger.hang_up();
    send();
    let content = &exchanger.wait_for(2)[1].content;
    assert!(content.is_ascii(), "{content}");
}

/// RFC 6533: a notification to and about internationalized addresses.
#[test]
fn a_notification_about_an_internationalized_address() {
    let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], SHORT_TIMEOUTS);
    let any = Behaviour::default().but(Step::Ehlo, ANY_OCTETS);
    let _bank = MockServer::start_at(setting.address(2), any.clone());
    let exchanger = MockServer::start_at(setting.address(4), any);
    let mut client = Client::greeted(setting.daemon.address());
    client.hello(false, None);
    client.expect("MAIL FROM:<\u{e4}lice@contoso.com> SMTPUTF8", 250);
    client.expect(
        "RCPT TO:<b\u{f6}b@bank.test> NOTIFY=SUCCESS ORCPT=utf-8;b\u{f6}b@bank.test",
        250,
    );
    assert_eq!(client.data("Subject: lunch\r\n\r\nAt noon?").code, 250);
    let told = &exchanger.wait_for(1)[0];
    assert_eq!(told.recipients, ["<\u{e4}lice@contoso.com>"]);
    let commands = exchanger.commands();
    let mail = commands
        .iter()
        .find(|line| line.starts_with("MAIL FROM:<>"));
    assert!(
        mail.is_some_and(|line| line.contains(" SMTPUTF8")),
        "{commands:?}"
    );
    for line in [
        "Original-Recipient: utf-8; b\u{f6}b@bank.test",
        "Final-Recipient: utf-8; b\u{f6}b@bank.test",
        "Action: relayed",
        "Content-Type: message/global-delivery-status",
    ] {
        assert!(told.content.contains(line), "{}", told.content);
    }
    // The text for people is in the charset that it says it is in.
    let notification = parse(&told.content);
    let text = notification["text"].as_str().expect("a text");
    assert!(
        text.contains("<b\u{f6}b@bank.test>"),
        "{text}\n{}",
        told.content
    );
}

/// A daemon in front of a server.
fn inbound(server: SocketAddr) -> TestBed {
    let config = Config::new()
        .listener(Listener::smtp(server))
        .tenant("contoso.com", NO_RULES);
    TestBed::start(config)
}

/// What EHLO says once the next hop has been seen, in a session that goes on.
fn ehlo(daemon: &TestBed) -> (Client, Vec<String>) {
    let mut client = daemon.client();
    assert_eq!(
        client.envelope("bob@bank.test", "alice@contoso.com").code,
        250
    );
    client.expect("RSET", 250);
    let offered = client.expect("EHLO mx.bank.test", 250).lines;
    (client, offered)
}

#[test]
fn the_next_hop_is_asked_as_the_sender_asks() {
    let sender = MockServer::start(Behaviour::default());
    let listen = free_address();
    let back = format!(
        "transport_maps = inline:{{ {{bank.test = smtp:[{}]:{}}} }}",
        sender.address.ip(),
        sender.address.port()
    );
    let own = Office::start("contoso.com", &["alice"], listen, &back);
    let daemon = inbound(listen);
    let (mut client, offered) = ehlo(&daemon);
    assert!(offered.iter().any(|line| line == "DSN"), "{offered:?}");
    client.expect("MAIL FROM:<bob@bank.test> RET=HDRS ENVID=order+2B4711", 250);
    client.expect(
        "RCPT TO:<alice@contoso.com> NOTIFY=SUCCESS ORCPT=rfc822;alice+2Bsales@contoso.com",
        250,
    );
    let reply = client.data("From: bob@bank.test\r\nSubject: lunch\r\n\r\nAt noon?");
    assert_eq!(reply.code, 250, "{reply:?}");
    own.wait_for_mail("alice", 1);
    let told = &sender.wait_for(1)[0];
    assert_eq!(told.recipients, ["<bob@bank.test>"]);
    let notification = parse(&told.content);
    let message = &notification["message"];
    assert_eq!(message["reporting-mta"], "dns; mx.contoso.com", "{message}");
    assert_eq!(message["original-envelope-id"], "order+4711", "{message}");
    let recipient = only_recipient(&notification);
    assert_eq!(recipient["action"], "delivered", "{recipient}");
    assert_eq!(
        address_of(recipient, "original-recipient"),
        "alice+sales@contoso.com"
    );
    // Parameters that are none are refused before the next hop sees them.
    for (line, code) in [
        ("MAIL FROM:<bob@bank.test> RET=BODY", 501),
        ("MAIL FROM:<bob@bank.test> ENVID=a=b", 501),
        ("MAIL FROM:<bob@bank.test>", 250),
        ("RCPT TO:<alice@contoso.com> NOTIFY=NEVER,SUCCESS", 501),
        ("RCPT TO:<alice@contoso.com> ORCPT=alice@contoso.com", 501),
    ] {
        client.expect(line, code);
    }
}

#[test]
fn a_next_hop_without_dsn_is_not_asked() {
    let listen = free_address();
    let discards = "smtpd_discard_ehlo_keywords = dsn";
    let own = Office::start("contoso.com", &["alice"], listen, discards);
    let daemon = inbound(listen);
    let (mut client, offered) = ehlo(&daemon);
    assert!(!offered.iter().any(|line| line == "DSN"), "{offered:?}");
    for parameter in ["RET=HDRS", "ENVID=order"] {
        let reply = client.command(&format!("MAIL FROM:<bob@bank.test> {parameter}"));
        assert_eq!(reply.code, 555, "{reply:?}");
    }
    client.expect("MAIL FROM:<bob@bank.test>", 250);
    for parameter in ["NOTIFY=SUCCESS", "ORCPT=rfc822;alice@contoso.com"] {
        let reply = client.command(&format!("RCPT TO:<alice@contoso.com> {parameter}"));
        assert_eq!(reply.code, 555, "{reply:?}");
    }
    client.expect("RCPT TO:<alice@contoso.com>", 250);
    assert_eq!(client.data("Subject: lunch\r\n\r\nAt noon?").code, 250);
    own.wait_for_mail("alice", 1);
}

/// An honest server with TLS that supports REQUIRETLS.
fn requires_tls(identity: &Identity) -> Behaviour {
    let said = "250-mx.partner.test\r\n250-8BITMIME\r\n250 REQUIRETLS\r\n";
    Behaviour::with(identity).but(Step::EhloTls, Action::Say(said))
}

/// A client that has said EHLO over TLS, and what was offered.
fn over_tls(setting: &Setting) -> (Client, Vec<String>) {
    let mut client = Client::greeted(setting.daemon.address());
    client.hello(true, None);
    let offered = client.expect("EHLO client.example", 250).lines;
    (client, offered)
}

/// Sends a message that requires TLS to one, and gives the reply that decides.
fn send_requiring_tls(client: &mut Client, to: &str) -> String {
    client.expect("MAIL FROM:<alice@contoso.com> REQUIRETLS", 250);
    let mut reply = client.command(&format!("RCPT TO:<{to}>"));
    if reply.code == 250 {
        reply = client.data("Subject: lunch\r\n\r\nAt noon?");
    } else {
        client.expect("RSET", 250);
    }
    format!("{} {}", reply.code, reply.text())
}

#[test]
fn what_requires_tls_goes_to_a_proven_server_that_promises_it() {
    let more = format!("{SHORT_TIMEOUTS}{ONCE}");
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], &more);
    let right = setting.pki.trusted(&["mx.partner.test"]);
    let partner = MockServer::start_at(setting.address(2), requires_tls(&right));
    let (mut client, offered) = over_tls(&setting);
    assert!(
        offered.iter().any(|line| line == "REQUIRETLS"),
        "{offered:?}"
    );
    let text = send_requiring_tls(&mut client, "b@name.test");
    assert!(text.starts_with("250 "), "{text}");
    let line = "TLS MAIL FROM:<alice@contoso.com> REQUIRETLS";
    assert!(
        partner.commands().iter().any(|it| it == line),
        "{:?}",
        partner.commands()
    );
    assert!(partner.taken()[0].tls);
    // The certificate is right, but nothing that somebody signed or configured says whose it must be.
    for domain in ["encrypt.test", "opportunistic.test", "verify.test"] {
        let text = send_requiring_tls(&mut client, &format!("b@{domain}"));
        assert!(text.starts_with("550 5.7.30 "), "{domain}: {text}");
    }
    // Other mail goes on as before, and without the parameter.
    assert!(send(&mut client, "b@encrypt.test").is_delivered());
    let last = partner.commands();
    let last = last.iter().rfind(|line| line.contains("MAIL FROM"));
    assert_eq!(
        last.map(String::as_str),
        Some("TLS MAIL FROM:<alice@contoso.com>")
    );

    // It promises nothing, or has no TLS at all, or is another server.
    partner.behave(Behaviour::with(&right));
    let text = send_requiring_tls(&mut client, "b@name.test");
    assert!(text.starts_with("550 5.7.30 "), "{text}");
    partner.behave(Behaviour::default());
    let text = send_requiring_tls(&mut client, "b@name.test");
    assert!(!text.starts_with("250 "), "{text}");
    partner.behave(requires_tls(&setting.pki.trusted(&["mx.other.test"])));
    let text = send_requiring_tls(&mut client, "b@name.test");
    assert!(!text.starts_with("250 "), "{text}");
    assert_eq!(partner.taken().len(), 2);
}

/// RFC 8689 section 4.2.1: it is not tried for days where nothing but the message itself asks for TLS.
#[test]
fn what_requires_tls_is_returned_where_there_is_none() {
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], SHORT_TIMEOUTS);
    let partner = MockServer::start_at(setting.address(2), Behaviour::default());
    let (mut client, _) = over_tls(&setting);
    let text = send_requiring_tls(&mut client, "b@opportunistic.test");
    assert!(text.starts_with("550 5.7.30 "), "{text}");
    assert!(partner.taken().is_empty());
}

#[test]
fn what_requires_tls_comes_over_tls() {
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], SHORT_TIMEOUTS);
    let mut client = Client::greeted(setting.daemon.address());
    let offered = client.expect("EHLO client.example", 250).lines;
    assert!(
        !offered.iter().any(|line| line == "REQUIRETLS"),
        "{offered:?}"
    );
    let reply = client.command("MAIL FROM:<alice@contoso.com> REQUIRETLS");
    assert_eq!(reply.code, 530, "{reply:?}");
    assert!(reply.text().starts_with("5.7.10 "), "{reply:?}");
    // It takes no value.
    let (mut client, _) = over_tls(&setting);
    client.expect("MAIL FROM:<alice@contoso.com> REQUIRETLS=yes", 501);
}

#[test]
fn what_requires_tls_trusts_what_the_partner_publishes() {
    let pki = Pki::new();
    let https = Https::start(
        &pki.trusted(&["mta-sts.sts.test"]),
        "version: STSv1\r\nmode: enforce\r\nmx: mx.sts.test\r\nmax_age: 86400\r\n",
    );
    let dane = Pki::self_signed(&["anything.test"]);
    let records = format!(
        "dane.test. MX 10 mx.dane.test.
         mx.dane.test. A 127.0.0.2
         _{{port}}._tcp.mx.dane.test. TLSA 3 0 1 {}
         sts.test. MX 10 mx.sts.test.
         mx.sts.test. A 127.0.0.3
         mta-sts.sts.test. A 127.0.0.1
         _mta-sts.sts.test. TXT \"v=STSv1; id=1;\"",
        dane.sha256()
    );
    let more = format!(
        "{SHORT_TIMEOUTS}{ONCE}\n[delivery]\nmta-sts-port = {}\n",
        https.address.port()
    );
    let setting = Setting::start(pki, NO_RULES, &[&records], &more);
    let sts = setting.pki.trusted(&["mx.sts.test"]);
    let by_dane = MockServer::start_at(setting.address(2), requires_tls(&dane));
    let by_sts = MockServer::start_at(setting.address(3), requires_tls(&sts));
    let (mut client, _) = over_tls(&setting);
    for (domain, partner) in [("dane.test", &by_dane), ("sts.test", &by_sts)] {
        let text = send_requiring_tls(&mut client, &format!("b@{domain}"));
        assert!(text.starts_with("250 "), "{domain}: {text}");
        let line = "TLS MAIL FROM:<alice@contoso.com> REQUIRETLS";
        assert!(
            partner.commands().iter().any(|it| it == line),
            "{:?}",
            partner.commands()
        );
    }
    by_dane.behave(Behaviour::with(&dane));
    let text = send_requiring_tls(&mut client, "b@dane.test");
    assert!(text.starts_with("550 5.7.30 "), "{text}");
}

/// RFC 8689 section 5 lets it lower what a sender's server would like, not what its administrator demands.
#[test]
fn a_header_does_not_lower_a_connector() {
    let more = format!("{SHORT_TIMEOUTS}{ONCE}");
    let setting = Setting::start(Pki::new(), LEVELS, &[LEVEL_RECORDS], &more);
    let wrong = setting.pki.trusted(&["mx.other.test"]);
    let partner = MockServer::start_at(setting.address(2), Behaviour::with(&wrong));
    let mut client = setting.client();
    client.expect("MAIL FROM:<alice@contoso.com>", 250);
    let mut reply = client.command("RCPT TO:<b@name.test>");
    if reply.code == 250 {
        reply = client.data("TLS-Required: No\r\nSubject: lunch\r\n\r\nAt noon?");
    }
    assert_eq!(reply.code, 451, "{reply:?}");
    assert!(
        reply.text().contains("certificate-host-mismatch"),
        "{reply:?}"
    );
    assert!(partner.taken().is_empty());
}

/// What the next hop can do is known from the last time; a sender who was promised a notification is not left without.
#[test]
fn a_next_hop_that_has_no_dsn_any_more() {
    let hop = MockServer::start(Behaviour::default().but(Step::Ehlo, DSN));
    let daemon = inbound(hop.address);
    let (mut client, offered) = ehlo(&daemon);
    assert!(offered.iter().any(|line| line == "DSN"), "{offered:?}");
    hop.behave(Behaviour::default());
    hop.hang_up();
    client.expect("MAIL FROM:<bob@bank.test> RET=FULL", 250);
    let reply = client.command("RCPT TO:<alice@contoso.com> NOTIFY=SUCCESS");
    assert_eq!(reply.code, 451, "{reply:?}");
    let (_, offered) = ehlo(&daemon);
    assert!(!offered.iter().any(|line| line == "DSN"), "{offered:?}");
    assert!(hop.taken().is_empty());
}
