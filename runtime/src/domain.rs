//! Domain names in their normal form: lower-case A-labels without a final dot.

/// A tenant's domain in normal form: lower-case A-labels, `*.` kept.
pub fn normal_domain(text: &str) -> Option<String> {
    let (prefix, name) = match text.strip_prefix("*.") {
        Some(name) => ("*.", name),
        None => ("", text),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let ascii = idna::domain_to_ascii(name).ok()?;
    let fits = !ascii.is_empty()
        && ascii.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
    fits.then(|| format!("{prefix}{ascii}"))
}

/// Whether a name in normal form is `base` or below it.
pub(crate) fn is_or_under(name: &str, base: &str) -> bool {
    name.strip_suffix(base)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// A host name in normal form; a wildcard is none, nor is a label that begins or ends with a hyphen (RFC 1123 §2.1).
pub fn host_name(text: &str) -> Option<String> {
    let is_part = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_part)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    normal_domain(text).filter(|name| name.len() <= 253 && name.split('.').all(is_label))
}
