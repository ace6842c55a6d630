//! The rules in the form in which they are decided on.
//!
//! Values of these types come only from [`crate::document`], which has checked them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ip::PrefixSet;
use crate::names::PatternSet;
use crate::{Mode, Protection, Route};

/// A rules document.
#[derive(Debug, Default)]
pub struct Rules {
    /// The organization's name.
    pub organization: String,
    /// The domains that the organization receives mail for; empty if not told.
    pub accepted_domains: PatternSet,
    /// The connectors in the order of the document.
    pub connectors: Vec<Connector>,
}

/// A connector.
#[derive(Debug)]
pub struct Connector {
    /// The name, unique in the document.
    pub name: String,
    /// The comment.
    pub comment: Option<String>,
    /// How it treats mail that does not comply.
    pub mode: Mode,
    /// Which mail it is for: `from` of an inbound connector, `to` of an outbound one.
    pub selectors: Selectors,
    /// Which of that mail it is not for.
    pub except: Selectors,
    /// What belongs to one direction only.
    pub kind: Kind,
}

/// What belongs to one direction only.
#[derive(Debug)]
pub enum Kind {
    /// Mail from a partner.
    Inbound(Inbound),
    /// Mail to a partner.
    Outbound(Outbound),
}

/// The inbound part of a connector.
#[derive(Debug)]
pub struct Inbound {
    /// Whether `sender-domains` are held against the From header too.
    pub match_header_from: bool,
    /// What the mail must satisfy.
    pub require: Requirements,
    /// The refusal of mail that does not.
    pub reply: Reply,
}

/// The outbound part of a connector.
#[derive(Debug)]
pub struct Outbound {
    /// Where the mail goes.
    pub route: Route,
    /// What the next hop must show.
    pub protection: Protection,
}

/// Lists of patterns: any within a list, all lists that are not empty.
#[derive(Debug, Default)]
pub struct Selectors {
    /// Of the envelope sender, and of the From header where the connector says so.
    pub sender_domains: PatternSet,
    /// Of the client.
    pub sender_ips: PrefixSet,
    /// Of the client's trusted certificate.
    pub certificate_names: PatternSet,
    /// Of the envelope recipient.
    pub recipient_domains: PatternSet,
}

impl Selectors {
    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.sender_domains.is_empty()
            && self.sender_ips.is_empty()
            && self.certificate_names.is_empty()
            && self.recipient_domains.is_empty()
    }
}

/// What inbound mail must satisfy.
#[derive(Debug, Default)]
pub struct Requirements {
    /// The session is encrypted.
    pub tls: bool,
    /// With at least this version, as TLS writes it; 0 is any.
    pub min_version: u16,
    /// The certificate carries one of these names.
    pub certificate_names: PatternSet,
    /// The certificate is one of these.
    pub fingerprints: Vec<Fingerprint>,
    /// The client's address is in one of these ranges.
    pub source_ips: PrefixSet,
}

impl Requirements {
    /// Whether any mail satisfies them.
    pub fn is_empty(&self) -> bool {
        !self.tls && !self.needs_certificate() && self.source_ips.is_empty()
    }

    /// Whether the client must show a certificate.
    pub fn needs_certificate(&self) -> bool {
        !self.certificate_names.is_empty() || !self.fingerprints.is_empty()
    }

    /// Whether the session must be encrypted.
    pub fn needs_tls(&self) -> bool {
        self.tls || self.needs_certificate()
    }
}

/// A SHA-256 in the interface's form.
pub type Fingerprint = (u64, u64, u64, u64);

/// The reply of a refusal.
#[derive(Debug)]
pub struct Reply {
    /// 5yz.
    pub code: u16,
    /// Of class 5.
    pub enhanced: String,
    /// Put behind the connector and the requirement.
    pub text: Option<String>,
}
