use portcullis_server::egress::partner::mta_sts::policy::{Policy, record_id};

/// Any text is a policy or an error, and any records have one id or none.
pub fn mta_sts(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(policy) = Policy::parse(&text) {
        // Asked about what it names itself, it has an answer for each.
        for line in text.lines() {
            let (_, host) = line.split_once(':').unwrap_or(("", line));
            policy.allows(host.trim());
        }
    }
    let records: Vec<String> = text.split('\n').map(String::from).collect();
    if let Some(id) = record_id(&records) {
        assert!(!id.is_empty() && id.len() <= 32);
        assert!(id.bytes().all(|octet| octet.is_ascii_alphanumeric()));
    }
}
