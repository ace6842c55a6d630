//! The words and the JSON of Portcullis: contexts, verdicts, explanations and descriptions (`docs/spec.md`, sections 2
//! and 4).
//!
//! The evaluator and its hosts have types of their own, which are generated from `wit/policy.wit`. What they write as
//! JSON is defined here, once; [`conversions!`] makes their types into these.

#![no_std]
#![deny(missing_docs)]

extern crate alloc;

#[cfg(feature = "read")]
mod cases;
mod context;
mod convert;
mod description;
mod enhanced_code;
mod explanation;
mod host;
mod sha256;
mod verdict;
mod words;

#[cfg(feature = "read")]
pub use cases::{VERDICT_FIELDS, is_part_of, write_defaults};
#[cfg(feature = "read")]
pub use context::parse_context;
pub use context::{
    Attribute, COMMON_NAME, Certificate, ClientAddress, Context, HeaderFrom, PeerCertificate,
    Security, Tls, mailbox,
};
pub use description::{Connector, Description, NamedAuthority, Problem, Selectors, Summary};
pub use enhanced_code::{EnhancedCode, EnhancedCodeError};
pub use explanation::{Consideration, Explanation, RequirementOutcome, SelectorOutcome};
pub use host::{Host, SmartHost};
pub use sha256::Sha256;
pub use verdict::{Acceptance, Delivery, Finding, Protection, Refusal, Route, TlsLevel, Verdict};
pub use words::{
    Dane, Direction, Fact, Mode, MtaSts, Outcome, Severity, TLS_VERSIONS, Trust, tls_version,
    tls_version_name,
};
