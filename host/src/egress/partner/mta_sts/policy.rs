//! The two texts of MTA-STS: the TXT record (RFC 8461 §3.1) and the policy (§3.2).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use portcullis::normal_domain;

/// RFC 8461 §3.2: the longest time that a policy may be kept.
const LONGEST: u64 = 31_557_600;
/// A policy names a handful of servers.
const MAX_PATTERNS: usize = 100;

/// The id in the TXT records of `_mta-sts.DOMAIN`. Exactly one of them may be an MTA-STS record.
pub fn record_id(records: &[String]) -> Option<String> {
    let mut own = records
        .iter()
        .filter(|text| fields(text).next() == Some(("v", "STSv1")));
    let (Some(text), None) = (own.next(), own.next()) else {
        return None;
    };
    let id = fields(text).find(|(name, _)| *name == "id")?.1;
    let is_id =
        (1..=32).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_alphanumeric());
    is_id.then(|| id.to_owned())
}

fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(';')
        .filter_map(|field| field.trim_matches([' ', '\t']).split_once('='))
}

/// What a domain asks of those who send to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Mail only to servers that satisfy the policy.
    Enforce,
    /// Failures are reported.
    Testing,
    /// Nothing.
    None,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// What it asks.
    pub mode: Mode,
    /// The servers: names, or `*.` for one label.
    pub mx: Vec<String>,
    /// How long it may be kept.
    pub max_age: Duration,
}

/// The text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct PolicyError {
    /// The line, from 1; 0 for the whole.
    line: usize,
    reason: &'static str,
}

impl Policy {
    /// Reads a policy. Fields that are not known are skipped; of those that stand twice the first counts.
    ///
    /// # Errors
    /// Says which line is wrong, or what is missing.
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        let mut version = false;
        let (mut mode, mut max_age, mut mx) = (None, None, Vec::new());
        for (number, line) in text.lines().enumerate() {
            let wrong = |reason| PolicyError {
                line: number + 1,
                reason,
            };
            if line.trim().is_empty() {
                continue;
            }
            let (name, value) = line.split_once(':').ok_or(wrong("there is no colon"))?;
            let value = value.trim();
            match name.trim_end() {
                "version" if value == "STSv1" => version = true,
                "version" => return Err(wrong("the version is not STSv1")),
                "mode" if mode.is_none() => {
                    mode = Some(match value {
                        "enforce" => Mode::Enforce,
                        "testing" => Mode::Testing,
                        "none" => Mode::None,
                        _ => return Err(wrong("the mode is not enforce, testing or none")),
                    });
                }
                "max_age" if max_age.is_none() => {
                    let seconds = value
                        .parse::<u64>()
                        .map_err(|_| wrong("max_age is not a number"))?;
                    max_age = Some(Duration::from_secs(seconds.min(LONGEST)));
                }
                "mx" => {
                    let pattern = normal_domain(value).filter(|_| mx.len() < MAX_PATTERNS);
                    let many = wrong("mx is not a host name, or there are too many");
                    mx.push(pattern.ok_or(many)?);
                }
                _ => {}
            }
        }
        let missing = |reason| PolicyError { line: 0, reason };
        let mode = mode.ok_or(missing("there is no mode"))?;
        if !version {
            return Err(missing("there is no version"));
        }
        if mx.is_empty() && mode != Mode::None {
            return Err(missing("there is no mx"));
        }
        Ok(Policy {
            mode,
            mx,
            max_age: max_age.ok_or(missing("there is no max_age"))?,
        })
    }

    /// Whether a server is one of those that the policy names (§4.1). Its name comes from the DNS, which anybody may
    /// have forged: it is never a pattern itself.
    pub fn allows(&self, host: &str) -> bool {
        let Some(host) = normal_domain(host).filter(|host| !host.starts_with("*.")) else {
            return false;
        };
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.mx
            .iter()
            .any(|pattern| match pattern.strip_prefix("*.") {
                Some(base) => parent == Some(base),
                None => *pattern == host,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: &str = "version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n";

    #[test]
    fn policies_are_read() {
        let policy = Policy::parse(POLICY).expect("a policy");
        assert_eq!(policy.mode, Mode::Enforce);
        assert_eq!(policy.max_age, Duration::from_secs(604_800));
        for (host, allowed) in [
            ("mail.example.com", true),
            ("MAIL.example.com", true),
            ("other.example.com", false),
            ("a.example.net", true),
            ("a.b.example.net", false),
            ("example.net", false),
            ("*.example.net", false),
            ("*.com", false),
            ("*.example.com", false),
            ("", false),
        ] {
            assert_eq!(policy.allows(host), allowed, "{host}");
        }
        let long =
            Policy::parse("version:STSv1\nmode:none\nmax_age:99999999999").expect("a policy");
        assert_eq!(long.max_age, Duration::from_secs(LONGEST));
    }

    #[test]
    fn what_is_no_policy_is_refused_with_its_line() {
        for (text, error) in [
            ("", "line 0: there is no mode"),
            ("mode: enforce", "line 0: there is no version"),
            ("version: STSv2", "line 1: the version is not STSv1"),
            (
                "version: STSv1\nmode: maybe",
                "line 2: the mode is not enforce, testing or none",
            ),
            (
                "version: STSv1\nmode: enforce\nmax_age: 1",
                "line 0: there is no mx",
            ),
            ("version: STSv1\nmode: none", "line 0: there is no max_age"),
            (
                "version: STSv1\nmax_age: x",
                "line 2: max_age is not a number",
            ),
            ("<html>", "line 1: there is no colon"),
            (
                "version: STSv1\nmx: a b",
                "line 2: mx is not a host name, or there are too many",
            ),
        ] {
            assert_eq!(Policy::parse(text).expect_err(text).to_string(), error);
        }
    }

    #[test]
    fn records_have_one_id() {
        let id = |records: &[&str]| {
            record_id(
                &records
                    .iter()
                    .map(|text| (*text).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            id(&["v=STSv1; id=20160831085700Z;"]).as_deref(),
            Some("20160831085700Z")
        );
        assert_eq!(id(&["v=spf1 -all", "v=STSv1;id=1"]).as_deref(), Some("1"));
        for records in [
            &["v=STSv1; id=1", "v=STSv1; id=2"][..],
            &["v=STSv1"],
            &["v=STSv1; id=a-b"],
            &["id=1; v=STSv1"],
            &["v=STSv2; id=1"],
            &[],
        ] {
            assert_eq!(id(records), None, "{records:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(?s)((version|mode|mx|max_age|x)?[: ]{0,2}(STSv1|enforce|none|a\\.b|\\*\\.c|[0-9]{1,20}|.{0,5})\r?\n?){0,8}") {
            let _ = Policy::parse(&text);
            let _ = record_id(&[text]);
        }
    }
}
