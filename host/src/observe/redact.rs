//! What the log tells of people, and of what others have written.
//!
//! Of mailboxes and clients' addresses it tells what `[log]` says: one setting for the process, as there is
//! one log. A text of others cannot end the line that it stands in.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;

use crate::config::{Clients, Log, Mailboxes};
use crate::smtp::address::quoted_string_length;
use portcullis::{ClientAddress, Context, HeaderFrom, PeerCertificate, Security, one_line};

/// Characters of what others say that are told.
const MAX_WORDS: usize = 2000;
/// Names of a certificate that are told; one with more is told without them.
const MAX_NAMES: usize = 100;
/// What stands for a local part that is not told.
const REDACTED: &str = "*";
/// What is told of an address: that of a network of this size.
const IPV4_NETWORK: u8 = 24;
const IPV6_NETWORK: u8 = 48;

static HIDES_MAILBOXES: AtomicBool = AtomicBool::new(false);
static HIDES_CLIENTS: AtomicBool = AtomicBool::new(false);
static TELLS_CONTEXTS: AtomicBool = AtomicBool::new(false);

/// From now on the log tells this much.
pub fn tell(log: &Log) {
    HIDES_MAILBOXES.store(log.mailboxes == Mailboxes::Domain, Ordering::Relaxed);
    HIDES_CLIENTS.store(log.clients == Clients::Network, Ordering::Relaxed);
    TELLS_CONTEXTS.store(log.contexts, Ordering::Relaxed);
}

/// Whether all facts of a decision are told.
pub fn tells_contexts() -> bool {
    TELLS_CONTEXTS.load(Ordering::Relaxed)
}

/// The facts of a decision, of which no more of people is told. Where of a client only the network is told, its address is
/// unknown: whoever asks again by these facts is not told something that is not so.
pub fn context(context: &Context) -> Context {
    let mut told = context.clone();
    let mail_from = mailbox(context.mail_from()).into_owned();
    let rcpt_to = mailbox(context.rcpt_to()).into_owned();
    let header = match context.header() {
        HeaderFrom::Addresses(addresses) => {
            let addresses = addresses.iter().map(|it| mailbox(it).into_owned());
            HeaderFrom::Addresses(addresses.collect())
        }
        other => other,
    };
    let (boxes, clients) = (
        HIDES_MAILBOXES.load(Ordering::Relaxed),
        HIDES_CLIENTS.load(Ordering::Relaxed),
    );
    if boxes || clients {
        // It may be an address literal, or name a machine of somebody's.
        told.set_helo(None);
    }
    if let Some(security) = certificate_of(context, boxes) {
        told.set_security(security);
    }
    told.set_mail_from(mail_from);
    told.set_rcpt_to(rcpt_to);
    told.set_header_from(header);
    match context.client_ip() {
        ClientAddress::Known(_) if HIDES_CLIENTS.load(Ordering::Relaxed) => {
            told.client_address(ClientAddress::Unknown)
        }
        _ => told,
    }
}

/// The protection of a session with less of its certificate: people's addresses stand in it as well, and one with very
/// many names would take very much room. What is left out is unknown.
fn certificate_of(context: &Context, boxes: bool) -> Option<Security> {
    let certificate = context.certificate()?;
    let names = certificate.dns_names.as_deref().unwrap_or_default();
    let is_large = names.len() > MAX_NAMES;
    let texts = [&certificate.subject, &certificate.issuer];
    let is_long = texts.iter().any(|text| text.len() > MAX_WORDS);
    let has_mailbox = boxes
        && texts
            .into_iter()
            .chain(names)
            .any(|text| text.contains('@'));
    if !is_large && !is_long && !has_mailbox {
        return None;
    }
    let mut told = certificate.clone();
    for text in [&mut told.subject, &mut told.issuer] {
        *text = redact(text).into_owned();
    }
    if is_large || boxes && names.iter().any(|name| name.contains('@')) {
        told.dns_names = None;
    }
    let mut tls = context.session_tls()?.clone();
    tls.certificate = PeerCertificate::Presented(told);
    Some(Security::Encrypted(tls))
}

fn network_of(ip: IpAddr) -> Option<IpNet> {
    let length = match ip {
        IpAddr::V4(_) => IPV4_NETWORK,
        IpAddr::V6(_) => IPV6_NETWORK,
    };
    IpNet::new(ip, length).ok().map(|network| network.trunc())
}

/// An envelope's mailbox, `""` for the null sender.
pub fn mailbox(text: &str) -> Cow<'_, str> {
    match HIDES_MAILBOXES.load(Ordering::Relaxed) {
        true => without_local_part(text),
        false => text.into(),
    }
}

