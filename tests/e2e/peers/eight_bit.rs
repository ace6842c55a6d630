//! Messages with eight bits on the way to partners who take seven: a real Postfix that does not announce 8BITMIME gets
//! what another one gets that does, as Python's `email` reads it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_tests::outbound::Setting;
use portcullis_tests::postfix::Postfix;
use portcullis_tests::programs::missing;
use portcullis_tests::{Client, NO_RULES, Pki, Reply};
use tempfile::TempDir;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/eight-bit");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/peers/eight_bit.py");

const RECORDS: &str = "
    seven.test. MX 10 mx.seven.test.
    mx.seven.test. A 127.0.0.2
    eight.test. MX 10 mx.eight.test.
    mx.eight.test. A 127.0.0.3
";

/// A partner that keeps its mail in a Maildir.
struct Partner {
    postfix: Postfix,
    domain: &'static str,
    folder: TempDir,
}

impl Partner {
    fn start(domain: &'static str, address: SocketAddr, settings: &str) -> Partner {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Postfix writes as somebody else.
        let open = PermissionsExt::from_mode(0o777);
        fs::set_permissions(folder.path(), open).expect("the folder is opened");
        let settings = format!(
            "myhostname = mx.{domain}
virtual_mailbox_domains = {domain}
virtual_mailbox_base = {folder}
virtual_mailbox_maps = static:mail/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_relay_restrictions = reject_unauth_destination
in_flow_delay = 0
local_header_rewrite_clients =
{settings}",
            folder = folder.path().display()
        );
        let services = format!("{address} inet n - n - - smtpd\nvirtual unix - n n - - virtual\n");
        Partner {
            postfix: Postfix::start_with(&settings, &services),
            domain,
            folder,
        }
    }

    /// What has come, by the recipient's name, with the line ends that it came with.
    fn messages(&self) -> BTreeMap<String, Vec<u8>> {
        self.postfix
            .wait_for_queue(|queue| queue.contains("Mail queue is empty"));
        let new = self.folder.path().join("mail/new");
        let Ok(entries) = fs::read_dir(new) else {
            return BTreeMap::new();
        };
        let mut messages = BTreeMap::new();
        for entry in entries {
            let message = read(&entry.expect("an entry").path());
            let (recipient, message) = self.as_sent(&message);
            let before = messages.insert(recipient.clone(), message);
            assert!(before.is_none(), "{recipient} has got two");
        }
        messages
    }

    /// The recipient's name, and the message without the fields that the two servers have put before it.
    fn as_sent(&self, message: &[u8]) -> (String, Vec<u8>) {
        let mut recipient = None;
        let mut rest = message;
        let mut traces = 0;
        while traces < 2 {
            let (field, behind) = first_field(rest);
            rest = behind;
            let field = String::from_utf8_lossy(field);
            traces += usize::from(field.starts_with("Received: "));
            if let Some(address) = field.strip_prefix("Delivered-To: ") {
                recipient = address
                    .trim()
                    .strip_suffix(&format!("@{}", self.domain))
                    .map(str::to_owned);
            }
            if traces == 2 {
                assert!(field.contains("by relay.contoso.com"), "{field}");
            }
        }
        (recipient.expect("a recipient"), rest.to_vec())
    }
}

/// The first field of a header with its further lines, and what follows it.
fn first_field(header: &[u8]) -> (&[u8], &[u8]) {
    let mut end = 0;
    loop {
        let line = header[end..].windows(2).position(|pair| pair == b"\r\n");
        end += line.expect("a line") + 2;
        if !matches!(header.get(end), Some(b' ' | b'\t')) {
            return header.split_at(end);
        }
    }
}

/// A message of a file, whose lines end in LF there or in CRLF.
fn read(path: &Path) -> Vec<u8> {
    let octets = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut message = Vec::with_capacity(octets.len());
    for octet in octets {
        if octet == b'\n' && message.last() != Some(&b'\r') {
            message.push(b'\r');
        }
        message.push(octet);
    }
    message
}

/// The files of a folder, by their names without what is behind the dot.
fn messages_in(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .map(|path| {
            let name = path.file_stem().expect("a name");
            (name.to_string_lossy().into_owned(), read(&path))
        })
        .collect()
}

