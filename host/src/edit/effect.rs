//! What a change of rules would have done to messages that are known.

use std::collections::BTreeMap;

use portcullis::{
    Context, Engine, EvaluationError, LoadError, Policy, PolicySession, Rules, Verdict,
};
use similar::TextDiff;

/// Messages that are kept as examples of each difference.
const EXAMPLES: usize = 5;

/// What became of some messages, and what would become of them.
#[derive(Default)]
pub struct Effect {
    /// How many messages there were.
    pub messages: u64,
    /// How many have another verdict, by what it was and what it would be.
    pub changed: BTreeMap<(&'static str, &'static str), Changed>,
    /// How many cannot be told: the verdict depends on a fact that is not known of them.
    pub undecided: u64,
    /// What connectors in audit mode have found before, by their names.
    pub findings: BTreeMap<String, u64>,
    /// How many messages would satisfy each connector.
    pub satisfied: BTreeMap<String, u64>,
}

/// Messages whose verdict differs in the same way.
#[derive(Default)]
pub struct Changed {
    /// How many.
    pub messages: u64,
    /// Some of them: the sender, the recipient and the connectors that decide then.
    pub examples: Vec<(String, String, String)>,
}

/// Two policies that are asked about the same messages.
pub struct Comparison {
    before: PolicySession,
    after: PolicySession,
    effect: Effect,
}

impl Comparison {
    /// Nothing is compared yet.
    ///
    /// # Errors
    /// If the rules cannot be loaded.
    pub async fn new(engine: &Engine, before: &Rules, after: &Rules) -> Result<Self, LoadError> {
        let load = async |name: &str, rules: &Rules| -> Result<Policy, LoadError> {
            engine.load_rules(name, rules).await
        };
        Ok(Comparison {
            before: load("before", before).await?.session(),
            after: load("after", after).await?.session(),
            effect: Effect::default(),
        })
    }

    /// Asks both about so many messages of the same facts.
    ///
    /// # Errors
    /// If one does not answer.
    pub async fn messages(&mut self, context: &Context, count: u64) -> Result<(), EvaluationError> {
        let before = self.before.try_decide(context).await?.into_verdict();
        let after = self.after.try_decide(context).await?.into_verdict();
        self.effect.messages += count;
        for finding in before.audit() {
            *self
                .effect
                .findings
                .entry(finding.connector.clone())
                .or_default() += count;
        }
        if let Verdict::Accept(acceptance) = &after {
            for connector in &acceptance.connectors {
                *self.effect.satisfied.entry(connector.clone()).or_default() += count;
            }
        }
        if is_undecided(&before) || is_undecided(&after) {
            self.effect.undecided += count;
            return Ok(());
        }
        let (was, is) = (outcome(&before), outcome(&after));
        let is_same = match (&before, &after) {
            (Verdict::Deliver(before), Verdict::Deliver(after)) => {
                (&before.route, &before.tls) == (&after.route, &after.tls)
            }
            _ => was == is,
        };
        if is_same {
            return Ok(());
        }
        let changed = self.effect.changed.entry((was, is)).or_default();
        changed.messages += count;
        if changed.examples.len() < EXAMPLES {
            let decides = decides(&after);
            changed.examples.push((
                context.mail_from().into(),
                context.rcpt_to().into(),
                decides,
            ));
        }
        Ok(())
    }

    /// What was found.
    pub fn end(self) -> Effect {
        self.effect
    }
}

/// Whether a verdict depends on a fact that is not known.
fn is_undecided(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Defer(refusal) if refusal.failed == "fact-unavailable")
}

fn outcome(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Accept(_) => "accepted",
        Verdict::Deliver(_) => "delivered",
        Verdict::Reject(_) => "refused",
        Verdict::Defer(_) => "deferred",
    }
}

fn decides(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept(acceptance) => acceptance.connectors.join(", "),
        Verdict::Deliver(delivery) => delivery.connector.clone().unwrap_or_default(),
        Verdict::Reject(refusal) | Verdict::Defer(refusal) => {
            let connector = refusal.connector.as_deref().unwrap_or_default();
            format!("{connector} ({})", refusal.failed)
        }
    }
}

/// What differs between two texts, as a unified diff.
pub fn difference(before: &str, after: &str, names: (&str, &str)) -> String {
    let difference = TextDiff::from_lines(before, after);
    difference
        .unified_diff()
        .header(names.0, names.1)
        .to_string()
}
