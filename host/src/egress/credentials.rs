//! What we log in with at servers: a name, and a password that is in a file.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Login;
use crate::smtp::sasl;

/// The port at which TLS begins with the first octet (RFC 8314 §3.3).
pub const SUBMISSIONS: u16 = 465;

/// The largest file of a password.
const MAX_FILE: (usize, &str) = (4096, "the limit of a password's file");

/// A password. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<str>);

impl Password {
    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("…")
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Password(text.into())
    }
}

/// How long a server that has refused a password is not told it again: it may lock the account.
const PAUSE: Duration = Duration::from_secs(60);

/// A name with its password.
#[derive(Clone)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Password,
    /// The password as it may stand in what a server says.
    written: Arc<[String]>,
    /// When they were refused last.
    refused: Arc<Mutex<Option<Instant>>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut shown = f.debug_struct("Credentials");
        shown.field("username", &self.username);
        shown.finish_non_exhaustive()
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.username == other.username && self.password == other.password
    }
}

/// A password cannot be had. The text names the file, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PasswordError(Arc<str>);

impl Credentials {
    /// Reads the password from its file: the first line, without its end.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no password.
    pub fn read(login: &Login) -> Result<Self, PasswordError> {
        let password = password(&login.password_file)?;
        Ok(Credentials::new(&login.username, password))
    }

    fn new(username: &str, password: Password) -> Self {
        let plain = format!("\0{username}\0{}", password.reveal());
        let written = [
            password.reveal().to_owned(),
            sasl::encode(password.reveal().as_bytes()),
            sasl::encode(plain.as_bytes()),
        ];
        let written = written.iter().map(|it| without_space(it));
        Credentials {
            username: username.to_owned(),
            password,
            written: written.filter(|it| !it.is_empty()).collect(),
            refused: Arc::default(),
        }
    }

    /// Whether a text has the password in it, plainly or in base64. A line of it may be wrapped.
    pub fn are_in(&self, text: &str) -> bool {
        let text = without_space(text);
        self.written.iter().any(|it| text.contains(it))
    }

    /// Notes that a server has refused them.
    pub fn note_refusal(&self) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused = Some(Instant::now());
    }

    /// Whether a server has refused them a moment ago.
    pub fn were_refused(&self) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|at| at.elapsed() < PAUSE)
    }
}

fn without_space(text: &str) -> String {
    text.split_whitespace().collect()
}

fn password(path: &Path) -> Result<Password, PasswordError> {
    let wrong = |reason: &str| PasswordError(format!("{}: {reason}", path.display()).into());
    let octets = portcullis::read_file(path, MAX_FILE)
        .map_err(|error| wrong(&format!("the password cannot be read: {error}")))?;
    let text = String::from_utf8(octets).map_err(|_| wrong("the password is not UTF-8"))?;
    let mut lines = text.lines();
    let line = lines.next().unwrap_or_default();
    if line.is_empty() {
        return Err(wrong("the first line is empty, and is to be the password"));
    }
    if lines.any(|line| !line.is_empty()) {
        return Err(wrong("there is more than one line, the password"));
    }
    if line.contains(char::is_control) {
        return Err(wrong("the password has control characters"));
    }
    Ok(line.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (content, expected) in [
            (&b"pass word"[..], Ok("pass word")),
            (b"password\n", Ok("password")),
            (b"password\r\n\n", Ok("password")),
            ("p\u{e4}ss".as_bytes(), Ok("p\u{e4}ss")),
            (b"", Err("empty")),
            (b"\npassword\n", Err("empty")),
            (b"one\ntwo\n", Err("more than one line")),
            (b"pass\0word", Err("control")),
            (b"\xff", Err("UTF-8")),
        ] {
            std::fs::write(&path, content).unwrap();
            match (password(&path), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.reveal(), expected),
                (Err(error), Err(expected)) => {
                    assert!(error.to_string().contains(expected), "{error}");
                    assert!(error.to_string().contains("secret"), "{error}");
                }
                (found, _) => panic!("{content:?} is {found:?}"),
            }
        }
        assert!(password(&folder.path().join("none")).is_err());
        let credentials = Credentials::new("bob", "pass word".into());
        assert!(!format!("{credentials:?}").contains("pass"));
        assert_eq!(format!("{:?}", Password::from("secret")), "…");
    }

    #[test]
    fn a_password_is_found_however_it_is_repeated() {
        let credentials = Credentials::new("bob", "pass word".into());
        for (text, is_there) in [
            ("bad login: pass word", true),
            ("bad login: pass\nword", true),
            ("cGFzcyB3b3Jk", true),
            ("what is AUTH PLAIN AGJvYgBwYXNzIHdvcmQ=?", true),
            ("what is AGJvYgBw\nYXNzIHdvcmQ=?", true),
            ("bob does not get in", false),
            ("", false),
        ] {
            assert_eq!(credentials.are_in(text), is_there, "{text}");
        }
        assert!(!Credentials::new("bob", "  ".into()).are_in("a text"));
    }
}
