//! The facts that connectors read.

use alloc::vec::Vec;

use crate::Fact;
use crate::connector::{Connector, Kind, Selectors};
use crate::requirement::Requirement;

/// All facts, in the order of `wit/policy.wit`.
const ALL: [Fact; 12] = [
    Fact::ClientIp,
    Fact::MailFrom,
    Fact::RcptTo,
    Fact::HeaderFrom,
    Fact::Tls,
    Fact::TlsVersion,
    Fact::Certificate,
    Fact::CertificateNames,
    Fact::CertificateSha256,
    Fact::CertificateKey,
    Fact::CertificateTrust,
    Fact::CertificateAnchors,
];

/// Some facts: a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads(u32);

impl Reads {
    /// Those that a connector reads.
    pub fn of(connector: &Connector) -> Self {
        let lists = [&connector.selectors, &connector.except];
        let has = |is_given: fn(&Selectors) -> bool| lists.iter().any(|list| is_given(list));
        let mut reads = Reads::default();
        reads.insert(Fact::ClientIp, has(|list| !list.sender_ips.is_empty()));
        reads.insert(Fact::MailFrom, has(|list| !list.sender_domains.is_empty()));
        reads.insert(Fact::RcptTo, has(|list| !list.recipient_domains.is_empty()));
        if let Kind::Inbound(inbound) = &connector.kind {
            reads.insert(Fact::HeaderFrom, inbound.match_header_from);
            let by_certificate = has(|list| !list.certificate_names.is_empty());
            for fact in [
                Fact::Tls,
                Fact::Certificate,
                Fact::CertificateNames,
                Fact::CertificateTrust,
                Fact::CertificateAnchors,
            ] {
                reads.insert(fact, by_certificate);
            }
            for requirement in Requirement::ALL {
                reads.insert(requirement.fact(), requirement.is_asked(&inbound.require));
            }
        }
        reads
    }

    fn insert(&mut self, fact: Fact, is_read: bool) {
        self.0 |= u32::from(is_read) << fact as u8;
    }

    /// Whether a fact is among them.
    pub fn has(self, fact: Fact) -> bool {
        self.0 & 1 << fact as u8 != 0
    }

    /// The facts, in the order of the interface.
    pub fn facts(self) -> Vec<Fact> {
        ALL.into_iter().filter(|fact| self.has(*fact)).collect()
    }

    /// These and others.
    pub fn with(self, others: Self) -> Self {
        Reads(self.0 | others.0)
    }

    /// As one word, for packed rules.
    pub fn to_word(self) -> u32 {
        self.0
    }

    /// What [`Reads::to_word`] has given.
    pub fn from_word(word: u32) -> Self {
        Reads(word)
    }
}
