//! What operators ask of a running server, by HTTP: numbers, and the API with its page.
//!
//! A request to the API passes [`access`] first: the Host header, where the browser says it comes from, the token. Only
//! then [`routes`] looks at what is asked for.

pub mod access;
mod answer;
mod api;
mod connection;
pub mod http;
pub mod page;
mod routes;
pub mod tokens;

pub use self::api::{Admin, OfFleet, Publisher};
pub use self::connection::serve;
#[cfg(test)]
pub use self::routes::OPENAPI;
