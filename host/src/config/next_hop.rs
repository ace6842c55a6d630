//! Where accepted mail goes: a server, at which we may log in, or a Maildir.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::problem::Key::{Name, Number};
use super::problem::{Outcome, Wrong, wrong};
use portcullis::{Sha256, is_well_formed};

/// Where accepted mail goes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RawNextHop {
    /// An SMTP server, `host:port`.
    pub smtp: Option<String>,
    /// An LMTP server (RFC 2033), `host:port` or `unix:/path`.
    pub lmtp: Option<String>,
    /// A Maildir.
    pub maildir: Option<PathBuf>,
    /// Whether to use STARTTLS where the server offers it.
    #[serde(default = "yes")]
    pub starttls: bool,
    /// Whether TLS begins with the first octet (RFC 8314 §3.3); by default at port 465.
    pub implicit_tls: Option<bool>,
    /// The name by which we log in.
    pub username: Option<String>,
    /// The file of the password.
    pub password_file: Option<PathBuf>,
    /// The name that the certificate of a server must have that we log in at; by default that of its address.
    pub certificate_name: Option<String>,
    /// The SHA-256 of certificates, of which a server that we log in at must show one.
    #[serde(default)]
    pub certificate_fingerprints: Vec<String>,
    /// Whether to tell an SMTP server the client's address and name by XCLIENT.
    #[serde(default)]
    pub xclient: bool,
    /// Whether to tell the server the client's address by the PROXY protocol, and in which version.
    pub proxy_protocol: Option<u8>,
    /// How many recipients one transaction may have towards this server; as many as there are by default.
    pub recipients: Option<usize>,
}

fn yes() -> bool {
    true
}

/// Where accepted mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// To an SMTP server.
    Smtp {
        /// The server.
        server: NextHopServer,
        /// Whether to tell it the client's address and name by XCLIENT.
        xclient: bool,
    },
    /// To an LMTP server (RFC 2033).
    Lmtp {
        /// The server.
        server: NextHopServer,
    },
    /// To a Maildir.
    Maildir {
        /// Its folder.
        folder: PathBuf,
        /// How many recipients one transaction may have; as many as there are if absent.
        recipients: Option<NonZeroUsize>,
    },
}

/// A server that mail is handed over to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHopServer {
    /// `host:port`; for LMTP, `unix:/path` as well.
    pub address: String,
    /// Whether to use STARTTLS where the server offers it.
    pub starttls: bool,
    /// Whether TLS begins with the first octet; absent if the port tells.
    pub implicit_tls: Option<bool>,
    /// How we log in there, if we do.
    pub login: Option<Login>,
    /// Whether to tell the server the client's address by the PROXY protocol, and in which version.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How many recipients one transaction may have; as many as there are if absent.
    pub recipients: Option<NonZeroUsize>,
}

/// How we log in at a server, and how it proves to be the one that may have the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The file of the password.
    pub password_file: PathBuf,
    /// The name that its certificate must have; absent if it is that of its address.
    pub certificate_name: Option<String>,
    /// Digests, of which its certificate must have one, whoever has issued it; empty if the name counts.
    pub certificate_fingerprints: Vec<Sha256>,
}

/// How we log in, as it is written in the table of a server.
pub(super) struct RawLogin {
    /// The name by which we log in.
    pub username: Option<String>,
    /// The file of the password.
    pub password_file: Option<PathBuf>,
    /// The name that the server's certificate must have; by default that of its address.
    pub certificate_name: Option<String>,
    /// The SHA-256 of certificates, of which the server must show one.
    pub certificate_fingerprints: Vec<String>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
}

/// Reads `certificate-fingerprints`.
pub(super) fn fingerprints(texts: &[String]) -> Result<Vec<Sha256>, Wrong> {
    let mut digests = Vec::new();
    for (number, text) in texts.iter().enumerate() {
        // That of nothing stands for a certificate that proves nothing.
        let digest = Sha256::parse(text).filter(|digest| *digest != Sha256::default());
        let Some(digest) = digest else {
            let message = format!("{text:?} is not a SHA-256 in hexadecimal");
            return wrong([Name("certificate-fingerprints"), Number(number)], message);
        };
        digests.push(digest);
    }
    Ok(digests)
}

