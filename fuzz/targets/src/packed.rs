use portcullis_evaluator::Policy;

/// What was packed is taken back and is the same; other bytes are taken or not.
pub fn packed(input: &[u8]) {
    if let Ok(document) = std::str::from_utf8(input)
        && let Ok((policy, _)) = Policy::configure(document)
    {
        let again = Policy::load_packed(policy.packed().to_vec()).expect("our own rules");
        let described = |policy: &Policy| format!("{:?}", policy.describe(0, u32::MAX));
        assert_eq!(described(&policy), described(&again));
    } else {
        Policy::load_packed(input.to_vec());
    }
}