/// The messages of a part of the corpus.
fn corpus(part: &str) -> BTreeMap<String, Vec<u8>> {
    let messages = messages_in(&PathBuf::from(CORPUS).join(part));
    assert!(!messages.is_empty(), "{part}");
    messages
}

struct World {
    setting: Setting,
    seven: Partner,
    eight: Partner,
}

impl World {
    fn new() -> World {
        let setting = Setting::start(Pki::new(), NO_RULES, &[RECORDS], "");
        let discard = "smtpd_discard_ehlo_keywords = 8bitmime";
        let seven = Partner::start("seven.test", setting.address(2), discard);
        let eight = Partner::start("eight.test", setting.address(3), "");
        let world = World {
            setting,
            seven,
            eight,
        };
        world.assert_partners_differ();
        world
    }

    fn assert_partners_differ(&self) {
        for (host, announced) in [(2, false), (3, true)] {
            let mut client = Client::greeted(self.setting.address(host));
            let lines = client.expect("EHLO client.example", 250).lines;
            assert_eq!(lines.contains(&"8BITMIME".to_owned()), announced);
        }
    }
}

/// How the content comes.
#[derive(Clone, Copy)]
enum By {
    Data,
    Bdat,
}

/// Sends a message, and gives the reply to its end.
fn send(client: &mut Client, by: By, to: &[String], message: &[u8]) -> Reply {
    client.expect("MAIL FROM:<alice@contoso.com> BODY=8BITMIME", 250);
    for recipient in to {
        client.expect(&format!("RCPT TO:<{recipient}>"), 250);
    }
    match by {
        By::Data => {
            client.expect("DATA", 354);
            let mut stuffed = Vec::with_capacity(message.len() + 5);
            for line in message.split_inclusive(|octet| *octet == b'\n') {
                if line.starts_with(b".") {
                    stuffed.push(b'.');
                }
                stuffed.extend_from_slice(line);
            }
            assert!(stuffed.ends_with(b"\r\n"));
            stuffed.extend_from_slice(b".\r\n");
            client.send(&stuffed);
        }
        By::Bdat => {
            // Wherever that is, in the middle of a line or of a character.
            let (first, last) = message.split_at(message.len() / 2);
            client.send(format!("BDAT {}\r\n", first.len()).as_bytes());
            client.send(first);
            assert_eq!(client.reply().code, 250);
            client.send(format!("BDAT {} LAST\r\n", last.len()).as_bytes());
            client.send(last);
        }
    }
    client.reply()
}

/// How Python reads what is written as it should be: as it does today, and as it used to.
const POLICIES: &[&str] = &["default", "compat32"];

/// Has Python compare what was sent with what came.
fn compare(sent: &BTreeMap<String, Vec<u8>>, came: &BTreeMap<String, Vec<u8>>, policies: &[&str]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, message) in sent {
        let came = came
            .get(name)
            .unwrap_or_else(|| panic!("{name} has not come"));
        let path = folder.path().join(name);
        fs::write(path.with_extension("sent"), message).expect("a file");
        fs::write(path.with_extension("came"), came).expect("a file");
    }
    let folder = folder.path().to_str().expect("UTF-8");
    let output = python(&[&["compare", folder], policies].concat());
    assert_eq!(output, format!("compared: {}\n", sent.len()));
}

