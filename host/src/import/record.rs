//! Records of PowerShell, as its ways of writing them leave them: JSON of either module, and CLIXML.

use serde_json::{Map, Value};

/// A record: fields with their values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// What it is a record of, if the file says so: `InboundConnector`, …
    pub kind: Option<String>,
    /// The fields.
    pub fields: Map<String, Value>,
}

/// An export that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Its text is damaged.
    #[error("{line}:{column}: {reason}")]
    Damaged {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// PowerShell has lost data when it was written.
    #[error("{reason}. Export it anew:\n{EXPORT}")]
    Lossy {
        /// What is lost.
        reason: String,
    },
    /// It is no export.
    #[error("{0}. Make an export with:\n{EXPORT}")]
    Foreign(String),
}

/// The command that exports all that is needed.
pub const EXPORT: &str = "    @{ InboundConnector  = @(Get-InboundConnector -ResultSize Unlimited)
       OutboundConnector = @(Get-OutboundConnector) + @(Get-OutboundConnector -IsTransportRuleScoped $true) +
                           @(Get-OutboundConnector -IncludeTestModeConnectors $true)
       AcceptedDomain    = @(Get-AcceptedDomain)
       TransportRule     = @(Get-TransportRule | ? RouteMessageOutboundConnector)
     } | ConvertTo-Json -Depth 6 | Set-Content -Encoding utf8 exchange.json";

/// How deep a record may be.
pub const DEEPEST: usize = 32;

/// What a record may be of.
pub const KINDS: [&str; 5] = [
    "InboundConnector",
    "OutboundConnector",
    "SendConnector",
    "AcceptedDomain",
    "TransportRule",
];

impl Record {
    /// What it is a record of: what the file says, else what its fields tell.
    pub fn kind(&self) -> Option<&str> {
        let has = |name: &str| self.field(name).is_some();
        match &self.kind {
            Some(kind) => Some(kind),
            None if has("AddressSpaces") => Some("SendConnector"),
            None if has("RecipientDomains") || has("UseMXRecord") => Some("OutboundConnector"),
            None if has("SenderDomains") || has("RequireTls") => Some("InboundConnector"),
            None if has("DomainName") && has("DomainType") => Some("AcceptedDomain"),
            None if has("RouteMessageOutboundConnector") => Some("TransportRule"),
            None => None,
        }
    }

    /// A field, whose name PowerShell writes in any case.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).or_else(|| {
            let mut fields = self.fields.iter();
            let (_, value) = fields.find(|(own, _)| own.eq_ignore_ascii_case(name))?;
            Some(value)
        })
    }

    /// A text that is for people; `None` if it is absent, null or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        let text = self.field(name)?.as_str()?.trim();
        (!text.is_empty() && text != "$null").then_some(text)
    }

    /// A text that counts; `None` if it is absent, null or empty.
    ///
    /// # Errors
    /// If it is something else: a number that stands for a word, for example.
    pub fn word(&self, name: &str) -> Result<Option<&str>, String> {
        match self.field(name) {
            None | Some(Value::Null | Value::String(_)) => Ok(self.text(name)),
            Some(other) => Err(format!("{name} is no text: {other}")),
        }
    }

    /// A flag; `None` if it is absent or null.
    ///
    /// # Errors
    /// If it is something else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        match self.field(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) => match text
                .trim()
                .trim_start_matches('$')
                .to_ascii_lowercase()
                .as_str()
            {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                "" | "null" => Ok(None),
                _ => Err(format!("{name} is neither true nor false: {text:?}")),
            },
            Some(other) => Err(format!("{name} is neither true nor false: {other}")),
        }
    }

    /// A list of texts; one alone is a list too.
    ///
    /// # Errors
    /// If there is something else in it.
    pub fn list(&self, name: &str) -> Result<Vec<String>, String> {
        let entries = match self.field(name) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.as_slice(),
            Some(Value::Object(wrapped)) => match wrapped.get("value") {
                Some(Value::Array(list)) => list.as_slice(),
                _ => return Err(format!("{name} is not a list")),
            },
            Some(one) => std::slice::from_ref(one),
        };
        let mut list = Vec::new();
        for entry in entries {
            match entry {
                Value::Null => {}
                Value::String(text) if text.trim().is_empty() => {}
                Value::String(text) if text.contains('…') || text.starts_with("System.") => {
                    return Err(format!("{name} was shortened: {text:?}"));
                }
                Value::String(text) => list.push(text.trim().to_owned()),
                other => return Err(format!("{name} has something that is no text: {other}")),
            }
        }
        Ok(list)
    }
}
