//! The store from which policies come.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::problem::Key::{Name, Number};
use super::problem::{Outcome, wrong};
use super::trust::{Policies, Trust};
use super::values::CertificateFiles;

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

/// The store from which policies come, for many hosts: NATS JetStream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Fleet {
    /// The servers, such as `tls://nats1.example:4222`.
    pub servers: Vec<String>,
    /// The file of what lets this host in: NATS credentials, the seed of an nkey, or `user:password`.
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
}

fn bucket() -> String {
    "portcullis".into()
}

impl Fleet {
    /// A store at these servers.
    pub fn at(servers: Vec<String>) -> Self {
        Fleet {
            servers,
            credentials: None,
            roots: None,
            certificate: None,
            key: None,
            bucket: bucket(),
            ring: Ring::All,
            name: None,
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
        if self.servers.is_empty() {
            return wrong(at("servers"), "a fleet needs servers");
        }
        for (number, server) in self.servers.iter().enumerate() {
            let at = [Name("fleet"), Name("servers"), Number(number)];
            match server.parse::<async_nats::ServerAddr>() {
                // The line is shown where something is wrong with it.
                Ok(address) if address.has_user_pass() => {
                    let text = "a password stands in a file (credentials), and not in the address of a server";
                    return wrong([Name("fleet")], text);
                }
                Ok(_) => {}
                Err(error) => {
                    let text = format!("it is no address of a NATS server: {error}");
                    return wrong(at, text);
                }
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
        if self.certificate.is_some() != self.key.is_some() {
            return wrong(at("certificate"), "a certificate and its key go together");
        }
        Ok(())
    }
}
