//! The end of a message does not depend on how it is cut, and what passes cannot end early behind us.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_fuzz::data::{DataDecoder, DataEncoder};

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    let (content, consumed, finished, clean) = decode(&bytes, &[]);
    assert_eq!((content.clone(), consumed, finished, clean), decode(&bytes, &cuts));
    if !(finished && clean) {
        return;
    }
    let mut wire = Vec::new();
    let mut encoder = DataEncoder::new();
    encoder.encode(&content, &mut wire);
    encoder.finish(&mut wire);
    let end = wire.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 5);
    let end = if wire.starts_with(b".\r\n") { Some(3) } else { end };
    assert_eq!(end, Some(wire.len()));
    assert!(!wire.windows(2).any(|pair| (pair[1] == b'\n') != (pair[0] == b'\r')));
});

fn decode(bytes: &[u8], cuts: &[u8]) -> (Vec<u8>, usize, bool, bool) {
    let mut decoder = DataDecoder::new();
    let mut content = Vec::new();
    let mut at = 0;
    let mut cuts = cuts.iter();
    while at < bytes.len() {
        let length = cuts.next().map_or(bytes.len(), |cut| usize::from(*cut) % 8 + 1);
        let chunk = &bytes[at..bytes.len().min(at + length)];
        let progress = decoder.decode(chunk, &mut content);
        at += progress.consumed;
        if progress.finished {
            return (content, at, true, decoder.error().is_none());
        }
    }
    (content, at, false, decoder.error().is_none())
}
