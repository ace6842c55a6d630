//! Policies of Portcullis in Rust: what `wit/policy.wit` defines, and what a policy need not write itself.
//!
//! ```
//! use portcullis_policy::{Context, Direction, Fact, TlsLevel, Verdict, domain, policy};
//!
//! policy!(evaluate, reads: [Fact::MailFrom]);
//!
//! fn evaluate(context: &Context) -> Verdict {
//!     if domain(&context.mail_from) == "blocked.example" {
//!         return Verdict::reject("blocked", "not from there");
//!     }
//!     match context.direction {
//!         Direction::Inbound => Verdict::accept(),
//!         Direction::Outbound => Verdict::deliver(TlsLevel::Opportunistic),
//!     }
//! }
//! ```
//!
//! The library that has it is a `cdylib` for `wasm32-unknown-unknown`; `portcullis build` makes the component of it, which
//! imports nothing. A policy that calls [`next`] is a middleware: `portcullis build --around` puts it around another policy.

#[doc(hidden)]
#[allow(clippy::all, missing_docs)]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["wit/policy.wit", "wit/middleware.wit"],
        world: "portcullis:middleware/middleware",
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export",
        default_bindings_module: "portcullis_policy::bindings",
        merge_structurally_equal_types: true,
    });
}

pub use bindings::exports::portcullis::policy::evaluation::*;

use bindings::portcullis::policy::evaluation as inner;

/// Makes a policy of a function that decides: `policy!(evaluate, reads: [Fact::MailFrom])`.
///
/// `evaluate` is a `fn(&Context) -> Verdict`. `reads` are the facts that it depends on; the host asks it again, with the
/// header, if [`Fact::HeaderFrom`] is among them. There is one policy in a library.
#[macro_export]
macro_rules! policy {
    ($evaluate:path, reads: [$($fact:expr),* $(,)?]) => {
        const _: () = {
            struct Policy;

            impl $crate::Guest for Policy {
                fn evaluate(context: $crate::Context) -> $crate::Verdict {
                    $evaluate(&context)
                }

                fn explain(context: $crate::Context) -> $crate::Explanation {
                    $crate::Explanation {
                        verdict: $evaluate(&context),
                        considered: ::std::vec::Vec::new(),
                        others: 0,
                    }
                }

                fn describe(_first: u32, _limit: u32) -> $crate::Description {
                    $crate::Description {
                        organization: ::std::string::String::new(),
                        accepted_domains: ::std::vec::Vec::new(),
                        reads: ::std::vec![$($fact),*],
                        authorities: ::std::vec::Vec::new(),
                        total: 0,
                        connectors: ::std::vec::Vec::new(),
                    }
                }
            }

            $crate::bindings::export!(Policy with_types_in $crate::bindings);
        };
    };
}

/// Makes a middleware of a function that decides and may ask [`next`]: `middleware!(evaluate, reads: [Fact::MailFrom])`.
///
/// It takes what [`policy!`] takes. Its connectors and explanations are those of the policy inside.
#[macro_export]
macro_rules! middleware {
    ($evaluate:path, reads: [$($fact:expr),* $(,)?]) => {
        const _: () = {
            struct Middleware;

            impl $crate::Guest for Middleware {
                fn evaluate(context: $crate::Context) -> $crate::Verdict {
                    $evaluate(&context)
                }

                fn explain(context: $crate::Context) -> $crate::Explanation {
                    $crate::explain_next(&context, $evaluate(&context))
                }

                fn describe(first: u32, limit: u32) -> $crate::Description {
                    $crate::describe_next(first, limit, &[$($fact),*])
                }
            }

            $crate::bindings::export!(Middleware with_types_in $crate::bindings);
        };
    };
}

/// What the policy inside decides. Only a middleware may ask: any other policy has none inside, and is refused by
/// `portcullis build` and by hosts, for what it imports.
pub fn next(context: &Context) -> Verdict {
    inner::evaluate(context)
}

#[doc(hidden)]
pub fn explain_next(context: &Context, verdict: Verdict) -> Explanation {
    Explanation {
        verdict,
        ..inner::explain(context)
    }
}

#[doc(hidden)]
pub fn describe_next(first: u32, limit: u32, reads: &[Fact]) -> Description {
    let mut description = inner::describe(first, limit);
    for fact in reads {
        if !description.reads.contains(fact) {
            description.reads.push(*fact);
        }
    }
    description
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

    /// The mail is refused for now, and the client tries again; the arguments are those of [`Verdict::reject`].
    pub fn defer(failed: &str, text: &str) -> Self {
        Verdict::Defer(Refusal {
            connector: None,
            failed: failed.into(),
            code: 451,
            enhanced: "4.7.1".into(),
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

    /// Whether the mail is refused, for good or for now.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Verdict::Reject(_) | Verdict::Defer(_))
    }
}

/// The domain of an address, in lower case; empty if it has none.
pub fn domain(address: &str) -> String {
    let (_, domain) = address.rsplit_once('@').unwrap_or(("", ""));
    domain.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_what_stands_behind_the_last_at_sign() {
        for (address, expected) in [
            ("alice@Contoso.COM", "contoso.com"),
            ("\"a@b\"@x.test", "x.test"),
            ("postmaster", ""),
            ("", ""),
        ] {
            assert_eq!(domain(address), expected, "{address}");
        }
    }
}
