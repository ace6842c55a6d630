//! The built-in evaluator, as built from `guest/`.

use std::sync::LazyLock;

use portcullis_types::Sha256;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::disk_cache;
use super::embed::{Template, TemplateError};
use super::inspect::PACKED_RULES;
use crate::statement::digest_of;

/// The evaluator that reads documents.
pub const DOCUMENTS: &[u8] = include_bytes!(env!("PORTCULLIS_EVALUATOR"));

/// The evaluator that decides. It takes packed rules, and with rules inside it is a finished policy.
pub const PACKED_POLICY: &[u8] = include_bytes!(env!("PORTCULLIS_PACKED_POLICY"));

/// The core module of the evaluator that reads documents. It imports nothing, so a browser can run it by itself; its
/// exports are those of the component, by the names of the canonical ABI.
pub fn core_module() -> Option<&'static [u8]> {
    let payloads = wasmparser::Parser::new(0).parse_all(DOCUMENTS);
    let modules = payloads.filter_map(|payload| match payload {
        Ok(wasmparser::Payload::ModuleSection {
            unchecked_range, ..
        }) => DOCUMENTS.get(unchecked_range),
        _ => None,
    });
    modules.max_by_key(|module| module.len())
}

/// The digest of the evaluator that reads documents, which is the same wherever it is built from the same sources.
pub fn digest() -> Sha256 {
    static DIGEST: LazyLock<Sha256> = LazyLock::new(|| digest_of(DOCUMENTS));
    *DIGEST
}

/// The code of both, compiled at build time for any processor of the target's kind; empty if that could not be done.
const CODE: [(&[u8], &[u8]); 2] = [
    (DOCUMENTS, include_bytes!(env!("PORTCULLIS_EVALUATOR_CODE"))),
    (
        PACKED_POLICY,
        include_bytes!(env!("PORTCULLIS_PACKED_POLICY_CODE")),
    ),
];

/// One of the two above, without compiling it; `None` for other components, and if this processor or the settings
/// need other code.
pub fn compiled(engine: &Engine, component: &[u8]) -> Option<Component> {
    let mut known = CODE.iter();
    let (_, code) = known.find(|(known, _)| *known == component)?;
    disk_cache::component(engine, code).ok()
}

/// What the evaluator is called before it has rules.
pub const NAME: &str = "the evaluator";

/// What finished policies are made of.
///
/// # Errors
/// If the evaluator was not built as it must be.
pub fn template() -> Result<&'static Template, &'static TemplateError> {
    static TEMPLATE: LazyLock<Result<Template, TemplateError>> =
        LazyLock::new(|| Template::new(PACKED_POLICY, PACKED_RULES));
    TEMPLATE.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Vec<u8> {
        let document = r#"{"connectors": [{"name": "a", "direction": "inbound",
            "from": {"sender-domains": ["a.test"]}, "require": {"tls": true}}]}"#;
        let (policy, _) = portcullis_evaluator::Policy::configure(document).unwrap();
        policy.packed().to_vec()
    }

    #[test]
    fn rules_are_found_again_in_what_is_made_of_them() {
        let template = template().unwrap();
        let large = vec![7; 300_000];
        for rules in [&rules()[..], &large, &[1]] {
            let policy = template.policy(rules).unwrap();
            wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::default())
                .validate_all(&policy)
                .unwrap();
            assert_eq!(template.rules(&policy), Some(rules));
        }
        assert_eq!(template.rules(PACKED_POLICY), None);
        assert_eq!(template.rules(DOCUMENTS), None);
    }

    #[test]
    fn what_differs_anywhere_is_another_component() {
        let template = template().unwrap();
        let policy = template.policy(&rules()).unwrap();
        for at in (0..policy.len()).step_by(997) {
            let mut other = policy.clone();
            other[at] ^= 1;
            let found = template.rules(&other);
            let is_in_rules = found.is_some_and(|found| template.policy(found).unwrap() == other);
            assert!(found.is_none() || is_in_rules, "{at}");
        }
        for length in (0..policy.len()).step_by(4099) {
            assert_eq!(template.rules(&policy[..length]), None);
        }
    }

    /// A memory that grows costs two system calls an instance.
    #[tokio::test]
    async fn few_rules_fit_into_the_memory_that_a_policy_begins_with() {
        const MEMORY: usize = 20 << 16;
        let connector = |number: usize| {
            format!(
                r#"{{"name": "partner {number}", "direction": "inbound", "require": {{"tls": true}},
                    "from": {{"sender-domains": ["partner{number}.example"]}}}}"#
            )
        };
        let connectors: Vec<String> = (0..500).map(connector).collect();
        let document = format!(r#"{{"connectors": [{}]}}"#, connectors.join(","));
        let limits = crate::Limits {
            memory: MEMORY,
            ..crate::Limits::default()
        };
        let engine = crate::Engine::new(limits).unwrap();
        let rules = engine.read(document).await.unwrap();
        let size = rules.packed.len();
        assert!((30 << 10..=32 << 10).contains(&size), "{size}");
        let policy = engine.load_rules("rules", &rules).await.unwrap();
        let context = crate::Context::inbound(None, "a@partner7.example", "b@contoso.com");
        let decision = policy.session().decide(&context).await;
        assert_eq!(decision.refusal().map(|refusal| refusal.code), Some(550));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_looked_at(bytes: Vec<u8>) {
            template().unwrap().rules(&bytes);
        }
    }
}
