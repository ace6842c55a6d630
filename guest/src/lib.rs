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
//! assert!(!policy.describe(0, 10).reads_header_from);
//! ```

#![cfg_attr(target_arch = "wasm32", no_std)]
#![warn(missing_docs)]

extern crate alloc;

mod cases;
mod check;
mod context;
mod decide;
mod document;
mod explain;
mod facts;
mod hash;
mod index;
mod ip;
mod json;
mod names;
mod pack;
mod problems;
#[cfg(target_arch = "wasm32")]
mod rt;
mod rules;
mod suffixes;

use alloc::string::String;
use alloc::vec::Vec;

mod bindings {
    #![allow(missing_docs, unsafe_code)]
    wit_bindgen::generate!({
        path: "../wit",
        world: "evaluator",
        additional_derives: [PartialEq],
    });
    #[cfg(target_arch = "wasm32")]
    export!(Component);
    #[cfg(target_arch = "wasm32")]
    use crate::component::Component;
}

#[cfg(target_arch = "wasm32")]
mod component;

pub use bindings::exports::portcullis::policy::evaluation::{
    Acceptance, Attribute, Certificate, Connector, Consideration, Context, Dane, Delivery,
    Description, Direction, Explanation, Finding, IpAddress, Mode, MtaSts, Protection, Refusal,
    RequirementOutcome, Route, SelectorOutcome, Selectors, Tls, TlsLevel, Trust, Verdict,
};
pub use bindings::exports::portcullis::policy::rules::{Problem, Severity, Summary};

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

    /// The rules as [`Policy::adopt`] takes them, without reading a document.
    pub fn packed(&self) -> &[u8] {
        self.rules.packed()
    }

    /// A policy from what [`Policy::packed`] gave; `None` if these bytes are none of this version. They
    /// are believed otherwise.
    pub fn adopt(packed: Vec<u8>) -> Option<Policy> {
        rules::Rules::adopt(packed).map(|rules| Policy { rules })
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
