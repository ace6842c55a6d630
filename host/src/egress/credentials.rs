//! What we log in with at servers: a name, and a password that is in a file.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Login;

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
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Password,
    /// When they were refused last.
    refused: Arc<Mutex<Option<Instant>>>,
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
        Ok(Credentials {
            username: login.username.clone(),
            password: password(&login.password_file)?,
            refused: Arc::default(),
        })
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
        assert_eq!(format!("{:?}", Password::from("secret")), "…");
    }
}
