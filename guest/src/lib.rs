//! The connector evaluator: rules in, verdicts out.
//!
//! It is pure: no clock, no randomness, no files. For WebAssembly it is built without the standard
//! library, so that the compiler holds it to that; the component imports nothing. The same code
//! runs natively for tests, benchmarks and fuzzing: [`Policy`] is the whole of it, and speaks the
//! types of `wit/policy.wit`.
//!
//! ```
//! use portcullis_evaluator::Policy;
//!
//! let rules = r#"{"connectors": [{
//!     "name": "Contoso Bank", "direction": "inbound",
//!     "from": {"sender-domains": ["*.contosobank.com"]}, "require": {"tls": true}}]}"#;
//! let (policy, summary) = Policy::configure(rules).expect("the rules are without errors");
//! assert_eq!(summary.connectors, 1);
//! assert!(!policy.describe(0, 10).reads.contains(&portcullis_evaluator::Fact::HeaderFrom));
//! ```

#![cfg_attr(target_arch = "wasm32", no_std)]
#![warn(missing_docs)]
// What only writes rules stands beside what reads them.
#![cfg_attr(not(feature = "document"), allow(dead_code))]

extern crate alloc;

#[cfg(feature = "document")]
mod cases;
#[cfg(feature = "document")]
mod check;
mod connector;
#[cfg(feature = "document")]
mod context;
mod decide;
#[cfg(feature = "document")]
mod document;
#[cfg(feature = "document")]
mod draft;
mod explain;
mod facts;
#[cfg(feature = "document")]
mod fields;
#[cfg(feature = "document")]
mod hash;
mod index;
mod ip;
#[cfg(feature = "document")]
mod json;
mod names;
mod order;
mod pack;
#[cfg(feature = "document")]
mod problems;
#[cfg(feature = "document")]
mod reader;
mod reads;
mod requirement;
#[cfg(target_arch = "wasm32")]
mod rt;
mod rules;
#[cfg(all(test, feature = "document"))]
mod schema;
#[cfg(feature = "document")]
mod suffixes;
mod text;
mod truth;
#[cfg(feature = "document")]
mod witness;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;

/// Generated from `wit/policy.wit` by wit-bindgen; the tests of `tests/` compare, and write it.
#[allow(
    clippy::all,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unsafe_code,
    unused
)]
#[rustfmt::skip]
#[cfg_attr(feature = "document", path = "bindings/evaluator.rs")]
#[cfg_attr(not(feature = "document"), path = "bindings/packed_policy.rs")]
mod bindings;

#[cfg(target_arch = "wasm32")]
mod component;

pub use bindings::exports::portcullis::policy::evaluation::{
    Acceptance, Attribute, Certificate, ClientAddress, Connector, Consideration, Context, Dane,
    Delivery, Description, Direction, Explanation, Fact, Finding, HeaderFrom, Host, IpAddress,
    Mode, MtaSts, NamedAuthority, Outcome, PeerCertificate, Protection, Refusal,
    RequirementOutcome, Route, SelectorOutcome, Selectors, SessionSecurity, SmartHost, Tls,
    TlsLevel, Trust, Verdict,
};
#[cfg(feature = "document")]
pub use bindings::exports::portcullis::policy::rules::{Problem, Severity, Summary};

portcullis_types::conversions!(crate::bindings::exports::portcullis::policy::evaluation);
#[cfg(feature = "document")]
portcullis_types::rules_conversions!(crate::bindings::exports::portcullis::policy::rules);

/// Rules that verdicts can be asked of.
#[derive(Debug)]
pub struct Policy {
    rules: rules::Rules,
}

impl Policy {
    /// Reads a rules document, checks it and runs its tests.
    ///
    /// # Errors
    /// All that is wrong with the document, warnings included, in its order.
    #[cfg(feature = "document")]
    pub fn configure(document: &str) -> Result<(Policy, Summary), Vec<Problem>> {
        let mut problems = problems::Problems::new(document.trim_start_matches('\u{feff}'));
        let document::Document {
            rules,
            spans,
            tests,
        } = document::read(&mut problems);
        let policy = Policy {
            rules: rules.finish(),
        };
        check::errors(&policy.rules, &spans, &mut problems);
        if problems.has_errors() {
            return Err(problems.finish());
        }
        check::warnings(&policy, &spans, &mut problems);
        cases::run(&policy, &tests, &mut problems);
        if problems.has_errors() {
            return Err(problems.finish());
        }
        let summary = Summary {
            connectors: policy.rules.len() as u32,
            tests: tests.len() as u32,
            warnings: problems.finish(),
        };
        Ok((policy, summary))
    }

    /// The rules in a form that needs no parsing, for [`Policy::load_packed`].
    pub fn packed(&self) -> &[u8] {
        self.rules.packed()
    }

    /// A policy of what [`Policy::packed`] has returned; `None` if these bytes are not rules of this layout. Otherwise
    /// they are believed.
    pub fn load_packed(packed: impl Into<Cow<'static, [u8]>>) -> Option<Policy> {
        rules::Rules::load(packed.into()).map(|rules| Policy { rules })
    }

    /// Decides about one recipient of one message.
    pub fn evaluate(&self, context: &Context) -> Verdict {
        self.decide(context)
    }

    /// Decides as [`Policy::evaluate`] does, and tells why.
    pub fn explain(&self, context: &Context) -> Explanation {
        self.explanation(context)
    }

    /// The policy in short, with at most `limit` of its connectors from number `first` on.
    pub fn describe(&self, first: u32, limit: u32) -> Description {
        self.description(first, limit)
    }

    /// A policy that cannot answer: every verdict defers. What an evaluator is before its rules.
    pub fn unconfigured_verdict() -> Verdict {
        Verdict::Defer(Refusal {
            connector: None,
            failed: String::from("policy-unavailable"),
            code: 451,
            enhanced: String::from("4.3.0"),
            text: String::from("the policy has no rules yet"),
            audit: Vec::new(),
        })
    }
}
