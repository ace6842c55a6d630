//! The store from which policies come.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problem::Key::{Name, Number};
use super::problem::{Outcome, wrong};
use super::trust::{Policies, Trust};
use super::values::{self, CertificateFiles};

/// To which hosts an entry of the store is addressed.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Deserialize,
    Serialize,
    clap::ValueEnum,
)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Ring {
    /// Those that try policies out
    Canary,
    /// All hosts
    #[default]
    All,
}

impl Ring {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Ring::Canary => "canary",
            Ring::All => "all",
        }
    }
}

/// The store from which policies come, for many hosts: NATS JetStream, or files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Fleet {
    /// The servers, such as `tls://nats1.example:4222`.
    #[serde(default)]
    pub servers: Vec<String>,
    /// In place of servers, where `portcullis fleet export` has put files: `https://cdn.example/portcullis`, or
    /// `file:///media/usb`.
    pub url: Option<String>,
    /// How often it is looked there whether something has changed.
    #[serde(default = "poll", with = "values::duration")]
    #[cfg_attr(test, schemars(with = "super::schema::Time"))]
    pub poll: Duration,
    /// The file of what lets this host in: NATS credentials, the seed of an nkey, or `user:password`; for a URL
    /// `user:password`, or a bearer token.
    pub credentials: Option<PathBuf>,
    /// Root certificates of the servers (PEM) beside the system's.
    pub roots: Option<PathBuf>,
    /// The certificate that this host shows the servers.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The bucket of policies. What hosts say of themselves is in one whose name ends with `-status`.
    #[serde(default = "bucket")]
    pub bucket: String,
    /// Which policies this host takes: `canary` takes those that are tried out, too.
    #[serde(default)]
    pub ring: Ring,
    /// What this host calls itself; its hostname, if absent.
    pub name: Option<String>,
    /// The NATS subject that decisions are published under, each as a line of the JSON log; none by default.
    pub decisions: Option<String>,
}

fn poll() -> Duration {
    Duration::from_secs(10)
}

fn bucket() -> String {
    "portcullis".into()
}

impl Fleet {
    /// A store at these servers.
    pub fn at(servers: Vec<String>) -> Self {
        Fleet {
            servers,
            url: None,
            poll: poll(),
            credentials: None,
            roots: None,
            certificate: None,
            key: None,
            bucket: bucket(),
            ring: Ring::All,
            name: None,
            decisions: None,
        }
    }

    /// The certificate that is shown, and its key.
    pub fn identity(&self) -> Option<CertificateFiles> {
        Some(CertificateFiles {
            certificate: self.certificate.clone()?,
            key: self.key.clone()?,
        })
    }

    /// Makes relative paths start at a folder.
    pub(super) fn resolve(&mut self, folder: &Path) {
        let files = [
            &mut self.credentials,
            &mut self.roots,
            &mut self.certificate,
            &mut self.key,
        ];
        for path in files.into_iter().flatten() {
            *path = folder.join(&*path);
        }
    }

    pub(super) fn validate(&self, trust: &Trust) -> Outcome {
        let at = |key| [Name("fleet"), Name(key)];
        if trust.policies != Policies::Signed {
            let text =
                "what comes over a network must be signed: set [trust] policies = \"signed\"";
            return wrong(at("servers"), text);
        }
        match (&self.url, self.servers.is_empty()) {
            (None, true) => return wrong(at("servers"), "a fleet needs servers, or a url"),
            (Some(_), false) => {
                return wrong(at("url"), "a fleet has either servers or a url");
            }
            (Some(url), true) => validate_url(url)?,
            (None, false) => {}
        }
        for (number, server) in self.servers.iter().enumerate() {
            let at = [Name("fleet"), Name("servers"), Number(number)];
            if server.contains('@') {
                // The line is shown where something is wrong with it.
                let text =
                    "a password stands in a file (credentials), and not in the address of a server";
                return wrong([Name("fleet")], text);
            }
            if let Err(error) = server.parse::<async_nats::ServerAddr>() {
                let text = format!("it is no address of a NATS server: {error}");
                return wrong(at, text);
            }
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.bucket.is_empty() || !self.bucket.chars().all(is_word) {
            let text = format!(
                "{:?} is not the name of a bucket: letters, digits, - and _",
                self.bucket
            );
            return wrong(at("bucket"), text);
        }
        if let Some(subject) = &self.decisions {
            let is_word = |word: &str| {
                let is_odd = |c: char| c.is_whitespace() || c.is_control() || c == '*' || c == '>';
                !word.is_empty() && !word.contains(is_odd)
            };
            if !subject.split('.').all(is_word) || subject.starts_with('$') {
                let text = format!("{subject:?} is not a NATS subject, as portcullis.decisions is");
                return wrong(at("decisions"), text);
            }
            if self.url.is_some() {
                let text = "decisions are published by NATS, and there are no servers";
                return wrong(at("decisions"), text);
            }
        }
        if self.certificate.is_some() != self.key.is_some() {
            return wrong(at("certificate"), "a certificate and its key go together");
        }
        Ok(())
    }
}

/// Whether files can be had there.
fn validate_url(url: &str) -> Outcome {
    let at = [Name("fleet"), Name("url")];
    if let Some(folder) = url.strip_prefix("file://") {
        return match folder.starts_with('/') {
            true => Ok(()),
            false => wrong(at, "a folder is named from the root: file:///media/usb"),
        };
    }
    if url.contains('@') {
        // The line is shown where something is wrong with it.
        let text = "a password stands in a file (credentials), and not in the URL";
        return wrong([Name("fleet")], text);
    }
    let parsed = url.parse::<hyper::Uri>().ok().filter(|_| url.is_ascii());
    let parsed = parsed.filter(|it| matches!(it.scheme_str(), Some("http" | "https")));
    let Some(host) = parsed.as_ref().and_then(hyper::Uri::authority) else {
        let text = format!("{url:?} is no https, http or file URL");
        return wrong(at, text);
    };
    if host.as_str() != host.host() && host.port_u16().is_none() {
        return wrong(at, format!("{url:?} has no port that can be"));
    }
    let is_plain = parsed.as_ref().and_then(hyper::Uri::scheme_str) == Some("http");
    if is_plain && !is_loopback(host.host()) {
        let text = "files come by https: by http, anybody on the way could leave tenants out, and read the credentials";
        return wrong(at, text);
    }
    match url.contains(['?', '#']) {
        true => wrong(
            at,
            "the names of files follow the URL: it has no ? and no #",
        ),
        false => Ok(()),
    }
}

/// Whether what is sent there stays on this machine.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_from_where_nobody_changes_them_on_the_way() {
        for url in [
            "https://cdn.example/fleet",
            "https://cdn.example:8443",
            "http://127.0.0.1:8080/x",
            "http://[::1]/",
            "http://localhost/",
            "file:///media/usb",
        ] {
            assert!(validate_url(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "cdn.example",
            "http://cdn.example/",
            "http://192.0.2.1/",
            "http://localhost.example/",
            "https://u:secret@cdn.example/",
            "https://cdn.example/?x",
            "https://cdn.example/#x",
            "https://cdn.example:99999/",
            "https://cdn.example/é",
            "ftp://cdn.example/",
            "file://media/usb",
        ] {
            assert!(validate_url(url).is_err(), "{url}");
        }
    }
}
