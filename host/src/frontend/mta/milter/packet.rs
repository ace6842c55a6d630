//! Packets of the milter protocol, version 6: a length of four octets, a command, and its data.

use crate::frontend::mta::facts;
use portcullis::ClientAddress;

/// Octets of an address or of a macro.
const MAX_TEXT: usize = 4096;
/// Octets of a packet. The longest is a header field, which Postfix limits to 100 KiB.
const MAX_PACKET: usize = 1 << 20;

/// The version that is spoken.
const VERSION: u32 = 6;
/// An action: the filter says which macros it wants (SMFIF_SETSYMLIST).
const SET_MACROS: u32 = 0x100;
/// Steps that are not needed: body, unknown commands and DATA; header fields and their end (SMFIP_NO…).
const NO_BODY: u32 = 0x10;
const NO_HEADER: u32 = 0x20;
const NO_END_OF_HEADER: u32 = 0x40;
const NO_UNKNOWN: u32 = 0x100;
const NO_DATA: u32 = 0x200;
/// Steps that get no answer: a header field, HELO, MAIL (SMFIP_NR_…). What gets none waits at the server for what gets
/// one; a new client must not wait, so that the policy service finds its session.
const NO_REPLY_HEADER: u32 = 0x80;
const NO_REPLY_HELO: u32 = 0x2000;
const NO_REPLY_MAIL: u32 = 0x4000;

/// What a server asks or tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// The version, actions and steps that it knows.
    Negotiate(Offer),
    /// Macros that belong to the next command, which has this letter.
    Macros(u8, Vec<(String, String)>),
    /// A client has connected.
    Connect(ClientAddress, Option<u16>),
    /// HELO or EHLO.
    Helo(String),
    /// MAIL, with the sender.
    Mail(String),
    /// RCPT, with the recipient.
    Rcpt(String),
    /// A header field: name and value.
    Header(Vec<u8>, Vec<u8>),
    /// The end of the header.
    EndOfHeader,
    /// The end of the message.
    EndOfBody,
    /// A part of the body, DATA, or a command that nobody knows.
    Other,
    /// The message is given up; the session goes on.
    Abort,
    /// The session has ended; the connection is used for another one.
    NewSession,
    /// The connection ends.
    Quit,
}

/// What a server can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    version: u32,
    actions: u32,
    steps: u32,
}

/// What was agreed on: which steps come, and which of them are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    version: u32,
    actions: u32,
    steps: u32,
}

impl Offer {
    /// Agrees on what is needed, and no more.
    pub fn agree(self, reads_header: bool) -> Agreement {
        let mut wanted = NO_BODY | NO_UNKNOWN | NO_DATA;
        wanted |= NO_REPLY_HELO | NO_REPLY_MAIL | NO_REPLY_HEADER;
        if !reads_header {
            wanted |= NO_HEADER | NO_END_OF_HEADER;
        }
        Agreement {
            version: self.version.min(VERSION),
            actions: self.actions & SET_MACROS,
            steps: self.steps & wanted,
        }
    }
}

/// The macros that are wanted, by stage: of a connection, of HELO, and of MAIL, because a client need not say HELO again
/// after STARTTLS.
const MACROS: [(u32, &str); 4] = [
    (0, "{daemon_addr} {daemon_port}"),
    (1, MACROS_OF_TLS),
    (2, MACROS_OF_TLS),
    (3, "{rcpt_addr}"),
];
const MACROS_OF_TLS: &str = "{tls_version} {cipher} {verify} {cert_fp} {cn_subject} {cn_issuer} {cert_subject} {cert_issuer} {mail_addr}";

impl Agreement {
    /// Whether the macros come that are wanted.
    pub fn has_macros(self) -> bool {
        self.actions & SET_MACROS != 0
    }

    /// Whether the header comes.
    pub fn has_header(self) -> bool {
        self.steps & (NO_HEADER | NO_END_OF_HEADER) == 0
    }

    /// Whether a command with this letter is answered.
    pub fn is_answered(self, letter: u8) -> bool {
        let unanswered = match letter {
            b'H' => NO_REPLY_HELO,
            b'M' => NO_REPLY_MAIL,
            b'L' => NO_REPLY_HEADER,
            b'D' | b'A' | b'Q' | b'K' => return false,
            _ => return true,
        };
        self.steps & unanswered == 0
    }

