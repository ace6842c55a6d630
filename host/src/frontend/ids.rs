//! Names of sessions.

/// A name for a session, unique enough to be found in a log of years.
pub fn new_id() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0; 10];
    // Without random numbers there would be no TLS either; a fixed name is the least of it.
    let _ = aws_lc_rs::rand::fill(&mut random);
    random
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect()
}
