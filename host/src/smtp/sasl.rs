//! SASL (RFC 4422) as SMTP uses it (RFC 4954): SCRAM-SHA-256 with and without channel binding (RFC 5802, RFC 7677,
//! RFC 9266), PLAIN (RFC 4616) and LOGIN, as a client; what a client says by PLAIN, as a server.
//!
//! What a server says is bounded and checked: it makes us neither panic nor count for minutes.

use std::num::NonZeroU32;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::{constant_time, digest, pbkdf2};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;

/// How often a server may have us hash a password: some seconds of one processor. RFC 7677 §4 has 4,096, and servers
/// have up to 600,000.
const MAX_ITERATIONS: u32 = 2_000_000;
/// Octets of a nonce before they are encoded.
const NONCE: usize = 18;
/// Octets of SHA-256.
const DIGEST: usize = 32;

/// What binds an exchange to its TLS session (RFC 9266): the octets of `tls-exporter`.
pub type ChannelBinding = [u8; 32];

/// A way to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The password stays here, and so does the session: whoever stands in between gets nothing.
    ScramSha256Plus,
    /// The password stays here.
    ScramSha256,
    /// The server is told the password.
    Plain,
    /// The same, a step each.
    Login,
}

impl Mechanism {
    /// Those that we know, the best first.
    pub const ALL: [Mechanism; 4] = [
        Mechanism::ScramSha256Plus,
        Mechanism::ScramSha256,
        Mechanism::Plain,
        Mechanism::Login,
    ];

    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }

    /// The best of those that a server offers, in upper case.
    pub fn best_of(offered: &[String], can_bind: bool) -> Option<Mechanism> {
        Mechanism::ALL
            .into_iter()
            .filter(|known| can_bind || *known != Mechanism::ScramSha256Plus)
            .find(|known| offered.iter().any(|name| name == known.name()))
    }
}

/// An exchange went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SaslError {
    /// A challenge is not what comes at this step.
    #[error("its challenge makes no sense")]
    Challenge,
    /// It wants the password hashed too often.
    #[error("it wants the password hashed more than {MAX_ITERATIONS} times")]
    Iterations,
    /// Its nonce is not ours with something behind.
    #[error("its challenge is one to somebody else")]
    Nonce,
    /// It says why it does not take the proof.
    #[error("it does not take the proof")]
    Refused,
    /// Its signature is wrong, or it says yes without one.
    #[error("it does not prove that it knows the password")]
    Signature,
    /// The name or the password has characters that no password has (RFC 4013).
    #[error("the name or the password has characters that cannot be sent")]
    Characters,
    /// Our own operating system has no random numbers.
    #[error("there are no random numbers")]
    Random,
}

/// A client that logs in, a step after another.
pub struct Exchange {
    state: State,
}

enum State {
    Plain(Vec<u8>),
    LoginName(String, String),
    LoginPassword(String),
    ScramFirst(Scram),
    ScramFinal(Scram),
    /// The signature that the server has to show.
    ScramProof([u8; DIGEST]),
    Done,
    /// It went wrong.
    Broken,
}

struct Scram {
    password: String,
    /// Until which the server knows what it binds the exchange to.
    header: String,
    binding: Vec<u8>,
    nonce: String,
    /// The first message without its header.
    first: String,
}

