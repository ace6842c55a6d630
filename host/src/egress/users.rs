//! Who may log in: names with hashes of passwords (Argon2, RFC 9106), in a file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use argon2::{Argon2, Params, PasswordHash, PasswordVerifier};

use crate::smtp::sasl::Claim;

/// The largest file: some hundred thousand names.
const MAX_FILE: (usize, &str) = (32 << 20, "the limit of password files");
/// What one verification may cost: KiB of memory, passes and lanes. `doveadm pw -s ARGON2ID` takes 64 MiB and three passes.
const MAX_COST: (u32, u32, u32) = (256 << 10, 16, 16);
/// Against what the passwords of names are held that nobody has: whoever asks is not told by the time that it takes.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGlzIGhlcmU$6Xf4JeFvL9HyNq5V9PxCr6lM2m3Q0ZzN9D3oYkZr0aM";

/// Names, each with the hash of its password.
#[derive(Default)]
pub struct Users(HashMap<String, PasswordHash>);

/// A file of passwords cannot be used. The text says where, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsersError(Arc<str>);

impl Users {
    /// Reads a file with a `name:hash` in each line; empty lines, and those that begin with `#`, say nothing. A hash may
    /// have the mark of its scheme in front, as Dovecot writes it.
    ///
    /// # Errors
    /// Says where in the file and what.
    pub fn read(path: &Path) -> Result<Self, UsersError> {
        let octets = portcullis::read_file(path, MAX_FILE).map_err(|error| {
            UsersError(format!("{}: cannot be read: {error}", path.display()).into())
        })?;
        Users::parse(&octets)
            .map_err(|wrong| UsersError(format!("{}:{wrong}", path.display()).into()))
    }

    /// The text of a file.
    fn parse(octets: &[u8]) -> Result<Self, String> {
        let mut users = Users::default();
        for (number, line) in octets.split(|octet| *octet == b'\n').enumerate() {
            let wrong = |what: &str| format!("{}: {what}", number + 1);
            let line = std::str::from_utf8(line).map_err(|_| wrong("the line is not UTF-8"))?;
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // A name may have a colon in it, and no hash has.
            let (name, hash) = line
                .rsplit_once(':')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| wrong("a line is name:hash"))?;
            let hash = hash_of(hash).map_err(|what| wrong(&what))?;
            if users.0.insert(name.to_owned(), hash).is_some() {
                return Err(wrong(&format!("the name {name:?} is there twice")));
            }
        }
        Ok(users)
    }

    /// Whether a claim is true. That takes tens of milliseconds of one processor.
    pub fn verify(&self, claim: &Claim) -> bool {
        let known = self.0.get(&claim.username);
        let hash = match known {
            Some(hash) => Some(hash.clone()),
            // As dear as another one of the file.
            None => {
                let other = self.0.values().next().cloned();
                other.or_else(|| PasswordHash::new(NOBODY).ok())
            }
        };
        let password = claim.password.as_bytes();
        let fits =
            hash.is_some_and(|hash| Argon2::default().verify_password(password, &hash).is_ok());
        fits && known.is_some()
    }
}

/// Reads a hash as `portcullis admin password`, argon2(1) and `doveadm pw` write it.
fn hash_of(text: &str) -> Result<PasswordHash, String> {
    let marks = ["{ARGON2ID}", "{ARGON2I}"];
    let marked = marks.iter().find_map(|mark| text.strip_prefix(mark));
    let text = marked.unwrap_or(text);
    if !text.starts_with("$argon2") {
        return Err(
            "the password is no hash of Argon2, such as \"portcullis admin password\" writes"
                .into(),
        );
    }
    let hash = PasswordHash::new(text).map_err(|error| format!("the hash is broken: {error}"))?;
    let params = Params::try_from(&hash).map_err(|error| format!("the hash is broken: {error}"))?;
    let (memory, passes, lanes) = MAX_COST;
    if params.m_cost() > memory || params.t_cost() > passes || params.p_cost() > lanes {
        return Err(format!(
            "the hash costs too much: at most {} MiB, {passes} passes and {lanes} lanes",
            memory >> 10
        ));
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("the hash is cut off".into());
    }
    Ok(hash)
}

/// The hash of a password, for a line of a file.
///
/// # Errors
/// If there are no random numbers.
pub fn hash(password: &str) -> Result<String, String> {
    use argon2::PasswordHasher;
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| "there are no random numbers".to_owned())?;
    let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(username: &str, password: &str) -> Claim {
        Claim {
            username: username.into(),
            password: password.into(),
        }
    }

    #[test]
    fn a_password_fits_its_own_name_only() {
        let file = format!(
            "# who may send\n\nbob@contoso.com:{}\nname:with colon:{{ARGON2ID}}{}\r\n",
            hash("p\u{e4}ss").unwrap(),
            hash("other").unwrap()
        );
        let users = Users::parse(file.as_bytes()).unwrap();
        for (username, password, fits) in [
            ("bob@contoso.com", "p\u{e4}ss", true),
            ("name:with colon", "other", true),
            ("bob@contoso.com", "other", false),
            ("bob@contoso.com", "", false),
            ("BOB@contoso.com", "p\u{e4}ss", false),
            ("alice@contoso.com", "p\u{e4}ss", false),
        ] {
            assert_eq!(
                users.verify(&claim(username, password)),
                fits,
                "{username} {password}"
            );
        }
    }

    /// As argon2(1) of Debian writes it: echo -n password | argon2 somesalt -id -e -t 2 -m 16 -p 4.
    #[test]
    fn hashes_of_other_programs_are_known() {
        let hash = "$argon2id$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$GpZ3sK/oH9p7VIiV56G/64Zo/8GaUw434IimaPqxwCo";
        let users = Users::parse(format!("bob:{hash}").as_bytes()).unwrap();
        assert!(users.verify(&claim("bob", "password")));
        assert!(!users.verify(&claim("bob", "Password")));
        assert!(PasswordHash::new(NOBODY).is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let good = hash("x").unwrap();
        for (file, expected) in [
            ("bob".into(), "1: a line is name:hash"),
            (format!(":{good}"), "1: a line is name:hash"),
            ("#\nbob:secret".into(), "2: the password is no hash"),
            (format!("bob:{good}\nbob:{good}"), "2: the name \"bob\" is there twice"),
            (
                "bob:$argon2id$v=19$m=1048576,t=2,p=4$c29tZXNhbHQ$GpZ3sK/oH9p7VIiV56G/64Zo/8GaUw434IimaPqxwCo".into(),
                "1: the hash costs too much",
            ),
            ("bob:$argon2id$v=19$m=65536,t=2,p=4$c29tZXNhbHQ".into(), "1: the hash is cut off"),
            ("bob:$argon2id$v=19$m=6,t=2$".into(), "1: the hash is broken"),
        ] {
            let Err(wrong) = Users::parse(file.as_bytes()) else {
                panic!("{file}")
            };
            assert!(wrong.starts_with(expected), "{wrong}");
        }
        assert!(Users::parse(b"\xff").is_err());
    }

    proptest! {
        #[test]
        fn any_octets_are_a_file_or_an_error(octets in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Users::parse(&octets);
        }
    }
}
