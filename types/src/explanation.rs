//! Explanations.

use alloc::string::String;
use alloc::vec::Vec;

use serde::Serialize;

use crate::{Mode, Outcome, Verdict};

/// A verdict and the reasons for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The verdict.
    pub verdict: Verdict,
    /// The connectors of the mail's direction: first those that matched, most specific first, then those of which a
    /// selector matched, then the others; at most 100.
    pub considered: Vec<Consideration>,
    /// How many connectors of the mail's direction are not in `considered`.
    pub others: u32,
}

/// One connector that was considered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Consideration {
    /// Its name.
    pub connector: String,
    /// Its mode.
    pub mode: Mode,
    /// Whether its selectors match the mail.
    pub matched: Outcome,
    /// The selectors, in the order of the rules.
    pub selectors: Vec<SelectorOutcome>,
    /// The requirements, in the order in which they are checked.
    pub requirements: Vec<RequirementOutcome>,
}

/// One selector of a connector, compared with the facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SelectorOutcome {
    /// The field in the rules.
    pub selector: String,
    /// Whether it matched.
    pub matched: Outcome,
    /// The pattern that matched; if none did, all patterns, shortened.
    pub pattern: String,
    /// The fact.
    pub fact: String,
}

/// One requirement of a connector, compared with the facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequirementOutcome {
    /// The stable name of the failure that the requirement guards against.
    pub requirement: String,
    /// Whether it is satisfied.
    pub satisfied: Outcome,
    /// What the rules require.
    pub expected: String,
    /// The fact.
    pub fact: String,
}

impl Explanation {
    /// All texts in it, to make them harmless.
    pub fn texts_mut(&mut self, each: &mut dyn FnMut(&mut String)) {
        self.verdict.texts_mut(each);
        for considered in &mut self.considered {
            each(&mut considered.connector);
            for outcome in &mut considered.selectors {
                each(&mut outcome.selector);
                each(&mut outcome.pattern);
                each(&mut outcome.fact);
            }
            for outcome in &mut considered.requirements {
                each(&mut outcome.requirement);
                each(&mut outcome.expected);
                each(&mut outcome.fact);
            }
        }
    }
}
