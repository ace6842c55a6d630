//! Octets of SMTP.

use portcullis::{Decision, Direction, Refusal, Verdict};
use portcullis_server::smtp::address::Address;
use portcullis_server::smtp::command::Command;
use portcullis_server::smtp::data::{DataDecoder, DataEncoder};
use portcullis_server::smtp::header::{from_addresses, received_count};
use portcullis_server::smtp::reply::{Capabilities, Reply};
use smtp_proto::request::receiver::RequestReceiver;

/// Any line is a command or an error with a reply; what we take, another parser takes too.
pub fn commands(line: &[u8]) {
    match Command::parse(line) {
        Err(error) => assert!(error.reply().is_permanent()),
        Ok(Command::Rcpt { to, .. }) => {
            assert!(!to.as_str().contains(['\r', '\n', '\0']));
            // Source routes, bare Postmaster and UTF-8 are read differently elsewhere.
            if to.is_ascii() && to.domain().is_some() && !line.contains(&b'"') {
                let mut octets = line.to_vec();
                octets.extend_from_slice(b"\r\n");
                let mut receiver = RequestReceiver::default();
                let parsed = receiver.ingest(&mut octets.iter());
                assert!(parsed.is_ok(), "{:?}", String::from_utf8_lossy(line));
            }
        }
        Ok(_) => {}
    }
}

/// The end of a message does not depend on how it is cut, and what passes cannot end early behind us.
pub fn data(input: &[u8]) {
    let Some((octets, cuts)) = crate::read::<(Vec<u8>, Vec<u8>)>(input) else {
        return;
    };
    let decoded = decode(&octets, &[]);
    assert_eq!(decoded, decode(&octets, &cuts));
    if !(decoded.finished && decoded.clean) {
        return;
    }
    let mut wire = Vec::new();
    let mut encoder = DataEncoder::new();
    encoder.encode(&decoded.content, &mut wire);
    encoder.finish(&mut wire);
    let end = wire.windows(5).position(|window| window == b"\r\n.\r\n");
    let end = match wire.starts_with(b".\r\n") {
        true => Some(3),
        false => end.map(|at| at + 5),
    };
    assert_eq!(end, Some(wire.len()));
    let bare = |pair: &[u8]| (pair[1] == b'\n') != (pair[0] == b'\r');
    assert!(!wire.windows(2).any(bare));
}

#[derive(Debug, PartialEq)]
struct Decoded {
    content: Vec<u8>,
    consumed: usize,
    finished: bool,
    clean: bool,
}

fn decode(octets: &[u8], cuts: &[u8]) -> Decoded {
    let mut decoder = DataDecoder::new();
    let mut content = Vec::new();
    let mut consumed = 0;
    let mut finished = false;
    let mut cuts = cuts.iter();
    while consumed < octets.len() && !finished {
        let length = cuts
            .next()
            .map_or(octets.len(), |cut| usize::from(*cut) % 8 + 1);
        let chunk = &octets[consumed..octets.len().min(consumed + length)];
        let progress = decoder.decode(chunk, &mut content);
        consumed += progress.consumed;
        finished = progress.finished;
    }
    Decoded {
        content,
        consumed,
        finished,
        clean: decoder.error().is_none(),
    }
}

/// Any header has addresses or an error; each address is one that could stand in an envelope.
pub fn headers(header: &[u8]) {
    received_count(header);
    if let Ok(addresses) = from_addresses(header) {
        assert!(!addresses.is_empty());
        for address in addresses {
            let parsed = Address::parse(&address).expect("an address");
            assert!(parsed.domain().is_some());
        }
    }
}

/// Any reply of a next hop is read or refused; what a policy says makes lines that SMTP allows.
pub fn replies(input: &[u8]) {
    let Some((wire, code, enhanced, text, permanent)) =
        crate::read::<(&[u8], u16, &str, &str, bool)>(input)
    else {
        return;
    };
    if let Ok(Some((reply, consumed))) = Reply::parse(wire) {
        assert!(consumed <= wire.len());
        check(&reply);
        Capabilities::from_ehlo(&reply);
    }
    let refusal = Refusal {
        connector: None,
        failed: "tls".into(),
        code,
        enhanced: enhanced.into(),
        text: text.into(),
        audit: Vec::new(),
    };
    let verdict = match permanent {
        true => Verdict::Reject(refusal),
        false => Verdict::Defer(refusal),
    };
    let decision = Decision::new(verdict, Direction::Inbound).expect("a refusal can be said");
    let refusal = decision.refusal().expect("it is one");
    let reply = Reply::from_policy(refusal.code, refusal.enhanced, refusal.text);
    assert_eq!(reply.is_permanent(), permanent);
    check(&reply);
}

fn check(reply: &Reply) {
    let mut wire = Vec::new();
    reply.write(&mut wire);
    assert!(wire.ends_with(b"\r\n"));
    for line in wire[..wire.len() - 2].split(|octet| *octet == b'\n') {
        assert!(line.len() <= 511);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(
            line.iter().all(|octet| (b' '..=b'~').contains(octet)),
            "{line:?}"
        );
    }
    let again = Reply::parse(&wire).expect("our own replies are well-formed");
    assert!(again.is_some_and(|(_, consumed)| consumed == wire.len()));
}
