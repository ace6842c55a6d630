//! The SMTP session loop: RFC 5321 with STARTTLS (3207), PIPELINING (2920), SIZE (1870), 8BITMIME
//! (6152), ENHANCEDSTATUSCODES (2034), CHUNKING (3030) and SMTPUTF8 (6531).
//!
//! A session is one state machine, a method a verb, in `session.rs`. It asks the recipient's policy at
//! RCPT, and again once the header is there where the policy reads it, and hands what passes to the
//! next hop, whose reply is our reply. REQUIRETLS (8689) is not offered: it would have to be
//! honoured towards the next hop.

pub mod address;
pub mod command;
mod connection;
pub mod data;
mod decision;
pub(crate) mod dial;
mod exit;
mod expiry;
pub mod header;
mod incoming;
mod limits;
mod listener;
mod next_hop;
pub mod outbound;
mod partial;
mod pool;
pub mod proxy_protocol;
mod received;
pub(crate) mod relay;
pub mod reply;
mod session;
mod spool;

pub use decision::check;
pub use exit::{Admission, Exit};
pub use expiry::Expiring;
pub use limits::{Doors, Room};
pub use listener::{ListenError, Listener, Server, Settings};
pub use next_hop::NextHop;
pub use partial::Partial;
pub use pool::Pool;
