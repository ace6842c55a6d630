//! Decisions on the From header: what it says, who is decided on together, and how a refusal is told.

use crate::frontend::ask::refusal;
use crate::smtp::header::{self, FromError};
use crate::smtp::reply::Reply;
use portcullis::store::Tenant;
use portcullis::{Decision, HeaderFrom};

/// The From field of a message.
pub struct FromField {
    addresses: Vec<String>,
    unclear: Option<FromError>,
}

impl FromField {
    /// Reads it from a header section. What cannot be read clearly is held against the rules in every way that it
    /// could be read.
    ///
    /// # Errors
    /// The refusal of a field that could be read in too many ways.
    pub fn read(fields: &[u8]) -> Result<FromField, Reply> {
        match header::from_addresses(fields) {
            Ok(addresses) => Ok(FromField {
                addresses,
                unclear: None,
            }),
            Err(error) => match header::plausible_addresses(fields) {
                Some(addresses) => Ok(FromField {
                    addresses,
                    unclear: Some(error),
                }),
                None => Err(unreadable(error, None)),
            },
        }
    }

    /// The fact that a policy is told.
    pub fn fact(&self) -> HeaderFrom {
        HeaderFrom::Addresses(self.addresses.clone())
    }

    /// The reply to a message that a policy refuses for it.
    pub fn refusal(&self, decision: &Decision, id: &str) -> Option<Reply> {
        let reply = refusal(decision, id)?;
        match self.unclear {
            Some(error) if reply.is_permanent() => {
                Some(unreadable(error, Some(&reply)).with_id(id))
            }
            _ => Some(reply),
        }
    }
}

/// The refusal of a message whose From field is not clear, and, read in one of the ways that it could be read, does
/// not satisfy the policy.
fn unreadable(error: FromError, refusal: Option<&Reply>) -> Reply {
    let text = format!("the recipient's policy reads the From field, and {error}");
    match refusal {
        None => Reply::new(550, (5, 7, 1), text),
        Some(refusal) => {
            let enhanced = refusal.enhanced().unwrap_or((5, 7, 1).into());
            let text = format!("{text}; read so it is {}", refusal.one_line());
            Reply::new(refusal.code(), enhanced, text)
        }
    }
}

/// Whether two recipients of a transaction may be told the same of its header. SMTP has one reply after it, so those
/// whose policy decides on it share a transaction only where it cannot decide differently.
pub fn may_share(one: (&Tenant, Option<&str>), other: (&Tenant, Option<&str>)) -> bool {
    let ((tenant, domain), (other, other_domain)) = (one, other);
    if !tenant.reads_header() && !other.reads_header() {
        return true;
    }
    let lower = |domain: Option<&str>| domain.map(str::to_ascii_lowercase);
    tenant.name == other.name && tenant.decides_by_domain() && lower(domain) == lower(other_domain)
}
