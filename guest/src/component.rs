//! The exports of the component: one policy, set once.

use alloc::string::String;
use alloc::vec::Vec;

use crate::bindings::exports::portcullis::policy::evaluation;
use crate::rt::{self, Once};
use crate::{Context, Description, Explanation, Policy, Verdict};

/// The component.
pub struct Component;

static POLICY: Once<Policy> = Once::new();

/// A call begins. A finished policy is made of the rules that stand in the component, when it is first called.
fn begin() {
    rt::begin(|| {
        #[cfg(not(feature = "document"))]
        if POLICY.get().is_none()
            && let Some(rules) = rt::embedded_rules()
        {
            rt::keep();
            if let Some(policy) = Policy::load_packed(rules) {
                POLICY.set(policy);
            }
            rt::keep_no_more();
        }
    });
}

fn evaluate(context: &Context) -> Verdict {
    match POLICY.get() {
        Some(policy) => policy.evaluate(context),
        None => Policy::unconfigured_verdict(),
    }
}

fn explain(context: &Context) -> Explanation {
    match POLICY.get() {
        Some(policy) => policy.explain(context),
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
            reads: Vec::new(),
            authorities: Vec::new(),
            total: 0,
            connectors: Vec::new(),
        },
    }
}

impl evaluation::Guest for Component {
    fn evaluate(context: Context) -> Verdict {
        let verdict = evaluate(&context);
        drop(context);
        rt::done();
        verdict
    }

    fn explain(context: Context) -> Explanation {
        let explanation = explain(&context);
        drop(context);
        rt::done();
        explanation
    }

    fn describe(first: u32, limit: u32) -> Description {
        begin();
        let description = describe(first, limit);
        rt::done();
        description
    }
}

#[cfg(not(feature = "document"))]
impl crate::bindings::exports::portcullis::policy::packed_rules::Guest for Component {
    fn load_packed(packed: Vec<u8>) -> bool {
        rt::keep();
        let loaded = Policy::load_packed(rt::kept(packed)).map(|policy| POLICY.set(policy));
        rt::keep_no_more();
        loaded.is_some()
    }
}

#[cfg(feature = "document")]
mod document {
    use alloc::format;
    use alloc::string::ToString;

    use serde_json::json;

    use super::*;
    use crate::bindings::exports::portcullis::policy::{json, rules};
    use crate::{Problem, Summary};

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

        fn pack() -> Vec<u8> {
            rt::keep();
            let packed = POLICY.get().map(|policy| policy.packed().to_vec());
            rt::keep_no_more();
            packed.unwrap_or_default()
        }
    }

    impl json::Guest for Component {
        fn check(document: String) -> String {
            let outcome = <Component as rules::Guest>::configure(document);
            begin();
            let is_accepted = outcome.is_ok();
            let (counts, problems) = match outcome {
                Ok(summary) => (Some((summary.connectors, summary.tests)), summary.warnings),
                Err(problems) => (None, problems),
            };
            let problems: Vec<portcullis_types::Problem> =
                problems.into_iter().map(Into::into).collect();
            let text = match counts {
                Some((connectors, tests)) => json!({
                    "accepted": is_accepted, "connectors": connectors, "tests": tests, "problems": problems,
                }),
                None => json!({ "accepted": is_accepted, "problems": problems }),
            };
            let text = text.to_string();
            rt::done();
            text
        }

        fn evaluate(context: String) -> Result<String, String> {
            let verdict = read(&context).map(|context| {
                let verdict = portcullis_types::Verdict::from(evaluate(&context));
                serde_json::to_string(&verdict).unwrap_or_default()
            });
            drop(context);
            rt::done();
            verdict
        }

        fn explain(context: String) -> Result<String, String> {
            let explanation = read(&context).map(|context| {
                let explanation = portcullis_types::Explanation::from(explain(&context));
                serde_json::to_string(&explanation).unwrap_or_default()
            });
            drop(context);
            rt::done();
            explanation
        }

        fn describe(first: u32, limit: u32) -> String {
            begin();
            let description = portcullis_types::Description::from(describe(first, limit));
            let text = serde_json::to_string(&description).unwrap_or_default();
            rt::done();
            text
        }
    }

    fn read(context: &str) -> Result<Context, String> {
        let context = portcullis_types::parse_context(context)
            .map_err(|error| format!("this is not a context: {error}"))?;
        Ok(context.into())
    }
}

/// What the host calls, generated.
#[allow(unsafe_code, clippy::all)]
mod exports {
    use super::{Component, begin, rt};

    /// The canonical ABI's allocation function. `wit-bindgen` leaves it to the standard library on this target.
    ///
    /// # Safety
    /// As the canonical ABI calls it: `old` is null with `old_size` 0, or was returned from here.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn cabi_realloc(
        old: *mut u8,
        old_size: usize,
        align: usize,
        new_size: usize,
    ) -> *mut u8 {
        if old_size == 0 {
            begin();
        }
        // SAFETY: the caller keeps to this function's contract, which is the same.
        unsafe { rt::reallocated(old, old_size, align, new_size) }
    }

    crate::bindings::export!(Component with_types_in crate::bindings);
}
