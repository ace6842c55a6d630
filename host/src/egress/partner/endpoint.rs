//! A server at one of its addresses, connected, with all that it must show.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::dane;
use super::route::Candidate;
use super::verify::Requirements;
use portcullis::Protection;
use portcullis::tls::Authorities;

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
    pub(super) domains: Arc<[String]>,
}

impl Endpoint {
    pub(super) fn requirements(&self) -> Requirements<'_> {
        self.requirements_at(&self.protection)
    }

    /// What an audited connector would ask for.
    pub(super) fn audited<'a>(&'a self, audited: &'a Protection) -> Requirements<'a> {
        self.requirements_at(audited)
    }

    pub(super) fn requirements_at<'a>(&'a self, protection: &'a Protection) -> Requirements<'a> {
        Requirements {
            protection,
            dane: &self.dane,
            mta_sts: self.mta_sts,
            host: self.candidate.name.as_deref(),
            domains: &self.domains,
        }
    }
}
