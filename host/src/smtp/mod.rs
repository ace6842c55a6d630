//! The grammar of SMTP on the wire: RFC 5321 with STARTTLS (3207), PIPELINING (2920), SIZE (1870), 8BITMIME (6152),
//! ENHANCEDSTATUSCODES (2034), CHUNKING (3030), SMTPUTF8 (6531), AUTH (4954), DSN (3461) and REQUIRETLS (8689).
//!
//! Nothing here knows policies, the configuration or the log.

pub mod address;
pub mod command;
pub mod connection;
pub mod data;
pub mod header;
pub mod notify;
pub mod proxy_protocol;
pub mod received;
pub mod reply;
pub mod sasl;
pub mod seven_bit;
pub mod timer;
pub mod tls;
