//! Any reply of a next hop is read or refused; what a policy says makes lines that SMTP allows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::reply::{Capabilities, Reply};

fuzz_target!(|input: (&[u8], u16, &str, &str, bool)| {
    let (wire, code, enhanced, text, permanent) = input;
    if let Ok(Some((reply, consumed))) = Reply::parse(wire) {
        assert!(consumed <= wire.len());
        check(&reply);
        Capabilities::from_ehlo(&reply);
    }
    let reply = Reply::from_policy(code, enhanced, text, permanent);
    assert_eq!(reply.is_permanent(), permanent);
    check(&reply);
});

fn check(reply: &Reply) {
    let mut wire = Vec::new();
    reply.write(&mut wire);
    assert!(wire.ends_with(b"\r\n"));
    for line in wire[..wire.len() - 2].split(|byte| *byte == b'\n') {
        assert!(line.len() <= 511);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(line.iter().all(|byte| (b' '..=b'~').contains(byte)), "{line:?}");
    }
    let again = Reply::parse(&wire).expect("our own replies are well-formed");
    assert!(again.is_some_and(|(_, consumed)| consumed == wire.len()));
}
