use portcullis_server::frontend::mta::attributes::Attributes;
use portcullis_server::frontend::mta::milter::packet::{self, Command};
use portcullis_server::frontend::mta::socketmap::netstring;
use portcullis_server::postfix::NextHop;

/// Any octets are requests or an error, and each takes some of them.
pub fn front_doors(input: &[u8]) {
    let mut rest = input;
    while !rest.is_empty() {
        let taken = match rest[0] {
            0 => match packet::parse(rest) {
                Ok(Some(packet)) => {
                    let _ = Command::of(packet.letter, packet.data);
                    packet.length
                }
                Ok(None) | Err(_) => return,
            },
            b'0'..=b'9' => match netstring::parse(rest) {
                Ok(Some((data, taken))) => {
                    let _ = NextHop::parse(&String::from_utf8_lossy(data));
                    taken
                }
                Ok(None) | Err(_) => return,
            },
            _ => match Attributes::parse(rest) {
                Ok(Some((_, taken))) => taken,
                Ok(None) | Err(_) => return,
            },
        };
        assert!(taken > 0);
        rest = &rest[taken..];
    }
}
