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
