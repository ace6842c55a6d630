//! Rules in any number.

use std::fmt::Write;

/// Connectors of all kinds, in turn: domains, IPv4 ranges, certificate names, IPv6 ranges, and several
/// demands at once.
pub fn mixed(count: u32) -> String {
    let mut rules = String::new();
    for number in 0..count {
        let [high, low] = [number >> 16, number & 0xffff];
        let from = match number % 5 {
            0 => format!(r#"{{"sender-domains": ["*.partner{number}.example"]}}"#),
            1 => {
                let [a, b, c] = [1 + high % 200, low >> 8, low & 255];
                format!(r#"{{"sender-ips": ["{a}.{b}.{c}.0/24"]}}"#)
            }
            2 => format!(r#"{{"certificate-names": ["mail{number}.example"]}}"#),
            3 => format!(r#"{{"sender-ips": ["2001:db8:{high:x}:{low:x}::/64"]}}"#),
            _ => format!(r#"{{"sender-domains": ["bank{number}.example"]}}"#),
        };
        let require = match number % 5 {
            4 => format!(r#"{{"tls": true, "certificate-names": ["*.bank{number}.example"]}}"#),
            _ => r#"{"tls": true}"#.to_owned(),
        };
        connector(&mut rules, &format!("partner {number}"), &from, &require);
    }
    rules
}

/// Connectors as a small organization has them.
pub fn of_tenant(tenant: u32, count: u32) -> String {
    let mut rules = String::new();
    for number in 0..count {
        let from = match number % 2 {
            0 => format!(r#"{{"sender-domains": ["*.p{number}.t{tenant}.example"]}}"#),
            _ => {
                let [b, c] = [tenant >> 8 & 255, tenant & 255];
                format!(
                    r#"{{"sender-ips": ["10.{b}.{c}.{}/29"]}}"#,
                    number * 8 % 256
                )
            }
        };
        let require = r#"{"tls": true, "source-ips": ["10.0.0.0/8", "127.0.0.0/8"]}"#;
        connector(&mut rules, &format!("partner {number}"), &from, require);
    }
    rules
}

/// A connector that refuses plaintext mail to one domain, in the name of a version.
pub fn version(version: &str, domain: &str) -> String {
    let mut rules = String::new();
    let from = format!(r#"{{"recipient-domains": ["{domain}"]}}"#);
    connector(&mut rules, version, &from, r#"{"tls": true}"#);
    rules
}

fn connector(rules: &mut String, name: &str, from: &str, require: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(
        rules,
        r#"{{"name": "{name}", "direction": "inbound", "from": {from}, "require": {require}}},"#
    );
}

/// A document with these connectors.
pub fn document(connectors: &str) -> String {
    let connectors = connectors.trim_end().trim_end_matches(',');
    format!("{{\"connectors\": [\n{connectors}\n]}}\n")
}
