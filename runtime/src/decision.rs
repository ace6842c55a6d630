//! A verdict that can be carried out.

use portcullis_types::{
    Dane, Delivery, Direction, EnhancedCode, Host, Refusal, Route, SmartHost, TlsLevel, Verdict,
};

use crate::domain::host_name;
use crate::failure::EvaluationError;
use crate::names;

/// The stable name of the failure if no policy could be evaluated.
pub const POLICY_UNAVAILABLE: &str = "policy-unavailable";

/// A verdict on mail of one direction that can be carried out.
#[derive(Clone, Debug)]
pub struct Decision {
    verdict: Verdict,
    error: Option<EvaluationError>,
    is_made_before: bool,
}

/// The reply to mail that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusalReply<'a> {
    /// The SMTP reply code, of the class of the verdict.
    pub code: u16,
    /// The enhanced status code (RFC 3463), of the same class.
    pub enhanced: EnhancedCode,
    /// One printable line.
    pub text: &'a str,
}

impl Decision {
    /// The decision if no policy could be evaluated: the mail is deferred.
    pub fn unavailable(error: impl Into<Option<EvaluationError>>) -> Self {
        Decision {
            error: error.into(),
            is_made_before: false,
            verdict: Verdict::Defer(Refusal {
                connector: None,
                failed: POLICY_UNAVAILABLE.into(),
                code: 451,
                enhanced: "4.3.0".into(),
                text: "the policy for this recipient is not available now, try again later".into(),
                audit: Vec::new(),
            }),
        }
    }

    /// A verdict on mail of that direction.
    ///
    /// # Errors
    /// Says why it cannot be carried out.
    pub fn new(mut verdict: Verdict, asked: Direction) -> Result<Self, String> {
        match (&mut verdict, asked) {
            (Verdict::Accept(_), Direction::Outbound) => {
                return Err("the policy answers outbound mail with an inbound verdict".into());
            }
            (Verdict::Deliver(_), Direction::Inbound) => {
                return Err("the policy answers inbound mail with an outbound verdict".into());
            }
            (Verdict::Deliver(delivery), _) => check_delivery(delivery)?,
            _ => verdict.correct_codes(),
        }
        Ok(Decision {
            verdict,
            error: None,
            is_made_before: false,
        })
    }

    /// A verdict of which only a refusal is carried out.
    ///
    /// # Errors
    /// None.
    pub(crate) fn objection(mut verdict: Verdict, _asked: Direction) -> Result<Self, String> {
        verdict.correct_codes();
        Ok(Decision {
            verdict,
            error: None,
            is_made_before: false,
        })
    }

    /// The verdict.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The verdict itself.
    pub fn into_verdict(self) -> Verdict {
        self.verdict
    }

    pub(crate) fn verdict_mut(&mut self) -> &mut Verdict {
        &mut self.verdict
    }

    /// The same, made by the policy that is asked before the tenant's own.
    pub(crate) fn made_before(mut self) -> Self {
        self.is_made_before = true;
        self
    }

    /// Whether the policy that is asked before the tenant's own has made it.
    pub fn is_made_before(&self) -> bool {
        self.is_made_before
    }

    /// Why the policy gave no answer, if it gave none.
    pub fn error(&self) -> Option<&EvaluationError> {
        self.error.as_ref()
    }

    /// Whether no policy could be evaluated.
    pub fn is_unavailable(&self) -> bool {
        matches!(&self.verdict, Verdict::Defer(refusal) if refusal.failed == POLICY_UNAVAILABLE)
    }

    /// The reply to mail that is refused; `None` if it is not.
    pub fn refusal(&self) -> Option<RefusalReply<'_>> {
        let (refusal, default) = match &self.verdict {
            Verdict::Accept(_) | Verdict::Deliver(_) => return None,
            Verdict::Reject(refusal) => (refusal, (5, 7, 1)),
            Verdict::Defer(refusal) => (refusal, (4, 7, 1)),
        };
        Some(RefusalReply {
            code: refusal.code,
            enhanced: refusal.enhanced.parse().unwrap_or_else(|_| default.into()),
            text: &refusal.text,
        })
    }
}

/// Sees whether mail can be delivered so, and brings the names of smart hosts into normal form.
fn check_delivery(delivery: &mut Delivery) -> Result<(), String> {
    let connector = delivery.connector.as_deref().unwrap_or("no connector");
    for protection in delivery.audit_tls.iter().chain([&delivery.tls]) {
        if let TlsLevel::Name(wanted) = &protection.level {
            let malformed = wanted.iter().find(|name| !names::is_well_formed(name));
            if wanted.is_empty() || malformed.is_some() {
                let name = malformed.map_or("none at all", String::as_str);
                return Err(format!(
                    "the policy ({connector}) asks for a certificate name that no certificate can have: {name}"
                ));
            }
        }
    }
    let Route::SmartHosts(hosts) = &mut delivery.route else {
        return Ok(());
    };
    let normal: Option<Vec<SmartHost>> = hosts.iter().map(normal_host).collect();
    let normal = normal.filter(|hosts| !hosts.is_empty()).ok_or_else(|| {
        let named: Vec<String> = hosts.iter().map(SmartHost::to_string).collect();
        format!(
            "the policy ({connector}) names smart hosts that cannot be: {}",
            match &named[..] {
                [] => "none at all".to_owned(),
                named => named.join(", "),
            }
        )
    })?;
    *hosts = normal;
    let by_address = |host: &SmartHost| matches!(host.host, Host::Address(_));
    if delivery.tls.dane == Dane::Mandatory && hosts.iter().all(by_address) {
        return Err(format!(
            "the policy ({connector}) makes DANE mandatory, and its smart hosts have no names that TLSA records could be at"
        ));
    }
    Ok(())
}

fn normal_host(smart_host: &SmartHost) -> Option<SmartHost> {
    let host = match &smart_host.host {
        Host::Name(name) => Host::Name(host_name(name)?),
        Host::Address(address) => Host::Address(*address),
    };
    Some(SmartHost {
        host,
        port: smart_host.port,
    })
    .filter(|host| host.port != Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_policy_are_checked() {
        for (code, enhanced, permanent, expected) in [
            (554, "5.7.0", true, (554, "5.7.0")),
            (421, "4.3.2", false, (421, "4.3.2")),
            (450, "5.7.0", true, (550, "5.7.0")),
            (550, "5.7.0", false, (451, "4.7.1")),
            (590, "5.7.0", true, (550, "5.7.0")),
            (0, "", true, (550, "5.7.1")),
            (55, "5.7.1\r\n250 x", true, (550, "5.7.1")),
        ] {
            let refusal = Refusal {
                connector: None,
                failed: "tls".into(),
                code,
                enhanced: enhanced.into(),
                text: "no".into(),
                audit: Vec::new(),
            };
            let verdict = match permanent {
                true => Verdict::Reject(refusal),
                false => Verdict::Defer(refusal),
            };
            let decision = Decision::new(verdict, Direction::Inbound).unwrap();
            let reply = decision.refusal().unwrap();
            // Whoever is given the verdict itself sends the same.
            let (Verdict::Reject(told) | Verdict::Defer(told)) = decision.verdict() else {
                unreachable!("it refuses");
            };
            assert_eq!(
                (told.code, &*told.enhanced),
                (reply.code, &*reply.enhanced.to_string())
            );
            assert_eq!(
                (reply.code, &*reply.enhanced.to_string()),
                expected,
                "{code}"
            );
        }
    }
}
