//! Milter: Postfix, Sendmail and others tell each step of a session, and are answered.

pub mod packet;
mod session;

pub use session::serve;