/// What another server said, in which mailboxes may stand. It cannot end the line, and tells no tales.
pub fn redact(text: &str) -> Cow<'_, str> {
    let line = match text.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}…", one_line(&text[..end])).into(),
        None => one_line(text),
    };
    match HIDES_MAILBOXES.load(Ordering::Relaxed) {
        true => without_local_parts(&line).into(),
        false => line,
    }
}

/// What another server said of a message, which may know the client's address and has the envelope's mailboxes before
/// it, however it writes them.
pub fn mailboxes_in<'a>(
    client: IpAddr,
    envelope: impl IntoIterator<Item = &'a str>,
    text: &str,
) -> Cow<'_, str> {
    let mut words = redact(text);
    if HIDES_MAILBOXES.load(Ordering::Relaxed) {
        for mailbox in envelope {
            words = without_name(mailbox, &words).into();
        }
    }
    if HIDES_CLIENTS.load(Ordering::Relaxed) {
        words = without_addresses_near(client, &words).into();
    }
    words
}

/// A client's address.
pub fn client(address: IpAddr) -> Client {
    Client {
        address,
        hides: HIDES_CLIENTS.load(Ordering::Relaxed),
    }
}

/// A client's address, as the log tells it.
#[derive(Clone, Copy)]
pub struct Client {
    address: IpAddr,
    hides: bool,
}

impl fmt::Display for Client {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match network_of(self.address) {
            Some(network) if self.hides => network.fmt(to),
            _ => self.address.fmt(to),
        }
    }
}

fn without_local_part(mailbox: &str) -> Cow<'_, str> {
    match mailbox.rsplit_once('@') {
        Some((_, domain)) => format!("{REDACTED}@{domain}").into(),
        // Postmaster, who is nobody in particular, and nobody at all.
        None => mailbox.into(),
    }
}

/// A text without a mailbox's local part, which may stand there alone, or before something else than an `@`.
fn without_name(mailbox: &str, text: &str) -> String {
    let local = mailbox.rsplit_once('@').map_or("", |(local, _)| local);
    let bare = local.trim_matches('"');
    let encoded: String = bare.bytes().map(percent_encoded).collect();
    let mut shown = text.to_owned();
    for name in [local, bare, &encoded] {
        shown = without_word(name, &shown);
    }
    shown
}

/// RFC 3986 §2.1.
fn percent_encoded(octet: u8) -> String {
    match octet {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(octet).to_string()
        }
        other => format!("%{other:02X}"),
    }
}

/// A text without a word, in any case of its letters.
fn without_word(word: &str, text: &str) -> String {
    if word.is_empty() {
        return text.to_owned();
    }
    let (lower, wanted) = (text.to_ascii_lowercase(), word.to_ascii_lowercase());
    let is_part = |character: char| character.is_alphanumeric();
    let mut shown = String::new();
    let mut from = 0;
    for (at, _) in lower.match_indices(&wanted) {
        let behind = at + wanted.len();
        let begins = !word.starts_with(is_part) || !text[..at].ends_with(is_part);
        let ends = !word.ends_with(is_part) || !text[behind..].starts_with(is_part);
        if at >= from && begins && ends {
            shown.push_str(&text[from..at]);
            shown.push_str(REDACTED);
            from = behind;
        }
    }
    shown.push_str(&text[from..]);
    shown
}

/// A local part is what stands before an `@`: a quoted string, or all up to a space or a sign that opens
/// or divides.
fn without_local_parts(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (atom, length) = match quoted_string_length(rest) {
            Some(length) if rest[length..].starts_with('@') => ("", length),
            _ => {
                let atom = rest.split(divides).next().unwrap_or_default();
                (atom, atom.len())
            }
        };
        rest = &rest[length..];
        if let Some(domain) = rest.strip_prefix('@') {
            shown.push_str(REDACTED);
            shown.push('@');
            rest = domain;
            continue;
        }
        shown.push_str(atom);
        if let Some(divider) = rest.chars().next() {
            shown.push(divider);
            rest = &rest[divider.len_utf8()..];
        }
    }
    shown
}

fn divides(character: char) -> bool {
    character.is_whitespace() || "@<>()[]:;,\"".contains(character)
}

