use portcullis_evaluator::Policy;

/// Any text is a policy or a list of problems, each at a place in the text.
pub fn rules(input: &[u8]) {
    let Ok(document) = std::str::from_utf8(input) else {
        return;
    };
    match Policy::configure(document) {
        Ok((policy, summary)) => {
            let described = policy.describe(0, u32::MAX).connectors;
            assert_eq!(described.len(), summary.connectors as usize);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let lines = document.split('\n').count() as u32;
            let inside = |line: u32, column: u32| line >= 1 && line <= lines && column >= 1;
            assert!(problems.iter().all(|it| inside(it.line, it.column)));
        }
    }
}
