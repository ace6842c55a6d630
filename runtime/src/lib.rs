//! Partner connectors for secure mail flow, as sandboxed WebAssembly policies.
//!
//! A *connector* says what was agreed with a partner: mail from `contosobank.com` comes encrypted, with a certificate of
//! that name, from these addresses. A *policy* is a set of connectors, or any component that exports the interface in
//! `wit/policy.wit`. A mail server asks it about each recipient, and carries out what it decides.
//!
//! ```
//! use portcullis::{Context, Engine, Limits};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(Limits::default())?;
//! let rules = r#"{"connectors": [{
//!     "name": "Contoso Bank", "direction": "inbound",
//!     "from": {"sender-domains": ["contosobank.com"]}, "require": {"tls": true}}]}"#;
//! let policy = engine.load_document("rules.json", rules.into()).await?;
//! let mut session = policy.session(); // one for each SMTP session
//! let client_ip: std::net::IpAddr = "203.0.113.7".parse()?;
//! let context = Context::inbound(client_ip, "alice@contosobank.com", "bob@contoso.com");
//! let decision = session.decide(&context).await; // never an error: a failure defers the mail
//! match decision.refusal() {
//!     None => println!("250 2.1.5 ok"),
//!     Some(refusal) => println!("{} {} {}", refusal.code, refusal.enhanced, refusal.text),
//! }
//! # assert_eq!(decision.refusal().map(|refusal| refusal.code), Some(550));
//! # Ok(())
//! # }
//! ```
//!
//! # What the caller owes
//!
//! - A Tokio runtime. Timers are used if the runtime has them.
//! - The facts. What is not known must be given as unknown; see [`Context`].
//! - Stack. A policy runs on the caller's thread if [`Limits::stack`] and 256 KiB are left of its stack, otherwise on a
//!   stack of its own, which costs a few microseconds more.
//!
//! `docs/embedding.md` says what a host must do with each decision.

#![deny(missing_docs)]

mod bindings;
mod cases;
mod context;
mod decision;
mod description_size;
mod domain;
mod engine;
mod failure;
mod file;
mod names;
mod observer;
mod sandbox;
mod session;
pub mod statement;
pub mod store;
mod text;
#[cfg(feature = "rustls")]
pub mod tls;

pub use portcullis_types::{
    Acceptance, Attribute, COMMON_NAME, Certificate, ClientAddress, Connector, Consideration, Dane,
    Delivery, Description, Direction, Explanation, Fact, Finding, HeaderFrom, Host, Mode, MtaSts,
    NamedAuthority, Outcome, PeerCertificate, Problem, Protection, Refusal, RequirementOutcome,
    Route, Security, SelectorOutcome, Selectors, Severity, Sha256, SmartHost, Summary, Tls,
    TlsLevel, Trust, Verdict, mailbox, tls_version, tls_version_name,
};

pub use cases::{Cases, FailedCase, cases_beside};
pub use context::Context;
pub use decision::{Decision, POLICY_UNAVAILABLE, RefusalReply};
pub use domain::{host_name, normal_domain};
pub use engine::{Engine, EngineBuilder, Policy, PolicyError, PolicyFileError, PolicySession};
pub use failure::{EvaluationError, Failure};
pub use file::read as read_file;
pub use names::{any_satisfies, is_well_formed, satisfies};
pub use observer::Observer;
pub use portcullis_types::{EnhancedCode, EnhancedCodeError};
pub use sandbox::background::Priority;
pub use sandbox::compiler::{CompileLimits, Compiler, Subprocess, compile};
pub use sandbox::disk_cache::CacheError;
pub use sandbox::documents::{DocumentError, Rules};
pub use sandbox::engine::EngineError;
pub use sandbox::evaluator::core_module as evaluator_core_module;
pub use sandbox::evaluator::digest as evaluator_digest;
pub use sandbox::idle::Isolation;
pub use sandbox::inspect::Rejection;
pub use sandbox::limits::{LimitError, Limits, MAX_STACK};
pub use sandbox::policy::LoadError;
pub use store::{Store, Tenant, TenantSession, TenantSource};
pub use text::{is_control_or_bidi, one_line};
