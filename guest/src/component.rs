//! The exports of the component: one policy, set once.

use alloc::string::String;
use alloc::vec::Vec;

use crate::bindings::exports::portcullis::policy::{evaluation, rules};
use crate::rt::Once;
use crate::{Context, Description, Explanation, Policy, Problem, Summary, Verdict};

/// The component.
pub struct Component;

static POLICY: Once<Policy> = Once::new();

impl evaluation::Guest for Component {
    fn evaluate(context: Context) -> Verdict {
        match POLICY.get() {
            Some(policy) => policy.evaluate(&context),
            None => Policy::unconfigured_verdict(),
        }
    }

    fn explain(context: Context) -> Explanation {
        match POLICY.get() {
            Some(policy) => policy.explain(&context),
            None => Explanation {
                verdict: Policy::unconfigured_verdict(),
                considered: Vec::new(),
                others: 0,
            },
        }
    }

    fn describe(first: u32, limit: u32) -> Description {
        match POLICY.get() {
            Some(policy) => policy.describe(first, limit),
            None => Description {
                organization: String::new(),
                accepted_domains: Vec::new(),
                reads_header_from: false,
                total: 0,
                connectors: Vec::new(),
            },
        }
    }
}

impl rules::Guest for Component {
    fn configure(document: String) -> Result<Summary, Vec<Problem>> {
        let (policy, summary) = Policy::configure(&document)?;
        POLICY.set(policy);
        Ok(summary)
    }
}
