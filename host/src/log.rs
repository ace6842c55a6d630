//! What the log tells of people: mailboxes and clients' addresses, as `[log]` says.
//!
//! It is one setting for the process, as there is one log.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;

use crate::config::{Clients, Log, Mailboxes};

/// What stands for a local part that is not told.
const SOMEBODY: &str = "*";
/// What is told of an address: that of a network of this size.
const IPV4_NETWORK: u8 = 24;
const IPV6_NETWORK: u8 = 48;

static HIDES_MAILBOXES: AtomicBool = AtomicBool::new(false);
static HIDES_CLIENTS: AtomicBool = AtomicBool::new(false);

/// From now on the log tells this much.
pub fn tell(log: &Log) {
    HIDES_MAILBOXES.store(log.mailboxes == Mailboxes::Domain, Ordering::Relaxed);
    HIDES_CLIENTS.store(log.clients == Clients::Network, Ordering::Relaxed);
}

/// An envelope's mailbox, `""` for the null sender.
pub fn mailbox(text: &str) -> Cow<'_, str> {
    match HIDES_MAILBOXES.load(Ordering::Relaxed) {
        true => without_local_part(text),
        false => text.into(),
    }
}

/// What another server said, in which mailboxes may stand.
pub fn words(text: &str) -> Cow<'_, str> {
    match HIDES_MAILBOXES.load(Ordering::Relaxed) {
        true => without_local_parts(text),
        false => text.into(),
    }
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
        let length = match self.address {
            IpAddr::V4(_) => IPV4_NETWORK,
            IpAddr::V6(_) => IPV6_NETWORK,
        };
        match IpNet::new(self.address, length) {
            Ok(network) if self.hides => network.trunc().fmt(to),
            _ => self.address.fmt(to),
        }
    }
}

fn without_local_part(mailbox: &str) -> Cow<'_, str> {
    match mailbox.rsplit_once('@') {
        Some((_, domain)) => format!("{SOMEBODY}@{domain}").into(),
        // Postmaster, who is nobody in particular, and nobody at all.
        None => mailbox.into(),
    }
}

/// A local part is what stands before an `@`: a quoted string, or all up to a space or a sign that opens
/// or divides.
fn without_local_parts(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('@') {
        shown.push_str(&before[..begin_of_local_part(before)]);
        shown.push_str(SOMEBODY);
        shown.push('@');
        rest = behind;
    }
    if shown.is_empty() {
        return text.into();
    }
    (shown + rest).into()
}

fn begin_of_local_part(before: &str) -> usize {
    if let Some(quoted) = before.strip_suffix('"') {
        // RFC 5321 §4.1.2: in a quoted string, quotes stand behind a backslash.
        let opening = quoted.rmatch_indices('"');
        let mut opening = opening.filter(|(at, _)| !quoted[..*at].ends_with('\\'));
        return opening.next().map_or(0, |(at, _)| at);
    }
    let divides = |c: char| c.is_whitespace() || "<>()[]:;,\"".contains(c);
    before.rfind(divides).map_or(0, |at| {
        at + before[at..].chars().next().map_or(0, char::len_utf8)
    })
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
            (r#"é"@é"#, "*@é"),
        ] {
            assert_eq!(without_local_parts(said), shown);
        }
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
