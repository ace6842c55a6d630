//! A server at one of its addresses, connected, with all that it must show.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::dane;
use super::failure::ProtectionError;
use super::mta_sts;
use super::route::Candidate;
use super::verify::Requirements;
use crate::config;
use crate::egress::credentials::{Credentials, PasswordError};
use portcullis::tls::Authorities;
use portcullis::{Host, Protection};

/// A server at one of its addresses, with all that it must show.
pub struct Endpoint {
    /// The server.
    pub candidate: Arc<Candidate>,
    /// The address.
    pub address: SocketAddr,
    /// Both, for the log.
    pub peer: Arc<str>,
    /// The connection to it, until it is used.
    pub(super) connected: Mutex<Option<TcpStream>>,
    /// When it must be ready, so that the others have their time as well.
    pub(super) deadline: Instant,
    pub(super) protection: Protection,
    /// Whom it may be certified by.
    pub(super) authorities: Authorities,
    pub(super) dane: Arc<dane::Demand>,
    pub(super) mta_sts: bool,
    /// The MTA-STS policy of the domain, whatever its mode is.
    pub(super) policy: Option<mta_sts::Policy>,
    /// Why the newest policy could not be had.
    pub(super) policy_error: Option<ProtectionError>,
    pub(super) domains: Arc<[String]>,
    /// Whether TLS begins with the first octet.
    pub(super) implicit_tls: bool,
    /// Whether old cipher suites are allowed towards it.
    pub(super) is_legacy: bool,
    /// Where we log in.
    pub(super) login: Option<Login>,
    /// Whether the sender demands that its certificate is verified (RFC 8689).
    pub(super) requires_tls: bool,
    /// What a connector in audit mode would ask for.
    pub(super) audited: Option<Arc<Audited>>,
}

/// Where we log in: the smart host, by its name in the rules, and with what.
#[derive(Clone)]
pub(super) struct Login {
    pub(super) host: Host,
    pub(super) how: config::Login,
    pub(super) credentials: Result<Credentials, PasswordError>,
}

/// What a connector in audit mode would ask of a server, or why it would not use it.
pub(super) struct Audited {
    pub(super) protection: Protection,
    pub(super) dane: Result<dane::Demand, ProtectionError>,
    pub(super) mta_sts: Result<bool, ProtectionError>,
}

impl Endpoint {
    pub(super) fn requirements(&self) -> Requirements<'_> {
        self.requirements_at(&self.protection)
    }

    /// What an audited connector would ask for.
    ///
    /// # Errors
    /// Why it would not use this server, whatever the server shows.
    pub(super) fn audited(&self) -> Option<Result<Requirements<'_>, ProtectionError>> {
        let audited = self.audited.as_deref()?;
        Some(match (&audited.dane, &audited.mta_sts) {
            (Err(why), _) | (_, Err(why)) => Err(why.clone()),
            (Ok(dane), Ok(mta_sts)) => Ok(Requirements {
                protection: &audited.protection,
                dane,
                mta_sts: *mta_sts,
                ..self.requirements()
            }),
        })
    }

    pub(super) fn requirements_at<'a>(&'a self, protection: &'a Protection) -> Requirements<'a> {
        Requirements {
            protection,
            dane: &self.dane,
            mta_sts: self.mta_sts,
            host: self.candidate.name.as_deref(),
            domains: &self.domains,
            requires_tls: self.requires_tls || self.login.is_some(),
        }
    }
}