impl Exchange {
    /// Begins to log in. `binding` is that of the TLS session, if it has one; `mechanism` is one of those that
    /// [`Mechanism::best_of`] gives with it.
    ///
    /// # Errors
    /// If name or password cannot be sent.
    pub fn new(
        mechanism: Mechanism,
        username: &str,
        password: &str,
        binding: Option<&ChannelBinding>,
    ) -> Result<Self, SaslError> {
        if [username, password].iter().any(|text| text.contains('\0')) {
            return Err(SaslError::Characters);
        }
        let state = match mechanism {
            Mechanism::Plain => State::Plain(format!("\0{username}\0{password}").into_bytes()),
            Mechanism::Login => State::LoginName(username.into(), password.into()),
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
                let mut nonce = [0; NONCE];
                aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SaslError::Random)?;
                let nonce = BASE64_STANDARD.encode(nonce);
                let binds = mechanism == Mechanism::ScramSha256Plus;
                State::ScramFirst(Scram::new(username, password, binds, binding, nonce)?)
            }
        };
        Ok(Exchange { state })
    }

    /// The first word, where the client has it.
    pub fn initial(&mut self) -> Option<Vec<u8>> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Plain(message) => {
                self.state = State::Done;
                Some(message)
            }
            State::ScramFirst(scram) => {
                let message = format!("{}{}", scram.header, scram.first);
                self.state = State::ScramFinal(scram);
                Some(message.into_bytes())
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// The answer to a challenge.
    ///
    /// # Errors
    /// If the challenge is none that can be answered.
    pub fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, SaslError> {
        let (state, answer) = match std::mem::replace(&mut self.state, State::Broken) {
            // Whatever the prompts are, the name comes first.
            State::LoginName(name, password) => (State::LoginPassword(password), name.into_bytes()),
            State::LoginPassword(password) => (State::Done, password.into_bytes()),
            State::ScramFinal(scram) => {
                let (answer, signature) = scram.answer(challenge)?;
                (State::ScramProof(signature), answer)
            }
            State::ScramProof(signature) => {
                verify(challenge, &signature)?;
                (State::Done, Vec::new())
            }
            State::Plain(_) | State::ScramFirst(_) | State::Done | State::Broken => {
                return Err(SaslError::Challenge);
            }
        };
        self.state = state;
        Ok(answer)
    }

    /// The server says that we are in.
    ///
    /// # Errors
    /// If it has not shown that it knows the password, where it must.
    pub fn finish(&self) -> Result<(), SaslError> {
        match &self.state {
            State::Done => Ok(()),
            State::ScramFinal(_) | State::ScramProof(_) => Err(SaslError::Signature),
            _ => Err(SaslError::Challenge),
        }
    }
}

impl Scram {
    fn new(
        username: &str,
        password: &str,
        binds: bool,
        binding: Option<&ChannelBinding>,
        nonce: String,
    ) -> Result<Self, SaslError> {
        let prepare = |text: &str| {
            let prepared = stringprep::saslprep(text).map_err(|_| SaslError::Characters)?;
            Ok(prepared.into_owned())
        };
        let username = prepare(username)?.replace('=', "=3D").replace(',', "=2C");
        // RFC 5802 §6: a server that could bind and has lost the offer on the way hears that we could as well.
        let (header, binding) = match (binds, binding) {
            (true, Some(binding)) => ("p=tls-exporter,,", &binding[..]),
            (true, None) => return Err(SaslError::Challenge),
            (false, Some(_)) => ("y,,", &[][..]),
            (false, None) => ("n,,", &[][..]),
        };
        Ok(Scram {
            password: prepare(password)?,
            header: header.into(),
            binding: [header.as_bytes(), binding].concat(),
            first: format!("n={username},r={nonce}"),
            nonce,
        })
    }

    /// The proof, and the signature that the server has to answer with.
    fn answer(&self, challenge: &[u8]) -> Result<(Vec<u8>, [u8; DIGEST]), SaslError> {
        let challenge = std::str::from_utf8(challenge).map_err(|_| SaslError::Challenge)?;
        let (nonce, salt, iterations) = first_of_server(challenge)?;
        let is_ours = nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce);
        if !is_ours {
            return Err(SaslError::Nonce);
        }
        let mut salted = [0; DIGEST];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(
            algorithm,
            iterations,
            &salt,
            self.password.as_bytes(),
            &mut salted,
        );
        let bound = BASE64_STANDARD.encode(&self.binding);
        let last = format!("c={bound},r={nonce}");
        let message = format!("{},{challenge},{last}", self.first);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let signature = sign(stored_key.as_ref(), message.as_bytes());
        let mut proof = client_key;
        proof
            .iter_mut()
            .zip(signature)
            .for_each(|(octet, other)| *octet ^= other);
        let server_key = sign(&salted, b"Server Key");
        let answer = format!("{last},p={}", BASE64_STANDARD.encode(proof));
        Ok((answer.into_bytes(), sign(&server_key, message.as_bytes())))
    }
}

/// The nonce, the salt and the iterations of a server's first message (RFC 5802 §7).
fn first_of_server(challenge: &str) -> Result<(&str, Vec<u8>, NonZeroU32), SaslError> {
    let mut attributes = challenge.split(',');
    // An extension that has to be understood comes first ("m="), and there is none.
    let mut value = |name: &str| attributes.next()?.strip_prefix(name)?.strip_prefix('=');
    let all = (value("r"), value("s"), value("i"));
    let (Some(nonce), Some(salt), Some(iterations)) = all else {
        return Err(SaslError::Challenge);
    };
    let salt = BASE64_STANDARD
        .decode(salt)
        .map_err(|_| SaslError::Challenge)?;
    let iterations: NonZeroU32 = iterations.parse().map_err(|_| SaslError::Challenge)?;
    if iterations.get() > MAX_ITERATIONS {
        return Err(SaslError::Iterations);
    }
    Ok((nonce, salt, iterations))
}

