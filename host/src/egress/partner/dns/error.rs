//! Why a question has no answer.

/// A question has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DnsError {
    /// The name does not exist.
    #[error("{0} does not exist in the DNS")]
    NoSuchName(String),
    /// DNSSEC says that the answer is forged, or is itself broken.
    #[error("the DNS answer for {0} is not what its zone has signed")]
    Bogus(String),
    /// There was no usable answer.
    #[error("the DNS has no answer for {name}: {reason}")]
    Failed {
        /// What was asked for.
        name: String,
        /// Why.
        reason: String,
    },
}

/// A name without its final dot, in lower case.
pub fn text_of(name: &impl std::fmt::Display) -> String {
    let text = name.to_string().to_ascii_lowercase();
    match text.strip_suffix('.') {
        Some(without) if !without.is_empty() => without.to_owned(),
        _ if text.is_empty() => ".".to_owned(),
        _ => text,
    }
}
