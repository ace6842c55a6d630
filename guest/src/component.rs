//! The exports of the component: one policy, set once.

use alloc::string::String;
use alloc::vec::Vec;

use crate::bindings::exports::portcullis::policy::{evaluation, rules};
use crate::rt::{self, Once};
use crate::{Context, Description, Explanation, Policy, Problem, Summary, Verdict};

/// The component.
pub struct Component;

static POLICY: Once<Policy> = Once::new();

impl evaluation::Guest for Component {
    fn evaluate(context: Context) -> Verdict {
        let verdict = match POLICY.get() {
            Some(policy) => policy.evaluate(&context),
            None => Policy::unconfigured_verdict(),
        };
        drop(context);
        rt::done();
        verdict
    }

    fn explain(context: Context) -> Explanation {
        let explanation = match POLICY.get() {
            Some(policy) => policy.explain(&context),
            None => Explanation {
                verdict: Policy::unconfigured_verdict(),
                considered: Vec::new(),
                others: 0,
            },
        };
        drop(context);
        rt::done();
        explanation
    }

    fn describe(first: u32, limit: u32) -> Description {
        rt::begin();
        let description = match POLICY.get() {
            Some(policy) => policy.describe(first, limit),
            None => Description {
                organization: String::new(),
                accepted_domains: Vec::new(),
                reads_header_from: false,
                total: 0,
                connectors: Vec::new(),
            },
        };
        rt::done();
        description
    }
}

impl rules::Guest for Component {
    fn configure(document: String) -> Result<Summary, Vec<Problem>> {
        rt::keep();
        let configured = Policy::configure(&document);
        let accepted = configured.map(|(policy, summary)| {
            POLICY.set(policy);
            summary
        });
        rt::keep_no_more();
        accepted
    }

    fn packed() -> Vec<u8> {
        rt::keep();
        let packed = POLICY.get().map(|policy| policy.packed().to_vec());
        rt::keep_no_more();
        packed.unwrap_or_default()
    }

    fn adopt(packed: Vec<u8>) -> bool {
        rt::keep();
        let adopted = Policy::adopt(rt::kept(packed)).map(|policy| POLICY.set(policy));
        rt::keep_no_more();
        adopted.is_some()
    }
}
