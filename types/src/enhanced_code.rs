//! Enhanced status codes (RFC 3463).

use core::fmt;
use core::str::FromStr;

/// An enhanced status code such as `5.7.1` (RFC 3463 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedCode {
    class: u8,
    subject: u16,
    detail: u16,
}

/// The text is not an enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnhancedCodeError;

impl core::error::Error for EnhancedCodeError {}

impl fmt::Display for EnhancedCodeError {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("not an enhanced status code")
    }
}

impl EnhancedCode {
    /// Whether the code may stand in a reply with this code: both have one class (RFC 2034 §4).
    pub fn fits(self, code: u16) -> bool {
        matches!(self.class, 2 | 4 | 5)
            && self.subject <= 999
            && self.detail <= 999
            && u16::from(self.class) == code / 100
    }
}

impl From<(u8, u16, u16)> for EnhancedCode {
    fn from((class, subject, detail): (u8, u16, u16)) -> Self {
        Self {
            class,
            subject,
            detail,
        }
    }
}

impl FromStr for EnhancedCode {
    type Err = EnhancedCodeError;

    fn from_str(text: &str) -> Result<Self, EnhancedCodeError> {
        let mut parts = text.split('.');
        let class = match parts.next() {
            Some("2") => 2,
            Some("4") => 4,
            Some("5") => 5,
            _ => return Err(EnhancedCodeError),
        };
        let subject = parts.next().and_then(sub_code).ok_or(EnhancedCodeError)?;
        let detail = parts.next().and_then(sub_code).ok_or(EnhancedCodeError)?;
        if parts.next().is_some() {
            return Err(EnhancedCodeError);
        }
        Ok(Self::from((class, subject, detail)))
    }
}

/// One to three digits without leading zeros (RFC 3463 §2).
fn sub_code(text: &str) -> Option<u16> {
    let padded = text.len() > 1 && text.starts_with('0');
    if padded || text.len() > 3 || !text.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}
