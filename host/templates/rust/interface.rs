//! The interface (wit/policy.wit), and what of it a policy need not write itself.

#[allow(clippy::all, missing_docs)]
mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "policy" });
}

pub use bindings::exports::portcullis::policy::evaluation::*;

struct Policy;

bindings::export!(Policy with_types_in bindings);

impl Guest for Policy {
    fn evaluate(context: Context) -> Verdict {
        crate::evaluate(&context)
    }

    fn explain(context: Context) -> Explanation {
        Explanation {
            verdict: crate::evaluate(&context),
            considered: Vec::new(),
            others: 0,
        }
    }

    fn describe(_first: u32, _limit: u32) -> Description {
        Description {
            organization: String::new(),
            accepted_domains: Vec::new(),
            reads: crate::READS.to_vec(),
            authorities: Vec::new(),
            total: 0,
            connectors: Vec::new(),
        }
    }
}

impl Verdict {
    /// Inbound: the mail is accepted.
    pub fn accept() -> Self {
        Verdict::Accept(Acceptance {
            connectors: Vec::new(),
            audit: Vec::new(),
        })
    }

    /// The mail is refused for good; `failed` is a word for logs and metrics, `text` what the client reads.
    pub fn reject(failed: &str, text: &str) -> Self {
        Verdict::Reject(Refusal {
            connector: None,
            failed: failed.into(),
            code: 550,
            enhanced: "5.7.1".into(),
            text: text.into(),
            audit: Vec::new(),
        })
    }

    /// Outbound: the mail is delivered by the mail exchangers of its domain, with TLS of that level.
    pub fn deliver(level: TlsLevel) -> Self {
        Verdict::Deliver(Delivery {
            connector: None,
            route: Route::Mx,
            tls: Protection {
                level,
                min_version: None,
                fingerprints: Vec::new(),
                keys: Vec::new(),
                authorities: Vec::new(),
                dane: Dane::Opportunistic,
                mta_sts: MtaSts::Opportunistic,
            },
            audit_tls: None,
            audit_connector: None,
            audit: Vec::new(),
        })
    }
}

/// The domain of an address, in lower case.
pub fn domain(address: &str) -> String {
    let (_, domain) = address.rsplit_once('@').unwrap_or(("", ""));
    domain.to_ascii_lowercase()
}
