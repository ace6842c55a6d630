//! The evaluator as a library, without WebAssembly.

use portcullis_evaluator::Policy;
use portcullis_types::{Verdict, parse_context};
use serde_json::Value;

use super::{Answer, Loaded, Way};

/// The evaluator with the rules that were loaded last.
#[derive(Default)]
pub struct Native(Option<Policy>);

impl Way for Native {
    fn name(&self) -> &'static str {
        "evaluator, natively"
    }

    fn load(&mut self, policy: &Loaded<'_>) -> Result<(), String> {
        let configured = Policy::configure(&policy.rules.to_string());
        let (policy, _) = configured.map_err(|problems| format!("{problems:?}"))?;
        self.0 = Some(policy);
        Ok(())
    }

    fn ask(&mut self, context: &Value) -> Answer {
        let policy = self.0.as_ref().expect("rules are loaded first");
        match parse_context(&context.to_string()) {
            Err(error) => Answer::Error(error),
            Ok(context) => {
                let verdict = Verdict::from(policy.evaluate(&context.into()));
                Answer::Verdict(serde_json::to_value(verdict).expect("JSON"))
            }
        }
    }
}
