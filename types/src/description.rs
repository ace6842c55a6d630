//! What a policy consists of, and what is wrong with a rules document.

use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;

use crate::{Delivery, Direction, Fact, Mode, Severity};

/// A summary of a policy, with a window of its connectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Description {
    /// The organization's name.
    pub organization: String,
    /// The domains that the organization receives mail for.
    pub accepted_domains: Vec<String>,
    /// The facts that enabled connectors read. With the From header among them, the verdict on inbound mail can depend
    /// on it.
    pub reads: Vec<Fact>,
    /// The authorities that enabled connectors name, each once.
    pub authorities: Vec<NamedAuthority>,
    /// How many connectors there are in all.
    pub total: u32,
    /// A window of them, in the order of the rules.
    pub connectors: Vec<Connector>,
}

/// An authority that the rules name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct NamedAuthority {
    /// Its name.
    pub name: String,
    /// The first enabled connector that names it.
    pub connector: String,
}

/// One connector, for a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Connector {
    /// Its name.
    pub name: String,
    /// Its direction.
    pub direction: Direction,
    /// Its mode.
    pub mode: Mode,
    /// The mail that it applies to, human-readable.
    pub applies_to: String,
    /// Its requirements, human-readable.
    pub requires: String,
    /// The comment in the rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The mail that it applies to, without exceptions.
    pub selects: Selectors,
    /// How an outbound connector delivers in mode enforce.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// The facts that it reads.
    pub reads: Vec<Fact>,
}

/// The patterns by which a connector selects its mail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Selectors {
    /// Of the sender's domain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sender_domains: Vec<String>,
    /// Of the client's address: CIDR ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sender_ips: Vec<String>,
    /// Of the client's trusted certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificate_names: Vec<String>,
    /// Of the recipient's domain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipient_domains: Vec<String>,
}

/// A problem in a rules document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The severity.
    pub severity: Severity,
    /// A stable code, such as `unknown-field`.
    pub code: String,
    /// The JSON path (`connectors[0].require.source-ips[1]`); empty for the whole document.
    pub path: String,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// The number of characters on that line, at least 1.
    pub length: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What was accepted of a rules document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The number of connectors.
    pub connectors: u32,
    /// The number of cases under `tests`, all of which passed.
    pub tests: u32,
    /// Warnings.
    pub warnings: Vec<Problem>,
}

impl Description {
    /// All texts in it, to make them harmless.
    pub fn texts_mut(&mut self, each: &mut dyn FnMut(&mut String)) {
        each(&mut self.organization);
        self.accepted_domains.iter_mut().for_each(&mut *each);
        for authority in &mut self.authorities {
            each(&mut authority.name);
            each(&mut authority.connector);
        }
        for connector in &mut self.connectors {
            each(&mut connector.name);
            each(&mut connector.applies_to);
            each(&mut connector.requires);
            connector.comment.iter_mut().for_each(&mut *each);
            let selects = &mut connector.selects;
            for list in [
                &mut selects.sender_domains,
                &mut selects.sender_ips,
                &mut selects.certificate_names,
                &mut selects.recipient_domains,
            ] {
                list.iter_mut().for_each(&mut *each);
            }
            if let Some(delivery) = &mut connector.delivery {
                delivery.texts_mut(each);
            }
        }
    }
}
