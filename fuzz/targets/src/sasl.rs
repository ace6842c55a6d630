//! What servers and clients say when somebody logs in.

use portcullis_server::smtp::sasl::{Claim, Exchange, Mechanism, decode};

/// Any challenges are answered or end the exchange, and no server is believed by chance; any response is a claim or none.
pub fn sasl(input: &[u8]) {
    for mechanism in [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login] {
        let Ok(mut exchange) = Exchange::new(mechanism, "bob", "secret", None) else {
            panic!("{mechanism:?}")
        };
        let nonce = exchange.initial().unwrap_or_default();
        let nonce = String::from_utf8_lossy(&nonce);
        let nonce = nonce.rsplit("r=").next().unwrap_or_default();
        for line in input.split(|octet| *octet == b'\n') {
            // So that it gets beyond the nonce, which nobody guesses.
            let line = String::from_utf8_lossy(line).replace("NONCE", nonce);
            if exchange.respond(line.as_bytes()).is_err() {
                assert!(exchange.finish().is_err());
                break;
            }
        }
        assert!(mechanism != Mechanism::ScramSha256 || exchange.finish().is_err());
    }
    if let Some(message) = std::str::from_utf8(input).ok().and_then(decode) {
        let _ = Claim::plain(&message);
    }
    if let Some(claim) = Claim::plain(input) {
        assert!(!claim.username.is_empty() && !claim.password.is_empty());
    }
}
