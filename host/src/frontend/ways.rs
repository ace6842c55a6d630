//! Ways of asking, and the facts that each cannot tell.

use std::fmt;

use clap::ValueEnum;
use portcullis::{Connector, Direction, Fact, Mode};
use serde::Serialize;

use crate::config::Protocol;

/// A way for another server to ask a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Postfix's policy delegation (check_policy_service)
    Postfix,
    /// Milter, with Postfix
    Milter,
    /// Exim, by Postfix's protocol
    Exim,
    /// Milter, with Sendmail
    Sendmail,
    /// Stalwart's MTA hooks
    Stalwart,
    /// A filter of OpenSMTPD
    Opensmtpd,
    /// The plugin for Haraka, which asks in Haraka's own process
    Haraka,
}

/// A fact that a way cannot tell, or not wholly, and what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The fact.
    pub fact: Fact,
    /// What is known.
    pub known: &'static str,
    /// What to do.
    pub hint: &'static str,
}

/// What a way cannot tell a connector, for a list.
#[derive(Debug, Serialize)]
pub struct Lacking<'a> {
    /// The connector.
    pub connector: &'a str,
    /// The fact.
    pub fact: Fact,
    /// What is known.
    pub known: &'static str,
    /// What to do.
    pub hint: &'static str,
}

const NAMES: Lack = Lack {
    fact: Fact::CertificateNames,
    known: "only the CN, of a certificate that the server trusts",
    hint: "put the partner's certificate into known-certificates",
};
const TRUST: Lack = Lack {
    fact: Fact::CertificateTrust,
    known: "only of a certificate that the server trusts",
    hint: "put the partner's certificate into known-certificates; in Postfix from 3.12 on, tls_trust_server_ccerts = yes trusts certificates of servers",
};
const ANCHORS: Lack = Lack {
    fact: Fact::CertificateAnchors,
    known: "only that the server trusts it, which counts as the authority \"public\"",
    hint: "put the partner's certificate into known-certificates",
};
const HEADER: Lack = Lack {
    fact: Fact::HeaderFrom,
    known: "nothing",
    hint: "let Postfix ask by milter as well (smtpd_milters)",
};
const TRUST_OF_EXIM: Lack = Lack {
    fact: Fact::CertificateTrust,
    known: "only of a certificate that the server trusts",
    hint: "put the partner's certificate into known-certificates",
};
const HEADER_OF_EXIM: Lack = Lack {
    fact: Fact::HeaderFrom,
    known: "nothing without PORTCULLIS_HEADER",
    hint: "say \"PORTCULLIS_HEADER = yes\" in Exim's main section, and \"require acl = portcullis_data\" in the ACL of DATA",
};
const HEADER_OF_OPENSMTPD: Lack = Lack {
    fact: Fact::HeaderFrom,
    known: "nothing",
    hint: "let Portcullis take this mail in front of the server",
};
const DIGEST: Lack = Lack {
    fact: Fact::CertificateSha256,
    known: "nothing",
    hint: "let Postfix ask by policy delegation as well (check_policy_service)",
};
const KEY: Lack = Lack {
    fact: Fact::CertificateKey,
    known: "nothing",
    hint: "let Postfix ask by policy delegation as well (check_policy_service)",
};
const PRESENCE: Lack = Lack {
    fact: Fact::Certificate,
    known: "only of a certificate that the server trusts",
    hint: "let Postfix ask by policy delegation as well (check_policy_service)",
};
const KEY_OF_SENDMAIL: Lack = Lack {
    fact: Fact::CertificateKey,
    known: "nothing",
    hint: "put the partner's certificate into known-certificates, or pin its certificate (certificate-fingerprints)",
};

const fn never(fact: Fact) -> Lack {
    Lack {
        fact,
        known: "nothing: it tells of no certificate",
        hint: "let Portcullis take this partner's mail in front of the server, or require addresses",
    }
}

const NO_CERTIFICATE: [Lack; 6] = [
    never(Fact::Certificate),
    never(Fact::CertificateNames),
    never(Fact::CertificateTrust),
    never(Fact::CertificateAnchors),
    never(Fact::CertificateSha256),
    never(Fact::CertificateKey),
];

const NEITHER_CERTIFICATE_NOR_HEADER: [Lack; 7] = {
    let [a, b, c, d, e, f] = NO_CERTIFICATE;
    [a, b, c, d, e, f, HEADER_OF_OPENSMTPD]
};

impl Way {
    /// The way by which a protocol is spoken, as far as it can be told from that.
    pub fn of(protocol: Protocol) -> Option<Way> {
        match protocol {
            Protocol::Policy => Some(Way::Postfix),
            Protocol::Milter => Some(Way::Milter),
            // Whoever asks by HTTP tells what it knows, and the way out depends on the recipient alone.
            Protocol::Http | Protocol::Socketmap => None,
        }
    }

    /// Whether it cannot ask at a Unix socket, by the settings that are documented.
    pub fn asks_over_tcp(self) -> bool {
        matches!(self, Way::Exim | Way::Sendmail | Way::Stalwart)
    }

    /// What it cannot tell.
    pub fn lacks(self) -> &'static [Lack] {
        match self {
            Way::Postfix => &[NAMES, TRUST, ANCHORS, HEADER],
            Way::Milter => &[PRESENCE, NAMES, TRUST, ANCHORS, DIGEST, KEY],
            Way::Exim => &[TRUST_OF_EXIM, ANCHORS, KEY_OF_SENDMAIL, HEADER_OF_EXIM],
            Way::Sendmail => &[NAMES, TRUST, ANCHORS, KEY_OF_SENDMAIL],
            Way::Stalwart => &NO_CERTIFICATE,
            Way::Opensmtpd => &NEITHER_CERTIFICATE_NOR_HEADER,
            Way::Haraka => &[],
        }
    }

    /// The enabled inbound connectors that read a fact which it cannot tell.
    pub fn lacking<'a>(self, connectors: &'a [Connector]) -> Vec<Lacking<'a>> {
        let mut all = Vec::new();
        let asked = connectors.iter().filter(|connector| {
            connector.direction == Direction::Inbound && connector.mode != Mode::Disabled
        });
        for connector in asked {
            let read = |lack: &&Lack| connector.reads.contains(&lack.fact);
            all.extend(self.lacks().iter().filter(read).map(|lack| Lacking {
                connector: &connector.name,
                fact: lack.fact,
                known: lack.known,
                hint: lack.hint,
            }));
        }
        all
    }
}

impl fmt::Display for Way {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Way::Postfix => "postfix",
            Way::Milter => "milter",
            Way::Exim => "exim",
            Way::Sendmail => "sendmail",
            Way::Stalwart => "stalwart",
            Way::Opensmtpd => "opensmtpd",
            Way::Haraka => "haraka",
        })
    }
}