/// Whether a server's last message has this signature.
fn verify(challenge: &[u8], signature: &[u8; DIGEST]) -> Result<(), SaslError> {
    let challenge = std::str::from_utf8(challenge).map_err(|_| SaslError::Challenge)?;
    let first = challenge.split(',').next().unwrap_or_default();
    if first.starts_with("e=") {
        return Err(SaslError::Refused);
    }
    let shown = first.strip_prefix("v=").ok_or(SaslError::Challenge)?;
    let shown = BASE64_STANDARD
        .decode(shown)
        .map_err(|_| SaslError::Challenge)?;
    constant_time::verify_slices_are_equal(&shown, signature).map_err(|_| SaslError::Signature)
}

fn sign(key: &[u8], message: &[u8]) -> [u8; DIGEST] {
    let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, key), message);
    let mut signature = [0; DIGEST];
    signature
        .iter_mut()
        .zip(tag.as_ref())
        .for_each(|(octet, own)| *octet = *own);
    signature
}

/// Who wants to be let in, as a client says it.
#[derive(Clone, PartialEq, Eq)]
pub struct Claim {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl Claim {
    /// Reads the message of PLAIN (RFC 4616 §2). Nobody acts for somebody else here.
    pub fn plain(message: &[u8]) -> Option<Claim> {
        let text = std::str::from_utf8(message).ok()?;
        let mut parts = text.split('\0');
        let (acts_for, username, password) = (parts.next()?, parts.next()?, parts.next()?);
        let is_own = acts_for.is_empty() || acts_for == username;
        let is_whole = parts.next().is_none() && !username.is_empty() && !password.is_empty();
        (is_own && is_whole).then(|| Claim {
            username: username.into(),
            password: password.into(),
        })
    }
}

/// A response of a client: base64 and nothing else; `=` is an empty one (RFC 4954 §4).
pub fn decode(text: &str) -> Option<Vec<u8>> {
    match text {
        "=" => Some(Vec::new()),
        text => BASE64_STANDARD.decode(text).ok(),
    }
}

/// The same the other way round: what has no octets is `=`, as an initial response.
pub fn encode_initial(octets: &[u8]) -> String {
    match octets {
        [] => "=".into(),
        octets => BASE64_STANDARD.encode(octets),
    }
}

/// A challenge or a response.
pub fn encode(octets: &[u8]) -> String {
    BASE64_STANDARD.encode(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scram(binds: bool, binding: Option<&ChannelBinding>, nonce: &str) -> Exchange {
        let scram = Scram::new("user", "pencil", binds, binding, nonce.into()).unwrap();
        Exchange {
            state: State::ScramFirst(scram),
        }
    }

    /// The example of RFC 7677 §3.
    #[test]
    fn scram_is_that_of_the_rfc() {
        let mut exchange = scram(false, None, "rOprNGfwEbeRWgbNEkqO");
        assert_eq!(
            exchange.initial().unwrap(),
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
        );
        let challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let answer = exchange.respond(challenge).unwrap();
        assert_eq!(
            String::from_utf8(answer).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(exchange.finish(), Err(SaslError::Signature));
        let last = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(exchange.respond(last), Ok(Vec::new()));
        assert_eq!(exchange.finish(), Ok(()));
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_not_believed() {
        let challenge = b"r=abcdef,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        for (last, expected) in [
            (
                &b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="[..],
                SaslError::Signature,
            ),
            (b"v=", SaslError::Signature),
            (b"v=!", SaslError::Challenge),
            (b"e=invalid-proof", SaslError::Refused),
            (b"", SaslError::Challenge),
            (b"\xff", SaslError::Challenge),
        ] {
            let mut exchange = scram(false, None, "abc");
            exchange.initial();
            exchange.respond(challenge).unwrap();
            assert_eq!(exchange.respond(last), Err(expected), "{last:?}");
            assert!(exchange.finish().is_err());
        }
    }

    #[test]
    fn challenges_that_make_no_sense_end_the_exchange() {
        for (challenge, expected) in [
            ("", SaslError::Challenge),
            (",", SaslError::Challenge),
            ("r=abcd", SaslError::Challenge),
            ("r=abcd,", SaslError::Challenge),
            ("r=abcd,s=AA==,", SaslError::Challenge),
            ("r=abcd,s=!,i=4096", SaslError::Challenge),
            ("r=abcd,s=AA==,i=0", SaslError::Challenge),
            ("r=abcd,s=AA==,i=99999999999", SaslError::Challenge),
            ("r=abcd,s=AA==,i=4294967295", SaslError::Iterations),
            ("r=abc,s=AA==,i=4096", SaslError::Nonce),
            ("r=xbcd,s=AA==,i=4096", SaslError::Nonce),
            ("m=x,r=abcd,s=AA==,i=4096", SaslError::Challenge),
        ] {
            let mut exchange = scram(false, None, "abc");
            exchange.initial();
            let found = exchange.respond(challenge.as_bytes());
            assert_eq!(found, Err(expected), "{challenge}");
        }
    }

    #[test]
    fn what_is_bound_is_told() {
        for (binds, binding, header) in [
            (true, Some(&[7; 32]), "p=tls-exporter,,"),
            (false, Some(&[7; 32]), "y,,"),
            (false, None, "n,,"),
        ] {
            let mut exchange = scram(binds, binding, "abc");
            let first = exchange.initial().unwrap();
            assert!(first.starts_with(header.as_bytes()));
            let answer = exchange.respond(b"r=abcd,s=AA==,i=1").unwrap();
            let answer = String::from_utf8(answer).unwrap();
            let bound = answer.split(',').next().unwrap().strip_prefix("c=");
            let bound = BASE64_STANDARD.decode(bound.unwrap()).unwrap();
            let data = binding.filter(|_| binds).map_or(&[][..], |it| &it[..]);
            assert_eq!(bound, [header.as_bytes(), data].concat());
        }
    }

    #[test]
    fn the_best_mechanism_is_taken() {
        let offered = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        for (names, can_bind, best) in [
            (&["LOGIN", "PLAIN"][..], true, Some(Mechanism::Plain)),
            (&["LOGIN"], false, Some(Mechanism::Login)),
            (
                &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"],
                true,
                Some(Mechanism::ScramSha256Plus),
            ),
            (
                &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"],
                false,
                Some(Mechanism::ScramSha256),
            ),
            (&["XOAUTH2", "CRAM-MD5"], true, None),
        ] {
            assert_eq!(
                Mechanism::best_of(&offered(names), can_bind),
                best,
                "{names:?}"
            );
        }
    }

    #[test]
    fn plain_and_login_say_name_and_password() {
        let mut plain = Exchange::new(Mechanism::Plain, "b", "x y", None).unwrap();
        assert_eq!(plain.initial().unwrap(), b"\0b\0x y");
        assert_eq!(plain.finish(), Ok(()));
        assert_eq!(plain.respond(b""), Err(SaslError::Challenge));
        assert!(plain.finish().is_err());
        let mut login = Exchange::new(Mechanism::Login, "b", "x y", None).unwrap();
        assert_eq!(login.initial(), None);
        assert_eq!(login.finish(), Err(SaslError::Challenge));
        assert_eq!(login.respond(b"Username:").unwrap(), b"b");
        assert_eq!(login.respond(b"Password:").unwrap(), b"x y");
        assert_eq!(login.finish(), Ok(()));
        assert!(Exchange::new(Mechanism::Plain, "b", "x\0y", None).is_err());
    }

    #[test]
    fn claims_are_whole_and_nobody_elses() {
        let claim = |message: &[u8]| Claim::plain(message).map(|it| (it.username, it.password));
        let known = Some(("b".to_owned(), "x".to_owned()));
        assert_eq!(claim(b"\0b\0x"), known);
        assert_eq!(claim(b"b\0b\0x"), known);
        for message in [
            &b""[..],
            b"\0",
            b"\0\0",
            b"b\0x",
            b"c\0b\0x",
            b"\0b\0",
            b"\0\0x",
            b"\0b\0x\0",
            b"\0b\0\xff",
        ] {
            assert_eq!(claim(message), None, "{message:?}");
        }
        assert_eq!(decode("="), Some(Vec::new()));
        assert_eq!(decode("YWI="), Some(b"ab".to_vec()));
        for text in ["YWI", "YW I=", "YWI==", "*", "YWJ=\u{e9}"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_challenge_is_answered_or_refused(
            challenge in prop::collection::vec(any::<u8>(), 0..100),
            last in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            for mechanism in [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login] {
                let mut exchange = Exchange::new(mechanism, "b", "x", None).unwrap();
                exchange.initial();
                let _ = exchange.respond(&challenge);
                let _ = exchange.respond(&last);
                prop_assert!(mechanism != Mechanism::ScramSha256 || exchange.finish().is_err()
                    || matches!(exchange.state, State::Done));
            }
            let _ = Claim::plain(&challenge);
        }
    }
}