    /// Appends it in wire form.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut data = Vec::new();
        for word in [self.version, self.actions, self.steps] {
            data.extend_from_slice(&word.to_be_bytes());
        }
        if self.actions & SET_MACROS != 0 {
            for (stage, macros) in MACROS {
                data.extend_from_slice(&stage.to_be_bytes());
                data.extend_from_slice(macros.as_bytes());
                data.push(0);
            }
        }
        write(b'O', &data, out);
    }
}

/// Appends the answer that it goes on.
pub fn write_continue(out: &mut Vec<u8>) {
    write(b'c', &[], out);
}

/// Appends a reply to the client. Servers take `%` for the beginning of something.
pub fn write_reply(line: &str, out: &mut Vec<u8>) {
    let mut data = line.replace('%', "%%").into_bytes();
    data.push(0);
    write(b'y', &data, out);
}

fn write(letter: u8, data: &[u8], out: &mut Vec<u8>) {
    // What is written here is far below 4 GiB.
    let length = u32::try_from(data.len() + 1).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(letter);
    out.extend_from_slice(data);
}

/// A packet in wire form.
pub struct Packet<'a> {
    /// What it is.
    pub letter: u8,
    /// What it says.
    pub data: &'a [u8],
    /// Its length.
    pub length: usize,
}

/// Reads a packet, if it is whole.
///
/// # Errors
/// If it is too long.
pub fn parse(input: &[u8]) -> Result<Option<Packet<'_>>, String> {
    let Some((length, rest)) = input.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if !(1..=MAX_PACKET).contains(&length) {
        return Err(format!("a packet of {length} octets"));
    }
    Ok(rest.get(..length).map(|packet| Packet {
        letter: packet[0],
        data: &packet[1..],
        length: 4 + length,
    }))
}

impl Command {
    /// What a packet says.
    ///
    /// # Errors
    /// Says what is malformed.
    pub fn of(letter: u8, data: &[u8]) -> Result<Command, String> {
        Ok(match letter {
            b'O' => Command::Negotiate(offer(data).ok_or("a malformed negotiation")?),
            b'D' => macros(data)?,
            b'C' => connect(data)?,
            b'H' => Command::Helo(short(data)?),
            b'M' => Command::Mail(address(data)?),
            b'R' => Command::Rcpt(address(data)?),
            b'L' => {
                let mut parts = parts(data);
                let name = parts.next().unwrap_or_default().to_vec();
                let value = parts.next().ok_or("a header field without a value")?;
                Command::Header(name, value.to_vec())
            }
            b'N' => Command::EndOfHeader,
            b'E' => Command::EndOfBody,
            b'B' | b'T' | b'U' => Command::Other,
            b'A' => Command::Abort,
            b'K' => Command::NewSession,
            b'Q' => Command::Quit,
            other => return Err(format!("a packet of kind {:?}", char::from(other))),
        })
    }
}

fn offer(data: &[u8]) -> Option<Offer> {
    let word = |number: usize| {
        let octets = data.get(4 * number..4 * number + 4)?;
        Some(u32::from_be_bytes(octets.try_into().ok()?))
    };
    let offer = Offer {
        version: word(0)?,
        actions: word(1)?,
        steps: word(2)?,
    };
    // Before version 2 there is nothing to agree on.
    (offer.version >= 2).then_some(offer)
}

/// The parts of data that end in NUL each.
fn parts(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.strip_suffix(&[0])
        .unwrap_or(data)
        .split(|octet| *octet == 0)
}

/// The first part.
fn text(data: &[u8]) -> String {
    let first = parts(data).next().unwrap_or_default();
    String::from_utf8_lossy(first).into_owned()
}

fn macros(data: &[u8]) -> Result<Command, String> {
    let (letter, data) = data.split_first().ok_or("macros of no command")?;
    let mut parts = parts(data).map(|part| String::from_utf8_lossy(part).into_owned());
    let mut macros = Vec::new();
    while let Some(name) = parts.next() {
        let Some(value) = parts.next() else {
            break;
        };
        // Names of one letter have no braces.
        let name = name
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'))
            .map_or(name.clone(), str::to_owned);
        if name.len() + value.len() > MAX_TEXT {
            return Err("a macro that is too long".into());
        }
        macros.push((name, value));
    }
    Ok(Command::Macros(*letter, macros))
}

