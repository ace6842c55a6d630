//! Any text is a policy or a list of problems, each at a place in the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_evaluator::Policy;

fuzz_target!(|document: &str| {
    match Policy::configure(document) {
        Ok((policy, summary)) => {
            assert_eq!(policy.describe(0, u32::MAX).connectors.len(), summary.connectors as usize);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = document.split('\n').count() as u32;
            assert!(problems.iter().all(|p| p.line >= 1 && p.line <= lines && p.column >= 1));
        }
    }
});