fn python(arguments: &[&str]) -> String {
    let output = Command::new("python3")
        .arg(SCRIPT)
        .args(arguments)
        .output()
        .unwrap_or_else(missing("python3"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Sends these to the partner with seven bits, and once more to both; all must be taken.
fn send_all(world: &World, messages: &BTreeMap<String, Vec<u8>>) {
    let mut refused = Vec::new();
    let mut client = world.setting.client();
    for (name, message) in messages {
        let alone = vec![format!("{name}@seven.test")];
        let both = vec![
            format!("{name}+both@seven.test"),
            format!("{name}@eight.test"),
        ];
        for (by, to) in [(By::Data, alone), (By::Bdat, both)] {
            let reply = send(&mut client, by, &to, message);
            if reply.code != 250 {
                refused.push(format!("{name}: {} {}", reply.code, reply.text()));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// What has come to the partner with seven bits alone, and what together with the other one.
fn of_seven(world: &World) -> [BTreeMap<String, Vec<u8>>; 2] {
    let mut both = BTreeMap::new();
    let mut alone = BTreeMap::new();
    for (recipient, message) in world.seven.messages() {
        match recipient.strip_suffix("+both") {
            Some(name) => both.insert(name.to_owned(), message),
            None => alone.insert(recipient, message),
        };
    }
    [alone, both]
}

fn assert_same(sent: &BTreeMap<String, Vec<u8>>, came: &BTreeMap<String, Vec<u8>>) {
    for (name, message) in sent {
        let came = came
            .get(name)
            .unwrap_or_else(|| panic!("{name} has not come"));
        assert!(
            came == message,
            "{name}: {:?} is {:?}",
            String::from_utf8_lossy(message),
            String::from_utf8_lossy(came)
        );
    }
    assert_eq!(came.len(), sent.len());
}

#[test]
fn readers_find_what_was_written() {
    let world = World::new();
    let converted = corpus("converted");
    send_all(&world, &converted);
    let [alone, both] = of_seven(&world);
    compare(&converted, &alone, POLICIES);
    assert_same(&alone, &both);
    assert_same(&converted, &world.eight.messages());
    // They have been converted indeed.
    for (name, message) in &converted {
        assert!(alone[name] != *message, "{name}");
    }
}

#[test]
fn what_has_seven_bits_stays_as_it_is() {
    let world = World::new();
    let same = corpus("same");
    send_all(&world, &same);
    let [alone, both] = of_seven(&world);
    assert_same(&same, &alone);
    assert_same(&same, &both);
    assert_same(&same, &world.eight.messages());
}

#[test]
fn what_is_signed_is_refused() {
    let world = World::new();
    let mut sent = BTreeMap::new();
    let mut wrong = Vec::new();
    for (part, why) in [
        ("refused-dkim", "conversion would break its DKIM signature"),
        (
            "refused-smime",
            "conversion would break its S/MIME signature",
        ),
        (
            "refused-pgp",
            "conversion would break its OpenPGP signature",
        ),
        (
            "refused-signed",
            "conversion would break its signature (multipart/signed)",
        ),
        ("refused-broken", "its MIME structure is broken: "),
    ] {
        for (name, message) in corpus(part) {
            let name = format!("{part}-{name}");
            // One that hears no too often is not listened to.
            let mut client = world.setting.client();
            let reply = send(
                &mut client,
                By::Data,
                &[format!("{name}@seven.test")],
                &message,
            );
            let text = reply.text();
            if reply.code != 554 || !text.starts_with("5.6.3 ") || !text.contains(why) {
                wrong.push(format!("{name}: {} {text}", reply.code));
            }
            // Others who take eight bits get it.
            let reply = send(
                &mut client,
                By::Data,
                &[format!("{name}@eight.test")],
                &message,
            );
            assert_eq!(reply.code, 250, "{name}: {}", reply.text());
            sent.insert(name, message);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(world.seven.messages().is_empty());
    assert_same(&sent, &world.eight.messages());
}

#[test]
fn any_message_survives() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_str().expect("UTF-8");
    python(&["generate", path, "6152", "300"]);
    let messages = messages_in(folder.path());
    assert_eq!(messages.len(), 300);
    send_all(&world, &messages);
    let [alone, both] = of_seven(&world);
    compare(&messages, &alone, POLICIES);
    assert_same(&alone, &both);
    assert_same(&messages, &world.eight.messages());
}

/// What servers and readers take for one thing or another is converted so that Python reads the same, or refused; nothing
/// is lost in it.
#[test]
fn what_is_doubtful_is_not_lost() {
    let world = World::new();
    let mut client = world.setting.client();
    let mut messages = corpus("doubtful");
    messages.retain(|name, message| {
        let to = [format!("{name}@seven.test")];
        let reply = send(&mut client, By::Data, &to, message);
        let text = reply.text();
        let is_refused = reply.code == 554 && text.starts_with("5.6.3 ");
        assert!(
            is_refused || reply.code == 250,
            "{name}: {} {text}",
            reply.code
        );
        !is_refused
    });
    let [came, _] = of_seven(&world);
    // By the other policy it finds no parts where a boundary lacks quotation marks, or looks like an encoded word.
    compare(&messages, &came, &["compat32"]);
}