impl RawLogin {
    /// How we log in, if we do; the other keys are for that only.
    pub(super) fn check(self) -> Result<Option<Login>, Wrong> {
        let certificate_fingerprints = fingerprints(&self.certificate_fingerprints)?;
        if let Some(name) = &self.certificate_name
            && !is_well_formed(name)
        {
            let message = format!("{name:?} is not a certificate name");
            return wrong([Name("certificate-name")], message);
        }
        match (self.username, self.password_file) {
            (Some(username), Some(password_file)) => {
                if username.is_empty() || username.contains(char::is_control) {
                    return wrong([Name("username")], "it is no name to log in by");
                }
                Ok(Some(Login {
                    username,
                    password_file,
                    certificate_name: self.certificate_name,
                    certificate_fingerprints,
                }))
            }
            (Some(_), None) => wrong([Name("username")], "it needs password-file as well"),
            (None, Some(_)) => wrong([Name("password-file")], "it needs username as well"),
            (None, None) => {
                let key = match (self.certificate_name, &certificate_fingerprints[..]) {
                    (Some(_), _) => "certificate-name",
                    (None, [_, ..]) => "certificate-fingerprints",
                    (None, []) => return Ok(None),
                };
                wrong(
                    [Name(key)],
                    "it is for a server that we log in at (username)",
                )
            }
        }
    }
}

impl RawNextHop {
    /// Makes relative paths start at a folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        let absolute = |path: &mut PathBuf| *path = folder.join(&*path);
        self.maildir.iter_mut().for_each(absolute);
        self.password_file.iter_mut().for_each(absolute);
    }

    /// How we log in, if we do.
    fn login(&mut self) -> Result<Option<Login>, Wrong> {
        let login = RawLogin {
            username: self.username.take(),
            password_file: self.password_file.take(),
            certificate_name: self.certificate_name.take(),
            certificate_fingerprints: std::mem::take(&mut self.certificate_fingerprints),
        };
        let login = login.check()?;
        if login.is_none() {
            return Ok(None);
        }
        if self.xclient {
            let message = "a server that is told its client by XCLIENT forgets who has logged in";
            return wrong([Name("xclient")], message);
        }
        Ok(login)
    }

    /// A Unix socket has no TLS, and nothing that needs it.
    fn check_unix_socket(&self) -> Outcome {
        if !self.lmtp.as_ref().is_some_and(|it| it.starts_with("unix:")) {
            return Ok(());
        }
        let key = match (&self.username, self.implicit_tls) {
            (Some(_), _) => "username",
            (None, Some(true)) => "implicit-tls",
            _ => return Ok(()),
        };
        wrong([Name(key)], "there is no TLS on a Unix socket")
    }

    pub(super) fn check(mut self) -> Result<NextHop, Wrong> {
        self.check_unix_socket()?;
        let login = self.login()?;
        enum Kind {
            Smtp(String),
            Lmtp(String),
            Maildir(PathBuf),
        }
        let kind = match (self.smtp, self.lmtp, self.maildir) {
            (Some(smtp), None, None) => Kind::Smtp(smtp),
            (None, Some(lmtp), None) => Kind::Lmtp(lmtp),
            (None, None, Some(maildir)) => Kind::Maildir(maildir),
            _ => return wrong([], "it needs exactly one of smtp, lmtp and maildir"),
        };
        if matches!(kind, Kind::Maildir(_)) {
            let of_servers = [
                ("username", login.is_some()),
                ("implicit-tls", self.implicit_tls.is_some()),
            ];
            if let Some((key, _)) = of_servers.into_iter().find(|(_, is_there)| *is_there) {
                return wrong([Name(key)], "it is for an smtp or lmtp next hop");
            }
        }
        if self.xclient && !matches!(kind, Kind::Smtp(_)) {
            return wrong([Name("xclient")], "it is for an smtp next hop");
        }
        if self.proxy_protocol.is_some() && matches!(kind, Kind::Maildir(_)) {
            let message = "it is for an smtp or lmtp next hop";
            return wrong([Name("proxy-protocol")], message);
        }
        let proxy_protocol = match self.proxy_protocol {
            None => None,
            Some(1) => Some(ProxyVersion::V1),
            Some(2) => Some(ProxyVersion::V2),
            Some(_) => return wrong([Name("proxy-protocol")], "the version is 1 or 2"),
        };
        let recipients = match self.recipients.map(NonZeroUsize::new) {
            Some(None) => return wrong([Name("recipients")], "it must be at least 1"),
            Some(some) => some,
            None => None,
        };
        let server = |address| NextHopServer {
            address,
            starttls: self.starttls,
            implicit_tls: self.implicit_tls,
            login: login.clone(),
            proxy_protocol,
            recipients,
        };
        Ok(match kind {
            Kind::Smtp(address) => NextHop::Smtp {
                server: server(address),
                xclient: self.xclient,
            },
            Kind::Lmtp(address) => NextHop::Lmtp {
                server: server(address),
            },
            Kind::Maildir(folder) => NextHop::Maildir { folder, recipients },
        })
    }
}

impl NextHop {
    /// How many recipients one transaction may have.
    pub fn recipients(&self) -> usize {
        let limit = match self {
            NextHop::Smtp { server, .. } | NextHop::Lmtp { server } => server.recipients,
            NextHop::Maildir { recipients, .. } => *recipients,
        };
        limit.map_or(usize::MAX, NonZeroUsize::get)
    }
}