/// Host name, family, port and address.
fn connect(data: &[u8]) -> Result<Command, String> {
    let end = memchr::memchr(0, data).ok_or("a connection without a host")?;
    let rest = &data[end + 1..];
    Ok(match rest.split_first() {
        Some((b'4' | b'6', rest)) => {
            let (port, address) = rest
                .split_first_chunk::<2>()
                .ok_or("a connection without a port")?;
            let client = facts::client_address(&text(address));
            Command::Connect(client, Some(u16::from_be_bytes(*port)))
        }
        Some((b'L', _)) => Command::Connect(ClientAddress::None, None),
        _ => Command::Connect(ClientAddress::Unknown, None),
    })
}

/// The first part, if it is not too long.
fn short(data: &[u8]) -> Result<String, String> {
    let text = text(data);
    match text.len() > MAX_TEXT {
        true => Err("a text that is too long".into()),
        false => Ok(text),
    }
}

/// An address of the envelope, without the parameters behind it.
fn address(data: &[u8]) -> Result<String, String> {
    let text = short(data)?;
    let inside = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'));
    Ok(inside.unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(letter: u8, data: &[u8]) -> Result<Command, String> {
        Command::of(letter, data)
    }

    #[test]
    fn commands_are_understood() {
        let known = |text: &str| ClientAddress::Known(text.parse().expect("an address"));
        let macros = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect()
        };
        for (letter, data, expected) in [
            (
                b'C',
                &b"mx.a.test\x004\x00\x19192.0.2.1\0"[..],
                Command::Connect(known("192.0.2.1"), Some(25)),
            ),
            (
                b'C',
                b"mx.a.test\x006\x00\x19IPv6:2001:db8::1\0",
                Command::Connect(known("2001:db8::1"), Some(25)),
            ),
            (
                b'C',
                b"localhost\0U",
                Command::Connect(ClientAddress::Unknown, None),
            ),
            (
                b'D',
                b"Hi\0ID\0{tls_version}\0TLSv1.3\0{cipher}\0\0",
                Command::Macros(
                    b'H',
                    macros(&[("i", "ID"), ("tls_version", "TLSv1.3"), ("cipher", "")]),
                ),
            ),
            (b'H', b"mx.a.test\0", Command::Helo("mx.a.test".into())),
            (b'M', b"<>\0BODY=8BITMIME\0", Command::Mail(String::new())),
            (b'R', b"<b@c.test>\0", Command::Rcpt("b@c.test".into())),
            (
                b'L',
                b"From\0 a@b.test\0",
                Command::Header(b"From".to_vec(), b" a@b.test".to_vec()),
            ),
            (b'A', b"", Command::Abort),
        ] {
            assert_eq!(command(letter, data), Ok(expected));
        }
        for (letter, data) in [
            (b'O', &b"\0\0\0\x06"[..]),
            (b'C', b"no end"),
            (b'C', b"a\x004\0"),
            (b'D', b""),
            (b'L', b"From\0"),
            (b'Z', b""),
        ] {
            assert!(command(letter, data).is_err(), "{letter}");
        }
    }

    #[test]
    fn only_what_is_offered_and_needed_is_agreed_on() {
        let all = Offer {
            version: 6,
            actions: 0x1ff,
            steps: 0x1f_ffff,
        };
        let agreement = all.agree(false);
        assert!(!agreement.has_header() && !agreement.is_answered(b'H'));
        assert!(agreement.is_answered(b'R') && !agreement.is_answered(b'A'));
        assert!(all.agree(true).has_header());
        let old = Offer {
            version: 2,
            actions: 0x3f,
            steps: 0x7f,
        };
        let agreement = old.agree(false);
        assert!(agreement.is_answered(b'H') && !agreement.has_header());
        let mut out = Vec::new();
        agreement.write(&mut out);
        assert_eq!(out, b"\0\0\0\x0dO\0\0\0\x02\0\0\0\0\0\0\0\x70");
    }

    #[test]
    fn a_reply_has_no_percent_that_means_something() {
        let mut out = Vec::new();
        write_reply("550 5.7.1 100% sure", &mut out);
        assert_eq!(out, b"\0\0\0\x16y550 5.7.1 100%% sure\0");
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_read_or_refused(input in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Ok(Some(packet)) = parse(&input) {
                proptest::prop_assert!(packet.length <= input.len());
                let _ = Command::of(packet.letter, packet.data);
            }
        }

        #[test]
        fn any_data_is_understood_or_refused(letter in "[ODCHMRLNEBTUAKQ]", data in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let _ = Command::of(letter.as_bytes()[0], &data);
        }
    }
}