/// The client's address gives way to its network.
fn without_addresses_near(client: IpAddr, text: &str) -> String {
    let network = Client {
        address: client,
        hides: true,
    }
    .to_string();
    let is_part = |c: char| c.is_ascii_hexdigit() || ".:".contains(c);
    let mut shown = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(length);
        // A full stop or colon may follow an address.
        let bare = word.trim_end_matches(['.', ':']);
        // RFC 5321 §4.1.3: before an address of IPv6 stands a tag, whose last character could be part of it.
        let tag = match shown.to_ascii_lowercase().ends_with("ipv") && bare.starts_with("6:") {
            true => "6:",
            false => "",
        };
        shown.push_str(tag);
        let (word, bare) = (&word[tag.len()..], &bare[tag.len()..]);
        match bare.parse::<IpAddr>() {
            Ok(address) if address.to_canonical() == client => {
                shown.push_str(&network);
                shown.push_str(&word[bare.len()..]);
            }
            _ => shown.push_str(word),
        }
        let others = behind.find(is_part).unwrap_or(behind.len());
        shown.push_str(&behind[..others]);
        rest = &behind[others..];
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_keeps_its_domain() {
        assert_eq!(without_local_part("bob@contoso.com"), "*@contoso.com");
        assert_eq!(without_local_part(r#""a@b"@contoso.com"#), "*@contoso.com");
        assert_eq!(without_local_part("postmaster"), "postmaster");
        assert_eq!(without_local_part(""), "");
    }

    #[test]
    fn what_servers_say_has_no_local_parts() {
        for (said, shown) in [
            ("2.0.0 queued as 4711", "2.0.0 queued as 4711"),
            ("<bob@contoso.com>: unknown", "<*@contoso.com>: unknown"),
            (
                r#"no "bob \"the\" b"@a.test, try al@b.test"#,
                "no *@a.test, try *@b.test",
            ),
            ("rcpt:bob@a.test;x@", "rcpt:*@a.test;*@"),
            ("@@", "*@*@"),
            (r#"é"@é"#, "é\"*@é"),
            (r#"<"john smith@home doe"@a.test>"#, "<*@a.test>"),
            (
                r#"the "user@a.test" is unknown"#,
                r#"the "*@a.test" is unknown"#,
            ),
        ] {
            assert_eq!(without_local_parts(said), shown);
        }
    }

    #[test]
    fn the_envelopes_names_stand_nowhere() {
        for (mailbox, said, shown) in [
            ("bob@a.test", "no such user bob here", "no such user * here"),
            (
                "bob@a.test",
                "BOB%40a.test is unknown",
                "*%40a.test is unknown",
            ),
            (
                "bob@a.test",
                "bob(at)a.test, bob at a.test",
                "*(at)a.test, * at a.test",
            ),
            (
                "bob@a.test",
                "see https://x.test/?u=bob&r=1",
                "see https://x.test/?u=*&r=1",
            ),
            ("bob@a.test", "bobby and bob.", "bobby and *."),
            ("bo.b+x@a.test", "bo.b+x or bo.b%2Bx", "* or *"),
            (
                r#""john smith"@a.test"#,
                "john smith, \"john smith\", john%20smith",
                "*, *, *",
            ),
            ("", "nobody", "nobody"),
            ("postmaster", "postmaster", "postmaster"),
        ] {
            assert_eq!(without_name(mailbox, said), shown, "{mailbox}");
        }
    }

    #[test]
    fn what_servers_say_is_one_line() {
        assert_eq!(redact("a\r\nb\x1b\u{202e}"), "a  b  ");
        let told = redact(&"é".repeat(5000)).into_owned();
        assert_eq!(told, "é".repeat(MAX_WORDS) + "…");
    }

    #[test]
    fn what_servers_say_of_the_client_is_its_network() {
        let shown =
            |client: &str, text| without_addresses_near(client.parse().expect("an address"), text);
        let said =
            "Client host [203.0.113.7] blocked: 203.0.113.7. See 198.51.100.1 at 203.0.113.70";
        let told = "Client host [203.0.113.0/24] blocked: 203.0.113.0/24. See 198.51.100.1 at 203.0.113.70";
        assert_eq!(shown("203.0.113.7", said), told);
        let said = "IPv6:2001:DB8:7:8:0:0:0:9 and [2001:db8:7:8::9]: é";
        let told = "IPv6:2001:db8:7::/48 and [2001:db8:7::/48]: é";
        assert_eq!(shown("2001:db8:7:8::9", said), told);
    }

    #[test]
    fn a_client_is_one_of_a_network() {
        let shown = |address: &str, hides| {
            let address = address.parse().expect("an address");
            Client { address, hides }.to_string()
        };
        assert_eq!(shown("203.0.113.7", false), "203.0.113.7");
        assert_eq!(shown("203.0.113.7", true), "203.0.113.0/24");
        assert_eq!(shown("2001:db8:7:8::9", true), "2001:db8:7::/48");
    }
}
